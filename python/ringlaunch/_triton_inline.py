"""Triton kernels that this program launches by itself, on its own GPU: mode="inline".

A call's usual way is C++ to its end, a launch graph on the current stream. The first call of each kind, and whatever
the C++ side does not know, is Triton's own call from beginning to end; what it has compiled and loaded is what the
calls behind it launch.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any

from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import _allocation, driver, jit
from triton.tools.tensor_descriptor import TensorDescriptor

from ringlaunch import _core
from ringlaunch._buffer import Buffer
from ringlaunch._check import refused
from ringlaunch._region import guard_driver
from ringlaunch._stream import Stream
from ringlaunch._triton import as_triton_describes, triton_run, with_settings
from ringlaunch._triton_cache import Variant
from ringlaunch._triton_load import WARP, flatten, leaf_numbers, leaves, type_of
from ringlaunch._triton_save import tensor_map
from ringlaunch._triton_tensor import as_triton_takes
from ringlaunch.errors import Unsupported

if TYPE_CHECKING:
    from ringlaunch._triton import JITFunction

# A launch with more has an attribute that only Triton's launcher knows.
_USUAL_SHARED_BYTES = 228 << 10

streams_of: Any = None  # the driver of Triton whose streams the C++ side knows


def load(kernel: str) -> None:
    """Refuses where this program cannot launch."""
    try:
        _core.triton_inline_load()
    except Unsupported as error:
        raise Unsupported(
            f"kernel {kernel!r}: an inline launch is one in this program, which has no GPU to launch on: {error}"
        ) from None


def call_slowly(
    kernel: JITFunction,
    grid: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pending: _core.TritonPending | None,
) -> Any:
    """One call by Triton."""
    if _core.triton_inline_context() == 0:
        load(kernel.__name__)
        _enter_context()
    _refuse_buffers(kernel, (*args, *kwargs.values()))
    if kernel._hints:
        kernel._check_hints(args, kwargs)
    args = tuple(map(_as_triton_takes, args))
    kwargs = {name: _as_triton_takes(value) for name, value in kwargs.items()}
    stream = None if "stream" in kernel.arg_names else kwargs.pop("stream", None)
    answered = grid

    def ask(bound: dict[str, Any]) -> Any:
        nonlocal answered
        answered = grid(bound)
        return answered

    context = _core.triton_inline_context()
    begin = time.perf_counter()
    with _on(kernel, stream):
        compiled = triton_run(kernel, *args, grid=ask if callable(grid) else grid, warmup=False, **kwargs)
        # The grid's function may have gone to another device.
        stayed = context == _core.triton_inline_context() or (context == 0 and not callable(grid))
        if pending is not None and stayed and isinstance(compiled, CompiledKernel):
            _add(kernel, answered, args, kwargs, pending, compiled, time.perf_counter() - begin)
    return compiled


def finish(kernel: JITFunction, variant: _core.TritonVariant, grid: Any, stream: int, bound: dict[str, Any]) -> Any:
    """The end of Triton's own call."""
    compiled = variant.compiled
    _refuse_buffers(kernel, bound.values())
    if kernel._hints:
        kernel._check_hints((), bound)
    values = tuple(map(_as_triton_takes, bound.values()))
    count = len(grid)
    x, y, z = grid[0], grid[1] if count > 1 else 1, grid[2] if count > 2 else 1
    metadata = compiled.launch_metadata(grid, stream, *values)
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    compiled.run(x, y, z, stream, compiled.function, compiled.packed_metadata, metadata, enter, leave, *values)
    if _is_launched(grid):
        variant._count()
    return compiled


def _refuse_buffers(kernel: JITFunction, values: Iterable[Any]) -> None:
    for value in leaves(iter(values)):
        if isinstance(value, Buffer):  # whose address may be somebody else's in this program
            raise refused(f"kernel {kernel.__name__!r}", "a tensor of this program, to launch inline", value)


def _is_launched(grid: Any) -> bool:
    """As Triton's launcher counts blocks."""
    return 0 < math.prod(index(grid[i]) for i in range(min(3, len(grid)))) % 2**32 < 2**31


def warm_up(kernel: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Any) -> Any:
    """`kernel.warmup`, by Triton."""
    load(kernel.__name__)
    if kernel._hints:
        kernel._check_hints(args, kwargs)
    return triton_run(kernel, *args, grid=grid, warmup=True, **kwargs)


def find(kernel: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant | None:
    """What a call would launch, if it was launched before."""
    load(kernel.__name__)
    args = tuple(map(_as_triton_takes, args))
    _, key, kernels = _bound(kernel, args, {name: _as_triton_takes(value) for name, value in kwargs.items()})
    return kernel._variants_held.get((id(kernels.get(key)),))


def release(kernel: JITFunction, compiled: Any) -> None:
    """Has Triton forget it, too."""
    for device, (kernels, *_) in list(kernel.device_caches.items()):
        if isinstance(device, int):
            for key in [key for key, known in kernels.items() if known is compiled]:
                del kernels[key]


def allocate(variant: _core.TritonVariant, stream: int, nbytes: int) -> Any:
    """Scratch memory from Triton's allocator, which each launch asks for."""
    return _allocation._allocator.get()(nbytes, variant.compiled.metadata.global_scratch_align, stream)


def _bound(kernel: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], str, Any]:
    """Bound arguments and Triton's key of a call on the current device, and Triton's kernels there."""
    kernels, keys, _, _, binder = kernel.device_caches[driver.active.get_current_device()]
    bound, specialization, options = binder(*args, **with_settings(kernel, kwargs))
    return bound, jit.compute_cache_key(keys, specialization, options), kernels


def _add(
    kernel: JITFunction,
    grid: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pending: _core.TritonPending,
    compiled: Any,
    seconds: float,
) -> None:
    """From now on calls like this one, which Triton has launched, are the C++ side's, or at once Triton's again."""
    with kernel._lock:
        _know_streams()
        variant = kernel._variants_held.get((id(compiled),))
        if variant is None and id(compiled) in kernel._left:
            kernel._leave(pending, compiled)
            return
        bound, _, _ = _bound(kernel, args, kwargs)
        variant = variant or _make_variant(kernel, compiled, bound, seconds)
        if variant is None:
            kernel._left[id(compiled)] = compiled
            kernel._leave(pending, compiled)
            return
        kernel._capture(
            tuple((name, variables, value) for (name, _), (value, variables) in kernel.used_global_vals.items())
        )
        if not kernel._remember(pending, variant, leaf_numbers(kernel, bound, variant.signature)):
            kernel._left[id(compiled)] = compiled
            kernel._leave(pending, compiled)
        if _is_launched(grid):
            variant._core._count()


def _make_variant(kernel: JITFunction, compiled: Any, bound: dict[str, Any], seconds: float) -> Variant | None:
    """None: only Triton's launcher knows how to launch it."""
    metadata, signature = compiled.metadata, compiled.src.signature
    if metadata.profile_scratch_size or metadata.shared > _USUAL_SHARED_BYTES:
        return None
    declared: list[tuple[str, str]] = []
    maps: list[tuple[int, int, int, tuple[int, ...], bool]] = []
    described = iter(getattr(metadata, "tensordesc_meta", None) or ())
    try:
        for name, of in signature.items():
            for path, kind, value in flatten(of, bound[name], name):
                if kind.startswith("tensordesc"):
                    if type(value) is not TensorDescriptor or path != name or (found := _map(described)) is None:
                        return None
                    rank = len(value.shape)
                    maps.append(found)
                    declared.append((path, "tensormap"))
                    declared += [(f"{path}.shape[{i}]", "int32") for i in range(rank)]
                    declared += [(f"{path}.strides[{i}]", "int64") for i in range(rank)]
                else:
                    declared.append((path, type_of(kernel.__name__, path, kind)))
    except Unsupported:
        return None
    core = _core.triton_inline_variant(
        compiled,
        compiled.function,
        tuple(declared),
        metadata.num_warps * WARP,
        metadata.shared,
        metadata.num_ctas,
        bool(metadata.launch_cooperative_grid),
        bool(metadata.launch_pdl),
        metadata.global_scratch_size * metadata.num_ctas,
        tuple(maps),
    )
    if core is None:
        return None
    variant = Variant(kernel, core, None, dict(signature), seconds)
    kernel._variants_held[(id(compiled),)] = variant
    return variant


def _map(described: Iterator[dict[str, Any]]) -> tuple[int, int, int, tuple[int, ...], bool] | None:
    """How the hardware is to read the next tensor; None: as only Triton's launcher knows."""
    meta = next(described, None)
    if meta is None or (found := tensor_map(meta)) is None:
        return None
    return *found, hasattr(driver.active.utils, "fill_tma_descriptor_tiled")  # small ones are mended since Triton 3.7


def _as_triton_takes(value: Any) -> Any:
    return as_triton_takes(as_triton_describes(value))


def _enter_context() -> None:
    """A thread that has not used CUDA yet gets the context of the current device, which Triton takes to be there."""
    torch = sys.modules.get("torch")
    if torch is not None and _core.triton_inline_context() == 0:
        torch.cuda.set_device(driver.active.get_current_device())


def _know_streams() -> None:
    """Tells the C++ side how the current stream is had: as Triton's driver does it, or quicker where torch can."""
    global streams_of
    if streams_of is driver.active:
        return
    current = getattr(driver.active.get_current_stream, "__wrapped__", driver.active.get_current_stream)
    capsule = None
    torch = sys.modules.get("torch")
    if torch is not None and current is getattr(torch._C, "_cuda_getCurrentRawStream", None):
        capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    _core.triton_streams(capsule, current)
    streams_of = driver.active
    guard_driver(streams_of)


def _on(kernel: JITFunction, stream: Any) -> contextlib.AbstractContextManager[Any]:
    """Makes the stream that a call names the current one, which is what Triton's own call takes."""
    if stream is None:
        return contextlib.nullcontext()
    if isinstance(stream, Stream):
        raise refused(f"kernel {kernel.__name__!r}, stream", "a stream of this program, to launch inline", stream)
    torch = sys.modules.get("torch")
    if torch is None:
        raise Unsupported(f"kernel {kernel.__name__!r}: stream= needs torch, which this program has not imported")
    if isinstance(stream, int):
        device = driver.active.get_current_device()
        stream = torch.cuda.ExternalStream(stream, device) if stream else torch.cuda.default_stream(device)
    elif not isinstance(stream, torch.cuda.Stream):
        raise refused(f"kernel {kernel.__name__!r}, stream", "a torch.cuda.Stream or a CUDA stream's handle", stream)
    return torch.cuda.stream(stream)  # type: ignore[no-any-return]
