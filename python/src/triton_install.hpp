// Plain kernels of Triton, while ringlaunch is installed.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// triton_subscript(type, name, make_twin, original, run): the __getitem__ of plain kernels, which are of
// `type`. `name`: of what they keep. `run`: what stands in place of the type's; where a program has put
// another into a kernel, or a type, `original` is asked, as Triton would call that.
PyObject* set_subscript(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
