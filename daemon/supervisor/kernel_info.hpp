// Kernels and their parameters between messages and the registry.
#pragma once

#include <vector>

#include "daemon/supervisor/registry.hpp"

namespace ringlaunch::supervisor {

// As an executor says them, of a module that was loaded with this stack.
std::vector<KernelDescription> read_kernels(
    const flatbuffers::Vector<flatbuffers::Offset<schema::KernelInfo>>* kernels, std::uint64_t stack_bytes);
KernelAttributes read_attributes(const schema::KernelAttributes* attributes);  // null: the usual ones
flatbuffers::Offset<schema::KernelAttributes> write_attributes(flatbuffers::FlatBufferBuilder& builder,
                                                               const KernelAttributes& attributes);
// Throws Error{invalid_argument} naming the kernel where a declaration makes no sense.
std::vector<DeclaredSignature> read_signatures(
    const flatbuffers::Vector<flatbuffers::Offset<schema::Signature>>* signatures);

// How much of a kernel an answer carries: names of parameters are left out where it would be too long.
enum class Detail { names, types, none };
flatbuffers::Offset<schema::KernelInfo> write_kernel(flatbuffers::FlatBufferBuilder& builder,
                                                     const KernelDescription& kernel, std::uint64_t id,
                                                     Detail detail);
flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<schema::KernelInfo>>> write_kernels(
    flatbuffers::FlatBufferBuilder& builder, const std::vector<KernelDescription>& kernels,
    const std::vector<std::uint64_t>* ids, Detail detail);
flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<schema::Signature>>> write_signatures(
    flatbuffers::FlatBufferBuilder& builder, const std::vector<DeclaredSignature>& signatures);

}  // namespace ringlaunch::supervisor
