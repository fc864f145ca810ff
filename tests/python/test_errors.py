"""One base class, and subclasses that derive what a program would catch."""

import pytest

import ringlaunch as rl
from ringlaunch import errors

STANDARD = {
    "Closed": ValueError,
    "DaemonLost": ConnectionError,
    "InvalidArgument": ValueError,
    "NotFound": KeyError,
    "OutOfMemory": MemoryError,
    "OutOfRange": OverflowError,
    "ParamTypeError": TypeError,
    "PermissionDenied": PermissionError,
    "Timeout": TimeoutError,
    "Unsupported": NotImplementedError,
    "VersionMismatch": ConnectionError,
}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_derives_from_the_one(name):
    kind = getattr(errors, name)
    assert issubclass(kind, rl.Error)
    assert getattr(rl, name) is kind
    assert kind.__doc__


@pytest.mark.parametrize(("name", "standard"), STANDARD.items())
def test_subclasses_derive_the_standard_class(name, standard):
    assert issubclass(getattr(rl, name), standard)


@pytest.mark.parametrize("name", errors.__all__)
def test_the_text_is_what_was_said(name):
    assert str(getattr(errors, name)("what was done: 'x' was found")) == "what was done: 'x' was found"


@pytest.mark.parametrize(
    ("number", "name", "kind"),
    [
        (26, "bad_image", rl.BadImage),
        (58, "bad_pointer", rl.RecordRefused),
        (67, "wait_cycle", rl.RecordRefused),
        (80, "kernel_faulted", rl.KernelFault),
        (84, "suspect", rl.StreamStopped),
        (9999, "unknown", rl.Error),
    ],
)
def test_every_status_has_its_exception(number, name, kind):
    error = errors._from_status(number, name, "text")
    assert type(error) is kind
    assert error.status == name
