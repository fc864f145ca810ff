#!/usr/bin/env bash
# Runs the daemon with the cuda driver under compute-sanitizer's memcheck, with a small client that launches, copies,
# fills and waits; fails on any error that the tool reports. Then a second daemon with a kernel that writes where no
# memory is: fails unless the tool reports that. 77: compute-sanitizer is not here.
#
#   RINGLAUNCHD=... PYTHONPATH=... bash bench/memcheck.sh    # DRIVER=host tries the script
set -uo pipefail

sanitizer=$(command -v compute-sanitizer) || for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
  [ -n "$home" ] && [ -x "$home/bin/compute-sanitizer" ] && sanitizer=$home/bin/compute-sanitizer && break
done
if [ -z "$sanitizer" ]; then
  echo "compute-sanitizer is not here: it comes with the CUDA toolkit (Debian: cuda-sanitizer-VERSION)"
  exit 77
fi
folder=$(mktemp -d /tmp/rl-memcheck-XXXXXX)
daemon=0
finish() {
  [ "$daemon" = 0 ] || kill "$daemon" 2>/dev/null
  rm -rf "$folder"
}
trap finish EXIT

# watched NAME: the Python program on standard input as a client of a daemon under the tool. Sets `client` and `served`,
# their exit codes, `seen` and `wrong`, how many processes the tool watched and in how many it found errors.
#
# Its errors go to the logs of its processes; those of the daemon to its own. Results of CUDA's calls are not reported:
# the driver lists a kernel's parameters by cuFuncGetParamInfo until that answers CUDA_ERROR_INVALID_VALUE, which is no
# error, and what it does not expect it reports itself.
watched() {
  local name=$1 socket=$folder/$1.sock
  "$sanitizer" --tool memcheck --report-api-errors no --target-processes all \
    --log-file "$folder/$name.%p.log" --error-exitcode 86 \
    "${RINGLAUNCHD:-ringlaunchd}" serve --driver "${DRIVER:-cuda}" --socket "$socket" >"$folder/$name.daemon" 2>&1 &
  daemon=$!
  for _ in $(seq 600); do
    [ -S "$socket" ] && break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  python3 - "$socket"
  client=$?
  timeout 60 "${RINGLAUNCHD:-ringlaunchd}" stop --socket "$socket" >/dev/null
  wait "$daemon"
  served=$?
  daemon=0
  seen=$(cat "$folder/$name".*.log 2>/dev/null | grep -c 'ERROR SUMMARY')
  wrong=$(cat "$folder/$name".*.log 2>/dev/null | grep 'ERROR SUMMARY' | grep -vc 'ERROR SUMMARY: 0 errors')
}
tell() {
  echo "client: exit code $client; daemon under compute-sanitizer: $served. The daemon said:"
  tail -n 40 "$folder/$1.daemon"
}

watched well <<'PYTHON'
import sys

import numpy as np

import ringlaunch as rl

SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
extern "C" __global__ void add(const float* x, const float* y, float* z, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
RINGLAUNCH_EXPORT(add)
"""
LAUNCHES, N = 500, 100_003

with rl.connect(socket=sys.argv[1], start=False, timeout=120) as client:
    for _ in range(2):  # a module that comes again
        module = client.compile(SOURCE)
        streams = [client.stream(on_restart=on_restart) for on_restart in ("stop", "rerun")]
        words = [client.zeros(1, np.uint32) for _ in streams]
        for i in range(LAUNCHES):
            for word, stream in zip(words, streams, strict=True):
                module["step"][1, 1](word, 3, i, stream=stream)
        streams[0].wait_event(streams[1].record())
        x, y = (np.random.default_rng(i).standard_normal(N, dtype=np.float32) for i in range(2))
        pinned, out = client.pinned_empty(N), client.pinned_empty(N)
        pinned[:] = y
        z = client.empty(N, np.float32)
        on_device = client.empty(N, np.float32)
        on_device.copy_from(pinned, streams[0])
        module["add"][(N + 255) // 256, 256](client.array(x), on_device, z, N, stream=streams[0])
        z.copy_to(out, streams[0])
        streams[0].synchronize()
        assert np.array_equal(out, x + y)
        expected = 0
        for i in range(LAUNCHES):
            expected = (expected * 3 + i) & 0xFFFFFFFF
        assert [int(word.numpy()[0]) for word in words] == [expected] * 2
        for stream in streams:
            stream.close()
    print(f"the client's results are right, on {client.daemon.device_name}")
PYTHON
grep -hv '^ *$' "$folder"/well.*.log 2>/dev/null
if [ "$client" != 0 ] || [ "$served" != 0 ]; then
  tell well
  exit 1
fi
if [ "$seen" = 0 ]; then
  echo "compute-sanitizer wrote no summary: it watched no process"
  exit 1
fi
[ "$wrong" = 0 ] || exit 1
processes=$seen

# Far beyond the buffer: what lies directly behind it is memory of the daemon's, of the same chunk.
watched wild <<'PYTHON'
import sys

import ringlaunch as rl

SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void beyond(unsigned* words, long long by) { words[by] = 1; }
RINGLAUNCH_EXPORT(beyond)
"""
with rl.connect(socket=sys.argv[1], start=False, timeout=120) as client:
    stream = client.stream()
    client.compile(SOURCE)["beyond"][1, 1](client.zeros(1, "uint32"), 1 << 34, stream=stream)
    try:
        stream.synchronize(timeout=120)
    except rl.StreamStopped:
        print("a write beyond all memory stopped its stream")
        sys.exit(0)
    sys.exit("a write beyond all memory stopped nothing")
PYTHON
if [ "$client" != 0 ]; then
  tell wild
  exit 1
fi
if [ "$wrong" = 0 ]; then
  echo "compute-sanitizer ($seen processes) reported nothing of a write beyond all memory: it does not see the kernels"
  grep -hv '^ *$' "$folder"/wild.*.log 2>/dev/null
  exit 1
fi
grep -h -m 1 'Invalid' "$folder"/wild.*.log
echo "memcheck: $processes processes, no errors; a write beyond all memory is reported"
