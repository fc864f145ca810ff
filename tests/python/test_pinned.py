"""Pinned arrays: what the device reads and writes itself, and how long their memory lives."""

import gc
import json
import os
import subprocess
import time

import numpy as np
import pytest
from support import WATCHDOG_S, Daemon, Gate, daemon_program

import ringlaunch as rl

NAP_MS = 300


def staging_bytes(daemon) -> int:
    """Of all sessions of a daemon."""
    said = subprocess.run(
        [daemon_program(), "sessions", "--json", "--socket", daemon.socket], capture_output=True, check=True, timeout=60
    )
    return sum(session["staging_bytes"] for session in json.loads(said.stdout)["sessions"])


@pytest.mark.parametrize("shape", [(), 7, (0,), (3, 0), (33, 1000)])
@pytest.mark.parametrize("dtype", [np.bool_, np.int16, np.float64, np.complex128])
def test_an_array_comes_back(client, shape, dtype):
    source, out = client.pinned_empty(shape, dtype), client.pinned_empty(shape, dtype)
    assert (source.dtype, source.flags.c_contiguous, source.flags.writeable) == (dtype, True, True)
    source[...] = np.random.default_rng(1).integers(0, 2, source.shape)
    out[...] = 0
    buffer = client.array(source)
    assert buffer.numpy(out=out) is out
    assert (out == source).all()


def test_views_are_copied_from_where_they_stand(client):
    source = client.pinned_empty((4, 6), np.int32)
    source[...] = np.arange(24).reshape(4, 6)
    out = client.pinned_empty(8, np.int32)
    out[...] = -1
    buffer = client.array(source[1:3])
    assert (buffer.numpy() == source[1:3]).all()
    buffer[0].numpy(out=out[1:7])
    assert out.tolist() == [-1, 6, 7, 8, 9, 10, 11, -1]
    assert (client.array(source.T).numpy() == source.T).all()  # not contiguous: copied as any array
    assert (client.array(source[:, ::2]).numpy() == source[:, ::2]).all()


def test_the_device_reads_and_writes_the_array_itself(client, kernels):
    """On a stream, what stands in the array when the stream comes to the copy is what counts."""
    source, out = client.pinned_empty(1000, np.int32), client.pinned_empty(1000, np.int32)
    buffer = client.empty(1000, np.int32)
    stream = client.stream()
    for _ in range(20):  # the machine may be slow to come to the second write
        source[:] = 1
        kernels["nap"][1, 1](NAP_MS, stream=stream)
        buffer.copy_from(source, stream)
        buffer.copy_to(out, stream)
        copied = stream.record()
        source[:] = 2
        out[:] = 0
        in_time = not copied.done()
        copied.wait()
        if in_time:
            break
    else:
        pytest.fail("never in time")
    assert (buffer.numpy() == 2).all()
    assert (out == 2).all()


def test_without_a_stream_the_array_is_free_on_return(client, kernels):
    source, out = client.pinned_empty(1000, np.int32), client.pinned_empty(1000, np.int32)
    source[:] = 1
    kernels["nap"][1, 1](50)
    buffer = client.array(source)
    source[:] = 2
    buffer.copy_to(out)
    assert (out == 1).all()
    other = np.zeros(1000, np.int32)
    kernels["nap"][1, 1](50)
    buffer.copy_to(other, client.default_stream)  # not pinned: filled on return
    assert (other == 1).all()


def test_copies_outlive_their_array(client, kernels):
    stream = client.stream()
    buffers = []
    for i in range(10):
        source = client.pinned_empty(100_000, np.int32)
        source[:] = i
        kernels["nap"][1, 1](5, stream=stream)
        buffers.append(client.empty(100_000, np.int32))
        buffers[-1].copy_from(source, stream)
        del source
        gc.collect()
    stream.synchronize()
    for i, buffer in enumerate(buffers):
        assert (buffer.numpy() == i).all()


def test_the_memory_goes_with_the_last_view(own_host):
    with own_host.connect() as client:
        before = staging_bytes(own_host)
        whole = client.pinned_empty((4, 1 << 18), np.float32)
        part = whole[2][100:200].view(np.int32)
        assert staging_bytes(own_host) == before + (4 << 20)
        del whole
        gc.collect()
        part[:] = 7
        assert (client.array(part).numpy(out=part) == 7).all()
        assert staging_bytes(own_host) == before + (4 << 20)
        del part
        gc.collect()
        end = time.monotonic() + WATCHDOG_S
        while staging_bytes(own_host) != before:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_dropped_memory_makes_room_for_new():
    daemon = Daemon("host", "--max-staging", str(5 << 20))
    try:
        with daemon.connect() as client:
            nap = client.compile(
                '#include <ringlaunch/kernel.h>\n#include <time.h>\nextern "C" __global__ void nap(int ms) '
                "{ timespec t{0, ms * 1000000L}; nanosleep(&t, nullptr); }\nRINGLAUNCH_EXPORT(nap)"
            )["nap"]
            x = client.zeros(1 << 20, np.float32)
            for i in range(30):
                array = client.pinned_empty(1 << 20, np.float32)
                array[:] = i
                nap[1, 1](2)
                x.copy_from(array, client.default_stream)
                del array  # 4 of 5 MiB, with the copy in flight
            assert (x.numpy(out=client.pinned_empty(1 << 20, np.float32)) == 29).all()
            kept = client.pinned_empty(4 << 20, np.uint8)
            with pytest.raises(rl.LimitReached, match="--max-staging"):
                client.pinned_empty(2 << 20, np.uint8)
            with pytest.raises(rl.LimitReached, match="--max-staging"):
                client.pinned_empty(1 << 40, np.uint8)
            del kept
    finally:
        daemon.stop()


def test_an_array_outlives_its_client(host):
    with host.connect() as client:
        array = client.pinned_empty(1000, np.int32)
        array[:] = 5
    assert (array == 5).all()
    with pytest.raises(rl.Closed):
        client.pinned_empty(3)
    with host.connect() as other:  # an array like any other there
        assert (other.array(array).numpy() == 5).all()


def test_a_forked_child_writes_into_the_parents_array(client):
    array = client.pinned_empty(1000, np.int32)
    array[:] = 1
    child = os.fork()
    if child == 0:
        array[:] = 2
        del array
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (client.array(array).numpy() == 2).all()


def test_an_array_serves_after_a_restart(own_host):
    with own_host.connect() as client:
        array = client.pinned_empty(100_000, np.int32)
        array[:] = np.arange(100_000)
        crash = client.compile(
            '#include <ringlaunch/kernel.h>\nextern "C" __global__ void crash(int n) '
            "{ *reinterpret_cast<volatile int*>(8) = n; }\nRINGLAUNCH_EXPORT(crash)"
        )["crash"]
        doomed = client.stream()
        crash[1, 1](1, stream=doomed)
        with pytest.raises(rl.KernelFault):
            doomed.synchronize()
        doomed.close()
        x = client.array(array)
        array[:] = 0
        assert (x.numpy(out=array) == np.arange(100_000)).all()


def test_kernels_read_and_write_the_array_itself(client, kernels):
    words, factor = client.pinned_empty(1000, np.float32), client.pinned_empty((2, 3), np.float32)
    assert client.device_address(words) != client.device_address(factor)
    words[:] = np.arange(1000)
    kernels["scale"][4, 256](words, 2.0, 1000)
    kernels["scale"][1, 256](words[900:], 3.0, 100)  # any contiguous view
    client.synchronize()
    expected = np.arange(1000, dtype=np.float32) * 2
    expected[900:] *= 3
    assert (words == expected).all()
    bound = kernels["scale"][4, 256]
    for _ in range(2000):  # through a full ring, too
        bound(words, -1.0, 1000)
    client.synchronize()
    assert (words == expected).all()
    assert client.device_address(words[900:]) == client.device_address(words) + 3600


def test_launches_outlive_their_array(client, kernels):
    kept = client.zeros(1, np.float32)
    for _ in range(10):
        words = client.pinned_empty(1000, np.float32)
        kernels["nap"][1, 1](5)
        kernels["scale"][4, 256](words, 2.0, 1000)
        del words
        gc.collect()
    assert kept.numpy()[0] == 0


def test_kernels_reach_the_array_after_a_restart(own_host):
    with own_host.connect() as client:
        module = client.compile(
            '#include <ringlaunch/kernel.h>\nextern "C" __global__ void crash(int n) '
            "{ *reinterpret_cast<volatile int*>(8) = n; }\nRINGLAUNCH_EXPORT(crash)\n"
            'extern "C" __global__ void add(int* x, int n) { *x += n; }\nRINGLAUNCH_EXPORT(add)'
        )
        array = client.pinned_empty(100_000, np.int32)
        array[:] = 0
        address = client.device_address(array)
        for i in range(3):
            doomed = client.stream()
            module["crash"][1, 1](1, stream=doomed)
            with pytest.raises(rl.KernelFault):
                doomed.synchronize()
            doomed.close()
            module["add"][1, 1](array[-1:], 5)
            client.synchronize()
            assert array[-1] == 5 * (i + 1)
        assert client.device_address(array) == address


def test_arrays_that_a_kernel_cannot_be_given_are_refused(host, client, kernels):
    array = client.pinned_empty((4, 4), np.float32)
    scale = kernels["scale"][1, 16]
    for wrong in (array.T[1:], array[:, ::2], np.zeros(4, np.float32), b"bytes", 5):
        with pytest.raises(rl.ParamTypeError, match=r"parameter 0.*pinned_empty of this kernel's client"):
            scale(wrong, 2.0, 1)
    with host.connect() as other:
        theirs = other.pinned_empty(4)
        with pytest.raises(rl.ParamTypeError, match="pinned_empty of this kernel's client"):
            scale(theirs, 2.0, 1)
        with pytest.raises(rl.InvalidArgument, match="this client's pinned_empty"):
            client.device_address(theirs)
    with pytest.raises(rl.InvalidArgument, match="contiguous"):
        client.device_address(array.T)
    with pytest.raises(rl.ParamTypeError, match="found list"):
        client.device_address([1])


def test_what_cannot_be_copied_to_is_refused(client):
    x = client.zeros((2, 3), np.int32)
    with pytest.raises(rl.ParamTypeError, match="numpy array"):
        x.numpy(out=[1, 2])
    with pytest.raises(rl.InvalidArgument, match="expected the same, found float32"):
        x.numpy(out=np.zeros((2, 3), np.float32))
    with pytest.raises(rl.InvalidArgument, match=r"found int32 \(3, 2\)"):
        x.copy_to(np.zeros((3, 2), np.int32))
    with pytest.raises(rl.InvalidArgument, match="with strides"):
        x.copy_to(np.zeros((3, 2), np.int32).T)
    fixed = np.zeros((2, 3), np.int32)
    fixed.flags.writeable = False
    with pytest.raises(rl.InvalidArgument, match="read-only"):
        x.numpy(out=fixed)
    x.free()
    with pytest.raises(rl.Closed, match="freed"):
        x.copy_to(np.zeros((2, 3), np.int32))


def test_reading_into_pinned_memory_can_take_too_long(client, kernels):
    x, out = client.zeros(3), client.pinned_empty(3)
    with Gate(client, kernels) as gate:
        gate.hold(client.default_stream)
        with pytest.raises(rl.Timeout):
            x.numpy(client.default_stream, timeout=0.01, out=out)
    client.synchronize()
