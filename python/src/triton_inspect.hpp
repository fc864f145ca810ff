// What the call path makes of arguments, for tests.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// _key(args, keywords): for tests. (key without what names the session, kinds of leaves, leaves, device of
// the tensors, leaves to check), or None.
PyObject* kernel_key(PyObject* self, PyObject* args);

// _repeat((args, keywords), (args, keywords)): for tests. Is the second call to a Repeat of the first like
// it, and if so: has it the same key, and does it give the same parameters as pack() does, and the same
// tensors? None: there is no Repeat of the first.
PyObject* kernel_repeat(PyObject* self, PyObject* args);

}  // namespace ringlaunch::python::triton
