// A launch graph in ordinary memory: nodes with room for a launch each, made once and written anew for every
// launch of the graph. What the host and the null driver have as graphs.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#include "daemon/driver/driver.hpp"

#define RINGLAUNCH_KERNEL_ABI_ONLY
#include "schema/kernel.h"

namespace ringlaunch::driver {

// Of a device, for the graphs of all its streams.
inline constexpr std::uint64_t kMemoryGraphBytes = 8u << 20;

class MemoryGraph {
  public:
    struct alignas(kernel_abi::kMaxParamAlignment) Node {
        // What has more goes by itself: room for the longest parameters would be 4 KiB a node.
        static constexpr std::uint32_t kParamBytes = 512;
        Launch launch;  // whose parameters are those here
        alignas(kernel_abi::kMaxParamAlignment) std::byte params[kParamBytes];
    };

    static bool fits(const Launch& launch) noexcept { return launch.param_bytes <= Node::kParamBytes; }
    static std::uint64_t bytes_of(std::size_t nodes) noexcept {
        return sizeof(MemoryGraph) + nodes * sizeof(Node);
    }
    // Throws std::bad_alloc.
    explicit MemoryGraph(std::size_t nodes) : nodes_(std::make_unique<Node[]>(nodes)), count_(nodes) {}

    void write(std::span<const Launch> launches) noexcept {
        for (std::size_t i = 0; i < count_; ++i) {
            Node& node = nodes_[i];
            node.launch = launches[i];
            node.launch.params = node.params;
            if (launches[i].param_bytes != 0)
                std::memcpy(node.params, launches[i].params, launches[i].param_bytes);
        }
    }
    std::span<const Node> nodes() const noexcept { return {nodes_.get(), count_}; }
    std::uint64_t position() const noexcept { return nodes_[0].launch.position; }
    std::uint64_t end() const noexcept { return nodes_[count_ - 1].launch.end; }

  private:
    std::unique_ptr<Node[]> nodes_;
    std::size_t count_;
};

}  // namespace ringlaunch::driver
