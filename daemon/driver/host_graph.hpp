// The graphs of the drivers without a device: the sequence as it is now, and copies of it that launches in
// flight hold on to.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "daemon/driver/driver.hpp"
#include "daemon/driver/graph_sequence.hpp"

namespace ringlaunch::driver {

class HostGraph final : public Graph {
  public:
    explicit HostGraph(std::span<const GraphNode> nodes);
    Status update(std::size_t node, const Launch& launch) noexcept override;

    struct Copy {
        explicit Copy(std::span<const GraphNode> nodes) : sequence(nodes) {}
        GraphSequence sequence;
        std::atomic<std::uint32_t> pins{0};  // launches in flight that run it
    };
    const GraphSequence& now() const { return now_; }
    // A copy that stays as it is for as long as it is pinned; null: all of them are in flight.
    std::shared_ptr<Copy> current() noexcept;

  private:
    // So many launches of a graph that was updated in between are in flight at a time.
    static constexpr std::size_t kCopies = 8;

    GraphSequence now_;
    bool changed_ = false;  // since the latest copy was taken
    std::size_t latest_ = 0;
    std::array<std::shared_ptr<Copy>, kCopies> copies_;
};

}  // namespace ringlaunch::driver
