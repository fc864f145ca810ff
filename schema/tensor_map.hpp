// How the hardware reads a tensor by boxes of it (TMA), and the form in which a kernel is told.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ringlaunch {

// What cuTensorMapEncodeTiled takes, with CUDA's numbers for what is no size. The innermost dimension is the
// first; `strides` are in bytes and begin with that of the second.
struct TensorLayout {
    static constexpr std::size_t kMaxRank = 5;

    std::uint32_t element_type = 0;  // CUtensorMapDataType, 0 to 12: elements of whole bytes
    std::uint32_t rank = 0;          // the first so many of these mean something
    std::array<std::uint64_t, kMaxRank> sides{}, strides{};
    std::array<std::uint32_t, kMaxRank> box{}, steps{1, 1, 1, 1, 1};
    std::uint32_t interleave = 0;  // CUtensorMapInterleave
    std::uint32_t swizzle = 0;     // CUtensorMapSwizzle
    std::uint32_t promotion = 0;   // CUtensorMapL2promotion
    std::uint32_t fill = 0;        // CUtensorMapFloatOOBfill
};

// A CUtensorMap: a kernel's parameter by value, aligned to 64 bytes.
using TensorMap = std::array<std::byte, 128>;

}  // namespace ringlaunch
