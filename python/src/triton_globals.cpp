#include "triton_globals.hpp"

#include <cstddef>
#include <utility>

#include "triton_key.hpp"
#include "triton_names.hpp"

namespace ringlaunch::python::triton {

namespace {

// An object that stays equal to what it is.
bool is_immutable(PyObject* object) {
    return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyBool_Check(object) ||
           PyUnicode_CheckExact(object) || object == Py_None || PyType_Check(object) ||
           is_enum_member(Py_TYPE(object));
}

}  // namespace

Ref held_value(PyObject* object) {
    Ref value(PyObject_GetAttr(object, name_value));
    if (!value) PyErr_Clear();
    return value;
}

[[gnu::noinline]] int compare_captured(std::vector<Captured>& captured) {
    for (std::size_t i = 0; i < captured.size(); ++i) {
        Ref found = Ref::borrowed(PyDict_GetItemWithError(captured[i].globals.get(), captured[i].name.get()));
        if (!found) return PyErr_Occurred() != nullptr ? -1 : 0;
        Ref value = Ref::borrowed(captured[i].value.get());
        const int different = PyObject_RichCompareBool(found.get(), value.get(), Py_NE);
        if (different != 0) return different < 0 ? -1 : 0;
        Ref holds = Py_TYPE(found.get()) == constant_types.constexpr_type ? held_value(found.get()) : Ref();
        if (i >= captured.size() || !is_immutable(holds ? holds.get() : found.get())) continue;
        captured[i].seen = std::move(found);
        captured[i].holds = std::move(holds);
    }
    return 1;
}

}  // namespace ringlaunch::python::triton
