"""Modules and their kernels, and how parameter types are declared from Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ringlaunch import _core
from ringlaunch._check import brief, flag, integer, refused, text
from ringlaunch._stream import Stream, default_stream
from ringlaunch.errors import Error, InvalidArgument, OutOfRange, ParamTypeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Dim = int | tuple[int, ...] | list[int]
    Declaration = Sequence["str | tuple[str, str] | Param"]

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
_MOST_BYTES = 4096
_STRUCT = re.compile(r"bytes\[(\d+)(?:, *(\d+))?\]")


class Param(NamedTuple):
    """A parameter of a kernel, as it was declared.

    Attributes
    ----------
    name : str
        "" where none was declared: RINGLAUNCH_EXPORT knows types, not names.
    type : str
        "pointer", "int32", ...; "bytes" for a struct passed by value.
    offset : int
        Where it stands in the packed parameters, in bytes.
    size : int
        Bytes.
    """

    name: str
    type: str
    offset: int
    size: int


def layout(declared: Declaration) -> list[Param]:
    """The parameters of a declaration at CUDA's natural offsets; a `Param` is taken as it is. (Where all of them are at
    0, with a size of 0 for all but structs, the daemon takes them from the image.)

    Examples
    --------
    >>> from ringlaunch._module import layout
    >>> layout(["pointer", ("n", "int32"), "float64", "bytes[12, 4]"])[2:]
    [Param(name='', type='float64', offset=16, size=8), Param(name='', type='bytes', offset=24, size=12)]
    """
    params: list[Param] = []
    end = 0
    for item in declared:
        match item:
            case str(kind):
                name = ""
            case (str(name), str(kind)):
                text("name of a parameter", name)
            case Param():
                params.append(item)
                continue
            case _:
                raise refused("a parameter", "its type as 'int32', or ('n', 'int32')", item)
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
        if size < 1 or offset + size > _MOST_BYTES:
            raise InvalidArgument(f"{item!r}: a kernel's parameters have 1 to {_MOST_BYTES} bytes")
        params.append(Param(name, kind, offset, size))
        end = offset + size
    return params


def signature_list(signatures: Mapping[str, Declaration] | None) -> list[tuple[str, list[Param]]]:
    """`signatures` of `Client.load` as the binding takes them."""
    if signatures is None:
        return []
    if not isinstance(signatures, Mapping):
        raise refused("signatures", "a mapping of kernels to their parameters' types", signatures)
    listed = []
    for kernel, declared in signatures.items():
        what = f"signatures[{text('signatures: a kernel', kernel)!r}]"
        if not isinstance(declared, Sequence) or isinstance(declared, str | bytes):
            raise refused(what, "a sequence of parameter types", declared)
        try:
            listed.append((kernel, layout(declared)))
        except Error as error:
            raise type(error)(f"{what}: {error}") from None
    return listed


class KernelAttributes(NamedTuple):
    """How a kernel is launched, beside grid and block: `Kernel.with_attributes` says what each means."""

    cluster: tuple[int, int, int]
    cooperative: bool
    programmatic: bool


class Kernel(_core.Kernel):
    """A kernel of a loaded module. `kernel[grid, block](*args, stream=None, shared=0, name=None)` launches it.

    `grid` and `block` are x, (x, y) or (x, y, z): blocks, and threads of a block. `kernel[grid]` takes the kernel's
    default block. A launch returns as soon as its record stands in the stream's ring; it blocks only while that is
    full, releasing the interpreter lock and answering Ctrl-C.

    Arguments are converted by the declared parameter types (`params`): a value may widen (bool to integer to float),
    never narrow, and must be in range. What a floating type cannot hold exactly (0.1, or 2**24 + 1 for a float32) is
    rounded to the nearest that it can, as by numpy and ctypes. A pointer takes a `Buffer` or None (null); a struct
    passed by value an object with the buffer protocol of just its size.

    Keywords: `stream`, a `Stream` (default: the client's default stream); `shared`, dynamic shared memory of a block in
    bytes; and `name`, what the launch is called in the `Graph` that the stream records (refused where it records none).

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
        """The declared parameters, in order; () where none are declared. (tuple of Param)"""
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

        Raises
        ------
        ParamTypeError, OutOfRange, InvalidArgument
            A grid, block, stream or number of bytes that cannot be. What only the device does not take (too many
            threads) is refused by the call.

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

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Refuses: a launch has a grid and a block, `kernel[grid, block](...)`."""
        raise ParamTypeError(f"kernel {self.name!r}: expected kernel[grid, block](...), found a call without a grid")

    def with_attributes(self, cluster: Dim = 1, cooperative: bool = False, programmatic: bool = False) -> Kernel:
        """The same kernel, launched with these attributes instead of its own. Blocks until the daemon has answered.

        Parameters
        ----------
        cluster : int or tuple of int
            Blocks of a thread block cluster in x, y, z. A launch's grid is whole clusters.
        cooperative : bool
            All blocks are on the device at once, so that the kernel may synchronize its grid.
        programmatic : bool
            A launch may begin before the one ahead of it in its stream has ended. The kernel itself waits for what it
            needs of that (cudaGridDependencySynchronize), and before it ends.

        Returns
        -------
        Kernel
            A launch of it whose grid is not whole clusters, or is cooperative and does not fit onto the device at
            once, stops its stream with an error that says so.

        Raises
        ------
        Unsupported
            The daemon's driver cannot launch a kernel so: host runs blocks one after another, and has neither clusters
            nor cooperative launches.
        InvalidArgument
            The device has no clusters so large, or the kernel was compiled with others.
        LimitReached, Closed, DaemonLost

        Examples
        --------
        >>> module = client.compile('''
        ... #include <ringlaunch/kernel.h>
        ... extern "C" __global__ void increment(int* x) { *x += 1; }
        ... RINGLAUNCH_EXPORT(increment)
        ... ''')
        >>> eager = module["increment"].with_attributes(programmatic=True)
        >>> eager.attributes
        KernelAttributes(cluster=(1, 1, 1), cooperative=False, programmatic=True)
        """
        given = tuple(cluster) if isinstance(cluster, tuple | list) else (cluster,)
        try:
            sides = [integer("cluster", side, 1, 2**31 - 1) for side in given]
        except (ParamTypeError, OutOfRange):
            sides = []
        if not 1 <= len(sides) <= 3:
            raise InvalidArgument(
                f"cluster: expected 1 to 3 numbers of blocks, each at least 1, found {brief(cluster)}"
            )
        x, y, z = (*sides, 1, 1)[:3]
        return _core.kernel_configure(
            self, (x, y, z), flag("cooperative", cooperative), flag("programmatic", programmatic)
        )

    @property
    def attributes(self) -> KernelAttributes:
        """What it is launched with; a cluster that it was compiled with counts."""
        return KernelAttributes(*_core.kernel_attributes(self))

    @property
    def registers(self) -> int:
        """Registers of a thread; 0 where the driver does not know."""
        return _core.kernel_resources(self)[0]

    @property
    def local_bytes(self) -> int:
        """Local memory of a thread: its stack, and registers that were spilled."""
        return _core.kernel_resources(self)[1]

    @property
    def stack_bytes(self) -> int:
        """`stack` of `Client.load` or `Client.compile`, with which its module was loaded; 0: without."""
        return _core.kernel_resources(self)[5]

    @property
    def static_shared_bytes(self) -> int:
        """Shared memory of a block that the kernel declares itself."""
        return _core.kernel_resources(self)[2]

    @property
    def max_dynamic_shared_bytes(self) -> int:
        """The most that `shared` may ask for."""
        return _core.kernel_resources(self)[3]

    @property
    def max_threads(self) -> int:
        """Threads that a block may have."""
        return _core.kernel_resources(self)[4]

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

    def __init__(
        self,
        client: _core.ClientHandle | None = None,
        handle: _core.ModuleHandle | None = None,
        name: str = "",
    ) -> None:
        if not isinstance(client, _core.ClientHandle) or not isinstance(handle, _core.ModuleHandle):
            raise ParamTypeError("ringlaunch.Module is made by client.load() or client.compile(), not called")
        self._client = client
        self._handle = handle
        self._name = name
        self._kernels: dict[str, Kernel] = {}

    @property
    def name(self) -> str:
        """What it was loaded as: the name that was given, else the last part of the image's path; "". (str)"""
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
        InvalidArgument
            It has NUL characters, or what UTF-8 cannot encode.
        LimitReached, DaemonLost
            The default stream cannot be opened.
        Closed
        """
        if not isinstance(name, str):
            raise refused("name of a kernel", "a str", name)
        found = self._kernels.get(name)
        if found is None:
            text("name of a kernel", name)
            found = self._handle.kernel(Kernel, name, default_stream(self._client))
            self._kernels[name] = found
        return found

    def __getitem__(self, name: str) -> Kernel:
        return self.kernel(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._handle.kernels()

    def __iter__(self) -> Iterator[str]:
        return iter(self._handle.kernels())

    def __len__(self) -> int:
        return len(self._handle.kernels())

    def __repr__(self) -> str:
        return f"<ringlaunch.Module '{self._name}': {', '.join(self)}>"
