// How much memory of the first GPU is in use, as nvidia-smi says: all processes together, no context needed.
#pragma once

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace ringlaunch::bench {

// MiB; NaN where nvidia-smi does not say. What CUDA calls device 0 is the first of CUDA_VISIBLE_DEVICES.
inline double gpu_memory_mib() {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    std::string device = visible == nullptr ? "0" : visible;
    device = device.substr(0, device.find(','));
    if (device.find_first_not_of("0123456789abcdefABCDEF-GPU") != std::string::npos) return std::nan("");
    const std::string command =
        "nvidia-smi -i " + device + " --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null";
    std::FILE* said = ::popen(command.c_str(), "r");
    if (said == nullptr) return std::nan("");
    std::array<char, 64> line{};
    const bool read = std::fgets(line.data(), line.size(), said) != nullptr;
    ::pclose(said);
    char* end = nullptr;
    const double mib = std::strtod(line.data(), &end);
    return read && end != line.data() ? mib : std::nan("");
}

}  // namespace ringlaunch::bench
