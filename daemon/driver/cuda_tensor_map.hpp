// A tensor's map as CUDA makes it: by the daemon for its clients, and by inline launches for themselves.
#pragma once

#include <cstdint>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// `mend_small`: a mistake of drivers up to 13.1 in maps of small tensors is mended, as NVIDIA's own libraries
// do.
CUresult encode_tensor_map(std::uint64_t address, const TensorLayout& layout, bool mend_small,
                           TensorMap& out) noexcept;

}  // namespace ringlaunch::driver
