"""Modules and their kernels, and how parameter types are declared from Python."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ringlaunch import _core
from ringlaunch._stream import Stream, default_stream
from ringlaunch.errors import InvalidArgument, ParamTypeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Dim = int | tuple[int, ...] | list[int]
    Declaration = Sequence[str | tuple[str, str]]

_BYTES = {
    "pointer": 8,
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
_STRUCT = re.compile(r"bytes\[(\d+)(?:, *(\d+))?\]")


class Param(NamedTuple):
    """A parameter of a kernel: its name ("" where none was declared), type, and place in the packed parameters."""

    name: str
    type: str
    offset: int
    size: int


def layout(declared: Declaration) -> list[Param]:
    """The parameters of a declaration at CUDA's natural offsets.

    Examples
    --------
    >>> from ringlaunch._module import layout
    >>> layout(["pointer", ("n", "int32"), "float64", "bytes[12, 4]"])[2:]
    [Param(name='', type='float64', offset=16, size=8), Param(name='', type='bytes', offset=24, size=12)]
    """
    params: list[Param] = []
    end = 0
    for item in declared:
        name, kind = ("", item) if isinstance(item, str) else item
        if (struct := _STRUCT.fullmatch(kind)) is not None:
            kind, size, alignment = "bytes", int(struct[1]), int(struct[2] or 1)
        elif kind in _BYTES:
            size = alignment = _BYTES[kind]
        else:
            known = ", ".join([*_BYTES, "bytes[size, alignment]"])
            raise InvalidArgument(f"{kind!r} is no parameter type; there are {known}")
        if alignment < 1 or alignment & (alignment - 1):
            raise InvalidArgument(f"{item!r}: an alignment is a power of two")
        offset = (end + alignment - 1) // alignment * alignment
        params.append(Param(name, kind, offset, size))
        end = offset + size
    return params


def signature_list(signatures: Mapping[str, Declaration] | None) -> list[tuple[str, list[Param]]]:
    """`signatures` of `Client.load` as the binding takes them."""
    return [(kernel, layout(declared)) for kernel, declared in (signatures or {}).items()]


class Kernel(_core.Kernel):
    """A kernel of a loaded module. `kernel[grid, block](*args, stream=None, shared=0)` launches it.

    `grid` and `block` are x, (x, y) or (x, y, z): blocks, and threads of a block. `kernel[grid]` takes the kernel's
    default block. A launch returns as soon as its record stands in the stream's ring; it blocks only while that is
    full, releasing the interpreter lock and answering Ctrl-C.

    Arguments are converted by the declared parameter types (`params`): a value may widen (bool to integer to float),
    never narrow, and must be in range. A pointer takes a `Buffer` or None (null); a struct passed by value an object
    with the buffer protocol of just its size.

    Keywords: `stream`, a `Stream` (default: the client's default stream), and `shared`, dynamic shared memory of a
    block in bytes.

    Raises
    ------
    ParamTypeError, OutOfRange, InvalidArgument
        Wrong count, type or value of an argument; a buffer or stream of another client. The text names the parameter.
    Closed
        A buffer that was freed, a closed stream or client, a forked child.
    StreamStopped, DaemonLost

    Examples
    --------
    >>> module = client.compile('''
    ... #include <ringlaunch/kernel.h>
    ... extern "C" __global__ void fill(int* out, int value, int n) {
    ...     int i = blockIdx.x * blockDim.x + threadIdx.x;
    ...     if (i < n) out[i] = value;
    ... }
    ... RINGLAUNCH_EXPORT(fill)
    ... ''')
    >>> fill = module["fill"]
    >>> fill
    <ringlaunch.Kernel fill(pointer, int32, int32)>
    >>> out = client.empty(3, np.int32)
    >>> fill[1, 64](out, 7, out.size)
    >>> out.numpy()
    array([7, 7, 7], dtype=int32)
    >>> fill[1, 64](out, 2.5, out.size)
    Traceback (most recent call last):
        ...
    ringlaunch.errors.ParamTypeError: kernel 'fill', parameter 1 (int32): expected an integer from -2147483648 to \
2147483647, found 2.5 (float)
    """

    __slots__ = ("__weakref__",)

    @property
    def params(self) -> tuple[Param, ...]:
        """The declared parameters, in order."""
        return tuple(Param(*param) for param in self._params)

    def bind(
        self, grid: Dim, block: Dim | None = None, stream: Stream | None = None, shared: int = 0
    ) -> _core.Launcher:
        """The kernel with all that a launch takes beside its arguments: the cheapest call there is.

        Parameters
        ----------
        grid : int or tuple of int
            Blocks in x, y, z.
        block : int or tuple of int, optional
            Threads of a block in x, y, z; without it, the kernel's default.
        stream : Stream, optional
            Without it, the client's default stream.
        shared : int
            Dynamic shared memory of a block, in bytes.

        Returns
        -------
        Launcher
            Call it with the kernel's arguments. It keeps the stream open.

        Examples
        --------
        >>> module = client.compile('''
        ... #include <ringlaunch/kernel.h>
        ... extern "C" __global__ void increment(int* x) { *x += 1; }
        ... RINGLAUNCH_EXPORT(increment)
        ... ''')
        >>> x = client.zeros(1, np.int32)
        >>> launch = module["increment"].bind(1, 1)
        >>> for _ in range(1000):
        ...     launch(x)
        >>> x.numpy()
        array([1000], dtype=int32)
        """
        return self._bind(grid, block, stream, shared)

    def __repr__(self) -> str:
        params = ", ".join(f"{param.type} {param.name}".rstrip() for param in self.params)
        return f"<ringlaunch.Kernel {self.name}({params if self.declared else 'undeclared'})>"


class Module:
    """A loaded image: kernels by name. `client.load` and `client.compile` make one.

    Examples
    --------
    >>> module = client.compile('''
    ... #include <ringlaunch/kernel.h>
    ... extern "C" __global__ void nothing() {}
    ... RINGLAUNCH_EXPORT(nothing)
    ... ''', name="empty")
    >>> module
    <ringlaunch.Module 'empty': nothing>
    >>> list(module)
    ['nothing']
    >>> "nothing" in module
    True
    """

    __slots__ = ("_client", "_handle", "_kernels", "_name")

    def __init__(self, client: _core.ClientHandle, handle: _core.ModuleHandle, name: str) -> None:
        self._client = client
        self._handle = handle
        self._name = name
        self._kernels: dict[str, Kernel] = {}

    @property
    def name(self) -> str:
        return self._name

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name: the same object each time. `module[name]` is the same.

        Blocks only at the first kernel of a client, while its default stream is opened.

        Parameters
        ----------
        name : str

        Returns
        -------
        Kernel

        Raises
        ------
        NotFound
            There is none; the text lists those there are.
        Unsupported
            It takes more than 4096 bytes of parameters, which no launch carries. The module's others are as usual.
        ParamTypeError
            The name is no string.
        LimitReached, DaemonLost
            The default stream cannot be opened.
        Closed
        """
        if not isinstance(name, str):
            raise ParamTypeError(f"name of a kernel: expected a str, found {name!r} ({type(name).__name__})")
        found = self._kernels.get(name)
        if found is None:
            found = self._handle.kernel(Kernel, name, default_stream(self._client))
            self._kernels[name] = found
        return found

    def __getitem__(self, name: str) -> Kernel:
        return self.kernel(name)

    def __contains__(self, name: object) -> bool:
        return name in self._handle.kernels()

    def __iter__(self) -> Iterator[str]:
        return iter(self._handle.kernels())

    def __len__(self) -> int:
        return len(self._handle.kernels())

    def __repr__(self) -> str:
        return f"<ringlaunch.Module '{self._name}': {', '.join(self)}>"
