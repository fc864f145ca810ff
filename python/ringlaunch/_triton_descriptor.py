"""`ringlaunch.TensorDescriptor`, for where there is no Triton to have one of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ringlaunch import _core
from ringlaunch._check import refused
from ringlaunch._hints import element_of
from ringlaunch.errors import InvalidArgument

_MOST_SIDES = 5  # that the hardware reads


@dataclass
class TensorDescriptor:
    """A tensor and a block of it, as an argument of a Triton kernel that loads and stores by blocks (TMA).

    Has what Triton's own (triton.tools.tensor_descriptor) has, and stands for it: kernels from files take it where no
    Triton is installed. Inline calls take it, and refuse what the hardware does not read.

    Attributes
    ----------
    base : tensor
        Of this program: what has `data_ptr()` and `dtype`. Its address is a multiple of 16.
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
            raise refused("TensorDescriptor", "a tensor of this program", self.base)
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
        if self.padding not in ("zero", "nan"):
            raise InvalidArgument(f"TensorDescriptor, padding: expected 'zero' or 'nan', found {self.padding!r}")

    @staticmethod
    def from_tensor(
        tensor: Any, block_shape: Sequence[int], padding: str = "zero", round_f32_to_tf32: bool = False
    ) -> TensorDescriptor:
        """Of a whole tensor, which has `shape` and `stride()` as torch's have.

        Parameters
        ----------
        tensor : torch.Tensor
        block_shape : sequence of int
        padding : str, optional
        round_f32_to_tf32 : bool, optional

        Returns
        -------
        TensorDescriptor
        """
        return TensorDescriptor(tensor, tensor.shape, tensor.stride(), block_shape, padding, round_f32_to_tf32)


_core.triton_descriptor(TensorDescriptor)
