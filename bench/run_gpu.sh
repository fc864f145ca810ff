#!/usr/bin/env bash
# Builds, tests and benches on a host with a GPU; prints a short table last.
#
#   bash bench/run_gpu.sh [--deps FOLDER] [--out FOLDER] [--name NAME] [--only build|tests|bench]
#
# Needs a C++20 compiler, cmake, ninja, NVIDIA's driver and the CUDA toolkit; flatc and the headers of flatbuffers,
# Boost, OpenSSL, CLI11, spdlog and nlohmann-json; Python 3.11 or later with numpy, pytest, hypothesis and rich.
#   --deps FOLDER  a prefix with what the host lacks (its usr/bin, usr/include ...), for a host without a package manager:
#                  on another machine `apt-get download PACKAGE...`, then `dpkg -x` each into FOLDER
#   --out FOLDER   where logs, tables and pictures go (default: bench/results/NAME)
#   --name NAME    what to call this machine (default: from the GPU's name)
set -uo pipefail
cd "$(dirname "$0")/.."

deps="" out="" name="" only="all"
while [ $# -gt 0 ]; do
  case "$1" in
    --deps) deps=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    -h|--help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1; see --help" >&2; exit 2 ;;
  esac
done
if [ -z "$name" ]; then
  name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr 'A-Z ' 'a-z-')
  [ -n "$name" ] || { echo "nvidia-smi shows no GPU here; name the machine with --name to go on without" >&2; exit 1; }
fi
out=${out:-bench/results/$name}
mkdir -p "$out"
out=$(cd "$out" && pwd)
build=$PWD/build/gpu
summary=()
failed=0

# step NAME LIMIT_S COMMAND...: runs under a watchdog into a log, keeps the verdict for the table.
step() {
  local title=$1 limit=$2 begin=$SECONDS verdict
  shift 2
  echo "== $title: $*"
  timeout "$limit" "$@" >"$out/$title.log" 2>&1
  local code=$?
  if [ $code -eq 0 ]; then verdict=ok; else verdict="FAILED ($code)"; failed=1; tail -n 25 "$out/$title.log"; fi
  summary+=("$(printf '%-22s %-12s %5d s' "$title" "$verdict" $((SECONDS - begin)))")
  return $code
}

prefix=()
if [ -n "$deps" ]; then
  deps=$(cd "$deps" && pwd)
  export PATH=$deps/usr/bin:$PATH LD_LIBRARY_PATH=$deps/usr/lib/x86_64-linux-gnu:${LD_LIBRARY_PATH:-}
  prefix=(-DCMAKE_PREFIX_PATH="$deps/usr")
fi

{ nvidia-smi; nvcc --version; g++ --version; python3 --version; uname -a; nproc; } >"$out/machine.txt" 2>&1
step configure 120 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DRINGLAUNCH_BENCH=ON -DRINGLAUNCH_PYTHON=ON \
  "${prefix[@]}" &&
  step build 900 cmake --build "$build" || exit 1
export RINGLAUNCHD=$build/bin/ringlaunchd PYTHONPATH=$build/python

if [ "$only" = all ] || [ "$only" = tests ]; then
  step ctest 600 ctest --test-dir "$build" --output-on-failure -j 8
  step pytest 600 python3 -m pytest -q -rs tests/python
  step gpu_tests 600 python3 -m pytest -v -s tests/gpu
fi
if [ "$only" = all ] || [ "$only" = bench ]; then
  step enqueue 120 "$build/bench/bench_enqueue" --csv "$out/enqueue.csv"
  step round_trip 120 "$build/bench/bench_round_trip" --csv "$out/round_trip.csv"
  step throughput 120 "$build/bench/bench_throughput" --driver null host --csv "$out/throughput.csv"
  step fairness 300 "$build/bench/bench_fairness" --driver host null --csv "$out/fairness.csv"
  step footprint 120 "$build/bench/bench_footprint" --csv "$out/footprint.csv"
  step python_call 120 python3 bench/python_call.py --csv "$out/python_call.csv"
  step plots 120 python3 bench/plot.py "$out"/*.csv
  for table in enqueue round_trip throughput fairness footprint python_call; do
    [ -f "$out/$table.log" ] && { echo; cat "$out/$table.log"; }
  done
fi
echo
echo "$name, results in $out"
printf '%s\n' "${summary[@]}"
exit $failed
