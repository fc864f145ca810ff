#include "triton_names.hpp"

namespace ringlaunch::python::triton {

PyObject* name_stream = nullptr;
PyObject* name_value = nullptr;
PyObject* name_grid = nullptr;
PyObject* name_warmup = nullptr;
PyObject* name_torch = nullptr;

bool intern_names() {
    name_stream = PyUnicode_InternFromString("stream");
    name_value = PyUnicode_InternFromString("value");
    name_torch = PyUnicode_InternFromString("torch");
    name_grid = PyUnicode_InternFromString("grid");
    name_warmup = PyUnicode_InternFromString("warmup");
    return name_stream != nullptr && name_value != nullptr && name_torch != nullptr && name_grid != nullptr &&
           name_warmup != nullptr;
}

}  // namespace ringlaunch::python::triton
