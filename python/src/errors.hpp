// One place that turns the library's statuses into Python exceptions; the classes stand in
// ringlaunch/errors.py.
#pragma once

#include <Python.h>

#include <ringlaunch/ringlaunch.hpp>
#include <string>

namespace ringlaunch::python {

// Sets the exception of ringlaunch.errors that belongs to `status`. Always returns null.
PyObject* set_error(Status status, const std::string& text);
// Sets the exception called `name` in ringlaunch.errors. Always returns null.
PyObject* set_named_error(const char* name, const std::string& text);

// A str of text that others wrote: what is not UTF-8 becomes U+FFFD. Null: an exception is set.
PyObject* text_object(const std::string& text);
// "int", "numpy.float32": for messages.
std::string type_name(PyObject* object);
// repr(), cut where it is long; never fails and leaves no error set.
std::string short_repr(PyObject* object);

}  // namespace ringlaunch::python
