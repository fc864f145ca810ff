"""One base class, and subclasses that derive what a program would catch."""

import socket
import threading

import pytest
from support import WATCHDOG_S

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


OUT_OF_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for doing in (
    lambda: rl.connect(sys.argv[1], start=False),
    lambda: client.load(b"no image"),
    lambda: client.compile(KERNELS, name="kernels.cu"),
):
    try:
        doing()
    except rl.LimitReached as error:
        assert "may open 128" in str(error) and "ulimit -n" in str(error), error
    else:
        raise AssertionError("that was possible")
for fd in taken:
    os.close(fd)
client.compile(KERNELS, name="kernels.cu")
print("works again")
"""


def test_a_process_without_a_descriptor_left_is_told_which_limit(run_script):
    done = run_script(OUT_OF_DESCRIPTORS)
    assert done.stdout.strip() == "works again", done.stderr


REFUSED_BY_THE_MACHINE = """
import resource, threading
def refused(what, soft, doing):
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        doing()
    except rl.LimitReached as error:
        return str(error)
    finally:
        resource.setrlimit(what, before)
    raise AssertionError("that was possible")
image = b"x" * 10_000
print(refused(resource.RLIMIT_FSIZE, 4096, lambda: client.load(image)))
leave = threading.Event()
for _ in range(16):  # take the stacks that earlier threads left
    threading.Thread(target=leave.wait).start()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
print(refused(resource.RLIMIT_AS, used + 100_000, lambda: client.load(image)))
leave.set()
client.compile(KERNELS, name="kernels.cu")
print("works again")
"""


def test_what_the_machine_refuses_is_an_error_of_ours(run_script):
    done = run_script(REFUSED_BY_THE_MACHINE)
    file, thread, last = done.stdout.splitlines() or [done.stderr] * 3
    assert "10000 bytes" in file and "ulimit -f" in file
    assert "thread" in thread
    assert last == "works again"


def test_a_daemon_with_too_many_at_its_door_is_asked_again_and_none_is_started(own_host):
    own_host.connect().close()
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(65)]
    try:
        for each in waiting:
            each.connect(own_host.socket)
        with pytest.raises((rl.LimitReached, rl.Timeout), match="cannot open a session"):
            rl.connect(own_host.socket, timeout=0.3)
        leaving = threading.Timer(0.2, lambda: [each.close() for each in waiting])
        leaving.start()
        with rl.connect(own_host.socket, timeout=WATCHDOG_S) as client:
            assert client.daemon.pid == own_host.process.pid
        leaving.join()
    finally:
        for each in waiting:
            each.close()
