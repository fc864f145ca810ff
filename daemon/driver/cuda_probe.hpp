// What this machine has of CUDA, asked in a child process that may hang or die: the supervisor itself never
// opens a device. Needs no CUDA at build time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace ringlaunch::driver {

struct CudaDeviceFound {
    std::string name;
    std::string architecture;  // "sm_90"
    std::uint64_t memory_bytes = 0;
    std::string refusal;  // why the cuda driver cannot use it; empty: it can, or was not asked
};

struct CudaProbe {
    // The first thing that is missing: what was tried, what was found. Empty: usable.
    std::string missing;
    // What to do about it.
    std::string advice;
    bool library_loaded = false;
    int driver_version = 0;  // 13000: CUDA 13.0 is the newest that the driver runs
    std::vector<CudaDeviceFound> devices;
    bool usable() const { return missing.empty() && !devices.empty(); }
};

enum class ProbeDepth {
    list,  // which devices there are
    open,  // and whether each can be used: opens the driver on it, which takes some 0.3 s, and tries memory
};
// Forks, so call it while the process has one thread. A child that takes longer is killed.
CudaProbe probe_cuda(std::chrono::milliseconds timeout, ProbeDepth depth);

// "13.0" of CUDA's 13000.
std::string cuda_version_text(int version);

// A file below /dev that the driver needs, and whether this user may use it.
struct DeviceNode {
    std::string path;
    bool exists = false;
    bool usable = false;
};
// nvidiactl, nvidia-uvm and every nvidia<N>.
std::vector<DeviceNode> cuda_device_nodes();

}  // namespace ringlaunch::driver
