"""Every Triton kernel of a program through ringlaunch, and back: `rl.install()` and `rl.uninstall()`."""

import copy
import gc
import weakref

import pytest
from support import in_threads
from triton_support import triton

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from triton.runtime import autotuner, jit  # noqa: E402

DAEMON = "null"


def attributes(kind):
    return {name: value for name, value in vars(kind).items() if name != "__slotnames__"}  # which copy() leaves there


PLAIN = {kind: attributes(kind) for kind in (jit.JITFunction, jit.KernelInterface, autotuner.Autotuner)}


@triton.jit
def add_one(x):
    return x + 1


@triton.jit
def scale(x, n, by=2.0, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, add_one(tl.load(x + i, i < n)) * by, i < n)


@pytest.fixture
def x(client):
    return client.zeros(128)


@pytest.fixture(autouse=True)
def _taken_back():
    yield
    rl.uninstall()
    for kind, before in PLAIN.items():
        assert attributes(kind) == before, kind
    assert "_ringlaunch_twin" not in scale.__dict__


@pytest.fixture
def launches(client):
    """How many launches a function made."""

    def count(function):
        before = client.default_stream.status.published
        function()
        return client.default_stream.status.published - before

    return count


def test_a_kernel_that_was_there_goes_through_ringlaunch(launches, x):
    rl.install()
    assert launches(lambda: [scale[(1,)](x, 128) for _ in range(5)]) == 5
    assert launches(lambda: scale.run(x, 128, grid=(2,), warmup=False, num_warps=2)) == 1
    assert launches(lambda: scale[lambda meta: (meta["n"] // meta["BLOCK"],)](x, n=128)) == 1
    assert type(scale) is jit.JITFunction and isinstance(scale[(1,)](x, 128), triton.compiler.CompiledKernel)


def test_a_kernel_that_comes_later_does_too(launches, x):
    rl.install()

    @triton.jit
    def later(p):
        tl.store(p, add_one(tl.load(p)))

    assert type(later) is jit.JITFunction
    assert launches(lambda: [later[(1,)](x), later[(1,)](x)]) == 2


def test_warmup_launches_nothing(launches, x):
    rl.install()
    assert launches(lambda: scale.warmup(x, 128, grid=(1,))) == 0
    assert scale.warmup(x, 128, grid=(1,)).metadata.name == "scale"


def test_keywords_that_are_given_twice_are_told_in_tritons_words(x):
    kernel = triton.heuristics({"BLOCK": lambda args: 32})(scale)
    calls = [
        lambda: scale.warmup(x, 128, grid=(1,), warmup=True),
        lambda: scale.run(x, 128, grid=(1,)),
        lambda: kernel[(1,)](x, 128, warmup=True),
        lambda: triton.autotune([triton.Config({"BLOCK": 64})], key=[])(scale)[(1,)](x, 128, BLOCK=16),
    ]

    def texts():
        found = []
        for call in calls:
            with pytest.raises(TypeError) as error:
                call()
            found.append(str(error.value))
        return found

    theirs = texts()
    rl.install(mode="daemon")
    assert texts() == theirs
    assert any("triton.runtime.jit.JITFunction.run() got multiple values" in text for text in theirs)


def test_heuristics_go_through_ringlaunch(launches, x):
    kernel = triton.heuristics({"BLOCK": lambda args: 32})(scale)
    rl.install()
    assert launches(lambda: kernel[(1,)](x, 128)) == 1


def test_the_second_call_of_a_kind_is_quick(x):
    rl.install()
    for _ in range(5):
        scale[(1,)](x, 128)
    assert scale.__dict__["_ringlaunch_twin"]._slow_calls == 1


def test_taken_back_a_kernel_is_tritons_again(launches, client, x):
    getitem = jit.JITFunction.__getitem__
    rl.install(client=client)
    scale[(1,)](x, 128)
    held = scale[(1,)]
    assert jit.JITFunction.__getitem__ is not getitem
    rl.uninstall()
    assert jit.JITFunction.__getitem__ is getitem
    plain = scale[(1,)]
    assert type(plain).__name__ == "function" and type(held).__name__ == "TritonGrid"
    rl.uninstall()  # and nothing


def test_what_was_wrapped_keeps_its_mode(client, x):
    kernel = rl.wrap(scale, mode="daemon")
    rl.install(mode="inline")
    kernel[(1,)](x, 128)
    assert kernel._mode == "daemon" and kernel._slow_calls == 1


def test_another_run_is_heeded(launches, x, monkeypatch):
    seen = []
    rl.install(mode="daemon")

    def traced(self, *args, run=jit.JITFunction.run, **kwargs):
        seen.append(args)
        return run(self, *args, **kwargs)

    def calls():
        before = len(seen)
        assert launches(lambda: [scale[(1,)](x, 128) for _ in range(3)]) == 3
        return len(seen) - before

    assert calls() == 0
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(scale, "run", lambda *args, **kwargs: traced(scale, *args, **kwargs), raising=False)
            assert calls() == 3
        assert calls() == 0
        with monkeypatch.context() as patch:
            patch.setattr(jit.JITFunction, "run", traced)
            assert calls() == 3
        assert calls() == 0
    assert scale.__dict__["_ringlaunch_twin"]._slow_calls == 1


def test_installing_again_changes_the_mode(client, x):
    rl.install(mode="inline")
    scale.__getitem__((1,))
    assert scale.__dict__["_ringlaunch_twin"]._mode == "inline"
    rl.install(client=client)
    scale[(1,)](x, 128)
    assert scale.__dict__["_ringlaunch_twin"]._mode == "daemon"


@pytest.mark.parametrize(("arguments", "error"), [({"mode": "ring"}, rl.InvalidArgument), ({"client": 3}, TypeError)])
def test_what_cannot_be_installed_changes_nothing(arguments, error):
    with pytest.raises(error):
        rl.install(**arguments)


def test_a_mode_that_cannot_be_beside_a_client_is_refused(client):
    with pytest.raises(rl.InvalidArgument, match="beside a client"):
        rl.install(mode="inline", client=client)


def test_a_copy_of_a_kernel_has_a_twin_of_its_own(launches, x):
    rl.install()
    scale[(1,)](x, 128)
    other = copy.copy(scale)
    assert launches(lambda: other[(1,)](x, 128)) == 1
    assert launches(lambda: other.run(x, 128, grid=(1,), warmup=False)) == 1
    twins = [each.__dict__["_ringlaunch_twin"] for each in (scale, other)]
    assert twins[0] is not twins[1] and twins[1].__dict__ is other.__dict__


def test_a_kernel_that_nobody_names_any_more_is_collected(client, x):
    rl.install()
    kernel = triton.jit(scale.fn)
    kernel[(1,)](x, 128)
    gone = weakref.ref(kernel)
    del kernel
    getattr(jit, "_triton_jit_function_registry", {}).pop(f"{__name__}:scale", None)
    gc.collect()
    assert gone() is None


def test_kernels_of_gluon_go_tritons_way(client):
    gluon = pytest.importorskip("triton.experimental.gluon")

    @gluon.jit
    def kernel(x):
        pass

    rl.install()
    assert type(kernel[(1,)]).__name__ == "function"
    assert kernel.__dict__["_ringlaunch_twin"] is None


def test_several_threads_may_begin_at_once(client):
    rl.install()
    kernel, x = triton.jit(scale.fn), client.zeros(64)

    def work():
        for _ in range(50):
            kernel[(1,)](x, 64)
            kernel.run(x, 64, grid=(1,), warmup=False)

    in_threads(*[work] * 4)
    assert kernel.__dict__["_ringlaunch_twin"]._slow_calls <= 4 * 2


def tuned(**more):
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((32, 1), (64, 2))]
    return triton.autotune(configs, key=["n"], **more)(scale)


@pytest.mark.parametrize("mode", [None, "daemon"])
def test_a_tuned_kernel_is_tuned_in_the_daemon(launches, x, mode, monkeypatch):
    monkeypatch.setattr(triton.knobs.autotuning, "cache", True)  # on disk, which says nothing of the daemon
    kernel = tuned()
    rl.install(mode=mode)
    assert launches(lambda: kernel[lambda meta: (triton.cdiv(128, meta["BLOCK"]),)](x, n=128)) > 20
    assert len(kernel.cache) == 1 and kernel.best_config in kernel.configs
    assert len(scale.__dict__["_ringlaunch_twin"].cache) == 2
    assert launches(lambda: kernel[(2,)](x, n=128)) == 1
    monkeypatch.setattr(kernel, "prune_configs", None)  # what Triton's own run() would ask
    copied = copy.copy(kernel)
    copied.cache = {}
    assert launches(lambda: [kernel[(2,)](x, 128) for _ in range(3)]) == 3
    with pytest.raises(TypeError):
        copied[(2,)](x, 128)
    rl.uninstall()
    assert not [name for name in (*vars(kernel), *vars(copied)) if "ringlaunch" in name and name in vars(kernel)]


def test_what_tuning_writes_is_put_back(client, x):
    kernel = tuned(reset_to_zero=["x"], restore_value=["x"])
    hooks = kernel.pre_hook, kernel.post_hook
    rl.install()
    kernel[(2,)](x, 128)
    assert kernel.pre_hook is not hooks[0] and kernel.post_hook is not hooks[1]
    rl.uninstall()
    assert (kernel.pre_hook, kernel.post_hook) == hooks and "do_bench" not in kernel.__dict__


def test_hooks_of_ones_own_are_kept(client, x):
    seen = []
    kernel = tuned(reset_to_zero=["x"], pre_hook=lambda args, reset_only=False: seen.append(reset_only))
    rl.install()
    kernel[(2,)](x, 128)
    assert len(seen) > 20 and seen[-1]


def test_torch_compiles_the_same_graph_of_a_kernel(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    from torch.utils import _triton as torchs

    monkeypatch.setattr(torchs, "has_triton", lambda *_, **__: True)  # which it has only with a GPU

    def function(x):
        out = torch.empty_like(x)
        scale[(4,)](out, x.numel(), BLOCK=256)
        return out * 2

    def traced():
        seen = []

        def keep(module, _):
            seen.extend(node.name for node in module.graph.nodes)
            return lambda *args: args[:1]

        torch._dynamo.reset()
        torch.compile(function, backend=keep, fullgraph=True)(torch.ones(1000))
        return seen

    plain = traced()
    rl.install()
    assert traced() == plain and any("triton_kernel" in name for name in plain)
