"""What the package's functions are given: each check returns the value to use, or raises what names the parameter."""

from __future__ import annotations

import operator

from ringlaunch._numpy import np
from ringlaunch.errors import InvalidArgument, OutOfRange, ParamTypeError

_LONGEST = 60  # characters of a value in a message
_LONGEST_NAME = 4096  # bytes


def spelled(value: object) -> str:
    """repr(); of an integer with more digits than Python writes, how large it is."""
    try:
        return repr(value)
    except Exception:
        return f"an integer of {int.bit_length(value)} bits" if isinstance(value, int) else "an object without a repr"


def brief(value: object) -> str:
    """The value for messages: on one line, cut where it is long."""
    text = " ".join(spelled(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def shown(value: object) -> str:
    """As `brief`, with the value's type."""
    return f"{brief(value)} ({type(value).__name__})"


def refused(what: str, expected: str, value: object) -> ParamTypeError:
    """The exception for a value of the wrong type."""
    return ParamTypeError(f"{what}: expected {expected}, found {shown(value)}")


def integer(what: str, value: object, least: int, most: int) -> int:
    """Anything with `__index__`, in its range."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refused(what, f"an integer from {least} to {most}", value) from None
    if not least <= number <= most:
        raise OutOfRange(f"{what}: expected an integer from {least} to {most}, found {shown(value)}")
    return number


def flag(what: str, value: object) -> bool:
    if not isinstance(value, bool) and not isinstance(value, np.bool_):
        raise refused(what, "True or False", value)
    return bool(value)


def text(what: str, value: object, most_bytes: int | None = None) -> str:
    """A string that the daemon, or a compiler, can be given."""
    if not isinstance(value, str):
        raise refused(what, "a str", value)
    if "\0" in value:
        raise InvalidArgument(f"{what}: expected text without NUL characters, found {shown(value)}")
    try:
        found_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: expected text that UTF-8 can encode, found {shown(value)}") from None
    if most_bytes is not None and found_bytes > most_bytes:
        raise InvalidArgument(f"{what}: expected at most {most_bytes} bytes, found {found_bytes}: {shown(value)}")
    return value


def name(what: str, value: object) -> str:
    """What messages and operators call a thing."""
    return text(what, value, _LONGEST_NAME)


def choice(what: str, value: object, choices: tuple[str, ...]) -> str:
    known = f"{', '.join(repr(one) for one in choices[:-1])} or {choices[-1]!r}"
    if not isinstance(value, str):
        raise refused(what, known, value)
    if value not in choices:
        raise InvalidArgument(f"{what}: expected {known}, found {shown(value)}")
    return value
