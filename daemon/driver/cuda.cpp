#include "daemon/driver/cuda.hpp"

#include "schema/error.hpp"

namespace ringlaunch::driver {

std::unique_ptr<Driver> make_cuda_driver(int device, FaultPage*) {
    throw Error(Status::unsupported,
                "cannot open CUDA device " + std::to_string(device) +
                    ": this build has no CUDA driver yet; start the daemon with '--driver host' "
                    "(kernels on the CPU) or '--driver null' (kernels are not run)");
}

}  // namespace ringlaunch::driver
