"""Kernels that do not end: the time a client or the daemon gives them, and who is blamed."""

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Daemon

import ringlaunch as rl

ENDLESS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void endless(const volatile int* until) {
    while (*until == 0) {
    }
}
RINGLAUNCH_EXPORT(endless)
"""


def connect(daemon, kernel_timeout=None):
    return rl.connect(daemon.socket, start=False, kernel_timeout=kernel_timeout)


def test_an_endless_kernel_is_ended_and_named_and_nobody_else_stops(own_host):
    with connect(own_host) as peer, connect(own_host, kernel_timeout=0.3) as client:
        kept = peer.array(np.arange(1000, dtype=np.int32))
        increment = peer.compile(KERNELS, name="kernels.cu")["increment"]
        peer.synchronize()
        endless = client.compile(ENDLESS, name="endless.cu")["endless"]
        never = client.zeros(1, np.int32)
        client.synchronize()
        stream = client.stream(name="slow")

        def work():
            for _ in range(4):
                endless[1, 1](never, stream=stream)
            stream.record()
            stream.synchronize(timeout=WATCHDOG_S)

        with pytest.raises(rl.KernelFault, match=r"did not complete within 300 ms \(kernel timeout\)") as caught:
            work()
        assert "kernel endless, record at position 0 of stream" in str(caught.value)
        assert (stream.status.error_kernel, stream.status.error_position) == ("endless", 0)
        increment[1, 1](kept)
        assert list(kept.numpy()) == [1, *range(1, 1000)]
        stream.resume()
        assert never.numpy()[0] == 0


def test_the_daemons_bound_counts_for_a_client_that_asks_for_none_or_more():
    daemon = Daemon("host", "--kernel-timeout", "0.3")
    try:
        for asked in (None, 1000):
            with connect(daemon, kernel_timeout=asked) as client:
                never = client.zeros(1, np.int32)
                client.compile(ENDLESS, name="endless.cu")["endless"][1, 1](never)
                with pytest.raises(rl.KernelFault, match="within 300 ms"):
                    client.default_stream.synchronize(timeout=WATCHDOG_S)
                client.default_stream.resume()
    finally:
        daemon.stop()


def test_many_kernels_that_take_long_together_are_left_alone(own_host):
    with connect(own_host, kernel_timeout=1.5) as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        first, second = client.stream(), client.stream()
        x = client.zeros(1, np.int32)
        client.synchronize()
        for _ in range(10):
            kernels["nap"][1, 1](200, stream=first)
        second.wait_event(first.record())  # it does not move for longer than the bound
        kernels["increment"][1, 1](x, stream=second)
        second.synchronize(timeout=WATCHDOG_S)
        assert x.numpy()[0] == 1


def test_who_waits_for_an_endless_kernel_is_not_blamed(own_host):
    with connect(own_host, kernel_timeout=1.5) as client:
        never = client.zeros(1, np.int32)
        client.synchronize()
        endless = client.compile(ENDLESS, name="endless.cu")["endless"]
        slow, waiting = client.stream(), client.stream()
        endless[1, 1](never, stream=slow)
        waiting.wait_event(slow.record())
        waiting.record()
        with pytest.raises(rl.KernelFault, match="kernel timeout"):
            slow.synchronize(timeout=WATCHDOG_S)
        with pytest.raises(rl.StreamStopped, match="another stream's fault"):
            waiting.synchronize(timeout=WATCHDOG_S)
        slow.resume()
        waiting.resume()


@pytest.mark.parametrize("kernel_timeout", [0, -1, float("nan")])
def test_an_impossible_bound_is_refused(host, kernel_timeout):
    with pytest.raises(rl.InvalidArgument, match="kernel_timeout"):
        connect(host, kernel_timeout=kernel_timeout)
