"""Compiling in the client's process, and the cache of what was compiled."""

import math
import os
import stat

import numpy as np
import pytest
from support import Daemon

import ringlaunch as rl
from ringlaunch import _compile, _nvrtc

SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ringlaunch"


@pytest.fixture
def nvrtc():
    """The library, or a skip that says why."""
    try:
        return _nvrtc.load()
    except rl.Unsupported as error:
        pytest.skip(str(error))


@pytest.fixture
def compilations(monkeypatch):
    """The compiler's runs."""
    runs = []
    real = _compile._compile

    def counting(*arguments):
        runs.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(_compile, "_compile", counting)
    return runs


def build(source=SOURCE, name="k.cu", options=(), driver="host"):
    return _compile.compile_source(source, name, options, driver)


def test_a_source_becomes_a_shared_object(cache):
    assert build()[:4] == b"\x7fELF"


def test_the_second_time_nothing_is_compiled(cache, compilations):
    first = build()
    assert build() == first
    assert build(driver="null") == first
    assert len(compilations) == 1


@pytest.mark.parametrize("other", [{"source": SOURCE + "\n"}, {"name": "l.cu"}, {"options": ["-DX=1"]}])
def test_whatever_the_image_depends_on_is_in_the_key(cache, compilations, other):
    build()
    build(**other)
    assert len(compilations) == 2


def test_a_limit_of_registers_changes_nothing_for_a_cpu(cache, compilations, client):
    build()
    client.compile(SOURCE, name="k.cu", max_registers=32)["nothing"][1, 1]()
    client.synchronize()
    assert len(compilations) == 1
    for wrong, error in ((0, rl.OutOfRange), (256, rl.OutOfRange), ("32", rl.ParamTypeError), (1.5, rl.ParamTypeError)):
        with pytest.raises(error, match="max_registers"):
            client.compile(SOURCE, max_registers=wrong)
        with pytest.raises(error, match="max_registers"):
            client.load(build(), max_registers=wrong)


def test_registers_of_a_hosts_object_cannot_be_limited(client):
    with pytest.raises(rl.Unsupported, match=r"'small' with max_registers 32.*compiled already"):
        client.load(build(), name="small", max_registers=32)
    client.load(build(), name="small")["nothing"][1, 1]()
    client.synchronize()


def test_a_module_has_the_stack_that_it_asks_for(client):
    assert client.compile(SOURCE, name="k.cu")["nothing"].stack_bytes == 0
    for kernel in (
        client.compile(SOURCE, name="k.cu", stack=16384)["nothing"],
        client.load(build(), name="deep", stack=np.int64(16384))["nothing"],
    ):
        assert kernel.stack_bytes == 16384
        assert kernel.with_attributes(programmatic=True).stack_bytes == 16384
        kernel[1, 1]()
    client.synchronize()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (0, rl.OutOfRange),
        (-1, rl.OutOfRange),
        (2**64, rl.OutOfRange),
        ("16", rl.ParamTypeError),
        (1.5, rl.ParamTypeError),
    ],
)
def test_a_stack_that_cannot_be_is_refused_before_anything_is_compiled(cache, compilations, client, wrong, error):
    with pytest.raises(error, match=r"^stack: expected an integer"):
        client.compile(SOURCE, stack=wrong)
    assert not compilations
    with pytest.raises(error, match=r"^stack: expected an integer"):
        client.load(build(), stack=wrong)


def test_a_stack_beyond_the_daemons_limit_is_refused(client):
    with pytest.raises(rl.LimitReached, match=r"deep with a stack of 32769 bytes.*at most 32768 bytes \(--max-stack\)"):
        client.load(build(), name="deep", stack=32769)
    with pytest.raises(rl.LimitReached, match=r"k\.cu with a stack of 9223372036854775807 bytes"):
        client.compile(SOURCE, name="k.cu", stack=2**63 - 1)


def test_a_thread_of_the_host_driver_has_no_more_stack_than_the_system_gives():
    daemon = Daemon("host", "--max-stack", "1TiB")
    try:
        with daemon.connect() as client:
            with pytest.raises(rl.Unsupported, match=r"'deep': .*so one of 549755813888 cannot be had.*ulimit -s"):
                client.load(build(), name="deep", stack=2**39)
            client.load(build(), name="deep")["nothing"][1, 1]()
            client.synchronize()
    finally:
        daemon.stop()


def test_nvrtc_is_told_the_limit_of_registers(nvrtc):
    source = """
        extern "C" __global__ void hungry(volatile unsigned* out, const volatile unsigned* in) {
            unsigned values[100];
        #pragma unroll
            for (int i = 0; i < 100; ++i) values[i] = in[i];
        #pragma unroll
            for (int i = 0; i < 100; ++i) out[99 - i] = values[i];
        }"""
    plain = _compile.compile_source(source, "hungry.cu", [], "cuda", "sm_90")
    limited = _compile.compile_source(source, "hungry.cu", [], "cuda", "sm_90", 40)
    assert len(limited) != len(plain)  # what a kernel says of itself, only a GPU's driver reads


def test_the_cache_is_the_users_alone(cache):
    build()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_a_folder_that_others_can_reach_is_not_used(cache, compilations, mode):
    cache.mkdir()
    cache.chmod(mode)
    build()
    build()
    assert len(compilations) == 2
    assert not list(cache.iterdir())


def test_a_link_is_not_used(cache, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    cache.symlink_to(elsewhere)
    build()
    assert not list(elsewhere.iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert build()[:4] == b"\x7fELF"


def test_an_empty_image_in_the_cache_is_compiled_again(cache, compilations):
    build()
    (image,) = cache.iterdir()
    image.write_bytes(b"")
    assert build()[:4] == b"\x7fELF"
    assert len(compilations) == 2


def test_the_least_recently_used_images_go(cache, monkeypatch):
    monkeypatch.setattr(_compile, "_CACHED_IMAGES", 2)
    for i in range(3):
        build(options=[f"-DN={i}"])
        for path in cache.iterdir():  # as if long ago, in order
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    assert len(list(cache.iterdir())) == 2


def test_the_compilers_log_is_in_the_error(cache):
    with pytest.raises(rl.CompileError, match=r"my kernel\.cu:3:.*error") as caught:
        build('\n\nextern "C" void f( {\n', name="my kernel.cu")
    assert "my kernel.cu:3" in caught.value.log
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("__shared__ int x;", "__shared__ memory does not exist in kernels compiled for the host driver"),
        ("int x = warpSize; (void)x;", "warpSize exists only on a GPU"),
        ("__syncthreads();", "__syncthreads exists only on a GPU"),
        ("__shfl_down_sync(~0u, 1.0f, 16);", "__shfl_down_sync exists only on a GPU"),
        ("__fadd_rz(1.0f, 2.0f);", "__fadd_rz exists only on a GPU"),
    ],
)
def test_what_the_host_cannot_do_does_not_compile(cache, body, text):
    with pytest.raises(rl.CompileError, match=text):
        build(f'#include <ringlaunch/kernel.h>\nextern "C" __global__ void k() {{ {body} }}')


INTRINSICS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void intrinsics(float* out, const float* in) {
    out[0] = __expf(__ldg(in));
    out[1] = __fmaf_rn(in[0], in[1], 1.0f);
    out[2] = __int2float_rz(__float2int_rn(in[1]));
    out[3] = __popc(0xffu) + __clz(1) + __ffs(8);
    out[4] = __uint_as_float(__brev(__brev(__float_as_uint(in[0]))));
    out[5] = max(min(in[0], 1.0f), __fdividef(in[0], in[1]));
}
RINGLAUNCH_EXPORT(intrinsics)
"""


def test_intrinsics_compute_on_the_host(client):
    out = client.zeros(6)
    client.compile(INTRINSICS)["intrinsics"][1, 1](out, client.array([2.0, 2.5], np.float32))
    assert out.numpy().tolist() == [np.float32(math.exp(2)), 6, 2, 8 + 31 + 4, 2, 1]


def test_the_same_intrinsics_compile_for_a_gpu(nvrtc):
    assert _compile.compile_source(INTRINSICS, "k.cu", (), "cuda", "sm_90")[:4] == b"\x7fELF"


def test_an_unknown_function_does_not_link(cache):
    with pytest.raises(rl.CompileError, match="missing_function"):
        build('extern "C" void missing_function(); extern "C" void f() { missing_function(); }')


def test_without_a_compiler_the_error_says_what_to_install(cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(rl.Unsupported, match=r"apt install g\+\+"):
        build()


def test_for_a_gpu_nvrtc_makes_a_cubin_of_the_daemons_architecture(nvrtc):
    image = _compile.compile_source(SOURCE, "k.cu", (), "cuda", "sm_90")
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == 190  # EM_CUDA


def test_for_a_gpu_an_error_carries_the_compilers_log(nvrtc):
    with pytest.raises(rl.CompileError, match=r"k\.cu.*undefined_here") as caught:
        _compile.compile_source("__global__ void f() { undefined_here(); }", "k.cu", (), "cuda", "sm_90")

    assert caught.value.log.startswith("k.cu(1): error")
    assert "undefined_here" in caught.value.log


@pytest.mark.parametrize("driver", ["host", "cuda"])
@pytest.mark.parametrize("what", ["source", "name", "options"])
def test_a_nul_is_refused_before_a_compiler_ends_at_it(client, monkeypatch, driver, what):
    monkeypatch.setattr(client, "_daemon", client.daemon._replace(driver=driver, architecture="sm_90"))
    given = {"source": SOURCE + "\0 garbage"} if what == "source" else {"source": SOURCE, what: "k\0.cu"}
    given["options"] = ["-D\0"] if what == "options" else []
    with pytest.raises(rl.InvalidArgument, match=rf"{what}.*: expected text without NUL characters"):
        client.compile(given.pop("source"), **given)


def test_another_library_is_not_taken_for_nvrtc(monkeypatch):
    _nvrtc.load.cache_clear()
    monkeypatch.setenv("RINGLAUNCH_NVRTC", "libc.so.6")
    with pytest.raises(rl.Unsupported, match=r"libc\.so\.6 is not an NVRTC.*no nvrtcVersion, no nvrtcGetErrorString"):
        build(driver="cuda")


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch):
    _nvrtc.load.cache_clear()
    monkeypatch.setenv("RINGLAUNCH_NVRTC", "/nonexistent/libnvrtc.so")
    with pytest.raises(rl.Unsupported, match="pip install nvidia-cuda-nvrtc"):
        build(driver="cuda")


def test_of_another_driver_the_error_says_which_there_are(cache):
    with pytest.raises(rl.Unsupported, match="cuda, host and null"):
        build(driver="metal")


def test_options_are_a_sequence(cache):
    with pytest.raises(rl.InvalidArgument, match=r"\['-DX'\]"):
        build(options="-DX")


def test_a_kernel_whose_name_is_not_ascii_is_refused_by_its_name(client):
    source = SOURCE.replace("nothing", "gr\u00f6\u00dfe")
    with pytest.raises(rl.Error, match=r"kernel's name, 'gr\?\?\?\?e' \(7 bytes\), must consist of printable ASCII"):
        client.compile(source)
