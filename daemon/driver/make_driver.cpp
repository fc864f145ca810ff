// Which driver stands behind a DriverKind.
#include <string>

#include "daemon/driver/cuda.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/host.hpp"
#include "daemon/driver/memory.hpp"
#include "daemon/driver/null.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

std::unique_ptr<Driver> make_driver(DriverKind kind, int device, FaultPage* fault, const CudaOptions& options,
                                    const std::string& note) {
    if (kind != DriverKind::Cuda && (device < 0 || device >= kHostDevices))
        throw Error(Status::unsupported, std::string("the ") + schema::EnumNameDriverKind(kind) +
                                             " driver has devices 0 to " + std::to_string(kHostDevices - 1) +
                                             ", not " + std::to_string(device));
    switch (kind) {
        case DriverKind::Null:
            return make_null_driver(device);
        case DriverKind::Host:
            return make_host_driver(device, fault, note);
        case DriverKind::Cuda:
            return make_cuda_driver(device, fault, options);
    }
    throw Error(Status::unsupported, "there is no driver of kind " + std::to_string(static_cast<int>(kind)));
}

}  // namespace ringlaunch::driver
