// Names that calls are compared with, interned.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

extern PyObject* name_stream;
extern PyObject* name_value;
extern PyObject* name_grid;
extern PyObject* name_warmup;
extern PyObject* name_torch;

// False: a Python error is set.
bool intern_names();

// `known` is interned, as names in a call usually are: then another object is another name.
inline bool same_name(PyObject* name, PyObject* known) {
    return name == known || (!PyUnicode_CHECK_INTERNED(name) && PyUnicode_Compare(name, known) == 0);
}

}  // namespace ringlaunch::python::triton
