#define PY_SSIZE_T_CLEAN
#include "triton_inspect.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "pack.hpp"
#include "ref.hpp"
#include "small_int.hpp"
#include "triton_bind.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_mode.hpp"
#include "triton_pack.hpp"
#include "triton_repeat.hpp"
#include "triton_tensor.hpp"
#include "triton_try_repeat.hpp"

namespace ringlaunch::python::triton {

namespace {

// A call as _key() and _repeat() are given it.
struct GivenCall {
    std::vector<PyObject*> all;  // borrowed
    Py_ssize_t count = 0;
    Ref names;
    Bound bound;
    Key key;
    Asked tensors;

    // False: it has no key; an error may be set.
    bool read(Core& core, PyObject* positional, PyObject* keywords) {
        if (core.params.size() > kMaxParams) return false;
        count = PyTuple_GET_SIZE(positional);
        for (Py_ssize_t i = 0; i < count; ++i) all.push_back(PyTuple_GET_ITEM(positional, i));
        if (PyDict_GET_SIZE(keywords) != 0) {
            names = Ref(PyTuple_New(PyDict_GET_SIZE(keywords)));
            if (!names) return false;
        }
        PyObject *name = nullptr, *value = nullptr;
        Py_ssize_t at = 0, number = 0;
        while (PyDict_Next(keywords, &at, &name, &value) != 0) {
            PyTuple_SET_ITEM(names.get(), number++, Py_NewRef(name));
            all.push_back(value);
        }
        const auto has_key = [&] {
            return bind(core, all.data(), count, names.get(), bound) &&
                   encode(core, bound, all.data() + count, core.settings, key);
        };
        if (core.mode != Mode::daemon) key.begin_with_tensors(nullptr);
        if (has_key()) return true;
        if (!key.unasked() || !tensors.ask(bound.values, core.params.size())) return false;
        key.begin_with_tensors(&tensors);
        return has_key();
    }
};

}  // namespace

PyObject* kernel_key(PyObject* self, PyObject* args) {
    PyObject *positional = nullptr, *keywords = nullptr;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &positional, &PyDict_Type, &keywords)) return nullptr;
    GivenCall call;
    if (!call.read(*as_kernel(self)->core, positional, keywords)) {
        if (PyErr_Occurred() != nullptr) return nullptr;
        Py_RETURN_NONE;
    }
    Ref checks(PyTuple_New(static_cast<Py_ssize_t>(call.key.check_count())));
    for (std::size_t i = 0; checks && i < call.key.check_count(); ++i) {
        PyObject* leaf = PyLong_FromSize_t(call.key.check(i));
        if (leaf == nullptr) return nullptr;
        PyTuple_SET_ITEM(checks.get(), static_cast<Py_ssize_t>(i), leaf);
    }
    if (!checks) return nullptr;
    std::vector<std::uint64_t> kept;
    call.key.keep(kept);
    std::string kinds;
    for (std::size_t i = 0; i < call.key.leaf_count(); ++i) kinds += static_cast<char>(call.key.kind(i));
    return Py_BuildValue("(y#y#y#iO)", reinterpret_cast<const char*>(kept.data() + 2),
                         static_cast<Py_ssize_t>(8 * (kept.size() - 2)), kinds.data(),
                         static_cast<Py_ssize_t>(kinds.size()),
                         reinterpret_cast<const char*>(call.key.leaves()),
                         static_cast<Py_ssize_t>(8 * call.key.leaf_count()), call.key.device(), checks.get());
}

namespace {

// Parameters that take all leaves but those that Triton compiles in, of the types that it gives them.
Takes plain_takes(const Core& core, const Key& key, const Bound& bound, std::vector<std::uint16_t>& leaves) {
    Takes takes;
    std::uint32_t bytes = 0;
    for (std::size_t i = 0; i < key.leaf_count(); ++i) {
        std::int64_t value = 0;
        if (PyLong_CheckExact(bound.values[i]) && small_int(bound.values[i], value) && value == 1 &&
            (core.flags[i] & (kNoSpecialize | kReal)) == 0)
            continue;
        Param param;
        switch (key.kind(i)) {
            case LeafKind::constant:
            case LeafKind::none:
            case LeafKind::descriptor:
                continue;
            case LeafKind::boolean:
                param.type = ParamType::boolean;
                break;
            case LeafKind::int32:
                param.type = ParamType::int32;
                break;
            case LeafKind::int64:
                param.type = ParamType::int64;
                break;
            case LeafKind::uint64:
                param.type = ParamType::uint64;
                break;
            case LeafKind::real:
                param.type = i % 3 == 0 ? ParamType::float64 : ParamType::float32;
                break;
            case LeafKind::buffer:
            case LeafKind::tensor:
                param.type = ParamType::pointer;
                break;
        }
        param.size = param_type_bytes(param.type);
        param.offset = (bytes + param.size - 1) / param.size * param.size;
        bytes = param.offset + param.size;
        takes.params.push_back(param);
        leaves.push_back(static_cast<std::uint16_t>(i));
    }
    takes.padded_bytes = (bytes + 7) / 8 * 8 + 16;  // and two pointers that nobody gives
    return takes;
}

}  // namespace

PyObject* kernel_repeat(PyObject* self, PyObject* args) {
    PyObject *positional[2] = {}, *keywords[2] = {};
    if (!PyArg_ParseTuple(args, "(O!O!)(O!O!)", &PyTuple_Type, &positional[0], &PyDict_Type, &keywords[0],
                          &PyTuple_Type, &positional[1], &PyDict_Type, &keywords[1]))
        return nullptr;
    Core& core = *as_kernel(self)->core;
    GivenCall first, second;
    std::vector<std::uint16_t> leaves;
    std::vector<Repeat::Given> params, options;
    if (!first.read(core, positional[0], keywords[0]) || first.key.leaf_count() != core.params.size() ||
        !list_given(core, first.bound, first.all.data(), first.count, params, options)) {
        if (PyErr_Occurred() != nullptr) return nullptr;
        Py_RETURN_NONE;
    }
    const Takes takes = plain_takes(core, first.key, first.bound, leaves);
    Packing packing;
    const auto repeat = plan(takes, first.key, leaves, packing)
                            ? Repeat::make(params, options, packing, first.key.session(), first.key.device())
                            : nullptr;
    if (repeat == nullptr) Py_RETURN_NONE;
    const bool has_key = second.read(core, positional[1], keywords[1]);
    if (PyErr_Occurred() != nullptr) return nullptr;
    // Which the call looks at itself (Entry::is_repeat()).
    const bool alike = first.count == second.count && (!first.names) == (!second.names);
    const int named = !alike        ? 0
                      : first.names ? PyObject_RichCompareBool(first.names.get(), second.names.get(), Py_EQ)
                                    : 1;
    if (named < 0) return nullptr;
    if (named == 0) Py_RETURN_FALSE;
    std::array<std::byte, kMaxPackedBytes + kPackedPadding> ours, theirs;
    ours.fill(std::byte{0xa5});
    theirs.fill(std::byte{0x5a});
    std::array<PyObject*, kMaxParams> tensors;
    PyObject** end = tensors.data();
    if (!repeat->pack(second.all.data(), ours.data(), end)) Py_RETURN_FALSE;
    std::vector<std::uint64_t> kept;
    first.key.keep(kept);
    const bool same_key = has_key && second.key.equals(kept);
    const bool same_bytes = same_key &&
                            triton::pack(takes, packing, second.key.leaves(), theirs.data()) == nullptr &&
                            std::memcmp(ours.data(), theirs.data(), takes.padded_bytes) == 0;
    std::vector<PyObject*> given;
    for (PyObject* object : second.key.given())
        if (object != Py_None) given.push_back(object);
    const bool same_tensors = same_key && std::equal(given.begin(), given.end(), tensors.data(), end);
    return Py_BuildValue("(NNN)", PyBool_FromLong(same_key), PyBool_FromLong(same_bytes),
                         PyBool_FromLong(same_tensors));
}

}  // namespace ringlaunch::python::triton
