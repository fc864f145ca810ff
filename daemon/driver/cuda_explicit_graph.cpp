#include "daemon/driver/cuda_explicit_graph.hpp"

#include <algorithm>
#include <cstdio>
#include <string>

#include "daemon/driver/cuda_node.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

// A copy's node has a pitch, which CUDA bounds.
constexpr std::uint64_t kCopyPiece = std::uint64_t{1} << 30;

}  // namespace

CudaGraph::CudaGraph(std::span<const GraphNode> nodes, CUcontext context, const CudaPeers& peers,
                     GraphBudget& budget)
    : api_(cuda_api()), context_(context), budget_(budget), now_(nodes) {
    if (!budget_.take(graph_bytes(nodes.size())))
        throw Error(Status::out_of_memory, "the graphs of this device have no room for " +
                                               std::to_string(graph_bytes(nodes.size())) +
                                               " bytes more; let go of some");
    try {
        build(peers);
    } catch (...) {
        destroy();
        throw;
    }
}

CudaGraph::~CudaGraph() {
    // Where the device is lost this is refused, and the process about to end.
    (void)enter_context(context_);
    destroy();
}

void CudaGraph::destroy() noexcept {
    if (exec_ != nullptr) api_.cuGraphExecDestroy_(exec_);
    if (graph_ != nullptr) api_.cuGraphDestroy_(graph_);
    budget_.give_back(graph_bytes(now_.size()));
}

void CudaGraph::build(const CudaPeers& peers) {
    check_cuda(api_.cuGraphCreate_(&graph_, 0), "cannot make a CUDA graph");
    nodes_.assign(now_.size(), nullptr);
    for (std::size_t i = 0; i < now_.size(); ++i) {
        if (const auto* launch = std::get_if<Launch>(&now_.node(i)))
            add_launch(i, *launch);
        else if (const auto* copy = std::get_if<Copy>(&now_.node(i)))
            add_copy(*copy, peers);
        else
            add_fill(std::get<Fill>(now_.node(i)));
    }
    check_cuda(api_.cuGraphInstantiate_(&exec_, graph_, 0),
               "cannot make an executable graph of " + std::to_string(now_.size()) + " nodes");
}

void CudaGraph::add_launch(std::size_t i, const Launch& launch) {
    const std::string what =
        "node " + std::to_string(i) + " of a graph, kernel '" + launch.kernel->layout().name + "', ";
    // Measured: CUDA takes a cluster as a node's attribute, and refuses this one.
    if (launch.kernel->layout().attributes.cooperative)
        throw Error(Status::unsupported,
                    what + "is launched cooperatively, which a graph cannot do; launch it by itself");
    const NodeParams node(launch);
    check_cuda(api_.cuGraphAddKernelNode_(&nodes_[i], graph_, behind(), count_behind(), &node.params),
               what + "cannot be made");
    last_ = nodes_[i];
    for (const CUlaunchAttribute& each : kernel_of(launch).attributes()) {
        // It permits and demands nothing; in a graph a kernel begins when the one before it has ended.
        if (each.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) continue;
        check_cuda(api_.cuGraphKernelNodeSetAttribute_(nodes_[i], each.id, &each.value),
                   what + "cannot be given its launch attributes", Status::unsupported);
    }
}

void CudaGraph::add_copy(const Copy& copy, const CudaPeers& peers) {
    if (peers.far(copy.device) != nullptr || peers.far(copy.source) != nullptr)
        throw Error(Status::unsupported,
                    "a graph cannot hold a copy between two devices that do not reach each other's memory; "
                    "enqueue it by itself");
    for (std::uint64_t done = 0; done < copy.bytes; done += kCopyPiece) {
        CUDA_MEMCPY3D piece{};
        piece.srcMemoryType = piece.dstMemoryType = CU_MEMORYTYPE_DEVICE;
        piece.srcDevice = copy.source + done;
        piece.dstDevice = copy.device + done;
        piece.WidthInBytes = std::min(kCopyPiece, copy.bytes - done);
        piece.Height = piece.Depth = 1;
        piece.srcPitch = piece.dstPitch = piece.WidthInBytes;
        piece.srcHeight = piece.dstHeight = 1;
        CUgraphNode node = nullptr;
        check_cuda(api_.cuGraphAddMemcpyNode_(&node, graph_, behind(), count_behind(), &piece, context_),
                   "a graph's copy of " + std::to_string(copy.bytes) + " bytes cannot be made");
        last_ = node;
    }
}

void CudaGraph::add_fill(const Fill& fill) {
    if (fill.bytes == 0) return;
    CUDA_MEMSET_NODE_PARAMS params{};
    params.dst = fill.device;
    params.value = fill.value;
    params.elementSize = fill.width;
    params.width = fill.bytes / fill.width;
    params.height = 1;
    CUgraphNode node = nullptr;
    check_cuda(api_.cuGraphAddMemsetNode_(&node, graph_, behind(), count_behind(), &params, context_),
               "a graph's fill of " + std::to_string(fill.bytes) + " bytes cannot be made");
    last_ = node;
}

// What runs is not touched: CUDA hands a change to the graph's next launches only.
Status CudaGraph::update(std::size_t i, const Launch& launch) noexcept {
    if (enter_context(context_) != CUDA_SUCCESS) return Status::driver_failed;
    Launch mine = std::get<Launch>(now_.node(i));
    mine.grid = launch.grid;
    mine.block = launch.block;
    mine.shared_bytes = launch.shared_bytes;
    mine.params = launch.params;
    const NodeParams node(mine);
    const CUresult result = api_.cuGraphExecKernelNodeSetParams_(exec_, nodes_[i], &node.params);
    if (result == CUDA_SUCCESS) {
        now_.set(i, mine);
        return Status::ok;
    }
    const char* name = nullptr;
    if (api_.cuGetErrorName_(result, &name) != CUDA_SUCCESS) name = "an unknown CUDA error";
    std::snprintf(why_, sizeof why_, "%s", name);
    return Status::driver_failed;
}

}  // namespace ringlaunch::driver
