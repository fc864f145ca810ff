// Launches of Triton kernels in this program: by the calling thread, or in a region.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>
#include <span>

#include "ref.hpp"
#include "triton_bind.hpp"
#include "triton_inline.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_region.hpp"
#include "triton_table.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

// Asks the driver what it calls memory that may be of the host or another device, as Triton asks of all.
// False: some of it no kernel can use.
bool check_addresses(Key& key, bool all) noexcept;

// Where a launch in this program goes. `named`: by the call; null: to the current stream.
bool find_stream(const Variant& variant, PyObject* named, std::uint64_t& out);

// The last step of a launch in this program; the caller keeps the variant. `holds`: what a region holds until
// it is issued.
[[gnu::always_inline]] inline PyObject* issue_here(Variant& variant, const Dim3& blocks,
                                                   const std::byte* params, std::uint64_t context,
                                                   std::uint64_t stream, std::span<PyObject* const> holds) {
    if (in_region()) {
        if (!launch_in_region({*variant.here,
                               variant.takes.kernel,
                               blocks,
                               {params, variant.takes.padded_bytes},
                               context,
                               stream,
                               holds}))
            return nullptr;
    } else if (!issue_region() ||
               !launch_inline(*variant.here, variant.takes.kernel, blocks, params, stream)) {
        return nullptr;
    }
    ++variant.hits;
    return Py_NewRef(variant.compiled.get());
}

// The launch of a variant that was found, in this program. `stream`: null: it is to be asked for. `tritons`:
// null was answered because it is what only Triton's own call does right, in its version.
PyObject* launch_here(Core& core, PyObject* kernel, Entry& entry, const Key& key, const Bound& bound,
                      const std::uint64_t* stream, const Dim3& grid, bool& tritons);

}  // namespace ringlaunch::python::triton
