"""CUDA C++ to a cubin through NVRTC, in the client's process: no GPU and no CUDA driver is needed for it.

NVRTC comes with the CUDA toolkit, or from PyPI as nvidia-cuda-nvrtc. The protocol is the one of its User Guide:
create a program, compile it, read log and cubin, destroy it.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import os
from typing import TYPE_CHECKING

from ringlaunch.errors import CompileError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_FUNCTIONS = (
    "nvrtcVersion",
    "nvrtcGetErrorString",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
    "nvrtcDestroyProgram",
)


class Nvrtc:
    """The library, loaded from `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        if lacking := [name for name in _FUNCTIONS if not hasattr(self._library, name)]:
            raise Unsupported(
                f"{path} is not an NVRTC that can be used: it has no {', no '.join(lacking)}; name the library "
                "libnvrtc.so (CUDA 12 or later) with $RINGLAUNCH_NVRTC"
            )
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "asking NVRTC its version")
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source: str, name: str, options: Sequence[str]) -> bytes:
        """The cubin of `source`. Raises CompileError with the compiler's log."""
        program = ctypes.c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None),
            f"making a program of {name!r}",
        )
        try:
            spelled = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            result = self._library.nvrtcCompileProgram(program, len(options), spelled)
            if result != 0:
                read = self._read(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0")
                log = read.decode(errors="replace").strip()
                said = self._library.nvrtcGetErrorString(result).decode()
                error = CompileError(
                    f"compiling {name!r} with NVRTC {self.version} ({' '.join(options)}): {said}\n{log}"
                )
                error.log = log
                raise error
            return self._read(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, size_of: str, read: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, size_of)(program, ctypes.byref(size)), f"calling {size_of}")
        data = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, read)(program, data), f"calling {read}")
        return data.raw

    def _check(self, result: int, doing: str) -> None:
        if result != 0:
            raise CompileError(f"{doing}: {self._library.nvrtcGetErrorString(result).decode()}")


def _candidates() -> Iterator[str]:
    if named := os.environ.get("RINGLAUNCH_NVRTC"):
        yield named
        return
    nvidia = importlib.util.find_spec("nvidia")
    for folder in (nvidia.submodule_search_locations or ()) if nvidia is not None else ():
        yield from sorted(glob.glob(os.path.join(folder, "*", "lib", "libnvrtc.so.[0-9]*")), reverse=True)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
    for home in (os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"):
        if home:
            yield os.path.join(home, "lib64", "libnvrtc.so")


@functools.cache
def load() -> Nvrtc:
    """The first NVRTC there is: $RINGLAUNCH_NVRTC, PyPI's package, the loader's path, the toolkit.

    Raises Unsupported that says where it was looked for.
    """
    tried = []
    for path in _candidates():
        try:
            return Nvrtc(path)
        except OSError as error:
            tried.append(f"{path} ({error})")
    raise Unsupported(
        "compiling for the cuda driver needs NVRTC: pip install nvidia-cuda-nvrtc, or name the library with "
        f"$RINGLAUNCH_NVRTC. Looked for: {'; '.join(tried)}"
    )


def compile_cubin(source: str, name: str, options: Sequence[str], architecture: str, include: Path) -> bytes:
    """A cubin for `architecture` ("sm_90"), with <ringlaunch/kernel.h> from `include`."""
    flags = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={include}", *options]
    return load().compile(source, name, flags)
