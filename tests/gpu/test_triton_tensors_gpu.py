"""Tensors of a real GPU as arguments of inline launches: each kind is what it is to Triton, and its memory is what is
written."""

import warnings

import pytest
from gpu_support import WATCHDOG_S

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
DTYPES += ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]


@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n), i < n)


@triton.jit
def store(x, y):
    tl.store(x, 1.0)


def key_of(kernel, *args):
    """Device and what has to be checked."""
    found = kernel._key(args, {})
    return None if found is None else found[3:]


@pytest.fixture
def inline():
    return rl.wrap(copy, mode="inline")


def bytes_of(tensor):
    return tensor.detach().cpu().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("name", DTYPES)
def test_each_type_of_element_is_copied(inline, name):
    x = torch.randint(0, 2, (1000,), device="cuda").to(torch.float32).to(getattr(torch, name))
    for part, size in ((x, 1000), (x[1:], 999), (x[16:], 984), (x[500:501], 1)):
        for _ in range(3):
            out = torch.zeros_like(x)[: len(part)]
            inline[(triton.cdiv(size, 256),)](part, out, size, BLOCK=256)
            assert torch.equal(bytes_of(part), bytes_of(out))
    assert key_of(inline, x, x, 1, 16) == (torch.cuda.current_device(), ())


def test_parameters_views_and_scalars_are_their_memory(inline):
    whole = torch.arange(64, device="cuda", dtype=torch.float32)
    own = type("Own", (torch.Tensor,), {})
    for x in (torch.nn.Parameter(whole), whole.view(8, 8)[3], whole[5], whole.as_subclass(own), whole[::2]):
        for _ in range(2):
            out = torch.zeros(1, device="cuda")
            inline[(1,)](x, out, 1, BLOCK=16)
            assert out.item() == x.detach().reshape(-1)[0].item()


def test_an_empty_tensor_is_the_null_pointer(inline):
    empty, x = torch.empty(0, device="cuda"), torch.ones(4, device="cuda")
    for _ in range(3):
        inline[(1,)](empty, x, 0, BLOCK=16)
    assert x.tolist() == [1.0] * 4


class Pointer:
    """All that Triton asks for."""

    def __init__(self, tensor):
        self.tensor, self.dtype = tensor, tensor.dtype

    def data_ptr(self):
        return self.tensor.data_ptr()


class CudaArray:
    def __init__(self, tensor):
        self.tensor = tensor

    @property
    def __cuda_array_interface__(self):
        return self.tensor.__cuda_array_interface__


@pytest.mark.parametrize("kind", [Pointer, CudaArray])
def test_other_objects_are_their_memory(inline, kind):
    x = torch.arange(100, device="cuda", dtype=torch.float32)
    for begin in (0, 1, 4):
        for _ in range(3):
            out = torch.zeros(100, device="cuda")
            inline[(1,)](kind(x[begin:]), kind(out), 100 - begin, BLOCK=128)
            assert torch.equal(out[: 100 - begin], x[begin:])
    assert inline._slow_calls <= 3


def test_arrays_of_cupy_are_their_memory(inline):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    x = cupy.arange(100, dtype=cupy.float32)
    for _ in range(3):
        out = cupy.zeros(100, dtype=cupy.float32)
        cupy.cuda.get_current_stream().synchronize()
        inline[(1,)](x, out, 100, BLOCK=128)
        torch.cuda.synchronize()
        assert (out == x).all()
    assert inline._slow_calls == 1


def test_pinned_memory_is_written_by_the_gpu(inline):
    x = torch.arange(100, dtype=torch.float32).pin_memory()
    for _ in range(3):
        out = torch.zeros(100).pin_memory()
        inline[(1,)](x, out, 100, BLOCK=128)
        torch.cuda.synchronize()
        assert torch.equal(out, x)
    assert inline._slow_calls == 1


def test_memory_that_no_kernel_can_use_is_refused_as_triton_refuses_it():
    kernel = rl.wrap(store, mode="inline")
    good, bad = torch.zeros(4, device="cuda"), torch.zeros(4)
    kernel[(1,)](good, good)
    for args in ((bad, 1), (good, bad), (bad, good)):
        with pytest.raises(ValueError, match="cpu tensor") as theirs:
            store[(1,)](*args)
        for _ in range(2):
            with pytest.raises(ValueError, match="cpu tensor") as ours:
                kernel[(1,)](*args)
            assert str(ours.value) == str(theirs.value)
    kernel[(1,)](good, good)
    assert good.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_lazy_copy_is_written_alone(inline):
    x = torch.ones(64, device="cuda")
    for _ in range(2):
        lazy = torch._lazy_clone(x)
        inline[(1,)](torch.zeros(64, device="cuda"), lazy, 64, BLOCK=64)
        assert x.sum().item() == 64.0 and lazy.sum().item() == 0.0


def test_tensors_that_are_none_are_to_the_call_what_they_are_to_triton():
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernel = rl.wrap(store, mode="inline")
    with FakeTensorMode():
        fake = torch.empty(8, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for nothing in (
            fake,
            torch.empty(8, device="meta"),
            torch._to_functional_tensor(torch.zeros(8, device="cuda")),
        ):
            found = kernel._key((nothing, 1), {})
            assert found is None or int.from_bytes(found[2][:8], "little") == nothing.data_ptr() == 0

    def look(x):
        with pytest.raises(RuntimeError):
            kernel[(1,)](x, 1)
        return x * 1

    torch.vmap(look)(torch.zeros(3, 4, device="cuda"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here; this needs two")
def test_tensors_of_another_device_are_to_the_call_what_they_are_to_triton():
    kernel = rl.wrap(store, mode="inline")
    here, there = torch.zeros(4, device="cuda:0"), torch.zeros(4, device="cuda:1")
    kernel[(1,)](here, here)
    for args in ((there, 1), (here, there), (there, here)):
        outcomes = []
        for each in (store, kernel, kernel):
            args[0].zero_()
            try:
                each[(1,)](*args)
                torch.cuda.synchronize()
                outcomes.append(args[0].tolist())
            except Exception as error:
                outcomes.append((type(error).__name__, str(error)))
        assert outcomes[0] == outcomes[1] == outcomes[2]


# ---- rl.install() ----


@pytest.fixture
def installed():
    rl.install()
    yield
    rl.uninstall()


def twin(kernel):
    return kernel.__dict__["_ringlaunch_twin"]


def test_every_kernel_of_the_program_goes_through_ringlaunch(installed):
    x, out = torch.arange(1000, device="cuda", dtype=torch.float32), torch.zeros(1000, device="cuda")
    for _ in range(5):
        copy[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, out, 1000, BLOCK=256)
    assert torch.equal(x, out)
    assert twin(copy)._slow_calls == 1 and sum(variant.hits for variant in twin(copy).cache) == 5
    rl.uninstall()
    copy[(4,)](x, out.zero_(), 1000, BLOCK=256)
    assert torch.equal(x, out) and "_ringlaunch_twin" not in copy.__dict__


@triton.autotune(
    [triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 256}, num_warps=8)],
    key=["n"], restore_value=["x"], reset_to_zero=["total"],
)  # fmt: skip
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def add_up(x, total, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i) if EVEN else tl.load(x + i, i < n, other=0.0)
    tl.store(x + i, values + 1, i < n)
    tl.atomic_add(total, tl.sum(values))


def test_tuned_kernels_are_tuned_as_without(installed):
    add_up.cache.clear()
    for n in (1024, 1000):
        x, total = torch.ones(n, device="cuda"), torch.zeros(1, device="cuda")
        for turn in range(3):
            add_up[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, total.zero_(), n)
            assert total.item() == n * (turn + 1) and (x == turn + 2).all()
    assert len(add_up.cache) == 2 and add_up.best_config in add_up.configs


def test_tuned_kernels_are_tuned_in_the_daemon(installed, client):
    import numpy as np

    add_up.cache.clear()
    n = 1000
    x, total = client.array(np.ones(n, np.float32)), client.zeros(1)
    for turn in range(3):
        total.fill(0)
        add_up[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, total, n)
        assert total.numpy()[0] == n * (turn + 1) and (x.numpy() == turn + 2).all()


def test_what_torch_compiles_goes_its_own_way(installed):
    def function(x):
        out = torch.empty_like(x)
        copy[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), BLOCK=256)
        return torch.sin(out) * 2 + x

    x = torch.randn(1000, device="cuda")
    torch.testing.assert_close(torch.compile(function, fullgraph=True)(x), torch.sin(x) * 2 + x)


def test_a_script_is_run_unchanged(tmp_path):
    import subprocess
    import sys

    script = tmp_path / "program.py"
    script.write_text(
        "import sys, torch, triton, triton.language as tl\n"
        "@triton.jit\n"
        "def double(x, BLOCK: tl.constexpr):\n"
        "    i = tl.arange(0, BLOCK)\n"
        "    tl.store(x + i, tl.load(x + i) * 2)\n"
        "x = torch.ones(16, device='cuda')\n"
        "for _ in range(4): double[(1,)](x, BLOCK=16)\n"
        "print(x.sum().item(), sys.argv[1:], '_ringlaunch_twin' in double.__dict__)\n"
    )
    for command, through in (([script], False), (["-m", "ringlaunch", "run", "--mode", "inline", script], True)):
        done = subprocess.run([sys.executable, *command, "a"], capture_output=True, text=True, timeout=WATCHDOG_S)
        assert done.stdout == f"256.0 ['a'] {through}\n", done.stderr
