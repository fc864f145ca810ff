// Scratch memory that a kernel asks for.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>

#include "ref.hpp"
#include "triton_kernel.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

// More than there is, where the number is beyond 64 bits.
std::uint64_t scratch_needed(const Variant& variant, const Dim3& grid) noexcept;

// At least `bytes` of scratch memory in this stream. Null: a Python error is set. May run Python code. Held
// until the launch is enqueued: another thread's may need more, and then this goes behind what is enqueued.
Ref find_scratch(Core& core, PyObject* kernel, PyObject* variant_object, PyObject* stream,
                 std::uint64_t bytes);

void put_scratch(const Variant& variant, const Ref& scratch, std::byte* params);

// Scratch memory of one launch in this program, as Triton has it allocated: what `address` is of.
Ref allocate_here(const Core& core, PyObject* kernel, PyObject* variant, std::uint64_t stream,
                  std::uint64_t bytes, std::uint64_t& address);

}  // namespace ringlaunch::python::triton
