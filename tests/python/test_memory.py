"""Buffers: to the device and back, parts, fills, lifetime."""

import gc
import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import WATCHDOG_S, Daemon, Gate

import ringlaunch as rl

SHARED_CLIENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
DTYPES = [np.bool_, np.int8, np.uint16, np.int32, np.uint64, np.float16, np.float32, np.float64, np.complex128]


@SHARED_CLIENT
@given(data=hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_an_array_comes_back(client, data):
    buffer = client.array(data)
    back = buffer.numpy()
    assert back.dtype == data.dtype
    assert back.shape == data.shape
    assert back.tobytes() == data.tobytes()
    assert (buffer.shape, buffer.dtype, buffer.size, buffer.nbytes) == (data.shape, data.dtype, data.size, data.nbytes)


@pytest.mark.parametrize("size", [1, 4095, 2**20, 10_000_001])
def test_arrays_of_any_size_come_back(client, size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert (client.array(data).numpy() == data).all()


def test_strided_arrays_are_copied_in_their_order(client):
    data = np.arange(24).reshape(4, 6)
    assert (client.array(data.T[::2]).numpy() == data.T[::2]).all()
    assert (client.array(np.asfortranarray(data)).numpy() == data).all()


def test_the_source_may_be_changed_at_once(client):
    data = np.ones(100_000, np.float32)
    buffer = client.array(data, stream=client.default_stream)
    data[:] = 2
    assert (buffer.numpy() == 1).all()


def test_lists_and_numbers_become_arrays(client):
    assert client.array([1, 2, 3]).dtype == np.asarray([1, 2, 3]).dtype
    assert client.array(5.0, np.float32).numpy() == np.float32(5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1])
def test_fill(client, dtype, value):
    buffer = client.empty((3, 7), dtype)
    buffer.fill(value)
    assert (buffer.numpy() == np.full((3, 7), value, dtype)).all()


def test_zeros_of_used_memory(client):
    for _ in range(3):
        used = client.array(np.full(1000, 7, np.float64))
        del used
        client.synchronize()
        assert (client.zeros(1000, np.float64).numpy() == 0).all()


def test_copy_from(client):
    x = client.zeros((2, 3), np.int32)
    x.copy_from(np.arange(6, dtype=np.int32).reshape(2, 3))
    y = client.empty((2, 3), np.int32)
    y.copy_from(x)
    assert y.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    y.copy_from([[1, 1, 1], [2, 2, 2]])
    assert y.numpy().tolist() == [[1, 1, 1], [2, 2, 2]]
    with pytest.raises(rl.InvalidArgument, match="expected the same, found float64"):
        x.copy_from(np.zeros((2, 3)))
    with pytest.raises(rl.InvalidArgument, match=r"found int32 \(3,\)"):
        x.copy_from(np.zeros(3, np.int32))


def test_parts_are_the_same_memory(client, kernels):
    x = client.array(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert (x[1].numpy() == [4, 5, 6, 7]).all()
    assert (x[-1:].numpy() == [[8, 9, 10, 11]]).all()
    assert len(x[1:3]) == 2
    assert x[1].address == x.address + 16
    kernels["scale"][1, 32](x[1], 10.0, 4)
    assert (x.numpy()[:, 0] == [0, 40, 8]).all()
    assert x[1:3][1:][0][2].numpy() == 10
    with pytest.raises(IndexError):
        x[3]
    with pytest.raises(rl.InvalidArgument, match="step"):
        x[::2]
    with pytest.raises(TypeError):
        len(client.empty(()))


def test_a_part_keeps_the_memory(client):
    x = client.array(np.arange(100, dtype=np.int32))
    part = x[50:]
    x.free()
    del x
    gc.collect()
    others = [client.array(np.zeros(100, np.int32)) for _ in range(20)]
    assert (part.numpy() == np.arange(50, 100)).all()
    del others


def test_freeing(client):
    x = client.zeros(3)
    assert not x.freed
    x.free()
    x.free()
    assert x.freed
    assert x.address == 0
    assert repr(x) == "<ringlaunch.Buffer float32 (3,), freed>"
    for use in (x.numpy, lambda: x.fill(1), lambda: x.copy_from([1, 2, 3]), lambda: x[0]):
        with pytest.raises(rl.Closed, match="freed"):
            use()


def test_a_buffer_collected_with_work_in_flight_is_safe(client, kernels):
    """Its memory is not given to another buffer before the work has passed."""
    with client.stream() as busy:
        out = client.zeros(3000, np.int32)
        for round_number in range(20):
            kernels["nap"][1, 1](5, stream=busy)
            x = client.empty(1000, np.int32)
            x.fill(round_number, busy)
            kernels["increment"][1, 1](x, stream=busy)
            address = x.address
            del x  # the nap still runs
            gc.collect()
            y = client.array(np.full(1000, -1, np.int32))
            busy.synchronize()
            assert (y.numpy() == -1).all(), (round_number, address, y.address)
        del out


def test_many_buffers_come_and_go(client):
    addresses = set()
    for i in range(500):
        addresses.add(client.array(np.full(1000, i, np.int32)).address)
    assert len(addresses) < 500  # memory is used again


@pytest.mark.parametrize("shape", [-1, (2, -3)])
def test_a_negative_size_is_refused(client, shape):
    with pytest.raises(rl.InvalidArgument, match="0 or more"):
        client.empty(shape)


@pytest.mark.parametrize("shape", [1.5, "x", (1, None)])
def test_a_shape_of_no_integers_is_refused(client, shape):
    with pytest.raises((TypeError, ValueError)):
        client.empty(shape)


@pytest.mark.parametrize("dtype", [object, "U0"])
def test_a_dtype_without_bytes_is_refused(client, dtype):
    with pytest.raises(rl.ParamTypeError, match="fixed size"):
        client.empty(3, dtype)


def test_more_memory_than_there_is(client):
    with pytest.raises((rl.OutOfMemory, rl.LimitReached)):
        client.empty(2**50, np.uint8)
    client.zeros(3).numpy()  # the session goes on


def test_a_daemon_that_may_have_no_large_files_refuses_memory_and_lives():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        daemon = Daemon("host")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    try:
        with daemon.connect() as client:
            epoch = client.default_stream.status.epoch
            with pytest.raises(rl.OutOfMemory, match="ulimit -f"):
                client.empty(10)
            client.default_stream.record().wait(WATCHDOG_S)
            assert client.default_stream.status.epoch == epoch
    finally:
        daemon.stop()


def test_without_a_stream_copies_wait_for_all_streams(client, kernels):
    with client.stream() as stream:
        x = client.zeros(1, np.int32)
        kernels["nap"][1, 1](50, stream=stream)
        kernels["increment"][1, 1](x, stream=stream)
        assert x.numpy()[0] == 1  # read on the default stream


def test_a_read_that_takes_too_long(client, kernels):
    x = client.zeros(1, np.int32)
    with Gate(client, kernels) as gate:
        gate.hold(client.default_stream)
        with pytest.raises(rl.Timeout):
            x.numpy(timeout=0.01)
        with pytest.raises(rl.Timeout):
            x.numpy(client.default_stream, timeout=0.01)
    assert x.numpy()[0] == 0


MANY_SESSIONS = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
others = [rl.connect(sys.argv[1], start=False) for _ in range(200)]
streams = [other.stream() for other in others for _ in range(4)]
print(len(streams))
"""


def test_a_daemon_lets_go_of_what_many_sessions_took(own_host, run_script):
    def resident_mib() -> float:
        pids = [own_host.process.pid]
        pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
        assert len(pids) == 2  # the supervisor and its executor
        said = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return sum(int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) for text in said) / 1024

    done = run_script(MANY_SESSIONS, daemon=own_host)
    assert done.stdout.strip() == "800", done.stderr
    deadline = time.monotonic() + WATCHDOG_S
    while resident_mib() > 40 and time.monotonic() < deadline:  # its sessions are still being taken apart
        time.sleep(0.05)
    assert resident_mib() <= 40
