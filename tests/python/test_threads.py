"""Several threads of one program on one stream, one client, one kernel."""

import gc
import sys
import threading
import time

import numpy as np
import pytest
from support import in_threads

import ringlaunch as rl

THREADS = 4


@pytest.fixture(autouse=True)
def _eager_switching():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("ring_slots", [64, 4096])
def test_each_threads_launches_stand_in_its_order(client, kernels, ring_slots):
    each = 2000
    values = client.zeros(1 + THREADS * each, np.int32)
    stream = client.stream(ring_slots=ring_slots)
    append = kernels["append"]

    def launches(thread):
        for i in range(each):
            append[1, 1](values, thread * each + i, stream=stream)

    in_threads(*(lambda thread=thread: launches(thread) for thread in range(THREADS)))
    found = values.numpy()
    assert found[0] == THREADS * each
    for thread in range(THREADS):
        mine = found[1:][found[1:] // each == thread]
        assert (mine == np.arange(each) + thread * each).all()


def test_arguments_that_run_python_switch_threads_safely(client, kernels):
    """An argument whose __index__ lets go of the lock while another thread launches."""
    each = 300
    values = client.zeros(1 + THREADS * each, np.int32)
    stream = client.stream(ring_slots=64)

    class Slow:
        def __init__(self, value):
            self.value = value

        def __index__(self):
            threading.Event().wait(0.0001)
            gc.collect(0)
            return self.value

    def launches(thread):
        launch = kernels["append"].bind(1, 1, stream)
        for i in range(each):
            launch(values, Slow(thread * each + i))

    in_threads(*(lambda thread=thread: launches(thread) for thread in range(THREADS)))
    found = values.numpy()
    assert sorted(found[1:]) == list(range(THREADS * each))


def test_copies_and_launches_share_a_stream(client, kernels):
    stream = client.stream(ring_slots=256)
    size = 300_000
    counter = client.zeros(1, np.int32)
    rounds = 30

    def copies(value):
        def work():
            x = client.empty(size, np.int32)
            for i in range(rounds):
                x.copy_from(np.full(size, value * 1000 + i, np.int32), stream)
                assert (x.numpy(stream) == value * 1000 + i).all()

        return work

    def launches():
        for _ in range(2000):
            kernels["increment"][1, 1](counter, stream=stream)

    in_threads(copies(1), copies(2), launches, launches)
    assert counter.numpy()[0] == 4000


def test_waits_of_several_threads(client, kernels):
    stream = client.stream()
    events = []
    for _ in range(50):
        kernels["nap"][1, 1](2, stream=stream)
        events.append(stream.record())

    def waits():
        for event in events:
            event.wait(60)

    in_threads(waits, waits, stream.synchronize, client.synchronize)
    assert all(event.done() for event in events)


def test_clients_buffers_and_streams_from_many_threads(client, kernels):
    def work():
        for i in range(20):
            with client.stream() as stream:
                x = client.array(np.full(100, i, np.int32), stream=stream)
                kernels["increment"][1, 1](x, stream=stream)
                assert x.numpy(stream)[0] == i + 1

    in_threads(*[work] * THREADS)


def test_closing_a_stream_under_another_thread(client, kernels):
    """The other thread is told; nothing crashes."""
    for _ in range(20):
        stream = client.stream(ring_slots=64)
        x = client.zeros(1, np.int32)
        launch = kernels["increment"].bind(1, 1, stream)
        started = threading.Event()

        def launches(launch=launch, x=x, started=started):
            while True:
                launch(x)
                started.set()

        def launches_until_closed(launches=launches):
            with pytest.raises(rl.Closed):
                launches()

        def close(stream=stream, started=started):
            started.wait(60)
            stream.close()

        in_threads(launches_until_closed, close)


def test_closing_a_stream_whose_full_ring_another_thread_waits_for(client, kernels):
    """The other thread is told at once, however long the stream's work takes."""
    stream = client.stream(ring_slots=64)
    napped = kernels["nap"].bind(1, 1, stream)
    napped(3000)
    launched = [0]

    def launches():
        while True:
            napped(0)
            launched[0] += 1

    def launches_until_closed():
        with pytest.raises(rl.Closed, match="stream is closed"):
            launches()
        assert not done.done()  # nothing has left the ring meanwhile

    def close():
        seen = -1
        while launched[0] != seen:  # until it is full
            seen = launched[0]
            time.sleep(0.1)
        stream.close()

    done = stream.record()
    in_threads(launches_until_closed, close)
