// One place that turns the library's statuses into Python exceptions; the classes stand in
// ringlaunch/errors.py.
#include "errors.hpp"

#include "ref.hpp"

namespace ringlaunch::python {

namespace {

// What stands for an object that has no repr(): an integer with more digits than Python writes has none.
std::string without_repr(PyObject* object) {
    if (!PyLong_Check(object)) return "an object without a repr";
    const Ref bits(PyObject_CallMethod(reinterpret_cast<PyObject*>(&PyLong_Type), "bit_length", "O", object));
    return "an integer of " + std::to_string(bits ? PyLong_AsSize_t(bits.get()) : 0) + " bits";
}

// Calls ringlaunch.errors.<function>(*args), which returns the exception to raise. Steals `args`.
PyObject* raise_from(const char* function, PyObject* args) {
    PyObject* module = args == nullptr ? nullptr : PyImport_ImportModule("ringlaunch.errors");
    PyObject* make = module == nullptr ? nullptr : PyObject_GetAttrString(module, function);
    PyObject* exception = make == nullptr ? nullptr : PyObject_CallObject(make, args);
    if (exception != nullptr) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception)), exception);
    Py_XDECREF(exception);
    Py_XDECREF(make);
    Py_XDECREF(module);
    Py_XDECREF(args);
    return nullptr;
}

}  // namespace

PyObject* text_object(const std::string& text) {
    return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
}

PyObject* set_error(Status status, const std::string& text) {
    PyObject* name = text_object(std::string(status_name(status)));
    PyObject* message = text_object(text.empty() ? std::string(status_text(status)) : text);
    if (name == nullptr || message == nullptr) {
        Py_XDECREF(name);
        Py_XDECREF(message);
        return nullptr;
    }
    return raise_from("_from_status", Py_BuildValue("(INN)", static_cast<unsigned>(status), name, message));
}

PyObject* set_named_error(const char* name, const std::string& text) {
    PyObject* message = text_object(text);
    if (message == nullptr) return nullptr;
    return raise_from("_named", Py_BuildValue("(sN)", name, message));
}

std::string type_name(PyObject* object) {
    std::string name = Py_TYPE(object)->tp_name;  // with the module, for types that are not of Python code
    return name;
}

std::string short_repr(PyObject* object) {
    PyObject* repr = PyObject_Repr(object);
    Py_ssize_t length = 0;
    const char* text = repr == nullptr ? nullptr : PyUnicode_AsUTF8AndSize(repr, &length);
    PyErr_Clear();
    std::string out =
        text == nullptr ? without_repr(object) : std::string(text, static_cast<std::size_t>(length));
    Py_XDECREF(repr);
    PyErr_Clear();
    for (char& c : out)
        if (c == '\n') c = ' ';
    constexpr std::size_t kLongest = 60;
    if (out.size() > kLongest) {
        std::size_t cut = kLongest - 3;
        while (cut > 0 && (static_cast<unsigned char>(out[cut]) & 0xc0) == 0x80)
            --cut;  // not inside a character
        out.resize(cut);
        out += "...";
    }
    return out;
}

}  // namespace ringlaunch::python
