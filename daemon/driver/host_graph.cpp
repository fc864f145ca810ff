#include "daemon/driver/host_graph.hpp"

namespace ringlaunch::driver {

HostGraph::HostGraph(std::span<const GraphNode> nodes) : now_(nodes) {
    for (auto& copy : copies_) copy = std::make_shared<Copy>(nodes);
}

Status HostGraph::update(std::size_t node, const Launch& launch) noexcept {
    now_.set(node, launch);
    changed_ = true;
    return Status::ok;
}

std::shared_ptr<HostGraph::Copy> HostGraph::current() noexcept {
    if (!changed_) return copies_[latest_];
    for (std::size_t i = 1; i <= kCopies; ++i) {
        const std::size_t at = (latest_ + i) % kCopies;
        // sync: PINS (pairs with the worker's release once it has run the copy): it looks at it no more.
        if (copies_[at]->pins.load(std::memory_order_acquire) != 0) continue;
        copies_[at]->sequence.take_over(now_);
        latest_ = at;
        changed_ = false;
        return copies_[at];
    }
    return nullptr;
}

}  // namespace ringlaunch::driver
