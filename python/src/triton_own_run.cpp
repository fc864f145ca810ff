#define PY_SSIZE_T_CLEAN
#include "triton_own_run.hpp"

namespace ringlaunch::python::triton {

namespace {

PyObject* name_run = nullptr;  // interned
PyObject* of_run = nullptr;

}  // namespace

bool intern_run() {
    name_run = PyUnicode_InternFromString("run");
    return name_run != nullptr;
}

PyObject* usual_run(PyTypeObject* type) noexcept {
    return _PyType_Lookup(type, name_run);
}

PyObject* subscript_of_run(PyObject* object, PyObject* grid) {
    return PyObject_CallFunctionObjArgs(of_run, object, grid, nullptr);
}

PyObject* set_subscript_of_run(PyObject*, PyObject* function) {
    Py_XSETREF(of_run, Py_NewRef(function));
    Py_RETURN_NONE;
}

bool OwnRun::look(PyTypeObject* type, PyObject* dict, PyObject* usual) noexcept {
    if (usual_run(type) != usual) return false;
    if (const int own = PyDict_Contains(dict, name_run); own != 0) {
        if (own < 0) PyErr_Clear();
        return false;
    }
    type_seen_ = type->tp_version_tag == 0 ? kNever : type->tp_version_tag;
    dict_seen_ = version_of(dict) == 0 ? ~std::uint64_t{0} : version_of(dict);
    return true;
}

}  // namespace ringlaunch::python::triton
