// TritonVariant: a Triton kernel compiled for arguments of one kind, loaded for a client or in this program.
#pragma once

#include <Python.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ringlaunch/ringlaunch.hpp>
#include <vector>

#include "client/src/stream_state.hpp"
#include "handles.hpp"
#include "inline_kernel.hpp"
#include "ref.hpp"
#include "triton_grid.hpp"
#include "triton_maps.hpp"
#include "triton_pack.hpp"

namespace ringlaunch::python::triton {

// Scratch memory of the kernel's own in a stream. Launches of one stream run one after the other, so they
// share it.
struct Scratch {
    Ref stream;
    Ref buffer;
};

struct Variant {
    Ref kernel;    // _core.Kernel; none in this program
    Ref stream;    // the client's default stream
    Ref compiled;  // what a call answers: Triton's CompiledKernel
    std::shared_ptr<Session> session;
    const detail::KernelState* state = nullptr;
    Takes takes;
    std::size_t given = 0;  // of its parameters, by a call; the rest is scratch memory
    Dim3 block;
    std::uint32_t shared_bytes = 0;
    std::uint32_t ctas = 1;           // blocks of a cluster, by which a grid is multiplied
    std::uint64_t scratch_bytes = 0;  // of a block of the grid
    std::uint32_t scratch_param = 0;
    std::vector<Scratch> scratch;
    std::uint64_t hits = 0;
    std::vector<TensorMapKind> maps;     // of its parameters that are tensors' maps, in order
    std::unique_ptr<InlineKernel> here;  // launched in this program; its graphs go before what they name

    bool closed() const noexcept { return session != nullptr && session->closed; }
    // Whose calls it takes, as the key has it.
    const Session* owner() const noexcept {
        return here != nullptr ? std::bit_cast<const Session*>(here->context()) : session.get();
    }
};

struct VariantObject {
    PyObject_HEAD Variant* variant;
};

inline Variant& variant_of(PyObject* object) {
    return *reinterpret_cast<VariantObject*>(object)->variant;
}

extern PyTypeObject* variant_type;
extern PyType_Spec variant_spec;
// False: a Python error is set.
bool is_variant(PyObject* object);

inline bool has_clusters(const Variant& variant, const Dim3& grid) noexcept {
    return std::uint64_t{grid.x} * variant.ctas <= kMaxGridX;
}

// The grid with the blocks of its clusters. False: a Python error is set.
bool with_clusters(const Variant& variant, Dim3& grid);

// triton_inline_variant(compiled, function, ((name, type), ...), threads, shared, ctas, cooperative,
// programmatic, scratch_bytes[, maps]): a TritonVariant that is launched in this program, in the current
// context. None: the function takes something else than these and two scratch pointers. `maps`: for each
// parameter of type "tensormap", as read_kinds() takes it.
PyObject* make_inline_variant(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
