"""A Triton kernel gets from ringlaunch what Triton's own launcher passes: parameters, grid, block, shared memory.

Triton's launcher runs in a process of its own, with a libcuda that keeps what it is handed (stub_cuda.c).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from triton_support import triton_version

pytestmark = pytest.mark.skipif(
    triton_version < (3, 9),
    reason="Triton before 3.9 needs torch and a GPU to make its launcher",
)

PROGRAM = """
import ctypes, json, os, sys

class NoTorch:  # which would ask CUDA for its devices
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
from collections import namedtuple
import numpy as np
import ringlaunch as rl
import triton, triton.language as tl
from ringlaunch import _core
from triton_support import launch_record

stub = ctypes.CDLL("libcuda.so.1")
stub.stub_params.restype = ctypes.POINTER(ctypes.c_ubyte)
stub.stub_shape.restype = ctypes.POINTER(ctypes.c_uint)
client = rl.connect(sys.argv[1], start=False)
stream = client.stream(ring_slots=64)

Pair = namedtuple("Pair", "first second")

class Offset(int):
    def __repr__(self):
        return f"Offset({int(self)})"

@triton.jit
def four(a, b, c, d): pass

@triton.jit(do_not_specialize=["a", "b", "c", "d"])
def relaxed(a, b, c, d): pass

@triton.jit
def scalars(a: tl.int8, b: tl.int16, c: tl.int32, d: tl.int64, e: tl.uint8, f: tl.uint16, g: tl.uint32, h: tl.uint64,
            i: tl.float16, j: tl.bfloat16, k: tl.float32, l: tl.float64, m: tl.int1, n: "*fp32"): pass

@triton.jit
def constants(a, B: tl.constexpr, c, D: tl.constexpr = "x", e=3, f=None): pass

@triton.jit
def long(a, b, c, d, e, f, g, n0, n1, n2, s0, s1, s2, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
         D: tl.constexpr, E: tl.constexpr, F: tl.constexpr): pass

@triton.jit
def sum_of(x, out, N: tl.constexpr):
    tl.store(out + tl.program_id(0), tl.sum(tl.load(x + tl.arange(0, N))))

x = [client.empty(64, name) for name in ("float32", "int8", "float16", "bool", "uint64")]
small = (0, 1, 1, 1, 1, 1, 1, 1, 0.0, 0.0, 0.0, 0.0, False, None)

def edges(at, values):
    return [(scalars, (5,), (*small[:at], value, *small[at + 1:]), {}) for value in values]

cases = [
    (four, (1,), (2, 3, 16, 1), {}),
    (four, (7, 6, 5), (x[0], x[1], x[2][1:], x[3][1:]), {}),
    (four, (1,), (True, False, None, 2.5), {}),
    (four, (3, 1), (2**31 - 1, 2**31, -2**31, -2**31 - 1), {}),
    (four, (3, 1, 1, 9), (2**63 - 1, 2**63, 2**64 - 1, -2**63), {}),
    (four, [2, 3], (1e300, -1e300, float("inf"), 1e-46), {}),
    (four, (2,), ((1, 2, x[0]), (), (2.0, (True, None, 5)), Pair(x[1], 7)), {}),
    (four, (2,), (Pair(1, 2), Offset(3), np.float64(0.1), tl.constexpr(4)), {}),
    (four, (2,), (Offset(1), Offset(2**40), True, 1), {}),
    (four, (np.int64(3), True), (16, 32, 48, 2**31 - 16), {"num_warps": 8}),
    (four, (4,), (x[0], 1, 2, 3), {"num_warps": 1, "num_stages": 2, "maxnreg": 64}),
    (four, (4, 2), (x[0], 1, 2, 3), {"num_ctas": 2}),
    (four, (4,), (x[0], 1, 2, 3), {"launch_pdl": True}),
    (four, (4,), (x[0], 1, 2, 3), {"launch_cooperative_grid": True}),
    (four, lambda meta: (meta["a"] + 1, meta["d"]), (2, 3, 16, 5), {}),
    (four, (1,), (), {"d": 1, "c": x[0], "b": 2.0, "a": 16}),
    (relaxed, (1,), (1, 16, x[0], None), {}),
    (constants, (1,), (x[0], 64, 5), {}),
    (constants, (1,), (x[0], "y", 5, tl.float16, 1, 2), {}),
    (constants, (1,), (None, (1, 2)), {"c": 7, "f": 1.5, "e": True}),
    (long, (9,), (*x, x[0], x[1], 1000, 1, 3, 0.5, 2.0, 1.0), dict(A=1, B=2, C=3, D=4, E=5, F=6)),
    (sum_of, (2,), (x[0], x[0], 64), {}),
    (sum_of, (2,), (x[0], x[0], 1024), {}),
    *edges(0, (-128, 127, 0, 1)), *edges(1, (-2**15, 2**15 - 1)), *edges(2, (-2**31, 2**31 - 1, 16, True)),
    *edges(3, (-2**63, 2**63 - 1, 1)), *edges(4, (0, 255, 1)), *edges(5, (0, 2**16 - 1)), *edges(6, (0, 2**32 - 1)),
    *edges(7, (0, 2**63, 2**64 - 1, True)), *edges(8, (65504.0, -65504.0, 6e-8, 0.1, 3, True, 2049.0, 2051.0)),
    *edges(9, (3.3895e38, 0.1, 1.00390625, 1.0078124, 5, 1e300, float("nan"), -0.0)),
    *edges(10, (3.4028234e38, 1e300, 0.1, 1e-45, 2**24 + 1, False, 2**62 + 1)), *edges(11, (0.1, 1e308, 2**53 + 1, 7)),
    *edges(12, (True, False, 1, 0, 2)), *edges(13, (x[0], 0, x[0].address, x[1].address + 3, None)),
]

def ours(kernel, grid, args, keywords):
    "The parameters one behind the other, sizes, and grid, block, shared memory, as they stand in the ring."
    before = stream.status.published
    compiled = kernel[grid](*args, **keywords, stream=stream)
    after = stream.status.published
    variant = next(v for v in kernel.cache if v.compiled is compiled)
    record = _core._ring_bytes(stream, before, after - before)
    params = variant._core.kernel._params
    shape, packed = launch_record(record)
    return b"".join(packed[p[2] : p[2] + p[3]] for p in params).hex(), [p[3] for p in params], shape, kernel._slow_calls

def theirs(kernel, grid, args, keywords, sizes):
    stub.stub_expect((ctypes.c_uint * len(sizes))(*sizes), len(sizes))
    kernel[grid](*args, **keywords)
    return bytes(stub.stub_params()[: sum(sizes)]).hex(), list(stub.stub_shape()[:7]), stub.stub_launches()

found = []
for kernel, grid, args, keywords in cases:
    fresh = rl.wrap(kernel)
    case = f"{kernel.__name__}{args} {keywords}"
    try:
        slow = ours(fresh, grid, args, keywords)
        again = ours(fresh, grid, args, keywords)
        other = theirs(kernel, grid, args, keywords, slow[1])
    except Exception as error:
        raise RuntimeError(case) from error
    found.append((case, slow, again, other))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compared(null, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    compiler = shutil.which("gcc") or pytest.skip("no gcc here, which Triton compiles its launcher with")
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", Path(__file__).with_name("stub_cuda.c"), "-o", folder / "libcuda.so.1"],
        check=True,
    )
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    (folder / "program.py").write_text(PROGRAM)  # Triton reads the source of its kernels from a file
    done = subprocess.run(
        [sys.executable, folder / "program.py", null.socket],
        capture_output=True,
        text=True,
        timeout=110,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))),
            "LD_LIBRARY_PATH": str(folder),
            "TRITON_LIBCUDA_PATH": str(folder),
            "TRITON_CACHE_DIR": str(folder / "cache"),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_parameters_are_those_of_tritons_launcher(compared):
    assert len(compared) > 60
    for case, slow, again, other in compared:
        assert slow[0] == other[0], f"{case}: the first call"
        assert again[0] == other[0], f"{case}: the second"


def test_grid_block_and_shared_memory_are_those_of_tritons_launcher(compared):
    for case, slow, again, other in compared:
        assert other[2] == 1, case
        assert slow[2] == again[2] == other[1], case


def test_most_second_calls_are_quick(compared):
    unknown = {case for case, _, again, _ in compared if again[3] != 1}
    # An int of a type of its own that is 1 is a constant, as the object that it is: those are Triton's to know.
    assert unknown == {case for case, *_ in compared if "Offset(1)" in case} != set()
