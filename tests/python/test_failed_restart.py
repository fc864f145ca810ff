"""An executor that died and cannot be replaced for a while: nobody loses memory, and who is let go of learns why."""

import os
import resource
import signal
import time

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Daemon

import ringlaunch as rl


def limit_addresses(daemon, most):
    """Of the daemon and of what it starts: with 8 GiB of addresses no executor can reserve what it needs."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (most, hard))


def kill_the_executor(daemon):
    children = f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children"
    with open(children) as file:
        os.kill(int(file.read().split()[0]), signal.SIGKILL)


def until(holds):
    end = time.monotonic() + WATCHDOG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_restart_that_fails_for_a_while_costs_nobody_a_byte(own_host):
    with own_host.connect() as client:
        data = np.arange(100_000)
        kept, word = client.array(data), client.zeros(1, np.int32)
        increment = client.compile(KERNELS, name="kernels.cu")["increment"]
        client.synchronize(WATCHDOG_S)
        limit_addresses(own_host, 8 << 30)
        kill_the_executor(own_host)
        until(lambda: own_host.log().count("its sessions wait and keep what they have") >= 3)
        increment[1, 1](word)
        with pytest.raises(rl.Timeout):
            client.synchronize(0.05)
        limit_addresses(own_host, resource.RLIM_INFINITY)
        assert np.array_equal(kept.numpy(timeout=WATCHDOG_S), data)
        assert word.numpy(timeout=WATCHDOG_S)[0] == 1


def test_what_one_session_cannot_have_costs_the_others_nothing():
    def allow(stack):
        resource.prlimit(daemon.process.pid, resource.RLIMIT_STACK, (stack, 8 << 20))

    daemon = Daemon("host", "--max-stack", "8M")
    try:
        allow(8 << 20)
        kill_the_executor(daemon)  # the one of before
        with daemon.connect() as client, daemon.connect() as other:
            deep, word = client.compile(KERNELS, name="deep.cu", stack=4 << 20), client.zeros(1, np.int32)
            deep["increment"][1, 1](word)
            assert word.numpy(timeout=WATCHDOG_S)[0] == 1
            kept = other.array(np.arange(1000))
            other.synchronize(WATCHDOG_S)
            allow(2 << 20)
            kill_the_executor(daemon)
            assert np.array_equal(kept.numpy(timeout=WATCHDOG_S), np.arange(1000))
            with daemon.connect() as late:
                assert not late.zeros(10).numpy(timeout=WATCHDOG_S).any()
            # Whoever only asks is told, too.
            assert "module deep.cu could not be loaded again" in client.warning
            assert "one of 4194304 cannot be had" in client.warning
            assert other.warning == ""
            deep["increment"][1, 1](word)
            with pytest.raises(rl.Timeout):
                client.synchronize(0.05)
            allow(8 << 20)
            assert word.numpy(timeout=WATCHDOG_S)[0] == 2
    finally:
        daemon.stop()


def test_a_restart_that_fails_for_too_long_is_given_up_and_says_so():
    daemon = Daemon("host", "--restart-patience", "0.2")
    try:
        client = daemon.connect()
        kept = client.array(np.arange(10))
        client.synchronize(WATCHDOG_S)
        limit_addresses(daemon, 8 << 30)
        kill_the_executor(daemon)
        with pytest.raises(rl.DaemonLost) as caught:
            kept.numpy(timeout=WATCHDOG_S)
        text = str(caught.value)
        with pytest.raises(rl.DaemonLost) as waiting:
            client.synchronize(WATCHDOG_S)
        assert str(waiting.value).startswith("synchronizing: ")
        assert "hung up: the executor of user" in str(waiting.value)
        assert "hung up: the executor of user" in text
        assert "could not be started again, in" in text
        assert "cannot reserve the address range" in text
        assert "--restart-patience" in text
        assert "is gone" not in text
        limit_addresses(daemon, resource.RLIM_INFINITY)
        with daemon.connect() as other:
            assert list(other.array(np.arange(3)).numpy()) == [0, 1, 2]
    finally:
        daemon.stop()
