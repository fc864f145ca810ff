// Python arguments to packed kernel parameters, by the kernel's declared types.
#include "pack.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "errors.hpp"
#include "handles.hpp"
#include "schema/id_text.hpp"
#include "small_int.hpp"

namespace ringlaunch::python {

namespace {

struct TypeWord {
    ParamType type;
    const char* name;
    std::uint32_t bytes;
};

constexpr std::array<TypeWord, 16> kTypes{{
    {ParamType::unknown, "unknown", 0},
    {ParamType::pointer, "pointer", 8},
    {ParamType::boolean, "bool", 1},
    {ParamType::int8, "int8", 1},
    {ParamType::int16, "int16", 2},
    {ParamType::int32, "int32", 4},
    {ParamType::int64, "int64", 8},
    {ParamType::uint8, "uint8", 1},
    {ParamType::uint16, "uint16", 2},
    {ParamType::uint32, "uint32", 4},
    {ParamType::uint64, "uint64", 8},
    {ParamType::float16, "float16", 2},
    {ParamType::bfloat16, "bfloat16", 2},
    {ParamType::float32, "float32", 4},
    {ParamType::float64, "float64", 8},
    {ParamType::bytes, "bytes", 0},
}};

// Where an argument stands, for messages.
struct Place {
    const Layout& layout;
    std::size_t index;

    const Param& param() const { return layout.params[index]; }
    std::string text() const {
        std::string out = "kernel '" + layout.kernel + "', parameter " + std::to_string(index) + " (";
        if (!param().name.empty()) out += "'" + param().name + "', ";
        out += type_word(param().type);
        if (param().type == ParamType::bytes) out += "[" + std::to_string(param().size) + "]";
        return out + "): ";
    }
};

[[gnu::cold]] bool wrong_type(const Place& place, const std::string& expected, PyObject* found) {
    PyErr_Clear();
    set_named_error("ParamTypeError", place.text() + "expected " + expected + ", found " + short_repr(found) +
                                          " (" + type_name(found) + ")");
    return false;
}

[[gnu::cold]] bool out_of_range(const Place& place, const std::string& expected, PyObject* found) {
    PyErr_Clear();
    set_named_error("OutOfRange", place.text() + "expected " + expected + ", found " + short_repr(found) +
                                      " (" + type_name(found) + ")");
    return false;
}

// numpy.bool, or null while nobody has imported numpy (then no argument can be one).
PyTypeObject* numpy_bool_type() {
    static PyTypeObject* type = nullptr;
    if (type != nullptr) return type;
    PyObject* modules = PyImport_GetModuleDict();
    PyObject* numpy = modules == nullptr ? nullptr : PyDict_GetItemString(modules, "numpy");
    if (numpy == nullptr) return nullptr;
    PyObject* found = PyObject_GetAttrString(numpy, "bool_");
    if (found == nullptr || !PyType_Check(found)) {
        PyErr_Clear();
        Py_XDECREF(found);
        return nullptr;
    }
    type = reinterpret_cast<PyTypeObject*>(found);  // kept for good: numpy's types are immortal in practice
    return type;
}

// 1, 0, or -1 where the object is no boolean.
int boolean_of(PyObject* object) {
    if (object == Py_True) return 1;
    if (object == Py_False) return 0;
    if (PyLong_Check(object) || PyFloat_Check(object)) return -1;
    PyTypeObject* numpy_bool = numpy_bool_type();
    if (numpy_bool == nullptr || Py_TYPE(object) != numpy_bool) return -1;
    return PyObject_IsTrue(object);
}

// An integer as its 64 bits, and whether they are to be read as signed; false: a Python error may be set.
struct Integer {
    std::int64_t value = 0;
    bool above_int64 = false;  // value holds the bits of a uint64 above the largest int64
};

enum class Found { yes, not_integer, too_large };

Found integer_of_long(PyObject* object, Integer& out) {
    int overflow = 0;
    out.value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow == 0) return Found::yes;
    if (overflow < 0) return Found::too_large;
    const unsigned long long large = PyLong_AsUnsignedLongLong(object);
    if (large == std::numeric_limits<unsigned long long>::max() && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        return Found::too_large;
    }
    out.value = std::bit_cast<std::int64_t>(static_cast<std::uint64_t>(large));
    out.above_int64 = true;
    return Found::yes;
}

Found integer_of(PyObject* object, Integer& out, bool& ran_python) {
    if (PyLong_Check(object)) return integer_of_long(object, out);
    const PyNumberMethods* numbers = Py_TYPE(object)->tp_as_number;
    if (numbers != nullptr && numbers->nb_index != nullptr) {
        ran_python = true;
        PyObject* index = PyNumber_Index(object);
        if (index == nullptr) return Found::not_integer;  // the error stays set unless it is a TypeError
        const Found found = integer_of_long(index, out);
        Py_DECREF(index);
        return found;
    }
    if (const int boolean = boolean_of(object); boolean >= 0) {
        out.value = boolean;
        return Found::yes;
    }
    return Found::not_integer;
}

// An exception of the argument's own code goes on to the caller; "is no number" is ours to say.
bool is_foreign_error() {
    return PyErr_Occurred() != nullptr && !PyErr_ExceptionMatches(PyExc_TypeError);
}

template <class T>
[[gnu::cold]] std::string range_text() {
    return "an integer from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
           std::to_string(std::numeric_limits<T>::max());
}

template <class T>
bool pack_integer(const Place& place, PyObject* arg, std::uint64_t& out, bool& ran_python) {
    Integer integer;
    switch (integer_of(arg, integer, ran_python)) {
        case Found::yes:
            break;
        case Found::not_integer:
            if (is_foreign_error()) return false;
            return wrong_type(place, range_text<T>(), arg);
        case Found::too_large:
            return out_of_range(place, range_text<T>(), arg);
    }
    if constexpr (std::is_same_v<T, std::uint64_t>) {
        if (integer.value < 0 && !integer.above_int64) return out_of_range(place, range_text<T>(), arg);
    } else {
        if (integer.above_int64 || !std::in_range<T>(integer.value))
            return out_of_range(place, range_text<T>(), arg);
    }
    out = static_cast<std::make_unsigned_t<T>>(integer.value);
    return true;
}

// False: no number (a Python error may be set) or an integer beyond a double (`too_large`).
bool double_of(PyObject* object, double& out, bool& ran_python, bool& too_large) {
    if (PyFloat_Check(object)) {
        out = PyFloat_AS_DOUBLE(object);
        return true;
    }
    if (PyLong_Check(object)) {
        out = PyLong_AsDouble(object);
        if (out == -1.0 && PyErr_Occurred() != nullptr) {
            PyErr_Clear();
            too_large = true;
            return false;
        }
        return true;
    }
    if (const int boolean = boolean_of(object); boolean >= 0) {
        out = boolean;
        return true;
    }
    const PyNumberMethods* numbers = Py_TYPE(object)->tp_as_number;
    if (numbers == nullptr || (numbers->nb_float == nullptr && numbers->nb_index == nullptr)) return false;
    ran_python = true;
    out = PyFloat_AsDouble(object);
    if (out == -1.0 && PyErr_Occurred() != nullptr) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            too_large = true;
        }
        return false;
    }
    return true;
}

bool store_float(ParamType type, double value, std::uint64_t& out) {
    switch (type) {
        case ParamType::float64:
            out = std::bit_cast<std::uint64_t>(value);
            return true;
        case ParamType::float32: {
            const float narrow = static_cast<float>(value);
            out = std::bit_cast<std::uint32_t>(narrow);
            return !std::isinf(narrow) || std::isinf(value);
        }
        default: {
            std::uint16_t bits = 0;
            const bool fits = type == ParamType::float16 ? to_float16(value, bits) : to_bfloat16(value, bits);
            out = bits;
            return fits;
        }
    }
}

[[gnu::cold]] std::string float_range(ParamType type) {
    const char* largest = type == ParamType::float16    ? "65504"
                          : type == ParamType::bfloat16 ? "3.3895e38"
                          : type == ParamType::float32  ? "3.4028e38"
                                                        : "1.7977e308";
    return std::string("a number whose size is at most ") + largest;
}

bool pack_float(const Place& place, PyObject* arg, std::uint64_t& out, bool& ran_python) {
    double value = 0;
    bool too_large = false;
    if (!double_of(arg, value, ran_python, too_large)) {
        if (too_large) return out_of_range(place, float_range(place.param().type), arg);
        if (is_foreign_error()) return false;
        return wrong_type(place, "a number", arg);
    }
    if (!store_float(place.param().type, value, out))
        return out_of_range(place, float_range(place.param().type), arg);
    return true;
}

bool pack_boolean(const Place& place, PyObject* arg, std::uint64_t& out) {
    const int value = boolean_of(arg);
    if (value < 0) return wrong_type(place, "True or False", arg);
    out = static_cast<std::uint64_t>(value);
    return true;
}

// Is the error that PyObject_GetBuffer() set its own? NumPy says ValueError where others say BufferError.
bool buffer_was_refused() {
    return PyErr_ExceptionMatches(PyExc_BufferError) != 0 || PyErr_ExceptionMatches(PyExc_ValueError) != 0;
}

bool pack_bytes(const Place& place, PyObject* arg, std::byte* out, bool& ran_python) {
    const Param& param = place.param();
    const std::string expected =
        "an object with the buffer protocol of " + std::to_string(param.size) + " bytes";
    if (!PyObject_CheckBuffer(arg)) return wrong_type(place, expected, arg);
    ran_python = true;
    Py_buffer view;
    if (PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) != 0) {
        if (!buffer_was_refused() && is_foreign_error()) return false;
        return wrong_type(place, expected + ", contiguous", arg);
    }
    const bool fits = view.len == static_cast<Py_ssize_t>(param.size);
    if (fits) std::memcpy(out, view.buf, param.size);
    const std::string found = std::to_string(view.len);
    PyBuffer_Release(&view);
    if (!fits) {
        set_named_error("InvalidArgument", place.text() + "expected " + expected + ", found " + found +
                                               " bytes (" + type_name(arg) + ")");
        return false;
    }
    return true;
}

[[gnu::cold]] bool bad_pointer(const Place& place, const Session* session, PyObject* arg) {
    if (!is_buffer(arg)) {
        std::string hint = "a Buffer, a contiguous array from pinned_empty of this kernel's client, or None";
        if (PyObject_CheckBuffer(arg)) hint += " (client.array() copies an array to the device)";
        return wrong_type(place, hint, arg);
    }
    const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
    if (buffer->live_session == nullptr) {
        set_named_error("Closed", place.text() + "expected a buffer that lives, found one that was freed");
    } else if (buffer->live_session->closed) {
        set_named_error(
            "Closed", place.text() + "expected a buffer of an open client, found one whose client is closed");
    } else {
        const std::string ours = session == nullptr ? "" : " on " + session->client.daemon().socket;
        set_named_error("InvalidArgument",
                        place.text() + "expected a buffer of this kernel's client (session " +
                            (session == nullptr ? "none" : id_text(session->client.daemon().session)) + ours +
                            "), found a buffer of another client (session " +
                            id_text(buffer->live_session->client.daemon().session) + " on " +
                            buffer->live_session->client.daemon().socket + ")");
    }
    return false;
}

// The address, or false without an error set.
inline bool pointer_of(const Session* session, PyObject* arg, std::uint64_t& out) {
    if (is_buffer(arg)) [[likely]] {
        const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
        out = buffer->address;
        return buffer->live_session == session && session != nullptr;
    }
    out = 0;
    return arg == Py_None;
}

// The address of a contiguous array in pinned memory of this session; false where it is none. Only an error
// that has nothing to do with that is set.
[[gnu::noinline]] bool pinned_pointer(const Session* session, PyObject* arg, std::uint64_t& out,
                                      bool& ran_python) {
    if (session == nullptr || !PyObject_CheckBuffer(arg)) return false;
    ran_python = true;
    Py_buffer view;
    if (PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) != 0) {
        if (buffer_was_refused()) PyErr_Clear();
        return false;
    }
    const auto found =
        session->find_pinned(static_cast<const std::byte*>(view.buf), static_cast<std::size_t>(view.len));
    PyBuffer_Release(&view);
    if (!found || found->offset == found->memory.size()) return false;
    out = found->memory.device_address() + found->offset;
    return true;
}

// Whole words are stored, because whole words are what the ring's copy loads: a word stored in pieces could
// be loaded only after they have left the store buffer, behind the records before.
inline void add_to_word(std::byte* at, std::uint64_t bits) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    word |= bits;
    std::memcpy(at, &word, sizeof(word));
}

void put(std::byte* out, const Param& param, std::uint64_t bits) {
    const std::uint32_t within = param.offset % 8;
    if (within + param.size > 8)  // a declaration that is not naturally aligned
        std::memcpy(out + param.offset, &bits, param.size);
    else
        add_to_word(out + param.offset - within, bits << (8 * within));
}

[[gnu::cold]] bool wrong_count(const Layout& layout, Py_ssize_t count) {
    std::string takes;
    for (const Param& param : layout.params) {
        if (!takes.empty()) takes += ", ";
        takes += param.name.empty() ? type_word(param.type) : param.name + ": " + type_word(param.type);
    }
    const bool fewer = count < static_cast<Py_ssize_t>(layout.params.size());
    std::string text = "kernel '" + layout.kernel + "' takes " + std::to_string(layout.params.size()) +
                       (layout.params.size() == 1 ? " parameter (" : " parameters (") + takes + "), found " +
                       std::to_string(count);
    if (fewer) {
        const Place place{layout, static_cast<std::size_t>(count)};
        text += ": the first missing is parameter " + std::to_string(count);
        if (!place.param().name.empty()) text += " ('" + place.param().name + "')";
    }
    set_named_error("ParamTypeError", text);
    return false;
}

// The bits of an argument that needs no more than a look at it: a live buffer of this session, an int of one
// digit and in range, a float. False: it may be any other, which pack_any() tells.
inline bool usual_bits(ParamType type, const Session* session, PyObject* arg, std::uint64_t& bits) {
    if (type == ParamType::pointer) {
        if (Py_TYPE(arg) != usual_buffer_type) return false;
        const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
        bits = buffer->address;
        return buffer->live_session == session && session != nullptr;
    }
    if (PyLong_CheckExact(arg)) {
        std::int64_t small = 0;
        if (!small_int(arg, small)) return false;
        bits = static_cast<std::uint64_t>(small);
        switch (type) {
            case ParamType::int64:
                return true;
            case ParamType::uint64:
            case ParamType::uint32:
                return small >= 0;  // below 2^30, or 2^60 by CPython's build: see the static_assert
            case ParamType::int32:
                bits = static_cast<std::uint32_t>(small);
                return true;
            default:
                return false;
        }
    }
    if (!PyFloat_CheckExact(arg)) return false;
    const double value = PyFloat_AS_DOUBLE(arg);
    if (type == ParamType::float64) {
        bits = std::bit_cast<std::uint64_t>(value);
        return true;
    }
    const float narrow = static_cast<float>(value);
    bits = std::bit_cast<std::uint32_t>(narrow);
    return type == ParamType::float32 && std::abs(narrow) <= std::numeric_limits<float>::max();
}
static_assert(PyLong_SHIFT <= 30, "an int of one digit fits an int32");

// Any argument, or an error that says what was expected.
[[gnu::noinline]] bool pack_any(const Place& place, const Session* session, PyObject* arg, std::byte* out,
                                bool& ran_python) {
    const Param& param = place.param();
    std::uint64_t bits = 0;
    bool packed = false;
    switch (param.type) {
        case ParamType::pointer:
            packed = pointer_of(session, arg, bits) || pinned_pointer(session, arg, bits, ran_python);
            if (!packed) return PyErr_Occurred() == nullptr && bad_pointer(place, session, arg);
            break;
        case ParamType::boolean:
            packed = pack_boolean(place, arg, bits);
            break;
        case ParamType::int8:
            packed = pack_integer<std::int8_t>(place, arg, bits, ran_python);
            break;
        case ParamType::int16:
            packed = pack_integer<std::int16_t>(place, arg, bits, ran_python);
            break;
        case ParamType::int32:
            packed = pack_integer<std::int32_t>(place, arg, bits, ran_python);
            break;
        case ParamType::int64:
            packed = pack_integer<std::int64_t>(place, arg, bits, ran_python);
            break;
        case ParamType::uint8:
            packed = pack_integer<std::uint8_t>(place, arg, bits, ran_python);
            break;
        case ParamType::uint16:
            packed = pack_integer<std::uint16_t>(place, arg, bits, ran_python);
            break;
        case ParamType::uint32:
            packed = pack_integer<std::uint32_t>(place, arg, bits, ran_python);
            break;
        case ParamType::uint64:
            packed = pack_integer<std::uint64_t>(place, arg, bits, ran_python);
            break;
        case ParamType::float16:
        case ParamType::bfloat16:
        case ParamType::float32:
        case ParamType::float64:
            packed = pack_float(place, arg, bits, ran_python);
            break;
        case ParamType::bytes:
            return pack_bytes(place, arg, out + param.offset, ran_python);
        case ParamType::unknown:
            set_named_error("InvalidArgument", place.text() +
                                                   "the parameter's type is not declared; declare it with "
                                                   "RINGLAUNCH_EXPORT or load(..., signatures=)");
            return false;
    }
    if (packed) put(out, param, bits);
    return packed;
}

}  // namespace

const char* type_word(ParamType type) {
    const auto at = static_cast<std::size_t>(type);
    return at < kTypes.size() ? kTypes[at].name : "unknown";
}

ParamType type_of_word(const std::string& name) {
    for (const TypeWord& word : kTypes)
        if (name == word.name) return word.type;
    return ParamType::unknown;
}

std::uint32_t param_type_bytes(ParamType type) {
    const auto at = static_cast<std::size_t>(type);
    return at < kTypes.size() ? kTypes[at].bytes : 0;
}

std::uint32_t packed_bytes(const std::vector<Param>& params) {
    std::uint32_t bytes = 0;
    for (const Param& param : params) bytes = std::max(bytes, param.offset + param.size);
    return bytes;
}

bool to_float16(double value, std::uint16_t& out) {
    char bytes[2];
    if (PyFloat_Pack2(value, bytes, 1) != 0) {
        PyErr_Clear();
        out = 0;
        return false;
    }
    std::memcpy(&out, bytes, sizeof(out));
    return true;
}

bool to_bfloat16(double value, std::uint16_t& out) {
    // Rounded to odd on the way through float, so that the second rounding cannot go wrong: a value that
    // float cannot hold exactly is cut towards zero and its last bit set.
    float narrow = static_cast<float>(value);
    std::uint32_t bits = std::bit_cast<std::uint32_t>(narrow);
    if (std::isnan(value)) {
        out = static_cast<std::uint16_t>((bits >> 16) | 0x40);
        return true;
    }
    if (static_cast<double>(narrow) != value) {
        if (std::abs(static_cast<double>(narrow)) > std::abs(value)) --bits;
        bits |= 1;
    }
    const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    out = static_cast<std::uint16_t>(rounded >> 16);
    return (out & 0x7fff) != 0x7f80 || std::isinf(value);
}

bool repack_buffers(const Layout& layout, const Session* session, PyObject* const* args, std::byte* out) {
    for (std::size_t i = 0; i < layout.params.size(); ++i) {
        const Param& param = layout.params[i];
        // An array in pinned memory lives as long as the caller holds it, unlike a buffer that was freed.
        if (param.type != ParamType::pointer || !(is_buffer(args[i]) || args[i] == Py_None)) continue;
        std::uint64_t address = 0;
        if (!pointer_of(session, args[i], address)) return bad_pointer(Place{layout, i}, session, args[i]);
        std::memcpy(out + param.offset, &address, sizeof(address));
    }
    return true;
}

Layout::Layout(std::string kernel_name, std::vector<Param> parameters, std::uint32_t packed)
    : kernel(std::move(kernel_name)),
      params(std::move(parameters)),
      bytes(packed),
      padded_bytes(static_cast<std::uint32_t>(padded_param_bytes(packed))) {
    steps.reserve(params.size());
    for (const Param& param : params) {
        const std::uint32_t within = param.offset % 8;
        const bool in_one_word = within + param.size <= 8;
        steps.push_back({in_one_word ? param.type : ParamType::unknown, static_cast<std::uint8_t>(8 * within),
                         static_cast<std::uint16_t>(param.offset / 8)});
    }
}

bool pack(const Layout& layout, const Session* session, PyObject* const* args, Py_ssize_t count,
          std::byte* out, bool& ran_python) {
    const std::size_t expected = layout.params.size();
    if (count != static_cast<Py_ssize_t>(expected)) [[unlikely]]
        return wrong_count(layout, count);
    // Lengths that the compiler knows spare a call: up to 40 bytes of parameters, and up to 72.
    if (constexpr std::size_t kFew = padded_param_bytes(40); layout.padded_bytes <= kFew) [[likely]]
        std::memset(out, 0, kFew);
    else if (constexpr std::size_t kSome = padded_param_bytes(72); layout.padded_bytes <= kSome)
        std::memset(out, 0, kSome);
    else
        std::memset(out, 0, layout.padded_bytes);
    const PackStep* steps = layout.steps.data();
    for (std::size_t i = 0; i < expected; ++i) {
        const PackStep step = steps[i];
        std::uint64_t bits = 0;
        if (usual_bits(step.type, session, args[i], bits)) [[likely]]
            add_to_word(out + 8 * std::size_t{step.word}, bits << step.shift);
        else if (!pack_any(Place{layout, i}, session, args[i], out, ran_python))
            return false;
    }
    return true;
}

}  // namespace ringlaunch::python
