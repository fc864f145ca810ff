"""Where a call of a Triton kernel goes: into the daemon, or inline, in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ringlaunch import _core
from ringlaunch._buffer import Buffer
from ringlaunch._check import refused
from ringlaunch._client import Client
from ringlaunch._mode import NAMED, chosen, meant
from ringlaunch._stream import Stream
from ringlaunch._triton_load import leaves
from ringlaunch.errors import InvalidArgument

if TYPE_CHECKING:
    from ringlaunch._triton import JITFunction
    from ringlaunch._triton_saved import SavedKernel


def check_mode(mode: str | None, client: Client | None) -> str | None:
    """The mode of a kernel; None: each call is asked."""
    if mode is not None and not isinstance(mode, str):
        raise refused("mode", "None, 'daemon', 'inline' or 'embedded'", mode)
    if mode is not None and mode not in NAMED:
        raise InvalidArgument(f"mode: expected 'daemon', 'inline' or 'embedded', found {mode!r}")
    if client is not None and not isinstance(client, Client):
        raise refused("client", "None or a Client", client)
    if client is not None and mode not in (None, "daemon"):
        raise InvalidArgument(f"mode: expected 'daemon' or None beside a client, found {mode!r}, which has none")
    if client is not None:
        return "daemon"
    return None if mode is None else meant(mode)


def is_tensor(value: Any) -> bool:
    """Device memory of this process, or what says that it is."""
    if isinstance(value, Buffer) or type(value).__name__ == "MockTensor":  # Triton's, which stands for a type
        return False
    return hasattr(value, "data_ptr") or hasattr(value, "__cuda_array_interface__")


def _torch_has_gpu() -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    found = bool(torch.cuda.is_initialized() or torch.cuda.is_available())
    _core.triton_torch_has_gpu(found)  # so that the C++ side need not ask again
    return found


def mode_of(kernel: JITFunction | SavedKernel, values: Iterable[Any], stream: Any) -> str:
    """The mode of one call, by its kernel or else by its arguments; see `ringlaunch.wrap`."""
    return kernel._mode if kernel._mode is not None else mode_of_values(values, stream)


def mode_of_values(values: Iterable[Any], stream: Any) -> str:
    if (by_client := chosen()) is not None:
        return by_client[1]
    found = list(leaves(iter(values)))
    if isinstance(stream, Stream) or any(isinstance(value, Buffer) for value in found):
        return "daemon"
    return "inline" if any(map(is_tensor, found)) or _torch_has_gpu() else "daemon"
