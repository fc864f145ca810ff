#include "bench/cuda_peer.hpp"

#include <dlfcn.h>

#include <cctype>
#include <fstream>
#include <stdexcept>

#include "bench/daemon.hpp"

namespace ringlaunch::bench {

namespace {

PeerApi load() {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
        throw std::runtime_error(std::string("libcuda.so.1, which comes with NVIDIA's driver: ") +
                                 ::dlerror());
    PeerApi api;
    // Two steps, so that cuda.h's macros name the versioned symbol.
#define RINGLAUNCH_PEER_SYMBOL(name) #name
#define RINGLAUNCH_PEER_LOAD(name)                                                                         \
    api.name##_ = reinterpret_cast<decltype(api.name##_)>(::dlsym(library, RINGLAUNCH_PEER_SYMBOL(name))); \
    if (api.name##_ == nullptr)                                                                            \
        throw std::runtime_error("libcuda.so.1 is too old: it lacks " RINGLAUNCH_PEER_SYMBOL(name));
    RINGLAUNCH_PEER_FUNCTIONS(RINGLAUNCH_PEER_LOAD)
#undef RINGLAUNCH_PEER_LOAD
#undef RINGLAUNCH_PEER_SYMBOL
    return api;
}

}  // namespace

const PeerApi& peer_api() {
    static const PeerApi api = load();
    return api;
}

void check_peer(CUresult result, const char* doing) {
    if (result == CUDA_SUCCESS) return;
    const char* name = nullptr;
    peer_api().cuGetErrorName_(result, &name);
    throw std::runtime_error(std::string(doing) + ": " +
                             (name != nullptr ? name : "CUDA error " + std::to_string(result)));
}

std::string why_no_gpu() {
    try {
        int count = 0;
        check_peer(peer_api().cuInit_(0), "starting CUDA");
        check_peer(peer_api().cuDeviceGetCount_(&count), "counting the devices");
        return count > 0 ? "" : "CUDA shows no device";
    } catch (const std::exception& error) {
        return error.what();
    }
}

std::string gpu_and_driver() {
    char name[100] = "";
    int cuda = 0;
    CUdevice device = 0;
    check_peer(peer_api().cuDeviceGet_(&device, 0), "opening the device");
    check_peer(peer_api().cuDeviceGetName_(name, sizeof name, device), "asking for the device's name");
    check_peer(peer_api().cuDriverGetVersion_(&cuda), "asking for the driver's version");
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue ..."; the open one has "for x86_64".
    std::ifstream file("/proc/driver/nvidia/version");
    std::string driver;
    for (std::string word; driver.empty() && file >> word;)
        if (std::isdigit(static_cast<unsigned char>(word[0])) && word.find('.') != std::string::npos)
            driver = word;
    return std::string(name) + ", driver " + (driver.empty() ? "unknown" : driver) + ", CUDA " +
           std::to_string(cuda / 1000) + "." + std::to_string(cuda % 1000 / 10);
}

PlainCuda::PlainCuda() {
    const PeerApi& api = peer_api();
    check_peer(api.cuInit_(0), "starting CUDA");
    check_peer(api.cuDeviceGet_(&device_, 0), "opening the device");
    int major = 0, minor = 0;
    check_peer(api.cuDeviceGetAttribute_(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device_),
               "asking for the architecture");
    check_peer(api.cuDeviceGetAttribute_(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device_),
               "asking for the architecture");
    const std::string image = kernel_image("sm_" + std::to_string(major) + std::to_string(minor));
    check_peer(api.cuDevicePrimaryCtxRetain_(&context_, device_), "making a context");
    check_peer(api.cuCtxSetCurrent_(context_), "entering the context");
    check_peer(api.cuModuleLoad_(&module_, image.c_str()), "loading the kernels");
    check_peer(api.cuStreamCreate_(&stream_, CU_STREAM_NON_BLOCKING), "making a stream");
}

PlainCuda::~PlainCuda() {
    if (stream_ != nullptr) peer_api().cuStreamDestroy_(stream_);
    if (context_ != nullptr) peer_api().cuDevicePrimaryCtxRelease_(device_);
}

CUfunction PlainCuda::kernel(const char* name) const {
    CUfunction found = nullptr;
    check_peer(peer_api().cuModuleGetFunction_(&found, module_, name), "looking for a kernel");
    return found;
}

CUstream PlainCuda::another_stream() const {
    CUstream stream = nullptr;
    check_peer(peer_api().cuStreamCreate_(&stream, CU_STREAM_NON_BLOCKING), "making a stream");
    return stream;
}

PeerGraph::PeerGraph(const std::vector<CUDA_KERNEL_NODE_PARAMS>& kernels) {
    check_peer(peer_api().cuGraphCreate_(&graph_, 0), "making a graph");
    for (const CUDA_KERNEL_NODE_PARAMS& kernel : kernels) {
        CUgraphNode node = nullptr;
        check_peer(peer_api().cuGraphAddKernelNode_(&node, graph_, nodes_.empty() ? nullptr : &nodes_.back(),
                                                    nodes_.empty() ? 0 : 1, &kernel),
                   "adding to a graph");
        nodes_.push_back(node);
    }
    check_peer(peer_api().cuGraphInstantiate_(&executable_, graph_, 0), "instantiating a graph");
}

PeerGraph::~PeerGraph() {
    if (executable_ != nullptr) peer_api().cuGraphExecDestroy_(executable_);
    if (graph_ != nullptr) peer_api().cuGraphDestroy_(graph_);
}

PeerMemory::PeerMemory(std::size_t bytes) {
    check_peer(peer_api().cuMemAlloc_(&address_, bytes), "allocating device memory");
    check_peer(peer_api().cuMemsetD8_(address_, 0, bytes), "clearing device memory");
    check_peer(peer_api().cuStreamSynchronize_(nullptr), "clearing device memory");
}

PeerHostMemory::PeerHostMemory(std::size_t bytes) {
    check_peer(peer_api().cuMemHostAlloc_(&data_, bytes, CU_MEMHOSTALLOC_DEVICEMAP),
               "allocating page-locked memory");
}

CUdeviceptr PeerHostMemory::address() const {
    CUdeviceptr found = 0;
    check_peer(peer_api().cuMemHostGetDevicePointer_(&found, data_, 0), "finding a device address");
    return found;
}

}  // namespace ringlaunch::bench
