"""Tuned kernels: calls find their configuration as Triton's Autotuner.run does, without it."""

import copy
import functools
import pickle
import random

import numpy as np
import pytest
from triton_support import triton

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from triton.runtime import autotuner  # noqa: E402

from ringlaunch import _triton_tune  # noqa: E402

DAEMON = "null"
NAMES = ["x", "y", "n", "m", "BLOCK", "EVEN"]
CONFIGS = [
    triton.Config({"BLOCK": 16}),
    triton.Config({"BLOCK": 32, "EVEN": True}, num_warps=8, num_stages=2, maxnreg=64),
    triton.Config({}, num_ctas=2),
]


class Recorder:
    """In place of a kernel: what it is called with."""

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.calls.append((grid, args, kwargs))

    def run(self, *args, grid, warmup, **kwargs):
        self[grid](*args, **kwargs)


class Typed:
    def __init__(self, dtype):
        self.dtype = dtype


def tuner_of(kind=_triton_tune.TunedKernel, key=("n", "m"), configs=CONFIGS):
    made = triton.autotune(list(configs), key=[])(scale)
    made.__class__ = kind
    made.arg_names, made.keys = NAMES, list(key)
    made.fn = Recorder()
    return made


def wrong_run(*_, **__):
    raise AssertionError("asked Triton")


VALUES = [0, 1, 2, 2**40, 2**70, True, False, None, 0.0, 1.0, float("nan"), "text", -3]
TENSORS = [Typed(np.dtype("float32")), Typed("float32"), Typed(np.dtype(">f4")), Typed(7), np.float32(3), np.ones(2)]


def random_call(pick):
    """Arguments of all kinds, by position and by name, some not given."""
    positional = pick.randrange(5)
    values = {name: pick.choice(TENSORS + VALUES if name in "xy" else VALUES) for name in NAMES[:4]}
    if pick.randrange(8) == 0:
        values["m"] = pick.choice([(1, 2), np.int64(3), [4], TENSORS[0]])  # that only Triton looks up
    args = tuple(values[name] for name in NAMES[:positional])
    kwargs = {name: values[name] for name in NAMES[positional:4] if pick.randrange(4)}
    if pick.randrange(4) == 0:
        kwargs |= pick.choice([{"num_warps": 4}, {"BLOCK": 64}, {"stream": None}, {"EVEN": False}])
    return args, dict(pick.sample(list(kwargs.items()), len(kwargs)))


def outcome(tuner, call, args, kwargs):
    try:
        call(*args, **kwargs)
    except TypeError as error:
        return str(error).partition("(")[0].partition(" got ")[2] or "unhashable"
    return tuner.fn.calls.pop(), tuner.best_config


@pytest.mark.parametrize("key", [("n", "m"), (), ("m", "x"), ("BLOCK", "n")], ids=str)
@pytest.mark.parametrize("configs", [CONFIGS, CONFIGS[:1], CONFIGS[1:2]], ids=len)
def test_calls_are_what_they_are_in_triton(key, configs):
    pick = random.Random(len(configs))
    tuner = tuner_of(key=key, configs=configs)
    tuner._bench = lambda *args, config, **kwargs: [0.0] if config is pick.choice(tuner.configs) else [1.0]
    triton_run = functools.partial(autotuner.Autotuner.run, tuner, grid=(3,), warmup=False)
    for _ in range(1500):
        args, kwargs = random_call(pick)
        expected = outcome(tuner, triton_run, args, kwargs)
        # NaN is in no dictionary a second time.
        for _ in range(2):
            found = outcome(tuner, tuner[(3,)], args, kwargs)
            if "nan" in repr((args, kwargs)):
                continue
            assert repr(found) == repr(expected), (args, kwargs)


def test_what_was_tuned_for_asks_triton_no_more(monkeypatch):
    tuner = tuner_of()
    x, y = Typed("float32"), Typed(np.dtype("int8"))
    tuner.cache[(5, 6, "float32", "int8")] = CONFIGS[1]
    monkeypatch.setattr(tuner.__class__, "run", autotuner.Autotuner.run)
    grid = tuner[(3,)]
    tuner.prune_configs = wrong_run
    for call in (lambda: grid(x, y, 5, 6), lambda: grid(x, y, 5, m=6), lambda: grid(n=5, m=6, x=x, y=y)):
        call()
        _, args, kwargs = tuner.fn.calls.pop()
        named = {
            "x": x,
            "y": y,
            "n": 5,
            "m": 6,
            "BLOCK": 32,
            "EVEN": True,
            "num_warps": 8,
            "num_ctas": 1,
            "num_stages": 2,
            "maxnreg": 64,
        }
        assert {**dict(zip(NAMES, args)), **kwargs} == named
        assert tuner.best_config is CONFIGS[1]
    with pytest.raises(AssertionError, match="asked Triton"):
        grid(y, x, 5, 6)


def test_what_is_changed_later_is_heeded():
    config = triton.Config({"BLOCK": 16})
    tuner = tuner_of(configs=[config, CONFIGS[1]])
    tuner.cache[(1, 2)] = config

    def passed():
        tuner[(1,)](None, None, 1, 2)
        return tuner.fn.calls.pop()[2]

    assert passed() == {"BLOCK": 16, "num_warps": 4, "num_ctas": 1, "num_stages": 3}
    config.kwargs["EVEN"] = False
    config.num_warps = 2
    assert passed() == {"BLOCK": 16, "EVEN": False, "num_warps": 2, "num_ctas": 1, "num_stages": 3}
    seen = []
    config.pre_hook = lambda args: seen.append(args["n"])
    assert passed()["BLOCK"] == 16 and seen == [1]
    tuner.cache[(1, 2)] = CONFIGS[1]
    assert passed()["num_warps"] == 8 and tuner.best_config is CONFIGS[1]
    tuner.cache = {(1, 2): triton.Config({"BLOCK": 128})}
    assert passed()["BLOCK"] == 128
    tuner.configs = [triton.Config({"BLOCK": 256})]
    assert passed()["BLOCK"] == 256


@pytest.mark.parametrize("kind", [list, tuple])
def test_other_keys_are_tuned_for_anew(kind):
    tuner = tuner_of(configs=[CONFIGS[0], CONFIGS[1]])
    tuned = []
    tuner._bench = lambda *args, config, **kwargs: tuned.append(config) or [len(tuned)]
    held = tuner[(1,)]

    def keys_after(call):
        tuned.clear()
        call(None, None, 1, 2)
        tuned.clear()
        call(None, None, 1, 2)  # which finds what the one before has found
        assert not tuned
        return list(tuner.cache)

    assert keys_after(held) == [(1, 2)]
    tuner.keys = kind(("m", "not a parameter"))
    assert keys_after(held) == [(1, 2), (2,)]
    if kind is list:
        tuner.keys.insert(0, "x")
        assert keys_after(tuner[(1,)]) == [(1, 2), (2,), (None, 2)]
        tuner.keys[:] = ["n"]
        assert keys_after(held)[-1] == (1,)


def test_a_copy_is_one_of_its_own():
    tuner = tuner_of()
    tuner.cache[(1, 2)] = CONFIGS[0]
    tuner[(1,)](None, None, 1, 2)
    copied = copy.copy(tuner)
    copied.cache, copied.fn = {(1, 2): CONFIGS[1]}, Recorder()
    copied[(1,)](None, None, 1, 2)
    tuner[(1,)](None, None, 1, 2)
    assert [call[2]["BLOCK"] for call in (*tuner.fn.calls, *copied.fn.calls)] == [16, 16, 32]
    assert tuner.best_config is CONFIGS[0] and copied.best_config is CONFIGS[1]
    quick = tuner.__dict__["_ringlaunch_quick"]
    assert copy.deepcopy(quick) is None and pickle.loads(pickle.dumps(quick)) is None


def test_a_tuner_that_runs_in_another_way_does():
    class Counting(autotuner.Autotuner):
        runs = 0

        def run(self, *args, **kwargs):
            self.runs += 1
            return super().run(*args, **kwargs)

    tuner = tuner_of(Counting, configs=CONFIGS[:1])
    for _ in range(3):
        _triton_tune.subscript(tuner, (1,))(None, None, 1, 2)
    assert tuner.runs == 3 and len(tuner.fn.calls) == 3
    made = triton.autotune(CONFIGS[:1], key=[])(scale)
    made.__class__ = Counting
    assert type(rl.wrap(made)) is Counting


def test_another_run_is_heeded(monkeypatch):
    tuner, other = tuner_of(configs=CONFIGS[:1]), tuner_of(configs=CONFIGS[1:2])
    seen = []

    def traced(self, *args, run=autotuner.Autotuner.run, **kwargs):
        seen.append(self)
        return run(self, *args, **kwargs)

    def launched():
        before = len(tuner.fn.calls), len(seen)
        assert _triton_tune.subscript(tuner, (1,))(None, None, 1, 2) is None
        assert len(tuner.fn.calls) == before[0] + 1
        return len(seen) - before[1]

    for kind in (autotuner.Autotuner, _triton_tune.TunedKernel):
        tuner.__class__ = kind
        tuner.__dict__.pop("_ringlaunch_quick", None)
        for _ in range(2):  # before the first call of all, and behind it
            with monkeypatch.context() as patch:
                patch.setattr(autotuner.Autotuner, "run", traced)
                assert launched() == 1
            assert launched() == 0
        for _ in range(2):
            tuner.run = functools.partial(traced, tuner)
            assert launched() == 1
            del tuner.run
            assert launched() == 0
        tuner.__dict__.pop("_ringlaunch_quick")
        tuner.run = other.run  # of its type, and not of itself
        tuner[(1,)](None, None, 1, 2)
        assert len(other.fn.calls) == 1 and other.fn.calls.pop()
        del tuner.run


def test_a_parameter_may_have_the_name_of_what_run_takes():
    tuner = tuner_of(configs=CONFIGS[:1])
    tuner.arg_names = ["grid", "n"]
    tuner[(1,)](5, 6)
    with pytest.raises(TypeError, match="grid"):
        tuner[(1,)](grid=5, n=6)


@triton.jit
def scale(x, n, by=2.0, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * by, i < n)


def test_launches_are_those_of_the_configuration(client):
    x = client.zeros(128)
    kernel = rl.wrap(triton.autotune([triton.Config({"BLOCK": 32}, num_warps=1), CONFIGS[2]], key=["n"])(scale))
    kernel[(1,)](x, 100)
    kernel.cache = dict.fromkeys(kernel.cache, kernel.configs[0])
    first = kernel[(1,)](x, 100)
    assert first.metadata.num_warps == 1
    kernel.prune_configs = wrong_run
    before = kernel.fn._slow_calls
    for _ in range(10):
        assert kernel[lambda meta: (meta["BLOCK"],)](x, n=100) is first
    assert kernel.fn._slow_calls == before
    with pytest.raises((TypeError, ValueError, AssertionError)):
        kernel[(1,)](x, 100, BLOCK=64)
    assert isinstance(kernel, autotuner.Autotuner) and type(rl.wrap(kernel)) is type(kernel)
