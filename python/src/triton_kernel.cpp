#include "triton_kernel.hpp"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "errors.hpp"
#include "handles.hpp"
#include "inline_kernel.hpp"
#include "triton_inspect.hpp"
#include "triton_key.hpp"
#include "triton_launch_daemon.hpp"
#include "triton_pack.hpp"
#include "triton_settings.hpp"
#include "triton_slow.hpp"
#include "triton_subscript.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

PyTypeObject* kernel_base_type = nullptr;

PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
    return set_named_error("ParamTypeError", std::string(type->tp_name) + " is made by a kernel, not called");
}

std::string kernel_name(PyObject* kernel) {
    Ref name(PyObject_GetAttrString(kernel, "__name__"));
    const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
    if (text == nullptr) PyErr_Clear();
    return text == nullptr ? "kernel" : text;
}

namespace {

constexpr std::size_t kMaxEntries = 4096;  // of one kernel; then all are looked up anew

PyObject* kernel_new(PyTypeObject* type, PyObject*, PyObject*) {
    auto* made = reinterpret_cast<KernelBase*>(type->tp_alloc(type, 0));
    if (made != nullptr) made->core = new Core();
    return reinterpret_cast<PyObject*>(made);
}

// _bind(((name, flags[, default]), ...), positional, slow, finish, refresh, scratch, dict[, mode, run]).
// `run`: see Core, or None; not given for a kernel of a file.
PyObject* kernel_bind(PyObject* self, PyObject* args) {
    PyObject *params = nullptr, *slow = nullptr, *finish = nullptr, *refresh = nullptr, *scratch = nullptr,
             *dict = nullptr;
    Py_ssize_t positional = 0;
    unsigned char mode = 0;
    PyObject* run = nullptr;
    if (!PyArg_ParseTuple(args, "O!nOOOOO!|bO", &PyTuple_Type, &params, &positional, &slow, &finish, &refresh,
                          &scratch, &PyDict_Type, &dict, &mode, &run))
        return nullptr;
    if (mode > static_cast<unsigned char>(Mode::by_arguments))
        return PyErr_Format(PyExc_ValueError, "no mode: %d", int{mode});
    Core& core = *as_kernel(self)->core;
    // What was kept of calls is of the parameters that they were bound to.
    if (core.slow) return set_named_error("InternalError", "a Triton kernel that was bound before");
    const Py_ssize_t count = PyTuple_GET_SIZE(params);
    std::vector<ParamInfo> made;
    std::vector<std::uint8_t> made_flags;
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject *name = nullptr, *value = nullptr;
        unsigned char flags = 0;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(params, i), "Ub|O", &name, &flags, &value)) return nullptr;
        Py_INCREF(name);
        PyUnicode_InternInPlace(&name);
        ParamInfo& param = made.emplace_back();
        param.name = Ref(name);
        param.default_value = Ref::borrowed(value);
        made_flags.push_back(flags);
    }
    core.params.swap(made);
    core.flags.swap(made_flags);
    core.positional = static_cast<std::size_t>(std::max<Py_ssize_t>(0, positional));
    core.finish = Ref::borrowed(finish);
    core.refresh = Ref::borrowed(refresh);
    core.scratch = Ref::borrowed(scratch);
    core.own_dict = Ref::borrowed(dict);
    core.usual_run = Ref::borrowed(usual_run(Py_TYPE(self)));
    if (!watch_own(core, nullptr) && PyErr_Occurred() != nullptr) return nullptr;
    core.mode = static_cast<Mode>(mode);
    core.of_triton = run != nullptr;
    if (core.mode != Mode::daemon && run != Py_None) core.run = Ref::borrowed(run);
    core.slow = Ref::borrowed(slow);
    Py_RETURN_NONE;
}

void add_entry(Core& core, const PendingObject& pending, std::unique_ptr<Entry> entry) {
    pending.key->keep(entry->key);
    entry->hash = pending.key->hash();
    for (const Ref& each : *pending.held) entry->held.push_back(Ref::borrowed(each.get()));
    forget_last(core);
    const bool full = core.table.size() >= kMaxEntries;
    const auto old = core.table.take([&](const Entry& each) {
        return full || (!each.left && variant_of(each.variant.get()).closed()) ||
               (each.hash == entry->hash && each.key == entry->key);
    });
    core.table.add(std::move(entry));
}

// _add(pending, variant, leaves): from now on calls of that key are this variant's. False: some argument is
// of a kind that only the slow way converts.
PyObject* kernel_add(PyObject* self, PyObject* args) {
    PyObject *pending_object = nullptr, *variant = nullptr, *leaves_object = nullptr;
    if (!PyArg_ParseTuple(args, "O!OO!", pending_type, &pending_object, &variant, &PyTuple_Type,
                          &leaves_object) ||
        !is_variant(variant))
        return nullptr;
    Core& core = *as_kernel(self)->core;
    auto* pending = reinterpret_cast<PendingObject*>(pending_object);
    std::vector<std::uint16_t> leaves;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(leaves_object); ++i) {
        const unsigned long leaf = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(leaves_object, i));
        if (PyErr_Occurred() != nullptr) return nullptr;
        leaves.push_back(static_cast<std::uint16_t>(std::min(leaf, 0xfffful)));
    }
    Variant& taker = variant_of(variant);
    pending->key->set_session(taker.owner());
    auto entry = std::make_unique<Entry>();
    if (leaves.size() != taker.given || !plan(taker.takes, *pending->key, leaves, entry->packing) ||
        pending->key->descriptor_count() != taker.maps.size())
        Py_RETURN_FALSE;
    for (std::size_t i = 0; i < taker.maps.size(); ++i) {
        const Descriptor& descriptor = pending->key->descriptor(i);
        const auto param = std::find(leaves.begin(), leaves.end(), descriptor.leaf);
        if (param == leaves.end()) Py_RETURN_FALSE;
        const auto number = static_cast<std::size_t>(param - leaves.begin());
        entry->maps.emplace_back(taker.maps[i], descriptor, taker.takes.params[number].offset);
    }
    entry->variant = Ref::borrowed(variant);
    core.here |= taker.here != nullptr;
    add_entry(core, *pending, std::move(entry));
    Py_RETURN_TRUE;
}

// _leave(pending, compiled): from now on calls of that key, in the current context, are Triton's at once.
PyObject* kernel_leave(PyObject* self, PyObject* args) {
    PyObject *pending_object = nullptr, *compiled = nullptr;
    if (!PyArg_ParseTuple(args, "O!O", pending_type, &pending_object, &compiled)) return nullptr;
    Core& core = *as_kernel(self)->core;
    auto* pending = reinterpret_cast<PendingObject*>(pending_object);
    pending->key->set_session(std::bit_cast<const Session*>(current_context()));
    auto entry = std::make_unique<Entry>();
    entry->variant = Ref::borrowed(compiled);
    entry->left = true;
    core.here = true;
    add_entry(core, *pending, std::move(entry));
    Py_RETURN_NONE;
}

// _forget(variant, or what was left to Triton, or None): calls of its keys go the slow way again; None: all
// of them.
PyObject* kernel_forget(PyObject* self, PyObject* variant) {
    Core& core = *as_kernel(self)->core;
    forget_last(core);
    const auto old = core.table.take(
        [&](const Entry& each) { return variant == Py_None || each.variant.get() == variant; });
    return PyLong_FromSize_t(old.size());
}

// _capture(((name, globals, value), ...)): what the kernel's code has read, as it was.
PyObject* kernel_capture(PyObject* self, PyObject* list) {
    if (!PyTuple_Check(list)) return PyErr_Format(PyExc_TypeError, "expected a tuple");
    std::vector<Captured> made;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list); ++i) {
        PyObject *name = nullptr, *globals = nullptr, *value = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(list, i), "UO!O", &name, &PyDict_Type, &globals, &value))
            return nullptr;
        Captured& each = made.emplace_back();
        each.name = Ref::borrowed(name);
        each.globals = Ref::borrowed(globals);
        each.value = Ref::borrowed(value);
    }
    as_kernel(self)->core->captured.swap(made);
    Py_RETURN_NONE;
}

// _default(stream): where calls go that name neither a buffer nor a stream, until a client comes or goes.
PyObject* kernel_default(PyObject* self, PyObject* stream) {
    if (!is_stream(stream)) return PyErr_Format(PyExc_TypeError, "expected a Stream");
    Core& core = *as_kernel(self)->core;
    core.default_of = sessions_changed;
    core.default_stream = Ref::borrowed(stream);
    Py_RETURN_NONE;
}

// _variants(): those that calls find, without repetition.
PyObject* kernel_variants(PyObject* self, PyObject*) {
    Ref list(PyList_New(0));
    if (!list) return nullptr;
    std::vector<PyObject*> found;
    (void)as_kernel(self)->core->table.visit([&](const Entry& entry) {
        if (!entry.left && std::find(found.begin(), found.end(), entry.variant.get()) == found.end())
            found.push_back(entry.variant.get());
        return 0;
    });
    for (PyObject* variant : found)
        if (PyList_Append(list.get(), variant) != 0) return nullptr;
    return Py_NewRef(list.get());
}

PyObject* kernel_slow_calls(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(as_kernel(self)->core->slow_calls);
}

template <class Visit>
int visit_core(Core& core, const Visit& visit) {
    const auto each = [&](const Ref& ref) { return ref ? visit(ref.get()) : 0; };
    for (GridObject* grid : core.grids)
        if (grid != nullptr)
            if (const int stop = visit(reinterpret_cast<PyObject*>(grid)); stop != 0) return stop;
    for (const ParamInfo& param : core.params)
        if (const int stop = each(param.default_value); stop != 0) return stop;
    for (const Ref* ref : {&core.run, &core.slow, &core.finish, &core.refresh, &core.scratch, &core.own_dict,
                           &core.usual_run, &core.default_stream})
        if (const int stop = each(*ref); stop != 0) return stop;
    for (const std::vector<Ref>* list : {&core.watched, &core.hooks})
        for (const Ref& held : *list)
            if (const int stop = each(held); stop != 0) return stop;
    for (const Captured& captured : core.captured)
        for (const Ref* ref : {&captured.globals, &captured.value, &captured.seen})
            if (const int stop = each(*ref); stop != 0) return stop;
    return core.table.visit([&](const Entry& entry) {
        if (const int stop = each(entry.variant); stop != 0) return stop;
        for (const Ref& held : entry.held)
            if (const int stop = each(held); stop != 0) return stop;
        return 0;
    });
}

int kernel_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Core* core = as_kernel(self)->core;
    return core == nullptr ? 0 : visit_core(*core, [&](PyObject* object) { return visit(object, arg); });
}

int kernel_clear(PyObject* self) {
    // What was in it goes with the last reference to it, which may run Python code that asks the kernel
    // again.
    if (as_kernel(self)->core == nullptr) return 0;
    std::unique_ptr<Core> old(std::exchange(as_kernel(self)->core, new Core()));
    for (GridObject*& grid : old->grids) Py_CLEAR(grid);
    return 0;
}

void kernel_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    if (std::unique_ptr<Core> core(std::exchange(as_kernel(self)->core, nullptr)); core)
        for (GridObject*& grid : core->grids) Py_CLEAR(grid);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyMethodDef kernel_methods[] = {
    {"_bind", kernel_bind, METH_VARARGS, nullptr},        {"_add", kernel_add, METH_VARARGS, nullptr},
    {"_leave", kernel_leave, METH_VARARGS, nullptr},      {"_forget", kernel_forget, METH_O, nullptr},
    {"_capture", kernel_capture, METH_O, nullptr},        {"_grid", grid_of, METH_O, nullptr},
    {"_default", kernel_default, METH_O, nullptr},        {"_launch", kernel_launch, METH_VARARGS, nullptr},
    {"_key", kernel_key, METH_VARARGS, nullptr},          {"_repeat", kernel_repeat, METH_VARARGS, nullptr},
    {"_variants", kernel_variants, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef kernel_getters[] = {
    {"_slow_calls", kernel_slow_calls, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot kernel_slots[] = {
    {Py_tp_doc, const_cast<char*>("The call path of a Triton kernel: the base of ringlaunch's JITFunction.")},
    {Py_tp_new, reinterpret_cast<void*>(kernel_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(kernel_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(kernel_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(kernel_clear)},
    {Py_mp_subscript, reinterpret_cast<void*>(kernel_subscript)},
    {Py_tp_methods, kernel_methods},
    {Py_tp_getset, kernel_getters},
    {0, nullptr},
};

}  // namespace

PyType_Spec kernel_spec = {"ringlaunch._core.TritonKernel", sizeof(KernelBase), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, kernel_slots};

}  // namespace ringlaunch::python::triton
