// Plain CUDA, the peer of the benchmarks on a GPU: the driver API opened at run time, and what one process
// needs to launch: a context, the benchmarks' kernels, a stream.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ringlaunch::bench {

#define RINGLAUNCH_PEER_FUNCTIONS(X)  \
    X(cuInit)                         \
    X(cuGetErrorName)                 \
    X(cuDeviceGet)                    \
    X(cuDeviceGetCount)               \
    X(cuDeviceGetAttribute)           \
    X(cuDeviceGetName)                \
    X(cuDriverGetVersion)             \
    X(cuDevicePrimaryCtxRetain)       \
    X(cuDevicePrimaryCtxRelease)      \
    X(cuCtxSetCurrent)                \
    X(cuModuleLoad)                   \
    X(cuModuleGetFunction)            \
    X(cuStreamCreate)                 \
    X(cuStreamDestroy)                \
    X(cuStreamSynchronize)            \
    X(cuLaunchKernel)                 \
    X(cuGraphCreate)                  \
    X(cuGraphDestroy)                 \
    X(cuGraphAddKernelNode)           \
    X(cuGraphInstantiate)             \
    X(cuGraphExecDestroy)             \
    X(cuGraphExecKernelNodeSetParams) \
    X(cuGraphLaunch)                  \
    X(cuMemAlloc)                     \
    X(cuMemFree)                      \
    X(cuMemsetD8)                     \
    X(cuMemHostAlloc)                 \
    X(cuMemFreeHost)                  \
    X(cuMemHostGetDevicePointer)      \
    X(cuMemcpyHtoD)                   \
    X(cuMemcpyDtoH)                   \
    X(cuMemcpyHtoDAsync)              \
    X(cuMemcpyDtoHAsync)              \
    X(cuMemcpyPeerAsync)              \
    X(cuCtxEnablePeerAccess)

struct PeerApi {
#define RINGLAUNCH_PEER_MEMBER(name) decltype(&::name) name##_ = nullptr;
    RINGLAUNCH_PEER_FUNCTIONS(RINGLAUNCH_PEER_MEMBER)
#undef RINGLAUNCH_PEER_MEMBER
};

// Throws std::runtime_error that says what is missing.
const PeerApi& peer_api();
// "": a GPU is here. Else why CUDA finds none.
std::string why_no_gpu();
// "NVIDIA H200, driver 580.159.04, CUDA 13.0"
std::string gpu_and_driver();
// Throws std::runtime_error{"doing: what CUDA says"} unless it is CUDA_SUCCESS.
void check_peer(CUresult result, const char* doing);

// The first device's primary context, current for the thread that made this, with a stream of its own.
class PlainCuda {
  public:
    PlainCuda();
    ~PlainCuda();
    PlainCuda(const PlainCuda&) = delete;
    PlainCuda& operator=(const PlainCuda&) = delete;

    CUfunction kernel(const char* name) const;
    CUstream stream() const { return stream_; }
    void synchronize() const {
        check_peer(peer_api().cuStreamSynchronize_(stream_), "waiting for the stream");
    }
    void launch(CUfunction kernel, unsigned blocks, unsigned threads, void** params) const {
        launch(kernel, blocks, threads, params, stream_);
    }
    void launch(CUfunction kernel, unsigned blocks, unsigned threads, void** params, CUstream stream) const {
        check_peer(
            peer_api().cuLaunchKernel_(kernel, blocks, 1, 1, threads, 1, 1, 0, stream, params, nullptr),
            "launching");
    }
    // It lives as long as the context.
    CUstream another_stream() const;
    // For another thread that launches: the context becomes its own, too.
    void enter() const { check_peer(peer_api().cuCtxSetCurrent_(context_), "entering the context"); }

  private:
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    CUmodule module_ = nullptr;
    CUstream stream_ = nullptr;
};

// An executable graph of kernels, one behind the other.
class PeerGraph {
  public:
    explicit PeerGraph(const std::vector<CUDA_KERNEL_NODE_PARAMS>& kernels);
    ~PeerGraph();
    PeerGraph(const PeerGraph&) = delete;
    PeerGraph& operator=(const PeerGraph&) = delete;

    std::size_t size() const { return nodes_.size(); }
    void update(std::size_t node, const CUDA_KERNEL_NODE_PARAMS& kernel) {
        check_peer(peer_api().cuGraphExecKernelNodeSetParams_(executable_, nodes_[node], &kernel),
                   "updating a graph");
    }
    void launch(CUstream stream) const {
        check_peer(peer_api().cuGraphLaunch_(executable_, stream), "launching a graph");
    }

  private:
    CUgraph graph_ = nullptr;
    CUgraphExec executable_ = nullptr;
    std::vector<CUgraphNode> nodes_;
};

// One block of `threads` of a kernel, for a graph.
inline CUDA_KERNEL_NODE_PARAMS peer_node(CUfunction kernel, unsigned threads, void** params) {
    CUDA_KERNEL_NODE_PARAMS node{};
    node.func = kernel;
    node.gridDimX = node.gridDimY = node.gridDimZ = 1;
    node.blockDimX = threads;
    node.blockDimY = node.blockDimZ = 1;
    node.kernelParams = params;
    return node;
}

// Memory of the device, zeroed.
class PeerMemory {
  public:
    explicit PeerMemory(std::size_t bytes);
    ~PeerMemory() { peer_api().cuMemFree_(address_); }
    PeerMemory(const PeerMemory&) = delete;
    PeerMemory& operator=(const PeerMemory&) = delete;
    CUdeviceptr address() const { return address_; }

  private:
    CUdeviceptr address_ = 0;
};

// Page-locked memory of the host, mapped into the device's addresses.
class PeerHostMemory {
  public:
    explicit PeerHostMemory(std::size_t bytes);
    ~PeerHostMemory() { peer_api().cuMemFreeHost_(data_); }
    PeerHostMemory(const PeerHostMemory&) = delete;
    PeerHostMemory& operator=(const PeerHostMemory&) = delete;
    void* data() const { return data_; }
    CUdeviceptr address() const;

  private:
    void* data_ = nullptr;
};

}  // namespace ringlaunch::bench
