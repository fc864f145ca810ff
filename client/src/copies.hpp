// Copies between host memory and device memory, cut into pieces that travel through a stream's staging
// memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/src/stream_state.hpp"

namespace ringlaunch::detail {

// Returns once `from` was read; the copies may still be on their way.
[[nodiscard]] Status copy_in(StreamState& stream, std::uint64_t device, const std::byte* from,
                             std::size_t bytes) noexcept;
// Returns once `to` is filled.
[[nodiscard]] Status copy_out(StreamState& stream, std::byte* to, std::uint64_t device,
                              std::size_t bytes) noexcept;

}  // namespace ringlaunch::detail
