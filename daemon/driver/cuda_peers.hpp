// Where the devices' ranges stand, and which other devices' memory this one cannot reach by itself: copies
// from and to that go through the host, for which this process needs a context on that device too.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "daemon/driver/cuda_api.hpp"

namespace ringlaunch::driver {

// A reservation of a whole TiB is honoured at this address also in a process where torch has its context: the
// same pointers everywhere.
inline constexpr std::uint64_t kCudaRangeBase = 0x200000000000;
inline constexpr std::uint64_t kCudaRangeBytes = std::uint64_t{1} << 40;
inline constexpr int kMostCudaDevices = 64;

class CudaPeers {
  public:
    // `direct` false: takes no device for one that can be reached, for tests.
    CudaPeers(CUdevice own, int ordinal, bool direct) : own_(own), ordinal_(ordinal), direct_(direct) {}
    ~CudaPeers();
    CudaPeers(const CudaPeers&) = delete;
    CudaPeers& operator=(const CudaPeers&) = delete;

    // Control thread, before memory at `address` is mapped: the device that gets access to it, which is this
    // one, or its own where this one cannot reach it.
    int accessor(std::uint64_t address);
    // Dispatch thread: the context that a copy from or to `address` names; null: this device reaches it.
    CUcontext far(std::uint64_t address) const noexcept {
        const std::uint64_t device = (address - kCudaRangeBase) / kCudaRangeBytes;
        // relaxed: set before the dispatcher hears of any memory there.
        return device < far_.size() ? far_[device].load(std::memory_order_relaxed) : nullptr;
    }

  private:
    CUdevice own_;
    int ordinal_;
    bool direct_;
    std::array<std::atomic<CUcontext>, kMostCudaDevices> far_{};
};

}  // namespace ringlaunch::driver
