"""Triton kernels that are launched inline, in torch's autograd: functions, operators of one's own, torch.compile."""

import pytest

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU here", allow_module_level=True)

STEPS = 10  # more than a kernel is launched before it gets a graph


@rl.jit(mode="inline")
def cube(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, i < n)
    tl.store(out + i, value * value * value, i < n)


@rl.jit(mode="inline")
def cube_gradient(x, given, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, i < n)
    tl.store(out + i, tl.load(given + i, i < n) * value * value * 3, i < n)


def launch_cube(x):
    out = torch.empty_like(x)
    cube[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), BLOCK=256)
    return out


def launch_gradient(x, given):
    out = torch.empty_like(x)
    cube_gradient[(triton.cdiv(x.numel(), 256),)](x, given, out, x.numel(), BLOCK=256)
    return out


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return launch_cube(x)

    @staticmethod
    def backward(ctx, given):
        (x,) = ctx.saved_tensors
        return launch_gradient(x, given.contiguous())


@torch.library.custom_op("ringlaunch_tests::cube", mutates_args=())
def cube_op(x: torch.Tensor) -> torch.Tensor:
    return launch_cube(x)


@cube_op.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("ringlaunch_tests::cube_gradient", mutates_args=())
def cube_gradient_op(x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return launch_gradient(x, given)


@cube_gradient_op.register_fake
def _(x, given):
    return torch.empty_like(x)


cube_op.register_autograd(
    lambda ctx, given: cube_gradient_op(ctx.saved_tensors[0], given.contiguous()),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@pytest.mark.parametrize("function", [Cube.apply, cube_op], ids=["Function", "custom_op"])
def test_gradients_are_right(function):
    for step in range(STEPS):
        made = torch.Generator(device="cuda").manual_seed(step)
        x = torch.randn(100, dtype=torch.float64, device="cuda", generator=made, requires_grad=True)
        assert torch.autograd.gradcheck(function, (x,))


@pytest.mark.parametrize("function", [Cube.apply, cube_op], ids=["Function", "custom_op"])
def test_training_goes_as_with_torch(function):
    def losses(of):
        torch.manual_seed(1)
        layer = torch.nn.Linear(32, 32, device="cuda", dtype=torch.float64)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
        x = torch.randn(64, 32, device="cuda", dtype=torch.float64)
        found = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = of(layer(x)).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    torch.testing.assert_close(losses(function), losses(lambda x: x * x * x))


def test_under_torch_compile_it_is_an_operator():
    @torch.compile(fullgraph=True)
    def compiled(x):
        return cube_op(x.sin() + 1) * 2

    for step in range(STEPS):
        x = torch.linspace(-1, 1, 1000, device="cuda", dtype=torch.float64).add_(step).requires_grad_()
        y = x.detach().clone().requires_grad_()
        compiled(x).sum().backward()
        ((y.sin() + 1) ** 3 * 2).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("function", [Cube.apply, cube_op], ids=["Function", "custom_op"])
def test_a_compiled_training_step_in_a_region_is_as_outside(function):
    compiled = torch.compile(lambda x: function(x.sin() + 1) * 2)

    def gradients(region):
        x = torch.linspace(-1, 1, 1000, device="cuda", dtype=torch.float64).requires_grad_()
        scale = torch.ones(1000, device="cuda", dtype=torch.float64)
        found = []
        with rl.region() if region else torch.enable_grad():
            for _ in range(STEPS):
                x.grad = None
                for _ in range(5):
                    cube[(4,)](scale, scale, 1000, BLOCK=256)
                    (compiled(x) * scale).sum().backward()
                    cube_gradient[(4,)](x, x.grad, scale, 1000, BLOCK=256)
                found.append(x.grad)
        return torch.stack(found)

    torch.manual_seed(0)
    expected = gradients(False)
    for _ in range(3):
        assert torch.equal(gradients(True), expected)


def test_a_captured_training_step_is_replayed():
    x = torch.ones(500, device="cuda", dtype=torch.float64, requires_grad=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(STEPS):
            x.grad = None
            Cube.apply(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    x.grad = None
    with torch.cuda.graph(graph):
        Cube.apply(x).sum().backward()
    for value in (2.0, 3.0, -1.0):
        with torch.no_grad():
            x.fill_(value)
        graph.replay()
        assert torch.equal(x.grad, torch.full_like(x, 3 * value * value))
