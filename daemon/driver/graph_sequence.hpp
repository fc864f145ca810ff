// The nodes of a graph with their parameters, as they are now.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// The parameters stand in one piece, each launch's on an alignment that a kernel may want.
class GraphSequence {
  public:
    explicit GraphSequence(std::span<const GraphNode> nodes);
    ~GraphSequence();
    GraphSequence(const GraphSequence&) = delete;
    GraphSequence& operator=(const GraphSequence&) = delete;

    std::size_t size() const { return nodes_.size(); }
    const GraphNode& node(std::size_t i) const { return nodes_[i]; }  // a launch's `params` point into this
    void set(std::size_t i, const Launch& launch) noexcept;
    // `other` is of the same nodes.
    void take_over(const GraphSequence& other) noexcept;

  private:
    std::vector<GraphNode> nodes_;
    std::byte* params_ = nullptr;
};

}  // namespace ringlaunch::driver
