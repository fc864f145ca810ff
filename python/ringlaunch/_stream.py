"""Streams, the events in them, and what a stream says of itself."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringlaunch import _check, _core
from ringlaunch._graph import Graph
from ringlaunch._scope import Scope
from ringlaunch._waiter import Waiter
from ringlaunch.errors import InvalidArgument, ParamTypeError, StreamStopped

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType


@dataclass(frozen=True)
class StreamStatus:
    """What a stream says of itself. Positions count 64-byte slots since the stream began.

    Attributes
    ----------
    status : str
        "ok": running; else why it stopped ("kernel_faulted", "bad_pointer").
    text : str
        What was being done, to what, what was found and what to do.
    completed : int
        Everything before this position has completed.
    issued : int
        Everything before this position was started; after a stop, `completed` to `issued` is in doubt.
    published : int
        Everything before this position was enqueued.
    error_position : int
        The record that the stream stopped at.
    error_kernel : str
        Its kernel; "" where there is none.
    epoch : int
        The number of the executor's life that serves it. All executors of the daemon are counted, so it says that the
        stream's executor was restarted (it changed), not how often.
    """

    status: str
    text: str
    completed: int
    issued: int
    published: int
    error_position: int
    error_kernel: str
    epoch: int

    @property
    def running(self) -> bool:
        """Whether `status` is "ok": neither stopped, nor has the daemon gone. (bool)"""
        return self.status == "ok"


class Event:
    """A place in a stream: done once everything enqueued before it has completed. `stream.record()` makes one.

    As a context manager it records a `Graph`, from this place on: `with stream.record() as graph:`.

    `await event` waits in asyncio and raises what `wait` raises; cancelling the task leaves the work alone.

    Attributes
    ----------
    stream : Stream
    position : int

    Examples
    --------
    >>> stream = client.stream()
    >>> event = stream.record()
    >>> event.wait(timeout=10)
    >>> event.done()
    True
    >>> import asyncio
    >>> async def main():
    ...     await stream.record()
    >>> asyncio.run(main())
    """

    __slots__ = ("_graph", "_handle", "_stream")

    def __init__(self, stream: Stream | None = None, handle: _core.EventHandle | None = None) -> None:
        if not isinstance(stream, Stream) or not isinstance(handle, _core.EventHandle):
            raise ParamTypeError("ringlaunch.Event is made by stream.record(), not called")
        self._stream = stream
        self._handle = handle
        self._graph: Graph | None = None

    def __enter__(self) -> Graph:
        """The stream records a graph from here to the end of the block; see `Graph`. Blocks at the end of it, until the
        daemon has answered.

        Raises
        ------
        InvalidArgument
            The stream records a graph already; at the end, nothing was recorded.
        Unsupported, RecordRefused, LimitReached, OutOfMemory
            At the end: the graph holds what it cannot, or cannot be had now.
        StreamStopped, DaemonLost, Closed
        """
        graph = Graph(self._stream)
        graph._begin()
        self._graph = graph
        return graph

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph._end(kind is None)

    @property
    def stream(self) -> Stream:
        """The stream it was recorded in. (Stream)"""
        return self._stream

    @property
    def position(self) -> int:
        """Its place in the stream, in slots of 64 bytes since that began. (int)"""
        return self._handle.position

    def done(self) -> bool:
        """Whether everything before it has completed. Never blocks and never raises.

        It stays False where the work will not complete: the stream has stopped before it (until `stream.resume()`),
        or the daemon is gone. A loop that looks for such an end asks `wait(0)`, which raises `Timeout` while the work
        goes on, and the reason once it does not.

        Returns
        -------
        bool
        """
        return self._handle.done()

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until it is done, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        timeout : float, optional
            Seconds; without it, as long as the daemon lives.

        Raises
        ------
        Timeout
            Not done in time.
        StreamStopped
            The stream stopped before it: `KernelFault`, `RecordRefused`, as of `Stream.synchronize`.
        DaemonLost
            The daemon is gone, and the event was not done.
        Closed
            The client was closed before it was done.
        """
        self._handle.wait(timeout)

    def __await__(self) -> Generator[object, None, None]:
        return self._stream._waiter.wait(self._stream, self._handle)

    def __repr__(self) -> str:
        state = "done" if self.done() else "pending"
        return f"<ringlaunch.Event at {self.position} of {self._stream!r}, {state}>"


class Stream(_core.StreamHandle, Scope):
    """An in-order queue of work. `client.stream()` makes one; streams run independently of each other.

    Several threads may enqueue to one stream; their launches stand in the order in which they got the interpreter
    lock. As a context manager a stream waits for its work and closes.

    What enqueues (a launch, a copy, `record`, `wait_event`, `barrier`) blocks only while the ring is full, and raises
    `StreamStopped` once the stream has stopped, `DaemonLost` or `Closed`.

    Attributes
    ----------
    name : str
    closed : bool
        Whether the stream or its client was closed.
    status : StreamStatus

    Examples
    --------
    >>> with client.stream(name="copies") as stream:
    ...     x = client.array(np.ones(3, np.float32), stream=stream)
    ...     done = stream.record()
    >>> done.done()
    True
    """

    __slots__ = ("__weakref__", "_name", "_waiter")

    _name: str
    _waiter: Waiter

    def _describe(self, name: str) -> Stream:
        self._name = name
        self._waiter = Waiter()
        return self

    @property
    def name(self) -> str:
        """What it was called when it was made; "" without a name, "default" for the default stream. (str)"""
        return self._name

    def record(self) -> Event:
        """An event at this place of the stream. Blocks only while the ring is full.

        `with stream.record() as graph:` records what the block enqueues on this stream as a `Graph` instead of running
        it.

        Returns
        -------
        Event
            Done once all that was enqueued so far has completed.

        Raises
        ------
        StreamStopped, DaemonLost, Closed
        """
        return Event(self, _core.stream_record(self))

    def wait_event(self, event: Event) -> None:
        """What is enqueued from here on runs after `event`, of this or another stream.

        Does not wait on the host; blocks only while the ring is full. If the awaited stream stops, this one does, too.
        The other stream may be another client's, of the same daemon and user, on another device too: then the daemon
        waits rather than the device, which costs up to a millisecond (10 ms where nothing came for long), and the
        first such wait asks the daemon.

        Parameters
        ----------
        event : Event

        Raises
        ------
        ParamTypeError
            No Event.
        InvalidArgument
            An event of a client of another daemon.
        StreamStopped, DaemonLost, Closed

        Examples
        --------
        >>> first, second = client.stream(), client.stream()
        >>> second.wait_event(first.record())
        >>> second.synchronize()
        """
        if not isinstance(event, Event):
            raise _check.refused("event", "an Event", event)
        _core.stream_wait_event(self, event._handle)

    def barrier(self) -> None:
        """Nothing before it is ever replayed by a stream made with `on_restart="rerun"`.

        Does not wait for that work; blocks only while the ring is full.

        Raises
        ------
        StreamStopped, DaemonLost, Closed
        """
        _core.stream_barrier(self)

    def synchronize(self, timeout: float | None = None) -> None:
        """Blocks until everything enqueued has completed, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        timeout : float, optional
            Seconds; without it, as long as the daemon lives.

        Raises
        ------
        Timeout
            Not completed in time.
        StreamStopped
            The stream stopped: `KernelFault` by its own kernel, `RecordRefused` at a record that the daemon refused.
        DaemonLost
            The daemon is gone, and not everything had completed.
        Closed
        """
        _core.stream_synchronize(self, timeout)

    @property
    def status(self) -> StreamStatus:
        """Where the stream is and why it stopped, if it did. (StreamStatus) Does not block.

        Raises
        ------
        Closed
            The stream was closed, and its client was not.
        """
        return StreamStatus(*_core.stream_status(self))

    def resume(self, rerun: bool = False) -> None:
        """Goes on after a stop. Blocks until the daemon has answered, not for the work, answering Ctrl-C.

        Parameters
        ----------
        rerun : bool
            False: behind what was in doubt, or behind the refused record. True: at the first record that had not
            completed, so that what was in doubt runs again.

        Raises
        ------
        InvalidArgument
            The stream has not stopped.
        ExecutorLost
            The executor died meanwhile; the daemon starts another, and the stream may be resumed again.
        DaemonLost, Closed
        """
        _core.stream_resume(self, _check.flag("rerun", rerun))

    def close(self) -> None:
        """Gives the stream back. Does not block: what was enqueued still runs. Closing twice does nothing.

        All else that is asked of it raises `Closed` from then on; events recorded before are waited for as usual.
        """
        _core.stream_close(self)

    def __repr__(self) -> str:
        name = f" '{self._name}'" if self._name else ""
        return f"<ringlaunch.Stream{name}{' closed' if self.closed else ''}>"


_default_stream_lock = threading.Lock()


def open_stream(
    client: _core.ClientHandle,
    ring_slots: int | None = None,
    on_restart: str = "stop",
    priority: int = 0,
    name: str = "",
) -> Stream:
    """A new stream of a client."""
    _check.choice("on_restart", on_restart, ("stop", "rerun"))
    if ring_slots is not None:
        ring_slots = _check.integer("ring_slots", ring_slots, 0, 2**31 - 1)
        if not 64 <= ring_slots <= 65536 or ring_slots & (ring_slots - 1):
            raise InvalidArgument(f"ring_slots: expected a power of two from 64 to 65536, found {ring_slots}")
    priority = _check.integer("priority", priority, -(2**31), 2**31 - 1)
    stream = client.stream(Stream, ring_slots or 0, on_restart == "rerun", priority, _check.name("name", name))
    client.streams.add(stream)
    return stream._describe(name)


def synchronize(client: _core.ClientHandle, timeout: float | None) -> None:
    """Waits for all streams of a client. A stopped one raises its own error, unless it was closed."""
    begin = time.monotonic()

    def left() -> float | None:
        return None if timeout is None else max(timeout - (time.monotonic() - begin), 0.0)

    try:
        client.synchronize(timeout)
    except StreamStopped:
        for stream in list(client.streams):
            if not stream.closed:
                _core.stream_synchronize(stream, left())
        client.synchronize_closed(left())


def default_stream(client: _core.ClientHandle) -> Stream:
    """The stream that launches and copies take which are told none; opened at its first use."""
    if client.default_stream is None:
        with _default_stream_lock:
            if client.default_stream is None:
                client.default_stream = open_stream(client, name="default")
    return client.default_stream
