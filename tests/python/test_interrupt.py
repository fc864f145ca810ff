"""Ctrl-C ends every wait promptly, and the program goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support import WATCHDOG_S, Daemon, script

# Each waits for a kernel of 100 s, or for a daemon that does not answer.
WAITS = {
    "stream.synchronize": "client.default_stream.synchronize()",
    "client.synchronize": "client.synchronize()",
    "event.wait": "client.default_stream.record().wait()",
    "buffer.numpy": "x.numpy()",
    "buffer.numpy of a stream": "x.numpy(client.default_stream)",
    "a copy to the device": "x.copy_from(np.zeros(x.size, np.int32))",
    "copies beyond the staging memory": "for _ in range(200): x.copy_from(np.zeros(x.size, np.int32), stream)",
    "launches beyond the ring": "for _ in range(10_000): kernels['increment'][1, 1](x, stream=stream)",
    "events beyond the ring": "for _ in range(10_000): stream.record()",
    "await event": "import asyncio; asyncio.run(asyncio.wait_for(later(stream.record()), 99))",
}

PROGRAM = """
async def later(event):
    await event

x = client.zeros(1 << 16, np.int32)
stream = client.stream(ring_slots=64)
client.synchronize()
kernels["nap"][1, 1](100_000)
kernels["nap"][1, 1](100_000, stream=stream)
try:
    print("waiting", flush=True)
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(client.default_stream.status.status, flush=True)
"""


def interrupt(program: str, daemon: Daemon) -> str:
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script(program), daemon.socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "waiting\n", process.communicate(timeout=WATCHDOG_S)
        time.sleep(0.3)  # until it waits; were it slower, the signal would still meet the `try`
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WATCHDOG_S)
        assert process.returncode == 0, err
        return out
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_ends_a_wait(own_host, wait):
    # A daemon of its own: a session that ends with a kernel of 100 s running costs its neighbours a restart.
    assert interrupt(PROGRAM.format(wait=wait), own_host) == "interrupted\nok\n"


STOPPED_DAEMON = """
os.kill(client.daemon.pid, signal.SIGSTOP)
try:
    print("waiting", flush=True)
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
os.kill(client.daemon.pid, signal.SIGCONT)
"""


@pytest.mark.parametrize(
    "wait",
    [
        "client.empty(3)",
        "client.stream()",
        "client.load(bytes(100))",
        "rl.connect(sys.argv[1], start=False, timeout=90)",
    ],
)
def test_ctrl_c_ends_a_wait_for_the_daemon(own_host, wait):
    try:
        assert interrupt(STOPPED_DAEMON.format(wait=wait), own_host) == "interrupted\n"
    finally:
        os.kill(own_host.process.pid, signal.SIGCONT)


def test_a_handler_that_returns_lets_the_wait_go_on(run_script):
    done = run_script(
        """
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
kernels["nap"][1, 1](500)
client.synchronize()
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(seen) > 1, seen
print("done")
"""
    )
    assert done.stdout == "done\n", done.stderr


def test_waiting_releases_the_interpreter_lock(run_script):
    done = run_script(
        """
kernels["nap"][1, 1](1000)
event = client.default_stream.record()
count = 0
def work():
    global count
    while not event.done():
        count += 1
thread = threading.Thread(target=work)
thread.start()
event.wait()
thread.join()
assert count > 100, count
print("done")
"""
    )
    assert done.stdout == "done\n", done.stderr
