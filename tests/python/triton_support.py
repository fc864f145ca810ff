"""What the tests of Triton kernels share; without Triton they are skipped."""

import contextlib
import ctypes
import os
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

triton_version = tuple(int(part) for part in triton.__version__.split(".")[:2])

# An answer to a warning of Triton's that each test would print.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


class NoGpu:
    """As much of a driver as Triton's run() asks of one. It keeps what it is given to launch."""

    def __init__(self):
        self.launches = []  # (grid, arguments)

    class Utils:
        def get_device_properties(self, device):
            return {"max_shared_mem": 232448}

        def load_binary(self, name, image, shared, device):
            return None, 16, 8, 0, 1024

    utils = Utils()

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def launcher_cls(self, source, metadata):
        def launch(x, y, z, stream, function, packed, told, enter, leave, *args):
            if enter is not None:
                enter(told)
            self.launches.append(((x, y, z), args))
            if leave is not None:
                leave(told)

        return launch


@contextlib.contextmanager
def without_gpu():
    from triton.runtime import driver

    before, driver._active = driver._active, NoGpu()
    try:
        yield driver._active
    finally:
        driver._active = before


def launch_record(data):
    """What a launch in the ring says: grid, block and shared memory, and its packed parameters."""

    def number(at, size=4):
        return int.from_bytes(data[at : at + size], "little")

    while number(8, 2) == 8:  # padding up to the ring's end
        data = data[64 * number(10, 2) :]
    if number(8, 2) == 9:  # a compact launch
        shape, head = [number(20), 1, 1, number(14, 2), 1, 1, 0], 24
    else:
        shape = [number(24), number(28), number(32), number(36, 2), number(38, 2), number(40, 2), number(44)]
        head = 48
    return shape, data[head:64] + b"".join(data[at + 8 : at + 64] for at in range(64, len(data), 64))


def has_cuda():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


needs_stub_launcher = pytest.mark.skipif(
    triton_version < (3, 9), reason="Triton before 3.9 needs torch and a GPU to make its launcher"
)


def scenarios(program):
    """The names of the functions of a program that are tests (stub_program.py)."""
    text = (Path(__file__).parent / program).read_text().partition("# ---- scenarios")[2]
    return [
        line.removeprefix("def ").removesuffix("():")
        for line in text.splitlines()
        if line.endswith("():") and line.startswith("def ")
    ]
