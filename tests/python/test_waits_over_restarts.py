"""A stream that waits for an event of another client's stream, while the executor of both ends."""

import os
import signal
import time
from contextlib import ExitStack

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Gate

import ringlaunch as rl


def until(holds):
    end = time.monotonic() + WATCHDOG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def kill_the_executor(daemon):
    children = f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children"
    with open(children) as file:
        os.kill(int(file.read().split()[0]), signal.SIGKILL)


@pytest.mark.parametrize("ending", ["SIGKILL", "the crash of a third client"])
@pytest.mark.parametrize("waits", ["before", "after"])
@pytest.mark.parametrize("awaited_first", [True, False])
def test_a_wait_for_another_clients_event_outlives_the_executor(own_host, awaited_first, waits, ending):
    with ExitStack() as clients:
        first, second, third = (clients.enter_context(own_host.connect()) for _ in range(3))
        theirs, ours = (first, second) if awaited_first else (second, first)
        their_kernels, our_kernels = (client.compile(KERNELS, name="kernels.cu") for client in (theirs, ours))
        crash = third.compile(KERNELS, name="kernels.cu")["crash"]
        awaited, waiting = theirs.stream(on_restart="rerun"), ours.stream()
        their_word, our_word, nothing = (client.zeros(1, np.int32) for client in (theirs, ours, third))
        waiting.wait_event(awaited.record())
        for client in (theirs, ours, third):
            client.synchronize(WATCHDOG_S)

        def wait():
            waiting.wait_event(event)
            our_word.copy_from(their_word, stream=waiting)
            our_kernels["increment"][1, 1](our_word, stream=waiting)

        gate = clients.enter_context(Gate(theirs, their_kernels))
        gate.hold(awaited)
        held = awaited.status.published
        their_kernels["increment"][1, 1](their_word, stream=awaited)
        event = awaited.record()
        until(lambda: awaited.status.issued >= held)
        epoch = awaited.status.epoch
        if waits == "before":
            wait()
            time.sleep(0.02)  # mostly until it is read
        if ending == "SIGKILL":
            kill_the_executor(own_host)
        else:
            crash[1, 1](nothing)
            with pytest.raises(rl.KernelFault):
                third.synchronize(WATCHDOG_S)
            third.default_stream.resume()
        if waits == "after":
            wait()
        until(lambda: awaited.status.epoch > epoch)
        gate.open()
        waiting.synchronize(WATCHDOG_S)
        assert our_word.numpy(timeout=WATCHDOG_S).tolist() == [2], "it went on too early"
        assert their_word.numpy(timeout=WATCHDOG_S).tolist() == [1]


def test_who_only_asks_hears_of_what_completed_after_a_restart(own_host):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream, word = client.stream(on_restart="rerun"), client.zeros(1, np.int32)
        stream.synchronize(WATCHDOG_S)
        client.synchronize(WATCHDOG_S)
        kill_the_executor(own_host)
        kernels["increment"][1, 1](word, stream=stream)
        event = stream.record()
        until(event.done)
        assert word.numpy(timeout=WATCHDOG_S)[0] == 1
