"""What programs share that launch over a libcuda that runs nothing and lists what it was given (stub_launches.c).

Each function behind `# ---- scenarios` in such a program is a test, in a process of its own: it checks by itself, and
the program prints its name last. Nothing here needs Triton; kernels are in stub_kernels.py."""

import ctypes
import sys


class NoTorch:  # which would ask CUDA for its devices
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoTorch())

stub = ctypes.CDLL("libcuda.so.1")


class Entry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("function", "stream", "grid", "nodes")] + [
        ("words", ctypes.c_ulonglong * 32)
    ]


stub.stub_entries.restype = ctypes.POINTER(Entry)


class Float32(str):
    """A dtype as torch has them, without torch."""

    itemsize, is_floating_point = 4, True


class Tensor:
    dtype = Float32("float32")

    def __init__(self, address=4096):
        self.address = address

    def data_ptr(self):
        return self.address


x = Tensor()


def takes(*sizes):
    """The parameters of kernels from now on, in bytes; five of 8 without it."""
    stub.stub_params(len(sizes), (ctypes.c_uint * len(sizes))(*sizes))


def entries(begin=0):
    return stub.stub_entries()[begin : stub.stub_count()]


def numbers(begin=0):
    """The second parameter of each launch."""
    return [entry.words[1] for entry in entries(begin)]


def error_of(kind, act):
    try:
        act()
    except kind as error:
        return error
    raise AssertionError("no error")
