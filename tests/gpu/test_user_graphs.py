"""Users' graphs on a GPU: results are exact, updates stand where they were made, restarts and faults lose neither."""

import time

import numpy as np
import pytest
from gpu_support import MASK, WATCHDOG_S, WORK, A, kill_executor, stopped

import ringlaunch as rl

KERNELS = (
    WORK
    + """
extern "C" __global__ void indices(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * blockDim.x + threadIdx.x] += block * blockDim.x + threadIdx.x;
}
RINGLAUNCH_EXPORT(indices)
extern "C" __global__ void wild(unsigned* own, int how) {
    if (how == 1) *reinterpret_cast<volatile int*>(8) = 1; else own[3] = 7;
}
RINGLAUNCH_EXPORT(wild)
__device__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
extern "C" __global__ void ranks(unsigned* out) { out[blockIdx.x] = cluster_rank(); }
RINGLAUNCH_EXPORT(ranks)
extern "C" __global__ void meet(unsigned* words, unsigned* arrived) {
    words[blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*(volatile unsigned*)arrived < gridDim.x) {}
}
RINGLAUNCH_EXPORT(meet)
// Waits until the host has come so far; gives up after a while, so that it ends in any case.
extern "C" __global__ void gate(volatile unsigned* reached, unsigned round) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (*reached < round && now - begin < 20000000000ull);
}
RINGLAUNCH_EXPORT(gate)
"""
)


@pytest.fixture
def kernels(client):
    return client.compile(KERNELS, name="kernels.cu")


def test_replays_with_updates_between_them_are_exact(client, kernels):
    nodes, replays = 100, 3000
    stream = client.stream()
    word = client.zeros(1, np.uint32)
    client.synchronize(WATCHDOG_S)
    values = list(range(nodes))
    with stream.record() as graph:
        for value in values:
            kernels["step"][1, 1](word, A, value, stream=stream)
    expected = 0
    for replay in range(replays):
        if replay % 3 != 0:
            for node in ((replay * 7) % nodes, (replay * 31) % nodes):
                values[node] = replay * 1000 + node
                graph[node].update(word, A, values[node])
        graph.launch()
        for value in values:
            expected = (expected * A + value) & MASK
        if replay % 50 == 0:
            kernels["step"][1, 1](word, A, replay, stream=stream)
            expected = (expected * A + replay) & MASK
    assert int(word.numpy(stream=stream)[0]) == expected


def test_copies_fills_and_changed_shapes(client, kernels):
    stream = client.stream()
    x, y = client.zeros(64, np.uint32), client.zeros(64, np.uint32)
    client.synchronize(WATCHDOG_S)
    with stream.record() as graph:
        x.fill(100, stream=stream)
        kernels["indices"][2, 8](x, stream=stream, name="indices")
        y.copy_from(x, stream=stream)
    graph.launch()
    assert list(y.numpy(stream=stream)) == [100 + i if i < 16 else 100 for i in range(64)]
    graph["indices"].update(grid=(2, 2, 2), block=8)
    graph.launch()
    assert list(y.numpy(stream=stream)) == [100 + i for i in range(64)]


def test_clusters_and_programmatic_launches_in_a_graph(client, kernels):
    stream = client.stream()
    out, word = client.zeros(64, np.uint32), client.zeros(1, np.uint32)
    client.synchronize(WATCHDOG_S)
    ranks = kernels["ranks"].with_attributes(cluster=4)
    eager = kernels["step"].with_attributes(programmatic=True)
    with stream.record() as graph:
        ranks[8, 32](out, stream=stream, name="ranks")
        for value in range(10):
            eager[1, 1](word, A, value, stream=stream)
    expected = 0
    for _ in range(3):
        graph.launch()
        for value in range(10):
            expected = (expected * A + value) & MASK
    assert list(out.numpy(stream=stream)[:8]) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert int(word.numpy(stream=stream)[0]) == expected
    graph["ranks"].update(grid=16)
    graph.launch()
    assert list(out.numpy(stream=stream)[:16]) == [0, 1, 2, 3] * 4
    graph["ranks"].update(grid=6)
    graph.launch()
    with pytest.raises(rl.RecordRefused, match="not whole clusters"):
        stream.synchronize(WATCHDOG_S)


def test_a_cooperative_launch_is_refused(client, kernels):
    stream = client.stream()
    words, arrived = client.zeros(64, np.uint32), client.zeros(1, np.uint32)
    meet = kernels["meet"].with_attributes(cooperative=True)

    def record():
        with stream.record():
            meet[16, 32](words, arrived, stream=stream)

    with pytest.raises(rl.Unsupported, match="kernel 'meet', is launched cooperatively"):
        record()
    meet[16, 32](words, arrived, stream=stream)
    assert list(words.numpy(stream=stream)[:16]) == list(range(1, 17))


def test_many_graphs_on_many_streams(client, kernels):
    word = [client.zeros(1, np.uint32) for _ in range(8)]
    streams = [client.stream() for _ in range(8)]
    client.synchronize(WATCHDOG_S)
    graphs = []
    for i in range(8):
        with streams[i].record() as graph:
            for value in range(20):
                kernels["step"][1, 1](word[i], A, value + i, stream=streams[i])
        graphs.append(graph)
    for _ in range(500):
        for graph in graphs:
            graph.launch()
    for i in range(8):
        expected = 0
        for _ in range(500):
            for value in range(20):
                expected = (expected * A + value + i) & MASK
        assert int(word[i].numpy(stream=streams[i])[0]) == expected


def test_an_unloaded_module_and_a_graph_of_another_go_on(client, kernels):
    stream = client.stream()
    word = client.zeros(1, np.uint32)
    other = client.compile(KERNELS.replace("a + b", "a + b + 1"), name="other.cu")
    with stream.record() as graph:
        kernels["step"][1, 1](word, 1, 1, stream=stream)
    with stream.record() as gone:
        other["step"][1, 1](word, 1, 1, stream=stream)
    gone.launch()
    stream.synchronize(WATCHDOG_S)
    del gone, other
    client.synchronize(WATCHDOG_S)
    for _ in range(100):
        graph.launch()
    assert int(word.numpy(stream=stream)[0]) == 102


@pytest.mark.parametrize("on_restart", ["rerun", "stop"])
def test_a_killed_executor_leaves_graphs_as_their_updates_left_them(serve_gpu, on_restart):
    with serve_gpu() as socket, rl.connect(socket=socket, start=False) as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(on_restart=on_restart)
        cells = client.zeros(4096, np.uint32)
        client.synchronize(WATCHDOG_S)
        with stream.record() as graph:
            kernels["chain"][1, 1](cells, 0, 1, A, 0, stream=stream, name="link")
        expected = np.zeros(4096, np.uint32)
        at = 0

        def launch(count):
            nonlocal at
            for _ in range(count):
                graph["link"].update(cells, at, at + 1, A, at)
                graph.launch()
                expected[at + 1] = (int(expected[at]) * A + at) & MASK
                at += 1

        launch(200)
        stream.synchronize(WATCHDOG_S)
        kill_executor(client)
        graph.launch()  # the last link again: the update has outlived its executor
        stream.synchronize(WATCHDOG_S)
        assert list(cells.numpy(stream=stream)[: at + 1]) == list(expected[: at + 1])
        reached = client.pinned_empty(1, np.uint32)
        reached[0] = 0
        for number in range(1, 4):
            kernels["gate"][1, 1](reached, number, stream=stream)
            first = at
            launch(50)
            kill_executor(client)
            reached[0] = number
            if on_restart == "stop":
                assert stopped(stream).status in ("executor_killed", "suspect")
                stream.resume(rerun=True)
            stream.synchronize(WATCHDOG_S)
            found = cells.numpy(stream=stream)
            assert list(found[first : at + 1]) == list(expected[first : at + 1])


def test_a_fault_within_a_graph_is_the_graphs_and_the_kernels(serve_gpu):
    with (
        serve_gpu("--fault-dumps") as socket,
        rl.connect(socket=socket, start=False) as client,
        rl.connect(socket=socket, start=False) as peer,
    ):
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(name="faulty")
        own = client.zeros(8, np.uint32)
        word = client.zeros(1, np.uint32)
        client.synchronize(WATCHDOG_S)
        with stream.record() as graph:
            for value in range(10):
                kernels["step"][1, 1](word, A, value, stream=stream)
            kernels["wild"][1, 1](own, 0, stream=stream, name="wild")
            kernels["step"][1, 1](word, A, 10, stream=stream)
        graph.launch()
        stream.synchronize(WATCHDOG_S)
        mine = peer.compile(KERNELS, name="kernels.cu")
        quiet = peer.stream(on_restart="rerun")
        theirs = peer.zeros(1, np.uint32)
        with quiet.record() as peer_graph:
            mine["step"][1, 1](theirs, 2, 1, stream=quiet)
        peer_graph.launch()
        quiet.synchronize(WATCHDOG_S)
        graph["wild"].update(own, 1)
        at = stream.status.published + 2  # behind the update, which has two slots
        graph.launch()
        # CUDA completes what is behind a fault before it says that there was one.
        found = stopped(stream)
        print(f"the fault reads: {found.text}")
        assert (found.status, found.error_kernel, found.error_position) == ("kernel_faulted", "wild", at)
        peer_graph.launch()
        assert int(theirs.numpy(stream=quiet)[0]) == 3
        with pytest.raises(rl.KernelFault, match="wild"):
            stream.synchronize(WATCHDOG_S)
        stream.resume()


def test_a_fault_at_the_beginning_of_a_long_graph_is_not_put_down_to_a_neighbour(serve_gpu):
    with (
        serve_gpu("--fault-dumps") as socket,
        rl.connect(socket=socket, start=False) as client,
        rl.connect(socket=socket, start=False) as peer,
    ):
        kernels = client.compile(KERNELS, name="kernels.cu")
        mine = peer.compile(KERNELS, name="kernels.cu")
        word = client.zeros(1, np.uint32)
        client.synchronize(WATCHDOG_S)
        stream, innocent = client.stream(name="faulty"), peer.stream(name="innocent")
        with stream.record() as graph:
            kernels["wild"][1, 1](None, 1, stream=stream)
            for value in range(4000):
                kernels["step"][1, 1](word, A, value, stream=stream)
        # The same launch, which has its turn only when the long pause before it is over.
        mine["pause"][1, 1](3_000_000, stream=innocent)
        mine["wild"][1, 1](None, 1, stream=innocent)
        while innocent.status.issued < innocent.status.published:
            time.sleep(0.001)
        at = stream.status.published
        graph.launch()
        found, beside = stopped(stream), stopped(innocent)
        print(f"the fault reads: {found.text}; beside it: {beside.text}")
        innocent.close()  # else the block's end would raise what it stopped with
        stream.close()
        assert (found.status, found.error_kernel, found.error_position) == ("kernel_faulted", "wild", at)
        assert beside.status == "neighbour_faulted"


def test_long_graphs_in_a_row_are_exact_also_where_every_launch_is_noted(serve_gpu):
    nodes, replays = 4000, 60
    with serve_gpu("--fault-dumps") as socket, rl.connect(socket=socket, start=False) as client:
        step = client.compile(KERNELS, name="kernels.cu")["step"]
        word = client.zeros(1, np.uint32)
        stream = client.stream()
        client.synchronize(WATCHDOG_S)
        with stream.record() as graph:
            for value in range(nodes):
                step[1, 1](word, A, value, stream=stream)
        for replay in range(replays):
            graph.launch()
            step[1, 1](word, A, replay, stream=stream)
        expected = 0
        for replay in range(replays):
            for value in (*range(nodes), replay):
                expected = (expected * A + value) & MASK
        assert int(word.numpy(stream=stream, timeout=WATCHDOG_S)[0]) == expected


def test_graphs_are_accounted_and_given_back(client, kernels):
    stream = client.stream()
    word = client.zeros(1, np.uint32)
    for _ in range(300):
        with stream.record() as graph:
            for value in range(20):
                kernels["step"][1, 1](word, A, value, stream=stream)
        graph.launch()
    stream.synchronize(WATCHDOG_S)
