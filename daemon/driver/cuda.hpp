// The CUDA driver: launches on an NVIDIA GPU through libcuda.
#pragma once

#include <memory>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// `direct_peers` false: copies from and to other devices go through the host, as they do between devices that
// cannot reach each other.
std::unique_ptr<Driver> make_cuda_driver(int device, FaultPage* fault, bool fault_dumps = false,
                                         bool direct_peers = true);

}  // namespace ringlaunch::driver
