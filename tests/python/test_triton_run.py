"""What Triton's JITFunction.run looks at besides the arguments: a call into the daemon does as it does.

Triton's own run() goes beside, over a driver that launches nothing, so that its version says what is right."""

import concurrent.futures
import contextlib
import functools
import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest
from triton_support import triton, triton_version, without_gpu

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from triton import knobs  # noqa: E402
from triton.runtime import _async_compile  # noqa: E402

DAEMON = "null"
LIBDEVICE = str(Path(triton.__file__).parent / "backends" / "nvidia" / "lib" / "libdevice.10.bc")
FACTOR = tl.constexpr(5)
beside = types.ModuleType("beside")
beside.FACTOR = tl.constexpr(5)

since_39 = pytest.mark.skipif(triton_version < (3, 9), reason="that came with Triton 3.9")


@triton.jit
def scale(x, n, by=2.0, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * by, i < n)


@triton.jit
def add_up(x, a: tl.int32, b: tl.int32):
    tl.store(x, a + b)


@triton.jit
def of_globals(x):
    tl.store(x, FACTOR + beside.FACTOR)


@triton.jit
def of_target(x):
    tl.store(x, 1.0 if tl.target_info.is_cuda() else 2.0)


@triton.jit(noinline=True)
def callee(a):
    return a * 3


@triton.jit
def caller(x):
    tl.store(x, callee(tl.load(x)))


@triton.jit(debug=True)
def of_debug(x, a: tl.int32, b: tl.int32):
    tl.store(x, a + b)


@triton.jit
def named_like_run(x, grid, warmup=2):
    tl.store(x + grid, warmup)


@triton.jit
def of_constant(x, VALUE: tl.constexpr):
    tl.store(x, VALUE)


@triton.jit
def of_address(x: "*fp32"):  # noqa: F722
    pass


@triton.jit
def named_like_an_option(x, num_warps):
    tl.store(x, num_warps)


@triton.jit
def named_like_options(x, n, num_warps: tl.constexpr, num_stages: tl.constexpr = 3):
    tl.store(x, n + num_warps * num_stages)


@pytest.fixture
def x(client):
    return client.zeros(128)


def both(kernel, act):
    """What `act` answers of a kernel of Triton and of the same through ringlaunch. Each has caches of its own."""
    with without_gpu():
        theirs = act(triton.jit(kernel.fn, **options_of(kernel)))
    return theirs, act(rl.wrap(triton.jit(kernel.fn, **options_of(kernel)), mode="daemon"))


def options_of(kernel):
    return {name: getattr(kernel, name) for name in ("debug", "noinline")}


def same(kernel, act):
    theirs, ours = both(kernel, act)
    assert ours == theirs
    return ours


def outcome(call):
    """Which kernel a call answers, by what it was compiled of; or its error."""
    try:
        found = call()
    except Exception as error:
        return type(error), str(error)
    return None if found is None else found.hash


# ---- keywords ----


@pytest.mark.parametrize("name", ["grid", "warmup"])
def test_a_keyword_of_run_itself_is_refused_in_tritons_words(x, name):
    def act(kernel):
        return [outcome(lambda: kernel[(1,)](x, 3, **{name: 2})) for _ in range(2)]

    for kernel in (scale, named_like_run):
        (kind, text), _ = same(kernel, act)
        assert kind is TypeError and "multiple values" in text
    ours = rl.wrap(named_like_run, mode="daemon")
    for _ in range(3):
        ours[(1,)](x, 3, 4)  # by position they are any parameters
    assert ours._slow_calls == 1


@pytest.mark.parametrize("name", ["device", "device_type"])
def test_keywords_that_triton_no_longer_takes_are_refused_in_its_words(x, name):
    (kind, text), _ = same(scale, lambda kernel: [outcome(lambda: kernel[(1,)](x, 3, **{name: 0})) for _ in range(2)])
    assert kind is AssertionError and "deprecated" in text


def test_a_parameter_named_like_an_option_sets_it_by_keyword_alone(x):
    calls = [lambda kernel: kernel[(1,)](x, 8), lambda kernel: kernel[(1,)](x, num_warps=8)]
    for order in (calls, calls[::-1]):  # to Triton they are one, and the first decides

        def act(kernel, order=order):
            return [call(kernel).metadata.num_warps for call in order]

        found = same(named_like_an_option, act)
        assert found == [4, 4] if order is calls else [8, 8]


CALLS_OF_OPTIONS = [
    ((5, 8, 2), {}),
    ((5, 8), {"num_stages": 2}),
    ((5,), {"num_stages": 5, "num_warps": 8}),
    ((5,), {"num_warps": 2}),
    ((5, 2), {}),
    ((5, 2), {"num_ctas": 1}),
    ((5,), {"num_warps": 4, "enable_fp_fusion": False}),
    ((16, 8), {"num_stages": 4}),
]


@pytest.mark.parametrize("seed", range(3))
def test_parameters_named_like_options_are_quick_and_as_in_triton_in_any_order(x, seed):
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(CALLS_OF_OPTIONS)), 3))

    def act(kernel):
        found = []
        for i in order:
            args, keywords = CALLS_OF_OPTIONS[i]
            compiled = kernel[(1,)](x, *args, **keywords)
            options = compiled.metadata
            found.append((compiled.hash, options.num_warps, options.num_stages, options.enable_fp_fusion))
        return found

    same(named_like_options, act)
    kernel = rl.wrap(triton.jit(named_like_options.fn), mode="daemon")
    first = act(kernel)
    assert kernel._slow_calls == len(CALLS_OF_OPTIONS)  # of each kind one
    assert act(kernel) == first and kernel._slow_calls == len(CALLS_OF_OPTIONS)


def test_a_configuration_that_sets_a_parameter_named_like_an_option_is_quick(x):
    tuned = rl.wrap(
        triton.autotune([triton.Config({}, num_warps=2, num_stages=5)], key=[])(triton.jit(named_like_options.fn)),
        mode="daemon",
    )
    for _ in range(5):
        compiled = tuned[(1,)](x, 5)
        assert (compiled.metadata.num_warps, compiled.metadata.num_stages) == (2, 5)
        assert compiled.src.constants[(2,)] == 2
    assert tuned.fn._slow_calls == 1


@pytest.mark.parametrize("value", [[1, 2], {}, float("nan")], ids=repr)
def test_constants_that_cannot_be_looked_up_are_as_in_triton(x, value):
    def act(kernel):
        return [outcome(lambda: kernel[(1,)](x, value)) for _ in range(2)]

    first, second = same(of_constant, act)
    assert first == second and (first[0] is TypeError) == (value == value)


@since_39
def test_parameters_that_are_given_by_keyword_alone(x, tmp_path):
    path = tmp_path / "keyword.py"
    path.write_text("import triton\n\n@triton.jit\ndef keyword(x, *, n, by=2): pass\n")
    spec = importlib.util.spec_from_file_location("keyword_only", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def act(kernel):
        return [outcome(lambda n=n: kernel[(1,)](x, n=n)) for n in (3, 3, 16)] + [
            outcome(lambda: kernel[(1,)](x, 3))[0]
        ]

    assert same(module.keyword, act)[-1] is TypeError
    ours = rl.wrap(module.keyword, mode="daemon")
    for n in (3, 5, 7):
        ours[(1,)](x, n=n)
    assert ours._slow_calls == 1


def test_defaults_are_those_of_the_decorated_function(x):
    def act(kernel):
        found = [kernel[(1,)](x, 128).metadata.hash]
        kernel.fn.__defaults__ = (None, 32)
        try:
            return [*found, *(kernel[(1,)](x, 128).metadata.hash for _ in range(2))]
        finally:
            kernel.fn.__defaults__ = (2.0, 64)

    assert len(set(same(scale, act))) == 1


@pytest.mark.parametrize(
    "value", ["text", [1], {}, np.int32(3), np.float32(3), np.bool_(True), float, len, 2**64, -(2**63) - 1], ids=repr
)
def test_arguments_of_no_kind_are_refused_in_tritons_words(x, value):
    def act(kernel):
        return [outcome(lambda: kernel[(1,)](x, value)) for _ in range(2)]

    assert {kind for kind, _ in same(scale, act)} <= {TypeError, OverflowError}


def test_heuristics_are_asked_at_each_call_one_behind_the_other(x):
    def act(kernel):
        seen = []

        def by(args):
            seen.append(dict(args))
            return 3.0

        def block(args):
            seen.append(dict(args))
            return 32 if args["by"] == 3.0 else 64

        kernel = triton.heuristics({"by": by, "BLOCK": block})(kernel)
        calls = [lambda: kernel[(1,)](x, 128), lambda: kernel[(1,)](x, n=128, by=5.0, BLOCK=16)]
        return [outcome(call) for call in calls * 2], seen

    found, seen = same(scale, act)
    assert len(set(found)) == 1 and len(seen) == 8


# ---- settings ----


def test_the_instrumentation_mode_is_that_of_the_call(x, monkeypatch):
    def act(kernel):
        found = []
        for mode in ("", "fpsan", "", "fpsan"):
            monkeypatch.setattr(knobs.compilation, "instrumentation_mode", mode)
            found.append(outcome(lambda: kernel[(1,)](x, 128)))
            found.append(outcome(lambda: kernel[(1,)](x, 128, instrumentation_mode="iisan")))  # which is written over
        return found

    found = same(scale, act)
    assert len(set(found)) == 2 and found[0] == found[1] == found[4] != found[2]
    kernel = rl.wrap(scale, mode="daemon")
    for slow_calls in (1, 2, 2, 2):
        monkeypatch.setattr(knobs.compilation, "instrumentation_mode", "fpsan" if kernel._slow_calls % 2 else "")
        kernel[(1,)](x, 128)
        assert kernel._slow_calls == slow_calls


@since_39
@pytest.mark.parametrize("mode", ["consan", "gsan"])
def test_instrumentation_that_needs_memory_of_the_process_is_refused(client, x, mode, monkeypatch):
    kernel = rl.wrap(scale, mode="daemon")
    before = client.default_stream.status.published
    with monkeypatch.context() as patch:
        patch.setattr(knobs.compilation, "instrumentation_mode", mode)
        for _ in range(2):
            with pytest.raises(rl.Unsupported, match="'scale': a kernel with instrumentation cannot run in the daemon"):
                kernel[(1,)](x, 128)
    assert client.default_stream.status.published == before
    kernel[(1,)](x, 128)


@since_39
def test_the_casts_of_fpsan_are_read_from_the_environment_at_each_call(x, monkeypatch):
    def act(kernel):
        found = []
        for value in ("0", "1", "1", "0"):
            monkeypatch.setenv("TRITON_FPSAN_HOMOMORPHIC_CASTS", value)
            found.append(outcome(lambda: kernel[(1,)](x, 128)))
        monkeypatch.delenv("TRITON_FPSAN_HOMOMORPHIC_CASTS")
        found.append(outcome(lambda: kernel[(1,)](x, 128, fpsan_homomorphic_casts=True)))  # which is written over
        return found

    found = same(scale, act)
    assert found[0] == found[3] == found[4] != found[1] == found[2]
    kernel = rl.wrap(scale, mode="daemon")
    act(kernel)
    slow_calls = kernel._slow_calls
    act(kernel)
    assert kernel._slow_calls == slow_calls


def test_what_options_read_in_the_environment_is_in_no_key(x, monkeypatch):
    def act(kernel):
        found = []
        for fusion in ("1", "0", "1"):
            monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", fusion)
            found += [kernel[(1,)](x, 128).metadata.enable_fp_fusion for _ in range(2)]
            found.append(kernel[(1,)](x, 128, 2.0, 16 << int(fusion)).metadata.enable_fp_fusion)
        return found

    assert same(scale, act) == [True, True, True, True, True, False, True, True, True]


def test_overflow_is_checked_where_debugging_asks_for_it(x):
    options = [{}, {"sanitize_overflow": False}, {"debug": True}, {"debug": True, "sanitize_overflow": False}]
    options += [{"debug": False}, {"debug": None}, {"sanitize_overflow": True}]

    def act(kernel):
        calls = [kernel[(1,)](x, 3, 4, **each) for _ in range(2) for each in options]
        return [(call.hash, "assert" in call.asm["ttir"], call.metadata.debug) for call in calls]

    assert [checked for _, checked, _ in same(add_up, act)[:4]] == [False, False, True, False]
    assert [checked for _, checked, _ in same(of_debug, act)[:6]] == [True, False, True, False, False, False]
    kernel = rl.wrap(add_up, mode="daemon")
    act(kernel)
    assert kernel._slow_calls == len(options)


def test_debugging_that_a_setting_asks_for_is_of_each_call(x, monkeypatch):
    def act(kernel):
        found = []
        for debug in (False, True, False):
            monkeypatch.setattr(knobs.runtime, "debug", debug)
            found += [outcome(lambda each=each: kernel[(1,)](x, 3, 4, **each)) for each in ({}, {"debug": False})]
        return found

    assert len(set(same(add_up, act))) == 2


def test_libraries_to_link_with(x, tmp_path):
    other = tmp_path / "other.bc"
    other.write_bytes(Path(LIBDEVICE).read_bytes())
    libraries = [
        {"libdevice": LIBDEVICE},
        None,
        (("libdevice", str(other)),),
        {"libdevice": "/nowhere"},
        {"libdevice": ""},
    ]

    def act(kernel):
        return [outcome(lambda each=each: kernel[(1,)](x, 128, extern_libs=each)) for each in libraries * 2]

    found = same(scale, act)
    assert found[0] == found[1] == found[4] and found[3][0] is FileNotFoundError
    assert found[:5] == found[5:]


def test_the_interpreter_is_chosen_when_a_kernel_is_decorated(x, monkeypatch):
    kernel = rl.wrap(scale, mode="daemon")
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    assert [type(kernel[(1,)](x, 128)).__name__ for _ in range(2)] == ["CompiledKernel"] * 2


def test_functions_that_are_not_inlined(x):
    same(caller, lambda kernel: outcome(lambda: kernel[(1,)](x)))
    assert "noinline" in rl.wrap(caller, mode="daemon")[(1,)](x).asm["ttir"]
    same(callee, lambda kernel: outcome(lambda: kernel[(1,)](x))[0])


# ---- globals ----


@pytest.mark.parametrize("value", [5, 5.0, True, 6, None, "5", tl.constexpr(5), tl.constexpr(6)], ids=repr)
def test_a_global_may_be_what_is_equal_to_what_it_was(x, value, monkeypatch):
    def act(kernel):
        found = [outcome(lambda: kernel[(1,)](x))]
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "FACTOR", value)
            found += [outcome(lambda: kernel[(1,)](x)) for _ in range(2)]
        return [*found, *(outcome(lambda: kernel[(1,)](x)) for _ in range(2))]

    found = same(of_globals, act)
    assert found[0] == found[3] == found[4] and isinstance(found[0], str)
    assert (found[1] == found[2] == found[0]) == (value == 5)


def test_what_stands_in_another_module_is_not_watched(x, monkeypatch):
    def act(kernel):
        found = [outcome(lambda: kernel[(1,)](x))]
        monkeypatch.setattr(beside, "FACTOR", tl.constexpr(7))
        found += [outcome(lambda: kernel[(1,)](x)) for _ in range(2)]
        monkeypatch.setattr(beside, "FACTOR", tl.constexpr(5))
        return found

    assert len(set(same(of_globals, act))) == 1


# ---- hooks ----


def test_a_hook_before_each_run_is_told_what_triton_tells_it(x, monkeypatch):
    def act(kernel):
        seen = []

        def hook(*args, **kwargs):
            seen.append((args, list(kwargs.items())))
            monkeypatch.setattr(knobs.runtime, "debug", True)  # which counts from the next call on

        kernel.add_pre_run_hook(hook)
        calls = [lambda: kernel[(1,)](x, 128, num_warps=2), lambda: kernel[(1,)](x, n=128, debug=False, BLOCK=32)]
        calls += [lambda: kernel.warmup(x, 128, grid=(1,)), lambda: kernel.run(x, 128, grid=(1,), warmup=False)]
        found = []
        for call in calls:
            monkeypatch.setattr(knobs.runtime, "debug", False)
            found += [call().metadata.debug, call().metadata.debug]
        return seen, found

    seen, found = same(scale, act)
    assert len(seen) == 8 and found == [False, True] * 4
    assert {"debug", "instrumentation_mode", "num_warps"} <= dict(seen[0][1]).keys()


def launches_with(enter, leave, call, monkeypatch):
    monkeypatch.setattr(knobs.runtime, "launch_enter_hook", enter)
    monkeypatch.setattr(knobs.runtime, "launch_exit_hook", leave)
    return call()


def test_hooks_of_launches_may_be_none_or_plain_functions(x, monkeypatch):
    chains = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook

    def act(kernel):
        seen = []
        entered = lambda told: seen.append(("enter", told and told.get()["name"]))  # noqa: E731
        left = lambda told: seen.append(("exit", told and told.get()["name"]))  # noqa: E731
        for hooks in (chains, (None, None), (entered, None), (None, left), (entered, left), (None, None), chains):
            for _ in range(2):
                launches_with(*hooks, lambda: kernel[(1,)](x, 128), monkeypatch)
            seen.append(len(seen))
        return seen

    seen = same(scale, act)
    assert seen == [0, 1, *[("enter", "scale")] * 2, 4, *[("exit", None)] * 2, 7,
                    *[("enter", "scale"), ("exit", "scale")] * 2, 12, 13, 14]  # fmt: skip
    kernel = rl.wrap(scale, mode="daemon")
    for _ in range(3):
        launches_with(None, None, lambda: kernel[(1,)](x, 128), monkeypatch)
    assert kernel._slow_calls == 1


def test_no_hook_runs_behind_a_launch_that_was_refused(client, x, monkeypatch):
    kernel, seen = rl.wrap(scale, mode="daemon"), []
    kernel[(1,)](x, 128)
    call = functools.partial(kernel[(1, 70000)], x, 128)
    with pytest.raises(rl.InvalidArgument, match="grid"):
        launches_with(lambda _: seen.append("enter"), lambda _: seen.append("exit"), call, monkeypatch)
    assert seen == ["enter"]


@pytest.mark.parametrize("grid", [(1,), (0,), (3, 0)])
@pytest.mark.parametrize("quick", [False, True])
def test_arguments_are_converted_whatever_the_grid(client, x, grid, quick):
    kernel = rl.wrap(add_up, mode="daemon")
    if quick:
        kernel[(1,)](x, 3, 4)
    freed = client.zeros(16)
    freed.free()
    before = client.default_stream.status.published
    for _ in range(2):
        with pytest.raises(rl.OutOfRange, match="parameter 'a'"):
            kernel[grid](x, 2**31, 4)
        with pytest.raises(rl.Closed, match="freed"):
            kernel[grid](freed, 3, 4)
        with pytest.raises(rl.OutOfRange, match=r"parameter 'x'.*from 0 to 18446744073709551615, found -16"):
            rl.wrap(of_address, mode="daemon")[grid](-16)
    assert client.default_stream.status.published == before
    of_addresses = rl.wrap(of_address, mode="daemon")
    for address, refused in ((x.address, False), (-16, True), (0, False), (-(2**40), True), (None, False)):
        with pytest.raises(rl.OutOfRange) if refused else contextlib.nullcontext():
            of_addresses[grid](address)
    kernel[grid](x, 3, 4)


def compilations(monkeypatch):
    """What Triton's hooks of compilations are told, from now on."""
    seen = []

    def hook(what):
        return lambda **told: seen.append((what, told["fn"].name, told["compile"]["key"], told["is_manual_warmup"]))

    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", hook("before"))
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", hook("behind"))
    return seen


def test_what_is_warmed_up_is_not_compiled_once_more(client, x, monkeypatch):
    def act(kernel):
        seen = compilations(monkeypatch)
        for _ in range(2):
            kernel.warmup(triton.runtime.jit.MockTensor(tl.float32), 128, grid=(1,))
        warm = len(seen)
        for n in (128, 16, 128, 5, 7):
            kernel[(1,)](x, n)
        kernel.warmup(x, 5, grid=(1,))
        return seen, warm

    seen, warm = same(scale, act)
    assert warm == 2 and len(seen) == 4


def test_a_constant_that_equals_what_was_warmed_up_is_itself(x):
    for warmed, called in ((1, True), (True, 1), (1, 1.0), (0.0, -0.0), ((1,), (True,)), (tl.float32, tl.float16)):
        kernel = rl.wrap(triton.jit(of_constant.fn), mode="daemon")
        with contextlib.suppress(triton.compiler.errors.CompilationError):  # a tuple is nothing to store
            kernel.warmup(x, warmed, grid=(1,))
        with contextlib.suppress(triton.compiler.errors.CompilationError):
            kernel[(1,)](x, called)
            (variant,) = kernel.cache
            assert repr(variant.constants["VALUE"]) == repr(called)


def test_warming_up_names_its_grid_and_takes_types_for_tensors(client, x):
    dtype = type("dtype", (), {"__module__": "torch", "__str__": lambda self: "torch.float32"})()
    before = client.default_stream.status.published

    def act(kernel):
        with pytest.raises(TypeError, match="grid"):
            kernel.warmup(x, 128)
        return kernel.warmup(dtype, 128, grid=(1,)).src.signature["x"], outcome(
            lambda: kernel.warmup(x, 128, grid=(3,))
        )

    assert same(scale, act)[0] == "*fp32"
    assert client.default_stream.status.published == before


def test_a_tuned_kernel_warms_each_of_its_configurations_up(x):
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((32, 1), (64, 2))]
    kernel = rl.wrap(triton.autotune(configs, key=["n"])(scale), mode="daemon")
    found = kernel.warmup(x, 128, grid=(1,))
    assert isinstance(found, list) and [each.metadata.num_warps for each in found] == [1, 2]


@pytest.mark.skipif(importlib.util.find_spec("triton.runtime._async_compile") is None, reason="Triton has no such")
def test_compilations_in_threads(client, x):
    def act(kernel):
        found = []
        with concurrent.futures.ThreadPoolExecutor(2) as pool, _async_compile.AsyncCompileMode(pool):
            found += [outcome(lambda warps=warps: kernel[(1,)](x, num_warps=warps)) for warps in (1, 2, 1)]
            if triton_version >= (3, 9):  # before, this answers what has no hash yet
                found.append(outcome(lambda: kernel.warmup(x, grid=(1,), num_warps=8)))
        return [*found, *(outcome(lambda warps=warps: kernel[(1,)](x, num_warps=warps)) for warps in (1, 8))]

    before = client.default_stream.status.published
    found = same(of_target, act)
    assert len(set(found)) == 3
    assert client.default_stream.status.published == before + 5
    kernel = rl.wrap(of_target, mode="daemon")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, _async_compile.AsyncCompileMode(pool):
        assert "1.0" in kernel[(1,)](x, num_stages=7).asm["ttir"]  # which asks for the target


def test_what_a_hook_was_told_of_is_compiled_ahead(client, x, monkeypatch):
    told = []

    def act(kernel):
        data = data_of[isinstance(kernel, rl._core.TritonKernel)]
        seen = compilations(monkeypatch)
        found = [kernel.preload(data).hash]
        compiled = len(seen)
        found += [outcome(lambda: kernel[(1,)](x, 128, num_warps=2)) for _ in range(2)]
        return found, compiled, len(seen), outcome(lambda: kernel.preload(data.replace("scale", "other")))[0]

    with monkeypatch.context() as patch:
        patch.setattr(knobs.runtime, "jit_cache_hook", lambda **of: told.append(of["compile"]["specialization_data"]))
        theirs, ours = both(scale, lambda kernel: kernel[(1,)](x, 128, num_warps=2).hash)
    data_of = dict(zip((False, True), told))
    found, compiled, seen, error = same(scale, act)
    assert set(found) == {theirs} == {ours} and compiled == seen == 2
    assert error is RuntimeError


def test_a_hook_for_the_stages_of_a_compilation(x, monkeypatch):
    def act(kernel):
        asked, found, now = [], [], [None]

        def hook(*of):
            if of:
                return None
            asked.append(now[0])
            return now[0], now[0]

        for now[0] in ("one", "two", "two", "one"):
            monkeypatch.setattr(knobs.runtime, "add_stages_inspection_hook", hook)
            found.append(outcome(lambda: kernel[(1,)](x, 128)))
        monkeypatch.setattr(knobs.runtime, "add_stages_inspection_hook", None)
        return asked, [*found, *(outcome(lambda: kernel[(1,)](x, 128)) for _ in range(2))]

    asked, found = same(scale, act)
    if "add_stages_inspection_hook" in triton.runtime.JITFunction.run.__code__.co_names:
        assert len(asked) == 6 and found[0] == found[3] != found[1] == found[2] and len(set(found)) == 3
    else:
        assert asked == [] and len(set(found)) == 1
    kernel = rl.wrap(scale, mode="daemon")
    act(kernel)
    before = kernel._slow_calls
    for _ in range(3):
        kernel[(1,)](x, 128)
    assert kernel._slow_calls == before
