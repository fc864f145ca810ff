// When the calls of a kernel are tried as repeats of one before (triton_repeat.hpp).
#pragma once

#include <Python.h>

#include <vector>

#include "triton_bind.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_mode.hpp"
#include "triton_repeat.hpp"
#include "triton_table.hpp"

namespace ringlaunch::python::triton {

// What a call gives for each parameter, and for options. False: nothing, or it names a stream.
bool list_given(const Core& core, const Bound& bound, PyObject* const* args, Py_ssize_t count,
                std::vector<Repeat::Given>& params, std::vector<Repeat::Given>& options);

// From now on calls are tried as repeats of this one, which has found `core.last`.
void try_repeats(Core& core, Entry& entry, const Key& key, const Bound& bound, Mode mode,
                 PyObject* const* args, Py_ssize_t count, PyObject* names);

// A call that was tried was another.
void was_no_repeat(Core& core) noexcept;

}  // namespace ringlaunch::python::triton
