"""`with ringlaunch.region():` hands inline launches to a thread of this program, which issues them.

Launches stand on the stream where they would be without it. So whatever else is put there, or waits for it, first
waits until those before it are issued; _region_torch.py has how torch is caught.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ringlaunch import _core, _region_torch
from ringlaunch.errors import InvalidArgument, Unsupported

_flush: Callable[[], None] = _core.triton_region_flush
_mode: Any = None  # of torch, of the open region
_owner = 0  # the thread of the open region
_era = 0  # regions of an earlier one were ended before their blocks were
_untold: Exception | None = None  # of a launch in such a region
_guarded: list[Any] | None = None  # drivers of Triton, and types of launchers; none before the first region


def guard_driver(driver: Any) -> None:
    """Triton's own launches: most ask their driver for the stream; all call a launcher, whoever names its stream."""
    if _guarded is not None and driver not in _guarded:
        _guarded.append(driver)
        driver.get_current_stream = _region_torch.first(driver.get_current_stream)
        launcher = getattr(driver, "launcher_cls", None)
        if isinstance(launcher, type) and launcher not in _guarded:
            _guarded.append(launcher)
            launcher.__call__ = _region_torch.first(launcher.__call__)  # type: ignore[method-assign]


def _prepare() -> None:
    global _guarded
    if _guarded is None:
        _guarded = []
        _region_torch.watch_imports(_imported)
    _region_torch.prepare()
    inline = sys.modules.get("ringlaunch._triton_inline")
    if inline is not None and inline.streams_of is not None:
        guard_driver(inline.streams_of)


def _imported() -> None:
    """torch, or a part of it, was imported after the first region began, perhaps within one."""
    global _mode, _era, _untold
    _region_torch.prepare()
    if _core.triton_region_counts()[0] == 0 or _mode is not None:
        return
    if _owner == threading.get_ident():
        _mode = _region_torch.begin()
        return
    # Another thread's operations cannot be guarded from here: its region ends, and its launches are inline.
    _era += 1
    while _core.triton_region_counts()[0] != 0:
        try:
            _core.triton_region_leave()
        except Exception as error:  # is the region's, not the import's
            _untold = error


class Region:
    """What `ringlaunch.region()` returns: a context manager, to be entered once."""

    __slots__ = ("_depth", "_era", "_pid", "_thread")

    def __init__(self) -> None:
        self._thread: int | None = None
        self._depth = 0
        self._era = 0
        self._pid = 0

    def __enter__(self) -> Region:
        global _mode, _owner
        if self._thread is not None:
            raise InvalidArgument("region: this one was entered before; each `with` takes a region() of its own")
        _prepare()
        self._thread, self._pid = threading.get_ident(), os.getpid()
        try:
            self._depth = _core.triton_region_enter()
        except Unsupported:  # there is no CUDA here: an inline launch says so
            return self
        self._era = _era
        if self._depth == 1:
            _owner = self._thread
            _mode = _region_torch.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _mode, _untold
        if self._depth == 0:
            return
        if self._era != _era:
            untold, _untold = _untold, None
            if untold is not None:
                raise untold
            return
        child = self._pid != os.getpid()
        try:
            if not child:
                _core.triton_region_leave()
        finally:
            if _mode is not None and _core.triton_region_counts()[0] == 0:
                mode, _mode = _mode, None
                _region_torch.end(mode)
        if not child and self._thread != threading.get_ident():
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
    and is right: operations of torch, autograd's backward, functions of torch.compile (which run compiled), printing a
    tensor, `torch.cuda.Event` and `torch.cuda.Stream`, synchronizing, captures, graphs, launches by Triton itself. It
    is slower than outside, by some us: a region is for launches. What an operation of torch launches within (a custom
    operator, a subclass of tensors, autograd's backward) is launched inline, as without a region. What ringlaunch
    cannot see needs a `flush()` before it:

    - `torch.Event` and `torch.Stream`, of which `torch.accelerator.current_stream()` is one: `record`, `synchronize`,
      `query`, `wait`, `record_event`, `wait_event`, `wait_stream`, `elapsed_time`. Their types are of C and take no
      guard; those of `torch.cuda` have theirs;
    - `x.data = y`, which lets go of memory that launches before it were given, and is no operation;
    - other threads of the program that use the same stream, but for their launches through ringlaunch;
    - libraries that launch without torch: CuPy, cuda-python, models of AOTInductor, extensions of C++ that are no
      operators of torch.

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
    exception goes on (as the context of the DriverError, where there is one). Tensors and other objects that launches
    were given are kept until they are issued.

    torch may be imported in a region. Where another thread imports it, the region ends: its launches are inline then.

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
