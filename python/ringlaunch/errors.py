"""The exceptions: one base class, and subclasses that also derive the standard class a program would catch."""

from __future__ import annotations

__all__ = [
    "BadImage",
    "Closed",
    "CompileError",
    "DaemonLost",
    "DriverError",
    "Error",
    "ExecutorLost",
    "InternalError",
    "InvalidArgument",
    "KernelFault",
    "LimitReached",
    "NotFound",
    "OutOfMemory",
    "OutOfRange",
    "ParamTypeError",
    "PermissionDenied",
    "ProtocolError",
    "Quarantined",
    "RecordRefused",
    "RingFull",
    "StreamStopped",
    "Timeout",
    "Unsupported",
    "VersionMismatch",
]


class Error(Exception):
    """What every exception of ringlaunch derives from.

    Attributes
    ----------
    status : str
        The status in the daemon's words ("bad_image", "kernel_faulted"); "" where the package itself refused.
    """

    status: str = ""

    def __str__(self) -> str:  # KeyError would show a repr
        return str(self.args[0]) if self.args else ""


class InvalidArgument(Error, ValueError):
    """A value that cannot be meant."""


class OutOfRange(InvalidArgument, OverflowError):
    """A number beyond what its declared type holds."""


class ParamTypeError(Error, TypeError):
    """A kernel parameter of the wrong type, or the wrong count of them."""


class Closed(Error, ValueError):
    """The handle was freed or closed, its client was, or it belongs to the parent of this forked process."""


class Timeout(Error, TimeoutError):
    """The time given was over before what was waited for."""


class RingFull(Error, BlockingIOError):
    """The ring has no room now."""


class DaemonLost(Error, ConnectionError):
    """There is no daemon, its life ended, it is about to leave, or it gave this session up; the text says which."""


class VersionMismatch(Error, ConnectionError):
    """Client and daemon speak different versions of the protocol; the text names both."""


class ProtocolError(Error, RuntimeError):
    """One side sent what the protocol does not allow."""


class PermissionDenied(Error, PermissionError):
    """The daemon does not serve this user, or not this request."""


class LimitReached(Error, RuntimeError):
    """A limit of the daemon on sessions, streams, modules, memory or messages."""


class OutOfMemory(Error, MemoryError):
    """The device has no memory of that size left for this session."""


class NotFound(Error, KeyError):
    """No such kernel, module, stream or buffer."""


class BadImage(Error, ValueError):
    """A module that is not what the driver takes; the text says what was found and what is expected."""


class Unsupported(Error, NotImplementedError):
    """What this daemon, driver or machine cannot do."""


class ExecutorLost(Error, RuntimeError):
    """The executor died while it worked on this request; the daemon starts another."""


class Quarantined(Error, RuntimeError):
    """This session's work ended executors again and again. `Client.warning` says so; nothing raises it."""


class DriverError(Error, RuntimeError):
    """The driver refused the work."""


class InternalError(Error, RuntimeError):
    """A mistake of ringlaunch itself."""


class StreamStopped(Error, RuntimeError):
    """The stream halted: `stream.status` says why and where, `stream.resume()` goes on."""


class RecordRefused(StreamStopped):
    """The stream halted at a record that the daemon refused; the text names the record and the reason."""


class KernelFault(StreamStopped):
    """The stream halted because its own work ended the executor.

    The text names the record, and the kernel where the record is a launch (of a graph, which is one record, or a copy
    the record alone). Where it cannot be known which of several records it was it says so, and names the first and the
    last of them.
    """


class CompileError(Error, RuntimeError):
    """The compiler refused a kernel source.

    Attributes
    ----------
    log : str
        What the compiler said.
    """

    log: str = ""


_BY_STATUS: dict[str, type[Error]] = {
    "ring_full": RingFull,
    "record_too_long": InvalidArgument,
    "stream_stopped": StreamStopped,
    "daemon_lost": DaemonLost,
    "timed_out": Timeout,
    "closed": Closed,
    "invalid_argument": InvalidArgument,
    "version_mismatch": VersionMismatch,
    "malformed_message": ProtocolError,
    "permission_denied": PermissionDenied,
    "limit_reached": LimitReached,
    "rate_limited": LimitReached,
    "out_of_memory": OutOfMemory,
    "not_found": NotFound,
    "bad_image": BadImage,
    "bad_seals": ProtocolError,
    "unsupported": Unsupported,
    "executor_lost": ExecutorLost,
    "stopping": DaemonLost,
    "driver_error": DriverError,
    "internal_error": InternalError,
    "executor_quarantined": Quarantined,
    "kernel_faulted": KernelFault,
    "neighbour_faulted": StreamStopped,
    "executor_killed": StreamStopped,
    "driver_failed": StreamStopped,
    "suspect": StreamStopped,
}

_FIRST_REFUSAL, _LAST_REFUSAL = 50, 79  # schema/status.hpp: why the dispatcher refused a record


def _from_status(number: int, name: str, text: str) -> Error:
    """The exception that belongs to a status of the client library (called by _core)."""
    kind = _BY_STATUS.get(name)
    if kind is None:
        kind = RecordRefused if _FIRST_REFUSAL <= number <= _LAST_REFUSAL else Error
    error = kind(text)
    error.status = name
    return error


def _named(name: str, text: str) -> Error:
    """The exception of that name (called by _core)."""
    kind: type[Error] = globals()[name]
    return kind(text)
