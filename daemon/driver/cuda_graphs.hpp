// The launch graphs of one stream. A kernel that owns an executable graph of one node is retargeted and
// launched in half the time of cuLaunchKernel; a chain of nodes takes a backlog in a fifth
// (chain_policy.hpp).
//
// Measured on an H200: a graph takes 14 us to make with one node, 180 with 32 (the first of a kind up to a
// millisecond), and 114 KiB of the device's memory with 2 KiB more for each node.
//
// A graph runs one launch at a time and takes no two threads at once, so they belong to a stream and to the
// dispatch thread. What an update changes is seen by the graph's next launch only: it may be rewritten while
// it runs. Whatever a graph does not take (kernels with launch attributes, a kernel that was launched a few
// times only, no memory) is the caller's to launch plainly, and is told the right error there.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "daemon/driver/chain_policy.hpp"
#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_module.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// What the graphs of all streams may take of the device's memory. The dispatch thread takes, the control
// thread gives back with a stream.
class GraphBudget {
  public:
    explicit GraphBudget(std::uint64_t bytes) : left_(static_cast<std::int64_t>(bytes)) {}
    // relaxed: a number, nothing is read on the strength of it.
    bool take(std::uint64_t bytes) noexcept {
        if (left_.fetch_sub(static_cast<std::int64_t>(bytes), std::memory_order_relaxed) >=
            static_cast<std::int64_t>(bytes))
            return true;
        give_back(bytes);
        return false;
    }
    void give_back(std::uint64_t bytes) noexcept {
        left_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
    }

  private:
    std::atomic<std::int64_t> left_;
};

class LaunchGraphs {
  public:
    // `stream` and `budget` live longer.
    LaunchGraphs(CUstream stream, GraphBudget& budget) : api_(cuda_api()), stream_(stream), budget_(budget) {}
    ~LaunchGraphs();
    LaunchGraphs(const LaunchGraphs&) = delete;
    LaunchGraphs& operator=(const LaunchGraphs&) = delete;

    // Dispatch thread. Makes a graph for a kernel that was launched often enough (once); else
    // allocates nothing. False: nothing was done.
    [[nodiscard]] bool launch(const Launch& launch) noexcept;
    // The first of these launches as one chain. How many were launched; 0: nothing was done.
    [[nodiscard]] std::size_t launch_chain(std::span<const Launch> launches) noexcept;
    // The module is about to be unloaded, and nothing of it runs: no graph may know its kernels then.
    void forget(CUmodule module) noexcept;

  private:
    // Its nodes run one after another.
    struct Graph {
        CUgraph graph = nullptr;  // which names the nodes
        CUgraphExec exec = nullptr;
        std::vector<CUgraphNode> nodes;
        std::vector<CUmodule> modules;  // whose kernel each node has
    };
    struct Single {
        std::uint32_t launches = 0;  // so far, until the graph is made
        std::uint64_t last_used = 0;
        Graph graph;
    };
    struct Chains {
        std::uint32_t wanted = 0;  // how often, until the first is made
        std::size_t next = 0;
        std::array<Graph, kChainCopies> copies;
    };

    bool make(Graph& made, std::span<const Launch> launches) noexcept;
    void destroy(Graph& graph) noexcept;
    bool retarget(Graph& graph, std::span<const Launch> launches) noexcept;
    void throw_out_least_used() noexcept;

    const CudaApi& api_;
    const CUstream stream_;
    GraphBudget& budget_;
    std::uint64_t clock_ = 0;  // counts launches
    std::size_t made_ = 0;     // graphs among singles_
    std::unordered_map<const CudaKernel*, Single> singles_;
    std::array<Chains, kChainLengths.size()> chains_;
};

}  // namespace ringlaunch::driver
