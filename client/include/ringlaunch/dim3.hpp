// The size of a grid in blocks, or of a block in threads.
#pragma once

#include <cstdint>

namespace ringlaunch {

struct Dim3 {
    std::uint32_t x = 1, y = 1, z = 1;
};

}  // namespace ringlaunch
