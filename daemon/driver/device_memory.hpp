// How much memory an NVIDIA GPU has left, asked without a context on it: where none can be made for lack of
// memory, CUDA does not say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ringlaunch::driver {

struct DeviceMemory {
    std::uint64_t free_bytes = 0, total_bytes = 0;
};

// Through NVIDIA's management library (NVML), which comes with the driver. `pci_bus_id`: as
// cuDeviceGetPCIBusId() writes it. Nothing where the library is not there or does not know.
std::optional<DeviceMemory> device_memory(const std::string& pci_bus_id);

}  // namespace ringlaunch::driver
