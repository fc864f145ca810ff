"""Tensor descriptors as arguments of launches into the daemon: the bytes that arrive, when the daemon is asked for a
map, and what is refused. The null driver answers a map that says what it was asked (daemon/driver/tensor_map.hpp)."""

import os
import signal
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from support import Daemon, in_threads
from triton_support import launch_record, triton, triton_version

import ringlaunch as rl
from ringlaunch import _core

tl = pytest.importorskip("triton.language")
TensorDescriptor = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor

DAEMON = "null"

# CUtensorMapDataType of element types, by numpy's names.
TYPES = {"uint8": 0, "int8": 0, "int16": 1, "int32": 3, "int64": 5, "float16": 6, "float32": 7, "float64": 8}
TF32 = 11


@triton.jit
def double(source, out, n, M: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0) * M
    out.store([row, 0], source.load([row, 0]) * 2)


@triton.jit
def shift(source, out, N: tl.constexpr):
    at = tl.program_id(0) * N
    out.store([at], source.load([at]))


@triton.jit
def cube(source, out, M: tl.constexpr, N: tl.constexpr):
    tl.store(out, tl.sum(tl.sum(tl.sum(source.load([0, 0, 0]), 2), 1), 0))


@triton.jit
def pair(both, n):
    source, out = both
    out.store([0], source.load([0]))


@pytest.fixture
def kernel():
    return rl.wrap(double)


class Map(NamedTuple):
    """As the null driver writes it; the innermost dimension first."""

    address: int
    sides: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]
    element_type: int
    interleave: int
    swizzle: int
    promotion: int
    fill: int


def read_map(data: bytes) -> Map:
    magic, address, *rest = struct.unpack("<8sQ5Q4Q5H5B6B19x", data)
    assert magic == b"RLNULMAP"
    sides, strides, box, steps = rest[:5], rest[5:9], rest[9:14], rest[14:19]
    rank, *numbers = rest[19:]
    assert not any((*sides[rank:], *strides[rank - 1 :], *box[rank:], *steps[rank:]))
    return Map(
        address, tuple(sides[:rank]), tuple(strides[: rank - 1]), tuple(box[:rank]), tuple(steps[:rank]), *numbers
    )


def places_of(sizes):
    """Where the image has its parameters, without what any launcher of ours knows: as ptxas lays them out, at
    multiples of their alignment in the device's constant memory, whose parameters begin at 0x210 on sm_90."""
    begin, at, found = 0x210, 0x210, []
    for size in sizes:
        alignment = 64 if size == 128 else size
        at = (at + alignment - 1) // alignment * alignment
        found.append(at - begin)
        at += size
    return found


def launched(call, *args, stream, **options):
    """What a call answers, and the parameters of its launch in the ring."""
    before = stream.status.published
    compiled = call(*args, stream=stream, **options)
    return compiled, launch_record(_core._ring_bytes(stream, before, stream.status.published - before))[1]


def asked(client):
    return client._handle.tensor_maps()[0]


def check(compiled, packed, described, numbers=()):
    """That the parameters are what Triton's launcher passes: of each descriptor its map, its shape, its strides."""
    sizes, values = [], []
    for each in described:
        sizes += [128, *[4] * len(each.shape), *[8] * len(each.shape)]
        values += [each, *each.shape, *each.strides]
    sizes += [4 if number < 1 << 32 else 8 for number in numbers]
    values += numbers
    sizes += [8, 8]  # scratch
    values += [0, 0]
    metas = iter(compiled.metadata.tensordesc_meta)
    for at, size, value in zip(places_of(sizes), sizes, values, strict=True):
        data = packed[at : at + size]
        if size != 128:
            assert int.from_bytes(data, "little", signed=True) == value
            continue
        meta = next(metas)
        dtype, itemsize = str(value.base.dtype), value.base.dtype.itemsize
        assert read_map(data) == Map(
            value.base.address,
            tuple(reversed(value.shape)),
            tuple(stride * itemsize for stride in reversed(value.strides[:-1])),
            tuple(reversed(meta["block_size"])),
            (1,) * len(value.shape),
            TF32 if getattr(value, "round_f32_to_tf32", False) else TYPES[dtype],
            0,
            meta["swizzle"],
            2,  # 128 bytes
            int(value.padding == "nan"),
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [TensorDescriptor, rl.TensorDescriptor])
def test_a_launch_has_the_map_the_shape_and_the_strides(client, kernel, dtype, kind):
    stream = client.stream()
    source, out = client.zeros((64, 32), dtype), client.zeros((48, 64), dtype)
    described = [kind(source, [64, 32], [32, 1], [16, 32]), kind(out, [48, 32], [64, 1], [16, 32])]
    for slow_calls in (1, 1, 1):  # the first is the slow way
        compiled, packed = launched(kernel[(3,)], *described, 7, M=16, N=32, stream=stream)
        check(compiled, packed, described, [7])
        assert kernel._slow_calls == slow_calls
    assert next(iter(kernel.cache)).hits == 3
    stream.synchronize()


def test_a_descriptor_is_made_of_a_buffer_as_of_a_tensor(client):
    buffer = client.zeros((4, 8, 16), "float16")
    assert buffer.stride() == (128, 16, 1) and buffer[0].stride() == (16, 1) and client.zeros(3).stride() == (1,)
    for kind in (TensorDescriptor, rl.TensorDescriptor):
        made = kind.from_tensor(buffer, [1, 8, 16])
        assert (tuple(made.shape), tuple(made.strides)) == ((4, 8, 16), (128, 16, 1))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_ranks_parts_padding_and_rounding(client, dtype):
    stream = client.stream()
    line, box = rl.wrap(shift), rl.wrap(cube)
    memory, out = client.zeros(4096, dtype), client.zeros(16, dtype)
    cases = [{"padding": "nan"}, {"padding": "zero"}]
    if dtype == "float32" and triton_version >= (3, 9):
        cases += [{"round_f32_to_tf32": True}]
    for case in cases:
        first = rl.TensorDescriptor(memory[64:], [1000], [1], [128], **case)
        second = rl.TensorDescriptor(memory, [512], [1], [128])
        for _ in range(2):
            compiled, packed = launched(line[(1,)], first, second, N=128, stream=stream)
            check(compiled, packed, [first, second])
        third = rl.TensorDescriptor(memory, [4, 8, 16], [256, 16, 1], [2, 4, 16], **case)
        compiled, packed = launched(box[(1,)], third, out, M=4, N=16, stream=stream)
        check(compiled, packed, [third], [out.address])


def test_only_the_first_use_of_a_layout_asks_the_daemon(client, kernel):
    stream = client.stream()
    source, out = client.zeros((64, 32)), client.zeros((64, 32))

    def call(one=None, two=None, of=kernel, **options):
        one = one or TensorDescriptor(source, [64, 32], [32, 1], [16, 32])
        two = two or TensorDescriptor(out, [64, 32], [32, 1], [16, 32])
        before = asked(client)
        of[(4,)](one, two, 7, M=16, N=32, stream=stream, **options)
        return asked(client) - before

    assert call() == 2
    assert [call() for _ in range(10)] == [0] * 10
    assert call(TensorDescriptor(source, [63, 32], [32, 1], [16, 32])) == 1, "another shape"
    assert call(TensorDescriptor(source, [32, 32], [64, 1], [16, 32])) == 1, "other strides"
    assert call(TensorDescriptor(source[16:], [32, 32], [32, 1], [16, 32])) == 1, "another address"
    assert call(rl.TensorDescriptor(source, [64, 32], [32, 1], [16, 32], "nan")) == 1, "other padding"
    assert call() == call(TensorDescriptor(source, [63, 32], [32, 1], [16, 32])) == 0
    # Maps are the client's: another kernel, or a variant of it, that reads the same way asks for none.
    assert call(of=rl.wrap(double, client)) == 0
    assert call(num_warps=8) == 0
    stream.synchronize()


def test_more_layouts_than_a_kernel_remembers_are_the_client_s(client, kernel):
    stream = client.stream()
    source, out = client.zeros((64, 32)), client.zeros((64, 32))
    target = TensorDescriptor(out, [64, 32], [32, 1], [16, 32])
    described = [TensorDescriptor(source, [rows, 32], [32, 1], [16, 32]) for rows in range(1, 65)]
    for _ in range(3):
        for each in described:
            compiled, packed = launched(kernel[(1,)], each, target, 7, M=16, N=32, stream=stream)
            check(compiled, packed, [each, target], [7])
    assert asked(client) == 65
    stream.synchronize()


def test_maps_that_are_kept_are_bounded(null):
    line = rl.wrap(shift)
    with null.connect() as client:
        memory, out = client.zeros(1 << 14, "uint8"), client.zeros(256, "uint8")
        target = TensorDescriptor(out, [256], [1], [128])
        for size in range(1, 4200):
            line[(1,)](TensorDescriptor(memory, [size], [1], [128]), target, N=128)
            if size % 1000 == 0:
                client.synchronize()
        made, kept = client._handle.tensor_maps()
        assert 4200 <= made <= 4202 and 1 <= kept <= 4096
        client.synchronize()


def test_a_descriptor_that_changes_is_read_anew(client, kernel):
    stream = client.stream()
    one, two, out = (client.zeros((64, 32)) for _ in range(3))
    described, target = (TensorDescriptor(each, [64, 32], [32, 1], [16, 32]) for each in (one, out))
    for base, rows in [(one, 64), (two, 64), (two, 48), (one, 64)] * 2:
        described.base, described.shape = base, [rows, 32]
        compiled, packed = launched(kernel[(4,)], described, target, 7, M=16, N=32, stream=stream)
        check(compiled, packed, [described, target], [7])


def test_a_buffer_at_the_address_of_one_that_was_freed(client, kernel):
    """The map is right for it; one that is too small for the tensor is refused all the same."""
    stream = client.stream()
    out = client.zeros((64, 32))
    target = TensorDescriptor(out, [64, 32], [32, 1], [16, 32])

    def allocate(rows, address):
        for _ in range(100):
            made = client.empty((rows, 32), "float32")
            if address in (None, made.address):
                return made
            client.synchronize()
        pytest.skip("the daemon gave other addresses")

    first = allocate(64, None)
    address = first.address
    kernel[(4,)](TensorDescriptor(first, [64, 32], [32, 1], [16, 32]), target, 7, M=16, N=32, stream=stream)
    stream.synchronize()
    first.free()
    second = allocate(64, address)
    described = TensorDescriptor(second, [64, 32], [32, 1], [16, 32])
    before = asked(client)
    compiled, packed = launched(kernel[(4,)], described, target, 7, M=16, N=32, stream=stream)
    check(compiled, packed, [described, target], [7])
    assert asked(client) == before
    second.free()
    third = allocate(32, address)
    with pytest.raises(rl.InvalidArgument, match=r"larger than the 4096 bytes"):
        kernel[(4,)](TensorDescriptor(third, [64, 32], [32, 1], [16, 32]), target, 7, M=16, N=32, stream=stream)


@pytest.mark.parametrize("quick", [False, True])
def test_what_cannot_be_is_refused_by_what_is_wrong(client, null, kernel, quick):
    stream = client.stream()
    source, out = client.zeros((64, 32)), client.zeros((64, 32))
    target = TensorDescriptor(out, [64, 32], [32, 1], [16, 32])

    def call(described):
        kernel[(4,)](described, target, 7, M=16, N=32, stream=stream)

    def made(base=source, shape=(64, 32), strides=(32, 1)):
        fine = TensorDescriptor(source, [64, 32], [32, 1], [16, 32])
        fine.base, fine.shape, fine.strides = base, list(shape), list(strides)  # which Triton does not check again
        return fine

    if quick:
        call(made())
    published = stream.status.published
    with pytest.raises(rl.InvalidArgument, match=r"kernel 'double': .*larger than the 8192 bytes"):
        call(made(shape=(65, 32)))
    with pytest.raises(rl.InvalidArgument, match=r"the stride in bytes is 132 in dimension 1"):
        call(made(shape=(8, 32), strides=(33, 1)))
    with pytest.raises(rl.InvalidArgument, match=r"side is 0 in dimension 1"):
        call(made(shape=(0, 32)))
    with pytest.raises(rl.InvalidArgument, match=r"the address is .* a multiple of 16"):
        call(made(client.zeros(2048)[1:], (8, 32)))
    with pytest.raises((rl.OutOfRange, rl.InvalidArgument), match=r"2\^32|sides|integer"):
        call(made(shape=(-1, 32)))
    with null.connect() as other, pytest.raises(rl.InvalidArgument, match="one of another client"):
        call(made(other.zeros((64, 32))))
    freed = client.zeros((64, 32))
    described = made(freed)
    freed.free()
    with pytest.raises(rl.Closed, match="freed"):
        call(described)
    of_host = made(SimpleNamespace(dtype="float32", device="cuda:0", data_ptr=lambda: 4096))
    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=r"on cuda:0.*does\s+not see this process's memory"):
            call(of_host)
    assert stream.status.published == published
    call(made())
    stream.synchronize()


def test_triton_s_own_checks_are_triton_s(client):
    buffer = client.zeros((64, 32))
    with pytest.raises(AssertionError, match="16-byte aligned"):
        TensorDescriptor(buffer, [8, 32], [33, 1], [8, 32])
    for given, text in [
        (([64, 32], [33, 1], [16, 32]), "multiples of 16 bytes"),
        (([0, 32], [32, 1], [16, 32]), "sides from 1 on"),
        (([64, 32], [32, 2], [16, 32]), "last stride of 1"),
    ]:
        with pytest.raises(rl.InvalidArgument, match=text):
            rl.TensorDescriptor(buffer, *given)
    whole = client.zeros((64, 32), "int32")
    with pytest.raises(rl.InvalidArgument, match="floating numbers alone, found i32"):
        rl.TensorDescriptor(whole, [64, 32], [32, 1], [16, 32], "nan")
    with pytest.raises(rl.InvalidArgument, match="round_f32_to_tf32: expected fp32, found i32"):
        rl.TensorDescriptor(whole, [64, 32], [32, 1], [16, 32], round_f32_to_tf32=True)


def test_before_sm_90_it_is_refused(null, kernel, monkeypatch):
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    with null.connect() as client:
        described = TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32])
        for _ in range(2):
            with pytest.raises(rl.Unsupported, match="sm_90 and later"):
                kernel[(4,)](described, described, 7, M=16, N=32)


@pytest.mark.skipif(triton_version < (3, 9), reason="Triton before 3.9 takes no descriptors in tuples")
def test_descriptors_in_tuples(client):
    kernel, stream = rl.wrap(pair), client.stream()
    one, two = (TensorDescriptor(client.zeros(256), [256], [1], [128]) for _ in range(2))
    for both in [(one, two), (two, one), (one, two)]:
        compiled, packed = launched(kernel[(1,)], both, 7, stream=stream)
        check(compiled, packed, both, [7])
    assert kernel._slow_calls == 1 and asked(client) == 2


def test_a_mode_is_that_of_the_buffer_in_a_descriptor(client, kernel):
    described = TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32])
    assert kernel._mode is None
    kernel[(4,)](described, described, 7, M=16, N=32)  # neither stream nor buffer beside it
    assert next(iter(kernel.cache)).client is client
    inline = rl.wrap(double, mode="inline")
    with pytest.raises((rl.ParamTypeError, rl.Unsupported), match=r"a tensor of this program|no GPU to launch on"):
        inline[(4,)](described, described, 7, M=16, N=32)


def test_a_graph_keeps_what_a_descriptor_is_of(client, kernel):
    stream = client.stream()
    described = [TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32]) for _ in range(2)]
    kernel[(4,)](*described, 7, M=16, N=32, stream=stream)
    slow = rl.wrap(triton.jit(double.fn))  # whose only call is one by Python
    with stream.record() as graph:
        kernel[(4,)](*described, 7, M=16, N=32, stream=stream)
        slow[(4,)](described[0], described[0], 7, M=16, N=32, stream=stream)
    addresses = {each.base.address for each in described}
    for each in described:
        each.base.free()
    for _ in range(3):
        graph.launch(stream)
    stream.synchronize()
    assert not addresses & {client.empty((64, 32), "float32").address for _ in range(4)}
    del graph


def test_a_full_ring_is_waited_for_with_maps(client, kernel):
    stream = client.stream(ring_slots=64)
    described = [TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32]) for _ in range(2)]
    for _ in range(300):
        kernel[(4,)](*described, 7, M=16, N=32, stream=stream)
    stream.synchronize()
    assert next(iter(kernel.cache)).hits == 300 and asked(client) == 2


def test_threads_that_ask_at_once_each_have_their_maps(null):
    kernel = rl.wrap(double)
    with null.connect() as client:
        out = TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32])
        kernel[(4,)](out, out, 7, M=16, N=32)

        # All alive to the end: one at the address of another that has gone would find that one's maps.
        sources = {number: client.zeros((64, 32)) for number in range(2, 6)}

        def run(number):
            stream, source = client.stream(), sources[number]
            for i in range(100):
                each = TensorDescriptor(source, [1 + i % 20, 32], [32, 1], [16, 32])
                compiled, packed = launched(kernel[(1,)], each, out, number, M=16, N=32, stream=stream)
                check(compiled, packed, [each, out], [number])
            stream.synchronize()

        in_threads(*(lambda number=number: run(number) for number in sources))
        assert asked(client) == 1 + 4 * 20


def test_a_restarted_executor_takes_the_maps_that_are_kept(kernel):
    daemon = Daemon("null")
    try:
        with daemon.connect() as client:
            stream = client.stream(on_restart="rerun")
            described = [TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32]) for _ in range(2)]
            kernel[(4,)](*described, 7, M=16, N=32, stream=stream)
            stream.synchronize()
            epoch = stream.status.epoch
            pid = daemon.process.pid
            os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGKILL)
            before = asked(client)
            while stream.status.epoch == epoch:
                compiled, packed = launched(kernel[(4,)], *described, 7, M=16, N=32, stream=stream)
                stream.synchronize()
            check(compiled, packed, described, [7])
            assert asked(client) == before
            new = TensorDescriptor(client.zeros((64, 32)), [64, 32], [32, 1], [16, 32])
            compiled, packed = launched(kernel[(4,)], new, new, 7, M=16, N=32, stream=stream)
            check(compiled, packed, [new, new], [7])
            stream.synchronize()
    finally:
        daemon.stop()


def test_saved_kernels_take_descriptors_in_the_daemon(client, kernel, tmp_path):
    stream = client.stream()
    source, out = client.zeros((64, 32)), client.zeros((48, 64))
    given = [(each, list(shape), [shape[1], 1], [16, 32]) for each, shape in ((source, (64, 32)), (out, (48, 64)))]
    described = [TensorDescriptor(*each) for each in given]
    _, expected = launched(kernel[(3,)], *described, 7, M=16, N=32, stream=stream)
    assert kernel.save(tmp_path / "double.rlt") == 1
    saved = rl.load(tmp_path / "double.rlt")
    before = asked(client)
    for kind in (TensorDescriptor, rl.TensorDescriptor):
        for _ in range(2):
            again = [kind(*each) for each in given]
            _, packed = launched(saved[(3,)], *again, 7, M=16, N=32, stream=stream)
            assert packed == expected
    assert asked(client) == before and saved._slow_calls <= 2
    other = TensorDescriptor(source, [64, 32], [32, 1], [8, 32])
    with pytest.raises(rl.NotFound, match=r"holds no variant.*tensordesc<fp32\[8, 32\]>"):
        saved[(3,)](other, described[1], 7, M=16, N=32, stream=stream)
    stream.synchronize()
