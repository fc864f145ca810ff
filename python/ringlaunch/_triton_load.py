"""How a compiled Triton kernel comes to a client: which client a call is for, what is loaded there, scratch memory.

Nothing here imports Triton: kernels that were saved (_triton_saved.py) are launched without it.
"""

from __future__ import annotations

import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from ringlaunch import _core
from ringlaunch._buffer import Buffer
from ringlaunch._check import refused
from ringlaunch._client import Client, _open_clients
from ringlaunch._mode import chosen
from ringlaunch._module import Param
from ringlaunch._stream import Stream, default_stream
from ringlaunch._triton_cache import KernelCache, Variant
from ringlaunch.errors import Closed, InvalidArgument, LimitReached, ParamTypeError, Unsupported

if TYPE_CHECKING:
    from ringlaunch._module import Kernel
    from ringlaunch._triton_file import TensorMap

Declaration = list[tuple[str, str]]

_TYPES = {
    "u1": "bool",
    "i1": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "f32": "float32",
    "fp64": "float64",
}
DESCRIBED = "tensordesc"  # begins the type of a tensor descriptor, in Triton's words
_MAP, _MAP_BYTES = "tensormap", 128
WARP = 32
MOST_QUICK_PARAMS = 128  # kMaxParams of triton_key.hpp
_UNLOAD_S = 2.0  # in which the daemon lets go of a module that nothing uses any more
_CONSTEXPR, _NO_SPECIALIZE, _NO_ALIGNMENT, _NAMED_LIKE_OPTION, _REAL, _WIDE = 1, 2, 4, 8, 16, 32  # of triton_key.hpp


# ---- the client ----


def open_clients() -> list[Client]:
    """Without those whose daemon is known to be gone, where there are others."""
    found = [client for client in list(_open_clients) if not client.closed and not client._handle.forked]
    return [client for client in found if not _is_lost(client)] or found


def _is_lost(client: Client) -> bool:
    stream = client._handle.default_stream
    return stream is not None and stream.status.status == "daemon_lost"


def _only_client(name: str) -> Client:
    if (by_client := chosen()) is not None and by_client[1] == "daemon":
        return by_client[0]
    clients = open_clients()
    if len(clients) != 1:
        found = "none" if not clients else str(len(clients))
        raise InvalidArgument(
            f"kernel {name!r}: expected a Buffer among the arguments, stream=, or one open client to launch for; found "
            f"no buffer, no stream, and {found} open; ringlaunch.connect() makes one"
        )
    return clients[0]


def _is_chosen(client: Client) -> bool:
    return chosen() == (client, "daemon")


def client_of(kernel: CallPath, values: Iterator[Any], stream: Stream | None) -> Client:
    """Whose launch it is: that of the first buffer, of the stream, or of the only client."""
    if stream is not None and not isinstance(stream, Stream):
        raise refused(f"kernel {kernel.__name__!r}, stream", "a ringlaunch Stream", stream)
    for value in leaves(values):
        if isinstance(value, Buffer):
            if value.freed:
                raise Closed(f"kernel {kernel.__name__!r}: expected a buffer that lives, found one that was freed")
            return owner(value._client)
    if stream is not None:
        for client in list(_open_clients):
            if stream in client._handle.streams:
                return client
        raise Closed(f"kernel {kernel.__name__!r}, stream: its client is closed")
    return kernel._client if kernel._client is not None else _only_client(kernel.__name__)


def owner(handle: _core.ClientHandle) -> Client:
    for client in list(_open_clients):
        if client._handle is handle:
            return client
    raise Closed("the client of a buffer is closed")


def leaves(values: Iterator[Any]) -> Iterator[Any]:
    """The arguments of a call, those in tuples one by one; of a tensor descriptor the tensor."""
    for value in values:
        if isinstance(value, tuple):
            yield from leaves(iter(value))
        elif is_descriptor(value):
            yield value.base
        else:
            yield value


def is_descriptor(value: Any) -> bool:
    """Of Triton's type, of ringlaunch's, or of one derived from them."""
    return hasattr(value, "block_shape") and hasattr(value, "base")


# ---- compiled kernels in the daemon ----

_kernels: weakref.WeakValueDictionary[int, CallPath] = weakref.WeakValueDictionary()  # by id(): a hash reads code
# By what was loaded: image and declaration. Two kernels of one image share it.
_loaded: weakref.WeakKeyDictionary[_core.ClientHandle, dict[tuple[Any, ...], Kernel]] = weakref.WeakKeyDictionary()


def flatten(kind: Any, value: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """Name, type and value of what is passed: tuples element by element, without what is compiled in."""
    if isinstance(kind, tuple):
        for i, (element, part) in enumerate(zip(kind, value)):
            yield from flatten(element, part, f"{name}[{i}]")
    elif kind != "constexpr":
        yield name, kind, value


def type_of(kernel: str, name: str, kind: str) -> str:
    if kind.startswith("*"):
        return "pointer"
    if kind.startswith(DESCRIBED):
        raise Unsupported(
            f"kernel {kernel!r}, parameter {name!r}: a {kind} as this was compiled cannot be given to a kernel: tensor "
            "descriptors are taken by kernels for sm_90 and later, read in tiles, not in the form of im2col or of "
            "padded fp4; those that the kernel makes itself (tl.make_tensor_descriptor) are, too"
        )
    if kind not in _TYPES:
        raise Unsupported(f"kernel {kernel!r}, parameter {name!r}: a {kind} cannot be given to a kernel in the daemon")
    return _TYPES[kind]


def declare(kernel: str, passed: Iterable[tuple[str, str]], maps: Iterable[TensorMap]) -> Declaration:
    """Names and types of what a launch passes, of names and Triton's types: a tensor descriptor as its map, its shape
    and its strides. `maps`: how the hardware is to read each; none: in a way that only Triton's launcher knows."""
    left = iter(maps)
    declared: Declaration = []
    for name, kind in passed:
        if kind.startswith(DESCRIBED) and (found := next(left, None)) is not None:
            rank = len(found[3])
            declared.append((name, _MAP))
            declared += [(f"{name}.shape[{i}]", "int32") for i in range(rank)]
            declared += [(f"{name}.strides[{i}]", "int64") for i in range(rank)]
        else:
            declared.append((name, type_of(kernel, name, kind)))
    return declared


def _param(name: str, kind: str) -> Param:
    """Where the image has it: ptxas puts a map at a multiple of 64 in the device's constant memory, and so the first
    one behind 48 bytes of nothing on sm_90."""
    return Param(name, "bytes", 0, _MAP_BYTES) if kind == _MAP else Param(name, kind, 0, 0)


def _load(client: Client, compiled: Any, declaration: list[tuple[str, str]], name: str) -> Kernel:
    """The kernel in the daemon; loaded once for all that declare it alike."""
    metadata = compiled.metadata
    scratch = [("global_scratch", "pointer"), ("profile_scratch", "pointer")]
    attributes = (metadata.num_ctas, bool(metadata.launch_cooperative_grid), bool(metadata.launch_pdl))
    key = (compiled.hash, tuple(declaration), attributes)
    loaded = _loaded.setdefault(client._handle, {})
    if (found := loaded.get(key)) is not None:
        return found
    image, entry = compiled.asm["cubin"], metadata.name

    def load() -> Kernel:
        params = [_param(*each) for each in declaration + scratch]
        return client.load(image, signatures={entry: params}, name=name).kernel(entry)

    try:
        kernel = load()
    except LimitReached:
        if not _evict(client):
            raise
        client.synchronize()  # the daemon lets go of a module once its launches have completed
        kernel = _patiently(load)
    if attributes != (1, False, False):
        ctas, cooperative, programmatic = attributes
        kernel = kernel.with_attributes(cluster=ctas, cooperative=cooperative, programmatic=programmatic)
    loaded[key] = kernel
    return kernel


def _patiently(load: Callable[[], Kernel]) -> Kernel:
    end = time.monotonic() + _UNLOAD_S
    while True:
        try:
            return load()
        except LimitReached:
            if time.monotonic() > end:
                raise
            time.sleep(0.001)


def _evict(client: Client) -> int:
    """Lets go of the half of a client's variants that were launched least."""
    held = [
        (variant._core.hits, kernel, variant)
        for kernel in list(_kernels.values())
        for variant in kernel.cache
        if variant.client is client
    ]
    held.sort(key=lambda each: each[0])
    gone = held[: (len(held) + 1) // 2]
    for _, kernel, variant in gone:
        kernel.cache.evict(variant)
    return len(gone)


# ---- kernels ----


class CallPath(_core.TritonKernel):
    """What kernels that Triton compiles here and kernels that were saved have in common: a table of variants.

    Attributes
    ----------
    cache : KernelCache
        The variants that were compiled.
    """

    __slots__ = ("_by_key", "_client", "_hits_before", "_lock", "_variants_held")

    __name__: str
    params: Sequence[Any]
    _out_of_resources: Callable[[int, int, str], Exception]

    def _begin(self, client: Client | None) -> None:
        self._client = client
        self._lock = threading.RLock()
        self._by_key: dict[tuple[Any, ...], Variant] = {}  # of calls that have no key of bytes
        self._variants_held: dict[tuple[Any, ...], Variant] = {}
        self._hits_before: list[int] = []  # of each variant that was let go of
        _kernels[id(self)] = self

    @abstractmethod
    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant | None:
        """What a call would launch, if it is there."""

    def _totals(self) -> tuple[int, int]:
        """Launches and variants, those that were let go of and those of closed clients among them."""
        hits = [*self._hits_before, *(variant.hits for variant in list(self._variants_held.values()))]
        return sum(hits), len(hits)

    @abstractmethod
    def _usual_options(self, compiled: Any) -> dict[str, Any]:
        """The options of a call that gives none, where that was compiled for."""

    @property
    def cache(self) -> KernelCache:
        """The variants that were compiled. (KernelCache)"""
        return KernelCache(self)

    def _held(self, core: _core.TritonVariant) -> Variant | None:
        """What a call has found, in the daemon; None: it was let go of meanwhile, or is launched here."""
        held = list(self._variants_held.values())
        return next((variant for variant in held if variant._core is core and variant.client is not None), None)

    def _release(self, variant: Variant) -> None:
        """Of a variant that is let go of."""
        # Another thread may be at the same dictionaries: whoever needs room lets go of variants of any kernel.
        for held in (self._by_key, self._variants_held):
            for key in [key for key, value in list(held.items()) if value is variant]:
                if held.pop(key, None) is variant and held is self._variants_held:
                    self._hits_before.append(variant.hits)
        self._forget(variant._core)
        if variant.client is None:
            return
        loaded = _loaded.get(variant.client._handle, {})
        for key in [key for key, value in list(loaded.items()) if value is variant._core.kernel]:
            loaded.pop(key, None)

    def _make_variant(
        self,
        client: Client,
        compiled: Any,
        signature: dict[str, Any],
        bound: dict[str, Any],
        seconds: float,
        maps: tuple[TensorMap, ...],
    ) -> Variant:
        """`maps`: how the hardware is to read each tensor descriptor; see declare()."""
        for old in [old for old in list(self._variants_held.values()) if old._core.closed]:
            self._release(old)
        metadata = compiled.metadata
        passed = [each for name, kind in signature.items() for each in flatten(kind, bound[name], name)]
        declaration = declare(self.__name__, ((name, kind) for name, kind, _ in passed), maps)
        if metadata.profile_scratch_size:
            raise Unsupported(f"kernel {self.__name__!r}: a kernel with instrumentation cannot run in the daemon")
        kernel = _load(client, compiled, declaration, self.__name__)
        threads = metadata.num_warps * WARP
        if metadata.shared > kernel.max_dynamic_shared_bytes:
            raise self._out_of_resources(metadata.shared, kernel.max_dynamic_shared_bytes, "shared memory")
        if kernel.max_threads and threads > kernel.max_threads:
            raise self._out_of_resources(threads, kernel.max_threads, "threads")
        compiled.n_regs, compiled.n_spills = kernel.registers, kernel.local_bytes // 4
        compiled.n_max_threads = kernel.max_threads
        core = _core.TritonVariant(
            kernel,
            compiled,
            tuple(name for name, _ in declaration),
            threads,
            metadata.shared,
            metadata.num_ctas,
            metadata.global_scratch_size * metadata.num_ctas,
            len(declaration),
            tuple((*each, True) for each in maps),
        )
        return Variant(self, core, client, dict(signature), seconds)

    def _remember(self, pending: _core.TritonPending | None, variant: Variant, leaves: tuple[int, ...]) -> bool:
        """From now on calls like this one are that variant's. `pending`: none where a call has no key. `leaves`: see
        leaf_numbers(). False: they never can be."""
        if pending is None:
            return True
        with self._lock:
            if variant.evicted:
                return True
            added = self._add(pending, variant._core, leaves)
        if self._client is not None:
            self._default(default_stream(self._client._handle))
        elif variant.client is not None and (len(open_clients()) == 1 or _is_chosen(variant.client)):
            self._default(default_stream(variant.client._handle))
        return added

    def _passed(self, variant: Variant, bound: dict[str, Any]) -> tuple[Any, ...]:
        """What a launch passes, of the arguments by parameter."""
        passed: list[Any] = []
        for parameter, of in variant.signature.items():
            for name, kind, value in flatten(of, bound[parameter], parameter):
                if kind.startswith(DESCRIBED):
                    passed += self._passed_descriptor(name, value)
                else:
                    refuse_foreign(self.__name__, name, kind, value)
                    passed.append(value)
        return tuple(passed)

    def _passed_descriptor(self, name: str, value: Any) -> list[Any]:
        """What stands for its map (see _core.TritonKernel._launch), and its shape and strides."""
        refuse_foreign(self.__name__, name, "*", value.base)
        if not isinstance(value.base, Buffer):
            raise refused(f"kernel {self.__name__!r}, parameter {name!r}", "a descriptor of a Buffer", value.base)
        shape, strides = tuple(map(index, value.shape)), tuple(map(index, value.strides))
        tf32 = bool(getattr(value, "round_f32_to_tf32", False))
        return [(value.base, value.padding == "nan", tf32, shape, strides), *shape, *strides]


def call_param(param: Any, options: Iterable[str]) -> tuple[Any, ...]:
    """A parameter as _core.TritonKernel binds it. `param`: as Triton describes it. `options`: keywords of a call."""
    flags = _CONSTEXPR if param.is_constexpr else 0
    annotated = param.annotation_type
    if annotated[:2] in ("fp", "bf"):
        flags |= _REAL
    if annotated in ("i64", "u32", "u64"):
        flags |= _WIDE
    if param.do_not_specialize or annotated == "u1" or annotated[:2] in ("fp", "bf"):
        flags |= _NO_SPECIALIZE
    if param.do_not_specialize_on_alignment:
        flags |= _NO_ALIGNMENT
    if param.name in options:
        flags |= _NAMED_LIKE_OPTION
    return (param.name, flags, param.default) if param.has_default else (param.name, flags)


def give_scratch(_: CallPath, variant: _core.TritonVariant, stream: Stream | int, nbytes: int) -> Any:
    """Memory for a kernel's own use; rounded up, so that a grid that grows does not ask for each size. `stream`: a
    CUDA stream's handle in this program, where Triton's allocator is asked."""
    if isinstance(stream, int):
        from ringlaunch import _triton_inline

        return _triton_inline.allocate(variant, stream, nbytes)
    client = next(client for client in list(_open_clients) if stream in client._handle.streams)
    return client.empty(1 << (nbytes - 1).bit_length(), "uint8")


def leaf_numbers(kernel: CallPath, bound: dict[str, Any], signature: dict[str, Any]) -> tuple[int, ...]:
    """Which leaf of a call's key is each parameter that is passed, as triton_key.cpp counts them. A tuple for a
    parameter that is annotated with a type of a number or of a pointer has none: such a call is refused, each time."""
    numbers: list[int] = []
    count = 0

    def walk(kind: Any, value: Any) -> None:
        nonlocal count
        if isinstance(value, tuple):
            for i, part in enumerate(value):
                walk(kind[i] if isinstance(kind, tuple) else "constexpr", part)
            return
        passed = 1
        if isinstance(kind, str) and kind.startswith(DESCRIBED):  # its map, its shape, its strides
            passed += 2 * len(value.shape)
        if kind != "constexpr":
            numbers.extend(range(count, count + passed))
        count += passed

    for param in kernel.params:
        if param.is_constexpr:
            count += 1
        else:
            walk(signature[param.name], bound[param.name])
    return tuple(numbers)


def refuse_foreign(kernel: str, name: str, kind: str, value: Any) -> None:
    """Memory that the daemon cannot see."""
    if kind.startswith("*") and value is not None and not isinstance(value, Buffer | int):
        where = f" on {value.device}" if hasattr(value, "device") else ""
        raise ParamTypeError(
            f"kernel {kernel!r}, parameter {name!r}: expected a Buffer, None or an address, found "
            f"{type(value).__module__}.{type(value).__qualname__}{where}: the kernel runs in the daemon, which does "
            "not see this process's memory; client.array() copies host data to a Buffer"
        )
