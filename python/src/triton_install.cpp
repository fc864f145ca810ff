#include "triton_install.hpp"

#include "ref.hpp"
#include "triton_kernel.hpp"
#include "triton_subscript.hpp"

namespace ringlaunch::python::triton {

namespace {

// What stands in place of JITFunction.__getitem__ then. A kernel of Triton keeps its twin, which launches
// through ringlaunch, in its own dict, which is the twin's, too; None there: the kernel goes Triton's way.
PyObject* name_twin = nullptr;
PyObject* make_twin = nullptr;  // make_twin(kernel) -> twin or None, which then stands in its dict
PyObject* original_subscript = nullptr;
PyObject* installed_run = nullptr;

PyObject* subscript_plain(PyObject* self, PyObject* grid) {
    Ref dict(PyObject_GenericGetDict(self, nullptr));
    if (!dict) return nullptr;
    Ref twin = Ref::borrowed(PyDict_GetItemWithError(dict.get(), name_twin));
    const bool its_own = twin && PyObject_TypeCheck(twin.get(), kernel_base_type) &&
                         as_kernel(twin.get())->core->own_dict.get() == dict.get();
    if (!its_own && !(twin && twin.get() == Py_None)) [[unlikely]] {
        if (PyErr_Occurred() != nullptr) return nullptr;
        twin = Ref(PyObject_CallOneArg(make_twin, self));
        if (!twin) return nullptr;
    }
    if (twin.get() == Py_None ||
        !as_kernel(twin.get())->core->own_run.is_usual(Py_TYPE(self), dict.get(), installed_run)) [[unlikely]]
        return PyObject_CallFunctionObjArgs(original_subscript, self, grid, nullptr);
    return grid_of(twin.get(), grid);
}

PyMethodDef subscript_method = {"__getitem__", subscript_plain, METH_O,
                                PyDoc_STR("kernel[grid]: through ringlaunch.")};

}  // namespace

PyObject* set_subscript(PyObject*, PyObject* args) {
    PyObject *type = nullptr, *name = nullptr, *make = nullptr, *original = nullptr, *run = nullptr;
    if (!PyArg_ParseTuple(args, "O!UOOO", &PyType_Type, &type, &name, &make, &original, &run)) return nullptr;
    Py_INCREF(name);
    PyUnicode_InternInPlace(&name);
    Py_XSETREF(name_twin, name);
    Py_XSETREF(make_twin, Py_NewRef(make));
    Py_XSETREF(original_subscript, Py_NewRef(original));
    Py_XSETREF(installed_run, Py_NewRef(run));
    return PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type), &subscript_method);
}

}  // namespace ringlaunch::python::triton
