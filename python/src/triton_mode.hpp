// Where calls of a Triton kernel go: _triton_mode.py.
#pragma once

#include <Python.h>

#include <cstdint>

namespace ringlaunch::python::triton {

enum class Mode : std::uint8_t { daemon, in_process, by_arguments };

// That of kernels that have none; by_arguments: none was chosen.
extern Mode default_mode;
// It was asked, and answered that it has none.
extern bool torch_without_gpu;

bool torch_imported() noexcept;

// triton_default_mode(number): that of kernels that have none.
PyObject* set_default_mode(PyObject*, PyObject* number);

// triton_torch_has_gpu(answer): what torch answered when it was asked.
PyObject* set_torch_has_gpu(PyObject*, PyObject* answer);

}  // namespace ringlaunch::python::triton
