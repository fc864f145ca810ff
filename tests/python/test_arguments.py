"""What the package's functions refuse: with its own exception, which says what was expected of which parameter."""

import inspect
import os
import socket

import numpy as np
import pytest
from support import WATCHDOG_S

import ringlaunch as rl

ROUNDED = 2**24 + 1  # between two floats
STRANGER = 65534  # a user
LONG = 10**5000  # of more digits than Python writes


@pytest.fixture
def things(client, kernels):
    """What the calls below are made on."""

    class Things:
        pass

    things = Things()
    things.client = client
    things.module = kernels
    things.kernel = kernels["scale"]
    things.stream = client.stream()
    things.event = things.stream.record()
    things.buffer = client.zeros((2, 3))
    things.counts = client.zeros(3, np.uint8)
    things.flags = client.zeros(3, np.bool_)
    return things


REFUSED = [
    # connect
    (lambda t: rl.connect(5), rl.ParamTypeError, r"socket: expected None or a path, found 5 \(int\)"),
    (lambda t: rl.connect(b"/tmp/x"), rl.ParamTypeError, "socket: expected None or a path"),
    (lambda t: rl.connect(""), rl.InvalidArgument, "socket: expected None or a path, found an empty one"),
    (lambda t: rl.connect("/tmp/a\0b"), rl.InvalidArgument, "socket: expected text without NUL"),
    (lambda t: rl.connect(device="a"), rl.ParamTypeError, r"device: expected an integer .* found 'a' \(str\)"),
    (
        lambda t: rl.connect(device=2**40),
        rl.OutOfRange,
        "device: expected an integer from 0 to 2147483647, found 10995",
    ),
    (lambda t: rl.connect(device=-1), rl.OutOfRange, "device: expected an integer from 0"),
    (lambda t: rl.connect(driver=3), rl.ParamTypeError, "driver: expected 'auto', 'host', 'null' or 'cuda', found 3"),
    (lambda t: rl.connect(driver="gpu"), rl.InvalidArgument, "driver: expected .* found 'gpu'"),
    (lambda t: rl.connect(start="no"), rl.ParamTypeError, "start: expected True or False, found 'no'"),
    (lambda t: rl.connect(timeout=None), rl.ParamTypeError, "timeout: expected seconds, 0 or more, found None"),
    (lambda t: rl.connect(timeout="a"), rl.ParamTypeError, "timeout: expected seconds, 0 or more, found 'a'"),
    (lambda t: rl.connect(timeout=-1), rl.InvalidArgument, "timeout: expected seconds, 0 or more, found -1"),
    (lambda t: rl.connect(timeout=float("nan")), rl.InvalidArgument, "timeout: .* found nan"),
    (lambda t: rl.connect(daemon_uid="root"), rl.ParamTypeError, "daemon_uid: expected an integer .* found 'root'"),
    (lambda t: rl.connect(daemon_uid=-1), rl.OutOfRange, "daemon_uid: expected an integer from 0 to 4294967294"),
    # load and compile
    (lambda t: t.client.load(5), rl.ParamTypeError, "image: expected bytes or a path, found 5"),
    (lambda t: t.client.load("a\0b"), rl.InvalidArgument, "image: expected text without NUL"),
    (lambda t: t.client.load(b""), rl.BadImage, r"cannot load module \(without a name\): "),
    (lambda t: t.client.load(b"", name=5), rl.ParamTypeError, "name: expected a str, found 5"),
    (lambda t: t.client.load(b"", name="\ud800"), rl.InvalidArgument, "name: expected text that UTF-8 can encode"),
    (lambda t: t.client.load(b"", signatures=["k"]), rl.ParamTypeError, "signatures: expected a mapping"),
    (
        lambda t: t.client.load(b"", signatures={5: []}),
        rl.ParamTypeError,
        "signatures: a kernel: expected a str, found 5",
    ),
    (
        lambda t: t.client.load(b"", signatures={"k": "pointer"}),
        rl.ParamTypeError,
        r"signatures\['k'\]: .* found 'pointer'",
    ),
    (lambda t: t.client.load(b"", signatures={"k": 5}), rl.ParamTypeError, r"signatures\['k'\]: expected a sequence"),
    (
        lambda t: t.client.load(b"", signatures={"k": [5]}),
        rl.ParamTypeError,
        r"signatures\['k'\]: a parameter: .* found 5",
    ),
    (
        lambda t: t.client.load(b"", signatures={"k": [("a", "b", "c")]}),
        rl.ParamTypeError,
        "a parameter: expected its type",
    ),
    (
        lambda t: t.client.load(b"", signatures={"k": ["float"]}),
        rl.InvalidArgument,
        r"\['k'\]: 'float' is no parameter type",
    ),
    (lambda t: t.client.load(b"", signatures={"k": ["bytes[99999999999, 8]"]}), rl.InvalidArgument, "1 to 4096 bytes"),
    (lambda t: t.client.compile(b"x"), rl.ParamTypeError, "source: expected a str, found b'x'"),
    (lambda t: t.client.compile("a\0b"), rl.InvalidArgument, "source: expected text without NUL"),
    (lambda t: t.client.compile("", name=None), rl.ParamTypeError, "name: expected a str, found None"),
    (lambda t: t.client.compile("", options="-DX"), rl.InvalidArgument, "options: expected a sequence of strings"),
    (lambda t: t.client.compile("", options=5), rl.ParamTypeError, "options: expected a sequence of strings, found 5"),
    (lambda t: t.client.compile("", options=np.array(3)), rl.ParamTypeError, "options: expected a sequence of strings"),
    (lambda t: t.client.compile("", options=["-DX", 5]), rl.ParamTypeError, r"options\[1\]: expected a str, found 5"),
    # allocation
    (
        lambda t: t.client.empty((3.5,)),
        rl.ParamTypeError,
        r"shape: expected an integer or a sequence .* found \(3.5,\)",
    ),
    (lambda t: t.client.empty("12"), rl.ParamTypeError, "shape: .* found '12'"),
    (lambda t: t.client.empty(None), rl.ParamTypeError, "shape: .* found None"),
    (lambda t: t.client.empty(2**70), rl.OutOfRange, "shape: expected at most 9223372036854775807 bytes"),
    (lambda t: t.client.empty((2**40, 2**40)), rl.OutOfRange, "shape: expected at most"),
    (lambda t: t.client.empty((1,) * 40), rl.InvalidArgument, "shape: expected at most 32 dimensions, found 40"),
    (lambda t: t.client.empty(3, "nope"), rl.ParamTypeError, "dtype: expected a numpy dtype, found 'nope'"),
    (lambda t: t.client.empty(3, None), rl.ParamTypeError, "dtype: expected a numpy dtype, found None"),
    (lambda t: t.client.pinned_empty("12"), rl.ParamTypeError, "shape: .* found '12'"),
    (lambda t: t.client.pinned_empty(2**70), rl.OutOfRange, "shape: expected at most"),
    (lambda t: t.client.zeros((1.0,)), rl.ParamTypeError, "shape: "),
    (lambda t: t.client.zeros(3, stream="s"), rl.ParamTypeError, "stream: expected a Stream, found 's'"),
    (lambda t: t.client.array(t.buffer), rl.ParamTypeError, "data: expected host data, found a Buffer; copy_from"),
    (lambda t: t.client.array([[1], [2, 3]]), rl.InvalidArgument, r"data: expected .* found \[\[1\], \[2, 3\]\]"),
    (lambda t: t.client.array(["a"], np.float32), rl.InvalidArgument, r"data: .* converts to float32, found \['a'\]"),
    (lambda t: t.client.array([None]), rl.ParamTypeError, "without Python objects"),
    (lambda t: t.client.array([1], stream=1), rl.ParamTypeError, "stream: expected a Stream, found 1"),
    # streams and events
    (lambda t: t.client.stream(name=5), rl.ParamTypeError, "name: expected a str, found 5"),
    (lambda t: t.client.stream(priority=2**40), rl.OutOfRange, "priority: expected an integer from -2147483648"),
    (lambda t: t.client.stream(priority=1.5), rl.ParamTypeError, "priority: expected an integer"),
    (lambda t: t.client.stream(ring_slots="64"), rl.ParamTypeError, "ring_slots: expected an integer .* found '64'"),
    (
        lambda t: t.client.stream(on_restart=None),
        rl.ParamTypeError,
        "on_restart: expected 'stop' or 'rerun', found None",
    ),
    (lambda t: t.client.stream(on_restart="go"), rl.InvalidArgument, "on_restart: expected 'stop' or 'rerun'"),
    (lambda t: t.client.synchronize("a"), rl.ParamTypeError, "timeout: expected None or seconds, 0 or more, found 'a'"),
    (lambda t: t.stream.synchronize("a"), rl.ParamTypeError, "timeout: expected None or seconds"),
    (lambda t: t.stream.synchronize(-1), rl.InvalidArgument, "timeout: expected None or seconds, 0 or more, found -1"),
    (lambda t: t.stream.synchronize(10**400), rl.OutOfRange, "timeout: "),
    (lambda t: t.event.wait([]), rl.ParamTypeError, r"timeout: expected None or seconds, 0 or more, found \[\]"),
    (lambda t: t.stream.wait_event(5), rl.ParamTypeError, "event: expected an Event, found 5"),
    (lambda t: t.stream.resume(rerun="yes"), rl.ParamTypeError, "rerun: expected True or False, found 'yes'"),
    # buffers
    (lambda t: t.buffer.numpy(5), rl.ParamTypeError, "stream: expected a Stream, found 5"),
    (lambda t: t.buffer.numpy(timeout="a"), rl.ParamTypeError, "timeout: expected None or seconds"),
    (lambda t: t.buffer.numpy(t.stream, timeout="a"), rl.ParamTypeError, "timeout: expected None or seconds"),
    (lambda t: t.buffer.numpy(out=[1]), rl.ParamTypeError, r"out: expected a numpy array, found \[1\]"),
    (lambda t: t.buffer.copy_to(None), rl.ParamTypeError, "out: expected a numpy array, found None"),
    (lambda t: t.buffer.copy_from(None), rl.InvalidArgument, "expected"),
    (lambda t: t.buffer.copy_from(["a"]), rl.InvalidArgument, "source: expected data that numpy converts to float32"),
    (lambda t: t.buffer.copy_from(np.zeros((2, 3), np.float32), "s"), rl.ParamTypeError, "stream: expected a Stream"),
    (lambda t: t.counts.copy_from([1, 2, 300]), (rl.OutOfRange,), "source: "),
    (lambda t: t.buffer.fill(None), rl.ParamTypeError, "value: expected one that fits float32, found None"),
    (lambda t: t.buffer.fill("7"), rl.ParamTypeError, "value: expected one that fits float32, found '7'"),
    (lambda t: t.buffer.fill([1, 2]), rl.ParamTypeError, r"value: expected one element of float32, found \[1, 2\]"),
    (lambda t: t.buffer.fill(1j), rl.ParamTypeError, "value: expected one that fits float32, found 1j"),
    (lambda t: t.buffer.fill(1e300), rl.OutOfRange, r"value: expected one that fits float32, found 1e\+300"),
    (lambda t: t.buffer.fill(10**400), rl.OutOfRange, "value: "),
    (lambda t: t.counts.fill(1.0), rl.ParamTypeError, "value: expected one that fits uint8, found 1.0"),
    (lambda t: t.counts.fill(300), rl.OutOfRange, "value: expected an integer from 0 to 255, found 300"),
    (lambda t: t.counts.fill(np.int64(-1)), rl.OutOfRange, "value: expected an integer from 0 to 255, found -1"),
    (lambda t: t.counts.fill(2**70), rl.OutOfRange, "value: expected an integer from 0 to 255"),
    (lambda t: t.flags.fill(2), rl.OutOfRange, "value: expected an integer from 0 to 1, found 2"),
    (lambda t: t.buffer.fill(0, "s"), rl.ParamTypeError, "stream: expected a Stream, found 's'"),
    (lambda t: t.buffer["a"], rl.ParamTypeError, "a part of a buffer: expected an integer or a slice, found 'a'"),
    (lambda t: t.buffer[0, 1], rl.ParamTypeError, r"a part of a buffer: .* found \(0, 1\)"),
    (lambda t: t.buffer["a":], rl.ParamTypeError, "a part of a buffer: expected a slice of integers"),
    (lambda t: t.buffer[::0], rl.ParamTypeError, "a part of a buffer: expected a slice of integers whose step is 1"),
    (lambda t: t.buffer[2], IndexError, r"a part of a buffer: 2 \(int\) is no index of 2 elements"),
    (lambda t: np.asarray(t.buffer), rl.ParamTypeError, r"found a Buffer: buffer.numpy\(\) copies it to the host"),
    (lambda t: t.client.array([t.buffer]), rl.InvalidArgument, r"buffer.numpy\(\) copies it to the host"),
    # modules and kernels
    (lambda t: t.kernel(t.buffer, 2.0, 3), rl.ParamTypeError, r"expected kernel\[grid, block\]\(...\), found a call"),
    (
        lambda t: t.client.load(b"", name="n" * 5000),
        rl.InvalidArgument,
        "name: expected at most 4096 bytes, found 5000",
    ),
    (lambda t: t.client.compile("", name="n" * 5000), rl.InvalidArgument, "name: expected at most 4096 bytes"),
    (lambda t: t.client.stream(name="n" * 5000), rl.InvalidArgument, "name: expected at most 4096 bytes"),
    (lambda t: t.module[5], rl.ParamTypeError, "name of a kernel: expected a str, found 5"),
    (lambda t: t.module.kernel([]), rl.ParamTypeError, r"name of a kernel: expected a str, found \[\]"),
    (lambda t: t.module["\ud800"], rl.InvalidArgument, "name of a kernel: expected text that UTF-8 can encode"),
    (lambda t: t.module["a\0b"], rl.InvalidArgument, "name of a kernel: expected text without NUL characters"),
    (lambda t: t.kernel["a"], rl.ParamTypeError, "grid: expected an integer, found 'a'"),
    (lambda t: t.kernel[1, 2.5], rl.ParamTypeError, "block: expected an integer, found 2.5"),
    (lambda t: t.kernel.bind(None), rl.ParamTypeError, "grid: expected an integer, found None"),
    (lambda t: t.kernel.bind(1, 1, stream=5), rl.ParamTypeError, "stream: expected a Stream, found 5"),
    (lambda t: t.kernel.bind(1, 1, shared=-1), rl.OutOfRange, "shared: expected an integer from 0"),
    (lambda t: t.kernel.bind(1, 1, shared="a"), rl.ParamTypeError, "shared: expected an integer, found 'a'"),
    (lambda t: t.kernel[LONG], rl.OutOfRange, "grid: .* found an integer of 16610 bits"),
    (
        lambda t: t.kernel[1](t.buffer, 1.0, LONG),
        rl.OutOfRange,
        "kernel 'scale', parameter .*: .* found an integer of 16610 bits",
    ),
    # what is made by others
    (lambda t: rl.Client(), rl.ParamTypeError, r"made by ringlaunch.connect\(\), not called"),
    (lambda t: rl.Client(5), rl.ParamTypeError, "not called"),
    (lambda t: rl.Module(), rl.ParamTypeError, r"made by client.load\(\) or client.compile\(\), not called"),
    (lambda t: rl.Module(1, 2, "a"), rl.ParamTypeError, "not called"),
    (lambda t: rl.Event(), rl.ParamTypeError, r"made by stream.record\(\), not called"),
    (lambda t: rl.Event(t.stream, 5), rl.ParamTypeError, "not called"),
    (lambda t: rl.Stream(), rl.ParamTypeError, "not called"),
    (lambda t: rl.Buffer(3), rl.ParamTypeError, "not called"),
    (lambda t: rl.Kernel("scale"), rl.ParamTypeError, "not called"),
    (lambda t: rl.Launcher(), rl.ParamTypeError, "not called"),
]


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_refused_is_named(things, call, kind, text):
    with pytest.raises(kind, match=text):
        call(things)
    things.stream.synchronize()  # the stream goes on


ODD = [
    pytest.param(object(), id="an object"),
    b"x",
    "x",
    2**70,
    pytest.param(LONG, id="10**5000"),
    pytest.param([LONG], id="[10**5000]"),
    -1,
    1.5,
    float("nan"),
    [],
    [None],
    {},
    (1, "a"),
    np.zeros(2),
    None,
    "\0",
    type,
]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_whatever_is_given_the_exception_is_the_packages(things, odd, host):
    """Every parameter of every public method; a value that is taken is fine, too."""
    bound = [
        (rl.connect, {"start": False, "socket": host.socket}),
        *(
            (getattr(things.client, name), {})
            for name in ("load", "compile", "empty", "zeros", "array", "pinned_empty")
        ),
        *((getattr(things.client, name), {}) for name in ("stream", "synchronize")),
        *((getattr(things.stream, name), {}) for name in ("wait_event", "synchronize", "resume")),
        *((getattr(things.buffer, name), {}) for name in ("numpy", "copy_to", "copy_from", "fill", "__getitem__")),
        (things.event.wait, {}),
        (things.module.kernel, {}),
        (things.kernel.bind, {"grid": 1}),
    ]
    usual = {"image": b"", "source": "", "shape": 2, "data": [1], "value": 1, "name": "n", "out": None, "key": 0}
    tried, said = 0, []
    for function, given in bound:
        parameters = inspect.signature(function).parameters
        needed = {name: usual.get(name) for name, p in parameters.items() if p.default is p.empty}
        for name in parameters:
            tried += 1
            try:
                made = function(**{**needed, **given, name: odd})
            except (rl.Error, OSError, IndexError) as error:
                said.append(str(error))
            else:
                if isinstance(made, rl.Client):
                    made.close()
    assert tried > 35
    assert not [text for text in said if "incompatible function arguments" in text]
    things.stream.synchronize()


def test_a_fill_of_what_is_no_number_is_as_numpy_converts_it(client):
    pairs = client.empty(3, [("a", "i4"), ("b", "f4")])
    pairs.fill((1, 2.0))
    assert pairs.numpy().tolist() == [(1, 2.0)] * 3
    days = client.empty(2, "M8[D]")
    days.fill("2020-01-02")
    assert days.numpy().tolist() == np.array(["2020-01-02"] * 2, "M8[D]").tolist()


def test_a_fill_may_widen(things):
    things.buffer.fill(True)
    assert things.buffer.numpy().tolist() == [[1, 1, 1]] * 2
    things.buffer.fill(np.float64(0.5))
    assert things.buffer.numpy().tolist() == [[0.5] * 3] * 2
    things.buffer.fill(ROUNDED)  # rounded, as a kernel's parameter is
    assert things.buffer.numpy()[0, 0] == np.float32(ROUNDED)
    things.buffer.fill(float("inf"))
    assert np.isinf(things.buffer.numpy()).all()
    things.counts.fill(np.uint64(255))
    assert things.counts.numpy().tolist() == [255] * 3
    things.flags.fill(np.True_)
    assert things.flags.numpy().all()


def test_seconds_may_be_any_number(things):
    for seconds in (1, 1.5, np.float32(2), float("inf"), 10**300, None):
        things.stream.synchronize(seconds)
        things.event.wait(seconds)


def test_connecting_tells_of_the_options_of_python(tmp_path):
    with pytest.raises(rl.DaemonLost) as caught:
        rl.connect(tmp_path / "none.sock", start=False)
    assert "start_private" not in str(caught.value)
    assert "ringlaunchd serve" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
@pytest.mark.parametrize("daemon_uid", [None, 65533, STRANGER, np.int64(STRANGER)])
def test_a_daemon_of_another_user_is_greeted_only_where_it_is_named(tmp_path, monkeypatch, daemon_uid):
    monkeypatch.delenv("RINGLAUNCH_DAEMON_UID", raising=False)
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.seteuid(STRANGER)  # a listener's credentials are those at listen()
        try:
            listener.listen(8)
        finally:
            os.seteuid(0)
        listener.settimeout(WATCHDOG_S)
        with pytest.raises(rl.Error) as caught:
            rl.connect(path, start=False, timeout=0.2, daemon_uid=daemon_uid)
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(WATCHDOG_S)
            greeting = peer.recv(65536)
    if daemon_uid == STRANGER:
        assert isinstance(caught.value, rl.Timeout)
        assert greeting
    else:
        assert isinstance(caught.value, rl.PermissionDenied)
        assert f"run by user {STRANGER}" in str(caught.value)
        assert greeting == b"", "it was told something"


@pytest.mark.parametrize("other", [None, 5, "scal", b"scale", np.array([1, 2])])
def test_only_the_names_of_its_kernels_are_in_a_module(things, other):
    assert "scale" in things.module
    assert other not in things.module
