"""Triton kernels that were saved, launched from their file on a real GPU where Triton cannot be imported."""

import subprocess
import sys

import pytest

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")


@rl.jit
def axpy(x: rl.tensor[rl.float32], y: rl.tensor[rl.float32], n: rl.int32, a: float = 2.0, BLOCK: tl.constexpr = 256):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) * a + tl.load(y + i, i < n), i < n)


@rl.jit
def row_sum(x, out, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    tl.store(out + row, tl.sum(tl.load(x + row * columns + i, i < columns, other=0.0), axis=0))


PROGRAM = """
import sys
sys.modules["triton"] = None
import numpy as np
import ringlaunch as rl

with rl.connect(sys.argv[1], start=False) as client:
    axpy, row_sum = rl.load(sys.argv[2]), rl.load(sys.argv[3])
    a = np.random.default_rng(3).random(10_000).astype(np.float32)
    x, y = client.array(a), client.zeros(10_000)
    for _ in range(5):
        axpy[lambda meta: (-(-meta["n"] // meta["BLOCK"]),)](x, y, x.size, 0.5)
    assert np.allclose(y.numpy(), 2.5 * a, rtol=1e-6), y.numpy()[:5]
    try:
        axpy[(1,)](client.zeros(4, np.float64), y, 4)
    except rl.ParamTypeError as error:
        assert "'x'" in str(error)
    else:
        raise SystemExit("a tensor of float64 was taken")
    rows, out = client.array(a.reshape(100, 100)), client.zeros(100)
    row_sum[(100,)](rows, out, 100, BLOCK=128)
    assert np.allclose(out.numpy(), a.reshape(100, 100).sum(axis=1), rtol=1e-5)
    print("done")
"""


def test_a_program_without_triton_launches_what_another_compiled(client, tmp_path):
    x, y = client.zeros(10_000), client.zeros(10_000)
    axpy[(40,)](x, y, 10_000)
    axpy[(40,)](x, y, 9_999)
    row_sum[(100,)](client.zeros((100, 100)), client.zeros(100), 100, BLOCK=128)
    axpy.save(tmp_path / "axpy")
    row_sum.save(tmp_path / "row_sum")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, client.daemon.socket, str(tmp_path / "axpy"), str(tmp_path / "row_sum")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_a_file_for_another_gpu_is_refused(client, tmp_path):
    from ringlaunch import _triton_file

    axpy[(40,)](client.zeros(1000), client.zeros(1000), 1000)
    axpy.save(tmp_path / "file")
    saved = _triton_file.read(tmp_path / "file")
    other = saved._replace(variants=tuple(each._replace(architecture=75) for each in saved.variants))
    _triton_file.write(tmp_path / "file", other, {})
    with pytest.raises(rl.Unsupported, match=rf"{client.daemon.architecture}.*sm_75.*save it once more"):
        rl.load(tmp_path / "file", client)
    loaded = rl.load(tmp_path / "file")
    with pytest.raises(rl.Unsupported, match="sm_75"):
        loaded[(40,)](client.zeros(1000), client.zeros(1000), 1000)


INLINE = """
import sys
sys.modules["triton"] = None
import torch
import ringlaunch as rl

axpy, row_sum = rl.load(sys.argv[1]), rl.load(sys.argv[2], mode="inline")
a = torch.rand(10_000, device="cuda")
y = torch.zeros_like(a)
for _ in range(12):
    axpy[lambda meta: (-(-meta["n"] // meta["BLOCK"]),)](a, y, a.numel(), 0.5)
torch.testing.assert_close(y, a * 6)
(variant,) = axpy.cache
assert variant.client is None and variant.hits == 12 and axpy._slow_calls == 1, (variant.hits, axpy._slow_calls)
assert variant._core._graphs > 0 and variant.registers > 0
assert axpy.cache.find(a, y, a.numel(), 0.5) is variant

side = torch.cuda.Stream()
with torch.cuda.stream(side):
    z = torch.zeros_like(a)
    for _ in range(20):
        torch.cuda._sleep(20_000)
        z.add_(1)
        axpy[(40,)](a, z, a.numel(), 1.0)
torch.cuda.current_stream().wait_stream(side)
torch.testing.assert_close(z, a * 20 + 20)
w = torch.zeros_like(a)
side.wait_stream(torch.cuda.current_stream())
axpy[(40,)](a, w, a.numel(), 1.0, stream=side)
side.synchronize()
torch.testing.assert_close(w, a)

captured, x = torch.cuda.CUDAGraph(), torch.zeros_like(a)
with torch.cuda.graph(captured):
    axpy[(40,)](a, x, a.numel(), 2.0)
for _ in range(3):
    captured.replay()
torch.testing.assert_close(x, a * 6)

rows, out = a.view(100, 100), torch.zeros(100, device="cuda")
row_sum[(100,)](rows, out, 100, BLOCK=128)
torch.testing.assert_close(out, rows.sum(1))

def refused(kind, text, call):
    for _ in range(2):
        try:
            call()
        except kind as error:
            assert text in str(error), error
        else:
            raise SystemExit("taken: " + text)

refused(ValueError, "Pointer argument", lambda: axpy[(40,)](a.cpu(), y, a.numel()))
refused(rl.ParamTypeError, "'x'", lambda: axpy[(40,)](a.double(), y, a.numel()))
refused(rl.NotFound, "holds no variant", lambda: row_sum[(100,)](rows.double(), out, 100, BLOCK=128))
refused(rl.ParamTypeError, "stream", lambda: axpy[(40,)](a, y, a.numel(), stream="side"))

import threading
failed = []
def other():
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            mine = torch.zeros(10_000, device="cuda")
            for _ in range(50):
                axpy[(40,)](torch.ones_like(mine), mine, mine.numel(), 1.0)
            assert bool((mine == 50).all())
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=other) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
try:
    import cupy
except ImportError:
    pass
else:
    c, d = cupy.ones(10_000, "float32"), cupy.zeros(10_000, "float32")
    torch.cuda.current_stream().synchronize()
    for _ in range(6):
        axpy[(40,)](c, d, 10_000, 1.0)
    torch.cuda.synchronize()
    assert bool((d == 6).all())
print("done")
"""


def test_a_program_without_triton_launches_it_inline_on_its_tensors(client, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x, y = client.zeros(10_000), client.zeros(10_000)
    axpy[(40,)](x, y, 10_000)
    row_sum[(100,)](client.zeros((100, 100)), client.zeros(100), 100, BLOCK=128)
    axpy.save(tmp_path / "axpy")
    row_sum.save(tmp_path / "row_sum")
    done = subprocess.run(
        [sys.executable, "-c", INLINE, str(tmp_path / "axpy"), str(tmp_path / "row_sum")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


@rl.jit
def doubled(described, out, N: tl.constexpr):
    i, begin = tl.arange(0, N), tl.program_id(0) * N
    block = described.load([begin, 0])
    tl.store(out + (begin + i)[:, None] * N + i[None, :], block * 2)


TILES = """
import sys
sys.modules["triton"] = None
import torch
import ringlaunch as rl

doubled = rl.load(sys.argv[1])
for rows in (64, 128, 32):
    for _ in range(8):
        x = torch.rand(rows, 16, device="cuda")
        out = torch.zeros_like(x)
        doubled[(rows // 16,)](rl.TensorDescriptor.from_tensor(x, [16, 16]), out, N=16)
        assert torch.equal(out, x * 2)
given = [torch.rand(64, 16, device="cuda") for _ in range(100)]
outs = [torch.zeros_like(x) for x in given]
with rl.region():
    for x, out in zip(given, outs):
        doubled[(4,)](rl.TensorDescriptor.from_tensor(x, [16, 16]), out, N=16)
assert all(torch.equal(out, x * 2) for x, out in zip(given, outs))
assert doubled._slow_calls <= 2, doubled._slow_calls
print("done")
"""


def test_a_program_without_triton_gives_tensor_descriptors(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    if torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("tensor maps need sm_90 or later")
    from triton.tools.tensor_descriptor import TensorDescriptor

    x = torch.rand(64, 16, device="cuda")
    for kind in (TensorDescriptor, rl.TensorDescriptor):
        out = torch.zeros_like(x)
        doubled[(4,)](kind.from_tensor(x, [16, 16]), out, N=16)
        assert torch.equal(out, x * 2)
    doubled.save(tmp_path / "doubled")
    done = subprocess.run(
        [sys.executable, "-c", TILES, str(tmp_path / "doubled")], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
