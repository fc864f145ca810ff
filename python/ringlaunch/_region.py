"""`with ringlaunch.region():` hands inline launches to a thread of this program, which issues them.

Launches stand on the stream where they would be without it. So whatever else is put there, or waits for it, first
waits until those before it are issued; here stands how it is caught.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ringlaunch import _core
from ringlaunch.errors import InvalidArgument, Unsupported

_flush: Callable[[], None] = _core.triton_region_flush
_mode_type: Any = None  # of torch
_mode: Any = None  # that is entered
_guarded: list[Any] | None = None  # drivers of Triton; none before the first region

# What is no operation of torch and still has to do with streams. Functions of the modules, then methods.
_FUNCTIONS = (
    ("cuda", ("synchronize", "empty_cache", "ipc_collect", "caching_allocator_delete")),
    ("cuda.memory", ("empty_cache", "caching_allocator_delete")),
    ("accelerator", ("synchronize", "empty_cache")),
    ("accelerator.memory", ("empty_cache",)),
)
_METHODS = (
    ("cuda.Stream", ("query", "record_event", "synchronize", "wait_event", "wait_stream")),
    ("cuda.Event", ("elapsed_time", "ipc_handle", "query", "record", "synchronize", "wait")),
    ("cuda.CUDAGraph", ("capture_begin", "capture_end", "replay")),
    ("UntypedStorage", ("resize_", "_share_cuda_")),
)


def _first(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, once all launches before it are issued."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _flush()
        return function(*args, **kwargs)

    return call


def _find(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, None)
    return root


def _guard_torch(torch: Any) -> None:
    """For good: while there is no region it costs a comparison."""
    global _mode_type
    from torch.utils._python_dispatch import TorchDispatchMode

    class Issued(TorchDispatchMode):  # type: ignore[misc]
        """Every operation of torch, of the thread and of those that autograd runs for it."""

        untraced = False  # torch's compiler is there, and keeps away from it

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _flush()
        return func(*args, **(kwargs or {}))

    # Not with the class, which would have torch import its compiler, for seconds, to keep that away from this.
    Issued.__torch_dispatch__ = dispatch

    for path, names in (*_FUNCTIONS, *_METHODS):
        owner = _find(torch, path)
        for name in names:
            function = getattr(owner, name, None)
            if function is not None and not hasattr(function, "_ringlaunch_first"):
                guarded = _first(function)
                guarded._ringlaunch_first = True  # type: ignore[attr-defined]
                setattr(owner, name, guarded)
    _mode_type = Issued


def guard_driver(driver: Any) -> None:
    """Triton's own launches ask their driver for the stream, all of them."""
    if _guarded is not None and driver not in _guarded:
        _guarded.append(driver)
        driver.get_current_stream = _first(driver.get_current_stream)


def _prepare() -> None:
    global _guarded
    if _guarded is None:
        _guarded = []
    torch = sys.modules.get("torch")
    if torch is not None and _mode_type is None:
        _guard_torch(torch)
    compiler = sys.modules.get("torch._dynamo")
    if _mode_type is not None and not _mode_type.untraced and hasattr(compiler, "disable"):
        _mode_type.__torch_dispatch__ = compiler.disable(_mode_type.__torch_dispatch__)  # type: ignore[union-attr]
        _mode_type.untraced = True
    inline = sys.modules.get("ringlaunch._triton_inline")
    if inline is not None and inline.streams_of is not None:
        guard_driver(inline.streams_of)


class Region:
    """What `ringlaunch.region()` returns: a context manager, to be entered once."""

    __slots__ = ("_depth", "_pid", "_thread")

    def __init__(self) -> None:
        self._thread: int | None = None
        self._depth = 0
        self._pid = 0

    def __enter__(self) -> Region:
        global _mode
        if self._thread is not None:
            raise InvalidArgument("region: this one was entered before; each `with` takes a region() of its own")
        _prepare()
        self._thread, self._pid = threading.get_ident(), os.getpid()
        try:
            self._depth = _core.triton_region_enter()
        except Unsupported:  # there is no CUDA here: an inline launch says so
            return self
        if self._depth == 1 and _mode_type is not None:
            _mode = _mode_type()
            _mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _mode
        if self._depth == 0 or self._pid != os.getpid():
            return
        mine = self._thread == threading.get_ident()
        try:
            _core.triton_region_leave()
        finally:
            if mine and _mode is not None and _core.triton_region_counts()[0] == 0:
                mode, _mode = _mode, None
                mode.__exit__(None, None, None)
        if not mine:
            raise InvalidArgument("region: it was left by another thread than the one that entered it")

    def flush(self) -> None:
        """Returns once all launches so far are issued: they stand on their streams then. Blocks that long.

        Raises
        ------
        DriverError
            The driver refused one of them.
        """
        _flush()


def region() -> Region:
    """A part of a program that launches Triton kernels inline, and little else: `with ringlaunch.region(): ...`.

    Launches in it are handed to a thread of this program, which gives many of them to CUDA as one launch graph. They
    stand on the streams where they would stand without it, in the same order, with the same results: no device is
    waited for, neither to enter nor to leave. Leaving waits until all are issued, which is not until they have run; in
    the region a launch waits for others to go with it, for 30 us at most.

    What else the thread does there that has to do with the device first waits until the launches before it are issued,
    and is right: operations of torch, autograd's backward, events, streams, `torch.cuda.synchronize()`, captures,
    graphs, launches by Triton itself. It is slower than outside, by some us: a region is for launches. What ringlaunch
    cannot see needs a `flush()` before it:

    - other threads of the program that use the same stream, but for their launches through ringlaunch;
    - libraries that launch without torch: CuPy, cuda-python, extensions of C++ that are no operators of torch.

    A region belongs to the thread that entered it, also within a generator or a coroutine. Within another one it is a
    part of that: leaving it, too, waits until all are issued. While one thread has a region those of others are none:
    their launches are inline as without it, behind what the region holds. Launches of kernels in the daemon, and on a
    stream that is being captured, are as without a region. The first call of each kind, and what the quick way does not
    know, is Triton's own call, once those before it are issued. A call on another stream or device than the one before
    waits for those before it, too.

    The region holds up to 2,048 lines of 64 bytes, of which a launch takes one (of up to 40 bytes of parameters) or
    more; a launch that finds no room waits until half of it is issued. Waiting lets other threads of Python run.

    A launch that CUDA refuses is told at the next launch, flush or operation of torch, at the latest where the region
    is left: as DriverError with the kernel's name. The launches between are not made, and are counted in the message.
    An exception that leaves the block ends the region as its end does: what was launched before is issued, and the
    exception goes on (as the context of the DriverError, where there is one). Memory that launches were given, and
    tensors, are kept until they are issued.

    A child of fork has no region, and launches none of what its parent's holds. A program that ends within a region
    has its launches issued first. Where there is no GPU a region does nothing.

    Returns
    -------
    Region
        With `flush()`.

    Raises
    ------
    InvalidArgument
        Entered twice, or left by another thread.
    DriverError
        On leaving: the driver refused a launch.

    Examples
    --------
    ::

        with rl.region():
            for layer in layers:
                norm[grid](x, layer.weight, y, n, BLOCK=1024)
                act[grid](y, x, n, BLOCK=1024)
    """
    return Region()


atexit.register(_core.triton_region_stop)
