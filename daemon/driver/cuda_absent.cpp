// Stands in for the cuda driver in a build without cuda.h.
#include "daemon/driver/cuda.hpp"

#include "schema/error.hpp"

namespace ringlaunch::driver {

std::unique_ptr<Driver> make_cuda_driver(int device, FaultPage*, const CudaOptions&) {
    throw Error(Status::unsupported,
                "cannot open CUDA device " + std::to_string(device) +
                    ": this daemon was built without cuda.h, so it has no CUDA driver; build it where the "
                    "CUDA toolkit is, or start the daemon with '--driver host' "
                    "(kernels on the CPU) or '--driver null' (kernels are not run)");
}

}  // namespace ringlaunch::driver
