// A launch as the kernel node of a CUDA graph, and what graphs take of the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_kernel.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// Measured on an H200: what an executable graph takes of the device's memory, whatever its length, and each
// node more.
inline constexpr std::uint64_t kOneGraphBytes = 114 << 10;
inline constexpr std::uint64_t kNodeBytes = 2 << 10;

constexpr std::uint64_t graph_bytes(std::size_t nodes) {
    return kOneGraphBytes + nodes * kNodeBytes;
}

inline const CudaKernel& kernel_of(const Launch& launch) {
    return static_cast<const CudaKernel&>(*launch.kernel);
}

// A launch as a node has it; CUDA copies what it points to.
struct NodeParams {
    explicit NodeParams(const Launch& launch)
        : bytes(launch.param_bytes),
          extra{CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(launch.params),
                CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END} {
        params.func = kernel_of(launch).function();
        params.gridDimX = launch.grid.x;
        params.gridDimY = launch.grid.y;
        params.gridDimZ = launch.grid.z;
        params.blockDimX = launch.block.x;
        params.blockDimY = launch.block.y;
        params.blockDimZ = launch.block.z;
        params.sharedMemBytes = launch.shared_bytes;
        params.extra = bytes == 0 ? nullptr : extra;
    }
    NodeParams(const NodeParams&) = delete;
    NodeParams& operator=(const NodeParams&) = delete;

    std::size_t bytes;
    void* extra[5];
    CUDA_KERNEL_NODE_PARAMS params{};
};

}  // namespace ringlaunch::driver
