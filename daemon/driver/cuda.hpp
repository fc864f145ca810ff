// The CUDA driver: launches on an NVIDIA GPU through libcuda.
#pragma once

#include <memory>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

std::unique_ptr<Driver> make_cuda_driver(int device, FaultPage* fault, const CudaOptions& options = {});

}  // namespace ringlaunch::driver
