// What a call of a Triton kernel gives, as a key of bytes.
#include "triton_key.hpp"

#include <algorithm>

#include "triton_descriptor.hpp"

namespace ringlaunch::python::triton {

ConstantTypes constant_types;

namespace {

constexpr int kMaxDepth = 8;  // tuples within tuples

constexpr std::uint64_t mix(std::uint64_t hash, std::uint64_t word) noexcept {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 29;
}

bool is_one_of(const std::vector<PyTypeObject*>& types, PyTypeObject* type) noexcept {
    return std::find(types.begin(), types.end(), type) != types.end();
}

bool add_types(PyObject* list, std::vector<PyTypeObject*>& out) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list); ++i) {
        PyObject* type = PyTuple_GET_ITEM(list, i);
        if (!PyType_Check(type)) {
            PyErr_SetString(PyExc_TypeError, "expected a type");
            return false;
        }
        out.push_back(reinterpret_cast<PyTypeObject*>(Py_NewRef(type)));  // kept for good
    }
    return true;
}

// Triton keeps constants by hash and equality, and these have the same for as long as they live.
bool stays_itself(PyObject* object) {
    if (PyType_Check(object)) return Py_TYPE(object)->tp_hash == PyType_Type.tp_hash;
    return PyFunction_Check(object) || is_enum_member(Py_TYPE(object));
}

}  // namespace

bool is_enum_member(PyTypeObject* type) {
    static PyObject* const name = PyUnicode_InternFromString("__hash__");
    PyTypeObject* const base = constant_types.enum_type;
    return base != nullptr && PyType_IsSubtype(type, base) != 0 &&
           (type->tp_hash == PyLong_Type.tp_hash || type->tp_hash == PyUnicode_Type.tp_hash ||
            _PyType_Lookup(type, name) == _PyType_Lookup(base, name));
}

std::uint64_t Key::hash() const noexcept {
    std::uint64_t hash = mix(settings_, std::bit_cast<std::uint64_t>(session_));
    for (std::uint32_t i = 0; i < tag_count_; i += 8) hash = mix(hash, tags_at(i));
    for (std::uint32_t i = 0; i < word_count_; ++i) hash = mix(hash, words_[i]);
    return hash;
}

void Key::keep(std::vector<std::uint64_t>& out) const {
    out.clear();
    out.push_back(settings_);
    out.push_back(std::bit_cast<std::uint64_t>(session_));
    out.push_back(std::uint64_t{tag_count_} << 32 | word_count_);
    for (std::uint32_t i = 0; i < tag_count_; i += 8) out.push_back(tags_at(i));
    out.insert(out.end(), words_.begin(), words_.begin() + word_count_);
}

bool Key::large_integer(PyObject* arg, std::uint8_t flags) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(arg, &overflow);
    if (overflow == 0) return integer(value, flags);
    if (overflow < 0) return false;
    const unsigned long long large = PyLong_AsUnsignedLongLong(arg);
    if (large == ~0ull && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        return false;
    }
    const bool aligned = (flags & (kNoSpecialize | kNoAlignment)) == 0 && (large & 15) == 0;
    return put(aligned ? Tag::uint64_aligned : Tag::uint64) && leaf(LeafKind::uint64, large);
}

bool Key::runtime_slowly(PyObject* arg, std::uint8_t flags) {
    if (is_buffer(arg)) return buffer(reinterpret_cast<const BufferObject*>(arg), flags);
    if (PyBool_Check(arg)) return put(Tag::boolean) && leaf(LeafKind::boolean, arg == Py_True);
    if (arg == Py_None) return put(Tag::none) && leaf(LeafKind::none, 0);
    if (PyLong_CheckExact(arg)) return large_integer(arg, flags);
    // A type of its own, numpy's float64, an enum's: Triton takes its value. But it compiles an int in that
    // is 1, as the object that it is.
    if (PyFloat_Check(arg)) return real(PyFloat_AS_DOUBLE(arg));
    if (PyLong_Check(arg)) {
        int overflow = 0;
        return (PyLong_AsLongAndOverflow(arg, &overflow) != 1 || (flags & kNoSpecialize) != 0) &&
               large_integer(arg, flags);
    }
    if (PyTuple_Check(arg)) return tuple(arg, false);
    if (is_descriptor(arg)) return descriptor(arg);
    if (Py_TYPE(arg) == constant_types.constexpr_type || is_one_of(constant_types.functions, Py_TYPE(arg)))
        return constexpr_leaf(arg);
    return with_tensors_ && unusual_tensor(arg, flags);
}

bool Key::unusual_tensor(PyObject* arg, std::uint8_t flags) {
    const TensorType& type = tensor_type(Py_TYPE(arg));
    switch (type.reading) {
        case Reading::exchange:
            return read_tensor(arg, type, flags);
        case Reading::unknown:
            unasked_ = asked_ == nullptr;
            return false;
        case Reading::method:
        case Reading::interface:
            if (const TensorView* view = asked_ == nullptr ? nullptr : asked_->find(arg); view != nullptr)
                return tensor(*view, flags);
            unasked_ = asked_ == nullptr;
            return false;
        case Reading::attributes:
            if (TensorView view; read_attributes(arg, view)) return tensor(view, flags);
            unasked_ = asked_ == nullptr;
            return false;
        case Reading::none:
            return false;
    }
    return false;
}

// Shape, or strides.
bool Key::sides(PyObject* list, std::size_t rank, bool strides) {
    for (std::size_t i = 0; i < rank; ++i) {
        long long value = 0;
        if (!read_side(list, i, value) || (!strides && value != static_cast<std::int32_t>(value)) ||
            !leaf(strides ? LeafKind::int64 : LeafKind::int32, static_cast<std::uint64_t>(value)))
            return false;
    }
    return true;
}

// A tensor of this program that a descriptor is of.
bool Key::described_tensor(PyObject* base, TensorView& out) {
    const TensorType& type = tensor_type(Py_TYPE(base));
    if (type.reading == Reading::exchange && read_exchange(base, type, out)) return true;
    const TensorView* said =
        type.reading == Reading::method && asked_ != nullptr ? asked_->find(base) : nullptr;
    if (said != nullptr) {
        out = *said;
        return true;
    }
    unasked_ = asked_ == nullptr && (type.reading == Reading::unknown || type.reading == Reading::method);
    return false;
}

// Triton's key has the types of elements and block. What else makes its bytes is in this one, but for the
// tensor's address, shape and strides, which are given to each launch.
bool Key::descriptor(PyObject* arg) {
    const DescriptorParts parts(arg);
    const std::size_t rank = parts.rank();
    if (rank == 0 || rank > kMaxRank || descriptor_count_ == kMaxDescriptors) return false;
    TensorView view;
    const BufferObject* memory = nullptr;
    if (is_buffer(parts.base())) {
        memory = reinterpret_cast<const BufferObject*>(parts.base());
        own(memory);
        view.address = memory->address;
        view.element = memory->element;
        if (view.element == 0) return false;
    } else if (!with_tensors_ || !described_tensor(parts.base(), view)) {
        return false;
    }
    Descriptor& made = descriptors_[descriptor_count_++];
    made = {static_cast<std::uint16_t>(leaf_count_), static_cast<std::uint8_t>(rank), parts.how(), nullptr,
            0};
    if (memory != nullptr) {
        made.buffer = memory;
        made.room = memory->buffer.size() - memory->offset;
    } else {
        has_tensors_ = true;
        if (view.device != TensorView::kUnknown && device_ == TensorView::kUnknown) device_ = view.device;
        if (view.device == TensorView::kUnknown && check_count_ != kMaxLeaves)
            checks_[check_count_++] = made.leaf;
    }
    if (!put(Tag::descriptor) || !put(made.rank) || !put(view.element) || !put(made.how) ||
        !leaf(LeafKind::descriptor, view.address))
        return false;
    for (std::size_t i = 0; i < rank; ++i)
        if (long long value = 0;
            !read_side(parts.block(), i, value) || !word(static_cast<std::uint64_t>(value)))
            return false;
    return sides(parts.shape(), rank, false) && sides(parts.strides(), rank, true);
}

bool Key::tuple(PyObject* arg, bool of_constants) {
    const Py_ssize_t count = PyTuple_GET_SIZE(arg);
    if (count > 0xff || depth_ == kMaxDepth) return false;
    const bool plain = PyTuple_CheckExact(arg);
    if (!put(plain ? Tag::tuple : Tag::tuple_of) || !put(static_cast<std::uint8_t>(count))) return false;
    if (!plain && !hold(reinterpret_cast<PyObject*>(Py_TYPE(arg)))) return false;
    ++depth_;
    bool ok = true;
    for (Py_ssize_t i = 0; ok && i < count; ++i) {
        PyObject* item = PyTuple_GET_ITEM(arg, i);
        ok = of_constants ? constant(item) : runtime(item, 0);  // a parameter's flags are not its elements'
    }
    --depth_;
    return ok;
}

bool Key::string(PyObject* arg) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(arg, &length);
    if (text == nullptr) {
        PyErr_Clear();  // text that UTF-8 cannot encode
        return false;
    }
    if (!put(Tag::string_value) || !word(static_cast<std::uint64_t>(length))) return false;
    for (Py_ssize_t at = 0; at < length; at += 8) {
        std::uint64_t part = 0;
        std::memcpy(&part, text + at, static_cast<std::size_t>(std::min<Py_ssize_t>(8, length - at)));
        if (!word(part)) return false;
    }
    return true;
}

bool Key::constant_slowly(PyObject* arg) {
    PyTypeObject* type = Py_TYPE(arg);
    if (type == &PyLong_Type) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(arg, &overflow);
        return overflow == 0 && put(Tag::int_value) && word(static_cast<std::uint64_t>(value));
    }
    if (type == &PyFloat_Type)
        return put(Tag::real_value) && word(std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(arg)));
    if (type == &PyUnicode_Type) return string(arg);
    if (PyTuple_Check(arg)) return tuple(arg, true);
    if (is_one_of(constant_types.by_identity, type)) return put(Tag::object_value) && hold(arg);
    if (type == constant_types.constexpr_type) {
        if (depth_ == kMaxDepth || !put(Tag::wrapped)) return false;
        PyObject* value = PyObject_GetAttrString(arg, "value");
        if (value == nullptr) return false;
        ++depth_;
        const bool ok = constant(value);  // the constexpr keeps it
        --depth_;
        Py_DECREF(value);
        return ok;
    }
    if (is_one_of(constant_types.functions, type)) {
        PyObject* hash = PyObject_GetAttrString(arg, "hash");
        if (hash == nullptr) return false;
        const bool ok = put(Tag::function_value) && hold(arg) && hash != Py_None && hold(hash);
        Py_DECREF(hash);
        return ok;
    }
    if (stays_itself(arg)) return put(Tag::object_value) && hold(arg);
    return number_of_c(arg);
}

// NumPy's numbers, which nothing changes, by value and type.
bool Key::number_of_c(PyObject* arg) {
    PyTypeObject* const type = Py_TYPE(arg);
    if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 || type->tp_hash == PyObject_HashNotImplemented)
        return false;
    if (PyFloat_Check(arg))
        return put(Tag::real_of) && word(std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(arg))) &&
               hold(reinterpret_cast<PyObject*>(type));
    if (PyIndex_Check(arg) == 0) return false;
    PyObject* const number = PyNumber_Index(arg);
    if (number == nullptr) return false;
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    return overflow == 0 && put(Tag::int_of) && word(static_cast<std::uint64_t>(value)) &&
           hold(reinterpret_cast<PyObject*>(type));
}

PyObject* set_types(PyObject*, PyObject* args) {
    PyObject *by_identity = nullptr, *functions = nullptr, *constexpr_type = nullptr, *enum_type = nullptr;
    if (!PyArg_ParseTuple(args, "O!O!O!O!", &PyTuple_Type, &by_identity, &PyTuple_Type, &functions,
                          &PyType_Type, &constexpr_type, &PyType_Type, &enum_type) ||
        !add_types(by_identity, constant_types.by_identity) ||
        !add_types(functions, constant_types.functions))
        return nullptr;
    constant_types.constexpr_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(constexpr_type));
    constant_types.enum_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(enum_type));
    Py_RETURN_NONE;
}

}  // namespace ringlaunch::python::triton
