// Tensor maps without CUDA: what of their arguments cannot be, in words, and what the null driver makes of
// them.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// By CUtensorMapDataType: those of whole bytes.
inline constexpr std::array<std::uint32_t, 13> kTensorElementBytes = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};

// The map that the null driver makes: the arguments, for tests to read. Little-endian, zero where there are
// less than five dimensions.
struct NullTensorMap {
    char magic[8] = {'R', 'L', 'N', 'U', 'L', 'M', 'A', 'P'};
    std::uint64_t address = 0;
    std::uint64_t sides[5] = {};
    std::uint64_t strides[4] = {};
    std::uint16_t box[5] = {};
    std::uint8_t steps[5] = {};
    std::uint8_t rank = 0, element_type = 0, interleave = 0, swizzle = 0, promotion = 0, fill = 0;
    std::uint8_t zero[19] = {};
};
static_assert(sizeof(NullTensorMap) == sizeof(TensorMap));

// Throws Error{invalid_argument} that names what of it the hardware cannot read, by CUDA's documentation of
// cuTensorMapEncodeTiled, or that it does not lie within `bytes` from `address` on. Error{unsupported}: its
// elements are no whole bytes.
void check_tensor(std::uint64_t address, std::uint64_t bytes, const TensorLayout& layout);

// "of float32 at 0x200000000000 with sides (32, 64), strides (128) in bytes, ...": the innermost first.
std::string describe_tensor(std::uint64_t address, const TensorLayout& layout);

// Of a tensor that was checked.
TensorMap null_tensor_map(std::uint64_t address, const TensorLayout& layout);

}  // namespace ringlaunch::driver
