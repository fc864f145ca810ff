#include "torch_tensor.hpp"

#include <dlfcn.h>

#include <cstring>
#include <string>
#include <utility>

namespace ringlaunch::python::triton {

TorchFunctions torch_functions;

namespace {

// Names of torch's dtypes, and numbers of _buffer.py for them.
constexpr std::pair<const char*, std::uint8_t> kElements[] = {{"bool", 1},
                                                              {"int8", 2},
                                                              {"int16", 3},
                                                              {"int32", 4},
                                                              {"int64", 5},
                                                              {"uint8", 6},
                                                              {"uint16", 7},
                                                              {"uint32", 8},
                                                              {"uint64", 9},
                                                              {"float16", 10},
                                                              {"float32", 11},
                                                              {"float64", 12},
                                                              {"bfloat16", 13},
                                                              {"float8_e4m3fn", 14},
                                                              {"float8_e5m2", 15},
                                                              {"float8_e4m3fnuz", 16},
                                                              {"float8_e5m2fnuz", 17}};

template <class Function>
bool look_up(void* library, const std::string& name, Function*& out) {
    out = reinterpret_cast<Function*>(::dlsym(library, name.c_str()));
    return out != nullptr;
}

// Of the torch that this program has loaded.
bool load_functions() {
    void* const library = ::dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return false;
    TorchFunctions found;
    std::int32_t (*number)() = nullptr;
    if (!look_up(library, "aoti_torch_get_data_ptr", found.data) ||
        !look_up(library, "aoti_torch_get_dtype", found.dtype) ||
        !look_up(library, "aoti_torch_get_device_type", found.device_type) ||
        !look_up(library, "aoti_torch_get_device_index", found.device_index) ||
        !look_up(library, "aoti_torch_device_type_cuda", number))
        return false;
    found.cuda = number();
    for (const auto& [name, element] : kElements)
        if (look_up(library, std::string("aoti_torch_dtype_") + name, number))
            if (const auto dtype = static_cast<std::uint32_t>(number()); dtype < found.elements.size())
                found.elements[dtype] = element;
    torch_functions = found;
    return true;
}

}  // namespace

bool has_torch_tensor(PyObject* object, PyObject* cdata) {
    static bool loaded = false;
    if (cdata == nullptr || !Py_IS_TYPE(cdata, &PyGetSetDescr_Type)) return false;
    if (!loaded && !(loaded = load_functions())) return false;
    const PyGetSetDef* getset = reinterpret_cast<PyGetSetDescrObject*>(cdata)->d_getset;
    PyObject* number = getset->get(object, getset->closure);
    void* const held = number != nullptr && PyLong_Check(number) ? PyLong_AsVoidPtr(number) : nullptr;
    Py_XDECREF(number);
    PyErr_Clear();
    void* found = nullptr;
    if (static_cast<std::size_t>(Py_TYPE(object)->tp_basicsize) < sizeof(PyObject) + sizeof found)
        return false;
    std::memcpy(&found, object + 1, sizeof found);
    return held != nullptr && found == held;
}

}  // namespace ringlaunch::python::triton
