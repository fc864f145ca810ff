#include "daemon/driver/device_memory.hpp"

#include <dlfcn.h>

namespace ringlaunch::driver {

std::optional<DeviceMemory> device_memory(const std::string& pci_bus_id) {
    // Declared by hand: nvml.h is not everywhere where cuda.h is.
    struct Memory {
        unsigned long long total, free, used;
    };
    void* const library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return std::nullopt;
    const auto init = reinterpret_cast<int (*)()>(::dlsym(library, "nvmlInit_v2"));
    const auto find =
        reinterpret_cast<int (*)(const char*, void**)>(::dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
    const auto ask = reinterpret_cast<int (*)(void*, Memory*)>(::dlsym(library, "nvmlDeviceGetMemoryInfo"));
    void* device = nullptr;
    Memory memory{};
    if (init == nullptr || find == nullptr || ask == nullptr || init() != 0 ||
        find(pci_bus_id.c_str(), &device) != 0 || ask(device, &memory) != 0)
        return std::nullopt;
    return DeviceMemory{memory.free, memory.total};
}

}  // namespace ringlaunch::driver
