"""Kernel sources to images, in the client's process, with a small cache on disk.

The host driver's kernels are compiled by g++ with the package's <ringlaunch/kernel.h>, the cuda driver's by NVRTC
(_nvrtc.py), which is quick enough to need no cache. The cache's key is all that the
image depends on: the source, its name, the options, the headers and the compiler.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ringlaunch._check import refused, text
from ringlaunch._nvrtc import compile_cubin
from ringlaunch.errors import CompileError, Error, InvalidArgument, LimitReached, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

INCLUDE = Path(__file__).parent / "include"
_FLAGS = ("-x", "c++", "-std=c++17", "-O3", "-shared", "-fPIC", "-Wl,-z,now", "-Wl,--no-undefined")
_TIMEOUT_S = 300
_CACHED_IMAGES = 128  # the least recently used go
_DRIVERS_OF_HOST_OBJECTS = ("host", "null")


def compile_source(
    source: str,
    name: str,
    options: Sequence[str],
    driver: str,
    architecture: str = "",
    max_registers: int | None = None,
) -> bytes:
    """The image of a source for a driver; a host object comes from the cache where it is there."""
    options = _options_list(options)
    try:
        return _image(source, name, options, driver, architecture, max_registers)
    except OSError as error:
        if isinstance(error, Error):
            raise
        if error.errno in (errno.EMFILE, errno.ENFILE):
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            raise LimitReached(
                f"compiling {name!r}: this process may open {most} descriptors and has none left; close some or "
                "raise its limit (ulimit -n)"
            ) from None
        raise CompileError(f"compiling {name!r}: {error}") from error


def _image(
    source: str,
    name: str,
    options: list[str],
    driver: str,
    architecture: str,
    max_registers: int | None,
) -> bytes:
    if driver == "cuda":
        if max_registers is not None:
            options.append(f"--maxrregcount={max_registers}")
        return compile_cubin(source, name, options, architecture, INCLUDE)
    if driver not in _DRIVERS_OF_HOST_OBJECTS:
        raise Unsupported(f"compiling {name!r}: this client compiles for cuda, host and null, not for {driver!r}")
    compiler = _compiler()
    key = _key(source, name, options, compiler)
    folder = cache_folder()
    if folder is not None and (image := _read_cached(folder / f"{key}.so")) is not None:
        return image
    image = _compile(source, name, options, compiler)
    if folder is not None:
        _write_cached(folder, f"{key}.so", image)
    return image


def _options_list(options: object) -> list[str]:
    """`options` of `Client.compile`."""
    if isinstance(options, str):
        raise InvalidArgument(f"options: expected a sequence of strings, found {options!r}; write [{options!r}]")
    if not isinstance(options, Iterable) or isinstance(options, bytes):
        raise refused("options", "a sequence of strings", options)
    try:
        found = list(options)
    except TypeError:  # a numpy array without dimensions says that it can be iterated over
        raise refused("options", "a sequence of strings", options) from None
    return [text(f"options[{i}]", option) for i, option in enumerate(found)]


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/ringlaunch or ~/.cache/ringlaunch, made with mode 0700; None where it cannot be trusted.

    A cached image is code that the daemon runs, so nobody else may be able to write there.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ringlaunch"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


def _compiler() -> str:
    name = os.environ.get("RINGLAUNCH_CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise Unsupported(
            f"compiling a kernel needs {name}, which is not on PATH: install g++ (apt install g++), or name a "
            "compiler with $RINGLAUNCH_CXX"
        )
    return found


@functools.lru_cache(maxsize=8)
def _compiler_identity(compiler: str, changed_ns: int, size: int) -> str:
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return f"{compiler}\n{changed_ns}\n{size}\n{told.stdout}"


def _key(source: str, name: str, options: Sequence[str], compiler: str) -> str:
    found = os.stat(compiler)
    parts = [
        _compiler_identity(compiler, found.st_mtime_ns, found.st_size),
        *(header.read_text() for header in sorted((INCLUDE / "ringlaunch").iterdir())),
        name,
        source,
        *_FLAGS,
        *options,
    ]
    digest = hashlib.sha256()
    for part in parts:  # with its length, so that no two lists of parts look alike
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _compile(source: str, name: str, options: Sequence[str], compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="ringlaunch-compile-") as made:
        folder = Path(made)
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        (folder / "kernel.cu").write_text(f'#line 1 "{quoted}"\n{source}')
        command = [compiler, *_FLAGS, f"-I{INCLUDE}", *options, "-o", "kernel.so", "kernel.cu"]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            raise CompileError(f"compiling {name!r}: {compiler} took longer than {_TIMEOUT_S} s") from None
        log = (done.stderr + done.stdout).strip()
        if done.returncode != 0:
            error = CompileError(f"compiling {name!r}: {compiler} ended with {done.returncode}:\n{log}")
            error.log = log
            raise error
        return (folder / "kernel.so").read_bytes()


def _read_cached(path: Path) -> bytes | None:
    try:
        image = path.read_bytes()
        os.utime(path)  # for the choice of what goes
    except OSError:
        return None
    return image or None


def _write_cached(folder: Path, name: str, image: bytes) -> None:
    # A cache that cannot be written is no error: the next run compiles again.
    with contextlib.suppress(OSError):
        descriptor, made = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(image)
            os.replace(made, folder / name)  # whole or not at all, also for another process
        except OSError:
            os.unlink(made)
            raise
        kept = sorted(folder.glob("*.so"), key=_used_ns, reverse=True)
        for old in kept[_CACHED_IMAGES:]:
            old.unlink(missing_ok=True)


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
