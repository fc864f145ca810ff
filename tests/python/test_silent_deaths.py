"""Kernels that end the executor without a word, beside a peer that is always at work."""

import contextlib
import re
import threading

import numpy as np
import pytest
from support import Daemon

import ringlaunch as rl

DEATHS = 7
WATCHDOG_S = 60
SOURCE = """
#include <ringlaunch/kernel.h>
#include <signal.h>
#include <unistd.h>
extern "C" __global__ void kill_itself() { kill(getpid(), SIGKILL); pause(); }
RINGLAUNCH_EXPORT(kill_itself)
extern "C" __global__ void leave() { _exit(0); }
RINGLAUNCH_EXPORT(leave)
extern "C" __global__ void add(int* to, const int* from, int by) { *to = *from + by; }
RINGLAUNCH_EXPORT(add)
"""


class Peer(threading.Thread):
    """Counts in two cells by turns, which is the same however often it is rerun."""

    def __init__(self, client: rl.Client) -> None:
        super().__init__()
        self.client = client
        self.add = client.compile(SOURCE)["add"]
        self.stream = client.stream(on_restart="rerun")
        self.cells = [client.array(np.zeros(1, np.int32)) for _ in range(2)]
        self.over = threading.Event()
        self.problems: list[str] = []
        self.count = 0

    def run(self) -> None:
        try:
            while not self.over.is_set():
                for _ in range(50):
                    source, to = self.cells[self.count % 2], self.cells[1 - self.count % 2]
                    self.add[1, 1](to, source, 1, stream=self.stream)
                    self.count += 1
                self.stream.synchronize(WATCHDOG_S)
                found = int(self.cells[self.count % 2].numpy(self.stream)[0])
                if found != self.count:
                    self.problems.append(f"{found} instead of {self.count}")
                    return
        except rl.Error as error:
            self.problems.append(repr(error))


@pytest.mark.parametrize("on_restart", ["stop", "rerun"])
@pytest.mark.parametrize("kernel", ["kill_itself", "leave"])
def test_who_kills_without_a_word_is_named_and_ends_alone(kernel, on_restart):
    daemon = Daemon("host")
    try:
        with daemon.connect() as client, daemon.connect() as other:
            peer = Peer(other)
            peer.start()
            launch = client.compile(SOURCE)[kernel]
            put_down = 0
            for _ in range(DEATHS if on_restart == "stop" else 2):
                with contextlib.suppress(rl.StreamStopped), client.stream(on_restart=on_restart) as stream:
                    launch[1, 1](stream=stream)
                    with pytest.raises(rl.StreamStopped) as stopped:
                        stream.synchronize(WATCHDOG_S)
                    assert f"kernel {kernel}, record at position 0" in str(stopped.value)
                    if on_restart == "stop":
                        # Not the one at which the peer was at work as well.
                        put_down += "also in flight" not in str(stopped.value)
                        slowed = f"{put_down} deaths of executors are put down to this session, so "
                        assert (slowed in str(stopped.value)) == (put_down >= 2)
                    assert stream.status.error_kernel == kernel
                    if on_restart == "rerun":
                        assert isinstance(stopped.value, rl.KernelFault)
            if on_restart == "stop":
                assert put_down >= DEATHS - 2  # then one of the two is elsewhere
            peer.over.set()
            peer.join(WATCHDOG_S)
            assert not peer.is_alive()
            assert peer.problems == []
            assert peer.count > 0
            assert other.warning == ""
            if on_restart == "stop":
                assert "find out what its kernels do wrong" in client.warning
                assert "gets an executor of its own" in daemon.log()
                # The executor that the peer is in never waits. Had the peer (session 1) been the first to be moved
                # away, the killer is alone in the one that they shared, and waits there, for nobody else comes.
                if not re.search(r"session 1 \(.*gets an executor of its own", daemon.log()):
                    assert "the next executor of user" not in daemon.log()
    finally:
        daemon.stop()
