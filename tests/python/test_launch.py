"""The launch call on a live daemon: shapes, arguments, keywords, and what it refuses."""

import ctypes
import gc
import json
import re
import subprocess

import numpy as np
import pytest
from support import KERNELS, ROOT, WATCHDOG_S, daemon_program

import ringlaunch as rl


def test_a_kernel_computes(client, kernels):
    x = client.array(np.arange(1000, dtype=np.float32))
    kernels["scale"][4, 256](x, 2.0, x.size)
    assert (x.numpy() == np.arange(1000) * 2).all()


@pytest.mark.parametrize(
    ("grid", "block", "expected"),
    [
        (3, 32, (3, 1, 1, 32, 1, 1)),
        ((3,), (32,), (3, 1, 1, 32, 1, 1)),
        ((3, 4), (8, 2), (3, 4, 1, 8, 2, 1)),
        ((3, 4, 5), [8, 2, 1], (3, 4, 5, 8, 2, 1)),
        (np.int64(7), np.uint8(9), (7, 1, 1, 9, 1, 1)),
    ],
)
def test_grid_and_block_arrive(client, kernels, grid, block, expected):
    out = client.zeros(6, np.uint32)
    kernels["shape"][grid, block](out)
    assert tuple(out.numpy()) == expected
    out.fill(0)
    kernels["shape"].bind(grid, block)(out)
    assert tuple(out.numpy()) == expected


def test_every_scalar_type_arrives(client, kernels):
    class Pair(ctypes.Structure):
        _fields_ = [("first", ctypes.c_double), ("second", ctypes.c_int)]

    out = client.zeros(13, np.float64)
    values = (True, -128, -32768, -(2**31), -(2**53), 255, 65535, 2**32 - 1, 2**53, 0.5, 0.1)
    kernels["scalars"][1, 1](out, *values, Pair(2.5, -3))
    assert list(out.numpy()) == [*map(float, values), 2.5, -3.0]


def test_launches_of_one_stream_run_in_order(client, kernels):
    count = 3000
    values = client.zeros(count + 1, np.int32)
    append = kernels["append"]
    for value in range(count):
        append[1, 1](values, value)
    assert (values.numpy()[1:] == np.arange(count)).all()


def test_more_launches_than_the_ring_holds(client, kernels):
    with client.stream(ring_slots=64) as stream:
        x = client.zeros(1, np.int32)
        launch = kernels["increment"].bind(1, 1, stream)
        for _ in range(5000):
            launch(x)
    assert x.numpy()[0] == 5000


def test_the_stream_keyword(client, kernels):
    with client.stream() as stream:
        x = client.zeros(1, np.int32)
        kernels["increment"][1, 1](x, stream=stream)
        kernels["increment"].bind(1, 1)(x, stream=stream, shared=0)
        stream.synchronize()
        assert stream.status.published > 0
        kernels["increment"][1, 1](x, stream=None)
    assert x.numpy()[0] == 3


def test_the_same_launcher_comes_back(kernels):
    increment = kernels["increment"]
    assert increment[1, 64] is increment[(1,), (64, 1)]
    assert increment[1, 64] is not increment[1, 65]
    launchers = [increment[grid, 1] for grid in range(1, 200)]  # more than are kept
    assert [launcher.grid for launcher in launchers] == [(grid, 1, 1) for grid in range(1, 200)]


def test_a_shape_that_changes_is_read_each_time(kernels):
    class Counting:
        calls = 0

        def __index__(self):
            Counting.calls += 1
            return Counting.calls

    increment, grid, counting = kernels["increment"], [1], Counting()
    tuple_of_one = (counting,)
    for expected in range(1, 5):
        grid[0] = expected
        assert increment[grid, 32].grid == (expected, 1, 1)
        assert increment[tuple_of_one, 32].grid == (expected, 1, 1)


def test_many_shapes_of_one_kernel_stay_apart(kernels):
    increment = kernels["increment"]
    shapes = [((grid,), (block,)) for grid in range(1, 30) for block in (1, 32, 1000)]
    for _ in range(3):
        for grid, block in shapes:
            launcher = increment[grid, block]
            assert (launcher.grid, launcher.block) == ((*grid, 1, 1), (*block, 1, 1))


def test_a_launcher_says_what_it_is(client, kernels):
    with client.stream("mine") as stream:
        launcher = kernels["increment"].bind((2, 3), 4, stream)
        assert (launcher.grid, launcher.block, launcher.shared) == ((2, 3, 1), (4, 1, 1), 0)
        assert launcher.stream is stream
        assert repr(launcher) == "<ringlaunch.Launcher of 'increment', grid (2, 3, 1), block (4, 1, 1)>"
        assert kernels["increment"][1, 1].stream is client.default_stream


def test_kernels_say_what_they_are(kernels):
    assert repr(kernels["scale"]) == "<ringlaunch.Kernel scale(pointer, float32, int32)>"
    assert kernels["scale"].name == "scale"
    assert kernels["scale"].declared
    assert kernels.kernel("scale") is kernels["scale"]
    assert set(kernels) == {"scale", "increment", "append", "nap", "hold", "crash", "shape", "scalars"}
    assert kernels["scale"].params[1] == rl.Param("", "float32", 8, 4)


def test_an_unknown_kernel_is_refused(kernels):
    with pytest.raises(rl.NotFound, match="increment") as caught:
        kernels["skale"]
    assert isinstance(caught.value, KeyError)
    assert "skale" not in kernels


@pytest.mark.parametrize(
    "key",
    [0, -1, 1.5, "1", (1, 0), (1, 2, 3), (), ((1, 2, 3, 4), 1), (1, 65536), (2**31, 1), (None, 1), (1, (1, 1.5))],
)
def test_an_impossible_shape_is_refused(kernels, key):
    with pytest.raises((rl.InvalidArgument, rl.ParamTypeError)):
        kernels["increment"][key]


def test_more_threads_than_a_block_has_are_refused(client, kernels):
    x = client.zeros(1, np.int32)
    with pytest.raises(rl.InvalidArgument, match="1024"):
        kernels["increment"][1, (64, 64)](x)
    kernels["increment"][1, 1](x)  # the stream goes on
    assert x.numpy()[0] == 1


def test_a_block_that_is_too_long_in_one_direction_is_refused(client, kernels):
    x = client.zeros(1, np.int32)
    before = client.default_stream.status.published
    for launch in (kernels["increment"][1, (1, 1, 65)], kernels["increment"].bind(1, (1, 1, 65))):
        for keywords in ({}, {"shared": 0}):
            with pytest.raises(rl.InvalidArgument, match=r"block of .*1.*1.*65.* at most .*1024.*1024.*64"):
                launch(x, **keywords)
    assert client.default_stream.status.published == before
    kernels["increment"][1, (1, 1, 64)](x)  # the stream goes on
    assert x.numpy()[0] == 64


def test_more_shared_memory_than_there_is_is_refused(client, kernels):
    x = client.zeros(1, np.int32)
    with pytest.raises(rl.InvalidArgument, match="shared"):
        kernels["increment"][1, 1](x, shared=2**30)
    with pytest.raises(rl.OutOfRange, match="shared"):
        kernels["increment"][1, 1](x, shared=-1)


@pytest.mark.parametrize("form", ["subscript", "bound"])
@pytest.mark.parametrize(
    ("arguments", "keywords", "kind", "text"),
    [
        ((), {}, rl.ParamTypeError, "takes 3 parameters"),
        (("x", 2.0, 4), {}, rl.ParamTypeError, "parameter 0 \\(pointer\\): expected a Buffer"),
        ((None, 2.0, 2**31), {}, rl.OutOfRange, "parameter 2 \\(int32\\)"),
        ((None, 2.0, 1), {"n": 3}, rl.ParamTypeError, "stream=, shared= and name=, found 'n'"),
        ((None, 2.0, 1), {"stream": 3}, rl.ParamTypeError, "stream: expected a Stream, found 3"),
        ((None, 2.0, 1), {"shared": 1.5}, rl.ParamTypeError, "shared: expected an integer"),
    ],
)
def test_a_wrong_call_is_refused_and_nothing_is_launched(client, kernels, form, arguments, keywords, kind, text):
    before = client.default_stream.status.published
    call = kernels["scale"][1, 1] if form == "subscript" else kernels["scale"].bind(1, 1)
    with pytest.raises(kind, match=text):
        call(*arguments, **keywords)
    assert client.default_stream.status.published == before


def test_another_clients_buffer_and_stream_are_refused(host, client, kernels):
    with host.connect() as other:
        theirs = other.zeros(4)
        with pytest.raises(rl.InvalidArgument, match=r"parameter 0 .*another client") as caught:
            kernels["scale"][1, 1](theirs, 1.0, 4)
        # Of sessions it speaks as operators see them.
        command = [daemon_program(), "sessions", "--json", "--socket", host.socket]
        listed = subprocess.run(command, capture_output=True, check=True, timeout=WATCHDOG_S)
        named = re.findall(r"session ([0-9.]+) on", str(caught.value))
        assert len(set(named)) == 2
        assert set(named) <= {str(each["session"]) for each in json.loads(listed.stdout)["sessions"]}
        with pytest.raises(rl.InvalidArgument, match="another client"):
            kernels["scale"][1, 1](None, 1.0, 0, stream=other.stream())
        with pytest.raises(rl.InvalidArgument, match="another client"):
            kernels["scale"].bind(1, 1, other.stream())


def test_a_freed_buffer_is_refused(client, kernels):
    x = client.zeros(4)
    x.free()
    with pytest.raises(rl.Closed, match=r"parameter 0 \(pointer\): .*freed"):
        kernels["scale"][1, 1](x, 1.0, 4)


def test_a_buffer_freed_by_a_later_argument_is_refused(client, kernels):
    x = client.zeros(4)

    class Frees:
        def __index__(self):
            x.free()
            return 4

    before = client.default_stream.status.published
    with pytest.raises(rl.Closed, match="parameter 0"):
        kernels["scale"][1, 1](x, 1.0, Frees())
    assert client.default_stream.status.published == before


def test_a_stream_closed_by_an_argument_is_refused(client, kernels):
    stream = client.stream()

    class Closes:
        def __index__(self):
            stream.close()
            return 4

    with pytest.raises(rl.Closed, match="the stream is closed"):
        kernels["scale"][1, 1](None, 1.0, Closes(), stream=stream)


def test_an_argument_may_launch(client, kernels):
    x = client.zeros(100, np.int32)
    append = kernels["append"]

    class Launches:
        def __index__(self):
            append[1, 1](x, 1)
            gc.collect()
            return 2

    append[1, 1](x, Launches())
    assert list(x.numpy()[:3]) == [2, 1, 2]


def test_a_closed_client_is_refused(host):
    client = host.connect()
    x = client.zeros(1, np.int32)
    increment = client.compile("""
        #include <ringlaunch/kernel.h>
        extern "C" __global__ void increment(int* x) { *x += 1; }
        RINGLAUNCH_EXPORT(increment)""")["increment"]
    launch = increment.bind(1, 1)
    stream = client.default_stream
    event = stream.record()
    client.close()
    client.close()
    assert client.closed
    assert stream.closed
    for use in (
        lambda: launch(x),
        lambda: increment[1, 1](x),
        lambda: client.empty(3),
        lambda: client.stream(),
        lambda: client.load(b"x"),
        lambda: client.synchronize(),
        lambda: stream.synchronize(),
        lambda: stream.record(),
        lambda: stream.barrier(),
        lambda: x.numpy(),
        lambda: x.fill(0),
        lambda: x.copy_from(np.zeros(1, np.int32)),
    ):
        with pytest.raises(rl.Closed):
            use()
    assert "closed" in repr(client)
    event.done()  # answers without an error


def test_undeclared_kernels_need_a_signature(client):
    from ringlaunch._compile import compile_source

    # An object whose kernel is declared elsewhere: signatures= must agree with it.
    image = compile_source(
        """
        #include <ringlaunch/kernel.h>
        extern "C" __global__ void increment(int* x) { *x += 1; }
        RINGLAUNCH_EXPORT(increment)""",
        "k.cu",
        (),
        "host",
    )
    x = client.zeros(1, np.int32)
    client.load(image, signatures={"increment": [("x", "pointer")]})["increment"][1, 1](x)
    assert x.numpy()[0] == 1
    with pytest.raises(rl.Error, match="increment"):
        client.load(image, signatures={"increment": ["int32"]})


def test_what_is_no_image_is_refused(client, tmp_path):
    with pytest.raises(rl.BadImage):
        client.load(b"no image at all")
    path = tmp_path / "x.so"
    path.write_bytes(b"neither")
    with pytest.raises(rl.BadImage, match=r"x\.so"):
        client.load(path)
    with pytest.raises(FileNotFoundError):
        client.load(tmp_path / "missing")
    with pytest.raises(rl.ParamTypeError):
        client.load(7)


def test_handles_are_not_called(kernels):
    for kind in (rl.Launcher, rl.Buffer, rl.Stream, rl.Kernel):
        with pytest.raises(TypeError, match="made by"):
            kind()


def test_a_kernel_outlives_module_and_client_handles(host):
    client = host.connect()
    x = client.zeros(1, np.int32)
    increment = client.compile("""
        #include <ringlaunch/kernel.h>
        extern "C" __global__ void increment(int* x) { *x += 1; }
        RINGLAUNCH_EXPORT(increment)""")["increment"]
    del client
    gc.collect()
    increment[1, 1](x)
    assert x.numpy()[0] == 1


def test_launching_makes_no_object(client, kernels):
    """The launch call leaves the interpreter's count of blocks where it was."""
    import sys

    x = client.zeros(4)
    launch = kernels["scale"].bind(1, 1)
    scale = kernels["scale"]

    def loop():
        for _ in range(200):
            launch(x, 1.0, 4)
            scale[1, 1](x, 1.0, 4)

    loop()
    client.synchronize()
    before = sys.getallocatedblocks()
    loop()
    assert abs(sys.getallocatedblocks() - before) < 50


def test_a_kernel_with_attributes_is_the_same_kernel_and_runs_in_order(client, kernels):
    append = kernels["append"]
    eager = append.with_attributes(programmatic=True)
    assert type(eager) is rl.Kernel
    assert (eager.name, eager.params) == (append.name, append.params)
    assert append.attributes == ((1, 1, 1), False, False)
    assert eager.attributes == rl.KernelAttributes(cluster=(1, 1, 1), cooperative=False, programmatic=True)
    assert eager.with_attributes().attributes == append.attributes
    values = client.zeros(101, np.int32)
    for i in range(100):
        (eager if i % 2 else append)[1, 1](values, i)
    assert list(values.numpy()) == [100, *range(100)]


def test_a_kernel_with_attributes_keeps_its_module(host):
    with host.connect() as client:
        increment = client.compile(KERNELS, name="kernels.cu")["increment"].with_attributes(programmatic=True)
        x = client.zeros(1, np.int32)
        increment[1, 1](x)
        assert x.numpy()[0] == 1


@pytest.mark.parametrize("cluster", [np.int64(1), (np.uint8(1), 1), [1, 1, np.int32(1)]])
def test_a_cluster_is_of_any_integers(kernels, cluster):
    assert kernels["increment"].with_attributes(cluster=cluster).attributes.cluster == (1, 1, 1)


@pytest.mark.parametrize("attributes", [{"cluster": 2}, {"cluster": (1, 1, 2)}, {"cooperative": True}])
def test_attributes_that_the_driver_does_not_have_are_refused(kernels, attributes):
    with pytest.raises(rl.Unsupported, match=r"kernel 'increment'.*one after another"):
        kernels["increment"].with_attributes(**attributes)


@pytest.mark.parametrize("cluster", [0, (1, 0), (), (1, 1, 1, 1), "2", 1.5])
def test_a_cluster_that_is_none_is_refused(kernels, cluster):
    with pytest.raises(rl.InvalidArgument, match="1 to 3 numbers of blocks"):
        kernels["increment"].with_attributes(cluster=cluster)


def test_a_grid_that_is_not_whole_clusters_stops_its_stream_only(null):
    with null.connect() as client:
        increment = client.compile(KERNELS, name="kernels.cu")["increment"]
        clustered = increment.with_attributes(cluster=(2, 1, 1), cooperative=True)
        assert clustered.attributes.cluster == (2, 1, 1)
        x = client.zeros(1, np.int32)
        stream = client.stream()
        clustered[4, 1](x, stream=stream)
        stream.synchronize()
        clustered[3, 1](x, stream=stream)
        with pytest.raises(rl.RecordRefused, match=r"increment.*3 x 1 x 1 is not whole clusters of 2 x 1 x 1"):
            stream.synchronize()
        stream.resume()
        increment[3, 1](x)
        client.synchronize()


def test_a_kernel_with_attributes_survives_a_restart(own_host):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        eager = kernels["increment"].with_attributes(programmatic=True)
        x = client.zeros(1, np.int32)
        eager[1, 1](x)
        client.synchronize()
        stream = client.stream()
        kernels["crash"][1, 1](x, stream=stream)
        with pytest.raises(rl.KernelFault):
            stream.synchronize()
        stream.resume()
        eager[1, 1](x)
        kernels["increment"].with_attributes(programmatic=True)[1, 1](x)
        assert x.numpy()[0] == 3


def test_a_kernel_with_too_many_parameters_refuses_itself_and_not_its_module(null):
    with null.connect() as client:
        cubin = ROOT / "tests" / "driver" / "data" / "undeclared_sm120.cubin"
        module = client.load(cubin, signatures={"plain": ["pointer", "float32", "int32"]})
        assert sorted(module) == ["huge", "plain"]
        with pytest.raises(rl.Unsupported, match=r"kernel huge of .* takes 4810 bytes of parameters, .* at most 4096"):
            module["huge"]
        module["plain"][1, 32](client.empty(32), 2.0, 32)
        client.synchronize()
