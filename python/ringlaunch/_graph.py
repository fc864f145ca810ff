"""Graphs: a sequence that is recorded once and launched as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ringlaunch import _check, _core
from ringlaunch.errors import InvalidArgument, NotFound, OutOfRange, ParamTypeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ringlaunch._stream import Stream

    Dim = int | tuple[int, ...] | list[int]

_MOST_GRID = 2**31 - 1
_MOST_BLOCK = 65535


def _sides(what: str, given: Dim | None, most: int) -> tuple[int, int, int] | None:
    if given is None:
        return None
    listed = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not 1 <= len(listed) <= 3:
        raise InvalidArgument(f"{what}: expected x, (x, y) or (x, y, z), found {_check.shown(given)}")
    x, y, z = (*(_check.integer(what, side, 1, most) for side in listed), 1, 1)[:3]
    return x, y, z


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


class GraphLaunch:
    """One launch of a graph: `graph["name"]` or `graph[number]`.

    Attributes
    ----------
    name : str
        What it was named when it was recorded; "" without a name.
    number : int
        Its place in the graph, from 0; copies and fills count, too.
    kernel : str
        The name of its kernel.
    grid, block : tuple of int
        Blocks, and threads of a block, in x, y, z; a block of (0, 0, 0) is the kernel's default.
    shared : int
        Dynamic shared memory of a block, in bytes.
    """

    __slots__ = ("_graph", "_number")

    def __init__(self, graph: Graph, number: int) -> None:
        if not isinstance(graph, Graph):
            raise ParamTypeError("ringlaunch.GraphLaunch is made by graph[...], not called")
        self._graph = graph
        self._number = number

    def _now(self) -> tuple[str, tuple[int, int, int], tuple[int, int, int], int]:
        found = self._graph._made().launch_at(self._number)
        assert found is not None  # graph[...] sees to that
        return found

    @property
    def name(self) -> str:
        """What it was named when it was recorded; "" without a name. (str)"""
        return self._graph._made().names()[self._number]

    @property
    def number(self) -> int:
        """Its place in the graph, from 0; copies and fills count, too. (int)"""
        return self._number

    @property
    def kernel(self) -> str:
        """The name of its kernel. (str)"""
        return self._now()[0]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks in x, y, z. (tuple of int)"""
        return self._now()[1]

    @property
    def block(self) -> tuple[int, int, int]:
        """Threads of a block in x, y, z; (0, 0, 0): the kernel's default. (tuple of int)"""
        return self._now()[2]

    @property
    def shared(self) -> int:
        """Dynamic shared memory of a block, in bytes. (int)"""
        return self._now()[3]

    def update(self, *args: Any, grid: Dim | None = None, block: Dim | None = None, shared: int | None = None) -> None:
        """Gives the launch other arguments, for all launches of the graph that are enqueued from here on.

        Does not block and enqueues nothing: the graph's next launch on a stream brings the change along. Launches of
        the graph that were enqueued before run as they were.

        Parameters
        ----------
        args : object
            All of the kernel's arguments by position, converted as by a launch; none at all: they stay as they are.
        grid, block : int or tuple of int, optional
            Blocks, and threads of a block, in x, y, z; without them, as they are.
        shared : int, optional
            Dynamic shared memory of a block, in bytes; without it, as it is.

        Raises
        ------
        ParamTypeError, OutOfRange, InvalidArgument
            What a launch refuses; nothing has changed then.
        Closed
            A buffer that was freed.
        Unsupported
            More than the grid of a Triton kernel, which was compiled for the arguments that it has.
        """
        self._graph._made().update(
            self._number,
            args or None,
            _sides("grid", grid, _MOST_GRID),
            _sides("block", block, _MOST_BLOCK),
            None if shared is None else _check.integer("shared", shared, 0, 2**31 - 1),
        )

    def __repr__(self) -> str:
        name = f" '{self.name}'" if self.name else ""
        return f"<ringlaunch.GraphLaunch {self._number}{name}: {self.kernel}>"


class Graph:
    """A sequence of launches, copies on the device and fills, launched as one record of one slot.

    `with stream.record() as graph:` makes one: what is enqueued on that stream within the block is recorded instead of
    run, with the arguments that it has then. A launch is named with `kernel[grid, block](..., name="...")`, and
    numbered in any case. Other streams are as usual within the block, the client's default stream among them. What a
    graph cannot hold (copies from and to the host, events, waits, other graphs, Triton kernels with scratch memory) is
    refused where it is enqueued, with `Unsupported`. A block that raises records nothing.

    A graph keeps the buffers and modules that it names, and its stream open. It counts against limits of the session
    (`--max-graphs`, `--max-graph-bytes` of the daemon), and is given back when the last reference to it goes. It
    outlives a restart of the executor, with its updates.

    Several threads may use a graph; each call is done before another's begins.

    Attributes
    ----------
    stream : Stream
        Where it was recorded.

    Examples
    --------
    >>> module = client.compile('''
    ... #include <ringlaunch/kernel.h>
    ... extern "C" __global__ void add(float* x, float value) { x[blockIdx.x] += value; }
    ... extern "C" __global__ void scale(float* x, float factor) { x[blockIdx.x] *= factor; }
    ... RINGLAUNCH_EXPORT(add)
    ... RINGLAUNCH_EXPORT(scale)
    ... ''')
    >>> stream = client.stream()
    >>> x = client.zeros(4, np.float32)
    >>> with stream.record() as graph:
    ...     module["add"][4, 1](x, 1.0, stream=stream)
    ...     module["scale"][4, 1](x, 2.0, stream=stream, name="scale")
    >>> graph
    <ringlaunch.Graph of 2 nodes: scale>
    >>> graph.launch()
    >>> graph.launch()
    >>> x.numpy(stream=stream)
    array([6., 6., 6., 6.], dtype=float32)
    >>> graph.update({"scale": (x, 10.0)})
    >>> graph.launch()
    >>> x.numpy(stream=stream)
    array([70., 70., 70., 70.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_handle", "_names", "_stream")

    def __init__(self, stream: Stream | None = None) -> None:
        if not isinstance(stream, _core.StreamHandle):
            raise ParamTypeError("ringlaunch.Graph is made by `with stream.record() as graph:`, not called")
        self._stream = stream
        self._handle: _core.GraphHandle | None = None
        self._names: dict[str, int] = {}

    def _begin(self) -> None:
        _core.stream_begin_graph(self._stream)

    def _end(self, well: bool) -> None:
        if not well:
            _core.stream_abandon_graph(self._stream)
            return
        self._handle = _core.stream_end_graph(self._stream)
        self._names = {name: number for number, name in enumerate(self._handle.names()) if name}

    def _made(self) -> _core.GraphHandle:
        if self._handle is None:
            raise InvalidArgument("the graph is there once the block `with stream.record() as graph:` has ended well")
        return self._handle

    @property
    def stream(self) -> Stream:
        """Where it was recorded. (Stream)"""
        return self._stream

    def launch(self, stream: Stream | None = None) -> None:
        """Enqueues the graph: one record of one slot, behind one for each launch updated since the last time.

        Blocks only while the ring is full, releasing the interpreter lock and answering Ctrl-C; at the first launch on
        a stream other than its own also until the daemon has answered.

        Parameters
        ----------
        stream : Stream, optional
            Without it, the one where the graph was recorded.

        Raises
        ------
        ParamTypeError, InvalidArgument
            No Stream, or one of another client.
        Unsupported
            That stream records a graph.
        LimitReached
            Another stream's copy of the graph goes beyond the session's limits.
        StreamStopped, DaemonLost, Closed
            A launch within the graph that the daemon refuses stops the stream with an error that names it, and so does
            an update; then launches of the graph are refused until that launch of it is updated again.
        """
        self._made().launch(self._stream if stream is None else stream)

    def update(self, launches: Mapping[str | int, tuple[Any, ...]]) -> None:
        """Gives launches of the graph other arguments, for all launches of the graph that are enqueued from here on.

        As `graph[name].update(*args)` for each; does not block.

        Parameters
        ----------
        launches : mapping of str or int to tuple
            All of a kernel's arguments by the launch's name or number.

        Raises
        ------
        NotFound
            There is no such launch.
        ParamTypeError, OutOfRange, InvalidArgument, Closed, Unsupported
            What a launch's update refuses. The launch that is named keeps its arguments; those before it have theirs.
        """
        if not isinstance(launches, Mapping):
            raise _check.refused("launches", "a mapping of names or numbers to tuples of arguments", launches)
        chosen = []
        for which, args in launches.items():
            if not isinstance(args, tuple):
                raise _check.refused(
                    f"launches[{_check.brief(which)}]", "a tuple of all of the kernel's arguments", args
                )
            chosen.append((self[which], args))
        for launch, args in chosen:
            self._made().update(launch.number, args, None, None, None)

    def __getitem__(self, which: str | int) -> GraphLaunch:
        handle = self._made()
        if isinstance(which, str):
            number = self._names.get(which, -1)
            if number < 0:
                names = ", ".join(self._names) or "none at all"
                raise NotFound(f"the graph has no launch named {which!r}; its names: {names}")
        else:
            try:
                number = _check.integer("number of a launch", which, 0, handle.size() - 1)
            except OutOfRange:
                raise NotFound(f"the graph has {_nodes(handle.size())}, found number {_check.brief(which)}") from None
        if handle.launch_at(number) is None:
            raise NotFound(f"node {number} of the graph is a copy or a fill, which cannot be updated")
        return GraphLaunch(self, number)

    def __len__(self) -> int:
        """Its launches, copies and fills."""
        return self._made().size()

    def __iter__(self) -> Iterator[str]:
        """The names that it has."""
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        if self._handle is None:
            return "<ringlaunch.Graph, not recorded>"
        names = ", ".join(self._names)
        return f"<ringlaunch.Graph of {_nodes(len(self))}{': ' if names else ''}{names}>"
