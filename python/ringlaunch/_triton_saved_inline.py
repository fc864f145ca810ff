"""Triton kernels from a file that this program launches by itself: what calls need of its tensor library.

Which is torch, else CuPy, where one of them has been imported; without both, launches go to the default stream, in the
context that the program has made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ringlaunch import _core, _triton_tensor
from ringlaunch._buffer import Buffer
from ringlaunch._check import refused
from ringlaunch._hints import ELEMENTS
from ringlaunch._stream import Stream
from ringlaunch._triton_load import declare, leaves
from ringlaunch.errors import ParamTypeError, Unsupported

if TYPE_CHECKING:
    from ringlaunch._triton_saved import SavedKernel

streams_of: Any = None  # the library whose streams the C++ side knows
# What is loaded stays: by context, image and function.
_functions: dict[tuple[int, str, str], tuple[int, int, int, int, int]] = {}


def enter(kernel: str) -> int:
    """The calling thread's CUDA context; a thread that has none gets that of the library's current device."""
    try:
        _core.triton_inline_load()
    except Unsupported as error:
        raise Unsupported(
            f"kernel {kernel!r}: an inline launch is one in this program, which has no GPU to launch on: {error}"
        ) from None
    if "ringlaunch._triton" not in sys.modules:
        _triton_tensor.take_names(ELEMENTS)
    know_descriptors()
    if _core.triton_inline_context() == 0:
        if (torch := _gpu_torch()) is not None:
            torch.cuda.set_device(torch.cuda.current_device())
        elif (cupy := sys.modules.get("cupy")) is not None:
            cupy.cuda.runtime.setDevice(cupy.cuda.runtime.getDevice())
    context = _core.triton_inline_context()
    if context == 0:
        raise Unsupported(
            f"kernel {kernel!r}: an inline launch needs a CUDA context on the calling thread; import torch or CuPy, "
            "whose current device is taken, or make one"
        )
    _know_streams()
    return context


def know_descriptors() -> None:
    """Tells the C++ side of Triton's own, where they are; ringlaunch's it knows."""
    if (of_triton := sys.modules.get("triton.tools.tensor_descriptor")) is not None:
        _core.triton_descriptor(of_triton.TensorDescriptor, True)


def _gpu_torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _know_streams() -> None:
    """Tells the C++ side how the current stream is had. Where Triton is there, too, that has its own idea."""
    global streams_of
    triton_inline = sys.modules.get("ringlaunch._triton_inline")
    if triton_inline is not None and triton_inline.streams_of is not None:
        return
    library = _gpu_torch() or sys.modules.get("cupy")
    if streams_of == (library,):
        return
    current: Callable[[int], int] = _default_stream
    capsule = None
    if library is not None and library.__name__ == "torch":
        current = library._C._cuda_getCurrentRawStream
        capsule = getattr(library.Tensor, "__dlpack_c_exchange_api__", None)
    elif library is not None:
        current = _stream_of_cupy
    _core.triton_streams(capsule, current)
    streams_of = (library,)


def _default_stream(_: int) -> int:
    return 0


def _stream_of_cupy(_: int) -> int:
    stream: int = sys.modules["cupy"].cuda.get_current_stream().ptr
    return stream


def load_variant(kernel: SavedKernel, number: int, context: int) -> _core.TritonVariant:
    """Loads a variant of the file into the current context."""
    image = kernel._image(number)
    saved, metadata = kernel.saved[number], image.metadata
    passed = [each for name, of in saved.signature.items() for each in _flat(of, name)]
    declared = declare(kernel.__name__, passed, saved.tensor_maps)
    threads = metadata.num_warps * 32
    key = (context, image.hash, saved.entry)
    if (found := _functions.get(key)) is None:
        _, _, most = _core.triton_inline_device()
        if metadata.shared > most:
            raise kernel._out_of_resources(metadata.shared, most, "shared memory")
        found = _core.triton_inline_function(saved.image, saved.entry, metadata.shared, metadata.num_ctas > 8)
        _functions[key] = found
    function, image.n_regs, local, _, image.n_max_threads = found
    image.n_spills = local // 4
    if threads > image.n_max_threads:
        raise kernel._out_of_resources(threads, image.n_max_threads, "threads")
    core = _core.triton_inline_variant(
        image,
        function,
        tuple(declared),
        threads,
        metadata.shared,
        metadata.num_ctas,
        metadata.launch_cooperative_grid,
        metadata.launch_pdl,
        metadata.global_scratch_size * metadata.num_ctas,
        tuple((*each, True) for each in saved.tensor_maps),
    )
    if core is None:
        raise Unsupported(
            f"kernel {kernel.__name__!r}: its image takes other parameters than its file says; save it anew with this "
            "release of ringlaunch"
        )
    return core


def _flat(kind: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(kind, tuple):
        return [each for i, part in enumerate(kind) for each in _flat(part, f"{name}[{i}]")]
    return [] if kind == "constexpr" else [(name, kind)]


def check_arguments(kernel: SavedKernel, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Any) -> None:
    """What has no place in an inline call."""
    for value in leaves(iter((*args, *kwargs.values()))):
        if isinstance(value, Buffer):  # whose address may be somebody else's in this program
            raise refused(f"kernel {kernel.__name__!r}", "a tensor of this program, to launch inline", value)
    if isinstance(stream, Stream):
        raise refused(f"kernel {kernel.__name__!r}, stream", "a stream of this program, to launch inline", stream)


def refuse(kernel: SavedKernel, bound: dict[str, Any]) -> Exception:
    """Why a call that has a variant cannot be launched."""
    for name, value in bound.items():
        for leaf in leaves(iter((value,))):
            device = str(getattr(leaf, "device", ""))
            if hasattr(leaf, "data_ptr") and re.match("cpu|cuda", device):
                return ValueError(
                    f"kernel {kernel.__name__!r}, parameter {name!r}: Pointer argument cannot be accessed from Triton "
                    f"(cpu tensor?): it is on {device}"
                )
    return ParamTypeError(
        f"kernel {kernel.__name__!r}: an argument is of a type that a kernel from a file does not take inline; it "
        "takes tensors, what has __cuda_array_interface__, tensor descriptors, numbers, None and tuples of them"
    )


def allocate(stream: int, nbytes: int) -> Any:
    """Scratch memory of one launch, in the order of its stream."""
    if (torch := _gpu_torch()) is not None:
        device = torch.cuda.current_device()
        of = torch.cuda.ExternalStream(stream, device) if stream else torch.cuda.default_stream(device)
        with torch.cuda.stream(of):
            return torch.empty(nbytes, dtype=torch.int8, device="cuda")
    if (cupy := sys.modules.get("cupy")) is not None:
        with cupy.cuda.ExternalStream(stream):
            made = cupy.empty(nbytes, "int8")
        return _triton_tensor.as_triton_takes(made)
    raise Unsupported("a kernel that takes scratch memory: it is allocated by torch or CuPy; import one of them")
