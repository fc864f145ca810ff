// The value of a Python integer that stands in one digit, read in place: most that a launch is given.
#pragma once

#include <Python.h>

#include <cstdint>

namespace ringlaunch::python {

// `object` is an int. False: it has more than one digit.
inline bool small_int(PyObject* object, std::int64_t& out) {
    auto* number = reinterpret_cast<PyLongObject*>(object);
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact(number)) return false;
    out = PyUnstable_Long_CompactValue(number);
#else
    const Py_ssize_t size = Py_SIZE(number);  // the count of digits, with the sign
    if (size < -1 || size > 1) return false;
    out = size * static_cast<std::int64_t>(number->ob_digit[0]);
#endif
    return true;
}

}  // namespace ringlaunch::python
