// Calls whose grid is a function of their arguments, or is read by Python code.
#pragma once

#include <Python.h>

#include "triton_bind.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_mode.hpp"
#include "triton_table.hpp"

namespace ringlaunch::python::triton {

// The call of a variant that was found, whose grid is to be asked for, or is read by Python code. Whatever
// that changes, Triton launches what it has found, on the stream that was current before, with what the
// arguments are now.
PyObject* call_with_grid(Core& core, PyObject* kernel, PyObject* given, Mode mode, Entry& entry,
                         const Key& as_found, Bound& bound, PyObject* const* args, Py_ssize_t count,
                         PyObject* names);

}  // namespace ringlaunch::python::triton
