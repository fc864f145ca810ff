// What ringlaunch/_triton_inline.py asks of the driver in this program: contexts, devices, functions of
// images.
#pragma once

#include <Python.h>

namespace ringlaunch::python::triton {

// triton_inline_context(): the calling thread's CUcontext; 0: it has none.
PyObject* inline_context(PyObject*, PyObject*);

// triton_inline_load(): an error where this program cannot launch.
PyObject* load_inline(PyObject*, PyObject*);

// triton_inline_device(): number, architecture and most shared memory of a block, of the current context's
// device.
PyObject* current_device(PyObject*, PyObject*);

// triton_inline_function(image, entry, shared bytes, large clusters): handle, registers, bytes of local
// memory of a thread, static shared memory, most threads, in the current context.
PyObject* load_function(PyObject*, PyObject* args);

// triton_inline_most(graphs): for tests.
PyObject* set_inline_most(PyObject*, PyObject* most);

}  // namespace ringlaunch::python::triton
