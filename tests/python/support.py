"""What the tests of the Python package share: a real daemon as an object, kernels, programs in their own process."""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import ringlaunch as rl
from ringlaunch import _client

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_S = 60

KERNELS = """
#include <ringlaunch/kernel.h>
#include <time.h>

extern "C" __global__ void scale(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
RINGLAUNCH_EXPORT(scale)

extern "C" __global__ void increment(int* x) { *x += 1; }
RINGLAUNCH_EXPORT(increment)

// Appends a value to a list whose first element counts.
extern "C" __global__ void append(int* list, int value) { list[++list[0]] = value; }
RINGLAUNCH_EXPORT(append)

extern "C" __global__ void nap(int milliseconds) {
    timespec time{milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, nullptr);
}
RINGLAUNCH_EXPORT(nap)

// Until *open is not 0, but not for ever.
extern "C" __global__ void hold(const volatile int* open) {
    const timespec millisecond{0, 1000000};
    for (int i = 0; i < 60000 && *open == 0; ++i) nanosleep(&millisecond, nullptr);
}
RINGLAUNCH_EXPORT(hold)

extern "C" __global__ void crash(int* x) { *reinterpret_cast<volatile int*>(8) = *x; }
RINGLAUNCH_EXPORT(crash)

// Each block writes its place: what grid and block a launch had.
extern "C" __global__ void shape(unsigned* out) {
    if (threadIdx.x + threadIdx.y + threadIdx.z != 0) return;
    const unsigned values[6] = {gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z};
    for (int i = 0; i < 6; ++i) out[i] = values[i];
}
RINGLAUNCH_EXPORT(shape)

struct Pair {
    double first;
    int second;
};
extern "C" __global__ void scalars(double* out, bool b, signed char i8, short i16, int i32, long long i64,
                                   unsigned char u8, unsigned short u16, unsigned u32, unsigned long long u64,
                                   float f32, double f64, Pair pair) {
    const double values[] = {double(b), double(i8), double(i16), double(i32), double(i64), double(u8), double(u16),
                             double(u32), double(u64), double(f32), f64, pair.first, double(pair.second)};
    for (int i = 0; i < 13; ++i) out[i] = values[i];
}
RINGLAUNCH_EXPORT(scalars)
"""


class Gate:
    """Holds streams of a client until it is opened, at the latest at the end of its block."""

    def __init__(self, client, kernels) -> None:
        self._kernel = kernels["hold"]
        self._side = client.stream()
        self._open = client.empty(1, np.int32)
        self._open.fill(0, self._side)
        self._side.synchronize(WATCHDOG_S)

    def hold(self, stream) -> None:
        self._kernel[1, 1](self._open, stream=stream)

    def open(self) -> None:
        self._open.fill(1, self._side)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(rl.Error):
            self.open()
        self._side.close()


def in_threads(*targets):
    """Runs them side by side; the first exception of one is that of the test, and one that hangs fails it."""
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def daemon_program() -> str:
    """$RINGLAUNCHD, else the one installed beside this Python, else the newest build."""
    if named := os.environ.get("RINGLAUNCHD"):
        return named
    if installed := _client._daemon_path():
        return installed
    built = sorted(ROOT.glob("build/*/bin/ringlaunchd"), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.fail("there is no ringlaunchd: install the package, build it, or set RINGLAUNCHD to its path")
    return str(built[-1])


class Daemon:
    """`ringlaunchd serve` with a driver; ready when made."""

    def __init__(self, driver: str, *arguments: str) -> None:
        # Not tmp_path: the path of a unix socket has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="rl-py-"))
        self.socket = str(self.folder / "daemon.sock")
        self.driver = driver
        read_end, write_end = os.pipe()
        command = [daemon_program(), "serve", "--socket", self.socket, "--driver", driver]
        with open(self.folder / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(write_end), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
            )
        os.close(write_end)
        try:
            ready, _, _ = select.select([read_end], [], [], WATCHDOG_S)
            said = os.read(read_end, 64) if ready else b"(silence)"
        finally:
            os.close(read_end)
        assert said == b"READY=1\n", f"the daemon is not ready ({said!r}): {self.log()}"

    def connect(self) -> rl.Client:
        return rl.connect(self.socket, start=False)

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=WATCHDOG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=WATCHDOG_S)
        shutil.rmtree(self.folder, ignore_errors=True)


def script(source: str) -> str:
    """A program that connects to sys.argv[1] and has `client` and `kernels`."""
    return (
        "import os, signal, sys, threading, time\n"
        "import numpy as np\n"
        "import ringlaunch as rl\n"
        f"KERNELS = {KERNELS!r}\n"
        "client = rl.connect(sys.argv[1], start=False)\n"
        "kernels = client.compile(KERNELS, name='kernels.cu')\n"
        f"{source}\n"
    )
