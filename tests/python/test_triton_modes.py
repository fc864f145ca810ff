"""Where a call of a Triton kernel goes: by its kernel's mode, or else by its arguments."""

import sys
import types

import pytest
from triton_support import has_cuda, triton

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from ringlaunch import _core, _triton_mode  # noqa: E402

DAEMON = "null"


@triton.jit
def fill(x, value):
    tl.store(x, value)


@triton.jit
def nothing(value):
    pass


class Tensor:
    dtype = "float32"

    def data_ptr(self):
        return 4096


class CudaArray:
    @property
    def __cuda_array_interface__(self):
        return {"shape": (4,), "typestr": "<f4", "data": (4096, False), "version": 3}


def mode_of(kernel, *values, stream=None):
    return _triton_mode.mode_of(kernel, values, stream)


def test_without_a_mode_a_call_goes_where_its_arguments_are(client, monkeypatch):
    kernel, x = rl.wrap(fill), client.zeros(4)
    for has_gpu in (False, True):
        monkeypatch.setattr(_triton_mode, "_torch_has_gpu", lambda has_gpu=has_gpu: has_gpu)
        assert mode_of(kernel, x, 1) == mode_of(kernel, (1, (x,))) == "daemon"
        assert mode_of(kernel, 1, stream=client.default_stream) == "daemon"
        assert mode_of(kernel, Tensor(), x) == "daemon"
        assert mode_of(kernel, Tensor(), 1) == mode_of(kernel, (2, CudaArray())) == "inline"
        assert mode_of(kernel, 1, 2.0, None) == ("inline" if has_gpu else "daemon")


def test_the_mode_of_a_kernel_is_that_of_its_calls(client):
    assert mode_of(rl.wrap(fill, mode="daemon"), Tensor()) == "daemon"
    assert mode_of(rl.wrap(fill, client=client), Tensor()) == "daemon"
    assert mode_of(rl.wrap(fill, mode="inline"), client.zeros(4)) == "inline"
    assert mode_of(rl.jit(mode="inline")(fill.fn), 1) == "inline"
    tuned = rl.wrap(triton.autotune([triton.Config({})], key=[])(fill), mode="inline")
    assert mode_of(tuned.fn, 1) == "inline"


def test_a_client_may_be_opened_with_the_mode_of_kernels_that_have_none(null):
    kernel, inline = rl.wrap(fill), rl.wrap(fill, mode="inline")
    with rl.connect(null.socket, mode="daemon") as first:
        assert mode_of(kernel, Tensor()) == "daemon"
        assert mode_of(inline, first.zeros(4)) == "inline"
        with rl.connect(null.socket, mode="inline"):
            assert mode_of(kernel, 1) == "inline"
            with pytest.raises((rl.Unsupported, rl.ParamTypeError), match=r"launch inline|an inline launch"):
                kernel[(1,)](first.zeros(4), 1)
        assert mode_of(kernel, 1) == "daemon"
        with pytest.raises(rl.ParamTypeError, match=r"client\.array"):
            kernel[(1,)](Tensor(), 1)
    assert mode_of(kernel, Tensor()) == "inline"


def test_calls_of_numbers_go_to_the_client_that_was_opened_for_them(null):
    kernel = rl.wrap(nothing)
    with rl.connect(null.socket), rl.connect(null.socket, mode="daemon") as mine, rl.connect(null.socket):
        for _ in range(4):
            kernel[(1,)](5)
        (variant,) = kernel.cache
        assert variant.client is mine and variant.hits == 4 and kernel._slow_calls == 1


@pytest.mark.parametrize(("mode", "error"), [("ring", rl.InvalidArgument), (3, rl.ParamTypeError)])
def test_a_client_of_no_mode_is_refused(null, mode, error):
    with pytest.raises(error, match="mode: expected 'daemon', 'inline' or 'embedded'"):
        rl.connect(null.socket, mode=mode)


def test_numbers_alone_take_the_quick_way_beside_a_torch_that_has_no_gpu(client, monkeypatch):
    torch = types.ModuleType("torch")
    torch.Tensor = torch.dtype = type("Tensor", (), {})
    torch.cuda = types.SimpleNamespace(is_initialized=lambda: False, is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    kernel = rl.wrap(nothing)
    try:
        for _ in range(5):
            kernel[(1,)](5)
        assert kernel._slow_calls == 1
    finally:
        _core.triton_torch_has_gpu(True)


def test_wrapping_again_may_change_the_mode(client):
    kernel = rl.wrap(fill, client=client)
    assert rl.wrap(kernel) is rl.wrap(kernel, mode="daemon") is kernel
    other = rl.wrap(kernel, mode="inline")
    assert other is not kernel and other._client is None and rl.wrap(other, mode="inline") is other


@pytest.mark.parametrize(
    ("mode", "error", "text"),
    [
        ("ring", rl.InvalidArgument, r"mode: expected 'daemon', 'inline' or 'embedded', found 'ring'$"),
        ("embeded", rl.InvalidArgument, r"found 'embeded'$"),
        (3, rl.ParamTypeError, r"mode: expected None, 'daemon', 'inline' or 'embedded', found 3"),
    ],
)
def test_what_is_no_mode_is_refused(mode, error, text):
    with pytest.raises(error, match=text):
        rl.wrap(fill, mode=mode)
    with pytest.raises(error, match=text):
        rl.jit(mode=mode)(fill.fn)


def test_a_client_and_inline_do_not_go_together(client):
    for mode in ("inline", "embedded"):
        with pytest.raises(
            rl.InvalidArgument, match=f"mode: expected 'daemon' or None beside a client, found '{mode}'"
        ):
            rl.wrap(fill, client=client, mode=mode)


@pytest.mark.skipif(has_cuda(), reason="libcuda.so.1 is installed here: tests/gpu/test_triton_inline.py")
def test_inline_without_a_gpu_is_refused_when_it_is_called(client):
    text = r"kernel 'fill': an inline launch is one in this program.*libcuda\.so\.1.*have a daemon launch it on its GPU"
    for _ in range(2):
        with pytest.raises(rl.Unsupported, match=text):
            rl.wrap(fill, mode="inline")[(1,)](client.zeros(4), 1)
        with pytest.raises(rl.Unsupported, match=text):
            rl.wrap(fill)[(1,)](Tensor(), 1)
    with pytest.raises(rl.Unsupported, match=text):
        rl.wrap(fill, mode="inline").warmup(Tensor(), 1, grid=(1,))
    with pytest.raises(rl.Unsupported, match=text):
        rl.wrap(fill, mode="inline").cache.find(Tensor(), 1)


@pytest.mark.parametrize("kind", [Tensor, CudaArray])
def test_in_the_daemon_memory_of_this_process_is_refused_before_anything_is_compiled(client, kind):
    kernel = rl.wrap(fill, mode="daemon")
    for args, keywords, name in (((kind(), 1), {}, "x"), ((client.zeros(4),), {"value": (1, kind())}, "value")):
        for _ in range(2):
            with pytest.raises(rl.ParamTypeError, match=rf"parameter '{name}'.*{kind.__name__}.*client.array"):
                kernel[(1,)](*args, **keywords)
    assert len(kernel.cache) == 0
