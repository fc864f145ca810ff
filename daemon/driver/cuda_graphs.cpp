#include "daemon/driver/cuda_graphs.hpp"

#include <new>

#include "daemon/driver/cuda_node.hpp"

namespace ringlaunch::driver {

std::uint64_t CudaGraphs::bytes_of(std::size_t nodes) noexcept {
    return graph_bytes(nodes);
}

bool CudaGraphs::make(Graph& made, std::span<const Launch> launches) noexcept {
    try {
        made.nodes.assign(launches.size(), nullptr);
        made.contents = NodeContents(launches);
    } catch (const std::bad_alloc&) {
        return false;
    }
    bool well = api_.cuGraphCreate_(&made.graph, 0) == CUDA_SUCCESS;
    for (std::size_t i = 0; well && i < launches.size(); ++i) {
        const NodeParams node(launches[i]);
        well = api_.cuGraphAddKernelNode_(&made.nodes[i], made.graph, i == 0 ? nullptr : &made.nodes[i - 1],
                                          i == 0 ? 0 : 1, &node.params) == CUDA_SUCCESS;
    }
    well = well && api_.cuGraphInstantiate_(&made.exec, made.graph, 0) == CUDA_SUCCESS;
    // Now, while nothing waits for it, rather than with its first launch.
    well = well && api_.cuGraphUpload_(made.exec, stream_) == CUDA_SUCCESS;
    made.end = launches.back().end;
    if (!well) destroy(made);
    return well;
}

bool CudaGraphs::retarget(Graph& graph, std::span<const Launch> launches) noexcept {
    for (std::size_t i = 0; i < launches.size(); ++i) {
        if (!graph.contents.change(i, launches[i])) continue;
        const NodeParams node(launches[i]);
        if (api_.cuGraphExecKernelNodeSetParams_(graph.exec, graph.nodes[i], &node.params) != CUDA_SUCCESS)
            return false;
    }
    graph.end = launches.back().end;
    return true;
}

// A graph that runs lives on until it has ended, says CUDA.
void CudaGraphs::destroy(Graph& graph) noexcept {
    if (graph.exec != nullptr) api_.cuGraphExecDestroy_(graph.exec);
    if (graph.graph != nullptr) api_.cuGraphDestroy_(graph.graph);
    graph = {};
}

}  // namespace ringlaunch::driver
