"""Tensors as arguments of Triton kernels, as far as Python has a say: what element types are called, and objects that
Triton itself does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ringlaunch import _core
from ringlaunch._buffer import _ELEMENT_NAMES
from ringlaunch._hints import ELEMENTS
from ringlaunch._numpy import np

_NUMBERS = {ELEMENTS[name]: number for number, name in enumerate(_ELEMENT_NAMES, 1)}
_names: dict[str, str] = ELEMENTS  # Triton's for what an object calls its elements


def take_names(names: dict[str, str]) -> None:
    """What element types are called from now on: in a program with Triton, as Triton reads them."""
    global _names
    _names = names
    _core.triton_tensors(number_of_dtype, number_of_typestr)


def number_of_dtype(dtype: Any) -> int:
    """The number of an element type, which its object calls as Triton reads it; 0: one that Triton does not know."""
    return _NUMBERS.get(_names.get(str(dtype).split(".")[-1], ""), 0)


def number_of_typestr(typestr: Any) -> int:
    """The same by numpy's name for it; 0 too where its bytes are in another order than the machine's."""
    try:
        dtype = np.dtype(typestr)
    except TypeError:
        return 0
    return number_of_dtype(dtype.name) if dtype.isnative else 0


class Pointer:
    """What `__cuda_array_interface__` tells of an object, in the form that Triton asks for."""

    __slots__ = ("_address", "dtype")

    def __init__(self, interface: dict[str, Any]) -> None:
        self._address = int(interface["data"][0])
        self.dtype = np.dtype(interface["typestr"]).name

    def data_ptr(self) -> int:
        return self._address


def with_parts(value: tuple[Any, ...], of: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The tuple with what stands for its parts; itself, where they are as they were."""
    parts = [of(part) for part in value]
    if all(part is old for part, old in zip(parts, value)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def as_triton_takes(value: Any) -> Any:
    """The argument itself, or what stands for it: with its parts, if it is a tuple."""
    if isinstance(value, tuple):
        return with_parts(value, as_triton_takes)
    if not hasattr(type(value), "__cuda_array_interface__") or hasattr(value, "data_ptr"):
        return value
    return Pointer(value.__cuda_array_interface__)
