"""examples/tutorials on a real GPU: their results beside NumPy's, and beside torch's where it is installed."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from gpu_support import ROOT, WATCHDOG_S, of_torch

import ringlaunch as rl
from ringlaunch import _core

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

TUTORIALS = ROOT / "examples" / "tutorials"
NAMES = sorted(path.stem for path in TUTORIALS.glob("*.py") if path.stem != "tutorial")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(TUTORIALS)
    yield importlib.import_module
    for name in (*NAMES, "tutorial"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_results_agree_with_numpy(client, load, name):
    for what, found, expected, relative, absolute in load(name).compare(client):
        np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute, err_msg=what)


@pytest.fixture
def tensors():
    return of_torch()


@pytest.mark.parametrize("name", NAMES)
def test_results_agree_with_numpy_inline(tensors, load, name):
    module = load(name)
    for what, found, expected, relative, absolute in module.compare(tensors):
        np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute, err_msg=what)
    named = [kernel for each in vars(module).values() for kernel in (each, getattr(each, "fn", None))]
    variants = [variant for each in named if isinstance(each, _core.TritonKernel) for variant in each.cache]
    assert variants and all(variant.client is None and variant.hits > 0 for variant in variants)


@pytest.mark.parametrize("name", NAMES)
def test_results_agree_with_numpy_in_a_region(tensors, load, name):
    module = load(name)
    for _ in range(2):  # the first launch of each kind is Triton's own
        before = _core.triton_region_counts()[1]
        with rl.region():
            for what, found, expected, relative, absolute in module.compare(tensors):
                np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute, err_msg=what)
    assert _core.triton_region_counts()[1] > before


def test_a_program_of_them_says_so(gpu_socket):
    done = subprocess.run(
        [sys.executable, TUTORIALS / "layer_norm.py", "--driver", "cuda"],
        env={**os.environ, "RINGLAUNCH_SOCKET": gpu_socket}, capture_output=True, text=True, timeout=WATCHDOG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    torch = importlib.util.find_spec("torch") is not None
    assert done.stdout.count("elements agree with NumPy") == (12 if torch else 8)
    assert ("through torch, dweight: all 512" in done.stdout) == torch


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("rows", "columns"), [(1151, 8192), (7, 33), (64, 1)])
def test_layer_norm_and_its_gradients_agree_with_torch(client, load, dtype, rows, columns):
    torch = pytest.importorskip("torch")
    module = load("layer_norm")
    random = np.random.default_rng(4)
    a, gradient = (random.standard_normal((rows, columns)).astype(dtype) for _ in range(2))
    w, b = (random.random(columns).astype(dtype) for _ in range(2))
    x, weight, bias, dout = (client.array(each) for each in (a, w, b, gradient))
    out, dx = client.zeros((rows, columns), dtype), client.zeros((rows, columns), dtype)
    mean, inverse = client.zeros(rows), client.zeros(rows)
    parts = [client.zeros((module.PARTS, columns)) for _ in range(2)]
    dweight, dbias = client.zeros(columns, dtype), client.zeros(columns, dtype)
    module.forward(x, weight, bias, out, mean, inverse, rows, columns)
    module.backward(dout, x, weight, mean, inverse, dx, *parts, dweight, dbias, rows, columns)

    given = [torch.from_numpy(each.astype(np.float64)).requires_grad_() for each in (a, w, b)]
    expected = torch.nn.functional.layer_norm(given[0], (columns,), given[1], given[2], 1e-5)
    expected.backward(torch.from_numpy(gradient.astype(np.float64)))
    tolerance = {"rtol": 2e-2, "atol": 5e-2} if dtype == np.float16 else {"rtol": 1e-3, "atol": 2e-3}
    for found, reference in zip((out, dx, dweight, dbias), (expected, *(each.grad for each in given))):
        np.testing.assert_allclose(found.numpy(), reference.detach().numpy(), **tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_agrees_with_torch(client, load, causal):
    torch = pytest.importorskip("torch")
    module = load("attention")
    shape = (8, 1000, 128)
    given = [np.random.default_rng(5 + i).standard_normal(shape).astype(np.float16) for i in range(3)]
    out = client.zeros(shape, np.float16)
    module.attention(*(client.array(each) for each in given), out, *shape, causal)
    wide = (torch.from_numpy(each.astype(np.float32)) for each in given)
    expected = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=causal)
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-2, atol=5e-3)


def test_a_tuned_matmul_agrees_with_torch_tunes_once_for_a_shape_and_is_saved(client, load, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    module = load("matmul")
    random = np.random.default_rng(6)
    a, b = ((random.standard_normal((700, 700)) / 8).astype(np.float16) for _ in range(2))
    x, y, out = client.array(a), client.array(b), client.zeros((700, 700), np.float16)
    for _ in range(3):
        out.fill(0)
        module.matmul(x, y, out, 700, 700, 700)
    expected = torch.from_numpy(a.astype(np.float32)) @ torch.from_numpy(b.astype(np.float32))
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=2e-3, atol=2e-3)
    assert len(module.matmul_kernel.cache) == 1
    first = out.numpy()
    module.matmul_kernel.save(tmp_path / "matmul")
    loaded = rl.load(tmp_path / "matmul", client)
    monkeypatch.setattr(module, "matmul_kernel", loaded)
    out.fill(0)
    module.matmul(x, y, out, 700, 700, 700)
    assert np.array_equal(out.numpy(), first) and len(loaded.fn.cache) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1151, 1000), (3, 7, 64)])
def test_layer_norm_is_a_function_that_torch_differentiates(load, dtype, shape):
    torch = pytest.importorskip("torch")
    layer_norm, kind = load("layer_norm").torch_function(), getattr(torch, dtype)
    torch.manual_seed(1)
    x = torch.randn(shape, device="cuda", dtype=kind)
    weight, bias = (torch.rand(shape[-1:], device="cuda", dtype=kind) for _ in range(2))
    gradient = torch.randn_like(x)
    results = []
    for function in (layer_norm, lambda x, w, b: torch.nn.functional.layer_norm(x, shape[-1:], w, b, 1e-5)):
        given = [each.clone().requires_grad_() for each in (x, weight, bias)]
        out = function(*given)
        out.backward(gradient)
        results.append([out, *(each.grad for each in given)])
    tolerance = {"float32": (1e-3, 2e-3), "float16": (2e-2, 5e-2), "bfloat16": (5e-2, 3e-1)}[dtype]
    for ours, theirs in zip(*results):
        assert ours.dtype == kind
        torch.testing.assert_close(ours, theirs, rtol=tolerance[0], atol=tolerance[1])


def test_layer_norm_learns_with_torchs_layers_around_it(load):
    torch = pytest.importorskip("torch")
    layer_norm = load("layer_norm").torch_function()
    torch.manual_seed(2)
    first, last = torch.nn.Linear(16, 64, device="cuda"), torch.nn.Linear(64, 1, device="cuda")
    weight, bias = torch.ones(64, device="cuda", requires_grad=True), torch.zeros(64, device="cuda", requires_grad=True)
    optimizer = torch.optim.Adam([*first.parameters(), *last.parameters(), weight, bias], lr=1e-2)
    x = torch.randn(256, 16, device="cuda")
    y = x.sum(dim=1, keepdim=True).sin()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (last(layer_norm(torch.relu(first(x)), weight, bias)) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
