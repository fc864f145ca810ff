#include "triton_mode.hpp"

#include "triton_names.hpp"

namespace ringlaunch::python::triton {

Mode default_mode = Mode::by_arguments;
bool torch_without_gpu = false;

bool torch_imported() noexcept {
    PyObject* modules = PyImport_GetModuleDict();
    return modules != nullptr && PyDict_Check(modules) &&
           PyDict_GetItemWithError(modules, name_torch) != nullptr;
}

PyObject* set_default_mode(PyObject*, PyObject* number) {
    const long mode = PyLong_AsLong(number);
    if (PyErr_Occurred() != nullptr) return nullptr;
    if (mode < 0 || mode > static_cast<long>(Mode::by_arguments))
        return PyErr_Format(PyExc_ValueError, "no mode: %ld", mode);
    default_mode = static_cast<Mode>(mode);
    Py_RETURN_NONE;
}

PyObject* set_torch_has_gpu(PyObject*, PyObject* answer) {
    torch_without_gpu = answer == Py_False;
    Py_RETURN_NONE;
}

}  // namespace ringlaunch::python::triton
