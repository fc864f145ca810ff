"""Every Triton kernel of a program through ringlaunch, and back.

Kernels stay what they are. A kernel's twin, which `wrap` makes of it, stands in the kernel's own dict; JITFunction's
`__getitem__` and `run` lead to it. Where a program puts another `run` into a kernel or a type, that is the call. An
Autotuner runs its kernel by that and needs nothing but another way to measure, where the kernel runs in the daemon.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from triton.runtime import autotuner, jit

from ringlaunch import _core, _triton, _triton_tune
from ringlaunch._triton_mode import check_mode, mode_of_values
from ringlaunch._triton_tune import take_buffers
from ringlaunch.errors import Unsupported

if TYPE_CHECKING:
    from ringlaunch._client import Client

_TWIN = "_ringlaunch_twin"
_MISSING = object()


class _Replaced:
    """An attribute of a type, with what stood there."""

    def __init__(self, owner: type, name: str, value: Any) -> None:
        self._owner, self._name = owner, name
        self._before = owner.__dict__.get(name, _MISSING)
        setattr(owner, name, value)

    def put_back(self) -> None:
        if self._before is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


_lock = threading.RLock()
_replaced: list[_Replaced] = []
_kernels: list[weakref.ref[Any]] = []  # that have a twin; no set, since the hash of a kernel reads its code
_tuned: list[tuple[weakref.ref[Any], dict[str, Any]]] = []  # Autotuners, with the attributes that they had
_mode: str | None = None
_client: Client | None = None
_plain_run = jit.JITFunction.run


def install(mode: str | None, client: Client | None) -> None:
    """See `ringlaunch.install`."""
    global _mode, _client, _plain_run
    mode = check_mode(mode, client)
    with _lock:
        uninstall()
        _mode, _client, _plain_run = mode, client, jit.JITFunction.run
        subscript = _core.triton_subscript(jit.JITFunction, _TWIN, _make_twin, jit.JITFunction.__getitem__, _run)
        _replaced.append(_Replaced(jit.JITFunction, "__getitem__", subscript))
        _replaced.append(_Replaced(jit.JITFunction, "run", _run))
        _replaced.append(_Replaced(autotuner.Autotuner, "__getitem__", _triton_tune.subscript))
        if mode != "inline":  # which Triton tunes
            tuner = autotuner.Autotuner
            _replaced.append(_Replaced(tuner, "_bench", _bench(tuner._bench)))
            _replaced.append(_Replaced(tuner, "check_disk_cache", _check_disk_cache(tuner.check_disk_cache)))


def uninstall() -> None:
    """See `ringlaunch.uninstall`."""
    with _lock:
        while _replaced:
            _replaced.pop().put_back()
        _triton_tune.forget_installed()
        for known in _kernels:
            if (kernel := known()) is not None:
                kernel.__dict__.pop(_TWIN, None)
        _kernels.clear()
        for known, attributes in _tuned:
            if (tuner := known()) is not None:
                tuner.__dict__.update(attributes)
        _tuned.clear()


def _make_twin(kernel: Any) -> _triton.JITFunction | None:
    """What stands for a kernel of Triton; None: it goes Triton's way."""
    with _lock:
        twin = None
        if not isinstance(kernel, _triton.JITFunction):
            try:
                twin = _triton.wrap(kernel, _client, _mode)
            except Unsupported:  # of Gluon, or of a type that runs in another way
                twin = None
        if _replaced:  # and not taken back meanwhile
            kernel.__dict__[_TWIN] = twin
            _kernels[:] = [known for known in _kernels if known() is not None]
            _kernels.append(weakref.ref(kernel))
        return twin


def _run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    """What stands in place of JITFunction.run."""
    if isinstance(self, _triton.JITFunction):  # a twin, which asks for Triton's own way
        return _plain_run(self, *args, grid=grid, warmup=warmup, **kwargs)
    twin = self.__dict__.get(_TWIN, _MISSING)
    if twin is _MISSING or (twin is not None and twin.__dict__ is not self.__dict__):  # a copy of another kernel
        twin = _make_twin(self)
    if twin is None:
        return _plain_run(self, *args, grid=grid, warmup=warmup, **kwargs)
    return _triton.JITFunction.run(twin, *args, grid=grid, warmup=warmup, **kwargs)


_run.__module__, _run.__qualname__ = _plain_run.__module__, _plain_run.__qualname__  # for messages of Python's own


def _bench(plain: Any) -> Any:
    """What stands in place of Autotuner._bench."""

    def bench(self: Any, *args: Any, config: Any, **meta: Any) -> Any:
        with _lock:
            if _replaced and not any(known() is self for known, _ in _tuned):
                _tuned[:] = [each for each in _tuned if each[0]() is not None]
                _tuned.append((weakref.ref(self), take_buffers(self)))
        return _triton_tune.bench(plain, _mode, self, *args, config=config, **meta)

    return bench


def _check_disk_cache(plain: Any) -> Any:
    """What stands in place of Autotuner.check_disk_cache: what is on disk was measured on this process's device."""

    def check_disk_cache(self: Any, tuning_key: Any, configs: Any, bench_fn: Any) -> Any:
        if (_mode or mode_of_values(self.nargs.values(), None)) == "inline":
            return plain(self, tuning_key, configs, bench_fn)
        bench_fn()
        return False

    return check_disk_cache


def report() -> str:
    """A table of the kernels that are there: what was launched through ringlaunch, and what asked Triton's code."""
    rows = [("kernel", "launches", "of Triton's code", "variants")]
    with _lock:
        for known in _kernels:
            if (kernel := known()) is None:
                continue
            name = f"{kernel.module}.{kernel.__name__}"
            if (twin := kernel.__dict__.get(_TWIN)) is None:
                rows.append((name, "-", "all", "-"))
                continue
            launches, variants = twin._totals()
            rows.append((name, str(launches), str(twin._slow_calls), str(variants)))
    if len(rows) == 1:
        return "ringlaunch: no Triton kernel was called"
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [row[0].ljust(widths[0]) + "".join(f"  {row[i].rjust(widths[i])}" for i in (1, 2, 3)) for row in rows]
    return "\n".join(lines)
