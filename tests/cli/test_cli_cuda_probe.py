"""What doctor and serve make of a CUDA driver, played by a libcuda.so.1 of a few lines where there is no GPU."""

import json
import os
import shutil
import subprocess

import pytest

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
extern "C" {
int cuInit(unsigned) { INIT }
int cuDriverGetVersion(int* v) { *v = VERSION; return 0; }
int cuDeviceGetCount(int* n) { *n = DEVICES; return 0; }
int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return 0; }
int cuDeviceGetName(char* to, int size, int) { strncpy(to, "Some GPU 9000", size); return 0; }
int cuDeviceGetAttribute(int* value, int which, int) { *value = which == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = (size_t)80 << 30; return 0; }
int cuGetErrorName(int code, const char** name) { *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "ODD"; return 0; }
}
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to make the library with"),
    pytest.mark.skipif(any(n.startswith("nvidia") for n in os.listdir("/dev")), reason="this machine has a GPU"),
]


@pytest.fixture
def doctor(cli):
    def run(init: str, devices: int = 2, version: int = 13000, driver: str = "cuda") -> dict:
        source = cli.folder / "cuda.cpp"
        source.write_text(SOURCE)
        flags = ["-shared", "-fPIC", f"-DINIT={init}", f"-DDEVICES={devices}", f"-DVERSION={version}"]
        subprocess.run(["g++", *flags, source, "-o", cli.folder / "libcuda.so.1"], check=True, timeout=60)
        result = cli.run("doctor", "--driver", driver, "--json", env={"LD_LIBRARY_PATH": str(cli.folder)})
        return next(f for f in json.loads(result.stdout)["findings"] if f["subject"] == "CUDA driver")

    return run


def test_a_usable_driver_is_told_with_its_devices(doctor):
    found = doctor("return 0;")["found"]
    assert "CUDA 13.0, 2 devices: 0 Some GPU 9000 (sm_90, 80 GiB), 1 Some GPU 9000 (sm_90, 80 GiB)" in found


def test_a_driver_without_a_device_names_its_own_error(doctor):
    finding = doctor("return 100;")
    assert finding["verdict"] == "missing"
    assert "cuInit answers CUDA_ERROR_NO_DEVICE" in finding["found"]
    assert "CUDA_VISIBLE_DEVICES" in finding["advice"]


def test_a_driver_that_shows_no_device_is_missing_one(doctor):
    assert "shows no device" in doctor("return 0;", devices=0)["found"]


def test_an_old_driver_is_told_with_the_version_that_is_needed(doctor):
    finding = doctor("return 0;", version=12020)
    assert finding["verdict"] == "missing"
    assert "CUDA 12.2; it takes 12.4 or later" in finding["found"]
    assert "550 or later" in finding["advice"]


def test_without_a_usable_driver_doctor_says_what_the_daemon_takes_instead(cli, doctor):
    finding = doctor("return 100;", driver="auto")
    assert finding["verdict"] == "warn"
    assert "kernels run on the CPU, by the host driver" in finding["found"]


def test_a_driver_that_kills_whoever_asks_kills_only_the_probe(doctor):
    finding = doctor("abort();")
    assert finding["verdict"] == "missing"
    assert "died with signal" in finding["found"]


def test_serve_takes_no_device_that_is_not_there(cli, doctor):
    doctor("return 0;", devices=1)
    result = cli.run("serve", "--driver", "cuda", "--devices", "0,1", env={"LD_LIBRARY_PATH": str(cli.folder)})
    assert result.returncode == 8
    assert "no device 1" in result.stderr or "built without" in result.stderr
