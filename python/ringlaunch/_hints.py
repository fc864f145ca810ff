"""Types for the parameters of Triton kernels, as annotations: `x: rl.tensor[rl.float32], n: rl.int32`.

Triton reads an annotation by its name or its text, so that each of these is to Triton what its own of that name is.
They are types themselves, which is what a type checker, and Triton's look at the globals of a kernel, expect.
"""

from __future__ import annotations

import inspect
import struct
from typing import Any, ClassVar, Generic, TypeVar

from ringlaunch._check import refused, shown
from ringlaunch.errors import OutOfRange


class scalar:
    """The type of a number, or of the elements of a tensor, by Triton's names for them.

    As a parameter's annotation int1 takes True and False alone; the other integers take them, too, as 1 and 0, as
    Triton's own do.
    """

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


_made: dict[type[scalar], TensorOf] = {}


def tensor_of(element: type[scalar]) -> TensorOf:
    """One object for each type of elements."""
    return _made.setdefault(element, TensorOf(element))


class tensor(Generic[_Element]):
    """Device memory with elements of one type, as the annotation of a kernel's parameter: `x: rl.tensor[rl.float32]`.

    Calls are checked against it, and look at nothing of the argument but its address: what has another type of
    element is refused by name. An integer is taken as an address, which only an annotated pointer does; None, a null
    pointer, where it is the parameter's default.
    """

    __triton_builtin__ = True

    def __class_getitem__(cls, element: Any) -> Any:
        if not (isinstance(element, type) and issubclass(element, scalar) and element is not scalar):
            raise refused("tensor[...]", "a type of elements as ringlaunch.float32", element)
        return tensor_of(element)


# What Triton calls types of elements, by numpy's and torch's names.
ELEMENTS = {
    "bool": "u1",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
    "float8_e4m3fn": "fp8e4nv",
    "float8_e5m2": "fp8e5",
    "float8_e4m3fnuz": "fp8e4b8",
    "float8_e5m2fnuz": "fp8e5b16",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}


def element_of(value: Any) -> str | None:
    """Triton's name for the type of a tensor's elements; None: it is no tensor, or Triton has no such type."""
    return ELEMENTS.get(str(getattr(value, "dtype", "")).rpartition(".")[2])


def _meant(annotation: Any, names: dict[str, Any]) -> Any:
    """What an annotation is, or says as text."""
    if isinstance(annotation, str):
        try:
            return eval(annotation, names)
        except Exception:
            return None  # Triton reads words that are no Python: "*fp32"
    return annotation


def find(where: str, annotation: Any, names: dict[str, Any]) -> TensorOf | type[scalar] | None:
    """The type of ours that an annotation is, or says as text; None: it is another's."""
    annotation = _meant(annotation, names)
    if annotation is tensor:
        raise refused(where, "the type of its elements, as in rl.tensor[rl.float32]", annotation)
    if isinstance(annotation, TensorOf) or (isinstance(annotation, type) and issubclass(annotation, scalar)):
        return annotation
    return None


def is_float(annotation: Any, names: dict[str, Any]) -> bool:
    """Whether it is Python's own, which Triton has for float32."""
    return _meant(annotation, names) is float


def check(kernel: str, hints: dict[str, Any], given: inspect.BoundArguments) -> None:
    """Refuses the first argument that is not what its parameter's annotation says, or that the type does not hold."""
    for name, hint in hints.items():
        value = given.arguments[name]
        if isinstance(hint, TensorOf):
            optional = given.signature.parameters[name].default is None
            _check_tensor(f"kernel {kernel!r}, parameter {name!r}", hint, value, optional)
        else:
            _check_number(f"kernel {kernel!r}, parameter {name!r}", hint, value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "data_ptr") or hasattr(value, "address") or hasattr(value, "__cuda_array_interface__")


def _check_tensor(where: str, hint: TensorOf, value: Any, optional: bool) -> None:
    if type(value) is int:
        if not 0 <= value < 1 << 64:
            raise OutOfRange(f"{where}: expected an address from 0 to {(1 << 64) - 1}, found {shown(value)}")
    elif not (_is_tensor(value) and element_of(value) == hint.element.triton) and not (optional and value is None):
        expected = f"a tensor of {hint.element.__name__}, or an address" + (", or None" if optional else "")
        raise refused(where, expected, value)


def _check_number(where: str, hint: type[scalar], value: Any) -> None:
    if hint.triton.startswith(("fp", "bf")):
        expected = f"a number for {hint.__name__}"
        fits = isinstance(value, int | float) or (hasattr(value, "__float__") and not _is_tensor(value))
    else:
        expected = f"an integer for {hint.__name__}" if hint is not int1 else "True or False"
        fits = isinstance(value, bool if hint is int1 else int)  # of any other number the code reads the lowest bit
    if not fits:
        raise refused(where, expected, value)
    try:
        held = _not_held(hint, value)
    except TypeError:  # what its __float__ answers
        raise refused(where, expected, value) from None
    if held is not None:
        raise OutOfRange(f"{where} ({hint.__name__}): expected {held}, found {shown(value)}")


def _not_held(hint: type[scalar], value: Any) -> str | None:
    """What the type holds, where that is not this value."""
    if hint.triton[0] in "iu":
        bits = int(hint.triton[1:])
        least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if hint.triton[0] == "i" else (0, (1 << bits) - 1)
        return None if least <= value <= most else f"an integer from {least} to {most}"
    try:
        number = float(value)
        if hint is float16:
            struct.pack("e", number)
    except OverflowError:
        return f"a number that {hint.__name__} holds"
    return None
