"""`kernel.save(path)`: what Triton has compiled of a kernel, as the file that `ringlaunch.load` reads."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import triton
from triton.backends.nvidia import driver as nvidia
from triton.compiler import make_backend
from triton.runtime.autotuner import Autotuner, Heuristics

from ringlaunch import _triton_file
from ringlaunch._triton_file import (
    SavedFile,
    SavedHeuristics,
    SavedParam,
    SavedTuning,
    SavedVariant,
    TensorMap,
    described,
    encode,
    same,
)
from ringlaunch._triton_load import CallPath
from ringlaunch.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from ringlaunch._triton import JITFunction

_OF_THE_DEVICE = ("arch", "backend_name", "warp_size")  # options that no call gives


def save(kernel: JITFunction, path: str | os.PathLike[str]) -> int:
    """See `JITFunction.save`."""
    return _save(kernel, path, None, None)


def save_wrapped(outer: Any, path: str | os.PathLike[str]) -> int:
    """`save` of a kernel of Autotuner, Heuristics or both: what was found best so far, what was compiled for that, and
    the names of the parameters that heuristics choose."""
    name = outer.base_fn.__name__ if isinstance(outer, Autotuner) else _innermost(outer).__name__
    doing = f"saving kernel {name!r}"
    outside: list[str] = []
    inside: list[str] = []
    tuner, kernel = None, outer
    while not isinstance(kernel, CallPath):
        if isinstance(kernel, Heuristics):
            (outside if tuner is None else inside).extend(kernel.values)
        elif isinstance(kernel, Autotuner) and tuner is None:
            tuner = kernel
        else:
            raise Unsupported(f"{doing}: no file can hold what {type(kernel).__name__} does there")
        kernel = kernel.fn
    if tuner is None:
        outside, inside = [], outside
    heuristics = SavedHeuristics(outside, inside) if outside or inside else None
    return _save(kernel, path, None if tuner is None else _tuning(tuner, path, doing), heuristics)


def _innermost(kernel: Any) -> Any:
    while not isinstance(kernel, CallPath):
        kernel = kernel.fn
    return kernel


def _tuning(tuned: Any, path: str | os.PathLike[str], doing: str) -> SavedTuning:
    chosen = list(tuned.cache.items()) if len(tuned.configs) > 1 else [((), tuned.configs[0])]
    choices = []
    for key, config in chosen:
        if config.pre_hook is not None:
            raise Unsupported(f"{doing}: a configuration has a pre_hook, which no file can hold")
        count = len(tuned.keys)
        values = [encode(each, f"{doing}, its key") for each in key[:count]]
        types = [each.rpartition(".")[2] for each in key[count:]]
        config = {name: encode(value, f"{doing}, {name!r}") for name, value in config.all_kwargs().items()}
        choices.append(([*values, *types], config))
    if not choices:
        raise InvalidArgument(f"{doing} to {os.fspath(path)}: it was not tuned yet; call it")
    return SavedTuning(list(tuned.keys) if len(tuned.configs) > 1 else None, choices)


def _save(
    kernel: Any, path: str | os.PathLike[str], tuned: SavedTuning | None, heuristics: SavedHeuristics | None
) -> int:
    kernel._forget_cleared()
    warmed = (each for each, _ in kernel._warmed.values())
    compiled = {each.hash: each for each in (*warmed, *(held.compiled for held in kernel.cache))}
    if not compiled:
        raise InvalidArgument(
            f"saving kernel {kernel.__name__!r} to {os.fspath(path)}: nothing of it is compiled; call it, or "
            "kernel.warmup(*args, grid=...), with arguments of each kind that is to be saved"
        )
    params = tuple(_param(kernel, each) for each in kernel.params)
    targets = {each.metadata.target.arch: each.metadata.target for each in compiled.values()}
    defaults = {arch: default_options(kernel, target) for arch, target in targets.items()}
    options = defaults[min(defaults)]
    variants = _without_twins([_variant(kernel, each, options) for each in compiled.values()])
    if tuned is not None:
        names = [param.name for param in params]
        variants = [
            each for each in variants if any(_is_of(each, config, names, options) for _, config in tuned.choices)
        ]
    saved = SavedFile(kernel.__name__, params, options, tuple(variants), tuned, heuristics)
    _triton_file.write(path, saved, {"triton": triton.__version__})
    return len(variants)


def _without_twins(variants: list[SavedVariant]) -> list[SavedVariant]:
    """Triton compiles two of one kind where its specialization looked at an argument and found nothing, and where it
    did not look at it: their code is one, and so is what files say of them."""
    first: dict[str, SavedVariant] = {}
    for each in variants:
        first.setdefault(described(each), each)
    return list(first.values())


def _is_of(variant: SavedVariant, config: dict[str, Any], names: list[str], defaults: dict[str, Any]) -> bool:
    """Whether calls of a configuration may launch a variant."""
    options = {**defaults, **variant.options}
    for name, value in config.items():
        if name in names:
            if not same(variant.constants.get((names.index(name),), value), value):
                return False
        elif not same(encode(options.get(name), name), value):
            return False
    return True


def default_options(kernel: JITFunction, target: Any) -> dict[str, Any]:
    """The options of a call that gives none."""
    found = vars(make_backend(target).parse_options({"debug": bool(kernel.debug)}))
    return {
        name: value
        for name, value in found.items()
        if name not in _OF_THE_DEVICE and (value is None or type(value) in (bool, int, float, str))
    }


def _param(kernel: JITFunction, param: Any) -> SavedParam:
    if param._param.kind is inspect.Parameter.VAR_POSITIONAL:
        raise Unsupported(f"saving kernel {kernel.__name__!r}: a kernel with *{param.name} cannot be saved")
    return SavedParam(
        param.name,
        param._param.kind is inspect.Parameter.KEYWORD_ONLY,
        bool(param.is_constexpr),
        param.annotation_type,
        param.name in kernel._hints,
        bool(param.is_const),
        bool(param.do_not_specialize),
        bool(param.do_not_specialize_on_alignment),
        bool(param.has_default),
        param.default if param.has_default else None,
    )


def _variant(kernel: JITFunction, compiled: Any, defaults: dict[str, Any]) -> SavedVariant:
    metadata, signature = compiled.metadata, compiled.src.signature
    names = list(signature)
    constants = {}
    for path, value in compiled.src.constants.items():
        path = path if isinstance(path, tuple) else (names.index(path),)
        constants[path] = encode(value, f"saving kernel {kernel.__name__!r}, parameter {names[path[0]]!r}")
    options = {name: getattr(metadata, name) for name in defaults if hasattr(metadata, name)}
    return SavedVariant(
        metadata.target.arch,
        compiled.asm["cubin"],
        metadata.name,
        dict(signature),
        constants,
        {path: [list(each) for each in found] for path, found in compiled.src.attrs.items() if found},
        {name: value for name, value in options.items() if not same(value, defaults[name])},
        {
            "num_warps": metadata.num_warps,
            "num_ctas": metadata.num_ctas,
            "shared": metadata.shared,
            "global_scratch_size": metadata.global_scratch_size,
            "cooperative": bool(metadata.launch_cooperative_grid),
            "programmatic": bool(metadata.launch_pdl),
        },
        _tensor_maps(kernel, signature, metadata),
    )


def _tensor_maps(kernel: JITFunction, signature: dict[str, Any], metadata: Any) -> tuple[TensorMap, ...]:
    described = sum(str(kind).startswith("tensordesc") for kind in signature.values())
    metas = list(getattr(metadata, "tensordesc_meta", None) or ())
    maps = [tensor_map(meta) for meta in metas]
    if "tensordesc" in str(list(signature.values())) and (len(maps) != described or None in maps):
        raise Unsupported(
            f"saving kernel {kernel.__name__!r}: of tensor descriptors, files hold those that are parameters of "
            "kernels for sm_90 and later, and are read in tiles, not in the form of im2col or of padded fp4"
        )
    return tuple(each for each in maps if each is not None)


def tensor_maps(metadata: Any) -> tuple[TensorMap, ...]:
    """Those of a compiled kernel's parameters; none where one is read in a way that only Triton's launcher knows."""
    maps = [tensor_map(meta) for meta in getattr(metadata, "tensordesc_meta", None) or ()]
    return () if None in maps else tuple(each for each in maps if each is not None)


def tensor_map(meta: dict[str, Any]) -> TensorMap | None:
    """How the hardware is to read a tensor, as Triton's launcher tells it; None: in another way."""
    if meta["fp4_padded"] or meta.get("is_im2col", False):
        return None
    element_type = nvidia.TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]]
    return meta["swizzle"], meta["elem_size"], element_type, tuple(meta["block_size"])
