// Tensor descriptors that a program makes, as arguments.
#include "triton_descriptor.hpp"

#include <cstring>

namespace ringlaunch::python::triton {

namespace {

struct DescriptorType {
    PyTypeObject* type = nullptr;  // strong, for good
    bool tritons = false;
    bool has_tf32 = false;  // Triton 3.9
};
std::array<DescriptorType, 2> descriptor_types;  // Triton's, and ringlaunch's
std::array<PyObject*, 4> part_names{};
PyObject *name_padding = nullptr, *name_tf32 = nullptr;

const DescriptorType* descriptor_type(PyObject* object) noexcept {
    for (const DescriptorType& each : descriptor_types)
        if (each.type == Py_TYPE(object)) return &each;
    return nullptr;
}

bool is_list(PyObject* object) noexcept {
    return PyList_CheckExact(object) || PyTuple_Check(object);
}

}  // namespace

bool is_descriptor(PyObject* object) noexcept {
    return descriptor_type(object) != nullptr;
}

bool is_tritons_descriptor(PyObject* object) noexcept {
    const DescriptorType* type = descriptor_type(object);
    return type != nullptr && type->tritons;
}

PyObject* base_of(PyObject* descriptor) {
    PyObject* base = PyObject_GetAttr(descriptor, part_names[0]);
    if (base == nullptr) PyErr_Clear();
    return base;
}

bool read_side(PyObject* list, std::size_t i, long long& out) noexcept {
    if (!is_list(list) || static_cast<Py_ssize_t>(i) >= PySequence_Fast_GET_SIZE(list)) return false;
    PyObject* item = PySequence_Fast_GET_ITEM(list, static_cast<Py_ssize_t>(i));
    if (!PyLong_CheckExact(item)) return false;
    int overflow = 0;
    out = PyLong_AsLongLongAndOverflow(item, &overflow);
    return overflow == 0;
}

DescriptorParts::DescriptorParts(PyObject* descriptor) {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
        parts_[i] = PyObject_GetAttr(descriptor, part_names[i]);
        if (parts_[i] == nullptr) {
            PyErr_Clear();
            return;
        }
    }
    PyObject* padding = PyObject_GetAttr(descriptor, name_padding);
    const DescriptorType* type = descriptor_type(descriptor);
    PyObject* tf32 =
        type != nullptr && type->has_tf32 ? PyObject_GetAttr(descriptor, name_tf32) : Py_NewRef(Py_False);
    const bool known = padding != nullptr && PyUnicode_CheckExact(padding) &&
                       (tf32 == Py_True || tf32 == Py_False) && is_list(shape()) && is_list(strides()) &&
                       is_list(block());
    if (known) {
        const bool nan = PyUnicode_CompareWithASCIIString(padding, "nan") == 0;
        how_ = static_cast<std::uint8_t>((nan ? Descriptor::kNan : 0) |
                                         (tf32 == Py_True ? Descriptor::kTf32 : 0));
        const Py_ssize_t rank = PySequence_Fast_GET_SIZE(shape());
        if (rank == PySequence_Fast_GET_SIZE(strides()) && rank == PySequence_Fast_GET_SIZE(block()))
            rank_ = static_cast<std::size_t>(rank);
    }
    Py_XDECREF(padding);
    Py_XDECREF(tf32);
    PyErr_Clear();
}

DescriptorParts::~DescriptorParts() {
    for (PyObject* part : parts_) Py_XDECREF(part);
}

TensorMaps::TensorMaps(const TensorMapKind& kind, const Descriptor& descriptor, std::uint32_t offset)
    : kind_(kind), leaf_(descriptor.leaf), offset_(offset), kept_(kKept) {
    kind_.rank = descriptor.rank;
    kind_.nan = (descriptor.how & Descriptor::kNan) != 0;
    kind_.tf32 = (descriptor.how & Descriptor::kTf32) != 0;
}

bool TensorMaps::look(const std::uint64_t* of, std::uint64_t room) noexcept {
    const std::size_t bytes = sizeof(std::uint64_t) * (1 + 2 * kind_.rank);
    const auto is_of = [&](const Kept& kept) {
        return kept.room == room && std::memcmp(kept.of.data(), of, bytes) == 0;
    };
    if (is_of(kept_[last_])) [[likely]]
        return true;
    for (last_ = 0; last_ < kKept && !is_of(kept_[last_]);) ++last_;
    if (last_ != kKept) return true;
    last_ = next_++ % kKept;
    kept_[last_].of.fill(0);
    return false;
}

int TensorMaps::put(const std::uint64_t* leaves, std::byte* params) {
    const std::uint64_t* of = leaves + leaf_;
    if (!look(of, 0)) {
        Kept& place = kept_[last_];
        const int result = encode_tensor_map(kind_, of, place.map);
        if (result != 0) return result;
        std::memcpy(place.of.data(), of, sizeof(std::uint64_t) * (1 + 2 * kind_.rank));
    }
    std::memcpy(params + offset_, kept_[last_].map.data(), sizeof(TensorMap));
    return 0;
}

MapKey TensorMaps::wanted(const Key& key, std::size_t number) const noexcept {
    const std::uint64_t* of = key.leaves() + leaf_;
    return {of[0], key.descriptor(number).room, layout_of(kind_, of)};
}

bool TensorMaps::put_kept(const KeptMaps& maps, const Key& key, std::size_t number, std::byte* params) {
    const std::uint64_t* of = key.leaves() + leaf_;
    const std::uint64_t room = key.descriptor(number).room;
    if (!look(of, room)) {
        const TensorMap* map = maps.find(wanted(key, number));
        if (map == nullptr) return false;
        Kept& place = kept_[last_];
        place.map = *map;
        place.room = room;
        std::memcpy(place.of.data(), of, sizeof(std::uint64_t) * (1 + 2 * kind_.rank));
    }
    std::memcpy(params + offset_, kept_[last_].map.data(), sizeof(TensorMap));
    return true;
}

PyObject* set_descriptor(PyObject*, PyObject* args) {
    PyObject* type = nullptr;
    int tritons = 0;
    if (!PyArg_ParseTuple(args, "O!p", &PyType_Type, &type, &tritons)) return nullptr;
    constexpr const char* kNames[] = {"base", "shape", "strides", "block_shape"};
    for (std::size_t i = 0; i < part_names.size(); ++i)
        if ((part_names[i] = PyUnicode_InternFromString(kNames[i])) == nullptr) return nullptr;
    name_padding = PyUnicode_InternFromString("padding");
    name_tf32 = PyUnicode_InternFromString("round_f32_to_tf32");
    if (name_padding == nullptr || name_tf32 == nullptr) return nullptr;
    for (DescriptorType& each : descriptor_types) {
        if (reinterpret_cast<PyObject*>(each.type) == type) Py_RETURN_NONE;
        if (each.type != nullptr) continue;
        each.tritons = tritons != 0;
        each.has_tf32 = PyObject_HasAttr(type, name_tf32) != 0;
        each.type = reinterpret_cast<PyTypeObject*>(Py_NewRef(type));
        Py_RETURN_NONE;
    }
    return PyErr_Format(PyExc_ValueError, "a third type of tensor descriptors");
}

}  // namespace ringlaunch::python::triton
