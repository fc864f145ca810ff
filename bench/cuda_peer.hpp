// Plain CUDA, the peer of the benchmarks on a GPU: the driver API opened at run time, and what one process
// needs to launch: a context, the benchmarks' kernels, a stream.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

namespace ringlaunch::bench {

#define RINGLAUNCH_PEER_FUNCTIONS(X) \
    X(cuInit)                        \
    X(cuGetErrorName)                \
    X(cuDeviceGet)                   \
    X(cuDeviceGetCount)              \
    X(cuDeviceGetAttribute)          \
    X(cuDevicePrimaryCtxRetain)      \
    X(cuDevicePrimaryCtxRelease)     \
    X(cuCtxSetCurrent)               \
    X(cuModuleLoad)                  \
    X(cuModuleGetFunction)           \
    X(cuStreamCreate)                \
    X(cuStreamDestroy)               \
    X(cuStreamSynchronize)           \
    X(cuLaunchKernel)                \
    X(cuMemAlloc)                    \
    X(cuMemFree)                     \
    X(cuMemsetD8)                    \
    X(cuMemHostAlloc)                \
    X(cuMemFreeHost)                 \
    X(cuMemHostGetDevicePointer)     \
    X(cuMemcpyHtoD)                  \
    X(cuMemcpyDtoH)                  \
    X(cuMemcpyHtoDAsync)             \
    X(cuMemcpyDtoHAsync)             \
    X(cuMemcpyPeerAsync)             \
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
    void launch(CUfunction kernel, unsigned threads, void** params) const {
        check_peer(peer_api().cuLaunchKernel_(kernel, 1, 1, 1, threads, 1, 1, 0, stream_, params, nullptr),
                   "launching");
    }

  private:
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    CUmodule module_ = nullptr;
    CUstream stream_ = nullptr;
};

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
