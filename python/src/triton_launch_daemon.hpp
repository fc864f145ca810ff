// Launches of Triton kernels into a stream's ring.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

#include "client/src/stream_state.hpp"
#include "handles.hpp"
#include "pack.hpp"
#include "ref.hpp"
#include "triton_bind.hpp"
#include "triton_descriptor.hpp"
#include "triton_grid.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_pack.hpp"
#include "triton_table.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

// The error about a buffer of another client among the arguments. Always returns null.
PyObject* foreign_buffer(PyObject* kernel, const Key& key);

// False: it is no stream of `session`, and a Python error is set.
bool check_stream(const std::string& kernel, PyObject* stream, const Session* session);

// All that the client keeps, of a call that was found. False: some have to be asked for.
inline bool put_kept_maps(Entry& entry, const Variant& variant, const Key& key, std::byte* params) {
    for (std::size_t i = 0; i < entry.maps.size(); ++i)
        if (!entry.maps[i].put_kept(variant.session->maps, key, i, params)) return false;
    return true;
}

// Where nothing stands in its way.
[[gnu::always_inline]] inline bool enqueue_there(const Variant& variant, detail::StreamState& stream,
                                                 const Dim3& grid, const std::byte* params) noexcept {
    return detail::try_enqueue_launch<true>(stream, *variant.state, {grid.x * variant.ctas, grid.y, grid.z},
                                            variant.block, variant.shared_bytes,
                                            {params, variant.state->param_bytes});
}

// The launch of a variant that was found, but for the usual case. The buffers' lives are checked again after
// each wait, with the whole key.
PyObject* launch_carefully(Core& core, PyObject* kernel, PyObject* variant_object, Packing packing,
                           std::vector<TensorMaps> maps, const Key& as_found, Bound& bound,
                           PyObject* const* keywords, PyObject* names, PyObject* stream, Dim3 grid,
                           std::uint64_t hash);

// The launch of a variant that was found, into the daemon.
[[gnu::always_inline]] inline PyObject* launch_there(Core& core, PyObject* kernel, Entry& entry,
                                                     const Key& key, Bound& bound, PyObject* const* keywords,
                                                     PyObject* names, const Dim3& grid) {
    Variant& variant = variant_of(entry.variant.get());
    PyObject* stream = bound.stream;
    if (stream == nullptr) {
        stream = variant.stream.get();
    } else if (!is_stream(stream) || as_stream(stream)->session != variant.session) [[unlikely]] {
        check_stream(variant.takes.kernel, stream, variant.session.get());
        return nullptr;
    }
    const StreamObject* to = as_stream(stream);
    if (!is_empty(grid) && variant.scratch_bytes == 0 && !to->busy && to->state != nullptr &&
        has_clusters(variant, grid)) [[likely]] {
        alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
        if (const Op* unfit = pack(variant.takes, entry.packing, key.leaves(), params); unfit != nullptr)
            [[unlikely]] {
            refuse_unfit(variant.takes, *unfit, key.leaves());
            return nullptr;
        }
        if (put_kept_maps(entry, variant, key, params) && enqueue_there(variant, *to->state, grid, params))
            [[likely]] {
            ++variant.hits;
            return Py_NewRef(variant.compiled.get());
        }
    }
    Ref kept = Ref::borrowed(kernel);
    Ref kept_stream = Ref::borrowed(stream);
    return launch_carefully(core, kernel, entry.variant.get(), entry.packing, entry.maps, key, bound,
                            keywords, names, stream, grid, entry.hash);
}

// _launch(variant, grid, stream or None, args): one launch with these Python objects, one a parameter that is
// given; for a tensor's map what read_maps() takes.
PyObject* kernel_launch(PyObject* self, PyObject* args);

}  // namespace ringlaunch::python::triton
