// The cuda driver: one GPU through libcuda, its memory exported so that it outlives this process.
#pragma once

#include <memory>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// Throws Error{unsupported} that says what is missing.
std::unique_ptr<Driver> make_cuda_driver(int device);

}  // namespace ringlaunch::driver
