#include "daemon/driver/cuda_stream.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/driver/cuda_explicit_graph.hpp"
#include "daemon/driver/cuda_node.hpp"
#include "daemon/driver/cuda_staging.hpp"
#include "schema/pages.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::uint64_t kAbandonNs = 1'000'000'000;

}  // namespace

RegisteredMemory::RegisteredMemory(void* address, std::size_t bytes, const std::string& what)
    : address_(address) {
    const CudaApi& api = cuda_api();
    check_cuda(
        api.cuMemHostRegister_(address, bytes, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE),
        "cannot register " + std::to_string(bytes) + " bytes of " + what + " with CUDA");
    const CUresult mapped = api.cuMemHostGetDevicePointer_(&device_, address, 0);
    if (mapped != CUDA_SUCCESS) {
        api.cuMemHostUnregister_(address);
        address_ = nullptr;
        check_cuda(mapped, "cannot find the device address of " + what);
    }
}

RegisteredMemory::~RegisteredMemory() {
    // A lost device refuses this too; the process is about to end then.
    if (address_ != nullptr) cuda_api().cuMemHostUnregister_(address_);
}

RegisteredMemory::RegisteredMemory(RegisteredMemory&& other) noexcept
    : address_(std::exchange(other.address_, nullptr)), device_(other.device_) {}

RegisteredMemory& RegisteredMemory::operator=(RegisteredMemory&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(device_, other.device_);
    return *this;
}

void CudaStream::Unmap::operator()(std::byte* page) const {
    ::munmap(page, kPageBytes);
}

std::byte* CudaStream::map_page() {
    void* const page =
        ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        throw std::system_error(errno, std::generic_category(),
                                "cannot map a page for a stream's completions");
    return static_cast<std::byte*>(page);
}

CudaStream::CudaStream(const StreamConfig& config, CUcontext context, const CudaPeers& peers,
                       int completion_fd, GraphBudget& budget, LaunchJournals* journals)
    : api_(cuda_api()),
      context_(context),
      peers_(peers),
      id_(config.id),
      own_page_(journals == nullptr ? nullptr : map_page()),
      completed_(config.completed),
      done_(own_page_ ? new (own_page_.get()) SharedU64(config.position) : completed_),
      issued_(config.position),
      completion_fd_(completion_fd),
      journal_(journals == nullptr ? LaunchJournals::Open()
                                   : journals->open(config.id, config.max_in_flight, *done_, *completed_)) {
    // The status page begins on a page boundary and `completed` stands in its first page.
    const auto word = reinterpret_cast<std::uintptr_t>(done_);
    const std::uintptr_t page = word & ~std::uintptr_t{kPageBytes - 1};
    page_ = RegisteredMemory(reinterpret_cast<void*>(page), kPageBytes,
                             "the status page of stream " + std::to_string(id_));
    completed_on_device_ = page_.device_address() + (word - page);
    // CUDA's numbers shrink with importance.
    check_cuda(api_.cuStreamCreateWithPriority_(&stream_, CU_STREAM_NON_BLOCKING, -config.priority),
               "cannot make a CUDA stream");
    const CUresult made = api_.cuEventCreate_(&tail_, CU_EVENT_DISABLE_TIMING);
    if (made != CUDA_SUCCESS) {
        api_.cuStreamDestroy_(stream_);
        check_cuda(made, "cannot make a CUDA event");
    }
    if (config.coalesce) graphs_.emplace(CudaGraphs(stream_, done_), budget);
    // sync: COMPLETED (pairs with clients that wait): nothing of this stream has been issued yet.
    completed_->store(config.position, std::memory_order_release);
}

CudaStream::~CudaStream() {
    // The last completion write must have landed before its page is unregistered. What does not end keeps
    // page and stream until the process ends: the GPU may still write there.
    if (!drain(kAbandonNs)) {
        new RegisteredMemory(std::move(page_));
        own_page_.release();
        if (journal_ != nullptr) journal_.get_deleter().of->leave(std::move(journal_));
        return;
    }
    graphs_.reset();
    api_.cuEventDestroy_(tail_);
    api_.cuStreamDestroy_(stream_);
}

// Opening another would register the same page again, and unregistering it waits for the whole device.
bool CudaStream::begin_at(std::uint64_t position) noexcept {
    issued_ = position;
    done_->store(position, std::memory_order_relaxed);  // relaxed: nothing of it is on the device
    // sync: COMPLETED (pairs with clients that wait): nothing of this stream has been issued yet.
    completed_->store(position, std::memory_order_release);
    return true;
}

bool CudaStream::drain(std::uint64_t timeout_ns) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return true;
    const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(timeout_ns);
    for (;;) {
        const CUresult result = query();
        publish();
        // A lost device runs nothing any more.
        if (result != CUDA_ERROR_NOT_READY) return true;
        if (std::chrono::steady_clock::now() >= end) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

Status CudaStream::answer(CUresult result) noexcept {
    if (result == CUDA_SUCCESS) [[likely]]
        return Status::ok;
    const char* name = nullptr;
    const char* text = nullptr;
    if (api_.cuGetErrorName_(result, &name) != CUDA_SUCCESS) name = "an unknown CUDA error";
    if (api_.cuGetErrorString_(result, &text) != CUDA_SUCCESS) text = "no text";
    std::snprintf(why_, sizeof why_, "%s: %s", name, text);
    return Status::driver_failed;
}

Status CudaStream::issued(CUresult result, std::uint64_t end) noexcept {
    if (result == CUDA_SUCCESS) issued_ = end;
    return answer(result);
}

Status CudaStream::launch(const Launch& launch) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    if (journal_ != nullptr) note(launch);
    if (!graphs_ || !graphs_->launch(launch)) return launch_plainly(launch);
    issued_ = launch.end;
    return Status::ok;
}

Status CudaStream::launch_plainly(const Launch& launch) noexcept {
    std::size_t bytes = launch.param_bytes;
    void* packed[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(launch.params),
                      CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    const CudaKernel& kernel = kernel_of(launch);
    void** const extra = bytes == 0 ? nullptr : packed;
    const std::span<const CUlaunchAttribute> attributes = kernel.attributes();
    CUresult result;
    if (attributes.empty()) {
        result = api_.cuLaunchKernel_(kernel.function(), launch.grid.x, launch.grid.y, launch.grid.z,
                                      launch.block.x, launch.block.y, launch.block.z, launch.shared_bytes,
                                      stream_, nullptr, extra);
    } else {
        CUlaunchConfig config{};
        config.gridDimX = launch.grid.x;
        config.gridDimY = launch.grid.y;
        config.gridDimZ = launch.grid.z;
        config.blockDimX = launch.block.x;
        config.blockDimY = launch.block.y;
        config.blockDimZ = launch.block.z;
        config.sharedMemBytes = launch.shared_bytes;
        config.hStream = stream_;
        config.attrs = const_cast<CUlaunchAttribute*>(attributes.data());  // CUDA reads them
        config.numAttrs = static_cast<unsigned>(attributes.size());
        result = api_.cuLaunchKernelEx_(&config, kernel.function(), nullptr, extra);
    }
    if (result != CUDA_SUCCESS) [[unlikely]]
        return refused_launch(launch, result);
    issued_ = launch.end;
    return Status::ok;
}

void CudaStream::note(const Launch& launch) noexcept {
    NotedLaunch noted;
    noted.position = launch.position;
    noted.kernel = launch.kernel_id;
    const CudaKernel& kernel = kernel_of(launch);
    noted.function = reinterpret_cast<std::uintptr_t>(kernel.function());
    noted.module = reinterpret_cast<std::uintptr_t>(kernel.module());
    noted.name = kernel.name_digest();
    noted.params = digest({launch.params, launch.param_bytes});
    noted.param_bytes = launch.param_bytes;
    noted.grid = launch.grid;
    noted.block = launch.block;
    journal_->note(noted);
}

// The launch did not happen. Where that is the record's own doing the status says so.
Status CudaStream::refused_launch(const Launch& launch, CUresult result) noexcept {
    const Status status = answer(result);
    if (result == CUDA_ERROR_INVALID_CLUSTER_SIZE) return Status::bad_cluster;
    if (result != CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE) return status;
    CUdevice device = 0;
    int processors = 0, blocks = 0;
    const auto threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    const CudaKernel& kernel = kernel_of(launch);
    if (api_.cuCtxGetDevice_(&device) == CUDA_SUCCESS &&
        api_.cuDeviceGetAttribute_(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device) ==
            CUDA_SUCCESS &&
        api_.cuOccupancyMaxActiveBlocksPerMultiprocessor_(&blocks, kernel.function(), threads,
                                                          launch.shared_bytes) == CUDA_SUCCESS)
        std::snprintf(why_, sizeof why_,
                      "at most %d blocks are on the device at once, %d on each of its %d multiprocessors",
                      blocks * processors, blocks, processors);
    return Status::grid_too_large;
}

Status CudaStream::launch_chain(std::span<const Launch> launches, std::size_t& taken) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    return launch_each(
        graphs_ ? &*graphs_ : nullptr, launches, taken, [this](const Launch& each) { return launch(each); },
        [this](std::span<const Launch> chain) {
            if (journal_ != nullptr)
                for (const Launch& each : chain) note(each);
            issued_ = chain.back().end;
        });
}

void CudaStream::forget(const Module& module) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS || !graphs_) return;
    graphs_->forget(module);
}

void CudaStream::forget_all() noexcept {
    if (enter_context(context_) != CUDA_SUCCESS || !graphs_) return;
    graphs_->forget_all();
}

Status CudaStream::launch_graph(Graph& graph, std::uint64_t position, std::uint64_t end) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    const auto& mine = static_cast<const CudaGraph&>(graph);
    if (journal_ != nullptr) {
        if (!journal_->make_room(mine.now().size())) return Status::ring_full;
        for (std::size_t i = 0; i < mine.now().size(); ++i)
            if (const auto* each = std::get_if<Launch>(&mine.now().node(i))) {
                Launch noted = *each;
                noted.position = position;
                note(noted);
            }
    }
    return issued(api_.cuGraphLaunch_(mine.exec(), stream_), end);
}

Status CudaStream::copy(const Copy& copy) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    if (copy.kind == schema::RecordKind::CopyOnDevice) {
        const CUcontext to = peers_.far(copy.device), from = peers_.far(copy.source);
        if (to != nullptr || from != nullptr) [[unlikely]]
            return issued(api_.cuMemcpyPeerAsync_(copy.device, to != nullptr ? to : context_, copy.source,
                                                  from != nullptr ? from : context_, copy.bytes, stream_),
                          copy.end);
        return issued(api_.cuMemcpyDtoDAsync_(copy.device, copy.source, copy.bytes, stream_), copy.end);
    }
    const auto& staging = *static_cast<const CudaStaging*>(copy.staging);
    const bool to_device = copy.kind == schema::RecordKind::CopyToDevice;
    const CUresult result =
        staging.each_part(copy.offset, copy.bytes, [&](std::uint64_t offset, std::uint64_t bytes) {
            const CUdeviceptr device = copy.device + (offset - copy.offset);
            return to_device ? api_.cuMemcpyHtoDAsync_(device, staging.at(offset), bytes, stream_)
                             : api_.cuMemcpyDtoHAsync_(staging.at(offset), device, bytes, stream_);
        });
    return issued(result, copy.end);
}

Status CudaStream::fill(const Fill& fill) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    CUresult result;
    if (fill.width == 1)
        result =
            api_.cuMemsetD8Async_(fill.device, static_cast<unsigned char>(fill.value), fill.bytes, stream_);
    else if (fill.width == 2)
        result = api_.cuMemsetD16Async_(fill.device, static_cast<unsigned short>(fill.value), fill.bytes / 2,
                                        stream_);
    else
        result = api_.cuMemsetD32Async_(fill.device, fill.value, fill.bytes / 4, stream_);
    return issued(result, fill.end);
}

Status CudaStream::wait(Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept {
    auto& other = static_cast<CudaStream&>(awaited);
    if (position > other.issued_) return Status::invalid_argument;
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    // Waits for all that `awaited` was given so far, of which `position` is a part. That adds no cycle: what
    // stands there was issued before this wait, and can itself only wait for what was issued before it.
    const CUresult recorded = api_.cuEventRecord_(other.tail_, other.stream_);
    if (recorded != CUDA_SUCCESS) return answer(recorded);
    return issued(api_.cuStreamWaitEvent_(stream_, other.tail_, CU_EVENT_WAIT_DEFAULT), end);
}

Status CudaStream::complete(std::uint64_t position) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    // sync: COMPLETED: the default flag makes everything before it in the stream visible first.
    return issued(
        api_.cuStreamWriteValue64_(stream_, completed_on_device_, position, CU_STREAM_WRITE_VALUE_DEFAULT),
        position);
}

bool CudaStream::notify_at(std::uint64_t position) noexcept {
    const auto signal = [](void* context) {
        const std::uint64_t one = 1;
        const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(context));
        [[maybe_unused]] const ssize_t wrote =
            ::write(fd, &one, sizeof one);  // a full counter is a signal too
    };
    void* context = reinterpret_cast<void*>(static_cast<std::intptr_t>(completion_fd_));
    // sync: COMPLETED (pairs with the GPU's write in complete())
    if (done_->load(std::memory_order_acquire) >= position) {
        signal(context);
        return true;
    }
    // The GPU waits for a host function, which takes tens of microseconds: only where nothing is behind it.
    // In a stream beside this one it would do so too, for those that share its channel.
    if (position < issued_) return false;
    // If the device fails this is never called, and the dispatcher learns of it from failure().
    if (api_.cuLaunchHostFunc_(stream_, signal, context) != CUDA_SUCCESS) signal(context);
    return true;
}

CUresult CudaStream::query() const noexcept {
    return api_.cuStreamQuery_(stream_);
}

}  // namespace ringlaunch::driver
