"""Triton kernels from a file: `ringlaunch.load(path)` makes what is called as the kernel was that was saved.

It needs no Triton. A call's usual way is C++, as that of any Triton kernel, into the daemon or inline. The first call
of each kind comes here, where it is matched with the variants of the file: the one that assumes most of what holds is
launched. One that assumes less serves as well (an integer not known to be divisible by 16), one of other types or
constants never.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ringlaunch import _core, _triton_file, _triton_saved_inline
from ringlaunch._check import brief, refused, shown
from ringlaunch._client import Client
from ringlaunch._hints import SCALARS, TensorOf, check, element_of, scalar, tensor_of
from ringlaunch._mode import mode_number
from ringlaunch._stream import Stream
from ringlaunch._triton_cache import Variant, kinds_text
from ringlaunch._triton_file import SavedFile, SavedParam, SavedTuning, SavedVariant, constant_text, encode, same
from ringlaunch._triton_load import MOST_QUICK_PARAMS, CallPath, call_param, client_of, give_scratch, leaf_numbers
from ringlaunch._triton_mode import check_mode, mode_of
from ringlaunch._triton_tensor import as_triton_takes
from ringlaunch.errors import Error, InvalidArgument, LimitReached, NotFound, ParamTypeError, Unsupported

Heuristic = Callable[[dict[str, Any]], Any]

_DIVISOR = 16  # the only one that Triton looks for
_LISTED = 8  # variants in a message


class SavedImage:
    """What a call answers, where a kernel that Triton compiles answers its CompiledKernel: with the same attributes.

    Attributes
    ----------
    name : str
        The function in the image.
    asm : dict of str to bytes
        {"cubin": the image}.
    metadata : object
        num_warps, num_ctas, shared, ... as attributes.
    n_regs, n_spills, n_max_threads : int
    """

    def __init__(self, variant: SavedVariant, options: dict[str, Any]) -> None:
        launch = variant.launch
        self.name = variant.entry
        self.asm = {"cubin": variant.image}
        self.hash = hashlib.sha256(variant.image).hexdigest()
        metadata = {
            **options,
            **variant.options,
            "name": variant.entry,
            "num_warps": launch["num_warps"],
            "num_ctas": launch["num_ctas"],
            "shared": launch["shared"],
            "global_scratch_size": launch["global_scratch_size"],
            "profile_scratch_size": 0,
            "launch_cooperative_grid": launch["cooperative"],
            "launch_pdl": launch["programmatic"],
        }
        self.metadata = SimpleNamespace(**metadata)
        constants = {path: _plain(value) for path, value in variant.constants.items()}
        self.src = SimpleNamespace(constants=constants, attrs=dict(variant.attributes))
        self.n_regs = self.n_spills = self.n_max_threads = 0  # until it is loaded


def _plain(constant: Any) -> Any:
    try:
        return _triton_file.decode(constant, "")
    except Unsupported:
        return constant_text(constant)


def _hint(path: Path, param: SavedParam) -> TensorOf | type[scalar]:
    kind = SCALARS.get(param.annotation_type.removeprefix("*"))
    if kind is None:
        raise _triton_file.damaged(path, f"parameter {param.name!r} is checked for {param.annotation_type!r}")
    return tensor_of(kind) if param.annotation_type.startswith("*") else kind


class SavedKernel(CallPath):
    """A Triton kernel from a file: `kernel[grid](*args, **kwargs)`, as the kernel that was saved.

    Attributes
    ----------
    cache : KernelCache
        The variants that calls have loaded.
    saved : tuple of SavedVariant
        Those that the file holds.
    """

    _out_of_resources = staticmethod(
        lambda needed, limit, what: LimitReached(f"a kernel needs {needed} of {what}, and the device has {limit}")
    )

    def __init__(self, path: Path, file: SavedFile, client: Client | None, mode: str | None) -> None:
        self.__name__ = file.kernel
        self._mode = mode
        self._launching = threading.local()  # its `again`: how often a call that was matched was made again
        self.params = file.params
        self.saved = file.variants
        self._path = path
        self._options = file.options
        self._images: dict[int, SavedImage] = {}
        self._hints = {param.name: _hint(path, param) for param in file.params if param.checked}
        self._names = [param.name for param in file.params]
        self._begin(client)
        only, usual = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        try:
            self._signature = inspect.Signature(
                [
                    inspect.Parameter(
                        param.name,
                        only if param.keyword_only else usual,
                        default=param.default if param.has_default else inspect.Parameter.empty,
                    )
                    for param in file.params
                ]
            )
        except ValueError as error:
            raise _triton_file.damaged(path, f"its parameters are none of a function ({error})") from None
        self._bind(
            tuple(call_param(param, self._options) for param in file.params),
            sum(not param.keyword_only for param in file.params),
            _call_slowly,
            _finish,
            _no_settings,
            _give_scratch,
            self.__dict__,
            mode_number(mode),
        )

    def __repr__(self) -> str:
        return f"<ringlaunch.SavedKernel {self.__name__}({', '.join(self._names)}) of {len(self.saved)} variants>"

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments by parameter, and the options that are not the defaults."""
        try:
            bound = self._signature.bind(*args, **{name: kwargs[name] for name in kwargs if name in self._names})
        except TypeError as error:
            raise ParamTypeError(f"kernel {self.__name__!r}: {error}") from None
        bound.apply_defaults()
        check(self.__name__, self._hints, bound)
        options = {}
        for name, value in kwargs.items():
            if name in self._options:
                if value is not None and not same(_constant(value), _constant(self._options[name])):
                    options[name] = value
            elif name not in self._names:
                raise ParamTypeError(
                    f"kernel {self.__name__!r}: there is no parameter or option {name!r}; its parameters are "
                    f"{', '.join(self._names)}, its options {', '.join(self._options)}, and stream"
                )
        return dict(bound.arguments), options

    def _usual_options(self, compiled: Any) -> dict[str, Any]:
        return self._options

    def _image(self, number: int) -> SavedImage:
        return self._images.setdefault(number, SavedImage(self.saved[number], self._options))

    def _choose(self, held: list[int], bound: dict[str, Any], options: dict[str, Any]) -> int:
        """The number of the variant that is launched, of those for the device."""
        best, most = -1, -1
        for number in held:
            assumed = _fit(self.saved[number], self.params, bound, options)
            if assumed is not None and assumed > most:
                best, most = number, assumed
        if best < 0:
            raise NotFound(self._missing(held, bound, options))
        return best

    def _for_device(self, client: Client) -> list[int]:
        """The variants for a client's device."""
        info = client.daemon
        found = re.fullmatch(r"sm_(\d+)[a-z]?", info.architecture)
        if found is None and info.architecture != "any":
            raise Unsupported(
                f"kernel {self.__name__!r} of {self._path} on the {info.driver} driver: that runs what is compiled for "
                f"{info.architecture}, and this was compiled for GPUs; start the daemon with --driver cuda (or null, "
                "which runs nothing)"
            )
        if found is None:
            return list(range(len(self.saved)))
        return self._of_architecture(int(found[1]), f"the device of this client is {info.device_name}")

    def _of_architecture(self, architecture: int, device: str) -> list[int]:
        held = [i for i, each in enumerate(self.saved) if each.architecture == architecture]
        if not held:
            there = ", ".join(f"sm_{each}" for each in sorted({each.architecture for each in self.saved}))
            raise Unsupported(
                f"kernel {self.__name__!r} of {self._path}: {device} (sm_{architecture}), and the file holds what was "
                f"compiled for {there or 'none'}; save it once more after calls on such a device, or on a daemon with "
                f"the null driver and TRITON_OVERRIDE_ARCH=sm{architecture}"
            )
        return held

    def _inline_variant(self, context: int, bound: dict[str, Any], options: dict[str, Any]) -> Variant:
        """What a call launches in this program."""
        _, architecture, _ = _core.triton_inline_device()
        number = self._choose(self._of_architecture(architecture, "the current device is another"), bound, options)
        held = self._variants_held.get((context, number))
        if held is None:
            core = _triton_saved_inline.load_variant(self, number, context)
            held = Variant(self, core, None, dict(self.saved[number].signature), 0.0)
            self._variants_held[context, number] = held
        return held

    def _missing(self, held: list[int], bound: dict[str, Any], options: dict[str, Any]) -> str:
        asked = ", ".join(f"{param.name}: {_asked(param, bound[param.name])}" for param in self.params)
        asked += "".join(f", {name}={brief(value)}" for name, value in options.items())
        lines = [_held(self.saved[number], self.params) for number in held[:_LISTED]]
        if len(held) > _LISTED:
            lines.append(f"and {len(held) - _LISTED} more")
        return (
            f"kernel {self.__name__!r}: {self._path} holds no variant for ({asked}); it holds\n  "
            + "\n  ".join(lines)
            + "\ncall the kernel so where Triton is installed, and save it anew"
        )

    def _variant(self, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Variant]:
        """Bound arguments of a call and what it launches."""
        bound, options = self._bound(args, kwargs)
        number = self._choose(self._for_device(client), bound, options)
        held = self._variants_held.get((client._handle, number))
        if held is None:
            saved = self.saved[number]
            held = self._make_variant(client, self._image(number), saved.signature, bound, 0.0, saved.tensor_maps)
            self._variants_held[client._handle, number] = held
        return bound, held

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant | None:
        stream = None if "stream" in self._names else kwargs.pop("stream", None)
        values = (*args, *kwargs.values())
        try:
            if mode_of(self, values, stream) == "inline":
                context = _triton_saved_inline.enter(self.__name__)
                bound, options = self._bound(tuple(map(as_triton_takes, args)), _taken(kwargs))
                held = self._of_architecture(_core.triton_inline_device()[1], "the current device is another")
                return self._variants_held.get((context, self._choose(held, bound, options)))
            client = client_of(self, iter(values), None)
            bound, options = self._bound(args, kwargs)
            return self._variants_held.get((client._handle, self._choose(self._for_device(client), bound, options)))
        except NotFound:
            return None


class SavedHeuristicKernel:
    """A Triton kernel with heuristics, from a file: `kernel[grid](*args, **kwargs)`. The functions are those that
    `load` was given; a parameter without one is given by the call.

    Attributes
    ----------
    fn : SavedKernel or SavedTunedKernel
        The kernel itself.
    """

    def __init__(
        self,
        fn: SavedKernel | SavedTunedKernel | SavedHeuristicKernel,
        names: list[str],
        functions: dict[str, Heuristic],
    ) -> None:
        self.fn = fn
        self.__name__: str = fn.__name__
        self.params: Sequence[SavedParam] = fn.params
        self._order = {param.name: i for i, param in enumerate(fn.params)}
        self._functions = {name: functions.get(name) for name in names}

    def __repr__(self) -> str:
        return f"<ringlaunch.SavedHeuristicKernel of {self.fn!r}, which chooses {', '.join(self._functions)}>"

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.fn[grid](*args, **self._chosen(args, kwargs))

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a call with what the functions answer: each sees what those before it have chosen."""
        for name, function in self._functions.items():
            if function is not None:
                kwargs[name] = function({**dict(zip(self._order, args)), **kwargs})
            elif name not in kwargs and self._order[name] >= len(args):
                raise ParamTypeError(
                    f"kernel {self.__name__!r}: parameter {name!r} was chosen by a function of the program that saved "
                    f"it, which no file holds: give it to ringlaunch.load(heuristics={{{name!r}: function}}), or its "
                    "value to the call"
                )
        return kwargs


class SavedTunedKernel:
    """A tuned Triton kernel from a file: `kernel[grid](*args, **kwargs)`, with what was found best when it was saved.

    Attributes
    ----------
    fn : SavedKernel or SavedHeuristicKernel
        The kernel itself.
    cache : dict of tuple to dict
        What was found best, by the values of the parameters that it depends on and the element types of tensors.
    configs : list of dict
    """

    def __init__(self, fn: SavedKernel | SavedHeuristicKernel, path: Path, tuned: SavedTuning) -> None:
        self.fn = fn
        self.__name__: str = fn.__name__
        self.params: Sequence[SavedParam] = fn.params
        self._path = path
        self._key = tuned.key
        self.cache = {
            tuple(_plain(value) for value in key): {
                name: _triton_file.decode(value, f"kernel {fn.__name__!r}, {name!r} as it was tuned")
                for name, value in config.items()
            }
            for key, config in tuned.choices
        }
        self.configs = list(self.cache.values())
        names = tuple(param.name for param in self.params)
        keyed = self._key is not None
        self._quick = (
            None
            if {"grid", "warmup"} & set(names)
            else _core.TritonTuned(self.__dict__, names, tuple(self._key or ()), None, (), self._run, int(keyed), True)
        )

    def __repr__(self) -> str:
        return f"<ringlaunch.SavedTunedKernel of {self.fn!r}, tuned for {len(self.cache)} keys>"

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        if self._quick is None:
            return lambda *args, **kwargs: self.fn[grid](*args, **kwargs, **self._chosen(args, kwargs))
        return self._quick[grid]

    def _run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        """The whole call, where the C++ side does not find the configuration."""
        return self.fn[grid](*args, **kwargs, **self._chosen(args, kwargs))

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The configuration for a call, which is known by the same as Triton's Autotuner knows it by."""
        if self._key is None:
            return self.configs[0]
        names = [param.name for param in self.params]
        given = {**dict(zip(names, args)), **{name: kwargs[name] for name in kwargs if name in names}}
        values = [_constant(given[name]) for name in self._key if name in given]
        types = [str(each.dtype).rpartition(".")[2] for each in given.values() if hasattr(each, "dtype")]
        chosen = self.cache.get((*map(_plain, values), *types))
        if chosen is None:
            held = [
                f"({', '.join(constant_text(_constant(each)) for each in key)})" for key in list(self.cache)[:_LISTED]
            ]
            more = len(self.cache) - len(held)
            raise NotFound(
                f"kernel {self.__name__!r}: {self._path} was not tuned for ({', '.join(self._key)}, and types of "
                f"elements) = ({', '.join(map(constant_text, [*values, *types]))}); it was for {', '.join(held)}"
                f"{f' and {more} more' if more else ''}; call the kernel so where Triton is installed, and save it anew"
            )
        return chosen


def load(
    path: str | os.PathLike[str],
    client: Client | None = None,
    mode: str | None = None,
    heuristics: dict[str, Heuristic] | None = None,
) -> SavedKernel | SavedTunedKernel | SavedHeuristicKernel:
    """See `ringlaunch.load`."""
    mode = check_mode(mode, client)
    functions = heuristics or {}
    if not isinstance(functions, dict) or not all(map(callable, functions.values())):
        raise refused("heuristics", "None or a dict of functions", heuristics)
    try:
        place = Path(path)
    except TypeError:
        raise refused("path", "a path", path) from None
    saved = _triton_file.read(place)
    kernel = SavedKernel(place, saved, client, mode)
    if client is not None:
        kernel._for_device(client)
    outside, inside = saved.heuristics or ([], [])
    if unknown := sorted(set(functions) - {*outside, *inside}):
        raise InvalidArgument(
            f"heuristics: expected functions for {', '.join((*outside, *inside)) or 'nothing'}, which kernel "
            f"{saved.kernel!r} of {place} has, found {', '.join(map(repr, unknown))}"
        )
    made: SavedKernel | SavedTunedKernel | SavedHeuristicKernel = kernel
    innermost: SavedKernel | SavedHeuristicKernel = kernel
    if inside:
        made = innermost = SavedHeuristicKernel(kernel, inside, functions)
    if saved.tuned is not None:
        made = SavedTunedKernel(innermost, place, saved.tuned)
    return SavedHeuristicKernel(made, outside, functions) if outside else made


# ---- what arguments are ----


def _leaf(param: SavedParam | None, value: Any) -> tuple[str, bool]:
    """The type of an argument in Triton's words, and whether it is divisible by 16. `param`: none for an element."""
    fixed = "" if param is None else param.annotation_type
    if isinstance(value, bool):
        return fixed or "u1", False
    if isinstance(value, int):
        narrow = "i32" if -(2**31) <= value < 2**31 else "i64" if -(2**63) <= value < 2**63 else "u64"
        return fixed or narrow, value % _DIVISOR == 0
    if isinstance(value, float):
        return fixed or "fp32", False
    if value is None:
        return fixed or "None", True  # a null pointer is aligned
    if hasattr(value, "block_shape") and hasattr(value, "base"):
        return f"tensordesc<{element_of(value.base)}{[int(side) for side in value.block_shape]}>", False
    address = value.data_ptr() if hasattr(value, "data_ptr") else getattr(value, "address", None)
    element = element_of(value)
    if isinstance(address, int) and element is not None:
        return fixed or f"{'*k' if param is not None and param.is_const else '*'}{element}", address % _DIVISOR == 0
    return type(value).__name__, False


def _constant(value: Any) -> Any:
    """A constant as files have it; what none has is like nothing."""
    try:
        return encode(value, "")
    except Error:
        return {"unknown": id(value)}


def _constants(options: dict[str, Any]) -> dict[str, Any]:
    return {name: _constant(value) for name, value in options.items()}


def _fit(
    variant: SavedVariant, params: Sequence[SavedParam], bound: dict[str, Any], options: dict[str, Any]
) -> int | None:
    """How much of what holds a variant assumes; None: it assumes what does not hold."""
    if not same(_constants(variant.options), _constants(options)):
        return None

    def walk(kind: Any, path: tuple[int, ...], param: SavedParam | None, value: Any) -> int | None:
        if kind == "constexpr":
            return 1 if path in variant.constants and same(variant.constants[path], _constant(value)) else None
        if isinstance(kind, tuple):
            if not isinstance(value, tuple) or len(value) != len(kind):
                return None
            total = 0
            for i, (part, element) in enumerate(zip(kind, value)):
                if (assumed := walk(part, (*path, i), None, element)) is None:
                    return None
                total += assumed
            return total
        found, divisible = _leaf(param, value)
        if found != kind:
            return None
        assumed = len(variant.attributes.get(path, ()))
        return None if assumed and not divisible else assumed

    total = 0
    for i, param in enumerate(params):
        assumed = walk(variant.signature[param.name], (i,), param, bound[param.name])
        if assumed is None:
            return None
        total += assumed
    return total


# ---- in words ----


def _asked(param: SavedParam | None, value: Any) -> str:
    if param is not None and param.is_constexpr:
        return constant_text(_constant(value)) if "unknown" not in str(_constant(value)) else shown(value)
    if isinstance(value, tuple):
        return f"({', '.join(_asked(None, each) for each in value)})"
    kind, divisible = _leaf(param, value)
    return f"{kind}{', a multiple of 16' if divisible and value is not None else ''}" + (
        f" = {value}" if type(value) is int and value == 1 else ""
    )


def _held(variant: SavedVariant, params: Sequence[SavedParam]) -> str:
    signature = {param.name: variant.signature[param.name] for param in params}
    text = kinds_text(signature, lambda path: constant_text(variant.constants.get(path)), variant.attributes)
    return f"({text}{''.join(f', {name}={value!r}' for name, value in variant.options.items())})"


# ---- the call ----


def _no_settings(_: SavedKernel) -> tuple[int, bool, tuple[Any, ...]]:
    return 0, False, ()


def _give_scratch(kernel: SavedKernel, variant: _core.TritonVariant, stream: Stream | int, nbytes: int) -> Any:
    if isinstance(stream, int):
        return _triton_saved_inline.allocate(stream, nbytes)
    return give_scratch(kernel, variant, stream, nbytes)


def _call_slowly(
    kernel: SavedKernel,
    grid: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pending: Any,
) -> Any:
    """The first call of each kind."""
    stream = None if "stream" in kernel._names else kwargs.pop("stream", None)
    if mode_of(kernel, (*args, *kwargs.values()), stream) == "inline":
        return _call_inline(kernel, grid, args, kwargs, stream, pending)
    _triton_saved_inline.know_descriptors()
    client = client_of(kernel, iter((*args, *kwargs.values())), stream)
    with kernel._lock:
        bound, variant = kernel._variant(client, args, kwargs)
    leaves_passed = leaf_numbers(kernel, bound, variant.signature)  # before the grid's function changes something
    if callable(grid):
        grid = grid(bound)
    compiled = _launch(kernel, variant, grid, stream, bound)
    kernel._remember(pending, variant, leaves_passed)
    return compiled


def _launch(kernel: SavedKernel, variant: Variant, grid: Any, stream: Any, bound: dict[str, Any]) -> Any:
    kernel._launch(variant._core, grid, stream, kernel._passed(variant, bound))
    return variant._core.compiled


def _finish(
    kernel: SavedKernel,
    core: _core.TritonVariant,
    grid: Any,
    stream: Any,
    bound: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """The rest of a call whose grid's function has changed something: the arguments, or what they are like."""
    if (variant := kernel._held(core)) is not None:
        return _launch(kernel, variant, grid, stream, bound)
    options = {name: value for name, value in kwargs.items() if name not in kernel._names and name != "stream"}
    named = {} if stream is None or "stream" in kernel._names else {"stream": stream}
    return kernel[grid](**{name: bound[name] for name in kernel._names}, **options, **named)


def _call_inline(
    kernel: SavedKernel,
    grid: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    stream: Any,
    pending: Any,
) -> Any:
    """The same where this program launches: the call is matched, and then made once more."""
    if len(kernel.params) > MOST_QUICK_PARAMS:
        raise Unsupported(
            f"kernel {kernel.__name__!r} of {kernel._path}: it has {len(kernel.params)} parameters, and from a file "
            f"kernels of at most {MOST_QUICK_PARAMS} are launched inline; launch it in a daemon, or by Triton"
        )
    _triton_saved_inline.check_arguments(kernel, args, kwargs, stream)
    context = _triton_saved_inline.enter(kernel.__name__)
    named = {} if stream is None else {"stream": stream}
    bound, options = kernel._bound(tuple(map(as_triton_takes, args)), _taken(kwargs))
    with kernel._lock:
        variant = kernel._inline_variant(context, bound, options)
        kernel._remember(pending, variant, leaf_numbers(kernel, bound, variant.signature))
    # Twice where the C++ side had not been told of types of elements and descriptors before.
    again = getattr(kernel._launching, "again", 0)
    if again == 2 or (again == 1 and pending is None):
        raise _triton_saved_inline.refuse(kernel, bound)
    kernel._launching.again = again + 1
    try:
        return kernel[grid](*args, **kwargs, **named)
    finally:
        kernel._launching.again = again


def _taken(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: as_triton_takes(value) for name, value in kwargs.items()}
