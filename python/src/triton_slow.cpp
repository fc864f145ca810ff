#include "triton_slow.hpp"

#include <cstddef>
#include <vector>

#include "handles.hpp"
#include "inline_kernel.hpp"
#include "triton_descriptor.hpp"
#include "triton_names.hpp"
#include "triton_tensor.hpp"

namespace ringlaunch::python::triton {

PyTypeObject* pending_type = nullptr;

namespace {

PyObject* make_pending(const Key& key) {
    auto* made = reinterpret_cast<PendingObject*>(pending_type->tp_alloc(pending_type, 0));
    if (made == nullptr) return nullptr;
    made->key = new Key(key);
    made->held = new std::vector<Ref>();
    for (std::size_t i = 0; i < key.held_count(); ++i) made->held->push_back(Ref::borrowed(key.held(i)));
    return reinterpret_cast<PyObject*>(made);
}

void pending_dealloc(PyObject* self) {
    auto* pending = reinterpret_cast<PendingObject*>(self);
    delete pending->key;
    delete pending->held;
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyType_Slot pending_slots[] = {
    {Py_tp_doc, const_cast<char*>("What the arguments of a call are, for the table.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(pending_dealloc)},
    {0, nullptr},
};

// Whether Triton takes an argument as it stands.
bool is_tritons(PyObject* value, int depth) {
    constexpr int kDeepest = 16;
    if (PyLong_Check(value) || PyFloat_Check(value) || PyUnicode_Check(value) || value == Py_None)
        return true;
    if (PyTuple_Check(value)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i)
            if (depth == kDeepest || !is_tritons(PyTuple_GET_ITEM(value, i), depth + 1)) return false;
        return true;
    }
    if (is_buffer(value)) return false;
    if (is_descriptor(value)) {
        const Ref base(is_tritons_descriptor(value) ? base_of(value) : nullptr);
        return base && !is_buffer(base.get());  // whose address may be somebody else's in this program
    }
    const Reading reading = tensor_type(Py_TYPE(value)).reading;
    return reading != Reading::unknown && reading != Reading::interface && reading != Reading::attributes;
}

}  // namespace

PyType_Spec pending_spec = {"ringlaunch._core.TritonPending", sizeof(PendingObject), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, pending_slots};

Ref keywords_of(PyObject* const* values, PyObject* names) {
    Ref made(PyDict_New());
    for (Py_ssize_t i = 0; made && names != nullptr && i < PyTuple_GET_SIZE(names); ++i)
        if (PyDict_SetItem(made.get(), PyTuple_GET_ITEM(names, i), values[i]) != 0) return {};
    return made;
}

[[gnu::noinline]] PyObject* call_slowly(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args,
                                        Py_ssize_t count, PyObject* names, const Key* key) {
    ++core.slow_calls;
    Ref positional(PyTuple_New(count));
    Ref keywords = keywords_of(args + count, names);
    Ref pending(key == nullptr ? Py_NewRef(Py_None) : make_pending(*key));
    if (!positional || !keywords || !pending) return nullptr;
    for (Py_ssize_t i = 0; i < count; ++i) PyTuple_SET_ITEM(positional.get(), i, Py_NewRef(args[i]));
    Ref slow = Ref::borrowed(core.slow.get());
    return PyObject_CallFunctionObjArgs(slow.get(), kernel, grid, positional.get(), keywords.get(),
                                        pending.get(), nullptr);
}

bool is_all_tritons(const Core& core, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    if (!core.run || current_context() == 0) return false;
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < named; ++i)
        if (same_name(PyTuple_GET_ITEM(names, i), name_stream)) return false;
    for (Py_ssize_t i = 0; i < count + named; ++i)
        if (!is_tritons(args[i], 0)) return false;
    return true;
}

[[gnu::noinline]] PyObject* call_triton(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args,
                                        Py_ssize_t count, PyObject* names) {
    ++core.slow_calls;
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    Ref keywords(PyTuple_New(named + 2));
    if (!keywords) return nullptr;
    for (Py_ssize_t i = 0; i < named; ++i)
        PyTuple_SET_ITEM(keywords.get(), i, Py_NewRef(PyTuple_GET_ITEM(names, i)));
    PyTuple_SET_ITEM(keywords.get(), named, Py_NewRef(name_grid));
    PyTuple_SET_ITEM(keywords.get(), named + 1, Py_NewRef(name_warmup));
    std::vector<PyObject*> values{kernel};
    values.insert(values.end(), args, args + count + named);
    values.push_back(grid);
    values.push_back(Py_False);
    const Ref run = Ref::borrowed(core.run.get());
    return PyObject_Vectorcall(run.get(), values.data(), static_cast<std::size_t>(count) + 1, keywords.get());
}

}  // namespace ringlaunch::python::triton
