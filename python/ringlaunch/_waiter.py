"""What asyncio tasks await of one stream: its wake descriptor in the event loop, and no thread.

The client library's protocol: an event is armed; when the stream's descriptor becomes readable, `on_wake`, then every
event that is not done is armed again. Several loops (of several threads) may await events of one stream, so all of it
happens under one lock, and whichever loop wakes first serves all.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from ringlaunch import _core
from ringlaunch.errors import Error, LimitReached

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator

    from ringlaunch._stream import Stream


class Waiter:
    """The awaited events of one stream."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Both guarded by _lock.
        self._awaited: dict[asyncio.Future[None], _core.EventHandle] = {}
        self._readers: dict[asyncio.AbstractEventLoop, int] = {}  # the descriptor that each loop reads

    def wait(self, stream: Stream, event: _core.EventHandle) -> Generator[object, None, None]:
        """Ends when the event is done; raises its error, and what cancels the task."""
        import asyncio  # a fifth of what `import ringlaunch` would take

        loop = asyncio.get_running_loop()
        with self._lock:
            if event.arm():
                return
            future: asyncio.Future[None] = loop.create_future()
            self._read(stream, loop)
            self._awaited[future] = event
        try:
            yield from future
        finally:
            with self._lock:
                self._awaited.pop(future, None)
                # Another task of the loop, served at the same time, may have been here before.
                if loop in self._readers and not any(other.get_loop() is loop for other in self._awaited):
                    loop.remove_reader(self._readers.pop(loop))

    def _read(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self._readers:
            return
        descriptor = _core.stream_wake_fd(stream)
        if descriptor < 0:
            raise LimitReached("awaiting an event: this process has no file descriptor left for the event loop")
        loop.add_reader(descriptor, self._woken, stream)
        self._readers[loop] = descriptor

    def _woken(self, stream: Stream) -> None:
        with self._lock:
            _core.stream_on_wake(stream)
            for future, event in list(self._awaited.items()):
                try:
                    if not event.arm():
                        continue
                    error = None
                except Error as found:
                    error = found
                del self._awaited[future]
                with contextlib.suppress(RuntimeError):  # its loop was closed: nobody awaits any more
                    future.get_loop().call_soon_threadsafe(_resolve, future, error)


def _resolve(future: asyncio.Future[None], error: Error | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
