"""`ringlaunch.TensorDescriptor`, for where there is no Triton to have one of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ringlaunch import _core
from ringlaunch._check import brief, refused
from ringlaunch._hints import element_of
from ringlaunch.errors import InvalidArgument

_MOST_SIDES = 5  # that the hardware reads


def _element_bytes(name: str) -> int:
    bits = re.search(r"\d+", name)
    return max(int(bits[0]) // 8, 1) if bits else 1


@dataclass
class TensorDescriptor:
    """A tensor and a block of it, as an argument of a Triton kernel that loads and stores by blocks (TMA).

    Has what Triton's own (triton.tools.tensor_descriptor) has, and stands for it: kernels from files take it where no
    Triton is installed. What the hardware does not read is refused.

    A launch into the daemon takes one of a `Buffer`, in which the whole tensor lies. The first call with a descriptor
    asks the daemon for its map (the form that the hardware reads), and waits for that; 4096 maps are kept for each
    client. They stay right when memory is freed and given out again, and when the daemon's executor is restarted: a map
    says an address and a layout, and buffers keep their addresses.

    Attributes
    ----------
    base : Buffer or tensor
        A tensor of this program is what has `data_ptr()` and `dtype`. Its address is a multiple of 16.
    shape, strides : sequence of int
        Of the tensor, in elements; the last stride is 1.
    block_shape : sequence of int
        Of a block: what the kernel was compiled for.
    padding : str
        "zero" or "nan": what is read beyond the tensor.
    round_f32_to_tf32 : bool
        Elements are read rounded; for Triton 3.9 and later.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit each other.
    ParamTypeError
        No tensor.
    """

    base: Any
    shape: Sequence[int]
    strides: Sequence[int]
    block_shape: Sequence[int]
    padding: str = "zero"
    round_f32_to_tf32: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.base, "data_ptr") or element_of(self.base) is None:
            raise refused("TensorDescriptor", "a Buffer or a tensor of this program", self.base)
        rank = len(self.shape)
        if not 1 <= rank <= _MOST_SIDES or not rank == len(self.strides) == len(self.block_shape):
            raise InvalidArgument(
                f"TensorDescriptor: expected as many strides and sides of a block as sides, 1 to {_MOST_SIDES}, found "
                f"shape {tuple(self.shape)}, strides {tuple(self.strides)}, block {tuple(self.block_shape)}"
            )
        if self.strides[-1] != 1 or self.base.data_ptr() % 16 != 0:
            raise InvalidArgument(
                "TensorDescriptor: expected a last stride of 1 and an address that is a multiple of 16, found "
                f"{self.strides[-1]} and {self.base.data_ptr():#x}"
            )
        size = _element_bytes(element_of(self.base) or "")
        if any(side < 1 for side in self.shape) or any(stride * size % 16 != 0 for stride in self.strides[:-1]):
            raise InvalidArgument(
                "TensorDescriptor: expected sides from 1 on, and strides that are multiples of 16 bytes, found shape "
                f"{brief(tuple(self.shape))}, strides {brief(tuple(self.strides))} of elements of {size} bytes"
            )
        if self.padding not in ("zero", "nan"):
            raise InvalidArgument(f"TensorDescriptor, padding: expected 'zero' or 'nan', found {brief(self.padding)}")
        if self.padding == "nan" and not (element_of(self.base) or "").startswith(("fp", "bf")):
            raise InvalidArgument(
                f"TensorDescriptor, padding: expected 'nan' for floating numbers alone, found {element_of(self.base)}"
            )
        if self.round_f32_to_tf32 and element_of(self.base) != "fp32":
            raise InvalidArgument(f"TensorDescriptor, round_f32_to_tf32: expected fp32, found {element_of(self.base)}")

    @staticmethod
    def from_tensor(
        tensor: Any, block_shape: Sequence[int], padding: str = "zero", round_f32_to_tf32: bool = False
    ) -> TensorDescriptor:
        """Of a whole tensor, which has `shape` and `stride()` as a Buffer and torch's have.

        Parameters
        ----------
        tensor : Buffer or torch.Tensor
        block_shape : sequence of int
        padding : str, optional
        round_f32_to_tf32 : bool, optional

        Returns
        -------
        TensorDescriptor
        """
        return TensorDescriptor(tensor, tensor.shape, tensor.stride(), block_shape, padding, round_f32_to_tf32)


_core.triton_descriptor(TensorDescriptor, False)
