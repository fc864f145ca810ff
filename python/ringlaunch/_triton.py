"""Triton kernels through ringlaunch: the JITFunction that launches so, and what its calls need of Triton itself.

A call's usual way is C++ (_core.TritonKernel). This module is the other one: the first call of each kind, which
compiles, and whatever the C++ side does not know. It asks Triton's own code what the arguments mean, so that a kernel
does here what it does there. It imports Triton; `ringlaunch.jit` and `ringlaunch.wrap` import it when they are used.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import enum
import functools
import inspect
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import triton
import triton.language as tl
from triton import knobs
from triton._utils import type_canonicalisation_dict
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.compiler import compile as triton_compile
from triton.runtime import autotuner, jit
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

from ringlaunch import _core, _triton_descriptor, _triton_tensor
from ringlaunch._buffer import Buffer
from ringlaunch._check import refused, shown
from ringlaunch._client import Client
from ringlaunch._hints import check, find, float32, is_float
from ringlaunch._mode import mode_number
from ringlaunch._triton_load import (
    WARP,
    CallPath,
    call_param,
    client_of,
    give_scratch,
    leaf_numbers,
    leaves,
    refuse_foreign,
)
from ringlaunch._triton_mode import check_mode, is_tensor, mode_of
from ringlaunch._triton_save import default_options, save, save_wrapped, tensor_maps
from ringlaunch._triton_tune import TunedKernel, tune
from ringlaunch.errors import OutOfRange, Unsupported

if TYPE_CHECKING:
    from ringlaunch._triton_cache import Variant

triton_run = jit.JITFunction.run  # whatever install() puts in its place

# Upstream's since 3.7; before, the hook is the compiler's alone.
_HOOK_IN_KEY = "add_stages_inspection_hook" in triton_run.__code__.co_names
_NOTE_S = 5.0  # after which a compilation is worth a word
_ANY_ARCHITECTURE = 90  # for a daemon whose driver runs nothing, where $TRITON_OVERRIDE_ARCH names none

_core.triton_watch(knobs.runtime.__dict__)
_core.triton_watch(knobs.compilation.__dict__)
_core.triton_watch(os.environ._data)  # type: ignore[attr-defined]
_triton_tensor.take_names(type_canonicalisation_dict)
_core.triton_descriptor(TensorDescriptor, True)


# ---- what Triton looks at besides the arguments ----

_settings_numbers: dict[tuple[Any, ...], int] = {}
_next_number = itertools.count(1)  # given once, whatever other threads do between two lines


def settings_of(kernel: Any) -> dict[str, Any]:
    """What Triton adds to the keywords of each call."""
    settings = {"debug": kernel.debug or knobs.runtime.debug}
    for name in ("instrumentation_mode", "fpsan_homomorphic_casts"):
        if hasattr(knobs.compilation, name):
            settings[name] = getattr(knobs.compilation, name)
    return settings


def with_settings(kernel: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call, as Triton's run() goes on with them."""
    settings = settings_of(kernel)
    settings["debug"] = kwargs.get("debug", kernel.debug) or knobs.runtime.debug
    return {**kwargs, **settings}


def _stages_hook() -> Any:
    """A hook that each call asks for a part of its key."""
    return knobs.runtime.add_stages_inspection_hook if _HOOK_IN_KEY else None


def _refresh(kernel: Any) -> tuple[int, bool, tuple[Any, ...], tuple[dict[Any, Any], ...]]:
    """The number of Triton's settings as they are; whether each call is slow; lists that make one slow while they hold
    something; dictionaries after whose changes all of this is asked again."""
    found = tuple(settings_of(kernel).values())
    number = _settings_numbers.setdefault(found, next(_next_number))
    slow = kernel._varargs or _stages_hook() is not None
    lists = [kernel.pre_run_hooks]
    chains = []
    for chain in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
        if isinstance(calls := getattr(chain, "calls", None), list):
            lists.append(calls)
            chains.append(vars(chain))  # where another list may be put
        else:
            slow = slow or chain is not None
    return number, bool(slow), tuple(lists), (*kernel._forget_cleared(), *chains)


# ---- tensor descriptors ----


def as_triton_describes(value: Any) -> Any:
    """The argument itself, or Triton's tensor descriptor for one of ringlaunch's."""
    if isinstance(value, tuple):
        return _triton_tensor.with_parts(value, as_triton_describes)
    if type(value) is not _triton_descriptor.TensorDescriptor:
        return value
    parts = {name: part for name, part in vars(value).items() if name in TensorDescriptor.__dataclass_fields__}
    if not isinstance(value.base, Buffer):
        return TensorDescriptor(**parts)
    made = object.__new__(TensorDescriptor)  # Triton's own checks know tensors of torch alone
    vars(made).update(parts)
    return made


# ---- the client, and what it compiles for ----


def _architecture(client: Client) -> int:
    info = client.daemon
    if found := re.fullmatch(r"sm_(\d+)[a-z]?", info.architecture):
        return int(found[1])
    if info.architecture != "any":
        raise Unsupported(
            f"a Triton kernel on the {info.driver} driver: that runs what is compiled for {info.architecture}, and "
            "Triton compiles for GPUs; start the daemon with --driver cuda (or null, which runs nothing)"
        )
    named = re.fullmatch(r"sm_?(\d+)", knobs.runtime.override_arch or "")
    return int(named[1]) if named else _ANY_ARCHITECTURE


class _DaemonDriver:
    """What Triton's compiler asks of the active driver where this process has none: the daemon's target."""

    def __init__(self, target: GPUTarget, device: str) -> None:
        self._target, self._device = target, device

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return self._device


_driver_lock = threading.RLock()


@contextlib.contextmanager
def _daemon_driver(target: GPUTarget, device: str) -> Iterator[None]:
    """Compiling asks for the active driver, and making one would make a CUDA context, or fail where there is no GPU. A
    program that has one keeps it."""
    config = triton.runtime.driver
    with _driver_lock:
        ours = config._active is None
        if ours:
            config.set_active(_DaemonDriver(target, device))
        try:
            yield
        finally:
            if ours:
                config._active = None


class _Noting:
    """Tells a program that seems to hang what it waits for: `with _Noting(kernel, device):` around a compilation.

    Most compilations read a file, and a thread for each would cost more than the reading. So one watches over all,
    from the first on; it ends once it finds none, _NOTE_S behind the last.
    """

    _lock: ClassVar[Any] = threading.Lock()
    _running: ClassVar[set[_Noting]] = set()
    _watched: ClassVar[bool] = False  # there is the thread

    def __init__(self, kernel: str, device: str) -> None:
        self._what, self._noted = f"compiling kernel {kernel!r} for {device}", False

    def __enter__(self) -> None:
        self._begin = time.monotonic()
        with self._lock:
            self._running.add(self)
            starts, _Noting._watched = not _Noting._watched, True
        if starts:
            _thread.start_new_thread(self._watch, ())

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running.discard(self)
        if (seconds := time.monotonic() - self._begin) > _NOTE_S:
            logging.getLogger("ringlaunch").warning("%s took %.1f s", self._what, seconds)

    @classmethod
    def _watch(cls) -> None:
        wait = _NOTE_S
        while True:
            time.sleep(wait)
            with cls._lock:
                waiting = [each for each in cls._running if not each._noted]
                if not cls._running:
                    cls._watched = False
                    return
                now = time.monotonic()
                due = [each for each in waiting if now - each._begin >= _NOTE_S]
                for each in due:
                    each._noted = True
            for each in due:
                logging.getLogger("ringlaunch").warning("%s: %.0f s so far", each._what, now - each._begin)
            next_due = (each._begin + _NOTE_S - now for each in waiting if not each._noted)
            wait = min(next_due, default=_NOTE_S)

    @classmethod
    def _forked(cls) -> None:
        cls._lock, cls._running, cls._watched = threading.Lock(), set(), False


os.register_at_fork(after_in_child=_Noting._forked)


# ---- kernels ----


class JITFunction(CallPath, jit.JITFunction):  # type: ignore[misc]
    """A Triton kernel whose calls go through ringlaunch: `kernel[grid](*args, **kwargs)`, as of `triton.jit`.

    Other kernels call it, and Triton's decorators take it, as any function of `triton.jit`. It shares the attributes
    of the one that it was made from.

    Attributes
    ----------
    cache : KernelCache
        The variants that were compiled.
    """

    __slots__ = ("_hints", "_left", "_mode", "_targets", "_varargs", "_warmed")

    _out_of_resources = OutOfResources

    def __init__(self, fn: jit.JITFunction, client: Client | None, mode: str | None) -> None:
        self.__dict__ = fn.__dict__
        self._begin(client)
        self._mode = mode
        self._targets: dict[str, tuple[Any, ...]] = {}  # what this has found in device_caches for clients
        # What was compiled ahead of its calls, by device and Triton's key, or, where Triton's caches have it, hash.
        self._warmed: dict[tuple[str, ...], tuple[Any, bool]] = {}
        self._left: dict[int, Any] = {}  # compiled kernels that only Triton can launch, by id
        self._hints = _take_hints(fn)
        kinds = [param._param.kind for param in fn.params]
        self._varargs = inspect.Parameter.VAR_POSITIONAL in kinds
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        options = set(_option_fields())
        self._bind(
            tuple(call_param(param, options) for param in fn.params),
            sum(kind in positional for kind in kinds),
            _inline().call_slowly if mode == "inline" else _call_slowly,
            _finish,
            _refresh,
            give_scratch,
            self.__dict__,
            mode_number(mode),
            None if self._hints else triton_run,
        )

    def __copy__(self) -> JITFunction:
        """With a table and variants of its own, as Triton's kernels are copied: attribute by attribute."""
        plain = object.__new__(jit.JITFunction)
        plain.__dict__.update(self.__dict__)
        return JITFunction(plain, self._client, self._mode)

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        """What Autotuner, Heuristics and `warmup` call."""
        if not warmup:
            return self._grid(grid)(*args, **kwargs)
        stream = None if "stream" in self.arg_names else kwargs.pop("stream", None)
        values = (*args, *kwargs.values())
        if mode_of(self, values, stream) == "inline":
            compiled = _inline().warm_up(self, args, kwargs, grid)
            if isinstance(compiled, CompiledKernel):
                self._warmed[(compiled.hash,)] = (compiled, True)
        else:
            kwargs = with_settings(self, kwargs)
            for hook in self.pre_run_hooks:
                hook(*args, **kwargs)
            client = client_of(self, iter(values), stream)
            _, compiled = self._compile(client, self._specialize(client, args, kwargs), warmup=True)
            _check_captured(self)
        return compiled

    def preload(self, specialization_data: str) -> Any:
        """Compiles what a hook of Triton's was told of, ahead of its calls."""
        if mode_of(self, (), None) == "inline":
            _inline().load(self.__name__)
            return super().preload(specialization_data)
        client = client_of(self, iter(()), None)
        device, (kernels, _, target, _, _) = self._target(client)
        with _daemon_driver(target, device), _Noting(self.__name__, f"sm_{target.arch}"):
            compiled = _finished(super().preload(specialization_data))
        key = json.loads(specialization_data)["key"]
        kernels.pop(key, None)
        if compiled is not None and compiled.metadata.target == target:  # a GPU of this process may be another
            self._warmed[device, key] = (compiled, False)
        return compiled

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes what is compiled to a file, from which `ringlaunch.load` launches it where there is no Triton.

        That is all that `cache` has, and all that `warmup` has compiled: call the kernel, or warm it up, once with
        arguments of each kind that the file is to hold. A daemon with the null driver compiles for the GPU that
        $TRITON_OVERRIDE_ARCH names.

        Parameters
        ----------
        path : str or path
            Of the file, which is replaced as a whole.

        Returns
        -------
        int
            How many variants it holds.

        Raises
        ------
        InvalidArgument
            Nothing is compiled.
        Unsupported
            A constant that files cannot hold; a variadic kernel.
        OSError
        """
        return save(self, path)

    def _usual_options(self, compiled: Any) -> dict[str, Any]:
        return default_options(self, compiled.metadata.target)

    def _forget_cleared(self) -> tuple[dict[Any, Any], ...]:
        """Lets go of what a program has taken out of Triton's caches (`kernel.device_caches.clear()`), and says which
        dictionaries these are."""
        caches = self.device_caches
        here = [kernels for device, (kernels, *_) in list(caches.items()) if isinstance(device, int)]
        known = {id(each) for kernels in here for each in list(kernels.values())}
        cleared = any(caches.get(device) is not found for device, found in list(self._targets.items()))
        if cleared:
            self._targets.clear()

        def stays(compiled: Any, inline: bool) -> bool:
            return id(compiled) in known if inline else not cleared

        for variant in list(self._variants_held.values()):
            if not stays(variant.compiled, variant.client is None):
                self.cache.evict(variant)
        for number, compiled in list(self._left.items()):
            if number not in known:
                self._left.pop(number, None)
                self._forget(compiled)
        for name, warmed in list(self._warmed.items()):
            if not stays(*warmed):
                self._warmed.pop(name, None)
        return (caches, *here)

    def _target(self, client: Client) -> tuple[str, tuple[Any, ...]]:
        """Device (to Triton's caches and hooks), and what Triton keeps for it, for what a client compiles for."""
        architecture = _architecture(client)
        device = f"ringlaunch:sm_{architecture}"
        self._forget_cleared()
        if (found := self._targets.get(device)) is None:
            if (found := self.device_caches.get(device)) is None:
                target = GPUTarget("cuda", architecture, WARP)
                backend = make_backend(target)
                binder = jit.create_function_from_signature(self.signature, self.params, backend)
                found = self.device_caches[device] = ({}, {}, target, backend, binder)
                self.compile, self.ASTSource, self.CompiledKernel = triton_compile, ASTSource, CompiledKernel
            self._targets[device] = found
        return device, found

    def _specialize(
        self, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], list[Any], dict[str, Any], str]:
        """Keywords, bound arguments, specialization, options and Triton's key of a call. `kwargs`: with_settings()."""
        _, (_, keys, _, _, binder) = self._target(client)
        if self._hints:
            self._check_hints(args, kwargs)
        args = tuple(map(as_triton_describes, args))
        kwargs = {name: as_triton_describes(value) for name, value in kwargs.items()}
        bound, specialization, options = binder(*args, **kwargs)
        if (hook := _stages_hook()) is not None:
            _, stages = hook()
            specialization.append(f'("custom_pipeline", {stages})')
        try:
            key = jit.compute_cache_key(keys, specialization, options)
        except ValueError:  # it writes the constants
            _refuse_unwritten(self.__name__, bound, kwargs)
            raise
        return kwargs, bound, specialization, options, key

    def _check_hints(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = self.signature.bind(*args, **{name: kwargs[name] for name in kwargs if name in self.arg_names})
        except TypeError:
            return  # Triton's binder says so
        given.apply_defaults()
        check(self.__name__, self._hints, given)

    def _compile(self, client: Client, specialized: tuple[Any, ...], warmup: bool) -> tuple[dict[str, Any], Any]:
        """Signature and CompiledKernel of a call (see _specialize): compiled before it, from Triton's cache on disk,
        or compiled now."""
        kwargs, bound, specialization, options, key = specialized
        device, (kernels, _, _, backend, _) = self._target(client)
        with _daemon_driver(backend.target, device), _Noting(self.__name__, f"sm_{backend.target.arch}"):
            _refuse_sanitizer(self.__name__, kwargs)
            options, signature, constants, attributes = self._pack_args(backend, kwargs, bound, specialization, options)
            for known in self._known(client, device, key):
                if _is_of(known.src, signature, constants, attributes):
                    return signature, known
            compiled = _finished(self._do_compile(key, signature, device, constants, options, attributes, warmup))
        kernels.pop(key, None)  # shared with the kernel that this was made of, which may live on
        if warmup and compiled is not None:
            self._warmed[device, key] = (compiled, False)
        return signature, compiled

    def _known(self, client: Client, device: str, key: str) -> Iterator[Any]:
        """What was compiled for calls of Triton's key."""
        if (warmed := self._warmed.get((device, key))) is not None:
            yield warmed[0]
        if (variant := self._by_key.get(self._call_key(client, key))) is not None:
            yield variant.compiled

    def _call_key(self, client: Client, key: str) -> tuple[Any, ...]:
        return client._handle, tuple(settings_of(self).values()), key

    def _variant(
        self, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any], keyed: bool
    ) -> tuple[dict[str, Any], Variant | None]:
        """Bound arguments of a call and what it launches; None where a hook of Triton's took the compilation over."""
        specialized = self._specialize(client, args, kwargs)
        _, bound, _, _, key = specialized
        by_key = self._call_key(client, key)
        if not keyed and (found := self._by_key.get(by_key)) is not None:
            return bound, found
        begin = time.perf_counter()
        signature, compiled = self._compile(client, specialized, warmup=False)
        if compiled is None:
            return bound, None
        seconds = time.perf_counter() - begin
        kinds = tuple(signature.items())
        held = self._variants_held.get((client._handle, compiled.hash, kinds))
        if held is None:
            maps = tensor_maps(compiled.metadata)
            held = self._make_variant(client, compiled, signature, bound, seconds, maps)
            self._variants_held[client._handle, compiled.hash, kinds] = held
        self._by_key[by_key] = held
        return bound, held

    def _release(self, variant: Variant) -> None:
        super()._release(variant)
        if variant.client is None:
            _inline().release(self, variant.compiled)

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant | None:
        """What a call would launch, if it was compiled."""
        stream = None if "stream" in self.arg_names else kwargs.pop("stream", None)
        if mode_of(self, (*args, *kwargs.values()), stream) == "inline":
            found: Variant | None = _inline().find(self, args, kwargs)
            return found
        client = client_of(self, iter((*args, *kwargs.values())), None)
        key = self._specialize(client, args, with_settings(self, kwargs))[-1]
        return self._by_key.get(self._call_key(client, key))


_core.triton_types(
    (tl.dtype,),
    (JITFunction, *(kind for name in ("JITFunction", "ConstexprFunction") if (kind := getattr(jit, name, None)))),
    tl.constexpr,
    enum.Enum,
)


def _take_hints(fn: jit.JITFunction) -> dict[str, Any]:
    """The parameters that are annotated with types of ours, and, beside such, with `float`. Where the annotation of one
    of ours is text, as `from __future__ import annotations` makes it, Triton is given what it says."""
    hints = {}
    for param in fn.params:
        annotation = param._param.annotation
        where = f"kernel {fn.__name__!r}, parameter {param.name!r}"
        if (hint := find(where, annotation, fn.__globals__)) is None:
            continue
        hints[param.name] = hint
        if hint is not annotation:
            param._param = param._param.replace(annotation=hint)
            for read in ("annotation", "annotation_type", "is_constexpr", "is_const"):
                param.__dict__.pop(read, None)
    if hints:  # in the order of the parameters, as calls are checked
        kinds = {param.name: hints.get(param.name) or _float_hint(param, fn.__globals__) for param in fn.params}
        hints = {name: kind for name, kind in kinds.items() if kind is not None}
    return hints


def _float_hint(param: Any, names: dict[str, Any]) -> type[float32] | None:
    return float32 if is_float(param._param.annotation, names) else None


def _inline() -> Any:
    """What inline calls need of Triton; imported when one is made."""
    from ringlaunch import _triton_inline

    return _triton_inline


def _option_fields() -> list[str]:
    from triton.backends.nvidia.compiler import CUDAOptions

    return list(CUDAOptions.__dataclass_fields__)


def _finished(compiled: Any) -> Any:
    """What is compiled, or is being compiled under Triton's AsyncCompileMode."""
    return compiled.result() if hasattr(compiled, "result") else compiled


def _refuse_sanitizer(name: str, kwargs: dict[str, Any]) -> None:
    """Triton asks the process's own driver for what GSan needs."""
    if "gsan" in str(kwargs.get("instrumentation_mode")) and hasattr(knobs.compilation, "fpsan_homomorphic_casts"):
        raise Unsupported(f"kernel {name!r}: a kernel with instrumentation cannot run in the daemon")


def _is_of(source: ASTSource, signature: Any, constants: dict[Any, Any], attributes: Any) -> bool:
    """Whether it was compiled of these. Triton's key alone takes some constants for others: 1 for True, say."""
    return (
        source.signature == signature
        and source.attrs == attributes
        and source.constants.keys() == constants.keys()
        and all(_is_same(source.constants[path], value) for path, value in constants.items())
    )


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, tl.constexpr):
        return _is_same(one.value, other.value)
    return one is other or (isinstance(one, int | float | str) and repr(one) == repr(other))


def _check_captured(kernel: JITFunction) -> None:
    missing = object()
    for (name, _), (value, variables) in kernel.used_global_vals.items():
        if (found := variables.get(name, missing)) != value:
            raise RuntimeError(
                f"Global variable {name} has changed since we compiled this kernel, from {value} to {found}"
            )


def _call_slowly(
    kernel: JITFunction,
    grid: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pending: _core.TritonPending | None,
) -> Any:
    """One call by Triton's own code."""
    for name in ("grid", "warmup"):
        if name in kwargs:  # as if they had come to Triton's run(), whatever the kernel's parameters are called
            run = f"{triton_run.__module__}.{triton_run.__qualname__}"
            raise TypeError(f"{run}() got multiple values for keyword argument {name!r}")
    stream = None if "stream" in kernel.arg_names else kwargs.pop("stream", None)
    if mode_of(kernel, (*args, *kwargs.values()), stream) == "inline":
        if stream is not None:
            kwargs["stream"] = stream
        return _inline().call_slowly(kernel, grid, args, kwargs, pending)
    for name, value in (*zip(kernel.arg_names, args), *kwargs.items()):
        for leaf in leaves(iter((value,))):
            if is_tensor(leaf):
                refuse_foreign(kernel.__name__, name, "*", leaf)
    client_values = (*args, *kwargs.values())
    kwargs = with_settings(kernel, kwargs)
    for hook in kernel.pre_run_hooks:
        hook(*args, **kwargs)
    client = client_of(kernel, iter(client_values), stream)
    with kernel._lock:
        bound, variant = kernel._variant(client, args, kwargs, keyed=pending is not None)
        if variant is None:
            return None
        _check_captured(kernel)
        kernel._capture(
            tuple((name, variables, value) for (name, _), (value, variables) in kernel.used_global_vals.items())
        )
    leaves_passed = leaf_numbers(kernel, bound, variant.signature)  # before the grid's function changes something
    if callable(grid):
        grid = grid(bound)
    compiled = _launch(kernel, variant, grid, stream, bound)
    kernel._remember(pending, variant, leaves_passed)
    return compiled


def _finish(
    kernel: JITFunction,
    core: _core.TritonVariant,
    grid: Any,
    stream: Any,
    bound: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """The rest of a call whose variant was found and whose grid was asked for, where that has changed something:
    arguments, hooks, the grid's own kernel."""
    if core.kernel is None:
        return _inline().finish(kernel, core, grid, stream, bound)
    if (variant := kernel._held(core)) is not None:
        return _launch(kernel, variant, grid, stream, bound)
    options = {name: value for name, value in kwargs.items() if name not in bound}
    return kernel._grid(grid)(**bound, **options)


def _refuse_unwritten(kernel: str, bound: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """A constant with more digits than Python writes."""
    for name, value in {**kwargs, **bound}.items():
        try:
            repr(value)
        except ValueError:
            what = f"kernel {kernel!r}, {'parameter' if name in bound else 'option'} {name!r}"
            most = f"a constant of at most {sys.get_int_max_str_digits()} digits"
            raise OutOfRange(f"{what}: expected {most}, found {shown(value)}") from None


def _launch(kernel: JITFunction, variant: Variant, grid: Any, stream: Any, bound: dict[str, Any]) -> Any:
    compiled = variant._core.compiled
    passed = kernel._passed(variant, bound)
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    metadata = _launch_metadata(kernel, compiled, grid, stream, bound) if enter is not None else None
    if enter is not None:
        enter(metadata)
    kernel._launch(variant._core, grid, stream, passed)
    if leave is not None:
        leave(metadata)
    return compiled


def _launch_metadata(kernel: JITFunction, compiled: Any, grid: Any, stream: Any, bound: dict[str, Any]) -> Any:
    """What launch hooks are told; of a function in the daemon there is no handle here."""
    from triton.compiler.compiler import LazyDict

    metadata = LazyDict({"name": compiled.name, "function": None, "stream": stream})
    if kernel.launch_metadata is not None:
        arguments = dict(zip(kernel.arg_names, bound.values()))
        metadata.add(kernel.launch_metadata, (grid, compiled.metadata, arguments))
    return metadata


# ---- wrapping ----


def jit_and_wrap(fn: Any, client: Client | None, mode: str | None, options: dict[str, Any]) -> Any:
    """See `ringlaunch.jit`."""
    if isinstance(fn, jit.KernelInterface):
        raise refused("fn", "a function (ringlaunch.wrap takes a kernel that there is)", fn)
    if not callable(fn):
        raise refused("fn", "a function", fn)
    return wrap(triton.jit(fn, **options), client, mode)


def _refuse_type(kernel: jit.JITFunction) -> None:
    """A type that does some of a call in its own way would do none of it here."""
    kind = type(kernel)
    own = {name for each in kind.__mro__[: kind.__mro__.index(jit.JITFunction)] for name in vars(each)}
    known = {name for name in dir(jit.JITFunction) if not name.startswith("__") or name == "__getitem__"}
    if replaced := sorted(own & known):
        raise Unsupported(
            f"kernel {kernel.__name__!r}: its type, {kind.__module__}.{kind.__qualname__}, has {', '.join(replaced)} "
            "of its own, which a call through ringlaunch would not ask; call it without, as Triton's"
        )


def wrap(kernel: Any, client: Client | None = None, mode: str | None = None) -> Any:
    """See `ringlaunch.wrap`."""
    mode = check_mode(mode, client)
    if isinstance(kernel, JITFunction):
        if (client is None or client is kernel._client) and mode in (None, kernel._mode):
            return kernel
        return JITFunction(kernel, kernel._client if client is None and mode == "daemon" else client, mode)
    if isinstance(kernel, jit.JITFunction):
        if kernel.is_gluon():
            raise Unsupported(f"kernel {kernel.__name__!r}: kernels of Gluon are not launched through ringlaunch")
        _refuse_type(kernel)
        return JITFunction(kernel, client, mode)
    if isinstance(kernel, autotuner.Autotuner):
        made = copy.copy(kernel)
        if type(made) is autotuner.Autotuner:
            made.__class__ = TunedKernel
        made.fn = wrap(kernel.fn, client, mode)
        if mode != "inline":  # which Triton tunes
            tune(made, mode)
        made.save = functools.partial(save_wrapped, made)
        return made
    if isinstance(kernel, autotuner.Heuristics):
        made = copy.copy(kernel)
        made.fn = wrap(kernel.fn, client, mode)
        made.save = functools.partial(save_wrapped, made)
        return made
    if type(kernel).__name__ == "InterpretedFunction":  # TRITON_INTERPRET: it runs here, and launches nothing
        return kernel
    raise refused("kernel", "a kernel of triton.jit, triton.autotune or triton.heuristics", kernel)
