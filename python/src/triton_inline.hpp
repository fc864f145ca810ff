// The end of a Triton call that launches in this program itself: on which stream, and how the launch is
// handed to the driver.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "inline_kernel.hpp"

namespace ringlaunch::python::triton {

// Where the program's tensor library works now, on a device. False: a Python error is set. May run Python
// code.
bool current_stream(int device, std::uint64_t& out);

// A stream that a call names: an integer, or an object with `cuda_stream`. False: a Python error is set. May
// run Python code.
bool named_stream(const std::string& kernel, PyObject* stream, std::uint64_t& out);

// Launches; lets go of the interpreter lock meanwhile, as Triton does: a full queue waits for the device. So
// the caller keeps the kernel. False: a Python error is set.
bool launch_inline(InlineKernel& kernel, const std::string& name, const Dim3& grid, const std::byte* params,
                   std::uint64_t stream);

// The error of a launch that the driver refused: "launching kernel 'f' with a grid of (1, 1, 1): why". Always
// returns false. `more`: said behind it.
bool refused_inline(const std::string& name, const Dim3& grid, int result, const std::string& more = "");

// triton_streams(capsule or None, function): how the current stream is had: DLPack's C exchange API of the
// tensor library, or function(device) -> int.
PyObject* set_streams(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
