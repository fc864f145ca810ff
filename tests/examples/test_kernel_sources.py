"""The kernels of the examples compile, unchanged, for the host and for a GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "digits_kernels.cu"
KERNELS = ("matrix_vector", "bias", "relu", "softmax", "argmax")


@pytest.fixture
def include(tmp_path):
    """An include folder in which the kernel header stands as it does once installed."""
    folder = tmp_path / "include"
    (folder / "ringlaunch").mkdir(parents=True)
    for header in ("kernel.h", "kernel_intrinsics.h"):
        shutil.copy(ROOT / "schema" / header, folder / "ringlaunch")
    return folder


def compile_with(*command: object) -> None:
    result = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", result.stderr


def assert_declares_all_kernels(image: bytes) -> None:
    for kernel in KERNELS:
        assert f"ringlaunch_signature_{kernel}\0".encode() in image


def test_the_digits_compile_with_gxx(include, tmp_path):
    out = tmp_path / "digits.so"
    compile_with(
        *("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-x", "c++"),
        *("-I", include, SOURCE, "-o", out),
    )
    assert_declares_all_kernels(out.read_bytes())


def test_the_digits_compile_with_nvcc(include, tmp_path):
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on this machine: it comes with the CUDA toolkit")
    out = tmp_path / "digits.cubin"
    compile_with(nvcc, "-cubin", "-arch=sm_90", "-I", include, SOURCE, "-o", out)
    assert_declares_all_kernels(out.read_bytes())
