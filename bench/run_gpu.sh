#!/usr/bin/env bash
# Builds, tests and benches on a host with a GPU; prints a short table last.
#
#   bash bench/run_gpu.sh [--only STEP,...] [--no-build] [--deps FOLDER] [--out FOLDER] [--name NAME]
#
# Needs a C++20 compiler, cmake, ninja, NVIDIA's driver and the CUDA toolkit; flatc and the headers of flatbuffers,
# Boost, OpenSSL, CLI11, spdlog and nlohmann-json; Python 3.11 or later with pybind11, numpy, pytest, pytest-timeout,
# hypothesis and rich (and matplotlib for pictures; torch with Triton, CuPy and cuda-core as peers of the Python client).
#   --only LIST    these steps alone, by commas; `--list` names them. Groups: tests, bench, gpu (all that need a GPU),
#                  launch (what a launch costs beside its peers)
#   --no-build     take what an earlier run has built
#   --deps FOLDER  a prefix with what the host lacks (its usr/bin, usr/include ...), for a host without a package manager:
#                  on another machine `apt-get download PACKAGE...`, then `dpkg -x` each into FOLDER
#   --out FOLDER   where tables, figures and pictures go (default: bench/results/NAME)
#   --name NAME    what to call this machine (default: from the GPU's name)
# What each step printed stands in build/gpu/logs; tables, figures, the logs of tests, summary.txt and machine.txt (with
# what `ringlaunchd doctor` says) are kept in --out. The exit code is 0 only if no step failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD build=$PWD/build/gpu logs=$PWD/build/gpu/logs

host_tests="ctest pytest"
gpu_tests="driver_tests gpu_tests same_results memcheck faultmatrix faultmatrix_dumps"
host_bench="enqueue round_trip throughput fairness footprint python_call"
launch_bench="gpu_launch gpu_python gpu_idle gpu_load gpu_clients gpu_params gpu_grids"
gpu_bench="$launch_bench gpu_copies gpu_overlap gpu_peer gpu_modules gpu_graph graph_replay gpu_throughput gpu_footprint gpu_fairness gpu_shares triton triton_inline triton_autograd"
all="$host_tests $gpu_tests $host_bench $gpu_bench"

deps="" out="" name="" only="$all" building=1
while [ $# -gt 0 ]; do
  case "$1" in
    --only | --deps | --out | --name) [ -n "${2:-}" ] || { echo "$1 needs a value; see --help" >&2; exit 2; } ;;
  esac
  case "$1" in
    --only) only=${2//,/ }; shift 2 ;;
    --no-build) building=0; shift ;;
    --deps) deps=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --list) echo "$all" | tr ' ' '\n'; exit 0 ;;
    -h|--help) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1; see --help" >&2; exit 2 ;;
  esac
done
wanted=" "
for step in $only; do
  case "$step" in
    all) step=$all ;;
    tests) step="$host_tests $gpu_tests" ;;
    bench) step="$host_bench $gpu_bench" ;;
    gpu) step="$gpu_tests $gpu_bench" ;;
    launch) step=$launch_bench ;;
    *) case " $all " in *" $step "*) ;; *) echo "unknown step $step; --list names them" >&2; exit 2 ;; esac ;;
  esac
  wanted+="$step "
done
if [ -z "$name" ]; then
  name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr 'A-Z ' 'a-z-')
  [ -n "$name" ] || { echo "nvidia-smi shows no GPU here; name the machine with --name to go on without" >&2; exit 1; }
fi
# What stands in the way is said before anything is written.
if [ -n "$deps" ] && [ ! -d "$deps/usr" ]; then
  echo "--deps $deps: there is no folder $deps/usr" >&2
  exit 2
fi
if [ $building = 0 ] && [ ! -x "$build/bin/ringlaunchd" ]; then
  echo "there is no earlier build in build/gpu; run without --no-build" >&2
  exit 2
fi
out=${out:-bench/results/$name}
mkdir -p "$out" "$logs" || exit 1
out=$(cd "$out" && pwd)
summary=()
failed=0

# Takes the paths of this machine out of what is kept.
without_paths() {
  local home=${HOME%/}
  sed -u -e "s|$build|build|g" -e "s|${deps:-$build}|DEPS|g" -e "s|$root/||g" -e "s|$root|.|g" -e "s|${home:-$root}|~|g"
}

# step NAME LIMIT_S COMMAND...: runs under a watchdog into a log, keeps the verdict for the table. 77: nothing to do here.
step() {
  local title=$1 limit=$2 begin=$SECONDS verdict detail
  shift 2
  echo "== $title: $*" | without_paths
  timeout -k 10 "$limit" "$@" 2>&1 | without_paths >"$logs/$title.log"
  local code=${PIPESTATUS[0]}
  detail=$(grep -v '^ *$' "$logs/$title.log" | tail -n 1 | cut -c 1-90)
  case $code in
    0) verdict=ok ;;
    77) verdict=skipped ;;
    124 | 137) verdict="TIMED OUT" failed=1 ;;
    *) verdict="FAILED ($code)" failed=1 ;;
  esac
  case "$verdict" in ok | skipped) ;; *) tail -n 40 "$logs/$title.log" ;; esac
  summary+=("$(printf '%-15s %-11s %5d s  %s' "$title" "$verdict" $((SECONDS - begin)) "$detail")")
  return "$code"
}

# The same for a step that was asked for, whose log is kept.
maybe() {
  case "$wanted" in *" $1 "*) ;; *) return ;; esac
  local code=0
  step "$@" || code=$?
  cp "$logs/$1.log" "$out/$1.log"
  return "$code"
}

# bench NAME LIMIT_S COMMAND...: one that prints a table, which is kept, and writes figures with --csv.
bench() {
  case "$wanted" in *" $1 "*) ;; *) return ;; esac
  local title=$1
  step "$@" --csv "$out/$title.csv" || return
  cp "$logs/$title.log" "$out/$title.log"
  echo && cat "$logs/$title.log" && echo
}

# The last thing, also after Ctrl-C.
report() {
  {
    echo
    echo "$name"
    [ ${#summary[@]} -eq 0 ] || printf '%s\n' "${summary[@]}"
  } | without_paths | tee "$logs/summary.txt"
  cp "$logs/summary.txt" "$out/summary.txt"
  exit "$failed"
}
trap 'failed=1; report' INT TERM

prefix=()
if [ -n "$deps" ]; then
  deps=$(cd "$deps" && pwd)
  export PATH=$deps/usr/bin:$PATH LD_LIBRARY_PATH=$deps/usr/lib/x86_64-linux-gnu:${LD_LIBRARY_PATH:-}
  prefix=(-DCMAKE_PREFIX_PATH="$deps/usr")
fi

# Only what the steps need, so that a machine lent for minutes is not spent on compiling.
targets=(ringlaunchd _core)
for title in $host_bench $gpu_bench; do
  case "$wanted" in *" $title "*) targets+=(bench/all) && break ;; esac
done
case "$wanted" in *" driver_tests "*) targets+=(driver_test) ;; esac
case "$wanted" in *" same_results "*) targets+=(system_same_results) ;; esac
case "$wanted" in *" ctest "*) targets=(all) ;; esac
if [ $building = 1 ]; then
  step configure 120 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON \
    -DRINGLAUNCH_BENCH=ON -DRINGLAUNCH_PYTHON=ON "${prefix[@]}" || report
  step build 900 cmake --build "$build" --target "${targets[@]}" || report
fi
export RINGLAUNCHD=$build/bin/ringlaunchd PYTHONPATH=$build/python
{
  nvidia-smi; nvcc --version; g++ --version | head -n 1; python3 --version; uname -srm; nproc
  git describe --always --dirty && git log -1 --format='commit %h %s'
  echo && timeout 60 "$RINGLAUNCHD" doctor
} 2>&1 | without_paths >"$out/machine.txt"

maybe gpu_tests 600 python3 -m pytest -v -s -rs tests/gpu
maybe driver_tests 300 "$build/tests/driver/driver_test"
maybe same_results 300 "$build/tests/system/system_same_results" --driver cuda --launches 10000000
bench gpu_launch 120 "$build/bench/bench_gpu_launch"
bench gpu_python 120 python3 bench/gpu_python.py --c-loop "$build/bench/bench_gpu_launch"
bench gpu_idle 120 "$build/bench/bench_gpu_idle"
bench gpu_load 120 "$build/bench/bench_gpu_load"
bench gpu_clients 120 "$build/bench/bench_gpu_clients"
bench gpu_params 120 "$build/bench/bench_gpu_growth" --over parameters
bench gpu_grids 120 "$build/bench/bench_gpu_growth" --over blocks
bench gpu_copies 200 "$build/bench/bench_gpu_copies"
bench gpu_overlap 120 "$build/bench/bench_gpu_overlap"
bench gpu_peer 200 "$build/bench/bench_gpu_peer"
bench gpu_modules 200 "$build/bench/bench_gpu_modules"
bench gpu_graph 200 "$build/bench/bench_gpu_graph"
bench graph_replay 200 python3 bench/graph_replay.py
bench gpu_footprint 200 "$build/bench/bench_footprint" --driver cuda
bench gpu_throughput 200 "$build/bench/bench_throughput" --driver cuda --seconds 0.5
bench gpu_fairness 300 "$build/bench/bench_fairness" --driver cuda --seconds 2
bench gpu_shares 200 "$build/bench/bench_shares" --driver cuda
# Pictures of these, elsewhere: --from build/gpu/logs/faultmatrix.json --png FILE
bench faultmatrix 580 python3 -m ringlaunch.faultmatrix --json "$logs/faultmatrix.json"
bench faultmatrix_dumps 580 python3 -m ringlaunch.faultmatrix --fault-dumps --json "$logs/faultmatrix_dumps.json"
maybe memcheck 300 bash bench/memcheck.sh
bench enqueue 120 "$build/bench/bench_enqueue"
bench round_trip 120 "$build/bench/bench_round_trip"
bench throughput 120 "$build/bench/bench_throughput" --driver null host --seconds 0.5
bench fairness 300 "$build/bench/bench_fairness" --driver host null --seconds 2
bench footprint 120 "$build/bench/bench_footprint"
bench python_call 120 python3 bench/python_call.py
bench triton 300 python3 -m ringlaunch.bench triton --driver cuda
bench triton_inline 120 python3 bench/triton_inline.py
bench triton_autograd 200 python3 bench/triton_autograd.py
maybe ctest 600 ctest --test-dir "$build" --output-on-failure -j 8
maybe pytest 600 python3 -m pytest -q -rs tests/python

figures=()
for title in $host_bench ${gpu_bench/ triton/}; do
  case "$wanted" in *" $title "*) [ ! -f "$out/$title.csv" ] || figures+=("$out/$title.csv") ;; esac
done
if ! python3 -c 'import matplotlib' 2>/dev/null; then
  echo "no pictures: matplotlib is not installed; elsewhere: python bench/plot.py FILE.csv, and"
  echo "python -m ringlaunch.bench triton --from triton.csv --png triton.png"
else
  [ ${#figures[@]} -eq 0 ] || step plots 120 python3 bench/plot.py "${figures[@]}"
  case "$wanted" in
    *" triton "*) step triton_plot 60 python3 -m ringlaunch.bench triton --from "$out/triton.csv" --png "$out/triton.png" ;;
  esac
fi
report
