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

from ringlaunch import _check, _core, _mode
from ringlaunch._buffer import Buffer, host_array
from ringlaunch._compile import compile_source
from ringlaunch._module import Module, signature_list
from ringlaunch._numpy import np
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
_MOST_REGISTERS = 255  # that a thread of any GPU has


class DaemonInfo(NamedTuple):
    """What the daemon said of itself when the client connected.

    Attributes
    ----------
    pid : int
        The process that answers at the socket.
    version : str
        The release of the daemon ("0.1.0").
    driver : {"host", "null", "cuda"}
        What it launches on.
    device_name : str
        For people: the GPU's name, or "host" with the CPU's.
    architecture : str
        What images are made for: "sm_90" and the like for a GPU, "x86-64" for the host driver.
    socket : str
        The path of the socket that the client found it at.
    session : str
        The id of this client's session, as `ringlaunchd sessions` shows it.
    device : int
        The number of the device that this client's session belongs to.
    driver_note : str
        Why the daemon runs this driver, where it chose by itself (``--driver auto``): what keeps it from the GPU. Empty
        where it was told which one to take.
    """

    pid: int
    version: str
    driver: str
    device_name: str
    architecture: str
    socket: str
    session: str
    device: int
    driver_note: str = ""


def connect(
    socket: str | os.PathLike[str] | None = None,
    device: int = 0,
    driver: str | None = None,
    start: bool = True,
    timeout: float = 10.0,
    kernel_timeout: float | None = None,
    daemon_uid: int | None = None,
    coalesce: bool = True,
    mode: str | None = None,
) -> Client:
    """Connects to the daemon; starts a private one if there is none.

    A private daemon leaves when its last client has. Two programs that start at once get one daemon. Blocks until
    the daemon answers, releasing the interpreter lock and answering Ctrl-C.

    Parameters
    ----------
    socket : str or path, optional
        The daemon's socket, of at most 107 bytes. Without it $RINGLAUNCH_SOCKET, else
        $XDG_RUNTIME_DIR/ringlaunch/daemon.sock, else a folder of the user in /tmp.
    device : int
        The device that this client works on, from 0. Which a daemon serves `ringlaunchd serve --devices` chooses: all
        GPUs, if nothing else is said. The daemon starts the device's executor when the first client asks for it.
    driver : {"auto", "host", "null", "cuda"}, optional
        What a daemon that is started here launches on; one that runs with another is refused. Without it any that runs
        is taken.
    start : bool
        Whether to start a daemon where none runs. $RINGLAUNCHD names the program, else the package's own.
    timeout : float
        Seconds in which the daemon has to answer.
    kernel_timeout : float, optional
        Seconds that a launch of this client may be at work. One that takes longer is ended with its executor, and its
        stream stops as after a fault. The daemon may have a shorter bound (`serve --kernel-timeout`); without both
        there is none.
    daemon_uid : int, optional
        The number of a user whose daemon is taken, besides this user's own and root's. Without it the user that
        $RINGLAUNCH_DAEMON_UID names, else nobody's.
    coalesce : bool
        Whether launches may go through launch graphs, alone and in chains. Results are bit-identical either way;
        without, each launch of this client is given to the device by itself, as it is: to compare, or where a tool
        has to see plain launches. Under `serve --no-coalesce` that is so for all.
    mode : str, optional
        The mode of Triton kernels' calls, as of `ringlaunch.wrap`, where their kernel has none of its own, while this
        client is open: "daemon" (with this client, where a call names neither a buffer nor a stream), "inline" or
        "embedded". Of several such clients the one that was opened last counts. Without it each call goes where its
        arguments are.

    Returns
    -------
    Client

    Raises
    ------
    DaemonLost
        No daemon runs there and none could be started.
    NotFound
        There is no program to start, or the daemon does not serve that device.
    Unsupported
        The daemon that runs there has another driver.
    VersionMismatch
        The daemon is of a release that speaks another protocol.
    PermissionDenied
        The daemon does not serve this user, others may write where its socket stands, or it is run by a user who is
        neither this one nor root nor `daemon_uid`.
    LimitReached
        The daemon has as many sessions as it takes.
    Timeout
        It did not answer in time.
    ParamTypeError, OutOfRange, InvalidArgument
        An argument of another type or value.

    Examples
    --------
    >>> with rl.connect() as mine:
    ...     mine.daemon.driver
    'host'
    """
    path = "" if socket is None else _socket_path(socket)
    device = _check.integer("device", device, 0, 2**31 - 1)
    named = "" if driver is None else _check.choice("driver", driver, _DRIVERS)
    start = _check.flag("start", start)
    if kernel_timeout is not None:
        if isinstance(kernel_timeout, bool) or not isinstance(kernel_timeout, int | float):
            raise _check.refused("kernel_timeout", "None or seconds above 0", kernel_timeout)
        if not kernel_timeout > 0:
            raise InvalidArgument(
                f"kernel_timeout: expected None or seconds above 0, found {_check.shown(kernel_timeout)}"
            )
        try:
            kernel_timeout = float(kernel_timeout)
        except OverflowError:
            raise OutOfRange(
                f"kernel_timeout: expected seconds that a float holds, found {_check.shown(kernel_timeout)}"
            ) from None
    if daemon_uid is not None:
        daemon_uid = _check.integer("daemon_uid", daemon_uid, 0, 2**32 - 2)  # 2**32 - 1 is nobody's
    coalesce = _check.flag("coalesce", coalesce)
    if mode is not None:
        mode = _mode.meant(_check.choice("mode", mode, _mode.NAMED))
    handle = _core.connect(path, device, start, _daemon_path(), named, timeout, kernel_timeout, daemon_uid, coalesce)
    client = Client(handle)
    if mode is not None:
        _mode.choose(client, mode)
    return client


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
    device : int
    closed : bool
    warning : str
    default_stream : Stream

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
        """What the daemon said of itself when the client connected. (DaemonInfo) It stays once the daemon is gone."""
        return self._daemon

    @property
    def device(self) -> int:
        """The number of the device that this client's buffers are on and its kernels run on. (int)"""
        return self._daemon.device

    @property
    def closed(self) -> bool:
        """Whether `close()` was called. (bool) A daemon that is gone does not close its clients."""
        return self._handle.closed

    @property
    def warning(self) -> str:
        """What the daemon last warned this session of; "": of nothing. (str)

        It kills executors again and again, or a part of it could not be restored after a restart; the text says which.
        """
        return self._handle.warning()

    @property
    def default_stream(self) -> Stream:
        """The stream of all launches and copies that are told none. (Stream)

        The first use opens it, which blocks until the daemon has answered and raises what `stream` raises.
        """
        return default_stream(self._handle)

    def load(
        self,
        image: bytes | bytearray | memoryview | str | os.PathLike[str],
        signatures: Mapping[str, Declaration] | None = None,
        name: str = "",
        max_registers: int | None = None,
        stack: int | None = None,
    ) -> Module:
        """Loads a module. Blocks until the daemon has, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        image : bytes-like, or a path
            A shared object made with <ringlaunch/kernel.h> for the host driver; a cubin, a fatbin or PTX for a GPU.
        signatures : mapping of str to sequence, optional
            The parameter types of kernels whose image does not declare them: for each kernel its parameters in order,
            as "int32" or ("n", "int32"). Types are pointer, bool, int8 to int64, uint8 to uint64, float16, bfloat16,
            float32, float64 and "bytes[size, alignment]" for a struct passed by value.
        name : str
            For operators and messages; a path's last part is the default.
        max_registers : int, optional
            The most registers that a thread may take, so that more threads run at once: 1 to 255. For PTX, which the
            GPU's driver compiles; `Kernel.registers` says what came of it. What is compiled already has the registers
            that its compiler gave it.
        stack : int, optional
            The least bytes of stack that each thread has, beyond what a kernel's code says it needs: for kernels that
            recurse, which get CUDA's 1 KiB (or what `ringlaunchd serve --stack` says) without. A GPU has one size for
            all its threads, running or not (some 270,000 on an H200, so that 16 KiB take 4.4 GB), and for all kernels:
            it is raised for everybody once all that is in flight has completed, for which other launches wait, and
            stays until the daemon's executor ends. With the host driver threads have what the system gives them
            (`ulimit -s`, usually 8 MiB).

        Returns
        -------
        Module

        Raises
        ------
        BadImage
            Not what the daemon's driver takes, or a signature contradicts it; the text says what was found.
        Unsupported
            `max_registers` for an image that is compiled already; a `stack` that no thread can have.
        ExecutorLost
            The executor died while it loaded the module.
        LimitReached
            The session has as many modules as it may, or the image or the `stack` is too large (`--max-stack`).
        OutOfMemory
            The device has no room for the image, or for a `stack` so large for each of its threads.
        Timeout
            What was in flight on the device did not complete in time for its `stack` to be raised.
        ParamTypeError, InvalidArgument, OutOfRange
            An argument of another type; a signature, a number of registers or a stack that cannot be.
        Closed, DaemonLost
        OSError
            The file cannot be read.
        """
        if isinstance(image, str | os.PathLike):
            path = Path(_check.text("image", os.fspath(image)))
            image, name = path.read_bytes(), name or path.name
        elif not isinstance(image, bytes | bytearray | memoryview):
            raise _check.refused("image", "bytes or a path", image)
        handle = self._handle.load(
            bytes(image),
            _check.name("name", name),
            signature_list(signatures),
            _registers(max_registers) or 0,
            _stack(stack) or 0,
        )
        return Module(self._handle, handle, name)

    def compile(
        self,
        source: str,
        name: str = "kernels.cu",
        options: Sequence[str] = (),
        max_registers: int | None = None,
        stack: int | None = None,
    ) -> Module:
        """Compiles kernels written with <ringlaunch/kernel.h>, and loads them.

        The compiler runs here, in this process's environment; which one depends on the daemon's driver:

        - host, null: g++ on PATH, or the program that $RINGLAUNCH_CXX names. The image is kept in the user's cache
          folder ($XDG_CACHE_HOME/ringlaunch or ~/.cache/ringlaunch), so the second time costs a read.
        - cuda: NVRTC, the library of the CUDA toolkit or of PyPI's nvidia-cuda-nvrtc, or the one that $RINGLAUNCH_NVRTC
          names; for the daemon's GPU, whatever this machine has. Nothing is kept. What nvcc makes goes to `load`.

        Blocks until the compiler is through and the daemon has loaded the image. g++ is ended after 300 seconds.

        Parameters
        ----------
        source : str
            CUDA C++. The kernels to be launched are extern "C" and exported with RINGLAUNCH_EXPORT.
        name : str
            What the compiler's messages, and the module, call the source.
        options : sequence of str
            More of that compiler's options: "-DN=4" for both; "-march=native" for g++, "--use_fast_math" for NVRTC.
        max_registers : int, optional
            The most registers that a thread may take, so that more threads run at once: 1 to 255; NVRTC takes what is
            less than its least for that. `__launch_bounds__` in the source does the same for one kernel;
            `Kernel.registers` says what came of it. Results do not depend on it, so for a CPU it is not looked at.
        stack : int, optional
            As of `load`.

        Returns
        -------
        Module

        Raises
        ------
        CompileError
            The compiler refused the source, or took too long. Its messages are in the text and in `log`.
        Unsupported
            There is no compiler; the text says what to install.
        ParamTypeError, InvalidArgument, OutOfRange
            An argument of another type; a number of registers or a stack that cannot be.
        BadImage, ExecutorLost, LimitReached, OutOfMemory, Timeout, Closed, DaemonLost
            As of `load`.

        Examples
        --------
        >>> client.compile("extern void nothing(", name="wrong.cu")
        Traceback (most recent call last):
            ...
        ringlaunch.errors.CompileError: compiling 'wrong.cu': ...
        """
        _stack(stack)  # before the compiler takes its time
        image = compile_source(
            _check.text("source", source),
            _check.name("name", name),
            options,
            self._daemon.driver,
            self._daemon.architecture,
            _registers(max_registers),
        )
        return self.load(image, name=name, stack=stack)

    def empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = "float32") -> Buffer:
        """A buffer with unspecified contents.

        Blocks until the daemon has answered, not for any work, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        shape : int or sequence of int
            Elements in each dimension, at most 32 of them.
        dtype : numpy dtype
            Any of fixed size without Python objects.

        Returns
        -------
        Buffer

        Raises
        ------
        OutOfMemory
            The device has no room of that size left.
        LimitReached
            The session has as much memory, or as many buffers, as it may.
        ParamTypeError, OutOfRange, InvalidArgument
            No shape, or no dtype, that a buffer can have.
        ExecutorLost
            The executor died while it made the memory.
        Closed, DaemonLost

        Examples
        --------
        >>> client.empty((2, 3), np.int8).nbytes
        6
        """
        return Buffer._allocate(self._handle, *_layout_of(shape, dtype))

    def zeros(
        self, shape: int | Sequence[int], dtype: npt.DTypeLike = "float32", stream: Stream | None = None
    ) -> Buffer:
        """A buffer of zeros.

        Parameters
        ----------
        shape, dtype
            As of `empty`.
        stream : Stream, optional
            Where to enqueue the filling, which then is not waited for. Without it: after what was enqueued to every
            stream of the client, all of which are waited for, and the buffer is ready on return.

        Returns
        -------
        Buffer

        Raises
        ------
        StreamStopped
            The stream has stopped: without `stream`, any of the client's.
        OutOfMemory, LimitReached, ParamTypeError, OutOfRange, InvalidArgument, ExecutorLost, Closed, DaemonLost
            As of `empty`.
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
            Where to enqueue the copy, which then is not waited for. Without it: after what was enqueued to every stream
            of the client, all of which are waited for, and the buffer is ready on return.

        Returns
        -------
        Buffer
            Of the array's shape and dtype: that of a list of Python's floats is float64, of its ints int64.

        Raises
        ------
        InvalidArgument
            Data that numpy does not take as an array, or not convert.
        ParamTypeError
            A Buffer (`Buffer.copy_from` copies one to another), or a dtype with Python objects.
        StreamStopped
            The stream has stopped: without `stream`, any of the client's.
        OutOfMemory, LimitReached, OutOfRange, ExecutorLost, Closed, DaemonLost
            As of `empty`.

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

    def pinned_empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = "float32") -> np.ndarray:
        """A numpy array in memory that the device reads and writes directly, with unspecified contents.

        Kernels take it, and its contiguous views, as they take a buffer: they read and write the array itself, and what
        they wrote is there once the stream has passed them. `device_address` says where they find it.

        Copies from and to it and its contiguous views (`copy_from`, `array`, `numpy(out=)`, `copy_to`) go without a
        second one on the host. On a stream they are not waited for: write the array again, or read what was copied to
        it, once the stream has passed the copy (`stream.record()`, `stream.synchronize()`). The memory is given back
        when the last view is gone and the work that uses it has completed; forked children share it. It counts
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

    def device_address(self, array: np.ndarray) -> int:
        """Where kernels find an array from this client's `pinned_empty`, or a contiguous view of one.

        For addresses that a kernel reads from memory; as an argument the array itself will do. Stays the same when the
        daemon restarts an executor. Does not block.

        Parameters
        ----------
        array : numpy.ndarray
            Keep it as long as a kernel may use the address: only launches that are given the array itself keep its
            memory.

        Returns
        -------
        int

        Raises
        ------
        InvalidArgument
            The array is none of this client's pinned memory, or not contiguous in C order.
        ParamTypeError, Closed

        Examples
        --------
        >>> flags = client.pinned_empty(4, np.uint32)
        >>> client.device_address(flags[1:]) - client.device_address(flags)
        4
        """
        if not isinstance(array, np.ndarray):
            raise ParamTypeError(f"array: expected a numpy array, found {type(array).__name__}")
        address = self._handle.device_address(array) if array.flags.c_contiguous else 0
        if address == 0:
            raise InvalidArgument(
                "array: expected an array from this client's pinned_empty, or a view of one that is contiguous in C "
                f"order, found {array.dtype} {array.shape} elsewhere or with gaps"
            )
        return address

    def stream(
        self, name: str = "", ring_slots: int | None = None, on_restart: str = "stop", priority: int = 0
    ) -> Stream:
        """A new stream: a queue of work that runs independently of the others.

        Blocks until the daemon has answered, not for any work, releasing the interpreter lock and answering Ctrl-C.

        Parameters
        ----------
        name : str
            For operators (`ringlaunchd stats` shows 64 bytes of it).
        ring_slots : int, optional
            Slots of 64 bytes of its ring, a power of two from 64 to 65536. Without it 4096, or what the daemon's
            `--max-ring-slots` allows where that is less.
        on_restart : {"stop", "rerun"}
            What happens to work in doubt when the executor dies. "rerun" is a promise that replaying everything after
            the completed position gives the same bytes.
        priority : int
            0 to 5 on most devices: the greater is served first, by the daemon and by a GPU. One that the device does
            not have is refused with its range.

        Returns
        -------
        Stream

        Raises
        ------
        LimitReached
            The session, or the daemon, has as many streams as it may.
        ParamTypeError, OutOfRange, InvalidArgument
            An argument of another type or value.
        ExecutorLost
            The executor died while it opened the stream.
        Closed, DaemonLost
        """
        return open_stream(self._handle, ring_slots, on_restart, priority, name)

    def synchronize(self, timeout: float | None = None) -> None:
        """Blocks until everything enqueued to every stream of this client has completed.

        Releases the interpreter lock and answers Ctrl-C. Work of a stream that was closed is waited for, too.

        Parameters
        ----------
        timeout : float, optional
            Seconds; without it, as long as the daemon lives.

        Raises
        ------
        Timeout
            Not completed in time.
        StreamStopped
            One of the streams that are open has stopped; its own error, as of `Stream.synchronize`.
        DaemonLost, Closed
        """
        synchronize(self._handle, timeout)

    def close(self) -> None:
        """Ends the session and all that it owns: streams, modules, buffers. Closing twice does nothing.

        Does not wait for work in flight. What is asked of the handles later raises `Closed`. A program that ends closes
        its clients.
        """
        self._handle.close()
        _mode.client_closed()

    def __repr__(self) -> str:
        info = self._daemon
        closed = " (closed)" if self.closed else ""
        return f"<ringlaunch.Client of {info.driver} daemon {info.pid} at {info.socket}{closed}>"


def _layout_of(shape: object, dtype: object) -> tuple[tuple[int, ...], np.dtype]:
    sizes, found = _shape_of(shape), _dtype_of(dtype)
    nbytes = math.prod(sizes) * found.itemsize
    if nbytes > _MOST_BYTES:
        raise OutOfRange(
            f"shape: expected at most {_MOST_BYTES} bytes, found {_check.brief(nbytes)} for {_check.shown(shape)}"
        )
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


def _registers(most: int | None) -> int | None:
    """`max_registers` of `Client.load` and `Client.compile`."""
    return None if most is None else _check.integer("max_registers", most, 1, _MOST_REGISTERS)


def _stack(least: int | None) -> int | None:
    """`stack` of `Client.load` and `Client.compile`."""
    return None if least is None else _check.integer("stack", least, 1, _MOST_BYTES)


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
