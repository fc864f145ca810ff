// The grids of calls, as they are given.
#pragma once

#include <Python.h>

#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>
#include <string>

namespace ringlaunch::python::triton {

inline constexpr std::uint32_t kMaxGridX = 0x7fffffff;

// Small integers, none negative, in a plain tuple: what needs no Python code to be read.
bool read_plain_grid(PyObject* key, Dim3& out);

// Any sequence, as Triton takes it: what stands behind the third is not looked at. False: a Python error is
// set. May run Python code.
bool read_grid(const std::string& kernel, PyObject* object, Dim3& out);

// Of no blocks: nothing is launched, and what is wrong with the arguments is said all the same.
inline bool is_empty(const Dim3& grid) noexcept {
    return grid.x == 0 || grid.y == 0 || grid.z == 0;
}

// As Triton's launcher counts blocks, so that later calls do what the first one did.
inline bool has_blocks(const Dim3& grid) noexcept {
    return static_cast<std::int32_t>(grid.x * grid.y * grid.z) > 0;
}

}  // namespace ringlaunch::python::triton
