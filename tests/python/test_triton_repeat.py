"""A call that is taken for one like the call before has its key, and launches what it says itself."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_support import launch_record, triton

import ringlaunch as rl
from ringlaunch import _core

tl = pytest.importorskip("triton.language")


@triton.jit
def plain(a, b, c, d, e):
    pass


@triton.jit(do_not_specialize=["a", "c"], do_not_specialize_on_alignment=["b", "d"])
def unspecialized(a, b, c, d, e):
    pass


@triton.jit
def annotated(a: tl.int64, b: tl.float32, c: tl.int32, d: tl.uint64, e: tl.pointer_type(tl.float16)):
    pass


@triton.jit
def compiled_in(a, b: tl.constexpr, c=7, d=2.5, e: tl.constexpr = "text"):
    pass


@triton.jit
def named_like_options(a, b: tl.constexpr, num_warps=7, num_stages: tl.constexpr = 2):
    pass


KERNELS = {each.__name__: each for each in (plain, unspecialized, annotated, compiled_in, named_like_options)}
USUAL = [0, 1, 2, 3, 15, 16, 32, -1, -16, -17, 1000, 1001, 2**30 - 1, -(2**30) + 1, 0.0, 1.0, -0.5, 1e300, math.nan]
UNUSUAL = [True, False, None, 2**30, 2**31, -(2**31), 2**40, 2**63, 2**64 - 1, (1, 2), (), "text", np.float64(1.0)]
UNUSUAL += [tl.constexpr(1), tl.float32, tl.float16, np.int32(16)]
CONSTANTS = [0, 1, 64, 128, 2**40, True, False, None, 0.0, 1.0, 2.5, "text", "relu", "", tl.float32, tl.float16]
CONSTANTS += [(1, 2), tl.constexpr(64)]
OPTIONS = {"num_warps": st.sampled_from([1, 4, 2.0, True]), "num_stages": st.sampled_from([2, 3])}


def check_pairs(name, kernel, memory):
    """Pairs of calls at random, the second much like the first. How many were taken for one, and how many not."""
    value = st.one_of(st.sampled_from(memory), st.sampled_from(USUAL + memory), st.sampled_from(USUAL + UNUSUAL))
    constant = st.sampled_from(CONSTANTS)
    compiles_in = name in ("compiled_in", "named_like_options")
    positional = [value, constant if compiles_in else value]
    optional = dict(OPTIONS)
    if name == "named_like_options":
        optional["maxnreg"] = st.sampled_from([64, 128])
    elif compiles_in:
        optional |= {"c": value, "d": value, "e": constant}
    else:
        positional += [value] * 3
    counts = {None: 0, False: 0, True: 0}

    def near(draw, kind, old):
        how = draw(st.integers(0, 5))
        if how == 0:
            return draw(kind)
        if how < 3 and type(old) is int and abs(old) < 2**62:
            return old + draw(st.sampled_from([16, 32, 1, -1]))
        return old

    @st.composite
    def pairs(draw):
        args = tuple(map(draw, positional))
        keywords = draw(st.fixed_dictionaries({}, optional=optional))
        later = tuple(near(draw, kind, old) for kind, old in zip(positional, args, strict=True))
        return (args, keywords), (later, {name: near(draw, optional[name], old) for name, old in keywords.items()})

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(pairs())
    def check(calls):
        said = kernel._repeat(*calls)
        counts[said if said is None else bool(said)] += 1
        assert not said or said == (True, True, True), calls

    check()
    return counts


@pytest.fixture(scope="module")
def buffers(null):
    with null.connect() as client:
        whole = [client.empty(64, name) for name in ("float32", "int8", "float16")]
        yield [part for each in whole for part in (each, each[1:], each[16:])]


@pytest.mark.parametrize("name", KERNELS)
def test_a_call_taken_for_one_like_another_has_its_key_and_its_own_parameters(name, buffers):
    counts = check_pairs(name, rl.wrap(KERNELS[name]), buffers)
    assert counts[True] > 50 and counts[False] > 50, counts


@pytest.mark.parametrize("name", KERNELS)
def test_so_has_one_of_tensors(name):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        pytest.skip("this torch has its tensors elsewhere")
    whole = [torch.zeros(256), torch.zeros(256, dtype=torch.int8), torch.zeros(256, dtype=torch.float16)]
    memory = [part for each in whole for part in (each, each[1:], each[16:], each.view(torch.int8)[3:])]
    memory += [torch.nn.Parameter(whole[0]), torch.nn.Parameter(whole[0][1:]), torch.zeros(4, device="meta")]
    counts = check_pairs(name, rl.wrap(KERNELS[name], mode="inline"), memory)
    assert counts[True] > 50 and counts[False] > 50, counts


def test_a_tensor_counts_as_it_is_now():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        pytest.skip("this torch has its tensors elsewhere")
    kernel, tensor = rl.wrap(plain, mode="inline"), torch.zeros(64)
    call = ((tensor, 2, 3, 4, 5), {})
    assert kernel._repeat(call, call) == (True, True, True)
    other = ((torch.zeros(64, dtype=torch.float16), 2, 3, 4, 5), {})
    assert kernel._repeat(call, other) is False
    assert kernel._repeat(call, ((torch.zeros(64)[1:], 2, 3, 4, 5), {})) is False
    tensor.resize_(1 << 16)
    assert kernel._repeat(call, call) == (True, True, True)
    assert kernel._repeat(call, ((torch.zeros(64, device="meta"), 2, 3, 4, 5), {})) is False


def test_the_usual_calls_are_taken_for_one_like_another(buffers):
    x, y = buffers[0], buffers[2]

    def is_taken(name, first, second, **keywords):
        said = rl.wrap(KERNELS[name])._repeat((first, keywords), (second, keywords))
        return said == (True, True, True)

    assert is_taken("plain", (x, y, 1000, 16, 1), (y, x, 1002, 32, 1))
    assert is_taken("plain", (3, x, 5, 2.0, 7), (5, y, -3, 0.1, 1001))
    assert is_taken("plain", (2.0, 3, 4, x, None), (0.5, 5, 6, y, None), num_warps=8, num_stages=2)
    assert is_taken("unspecialized", (1, 16, 3, 17, x), (16, 3, 1, 5, y))
    assert is_taken("compiled_in", (x, 64), (y, int("64")), c=5, e="text")
    assert is_taken("compiled_in", (x, tl.float32), (y, tl.float32), c=5)
    assert is_taken("named_like_options", (x, 64), (y, 64), num_stages=5)
    assert is_taken("named_like_options", (x, 64), (y, 64), num_warps=5, num_stages=3)
    assert not is_taken("compiled_in", (x, 64), (y, 65))
    assert not is_taken("compiled_in", (x, 1), (y, True))
    assert not is_taken("plain", (x, 2, 3, 4, 5), (x, 2, 3, 4, 1))
    assert not is_taken("plain", (x, 2, 3, 4, 5), (x, 2, 3, 4, 16))
    assert not is_taken("plain", (x, 2, 3, 4, 5), (buffers[1], 2, 3, 4, 5))
    assert not is_taken("plain", (x, 2, 3, 4, 5), (buffers[3], 2, 3, 4, 5))


# ---- calls


@triton.jit
def kept(x, n, m, by, BLOCK: tl.constexpr):
    pass


@pytest.fixture
def client(null):
    with null.connect() as client:
        yield client


def test_each_call_launches_what_it_says(client):
    kernel, stream = rl.wrap(kept, client), client.default_stream
    x, y = client.empty(64), client.empty(64, "float16")
    rng = np.random.default_rng(5)
    old = None
    for _ in range(600):
        if old is None or rng.random() < 0.2:
            old = [(x, y)[rng.integers(2)], 2, 16, 0.5, int(rng.choice([64, 128]))]
        if rng.random() < 0.3:
            old[0] = (x, y, x[1:], y[8:])[rng.integers(4)]
        old[1:4] = int(rng.choice([1, 3, 16, -5, 2**40])), int(rng.integers(2, 1000)), float(rng.random())
        at, n, m, by, block = old
        grid = int(rng.integers(1, 99))
        before = stream.status.published
        compiled = (
            kernel[(grid,)](at, n, m, by, block) if rng.random() < 0.1 else kernel[(grid,)](at, n, m, by, BLOCK=block)
        )
        variant = next(v for v in kernel.cache if v.compiled is compiled)
        shape, packed = launch_record(_core._ring_bytes(stream, before, stream.status.published - before))
        assert shape[0] == grid
        params = {p[0]: packed[p[2] : p[2] + p[3]] for p in variant._core.kernel._params}
        assert int.from_bytes(params["x"], "little") == at.address
        assert ("n" in params) == (n != 1)
        if n != 1:
            assert int.from_bytes(params["n"], "little", signed=True) == n
        assert int.from_bytes(params["m"], "little", signed=True) == m
        assert np.frombuffer(params["by"], np.float32)[0] == np.float32(by)
    assert kernel._slow_calls < 100
    assert sum(variant.hits for variant in kernel.cache) + kernel._slow_calls >= 600


def test_what_is_looked_at_besides_the_arguments_counts_in_each_call(null, client, monkeypatch):
    kernel, x = rl.wrap(kept, client), client.empty(64)

    def call(buffer=x):
        return kernel[(2,)](buffer, 3, 5, 0.5, BLOCK=64)

    def often():
        slow = None
        for _ in range(200):
            before = kernel._slow_calls
            call()
            slow = kernel._slow_calls - before
        assert slow == 0

    often()
    seen = []
    hook = lambda *args, **keywords: seen.append(1)  # noqa: E731
    kernel.pre_run_hooks.append(hook)
    call()
    assert len(seen) == 1
    kernel.pre_run_hooks.remove(hook)
    often()
    monkeypatch.setenv("TRITON_DEBUG", "1")
    assert call() is not None
    monkeypatch.delenv("TRITON_DEBUG")
    often()
    freed = client.empty(64)
    call(freed)
    freed.free()
    with pytest.raises(rl.Closed):
        call(freed)
    often()
    with null.connect() as other:
        theirs = other.empty(64)
        call(theirs)
        often()
        assert next(v for v in kernel.cache if v.hits).hits > 0
    for variant in list(kernel.cache):
        kernel.cache.evict(variant)
    slow = kernel._slow_calls
    call()
    assert kernel._slow_calls == slow + 1
    often()
    client.close()
    with pytest.raises(rl.Closed):
        call()


def test_a_call_of_another_shape_is_none_like_another(buffers):
    kernel, x = rl.wrap(KERNELS["plain"]), buffers[0]
    call = ((x, 2, 3, 4, 5), {})
    assert kernel._repeat(call, ((x, 2, 3, 4, 5), {})) == (True, True, True)
    for args, keywords in (
        ((), {}),
        ((x, 2), {}),
        ((x, 2, 3, 4), {"num_warps": 4}),
        ((x, 2, 3, 4, 5), {"num_warps": 4}),
    ):
        assert kernel._repeat(call, (args, keywords)) is False
    named = ((x, 2, 3, 4, 5), {"num_warps": 8})
    assert kernel._repeat(named, ((x, 2, 3, 4, 5), {"num_stages": 8})) is False


def test_a_kernel_is_bound_once(buffers):
    kernel = rl.wrap(KERNELS["plain"])
    with pytest.raises(rl.InternalError, match="bound before"):
        kernel.__init__(KERNELS["plain"], None, None)
    assert kernel._repeat(((buffers[0], 2, 3, 4, 5), {}), ((buffers[0], 4, 3, 4, 5), {})) == (True, True, True)
