"""What the binding writes into a live ring, against the golden bytes of every record kind."""

import json
from pathlib import Path

import numpy as np
import pytest

from ringlaunch import _core

DAEMON = "null"

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RECORDS = {record["file"]: record for record in json.loads((GOLDEN / "records.json").read_text())["records"]}
CONTINUATION = 1 << 63
SLOT_BYTES = 64
BYTES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}

# Kernels whose parameters are so many bytes.
SIZES = (12, 36, 200)
SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)
template <int N> struct Bytes { unsigned char bytes[N]; };
""" + "".join(
    f'extern "C" __global__ void takes{size}(Bytes<{size}>) {{}}\nRINGLAUNCH_EXPORT(takes{size})\n' for size in SIZES
)


@pytest.fixture
def stream(client):
    return client.stream(ring_slots=64)


def field(record: bytes, described: dict):
    at = described["offset"]
    if described["type"] in BYTES:
        return int.from_bytes(record[at : at + BYTES[described["type"]]], "little")
    return record[at : at + len(described["value"]) // 2].hex()


def check(ring, at: int, file: str, **replaced) -> None:
    """The record at position `at` of a stream's ring is the golden one, except for the fields that are `replaced`."""
    described = RECORDS[file]
    golden = (GOLDEN / file).read_bytes()
    assert len(golden) == described["bytes"]
    record = _core._ring_bytes(ring, at, len(golden) // SLOT_BYTES)
    covered = bytearray(len(golden))
    for each in described["fields"]:
        name = each["name"]
        expected = field(golden, each)
        assert expected == each["value"]
        if name == "stamp":
            expected = at + 1
        elif name.endswith(".stamp"):
            expected = (at + int(name.removeprefix("continuation")[0]) + 1) | CONTINUATION
        expected = replaced.pop(name, expected)
        if expected is not any:
            assert field(record, each) == expected, name
        size = BYTES.get(each["type"]) or len(each["value"]) // 2
        covered[each["offset"] : each["offset"] + size] = b"\1" * size
    assert not replaced
    assert all(covered), "every byte of the record belongs to a field"


def params_of(file: str) -> bytes:
    record = RECORDS[file]
    values = {each["name"]: each["value"] for each in record["fields"]}
    data = values["params"] + "".join(values.get(f"continuation{i}.params", "") for i in range(1, 10))
    return bytes.fromhex(data)[: values["param_bytes"]]


@pytest.mark.parametrize(
    ("file", "kernel"),
    [
        ("launch_no_params.bin", "nothing"),
        ("launch_head_only.bin", "takes12"),
        ("launch_5_params.bin", "takes36"),
        ("launch_long.bin", "takes200"),
        ("compact_launch_no_params.bin", "nothing"),
        ("compact_launch_5_params.bin", "takes36"),
        ("compact_launch_long.bin", "takes200"),
    ],
)
@pytest.mark.parametrize("before", [0, 3, 70])
def test_a_launch_takes_the_form_that_fits_its_shape(client, stream, file, kernel, before):
    module = client.compile(SOURCE, name="golden.cu")
    for _ in range(before):
        stream.record()
        stream.synchronize()
    position = stream.status.published
    values = {each["name"]: each["value"] for each in RECORDS[file]["fields"]}
    arguments = [params_of(file)] if values["param_bytes"] else []
    grid = [values.get(f"grid_{side}", 1) for side in "xyz"]
    block = [values.get(f"block_{side}", 1) for side in "xyz"]
    replaced = {"kernel": any}
    if "shared_bytes" in values:
        replaced["shared_bytes"] = 0  # a host object has no shared memory
    if block[0] == 0:  # the default block, which these kernels do not have
        replaced["block_x"] = block[0] = 1
    module[kernel][tuple(grid), tuple(block)](*arguments, stream=stream)
    check(stream, position, file, **replaced)
    stream.synchronize()


def test_five_parameters_of_their_types(client, stream):
    """The same bytes when the types are declared one by one, in one slot."""
    source = """
        #include <ringlaunch/kernel.h>
        extern "C" __global__ void six(float*, float*, float*, int, int, int) {}
        RINGLAUNCH_EXPORT(six)"""
    six = client.compile(source, name="six.cu")["six"]
    buffers = [client.empty(4) for _ in range(3)]
    position = stream.status.published
    six[1, 1](*buffers, 1, -2, 3, stream=stream)
    assert stream.status.published == position + 1
    packed = _core._ring_bytes(stream, position, 1)[24:]
    expected = np.array([buffer.address for buffer in buffers], "<u8").tobytes() + np.array([1, -2, 3], "<i4").tobytes()
    assert packed == expected + bytes(4)


def test_an_event(stream):
    position = stream.status.published
    event = stream.record()
    check(stream, position, "event_record.bin", event=any, flags=0)
    assert event.position == position + 1


def test_a_barrier(stream):
    """An event whose completion is forced."""
    position = stream.status.published
    stream.barrier()
    check(stream, position, "event_record.bin", event=any)


def test_a_wait_for_another_stream(client, stream):
    other = client.stream()
    position = stream.status.published
    for _ in range(1000):  # an event that has completed already needs no record
        awaited = other.record()
        stream.wait_event(awaited)
        if stream.status.published != position:
            break
    check(stream, position, "event_wait.bin", stream=any, position=awaited.position)


def test_a_fill(client, stream):
    buffer = client.empty(1 << 18, np.float32)
    position = stream.status.published
    buffer.fill(1.0, stream)
    check(stream, position, "fill.bin", device=buffer.address)


def test_a_copy_to_the_device(client, stream):
    buffer = client.empty(1000, np.uint8)
    position = stream.status.published
    buffer.copy_from(np.zeros(1000, np.uint8), stream)
    check(stream, position, "copy_to_device.bin", device=buffer.address, bytes=1000, other=any, staging=any)


def test_a_copy_to_the_host(client, stream):
    buffer = client.empty(1000, np.uint8)
    stream.synchronize()
    position = stream.status.published
    buffer.numpy(stream)
    at = next(at for at in range(position, stream.status.published) if _core._ring_bytes(stream, at, 1)[8] == 3)
    check(stream, at, "copy_to_host.bin", device=buffer.address, bytes=1000, other=any, staging=any)


def test_a_copy_on_the_device(client, stream):
    to, source = client.empty(1000, np.uint8), client.empty(1000, np.uint8)
    position = stream.status.published
    to.copy_from(source, stream)
    check(stream, position, "copy_on_device.bin", device=to.address, other=source.address, bytes=1000)


def test_padding(client, stream):
    """A launch of four slots, three before the end of the ring, is preceded by padding."""
    takes = client.compile(SOURCE, name="golden.cu")["takes200"]
    while stream.status.published % 64 != 61:
        stream.record()
        stream.synchronize()
    position = stream.status.published
    takes[1, 1](bytes(200), stream=stream)
    check(stream, position, "padding.bin", slots=3)
    assert _core._ring_bytes(stream, position + 3, 1)[8] == RECORDS["compact_launch_long.bin"]["fields"][1]["value"]
    stream.synchronize()
