#include "triton_variant.hpp"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "pack.hpp"
#include "triton_descriptor.hpp"
#include "triton_key.hpp"
#include "triton_region.hpp"

namespace ringlaunch::python::triton {

PyTypeObject* variant_type = nullptr;

bool is_variant(PyObject* object) {
    if (Py_TYPE(object) == variant_type) return true;
    PyErr_Format(PyExc_TypeError, "expected a TritonVariant, found %s", Py_TYPE(object)->tp_name);
    return false;
}

bool with_clusters(const Variant& variant, Dim3& grid) {
    if (!has_clusters(variant, grid)) [[unlikely]] {
        set_named_error("OutOfRange",
                        "kernel '" + variant.takes.kernel + "': a grid of " + std::to_string(grid.x) +
                            " clusters of " + std::to_string(variant.ctas) +
                            " blocks is more than a device takes (" + std::to_string(kMaxGridX) + ")");
        return false;
    }
    grid.x *= variant.ctas;
    return true;
}

namespace {

// How tensors are read: for each (swizzle, bytes of an element, its type, block, whether small ones are
// mended). Null: there are none. False: a Python error is set.
bool read_kinds(PyObject* maps, std::vector<TensorMapKind>& out) {
    for (Py_ssize_t i = 0; maps != nullptr && i < PyTuple_GET_SIZE(maps); ++i) {
        TensorMapKind& kind = out.emplace_back();
        PyObject* block = nullptr;
        int mended = 0;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(maps, i), "iiiO!p", &kind.swizzle, &kind.element_bytes,
                              &kind.element_type, &PyTuple_Type, &block, &mended))
            return false;
        kind.small_mended = mended != 0;
        for (std::size_t side = 0; side < kMaxRank; ++side)
            if (long long value = 0; read_side(block, side, value))
                kind.block[side] = static_cast<std::uint32_t>(value);
    }
    return true;
}

// TritonVariant(kernel, compiled, names, threads, shared, ctas, scratch_bytes, scratch_param[, maps]).
// `maps`: for each parameter that is a tensor's map, as read_kinds() takes it.
PyObject* variant_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *kernel = nullptr, *compiled = nullptr, *names = nullptr, *maps = nullptr;
    unsigned int threads = 0, shared = 0, ctas = 0, scratch_param = 0;
    unsigned long long scratch_bytes = 0;
    if (!PyArg_ParseTuple(args, "O!OO!IIIKI|O!", kernel_type, &kernel, &compiled, &PyTuple_Type, &names,
                          &threads, &shared, &ctas, &scratch_bytes, &scratch_param, &PyTuple_Type, &maps))
        return nullptr;
    const KernelView view = view_kernel(kernel);
    auto made = std::make_unique<Variant>();
    made->session = view.session;
    made->state = detail::Access::state(view.kernel);
    made->takes.kernel = view.kernel.name();
    made->takes.params.assign(view.kernel.params().begin(), view.kernel.params().end());
    made->takes.padded_bytes = static_cast<std::uint32_t>(padded_param_bytes(made->state->param_bytes));
    if (ctas == 0 || PyTuple_GET_SIZE(names) > static_cast<Py_ssize_t>(made->takes.params.size()) ||
        (scratch_bytes != 0 && (scratch_param >= made->takes.params.size() ||
                                made->takes.params[scratch_param].type != ParamType::pointer)))
        return PyErr_Format(PyExc_ValueError, "a variant that does not fit its kernel");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
        const char* name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
        if (name == nullptr) return nullptr;
        made->takes.params[static_cast<std::size_t>(i)].name = name;
    }
    made->given = static_cast<std::size_t>(PyTuple_GET_SIZE(names));
    if (!read_kinds(maps, made->maps)) return nullptr;
    std::size_t described = 0;
    for (const Param& param : made->takes.params) {
        const bool is_map = param.type == ParamType::bytes && param.size == sizeof(TensorMap);
        if ((param.type == ParamType::bytes && !is_map) || param.type == ParamType::unknown)
            return set_named_error("Unsupported", "kernel '" + made->takes.kernel +
                                                      "': a parameter of type " + type_word(param.type));
        described += is_map ? 1 : 0;
    }
    if (described != made->maps.size())
        return PyErr_Format(PyExc_ValueError, "%zu tensor maps for %zu parameters", made->maps.size(),
                            described);
    made->block = {threads, 1, 1};
    made->shared_bytes = shared;
    made->ctas = ctas;
    made->scratch_bytes = scratch_bytes;
    made->scratch_param = scratch_param;
    made->kernel = Ref::borrowed(kernel);
    made->compiled = Ref::borrowed(compiled);
    made->stream = Ref::borrowed(view.stream);
    auto* object = reinterpret_cast<VariantObject*>(type->tp_alloc(type, 0));
    if (object != nullptr) object->variant = made.release();
    return reinterpret_cast<PyObject*>(object);
}

}  // namespace

PyObject* make_inline_variant(PyObject*, PyObject* args) {
    PyObject *compiled = nullptr, *declared = nullptr;
    unsigned long long function = 0, scratch_bytes = 0;
    unsigned int threads = 0, shared = 0, ctas = 0;
    int cooperative = 0, programmatic = 0;
    PyObject* maps = nullptr;
    if (!PyArg_ParseTuple(args, "OKO!IIIppK|O!", &compiled, &function, &PyTuple_Type, &declared, &threads,
                          &shared, &ctas, &cooperative, &programmatic, &scratch_bytes, &PyTuple_Type, &maps))
        return nullptr;
    const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(declared));
    auto made = std::make_unique<Variant>();
    for (std::size_t i = 0; i < count; ++i) {
        const char *name = nullptr, *type = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(declared, static_cast<Py_ssize_t>(i)), "ss", &name, &type))
            return nullptr;
        Param& param = made->takes.params.emplace_back();
        param.name = name;
        param.type = std::strcmp(type, "tensormap") == 0 ? ParamType::bytes : type_of_word(type);
    }
    made->given = count;
    if (!read_kinds(maps, made->maps)) return nullptr;
    for (const char* name : {"global_scratch", "profile_scratch"}) {
        Param& param = made->takes.params.emplace_back();
        param.name = name;
        param.type = ParamType::pointer;
    }
    Ref name(PyObject_GetAttrString(compiled, "name"));
    const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
    if (text == nullptr) PyErr_Clear();
    made->takes.kernel = text == nullptr ? "kernel" : text;
    try {
        made->here = make_inline_kernel({made->takes.kernel,
                                         function,
                                         {threads, 1, 1},
                                         shared,
                                         ctas,
                                         cooperative != 0,
                                         programmatic != 0});
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
    const auto& places = made->here->params();
    if (places.size() != made->takes.params.size()) Py_RETURN_NONE;
    for (std::size_t i = 0; i < places.size(); ++i) {
        Param& param = made->takes.params[i];
        param.offset = places[i].offset;
        param.size = places[i].size;
        if (param.size != (param.type == ParamType::bytes ? sizeof(TensorMap) : param_type_bytes(param.type)))
            Py_RETURN_NONE;
    }
    const std::uint32_t bytes = packed_bytes(made->takes.params);
    if (bytes > kMaxPackedBytes) Py_RETURN_NONE;
    made->takes.padded_bytes = (bytes + 7) / 8 * 8;
    made->block = {threads, 1, 1};
    made->shared_bytes = shared;
    made->ctas = ctas;
    made->scratch_bytes = scratch_bytes;
    made->scratch_param = static_cast<std::uint32_t>(count);
    made->compiled = Ref::borrowed(compiled);
    auto* object = reinterpret_cast<VariantObject*>(variant_type->tp_alloc(variant_type, 0));
    if (object != nullptr) object->variant = made.release();
    return reinterpret_cast<PyObject*>(object);
}

namespace {

int variant_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Variant* variant = reinterpret_cast<VariantObject*>(self)->variant;
    if (variant != nullptr) {
        Py_VISIT(variant->kernel.get());
        Py_VISIT(variant->compiled.get());
        Py_VISIT(variant->stream.get());
    }
    return 0;
}

void variant_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    std::unique_ptr<Variant> variant(std::exchange(reinterpret_cast<VariantObject*>(self)->variant, nullptr));
    if (variant != nullptr && variant->here != nullptr) forget_in_region(*variant->here);
    variant.reset();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* variant_kernel(PyObject* self, void*) {
    PyObject* kernel = variant_of(self).kernel.get();
    return Py_NewRef(kernel == nullptr ? Py_None : kernel);
}
PyObject* variant_graphs(PyObject* self, void*) {
    const Variant& variant = variant_of(self);
    return PyLong_FromSize_t(variant.here == nullptr ? 0 : variant.here->graphs());
}
PyObject* variant_device(PyObject* self, void*) {
    const Variant& variant = variant_of(self);
    if (variant.here == nullptr) Py_RETURN_NONE;
    return PyLong_FromLong(variant.here->device());
}
PyObject* variant_compiled(PyObject* self, void*) {
    return Py_NewRef(variant_of(self).compiled.get());
}
PyObject* variant_hits(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(variant_of(self).hits);
}
PyObject* variant_count(PyObject* self, PyObject*) {
    ++variant_of(self).hits;
    Py_RETURN_NONE;
}
PyObject* variant_closed(PyObject* self, void*) {
    return PyBool_FromLong(variant_of(self).closed());
}

PyMethodDef variant_methods[] = {
    {"_count", variant_count, METH_NOARGS, PyDoc_STR("One launch of it that Triton made.")},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef variant_getters[] = {
    {"kernel", variant_kernel, nullptr, PyDoc_STR("As the client has loaded it; None in this program."),
     nullptr},
    {"compiled", variant_compiled, nullptr, PyDoc_STR("Triton's CompiledKernel."), nullptr},
    {"hits", variant_hits, nullptr, PyDoc_STR("Launches of it."), nullptr},
    {"_graphs", variant_graphs, nullptr,
     PyDoc_STR("Launch graphs of its context, where it is launched here."), nullptr},
    {"_device", variant_device, nullptr, PyDoc_STR("Its number, where it is launched here."), nullptr},
    {"closed", variant_closed, nullptr, PyDoc_STR("Whether its client was closed."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot variant_slots[] = {
    {Py_tp_doc,
     const_cast<char*>("A Triton kernel compiled for arguments of one kind, loaded for a client.")},
    {Py_tp_new, reinterpret_cast<void*>(variant_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(variant_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(variant_traverse)},
    {Py_tp_methods, variant_methods},
    {Py_tp_getset, variant_getters},
    {0, nullptr},
};

}  // namespace

PyType_Spec variant_spec = {"ringlaunch._core.TritonVariant", sizeof(VariantObject), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                            variant_slots};

}  // namespace ringlaunch::python::triton
