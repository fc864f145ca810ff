// The null driver: validates, orders and retires everything at once, and runs no kernel. Copies and fills are
// real.
#pragma once

#include <memory>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

std::unique_ptr<Driver> make_null_driver(int device);

}  // namespace ringlaunch::driver
