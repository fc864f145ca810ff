#include "triton_grid.hpp"

#include <cstdint>
#include <string>

#include "errors.hpp"
#include "ref.hpp"
#include "small_int.hpp"

namespace ringlaunch::python::triton {

bool read_plain_grid(PyObject* key, Dim3& out) {
    if (!PyTuple_CheckExact(key)) return false;
    const Py_ssize_t count = PyTuple_GET_SIZE(key);
    if (count < 1 || count > 3) return false;
    std::uint32_t* to[3] = {&out.x, &out.y, &out.z};
    out = {1, 1, 1};
    for (Py_ssize_t i = 0; i < count; ++i) {
        std::int64_t value = 0;
        PyObject* item = PyTuple_GET_ITEM(key, i);
        if (!PyLong_CheckExact(item) || !small_int(item, value) || value < 0) return false;
        *to[i] = static_cast<std::uint32_t>(value);
    }
    return true;
}

bool read_grid(const std::string& kernel, PyObject* object, Dim3& out) {
    if (read_plain_grid(object, out)) return true;
    const auto refuse = [&](const char* error, const std::string& expected) {
        set_named_error(error, "kernel '" + kernel + "', grid: expected " + expected + ", found " +
                                   short_repr(object) + " (" + type_name(object) + ")");
        return false;
    };
    const Py_ssize_t count = PySequence_Check(object) ? PySequence_Size(object) : -1;
    if (count < 1) {
        if (PyErr_Occurred() != nullptr) return false;
        return refuse(count == 0 ? "InvalidArgument" : "ParamTypeError",
                      "(x,), (x, y) or (x, y, z), or a function that answers one");
    }
    std::uint32_t* to[3] = {&out.x, &out.y, &out.z};
    out = {1, 1, 1};
    for (Py_ssize_t i = 0; i < count && i < 3; ++i) {
        Ref item(PySequence_GetItem(object, i));
        if (!item) return false;
        Ref index(PyNumber_Index(item.get()));
        if (!index) {
            if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) return false;
            PyErr_Clear();
            return refuse("ParamTypeError", "integers");
        }
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(index.get(), &overflow);
        if (overflow != 0 || value < 0 || value > kMaxGridX)
            return refuse("OutOfRange", "numbers of blocks from 0 to " + std::to_string(kMaxGridX));
        *to[i] = static_cast<std::uint32_t>(value);
    }
    return true;
}

}  // namespace ringlaunch::python::triton
