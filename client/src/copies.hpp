// Copies between host memory and device memory: from and to staging memory as they are, else cut into pieces
// that travel through the stream's own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/src/stream_state.hpp"

namespace ringlaunch::detail {

// One record, between the device and `offset` of a staging segment. Waits only while the ring is full.
[[nodiscard]] Status copy_staged(StreamState& stream, schema::RecordKind kind, std::uint64_t device,
                                 std::uint64_t staging, std::size_t offset, std::size_t bytes) noexcept;
// Returns once `from` was read; the copies may still be on their way.
[[nodiscard]] Status copy_in(StreamState& stream, std::uint64_t device, const std::byte* from,
                             std::size_t bytes) noexcept;
// Returns once `to` is filled.
[[nodiscard]] Status copy_out(StreamState& stream, std::byte* to, std::uint64_t device,
                              std::size_t bytes) noexcept;

}  // namespace ringlaunch::detail
