"""Clusters, cooperative and programmatic launches and large shared memory on a GPU: results are compared."""

import numpy as np
import pytest
from gpu_support import MASK, WATCHDOG_S, WORK, A, executor, kill_executor

import ringlaunch as rl
from ringlaunch import _compile, _nvrtc

# cooperative_groups comes with the toolkit's headers, which NVRTC alone does not have: the few instructions that its
# cluster.sync() and grid.sync() stand for are written out here.
KERNELS = """
#include <ringlaunch/kernel.h>
__device__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

// Each block hands its number to the next one of its cluster, in that one's shared memory.
extern "C" __global__ void around(unsigned* out, unsigned blocks) {
    __shared__ unsigned mine;
    const unsigned next = (cluster_rank() + 1) % blocks;
    cluster_sync();
    if (threadIdx.x == 0) {
        unsigned here = static_cast<unsigned>(__cvta_generic_to_shared(&mine)), there;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(next));
        asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(there), "r"(blockIdx.x) : "memory");
    }
    cluster_sync();
    if (threadIdx.x == 0) out[blockIdx.x] = mine;
}
RINGLAUNCH_EXPORT(around)

// A barrier of the whole grid, `rounds` times: in each every block adds what all blocks wrote in the one before.
extern "C" __global__ void rounds(unsigned* words, unsigned* arrived, unsigned count) {
    for (unsigned round = 0; round < count; ++round) {
        const unsigned* from = words + (round % 2) * gridDim.x;
        unsigned sum = 0;
        for (unsigned i = 0; i < gridDim.x; ++i) sum += *(const volatile unsigned*)(from + i);
        words[((round + 1) % 2) * gridDim.x + blockIdx.x] = sum + blockIdx.x;
        __threadfence();
        atomicAdd(arrived, 1u);
        while (*(volatile unsigned*)arrived < (round + 1) * gridDim.x) {
        }
        __threadfence();
    }
}
RINGLAUNCH_EXPORT(rounds)

// A pair: the second may begin while the first is still at work, and waits for what it reads.
extern "C" __global__ void first(unsigned* x, unsigned value) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
    x[blockIdx.x * blockDim.x + threadIdx.x] = value + threadIdx.x;
}
RINGLAUNCH_EXPORT(first)
extern "C" __global__ void second(const unsigned* x, unsigned* y) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = y[i] * 3 + x[i];
}
RINGLAUNCH_EXPORT(second)

// out[i] = n - 1 - i, by way of n words of dynamic shared memory; one block.
extern "C" __global__ void through_shared(unsigned* out, unsigned n) {
    extern __shared__ unsigned words[];
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) words[i] = i;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) out[i] = words[n - 1 - i];
}
RINGLAUNCH_EXPORT(through_shared)
"""


@pytest.fixture
def kernels(client):
    return client.compile(KERNELS, name="attributes.cu")


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_the_blocks_of_a_cluster_reach_each_others_shared_memory(client, kernels, blocks):
    grid = 8 * blocks
    out = client.zeros(grid, np.uint32)
    kernels["around"].with_attributes(cluster=blocks)[grid, 64](out, blocks)
    numbers = np.arange(grid, dtype=np.uint32).reshape(-1, blocks)
    assert np.array_equal(out.numpy(), np.roll(numbers, 1, axis=1).ravel())


def test_a_kernel_runs_with_and_without_clusters_in_turn(client, kernels):
    plain = kernels["around"]
    clustered = plain.with_attributes(cluster=(2, 1, 1))
    assert clustered.attributes == ((2, 1, 1), False, False)
    out = client.zeros(8, np.uint32)
    for _ in range(100):
        plain[8, 32](out, 1)
        clustered[8, 32](out, 2)
    assert list(out.numpy()) == [1, 0, 3, 2, 5, 4, 7, 6]


def test_a_grid_that_is_not_whole_clusters_stops_its_stream_only(client, kernels):
    clustered = kernels["around"].with_attributes(cluster=2)
    out = client.zeros(8, np.uint32)
    client.synchronize()
    stream = client.stream()
    clustered[3, 32](out, 2, stream=stream)
    with pytest.raises(rl.RecordRefused, match=r"'around'.*3 x 1 x 1 is not whole clusters of 2 x 1 x 1"):
        stream.synchronize(timeout=WATCHDOG_S)
    stream.resume()
    clustered[8, 32](out, 2)
    assert list(out.numpy()) == [1, 0, 3, 2, 5, 4, 7, 6]


@pytest.mark.parametrize("cluster", [64, (4, 4, 4), (1 << 30, 1, 1)])
def test_a_cluster_that_the_device_does_not_have_is_refused(kernels, cluster):
    with pytest.raises(rl.InvalidArgument, match=r"'around'.*at most \d+ in all"):
        kernels["around"].with_attributes(cluster=cluster)


def test_the_blocks_of_a_cooperative_grid_wait_for_each_other(client, kernels):
    blocks, count = 64, 50
    words, arrived = client.zeros(2 * blocks, np.uint32), client.zeros(1, np.uint32)
    kernels["rounds"].with_attributes(cooperative=True)[blocks, 1](words, arrived, count)
    client.default_stream.synchronize(timeout=WATCHDOG_S)
    expected = np.zeros(blocks, dtype=np.uint32)
    for _ in range(count):
        expected = expected.sum(dtype=np.uint32) + np.arange(blocks, dtype=np.uint32)
    assert np.array_equal(words.numpy()[(count % 2) * blocks :][:blocks], expected)


def test_a_cooperative_grid_that_does_not_fit_stops_its_stream_only(client, kernels):
    together = kernels["rounds"].with_attributes(cooperative=True)
    words, arrived = client.zeros(128, np.uint32), client.zeros(1, np.uint32)
    client.synchronize()
    stream = client.stream()
    together[1 << 20, 1024](words, arrived, 1, stream=stream)
    with pytest.raises(rl.RecordRefused, match=r"'rounds'.*at most \d+ blocks are on the device at once"):
        stream.synchronize(timeout=WATCHDOG_S)
    stream.resume()
    together[64, 1](words, arrived, 1)
    assert list(words.numpy()[64:]) == list(range(64))


def test_programmatic_launches_give_what_ordinary_ones_give(client, kernels):
    blocks, turns = 64, 500
    n = blocks * 128
    first = kernels["first"].with_attributes(programmatic=True)
    second = kernels["second"].with_attributes(programmatic=True)
    x, y = client.zeros(n, np.uint32), client.zeros(n, np.uint32)
    expected = np.zeros(n, dtype=np.uint32)
    threads = np.tile(np.arange(128, dtype=np.uint32), blocks)
    for turn in range(turns):
        first[blocks, 128](x, turn)
        second[blocks, 128](x, y)
        expected = expected * np.uint32(3) + (threads + np.uint32(turn))
    assert np.array_equal(y.numpy(), expected)


def test_a_hundred_kib_of_dynamic_shared_memory(client, kernels):
    through = kernels["through_shared"]
    assert through.max_dynamic_shared_bytes >= 100 * 1024
    n = 100 * 1024 // 4
    out = client.zeros(n, np.uint32)
    through[1, 256](out, n, shared=4 * n)
    assert np.array_equal(out.numpy(), np.arange(n, dtype=np.uint32)[::-1])


def test_a_kernel_says_what_it_takes_of_the_device(kernels):
    around = kernels["around"]
    assert 0 < around.registers <= 255
    assert around.static_shared_bytes >= 4
    assert around.max_threads == 1024
    assert around.attributes == ((1, 1, 1), False, False)


def test_attributes_survive_a_restart(gpu_socket):
    with rl.connect(socket=gpu_socket, start=False) as client:
        kernels = client.compile(KERNELS, name="attributes.cu")
        clustered = kernels["around"].with_attributes(cluster=2)
        out = client.zeros(8, np.uint32)
        client.synchronize()
        with rl.connect(socket=gpu_socket, start=False) as culprit:
            source = """
                #include <ringlaunch/kernel.h>
                extern "C" __global__ void trap(int n) { if (n) asm volatile("trap;"); }
                RINGLAUNCH_EXPORT(trap)"""
            stream = culprit.stream()
            culprit.compile(source, name="trap.cu")["trap"][1, 1](1, stream=stream)
            with pytest.raises(rl.StreamStopped):
                stream.synchronize(timeout=WATCHDOG_S)
            stream.resume()
        clustered[8, 32](out, 2)
        assert list(out.numpy()) == [1, 0, 3, 2, 5, 4, 7, 6]


VALUES = 100
HUNGRY = f"""
#include <ringlaunch/kernel.h>
// Holds {VALUES} values at once: each is read before the first is written.
extern "C" __global__ void hungry(volatile unsigned* out, const volatile unsigned* in) {{
    unsigned values[{VALUES}];
#pragma unroll
    for (int i = 0; i < {VALUES}; ++i) values[i] = in[i];
#pragma unroll
    for (int i = 0; i < {VALUES}; ++i) out[{VALUES} - 1 - i] = values[i];
}}
RINGLAUNCH_EXPORT(hungry)
"""


def hungry_ptx(architecture: str) -> bytes:
    """The same for the GPU's driver to compile."""
    reads = "\n".join(f"ld.volatile.global.u32 %r{i}, [%rd2+{4 * i}];" for i in range(VALUES))
    writes = "\n".join(f"st.volatile.global.u32 [%rd1+{4 * (VALUES - 1 - i)}], %r{i};" for i in range(VALUES))
    return f"""
.version 8.0
.target {architecture}
.address_size 64
.visible .entry hungry(.param .u64 out, .param .u64 in)
{{
.reg .b32 %r<{VALUES}>;
.reg .b64 %rd<5>;
ld.param.u64 %rd3, [out];
ld.param.u64 %rd4, [in];
cvta.to.global.u64 %rd1, %rd3;
cvta.to.global.u64 %rd2, %rd4;
{reads}
{writes}
ret;
}}
""".encode()


def check_hungry(client, kernel):
    source, out = client.array(np.arange(VALUES, dtype=np.uint32)), client.zeros(VALUES, np.uint32)
    kernel[1, 1](out, source)
    assert np.array_equal(out.numpy(), np.arange(VALUES, dtype=np.uint32)[::-1])


def test_registers_of_ptx_are_limited_where_it_is_loaded(client):
    image, signatures = hungry_ptx(client.daemon.architecture), {"hungry": ["pointer", "pointer"]}
    plain = client.load(image, signatures=signatures, name="plain")["hungry"]
    limited = client.load(image, signatures=signatures, name="limited", max_registers=40)["hungry"]
    assert plain.registers > VALUES
    assert limited.registers <= 40
    assert limited.local_bytes > plain.local_bytes  # what did not fit
    check_hungry(client, plain)
    check_hungry(client, limited)


def test_registers_are_limited_where_a_source_is_compiled(client):
    plain = client.compile(HUNGRY, name="hungry.cu")["hungry"]
    limited = client.compile(HUNGRY, name="hungry.cu", max_registers=40)["hungry"]
    assert plain.registers > VALUES
    assert limited.registers <= 40
    check_hungry(client, plain)
    check_hungry(client, limited)


def test_registers_of_what_is_compiled_already_cannot_be_limited(client):
    image = _nvrtc.compile_cubin(HUNGRY, "hungry.cu", [], client.daemon.architecture, _compile.INCLUDE)
    with pytest.raises(rl.Unsupported, match=r"a cubin.*settled when it was compiled.*max_registers 40"):
        client.load(image, name="hungry", max_registers=40)
    check_hungry(client, client.load(image, name="hungry")["hungry"])


WILD = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void wild(int n) { *reinterpret_cast<volatile int*>(8) = n; }
RINGLAUNCH_EXPORT(wild)
"""
RECURSIVE = """
#include <ringlaunch/kernel.h>
__device__ __noinline__ int deeper(int n, const volatile int* in) {
    volatile int frame[16];
    for (int i = 0; i < 16; ++i) frame[i] = in[0] + n;
    return n == 0 ? frame[3] : deeper(n - 1, in) + frame[n & 15];
}
extern "C" __global__ void recurse(int* out, const int* in, int n) { out[threadIdx.x] = deeper(n, in); }
RINGLAUNCH_EXPORT(recurse)
"""


def test_a_kernel_recurses_as_deep_as_its_daemon_gives_stack(serve_gpu):
    """Some 10 KiB of it: ten times what CUDA gives by itself. The next executor gives as much."""
    depth = 100
    with serve_gpu("--stack", "16KiB") as socket, rl.connect(socket=socket, start=False) as client:
        module = client.compile(RECURSIVE, name="recursive.cu")
        given, out = client.array(np.array([5], np.int32)), client.zeros(32, np.int32)
        expected = sum(5 + n for n in range(depth + 1))
        for _ in range(2):
            out.fill(0)
            module["recurse"][1, 32](out, given, depth)
            assert list(out.numpy()) == [expected] * 32
            stream = client.stream()
            client.compile(WILD, name="wild.cu")["wild"][1, 1](1, stream=stream)
            with pytest.raises(rl.StreamStopped):
                stream.synchronize(timeout=WATCHDOG_S)
            stream.close()


# Beside a recursion whose depth its code does not say: a frame of 4 KiB that it does, and none at all. Several of each,
# so that a backlog of them can be in no order that comes again.
COPIES = 8
STACKS = RECURSIVE + "".join(
    f"""
extern "C" __global__ void recurse{i}(int* out, const int* in, int n) {{ out[threadIdx.x] = deeper(n, in); }}
RINGLAUNCH_EXPORT(recurse{i})
extern "C" __global__ void framed{i}(int* out, const volatile int* in) {{
    volatile int frame[1024];
    for (int i = 0; i < 1024; ++i) frame[(i * 37) & 1023] = in[0] + i;
    int sum = 0;
    for (int i = 0; i < 1024; i += 64) sum += frame[(i + in[1]) & 1023];
    out[threadIdx.x] = sum;
}}
RINGLAUNCH_EXPORT(framed{i})
extern "C" __global__ void count{i}(unsigned* word) {{ *word += 1; }}
RINGLAUNCH_EXPORT(count{i})
"""
    for i in range(COPIES)
)
GIVEN = (5, 3)  # what they read
SHALLOW, DEEP, DEEPER = 2, 100, 220  # recursions that take less than 1 KiB of stack, some 10 KiB, some 20


def _recursed(depth: int) -> int:
    return sum(GIVEN[0] + n for n in range(depth + 1))


def _framed() -> int:
    frame = [0] * 1024
    for i in range(1024):
        frame[(i * 37) & 1023] = GIVEN[0] + i
    return sum(frame[(i + GIVEN[1]) & 1023] for i in range(0, 1024, 64))


class _Rounds:
    """Kernels of a module again and again on a stream of their own, in one of the ways that the driver has."""

    def __init__(self, client, module, depth: int, way: str, blocks: int = 264):
        self.depth, self.way, self.blocks = depth, way, blocks
        self.stream = client.stream(name=way)
        self.given = client.array(np.array(GIVEN, np.int32))
        self.deep, self.framed = client.zeros(64, np.int32), client.zeros(64, np.int32)
        self.word, self.counted = client.zeros(1, np.uint32), 0
        client.synchronize(WATCHDOG_S)
        self.kernels = {name: module[name] for name in module}
        self.random = np.random.default_rng(depth)
        self.graph = None
        if way == "graph":
            with self.stream.record() as graph:
                self._launch()
            self.graph, self.counted = graph, 0

    def _launch(self) -> None:
        order = [("recurse", 0), ("count", 0), ("framed", 0)]
        if self.way == "disorder":
            order = [(order[kind][0], copy) for kind, copy in self.random.integers((0, 0), (3, COPIES), (24, 2))]
        for kind, copy in order:
            kernel = self.kernels[f"{kind}{copy}"]
            if kind == "recurse":
                kernel[self.blocks, 64](self.deep, self.given, self.depth, stream=self.stream)
            elif kind == "framed":
                kernel[self.blocks, 64](self.framed, self.given, stream=self.stream)
            else:
                kernel[1, 1](self.word, stream=self.stream)
                self.counted += self.graph is None

    def run(self) -> None:
        self.deep.fill(0, stream=self.stream)
        self.framed.fill(0, stream=self.stream)
        times = 40 if self.way == "waited" else 200
        for _ in range(times):
            if self.graph is None:
                self._launch()
            else:
                self.graph.launch()
                self.counted += 1
            if self.way == "waited":
                self.stream.synchronize(timeout=WATCHDOG_S)
        self.stream.synchronize(timeout=WATCHDOG_S)
        assert list(self.deep.numpy(stream=self.stream)) == [_recursed(self.depth)] * 64
        assert list(self.framed.numpy(stream=self.stream)) == [_framed()] * 64
        assert int(self.word.numpy(stream=self.stream)[0]) == self.counted


# plain: each launch by itself; waited: graphs of one node; backlog: chains; disorder: mixed chains; graph: a user's.
WAYS = ["plain", "waited", "backlog", "disorder", "graph"]


@pytest.mark.parametrize("way", WAYS)
def test_a_kernel_recurses_as_deep_as_its_module_asked_for(serve_gpu, way):
    with serve_gpu() as socket, rl.connect(socket=socket, start=False, coalesce=way != "plain") as client:
        # What is made before anybody asks goes on in the middle of it: other kernels, and this source's own.
        before = _Rounds(client, client.compile(STACKS, name="stacks.cu"), SHALLOW, way)
        before.run()
        module = client.compile(STACKS, name="stacks.cu", stack=16 << 10)
        assert module["recurse"].stack_bytes == 16 << 10
        deep = _Rounds(client, module, DEEP, way)
        deep.run()
        before.run()
        # Another asks for more, of which all threads have theirs moved.
        deeper = _Rounds(client, client.compile(STACKS, name="stacks.cu", stack=32 << 10), DEEPER, way)
        for each in (deeper, deep, before, deeper):
            each.run()
        kill_executor(client)
        for each in (deep, deeper, before, deep):
            each.run()


def test_a_stack_that_came_with_another_modules_launches_in_flight(serve_gpu):
    """Launches wait while it is raised, none is lost or doubled, and nobody's executor is ended for it."""
    with (
        serve_gpu() as socket,
        rl.connect(socket=socket, start=False) as client,
        rl.connect(socket=socket, start=False) as neighbour,
    ):
        pid = executor(client)
        image = _compile.compile_source(STACKS, "stacks.cu", [], "cuda", client.daemon.architecture)
        work = neighbour.compile(WORK, name="work.cu")
        stream, word = neighbour.stream(), neighbour.zeros(1, np.uint32)
        neighbour.synchronize(WATCHDOG_S)
        expected = 0
        for stack in (2048, 4096, 8192, 16384):
            work["pause"][1, 1](500_000, stream=stream)
            for value in range(2000):
                work["step"][1, 1](word, A, value, stream=stream)
                expected = (expected * A + value) & MASK
            module = client.load(image, name="stacks.cu", stack=stack)
        _Rounds(client, module, DEEP, "backlog").run()
        stream.synchronize(timeout=WATCHDOG_S)
        assert int(word.numpy(stream=stream)[0]) == expected
        # Longer than launches are made to wait: the load waits, and they go on.
        work["pause"][1, 1](3_000_000, stream=stream)
        work["step"][1, 1](word, A, 1, stream=stream)
        deeper = client.load(image, name="stacks.cu", stack=32 << 10)
        stream.synchronize(timeout=WATCHDOG_S)
        assert int(word.numpy(stream=stream)[0]) == (expected * A + 1) & MASK
        _Rounds(client, deeper, DEEPER, "backlog").run()
        assert executor(client) == pid


def test_a_stack_for_which_the_device_has_no_room_is_refused_and_changes_nothing(serve_gpu):
    with serve_gpu("--max-stack", "1MiB") as socket, rl.connect(socket=socket, start=False) as client:
        pid = executor(client)
        module = client.compile(STACKS, name="stacks.cu", stack=16 << 10)
        refused = r"'huge': .*stack of 1048576 bytes for each of the \d+ threads that fit on .*enough for at most \d+"
        with pytest.raises(rl.OutOfMemory, match=refused):
            client.compile(STACKS, name="huge", stack=1 << 20)
        _Rounds(client, module, DEEP, "backlog").run()
        assert executor(client) == pid


def test_a_stack_beyond_the_daemons_limit_is_refused(serve_gpu):
    with serve_gpu("--max-stack", "4KiB") as socket, rl.connect(socket=socket, start=False) as client:
        with pytest.raises(rl.LimitReached, match=r"stack of 4097 bytes.*at most 4096 bytes \(--max-stack\)"):
            client.compile(STACKS, name="stacks.cu", stack=4097)
        assert client.compile(STACKS, name="stacks.cu", stack=4096)["count0"].stack_bytes == 4096
