"""Forward and backward of x * 2 by a Triton kernel: what the ways into torch's autograd cost, and where it goes.

    python bench/triton_autograd.py [--csv FILE]

A step is `function(x).backward(dy)`, on 1,024 elements, and all steps are waited for; us, medians of rounds in which
the ways take turns, and medians of their ratios to the torch operation's. One thread: without autograd's own thread for
the device (`torch.autograd.set_multithreading_enabled(False)`). The node in C++ is compiled here, by
torch.utils.cpp_extension, and left out where that cannot be; its kernel is launched by the same call from Python, or
from C++ without a Python function. Needs a GPU, torch and Triton.
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import sys
import time

try:
    import torch
    import triton
except ModuleNotFoundError as error:
    print(f"{error.name} is not installed: nothing to measure")
    sys.exit(77)

import ringlaunch as rl
from ringlaunch._bench_kernels import double, function_of, function_of_nothing

SIZE = 1024

NODE = r"""
#include <torch/extension.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

namespace {

PyObject *launcher, *names, *size, *body;  // of the program, for good

// kernel[grid](x, y, size, BLOCK=size)
at::Tensor launch(const at::Tensor& x) {
    at::Tensor y = at::empty_like(x);
    const py::gil_scoped_acquire lock;
    const auto first = py::reinterpret_steal<py::object>(THPVariable_Wrap(x));
    const auto second = py::reinterpret_steal<py::object>(THPVariable_Wrap(y));
    PyObject* given[] = {first.ptr(), second.ptr(), size, size};
    if (!py::reinterpret_steal<py::object>(PyObject_Vectorcall(launcher, given, 3, names)))
        throw py::error_already_set();
    return y;
}

at::Tensor call(const at::Tensor& x) {
    const py::gil_scoped_acquire lock;
    const auto first = py::reinterpret_steal<py::object>(THPVariable_Wrap(x));
    const auto made = py::reinterpret_steal<py::object>(PyObject_CallOneArg(body, first.ptr()));
    if (!made) throw py::error_already_set();
    return THPVariable_Unpack(made.ptr());
}

template <at::Tensor (*kBody)(const at::Tensor&)>
struct Twice : torch::autograd::Function<Twice<kBody>> {
    static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) {
        const at::AutoDispatchBelowADInplaceOrView below;
        return kBody(x);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                   torch::autograd::variable_list given) {
        return {kBody(given[0])};
    }
};

}  // namespace

void take(py::object made, py::object number, py::object function) {
    launcher = made.release().ptr();
    size = number.release().ptr();
    body = function.release().ptr();
    names = py::make_tuple(py::str("BLOCK")).release().ptr();
}
at::Tensor launching(const at::Tensor& x) { return Twice<launch>::apply(x); }
at::Tensor calling(const at::Tensor& x) { return Twice<call>::apply(x); }
"""


def on_one_thread(step):
    def made():
        with torch.autograd.set_multithreading_enabled(False):
            step()

    return made


def node(launcher, body):
    """The functions of the node in C++; none, and why, where it cannot be compiled."""
    try:
        from torch.utils.cpp_extension import load_inline

        functions = ["take", "launching", "calling"]
        made = load_inline("ringlaunch_bench_node", NODE, functions=functions, extra_cflags=["-O2"])
    except Exception as error:
        print(f"no node in C++: {' '.join(str(error).split())[:200]}")
        return None
    made.take(launcher, SIZE, body)
    return made


def alone_us(call, count=2000):
    """us of the calling thread."""
    call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    took = time.perf_counter() - begin
    torch.cuda.synchronize()
    return took / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="steps a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU: nothing to measure")
        return 77
    x, dy = torch.ones(SIZE, device="cuda", requires_grad=True), torch.ones(SIZE, device="cuda")
    kernel = rl.wrap(double, mode="inline")
    ours, of_triton, nothing = function_of(kernel), function_of(double), function_of_nothing()

    def of(function):
        return lambda: function(x).backward(dy)

    def body(of_x):
        out = torch.empty_like(of_x)
        kernel[(1,)](of_x, out, SIZE, BLOCK=SIZE)
        return out

    ways = {
        "torch operation": of(lambda x: x * 2),
        "Function that launches nothing": of(nothing),
        "Function, Triton": of(of_triton),
        "Function, ringlaunch inline": of(ours),
        "torch operation, one thread": on_one_thread(of(lambda x: x * 2)),
        "Function, ringlaunch inline, one thread": on_one_thread(of(ours)),
    }
    body(x.detach())
    if (compiled := node(kernel[(1,)], body)) is not None:
        ways["node in C++, of a Python function"] = of(compiled.calling)
        ways["node in C++, launching"] = of(compiled.launching)
        ways["node in C++, launching, one thread"] = on_one_thread(of(compiled.launching))
    times = {name: [] for name in ways}
    for name, step in ways.items():
        x.grad = None
        for _ in range(100):
            step()
        if "nothing" not in name:
            assert torch.equal(x.grad, torch.full_like(x, 200)), f"{name}: a gradient is wrong"
    for _ in range(options.rounds):
        for name, step in ways.items():
            for _ in range(20):
                step()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(options.steps):
                step()
            torch.cuda.synchronize()
            times[name].append((time.perf_counter() - begin) / options.steps * 1e6)
    base = times["torch operation"]
    rows = []
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, base))
        rows.append((name, statistics.median(found), min(found), max(found), ratio))
    with torch.no_grad():
        out = torch.empty_like(x)
        parts = {
            "x * 2 without autograd": alone_us(lambda: x * 2),
            "empty_like": alone_us(lambda: torch.empty_like(x)),
            "kernel[grid](...)": alone_us(lambda: kernel[(1,)](x, out, SIZE, BLOCK=SIZE)),
        }
    for name, function in (("x * 2", lambda x: x * 2), ("Function, nothing", nothing), ("Function, inline", ours)):
        parts[f"forward: {name}"] = alone_us(lambda function=function: function(x))
        y = function(x)
        parts[f"backward: {name}"] = alone_us(lambda y=y: y.backward(dy, retain_graph=True))
    rows += [(f"alone: {name}", took, took, took, float("nan")) for name, took in parts.items()]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    comments = [
        "Forward and backward of x * 2 by a Triton kernel, us a step; alone: the calling thread's time of one part",
        f"on {torch.cuda.get_device_name()}, {model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Triton {triton.__version__}",
    ]
    heads = ("way", "us", "us_min", "us_max", "over_torch_operation")
    print("\n".join(comments), "\n")
    print("{:44} {:>9} {:>9} {:>9} {:>21}".format(*heads))
    for each in rows:
        print("{:44} {:>9.2f} {:>9.2f} {:>9.2f} {:>21.3f}".format(*each))
    if options.csv is not None:
        with open(options.csv, "w", newline="") as file:
            file.writelines(f"# {comment}\n" for comment in comments)
            writer = csv.writer(file)
            writer.writerow(heads)
            writer.writerows((name, *(f"{value:.3f}" for value in rest)) for name, *rest in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
