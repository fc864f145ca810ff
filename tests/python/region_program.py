"""What test_triton_region.py runs, each function in a process of its own: regions over a libcuda that runs nothing and
lists what it was given. Each checks by itself and prints its name last."""

import contextlib
import gc
import os
import sys
import threading
import time
import weakref

from stub_kernels import ready, second, with_a_name_of_its_own, wrapped
from stub_program import NoTorch, Tensor, entries, error_of, numbers, stub, x

import ringlaunch as rl
from ringlaunch import _core


def handed_over():
    return _core.triton_region_counts()[1]


def is_eventually(check):
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end, "never"
        time.sleep(0.001)


# ---- scenarios


def order():
    """Of two kernels, with chains, from the first launch on; the same as without a region, but for the graphs."""
    one, other = wrapped(), wrapped(second)

    def run():
        for i in range(2000):
            kernel = other if i % 5 == 2 else one
            kernel[(i % 9 + 1,)](x, i, 7 * i)

    run()
    plain = entries()
    before = stub.stub_count()
    with rl.region():
        run()
    ours = entries(before)
    assert len(ours) == 2000
    for a, b in zip(plain, ours, strict=True):
        assert (a.function, a.stream, a.grid, list(a.words)) == (b.function, b.stream, b.grid, list(b.words))
    assert max(entry.nodes for entry in ours) > 8
    assert handed_over() == 2000


def flush():
    kernel = wrapped()
    before = ready(kernel)
    with rl.region() as region:
        for i in range(50):
            for j in range(i):
                kernel[(1,)](x, j, i)
            region.flush()
            before += i
            assert stub.stub_count() == before


def new_kinds():
    """A first call of its kind is Triton's: behind what the ring holds."""
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        for i in range(30):
            kernel[(1,)](x, i, i)
        kernel[(1,)](Tensor(4100), 30, 30)  # of no alignment: compiled anew
        for i in range(31, 60):
            kernel[(1,)](Tensor(4100), i, i)
    assert numbers(before) == list(range(60))


def lives():
    """What a launch was given lives until it is issued, and no longer than the region."""
    kernel = wrapped()
    before = ready(kernel)
    with rl.region() as region:
        stub.stub_hold(1)
        given = [Tensor(4096 * i) for i in range(1, 31)]
        for each in given:
            kernel[(1,)](each, each.address, 0)
        alive = [weakref.ref(each) for each in given]
        del given, each
        gc.collect()
        assert all(ref() is not None for ref in alive)
        assert stub.stub_count() == before
        stub.stub_hold(0)
        region.flush()
        assert not any(ref() is not None for ref in alive)
        for _ in range(5000):
            kernel[(1,)](Tensor(), 1, 2)  # are let go of as it goes on
        assert _core.triton_region_counts()[2] < 4096
    assert len(numbers(before)) == 5030
    assert _core.triton_region_counts()[2] == 0


def full():
    """A ring that is full is waited for, without the interpreter lock."""
    kernel = wrapped()
    before = ready(kernel)
    stub.stub_hold(1)
    threading.Timer(0.3, stub.stub_hold, (0,)).start()
    with rl.region():
        for i in range(20000):
            kernel[(1,)](x, i, i)
    assert numbers(before) == list(range(20000))


def failures():
    kernel = wrapped()
    before = ready(kernel)
    stub.stub_refuse(20)

    def in_region(*numbers, error=None):
        with rl.region():
            stub.stub_hold(1)
            for i in numbers:
                kernel[(1,)](x, i, 0)
            stub.stub_hold(0)
            if error is not None:
                raise error

    text = str(error_of(rl.DriverError, lambda: in_region(*range(30))))
    assert "kernel 'first'" in text and "CUDA_ERROR_INVALID_VALUE" in text and "9 were not made either" in text, text
    assert numbers(before) == list(range(20))
    # The error of the body stays visible.
    error = error_of(rl.DriverError, lambda: in_region(20, error=ValueError("of the body")))
    assert isinstance(error.__context__, ValueError)

    def told_before_leaving():
        with rl.region():
            for _ in range(10**6):
                kernel[(1,)](x, 20, 0)
            raise AssertionError("no error")

    error_of(rl.DriverError, told_before_leaving)
    stub.stub_refuse(0)
    before = stub.stub_count()
    in_region(20)
    assert numbers(before) == [20]
    # What the body launched before its error is launched.
    error_of(ValueError, lambda: in_region(21, error=ValueError("of the body")))
    assert numbers(before) == [20, 21]


def failures_of_what_is_gone():
    """The error names its kernel, whose launch was let go of, with the last that held it, before anybody was told."""
    gone, kernel = wrapped(with_a_name_of_its_own), wrapped()
    ready(gone)
    ready(kernel)
    stub.stub_refuse(20)
    kept = [weakref.ref(variant.compiled) for variant in gone.cache]

    def in_region():
        with rl.region():
            stub.stub_hold(1)
            gone[(1,)](x, 20, 0)
            gone.cache.clear()
            gone.device_caches.clear()
            threading.Timer(0.3, stub.stub_hold, (0,)).start()
            for i in range(20000):  # more than the ring holds
                kernel[(1,)](x, i, i)

    text = str(error_of(rl.DriverError, in_region))
    assert "kernel 'with_a_name_of_its_own'" in text and "CUDA_ERROR_INVALID_VALUE" in text, text
    assert not [each for each in kept if each() is not None]


def nested():
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        kernel[(1,)](x, 0, 0)
        with rl.region():
            kernel[(1,)](x, 1, 0)
        assert numbers(before) == [0, 1]
        kernel[(1,)](x, 2, 0)
        assert _core.triton_region_counts()[0] == 1
    assert numbers(before) == [0, 1, 2]
    assert handed_over() == 3
    again = rl.region()
    with again:
        pass
    assert "entered before" in str(error_of(rl.InvalidArgument, again.__enter__))


def threads():
    """Another thread's region meanwhile is none, and its launches come behind what the ring holds."""
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        kernel[(1,)](x, 0, 0)
        handed = handed_over()

        def work():
            with rl.region():
                for i in range(1, 20):
                    kernel[(1,)](x, i, 0)
            kernel[(1,)](x, 20, 0)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        assert handed_over() == handed
        kernel[(1,)](x, 21, 0)
    assert numbers(before) == list(range(22))
    # The next one has it.
    thread = threading.Thread(target=work)
    handed = handed_over()
    thread.start()
    thread.join(20)
    assert handed_over() == handed + 19


def many_threads():
    kernel = wrapped()
    before = ready(kernel)

    def work(number):
        for round in range(30):
            with rl.region():
                for i in range(20):
                    kernel[(1,)](x, number * 10**6 + round * 20 + i, 0)

    work_threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in work_threads:
        thread.start()
    for thread in work_threads:
        thread.join(30)
        assert not thread.is_alive()
    found = numbers(before)
    for i in range(4):
        mine = [number % 10**6 for number in found if number // 10**6 == i]
        assert mine == list(range(600)), i


def generators():
    """A region that a generator keeps open belongs to its thread; one that is left elsewhere is told of."""
    kernel = wrapped()
    before = ready(kernel)

    def launches(begin):
        with rl.region():
            for i in range(begin, begin + 3):
                kernel[(1,)](x, i, 0)
                yield

    one, other = launches(0), launches(100)
    for _ in zip(one, other, strict=True):
        kernel[(1,)](x, 7, 0)
    assert numbers(before) == [0, 100, 7, 1, 101, 7, 2, 102, 7]
    assert _core.triton_region_counts()[0] == 0
    left = launches(200)
    next(left)
    errors = []

    def close():
        try:
            left.close()
        except rl.InvalidArgument as error:
            errors.append(str(error))

    thread = threading.Thread(target=close)
    thread.start()
    thread.join(20)
    assert errors and "another thread" in errors[0]
    assert numbers(before)[-1] == 200
    assert _core.triton_region_counts()[0] == 0
    with rl.region():
        kernel[(1,)](x, 5, 0)
    assert numbers(before)[-1] == 5


def captured():
    """A stream that is being captured gets its launches from the thread that makes them, plainly."""
    kernel = wrapped()
    before = ready(kernel)
    stub.stub_capture(1)
    with rl.region() as region:
        for i in range(20):
            kernel[(1,)](x, i, 0)
            assert numbers(before) == list(range(i + 1))
        assert handed_over() == 0
        region.flush()
        stub.stub_capture(0)
        region.flush()
        kernel[(1,)](x, 20, 0)
        assert handed_over() == 1
    assert numbers(before) == list(range(21))
    assert all(entry.nodes == 1 for entry in entries(before))


def streams():
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        for i in range(400):
            kernel[(1,)](x, i, 0, stream=0 if i % 40 < 30 else i % 3 * 64)
    found = entries(before)
    assert [entry.words[1] for entry in found] == list(range(400))
    assert [entry.stream for entry in found] == [0 if i % 40 < 30 else i % 3 * 64 for i in range(400)]
    with rl.region():  # more than keep their graphs
        for i in range(100):
            for _ in range(10):
                kernel[(1,)](x, i, 0, stream=1024 * i)
    assert numbers(before + 400) == [i for i in range(100) for _ in range(10)]


def evicted():
    """What is kept to launch a kernel goes with it."""
    with rl.region() as region:
        for round in range(4):
            kernel = wrapped()
            for i in range(200):
                kernel[(1,)](x, i, round)
            region.flush()
            assert stub.stub_graphs() > 0
            kernel.cache.clear()
            region.flush()
            gc.collect()
            assert stub.stub_graphs() == 0, stub.stub_graphs()


def hooked():
    """What runs when a launch's arguments are let go of may launch, and leave."""
    kernel = wrapped()
    before = ready(kernel)

    class Launching(Tensor):
        def __del__(self):
            kernel[(1,)](x, 2, 0)

    class Leaving(Tensor):
        def __del__(self):
            inner.__exit__(None, None, None)

    with rl.region():
        kernel[(1,)](Launching(), 1, 0)
    assert sorted(numbers(before)) == [1, 2]
    outer, inner = rl.region(), rl.region()
    outer.__enter__()
    inner.__enter__()
    kernel[(1,)](Leaving(), 3, 0)
    outer.__exit__(None, None, None)
    assert _core.triton_region_counts()[0] == 0
    assert numbers(before)[-1] == 3


def forked():
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        for i in range(10):
            kernel[(1,)](x, i, 0)
        child = os.fork()
        if child == 0:
            try:
                issued = stub.stub_count()
                kernel[(1,)](x, 100, 0)
                assert stub.stub_count() == issued + 1 and handed_over() == 0
                with rl.region():
                    kernel[(1,)](x, 101, 0)
                assert numbers()[-2:] == [100, 101]
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        kernel[(1,)](x, 10, 0)
    assert numbers(before) == list(range(11))


def exits():
    """The interpreter ends in a region, with another thread in it."""
    kernel = wrapped()
    ready(kernel)
    begun = threading.Event()

    def work():
        with rl.region():
            while True:
                kernel[(1,)](x, 1, 0)
                begun.set()

    threading.Thread(target=work, daemon=True).start()
    begun.wait(20)


def exits_within():
    kernel = wrapped()
    ready(kernel)
    import atexit

    atexit.register(print, "exits_within")
    region = rl.region()
    region.__enter__()
    kernel[(1,)](x, 1, 0)
    sys.exit(0)


def sleeps():
    """Nothing spins outside of a region, nor for long in one."""
    kernel = wrapped()
    before = ready(kernel)

    def state():
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/stat") as file:
                text = file.read()
            if "(ringlaunch)" in text:
                return text.rpartition(")")[2].split()[0]
        return None

    assert state() is None
    with rl.region():
        kernel[(1,)](x, 0, 0)
        is_eventually(lambda: numbers(before) == [0])  # by itself
        is_eventually(lambda: state() == "S")
        kernel[(1,)](x, 1, 0)
        is_eventually(lambda: numbers(before) == [0, 1])
    is_eventually(lambda: state() == "S")


def imported_torch():
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, NoTorch)]
    import torch

    return torch


def assert_behind_launches(kernel, act):
    """To be called in a region: what is launched before is issued when the act returns."""
    before = stub.stub_count()
    stub.stub_hold(1)
    for i in range(40):
        kernel[(1,)](x, i, 0)
    assert stub.stub_count() == before
    release = threading.Timer(0.05, stub.stub_hold, (0,))
    release.start()
    act()
    assert stub.stub_count() == before + 40, act
    release.join()


def operations_of_torch():
    """Each first waits until what is before it is issued, on whatever thread autograd runs it."""
    kernel = wrapped()
    ready(kernel)
    torch = imported_torch()
    from torch.cuda import synchronize as early

    torch.cuda._lazy_init = lambda: None  # that there is no GPU is said by what it calls
    torch.cuda.device = contextlib.nullcontext
    seen = []

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value * 2

        @staticmethod
        def backward(ctx, grad):
            seen.append(threading.get_ident())
            return grad * 2

    def fails_after(function, *arguments):
        error_of(Exception, lambda: function(*arguments))

    with rl.region():
        value = torch.ones(4, requires_grad=True)
    assert "torch._dynamo" not in sys.modules  # which takes seconds
    compiled = torch.compile(lambda t: t * 3 + 1, backend="eager")
    compiled(value)
    storage = torch.ones(8).untyped_storage()
    pair = [torch.ones(1), torch.zeros(1)]
    acts = [
        lambda: value + 1,
        lambda: value.detach(),
        lambda: value.sum().item(),
        lambda: torch.empty(3),
        lambda: print(value),
        lambda: repr(value),
        lambda: f"{value}",
        lambda: fails_after(early),
        lambda: fails_after(torch.cuda.synchronize),
        lambda: fails_after(torch._C._cuda_emptyCache, 1, 2),
        lambda: fails_after(torch._C._accelerator_synchronizeDevice, "none"),
        lambda: torch.utils.swap_tensors(*pair),
        lambda: Doubled.apply(value).sum().backward(),
        lambda: compiled(value),
        lambda: storage.resize_(16),
        lambda: torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)),
        lambda: fails_after(torch.cuda.CUDAGraph.capture_begin, None),
        lambda: fails_after(torch.cuda.CUDAGraph.capture_end, None),
        lambda: fails_after(torch.cuda.CUDAGraph.instantiate, None),
        lambda: fails_after(torch.cuda.CUDAGraph.replay, None),
        lambda: fails_after(torch.cuda.CUDAGraph.reset, None),
    ]
    with rl.region():
        for act in acts:
            assert_behind_launches(kernel, act)
    assert seen
    assert torch.cuda.Event.record._ringlaunch_first
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def launches_in_operations_of_torch():
    """Nothing guards what an operation does within: what it launches is launched by itself."""
    kernel = wrapped()
    before = ready(kernel)
    torch = imported_torch()

    def launched(begin):
        for i in range(begin, begin + 20):
            kernel[(1,)](x, i, 0)
            assert numbers(before) == list(range(i + 1))

    @torch.library.custom_op("ringlaunch_test::launching", mutates_args=())
    def launching(t: torch.Tensor) -> torch.Tensor:
        launched(20)
        return t + 1

    class Launching(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            launched(60)
            return torch.ones(1)

    class WithBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value * 2

        @staticmethod
        def backward(ctx, grad):
            launched(100)
            return grad * 2

    def failing(t: torch.Tensor) -> torch.Tensor:
        raise ValueError

    failing = torch.library.custom_op("ringlaunch_test::failing", failing, mutates_args=())
    subclassed = torch.Tensor._make_subclass(Launching, torch.ones(3))
    with rl.region() as region:
        handed = handed_over()
        for i in range(20):
            kernel[(1,)](x, i, 0)
        launching(torch.ones(3))
        for i in range(40, 60):
            kernel[(1,)](x, i, 0)
        torch.add(subclassed, 1)
        assert handed_over() == handed + 40
        error_of(ValueError, lambda: failing(torch.ones(3)))
        for i in range(80, 100):
            kernel[(1,)](x, i, 0)
        WithBackward.apply(torch.ones(3, requires_grad=True)).sum().backward()
        assert handed_over() == handed + 60
        region.flush()
    assert numbers(before) == list(range(120))


def assert_graphs_of_inductor_are_behind(kernel):
    with rl.region():
        from torch._inductor.output_code import CompiledFxGraph

        graph = object.__new__(CompiledFxGraph)
        assert_behind_launches(kernel, lambda: error_of(AttributeError, lambda: graph([])))


def compiled_functions_of_torch():
    """They run compiled, forward and backward, and behind what the ring holds, though modes are disabled there."""
    kernel = wrapped()
    ready(kernel)
    torch = imported_torch()
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch.utils._python_dispatch import _disable_current_modes

    seen = []

    def compiler(graph, _):
        def run(*args):
            seen.append(stub.stub_count())
            with _disable_current_modes():
                return graph(*args)

        return make_boxed_func(run)

    def plain(graph, _):
        def run(*args):
            seen.append(stub.stub_count())
            return graph(*args)

        return run

    def cleared(t):
        torch.cuda.empty_cache()
        return t + 1

    def cleared_in_graph(t):
        torch._C._cuda_emptyCache()
        return t + 1

    value = torch.ones(4, requires_grad=True)
    grad = torch.ones(4)
    with_backward = torch.compile(lambda t: (t * t).sin(), backend=aot_autograd(fw_compiler=compiler))
    with_backward(value).sum().backward()
    outputs = [with_backward(value) for _ in range(3)]
    several = [
        torch.compile(lambda t: t * 2 + 1, backend=plain),
        torch.compile(lambda t: t * 3 + 1, backend=plain, fullgraph=True),
    ]
    for function in several:
        function(grad)
    assert torch.equal(torch.compile(cleared, backend="eager", fullgraph=True)(grad), grad + 1)
    conditional = [lambda: torch.cond(torch.tensor(True), lambda t: t + 1, lambda t: t - 1, (grad,))]
    expected = [act() for act in conditional]

    with rl.region():
        for act in (
            lambda: torch.autograd.backward(outputs[0], grad),
            lambda: torch.autograd.grad(outputs[1], value, grad),
            lambda: outputs[2].sum().backward(),
        ):
            seen.clear()
            before = stub.stub_count()
            assert_behind_launches(kernel, act)
            assert seen == [before + 40], act
        for function in several:
            seen.clear()
            assert_behind_launches(kernel, lambda function=function: function(grad))
            assert len(seen) == 1
        for act, result in zip(conditional, expected, strict=True):
            assert torch.equal(act(), result)

    # After it a function is traced as before it; what its graph calls is guarded.
    torch._dynamo.reset()
    assert torch.equal(torch.compile(cleared, backend="eager", fullgraph=True)(grad), grad + 1)
    graphs = []

    def keeping(graph, _):
        graphs.append(graph)
        return graph

    torch.compile(cleared_in_graph, backend=keeping, fullgraph=True)(grad)
    targets = [node.target for graph in graphs for node in graph.graph.nodes]
    assert any(getattr(target, "_ringlaunch_first", False) for target in targets), targets

    assert "torch._inductor.output_code" in sys.modules
    assert_graphs_of_inductor_are_behind(kernel)


def modes_of_torch():
    """A region that ends within another's mode, or in a place where its own is out of reach, leaves others alone."""
    kernel = wrapped()
    ready(kernel)
    torch = imported_torch()
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import (
        TorchDispatchMode,
        _disable_current_modes,
        _get_current_dispatch_mode,
        _get_current_dispatch_mode_stack,
    )

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen += 1
            return func(*args, **(kwargs or {}))

    def launches():
        with rl.region():
            kernel[(1,)](x, 1, 2)
            yield

    for count in (1, 2):
        open_region = launches()
        next(open_region)
        modes = [Count() for _ in range(count)]
        for mode in modes:
            mode.__enter__()
        torch.ones(2)
        open_region.close()
        assert _get_current_dispatch_mode_stack() == modes
        torch.ones(2)
        assert [mode.seen for mode in modes] == [2] * count
        for mode in reversed(modes):
            mode.__exit__(None, None, None)
        assert _get_current_dispatch_mode() is None
    open_region = launches()
    next(open_region)
    with FakeTensorMode() as fake:
        open_region.close()
        assert _get_current_dispatch_mode_stack() == [fake]
    with Count() as below:
        open_region = launches()
        next(open_region)
        with _disable_current_modes():
            open_region.close()
        torch.ones(2)
        assert below.seen == 1
        with rl.region():
            assert len(_get_current_dispatch_mode_stack()) == 2
        assert _get_current_dispatch_mode_stack() == [below]
    open_region = launches()
    next(open_region)
    thread = threading.Thread(target=lambda: error_of(rl.InvalidArgument, open_region.close))
    thread.start()
    thread.join(20)
    with rl.region():
        assert len(_get_current_dispatch_mode_stack()) == 1
    assert _get_current_dispatch_mode() is None


def torch_imported_within():
    kernel = wrapped()
    ready(kernel)
    with rl.region():
        torch = imported_torch()
        assert_behind_launches(kernel, lambda: torch.ones(3))
        assert_behind_launches(kernel, lambda: repr(torch.ones(3)))
    assert "torch._inductor.output_code" not in sys.modules
    assert_graphs_of_inductor_are_behind(kernel)
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def torch_imported_within_by_another_thread():
    """The region ends then: whose operations torch runs is not known from there."""
    kernel = wrapped()
    before = ready(kernel)
    with rl.region():
        for i in range(20):
            kernel[(1,)](x, i, 0)
        thread = threading.Thread(target=imported_torch)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert _core.triton_region_counts()[0] == 0
        assert numbers(before) == list(range(20))
        for i in range(20, 30):
            kernel[(1,)](x, i, 0)
            assert numbers(before)[-1] == i
    assert numbers(before) == list(range(30))
    with rl.region():
        assert_behind_launches(kernel, lambda: sys.modules["torch"].ones(3))


def kernels_of_triton():
    """A kernel that goes Triton's own way in a region: behind what the ring holds."""
    kernel = wrapped()
    before = ready(kernel)
    second[(1,)](x, 2**40, 2**40)
    before += 1
    with rl.region():
        for i in range(100):
            (second if i % 10 == 9 else kernel)[(1,)](x, i, 2**40)
    assert numbers(before) == list(range(100))


def compiled_kernels_of_triton():
    """Whatever names its stream, and so asks nobody for it, is behind what the ring holds, too."""
    kernel = wrapped()
    begin = ready(kernel)
    compiled = kernel[(1,)](x, 2**40, 2**40)
    ways = (
        lambda i: compiled[(1, 1, 1)](x, i, 2**40),
        lambda i: compiled[(1, 1, 1)](x, i, 2**40, stream=0),
        lambda i: compiled.run(1, 1, 1, 0, compiled.function, compiled.packed_metadata, None, None, None, x, i, 2**40),
    )
    begin += 1
    for region in (rl.region, contextlib.nullcontext, rl.region):  # a launcher is guarded once, and stays so
        with region():
            for i in range(120):
                if i % 4 == 3:
                    ways[i // 4 % 3](i)
                else:
                    kernel[(1,)](x, i, 2**40)
        assert numbers(begin) == list(range(120)), numbers(begin)
        begin += 120


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print(sys.argv[1])
