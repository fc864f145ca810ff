// A user's graph on a GPU: an executable CUDA graph, its nodes in a row.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_graphs.hpp"
#include "daemon/driver/cuda_peers.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/graph_sequence.hpp"

namespace ringlaunch::driver {

class CudaGraph final : public Graph {
  public:
    // Control thread, with the context current. `peers` and `budget` live longer.
    CudaGraph(std::span<const GraphNode> nodes, CUcontext context, const CudaPeers& peers,
              GraphBudget& budget);
    ~CudaGraph() override;

    Status update(std::size_t node, const Launch& launch) noexcept override;
    const char* why() const noexcept override { return why_; }

    CUgraphExec exec() const { return exec_; }
    const GraphSequence& now() const { return now_; }

  private:
    void build(const CudaPeers& peers);
    void add_launch(std::size_t i, const Launch& launch);
    void add_copy(const Copy& copy, const CudaPeers& peers);
    void add_fill(const Fill& fill);
    void destroy() noexcept;
    const CUgraphNode* behind() const { return last_ == nullptr ? nullptr : &last_; }
    std::size_t count_behind() const { return last_ == nullptr ? 0 : 1; }

    const CudaApi& api_;
    const CUcontext context_;
    GraphBudget& budget_;
    GraphSequence now_;
    CUgraph graph_ = nullptr;  // which names the nodes
    CUgraphExec exec_ = nullptr;
    CUgraphNode last_ = nullptr;
    std::vector<CUgraphNode> nodes_;  // of launches; null for others
    char why_[256] = "";
};

}  // namespace ringlaunch::driver
