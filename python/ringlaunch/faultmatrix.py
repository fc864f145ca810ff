"""What a fault does to its neighbours: every kind of fault, beside victims that check what they are promised.

    python -m ringlaunch.faultmatrix [--driver auto] [--fault-dumps] [--repeat 3] [--csv FILE] [--json FILE]
        [--png FILE]

For each fault a daemon of its own is started, with a culprit and three victims, each a session: a stream made with
`on_restart="stop"` and one with "rerun", both under order-sensitive work without a pause, and an idle session with
buffers and a module. After the fault every promise is checked: the culprit got an error, and it was named or the
suspects were; the "stop" stream stopped if its work was in doubt, with its word at one of the places that it said,
and went on exactly; the "rerun" stream never stopped and is exact; the idle session's buffers are the same bytes at
the same addresses, and its module launches. With --fault-dumps (of `ringlaunchd serve`) whoever faults on a GPU must be
named exactly, with record, exception and program counter, and nobody else be suspected. The exit code is 0 only if all
of it holds every time.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ringlaunch as rl
from ringlaunch._client import _daemon_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WATCHDOG_S = 60.0  # no single wait is longer
ALIVE_TARGET_S = 1.0
KERNEL_TIMEOUT_S = 1.0  # of the daemon that meets an endless kernel
BURST = 32  # launches between two events of a victim
CELLS = 1024
A, MASK = 1664525, 0xFFFFFFFF

SOURCE = r"""
#include <ringlaunch/kernel.h>
#if defined(__CUDACC__)
#define RL_TRAP() asm volatile("trap;")
__device__ inline void rl_wait(int ms) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - begin < ms * 1000000ull);
}
#else
#include <cassert>
#include <cstdlib>
#include <time.h>
#define RL_TRAP() __builtin_trap()
static void rl_wait(int ms) {
    timespec time{ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, nullptr);
}
extern "C" __global__ void divide(int* x, int by) { *x = 100 / by; }
RINGLAUNCH_EXPORT(divide)
extern "C" __global__ void end_process(int n) { if (n) abort(); }
RINGLAUNCH_EXPORT(end_process)
#endif
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
// A chain through an array: it may be run again from any link that is still there.
extern "C" __global__ void chain(unsigned* cells, unsigned from, unsigned to, unsigned a, unsigned b) {
    cells[to] = cells[from] * a + b;
}
RINGLAUNCH_EXPORT(chain)
extern "C" __global__ void busy(int ms) { rl_wait(ms); }
RINGLAUNCH_EXPORT(busy)
extern "C" __global__ void write_to(unsigned long long address) { *reinterpret_cast<volatile int*>(address) = 1; }
RINGLAUNCH_EXPORT(write_to)
extern "C" __global__ void misaligned(unsigned char* x) { *reinterpret_cast<volatile int*>(x + 1) = 1; }
RINGLAUNCH_EXPORT(misaligned)
extern "C" __global__ void trap(int n) { if (n) RL_TRAP(); }
RINGLAUNCH_EXPORT(trap)
extern "C" __global__ void failed_assert(int n) { assert(n == 0); }
RINGLAUNCH_EXPORT(failed_assert)
extern "C" __global__ void endless(volatile int* x) { while (*x == 0) { } }
RINGLAUNCH_EXPORT(endless)
"""


# ---- the daemon


def _program() -> str:
    found = os.environ.get("RINGLAUNCHD") or _daemon_path() or shutil.which("ringlaunchd")
    if not found:
        raise FileNotFoundError("there is no ringlaunchd: install the package, or set RINGLAUNCHD to its path")
    return found


class Daemon:
    """`ringlaunchd serve` on a socket of its own; ready when made, gone when closed."""

    def __init__(self, driver: str, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rl-faults-"))
        self.socket = str(self.folder / "daemon.sock")
        command = [_program(), "serve", "--socket", self.socket, "--driver", driver]
        read_end, write_end = os.pipe()
        with open(self.folder / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(write_end), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
            )
        os.close(write_end)
        try:
            ready, _, _ = select.select([read_end], [], [], WATCHDOG_S)
            said = os.read(read_end, 64) if ready else b""
        finally:
            os.close(read_end)
        if said != b"READY=1\n":
            log_text = self.log()
            self.close()
            raise RuntimeError(f"the daemon does not serve:\n{log_text}")

    def connect(self) -> rl.Client:
        return rl.connect(self.socket, start=False)

    def ask(self, command: str) -> Any:
        """What `ringlaunchd COMMAND --json` says."""
        said = subprocess.run(
            [_program(), command, "--json", "--socket", self.socket],
            capture_output=True,
            timeout=WATCHDOG_S,
            check=True,
        )
        return json.loads(said.stdout)

    def executors(self) -> list[int]:
        return [executor["pid"] for executor in self.ask("status")["executors"] if executor["pid"] > 0]

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(WATCHDOG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- the victims


class Victim(threading.Thread):
    """A session whose stream is never idle, and that knows what its memory must hold."""

    def __init__(self, daemon: Daemon, on_restart: str) -> None:
        super().__init__(name=on_restart, daemon=True)
        self.client = daemon.connect()
        self.module = self.client.compile(SOURCE, name="faultmatrix.cu")
        self.pause = self.module["busy"]
        self.stream = self.client.stream(name=on_restart, on_restart=on_restart)
        self.launches = 0
        self.results: list[tuple[float, int]] = []  # when a burst was seen completed, in which epoch
        self.stops: list[rl.Error] = []
        self.problems: list[str] = []
        self.over = threading.Event()
        self.ahead: collections.deque[tuple[int, int]] = collections.deque()  # (position, b) not known to be done
        self.client.synchronize(WATCHDOG_S)

    # What the kinds of victim differ in: one launch; what the model does when it is known to be done; the last check.
    def launch(self, b: int) -> None:
        raise NotImplementedError

    def apply(self, b: int) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError

    def stopped(self, error: rl.StreamStopped) -> None:
        self.problems.append(f"stopped: {error}")
        self.over.set()

    def run(self) -> None:
        try:
            while not self.over.is_set():
                try:
                    self._work()
                except rl.StreamStopped as error:
                    self.stops.append(error)
                    self.stopped(error)
            if not self.problems:
                self._finish()
        except Exception as error:  # a thread's own would be lost
            self.problems.append(f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        before: rl.Event | None = None
        while not self.over.is_set():
            self.pause[1, 1](1, stream=self.stream)  # so that there is always something in doubt
            for _ in range(BURST):
                b = self.launches & 0xFFFF
                self.launch(b)
                self.launches += 1
                self.ahead.append((self.stream.status.published, b))
            event = self.stream.record()
            if before is not None:
                self._passed(before)
            before = event

    def _passed(self, event: rl.Event) -> None:
        event.wait(WATCHDOG_S)
        self.results.append((time.monotonic(), self.stream.status.epoch))
        while self.ahead and self.ahead[0][0] <= event.position:
            self.apply(self.ahead.popleft()[1])

    def _finish(self) -> None:
        while True:
            try:
                self.stream.synchronize(WATCHDOG_S)
                break
            except rl.StreamStopped as error:
                self.stops.append(error)
                self.stopped(error)
                if self.problems:
                    return
        for _, b in self.ahead:
            self.apply(b)
        self.ahead.clear()
        self.check()


class StopVictim(Victim):
    """word = word * A + b: stopped with work in doubt, its word must be one of the in-doubt states."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon, "stop")
        self.word = self.client.zeros(1, np.uint32)
        self.value = 0
        self.bound = self.module["step"].bind((1,), (1,), self.stream)

    def launch(self, b: int) -> None:
        self.bound(self.word, A, b)

    def apply(self, b: int) -> None:
        self.value = (self.value * A + b) & MASK

    def _read(self) -> int:
        default = self.client.default_stream  # has nothing in doubt
        return int(self.word.numpy(stream=default, timeout=WATCHDOG_S)[0])

    def stopped(self, error: rl.StreamStopped) -> None:
        status = self.stream.status
        while self.ahead and self.ahead[0][0] <= status.completed:
            self.apply(self.ahead.popleft()[1])
        found, states = self._read(), [self.value]
        while self.ahead and self.ahead[0][0] <= status.issued:
            self.apply(self.ahead.popleft()[1])
            states.append(self.value)
        if found not in states:
            self.problems.append(f"the word is at none of the {len(states)} places that were in doubt")
            self.over.set()
        self.value = found
        self.stream.resume()

    def check(self) -> None:
        if self._read() != self.value:
            self.problems.append("the word is not what the launches give")


class RerunVictim(Victim):
    """A chain through an array, longer than what can be in doubt, so that a replay gives the same bytes."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon, "rerun")
        self.cells = self.client.zeros(CELLS, np.uint32)
        self.expected = np.zeros(CELLS, np.uint32)
        self.applied = 0
        self.bound = self.module["chain"].bind((1,), (1,), self.stream)

    def launch(self, b: int) -> None:
        self.bound(self.cells, self.launches % CELLS, (self.launches + 1) % CELLS, A, b)

    def apply(self, b: int) -> None:
        at = self.applied % CELLS
        self.expected[(at + 1) % CELLS] = (int(self.expected[at]) * A + b) & MASK
        self.applied += 1

    def check(self) -> None:
        found = self.cells.numpy(stream=self.stream, timeout=WATCHDOG_S)
        if wrong := int((found != self.expected).sum()):
            self.problems.append(f"{wrong} of {CELLS} cells are not what the launches give")


class IdleVictim:
    """A session that does nothing and keeps all it has."""

    def __init__(self, daemon: Daemon) -> None:
        self.client = daemon.connect()
        self.step = self.client.compile(SOURCE, name="faultmatrix.cu")["step"]
        random = np.random.default_rng(1)
        self.data = [random.integers(0, 256, size, dtype=np.uint8) for size in (1, 100_000, 4 << 20)]
        self.buffers = [self.client.array(data) for data in self.data]
        self.addresses = [buffer.address for buffer in self.buffers]
        self.word = self.client.zeros(1, np.uint32)
        self.client.synchronize(WATCHDOG_S)
        self.problems: list[str] = []
        self.asked_at = self.alive_at = 0.0

    def check(self) -> None:
        self.asked_at = time.monotonic()
        try:
            self.step[1, 1](self.word, A, 7)  # the module, without anybody's doing
            if int(self.word.numpy(timeout=WATCHDOG_S)[0]) != 7:
                self.problems.append("its kernel's result is wrong")
            self.alive_at = time.monotonic()
            for buffer, data, address in zip(self.buffers, self.data, self.addresses, strict=True):
                if buffer.address != address:
                    self.problems.append(f"a buffer moved from {address:#x} to {buffer.address:#x}")
                if not np.array_equal(buffer.numpy(timeout=WATCHDOG_S), data):
                    self.problems.append(f"{data.nbytes} bytes are not what they were")
        except rl.Error as error:
            self.problems.append(f"{type(error).__name__}: {error}")


# ---- the faults


@dataclasses.dataclass
class Seen:
    """What the culprit saw."""

    error: str = ""  # "KernelFault (kernel_faulted)"
    text: str = ""
    status: str = ""
    position: int = -1  # of the record that faulted
    began: float = 0.0  # when the fault happened, as near as that is known
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    drivers: tuple[str, ...]
    run: Callable[[Daemon], Seen]
    restarts: bool  # the executor is ended by it
    kernel: str = ""  # the culprit, to be named or to be among the suspects
    options: tuple[str, ...] = ()  # of the daemon
    needs: str = ""  # an option of `ringlaunchd serve`
    exception: str = ""  # of a GPU


def _see(seen: Seen, error: rl.Error) -> Seen:
    seen.error = type(error).__name__ + (f" ({error.status})" if error.status else "")
    seen.status, seen.text = error.status, str(error)
    return seen


def _stopped_by(
    kernel: str, arguments: Callable[[rl.Client], tuple[Any, ...]], delay_s: float = 0
) -> Callable[[Daemon], Seen]:
    """A stream whose launch of a kernel ends the executor, after a while."""

    def run(daemon: Daemon) -> Seen:
        client = daemon.connect()
        launch = client.compile(SOURCE, name="faultmatrix.cu")[kernel]
        given = arguments(client)
        stream = client.stream(name="culprit")
        stream.synchronize(WATCHDOG_S)
        seen = Seen(position=stream.status.published, began=time.monotonic() + delay_s)
        try:
            launch[1, 1](*given, stream=stream)
            stream.synchronize(WATCHDOG_S)
            seen.problems.append("the culprit got no error")
        except rl.StreamStopped as error:
            _see(seen, error)
        except rl.Error as error:
            _see(seen, error).problems.append(f"the culprit's stream did not stop: {error}")
        client.close()
        return seen

    return run


def _refused(
    call: Callable[[rl.Client, rl.Module], object], kind: tuple[type[rl.Error], ...]
) -> Callable[[Daemon], Seen]:
    """A call that is refused where it is made."""

    def run(daemon: Daemon) -> Seen:
        seen = Seen()
        with daemon.connect() as client:
            module = client.compile(SOURCE, name="faultmatrix.cu")
            seen.began = time.monotonic()
            try:
                call(client, module)
                seen.problems.append("it was not refused")
            except rl.Error as error:
                _see(seen, error)
                if not isinstance(error, kind):
                    seen.problems.append(f"expected {' or '.join(k.__name__ for k in kind)}, found {error!r}")
            client.zeros(3).numpy()  # the session goes on
        return seen

    return run


def _too_many_threads(_: rl.Client, module: rl.Module) -> None:
    module["busy"][1, (1024, 64, 1)](1)


def _kill_executor(daemon: Daemon) -> Seen:
    with daemon.connect() as client:
        busy = client.compile(SOURCE, name="faultmatrix.cu")["busy"]
        with contextlib.suppress(rl.StreamStopped), client.stream(name="culprit") as stream:
            for _ in range(100):
                busy[1, 1](50, stream=stream)
            time.sleep(0.1)
            seen = Seen(began=time.monotonic())
            for pid in daemon.executors():
                os.kill(pid, signal.SIGKILL)
            try:
                stream.synchronize(WATCHDOG_S)
                seen.problems.append("a stream with kernels running got no error")
            except rl.StreamStopped as error:
                if _see(seen, error).status != "executor_killed":
                    seen.problems.append(f"expected executor_killed, found {error.status}")
    return seen


def _kill_client(daemon: Daemon) -> Seen:
    sessions = len(daemon.ask("sessions")["sessions"])
    with subprocess.Popen(
        [sys.executable, "-m", "ringlaunch.faultmatrix", "--be-busy", daemon.socket], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        try:
            ready, _, _ = select.select([client.stdout], [], [], WATCHDOG_S)
            if not ready or client.stdout.readline() != b"busy\n":
                return Seen(began=time.monotonic(), problems=["the busy client did not come up"])
            seen = Seen(error="(killed)", began=time.monotonic())
        finally:
            client.kill()
    while len(daemon.ask("sessions")["sessions"]) > sessions:
        if time.monotonic() > seen.began + WATCHDOG_S:
            seen.problems.append("its session does not end")
            break
        time.sleep(0.02)
    seen.text = f"its session ended after {time.monotonic() - seen.began:.2f} s"
    return seen


def _be_busy(socket: str) -> int:
    """The client that is killed: keeps its ring full of short kernels."""
    client = rl.connect(socket, start=False)
    busy = client.compile(SOURCE, name="faultmatrix.cu")["busy"].bind((1,), (1,), client.stream(name="busy"))
    said = False
    while True:
        for _ in range(100):
            busy(2)
        if not said:
            print("busy", flush=True)
            said = True


def _word(client: rl.Client) -> tuple[Any, ...]:
    return (client.zeros(4, np.int32),)


FAULTS = (
    Fault(
        "illegal address",
        ("cuda",),
        _stopped_by("write_to", lambda _: (8,)),
        True,
        "write_to",
        exception="Illegal Address",
    ),
    Fault("segfault", ("host",), _stopped_by("write_to", lambda _: (8,)), True, "write_to"),
    Fault(
        "misaligned address",
        ("cuda",),
        _stopped_by("misaligned", _word),
        True,
        "misaligned",
        exception="Misaligned Address",
    ),
    Fault("divide by zero", ("host",), _stopped_by("divide", lambda c: (*_word(c), 0)), True, "divide"),
    Fault("trap", ("cuda", "host"), _stopped_by("trap", lambda _: (1,)), True, "trap", exception="without a name"),
    Fault(
        "assert",
        ("cuda", "host"),
        _stopped_by("failed_assert", lambda _: (1,)),
        True,
        "failed_assert",
        exception="Assert",
    ),
    Fault("abort", ("host",), _stopped_by("end_process", lambda _: (1,)), True, "end_process"),
    Fault(
        "endless kernel",
        ("cuda", "host"),
        _stopped_by("endless", _word, KERNEL_TIMEOUT_S),
        True,
        "endless",
        ("--kernel-timeout", f"{KERNEL_TIMEOUT_S:g}"),
        "--kernel-timeout",
    ),
    Fault("SIGKILL of the executor", ("cuda", "host"), _kill_executor, True),
    Fault("SIGKILL of a busy client", ("cuda", "host"), _kill_client, False),
    Fault("impossible configuration", ("cuda", "host"), _refused(_too_many_threads, (rl.InvalidArgument,)), False),
    Fault(
        "out of memory",
        ("cuda", "host"),
        _refused(lambda client, _: client.empty(900 << 30, np.uint8), (rl.OutOfMemory, rl.LimitReached)),
        False,
    ),
)


# ---- one run, and all of them


@dataclasses.dataclass
class Result:
    fault: str
    run: int
    culprit: str = ""  # which error it got
    named: str = ""  # "kernel trap, its record", "suspects: culprit, stop"
    exactly: str = ""  # "yes": and its record, on a GPU with exception and program counter; "no"
    stop: str = ""  # "stopped (neighbour_faulted), went on" or "went on"
    rerun: str = ""
    alive_stop_s: float = 0.0  # from the fault until its next result
    alive_rerun_s: float = 0.0
    alive_idle_s: float = 0.0
    exact: bool = False
    restarts: int = 0
    text: str = ""  # of the culprit's error
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def alive_s(self) -> float:
        return max(self.alive_stop_s, self.alive_rerun_s, self.alive_idle_s)


def _alive_after(victim: Victim, began: float, epoch: int, restarted: bool) -> float:
    """Seconds from the fault until the victim's first result of the next epoch; else its longest silence."""
    if restarted:
        for when, found in victim.results:
            if found > epoch:
                return max(when - began, 0.0)
        return float("inf")
    times = [began, *(when for when, _ in victim.results if when > began)]
    return max((b - a for a, b in itertools.pairwise(times)), default=float("inf"))


def _named_exactly(fault: Fault, seen: Seen, driver: str) -> str:
    """What of the exact culprit the text says: this kernel, this record, and what a fault dump gives; "": not all."""
    if seen.status != "kernel_faulted":
        return ""
    if driver != "cuda" or not fault.exception:
        record = re.search(rf"kernel {fault.kernel}, record at position {seen.position} of ", seen.text)
        return f"kernel {fault.kernel}, its record" if record else ""
    found = re.search(
        rf"kernel {fault.kernel}, record at position {seen.position} of .*"
        rf"((?:CUDA_EXCEPTION_\d+, |an exception )[A-Za-z ]*{fault.exception}[^;=]*) "
        rf"at program counter 0x[0-9a-f]+ = ({fault.kernel}\+0x[0-9a-f]+)",
        seen.text,
    )
    return f"kernel {fault.kernel}, its record, {found[1]}, {found[2]}" if found else ""


def _run(fault: Fault, driver: str, number: int, target_s: float, dumps: bool) -> Result:
    result = Result(fault.name, number)
    daemon = Daemon(driver, *fault.options, *(("--fault-dumps",) if dumps else ()))
    try:
        stop, rerun, idle = StopVictim(daemon), RerunVictim(daemon), IdleVictim(daemon)
        workers: tuple[Victim, Victim] = (stop, rerun)
        epochs = {worker: worker.stream.status.epoch for worker in workers}
        for worker in workers:
            worker.start()
        _until(lambda: all(len(worker.results) >= 20 or worker.problems for worker in workers))

        seen = fault.run(daemon)
        idle.check()
        enough = {worker: len(worker.results) + 20 for worker in workers}

        def is_through(worker: Victim) -> bool:
            again = not fault.restarts or worker.results[-1][1] > epochs[worker]
            return bool(worker.problems) or (len(worker.results) >= enough[worker] and again)

        _until(lambda: all(is_through(worker) for worker in workers))
        for worker in workers:
            worker.over.set()
        for worker in workers:
            worker.join(WATCHDOG_S)
            if worker.is_alive():
                worker.problems.append("hangs")

        result.culprit, result.text = seen.error, seen.text
        result.restarts = sum(executor["restarts"] for executor in daemon.ask("status")["executors"])
        result.alive_stop_s = _alive_after(stop, seen.began, epochs[stop], fault.restarts)
        result.alive_rerun_s = _alive_after(rerun, seen.began, epochs[rerun], fault.restarts)
        since = seen.began if fault.restarts else idle.asked_at
        result.alive_idle_s = max(idle.alive_at - since, 0.0) if idle.alive_at else float("inf")
        suspects = [worker.name for worker in workers if any(stop.status == "suspect" for stop in worker.stops)]
        exactly = _named_exactly(fault, seen, driver)
        result.exactly = "" if not fault.kernel else "yes" if exactly else "no"
        if exactly:
            result.named = exactly
        elif seen.status == "kernel_faulted" and fault.kernel in seen.text:
            result.named = f"kernel {fault.kernel}"
        elif seen.status == "suspect":
            result.named = f"suspects: {', '.join(['culprit', *suspects])}"
        elif fault.kernel:
            result.problems.append(f"the culprit was neither named nor a suspect: {seen.error}: {seen.text}")
        if dumps and fault.exception and driver == "cuda":
            if not exactly:
                result.problems.append(f"the culprit was not named exactly: {seen.text}")
            if suspects:
                result.problems.append(f"{', '.join(suspects)} suspected, though the culprit is known")
        if not fault.restarts and stop.stops:
            stop.problems.append(f"stopped without need: {stop.stops[0]}")
        reasons = ", ".join(dict.fromkeys(error.status for error in stop.stops))
        result.stop = f"stopped ({reasons}), resumed" if stop.stops else "went on"
        rerun_said = re.search(r"stream \S+ \(rerun\) is run again from \d+ to \d+", daemon.log())
        result.rerun = "stopped" if rerun.stops else "rerun" if rerun_said else "went on"
        result.exact = not (stop.problems or rerun.problems or idle.problems)
        result.problems += seen.problems
        for name, problems in (("stop", stop.problems), ("rerun", rerun.problems), ("idle", idle.problems)):
            result.problems += [f"{name}: {problem}" for problem in problems]
        if result.alive_s > target_s:
            result.problems.append(f"a neighbour was alive only after {result.alive_s:.2f} s")
        for client in (stop.client, rerun.client, idle.client):
            client.close()
    except Exception as error:
        result.problems.append(f"{type(error).__name__}: {error}")
    finally:
        if result.problems:
            result.text += f"\n{daemon.log()[-4000:]}"
        daemon.close()
    return result


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WATCHDOG_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)


def _choose_driver(driver: str) -> str:
    """What `auto` is on this machine."""
    daemon = Daemon(driver)
    try:
        with daemon.connect() as client:
            return client.daemon.driver
    finally:
        daemon.close()


# ---- what is shown and kept

COLUMNS = ("fault", "culprit got", "named", "exactly", "stop stream", "rerun stream", "bytes", "alive after s", "held")


def _rows(results: Sequence[Result], skipped: dict[str, str]) -> list[tuple[str, ...]]:
    by_fault: dict[str, list[Result]] = {}
    for result in results:
        by_fault.setdefault(result.fault, []).append(result)
    rows = []
    for fault in FAULTS:
        if fault.name in skipped:
            rows.append((fault.name, "skipped: " + skipped[fault.name], *[""] * (len(COLUMNS) - 2)))
        elif fault.name in by_fault:
            runs = by_fault[fault.name]
            rows.append(
                (
                    fault.name,
                    _distinct(run.culprit for run in runs),
                    _distinct(run.named for run in runs) or "-",
                    _distinct(run.exactly for run in runs) or "-",
                    _distinct(run.stop for run in runs),
                    _distinct(run.rerun for run in runs),
                    "exact" if all(run.exact for run in runs) else "WRONG",
                    f"{max(run.alive_s for run in runs):.2f}",
                    f"{sum(not run.problems for run in runs)} of {len(runs)}",
                )
            )
    return rows


def _distinct(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _print_table(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    if importlib.util.find_spec("rich") is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS, title=title)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    print(title)
    full = [row for row in rows if not row[1].startswith("skipped")]
    widths = [max(len(row[i]) for row in (COLUMNS, *full)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _write_csv(path: Path, title: str, results: Sequence[Result]) -> None:
    names = [field.name for field in dataclasses.fields(Result) if field.name not in ("text", "problems")]
    with path.open("w", newline="") as file:
        print(f"# {title}", file=file)
        writer = csv.writer(file)
        writer.writerow([*names, "problems"])
        for result in results:
            writer.writerow([*(getattr(result, name) for name in names), "; ".join(result.problems)])


def _write_json(path: Path, title: str, results: Sequence[Result], skipped: dict[str, str]) -> None:
    runs = [dataclasses.asdict(result) | {"alive_s": result.alive_s} for result in results]
    path.write_text(json.dumps({"title": title, "runs": runs, "skipped": skipped}, indent=2) + "\n")


def _read_json(path: Path) -> tuple[str, list[Result], dict[str, str]]:
    try:
        kept = json.loads(path.read_text())
        names = {field.name for field in dataclasses.fields(Result)}
        runs = [Result(**{name: run[name] for name in names}) for run in kept["runs"]]
        return kept["title"], runs, kept["skipped"]
    except OSError as error:
        raise OSError(f"--from {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--from {path} is no file that --json of this version wrote ({type(error).__name__}: {error})"
        ) from error


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text!r}")
    return int(text)


def _write_png(path: Path, title: str, results: Sequence[Result], target_s: float) -> bool:
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{path} is not drawn: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    faults = list(dict.fromkeys(result.fault for result in results))
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.5 * len(faults)))
    for k, (name, colour) in enumerate((("stop", "#c44e52"), ("rerun", "#4c72b0"), ("idle", "#55a868"))):
        for y, fault in enumerate(faults):
            times = [getattr(result, f"alive_{name}_s") for result in results if result.fault == fault]
            axis.plot(times, [y + (k - 1) * 0.2] * len(times), "o", color=colour, label=name if y == 0 else None)
    axis.axvline(target_s, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(faults)), faults)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("seconds from the fault until a neighbour's next result (no restart: its longest silence)")
    axis.set_title(title, fontsize=10)
    axis.legend(title="neighbour", fontsize=8, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def _run_all(options: argparse.Namespace) -> tuple[str, list[Result], dict[str, str]]:
    driver = _choose_driver(options.driver)
    helped = subprocess.run([_program(), "serve", "--help"], capture_output=True, text=True, timeout=WATCHDOG_S)
    results: list[Result] = []
    skipped: dict[str, str] = {}
    for fault in FAULTS:
        if driver not in fault.drivers or (options.fault and fault.name not in options.fault):
            continue
        if fault.needs and fault.needs not in helped.stdout:
            skipped[fault.name] = f"this daemon has no {fault.needs}"
            continue
        for number in range(1, options.repeat + 1):
            if sys.stderr.isatty():
                print(f"{fault.name}, run {number} of {options.repeat}", file=sys.stderr, flush=True)
            results.append(_run(fault, driver, number, options.alive_target, options.fault_dumps))
    dumps = ", fault dumps" if options.fault_dumps else ""
    return f"What a fault does to its neighbours ({driver} driver{dumps})", results, skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 only if every promise held in every run."""
    parser = argparse.ArgumentParser(prog="python -m ringlaunch.faultmatrix", description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="auto", choices=("auto", "cuda", "host"), help="(default: %(default)s)")
    parser.add_argument("--fault-dumps", action="store_true", help="serve with this option: a GPU's faults are named")
    parser.add_argument(
        "--repeat", type=_at_least_one, default=3, metavar="N", help="runs of each fault (default: %(default)s)"
    )
    parser.add_argument(
        "--fault", action="append", metavar="NAME", choices=[fault.name for fault in FAULTS], help="only this one"
    )
    parser.add_argument(
        "--alive-target",
        type=float,
        default=ALIVE_TARGET_S,
        metavar="SECONDS",
        help="how soon after a fault every neighbour must have a result (default: %(default)s)",
    )
    parser.add_argument("--csv", type=Path, help="write all runs to this file")
    parser.add_argument("--json", type=Path, help="write all runs, with the texts of the errors, to this file")
    parser.add_argument("--png", type=Path, help="draw how soon the neighbours were alive (needs matplotlib)")
    parser.add_argument(
        "--from", dest="runs", type=Path, metavar="JSON", help="run nothing: show and draw what an earlier --json kept"
    )
    parser.add_argument("--be-busy", metavar="SOCKET", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be_busy:
        return _be_busy(options.be_busy)
    try:
        if options.runs:
            title, results, skipped = _read_json(options.runs)
        else:
            title, results, skipped = _run_all(options)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, rl.Error) as error:
        print(error, file=sys.stderr)
        return 1
    _print_table(title, _rows(results, skipped))
    for result in results:
        for problem in result.problems:
            print(f"{result.fault}, run {result.run}: {problem}")
        if result.problems:
            print(result.text)
    held = sum(not result.problems for result in results)
    latest = max((result.alive_s for result in results), default=0.0)
    print(
        f"{held} of {len(results)} runs held what is promised; a neighbour was alive at the latest after "
        f"{latest:.2f} s (target {options.alive_target:g} s)"
    )
    if options.csv:
        _write_csv(options.csv, title, results)
    if options.json:
        _write_json(options.json, title, results, skipped)
    drawn = _write_png(options.png, title, results, options.alive_target) if options.png else True
    return 0 if results and held == len(results) and drawn else 1


if __name__ == "__main__":
    sys.exit(main())
