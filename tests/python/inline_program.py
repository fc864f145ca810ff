"""What test_triton_here.py runs, each function in a process of its own: inline launches over a libcuda that runs
nothing and lists what it was given. Each checks by itself and prints its name last."""

import ctypes
import enum
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref

import numpy as np
import triton
import triton.language as tl
from saved_program import CALLS, launched
from stub_kernels import first, ready, second, wrapped
from stub_program import Tensor, entries, error_of, numbers, stub, takes, x
from triton import knobs
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

import ringlaunch as rl
from ringlaunch import _core, _mode, _triton_inline


@triton.jit
def tile(described, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i[:, None] * N + i[None, :], described.load([0, 0]))


@triton.jit
def bare(x, a):
    pass


@triton.jit
def twice(a):
    return a * 2


@triton.jit
def calling(x, a, F: tl.constexpr):
    tl.store(x, F(a))


class Order(enum.IntEnum):
    FIRST = 1
    SECOND = 2


class Named(enum.Enum):
    FIRST = "first"
    SECOND = "second"


@triton.jit
def silent(x, a, F: tl.constexpr):
    pass


ORDER, NAME = tl.constexpr(Order.SECOND), tl.constexpr(Named.FIRST)


@triton.jit
def chosen(x, a, F: tl.constexpr):
    if F == ORDER:
        tl.store(x, a + 2)
    elif F == NAME:
        tl.store(x, a)


FACTOR = tl.constexpr(5)


def flops(grid, metadata, args):
    return {"flops": grid}


@triton.jit(launch_metadata=flops)
def of_global(x, a):
    tl.store(x, FACTOR)


@triton.autotune([triton.Config({"M": 16}, num_warps=8), triton.Config({"M": 32})], key=["a"])
@triton.heuristics({"EVEN": lambda args: args["b"] % 2 == 0})
@triton.jit(do_not_specialize=["a", "b"])
def layered(x, a: tl.int64, b: tl.int64, M: tl.constexpr, EVEN: tl.constexpr):
    pass


alone = triton.autotune([triton.Config({}, num_warps=2)], key=[])(first)


@triton.jit
def unsigned(x, n: tl.uint32, half: tl.float16):
    pass


@triton.jit
def checked(x, n: rl.uint32, half: rl.float16, m: tl.uint32):
    pass


@triton.jit
def scaled(x: rl.tensor[rl.float32], n, a: float):
    pass


@triton.jit
def scaled_by_triton(x, n: tl.int32, a: float):
    pass


class Number(int):
    """An integer, but no plain one."""


def in_region(act):
    with rl.region():
        act()


def outcome(act):
    """What a call launches, or the kind of its error."""
    try:
        return launched(act)
    except Exception as error:
        return [type(error)]


def is_the_same_from_a_file(name, kernel, descriptor):
    """In a program without Triton, inline and in a region."""
    kernel = wrapped(kernel)
    if name == "layered":
        kernel.cache = {(number, "float32"): kernel.configs[number % 2] for number in range(4)}
    make = CALLS[name]
    make(kernel, descriptor)  # of each kind one is Triton's
    expected = launched(lambda: make(kernel, descriptor))
    assert len(expected) >= 12
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel")
        kernel.save(path)
        with open(os.path.join(folder, "expected"), "w") as file:
            json.dump(expected, file)
        program = os.path.join(os.path.dirname(__file__), "saved_program.py")
        done = subprocess.run([sys.executable, program, name, path, file.name], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "the same\n", done.stderr


# ---- scenarios


def hits():
    """Each launch counts, the first one of its kind, which is Triton's, too."""
    kernel = wrapped()
    kernel[(0,)](x, 1, 1)
    (variant,) = kernel.cache
    assert variant.hits == 0 and stub.stub_count() == 0
    for grid in ((1,), (0,), (2, 2, 1), (2**16, 2**16)):
        kernel[grid](x, 1, 1)
    assert variant.hits == stub.stub_count() == 2
    kernel[(1,)](Tensor(4100), 1, 1)
    kernel[lambda meta: (1, 0)](Tensor(4100), 1, 1)
    kernel[lambda meta: (1, 1)](Tensor(4100), 1, 1)
    assert [each.hits for each in kernel.cache] == [2, 2] and stub.stub_count() == 4


def cleared_caches():
    """What a program takes out of Triton's caches is compiled anew, as Triton does: from what the source is then."""
    takes(8, 4, 8, 8)

    def stores(kernel, n=1):
        compiled = kernel[(n,)](x, 5)
        return "tt.store" in compiled.asm["ttir"]

    def change(kernel, old, new, clear):
        kernel._unsafe_update_src(kernel.src.replace(old, new))
        clear(kernel)
        found = [stores(kernel) for _ in range(3)]
        before = kernel._slow_calls
        assert stores(kernel, 2) == found[0] and kernel._slow_calls == before  # the quick way has it again
        return found

    for kernel in (wrapped(bare), wrapped(bare)):  # which share their caches
        assert [stores(kernel) for _ in range(3)] == [False] * 3
        assert change(kernel, "pass", "tl.store(x, a)", lambda of: of.device_caches.clear()) == [True] * 3
        assert len(kernel.cache) == 1
        assert change(kernel, "tl.store(x, a)", "pass", lambda of: of.device_caches[0][0].clear()) == [False] * 3
        assert len(kernel.cache) == 1
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "0"
    kernel.device_caches.clear()
    assert not kernel[(1,)](x, 5).metadata.enable_fp_fusion
    kernel.warmup(x, 2.5, grid=(1,))
    kernel.device_caches.clear()
    with tempfile.TemporaryDirectory() as folder:
        assert "nothing of it is compiled" in str(error_of(rl.InvalidArgument, lambda: kernel.save(folder + "/kernel")))
    rl.install(mode="inline")
    assert not stores(bare)
    bare._unsafe_update_src(bare.src.replace("pass", "tl.store(x, a)"))
    bare.device_caches.clear()
    assert [stores(bare) for _ in range(3)] == [True] * 3


def grids_are_asked_last():
    """A function that answers a grid is asked once a call is compiled, as Triton does, and not of calls that are
    refused; whatever it changes, the launch is of what was found, where the stream was, with what arguments are now."""
    takes(8, 4, 8, 8)
    of = [16]
    driver.active.get_current_stream = lambda device: of[0]
    log = []

    def grid(meta):
        log.append("grid")
        of[0] = 32
        globals()["FACTOR"] = 6
        return (1,)

    def note(**_):
        log.append("compile")

    def enter(metadata):
        log.append("enter")

    def runs(kernel):
        log.clear()
        begin = stub.stub_count()
        tensor = Tensor(4096)

        def call(*args, grid=grid):
            of[0] = 16
            globals()["FACTOR"] = tl.constexpr(5)
            tensor.address = 4096
            kernel[grid](*args)

        def adds_hook(meta):
            knobs.runtime.launch_enter_hook.add(enter)
            return grid(meta)

        def writes(meta):
            meta["a"] = 7
            return grid(meta)

        def moves(meta):
            tensor.address = 8200
            return grid(meta)

        knobs.runtime.jit_cache_hook = note
        for value in (5, 5, 5, 2.5, 2.5):
            call(x, value)
        for wrong in ((x,), (x, "text")):
            error_of(TypeError, lambda wrong=wrong: call(*wrong))
        for _ in range(3):
            call(x, 5, grid=adds_hook)
            knobs.runtime.launch_enter_hook.remove(enter)
            call(x, 5, grid=writes)
            call(tensor, 5, grid=moves)
        knobs.runtime.jit_cache_hook = None
        made = entries(begin)
        return list(log), [(each.stream, each.words[0], each.words[1] & 0xFFFFFFFF) for each in made]

    of_global.device_caches.clear()
    theirs = runs(of_global)
    of_global.device_caches.clear()
    ours = runs(wrapped(of_global))
    assert ours == theirs, (ours, theirs)
    assert {stream for stream, *_ in ours[1]} == {16} and len(ours[1]) == 14
    takes(8, 8, 8, 8, 8)
    kernel = wrapped()
    count = ready(kernel)
    kernel[(1,)](x, 1, 1)
    before = kernel._slow_calls
    for number in range(5):
        kernel[lambda meta: (meta["a"],)](x, number + 1, 1)
        kernel[[2]](x, 1, 1)
    assert kernel._slow_calls == before and stub.stub_count() == count + 11


def grids_in_launch_metadata():
    """What the caller has given, or the function has answered."""
    takes(8, 4, 8, 8)
    kernel = wrapped(of_global)
    found = []

    def enter(metadata):
        found.append(metadata.get()["flops"])

    knobs.runtime.launch_enter_hook.add(enter)
    grids = [(1,), (1, 1), (1, 1, 1), [2], (1, 1, 1, 7), lambda meta: (3,)]
    for grid in grids:
        kernel[grid](x, 5)
    assert found == [*grids[:-1], (3,)]


def descriptors():
    """The map that the quick way makes is the one that Triton's launcher makes; it is made once for a tensor."""
    takes(128, 4, 4, 8, 8, 8, 8, 8)
    kernel = wrapped(tile)
    out = Tensor(1 << 20)
    for kind in (TensorDescriptor, rl.TensorDescriptor):
        for padding in ("zero", "nan"):
            for base in (Tensor(4096), Tensor(8192)):
                for shape in ((64, 16), (64, 32)):
                    described = kind(base, shape, [shape[1], 1], [16, 16], padding)
                    plain = TensorDescriptor(base, list(shape), [shape[1], 1], [16, 16], padding)
                    (theirs,) = launched(lambda plain=plain: tile[(3,)](plain, out, N=16))
                    ours = launched(lambda described=described: [kernel[(3,)](described, out, N=16) for _ in range(4)])
                    assert ours == [theirs] * 4
    assert kernel._slow_calls == 2
    maps = stub.stub_maps()
    for _ in range(10):
        kernel[(3,)](described, out, N=16)
    assert stub.stub_maps() == maps
    described.base = Tensor(12288)
    kernel[(3,)](described, out, N=16)
    assert entries()[-1].words[0] == 12288 and stub.stub_maps() == maps + 1


def left_to_triton():
    """What only Triton's launcher can launch is Triton's at once, as long as Triton has it compiled."""
    asked = []
    refuse_buffers = _triton_inline._refuse_buffers
    _triton_inline._refuse_buffers = lambda *of: asked.append(of) or refuse_buffers(*of)
    takes(128, 4, 4, 8, 8, 8, 8, 8)
    plain, out = triton.jit(bare.fn), Tensor(1 << 20)
    kernel = wrapped(plain)
    described, other = (TensorDescriptor(Tensor(address), [64, 16], [16, 1], [16, 16]) for address in (4096, 8192))
    of_ours = rl.TensorDescriptor(Tensor(4096), [64, 16], [16, 1], [16, 16])
    theirs = launched(lambda: [plain[(3,)]((each,), out) for each in (described, other)])

    def launch():
        kernel[(3,)]((described,), out)
        kernel[lambda meta: (3,)](x=(other,), a=out)

    assert launched(launch) == theirs and len(asked) == 1
    assert launched(lambda: in_region(launch)) == theirs and len(asked) == 1
    # Which Triton does not take.
    assert launched(lambda: kernel[(3,)]((of_ours,), out)) == theirs[:1] and len(asked) == 2

    takes(8, 8, 8, 8)
    for _ in range(3):
        kernel[(1,)](x, out)
    before = len(asked)
    for _ in range(3):
        kernel[(1,)](x, out)
        kernel[(3,)]((described,), out)
    assert len(asked) == before and len(kernel.cache) == 1
    gone = weakref.ref(kernel[(3,)]((described,), out))
    kernel.device_caches.clear()
    kernel[(1,)](x, out)
    gc.collect()
    assert gone() is None
    takes(128, 4, 4, 8, 8, 8, 8, 8)
    assert launched(launch) == theirs

    _triton_inline._USUAL_SHARED_BYTES = -1
    takes(8, 8, 8, 8, 8)
    asked.clear()
    kernel = wrapped(triton.jit(first.fn, do_not_specialize=["a", "b"]))
    assert len(launched(lambda: [kernel[(1,)](x, i, i) for i in range(5)])) == 5
    assert (len(asked), len(kernel.cache)) == (1, 0)


def embedded():
    """A mode by its name, of a kernel, of all of them, and of a client: handed over in a region, inline outside."""

    class Open:  # as much of a client as modes need of one
        closed, _handle = False, type("Handle", (), {"forked": False})

    def runs(kernel):
        before, handed = stub.stub_count(), _core.triton_region_counts()[1]
        for i in range(20):
            kernel[(1,)](x, i, i)
            assert numbers(before)[-1] == i
        with rl.region():
            for i in range(20, 100):
                kernel[(1,)](x, i, i)
        assert numbers(before) == list(range(100))
        assert _core.triton_region_counts()[1] == handed + 80

    runs(wrapped(mode="embedded"))
    rl.install(mode="embedded")
    runs(second)
    rl.uninstall()
    client = Open()
    _mode.choose(client, _mode.meant("embedded"))
    runs(wrapped(mode=None))
    assert _mode.chosen() == (client, "inline")


def unfit_numbers():
    """What a parameter's type does not hold goes as Triton's launcher takes it, at the first call and each other."""
    takes(8, 4, 2, 8, 8)
    for sequence in ([2**32 + 5] * 3, [5, 2**32 + 5, 5], [-1, 5, -1], [2**63, 5, 2**64 - 1], [-(2**63), 2**40]):
        kernel = wrapped(unsigned)
        for n in sequence:
            theirs = outcome(lambda n=n: unsigned[(1,)](x, n, 1.0))
            assert outcome(lambda n=n, kernel=kernel: kernel[(1,)](x, n, 1.0)) == theirs, (sequence, n)
            assert outcome(lambda n=n, kernel=kernel: in_region(lambda: kernel[(1,)](x, n, 1.0))) == theirs
    kernel = wrapped(unsigned)
    for half in (1.0, 1e6, 1.0, -1e6):
        theirs = outcome(lambda half=half: unsigned[(1,)](x, 5, half))
        assert outcome(lambda half=half: kernel[(1,)](x, 5, half)) == theirs
    with tempfile.TemporaryDirectory() as folder:
        kernel.save(path := os.path.join(folder, "kernel"))
        loaded = rl.load(path, mode="inline")  # of which Triton knows nothing
    before = stub.stub_count()
    for n in (2**32, -1, 2**32):
        error_of(rl.OutOfRange, lambda n=n: loaded[(1,)](x, n, 1.0))
    assert stub.stub_count() == before and len(launched(lambda: loaded[(1,)](x, 5, 1.0))) == 1
    rl.install(mode="inline")
    (cut,) = launched(lambda: unsigned[(1,)](x, 2**32 + 5, 1.0))
    assert launched(lambda: [unsigned[(1,)](x, 2**32 + 5, 1.0) for _ in range(3)]) == [cut] * 3
    rl.uninstall()


def unfit_numbers_of_our_types():
    """Those are refused, at the first call and each other; beside them Triton's types are Triton's."""
    takes(8, 4, 2, 4, 8, 8)
    for first_call in (True, False):
        kernel = wrapped(checked)
        if not first_call:
            kernel[(1,)](x, 5, 1.0, 5)
        before = stub.stub_count()
        for _ in range(2):
            for n in (-1, 2**32, -(2**70)):
                text = str(error_of(rl.OutOfRange, lambda n=n, kernel=kernel: kernel[(1,)](x, n, 1.0, 5)))
                assert "kernel 'checked', parameter 'n' (uint32): expected an integer from 0 to 4294967295" in text
            text = str(error_of(rl.OutOfRange, lambda kernel=kernel: kernel[(1,)](x, 5, 1e6, 5)))
            assert "parameter 'half' (float16): expected a number that float16 holds" in text
        assert stub.stub_count() == before
        assert len(launched(lambda kernel=kernel: [kernel[(1,)](x, 5, 1.0, 2**32 + 5) for _ in range(3)])) == 3


def floats_of_python():
    """Beside a type of ours they are checked as such; without one they are Triton's to refuse."""
    takes(8, 4, 4, 8, 8)
    for kernel in (wrapped(scaled), rl.jit(scaled.fn, mode="embedded")):
        for wrong in ("2.5", None, x, 1j, [2.5]):
            text = str(error_of(rl.ParamTypeError, lambda wrong=wrong, kernel=kernel: kernel[(1,)](x, 5, wrong)))
            assert text.startswith("kernel 'scaled', parameter 'a': expected a number for float32, found "), text
            error_of(rl.ParamTypeError, lambda wrong=wrong, kernel=kernel: kernel.warmup(x, 5, wrong, grid=(1,)))
        text = str(error_of(rl.OutOfRange, lambda kernel=kernel: kernel[(1,)](x, 5, 10**400)))
        assert text.startswith("kernel 'scaled', parameter 'a' (float32): expected a number that float32 holds"), text
        for a in (2.5, 2, 1, True, 1e300, 2**70):
            theirs = launched(lambda a=a: scaled[(1,)](x, 5, a))
            assert launched(lambda a=a, kernel=kernel: [kernel[(1,)](x, 5, a) for _ in range(3)]) == theirs * 3
    kernel = wrapped(scaled_by_triton)
    for a in ("2.5", None, x, 1j, 10**400, 2.5):
        theirs = outcome(lambda a=a: scaled_by_triton[(1,)](x, 5, a))
        assert outcome(lambda a=a: kernel[(1,)](x, 5, a)) == theirs


def hints_of_what_is_warmed_up():
    """Are those of its calls."""
    takes(8, 4, 2, 4, 8, 8)
    kernel = wrapped(checked)
    for _ in range(2):
        for given in ((x, None, 1.0, 5), (x, 1.5, 1.0, 5), (x, tl.float32, 1.0, 5)):
            text = str(error_of(rl.ParamTypeError, lambda given=given: kernel.warmup(*given, grid=(1,))))
            assert "kernel 'checked', parameter 'n'" in text and "expected an integer for uint32" in text, text
        text = str(error_of(rl.OutOfRange, lambda: kernel.warmup(x, -1, 1.0, 5, grid=(1,))))
        assert "parameter 'n' (uint32): expected an integer from 0 to 4294967295" in text
        assert isinstance(kernel.warmup(x, 5, 1.0, 5, grid=(1,)), triton.compiler.CompiledKernel)


def functions_as_arguments():
    """Those of rl.jit are found again as those of triton.jit are, and compiled anew once their source is another."""
    takes(8, 4, 8, 8)
    kernel = wrapped(calling)
    for function in (twice, rl.wrap(twice), rl.jit(twice.fn), rl.wrap(twice, mode="inline")):
        for given in (function, tl.constexpr(function)):
            for _ in range(2):  # the first asks for what the function's source is
                kernel[(1,)](x, 5, given)
            before = kernel._slow_calls
            assert len({id(kernel[(n,)](x, 5, given)) for n in range(1, 4)}) == 1
            kernel[(1,)](x, 5, F=given)
            assert kernel._slow_calls == before, function
    ours = rl.jit(twice.fn)
    found = []
    for number in ("2", "3", "4"):
        ours._unsafe_update_src(twice.src.replace("2", number))
        compiled = [kernel[(1,)](x, 5, ours) for _ in range(3)]
        assert compiled.count(compiled[0]) == 3 and f"arith.constant {number} : i32" in compiled[0].asm["ttir"]
        found.append(compiled[0])
    assert len(set(map(id, found))) == 3


def variants_of_devices():
    """Print differently where they differ in nothing else."""
    kernel = wrapped()
    for context in (1, 2):
        stub.cuCtxSetCurrent(ctypes.c_void_p(context))
        for i in range(3):
            kernel[(1,)](x, i, i)
    one, other = (repr(variant) for variant in kernel.cache)
    assert ", inline on device 0, " in one and other == one.replace("device 0", "device 1"), (one, other)
    assert kernel._slow_calls == 2


def constants_that_stay_what_they_are():
    """Members of enumerations, types, functions and numbers of NumPy are found again, and are to the kernel what they
    are to Triton's."""
    takes(8, 4, 8, 8)
    wrapped(chosen)[(1,)](x, 5, 3)  # the first launch of a program
    numbers = [np.float64(2.5), np.float64(-0.0), np.int64(3)]  # which Triton compares with nothing
    values = [(chosen, each) for each in (*Order, *Named, Order, int, outcome)] + [(silent, each) for each in numbers]
    for plain, value in values:
        for kernel in (wrapped(plain), rl.jit(plain.fn, mode="embedded")):
            for given in (value, tl.constexpr(value)):
                theirs = plain[(1,)](x, 5, given).asm["ttir"]
                assert kernel[(1,)](x, 5, given).asm["ttir"] == theirs, given
                before = kernel._slow_calls
                found = [kernel[(n,)](x, 5, given).asm["ttir"] for n in range(1, 4)]
                found.append(kernel[(1,)](x, 5, F=given).asm["ttir"])
                assert found == [theirs] * 4 and kernel._slow_calls == before, given
    (one,) = {kernel[(1,)](x, 5, np.float64(2.5)) for _ in range(3)}
    assert one is kernel[(1,)](x, 5, F=np.float64("2.5"))


def addresses_beyond_64_bits():
    """Of objects, and such as are no plain integers, are Triton's to take or to refuse, at each call."""
    takes(8, 4, 8, 8)
    kernel = wrapped(bare)
    for sequence in ([2**64, 4096, 2**64], [4096, 2**64 + 4096, 2**64], [-16, 4096, -16], [4096, Number(4096), True]):
        for address in sequence:
            theirs = outcome(lambda address=address: bare[(1,)](Tensor(address), 5))
            assert outcome(lambda address=address: kernel[(1,)](Tensor(address), 5)) == theirs, (sequence, address)


def grids():
    """Of any kind, at the first call and each other, launched, passed over or refused as by Triton."""
    sides = (0, 1, 3, -1, 2**16, 2**30, 2**31 - 1, 2**31, 2**32, -(2**31))
    kinds = [(), [], 3, None, "ab", {0: 2}, {1: 2}, (1.0,), [2], (True, 2), range(2, 4), (2, 3, 4, 5), (2, "a", 1)]
    kinds += [(side,) for side in sides] + [(side, side) for side in sides] + [(2**30, 4), (2**15, 2**16), (-1, 5, 3)]
    kinds += [lambda meta, kind=kind: kind for kind in kinds] + [
        lambda meta: meta["nothing"],
        lambda meta: lambda _: (1,),
    ]
    ready(quick := wrapped())
    ready(tuned := wrapped(alone))
    for grid in kinds:
        theirs = outcome(lambda grid=grid: first[grid](x, 1, 1))
        (kept,) = theirs[:1] or [None]
        for kernel in (wrapped(), quick, quick, tuned, tuned):
            ours = outcome(lambda grid=grid, kernel=kernel: kernel[grid](x, 1, 1))
            assert ours == theirs or (isinstance(kept, type) and issubclass(ours[0], kept)), (grid, theirs, ours)
        assert outcome(lambda grid=grid: in_region(lambda: quick[grid](x, 1, 1))) == ours
    for grid in ((2**30, 4), (1,)):  # a function that writes into the arguments beside

        def writes(meta, grid=grid):
            meta["a"] = 7
            return grid

        assert outcome(lambda writes=writes: quick[writes](x, 1, 1)) == outcome(
            lambda writes=writes: first[writes](x, 1, 1)
        )


class Calling(Tensor):
    """Calls a kernel whenever it is asked for its address, so often."""

    def __init__(self, kernel, times):
        super().__init__()
        self.kernel, self.times = kernel, times

    def data_ptr(self):
        self.times -= 1
        if self.times >= 0:
            self.kernel[(1,)](self, 5, 6)
        return super().data_ptr()


def calls_within_calls():
    takes(8, 8, 8)
    sys.setrecursionlimit(100_000)  # as programs do: Python's own limit says little of the stack
    kernel = wrapped()
    ready(kernel)
    kernel[(1,)](Calling(kernel, 0), 5, 6)

    def by_grid(times):
        left = [times]

        def grid(meta):
            left[0] -= 1
            if left[0] >= 0:
                kernel[grid](x, meta["a"] + 1, 6)
            return (1,)

        kernel[grid](x, 0, 6)

    def by_argument(times):
        kernel[(1,)](Calling(kernel, times), 5, 6)

    def by_slow_calls(times):
        knobs.runtime.launch_enter_hook.add(nothing)
        try:
            by_grid(times)
        finally:
            knobs.runtime.launch_enter_hook.remove(nothing)

    def nothing(metadata):
        pass

    def in_thread(stack, act):
        ends = []

        def call():
            try:
                ends.append(act())
            except Exception as error:
                ends.append((type(error), str(error)))

        threading.stack_size(stack)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return ends[0]

    for act in (by_grid, by_argument, by_slow_calls):
        for stack in (512 << 10, 2 << 20, 8 << 20):
            begin = stub.stub_count()
            said = in_thread(stack, lambda act=act: act(2))
            assert said is None and stub.stub_count() == begin + 3, (act, stack, said)
            said = in_thread(stack, lambda act=act: act(1 << 40))
            assert said[0] is RecursionError and "'first'" in said[1], (act, stack, said)
        kernel[(1,)](x, 5, 6)  # as before
    begin = stub.stub_count()
    assert in_thread(8 << 20, lambda: by_grid(320)) is None  # as deep as Triton goes with Python's usual limit
    assert numbers(begin) == list(range(320, -1, -1))


def many_parameters():
    """More than a key has room for: launched by Triton at each call, wrapped, tuned and installed."""
    names = [f"a{i}" for i in range(140)]
    takes(8, *[1] * 140, 8, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "many.py")
        with open(path, "w") as file:
            file.write("import triton\nimport triton.language as tl\n@triton.jit\n")
            file.write(f"def many(x, {', '.join(name + ': tl.int8' for name in names)}, N: tl.constexpr = 2): pass\n")
        sys.path.insert(0, folder)
        from many import many

        def act(kernel):
            for by in range(1, 4):
                kernel[(by,)](x, *range(139), a139=by)
                kernel[lambda meta: (meta["a1"],)](x=x, **dict(zip(names, range(by, by + 140))))

        theirs = launched(lambda: act(many))
        assert len(theirs) == 6
        tuned = triton.autotune([triton.Config({"N": 4})], key=[])
        for kernel in (wrapped(many), wrapped(tuned(many)), tuned(wrapped(many))):
            assert [launch[1] for launch in launched(lambda kernel=kernel: act(kernel))] == [one[1] for one in theirs]
        error_of(TypeError, lambda: wrapped(many)[(1,)](x))
        rl.install(mode="inline")
        assert launched(lambda: act(many)) == theirs
        rl.uninstall()
        kernel = wrapped(many)
        kernel.warmup(x, *range(140), grid=(1,))
        kernel.save(path := os.path.join(folder, "kernel"))
        loaded = rl.load(path, mode="inline")
        text = str(error_of(rl.Unsupported, lambda: loaded[(1,)](x, *range(140))))
        assert "kernel 'many'" in text and "142 parameters" in text and "at most 128" in text, text


def saved():
    is_the_same_from_a_file("first", first, None)


def saved_with_layers():
    is_the_same_from_a_file("layered", layered, None)


def saved_with_descriptors():
    takes(128, 4, 4, 8, 8, 8, 8, 8)
    is_the_same_from_a_file("tile", tile, TensorDescriptor)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print(sys.argv[1])
