// A tensor's layout as tests make it: a right one, which a test then changes.
#pragma once

#include <cstdint>

#include "schema/tensor_map.hpp"

namespace ringlaunch::test {

inline constexpr std::uint64_t kTileBytes = 8192;

// 64 x 32 float32, read by 16 x 32.
inline TensorLayout tile() {
    TensorLayout layout;
    layout.element_type = 7;
    layout.rank = 2;
    layout.sides = {32, 64};
    layout.strides = {128};
    layout.box = {32, 16};
    layout.promotion = 2;
    return layout;
}

}  // namespace ringlaunch::test
