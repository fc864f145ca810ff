"""With `--fault-dumps` a GPU's fault is one launch's: named with kernel, record, exception and program counter."""

import re
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S, WORK, Chain, stopped

import ringlaunch as rl

KERNELS = (
    WORK
    + """
extern "C" __device__ void __assertfail(const char*, const char*, unsigned, const char*, unsigned long);
// Each faults where `how` is 1, and else does nothing: the innocent launches of the culprit's kernel.
extern "C" __global__ void wild(unsigned* own, int how, unsigned tag) {
    if (how == 1) *reinterpret_cast<volatile int*>(8) = 1; else own[3] = tag;
}
RINGLAUNCH_EXPORT(wild)
extern "C" __global__ void misaligned(unsigned* own, int how, unsigned tag) {
    if (how == 1) *reinterpret_cast<volatile int*>(reinterpret_cast<char*>(own) + 2) = 1; else own[3] = tag;
}
RINGLAUNCH_EXPORT(misaligned)
extern "C" __global__ void trap(unsigned* own, int how, unsigned tag) {
    if (how == 1) asm volatile("trap;"); else own[3] = tag;
}
RINGLAUNCH_EXPORT(trap)
extern "C" __global__ void asserts(unsigned* own, int how, unsigned tag) {
    if (how == 1) __assertfail("how != 1", "kernels.cu", 1, "asserts", 1); else own[3] = tag;
}
RINGLAUNCH_EXPORT(asserts)
"""
)
EXCEPTIONS = {
    "wild": "CUDA_EXCEPTION_14, Warp Illegal Address",
    "misaligned": "CUDA_EXCEPTION_6, Warp Misaligned Address",
    "trap": "an exception without a name",
    "asserts": "CUDA_EXCEPTION_12, Warp Assert",
}


@pytest.mark.parametrize("kernel", EXCEPTIONS)
def test_a_fault_is_named_exactly_beside_busy_neighbours(serve_gpu, kernel):
    with (
        serve_gpu("--fault-dumps") as socket,
        rl.connect(socket=socket, start=False) as one,
        rl.connect(socket=socket, start=False) as other,
        rl.connect(socket=socket, start=False) as idle,
        rl.connect(socket=socket, start=False) as culprit,
    ):
        innocent = [Chain(one, KERNELS), Chain(other, KERNELS)]
        kept = idle.array(np.arange(1 << 18, dtype=np.uint32))
        idle.synchronize(WATCHDOG_S)
        kernels = culprit.compile(KERNELS, name="kernels.cu")
        bad, pause = kernels[kernel], kernels["pause"]
        own = culprit.zeros(4, np.uint32)
        culprit.synchronize(WATCHDOG_S)
        stream, second = culprit.stream(name="culprit"), culprit.stream(name="second")
        for each in innocent:
            each.launch(200)

        # The same kernel with other parameters, before it, behind it and in another stream.
        pause[1, 1](2000, stream=second)
        for tag in range(5):
            bad[1, 1](own, 0, tag, stream=stream)
            bad[1, 1](own, 0, tag, stream=second)
        position = stream.status.published
        begin = time.monotonic()
        bad[1, 32](own, 1, 5, stream=stream)
        for tag in range(6, 9):
            bad[1, 1](own, 0, tag, stream=stream)
        status = stopped(stream, innocent)
        print(f"{kernel}: told after {time.monotonic() - begin:.3f} s: {status.text}")

        assert status.error_kernel == kernel
        assert status.status == "kernel_faulted"
        assert status.error_position == position
        assert f"kernel {kernel}, record at position {position} of stream" in status.text
        assert re.search(rf"{EXCEPTIONS[kernel]}.* at program counter 0x[0-9a-f]+ = {kernel}\+0x", status.text)
        # Whoever else was on the device did not do it.
        assert "pause" not in status.text and "chain" not in status.text
        assert second.status.status != "kernel_faulted"
        with pytest.raises(rl.KernelFault, match=kernel):
            bad[1, 1](own, 0, 1, stream=stream)

        for each in innocent:
            each.launch(200)
            each.check()
        assert np.array_equal(kept.numpy(timeout=WATCHDOG_S), np.arange(1 << 18, dtype=np.uint32))
        # What is beyond the record may have been completed behind the fault: the owner goes on after it.
        second.close()
        stream.resume()
        bad[1, 1](own, 0, 77, stream=stream)
        assert int(own.numpy(stream=stream, timeout=WATCHDOG_S)[3]) == 77


@pytest.mark.parametrize("dumps", [False, True])
def test_of_two_suspects_exactly_one_is_accused_with_dumps_and_none_without(serve_gpu, dumps):
    with (
        serve_gpu(*(["--fault-dumps"] if dumps else [])) as socket,
        rl.connect(socket=socket, start=False) as peer,
        rl.connect(socket=socket, start=False) as culprit,
    ):
        pause = peer.compile(KERNELS, name="kernels.cu")["pause"]
        wild = culprit.compile(KERNELS, name="kernels.cu")["wild"]
        own = culprit.zeros(4, np.uint32)
        culprit.synchronize(WATCHDOG_S)
        innocent, stream = peer.stream(name="innocent"), culprit.stream(name="culprit")
        pause[1, 1](3_000_000, stream=innocent)
        while innocent.status.issued < innocent.status.published:
            time.sleep(0.001)
        wild[1, 1](own, 1, 1, stream=stream)
        found = [stopped(stream).status, stopped(innocent).status]
        print(stream.status.text, innocent.status.text, sep="\n")
        assert found == (["kernel_faulted", "neighbour_faulted"] if dumps else ["suspect", "suspect"])
        innocent.close()  # else the block's end would raise what it stopped with
        stream.close()


def test_a_rerun_of_the_same_fault_is_told_from_its_neighbours_again_and_again(serve_gpu):
    with (
        serve_gpu("--fault-dumps", "--restart-delay", "1") as socket,
        rl.connect(socket=socket, start=False) as peer,
    ):
        innocent = Chain(peer, KERNELS)
        for kernel in ("wild", "trap", "wild"):
            with rl.connect(socket=socket, start=False) as culprit:
                bad = culprit.compile(KERNELS, name="kernels.cu")[kernel]
                own = culprit.zeros(4, np.uint32)
                culprit.synchronize(WATCHDOG_S)
                stream = culprit.stream(on_restart="rerun")
                innocent.launch(300)
                bad[1, 1](own, 1, 1, stream=stream)
                assert stopped(stream, [innocent]).status == "kernel_faulted"
                stream.close()
        innocent.launch(300)
        innocent.check()


def test_a_stream_that_waited_for_the_culprit_is_told(serve_gpu):
    with serve_gpu("--fault-dumps") as socket, rl.connect(socket=socket, start=False) as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        own, word = client.zeros(4, np.uint32), client.zeros(1, np.uint32)
        client.synchronize(WATCHDOG_S)
        stream, waiter = client.stream(name="culprit"), client.stream(name="waiter", on_restart="rerun")
        kernels["wild"][1, 1](own, 1, 1, stream=stream)
        waiter.wait_event(stream.record())
        kernels["step"][1, 1](word, 3, 7, stream=waiter)
        status, beside = stopped(stream), stopped(waiter)
        print(status.text, beside.text, sep="\n")
        assert status.status == "kernel_faulted"
        # Its wait was never over, whatever the device did behind the fault, and now never will be.
        assert beside.status == "awaited_stream_stopped"
        waiter.close()
        stream.close()


@pytest.mark.parametrize("kernel", EXCEPTIONS)
def test_who_waits_for_the_culprit_is_told_of_its_fault(serve_gpu, kernel):
    """Also where CUDA completes what stands behind the fault before it tells of it."""
    with serve_gpu("--fault-dumps", "--restart-delay", "1") as socket:
        for behind in (0, 8):
            with rl.connect(socket=socket, start=False) as culprit:
                bad = culprit.compile(KERNELS, name="kernels.cu")[kernel]
                own = culprit.zeros(4, np.uint32)
                culprit.synchronize(WATCHDOG_S)
                stream = culprit.stream(name="culprit")
                for tag in range(4):
                    bad[1, 1](own, 0, tag, stream=stream)
                position = stream.status.published
                bad[1, 1](own, 1, 4, stream=stream)
                for tag in range(behind):
                    bad[1, 1](own, 0, tag, stream=stream)
                with pytest.raises(rl.KernelFault, match=f"{kernel}.* at position {position} of stream"):
                    stream.synchronize(WATCHDOG_S)
                assert stream.status.completed <= position
                stream.close()
