// The globals that a kernel's code has read: Triton refuses a call once the value of one is another.
#pragma once

#include <Python.h>

#include <vector>

#include "ref.hpp"

namespace ringlaunch::python::triton {

struct Captured {
    Ref name, globals, value;
    Ref seen;   // the last object found equal to it, if that cannot change
    Ref holds;  // or a tl.constexpr, with what it held, if that cannot change
};

// What a tl.constexpr holds; none, and no error, where it has nothing. Runs no code but that of plain
// attributes.
Ref held_value(PyObject* object);

// Are they as they were when they were compared last? Runs no code but that of plain attributes.
inline bool captured_as_seen(const std::vector<Captured>& captured) {
    for (const Captured& each : captured) {
        if (!each.seen || PyDict_GetItemWithError(each.globals.get(), each.name.get()) != each.seen.get())
            return false;
        if (each.holds && held_value(each.seen.get()).get() != each.holds.get()) return false;
    }
    return true;
}

// 1: as they were; 0: one is another; -1: a Python error is set.
int compare_captured(std::vector<Captured>& captured);

}  // namespace ringlaunch::python::triton
