"""Types for the parameters of Triton kernels, as annotations: `x: rl.tensor[rl.float32], n: rl.int32`.

Triton reads an annotation by its name or its text, so that each of these is to Triton what its own of that name is.
They are types themselves, which is what a type checker, and Triton's look at the globals of a kernel, expect.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from ringlaunch._check import refused


class scalar:
    """The type of a number, or of the elements of a tensor, by Triton's names for them."""

    triton: ClassVar[str]  # what Triton calls it in signatures
    __triton_builtin__ = True  # nothing that Triton would have to keep an eye on


class int1(scalar):
    triton = "u1"


class int8(scalar):
    triton = "i8"


class int16(scalar):
    triton = "i16"


class int32(scalar):
    triton = "i32"


class int64(scalar):
    triton = "i64"


class uint8(scalar):
    triton = "u8"


class uint16(scalar):
    triton = "u16"


class uint32(scalar):
    triton = "u32"


class uint64(scalar):
    triton = "u64"


class float16(scalar):
    triton = "fp16"


class bfloat16(scalar):
    triton = "bf16"


class float32(scalar):
    triton = "fp32"


class float64(scalar):
    triton = "fp64"


class float8e4nv(scalar):
    triton = "fp8e4nv"


class float8e5(scalar):
    triton = "fp8e5"


SCALARS: dict[str, type[scalar]] = {each.triton: each for each in scalar.__subclasses__()}

_Element = TypeVar("_Element", bound=scalar)
_made: dict[type[scalar], TensorOf] = {}


class TensorOf:
    """What `tensor[element]` is when a program runs."""

    __slots__ = ("element",)

    __triton_builtin__ = True

    def __init__(self, element: type[scalar]) -> None:
        self.element = element

    def __str__(self) -> str:  # what Triton reads
        return f"*{self.element.triton}"

    def __repr__(self) -> str:
        return f"ringlaunch.tensor[ringlaunch.{self.element.__name__}]"


class tensor(Generic[_Element]):
    """Device memory with elements of one type, as the annotation of a kernel's parameter: `x: rl.tensor[rl.float32]`.

    Calls are checked against it, and look at nothing of the argument but its address: what has another type of
    element is refused by name. An integer is taken as an address, which only an annotated pointer does.
    """

    __triton_builtin__ = True

    def __class_getitem__(cls, element: Any) -> Any:
        if not (isinstance(element, type) and issubclass(element, scalar) and element is not scalar):
            raise refused("tensor[...]", "a type of elements as ringlaunch.float32", element)
        return _made.setdefault(element, TensorOf(element))
