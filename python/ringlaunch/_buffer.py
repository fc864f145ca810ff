"""Device memory with a shape and a type."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from ringlaunch import _check, _core
from ringlaunch._numpy import np
from ringlaunch._stream import Stream, default_stream, synchronize
from ringlaunch.errors import Closed, InvalidArgument, OutOfRange, ParamTypeError

if TYPE_CHECKING:
    import numpy.typing as npt

_FILL_WIDTHS = (1, 2, 4)

# What Triton calls element types, by numpy's names for them; those of ml_dtypes too. The call of a Triton kernel tells
# buffers apart by the number.
_ELEMENT_NAMES = (
    *(
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
_elements: dict[np.dtype, int] = {}


def _element_number(dtype: np.dtype) -> int:
    number = _elements.get(dtype)
    if number is None:
        name = str(dtype)  # with the order of the bytes, where that is not the machine's
        number = _elements[dtype] = _ELEMENT_NAMES.index(name) + 1 if name in _ELEMENT_NAMES else 0
    return number


# Of the kinds of numbers of numpy, the wider behind the narrower.
_RANKS = {"b": 0, "u": 0, "i": 0, "f": 1, "c": 2}


def host_array(what: str, data: object, dtype: np.dtype | None) -> np.ndarray:
    """What is to be copied, as numpy sees it."""
    try:
        return np.asarray(data, dtype=dtype)
    except OverflowError as error:
        raise OutOfRange(f"{what}: {error}") from None
    except (TypeError, ValueError) as error:
        expected = "data that numpy takes as an array" if dtype is None else f"data that numpy converts to {dtype}"
        raise InvalidArgument(f"{what}: expected {expected}, found {_check.shown(data)}: {error}") from None


def _element(value: object, dtype: np.dtype) -> np.ndarray:
    """A value of `Buffer.fill` as one element: a number may widen, never narrow, and is in range."""
    if value is None:
        raise _check.refused("value", f"one that fits {dtype}", value)
    numeric = dtype.kind in _RANKS
    found = host_array("value", value, None if numeric else dtype)
    if found.ndim != 0:
        raise _check.refused("value", f"one element of {dtype}", value)
    if not numeric:
        return found
    kind = "i" if isinstance(value, int) else found.dtype.kind  # numpy has no kind for an int beyond 64 bits
    if kind not in _RANKS or _RANKS[kind] > _RANKS[dtype.kind]:
        raise _check.refused("value", f"one that fits {dtype}", value)
    if dtype.kind == "b":
        return np.asarray(_check.integer("value", int(found), 0, 1), dtype)
    if dtype.kind in "ui":
        info = np.iinfo(dtype)
        return np.asarray(_check.integer("value", int(found), int(info.min), int(info.max)), dtype)
    with np.errstate(over="ignore"):
        element = host_array("value", value, dtype)
    if not np.isfinite(element) and (kind == "i" or np.isfinite(found)):
        raise OutOfRange(f"value: expected one that fits {dtype}, found {_check.shown(value)}")
    return element


class Buffer(_core.BufferHandle):
    """An array in device memory, contiguous in C order. `client.array`, `empty` and `zeros` make one.

    A buffer that is garbage-collected (or freed) with work in flight is given back once that work has completed.

    Attributes
    ----------
    shape : tuple of int
        Elements in each dimension.
    dtype : numpy.dtype
        Of an element.
    ndim : int
        Dimensions.
    size : int
        Elements.
    nbytes : int
        Bytes.
    address : int
        The device address; 0 once freed.
    freed : bool
        Whether `free()` was called.

    Examples
    --------
    >>> x = client.array(np.arange(6, dtype=np.int32).reshape(2, 3))
    >>> x
    <ringlaunch.Buffer int32 (2, 3)>
    >>> x[1].numpy()
    array([3, 4, 5], dtype=int32)
    >>> x.free()
    >>> x.numpy()
    Traceback (most recent call last):
        ...
    ringlaunch.errors.Closed: reading a buffer that was freed
    """

    __slots__ = ("__weakref__", "_client", "_dtype", "_shape")

    _client: _core.ClientHandle
    _dtype: np.dtype
    _shape: tuple[int, ...]

    @staticmethod
    def _allocate(client: _core.ClientHandle, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        buffer = client.alloc(Buffer, max(math.prod(shape) * dtype.itemsize, 1))
        return buffer._describe(client, shape, dtype)

    def _describe(self, client: _core.ClientHandle, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        self._client, self._shape, self._dtype = client, shape, dtype
        self._element = _element_number(dtype)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension. (tuple of int)"""
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        """Of an element. (numpy.dtype)"""
        return self._dtype

    @property
    def ndim(self) -> int:
        """Dimensions. (int)"""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Elements. (int)"""
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes. (int)"""
        return self.size * self._dtype.itemsize

    def stride(self) -> tuple[int, ...]:
        """Elements from one to the next in each dimension, as of a tensor of torch.

        Returns
        -------
        tuple of int
        """
        return tuple(math.prod(self._shape[i + 1 :]) for i in range(len(self._shape)))

    def __len__(self) -> int:
        if not self._shape:
            raise ParamTypeError("len() of a buffer without dimensions")
        return self._shape[0]

    def __repr__(self) -> str:
        state = ", freed" if self.freed else ""
        return f"<ringlaunch.Buffer {self._dtype} {self._shape}{state}>"

    def __array__(self, *_: object, **__: object) -> NoReturn:
        """Refuses: numpy would copy without a word, or make an array of buffers."""
        raise ParamTypeError("expected an array of the host, found a Buffer: buffer.numpy() copies it to the host")

    def __getitem__(self, key: int | slice) -> Buffer:
        """A part along the first dimension: the same memory, which lives as long as any part of it.

        Parameters
        ----------
        key : int or slice
            An index, or a slice whose step is 1.

        Returns
        -------
        Buffer

        Raises
        ------
        IndexError
            No such element.
        ParamTypeError, InvalidArgument
            Neither an integer nor a slice; a slice with another step; a buffer without dimensions.
        Closed
        """
        length = len(self)
        if isinstance(key, slice):
            try:
                start, stop, step = key.indices(length)
            except (TypeError, ValueError):  # ValueError: a step of 0
                raise _check.refused("a part of a buffer", "a slice of integers whose step is 1", key) from None
            if step != 1:
                raise InvalidArgument(
                    f"a part of a buffer is contiguous: expected a step of 1, found {_check.brief(step)}"
                )
            shape = (max(stop - start, 0), *self._shape[1:])
        else:
            try:
                start = range(length)[key]
            except TypeError:
                raise _check.refused("a part of a buffer", "an integer or a slice", key) from None
            except IndexError:  # which ends a loop over the buffer
                raise IndexError(f"a part of a buffer: {_check.shown(key)} is no index of {length} elements") from None
            shape = self._shape[1:]
        row = math.prod(self._shape[1:]) * self._dtype.itemsize
        part = self._part(start * row, math.prod(shape) * self._dtype.itemsize)
        return part._describe(self._client, shape, self._dtype)

    def numpy(
        self, stream: Stream | None = None, timeout: float | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Copies the buffer to the host. Blocks until the copy has completed, releasing the interpreter lock.

        Parameters
        ----------
        stream : Stream, optional
            After what was enqueued to this stream. Without it: after what was enqueued to every stream of the client,
            all of which are waited for.
        timeout : float, optional
            Seconds to wait for the work before the copy; without it, as long as the daemon lives.
        out : numpy.ndarray, optional
            Where to copy to: of the buffer's shape and dtype, contiguous in C order. One from `client.pinned_empty` is
            written by the device itself.

        Returns
        -------
        numpy.ndarray
            `out`, or a new array of the buffer's shape and dtype.

        Raises
        ------
        StreamStopped
            A stream that the copy waits for has stopped: without `stream`, any of the client's.
        Timeout
            The work before the copy was not done in time.
        InvalidArgument
            `out` has another shape or dtype, is not contiguous, or read-only.
        Closed
            The buffer was freed; the stream or the client is closed.
        DaemonLost

        Examples
        --------
        >>> client.zeros(3).numpy()
        array([0., 0., 0.], dtype=float32)
        """
        if self.freed:
            raise Closed("reading a buffer that was freed")
        if out is None:
            out = np.empty(self._shape, self._dtype)
        else:
            self._check_out(out)
        if stream is None:
            synchronize(self._client, timeout)
            stream = default_stream(self._client)
        self._read(out, stream, timeout, wait=True)
        return out

    def copy_to(self, out: np.ndarray, stream: Stream | None = None) -> None:
        """Copies the buffer to an array. Blocks as `stream` says, releasing the interpreter lock.

        Parameters
        ----------
        out : numpy.ndarray
            Of the buffer's shape and dtype, contiguous in C order.
        stream : Stream, optional
            After what was enqueued to this stream. An array from `client.pinned_empty` is then not waited for: it is
            filled once the stream has passed this place (`stream.record()`, `stream.synchronize()`). Any other is
            filled on return, and without a stream that one is, too: after what was enqueued to every stream of the
            client, all of which are waited for.

        Raises
        ------
        InvalidArgument
            Another shape or dtype, not contiguous, or read-only.
        StreamStopped
            A stream that the copy waits for has stopped: without `stream`, any of the client's.
        Closed, DaemonLost

        Examples
        --------
        >>> x, out = client.zeros(3), client.pinned_empty(3)
        >>> stream = client.stream()
        >>> x.copy_to(out, stream)
        >>> stream.synchronize()
        >>> out
        array([0., 0., 0.], dtype=float32)
        """
        if self.freed:
            raise Closed("reading a buffer that was freed")
        self._check_out(out)
        self._read(out, self._begin(stream), None, wait=stream is None)

    def _read(self, out: np.ndarray, stream: Stream, timeout: float | None, wait: bool) -> None:
        if out.nbytes:
            _core.stream_copy_to_host(stream, out.reshape(-1).view(np.uint8), self, 0, timeout, wait)

    def copy_from(self, source: npt.ArrayLike | Buffer, stream: Stream | None = None) -> None:
        """Overwrites the buffer. Blocks as `stream` says, releasing the interpreter lock.

        Parameters
        ----------
        source : array_like or Buffer
            Of the same shape and dtype (a sequence is converted to the dtype). An array may be changed as soon as
            this returns; one from `client.pinned_empty` that is copied on a stream once that has passed this place.
            A buffer may be another client's, of the same daemon and user, on another device too: it is copied from
            device to device.
        stream : Stream, optional
            Where to enqueue the copy, which then is not waited for. Without it: after what was enqueued to every stream
            of the client (and of the client of a buffer that is copied), all of which are waited for, and it has
            completed on return. Between two clients it may be a stream of either.

        Raises
        ------
        InvalidArgument
            Another shape or dtype, or a sequence that numpy does not convert; a buffer or stream of a client of another
            daemon; an array and a stream of another client than the buffer's.
        Unsupported
            Memory cannot go from the one device to the other.
        OutOfRange
            A number of a sequence that the dtype does not hold.
        StreamStopped
            The stream has stopped: without `stream`, any of the client's.
        Closed
            One of the buffers was freed; the stream or the client is closed.
        DaemonLost

        Examples
        --------
        >>> x = client.empty(2, np.float64)
        >>> x.copy_from([1, 2])
        >>> x.numpy()
        array([1., 2.])
        """
        if self.freed:
            raise Closed("writing to a buffer that was freed")
        if isinstance(source, Buffer | np.ndarray):
            self._check_like(source.shape, source.dtype)
        else:
            source = host_array("source", source, self._dtype)
            self._check_like(source.shape, source.dtype)
        self._write(source, stream)

    def _write(self, source: np.ndarray | Buffer, stream: Stream | None) -> None:
        to = self._begin(stream)
        if stream is None and isinstance(source, Buffer) and source._client is not self._client:
            synchronize(source._client, None)
        if self.nbytes:
            if isinstance(source, Buffer):
                _core.stream_copy(to, self, 0, source, 0, self.nbytes)
            else:
                flat = np.ascontiguousarray(source).reshape(-1)
                _core.stream_copy_to_device(to, self, flat.view(np.uint8), 0)
        self._finish(to, stream)

    def fill(self, value: complex, stream: Stream | None = None) -> None:
        """Sets every element. Blocks as `stream` says, releasing the interpreter lock.

        Parameters
        ----------
        value : number
            Of the buffer's dtype: it may widen (an integer for a float), never narrow. What a float cannot hold exactly
            is rounded to the nearest. Where the dtype is none of numbers, what numpy converts to it.
        stream : Stream, optional
            Where to enqueue the filling, which then is not waited for. Without it: after what was enqueued to every
            stream of the client, all of which are waited for, and it has completed on return.

        Raises
        ------
        ParamTypeError
            No single number, or one that would narrow.
        OutOfRange
            A number that the dtype does not hold.
        StreamStopped
            The stream has stopped: without `stream`, any of the client's.
        Closed
            The buffer was freed; the stream or the client is closed.
        DaemonLost

        Examples
        --------
        >>> x = client.empty(3, np.int16)
        >>> x.fill(7)
        >>> x.numpy()
        array([7, 7, 7], dtype=int16)
        """
        if self.freed:
            raise Closed("writing to a buffer that was freed")
        one = _element(value, self._dtype)
        element = one.tobytes()
        width = next((w for w in _FILL_WIDTHS if element == element[:w] * (len(element) // w)), None)
        if width is None:  # wider than the daemon fills, and no repetition of something shorter
            self._write(np.full(self._shape, one, self._dtype), stream)
            return
        to = self._begin(stream)
        if self.nbytes:
            _core.stream_fill(to, self, int.from_bytes(element[:width], "little"), width, 0, self.nbytes)
        self._finish(to, stream)

    def _begin(self, stream: Stream | None) -> Stream:
        if stream is not None:
            return stream
        synchronize(self._client, None)
        return default_stream(self._client)

    def _finish(self, to: Stream, stream: Stream | None) -> None:
        if stream is None:
            to.synchronize()

    def _check_out(self, out: np.ndarray) -> None:
        if not isinstance(out, np.ndarray):
            raise _check.refused("out", "a numpy array", out)
        if out.shape != self._shape or out.dtype != self._dtype:
            raise InvalidArgument(
                f"copying from a buffer of {self._dtype} {self._shape}: expected the same, "
                f"found {out.dtype} {out.shape}"
            )
        if not out.flags.c_contiguous or not out.flags.writeable:
            found = "read-only" if out.flags.c_contiguous else "with strides"
            raise InvalidArgument(f"out: expected an array that is contiguous and writable, found one that is {found}")

    def _check_like(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if shape != self._shape or dtype != self._dtype:
            raise InvalidArgument(
                f"copying to a buffer of {self._dtype} {self._shape}: expected the same, found {dtype} {shape}"
            )
