"""Triton kernels that this program launches by itself (mode="inline"): beside plain Triton, to the bit."""

import gc
import random
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

SIZE = 1024
REPEATS = 12  # more than a kernel is launched before it gets a graph
DTYPES = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


@triton.jit
def mix(x, a, b, n, BLOCK: tl.constexpr):
    """Every launch counts, and so does their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * a + b, i < n)


@triton.jit
def combine(x, y, out, n, scale, shift, FLIP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left, right = tl.load(x + i, i < n), tl.load(y + i, i < n)
    if FLIP:
        left, right = right, left
    tl.store(out + i, (left - right) * scale + shift, i < n)


@triton.jit
def with_descriptor(x, n, BLOCK: tl.constexpr):
    whole = tl.make_tensor_descriptor(x, [n], [1], [BLOCK])
    at = tl.program_id(0) * BLOCK
    whole.store([at], whole.load([at]) * 2)


def grid_of(n, block):
    return (triton.cdiv(n, block),)


def ints(size=SIZE, seed=0):
    made = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (size,), dtype=torch.int32, device="cuda", generator=made)


def tensor(dtype, size, seed):
    made = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randint(-20, 20, (size,), device="cuda", generator=made).to(dtype)


def graphs(kernel):
    """Launch graphs of the context."""
    return max(variant._core._graphs for variant in kernel.cache)


def mixed(x, numbers):
    """What plain Triton makes of the same launches."""
    out = x.clone()
    for a, b in numbers:
        mix[grid_of(out.numel(), 256)](out, a, b, out.numel(), BLOCK=256)
    return out


def numbers_of(seed, count=REPEATS):
    pick = random.Random(seed)
    return [(pick.randrange(3, 10**6, 2), pick.randrange(2, 10**6)) for _ in range(count)]


def run(kernel, x, numbers):
    for a, b in numbers:
        kernel[grid_of(x.numel(), 256)](x, a, b, x.numel(), BLOCK=256)


def in_threads(works):
    """Runs them side by side; the first exception of one is that of the test."""
    failed = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
        assert not thread.is_alive(), "a thread hangs"
    if failed:
        raise failed[0]


@pytest.fixture
def kernel():
    return rl.wrap(mix, mode="inline")


def test_launches_are_in_order_and_through_a_graph(kernel):
    x, numbers = ints(), numbers_of(1, 200)
    expected = mixed(x, numbers)
    run(kernel, x, numbers)
    assert torch.equal(x, expected)
    assert graphs(kernel) > 0
    assert sum(variant.hits for variant in kernel.cache) > 150


def test_without_a_mode_tensors_mean_inline():
    kernel, x, numbers = rl.wrap(mix), ints(), numbers_of(2)
    expected = mixed(x, numbers)
    run(kernel, x, numbers)
    assert torch.equal(x, expected)
    assert [variant.client for variant in kernel.cache] == [None]


def test_random_signatures_give_what_triton_gives():
    pick = random.Random(7)
    fast = rl.wrap(combine, mode="inline")
    calls = []
    for seed in range(120):
        dtypes = pick.choice(DTYPES), pick.choice(DTYPES), pick.choice(DTYPES)
        n = pick.choice([1, 2, 15, 16, 17, 100, 512, 1000])
        offset = pick.choice([0, 0, 1, 3])
        scale = pick.choice([1, 2, 16, -3, 2**31, 2**40, 2**63 + 5, True, 0.5, 1e300, float("nan")])
        shift = pick.choice([0, 1, -1, 17, 0.25, -(2**35)])
        options = {"num_warps": pick.choice([1, 2, 4])} if pick.random() < 0.5 else {}
        x, y = (tensor(dtype, n + offset, seed)[offset:] for dtype in dtypes[:2])
        calls.append((x, y, dtypes[2], n, scale, shift, pick.random() < 0.5, options))
    for round in range(3):
        for x, y, dtype, n, scale, shift, flip, options in calls:
            outs = []
            for kernel in (combine, fast):
                out = torch.zeros(n, dtype=dtype, device="cuda")
                for _ in range(3):
                    kernel[grid_of(n, 128)](x, y, out, n, scale, shift, FLIP=flip, BLOCK=128, **options)
                outs.append(out)
            assert torch.equal(outs[0].view(torch.int8), outs[1].view(torch.int8)), (round, dtype, n, scale, shift)
        pick.shuffle(calls)


def test_torch_and_launches_take_turns_on_a_stream(kernel):
    pick = random.Random(3)
    steps = [(pick.choice("kkkta"), pick.randrange(3, 999, 2), pick.randrange(2, 999)) for _ in range(400)]

    def all_of(call):
        x = ints(seed=3)
        for what, a, b in steps:
            if what == "k":
                call[grid_of(SIZE, 256)](x, a, b, SIZE, BLOCK=256)
            elif what == "t":
                x.mul_(a).add_(b)
            else:
                x = x.clone()  # another address; the old memory is used again
        return x

    assert torch.equal(all_of(mix), all_of(kernel))


def test_streams_do_not_mix(kernel):
    streams = [torch.cuda.Stream() for _ in range(4)]
    xs, expected = [], []
    for k in range(4):
        xs.append(ints(seed=k))
        expected.append(mixed(xs[-1], numbers_of(k, 50)))
    torch.cuda.synchronize()
    for step in zip(*(numbers_of(k, 50) for k in range(4))):
        for stream, x, numbers in zip(streams, xs, step):
            with torch.cuda.stream(stream):
                run(kernel, x, [numbers])
    torch.cuda.synchronize()
    for x, right in zip(xs, expected):
        assert torch.equal(x, right)
    assert graphs(kernel) >= 4


def test_a_stream_waits_for_another_by_an_event(kernel):
    one, two = torch.cuda.Stream(), torch.cuda.Stream()
    x, numbers = ints(SIZE * 256), numbers_of(5, 60)
    expected = mixed(x, numbers)
    torch.cuda.synchronize()
    for i, each in enumerate(numbers):
        here, other = (one, two) if i % 2 == 0 else (two, one)
        here.wait_stream(other)
        with torch.cuda.stream(here):
            run(kernel, x, [each])
    torch.cuda.synchronize()
    assert torch.equal(x, expected)


def random_program(seed, steps, launch, other):
    """Launches and torch operations on several streams; tensors come, go and change streams. What they hold then."""
    pick = random.Random(seed)
    streams = [*(torch.cuda.Stream() for _ in range(3)), torch.cuda.current_stream()]
    held = {name: [ints(pick.choice([64, 1000, 5000]), seed=name), streams[3]] for name in range(6)}
    for _ in range(steps):
        name = pick.randrange(6)
        x, at = held[name]
        if pick.random() < 0.3:
            to = pick.choice(streams)
            to.wait_stream(at)
            x.record_stream(to)
            at = held[name][1] = to
        a, b, n = pick.randrange(3, 999, 2), pick.randrange(2, 999), x.numel()
        with torch.cuda.stream(at):
            match pick.randrange(8):
                case 0:
                    x.mul_(a).add_(b)
                case 1:
                    held[name][0] = x.clone()
                case 2:
                    held[name][0] = torch.cat([x[n // 2 :], x[: n // 2]])
                case 3:
                    y = x.clone()
                    other[grid_of(n, 128)](x, y.mul_(3), x, n, a, b, FLIP=pick.random() < 0.5, BLOCK=128)
                case _:
                    block = pick.choice([64, 256])
                    launch[grid_of(n, block)](x, a, b, n, BLOCK=block)
    torch.cuda.synchronize()
    return [x for x, _ in held.values()]


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_give_what_triton_gives(seed):
    launch, other = rl.wrap(mix, mode="inline"), rl.wrap(combine, mode="inline")
    for ours, plain in zip(random_program(seed, 1500, launch, other), random_program(seed, 1500, mix, combine)):
        assert torch.equal(ours, plain)
    assert graphs(launch) > 0


def test_random_programs_in_threads_give_what_triton_gives():
    launch, other = rl.wrap(mix, mode="inline"), rl.wrap(combine, mode="inline")
    expected = [random_program(seed, 400, mix, combine) for seed in range(4)]
    found = {}

    def work(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            found[seed] = random_program(seed, 400, launch, other)

    in_threads([lambda seed=seed: work(seed) for seed in range(4)])
    for seed, tensors in enumerate(expected):
        for ours, plain in zip(found[seed], tensors):
            assert torch.equal(ours, plain)


def test_installed_kernels_of_triton_give_what_they_gave():
    expected = random_program(9, 600, mix, combine)
    rl.install()
    try:
        found = random_program(9, 600, mix, combine)
        twin = mix.__dict__["_ringlaunch_twin"]
        launches, variants = sum(variant.hits for variant in twin.cache), len(twin.cache)
    finally:
        rl.uninstall()
    for ours, plain in zip(found, expected):
        assert torch.equal(ours, plain)
    assert launches > 100 and variants > 0


@pytest.mark.parametrize("as_number", [False, True])
def test_a_call_may_name_its_stream(kernel, as_number):
    stream = torch.cuda.Stream()
    x, numbers = ints(), numbers_of(6, 40)
    expected = mixed(x, numbers)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # what is not behind it comes too early
        y = x.clone()
        y.mul_(0).add_(x)
    for a, b in numbers:
        handle = stream.cuda_stream if as_number else stream
        kernel[grid_of(SIZE, 256)](y, a, b, SIZE, BLOCK=256, stream=handle)
    stream.synchronize()
    assert torch.equal(y, expected)
    with pytest.raises(rl.ParamTypeError, match=r"stream: expected a torch\.cuda\.Stream"):
        kernel[(1,)](y, 3, 4, SIZE, BLOCK=256, stream="fast")


def test_threads_have_streams_of_their_own(kernel):
    xs = [ints(seed=k) for k in range(4)]
    expected = [mixed(x, numbers_of(k, 300)) for k, x in enumerate(xs)]
    torch.cuda.synchronize()

    def work(k):
        with torch.cuda.stream(torch.cuda.Stream()):
            run(kernel, xs[k], numbers_of(k, 300))
            torch.cuda.current_stream().synchronize()

    in_threads([lambda k=k: work(k) for k in range(4)])
    for x, right in zip(xs, expected):
        assert torch.equal(x, right)


def test_threads_share_a_stream_and_its_graphs(kernel):
    xs = [ints(seed=k) for k in range(4)]
    expected = [mixed(x, numbers_of(k, 300)) for k, x in enumerate(xs)]
    in_threads([lambda k=k: run(kernel, xs[k], numbers_of(k, 300)) for k in range(4)])
    torch.cuda.synchronize()
    for x, right in zip(xs, expected):
        assert torch.equal(x, right)


@pytest.mark.parametrize("warm", [False, True])
def test_a_capture_takes_launches_as_its_own(kernel, warm):
    numbers = numbers_of(8, 20)
    x = ints(seed=8)
    start = x.clone()
    run(kernel, x, numbers if warm else numbers[:1])
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    x.copy_(start)
    with torch.cuda.graph(graph):
        run(kernel, x, numbers)
    torch.cuda.synchronize()
    assert torch.equal(x, start), "a launch was not captured"
    once = mixed(start, numbers)
    graph.replay()
    assert torch.equal(x, once)
    run(kernel, x, numbers)  # and launches beside it
    graph.replay()
    assert torch.equal(x, mixed(mixed(once, numbers), numbers))


def test_a_capture_by_the_driver_takes_launches_too(kernel):
    cuda = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed: pip install cuda-bindings")
    x, numbers = ints(seed=9), numbers_of(9, 20)
    run(kernel, x, numbers)
    start = x.clone()
    stream = torch.cuda.Stream()
    handle = cuda.CUstream(stream.cuda_stream)
    with torch.cuda.stream(stream):
        run(kernel, x, numbers)
        torch.cuda.synchronize()
        x.copy_(start)
        torch.cuda.synchronize()
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        assert cuda.cuStreamBeginCapture(handle, mode)[0] == 0
        run(kernel, x, numbers)
        error, graph = cuda.cuStreamEndCapture(handle)
        assert error == 0
        torch.cuda.synchronize()
        assert torch.equal(x, start), "a launch was not captured"
        error, _, count = cuda.cuGraphGetNodes(graph)
        assert (error, count) == (0, len(numbers))
        error, executable = cuda.cuGraphInstantiate(graph, 0)
        assert error == 0
        assert cuda.cuGraphLaunch(executable, handle)[0] == 0
        torch.cuda.synchronize()
        assert torch.equal(x, mixed(start, numbers))


def test_a_capture_in_another_thread_is_left_alone():
    """A graph is made while this program captures in the strictest mode."""
    kernel = rl.wrap(mix, mode="inline")
    x, y, numbers = ints(seed=1), ints(seed=2), numbers_of(10, 40)
    expected_x, expected_y = mixed(x, numbers), mixed(y, numbers)
    run(kernel, ints(), numbers[:2])  # loads it
    torch.cuda.synchronize()
    before = graphs(kernel)
    captured, go_on = threading.Event(), threading.Event()
    graph = torch.cuda.CUDAGraph()

    def capture():
        with torch.cuda.graph(graph, capture_error_mode="global"):
            run(kernel, x, numbers[:20])
            captured.set()
            assert go_on.wait(WATCHDOG_S)
            run(kernel, x, numbers[20:])

    def beside():
        try:
            assert captured.wait(WATCHDOG_S)
            with torch.cuda.stream(torch.cuda.Stream()):
                run(kernel, y, numbers)
        finally:
            go_on.set()

    in_threads([capture, beside])
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(x, expected_x)
    assert torch.equal(y, expected_y)
    assert graphs(kernel) > before


def test_backward_runs_on_autograds_thread():
    kernel = rl.wrap(combine, mode="inline")
    threads = set()

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = torch.empty_like(x)
            kernel[grid_of(x.numel(), 128)](x, x, out, x.numel(), 0.0, 2.0, FLIP=False, BLOCK=128)
            return out

        @staticmethod
        def backward(ctx, given):
            threads.add(threading.get_ident())
            out = torch.empty_like(given)
            zero = torch.zeros_like(given)
            kernel[grid_of(given.numel(), 128)](given, zero, out, given.numel(), 2.0, 1.0, FLIP=False, BLOCK=128)
            return out

    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            for step in range(REPEATS):
                x = torch.full((1000,), float(step), device="cuda", requires_grad=True)
                Double.apply(x).backward(torch.full((1000,), 3.0 + step, device="cuda"))
                assert torch.equal(x.grad, torch.full((1000,), 2.0 * (3 + step) + 1, device="cuda"))
    assert threads - {threading.get_ident()}, "autograd has used this thread alone"


def test_freed_memory_is_used_again(kernel):
    numbers = numbers_of(11)
    expected = [mixed(ints(seed=k), numbers) for k in range(30)]
    for k in range(30):
        x = ints(seed=k)
        run(kernel, x, numbers)
        assert torch.equal(x, expected[k])
        del x
        if k % 5 == 4:
            gc.collect()
            torch.cuda.empty_cache()


def test_graphs_stay_within_their_budget():
    kernels = []
    try:
        _core.triton_inline_most(4)
        kernels.extend(rl.wrap(triton.jit(combine.fn), mode="inline") for _ in range(12))
        pick = random.Random(12)
        x, y = ints(seed=1), ints(seed=2)
        for step in range(600):
            # a few are in use at a time, and not always the same
            kernel = kernels[(step // 150 * 3 + pick.randrange(3)) % 12]
            block = pick.choice([64, 128])
            out, right = torch.empty_like(x), (x - y) * step + 5
            kernel[grid_of(SIZE, block)](x, y, out, SIZE, step, 5, FLIP=False, BLOCK=block)
            assert torch.equal(out, right)
            assert max((graphs(each) for each in kernels if len(each.cache)), default=0) <= 4
    finally:
        _core.triton_inline_most(512)


def test_what_goes_takes_its_graphs_along():
    gc.collect()
    kernel, x = rl.wrap(triton.jit(mix.fn), mode="inline"), ints()
    numbers = [(a, b | 1) for a, b in numbers_of(13)]  # of one kind
    run(kernel, x, numbers)
    (variant,) = kernel.cache
    core, before = variant._core, graphs(kernel)
    expected = mixed(x, numbers)
    kernel.cache.evict(variant)
    assert len(kernel.cache) == 0
    run(kernel, x, numbers)
    assert torch.equal(x, expected)
    del core, variant
    gc.collect()
    assert graphs(kernel) <= before


@pytest.mark.parametrize("options", [{"num_ctas": 2}, {"launch_cooperative_grid": True}, {"launch_pdl": True}], ids=str)
def test_launch_attributes(options):
    kernel, x = rl.wrap(triton.jit(mix.fn), mode="inline"), ints(4096)
    numbers = [(a, b | 1) for a, b in numbers_of(14, 40)]  # of one kind
    expected = x.clone()
    for a, b in numbers:
        mix[(4,)](expected, a, b, 4096, BLOCK=1024, **options)
    for a, b in numbers:
        kernel[(4,)](x, a, b, 4096, BLOCK=1024, **options)
    assert torch.equal(x, expected)
    (variant,) = kernel.cache
    assert variant.hits == len(numbers) and kernel._slow_calls == 1


def test_a_grid_may_change_at_every_launch(kernel):
    x = ints(SIZE * 8)
    expected = x.clone()
    for step in range(60):
        n = 256 * (1 + step % 32)
        mix[grid_of(n, 256)](expected, 3, step, n, BLOCK=256)
        kernel[lambda meta: grid_of(meta["n"], meta["BLOCK"])](x, 3, step, n, BLOCK=256)
    assert torch.equal(x, expected)


def test_scratch_memory_comes_from_tritons_allocator():
    kernel = rl.wrap(triton.jit(with_descriptor.fn), mode="inline")
    asked = []

    def allocate(size, alignment, stream):
        asked.append((size, stream))
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)
    x = torch.arange(1024, dtype=torch.int32, device="cuda")
    for step in range(1, REPEATS):
        before = len(asked)
        kernel[(4,)](x, 1024, BLOCK=256)
        assert torch.equal(x, torch.arange(1024, dtype=torch.int32, device="cuda") * 2**step)
        assert len(asked) == before + 1
    assert len(set(asked)) == 1


def test_hooks_see_every_launch(kernel):
    x, seen = ints(), []
    expected = mixed(x, numbers_of(15) * 2)
    run(kernel, x, numbers_of(15))
    kernel.add_pre_run_hook(lambda *args, **kwargs: seen.append("pre"))
    hook = triton.knobs.runtime.launch_enter_hook
    try:
        if hasattr(hook, "add"):
            enter = lambda metadata: seen.append(metadata.get()["name"])  # noqa: E731
            hook.add(enter)
        run(kernel, x, numbers_of(15))
    finally:
        kernel.pre_run_hooks.clear()
        if hasattr(hook, "add"):
            hook.remove(enter)
    assert torch.equal(x, expected)
    assert seen.count("pre") == REPEATS
    assert seen.count("mix") == (REPEATS if hasattr(hook, "add") else 0)


def test_what_triton_refuses_is_refused():
    kernel = rl.wrap(mix, mode="inline")
    run(kernel, ints(), numbers_of(16))
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be accessed from Triton"):
            kernel[(1,)](torch.zeros(16, dtype=torch.int32), 3, 4, 16, BLOCK=256)
        with pytest.raises(TypeError):
            kernel[(1,)](ints(), object(), 4, 16, BLOCK=256)


def test_what_the_call_path_does_not_know_is_tritons_own_call(kernel):
    class One(int):
        pass

    x, numbers = ints(), numbers_of(20)
    expected = mixed(x, numbers)
    expected = mixed(expected, [(3, 1)] * len(numbers))
    run(kernel, x, numbers)
    before = kernel._slow_calls
    run(kernel, x, [(3, One(1))] * len(numbers))
    assert torch.equal(x, expected)
    assert kernel._slow_calls == before + len(numbers)


def test_a_buffer_of_a_daemon_is_refused(tmp_path):
    one, two = rl.wrap(mix, mode="inline"), rl.wrap(combine, mode="inline")
    with rl.connect(str(tmp_path / "daemon.sock"), driver="null") as client:
        buffer = client.zeros(16, "int32")
        for x in (buffer, ints(16)):
            with pytest.raises(rl.ParamTypeError, match="expected a tensor of this program"):
                one[(1,)](buffer, 3, 4, 16, BLOCK=256)
            with pytest.raises(rl.ParamTypeError, match="expected a tensor of this program"):
                two[(1,)](x, buffer, x, 3, 4, 16, FLIP=True, BLOCK=256)


def test_a_launch_that_the_device_refuses_is_an_error_and_no_more(kernel):
    x, numbers = ints(), numbers_of(17)
    expected = mixed(x, numbers * 2)
    run(kernel, x, numbers)
    for _ in range(3):
        with pytest.raises(rl.DriverError, match=r"launching kernel 'mix'.*CUDA_ERROR_INVALID_VALUE"):
            kernel[(1, 1, 70000)](x, 3, 4, SIZE, BLOCK=256)
    run(kernel, x, numbers)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("grid", [(0,), (4, 0), (65536, 65536), (2**30, 4), (65536, 32768)], ids=str)
def test_grids_that_triton_takes_for_empty_launch_nothing(kernel, grid):
    x = ints()
    kernel[grid](x, 3, 7, SIZE, BLOCK=256)  # Triton's own call
    run(kernel, x, [(3, 5)] * REPEATS)
    before = x.clone()
    for _ in range(REPEATS):
        kernel[grid](x, 3, 5, SIZE, BLOCK=256)
    assert torch.equal(x, before)


def test_tuned_kernels_are_tuned_as_by_triton():
    tuned = triton.autotune([triton.Config({"BLOCK": b}) for b in (64, 256)], key=["n"], reset_to_zero=None)(mix)
    plain = triton.autotune([triton.Config({"BLOCK": b}) for b in (64, 256)], key=["n"], restore_value=["x"])(mix)
    plain_inline = rl.wrap(plain, mode="inline")
    x, numbers = ints(), numbers_of(18)
    expected = mixed(x, numbers)
    for a, b in numbers:
        plain_inline[lambda meta: grid_of(meta["n"], meta["BLOCK"])](x, a, b, SIZE)
    assert torch.equal(x, expected)
    assert rl.wrap(tuned, mode="inline").fn.cache is not None
    heuristics = rl.wrap(triton.heuristics({"BLOCK": lambda args: 128})(mix), mode="inline")
    expected = mixed(x, numbers)
    for a, b in numbers:
        heuristics[lambda meta: grid_of(meta["n"], meta["BLOCK"])](x, a, b, SIZE)
    assert torch.equal(x, expected)


def test_another_device_has_kernels_of_its_own(kernel):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs: torch sees {torch.cuda.device_count()}")
    numbers = numbers_of(19)
    for device in (0, 1, 0, 1):
        with torch.cuda.device(device):
            x = ints(seed=device)
            expected = mixed(x, numbers)
            run(kernel, x, numbers)
            assert torch.equal(x, expected)
    assert len(kernel.cache) == 2


def test_the_cache_tells_what_was_compiled(kernel):
    x = ints()
    compiled = kernel[(4,)](x, 3, 4, SIZE, BLOCK=256)
    assert kernel[(4,)](x, 3, 4, SIZE, BLOCK=256) is compiled
    variant = kernel.cache.find(x, 3, 4, SIZE, BLOCK=256)
    assert variant.compiled is compiled and variant.client is None and variant.hits == 2
    assert variant.registers > 0 and variant.size > 0 and variant.signature["x"] == "*i32"
    assert kernel.cache.find(x, 3, 4, SIZE, BLOCK=32) is None


@triton.jit
def double_described(source, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Through descriptors of the program's."""
    r, c = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    block = source.load([r, c])
    out.store([r, c], block + block)


@triton.jit
def of_one_side(source, out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), source.load([tl.program_id(0)]))


def descriptors_of(tensor, block, **options):
    descriptor = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor
    return descriptor.from_tensor(tensor, block, **options)


needs_tma = pytest.mark.skipif(torch.cuda.get_device_capability()[0] < 9, reason="tensor maps need sm_90 or later")


@needs_tma
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int32])
@pytest.mark.parametrize("padding", ["zero", "nan"])
def test_descriptors_of_the_program_are_taken_the_quick_way(dtype, padding):
    if padding == "nan" and not dtype.is_floating_point:
        pytest.skip("nan is a floating number")
    fast = rl.wrap(double_described, mode="inline")
    for kernel in (double_described, fast):
        made = torch.Generator(device="cuda").manual_seed(5)
        outs = []
        for step in range(12):
            rows, columns = (64, 96) if step % 2 else (50, 80)  # no whole blocks: what is outside counts
            source = torch.randint(-9, 9, (rows, columns), device="cuda", generator=made).to(dtype)
            if step % 3 == 0:  # a part of a larger tensor
                source = torch.nn.functional.pad(source, (0, 64))[:, :columns]
            out = torch.zeros(rows, columns, dtype=dtype, device="cuda")
            given = [descriptors_of(each, [32, 32], padding=padding) for each in (source, out)]
            for _ in range(2):
                kernel[(triton.cdiv(rows, 32), triton.cdiv(columns, 32))](*given, rows, columns, ROWS=32, COLUMNS=32)
            assert torch.equal(out, source + source), (step, kernel)
            outs.append(out)
        torch.cuda.synchronize()
    assert fast._slow_calls <= 2, "whether rows and columns are multiples of 16 is all that differs"


@needs_tma
def test_a_descriptor_that_changes_is_read_anew():
    fast = rl.wrap(of_one_side, mode="inline")
    tensors = [torch.arange(64, dtype=torch.float32, device="cuda") + 100 * i for i in range(20)]
    described = descriptors_of(tensors[0], [16])
    out = torch.zeros(16, device="cuda")
    for _ in range(3):
        for tensor in tensors:  # more than maps are kept
            described.base = tensor
            fast[(1,)](described, out, N=16)
            assert torch.equal(out, tensor[:16])
    described.shape = [8]
    fast[(1,)](described, out, N=16)
    assert torch.equal(out[:8], tensors[-1][:8]) and not out[8:].any()
    slow = fast._slow_calls
    described.block_shape = [32]  # another kernel
    out = torch.zeros(32, device="cuda")
    fast[(1,)](described, out, N=32)
    assert torch.equal(out[:8], tensors[-1][:8]) and fast._slow_calls == slow + 1
    assert slow == 1


@needs_tma
def test_descriptors_in_a_region_have_the_tensors_of_their_calls():
    fast = rl.wrap(of_one_side, mode="inline")
    bases = [torch.full((64,), float(i), device="cuda") for i in range(200)]
    outs = [torch.zeros(16, device="cuda") for _ in bases]
    described = descriptors_of(bases[0], [16])
    fast[(1,)](described, outs[0], N=16)
    with rl.region():
        for out in outs:
            described.base = bases.pop(0)  # of which nobody else knows, from the next on
            fast[(1,)](described, out, N=16)
    assert [float(out.min()) for out in outs] == [float(out.max()) for out in outs] == [float(i) for i in range(200)]


@needs_tma
def test_a_descriptor_of_host_memory_is_triton_s_to_judge():
    fast = rl.wrap(of_one_side, mode="inline")
    out = torch.zeros(16, device="cuda")
    pinned = torch.arange(64, dtype=torch.float32).pin_memory()
    for _ in range(3):
        fast[(1,)](descriptors_of(pinned, [16]), out, N=16)
        assert torch.equal(out.cpu(), pinned[:16])
