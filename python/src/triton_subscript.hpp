// kernel[grid]: TritonGrid, a kernel with its grid, whose call launches.
#pragma once

#include <Python.h>

#include <ringlaunch/ringlaunch.hpp>

namespace ringlaunch::python::triton {

struct GridObject {
    PyObject_HEAD vectorcallfunc vectorcall;
    PyObject* kernel;  // strong
    PyObject* object;  // strong; what was given
    Dim3 dim;          // where it is plain
    bool plain;
};

extern PyTypeObject* grid_type;
extern PyType_Spec grid_spec;

// TritonKernel.__getitem__.
PyObject* kernel_subscript(PyObject* self, PyObject* key);

// The same, and the call is ringlaunch's, whatever stands as the kernel's `run`.
PyObject* grid_of(PyObject* self, PyObject* key);

}  // namespace ringlaunch::python::triton
