"""Calls of Triton kernels: what they launch and answer, what they refuse, and what of Triton's settings they heed."""

import copy
import functools
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from support import WATCHDOG_S, Daemon, in_threads
from triton_support import launch_record, triton, triton_version

import ringlaunch as rl
from ringlaunch import _core

tl = pytest.importorskip("triton.language")

from ringlaunch import _triton  # noqa: E402
from ringlaunch._triton_load import give_scratch  # noqa: E402

DAEMON = "null"

FACTOR = tl.constexpr(3)


@triton.jit
def helper(x):
    return x * FACTOR


@triton.jit
def scale(x, n, by=2.0, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * by, i < n)


@triton.jit
def through_helper(x):
    tl.store(x, helper(tl.load(x)) * FACTOR)


@triton.jit
def with_descriptor(x, n, BLOCK: tl.constexpr):
    described = tl.make_tensor_descriptor(x, [n], [1], [BLOCK])
    described.store([tl.program_id(0) * BLOCK], described.load([tl.program_id(0) * BLOCK]) + 1)


@triton.jit
def numbers_only(a, b):
    pass


@triton.jit
def variadic(x, *rest):
    pass


@pytest.fixture
def kernel():
    return rl.wrap(scale)


@pytest.fixture
def x(client):
    return client.zeros(128)


def test_a_call_answers_the_compiled_kernel_each_time(kernel, x):
    first = kernel[(2,)](x, 128)
    assert isinstance(first, triton.compiler.CompiledKernel)
    assert first.metadata.num_warps == 4 and first.n_regs > 0
    assert kernel[(2,)](x, 128) is first and kernel[(3,)](x, 128, 2.0, 64) is first
    assert kernel._slow_calls == 1


def test_each_call_is_one_launch(client, kernel, x):
    stream = client.stream()
    kernel[(2,)](x, 128, stream=stream)
    before = stream.status.published
    for _ in range(10):
        kernel[(2,)](x, 128, stream=stream)
    assert stream.status.published == before + 10
    stream.synchronize()


def test_a_grid_may_be_any_sequence_or_a_function(kernel, x):
    grids = [(2,), [2], (2, 1), (2, 1, 1, 5), np.array([2, 1]), (np.int64(2),), (True,), range(2, 3)]
    grids += [lambda meta: (meta["n"] // meta["BLOCK"],), lambda meta: [2], functools.partial(lambda meta: (2,))]
    for grid in grids:
        kernel[grid](x, 128)
    kernel[(2,)](x, 128)
    assert kernel._slow_calls == 1
    assert next(iter(kernel.cache)).hits == len(grids) + 1


def test_a_grid_is_asked_for_once_the_call_is_compiled(kernel, x):
    asked = []

    def grid(meta):
        asked.append(len(kernel.cache))
        return (2,)

    with pytest.raises(TypeError):
        kernel[grid](x)
    for by in (2.0, 2.0, 3, 3):
        kernel[grid](x, 128, by)
    assert asked == [1, 1, 2, 2] and kernel._slow_calls == 3


def test_a_buffer_that_the_grid_frees_is_refused(client, kernel, x):
    for ready in (False, True):
        if ready:
            kernel[(2,)](x, 128)
        gone = client.zeros(128)

        def grid(meta, gone=gone):
            gone.free()
            return (2,)

        with pytest.raises(rl.Error, match="freed"):
            kernel[grid](gone, 128)


def test_a_kernel_is_compiled_anew_once_its_caches_are_cleared(kernel, x):
    other = rl.wrap(scale)  # which shares them
    source = scale.src
    first = [each[(2,)](x, 128) for each in (kernel, other)]
    try:
        for number in ("2", "3"):
            scale._unsafe_update_src(source.replace("* by", f"* {number}"))
            scale.device_caches.clear()
            for each in (kernel, other):
                compiled = [each[(2,)](x, 128) for _ in range(3)]
                assert compiled.count(compiled[0]) == 3 and compiled[0] not in first
                assert len(each.cache) == 1
                each[(2,)](x, 128, 3)  # another kind
    finally:
        scale._unsafe_update_src(source)
        scale.device_caches.clear()
    assert "mulf" in kernel[(2,)](x, 128).asm["ttir"]


@pytest.mark.parametrize(
    ("grid", "error", "text"),
    [
        (3, TypeError, r"^kernel 'scale', grid: expected \(x,\), .*, found 3 \(int\)"),
        ((), ValueError, "^kernel 'scale', grid: expected"),
        ((-1,), OverflowError, "^kernel 'scale', grid: expected numbers of blocks from 0"),
        ((2**31,), OverflowError, "^kernel 'scale', grid: expected numbers"),
        (("a",), TypeError, "^kernel 'scale', grid: expected integers"),
        ((1.5,), TypeError, r"^kernel 'scale', grid: expected integers, found \(1.5,\) \(tuple\)"),
        ([2, None], TypeError, r"^kernel 'scale', grid: expected integers, found \[2, None\]"),
        (lambda meta: 3, TypeError, "^kernel 'scale', grid: expected"),
        (lambda meta: (meta["n"] / 64,), TypeError, r"^kernel 'scale', grid: expected integers, found \(2.0,\)"),
        (lambda meta: meta["nothing"], KeyError, "nothing"),
    ],
)
def test_what_is_no_grid_is_refused(kernel, x, grid, error, text):
    for _ in range(2):
        with pytest.raises(error, match=text):
            kernel[grid](x, 128)
        kernel[(1,)](x, 128)


def test_a_grid_without_blocks_launches_nothing(client, kernel, x):
    stream = client.stream()
    for _ in range(2):
        assert kernel[(0, 5)](x, 128, stream=stream) is kernel[(1,)](x, 128)
    assert stream.status.published == 0


def test_a_grid_that_the_device_does_not_have_is_refused(kernel, x):
    for _ in range(2):
        with pytest.raises(rl.InvalidArgument, match="grid"):
            kernel[(1, 70000)](x, 128)


@pytest.mark.parametrize("grid", [(2**30, 4), (65536, 32768), (2**31 - 1, 3), [2**30, 2, 2]])
def test_more_blocks_than_32_bits_count_are_launched_as_they_were_asked_for(client, kernel, x, grid):
    stream = client.stream()
    for i in range(3):
        before = stream.status.published
        kernel[grid](x, 128, stream=stream)
        assert kernel.cache.find(x, 128).hits == i + 1
        shape, _ = launch_record(_core._ring_bytes(stream, before, stream.status.published - before))
        assert shape[:3] == [*grid, 1, 1][:3]


@pytest.fixture
def many(tmp_path):
    """Makes a kernel of so many integers."""

    def make(count):
        path = tmp_path / f"many{count}.py"
        names = ", ".join(f"a{i}" for i in range(count))
        path.write_text(f"import triton\n\n@triton.jit\ndef many{count}({names}): pass\n")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, path.stem)

    return make


@pytest.mark.parametrize("count", [128, 129, 254])
def test_many_parameters(client, many, count, tmp_path):
    stream = client.stream()
    kernel = rl.wrap(many(count))

    def launched(kernel, values):
        before = stream.status.published
        kernel[(3,)](*values[:-1], **{f"a{count - 1}": values[-1]}, stream=stream)
        shape, packed = launch_record(_core._ring_bytes(stream, before, stream.status.published - before))
        assert shape[0] == 3
        return list(np.frombuffer(packed[: 4 * count], np.int32))

    for begin in (17, 33, 49):
        values = [begin + 16 * i for i in range(count)]
        assert launched(kernel, values) == values
    (variant,) = kernel.cache
    assert variant.hits == 3 and kernel._slow_calls == (1 if count <= 128 else 3)
    kernel.save(tmp_path / "file")
    assert launched(rl.load(tmp_path / "file"), values) == values
    with pytest.raises(TypeError, match="argument"):
        kernel[(1,)](*values[:-1], stream=stream)


def test_variants_that_differ_in_alignment_or_constants_are_told_apart(kernel, x):
    kernel[(1,)](x, 128)
    kernel[(1,)](x, 127)
    kernel[(1,)](x[1:], 128)
    kernel[(1,)](x, 128, BLOCK=32)
    lines = [repr(variant) for variant in kernel.cache]
    assert len(set(lines)) == 4
    assert "x: *fp32, a multiple of 16, n: i32, a multiple of 16, " in lines[0] and "BLOCK: 64)" in lines[0]
    assert "x: *fp32, a multiple of 16, n: i32, " in lines[1] and "x: *fp32, n: i32, a multiple of 16" in lines[2]
    assert "BLOCK: 32)" in lines[3]


def test_constants_that_python_does_not_write_are_refused_by_name(kernel, x):
    long = 10**5000
    refused = r"^kernel 'scale', {} '{}': expected a constant of at most \d+ digits, found an integer of 16610 bits"
    for given, what in (({"BLOCK": long}, "parameter"), ({"num_warps": long}, "option")):
        with pytest.raises(rl.OutOfRange, match=refused.format(what, *given)):
            kernel[(1,)](x, 128, **given)
        with pytest.raises(rl.OutOfRange, match=refused.format(what, *given)):
            kernel.warmup(x, 128, **given, grid=(1,))
    with pytest.raises(rl.OutOfRange, match=r"^kernel '\w+', grid: "):
        kernel[(long,)](x, 128)
    kernel[(1,)](x, 128)


def test_variants_that_differ_print_differently(null, client, x):
    @rl.jit(do_not_specialize=["d"])
    def kinds(x, n, t, d, C: tl.constexpr):
        pass

    @rl.jit
    def hinted(x, n: rl.int32):
        pass

    for n in (5, True, 1, None, 2.5, 16, 2**40, 2**63):
        kinds[(1,)](x, n, (1, 2), 3, C=True)
        kinds[(1,)](x[1:], n, (1, 2), 3, C=True)
    for constant in (1, 1.0, "text", None, (1,), tl.float32):
        kinds[(1,)](x, 5, (1, 2), 3, C=constant)
    for pair in ((1, 1), (1, True), (2, 16), (None, 2)):
        kinds[(1,)](x, 5, pair, 3, C=True)
    for options in ({"num_warps": 8}, {"num_stages": 2}, {"enable_fp_fusion": False}, {"maxnreg": 64}):
        kinds[(1,)](x, 5, (1, 2), 3, C=True, **options)
    for n in (5, True, 1, 16):
        hinted[(1,)](x, n)
    with null.connect() as other:
        kinds[(1,)](other.zeros(4), 5, (1, 2), 3, C=True)
        lines = [repr(variant) for variant in kinds.cache]
        assert len(lines) == 31 and len(set(lines)) == 31
        assert sum(f"session {other.daemon.session}," in line for line in lines) == 1
    assert "t: (1, i32), d: i32, not specialized, C: True), 4 warps, session" in lines[0]
    assert sum("enable_fp_fusion=False" in line for line in lines) == 1
    lines = [repr(variant) for variant in hinted.cache]
    assert ["n: i32)" in lines[0], "n: i32, not specialized)" in lines[1], "n: i32, a multiple" in lines[2]] == [
        True
    ] * 3


def test_only_a_variant_of_its_own_is_evicted(kernel, x):
    other = rl.wrap(triton.jit(scale.fn))
    for each in (kernel, other):
        each[(1,)](x, 128)
    (variant,), (anothers,) = kernel.cache, other.cache
    for wrong in (3, None, "scale", variant._core):
        with pytest.raises(rl.ParamTypeError, match="kernel 'scale', variant: expected one of its cache, found"):
            kernel.cache.evict(wrong)
    with pytest.raises(rl.InvalidArgument, match=r"kernel 'scale', variant: .*found another's: <variant"):
        kernel.cache.evict(anothers)
    assert not anothers.evicted and len(other.cache) == len(kernel.cache) == 1
    for _ in range(2):
        kernel.cache.evict(variant)
    assert variant.evicted and len(kernel.cache) == 0


@pytest.mark.parametrize("used", [False, True])
def test_a_copy_of_a_kernel_is_a_kernel(kernel, x, used):
    if used:
        kernel[(1,)](x, 128)
    made = copy.copy(kernel)
    assert type(made) is type(kernel) and made is not kernel and made.__dict__ is not kernel.__dict__
    for _ in range(3):
        made[(1,)](x, 128)
    assert [variant.hits for variant in made.cache] == [3] and len(kernel.cache) == used
    assert copy.copy(rl.wrap(kernel, mode="inline"))._mode == "inline"


def test_more_parameters_than_a_kernel_has_are_refused_by_name(client, many):
    for _ in range(2):
        with pytest.raises(rl.InvalidArgument, match="kernel many255 has 257 parameters, at most 256"):
            rl.wrap(many(255))[(1,)](*range(2, 257))


def test_the_function_of_a_grid_may_change_the_arguments(client, kernel, x):
    stream = client.stream()
    other = client.zeros(64)

    def grid(meta):
        meta["x"] = other
        return (1,)

    for _ in range(3):
        before = stream.status.published
        kernel[grid](x, 128, stream=stream)
        _, packed = launch_record(_core._ring_bytes(stream, before, 1))
        assert int.from_bytes(packed[:8], "little") == other.address


def test_the_function_of_a_grid_may_change_their_order_and_add_some(client, kernel, x):
    stream = client.stream()

    def turned(meta):
        meta["x"] = meta.pop("x")
        return (1,)

    def added(meta):
        meta["more"] = 1
        return (1,)

    for grid in (turned, added, turned):
        before = stream.status.published
        kernel[grid](x, 128, stream=stream)
        shape, packed = launch_record(_core._ring_bytes(stream, before, 1))
        assert shape[0] == 1 and int.from_bytes(packed[:8], "little") == x.address


def test_keywords_are_bound_by_their_names(client, kernel, x):
    """Whatever their order, and however many stand before them. Tuples of names that are equal in one function are one
    object."""
    stream = client.default_stream

    def packed_by(call, *args):
        before = stream.status.published
        call(*args)
        return launch_record(_core._ring_bytes(stream, before, 1))[1]

    def refused(call, text):
        with pytest.raises(TypeError, match=text):
            call()

    expected = packed_by(lambda: kernel[(1,)](x, 128, 3.0, 32))
    assert expected != packed_by(lambda: kernel[(1,)](x, 128))
    names = {"by": 3.0, "BLOCK": 32}
    for _ in range(3):
        found = [
            packed_by(lambda: kernel[(1,)](x, 128, by=3.0, BLOCK=32)),
            packed_by(lambda: kernel[(1,)](x, 128, BLOCK=32, by=3.0)),
            packed_by(lambda: kernel[(1,)](x, n=128, by=3.0, BLOCK=32)),
            packed_by(lambda: kernel[(1,)](x, BLOCK=32, by=3.0, n=128)),
            packed_by(lambda: kernel[(1,)](BLOCK=32, by=3.0, n=128, x=x)),
            packed_by(lambda: kernel[(1,)](x, 128, by=3.0, BLOCK=32, stream=stream)),
        ]
        assert found == [expected] * len(found)
        for given, text in (((x,), "missing"), ((x, 128, 3.0), "multiple values"), ((x, 128, 3.0, 32), "multiple")):
            refused(lambda given=given: kernel[(1,)](*given, by=3.0, BLOCK=32), text)
            refused(lambda given=given: kernel[(1,)](*given, **names), text)
        assert packed_by(lambda: kernel[(1,)](x, 128, **names)) == expected


@pytest.mark.parametrize(
    ("args", "keywords", "text"),
    [
        ((), {}, "missing"),
        (("x", 1, 2, 3, 4), {}, "positional"),
        ((None, 1), {"n": 1}, "multiple values"),
        ((None, "text"), {}, "str"),
    ],
)
def test_what_triton_refuses_is_refused_in_its_words(client, kernel, args, keywords, text):
    with pytest.raises(TypeError, match=text):
        kernel[(1,)](*args, **keywords)


def test_an_unknown_keyword_is_refused_in_tritons_words(kernel, x):
    for _ in range(2):
        with pytest.raises(KeyError, match="nonsense"):
            kernel[(1,)](x, 128, nonsense=1)


def test_a_buffer_that_was_freed_is_refused(kernel, client):
    x = client.zeros(16)
    kernel[(1,)](x, 16)
    x.free()
    with pytest.raises(rl.Closed, match="freed"):
        kernel[(1,)](x, 16)


def test_buffers_and_streams_of_two_clients_are_refused(null, client, kernel, x):
    with null.connect() as other:
        with pytest.raises(rl.InvalidArgument, match="stream of the client"):
            kernel[(1,)](x, 16, stream=other.stream())
        kernel[(1,)](x, 16)
        with pytest.raises(rl.InvalidArgument, match="stream of the client"):
            kernel[(1,)](x, 16, stream=other.stream())
        pair = rl.wrap(numbers_only)
        for _ in range(2):
            with pytest.raises(rl.InvalidArgument, match="another client"):
                pair[(1,)](x, other.zeros(4))
        pair[(1,)](x, x)
        with pytest.raises(rl.InvalidArgument, match="another client"):
            pair[(1,)](x, other.zeros(4))


def test_one_kernel_serves_several_clients(null, client, kernel, x):
    with null.connect() as other:
        y = other.zeros(128)
        for _ in range(3):
            kernel[(1,)](x, 128)
            kernel[(1,)](y, 128)
        assert kernel._slow_calls == 2
        assert sorted(variant.hits for variant in kernel.cache) == [3, 3]
    assert len(kernel.cache) == 1
    with pytest.raises(rl.Closed):
        kernel[(1,)](y, 128)
    kernel[(1,)](x, 128)


def test_without_a_buffer_the_only_client_is_meant(null, client):
    pair = rl.wrap(numbers_only)
    for _ in range(3):
        pair[(1,)](2, 3)
    assert pair._slow_calls == 1
    with null.connect() as other:
        with pytest.raises(rl.InvalidArgument, match="2 open"):
            pair[(1,)](2, 3)
        stream = other.stream()
        for _ in range(3):
            pair[(1,)](2, 3, stream=stream)
        assert stream.status.published == 3
        named = rl.wrap(numbers_only, client=other)
        for _ in range(3):
            named[(1,)](2, 3)
        assert other.default_stream.status.published == 3
    pair[(1,)](2, 3)


def test_without_any_client_the_error_says_what_to_do(null):
    with pytest.raises(rl.InvalidArgument, match=r"none open; ringlaunch.connect"):
        rl.wrap(numbers_only)[(1,)](2, 3)


def test_memory_of_this_process_is_refused(client, kernel):
    class Tensor:
        dtype, device = "float32", "cuda:0"

        def data_ptr(self):
            return 4096

    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=r"parameter 'x'.*Tensor on cuda:0.*client.array"):
            kernel[(1,)](Tensor(), 16, stream=client.default_stream)


def test_the_host_driver_is_refused(host, kernel):
    with host.connect() as client, pytest.raises(rl.Unsupported, match="compiled for x86-64"):
        kernel[(1,)](client.zeros(16), 16)


def test_a_full_ring_is_waited_for(client, kernel, x):
    stream = client.stream(ring_slots=64)
    for _ in range(1000):
        kernel[(1,)](x, 128, stream=stream)
    stream.synchronize()
    assert next(iter(kernel.cache)).hits == 1000


def test_several_threads_may_call_one_kernel(client):
    kernel = rl.wrap(scale)
    buffers = [client.zeros(64, dtype) for dtype in (np.float32, np.float16, np.float64, np.int32)]
    stream = client.stream()

    def work():
        for i in range(300):
            kernel[(1 + i % 3,)](buffers[i % 4], 64 + i % 2, stream=stream, num_warps=1 << i % 3)

    in_threads(*[work] * 4)
    stream.synchronize()
    assert sum(variant.hits for variant in kernel.cache) == 1200


def test_warmup_compiles_and_launches_nothing(client, kernel, x):
    before = client.default_stream.status.published
    compiled = kernel.warmup(x, 128, grid=(1,))
    assert compiled.metadata.name == "scale"
    assert len(kernel.cache) == 0 and client.default_stream.status.published == before


def test_a_keyword_may_be_an_option_or_a_parameter(kernel, x):
    kernel[(1,)](x, 128, num_warps=8)
    kernel[(1,)](x, n=128, BLOCK=32, num_stages=2, maxnreg=64)
    same = {"n": 128, "BLOCK": 32, "num_stages": 2, "maxnreg": 64}
    kernel[(1,)](x, **same)
    first, second = kernel.cache
    assert first.options["num_warps"] == 8 and first.constants == {"BLOCK": 64}
    assert second.options["maxnreg"] == 64 and second.constants == {"BLOCK": 32} and second.hits == 2


def test_a_global_that_changes_is_an_error_until_it_is_as_before(client, kernel, x, monkeypatch):
    through = rl.wrap(through_helper)
    through[(1,)](x)
    through[(1,)](x)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "FACTOR", tl.constexpr(4))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="FACTOR has changed"):
                through[(1,)](x)
        patch.setitem(globals(), "FACTOR", tl.constexpr(3))  # another object, and equal
        through[(1,)](x)
        patch.setattr(FACTOR, "value", 5)  # in the object itself
        with pytest.raises(RuntimeError, match="FACTOR has changed"):
            through[(1,)](x)
        patch.setattr(FACTOR, "value", 3)
        through[(1,)](x)
        patch.delitem(globals(), "FACTOR")
        with pytest.raises(RuntimeError, match="FACTOR has changed"):
            through[(1,)](x)
    through[(1,)](x)


def test_launch_hooks_run_around_each_launch(kernel, x):
    kernel[(1,)](x, 128)
    seen = []
    enter, leave = triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook

    def entered(metadata):
        seen.append(("enter", metadata.get()["name"]))

    def left(metadata):
        seen.append(("exit", metadata.get()["name"]))

    enter.add(entered)
    leave.add(left)
    try:
        kernel[(1,)](x, 128)
        kernel[(1,)](x, 128)
    finally:
        enter.remove(entered)
        leave.remove(left)
    kernel[(1,)](x, 128)
    assert seen == [("enter", "scale"), ("exit", "scale")] * 2


def test_a_pre_run_hook_sees_each_call(x):
    made = triton.jit(scale.fn)
    kernel = rl.wrap(made)
    kernel[(1,)](x, 128)
    seen = []
    made.add_pre_run_hook(lambda *args, **kwargs: seen.append((args, kwargs)))
    kernel[(1,)](x, 128, num_warps=2)
    kernel[(1,)](x, 128, num_warps=2)
    assert len(seen) == 2 and seen[0][0] == (x, 128) and seen[0][1]["num_warps"] == 2


def test_a_debug_setting_is_another_kernel(kernel, x, monkeypatch):
    kernel[(1,)](x, 128)
    with monkeypatch.context() as patch:
        patch.setattr(triton.knobs.runtime, "debug", True)
        kernel[(1,)](x, 128)
    kernel[(1,)](x, 128)
    kernel[(1,)](x, 128, debug=True)
    assert [variant.options["debug"] for variant in kernel.cache] == [False, True]
    assert [variant.hits for variant in kernel.cache] == [2, 2]


def test_a_cache_hook_that_takes_over_launches_nothing(client, kernel, x, monkeypatch):
    seen = []

    def hook(**told):
        seen.append(told["compile"]["num_warps"])
        return True

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", hook)
    for _ in range(2):
        assert kernel[(1,)](x, 128, num_warps=2) is None
    assert seen == [2, 2]
    assert len(kernel.cache) == 0


def test_a_long_compilation_is_noted(kernel, x, monkeypatch, caplog):
    monkeypatch.setattr(_triton, "_NOTE_S", 0.0)
    monkeypatch.setattr(_triton._Noting, "_watched", False)  # who watches already looks again in 5 s
    kernel[(1,)](x, 128, num_stages=5)
    assert "compiling kernel 'scale' for sm_90: 0 s so far" in caplog.text
    assert "compiling kernel 'scale' for sm_90 took" in caplog.text
    caplog.clear()
    kernel[(1,)](x, 128, num_stages=5)
    assert not caplog.text


def test_one_thread_watches_over_all_compilations_and_ends(kernel, x, monkeypatch, caplog):
    def watched_until(seconds, what):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not what():
            time.sleep(0.01)
        return what()

    monkeypatch.setattr(_triton, "_NOTE_S", 0.3)
    monkeypatch.setattr(_triton._Noting, "_watched", False)
    before = len(sys._current_frames())
    with _triton._Noting("early", "sm_90"):
        pass
    time.sleep(0.2)
    begin = time.monotonic()
    with _triton._Noting("late", "sm_90"), _triton._Noting("other", "sm_90"):
        assert len(sys._current_frames()) == before + 1  # the first one's
        assert watched_until(10, lambda: caplog.text.count("so far") == 2)
        assert time.monotonic() - begin >= 0.3
    assert "early" not in caplog.text
    assert watched_until(10, lambda: not _triton._Noting._watched)
    assert watched_until(10, lambda: len(sys._current_frames()) == before)


def test_a_kernel_of_ours_may_be_called_by_another(client, x):
    @rl.jit
    def inner(a):
        return a + 1

    @rl.jit
    def outer(p):
        tl.store(p, inner(tl.load(p)))

    outer[(1,)](x)
    assert isinstance(inner, triton.runtime.JITFunction) and outer._slow_calls == 1


def test_decorators_take_options(client, x):
    @rl.jit(do_not_specialize=["n"])
    def relaxed(p, n):
        tl.store(p + n, 1.0)

    for n in (1, 2, 16):
        relaxed[(1,)](x, n)
    assert relaxed._slow_calls == 1 and len(relaxed.cache) == 1


def test_wrapping_leaves_the_kernel_as_it_was_and_wraps_once(kernel):
    assert type(scale) is triton.runtime.JITFunction
    assert rl.wrap(kernel) is kernel
    assert kernel.fn is scale.fn and kernel.cache_key == scale.cache_key
    with pytest.raises(rl.ParamTypeError, match=r"kernel: expected a kernel of triton.jit"):
        rl.wrap(lambda: None)


@pytest.mark.skipif(
    triton_version < (3, 9),
    reason="variadic kernels came with Triton 3.9",
)
def test_a_variadic_kernel_goes_the_slow_way(client, x):
    kernel = rl.wrap(variadic)
    for _ in range(2):
        kernel[(1,)](x, 2, 2.0, None)
    (variant,) = kernel.cache
    assert variant.hits == 2 and kernel._slow_calls == 2


def test_scratch_memory_is_given_to_each_stream(client):
    kernel = rl.wrap(with_descriptor)
    x, n = client.zeros(1024), 1024
    first, second = client.stream(), client.stream()
    addresses = {}
    for grid in (2, 2, 8, 100, 3):
        for stream in (first, second):
            before = stream.status.published
            compiled = kernel[(grid,)](x, n, BLOCK=64, stream=stream)
            after = stream.status.published
            assert compiled.metadata.global_scratch_size > 0
            _, packed = launch_record(_core._ring_bytes(stream, before, after - before))
            addresses.setdefault(stream, []).append(int.from_bytes(packed[16:24], "little"))
    assert all(address and address % 128 == 0 for each in addresses.values() for address in each)
    assert addresses[first][0] == addresses[first][1] and addresses[first][3] == addresses[first][4]
    assert not set(addresses[first]) & set(addresses[second])
    client.synchronize()


def test_scratch_memory_beyond_any_number_is_refused(client):
    kernel = rl.wrap(with_descriptor)
    x = client.zeros(1024)
    kernel[(1,)](x, 1024, BLOCK=64)
    for _ in range(2):
        with pytest.raises((rl.OutOfRange, rl.OutOfMemory, rl.LimitReached)):
            kernel[(2**31 - 1, 2**31 - 1, 2**31 - 1)](x, 1024, BLOCK=64)


def test_heuristics_compute_what_they_name(client, x):
    kernel = rl.wrap(triton.heuristics({"BLOCK": lambda args: 32 if args["n"] < 100 else 128})(scale))
    kernel[(1,)](x, 50, 2.0)
    kernel[(1,)](x, 128, 2.0)
    kernel[(1,)](x, 128, 2.0)
    blocks = {variant.constants["BLOCK"]: variant.hits for variant in kernel.fn.cache}
    assert blocks == {32: 1, 128: 2}


def test_an_autotuned_kernel_is_tuned_in_the_daemon(client, x):
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((32, 1), (64, 2))]
    made = triton.autotune(configs, key=["n"])(scale)
    kernel = rl.wrap(made)
    kernel[lambda meta: (triton.cdiv(128, meta["BLOCK"]),)](x, 128, 2.0)
    assert len(kernel.fn.cache) == 2 and kernel.best_config in configs
    before = sum(variant.hits for variant in kernel.fn.cache)
    assert before > 2
    kernel[lambda meta: (triton.cdiv(128, meta["BLOCK"]),)](x, 128, 2.0)
    assert sum(variant.hits for variant in kernel.fn.cache) == before + 1
    assert not made.cache


def test_the_cache_tells_of_its_variants_and_lets_go_of_them(kernel, x):
    kernel[(1,)](x, 128)
    kernel[(1,)](x, 1, num_warps=8)
    first, second = kernel.cache
    assert first.signature == {"x": "*fp32", "n": "i32", "by": "fp32", "BLOCK": "constexpr"}
    assert first.attributes == {"x": [["tt.divisibility", 16]], "n": [["tt.divisibility", 16]]}
    assert second.constants == {"n": 1, "BLOCK": 64} and second.options["num_warps"] == 8
    assert first.registers > 0 and first.size > 1000 and first.shared == 0 and first.compile_time > 0
    assert kernel.cache.find(x, 16) is first and kernel.cache.find(x, 16, num_warps=2) is None
    kernel.cache.evict(first)
    assert list(kernel.cache) == [second] and kernel.cache.find(x, 16) is None
    kernel[(1,)](x, 128)
    assert kernel._slow_calls == 3 and len(kernel.cache) == 2
    kernel.cache.clear()
    assert len(kernel.cache) == 0
    kernel[(1,)](x, 128)
    assert len(kernel.cache) == 1


def test_more_variants_than_a_session_may_have_modules_replace_each_other():
    from support import Daemon

    daemon = Daemon("null", "--max-modules", "4")
    try:
        with daemon.connect() as client:
            kernel, x = rl.wrap(scale), client.zeros(16)
            for _ in range(2):
                for block in (16, 32, 64, 128, 256, 512):
                    kernel[(1,)](x, 16, BLOCK=block)
            client.synchronize()
            assert 1 <= len(kernel.cache) <= 4
    finally:
        daemon.stop()


def test_a_kernel_that_nobody_names_any_more_is_collected(client, x):
    kernel = rl.wrap(triton.jit(scale.fn))
    kernel[(1,)](x, 128)
    kernel[(2,)](x, 128)
    kernel[lambda meta: (1,)](x, 128)
    gone = weakref.ref(kernel)
    del kernel
    gc.collect()
    assert gone() is None


def test_a_table_of_many_keys_stays_bounded(client):
    kernel = rl.wrap(numbers_only)
    for i in range(40):
        for _ in range(2):
            kernel[(1,)](2, tl.constexpr(i))
    assert kernel._slow_calls == 40


def test_scratch_memory_stays_until_the_launch_that_waits_with_it_has_gone(monkeypatch):
    given = []

    def remembered(kernel, variant, stream, nbytes):
        given.append(weakref.ref(buffer := give_scratch(kernel, variant, stream, nbytes)))
        return buffer

    monkeypatch.setattr(_triton, "give_scratch", remembered)
    daemon = Daemon("null")
    try:
        with daemon.connect() as client:
            kernel = rl.wrap(with_descriptor)
            x, stream = client.zeros(1024), client.stream(ring_slots=64)
            kernel[(2,)](x, 1024, BLOCK=64, stream=stream)
            (executor,) = Path(f"/proc/{client.daemon.pid}/task/{client.daemon.pid}/children").read_text().split()

            def launch(grid, times):
                for _ in range(times):
                    kernel[(grid,)](x, 1024, BLOCK=64, stream=stream)

            def eventually(holds):
                until = time.monotonic() + WATCHDOG_S
                while not holds():
                    assert time.monotonic() < until
                    time.sleep(0.002)

            os.kill(int(executor), signal.SIGSTOP)
            threads = [threading.Thread(target=launch, args=args) for args in ((2, 100), (200, 1))]
            try:
                threads[0].start()
                eventually(lambda: stream.status.published > 32 and not time.sleep(0.1))
                published = stream.status.published
                assert threads[0].is_alive()
                threads[1].start()
                eventually(lambda: len(given) == 2)
                gc.collect()
                assert stream.status.published == published
                assert given[0]() is not None, "a launch waits with it"
            finally:
                os.kill(int(executor), signal.SIGCONT)
                for thread in threads:
                    if thread.ident is not None:
                        thread.join(WATCHDOG_S)
            stream.synchronize()
            eventually(lambda: given[0]() is None)
    finally:
        daemon.stop()


def test_a_grids_function_that_calls_the_kernel_leaves_the_calls_own_keywords(kernel, x):
    others = []

    def grid(_):
        for _ in range(64):  # each with a tuple of names of its own, at an address of its own
            kernel[(1,)](x, n=128, num_stages=8)
            others.append((None, len(others)))
        return (1,)

    assert kernel[(1,)](x, n=128, num_stages=8).metadata.num_warps == 4
    for _ in range(2):
        compiled = kernel[grid](x, n=128, num_warps=8)
        assert compiled.metadata.num_warps == 8


CALLS_WITHIN_CALLS = """
import sys, threading
import ringlaunch as rl, triton

@triton.jit
def kernel(x, n):
    pass

client = rl.connect(sys.argv[1], start=False)
x, kernel, ends = client.zeros(64), rl.wrap(kernel), []
sys.setrecursionlimit(100_000)
kernel[(1,)](x, 5)

def call(times):
    left = [times]
    def grid(meta):
        left[0] -= 1
        if left[0] >= 0:
            kernel[grid](x, 5)
        return (1,)
    before = client.default_stream.status.published
    try:
        kernel[grid](x, 5)
        ends.append(client.default_stream.status.published - before)
    except RecursionError as error:
        ends.append(str(error).partition(":")[0])

for stack in (512 << 10, 8 << 20):
    for times in (3, 300, 1 << 40):
        threading.stack_size(stack)
        thread = threading.Thread(target=call, args=(times,))
        thread.start()
        thread.join()
print(ends)
"""


def test_calls_within_calls_end_before_the_stack_does(null, tmp_path):
    (tmp_path / "program.py").write_text(CALLS_WITHIN_CALLS)
    command = [sys.executable, tmp_path / "program.py", null.socket]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S)
    assert done.stdout == "[4, \"kernel 'kernel'\", \"kernel 'kernel'\", 4, 301, \"kernel 'kernel'\"]\n", done.stderr


def test_a_graph_keeps_the_buffers_of_its_launches(client):
    stream, addresses = client.stream(), []

    def named():
        buffer = client.empty(1 << 16)
        addresses.append(buffer.address)
        return buffer

    kernel, of_tuples = rl.wrap(scale), rl.wrap(numbers_only)
    with stream.record() as graph:
        for _ in range(2):  # the slow way, and the quick one
            kernel[(1,)](named(), 64, stream=stream)
            of_tuples[(1,)]((named(), (named(), 2)), 3, stream=stream)
    assert len(graph) == 4 and len(set(addresses)) == 6
    client.synchronize()
    others = [client.empty(1 << 16) for _ in range(20)]
    assert not {other.address for other in others} & set(addresses)
    graph.launch()
    stream.synchronize()


def test_a_launch_in_a_graph_keeps_what_its_kernel_was_compiled_for(client, kernel, x):
    stream = client.stream()
    with stream.record() as graph:
        for _ in range(2):  # the slow way, and the quick one
            kernel[(2,)](x, 128, stream=stream)
    for launch in (graph[0], graph[1]):
        with pytest.raises(rl.Unsupported, match="'scale', which was compiled for the arguments"):
            graph.update({launch.number: (x, 127, 2.0, None, None)})
        for shape in ({"block": 64}, {"shared": 64}):
            with pytest.raises(rl.Unsupported, match="only its grid"):
                launch.update(**shape)
        launch.update(grid=5)
        assert launch.grid == (5, 1, 1)
    graph.launch()
    stream.synchronize()


def test_a_graph_refuses_a_kernel_with_scratch_memory(client):
    kernel, x, stream = rl.wrap(with_descriptor), client.zeros(1024), client.stream()

    def recorded():
        with stream.record():
            kernel[(2,)](x, 1024, BLOCK=64, stream=stream)

    for _ in range(2):
        with pytest.raises(rl.Unsupported, match="scratch memory"):
            recorded()
    kernel[(2,)](x, 1024, BLOCK=64, stream=stream)
    stream.synchronize()


def test_settings_that_another_thread_meets_meanwhile_have_a_number_of_their_own(kernel):
    other = rl.wrap(through_helper)

    class Debug:
        def __hash__(self):
            other_numbers.append(_triton._refresh(other)[0])
            return 3

    other_numbers = []
    other.debug, kernel.debug = "another thread's", Debug()
    try:
        assert _triton._refresh(kernel)[0] not in other_numbers and other_numbers
    finally:
        other.debug = kernel.debug = False


def test_of_a_kernel_that_there_is_jit_says_how_it_is_taken():
    tuned = triton.autotune([triton.Config({"BLOCK": 32})], key=["n"])(triton.jit(scale.fn))
    for there in (scale, rl.wrap(scale), tuned, triton.heuristics({"by": lambda meta: 2.0})(scale)):
        for how in (rl.jit, rl.jit(do_not_specialize=["n"])):
            with pytest.raises(rl.ParamTypeError, match=r"^fn: expected a function \(ringlaunch.wrap takes a kernel"):
                how(there)
    with pytest.raises(rl.ParamTypeError, match=r"^fn: expected a function, found 3 \(int\)"):
        rl.jit(3)


def launch_into_a_full_ring(launch):
    for _ in range(1 << 20):
        launch()


@pytest.mark.parametrize("way", ["kill", "terminate"])
def test_a_kernel_outlives_its_daemon(kernel, way):
    daemon = Daemon("null")
    lost = daemon.connect()
    x = lost.zeros(256)
    for n in range(2, 202, 4):
        kernel[(1,)](x, n)
    getattr(daemon.process, way)()
    daemon.process.wait(WATCHDOG_S)
    gone = rf"^launching kernel 'scale': the daemon at {daemon.socket} is gone: it hung up"
    with pytest.raises(rl.DaemonLost, match=gone):
        launch_into_a_full_ring(lambda: kernel[(1,)](x, 6))
    for args in ((x, 2), (x, 16), (x, 2, 2.0, 128)):  # like those before, of another kind, of one not compiled
        with pytest.raises(rl.DaemonLost, match="is gone: it hung up"):
            kernel[(1,)](*args)
    lost.close()
    daemon.stop()


def test_who_lost_a_daemon_launches_on_another(null, kernel):
    daemon = Daemon("null")
    lost = daemon.connect()
    kernel[(1,)](lost.zeros(256), 16)
    numbers = rl.wrap(numbers_only)
    numbers[(1,)](2, 3)  # on the only client
    daemon.process.kill()
    daemon.process.wait(WATCHDOG_S)
    with pytest.raises(rl.DaemonLost):
        launch_into_a_full_ring(lambda: numbers[(1,)](2, 3))
    with null.connect() as client:
        x = client.empty(256)
        for _ in range(3):
            kernel[(1,)](x, 16)
            numbers[(1,)](2, 3)
        assert client.default_stream.status.published == 6
        tuned = triton.autotune([triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=["n"])
        rl.wrap(tuned(triton.jit(scale.fn)))[(1,)](x, 16)  # its tuning waits for clients
        with null.connect(), pytest.raises(rl.InvalidArgument, match="2 open"):
            numbers[(1,)](2, 3)
    with pytest.raises(rl.DaemonLost):
        numbers[(1,)](2, 3)
    lost.close()
    daemon.stop()


def test_a_forked_child_is_refused_and_its_parent_goes_on(null, client, kernel, x):
    for n in range(2, 802, 4):
        kernel[(1,)](x, n)
    assert kernel._slow_calls == 1
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        said = []
        try:
            for args in ((x, 806), (x, 16), (x, 806, 3)):  # like those before, of another kind, of one not compiled
                try:
                    kernel[(1,)](*args)
                    said.append("launched")
                except rl.Closed as error:
                    said.append(str(error))
            with null.connect() as mine:
                y = mine.empty(256)
                for n in range(2, 202, 4):
                    kernel[(1,)](y, n)
                mine.synchronize()
                said.append(f"{mine.default_stream.status.completed} of its own")
        except BaseException as error:
            said.append(repr(error))
        os.write(write_end, "\n".join(said).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as end:
        said = end.read().splitlines()
    os.waitpid(child, 0)
    assert said[0] == "launching kernel 'scale': it belongs to the parent of this forked process; connect anew"
    assert all("belongs to the parent of this forked process; connect anew" in text for text in said[:3]), said
    assert said[3:] == ["50 of its own"], said
    before = client.default_stream.status.published
    for n in range(2, 202, 4):
        kernel[(1,)](x, n)
    client.synchronize()
    assert client.default_stream.status.completed == before + 50 and kernel._slow_calls == 1
