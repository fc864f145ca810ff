// How deep calls of kernels may go within calls.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// Python code that a call runs (the function of its grid, an argument's data_ptr()) may call kernels, and
// each call takes far more of the stack than Python counts on: before that, this. False: there is no room
// for more, and a RecursionError is set.
bool may_nest(PyObject* kernel);

}  // namespace ringlaunch::python::triton
