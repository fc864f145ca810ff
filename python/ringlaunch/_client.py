"""A connection to a daemon, and all that it makes."""

from __future__ import annotations

import atexit
import contextlib
import math
import operator
import os
import sys
import sysconfig
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ringlaunch import _check, _core
from ringlaunch._buffer import Buffer, host_array
from ringlaunch._compile import compile_source
from ringlaunch._module import Module, signature_list
from ringlaunch._scope import Scope
from ringlaunch._stream import Stream, default_stream, open_stream, synchronize
from ringlaunch.errors import Error, InvalidArgument, OutOfRange, ParamTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from ringlaunch._module import Declaration

_DRIVERS = ("auto", "host", "null", "cuda")
_MOST_BYTES = 2**63 - 1
_MOST_DIMENSIONS = 32  # every numpy holds as many


class DaemonInfo(NamedTuple):
    """What the daemon said of itself when the client connected."""

    pid: int
    version: str
    driver: str
    device_name: str
    architecture: str
    socket: str
    session: int


def connect(
    socket: str | os.PathLike[str] | None = None,
    device: int = 0,
    driver: str | None = None,
    start: bool = True,
    timeout: float = 10.0,
) -> Client:
    """Connects to the daemon; starts a private one if there is none.

    A private daemon leaves when its last client has. Two programs that start at once get one daemon. Blocks until
    the daemon answers, releasing the interpreter lock and answering Ctrl-C.

    Parameters
    ----------
    socket : str or path, optional
        The daemon's socket. Without it $RINGLAUNCH_SOCKET, else $XDG_RUNTIME_DIR/ringlaunch/daemon.sock, else a folder
        of the user in /tmp.
    device : int
        Which device of the daemon.
    driver : {"auto", "host", "null", "cuda"}, optional
        What a daemon that is started here launches on; one that runs with another is refused. Without it any that runs
        is taken.
    start : bool
        Whether to start a daemon where none runs. $RINGLAUNCHD names the program, else the package's own.
    timeout : float
        Seconds.

    Returns
    -------
    Client

    Raises
    ------
    DaemonLost
        No daemon runs there and none could be started.
    Unsupported
        The daemon that runs there has another driver.
    VersionMismatch, PermissionDenied, LimitReached, Timeout

    Examples
    --------
    >>> with rl.connect() as mine:
    ...     mine.daemon.driver
    'host'
    """
    path = "" if socket is None else _socket_path(socket)
    device = _check.integer("device", device, 0, 2**31 - 1)
    named = "" if driver is None else _check.choice("driver", driver, _DRIVERS)
    return Client(_core.connect(path, device, _check.flag("start", start), _daemon_path(), named, timeout))


def _socket_path(socket: object) -> str:
    if not isinstance(socket, str | os.PathLike):
        raise _check.refused("socket", "None or a path", socket)
    path = _check.text("socket", os.fspath(socket))
    if not path:
        raise InvalidArgument("socket: expected None or a path, found an empty one")
    return path


def _daemon_path() -> str:
    """The package's own daemon; "" where the client library should look for it."""
    if os.environ.get("RINGLAUNCHD"):
        return ""
    for folder in (sysconfig.get_path("scripts"), os.path.dirname(sys.executable)):
        path = os.path.join(folder, "ringlaunchd")
        if os.access(path, os.X_OK):
            return path
    return ""


class Client(Scope):
    """A session with a daemon: modules, buffers and streams. `ringlaunch.connect` makes one.

    It may be used from any thread. As a context manager it waits for its work and closes. A forked child has no
    session: what it inherited raises `Closed`, and it connects anew.

    Attributes
    ----------
    daemon : DaemonInfo
    closed : bool

    Examples
    --------
    >>> client
    <ringlaunch.Client of host daemon ...>
    """

    def __init__(self, handle: _core.ClientHandle | None = None) -> None:
        if not isinstance(handle, _core.ClientHandle):
            raise ParamTypeError("ringlaunch.Client is made by ringlaunch.connect(), not called")
        self._handle = handle
        handle.streams = weakref.WeakSet()
        self._daemon = DaemonInfo(*handle.daemon())
        _open_clients.add(self)

    @property
    def daemon(self) -> DaemonInfo:
        return self._daemon

    @property
    def closed(self) -> bool:
        return self._handle.closed

    @property
    def warning(self) -> str:
        """What the daemon last warned this session of (it kills executors again and again); "": of nothing."""
        return self._handle.warning()

    @property
    def default_stream(self) -> Stream:
        """The stream of all launches and copies that are told none."""
        return default_stream(self._handle)

    def load(
        self,
        image: bytes | bytearray | memoryview | str | os.PathLike[str],
        signatures: Mapping[str, Declaration] | None = None,
        name: str = "",
    ) -> Module:
        """Loads a module. Blocks until the daemon has, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        image : bytes-like, or a path
            A shared object made with <ringlaunch/kernel.h> for the host driver, a cubin for a GPU.
        signatures : mapping of str to sequence, optional
            The parameter types of kernels whose image does not declare them: for each kernel its parameters in order,
            as "int32" or ("n", "int32"). Types are pointer, bool, int8 to int64, uint8 to uint64, float16, bfloat16,
            float32, float64 and "bytes[size, alignment]" for a struct passed by value.
        name : str
            For operators and messages; a path's last part is the default.

        Returns
        -------
        Module

        Raises
        ------
        BadImage
            Not what the daemon's driver takes, or a signature contradicts it; the text says what was found.
        LimitReached, Closed, DaemonLost
        OSError
            The file cannot be read.
        """
        if isinstance(image, str | os.PathLike):
            path = Path(_check.text("image", os.fspath(image)))
            image, name = path.read_bytes(), name or path.name
        elif not isinstance(image, bytes | bytearray | memoryview):
            raise _check.refused("image", "bytes or a path", image)
        handle = self._handle.load(bytes(image), _check.text("name", name), signature_list(signatures))
        return Module(self._handle, handle, name)

    def compile(self, source: str, name: str = "kernels.cu", options: Sequence[str] = ()) -> Module:
        """Compiles kernels written with <ringlaunch/kernel.h>, and loads them.

        For a daemon with the driver host or null the source is compiled here, by g++ (or $RINGLAUNCH_CXX). The image
        is kept in the user's cache folder, so the second time costs a read.

        Parameters
        ----------
        source : str
        name : str
            What the compiler's messages call the source.
        options : sequence of str
            More of the compiler's options ("-DN=4", "-march=native").

        Returns
        -------
        Module

        Raises
        ------
        CompileError
            The compiler's messages are in the text and in `log`.
        Unsupported
            There is no compiler, or none for the daemon's driver.
        BadImage, LimitReached, Closed, DaemonLost

        Examples
        --------
        >>> client.compile("extern void nothing(", name="wrong.cu")
        Traceback (most recent call last):
            ...
        ringlaunch.errors.CompileError: compiling 'wrong.cu': ...
        """
        image = compile_source(
            _check.text("source", source),
            _check.text("name", name),
            options,
            self._daemon.driver,
            self._daemon.architecture,
        )
        return self.load(image, name=name)

    def empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """A buffer with unspecified contents.

        Parameters
        ----------
        shape : int or sequence of int
        dtype : numpy dtype
            Any of fixed size without Python objects.

        Returns
        -------
        Buffer

        Raises
        ------
        OutOfMemory, LimitReached, Closed, DaemonLost

        Examples
        --------
        >>> client.empty((2, 3), np.int8).nbytes
        6
        """
        return Buffer._allocate(self._handle, *_layout_of(shape, dtype))

    def zeros(
        self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32, stream: Stream | None = None
    ) -> Buffer:
        """A buffer of zeros.

        Parameters
        ----------
        shape, dtype
            As of `empty`.
        stream : Stream, optional
            Where to enqueue the filling, which then is not waited for. Without it the buffer is ready on return.

        Returns
        -------
        Buffer
        """
        buffer = self.empty(shape, dtype)
        buffer.fill(0, stream)
        return buffer

    def array(self, data: npt.ArrayLike, dtype: npt.DTypeLike | None = None, stream: Stream | None = None) -> Buffer:
        """A buffer with a copy of an array.

        Parameters
        ----------
        data : array_like
            May be changed as soon as this returns; one from `pinned_empty` that is copied on a stream once that has
            passed this place.
        dtype : numpy dtype, optional
            Converts to it first.
        stream : Stream, optional
            Where to enqueue the copy, which then is not waited for. Without it the buffer is ready on return.

        Returns
        -------
        Buffer
            Of the array's shape.

        Examples
        --------
        >>> client.array([[1, 2], [3, 4]], dtype=np.float16).numpy()
        array([[1., 2.],
               [3., 4.]], dtype=float16)
        """
        if isinstance(data, Buffer):
            raise ParamTypeError("data: expected host data, found a Buffer; copy_from copies one to another")
        host = host_array("data", data, None if dtype is None else _dtype_of(dtype))
        buffer = self.empty(host.shape, host.dtype)
        buffer._write(host, stream)
        return buffer

    def pinned_empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> np.ndarray:
        """A numpy array in memory that the device reads and writes directly, with unspecified contents.

        Copies from and to it and its contiguous views (`copy_from`, `array`, `numpy(out=)`, `copy_to`) go without a
        second one on the host. On a stream they are not waited for: write the array again, or read what was copied to
        it, once the stream has passed the copy (`stream.record()`, `stream.synchronize()`). The memory is given back
        when the last view is gone and the copies that use it have completed; forked children share it. It counts
        towards the daemon's `--max-staging`.

        Parameters
        ----------
        shape, dtype
            As of `empty`.

        Returns
        -------
        numpy.ndarray

        Raises
        ------
        LimitReached, Closed, DaemonLost

        Examples
        --------
        >>> batch = client.pinned_empty((2, 3))
        >>> batch[:] = 1
        >>> x = client.empty((2, 3))
        >>> with client.stream() as stream:
        ...     x.copy_from(batch, stream)
        >>> batch[:] = 2  # the stream is through
        >>> x.numpy()
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
        """
        sizes, found = _layout_of(shape, dtype)
        nbytes = math.prod(sizes) * found.itemsize
        if nbytes == 0:
            return np.empty(sizes, found)
        return np.ndarray(sizes, found, buffer=memoryview(self._handle.pinned(nbytes)))

    def stream(self, name: str = "", ring_slots: int = 4096, on_restart: str = "stop", priority: int = 0) -> Stream:
        """A new stream: a queue of work that runs independently of the others.

        Parameters
        ----------
        name : str
            For operators.
        ring_slots : int
            Slots of 64 bytes of its ring, a power of two from 64 to 65536.
        on_restart : {"stop", "rerun"}
            What happens to work in doubt when the executor dies. "rerun" is a promise that replaying everything after
            the completed position gives the same bytes.
        priority : int
            Higher goes first.

        Returns
        -------
        Stream

        Raises
        ------
        LimitReached, InvalidArgument, Closed, DaemonLost
        """
        return open_stream(self._handle, ring_slots, on_restart, priority, name)

    def synchronize(self, timeout: float | None = None) -> None:
        """Blocks until everything enqueued to any stream has completed, answering Ctrl-C.

        Parameters
        ----------
        timeout : float, optional
            Seconds; without it, as long as the daemon lives.

        Raises
        ------
        Timeout, StreamStopped, DaemonLost, Closed
        """
        synchronize(self._handle, timeout)

    def close(self) -> None:
        """Ends the session and all that it owns. Waits for nothing. Closing twice does nothing."""
        self._handle.close()

    def __repr__(self) -> str:
        info = self._daemon
        closed = " (closed)" if self.closed else ""
        return f"<ringlaunch.Client of {info.driver} daemon {info.pid} at {info.socket}{closed}>"


def _layout_of(shape: object, dtype: object) -> tuple[tuple[int, ...], np.dtype]:
    sizes, found = _shape_of(shape), _dtype_of(dtype)
    nbytes = math.prod(sizes) * found.itemsize
    if nbytes > _MOST_BYTES:
        raise OutOfRange(f"shape: expected at most {_MOST_BYTES} bytes, found {nbytes} for {_check.shown(shape)}")
    return sizes, found


def _shape_of(shape: object) -> tuple[int, ...]:
    try:
        # A scalar of numpy has the methods of an array, but no length.
        given: Any = shape if isinstance(shape, Sequence | np.ndarray) and np.ndim(shape) else (shape,)
        sizes = tuple(operator.index(size) for size in given)
    except (TypeError, ValueError):
        raise _check.refused("shape", "an integer or a sequence of integers", shape) from None
    if any(size < 0 for size in sizes):
        raise InvalidArgument(f"shape: expected sizes of 0 or more, found {_check.shown(shape)}")
    if len(sizes) > _MOST_DIMENSIONS:
        raise InvalidArgument(f"shape: expected at most {_MOST_DIMENSIONS} dimensions, found {len(sizes)}")
    return sizes


def _dtype_of(dtype: object) -> np.dtype:
    try:
        found: np.dtype | None = None if dtype is None else np.dtype(cast("npt.DTypeLike", dtype))
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise _check.refused("dtype", "a numpy dtype", dtype)
    if found.hasobject or found.itemsize == 0:
        raise ParamTypeError(f"dtype: expected one of fixed size without Python objects, found {found}")
    return found


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # The daemon would notice by itself; this way it learns at once. Work in flight is not waited for.
    for client in list(_open_clients):
        with contextlib.suppress(Error):
            client.close()
