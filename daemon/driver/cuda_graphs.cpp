#include "daemon/driver/cuda_graphs.hpp"

#include <algorithm>
#include <new>

namespace ringlaunch::driver {

namespace {

// Measured: what an executable graph takes of the device's memory, whatever its length, and each node more.
constexpr std::uint64_t kOneGraphBytes = 114 << 10;
constexpr std::uint64_t kNodeBytes = 2 << 10;
// A kernel has shown that it will come again.
constexpr std::uint32_t kLaunchesBeforeGraph = 4;
constexpr std::uint32_t kBacklogsBeforeChain = 2;
// Of one stream.
constexpr std::size_t kMostSingles = 64;
constexpr std::size_t kMostCounted = 256;

std::uint64_t bytes_of(std::size_t nodes) {
    return kOneGraphBytes + nodes * kNodeBytes;
}

const CudaKernel& kernel_of(const Launch& launch) {
    return static_cast<const CudaKernel&>(*launch.kernel);
}

// A graph's node cannot be told of launch attributes once it is made, and a cluster is one.
bool fits_a_node(const Launch& launch) {
    return kernel_of(launch).attributes().empty() && !kernel_of(launch).compiled_cluster();
}

// A launch as a node has it; CUDA copies what it points to.
struct NodeParams {
    explicit NodeParams(const Launch& launch)
        : bytes(launch.param_bytes),
          extra{CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(launch.params),
                CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END} {
        params.func = kernel_of(launch).function();
        params.gridDimX = launch.grid.x;
        params.gridDimY = launch.grid.y;
        params.gridDimZ = launch.grid.z;
        params.blockDimX = launch.block.x;
        params.blockDimY = launch.block.y;
        params.blockDimZ = launch.block.z;
        params.sharedMemBytes = launch.shared_bytes;
        params.extra = bytes == 0 ? nullptr : extra;
    }
    NodeParams(const NodeParams&) = delete;
    NodeParams& operator=(const NodeParams&) = delete;

    std::size_t bytes;
    void* extra[5];
    CUDA_KERNEL_NODE_PARAMS params{};
};

}  // namespace

LaunchGraphs::~LaunchGraphs() {
    for (auto& [kernel, single] : singles_) destroy(single.graph);
    for (Chains& chains : chains_)
        for (Graph& graph : chains.copies) destroy(graph);
}

bool LaunchGraphs::make(Graph& made, std::span<const Launch> launches) noexcept {
    if (!budget_.take(bytes_of(launches.size()))) return false;
    try {
        made.nodes.assign(launches.size(), nullptr);
        made.modules.assign(launches.size(), nullptr);
    } catch (const std::bad_alloc&) {
        made.nodes.clear();
        budget_.give_back(bytes_of(launches.size()));
        return false;
    }
    bool well = api_.cuGraphCreate_(&made.graph, 0) == CUDA_SUCCESS;
    for (std::size_t i = 0; well && i < launches.size(); ++i) {
        const NodeParams node(launches[i]);
        well = api_.cuGraphAddKernelNode_(&made.nodes[i], made.graph, i == 0 ? nullptr : &made.nodes[i - 1],
                                          i == 0 ? 0 : 1, &node.params) == CUDA_SUCCESS;
        made.modules[i] = kernel_of(launches[i]).module();
    }
    well = well && api_.cuGraphInstantiate_(&made.exec, made.graph, 0) == CUDA_SUCCESS;
    // Now, while nothing waits for it, rather than with its first launch.
    well = well && api_.cuGraphUpload_(made.exec, stream_) == CUDA_SUCCESS;
    if (!well) destroy(made);
    return well;
}

// A graph that runs lives on until it has ended, says CUDA.
void LaunchGraphs::destroy(Graph& graph) noexcept {
    if (graph.nodes.empty()) return;
    budget_.give_back(bytes_of(graph.nodes.size()));
    if (graph.exec != nullptr) api_.cuGraphExecDestroy_(graph.exec);
    if (graph.graph != nullptr) api_.cuGraphDestroy_(graph.graph);
    graph = {};
}

// Nothing is launched where it answers false; the nodes that were changed are changed again before the next
// launch.
bool LaunchGraphs::retarget(Graph& graph, std::span<const Launch> launches) noexcept {
    for (std::size_t i = 0; i < launches.size(); ++i) {
        const NodeParams node(launches[i]);
        if (api_.cuGraphExecKernelNodeSetParams_(graph.exec, graph.nodes[i], &node.params) != CUDA_SUCCESS)
            return false;
        graph.modules[i] = kernel_of(launches[i]).module();
    }
    return true;
}

void LaunchGraphs::throw_out_least_used() noexcept {
    auto least = singles_.end();
    for (auto at = singles_.begin(); at != singles_.end(); ++at)
        if (least == singles_.end() || at->second.last_used < least->second.last_used) least = at;
    if (least == singles_.end()) return;
    if (!least->second.graph.nodes.empty()) --made_;
    destroy(least->second.graph);
    singles_.erase(least);
}

bool LaunchGraphs::launch(const Launch& launch) noexcept {
    const CudaKernel& kernel = kernel_of(launch);
    if (!fits_a_node(launch)) return false;
    auto found = singles_.find(&kernel);
    if (found == singles_.end()) {
        if (singles_.size() >= kMostCounted) throw_out_least_used();
        try {
            found = singles_.try_emplace(&kernel).first;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }
    Single& single = found->second;
    single.last_used = ++clock_;
    if (single.graph.nodes.empty()) {
        if (++single.launches <= kLaunchesBeforeGraph) return false;
        single.launches = 0;  // where it cannot be had now, it is tried again, but not at once
        while (made_ >= kMostSingles) throw_out_least_used();
        if (!make(single.graph, {&launch, 1})) return false;
        ++made_;
    } else if (!retarget(single.graph, {&launch, 1})) {
        return false;
    }
    return api_.cuGraphLaunch_(single.graph.exec, stream_) == CUDA_SUCCESS;
}

std::size_t LaunchGraphs::launch_chain(std::span<const Launch> launches) noexcept {
    const auto plain = std::find_if_not(launches.begin(), launches.end(), fits_a_node);
    const std::size_t which = chain_for(static_cast<std::size_t>(plain - launches.begin()));
    if (which == kChainLengths.size()) return 0;
    const std::span<const Launch> taken = launches.first(kChainLengths[which]);
    Chains& chains = chains_[which];
    if (chains.wanted < kBacklogsBeforeChain) {
        ++chains.wanted;
        return 0;
    }
    Graph& graph = chains.copies[chains.next++ % kChainCopies];
    if (graph.nodes.empty() ? !make(graph, taken) : !retarget(graph, taken)) return 0;
    if (api_.cuGraphLaunch_(graph.exec, stream_) != CUDA_SUCCESS) return 0;
    return taken.size();
}

void LaunchGraphs::forget(CUmodule module) noexcept {
    const auto knows = [module](const Graph& graph) {
        return std::find(graph.modules.begin(), graph.modules.end(), module) != graph.modules.end();
    };
    // Those that were only counted go with them: their kernels' addresses may come again.
    for (auto at = singles_.begin(); at != singles_.end();) {
        if (at->first->module() != module) {
            ++at;
            continue;
        }
        if (!at->second.graph.nodes.empty()) --made_;
        destroy(at->second.graph);
        at = singles_.erase(at);
    }
    for (Chains& chains : chains_)
        for (Graph& graph : chains.copies)
            if (knows(graph)) destroy(graph);
}

}  // namespace ringlaunch::driver
