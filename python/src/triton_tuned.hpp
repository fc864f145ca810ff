// The call of a tuned Triton kernel.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// TritonTuned and TritonTunedGrid.
bool add_tuned_types(PyObject* module);

}  // namespace ringlaunch::python::triton
