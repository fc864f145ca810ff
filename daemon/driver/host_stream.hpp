// A stream of the host driver: a queue that the dispatch thread fills, and a worker thread that runs it in
// order.
//
// Who writes what
//   dispatch thread   ops and parameters of free places, nodes of graphs that do not run, `tail`
//   worker            `head`, `progress`, and the status page's `completed`
//   any thread        `asleep` (to wake the worker), the list of watches (under its lock)
//
// The worker shares the state with this object, with the streams that wait for it, and outlives a stream that
// was given up on: then `phase` keeps it off the status page, which may be unmapped.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/driver/graph_pool.hpp"
#include "daemon/driver/host_fault.hpp"
#include "daemon/driver/memory_graph.hpp"

#define RINGLAUNCH_KERNEL_ABI_ONLY
#include "schema/kernel.h"

namespace ringlaunch::driver {

class HostKernel final : public Kernel {
  public:
    using Run = void (*)(const kernel_abi::HostLaunch*) noexcept;
    HostKernel(KernelLayout layout, Run entry) : Kernel(std::move(layout)), run_(entry) {}
    Run run() const { return run_; }

  private:
    Run run_;
};

// A thread that may sleep until another wakes it. The sleeper looks at what it waits for between prepare()
// and sleep(); the waker changes that first, with a sequentially consistent store, and then calls wake().
class Parker {
  public:
    static constexpr std::chrono::nanoseconds kForever = std::chrono::nanoseconds::max();

    void prepare() noexcept;
    void sleep(std::chrono::nanoseconds at_most) noexcept;  // until woken since prepare(); may return early
    void cancel() noexcept;
    void wake() noexcept;

  private:
    std::atomic<std::uint32_t> asleep_{0};
};

// How far a stream has come, for those who wait for it.
class Progress {
  public:
    explicit Progress(std::uint64_t position) : completed_(position) {}

    std::uint64_t completed() const noexcept;
    // The worker: `position` has completed. Wakes who watches.
    void advance(std::uint64_t position) noexcept;

    // Wakes `who` once `position` has completed, unless it already has (false). The caller holds on to `who`
    // until woken, or until unwatch().
    bool watch(std::uint64_t position, Parker& who);
    void unwatch(const Parker& who);
    // The same for the driver's eventfd; for one that already has, at once. Does not allocate.
    void notify(std::uint64_t position, int eventfd) noexcept;

    // How many distinct positions notify() keeps apart. Past that it signals at each completion: early, never
    // late.
    static constexpr std::size_t kMaxNotices = 64;

  private:
    struct Watch {
        std::uint64_t position;
        Parker* parker;
    };
    static constexpr std::uint64_t kNobody = ~std::uint64_t{0};

    void tell_watchers(std::uint64_t position) noexcept;
    void find_lowest() noexcept;  // under the lock

    std::atomic<std::uint64_t> completed_;
    // The lowest position that anybody watches.
    std::atomic<std::uint64_t> lowest_{kNobody};
    std::mutex lock_;
    std::vector<Watch> watches_;
    std::array<std::uint64_t, kMaxNotices> notices_{};
    std::size_t notice_count_ = 0;
    bool notice_overflow_ = false;
    int eventfd_ = -1;
};

class HostStream final : public Stream {
  public:
    // `abandoned` counts the workers that were given up on, and is shared with the driver.
    // `budget` lives longer.
    HostStream(const StreamConfig& config, int completion_fd, std::shared_ptr<std::atomic<int>> abandoned,
               GraphBudget& budget);
    ~HostStream() override;

    Status launch(const Launch& launch) noexcept override;
    Status launch_chain(std::span<const Launch> launches, std::size_t& taken) noexcept override;
    Status launch_graph(Graph& graph, std::uint64_t position, std::uint64_t end) noexcept override;
    Status copy(const Copy& copy) noexcept override;
    Status fill(const Fill& fill) noexcept override;
    Status wait(Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept override;
    Status complete(std::uint64_t position) noexcept override;
    bool notify_at(std::uint64_t position) noexcept override;
    bool drain(std::uint64_t timeout_ns) noexcept override;
    GraphUse graph_use() const noexcept override { return graphs_ ? graphs_->use() : GraphUse{}; }
    void forget(const Module& module) noexcept override;
    void forget_all() noexcept override;

  private:
    struct State;
    // The graphs of this stream. The worker runs a graph's nodes where they stand, so one that has not ended
    // is not written anew: what comes meanwhile goes another way.
    class Graphs {
      public:
        using Graph = std::shared_ptr<MemoryGraph>;  // which the worker shares while it runs
        explicit Graphs(State& state) : state_(state) {}
        static bool fits(const Launch& launch) noexcept { return MemoryGraph::fits(launch); }
        static std::uint64_t bytes_of(std::size_t nodes) noexcept { return MemoryGraph::bytes_of(nodes); }
        bool make(Graph& graph, std::span<const Launch> launches) noexcept;
        bool busy(const Graph& graph) const noexcept { return running(graph); }
        bool running(const Graph& graph) const noexcept;
        bool retarget(Graph& graph, std::span<const Launch> launches) noexcept;
        bool launch(const Graph& graph) noexcept;
        void destroy(Graph& graph) noexcept { graph.reset(); }

      private:
        State& state_;
    };

    Status put(const Launch& launch) noexcept;

    std::shared_ptr<State> state_;
    std::optional<GraphPool<Graphs>> graphs_;  // none where launches are not coalesced
    int completion_fd_;
    std::shared_ptr<std::atomic<int>> abandoned_;
    std::thread worker_;
};

}  // namespace ringlaunch::driver
