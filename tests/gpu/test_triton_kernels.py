"""Triton kernels on a real GPU: their results beside numpy's; in the daemon, and some inline and in a region, too."""

import importlib.util
import random

import numpy as np
import pytest
from gpu_support import of_torch

import ringlaunch as rl
from ringlaunch import _core

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")

RANDOM_SIGNATURES = 60  # kernels, each of which is called with four kinds of arguments


@rl.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


@rl.jit
def softmax(out, x, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + i, i < columns, other=-float("inf"))
    weights = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + i, weights / tl.sum(weights, axis=0), i < columns)


@rl.jit
def layer_norm(x, out, weight, bias, mean, scale, stride, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < columns
    values = tl.load(x + row * stride + i, inside, other=0.0).to(tl.float32)
    average = tl.sum(values, axis=0) / columns
    centred = tl.where(inside, values - average, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    tl.store(mean + row, average)
    tl.store(scale + row, inverse)
    normal = centred * inverse * tl.load(weight + i, inside) + tl.load(bias + i, inside)
    tl.store(out + row * stride + i, normal, inside)


@triton.jit
def relu(x):
    return tl.where(x > 0, x, 0.0)


@triton.jit
def matmul(
    a, b, c, rows, columns, inner, stride_a, stride_b, stride_c,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * M + tl.arange(0, M)
    n = tl.program_id(1) * N + tl.arange(0, N)
    k = tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, inner, K):
        inside = start + k < inner
        left = tl.load(
            a + m[:, None] * stride_a + (start + k)[None, :], (m < rows)[:, None] & inside[None, :], other=0.0
        )
        right = tl.load(
            b + (start + k)[:, None] * stride_b + n[None, :], inside[:, None] & (n < columns)[None, :], other=0.0
        )
        total += tl.dot(left, right)
    if ACTIVATION == "relu":
        total = relu(total)
    tl.store(c + m[:, None] * stride_c + n[None, :], total, (m < rows)[:, None] & (n < columns)[None, :])


@rl.jit
def described_add(x, out, rows, columns, M: tl.constexpr, N: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [M, N])
    target = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [M, N])
    at = [tl.program_id(0) * M, tl.program_id(1) * N]
    target.store(at, source.load(at) + 1.0)


@pytest.fixture(scope="module")
def random_values():
    return np.random.default_rng(7)


@pytest.fixture(params=["daemon", "inline", "region"])
def memory(request):
    """What makes the arrays of a test's launches, by which they go one way or another."""
    if request.param == "daemon":
        yield request.getfixturevalue("client")
        return
    tensors = of_torch()
    before = _core.triton_region_counts()[1]
    if request.param == "inline":
        yield tensors
        assert _core.triton_region_counts()[1] == before
        return
    with rl.region():
        yield tensors
    assert _core.triton_region_counts()[1] > before, "the first launch of each kind is Triton's own, others are not"


@pytest.mark.parametrize("size", [1, 16, 1000, 98432])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.int64, np.uint8])
def test_vector_add(memory, random_values, size, dtype):
    a = (random_values.random(size) * 100).astype(dtype)
    b = (random_values.random(size) * 100).astype(dtype)
    x, y, out = memory.array(a), memory.array(b), memory.zeros(size, dtype)
    for _ in range(2):
        out.fill(0)
        add[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, y, out, size, BLOCK=512)
        assert np.array_equal(out.numpy(), a + b)


def test_parts_of_a_buffer_that_are_not_aligned(memory, random_values):
    a = random_values.random(1000).astype(np.float32)
    x, out = memory.array(a), memory.zeros(1000)
    for start in (0, 1, 4, 5):
        add[(2,)](x[start:], x[start:], out[start:], 1000 - start, BLOCK=512)
        assert np.array_equal(out.numpy()[start:], 2 * a[start:])


@pytest.mark.parametrize(("rows", "columns"), [(128, 781), (1823, 256), (1, 1)])
def test_softmax(memory, random_values, rows, columns):
    a = random_values.standard_normal((rows, columns)).astype(np.float32)
    x, out = memory.array(a), memory.zeros(a.shape)
    block = triton.next_power_of_2(columns)
    for warps in (1, 4, 8) * 2:
        out.fill(0)
        softmax[(rows,)](out, x, columns, columns, BLOCK=block, num_warps=warps)
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        np.testing.assert_allclose(out.numpy(), weights / weights.sum(axis=1, keepdims=True), rtol=2e-5, atol=1e-7)


def test_layer_norm(memory, random_values):
    rows, columns = 300, 1000
    a = random_values.standard_normal((rows, columns)).astype(np.float16)
    w, b = random_values.random(columns).astype(np.float32), random_values.random(columns).astype(np.float32)
    x, out = memory.array(a), memory.zeros(a.shape, np.float16)
    mean, scale = memory.zeros(rows), memory.zeros(rows)
    for _ in range(2):
        layer_norm[(rows,)](x, out, memory.array(w), memory.array(b), mean, scale, columns, columns, 1e-5, BLOCK=1024)
        wide = a.astype(np.float64)
        average, deviation = wide.mean(axis=1, keepdims=True), np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(out.numpy(), (wide - average) / deviation * w + b, rtol=5e-3, atol=5e-3)
        np.testing.assert_allclose(mean.numpy(), average[:, 0], atol=1e-5)


@pytest.mark.parametrize("activation", ["", "relu"])
def test_matmul_with_autotune(memory, random_values, activation):
    configs = [
        triton.Config({"M": 64, "N": 64, "K": 32}, num_warps=4, num_stages=3),
        triton.Config({"M": 128, "N": 128, "K": 64}, num_warps=8, num_stages=4),  # 128 KiB of shared memory
    ]
    tuned = rl.wrap(triton.autotune(configs, key=["rows", "columns", "inner"])(matmul))
    rows, columns, inner = 500, 384, 320
    a = random_values.standard_normal((rows, inner)).astype(np.float16)
    b = random_values.standard_normal((inner, columns)).astype(np.float16)
    x, y, out = memory.array(a), memory.array(b), memory.zeros((rows, columns))
    expected = a.astype(np.float32) @ b.astype(np.float32)
    if activation:
        expected = np.maximum(expected, 0)

    def grid(meta):
        return (triton.cdiv(rows, meta["M"]), triton.cdiv(columns, meta["N"]))

    for _ in range(3):
        out.fill(0)
        tuned[grid](x, y, out, rows, columns, inner, inner, columns, columns, ACTIVATION=activation)
        np.testing.assert_allclose(out.numpy(), expected, rtol=2e-3, atol=2e-2)
    shared = sorted(variant.shared for variant in tuned.fn.cache)
    assert len(shared) == 2 and shared[-1] > 48 * 1024
    for config in configs:
        out.fill(0)
        plain = rl.wrap(matmul)
        plain[grid({**config.kwargs})](
            x, y, out, rows, columns, inner, inner, columns, columns, ACTIVATION=activation, **config.all_kwargs()
        )
        np.testing.assert_allclose(out.numpy(), expected, rtol=2e-3, atol=2e-2)


def test_descriptors_that_a_kernel_makes_have_their_scratch_memory(client, random_values):
    a = random_values.random((256, 512)).astype(np.float32)
    x = client.array(a)
    streams = [client.stream() for _ in range(3)]
    outs = [client.zeros(a.shape) for _ in streams]
    for _ in range(20):
        for stream, out in zip(streams, outs):
            described_add[(8, 8)](x, out, 256, 512, M=32, N=64, stream=stream)
    client.synchronize()
    for out in outs:
        assert np.array_equal(out.numpy(), a + 1)


@pytest.mark.parametrize("options", [{"num_ctas": 2}, {"launch_pdl": True}, {"launch_cooperative_grid": True}])
def test_clusters_programmatic_and_cooperative_launches(client, random_values, options):
    a = random_values.random(4096).astype(np.float32)
    x, out = client.array(a), client.zeros(4096)
    for _ in range(3):
        out.fill(0)
        add[(8,)](x, x, out, 4096, BLOCK=512, **options)
        assert np.array_equal(out.numpy(), 2 * a)


def test_a_kernel_that_needs_more_shared_memory_than_there_is_is_refused(client):
    x = client.zeros((1024, 1024), np.float16)
    plain = rl.wrap(matmul)
    with pytest.raises(triton.runtime.errors.OutOfResources, match="shared memory"):
        plain[(1, 1)](
            x, x, x, *(1024,) * 6, M=256, N=256, K=128, ACTIVATION="", num_stages=5, num_warps=8
        )  # fmt: skip


def make_kernel(folder, number, source):
    path = folder / f"made_{number}.py"
    path.write_text(f"import triton.language as tl\n\n\n{source}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return rl.jit(module.kernel)


@pytest.mark.parametrize("number", range(RANDOM_SIGNATURES))
def test_random_signatures(client, tmp_path, number):
    """Each argument comes back from the GPU as what it was given as."""
    rng = random.Random(number)
    kinds = {
        "int": lambda: rng.choice([0, 1, 2, 16, -1, rng.randrange(-(2**31), 2**31), rng.randrange(2**40), 2**63 - 1]),
        "float": lambda: rng.choice([0.0, 1.0, 0.5, rng.uniform(-1e6, 1e6)]),
        "bool": lambda: rng.choice([True, False]),
        "constexpr": lambda: rng.randrange(-100, 100),
        "pointer": lambda: client.array(np.array([rng.randrange(1000)], np.int32)),
        "none": lambda: None,
    }
    chosen = [rng.choice(list(kinds)) for _ in range(rng.randrange(1, 17))]
    marks = [": tl.constexpr" if kind == "constexpr" else "" for kind in chosen]
    lines = [f"def kernel(out, {', '.join(f'a{i}{mark}' for i, mark in enumerate(marks))}):"]
    for i, kind in enumerate(chosen):
        value = {"pointer": f"tl.load(a{i})", "none": f"(7 if a{i} is None else 8)", "bool": f"(2 if a{i} else 3)"}
        lines.append(f"    tl.store(out + {i}, {value.get(kind, f'a{i}')})")
    kernel = make_kernel(tmp_path, number, "\n".join(lines) + "\n")
    out = client.zeros(len(chosen), np.float64)
    for _ in range(4):
        values = [kinds[kind]() for kind in chosen]
        expected = []
        for kind, value in zip(chosen, values):
            if kind == "pointer":
                value = value.numpy()[0]
            elif kind in ("none", "bool"):
                value = 7 if kind == "none" else 2 if value else 3
            elif kind == "float":
                value = np.float32(value)
            expected.append(np.float64(value))
        for _ in range(2):
            out.fill(0)
            kernel[(1,)](out, *values)
            assert out.numpy().tolist() == expected, (chosen, values)


def test_ten_thousand_launches_are_all_there(client):
    @rl.jit
    def count(x, by):
        tl.store(x, tl.load(x) + by)

    x = client.zeros(1, np.int64)
    for i in range(10000):
        count[(1,)](x, i)
    assert x.numpy()[0] == sum(range(10000))


def test_launches_in_a_graph_keep_their_buffers_and_run_on_any_stream(client, random_values):
    a = random_values.random(4096).astype(np.float32)
    stream, other = client.stream(), client.stream()
    out, half = client.zeros(4096), client.zeros(4096)

    def recorded():
        x = client.array(a)
        with stream.record() as graph:
            for to in (out, half):
                add[(8,)](x, x, to, 4096, BLOCK=512, stream=stream)
                add[(8,)](to, x, to, 4096, BLOCK=512, stream=stream)
        return graph

    for graph in (recorded(), recorded()):
        others = [client.zeros(4096) for _ in range(8)]
        for where in (stream, other):
            out.fill(0)
            half.fill(0)
            graph[2].update(grid=4)
            graph[3].update(grid=4)
            graph.launch(where)
            where.synchronize(timeout=60)
            assert np.array_equal(out.numpy(), a + a + a)
            assert np.array_equal(half.numpy()[:2048], (a + a + a)[:2048]) and not half.numpy()[2048:].any()
        assert not any(each.numpy().any() for each in others)


def test_a_fault_stops_its_stream_and_the_kernels_go_on_behind_it(client, random_values):
    @rl.jit
    def wild(x):
        tl.store(x + (1 << 40), 1.0)

    a = random_values.random(1000).astype(np.float32)
    x, out = client.array(a), client.zeros(1000)
    stream = client.stream()
    add[(2,)](x, x, out, 1000, BLOCK=512, stream=stream)
    stream.synchronize(timeout=60)
    wild[(1,)](x, stream=stream)
    with pytest.raises(rl.StreamStopped, match="wild"):
        stream.synchronize(timeout=60)
    with pytest.raises(rl.StreamStopped):
        add[(2,)](x, x, out, 1000, BLOCK=512, stream=stream)
    stream.resume()
    out.fill(0, stream)
    add[(2,)](x, x, out, 1000, BLOCK=512, stream=stream)
    assert np.array_equal(out.numpy(stream), 2 * a)
