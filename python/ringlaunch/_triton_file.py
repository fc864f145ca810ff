"""Files of compiled Triton kernels: what `kernel.save` writes and `ringlaunch.load` reads.

A file is a zip archive. `kernel.json` in it says what the kernel takes and what was compiled; `images/<sha256>.cubin`
are the images. The JSON is an object with

    format, version   FORMAT and VERSION. A reader refuses a greater version than it knows
    made_by           releases of ringlaunch and Triton, for people
    kernel            the name of the kernel
    parameters        in order, each: name; keyword_only; constexpr; type, the type that an annotation fixes, as Triton
                      writes it, or ""; checked, whether calls are checked against it; const; specialize and align,
                      whether values 1 and multiples of 16 are kernels of their own; default, where it has one
    options           the keywords of a call beside parameters, with their defaults
    variants          each: architecture (90); image, its file's name; sha256 and bytes of it; entry, the function in
                      it; signature, the type of each parameter in Triton's words, lists for tuples; constants and
                      attributes, pairs of a path (parameter, element, ...) and a value; options, those that are not as
                      above; num_warps, num_ctas, shared, global_scratch_size, cooperative, programmatic: how it is
                      launched; tensor_maps, where parameters are tensor descriptors, for each of them: swizzle, bytes
                      of an element, CUtensorMapDataType, block. Such a file is of version 3
    tuned             of a tuned kernel: key, the parameters that a choice depends on, or null where there is one choice
                      only; choices, each: key, the values of these parameters, then the element types of all tensors;
                      config, what is passed for it, parameters and options
    heuristics        of a kernel with heuristics: outside and inside, the parameters that functions chose before, and
                      behind, the tuning, in their order. The functions are in no file: whoever loads it gives them.
                      Such a file is of version 2

A constant is written as JSON has it, but for: {"float": "0x1.8p+1"}, {"tuple": [...]}, {"dtype": "fp32"}, {"function":
its name, "hash": of its source}.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import secrets
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from ringlaunch._check import spelled
from ringlaunch._core import __version__
from ringlaunch._hints import SCALARS, scalar
from ringlaunch.errors import BadImage, Unsupported

FORMAT = "ringlaunch triton kernel"
VERSION = 3
_MANIFEST = "kernel.json"
_MOST_BYTES = 1 << 30  # of one entry of a file, unpacked
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same kernels make the same file

_MOST_SIDES = 5  # of a tensor descriptor

Path_ = tuple[int, ...]
TensorMap = tuple[int, int, int, tuple[int, ...]]


class SavedParam(NamedTuple):
    """A parameter of a kernel that was saved, with the names that Triton has for all that."""

    name: str
    keyword_only: bool
    is_constexpr: bool
    annotation_type: str
    checked: bool
    is_const: bool
    do_not_specialize: bool
    do_not_specialize_on_alignment: bool
    has_default: bool
    default: Any


class SavedVariant(NamedTuple):
    """What was compiled, for arguments of one kind.

    Attributes
    ----------
    architecture : int
        The GPU's, 90 for sm_90.
    image : bytes
    entry : str
        The function in the image.
    signature : dict
        The type of each parameter, in Triton's words; a tuple for a tuple.
    constants : dict
        By path, as the file has them.
    attributes : dict
        By path: what was assumed of arguments.
    options : dict
        That are not the defaults.
    launch : dict
        num_warps, num_ctas, shared, global_scratch_size, cooperative, programmatic.
    tensor_maps : tuple
        Of each parameter that is a tensor descriptor: swizzle, bytes of an element, its type for CUDA, block.
    """

    architecture: int
    image: bytes
    entry: str
    signature: dict[str, Any]
    constants: dict[Path_, Any]
    attributes: dict[Path_, list[list[Any]]]
    options: dict[str, Any]
    launch: dict[str, int]
    tensor_maps: tuple[TensorMap, ...] = ()


class SavedTuning(NamedTuple):
    """What was found best for a tuned kernel. Values are as the file has them."""

    key: list[str] | None
    choices: list[tuple[list[Any], dict[str, Any]]]


class SavedHeuristics(NamedTuple):
    """The parameters that functions of the program choose, before the tuning and behind it."""

    outside: list[str]
    inside: list[str]


class SavedFile(NamedTuple):
    """All that a file says."""

    kernel: str
    params: tuple[SavedParam, ...]
    options: dict[str, Any]
    variants: tuple[SavedVariant, ...]
    tuned: SavedTuning | None = None
    heuristics: SavedHeuristics | None = None


# ---- constants ----


def encode(value: Any, what: str) -> Any:
    """A constant as JSON has it; two that are written alike are the same to a kernel."""
    if type(value) is int:
        try:
            str(value)
        except ValueError:
            raise Unsupported(f"{what}: {spelled(value)} has no place in a file") from None
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return {"float": float(value).hex()}
    if isinstance(value, tuple):
        return {"tuple": [encode(each, what) for each in value]}
    if isinstance(value, type) and issubclass(value, scalar):
        return {"dtype": value.triton}
    if type(value).__module__.partition(".")[0] == "triton":
        if type(value).__name__ == "constexpr":
            return encode(value.value, what)
        if type(value).__name__ == "dtype":
            return {"dtype": str(value)}
        if hasattr(value, "cache_key"):
            return {"function": value.__name__, "hash": value.cache_key}
    raise Unsupported(
        f"{what}: a constant of type {type(value).__module__}.{type(value).__qualname__} has no place in a file; "
        "numbers, text, None, tuples, types of elements and functions of triton.jit have"
    )


def decode(value: Any, what: str) -> Any:
    """What a default was."""
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float.fromhex(value["float"])
    if "tuple" in value:
        return tuple(decode(each, what) for each in value["tuple"])
    if (kind := SCALARS.get(value.get("dtype", ""))) is not None:
        return kind
    raise Unsupported(f"{what}: a default of {json.dumps(value)} cannot be given without Triton; pass the argument")


# ---- writing ----


def _version(saved: SavedFile) -> int:
    """The least that says all of it."""
    if any(each.tensor_maps for each in saved.variants):
        return 3
    return 1 if saved.heuristics is None else 2


def write(path: str | os.PathLike[str], saved: SavedFile, made_by: dict[str, str]) -> None:
    """Writes the whole file, or none."""
    try:
        _write(Path(path), saved, made_by)
    except OSError as error:  # of a file that nobody has asked for
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _write(target: Path, saved: SavedFile, made_by: dict[str, str]) -> None:
    images = {hashlib.sha256(each.image).hexdigest(): each.image for each in saved.variants}
    manifest = {
        "format": FORMAT,
        "version": _version(saved),
        "made_by": {"ringlaunch": __version__, **made_by},
        "kernel": saved.kernel,
        "parameters": [_param_out(saved.kernel, param) for param in saved.params],
        "options": saved.options,
        "variants": [_variant_out(each) for each in saved.variants],
    }
    if saved.tuned is not None:
        choices = [{"key": key, "config": config} for key, config in saved.tuned.choices]
        manifest["tuned"] = {"key": saved.tuned.key, "choices": choices}
    if saved.heuristics is not None:
        manifest["heuristics"] = saved.heuristics._asdict()
    made = target.with_name(f"{target.name}.{secrets.token_hex(8)}")  # with the rights of any file that is made
    with made.open("xb") as file:
        try:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_entry(_MANIFEST), json.dumps(manifest, indent=1, allow_nan=False))
                for name in sorted(images):
                    archive.writestr(_entry(f"images/{name}.cubin"), images[name])
            file.flush()
            os.replace(made, target)
        except BaseException:
            made.unlink(missing_ok=True)
            raise


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _param_out(kernel: str, param: SavedParam) -> dict[str, Any]:
    out = {
        "name": param.name,
        "keyword_only": param.keyword_only,
        "constexpr": param.is_constexpr,
        "type": param.annotation_type,
        "checked": param.checked,
        "const": param.is_const,
        "specialize": not param.do_not_specialize,
        "align": not param.do_not_specialize_on_alignment,
    }
    if param.has_default:
        out["default"] = encode(param.default, f"kernel {kernel!r}, the default of parameter {param.name!r}")
    return out


def _variant_out(variant: SavedVariant) -> dict[str, Any]:
    digest = hashlib.sha256(variant.image).hexdigest()
    maps = {"tensor_maps": variant.tensor_maps} if variant.tensor_maps else {}
    return {
        "architecture": variant.architecture,
        "image": f"images/{digest}.cubin",
        "sha256": digest,
        "bytes": len(variant.image),
        "entry": variant.entry,
        "signature": variant.signature,
        "constants": [[list(path), value] for path, value in variant.constants.items()],
        "attributes": [[list(path), value] for path, value in variant.attributes.items()],
        "options": variant.options,
        **variant.launch,
        **maps,
    }


def described(variant: SavedVariant) -> str:
    """What a file says of a variant, but for its image: two of one description take the same calls."""
    out = _variant_out(variant)
    return json.dumps({name: out[name] for name in out if name not in ("image", "sha256", "bytes")}, sort_keys=True)


# ---- reading ----


def damaged(path: Path, why: str) -> BadImage:
    return BadImage(f"reading the Triton kernel in {path}: the file is damaged: {why}; save it anew")


class _Reader:
    """Takes what it is told out of what a file has, or says that the file is damaged, and where."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def damaged(self, why: str) -> BadImage:
        return damaged(self._path, why)

    def take(self, value: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
        if not isinstance(value, dict) or name not in value:
            raise self.damaged(f"{where} has no {name!r}")
        found = value[name]
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
            raise self.damaged(f"{name!r} of {where} is {json.dumps(found)[:60]}")
        return found

    def count(self, value: Any, name: str, where: str) -> int:
        found: int = self.take(value, name, int, where)
        if not 0 <= found < 1 << 31:
            raise self.damaged(f"{name!r} of {where} is {found}")
        return found

    def constant(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        match value:
            case {"float": str(text)} if len(value) == 1:
                try:
                    float.fromhex(text)
                    return value
                except (ValueError, OverflowError):
                    pass
            case {"tuple": list(parts)} if len(value) == 1:
                return {"tuple": [self.constant(each, where) for each in parts]}
            case {"dtype": str()} | {"function": str(), "hash": str()}:
                return value
        raise self.damaged(f"a constant of {where} is {json.dumps(value)[:60]}")

    def by_path(self, value: Any, name: str, params: int, where: str) -> dict[Path_, Any]:
        out = {}
        for pair in self.take(value, name, list, where):
            match pair:
                case [[int(first), *rest], found] if 0 <= first < params and all(isinstance(i, int) for i in rest):
                    out[(first, *rest)] = found
                case _:
                    raise self.damaged(f"{name!r} of {where} has {json.dumps(pair)[:60]}")
        return out

    def kind(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return tuple(self.kind(each, where) for each in value)
        raise self.damaged(f"a type in the signature of {where} is {json.dumps(value)[:60]}")

    def options(self, value: Any, where: str) -> dict[str, Any]:
        found: dict[str, Any] = self.take(value, "options", dict, where)
        for name, option in found.items():
            if option is not None and not isinstance(option, bool | int | float | str):
                raise self.damaged(f"option {name!r} of {where} is {json.dumps(option)[:60]}")
        return found

    def param(self, value: Any, number: int) -> SavedParam:
        where = f"parameter {number}"
        names = ("keyword_only", "constexpr", "checked", "const", "specialize", "align")
        keyword_only, constexpr, checked, const, specialize, align = (
            self.take(value, each, bool, where) for each in names
        )
        name, kind = self.take(value, "name", str, where), self.take(value, "type", str, where)
        default = decode(self.constant(value["default"], where), where) if "default" in value else None
        return SavedParam(
            name, keyword_only, constexpr, kind, checked, const, not specialize, not align, "default" in value, default
        )

    def variant(
        self, value: Any, number: int, params: tuple[SavedParam, ...], images: dict[str, bytes]
    ) -> SavedVariant:
        where = f"variant {number}"
        image = images.get(self.take(value, "image", str, where))
        if image is None:
            raise self.damaged(f"{where} names an image that is not there")
        if len(image) != self.count(value, "bytes", where) or hashlib.sha256(image).hexdigest() != self.take(
            value, "sha256", str, where
        ):
            raise self.damaged(f"the image of {where} is not what was saved")
        signature = self.take(value, "signature", dict, where)
        if list(signature) != [param.name for param in params]:
            raise self.damaged(f"the signature of {where} names other parameters than the kernel has")
        constants = self.by_path(value, "constants", len(params), where)
        attributes = self.by_path(value, "attributes", len(params), where)
        for found in attributes.values():
            if not isinstance(found, list) or not all(isinstance(e, list) and len(e) == 2 for e in found):
                raise self.damaged(f"an attribute of {where} is {json.dumps(found)[:60]}")
        launch = {name: self.count(value, name, where) for name in ("num_warps", "num_ctas", "shared")}
        launch["global_scratch_size"] = self.count(value, "global_scratch_size", where)
        for name in ("cooperative", "programmatic"):
            launch[name] = self.take(value, name, bool, where)
        if not 1 <= launch["num_warps"] <= 64 or not 1 <= launch["num_ctas"] <= 64:
            raise self.damaged(f"{where} has {launch['num_warps']} warps and {launch['num_ctas']} blocks in a cluster")
        return SavedVariant(
            self.count(value, "architecture", where),
            image,
            self.take(value, "entry", str, where),
            {name: self.kind(kind, where) for name, kind in signature.items()},
            {path: self.constant(constant, where) for path, constant in constants.items()},
            attributes,
            self.options(value, where),
            launch,
            self.tensor_maps(value, signature, where),
        )

    def tensor_maps(self, value: Any, signature: dict[str, Any], where: str) -> tuple[TensorMap, ...]:
        maps = []
        for each in self.take(value, "tensor_maps", list, where) if "tensor_maps" in value else ():
            match each:
                case [int(swizzle), int(size), int(kind), list(block)] if (
                    all(isinstance(side, int) and 0 < side < 1 << 20 for side in block)
                    and 1 <= len(block) <= _MOST_SIDES
                    and all(0 <= number < 256 for number in (swizzle, size, kind))
                ):
                    maps.append((swizzle, size, kind, tuple(block)))
                case _:
                    raise self.damaged(f"a tensor map of {where} is {json.dumps(each)[:60]}")
        described = sum(str(kind).startswith("tensordesc") for kind in signature.values())
        if maps and len(maps) != described:
            raise self.damaged(f"{where} has {len(maps)} tensor maps for {described} tensor descriptors")
        return tuple(maps)

    def tuned(self, value: Any) -> SavedTuning:
        where = "'tuned'"
        key = self.take(value, "key", (list, type(None)), where)
        choices = []
        for each in self.take(value, "choices", list, where):
            values, config = self.take(each, "key", list, where), self.take(each, "config", dict, where)
            choices.append(
                (
                    [self.constant(one, where) for one in values],
                    {name: self.constant(one, where) for name, one in config.items()},
                )
            )
        if not choices or not all(isinstance(name, str) for name in key or ()):
            raise self.damaged(f"{where} has no choices, or a key that is none")
        return SavedTuning(key, choices)

    def heuristics(self, value: Any, params: tuple[SavedParam, ...]) -> SavedHeuristics:
        where = "'heuristics'"
        found = SavedHeuristics(*(self.take(value, name, list, where) for name in SavedHeuristics._fields))
        known = {param.name for param in params}
        if not all(isinstance(name, str) and name in known for names in found for name in names):
            raise self.damaged(f"{where} names what is no parameter")
        return found


def _entries(path: Path, reader: _Reader) -> dict[str, bytes]:
    whole = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            found = {}
            for info in archive.infolist():
                if info.file_size > _MOST_BYTES:
                    raise reader.damaged(f"{info.filename} claims to have {info.file_size} bytes")
                found[info.filename] = archive.read(info)
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise reader.damaged(f"it is no zip archive that can be read ({error})") from None


def read(path: str | os.PathLike[str]) -> SavedFile:
    """What a file says, checked; raises OSError where there is none."""
    place = Path(path)
    reader = _Reader(place)
    entries = _entries(place, reader)
    try:
        manifest = json.loads(entries.get(_MANIFEST, b""))
    except (ValueError, RecursionError) as error:
        raise reader.damaged(f"{_MANIFEST} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadImage(f"reading {place}: it is a zip archive, but not of a Triton kernel that kernel.save() wrote")
    if (version := reader.count(manifest, "version", _MANIFEST)) > VERSION:
        maker = reader.take(manifest, "made_by", dict, _MANIFEST).get("ringlaunch", "a newer release")
        raise Unsupported(
            f"reading the Triton kernel in {place}: its format is version {version}, made by ringlaunch {maker}; this "
            f"is ringlaunch {__version__}, which reads up to version {VERSION}: install a newer one, or save it anew"
        )
    listed = reader.take(manifest, "parameters", list, _MANIFEST)
    params = tuple(reader.param(each, number) for number, each in enumerate(listed))
    if len({param.name for param in params}) != len(params):
        raise reader.damaged("two parameters have one name")
    variants = reader.take(manifest, "variants", list, _MANIFEST)
    return SavedFile(
        reader.take(manifest, "kernel", str, _MANIFEST),
        params,
        reader.options(manifest, _MANIFEST),
        tuple(reader.variant(each, number, params, entries) for number, each in enumerate(variants)),
        reader.tuned(manifest["tuned"]) if "tuned" in manifest else None,
        reader.heuristics(manifest["heuristics"], params) if "heuristics" in manifest else None,
    )


def same(first: Any, second: Any) -> bool:
    """Whether two constants, as encode() writes them, are the same: 1, 1.0 and True are not."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def constant_text(value: Any) -> str:
    """A constant of a file for people."""
    match value:
        case {"float": str(text)}:
            number = float.fromhex(text)
            return repr(number) if math.isfinite(number) else text
        case {"tuple": list(parts)}:
            return f"({', '.join(constant_text(each) for each in parts)})"
        case {"dtype": str(name)} | {"function": str(name)}:
            return name
    return spelled(value)
