#define PY_SSIZE_T_CLEAN
#include "triton_inline_load.hpp"

#include <cstddef>
#include <ringlaunch/ringlaunch.hpp>
#include <string>

#include "errors.hpp"
#include "inline_kernel.hpp"

namespace ringlaunch::python::triton {

namespace {

constexpr unsigned kUsualSharedBytes = 48 << 10;  // of a block; for more a kernel has to ask

}  // namespace

PyObject* inline_context(PyObject*, PyObject*) {
    return PyLong_FromUnsignedLongLong(current_context());
}

PyObject* load_inline(PyObject*, PyObject*) {
    try {
        load_cuda();
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
    Py_RETURN_NONE;
}

PyObject* current_device(PyObject*, PyObject*) {
    try {
        const InlineDevice device = inline_device();
        return Py_BuildValue("(iii)", device.number, device.architecture, device.most_shared_bytes);
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
}

PyObject* load_function(PyObject*, PyObject* args) {
    const char *image = nullptr, *entry = nullptr;
    Py_ssize_t size = 0;
    unsigned int shared = 0;
    int large_clusters = 0;
    if (!PyArg_ParseTuple(args, "y#sIp", &image, &size, &entry, &shared, &large_clusters)) return nullptr;
    try {
        const InlineFunction made = load_inline_function(std::string(image, static_cast<std::size_t>(size)),
                                                         entry, large_clusters != 0);
        if (shared > kUsualSharedBytes) allow_inline_shared(made.function, shared);
        return Py_BuildValue("(Kiiii)", static_cast<unsigned long long>(made.function), made.registers,
                             made.local_bytes, made.static_shared_bytes, made.max_threads);
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
}

PyObject* set_inline_most(PyObject*, PyObject* most) {
    const std::size_t number = PyLong_AsSize_t(most);
    if (PyErr_Occurred() != nullptr) return nullptr;
    set_most_inline_graphs(number);
    Py_RETURN_NONE;
}

}  // namespace ringlaunch::python::triton
