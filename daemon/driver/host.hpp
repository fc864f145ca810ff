// The host driver: kernels compiled for the CPU (schema/kernel.h), one worker thread a stream.
#pragma once

#include <memory>
#include <string>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// One in a process at a time: it takes the signals that a kernel's fault raises. `note`: as for
// make_driver().
std::unique_ptr<Driver> make_host_driver(int device, FaultPage* fault, const std::string& note);

}  // namespace ringlaunch::driver
