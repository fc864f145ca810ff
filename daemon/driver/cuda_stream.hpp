// A CUstream behind the driver interface. Completion is written by the GPU itself, into the status page;
// where launches are noted in a journal, to where that publishes it from.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_graphs.hpp"
#include "daemon/driver/cuda_peers.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/launch_journal.hpp"

namespace ringlaunch::driver {

// Memory of this process that the GPU reads and writes at its own address. Unregisters when destroyed.
class RegisteredMemory {
  public:
    RegisteredMemory() = default;
    RegisteredMemory(void* address, std::size_t bytes, const std::string& what);
    ~RegisteredMemory();
    RegisteredMemory(RegisteredMemory&& other) noexcept;
    RegisteredMemory& operator=(RegisteredMemory&& other) noexcept;
    CUdeviceptr device_address() const { return device_; }

  private:
    void* address_ = nullptr;
    CUdeviceptr device_ = 0;
};

class CudaStream : public Stream {
  public:
    // Control thread, with the context current. `completion_fd`: the driver's eventfd. `peers` and `budget`
    // live longer. `journals`: where launches are noted; null: nowhere.
    CudaStream(const StreamConfig& config, CUcontext context, const CudaPeers& peers, int completion_fd,
               GraphBudget& budget, LaunchJournals* journals);
    ~CudaStream() override;

    bool drain(std::uint64_t timeout_ns) noexcept override;
    bool begin_at(std::uint64_t position) noexcept override;
    Status launch(const Launch& launch) noexcept override;
    Status launch_chain(std::span<const Launch> launches, std::size_t& taken) noexcept override;
    GraphUse graph_use() const noexcept override { return graphs_ ? graphs_->use() : GraphUse{}; }
    void forget(const Module& module) noexcept override;
    void forget_all() noexcept override;
    Status launch_graph(Graph& graph, std::uint64_t position, std::uint64_t end) noexcept override;
    Status copy(const Copy& copy) noexcept override;
    Status fill(const Fill& fill) noexcept override;
    Status wait(Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept override;
    Status complete(std::uint64_t position) noexcept override;
    bool notify_at(std::uint64_t position) noexcept override;
    bool publishes() const noexcept override { return journal_ != nullptr; }
    void publish() noexcept override {
        if (journal_ != nullptr) journal_->publish();
    }
    const char* why() const noexcept override { return why_; }

    // Dispatch thread: CUDA_SUCCESS, CUDA_ERROR_NOT_READY, or what the device died of.
    CUresult query() const noexcept;

  private:
    struct Unmap {
        void operator()(std::byte* page) const;
    };
    static std::byte* map_page();
    void note(const Launch& launch) noexcept;
    Status answer(CUresult result) noexcept;
    Status launch_plainly(const Launch& launch) noexcept;
    Status refused_launch(const Launch& launch, CUresult result) noexcept;
    // The same for an operation that ends at `end`.
    Status issued(CUresult result, std::uint64_t end) noexcept;

    const CudaApi& api_;
    const CUcontext context_;
    const CudaPeers& peers_;
    const std::uint64_t id_;
    std::unique_ptr<std::byte[], Unmap> own_page_;  // with the journal: of `done_`, which only we see
    SharedU64* const completed_;
    SharedU64* const done_;  // what the device writes: as a rule `completed_` itself
    std::uint64_t issued_;   // the end of the last operation, or the completion asked for behind it
    RegisteredMemory page_;
    CUdeviceptr completed_on_device_ = 0;
    CUstream stream_ = nullptr;
    std::optional<GraphPool<CudaGraphs>> graphs_;  // none where launches are not coalesced
    CUevent tail_ = nullptr;                       // recorded anew for each stream that waits for this one
    const int completion_fd_;
    LaunchJournals::Open journal_;
    char why_[256] = "";
};

}  // namespace ringlaunch::driver
