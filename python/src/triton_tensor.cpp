// Device memory that is not ringlaunch's, as an argument of a Triton kernel.
#include "triton_tensor.hpp"

#include <array>
#include <cstddef>

#include "handles.hpp"
#include "ref.hpp"
#include "triton_descriptor.hpp"

namespace ringlaunch::python::triton {

// As far as they are needed here; github.com/dmlc/dlpack, include/dlpack/dlpack.h, version 1.3.
struct DlTensor {
    void* data;
    std::int32_t device_type, device;
    std::int32_t dimensions;
    std::uint8_t code, bits;
    std::uint16_t lanes;
    std::int64_t *shape, *strides;
    std::uint64_t byte_offset;
};

struct ExchangeApi {
    std::uint32_t major, minor;
    const ExchangeApi* previous;
    void* allocate;
    void* managed_from_object;
    void* managed_to_object;
    int (*borrow)(void* object, DlTensor* out);  // null: the library has none
    void* current_stream;
};

TensorType usual_tensor, other_tensor;

namespace {

constexpr std::size_t kTypes = 16;
constexpr int kMaxDepth = 8;  // tuples within tuples
constexpr int kDeviceCuda = 2;
constexpr std::uint32_t kMajor = 1;

std::array<TensorType, kTypes> types;
std::size_t next_type = 0;
const TensorType no_type;

// The numbers of element types, by what objects call them.
struct Numbers {
    PyObject* known = nullptr;  // a dict
    PyObject* ask = nullptr;    // ask(name) -> int
};
Numbers by_dtype, by_typestr;

// Numbers of _buffer.py for DLPack's codes: int, uint, float, bfloat, bool, and float8's.
std::uint8_t element_of(std::uint8_t code, std::uint8_t bits) noexcept {
    const auto by_size = [&](std::uint8_t first) -> std::uint8_t {
        switch (bits) {
            case 8:
                return first;
            case 16:
                return static_cast<std::uint8_t>(first + 1);
            case 32:
                return static_cast<std::uint8_t>(first + 2);
            case 64:
                return static_cast<std::uint8_t>(first + 3);
            default:
                return 0;
        }
    };
    switch (code) {
        case 0:
            return by_size(2);
        case 1:
            return by_size(6);
        case 2:
            return bits == 8 ? 0 : by_size(9);
        case 4:
            return bits == 16 ? 13 : 0;
        case 6:
            return bits == 8 ? 1 : 0;
        case 10:
            return bits == 8 ? 14 : 0;  // e4m3fn
        case 11:
            return bits == 8 ? 16 : 0;  // e4m3fnuz
        case 12:
            return bits == 8 ? 15 : 0;  // e5m2
        case 13:
            return bits == 8 ? 17 : 0;  // e5m2fnuz
        default:
            return 0;
    }
}

// A name in a type and those that it derives from, as it stands there: borrowed. Null, and no error, where it
// is not. Gives the type a version.
PyObject* in_type(PyTypeObject* type, const char* name) {
    const Ref text(PyUnicode_InternFromString(name));
    PyObject* found = text ? _PyType_Lookup(type, text.get()) : nullptr;
    PyErr_Clear();
    return found;
}

// The type among those it derives from that has the name itself.
PyTypeObject* owner_of(PyTypeObject* type, const char* name) {
    PyObject* mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro != nullptr && i < PyTuple_GET_SIZE(mro); ++i) {
        PyObject* each = PyTuple_GET_ITEM(mro, i);
        const Ref dict(PyObject_GetAttrString(each, "__dict__"));
        const Ref text(PyUnicode_FromString(name));
        const int has = dict && text ? PySequence_Contains(dict.get(), text.get()) : -1;
        PyErr_Clear();
        if (has > 0) return reinterpret_cast<PyTypeObject*>(each);
    }
    return nullptr;
}

constexpr const char* kApiNames[] = {"__dlpack_c_exchange_api__", "__c_dlpack_exchange_api__"};

// A capsule, or, from older libraries, its address as an integer. The version that is known, if there is one.
const ExchangeApi* api_of(PyObject* attribute) {
    const void* found = nullptr;
    if (PyCapsule_IsValid(attribute, "dlpack_exchange_api"))
        found = PyCapsule_GetPointer(attribute, "dlpack_exchange_api");
    else if (PyLong_Check(attribute))
        found = PyLong_AsVoidPtr(attribute);
    PyErr_Clear();
    const auto* api = static_cast<const ExchangeApi*>(found);
    while (api != nullptr && api->major != kMajor) api = api->previous;
    return api != nullptr && api->borrow != nullptr ? api : nullptr;
}

// Does the type answer as the one that has the C functions does? A type of its own may have another idea of
// its address, and Triton asks the object.
bool answers_as(PyTypeObject* type, PyTypeObject* owner) {
    if (type->tp_getattro != owner->tp_getattro) return false;
    PyObject* address = in_type(owner, "data_ptr");
    if (address != nullptr && !Py_IS_TYPE(address, &PyMethodDescr_Type)) return false;  // Python code
    for (const char* name : {"data_ptr", "dtype", "__torch_dispatch__"})
        if (in_type(type, name) != in_type(owner, name)) return false;
    // torch's Parameter has one that does nothing, which is no Python code.
    PyObject* here = in_type(type, "__torch_function__");
    return here == in_type(owner, "__torch_function__") || (here != nullptr && PyCFunction_Check(here));
}

// A dtype of the library that the type is of: torch has integers of 1 to 7 bits, which are to DLPack as those
// of 8.
PyObject* dtype_of_library(PyTypeObject* owner, const char* name) {
    Ref module_name(PyObject_GetAttrString(reinterpret_cast<PyObject*>(owner), "__module__"));
    Ref module(module_name ? PyImport_GetModule(module_name.get()) : nullptr);
    Ref dtype(module ? PyObject_GetAttrString(module.get(), name) : nullptr);
    PyErr_Clear();
    return dtype.release();
}

// Of what stands in a type: an attribute that runs no Python code.
bool is_of_c(PyObject* found) noexcept {
    return found != nullptr &&
           (Py_IS_TYPE(found, &PyGetSetDescr_Type) || Py_IS_TYPE(found, &PyMemberDescr_Type));
}

bool is_of_cupy(PyTypeObject* type) {
    const Ref module(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__module__"));
    PyErr_Clear();
    return module && PyUnicode_Check(module.get()) &&
           PyUnicode_CompareWithASCIIString(module.get(), "cupy") == 0 &&
           in_type(type, "__cuda_array_interface__") != nullptr && is_of_c(in_type(type, "data")) &&
           is_of_c(in_type(type, "dtype"));
}

// Of a type that the exchange API reads; `owner`: the one that has it. What the two say of the object
// decides.
bool is_of_torch(PyObject* object, const TensorType& type, PyTypeObject* owner) {
    PyObject* cdata = in_type(owner, "_cdata");
    if (in_type(type.type, "_cdata") != cdata || !has_torch_tensor(object, cdata)) return false;
    TensorView one, other;
    return !read_by_api(object, type, one) || (read_torch(object, other) && one.address == other.address &&
                                               one.element == other.element && one.device == other.device);
}

TensorType look_at(PyObject* object) {
    PyTypeObject* const type = Py_TYPE(object);
    TensorType made;
    made.type = type;
    made.reading = Reading::none;
    const bool has_address = in_type(type, "data_ptr") != nullptr;
    for (const char* name : kApiNames) {
        PyObject* attribute = in_type(type, name);
        const ExchangeApi* api = attribute != nullptr ? api_of(attribute) : nullptr;
        PyTypeObject* owner = api != nullptr ? owner_of(type, name) : nullptr;
        if (owner == nullptr || !answers_as(type, owner)) continue;
        made.reading = Reading::exchange;
        made.api = api;
        if (has_address) {
            made.signed_8 = dtype_of_library(owner, "int8");
            made.unsigned_8 = dtype_of_library(owner, "uint8");
            PyObject* dtype = in_type(owner, "dtype");
            if (dtype != nullptr && Py_IS_TYPE(dtype, &PyGetSetDescr_Type))
                made.dtype = reinterpret_cast<PyGetSetDescrObject*>(dtype)->d_getset;
            if (made.signed_8 == nullptr || made.unsigned_8 == nullptr || made.dtype == nullptr)
                made.reading = Reading::method;
        }
        made.of_torch = made.reading == Reading::exchange && is_of_torch(object, made, owner);
        break;
    }
    if (made.reading == Reading::none) {
        if (has_address)
            made.reading = Reading::method;
        else if (is_of_cupy(type))
            made.reading = Reading::attributes;
        else if (in_type(type, "__cuda_array_interface__") != nullptr)
            made.reading = Reading::interface;
    }
    made.version = type->tp_version_tag;  // 0: there are no more, and it is looked at each time
    return made;
}

bool is_dtype(PyObject* object, const TensorType& type, PyObject* dtype) noexcept {
    const Ref found(type.dtype->get(object, type.dtype->closure));
    if (!found) PyErr_Clear();
    return found.get() == dtype;
}

// False: a Python error is set.
bool number_element(const Numbers& numbers, PyObject* name, std::uint8_t& out) {
    Ref number = Ref::borrowed(PyDict_GetItemWithError(numbers.known, name));
    if (!number) {
        if (PyErr_Occurred() != nullptr) return false;  // it cannot be hashed
        number = Ref(PyObject_CallOneArg(numbers.ask, name));
        if (!number || PyDict_SetItem(numbers.known, name, number.get()) != 0) return false;
    }
    out = static_cast<std::uint8_t>(PyLong_AsLong(number.get()));
    return PyErr_Occurred() == nullptr;
}

// An address of 64 bits. False: a Python error may be set.
bool read_address(PyObject* number, std::uint64_t& out) {
    if (!PyLong_CheckExact(number)) return false;
    out = PyLong_AsUnsignedLongLong(number);
    return out != ~std::uint64_t{0} || PyErr_Occurred() == nullptr;
}

bool ask_method(PyObject* object, TensorView& out) {
    Ref dtype(PyObject_GetAttrString(object, "dtype"));
    if (!dtype || !number_element(by_dtype, dtype.get(), out.element)) return false;
    Ref address(PyObject_CallMethod(object, "data_ptr", nullptr));
    return address && read_address(address.get(), out.address);
}

bool ask_interface(PyObject* object, TensorView& out) {
    Ref interface(PyObject_GetAttrString(object, "__cuda_array_interface__"));
    if (!interface || !PyDict_Check(interface.get())) return false;
    // Kept: the dict may be shared, and what follows may run Python code.
    const Ref type = Ref::borrowed(PyDict_GetItemString(interface.get(), "typestr"));
    const Ref data = Ref::borrowed(PyDict_GetItemString(interface.get(), "data"));
    if (!type || !data || !PyTuple_Check(data.get()) || PyTuple_GET_SIZE(data.get()) < 1) return false;
    const Ref address(PyNumber_Index(PyTuple_GET_ITEM(data.get(), 0)));
    return address && number_element(by_typestr, type.get(), out.element) &&
           read_address(address.get(), out.address);
}

}  // namespace

const TensorType& tensor_type(PyTypeObject* type) noexcept {
    for (const TensorType& each : types)
        if (each.is_of(type)) return each;
    return no_type;
}

bool read_by_api(PyObject* object, const TensorType& type, TensorView& out) noexcept {
    DlTensor tensor;
    if (type.api->borrow(object, &tensor) != 0) [[unlikely]] {
        PyErr_Clear();
        return false;
    }
    if (tensor.lanes != 1) [[unlikely]]
        return false;
    out.element = element_of(tensor.code, tensor.bits);
    if (out.element == 0) [[unlikely]]
        return false;
    if (tensor.bits == 8 && tensor.code <= 1 && type.signed_8 != nullptr &&
        !is_dtype(object, type, tensor.code == 0 ? type.signed_8 : type.unsigned_8)) [[unlikely]]
        return false;
    out.address = reinterpret_cast<std::uint64_t>(tensor.data) + tensor.byte_offset;
    out.device = tensor.device_type == kDeviceCuda ? tensor.device : TensorView::kUnknown;
    return true;
}

bool read_attributes(PyObject* object, TensorView& out) noexcept {
    static PyObject* const names[] = {PyUnicode_InternFromString("data"), PyUnicode_InternFromString("ptr"),
                                      PyUnicode_InternFromString("dtype")};
    const Ref dtype(PyObject_GetAttr(object, names[2]));
    PyObject* number =
        dtype && by_dtype.known != nullptr ? PyDict_GetItemWithError(by_dtype.known, dtype.get()) : nullptr;
    const Ref data(number == nullptr ? nullptr : PyObject_GetAttr(object, names[0]));
    const Ref pointer(data && is_of_c(_PyType_Lookup(Py_TYPE(data.get()), names[1]))
                          ? PyObject_GetAttr(data.get(), names[1])
                          : nullptr);
    if (pointer && read_address(pointer.get(), out.address)) {
        out.element = static_cast<std::uint8_t>(PyLong_AsLong(number));
        return true;
    }
    PyErr_Clear();
    return false;
}

bool Asked::ask(PyObject* const* objects, std::size_t count, int depth) {
    for (std::size_t i = 0; i < count; ++i) {
        PyObject* object = objects[i];
        if (PyTuple_Check(object)) {
            if (depth == kMaxDepth) continue;
            if (!ask(&PyTuple_GET_ITEM(object, 0), static_cast<std::size_t>(PyTuple_GET_SIZE(object)),
                     depth + 1))
                return false;
        } else if (is_descriptor(object)) {
            if (const DescriptorParts parts(object); parts.rank() != 0 && !ask_one(parts.base()))
                return false;
        } else if (!ask_one(object)) {
            return false;
        }
    }
    return true;
}

bool Asked::ask_one(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    if (type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type || object == Py_None ||
        is_buffer(object))
        return true;
    Reading reading = tensor_type(type).reading;
    if (reading == Reading::unknown) {
        TensorType made = look_at(object);
        reading = made.reading;
        TensorType& place = types[next_type++ % kTypes];
        Ref old_signed(place.signed_8), old_unsigned(place.unsigned_8);
        place = made;
        if (reading == Reading::exchange) {
            (usual_tensor.type == nullptr || usual_tensor.type == type ? usual_tensor : other_tensor) = made;
            Py_XINCREF(made.signed_8);  // for good
            Py_XINCREF(made.unsigned_8);
        }
    }
    if (by_dtype.known == nullptr || reading == Reading::exchange || reading == Reading::none) return true;
    TensorView view;
    if (reading == Reading::attributes) {  // of which it is only asked what its elements are
        const Ref dtype(PyObject_GetAttrString(object, "dtype"));
        if (dtype && number_element(by_dtype, dtype.get(), view.element)) return true;
    } else if (reading == Reading::method ? ask_method(object, view) : ask_interface(object, view)) {
        found_.push_back({object, view});
        return true;
    }
    // An interrupt; or it calls kernels that ask it in turn, and whoever asked once more would do so at each
    // level.
    if (PyErr_Occurred() != nullptr &&
        (PyErr_ExceptionMatches(PyExc_Exception) == 0 || PyErr_ExceptionMatches(PyExc_RecursionError) != 0))
        return false;
    PyErr_Clear();
    return true;
}

PyObject* set_tensors(PyObject*, PyObject* args) {
    PyObject *of_dtype = nullptr, *of_typestr = nullptr;
    if (!PyArg_ParseTuple(args, "OO", &of_dtype, &of_typestr)) return nullptr;
    for (Numbers* numbers : {&by_dtype, &by_typestr}) {
        if (numbers->known == nullptr) numbers->known = PyDict_New();
        if (numbers->known == nullptr) return nullptr;
        PyDict_Clear(numbers->known);
        Py_XSETREF(numbers->ask, Py_NewRef(numbers == &by_dtype ? of_dtype : of_typestr));
    }
    Py_RETURN_NONE;
}

}  // namespace ringlaunch::python::triton
