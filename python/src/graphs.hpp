// Graphs in Python: recording one on a stream, and its handle.
#pragma once

#include <pybind11/pybind11.h>

namespace ringlaunch::python {

void add_graphs(pybind11::module_& module);

}  // namespace ringlaunch::python
