"""What torch does in a region comes behind the launches before it: here stands how it is caught.

Guards are set once and stay: while no region is open each costs a comparison.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ringlaunch import _core

_flush: Callable[[], None] = _core.triton_region_flush
_pause: Callable[[], bool] = _core.triton_region_pause
_resume: Callable[[], None] = _core.triton_region_resume
_tracing: Callable[[], bool]  # of torch's compiler, which reads the guards as it reads what they guard
_mode_type: Any = None  # of torch
_modes: Any = None  # torch's functions on its stack of them
_graph_functions: list[Any] = []  # guards of those that torch's compiler may put in its graphs

# What is no operation of torch and still has to do with streams or memory. Functions of C, which all ways to them call,
# under whatever name; functions of Python, at each place that they are called from; methods.
_C_FUNCTIONS = (
    "_accelerator_emptyCache",
    "_accelerator_synchronizeDevice",
    "_cuda_cudaCachingAllocator_raw_delete",
    "_cuda_emptyCache",
    "_cuda_ipc_collect",
    "_cuda_jiterator_compile_and_launch_kernel",
    "_cuda_sleep",
    "_cuda_synchronize",
    "_nccl_all_gather",
    "_nccl_all_reduce",
    "_nccl_broadcast",
    "_nccl_reduce",
    "_nccl_reduce_scatter",
    "_swap_tensor_impl",
)
_FUNCTIONS = (
    ("_tensor_str", ("_str",)),  # reads without modes
    ("autograd", ("_engine_run_backward",)),  # graphs of compiled functions, which launch without operations
    ("autograd.graph", ("_engine_run_backward",)),
)
_METHODS = (
    ("cuda.Stream", ("query", "record_event", "synchronize", "wait_event", "wait_stream")),
    ("cuda.Event", ("elapsed_time", "ipc_handle", "query", "record", "synchronize", "wait")),
    ("cuda.CUDAGraph", ("capture_begin", "capture_end", "instantiate", "replay", "reset")),
    ("cuda._utils._CudaKernel", ("__call__",)),
    ("UntypedStorage", ("resize_", "_share_cuda_")),
)
_COMPILED = ("CompiledFxGraph", "CompiledAOTI", "RegionalOutputCode")  # of torch._inductor.output_code


def first(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, once all launches before it are issued."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _flush()
        return function(*args, **kwargs)

    return call


def _first_for_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `first`, and what is launched within is launched by itself: what follows it there is guarded by nobody.

    torch's compiler sees nothing of it where it traces a call.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _tracing():
            return function(*args, **kwargs)
        paused = _pause()
        try:
            return function(*args, **kwargs)
        finally:
            if paused:
                _resume()

    return call


def _find(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, None)
    return root


def _guard(owner: Any, names: Sequence[str]) -> list[Any]:
    guards = []
    for name in names:
        function = getattr(owner, name, None)
        if function is not None and not hasattr(function, "_ringlaunch_first"):
            guard = _first_for_torch(function)
            guard._ringlaunch_first = True  # type: ignore[attr-defined]
            setattr(owner, name, guard)
            guards.append(guard)
    return guards


def _guard_torch(torch: Any) -> None:
    global _mode_type, _modes, _tracing
    import torch.utils._python_dispatch as _modes

    class Issued(_modes.TorchDispatchMode):  # type: ignore[misc]
        """Every operation of torch, of the thread and of those that autograd runs for it."""

        untraced = False  # torch's compiler is there, and keeps away from it
        ended = False
        supports_higher_order_operators = True

        @classmethod
        def ignore_compile_internals(cls) -> bool:
            """Compiled functions run compiled: what they run is guarded as a whole."""
            return True

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        paused = _pause()  # torch has disabled this mode while it is in it
        try:
            return func(*args, **(kwargs or {}))
        finally:
            if paused:
                _resume()

    # Not with the class, which would have torch import its compiler, for seconds, to keep that away from this.
    Issued.__torch_dispatch__ = dispatch

    _tracing = getattr(torch.compiler, "is_dynamo_compiling", bool)
    # A guard's own frame is never compiled: it would be without the flush then.
    skip_code = _find(torch, "_C._dynamo.eval_frame.skip_code")
    if skip_code is not None:
        skip_code(_first_for_torch(_find).__code__)
    _graph_functions.extend(_guard(torch._C, _C_FUNCTIONS))
    for path, names in (*_FUNCTIONS, *_METHODS):
        _guard(_find(torch, path), names)
    _mode_type = Issued


def prepare() -> None:
    """Guards what has been imported by now."""
    torch = sys.modules.get("torch")
    if torch is not None and _mode_type is None:
        _guard_torch(torch)
    if _mode_type is None:
        return
    compiler = sys.modules.get("torch._dynamo")
    if not _mode_type.untraced and hasattr(compiler, "disable") and hasattr(compiler, "allow_in_graph"):
        _mode_type.__torch_dispatch__ = compiler.disable(_mode_type.__torch_dispatch__)  # type: ignore[union-attr]
        _mode_type.untraced = True
        for guard in _graph_functions:
            compiler.allow_in_graph(guard)  # type: ignore[union-attr]
    graphs = sys.modules.get("torch._inductor.output_code")
    for name in _COMPILED:
        _guard(getattr(graphs, name, None), ("__call__",))


def begin() -> Any:
    """Operations of this thread flush from now on. Returns what `end` takes; None where there is no torch."""
    if _mode_type is None:
        return None
    if _modes._len_torch_dispatch_stack() != 0:
        _take_out()
    # Not by entering it: the flags of the process that this sets are for modes that end in the order of a stack.
    mode = _mode_type()
    _modes._push_mode(mode)
    return mode


def end(mode: Any) -> None:
    """Wherever the mode is by now: a region may end, with a generator, within another's mode or on another thread."""
    if _modes._get_current_dispatch_mode() is mode:
        _modes._pop_mode()
        return
    mode.ended = True
    _take_out()


def _take_out() -> None:
    """Modes that have ended leave this thread's stack, and others stay.

    One that cannot be reached now (an operation in it is running, or all modes are disabled) does nothing meanwhile,
    and is taken out when the next region begins.
    """
    stack = _modes._get_current_dispatch_mode_stack()
    lowest = next((i for i, mode in enumerate(stack) if isinstance(mode, _mode_type) and mode.ended), len(stack))
    above = [_modes._pop_mode() for _ in stack[lowest:]]
    for mode in reversed(above):
        if not (isinstance(mode, _mode_type) and mode.ended):
            _modes._push_mode(mode)


class _Arrivals:
    """A finder, first in sys.meta_path: what is imported after the first region is guarded when it has been loaded."""

    names = ("torch", "torch._dynamo", "torch._inductor.output_code")

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.names:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader: Any) -> None:
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self.then()

        loader.exec_module = exec_module


def watch_imports(then: Callable[[], None]) -> None:
    sys.meta_path.insert(0, _Arrivals(then))
