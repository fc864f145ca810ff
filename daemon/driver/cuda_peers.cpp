#include "daemon/driver/cuda_peers.hpp"

#include <string>

namespace ringlaunch::driver {

int CudaPeers::accessor(std::uint64_t address) {
    const auto ordinal = static_cast<int>((address - kCudaRangeBase) / kCudaRangeBytes);
    if (ordinal == ordinal_) return ordinal_;
    std::atomic<CUcontext>& far = far_[static_cast<std::size_t>(ordinal)];
    if (far.load(std::memory_order_relaxed) != nullptr) return ordinal;  // relaxed: written on this thread
    const CudaApi& api = cuda_api();
    CUdevice device = 0;
    const std::string what = "CUDA device " + std::to_string(ordinal);
    check_cuda(api.cuDeviceGet_(&device, ordinal), "cannot open " + what);
    int reached = 0;
    if (direct_)
        check_cuda(api.cuDeviceCanAccessPeer_(&reached, own_, device),
                   "cannot ask whether " + what + " can be reached");
    if (reached != 0) return ordinal_;
    CUcontext context = nullptr;
    check_cuda(api.cuDevicePrimaryCtxRetain_(&context, device), "cannot make a context on " + what);
    // relaxed: the dispatcher hears of memory there later, through a lock.
    far.store(context, std::memory_order_relaxed);
    return ordinal;
}

CudaPeers::~CudaPeers() {
    for (std::size_t i = 0; i < far_.size(); ++i) {
        CUdevice device = 0;
        // relaxed: nobody else is left.
        if (far_[i].load(std::memory_order_relaxed) != nullptr &&
            cuda_api().cuDeviceGet_(&device, static_cast<int>(i)) == CUDA_SUCCESS)
            cuda_api().cuDevicePrimaryCtxRelease_(device);
    }
}

}  // namespace ringlaunch::driver
