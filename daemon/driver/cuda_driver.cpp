#include "daemon/driver/cuda.hpp"

#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "daemon/driver/address_range.hpp"
#include "daemon/driver/chunk_table.hpp"
#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_explicit_graph.hpp"
#include "daemon/driver/cuda_fault_dumps.hpp"
#include "daemon/driver/cuda_module.hpp"
#include "daemon/driver/cuda_peers.hpp"
#include "daemon/driver/cuda_stack.hpp"
#include "daemon/driver/cuda_staging.hpp"
#include "daemon/driver/cuda_stream.hpp"
#include "daemon/driver/cuda_tensor_map.hpp"
#include "daemon/driver/device_memory.hpp"
#include "daemon/driver/image_module.hpp"
#include "daemon/driver/tensor_map.hpp"
#include "schema/error.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

namespace {

// Of staging segments, whichever device reaches them.
constexpr std::uint64_t kStagingBase = 0x300000000000;
constexpr std::uint64_t kStagingBytes = std::uint64_t{1} << 39;

// Of the device's memory, for the launch graphs of all streams.
constexpr std::uint64_t kGraphBytes = 128u << 20;
constexpr std::uint64_t kExplicitGraphBytes = 512u << 20;  // of those that users make

class CudaDriver : public Driver {
  public:
    CudaDriver(int ordinal, FaultPage* fault, const CudaOptions& options);
    ~CudaDriver() override;

    const DeviceInfo& device() const override { return info_; }
    UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes) override;
    void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) override;
    void unmap_chunk(std::uint64_t address, std::uint64_t bytes) override;
    std::unique_ptr<Staging> map_staging(std::uint64_t address, const UniqueFd& segment,
                                         std::uint64_t bytes) override;
    std::unique_ptr<Module> load_module(const std::string& name, const UniqueFd& image, std::uint64_t bytes,
                                        const LoadOptions& options) override;
    bool has_stack(std::uint64_t bytes) override;
    void give_stack(std::uint64_t bytes) override;
    std::unique_ptr<Stream> open_stream(const StreamConfig& config) override;
    TensorMap make_tensor_map(std::uint64_t address, std::uint64_t bytes,
                              const TensorLayout& layout) override;
    std::unique_ptr<Graph> make_graph(std::span<const GraphNode> nodes) override;
    bool changes_stall() const noexcept override { return true; }
    int completion_fd() const override { return completion_fd_.get(); }
    std::optional<std::string> failure() noexcept override;

  private:
    // Both of the executor's threads come here with calls; each needs the context.
    void enter() const {
        check_cuda(enter_context(context_),
                   "cannot enter the context of device " + std::to_string(info_.ordinal));
    }
    int attribute(CUdevice_attribute which) const;
    void map(std::uint64_t address, std::uint64_t bytes, CUmemGenericAllocationHandle handle);
    void open(int ordinal, const CudaOptions& options);
    void reserve(std::uint64_t base);
    void release() noexcept;
    std::string why_no_context(CUresult refused) const;
    void try_staging();

    const CudaApi& api_;
    DeviceInfo info_;
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    CUstream control_ = nullptr;  // zeroing of new memory
    std::optional<RangeTables> ranges_;
    std::optional<CudaStack> stack_;
    std::optional<CudaPeers> peers_;
    std::optional<AddressRange> staging_;
    UniqueFd completion_fd_;
    GraphBudget graphs_{kGraphBytes};
    GraphBudget explicit_graphs_{kExplicitGraphBytes};
    FaultPage* const fault_;
    std::optional<FaultDumps> dumps_;
};

int CudaDriver::attribute(CUdevice_attribute which) const {
    int value = 0;
    check_cuda(api_.cuDeviceGetAttribute_(&value, which, device_),
               "cannot read attribute " + std::to_string(which));
    return value;
}

void CudaDriver::open(int ordinal, const CudaOptions& options) {
    // Functions are loaded when a module is, never in the middle of somebody's launch.
    ::setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    check_cuda(api_.cuInit_(0), "cannot start CUDA", Status::unsupported);
    int count = 0;
    check_cuda(api_.cuDeviceGetCount_(&count), "cannot count the CUDA devices", Status::unsupported);
    if (ordinal < 0 || ordinal >= count)
        throw Error(Status::unsupported, "there is no CUDA device " + std::to_string(ordinal) +
                                             ": this machine shows " + std::to_string(count) +
                                             " of them (numbered from 0; CUDA_VISIBLE_DEVICES counts)");
    check_cuda(api_.cuDeviceGet_(&device_, ordinal), "cannot open CUDA device " + std::to_string(ordinal));
    char name[256] = {};
    check_cuda(api_.cuDeviceGetName_(name, sizeof name, device_), "cannot read the device's name");
    info_.kind = DriverKind::Cuda;
    info_.ordinal = ordinal;
    info_.name = name;
    info_.architecture = "sm_" + std::to_string(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)) +
                         std::to_string(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
    const auto limit = [this](CUdevice_attribute which) {
        return static_cast<std::uint32_t>(attribute(which));
    };
    info_.max_grid = {limit(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X), limit(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y),
                      limit(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)};
    info_.max_block = {limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X), limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y),
                       limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)};
    info_.max_threads_per_block = limit(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (!attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) ||
        !attribute(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED))
        throw Error(Status::unsupported,
                    info_.name +
                        " cannot export memory as file descriptors, which the cuda driver needs "
                        "so that a fault loses nobody's data; serve with --driver host");

    if (const CUresult made = api_.cuDevicePrimaryCtxRetain_(&context_, device_); made != CUDA_SUCCESS)
        check_cuda(made, "cannot make a context on " + info_.name + " (" + why_no_context(made) + ")",
                   Status::unsupported);
    enter();
    stack_.emplace(device_, info_.name, api_);
    try {
        if (!stack_->has(options.stack_bytes)) stack_->raise(options.stack_bytes);
    } catch (const Error& error) {
        throw Error(error.status(), std::string(error.what()) + "; serve with a smaller --stack");
    }
    info_.range_base = kCudaRangeBase + static_cast<std::uint64_t>(ordinal) * kCudaRangeBytes;
    info_.range_bytes = kCudaRangeBytes;
    CUmemAllocationProp kind{};
    kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    kind.location = {CU_MEM_LOCATION_TYPE_DEVICE, {ordinal}};
    kind.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    std::size_t granularity = 0;
    check_cuda(api_.cuMemGetAllocationGranularity_(&granularity, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cannot read the granularity of device memory");
    info_.chunk_bytes = std::max<std::uint64_t>(granularity, 2u << 20);
    peers_.emplace(device_, ordinal, options.direct_peers);
    ranges_.emplace(kCudaRangeBase, kCudaRangeBytes, info_.chunk_bytes, ordinal, kMostCudaDevices,
                    [this](std::uint64_t base) { reserve(base); });
    info_.staging_base = kStagingBase;
    info_.staging_bytes = kStagingBytes;
    staging_.emplace(kStagingBase, kStagingBytes, info_.chunk_bytes, "staging segment");
    int lowest = 0, highest = 0;
    check_cuda(api_.cuCtxGetStreamPriorityRange_(&lowest, &highest),
               "cannot read the range of stream priorities");
    // CUDA's numbers shrink with importance.
    info_.lowest_priority = -lowest;
    info_.highest_priority = -highest;
    check_cuda(api_.cuStreamCreateWithPriority_(&control_, CU_STREAM_NON_BLOCKING, 0),
               "cannot make a CUDA stream");
    completion_fd_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!completion_fd_) throw Error(Status::driver_error, "cannot make the eventfd of completions");
    if (dumps_) dumps_->wake_with(completion_fd_.get());
    try_staging();
}

// What keeps it from having one, and what to do.
std::string CudaDriver::why_no_context(CUresult refused) const {
    int mode = CU_COMPUTEMODE_DEFAULT;
    api_.cuDeviceGetAttribute_(&mode, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, device_);
    if (mode == CU_COMPUTEMODE_PROHIBITED)
        return "its compute mode is Prohibited: nvidia-smi -c DEFAULT changes that";
    if (mode == CU_COMPUTEMODE_EXCLUSIVE_PROCESS && refused != CUDA_ERROR_OUT_OF_MEMORY)
        return "its compute mode is Exclusive_Process and another process has it: end that one, or allow "
               "several with nvidia-smi -c DEFAULT";
    if (refused != CUDA_ERROR_OUT_OF_MEMORY)
        return "nvidia-smi shows what it is busy with, and whether it is well";
    char bus[32] = {};
    if (api_.cuDeviceGetPCIBusId_(bus, sizeof bus, device_) == CUDA_SUCCESS)
        if (const auto memory = device_memory(bus))
            return std::to_string(memory->free_bytes) + " of its " + std::to_string(memory->total_bytes) +
                   " bytes are free, and a context takes some 500 MiB: nvidia-smi shows whose they are";
    std::size_t total = 0;
    api_.cuDeviceTotalMem_(&total, device_);
    return "others use nearly all of its " + std::to_string(total) +
           " bytes, and a context takes some 500 MiB: nvidia-smi shows whose they are";
}

// Whether clients and device will meet in memory: said here rather than at the first client's copy.
void CudaDriver::try_staging() {
    const UniqueFd segment = make_memfd("trial", kPageBytes);
    seal(segment, Sealing::shared, "a trial of staging memory");
    CudaStaging(*staging_, kStagingBase, segment, kPageBytes);
}

void CudaDriver::reserve(std::uint64_t base) {
    CUdeviceptr reserved = 0;
    check_cuda(api_.cuMemAddressReserve_(&reserved, kCudaRangeBytes, 0, base, 0),
               "cannot reserve 1 TiB of addresses at " + hex_address(base));
    if (reserved == base) return;
    api_.cuMemAddressFree_(reserved, kCudaRangeBytes);
    throw Error(Status::unsupported,
                "CUDA reserved " + hex_address(reserved) + " instead of " + hex_address(base) +
                    ": buffers could not keep their addresses across a restart; serve with --driver host");
}

CudaDriver::CudaDriver(int ordinal, FaultPage* fault, const CudaOptions& options)
    : api_(cuda_api()), fault_(fault) {
    try {
        if (options.fault_dumps) dumps_.emplace();
        open(ordinal, options);
    } catch (...) {
        release();
        throw;
    }
}

CudaDriver::~CudaDriver() {
    release();
}

// A lost device refuses all of this; the process ends then, and takes everything with it.
void CudaDriver::release() noexcept {
    if (context_ == nullptr || enter_context(context_) != CUDA_SUCCESS) return;
    if (control_ != nullptr) api_.cuStreamDestroy_(control_);
    if (ranges_)
        for (const auto& [device, table] : ranges_->reserved()) {
            for (const auto& [address, bytes] : table.chunks()) api_.cuMemUnmap_(address, bytes);
            api_.cuMemAddressFree_(ranges_->base(device), kCudaRangeBytes);
        }
    leave_context();
    api_.cuDevicePrimaryCtxRelease_(device_);
}

void CudaDriver::map(std::uint64_t address, std::uint64_t bytes, CUmemGenericAllocationHandle handle) {
    CUmemAccessDesc access{};
    access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {peers_->accessor(address)}};
    check_cuda(api_.cuMemMap_(address, bytes, 0, handle, 0),
               "cannot map " + std::to_string(bytes) + " bytes at " + hex_address(address));
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    const CUresult result = api_.cuMemSetAccess_(address, bytes, &access, 1);
    if (result == CUDA_SUCCESS) {
        ranges_->at(address).add(address, bytes);
        return;
    }
    api_.cuMemUnmap_(address, bytes);
    check_cuda(result, "cannot give the device access to the memory at " + hex_address(address));
}

UniqueFd CudaDriver::make_chunk(std::uint64_t address, std::uint64_t bytes) {
    enter();
    ranges_->at(info_.range_base).check_free(address, bytes);
    CUmemAllocationProp kind{};
    kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    kind.location = {CU_MEM_LOCATION_TYPE_DEVICE, {info_.ordinal}};
    kind.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUmemGenericAllocationHandle handle = 0;
    const CUresult made = api_.cuMemCreate_(&handle, bytes, &kind, 0);
    if (made == CUDA_ERROR_OUT_OF_MEMORY) {
        std::size_t free = 0, total = 0;
        api_.cuMemGetInfo_(&free, &total);
        throw Error(Status::out_of_memory, "cannot allocate " + std::to_string(bytes) + " bytes on " +
                                               info_.name + ": " + std::to_string(free) + " of " +
                                               std::to_string(total) + " bytes are free");
    }
    check_cuda(made, "cannot allocate " + std::to_string(bytes) + " bytes on " + info_.name);
    // The mapping keeps the memory; the handle is only needed until it is exported.
    struct Release {
        const CudaApi& api;
        CUmemGenericAllocationHandle handle;
        ~Release() { api.cuMemRelease_(handle); }
    } release{api_, handle};
    int fd = -1;
    check_cuda(api_.cuMemExportToShareableHandle_(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
               "cannot export device memory");
    UniqueFd exported(fd);
    map(address, bytes, handle);
    CUresult zeroed = api_.cuMemsetD8Async_(address, 0, bytes, control_);
    if (zeroed == CUDA_SUCCESS) zeroed = api_.cuStreamSynchronize_(control_);
    if (zeroed != CUDA_SUCCESS) {
        unmap_chunk(address, bytes);
        check_cuda(zeroed, "cannot zero new device memory at " + hex_address(address));
    }
    return exported;
}

void CudaDriver::map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) {
    enter();
    ranges_->at(address).check_free(address, bytes);
    CUmemGenericAllocationHandle handle = 0;
    check_cuda(api_.cuMemImportFromShareableHandle_(
                   &handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(chunk.get())),
                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
               "cannot import the memory that belongs at " + hex_address(address));
    struct Release {
        const CudaApi& api;
        CUmemGenericAllocationHandle handle;
        ~Release() { api.cuMemRelease_(handle); }
    } release{api_, handle};
    map(address, bytes, handle);
}

void CudaDriver::unmap_chunk(std::uint64_t address, std::uint64_t bytes) {
    enter();
    ChunkTable& chunks = ranges_->at(address);
    chunks.check_mapped(address, bytes);
    check_cuda(api_.cuMemUnmap_(address, bytes), "cannot unmap " + describe_chunk(address, bytes));
    chunks.remove(address);
}

std::unique_ptr<Staging> CudaDriver::map_staging(std::uint64_t address, const UniqueFd& segment,
                                                 std::uint64_t bytes) {
    enter();
    return std::make_unique<CudaStaging>(*staging_, address, segment, bytes);
}

std::unique_ptr<Module> CudaDriver::load_module(const std::string& name, const UniqueFd& image,
                                                std::uint64_t bytes, const LoadOptions& options) {
    enter();
    const Mapping mapping = map_image(name, image, bytes);
    return std::make_unique<CudaModule>(name, std::span<const std::byte>(mapping.data(), bytes), options,
                                        info_);
}

bool CudaDriver::has_stack(std::uint64_t bytes) {
    enter();
    return stack_->has(bytes);
}

void CudaDriver::give_stack(std::uint64_t bytes) {
    enter();
    stack_->raise(bytes);
}

std::unique_ptr<Stream> CudaDriver::open_stream(const StreamConfig& config) {
    enter();
    return std::make_unique<CudaStream>(config, context_, *peers_, completion_fd_.get(), graphs_,
                                        dumps_ ? &dumps_->journals() : nullptr);
}

TensorMap CudaDriver::make_tensor_map(std::uint64_t address, std::uint64_t bytes,
                                      const TensorLayout& layout) {
    enter();
    check_tensor(address, bytes, layout);
    TensorMap map;
    check_cuda(encode_tensor_map(address, layout, true, map),
               "cannot make a tensor map " + describe_tensor(address, layout), Status::invalid_argument);
    return map;
}

std::unique_ptr<Graph> CudaDriver::make_graph(std::span<const GraphNode> nodes) {
    enter();
    return std::make_unique<CudaGraph>(nodes, context_, *peers_, explicit_graphs_);
}

std::optional<std::string> CudaDriver::failure() noexcept {
    try {
        enter();
        // A lost device answers every call with what it died of.
        const CUresult result = api_.cuStreamQuery_(control_);
        const bool well = result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY;
        if (well && !(dumps_ && dumps_->whole())) return std::nullopt;
        const std::string lost = well ? "CUDA does not report it so far" : cuda_error_text(result);
        return dumps_ ? dumps_->accuse(lost, fault_) : lost;
    } catch (const std::exception& error) {
        return error.what();
    }
}

}  // namespace

// By itself the device says of a fault no more than that there was one: failure() reports it, and only a dump
// accuses anybody on the fault page.
std::unique_ptr<Driver> make_cuda_driver(int device, FaultPage* fault, const CudaOptions& options) {
    return std::make_unique<CudaDriver>(device, fault, options);
}

}  // namespace ringlaunch::driver
