"""Sessions beside each other on one GPU: events from one to the other, priorities, work that one leaves behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from gpu_support import WATCHDOG_S

import ringlaunch as rl

KERNELS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
// Many waves of blocks, each some time at work: says when the first has begun, counts those that are done.
extern "C" __global__ void flood(volatile unsigned* begun, unsigned* done, unsigned us) {
    if (threadIdx.x != 0) return;
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    if (blockIdx.x == 0) *begun = 1;
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - begin < us * 1000ull);
    atomicAdd(done, 1u);
}
RINGLAUNCH_EXPORT(flood)
extern "C" __global__ void look(const volatile unsigned* done, unsigned* seen) { *seen = *done; }
RINGLAUNCH_EXPORT(look)
"""


def test_work_is_handed_from_session_to_session(gpu_socket):
    """Each waits for the other's event and takes over its word: a wait that is not kept gives another number."""
    rounds = 200
    with rl.connect(socket=gpu_socket, start=False) as one, rl.connect(socket=gpu_socket, start=False) as two:
        pair = (one, two)
        words = [client.zeros(1, np.uint32) for client in pair]
        steps = [client.compile(KERNELS, name="sessions.cu")["step"] for client in pair]
        streams = [client.stream() for client in pair]
        one.synchronize()
        two.synchronize()
        for i in range(rounds):
            for here, there in ((0, 1), (1, 0)):
                for j in range(20):  # so that the wait is there before what it waits for
                    steps[here][1, 1](words[here], 3, i + j, stream=streams[here])
                streams[there].wait_event(streams[here].record())
                words[there].copy_from(words[here], stream=streams[there])
        for stream in streams:
            stream.synchronize(timeout=WATCHDOG_S)
        expected = 0
        for i in range(rounds):
            for _ in range(2):
                for j in range(20):
                    expected = (expected * 3 + i + j) & 0xFFFFFFFF
        assert int(words[0].numpy()[0]) == expected


def _seen_beside_a_flood(low_client, high_client, priorities, blocks: int) -> int:
    """How many of a flood's blocks were done when a launch on the other stream, made once it had begun, ran."""
    flood = low_client.compile(KERNELS, name="sessions.cu")["flood"]
    look = high_client.compile(KERNELS, name="sessions.cu")["look"]
    begun = low_client.pinned_empty(64, np.uint32)
    begun[0] = 0
    done, seen = low_client.zeros(1, np.uint32), high_client.zeros(1, np.uint32)
    low = low_client.stream(priority=priorities[0])
    high = high_client.stream(priority=priorities[1])
    # Both kernels are there already, and the counter is looked at where the other session has it.
    look[1, 1](seen, seen, stream=high)
    low_client.synchronize()
    high_client.synchronize()
    flood[blocks, 1024](begun, done, 200, stream=low)
    end = time.monotonic() + WATCHDOG_S
    while begun[0] == 0 and time.monotonic() < end:
        pass
    look[1, 1](done, seen, stream=high)
    high.synchronize(timeout=WATCHDOG_S)
    low.synchronize(timeout=WATCHDOG_S)
    assert int(done.numpy()[0]) == blocks
    result = int(seen.numpy()[0])
    low.close()
    high.close()
    return result


def test_a_stream_of_higher_priority_overtakes_what_is_waiting_of_a_lower_one(client):
    """By the counter that its launch finds; at equal priority it comes behind all blocks of the flood that wait."""
    blocks = 40_000  # 1024 threads each: two to four a multiprocessor at once, some 150 waves
    seen = [_seen_beside_a_flood(client, client, (0, 5), blocks) for _ in range(5)]
    equal = [_seen_beside_a_flood(client, client, (0, 0), blocks) for _ in range(5)]
    print(f"of {blocks} blocks done: {seen} at priority 5, {equal} at equal priority")
    assert max(seen) < blocks // 2


LEAVER = """
import sys
import numpy as np
import ringlaunch as rl
KERNELS = '''
#include <ringlaunch/kernel.h>
extern "C" __global__ void endless(const volatile unsigned* until) { while (*until == 0) {} }
RINGLAUNCH_EXPORT(endless)
'''
client = rl.connect(socket=sys.argv[1], start=False)
never = client.zeros(1, np.uint32)
stream = client.stream()
client.synchronize()
client.compile(KERNELS, name="endless.cu")["endless"][1, 1](never, stream=stream)
while stream.status.issued == 0:
    pass
print("at work", flush=True)
sys.stdin.read()
"""


def test_endless_work_that_a_dead_client_left_behind_is_ended_for_the_others(serve_gpu):
    """After 10 s, by a restart: nobody is accused, and what the others have stays."""
    data = np.arange(1 << 20, dtype=np.uint32)
    with serve_gpu() as socket, rl.connect(socket=socket, start=False) as peer:
        step = peer.compile(KERNELS, name="sessions.cu")["step"]
        kept, word = peer.array(data), peer.array(np.array([5], np.uint32))
        address = kept.address
        step[1, 1](word, 3, 7)
        peer.synchronize()
        epoch = peer.default_stream.status.epoch
        leaver = subprocess.Popen(
            [sys.executable, "-c", LEAVER, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert leaver.stdout.readline() == "at work\n"
        os.kill(leaver.pid, signal.SIGKILL)
        leaver.wait(WATCHDOG_S)
        begin = time.monotonic()
        while peer.default_stream.status.epoch == epoch and time.monotonic() < begin + WATCHDOG_S:
            time.sleep(0.01)
        print(f"ended after {time.monotonic() - begin:.1f} s")
        assert peer.default_stream.status.epoch == epoch + 1
        assert peer.default_stream.status.running
        step[1, 1](word, 3, 7)
        assert int(word.numpy()[0]) == (5 * 3 + 7) * 3 + 7
        assert kept.address == address
        assert np.array_equal(kept.numpy(), data)
