// The host driver: kernels compiled for the CPU (schema/kernel.h), one worker thread a stream.
#pragma once

#include <memory>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// One in a process at a time: it takes the signals that a kernel's fault raises.
std::unique_ptr<Driver> make_host_driver(int device, FaultPage* fault);

}  // namespace ringlaunch::driver
