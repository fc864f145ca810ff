// CUDA's launch graphs, as GraphPool (graph_pool.hpp) has them made. A kernel that owns an executable graph
// of one node is retargeted and launched in half the time of cuLaunchKernel; a chain of nodes takes a backlog
// in a fifth (chain_policy.hpp).
//
// Measured on an H200: a graph takes 14 us to make with one node, 180 with 32 (the first of a kind up to a
// millisecond), and 114 KiB of the device's memory with 2 KiB more for each node.
//
// A graph runs one launch at a time and takes no two threads at once, so they belong to a stream and to the
// dispatch thread. What an update changes is seen by the graph's next launch only: it may be rewritten while
// it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_kernel.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/graph_pool.hpp"
#include "daemon/driver/node_contents.hpp"
#include "schema/pages.hpp"

namespace ringlaunch::driver {

class CudaGraphs {
  public:
    struct Graph {
        CUgraph graph = nullptr;  // which names the nodes
        CUgraphExec exec = nullptr;
        std::vector<CUgraphNode> nodes;
        NodeContents contents;
        std::uint64_t end = 0;  // of the last launch
    };

    // `completed`: how far the stream has come, lives longer. Null: nobody says.
    CudaGraphs(CUstream stream, const SharedU64* completed)
        : api_(cuda_api()), stream_(stream), completed_(completed) {}

    // A graph's node cannot be told of launch attributes once it is made, and a cluster is one.
    static bool fits(const Launch& launch) noexcept {
        const auto& kernel = static_cast<const CudaKernel&>(*launch.kernel);
        return kernel.attributes().empty() && !kernel.compiled_cluster();
    }
    static std::uint64_t bytes_of(std::size_t nodes) noexcept;
    bool make(Graph& graph, std::span<const Launch> launches) noexcept;
    static constexpr bool busy(const Graph&) noexcept { return false; }
    bool running(const Graph& graph) const noexcept {
        // sync: COMPLETED (pairs with the GPU's write in CudaStream::complete())
        return completed_ != nullptr && completed_->load(std::memory_order_acquire) < graph.end;
    }
    bool retarget(Graph& graph, std::span<const Launch> launches) noexcept;
    bool launch(Graph& graph) noexcept { return api_.cuGraphLaunch_(graph.exec, stream_) == CUDA_SUCCESS; }
    void destroy(Graph& graph) noexcept;

  private:
    const CudaApi& api_;
    const CUstream stream_;
    const SharedU64* const completed_;
};

}  // namespace ringlaunch::driver
