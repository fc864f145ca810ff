"""Tensor descriptors of the program's in launches into the daemon, on a real GPU: results beside numpy's."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")
TensorDescriptor = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor

DTYPES = ["float32", "float16", "int8", "uint8", "int16", "int32", "int64"]


@triton.jit
def double(source, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    r, c = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    block = source.load([r, c])
    out.store([r, c], block + block)


@triton.jit
def outside(source, out, N: tl.constexpr):
    """The block behind the tensor's end."""
    tl.store(out + tl.arange(0, N), source.load([N]))


@triton.jit
def matmul(a, b, c, inner, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    total = tl.zeros((M, N), tl.float32)
    for k in range(0, inner, K):
        total = tl.dot(a.load([row, k]), b.load([k, column]), total)
    c.store([row, column], total.to(tl.float16))


@pytest.fixture
def random_values():
    return np.random.default_rng(5)


@pytest.fixture(autouse=True)
def _tma(client):
    if int(client.daemon.architecture.removeprefix("sm_").rstrip("a")) < 90:
        pytest.skip("tensor maps need sm_90 or later")


def described(buffer, block, kind=TensorDescriptor):
    return kind.from_tensor(buffer, block)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [TensorDescriptor, rl.TensorDescriptor])
def test_a_copy_through_descriptors(client, random_values, dtype, kind):
    kernel = rl.wrap(double)
    for rows, columns in [(64, 96), (50, 80), (1, 16), (300, 256)] * 2:
        a = random_values.integers(-9, 9, (rows, columns)).astype(dtype)
        whole = np.zeros((rows + 2, columns), dtype)
        x, out = client.array(a), client.zeros(whole.shape, dtype)
        part = out[1 : rows + 1]  # what stands before and behind it stays
        for _ in range(3):
            kernel[(triton.cdiv(rows, 32), triton.cdiv(columns, 32))](
                described(x, [32, 32], kind), described(part, [32, 32], kind), ROWS=32, COLUMNS=32
            )
        whole[1 : rows + 1] = a + a
        assert np.array_equal(out.numpy(), whole)


@pytest.mark.parametrize("padding", ["zero", "nan"])
def test_what_lies_outside_is_padded(client, padding):
    kernel, out = rl.wrap(outside), client.zeros(32)
    x = client.array(np.arange(1, 65, dtype=np.float32))
    for _ in range(2):
        kernel[(1,)](rl.TensorDescriptor(x, [48], [1], [32], padding), out, N=32)
        expected = np.concatenate([np.arange(33, 49), np.full(16, 0 if padding == "zero" else np.nan)])
        assert np.array_equal(out.numpy(), expected.astype(np.float32), equal_nan=True)


def multiply(client, kernel, random_values, stream=None, **options):
    rows, columns, inner = 200, 328, 136  # no whole blocks
    a, b = (random_values.standard_normal(shape).astype(np.float16) for shape in ((rows, inner), (inner, columns)))
    x, y, out = client.array(a), client.array(b), client.zeros((rows, columns), "float16")
    maps = (described(x, [64, 64]), described(y, [64, 64]), described(out, [64, 64]))

    def launch():
        kernel[(triton.cdiv(rows, 64), triton.cdiv(columns, 64))](
            *maps, inner, M=64, N=64, K=64, stream=stream, **options
        )

    def check():
        expected = a.astype(np.float32) @ b.astype(np.float32)
        np.testing.assert_allclose(out.numpy().astype(np.float32), expected, rtol=4e-3, atol=4e-2)

    return launch, check, out


@pytest.mark.parametrize("options", [{}, {"num_stages": 4, "num_warps": 8}])
def test_a_product_of_matrices(client, random_values, options):
    kernel = rl.wrap(matmul)
    launch, check, out = multiply(client, kernel, random_values, **options)
    for _ in range(3):
        out.fill(0)
        launch()
        check()
    assert kernel._slow_calls == 1


def test_in_chains_and_graphs_each_launch_has_its_maps(client):
    """Launches that come again go through launch graphs, whose parameters are rewritten."""
    kernel, stream = rl.wrap(double), client.stream()
    count = 16
    sources = [client.array(np.full((64, 64), i, np.float32), stream=stream) for i in range(count)]
    outs = [client.zeros((64, 64)) for _ in range(count)]
    client.synchronize()
    for step in range(50):
        for i in range(count):
            kernel[(2, 2)](
                described(sources[(i + step) % count], [32, 32]), described(outs[i], [32, 32]),
                ROWS=32, COLUMNS=32, stream=stream,
            )  # fmt: skip
    stream.synchronize()
    for i, out in enumerate(outs):
        assert (out.numpy() == 2 * ((i + 49) % count)).all()
    with stream.record() as graph:
        for first, second in itertools.pairwise(outs):
            kernel[(2, 2)](described(first, [32, 32]), described(second, [32, 32]), ROWS=32, COLUMNS=32, stream=stream)
    outs[0].fill(1)
    client.synchronize()
    for _ in range(2):
        graph.launch(stream)
    stream.synchronize()
    for i, out in enumerate(outs):
        assert (out.numpy() == 2**i).all()


def test_maps_that_are_kept_are_right_after_a_restart(serve_gpu, random_values):
    with serve_gpu() as socket, rl.connect(socket, start=False) as client:
        kernel, stream = rl.wrap(matmul), client.stream(on_restart="rerun")
        launch, check, out = multiply(client, kernel, random_values, stream)
        launch()
        stream.synchronize()
        check()
        asked, epoch = client._handle.tensor_maps()[0], stream.status.epoch
        pid = client.daemon.pid
        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGKILL)
        out.fill(0)
        client.synchronize()
        launch()
        stream.synchronize()
        check()
        assert stream.status.epoch > epoch and client._handle.tensor_maps()[0] == asked
        again, check_again, _ = multiply(client, kernel, random_values, stream)  # maps of the next executor
        again()
        stream.synchronize()
        check_again()


def test_a_file_s_kernel_takes_descriptors(client, random_values, tmp_path):
    kernel = rl.wrap(matmul)
    multiply(client, kernel, random_values)[0]()
    kernel.save(tmp_path / "matmul.rlt")
    launch, check, _ = multiply(client, rl.load(tmp_path / "matmul.rlt"), random_values)
    for _ in range(2):
        launch()
        check()


def test_what_cuda_does_not_take_is_refused(client):
    kernel = rl.wrap(double)
    x, out = client.zeros((64, 64)), client.zeros((64, 64))
    fine = described(x, [32, 32])
    fine.shape = [65, 64]
    with pytest.raises(rl.InvalidArgument, match="larger than the 16384 bytes"):
        kernel[(1, 1)](fine, described(out, [32, 32]), ROWS=32, COLUMNS=32)
    fine.shape, fine.strides = [8, 64], [65, 1]
    with pytest.raises(rl.InvalidArgument, match="the stride in bytes is 260 in dimension 1"):
        kernel[(1, 1)](fine, described(out, [32, 32]), ROWS=32, COLUMNS=32)
    fine.shape, fine.strides = [64, 64], [64, 1]
    kernel[(1, 1)](fine, described(out, [32, 32]), ROWS=32, COLUMNS=32)
    client.synchronize()
