"""Triton kernels that were saved: what a file launches is what the kernel launched, and what it lacks is refused."""

import json
import math
import os
import random
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from triton_support import has_cuda, launch_record, triton

import ringlaunch as rl
from ringlaunch import _core, _triton_file, _triton_saved

DAEMON = "null"

tl = pytest.importorskip("triton.language")


@triton.jit
def square(x):
    return x * x


@triton.jit
def scale(x, n, by=2.0, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * by, i < n)


@triton.jit
def many(x, y, pair, a, b, c, flag, K: tl.constexpr, KIND: tl.constexpr, NAME: tl.constexpr, F: tl.constexpr):
    first, second = pair
    value = tl.load(x) + first + second + a + b + c
    if flag:
        value += K[0]
    if y is not None:
        value += tl.load(y)
    if NAME == "square":
        value = F(value)
    tl.store(x, value.to(KIND).to(tl.float32))


@triton.jit
def relaxed(x, n, m, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, i.to(tl.float32), i < n + m)


@triton.jit
def annotated(p: "*fp32", n: "i64", f: "fp64", b: "bool", x: tl.const):  # noqa: F722, F821
    if b:
        tl.store(p + n, f + tl.load(x))


@triton.jit
def with_descriptor(x, n, BLOCK: tl.constexpr):
    described = tl.make_tensor_descriptor(x, [n], [1], [BLOCK])
    described.store([tl.program_id(0) * BLOCK], described.load([tl.program_id(0) * BLOCK]) + 1)


@triton.jit
def named_like_an_option(x, num_warps: tl.constexpr):
    tl.store(x, num_warps)


@triton.jit
def constants_only(x, C: tl.constexpr):
    tl.store(x, 1.0)


@pytest.fixture
def x(client):
    return client.zeros(256)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernel.rlt"


def saved(kernel, path):
    kernel.save(path)
    return rl.load(path)


def launched(client, call):
    """Shape and parameters of the launch that a call makes."""
    stream = client.stream()
    call(stream)
    after = stream.status.published
    record = launch_record(_core._ring_bytes(stream, 0, after))
    stream.close()
    return record


def test_a_file_launches_what_the_kernel_launches(client, x, path):
    kernel = rl.wrap(scale)
    y = client.zeros(64, np.float16)
    calls = [
        lambda k, s: k[(2,)](x, 128, stream=s),
        lambda k, s: k[(2, 3)](x, 127, 0.5, stream=s),
        lambda k, s: k[lambda meta: (meta["n"], meta["BLOCK"])](x, n=100, BLOCK=32, by=-1.5, stream=s),
        lambda k, s: k[(1,)](x, 1, stream=s),
        lambda k, s: k[(1,)](x[1:], 1 << 40, BLOCK=128, num_warps=8, stream=s),
        lambda k, s: k[(1,)](y, 16, 3, stream=s, num_stages=2, maxnreg=64),
    ]
    expected = [launched(client, lambda s, call=call: call(kernel, s)) for call in calls]
    loaded = saved(kernel, path)
    for _ in range(2):
        found = [launched(client, lambda s, call=call: call(loaded, s)) for call in calls]
        assert found == expected
    assert loaded._slow_calls == len(calls) == len(loaded.cache)
    for mine, theirs in zip(loaded.cache, kernel.cache):
        assert mine.signature == theirs.signature and mine.constants == theirs.constants
        assert mine.attributes == theirs.attributes and mine.compiled.asm["cubin"] == theirs.compiled.asm["cubin"]
        assert mine.size == theirs.size and mine.shared == theirs.shared and mine.hits == 2
        assert mine.options["num_warps"] == theirs.options["num_warps"]


def test_tuples_none_flags_and_constants_of_all_kinds(client, x, path):
    kernel = rl.wrap(many)
    y = client.zeros(1)
    calls = [
        ((x, y, (3, 0.5), 1, 16, 2**40, True, (4, 5), tl.float16, "square", square), {}),
        ((x, None, (16, 2), 2.0, True, 2**63, False, (4, 5), tl.float16, "other", None), {}),
        ((x, None, (16, 2), 2.0, True, 2**63, False, (4, 6), tl.float32, "other", None), {"num_warps": 1}),
    ]
    expected = [launched(client, lambda s, a=a, k=k: kernel[(1,)](*a, **k, stream=s)) for a, k in calls]
    loaded = saved(kernel, path)
    for _ in range(2):
        found = [launched(client, lambda s, a=a, k=k: loaded[(1,)](*a, **k, stream=s)) for a, k in calls]
        assert found == expected
    assert loaded._slow_calls == 3
    first = next(iter(loaded.cache))
    assert first.constants["K"] == (4, 5) and first.constants["NAME"] == "square" and first.constants["a"] == 1
    loaded[(1,)](x, None, (16, 2), 2.0, True, 2**63, False, (4, 5), rl.float16, "other", None)
    with pytest.raises(rl.NotFound, match=r"KIND: fp64.*holds"):
        loaded[(1,)](x, None, (16, 2), 2.0, True, 2**63, False, (4, 5), tl.float64, "other", None)


def test_what_python_does_not_write_is_in_no_file(client, x, path):
    kernel, long = rl.wrap(many), 10**5000
    usual = [x, None, (16, 2), 2.0, True, 2**63, False, (4, 5), tl.float16, "other", None]
    kernel[(1,)](*usual)
    loaded = saved(kernel, path)
    for value, text in ((long, "an integer of 16610 bits"), ((long, 5), "an object without a repr")):
        given = [*usual[:9], value, *usual[10:]]
        with pytest.raises(rl.NotFound, match=f"holds no variant for .*NAME: {text}"):
            loaded[(1,)](*given)
    with pytest.raises(rl.NotFound, match="num_warps=an integer of 16610 bits"):
        loaded[(1,)](*usual, num_warps=long)
    loaded[(1,)](*usual)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, 0.1, math.inf, -math.inf, math.nan, 1, True, None, "", "é", (), ((1,), 2.0)]
)
def test_each_constant_is_told_from_all_others(client, x, path, value):
    kernel = rl.wrap(constants_only)
    kernel[(1,)](x, value)
    loaded = saved(kernel, path)
    loaded[(1,)](x, value)
    for other in [1, 1.0, True, 0, 0.0, -0.0, False, 2.0, 2, "None", (1,), [], object()]:
        if repr(other) != repr(value):
            with pytest.raises((rl.NotFound, TypeError)):
                loaded[(1,)](x, other)


def test_annotations_and_what_is_not_specialized_stay(client, x, path):
    kernel = rl.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["m"])(relaxed.fn)
    kernel[(1,)](x, 1, 16, BLOCK=64)
    loaded = saved(kernel, path)
    for n, m in [(1, 16), (16, 5), (7, 2)]:
        loaded[(1,)](x, n, m, BLOCK=64)
    assert len(loaded.cache) == 1 and loaded._slow_calls <= 3
    kernel = rl.wrap(annotated)
    flags = [(x, 5, 2.5, True, x), (x, 1, 2, 0, x), (client.zeros(4, np.int32), 16, 1.5, 1, x)]
    expected = [launched(client, lambda s, a=a: kernel[(1,)](*a, stream=s)) for a in flags]
    loaded = saved(kernel, path)
    assert [launched(client, lambda s, a=a: loaded[(1,)](*a, stream=s)) for a in flags] == expected
    assert next(iter(loaded.cache)).signature == {"p": "*fp32", "n": "i64", "f": "fp64", "b": "u1", "x": "*kfp32"}


def test_a_variant_that_assumes_less_serves_and_one_that_assumes_more_does_not(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 17)
    loaded = saved(kernel, path)
    for n in (17, 16, 1, 0, -3):
        shape, packed = launched(client, lambda s, n=n: loaded[(1,)](x, n, stream=s))
        assert int.from_bytes(packed[8:12], "little", signed=True) == n and shape[0] == 1
    assert len(loaded.cache) == 1
    for wrong in (2**31, 2.0, True, None, x):
        with pytest.raises(rl.NotFound, match="n: "):
            loaded[(1,)](x, wrong)
    with pytest.raises(rl.NotFound, match="x: "):
        loaded[(1,)](x[1:], 17)  # all that is there is for pointers divisible by 16
    kernel[(1,)](x, 16)
    kernel[(1,)](x, 1)
    loaded = saved(kernel, path)
    for n, assumed in ((16, {"n": [["tt.divisibility", 16]]}), (1, {}), (5, {})):
        loaded[(1,)](x, n)
        chosen = loaded.cache.find(x, n)
        assert {"x": [["tt.divisibility", 16]], **assumed} == chosen.attributes
        assert ("n" in chosen.constants) == (n == 1)


def test_what_the_file_does_not_hold_is_named_with_what_it_holds(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 128)
    kernel[(1,)](x, 128, BLOCK=128, num_warps=2)
    loaded = saved(kernel, path)
    for _ in range(2):
        with pytest.raises(rl.NotFound) as found:
            loaded[(1,)](client.zeros(4, np.float64), 3, BLOCK=32, num_warps=8)
    said = str(found.value)
    assert "kernel 'scale'" in said and str(path) in said
    assert "(x: *fp64, a multiple of 16, n: i32, by: fp32, BLOCK: 32, num_warps=8)" in said
    assert "(x: *fp32, a multiple of 16, n: i32, a multiple of 16, by: fp32, BLOCK: 128, num_warps=2)" in said
    assert "save it anew" in said
    assert loaded.cache.find(client.zeros(4, np.float64), 3) is None
    loaded[(1,)](x, 128)


@pytest.mark.parametrize(
    ("args", "keywords", "text"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3, 4, 5), {}, "too many positional"),
        ((1, 2), {"n": 3}, "multiple values for argument 'n'"),
        ((1, 2), {"nonsense": 3}, "no parameter or option 'nonsense'.*x, n, by, BLOCK.*num_warps.*stream"),
    ],
)
def test_a_call_that_does_not_fit_the_parameters_is_refused(client, x, path, args, keywords, text):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 128)
    loaded = saved(kernel, path)
    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=f"(?s)kernel 'scale'.*{text}"):
            loaded[(1,)](*args, **keywords)


def test_a_parameter_that_is_named_like_an_option_is_both(client, x, path):
    kernel = rl.wrap(named_like_an_option)
    kernel[(1,)](x, num_warps=2)
    loaded = saved(kernel, path)
    assert loaded[(1,)](x, num_warps=2).metadata.num_warps == 2
    with pytest.raises(rl.NotFound):
        loaded[(1,)](x, 2)  # by position it is the parameter alone


def test_scratch_memory_is_given_as_the_file_says(client, x, path):
    kernel = rl.wrap(with_descriptor)
    kernel[(2,)](x, 256, BLOCK=64)
    loaded = saved(kernel, path)
    stream = client.stream()
    _, packed = launched(client, lambda s: loaded[(100,)](x, 256, BLOCK=64, stream=s))
    scratch = int.from_bytes(packed[16:24], "little")
    assert scratch and scratch % 128 == 0
    stream.synchronize()


def tuned_scale(configs=None, **options):
    configs = configs or [triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 128}, num_warps=2)]
    plain = triton.jit(scale.fn)
    return rl.wrap(triton.autotune(configs, key=["n"], **options)(plain))


def test_a_tuned_kernel_launches_what_was_found_best(client, x, path):
    kernel = tuned_scale()
    with pytest.raises(rl.InvalidArgument, match="was not tuned yet"):
        kernel.save(path)
    y = client.zeros(64, np.float16)
    calls = [
        lambda k, s: k[lambda meta: (meta["BLOCK"],)](x, 100, stream=s),
        lambda k, s: k[(3,)](y, n=7, by=0.5, stream=s),
    ]
    for call in calls:
        call(kernel, None)
    expected = [launched(client, lambda s, call=call: call(kernel, s)) for call in calls]
    chosen = {config.kwargs["BLOCK"] for config in kernel.cache.values()}
    assert kernel.save(path) == 2 * len(chosen)  # two kinds of arguments, each with what is best for one of them
    loaded = rl.load(path)
    assert isinstance(loaded, _triton_saved.SavedTunedKernel) and "tuned for 2 keys" in repr(loaded)
    for _ in range(2):
        assert [launched(client, lambda s, call=call: call(loaded, s)) for call in calls] == expected
    assert loaded.fn._slow_calls == 2
    with pytest.raises(
        rl.NotFound, match=r"was not tuned for \(n.*\) = \(101, 'float32'\); it was for \(100, 'float32'\)"
    ):
        loaded[(1,)](x, 101)
    with pytest.raises(TypeError, match="BLOCK"):
        loaded[(1,)](x, 100, BLOCK=32)


def test_a_single_configuration_needs_no_key(client, x, path):
    kernel = tuned_scale([triton.Config({"BLOCK": 16}, num_warps=1, num_stages=2)])
    kernel[(1,)](x, 5)
    kernel.save(path)
    loaded = rl.load(path)
    assert loaded[(1,)](x, 7).metadata.num_warps == 1 and next(iter(loaded.fn.cache)).constants["BLOCK"] == 16


@triton.jit
def guarded(x, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(x + i, 1.0)
    else:
        tl.store(x + i, 2.0, i < n)


def is_even(args):
    return args["n"] % args["BLOCK"] == 0


CONFIGS = [triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})]
LAYERS = {
    "heuristics": lambda kernel: triton.heuristics({"BLOCK": lambda args: 32, "EVEN": is_even})(kernel),
    "tuned heuristics": lambda kernel: triton.autotune(CONFIGS, key=["n"])(
        triton.heuristics({"EVEN": is_even})(kernel)
    ),
    "heuristics of a tuned one": lambda kernel: triton.heuristics({"EVEN": lambda args: args["n"] % 32 == 0})(
        triton.autotune(CONFIGS, key=["n", "EVEN"])(kernel)
    ),
}


@pytest.mark.parametrize("layers", LAYERS)
def test_heuristics_are_given_again_when_a_kernel_is_loaded(client, x, path, layers):
    kernel = rl.wrap(LAYERS[layers](triton.jit(guarded.fn)))
    for n in (64, 70):
        kernel[(2,)](x, n)
    expected = [launched(client, lambda s, n=n: kernel[(2,)](x, n, stream=s)) for n in (64, 70)]
    assert kernel.save(path) >= 2
    even = is_even if "heuristics of" not in layers else lambda args: args["n"] % 32 == 0
    functions = {"EVEN": even} if "tuned" in layers else {"BLOCK": lambda args: 32, "EVEN": even}
    loaded = rl.load(path, heuristics=functions)
    for _ in range(2):
        assert [launched(client, lambda s, n=n: loaded[(2,)](x, n, stream=s)) for n in (64, 70)] == expected
    without = rl.load(path)
    block = {} if "tuned" in layers else {"BLOCK": 32}
    chosen = {64: True, 70: False}
    given = [launched(client, lambda s, n=n: without[(2,)](x, n, EVEN=chosen[n], stream=s, **block)) for n in (64, 70)]
    assert given == expected
    with pytest.raises(rl.ParamTypeError, match=r"'EVEN' was chosen by a function.*load\(heuristics="):
        without[(2,)](x, 64, **block)
    assert "SavedHeuristicKernel" in repr(loaded)


def test_functions_that_no_heuristic_has_are_refused(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 4)
    kernel.save(path)
    with pytest.raises(rl.InvalidArgument, match=r"expected functions for nothing.*found 'EVEN'"):
        rl.load(path, heuristics={"EVEN": is_even})
    with pytest.raises(rl.ParamTypeError, match="heuristics: expected None or a dict of functions"):
        rl.load(path, heuristics={"EVEN": True})


class Tensor:
    dtype = "float32"

    def __init__(self, address=4096):
        self.address = address

    def data_ptr(self):
        return self.address


def test_its_mode_is_chosen_as_that_of_any_kernel(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 4)
    kernel.save(path)
    with pytest.raises(rl.InvalidArgument, match="mode: expected 'daemon', 'inline' or 'embedded', found 'ring'"):
        rl.load(path, mode="ring")
    with pytest.raises(rl.InvalidArgument, match="mode: expected 'daemon' or None beside a client"):
        rl.load(path, client, mode="inline")
    with pytest.raises(rl.Error, match=r"expected a Buffer|for \(x"):
        rl.load(path, mode="daemon")[(1,)](Tensor(), 4)
    assert rl.load(path)[(1,)](x, 4) is not None


@pytest.mark.skipif(has_cuda(), reason="libcuda.so.1 is installed here: tests/gpu/test_triton_files.py")
def test_inline_without_a_gpu_is_refused(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 4)
    kernel.save(path)
    text = (
        r"kernel 'scale': an inline launch is one in this program.*libcuda\.so\.1.*have a daemon launch it on its GPU"
    )
    for _ in range(2):
        with pytest.raises(rl.Unsupported, match=text):
            rl.load(path)[(1,)](Tensor(), 4)
        with pytest.raises(rl.Unsupported, match=text):
            rl.load(path, mode="inline")[(1,)](0, 4)
    with pytest.raises(rl.ParamTypeError, match="a tensor of this program, to launch inline"):
        rl.load(path, mode="inline")[(1,)](x, 4)


def test_tuning_that_runs_code_of_the_program_cannot_be_saved(client, x, path):
    kernel = tuned_scale([triton.Config({"BLOCK": 16}, pre_hook=lambda args: None)])
    kernel[(1,)](x, 5)
    with pytest.raises(rl.Unsupported, match="pre_hook"):
        kernel.save(path)


def test_warming_up_is_enough_to_save(client, x, path):
    kernel = rl.wrap(scale)
    with pytest.raises(rl.InvalidArgument, match="nothing of it is compiled"):
        kernel.save(path)
    assert not path.exists()
    kernel.warmup(x, 128, grid=(1,))
    kernel.warmup(x, 5, grid=(1,), num_warps=8)
    assert kernel.save(path) == 2
    loaded = rl.load(path)
    assert loaded[(1,)](x, 5, num_warps=8).metadata.num_warps == 8
    assert len(loaded.saved) == 2 and "2 variants" in repr(loaded)


def test_one_file_holds_several_architectures(client, x, path, monkeypatch):
    kernel = rl.wrap(scale)
    for architecture in ("sm80", "sm90"):
        monkeypatch.setenv("TRITON_OVERRIDE_ARCH", architecture)
        kernel.warmup(x, 128, grid=(1,))
    kernel.save(path)
    loaded = rl.load(path)
    assert [each.architecture for each in loaded.saved] == [80, 90]

    def on(architecture):
        told = client.daemon._replace(driver="cuda", device_name="a GPU", architecture=architecture)
        return loaded._for_device(SimpleNamespace(daemon=told))

    assert on("sm_80") == [0] and on("sm_90") == [1] and on("any") == [0, 1]
    with pytest.raises(rl.Unsupported, match=r"a GPU \(sm_120\).*sm_80, sm_90.*TRITON_OVERRIDE_ARCH=sm120"):
        on("sm_120")


def test_the_host_driver_is_refused(host, client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 128)
    kernel.save(path)
    with host.connect() as other:
        with pytest.raises(rl.Unsupported, match=r"compiled for x86-64"):
            rl.load(path, client=other)
        with pytest.raises(rl.Unsupported, match=r"compiled for x86-64"):
            rl.load(path)[(1,)](other.zeros(4), 4)


def test_clients_streams_and_buffers_are_checked_as_ever(null, client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 16)
    loaded = saved(kernel, path)
    with null.connect() as other:
        y = other.zeros(16)
        for _ in range(2):
            loaded[(1,)](x, 16)
            loaded[(1,)](y, 16)
        with pytest.raises(rl.InvalidArgument, match="stream of the client"):
            loaded[(1,)](x, 16, stream=other.stream())
        with pytest.raises(rl.ParamTypeError, match="a ringlaunch Stream"):
            loaded[(1,)](x, 16, stream=3)
        assert [each.hits for each in loaded.cache] == [2, 2]
    with pytest.raises(rl.Closed):
        loaded[(1,)](y, 16)
    loaded[(1,)](x, 16)
    assert len(loaded.cache) == 1
    loaded.cache.clear()
    loaded[(1,)](x, 16)
    x.free()
    with pytest.raises(rl.Closed, match="freed"):
        loaded[(1,)](x, 16)
    with pytest.raises(rl.ParamTypeError, match="client: expected None or a Client"):
        rl.load(path, client=3)


def test_memory_of_this_process_is_refused(client, x, path):
    class Tensor:
        dtype, device = "float32", "cuda:0"

        def data_ptr(self):
            return 4096

    kernel = rl.wrap(scale)
    kernel[(1,)](x, 16)
    loaded, before = saved(kernel, path), client.default_stream.status.published
    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=r"kernel 'scale', parameter 'x'.*Tensor on cuda:0.*client.array"):
            loaded[(1,)](Tensor(), 16, stream=client.default_stream)
    assert client.default_stream.status.published == before


def test_it_runs_where_triton_cannot_be_imported(null, client, x, path):
    kernel = rl.wrap(scale)
    kernel[(2,)](x, 128)
    shape, packed = launched(client, lambda s: kernel[(2,)](x, 100, 4.0, stream=s))
    kernel.save(path)
    program = """
import sys
sys.modules["triton"] = None  # importing it raises ModuleNotFoundError
import ringlaunch as rl
from ringlaunch import _core

try:
    import triton
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("triton was imported")
with rl.connect(sys.argv[1], start=False) as client:
    x, stream = client.zeros(256), client.stream()
    scale = rl.load(sys.argv[2])
    for _ in range(3):
        compiled = scale[lambda meta: (2,)](x, 100, 4.0, stream=stream)
    stream.synchronize()
    assert compiled.metadata.num_warps == 4 and scale._slow_calls == 1
    assert not [name for name in sys.modules if name.partition(".")[0] == "triton" and sys.modules[name] is not None]
    print(x.address, _core._ring_bytes(stream, 2, 1).hex())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, null.socket, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    address, record = done.stdout.split()
    there = launch_record(bytes.fromhex(record))
    assert there[0] == shape and there[1][8:] == packed[8:]
    assert there[1][:8] == int(address).to_bytes(8, "little")


def test_what_no_file_can_hold_is_refused_and_leaves_the_old_file(client, x, path):
    kernel = rl.wrap(constants_only)
    kernel[(1,)](x, 1)
    kernel.save(path)
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        kernel.save(path.parent / "nowhere" / "file")

    class Odd:
        pass

    kernel[(1,)](x, Odd())
    with pytest.raises(rl.Unsupported, match=r"saving kernel 'constants_only', parameter 'C'.*Odd"):
        kernel.save(path)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_has_the_rights_of_any_other_and_no_thread_sees_another_mask(client, x, path, monkeypatch):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 16)
    other = path.with_name("other")
    other.touch()

    def umask(_):
        raise AssertionError("it is the whole process's")

    monkeypatch.setattr(os, "umask", umask)
    kernel.save(path)
    assert path.stat().st_mode == other.stat().st_mode
    assert sorted(each.name for each in path.parent.iterdir()) == sorted((path.name, other.name))


def test_the_same_kernels_make_the_same_file(client, x, tmp_path):
    files = []
    for number in range(2):
        kernel = rl.wrap(scale)
        kernel[(1,)](x, 16)
        kernel[(1,)](x, 17)
        kernel.save(tmp_path / str(number))
        files.append((tmp_path / str(number)).read_bytes())
    assert files[0] == files[1]


def test_what_triton_compiles_twice_stands_in_a_file_once(client, x, path):
    @rl.jit
    def hinted(x, n: rl.int32):
        pass

    for n in (5, 1, 16):
        hinted[(1,)](x, n)
    assert len(hinted.cache) == 3 and hinted.save(path) == 2
    loaded = rl.load(path)
    for n in (5, 1, 16, True):
        loaded[(1,)](x, n)
    assert len(loaded.cache) == 2 and len({repr(variant) for variant in loaded.cache}) == 2
    with pytest.raises(rl.NotFound) as refusal:
        loaded[(1,)](x[1:], 5)
    held = str(refusal.value).splitlines()[1:-1]
    assert [line.strip() for line in held] == [
        "(x: *fp32, a multiple of 16, n: i32)",
        "(x: *fp32, a multiple of 16, n: i32, a multiple of 16)",
    ]


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(client, x, tmp_path):
    kernel = rl.wrap(triton.jit(scale.fn))
    kernel[(1,)](x, 128)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, error in (
        ("nowhere/file", FileNotFoundError),
        ("folder", IsADirectoryError),
        ("file/in", NotADirectoryError),
    ):
        with pytest.raises(error) as refusal:
            kernel.save(tmp_path / name)
        assert str(refusal.value).endswith(f": {str(tmp_path / name)!r}")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and not os.listdir(tmp_path / "folder")


def test_the_format_is_as_documented(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 16, num_warps=8)
    kernel.save(path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("kernel.json"))
        (variant,) = manifest["variants"]
        assert archive.read(variant["image"])[:4] == b"\x7fELF"
        assert archive.testzip() is None
    assert manifest["format"] == "ringlaunch triton kernel" and manifest["version"] == 1
    assert [param["name"] for param in manifest["parameters"]] == ["x", "n", "by", "BLOCK"]
    assert manifest["parameters"][2]["default"] == {"float": "0x1.0000000000000p+1"}
    assert variant["signature"] == {"x": "*fp32", "n": "i32", "by": "fp32", "BLOCK": "constexpr"}
    assert variant["constants"] == [[[3], 64]] and variant["options"] == {"num_warps": 8}
    assert variant["attributes"] == [[[0], [["tt.divisibility", 16]]], [[1], [["tt.divisibility", 16]]]]


@pytest.fixture
def whole(client, x, path):
    kernel = rl.wrap(scale)
    kernel[(1,)](x, 16)
    kernel.save(path)
    return path.read_bytes()


def rewritten(path, whole, change):
    """The file with another manifest."""
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(entries["kernel.json"])
    changed = change(manifest)
    entries["kernel.json"] = json.dumps(manifest if changed is None else changed).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_a_file_of_a_newer_format_is_refused(path, whole):
    rewritten(path, whole, lambda manifest: manifest.update(version=4, made_by={"ringlaunch": "9.9"}))
    with pytest.raises(rl.Unsupported, match=r"version 4, made by ringlaunch 9.9.*reads up to version 3"):
        rl.load(path)


@pytest.mark.parametrize("length", [0, 1, 22, 100, 1000, -1, -23])
def test_a_file_that_was_cut_is_refused(path, whole, length):
    path.write_bytes(whole[:length])
    with pytest.raises(rl.BadImage, match=r"damaged.*save it anew"):
        rl.load(path)


def test_a_file_with_a_byte_changed_is_refused_or_means_the_same(path, whole):
    path.write_bytes(whole)
    expected = _triton_file.read(path)
    rng = random.Random(1)
    refused = 0
    for at in [*range(100), *rng.sample(range(len(whole)), 300), *range(len(whole) - 200, len(whole))]:
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = _triton_file.read(path)
        except rl.BadImage:
            refused += 1
        else:
            assert found == expected
    assert refused > 300


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: 5,
        lambda m: m.pop("variants"),
        lambda m: m.update(version="1"),
        lambda m: m.update(version=True),
        lambda m: m.update(kernel=None),
        lambda m: m.update(options=[]),
        lambda m: m["options"].update(num_warps=[]),
        lambda m: m["parameters"].append(m["parameters"][0]),
        lambda m: m["parameters"].pop(),
        lambda m: m["parameters"][0].update(constexpr=0),
        lambda m: m["parameters"][0].update(keyword_only=True),
        lambda m: m["parameters"][0].update(name="no name"),
        lambda m: m["parameters"][0].update(default=1),
        lambda m: m["parameters"][2].update(default={"float": "x"}),
        lambda m: m["parameters"][2].update(default=[1]),
        lambda m: m["variants"].append(None),
        lambda m: m["variants"][0].update(image="images/other"),
        lambda m: m["variants"][0].update(sha256="00"),
        lambda m: m["variants"][0].update(bytes=3),
        lambda m: m["variants"][0].update(signature={}),
        lambda m: m["variants"][0]["signature"].update(x=3),
        lambda m: m["variants"][0].update(constants=[[[9], 1]]),
        lambda m: m["variants"][0].update(constants=[[[], 1]]),
        lambda m: m["variants"][0].update(constants=[1]),
        lambda m: m["variants"][0].update(constants=[[[3], {"tuple": [{}]}]]),
        lambda m: m["variants"][0].update(attributes=[[[0], 3]]),
        lambda m: m["variants"][0].update(num_warps=0),
        lambda m: m["variants"][0].update(num_ctas=-1),
        lambda m: m["variants"][0].update(shared=2**40),
        lambda m: m["variants"][0].update(architecture="sm_90"),
        lambda m: m["variants"][0].update(tensor_maps=[[0, 4, 7, [16]]]),
        lambda m: m["variants"][0].update(tensor_maps={}),
        *(
            lambda m, bad=bad: (
                m["variants"][0].update(tensor_maps=[bad]),
                m["variants"][0]["signature"].update(x="tensordesc<fp32[16]>"),
            )
            for bad in ([0, 4, 7], [0, 4, 7, []], [0, 4, 7, [0]], [0, 4, -1, [16]], [0, 4, 7, [16] * 6], None)
        ),
        lambda m: m.update(tuned=None),
        lambda m: m.update(tuned={"key": ["n"], "choices": []}),
        lambda m: m.update(tuned={"key": [1], "choices": [{"key": [], "config": {}}]}),
        lambda m: m.update(tuned={"key": None, "choices": [{"key": [], "config": {"BLOCK": []}}]}),
    ],
)
def test_a_file_that_says_nonsense_is_refused(path, whole, change):
    def changed(manifest):
        found = change(manifest)
        return found if found in ([], 5) else None

    rewritten(path, whole, changed)
    with pytest.raises(rl.BadImage, match="reading"):
        rl.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(entry="another"),
        lambda v: v["signature"].update(n="i64"),
        lambda v: v["signature"].update(x="tensordesc<fp32[8]>"),
    ],
)
def test_a_file_that_fits_no_call_launches_nothing(client, x, path, whole, change):
    rewritten(path, whole, lambda manifest: change(manifest["variants"][0]))
    loaded, stream = rl.load(path), client.stream()
    if loaded.saved[0].entry == "scale":
        with pytest.raises(rl.NotFound):
            loaded[(1,)](x, 16, stream=stream)
        assert stream.status.published == 0


def test_tensor_maps_are_in_a_file_as_they_were(path, whole):
    """What they are for is tested where they are launched: test_triton_here.py."""
    saved = _triton_file.read(path)
    maps = ((3, 4, 7, (16, 32)),)
    signature = {**saved.variants[0].signature, "x": "tensordesc<fp32[16, 32]>"}
    variant = saved.variants[0]._replace(signature=signature, tensor_maps=maps)
    _triton_file.write(path, saved._replace(variants=(variant,)), {})
    assert _triton_file.read(path).variants[0].tensor_maps == maps
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("kernel.json"))["version"] == 3


@pytest.mark.parametrize(
    "metas",
    [
        [],
        [{"fp4_padded": True, "swizzle": 0, "elem_size": 1, "elem_type": 0, "block_size": [16]}],
        [{"fp4_padded": False, "is_im2col": True, "swizzle": 0, "elem_size": 1, "elem_type": 0, "block_size": [16]}],
    ],
    ids=["before sm_90", "fp4", "im2col"],
)
def test_tensor_descriptors_that_no_file_can_hold_are_refused(metas):
    from ringlaunch import _triton_save

    metadata = SimpleNamespace(tensordesc_meta=metas)
    with pytest.raises(rl.Unsupported, match=r"saving kernel 'scale': of tensor descriptors, files hold"):
        _triton_save._tensor_maps(scale, {"x": "tensordesc<u8[16]>", "n": "i32"}, metadata)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            (3, [8], [1], [8]),
            rl.ParamTypeError,
            "TensorDescriptor: expected a Buffer or a tensor of this program, found 3",
        ),
        (
            (Tensor(16), [8, 8], [1], [8, 8]),
            rl.InvalidArgument,
            r"found shape \(8, 8\), strides \(1,\), block \(8, 8\)",
        ),
        ((Tensor(16), [], [], []), rl.InvalidArgument, "1 to 5"),
        ((Tensor(16), [8, 8], [1, 8], [8, 8]), rl.InvalidArgument, "last stride of 1"),
        ((Tensor(8), [8], [1], [8]), rl.InvalidArgument, "multiple of 16, found 1 and 0x8"),
        ((Tensor(16), [8], [1], [8], "one"), rl.InvalidArgument, "padding: expected 'zero' or 'nan', found 'one'"),
    ],
)
def test_a_tensor_descriptor_is_checked(given, error, text):
    with pytest.raises(error, match=text):
        rl.TensorDescriptor(*given)


def test_what_is_no_file_of_ours_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        rl.load(path)
    path.write_bytes(b"nothing at all")
    with pytest.raises(rl.BadImage, match="no zip archive"):
        rl.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel.json", "{}")
    with pytest.raises(rl.BadImage, match=r"not of a Triton kernel that kernel.save\(\) wrote"):
        rl.load(path)
    with pytest.raises(rl.ParamTypeError, match="path: expected a path"):
        rl.load(5)
