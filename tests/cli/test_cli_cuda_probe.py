"""What doctor and serve make of a CUDA driver, played by a libcuda.so.1 of a few lines where there is no GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What stands in a test's way is put in by -D; without it, a device that the daemon can open.
SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
extern "C" {
int cuInit(unsigned) { INIT }
int cuDriverGetVersion(int* v) { *v = VERSION; return 0; }
int cuDeviceGetCount(int* n) { *n = DEVICES; return 0; }
int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return 0; }
int cuDeviceGetName(char* to, int size, int) { strncpy(to, "Some GPU 9000", size); return 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
    *value = which == 75 ? 9 : which == 76 ? 0 : which == 20 ? MODE : which == 103 ? EXPORTS : 1024;
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = (size_t)80 << 30; return 0; }
int cuDeviceGetPCIBusId(char* to, int size, int) { strncpy(to, "0000:01:00.0", size); return 0; }
int cuGetErrorName(int code, const char** name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == 46 ? "CUDA_ERROR_DEVICE_UNAVAILABLE" : "ODD";
    return 0;
}
#ifdef WHOLE
int cuGetErrorString(int, const char** text) { *text = "as the driver says it"; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)(intptr_t)(device + 1); CONTEXT }
int cuCtxGetStreamPriorityRange(int* low, int* high) { *low = 0; *high = -5; return 0; }
int cuMemGetAllocationGranularity(size_t* bytes, const void*, int) { *bytes = 2 << 20; return 0; }
int cuMemAddressReserve(uint64_t* at, size_t, size_t, uint64_t wanted, uint64_t) { *at = wanted RESERVED; return 0; }
int cuMemCreate(uint64_t* handle, size_t, const void*, uint64_t) { *handle = 1; CREATE }
int cuMemGetInfo_v2(size_t* free, size_t* total) { *free = 1 << 20; *total = (size_t)80 << 30; return 0; }
int cuMemExportToShareableHandle(int* fd, uint64_t, int, uint64_t) { *fd = memfd_create("chunk", 0); return 0; }
int cuMemHostRegister_v2(void*, size_t, unsigned) { REGISTER }
int cuMemHostGetDevicePointer_v2(uint64_t* at, void* host, unsigned) { *at = (uint64_t)host; return 0; }
int cuStreamCreateWithPriority(void** stream, unsigned, int) { *stream = (void*)16; return 0; }
#endif
}
"""
# The rest of what the daemon looks for: does nothing, under all the names that cuda.h may give it.
LISTED = re.findall(r"X\((cu\w+)\)", (ROOT / "daemon" / "driver" / "cuda_api.hpp").read_text())
REST = "".join(
    f'extern "C" int {name}{version}(...) {{ return 0; }}\n'
    for name in LISTED
    for version in ("", "_v2", "_v3", "WithFlags")
    if f" {name}{version}(" not in SOURCE
)
NVML = r"""
#include <string.h>
struct Memory { unsigned long long total, free, used; };
extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** device) {
    *device = (void*)8; return strcmp(bus, "0000:01:00.0");
}
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) { *memory = {85000000000, 70000000, 84930000000}; return 0; }
}
"""
WELL = {"INIT": "return 0;", "VERSION": "13000", "DEVICES": "2", "MODE": "0", "EXPORTS": "1", "CONTEXT": "return 0;"}
WELL |= {"RESERVED": "", "CREATE": "return 0;", "REGISTER": "return 0;"}
BUSY, FULL = "return 46;", "return 2;"

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to make the library with"),
    pytest.mark.skipif(any(n.startswith("nvidia") for n in os.listdir("/dev")), reason="this machine has a GPU"),
]


def make_library(cli, name: str, source: str, flags=()) -> None:
    path = cli.folder / "library.cpp"
    path.write_text(source)
    subprocess.run(["g++", "-w", "-shared", "-fPIC", *flags, path, "-o", cli.folder / name], check=True, timeout=60)


def make_cuda(cli, whole: bool = True, **wrong: str) -> dict:
    """A libcuda.so.1; the environment in which it is found."""
    flags = [f"-D{name}={value}" for name, value in (WELL | wrong).items()]
    make_library(cli, "libcuda.so.1", SOURCE + (REST if whole else ""), [*flags, *(["-DWHOLE"] if whole else [])])
    return {"LD_LIBRARY_PATH": str(cli.folder)}


def findings(cli, env: dict, driver: str = "cuda") -> dict[str, dict]:
    result = cli.run("doctor", "--driver", driver, "--json", env=env)
    return {finding["subject"]: finding for finding in json.loads(result.stdout)["findings"]}


@pytest.fixture
def doctor(cli):
    """What it says of the driver, where no device is opened."""

    def run(init: str, devices: int = 2, version: int = 13000, driver: str = "cuda") -> dict:
        env = make_cuda(cli, INIT=init, DEVICES=str(devices), VERSION=str(version))
        return findings(cli, env, driver)["CUDA driver"]

    return run


@pytest.fixture
def built_in(cli):
    """Skips where the daemon has no cuda driver that could open a device."""
    if "built without" in findings(cli, make_cuda(cli))["CUDA driver"]["found"]:
        pytest.skip("this ringlaunchd was built without cuda.h")


def test_a_usable_driver_is_told_with_its_devices(cli, built_in):
    told = findings(cli, make_cuda(cli))
    assert told["CUDA driver"]["verdict"] == "ok"
    said = "CUDA 13.0, 2 devices: 0 Some GPU 9000 (sm_90, 80 GiB), 1 Some GPU 9000 (sm_90, 80 GiB): kernels run there"
    assert told["CUDA driver"]["found"] == said
    # Nor is anything said to be missing that it does without.
    assert told["CUDA devices"]["verdict"] == "ok"
    assert "WSL" in told["CUDA devices"]["found"]


def test_a_daemon_built_without_cuda_runs_kernels_on_the_cpu(cli):
    told = findings(cli, make_cuda(cli), "auto")["CUDA driver"]
    if "built without" not in told["found"]:
        pytest.skip("this ringlaunchd has the cuda driver")
    assert told["verdict"] == "warn"
    assert "kernels run on the CPU" in told["found"]


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


UNUSABLE = {
    "busy": ({"CONTEXT": BUSY, "MODE": "3"}, r"Exclusive_Process and another process has it.*nvidia-smi -c DEFAULT"),
    "prohibited": ({"CONTEXT": BUSY, "MODE": "2"}, r"compute mode is Prohibited.*nvidia-smi -c DEFAULT"),
    "unwell": ({"CONTEXT": BUSY}, r"cannot make a context.*CUDA_ERROR_DEVICE_UNAVAILABLE: as the driver says it"),
    "full": ({"CONTEXT": FULL}, r"others use nearly all of its 85899345920 bytes.*CUDA_ERROR_OUT_OF_MEMORY"),
    "no export": ({"EXPORTS": "0"}, r"Some GPU 9000 cannot export memory as file descriptors"),
    "other addresses": ({"RESERVED": "+ 4096"}, r"buffers could not keep their addresses across a restart"),
    "no staging": ({"REGISTER": BUSY}, r"cannot register 4096 bytes of a staging segment.*_UNAVAILABLE"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_keeps_the_device_from_being_opened_is_told(cli, built_in, case):
    wrong, said = UNUSABLE[case]
    env = make_cuda(cli, **wrong)
    told = findings(cli, env)
    assert told["CUDA driver"]["verdict"] == "ok"
    assert "kernels run" not in told["CUDA driver"]["found"]
    for device in ("CUDA device 0", "CUDA device 1"):
        assert told[device]["verdict"] == "missing"
        assert re.search(said, told[device]["found"])
    told = findings(cli, env, "auto")
    assert told["CUDA device 0"]["verdict"] == "warn"
    assert told["CUDA device 0"]["found"].endswith("kernels run on the CPU, by the host driver")


@pytest.mark.parametrize("case", UNUSABLE)
def test_serve_takes_the_cpu_where_the_device_cannot_be_opened_and_says_why(cli, built_in, case):
    wrong, said = UNUSABLE[case]
    env = make_cuda(cli, **wrong)
    cli.serve(env=env)
    status = json.loads(cli.run("status", "--json").stdout)
    assert status["driver"] == "host"
    assert re.search(rf"^no CUDA here \(the driver cannot be used: .*{said}", status["driver_note"])
    assert re.search(rf"driver host: no CUDA here \(the driver cannot be used: .*{said}", cli.log())
    assert cli.run("stop").returncode == 0
    refused = cli.run("serve", "--driver", "cuda", env=env)
    assert refused.returncode == 8
    assert re.search(said, refused.stderr)


def test_a_full_device_is_told_with_the_sizes_where_nvidia_says_them(cli, built_in):
    make_library(cli, "libnvidia-ml.so.1", NVML)
    told = findings(cli, make_cuda(cli, CONTEXT=FULL))["CUDA device 0"]
    assert "70000000 of its 85000000000 bytes are free, and a context takes some 500 MiB" in told["found"]


def test_a_device_that_has_room_for_a_context_only_is_told_with_the_sizes(cli, built_in):
    env = make_cuda(cli, CREATE=FULL)
    told = findings(cli, env)["CUDA device 0"]
    assert told["verdict"] == "missing"
    assert "cannot allocate 2097152 bytes on Some GPU 9000: 1048576 of 85899345920 bytes are free" in told["found"]
    # Memory comes and goes: the daemon serves.
    cli.serve(env=env)
    assert json.loads(cli.run("status", "--json").stdout)["driver"] == "cuda"


def test_functions_that_are_missing_are_told_by_the_first_few(cli, built_in):
    env = make_cuda(cli, whole=False)
    told = findings(cli, env)["CUDA device 0"]["found"]
    few = r"libcuda\.so\.1 \(for CUDA 13\.0\) lacks functions of CUDA 12\.4: cu\w+, cu\w+, cu\w+ and \d+ more"
    assert re.search(few, told)
    assert len(told) < 300
    cli.serve(env=env)
    assert json.loads(cli.run("status", "--json").stdout)["driver"] == "host"


def test_one_device_of_two_that_cannot_be_opened_is_named(cli, built_in):
    env = make_cuda(cli, CONTEXT="return device == 1 ? 46 : 0;")
    told = findings(cli, env)
    assert told["CUDA device 0"]["verdict"] == "ok"
    assert told["CUDA device 1"]["verdict"] == "missing"
    cli.serve(env=env)
    assert json.loads(cli.run("status", "--json").stdout)["driver"] == "cuda"


def test_a_context_that_kills_who_makes_it_leaves_the_daemon_on_the_cpu(cli, built_in):
    env = make_cuda(cli, CONTEXT="abort();")
    told = findings(cli, env)
    assert "died with signal" in told["CUDA device 0"]["found"]
    assert "not tried" in told["CUDA device 1"]["found"]
    cli.serve(env=env)
    assert json.loads(cli.run("status", "--json").stdout)["driver"] == "host"
    assert "no executor can be started" in cli.log()


def test_a_context_that_never_comes_is_given_up_by_doctor_and_by_the_daemon(cli, built_in):
    env = make_cuda(cli, CONTEXT="for (;;) sleep(1);")
    with open(cli.folder / "daemon.log", "ab") as log:
        cli.daemons.append(subprocess.Popen([cli.binary, "serve"], env=cli.env | env, stderr=log))
    begin = time.monotonic()
    told = findings(cli, env)
    assert "did not answer within 20000 ms" in told["CUDA device 0"]["found"]
    end = begin + 50
    while "driver host: no CUDA here" not in cli.log() and time.monotonic() < end:
        time.sleep(0.1)
    assert "it was not ready after 20 s" in cli.log()
    assert json.loads(cli.run("status", "--json").stdout)["driver"] == "host"
    assert time.monotonic() < end


LATE = "usleep(1500000); return 46;"


def serve_late(cli, *arguments: str) -> None:
    """A daemon whose device turns out to be of no use only after a while; returns before that."""
    with open(cli.folder / "daemon.log", "ab") as log:
        env = cli.env | make_cuda(cli, CONTEXT=LATE)
        cli.daemons.append(subprocess.Popen([cli.binary, "serve", *arguments], env=env, stderr=log))
    end = time.monotonic() + 30
    while not cli.socket.exists() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("device", [0, 1])
def test_clients_that_came_before_the_device_was_known_are_served_by_the_cpu(cli, built_in, device):
    """Whoever has connected meanwhile notices nothing of it, on whichever device that the host driver has, too."""
    rl = pytest.importorskip("ringlaunch")
    serve_late(cli, "--devices", "0,1")
    with rl.connect(socket=cli.socket, device=device, start=False, timeout=30) as client:
        assert "no CUDA here" in cli.log()
        assert client.daemon.driver == "host"
        assert "cannot make a context" in client.daemon.driver_note
        assert client.device == device
        assert not client.zeros(4).numpy().any()


def test_a_client_of_a_device_that_is_not_there_any_more_is_told_why(cli, built_in):
    rl = pytest.importorskip("ringlaunch")
    serve_late(cli)
    with pytest.raises(rl.Error, match=r"cannot make a context"):
        rl.connect(socket=cli.socket, device=1, start=False, timeout=30)
    with rl.connect(socket=cli.socket, start=False, timeout=30) as client:
        assert client.daemon.driver == "host"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_whom_the_gpu_would_have_served_is_not_served_by_the_cpu(cli, built_in):
    """The host driver runs native code as the daemon's user."""
    rl = pytest.importorskip("ringlaunch")
    cli.folder.chmod(0o755)
    serve_late(cli, "--allow-uid", "65534")
    other = os.fork()
    if other == 0:
        code = 2
        try:
            os.setuid(65534)
            rl.connect(socket=cli.socket, start=False, daemon_uid=0, timeout=30)
            code = 1
        except rl.PermissionDenied as error:
            code = 0 if "host driver" in str(error) and "no CUDA here" in cli.log() else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


def test_a_daemon_that_a_client_starts_goes_on_with_the_cpu(cli, built_in):
    pytest.importorskip("ringlaunch")
    program = "import ringlaunch as rl\nwith rl.connect() as client: print(client.daemon.driver)"
    env = cli.env | make_cuda(cli, CONTEXT=BUSY) | {"RINGLAUNCHD": str(cli.binary)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "host\n", done.stderr
    assert "driver host: no CUDA here" in (cli.folder / "daemon.log").read_text()


def test_an_nvrtc_that_does_not_know_the_device_is_told(cli, built_in):
    source = r"""
    extern "C" int nvrtcVersion(int* major, int* minor) { *major = 11; *minor = 0; return 0; }
    extern "C" int nvrtcGetNumSupportedArchs(int* count) { *count = 2; return 0; }
    extern "C" int nvrtcGetSupportedArchs(int* list) { list[0] = 75; list[1] = LAST; return 0; }
    """
    for last, verdict in (("80", "missing"), ("90", "ok")):
        env = make_cuda(cli)
        make_library(cli, "libnvrtc.so.13", source, [f"-DLAST={last}"])
        finding = findings(cli, env | {"RINGLAUNCH_NVRTC": str(cli.folder / "libnvrtc.so.13")})["NVRTC"]
        assert finding["verdict"] == verdict
        assert ("does not compile for sm_90" in finding["found"]) == (verdict == "missing")


def test_serve_takes_no_device_that_is_not_there(cli, doctor):
    doctor("return 0;", devices=1)
    result = cli.run("serve", "--driver", "cuda", "--devices", "0,1", env={"LD_LIBRARY_PATH": str(cli.folder)})
    assert result.returncode == 8
    assert "no device 1" in result.stderr or "built without" in result.stderr
