// The slow way of a call: by Python code, ringlaunch's (_triton.py) or Triton's own.
#pragma once

#include <Python.h>

#include <vector>

#include "ref.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"

namespace ringlaunch::python::triton {

// TritonPending: the key of a call that is on its slow way.
struct PendingObject {
    PyObject_HEAD Key* key;
    std::vector<Ref>* held;
};

extern PyTypeObject* pending_type;
extern PyType_Spec pending_spec;

// The keywords of a call as a dict. Null: a Python error is set.
Ref keywords_of(PyObject* const* values, PyObject* names);

// The call, by Triton's own code. `grid`: as it was given.
PyObject* call_slowly(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args, Py_ssize_t count,
                      PyObject* names, const Key* key);

// Whether a call without a key that launches in this program is Triton's as it stands: nothing in it is ours.
bool is_all_tritons(const Core& core, PyObject* const* args, Py_ssize_t count, PyObject* names);

// Such a call.
PyObject* call_triton(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args, Py_ssize_t count,
                      PyObject* names);

}  // namespace ringlaunch::python::triton
