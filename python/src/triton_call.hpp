// The call of a Triton kernel that has its grid.
#pragma once

#include <Python.h>

#include <cstddef>

namespace ringlaunch::python::triton {

// Of a TritonGrid.
PyObject* grid_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names);

// The same of a grid that is not plain: what call_again() has on the stack is not there while the grid's
// function runs.
PyObject* asking_grid_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names);

}  // namespace ringlaunch::python::triton
