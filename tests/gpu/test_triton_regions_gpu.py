"""Regions beside torch on a GPU: what a program does in one besides launching is right."""

import threading

import pytest
from gpu_support import WATCHDOG_S

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU here", allow_module_level=True)

from ringlaunch import _core  # noqa: E402

SIZE = 1000


@triton.jit
def add_to(x, by, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) + by, i < n)


@triton.jit
def times(x, y, by, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) * by, i < n)


@triton.jit
def spin(x, rounds, BLOCK: tl.constexpr):
    """Holds its stream up for a while."""
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    for _ in range(rounds):
        value = value * 1664525 + 1013904223
    tl.store(x + i, value)


@pytest.fixture
def add():
    return rl.wrap(add_to, mode="inline")


def zeros():
    return torch.zeros(SIZE, dtype=torch.int32, device="cuda")


def launch(kernel, x, by=1, count=1):
    for _ in range(count):
        kernel[(triton.cdiv(SIZE, 256),)](x, by, SIZE, BLOCK=256)


def handed_over():
    return _core.triton_region_counts()[1]


def test_launches_go_through_the_ring(add):
    x = zeros()
    launch(add, x)
    before = handed_over()
    with rl.region():
        launch(add, x, count=3000)
    assert handed_over() == before + 3000
    assert (x == 3001).all()


def test_what_follows_a_region_is_behind_it_and_what_precedes_it_before(add):
    x, busy = zeros(), torch.ones(256, dtype=torch.int32, device="cuda")
    launch(add, x)
    for i in range(20):
        spin[(1,)](busy, 100_000, BLOCK=256)
        x.fill_(i)
        with rl.region():
            launch(add, x, count=10)
        y = x + 1
        assert (y == i + 11).all()


def test_each_operation_sees_the_launches_before_it(add):
    x = zeros()
    with rl.region():
        for i in range(1, 60):
            launch(add, x, count=i)
            assert x[7].item() == i
            x.zero_()


def test_functions_that_are_no_operations(add):
    x, side = zeros(), torch.cuda.Stream()
    pinned = torch.empty(SIZE, dtype=torch.int32, pin_memory=True)
    main = torch.cuda.current_stream()
    with rl.region():
        for i in range(40):
            launch(add, x, count=5)
            event = torch.cuda.Event()
            event.record()
            with torch.cuda.stream(side):
                side.wait_event(event)
                pinned.copy_(x, non_blocking=True)
            side.synchronize()
            assert (pinned == 5 * (i + 1)).all()
            main.wait_stream(side)
    with rl.region():
        launch(add, x, count=100)
        event = main.record_event()
        launch(add, x, count=100)
        event.synchronize()
        torch.cuda.synchronize()
        assert main.query()
        torch.cuda.empty_cache()
    assert (x == 400).all()


def test_backward_on_autograds_thread():
    kernel = rl.wrap(times, mode="inline")

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, by):
            ctx.by = by
            y = torch.empty_like(x)
            kernel[(triton.cdiv(x.numel(), 256),)](x, y, by, x.numel(), BLOCK=256)
            return y

        @staticmethod
        def backward(ctx, grad):
            out = torch.empty_like(grad)
            kernel[(triton.cdiv(grad.numel(), 256),)](grad.contiguous(), out, ctx.by, grad.numel(), BLOCK=256)
            return out, None

    def run(region):
        x = torch.arange(SIZE, dtype=torch.float32, device="cuda", requires_grad=True)
        with rl.region() if region else torch.enable_grad():
            for i in range(10):
                y = Scaled.apply(Scaled.apply(x, 2.0) + i, 3.0)
                (y * y).sum().backward()
        return x.grad

    expected = run(False)
    assert torch.equal(run(True), expected)
    assert torch.equal(run(True), expected)


def test_compiled_functions(add):
    x = zeros()
    compiled = torch.compile(lambda t: t * 2 + 1)
    expected = compiled(zeros() + 5)
    with rl.region():
        for _ in range(10):
            launch(add, x, count=5)
            assert torch.equal(compiled(x), expected)
            x.zero_()


def test_kernels_that_go_tritons_way(add):
    x = zeros()
    add_to[(4,)](x, 0, SIZE, BLOCK=256)
    with rl.region():
        for _ in range(50):
            launch(add, x, 3)
            add_to[(4,)](x, 4, SIZE, BLOCK=256)
            spin[(1,)](x[-256:], 0, BLOCK=256)
    assert (x == 350).all()


def test_a_capture_within_a_region_and_around_one(add):
    x, y = zeros(), zeros()
    launch(add, x)
    graph = torch.cuda.CUDAGraph()
    with rl.region():
        launch(add, x, count=9)
        with torch.cuda.graph(graph):
            launch(add, x, 10, count=3)
        launch(add, x)
        assert x[0].item() == 11
        graph.replay()
        launch(add, x)
        graph.replay()
    assert (x == 72).all()
    around = torch.cuda.CUDAGraph()
    before = handed_over()
    with torch.cuda.graph(around), rl.region():
        launch(add, y, count=7)
    assert handed_over() == before
    assert (y == 0).all()
    around.replay()
    assert (y == 7).all()


def test_a_capture_by_another_thread_meanwhile(add):
    x, failed, stop = zeros(), [], threading.Event()
    launch(add, x)

    def capture():
        try:
            y = torch.zeros(SIZE, device="cuda")
            while not stop.is_set():
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                    y.add_(1)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=capture, daemon=True)
    thread.start()
    for _ in range(30):
        with rl.region():
            launch(add, x, count=200)
    stop.set()
    thread.join(WATCHDOG_S)
    assert not thread.is_alive() and not failed, failed
    assert (x == 6001).all()


def test_a_launch_that_cuda_refuses(add):
    x = zeros()
    launch(add, x)

    def run():
        with rl.region():
            launch(add, x, count=5)
            add[(1, 70_000)](x, 1, SIZE, BLOCK=256)
            launch(add, x, count=5)

    with pytest.raises(rl.DriverError, match=r"kernel 'add_to' with a grid of \(1, 70000, 1\): CUDA_ERROR_INVALID"):
        run()
    assert (x == 6).all()
    with rl.region():
        launch(add, x)
    assert (x == 7).all()


def test_memory_is_kept_until_its_launches_are_issued(add):
    """And given back then: other threads allocate on the same stream."""
    x, failed, stop = zeros(), [], threading.Event()
    launch(add, x)

    def scribble():
        try:
            while not stop.is_set():
                torch.full((SIZE,), -1, dtype=torch.int32, device="cuda")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=scribble, daemon=True)
    thread.start()
    kernel = rl.wrap(times, mode="inline")
    kernel[(4,)](x, x, 1, SIZE, BLOCK=256)
    out = [zeros() for _ in range(40)]
    for _ in range(20):
        given = [torch.full((SIZE,), i, dtype=torch.int32, device="cuda") for i in range(40)]
        with rl.region():
            for y in out:
                kernel[(4,)](given.pop(0), y, 3, SIZE, BLOCK=256)
        for i, y in enumerate(out):
            assert (y == 3 * i).all()
    stop.set()
    thread.join(WATCHDOG_S)
    assert not thread.is_alive() and not failed, failed
    torch.cuda.synchronize()
    used = torch.cuda.memory_allocated()
    with rl.region():
        for _ in range(200):
            launch(add, torch.empty(1 << 20, dtype=torch.int32, device="cuda"))
    assert torch.cuda.memory_allocated() <= used


def test_streams_within_a_region(add):
    streams = [torch.cuda.Stream() for _ in range(3)]
    tensors = [zeros() for _ in streams]
    torch.cuda.synchronize()
    with rl.region():
        for i in range(300):
            with torch.cuda.stream(streams[i % 7 % 3]):
                launch(add, tensors[i % 7 % 3])
        for _ in range(30):
            add[(4,)](tensors[0], 1, SIZE, BLOCK=256, stream=streams[0])
    torch.cuda.synchronize()
    assert [int(x[0]) for x in tensors] == [sum(i % 7 % 3 == k for i in range(300)) + 30 * (k == 0) for k in range(3)]
