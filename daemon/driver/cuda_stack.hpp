// The stack of each thread on a GPU, beyond what a kernel's code says. CUDA has one size for all kernels of a
// context, and room for it for every thread that fits on the device, running or not. It is only ever raised:
// what becomes of a graph whose kernels find less than there was when it was made, CUDA does not say.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/driver/cuda_api.hpp"

namespace ringlaunch::driver {

// Its functions need the device's context, and throw Error where CUDA does not answer.
class CudaStack {
  public:
    // `api` lives longer.
    CudaStack(CUdevice device, std::string device_name, const CudaApi& api);
    // Has each thread so much? Throws Error{out_of_memory} where there is no room for it.
    bool has(std::uint64_t bytes) const;
    // Each thread has so much from now on. Stops the device until what is in flight has completed. Throws
    // Error with what CUDA says, and leaves it as it was.
    void raise(std::uint64_t bytes);

  private:
    std::uint64_t size() const;
    std::string wish(std::uint64_t bytes) const;

    const CudaApi& api_;
    const std::string device_name_;
    std::uint64_t threads_ = 0;  // that fit on the device
};

}  // namespace ringlaunch::driver
