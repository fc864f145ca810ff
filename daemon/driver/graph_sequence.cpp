#include "daemon/driver/graph_sequence.hpp"

#include <cstring>
#include <new>

#define RINGLAUNCH_KERNEL_ABI_ONLY
#include "schema/kernel.h"

namespace ringlaunch::driver {

namespace {

constexpr std::size_t kAlignment = kernel_abi::kMaxParamAlignment;

std::size_t padded(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

GraphSequence::GraphSequence(std::span<const GraphNode> nodes) : nodes_(nodes.begin(), nodes.end()) {
    std::size_t bytes = 0;
    for (const GraphNode& node : nodes_)
        if (const auto* launch = std::get_if<Launch>(&node)) bytes += padded(launch->param_bytes);
    params_ = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kAlignment}));
    std::byte* to = params_;
    for (GraphNode& node : nodes_) {
        auto* launch = std::get_if<Launch>(&node);
        if (launch == nullptr) continue;
        if (launch->param_bytes != 0) std::memcpy(to, launch->params, launch->param_bytes);
        launch->params = to;
        to += padded(launch->param_bytes);
    }
}

GraphSequence::~GraphSequence() {
    ::operator delete[](params_, std::align_val_t{kAlignment});
}

void GraphSequence::set(std::size_t i, const Launch& launch) noexcept {
    Launch& mine = std::get<Launch>(nodes_[i]);
    mine.grid = launch.grid;
    mine.block = launch.block;
    mine.shared_bytes = launch.shared_bytes;
    if (mine.param_bytes != 0)
        std::memcpy(const_cast<std::byte*>(mine.params), launch.params, mine.param_bytes);
}

void GraphSequence::take_over(const GraphSequence& other) noexcept {
    for (std::size_t i = 0; i < nodes_.size(); ++i)
        if (const auto* launch = std::get_if<Launch>(&other.nodes_[i])) set(i, *launch);
}

}  // namespace ringlaunch::driver
