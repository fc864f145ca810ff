"""Tuned kernels (`triton.autotune`) that go through ringlaunch: each configuration is measured where the kernel runs.

What runs in this program is measured by Triton. What runs in the daemon is measured there, on buffers, which are put
back between measurements as Triton puts back tensors. Once a call's key has been tuned for, calls find their
configuration in C++ (_core.TritonTuned); the first ones are Autotuner.run.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from triton.runtime.autotuner import Autotuner, Config
from triton.runtime.jit import KernelInterface

from ringlaunch import _core
from ringlaunch._buffer import Buffer
from ringlaunch._triton_load import open_clients, owner
from ringlaunch._triton_mode import mode_of_values

_MISSING = object()
_QUICK = "_ringlaunch_quick"
_triton_run = Autotuner.run
_subscript_of_run = KernelInterface.__getitem__
_core.triton_subscript_of_run(_subscript_of_run)
_installed: list[weakref.ref[Autotuner]] = []  # Triton's own that have a call of ours


def _options_of_configurations() -> tuple[str, ...] | None:
    """What a configuration gives to a call beside its kwargs; None: in another way than this module knows."""
    probe = Config({}, num_warps=1, num_stages=2, num_ctas=3, maxnreg=4, ir_override="5")
    found = probe.all_kwargs()
    as_known = all(getattr(probe, name, None) is value for name, value in found.items())
    return tuple(found) if as_known and probe.pre_hook is None else None


_OPTIONS = _options_of_configurations()


def subscript(tuner: Autotuner, grid: Any) -> Any:
    """`tuner[grid]`: what finds the configuration of a call, and calls the kernel with it."""
    quick = tuner.__dict__.get(_QUICK)
    if quick is None or quick.state is not tuner.__dict__:  # new, or a copy of another
        quick = _make_quick(tuner)
        if quick is None:
            return _subscript_of_run(tuner, grid)
    return quick[grid]


def _make_quick(tuner: Autotuner) -> _core.TritonTuned | None:
    """None: its calls are those of its `run`."""
    if "run" in tuner.__dict__ or type(tuner).run is not _triton_run:
        return None
    names = tuple(tuner.arg_names)
    if _OPTIONS is None or {"grid", "warmup"} & set(names):
        return None
    quick = _core.TritonTuned(tuner.__dict__, names, None, Config, _OPTIONS, tuner.run, -1, False, tuner)
    tuner.__dict__[_QUICK] = quick
    if not isinstance(tuner, TunedKernel):
        _installed[:] = [known for known in _installed if known() is not None]
        _installed.append(weakref.ref(tuner))
    return quick


def forget_installed() -> None:
    """Takes back what `subscript` has left in Triton's own tuners."""
    while _installed:
        if (tuner := _installed.pop()()) is not None:
            tuner.__dict__.pop(_QUICK, None)


class TunedKernel(Autotuner):  # type: ignore[misc]
    """What `ringlaunch.wrap` makes of an Autotuner."""

    __getitem__ = subscript


def tune(tuner: Autotuner, mode: str | None) -> None:
    """Has an Autotuner of ringlaunch's own measure where its kernel runs."""
    tuner.cache = {}  # what was measured on this process's device says nothing of the daemon's
    tuner.cache_results = False
    take_buffers(tuner)
    tuner._bench = functools.partial(bench, type(tuner)._bench, mode, tuner)


def bench(plain: Any, mode: str | None, tuner: Autotuner, *args: Any, config: Any, **meta: Any) -> Any:
    """Measures one configuration. `plain`: Triton's Autotuner._bench."""
    if (mode or mode_of_values((*args, *meta.values()), meta.get("stream"))) == "daemon":
        with _measuring_in_daemon(tuner):
            return plain(tuner, *args, config=config, **meta)
    return plain(tuner, *args, config=config, **meta)


@contextlib.contextmanager
def _measuring_in_daemon(tuner: Autotuner) -> Iterator[None]:
    before = tuner.__dict__.get("do_bench", _MISSING)
    tuner.__dict__["do_bench"] = _do_bench
    try:
        yield
    finally:
        if before is _MISSING:
            del tuner.__dict__["do_bench"]
        else:
            tuner.__dict__["do_bench"] = before


def _do_bench(kernel_call: Callable[[], Any], quantiles: tuple[float, ...] = (0.5, 0.2, 0.8), **_: Any) -> list[float]:
    """Times a launch in the daemon, in ms: rounds of launches, each from the first enqueued to the last completed."""
    clients = open_clients()

    def timed(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            kernel_call()
        for client in clients:
            client.synchronize()
        return (time.perf_counter() - begin) * 1e3 / count

    timed(1)  # compiles and loads
    once = timed(5)
    count = max(1, min(1000, int(2.0 / max(once, 1e-3))))
    rounds = sorted(timed(count) for _ in range(10))
    return [rounds[min(int(q * len(rounds)), len(rounds) - 1)] for q in quantiles]


def take_buffers(tuner: Autotuner) -> dict[str, Any]:
    """Has the hooks that Triton makes of reset_to_zero and restore_value take buffers as well as tensors. Answers the
    attributes that it replaced."""
    named = (*tuner.reset_to_zero, *tuner.restore_value)
    if tuner.user_defined_pre_hook or not named:
        return {}
    before = {"pre_hook": tuner.pre_hook, "post_hook": tuner.post_hook}
    kept: list[tuple[Buffer, Buffer]] = []

    def pre_hook(arguments: dict[str, Any], reset_only: bool = False) -> None:
        if not any(isinstance(arguments[name], Buffer) for name in named):
            before["pre_hook"](arguments, reset_only)
            return
        for name in tuner.reset_to_zero:
            if arguments[name] is not None:
                arguments[name].fill(0)
        if not reset_only:
            for name in tuner.restore_value:
                if (value := arguments[name]) is not None:
                    same = owner(value._client).empty(value.shape, value.dtype)
                    same.copy_from(value)
                    kept.append((value, same))

    def post_hook(arguments: dict[str, Any], exception: BaseException | None) -> None:
        if not kept:
            before["post_hook"](arguments, exception)
        while kept:
            value, same = kept.pop()
            value.copy_from(same)

    tuner.pre_hook = pre_hook
    if tuner.restore_value and not tuner.user_defined_post_hook:
        tuner.post_hook = post_hook
    return before
