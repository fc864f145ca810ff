// Plain kernels of Triton, while ringlaunch is installed.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// triton_subscript(type, name, make_twin, original): the __getitem__ of plain kernels, which are of `type`.
// `name`: of what they keep.
PyObject* set_subscript(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
