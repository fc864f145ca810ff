// Launches in the program's own CUDA context: through an executable graph of one node, which CUDA launches in
// half the time of cuLaunchKernel, else plainly.
//
// A stream that is being captured gets plain launches, which become nodes of the capture; whoever captures it
// and by which API, only the driver knows. What a graph does not take (a programmatic launch, one that the
// device refuses) is launched plainly in its place and is told the right error there.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_kernel.hpp"
#include "daemon/driver/cuda_tensor_map.hpp"
#include "inline_kernel.hpp"

namespace ringlaunch::python {

using driver::CudaApi;

struct OneNodeGraph {
    CUgraph graph = nullptr;  // which names the node
    CUgraphExec exec = nullptr;
    CUgraphNode node = nullptr;
    Dim3 grid;
    std::vector<std::byte> params;  // as the node has them
    pid_t pid = ::getpid();         // whose it is
};

namespace {

// Of a context. A graph takes 116 KiB of the device's memory, measured on an H200: 58 MiB in all.
std::size_t most_graphs = 512;

CUstream stream_of(std::uint64_t stream) {
    return reinterpret_cast<CUstream>(stream);
}

bool is_capturing(const CudaApi& api, std::uint64_t stream) noexcept {
    CUstreamCaptureStatus status{};
    // An error: another stream is being captured, and this one is the legacy default stream. The plain launch
    // says so.
    return api.cuStreamIsCapturing_(stream_of(stream), &status) != CUDA_SUCCESS ||
           status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// While this lives, what this thread does to memory breaks nobody's capture of a stream.
class WithoutCapture {
  public:
    explicit WithoutCapture(const CudaApi& api) : api_(api) {
        api_.cuThreadExchangeStreamCaptureMode_(&mode_);
    }
    ~WithoutCapture() { api_.cuThreadExchangeStreamCaptureMode_(&mode_); }
    WithoutCapture(const WithoutCapture&) = delete;
    WithoutCapture& operator=(const WithoutCapture&) = delete;

  private:
    const CudaApi& api_;
    CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

void destroy(const CudaApi& api, OneNodeGraph* graph) noexcept {
    if (graph == nullptr) return;
    if (graph->pid != ::getpid()) {  // the parent's, in a forked child, where CUDA cannot be called
        delete graph;
        return;
    }
    const WithoutCapture none(api);
    // A graph that runs lives on until it has ended, says CUDA.
    if (graph->exec != nullptr) api.cuGraphExecDestroy_(graph->exec);
    if (graph->graph != nullptr) api.cuGraphDestroy_(graph->graph);
    delete graph;
}

void lose(const CudaApi& api, SeatBudget& budget, Seat& seat) noexcept {
    if (seat.graph == nullptr) return;
    budget.remove(seat);
    destroy(api, std::exchange(seat.graph, nullptr));
}

// Until there are fewer than `most`, or each that is left has a thread.
void make_room(const CudaApi& api, SeatBudget& budget, std::size_t most) noexcept {
    while (budget.graphs() >= most) {
        Seat* const least = budget.least_used();
        if (least == nullptr) return;
        lose(api, budget, *least);
    }
}

std::map<CUcontext, std::weak_ptr<SeatBudget>> budgets;  // guarded by the interpreter lock

std::shared_ptr<SeatBudget> budget_of(CUcontext context) {
    std::weak_ptr<SeatBudget>& known = budgets[context];
    auto budget = known.lock();
    if (budget == nullptr) known = budget = std::make_shared<SeatBudget>(most_graphs);
    return budget;
}

// Of a node in a launch graph.
driver::KernelLayout layout_of(const InlineShape& shape) {
    driver::KernelLayout layout;
    layout.name = shape.name;
    layout.attributes.cluster.x = shape.cluster;
    layout.attributes.cooperative = shape.cooperative;
    layout.attributes.programmatic = shape.programmatic;
    return layout;
}

class CudaInlineKernel final : public InlineKernel {
  public:
    explicit CudaInlineKernel(InlineShape shape)
        : InlineKernel(std::move(shape)),
          api_(driver::cuda_api()),
          function_(reinterpret_cast<CUfunction>(shape_.function)),
          node_(layout_of(shape_), nullptr, function_, false) {
        driver::check_cuda(api_.cuCtxGetCurrent_(&context_), "asking for the current CUDA context");
        CUdevice device = 0;
        driver::check_cuda(api_.cuCtxGetDevice_(&device), "asking for the current CUDA device");
        device_ = device;
        std::size_t offset = 0, size = 0;
        while (api_.cuFuncGetParamInfo_(function_, params_.size(), &offset, &size) == CUDA_SUCCESS) {
            params_.push_back({static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(size)});
            param_bytes_ = std::max(param_bytes_, offset + size);
        }
        const auto add = [&](CUlaunchAttributeID id) -> CUlaunchAttributeValue& {
            attributes_[attribute_count_].id = id;
            return attributes_[attribute_count_++].value;
        };
        if (shape_.programmatic)
            add(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
                .programmaticStreamSerializationAllowed = 1;
        if (shape_.cooperative) add(CU_LAUNCH_ATTRIBUTE_COOPERATIVE).cooperative = 1;
        if (shape_.cluster != 1) {
            add(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION).clusterDim = {shape_.cluster, 1, 1};
            add(CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE).clusterSchedulingPolicyPreference =
                CU_CLUSTER_SCHEDULING_POLICY_SPREAD;
        }
        budget_ = budget_of(context_);
    }
    ~CudaInlineKernel() override {
        seats_.each([&](Seat& seat) { lose(api_, *budget_, seat); });
    }

    std::uint64_t context() const noexcept override { return reinterpret_cast<std::uint64_t>(context_); }
    int device() const noexcept override { return device_; }
    const std::vector<Place>& params() const noexcept override { return params_; }
    std::size_t graphs() const noexcept override { return budget_->graphs(); }

    Turn begin(std::uint64_t stream) noexcept override;
    void issue(Turn& turn, const Dim3& grid, const std::byte* params, std::uint64_t stream) noexcept override;
    void end(const Turn& turn) noexcept override;

    driver::Kernel& node() noexcept override { return node_; }
    std::uint32_t param_bytes() const noexcept override { return static_cast<std::uint32_t>(param_bytes_); }
    int launch_plainly(const Dim3& grid, const std::byte* params, std::uint64_t stream) noexcept override;

  private:
    OneNodeGraph* make(const Dim3& grid, const std::byte* params, CUstream stream) noexcept;
    bool retarget(OneNodeGraph& graph, const Dim3& grid, const std::byte* params) noexcept;
    // A node of these; CUDA copies what it points to.
    struct Node {
        Node(const CudaInlineKernel& kernel, const Dim3& grid, const std::byte* params)
            : bytes(kernel.param_bytes_),
              extra{CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(params),
                    CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END} {
            node.func = kernel.function_;
            node.gridDimX = grid.x;
            node.gridDimY = grid.y;
            node.gridDimZ = grid.z;
            node.blockDimX = kernel.shape_.block.x;
            node.blockDimY = kernel.shape_.block.y;
            node.blockDimZ = kernel.shape_.block.z;
            node.sharedMemBytes = kernel.shape_.shared_bytes;
            node.extra = bytes == 0 ? nullptr : extra;
        }
        Node(const Node&) = delete;
        Node& operator=(const Node&) = delete;
        std::size_t bytes;
        void* extra[5];
        CUDA_KERNEL_NODE_PARAMS node{};
    };

    const CudaApi& api_;
    CUfunction function_;
    driver::CudaKernel node_;
    CUcontext context_ = nullptr;
    int device_ = 0;
    std::vector<Place> params_;
    std::size_t param_bytes_ = 0;
    std::array<CUlaunchAttribute, 4> attributes_{};
    unsigned attribute_count_ = 0;
    std::shared_ptr<SeatBudget> budget_;
    Seats seats_;
};

InlineKernel::Turn CudaInlineKernel::begin(std::uint64_t stream) noexcept {
    // A programmatic launch overlaps with the one before it on the stream, which a graph's node does not. The
    // stream of each thread is many of one name.
    if (shape_.programmatic || stream_of(stream) == CU_STREAM_PER_THREAD) return {};
    try {
        std::unique_ptr<Seat> gone;
        Seat* const seat = seats_.find(stream, gone);
        if (gone != nullptr) lose(api_, *budget_, *gone);
        if (seat == nullptr) return {};
        const Way way = budget_->choose(*seat);
        if (way == Way::make) make_room(api_, *budget_, budget_->most());
        return {way, way == Way::plain ? nullptr : seat, false, 0};
    } catch (const std::bad_alloc&) {
        return {};
    }
}

void CudaInlineKernel::issue(Turn& turn, const Dim3& grid, const std::byte* params,
                             std::uint64_t stream) noexcept {
    const CUstream to = stream_of(stream);
    if (turn.way != Way::plain && !is_capturing(api_, stream)) [[likely]] {
        if (turn.way == Way::make) turn.seat->graph = make(grid, params, to);
        OneNodeGraph* const graph = turn.seat->graph;
        if (graph != nullptr) {
            if (retarget(*graph, grid, params) && api_.cuGraphLaunch_(graph->exec, to) == CUDA_SUCCESS)
                [[likely]]
                return;
            turn.lost = true;
        }
    }
    turn.result = launch_plainly(grid, params, stream);
}

void CudaInlineKernel::end(const Turn& turn) noexcept {
    if (turn.seat == nullptr) return;
    turn.seat->taken = false;
    if (turn.way == Way::make && turn.seat->graph != nullptr) {
        try {
            budget_->add(*turn.seat);
        } catch (const std::bad_alloc&) {
            destroy(api_, std::exchange(turn.seat->graph, nullptr));
        }
    }
    if (turn.lost) lose(api_, *budget_, *turn.seat);
}

OneNodeGraph* CudaInlineKernel::make(const Dim3& grid, const std::byte* params, CUstream stream) noexcept {
    std::unique_ptr<OneNodeGraph> made;
    try {
        made = std::make_unique<OneNodeGraph>();
        made->params.assign(params, params + param_bytes_);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
    made->grid = grid;
    const WithoutCapture none(api_);
    const Node node(*this, grid, params);
    bool well = api_.cuGraphCreate_(&made->graph, 0) == CUDA_SUCCESS &&
                api_.cuGraphAddKernelNode_(&made->node, made->graph, nullptr, 0, &node.node) == CUDA_SUCCESS;
    // Attributes go with the node, and stay when it is retargeted.
    for (unsigned i = 0; well && i < attribute_count_; ++i)
        well = api_.cuGraphKernelNodeSetAttribute_(made->node,
                                                   static_cast<CUkernelNodeAttrID>(attributes_[i].id),
                                                   &attributes_[i].value) == CUDA_SUCCESS;
    well = well && api_.cuGraphInstantiate_(&made->exec, made->graph, 0) == CUDA_SUCCESS;
    // Now, rather than within its first launch.
    well = well && api_.cuGraphUpload_(made->exec, stream) == CUDA_SUCCESS;
    if (well) return made.release();
    destroy(api_, made.release());
    return nullptr;
}

bool CudaInlineKernel::retarget(OneNodeGraph& graph, const Dim3& grid, const std::byte* params) noexcept {
    if (graph.grid.x == grid.x && graph.grid.y == grid.y && graph.grid.z == grid.z &&
        std::memcmp(graph.params.data(), params, param_bytes_) == 0)
        return true;  // what the last launch was given, this one is
    const Node node(*this, grid, params);
    if (api_.cuGraphExecKernelNodeSetParams_(graph.exec, graph.node, &node.node) != CUDA_SUCCESS)
        return false;
    graph.grid = grid;
    std::memcpy(graph.params.data(), params, param_bytes_);
    return true;
}

int CudaInlineKernel::launch_plainly(const Dim3& grid, const std::byte* params,
                                     std::uint64_t stream) noexcept {
    std::size_t bytes = param_bytes_;
    void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(params),
                     CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    CUlaunchConfig config{};
    config.gridDimX = grid.x;
    config.gridDimY = grid.y;
    config.gridDimZ = grid.z;
    config.blockDimX = shape_.block.x;
    config.blockDimY = shape_.block.y;
    config.blockDimZ = shape_.block.z;
    config.sharedMemBytes = shape_.shared_bytes;
    config.hStream = stream_of(stream);
    config.attrs = attributes_.data();
    config.numAttrs = attribute_count_;
    return api_.cuLaunchKernelEx_(&config, function_, nullptr, bytes == 0 ? nullptr : extra);
}

const CudaApi* loaded = nullptr;

}  // namespace

void load_cuda() {
    loaded = &driver::cuda_api(
        "have a daemon launch it on its GPU, which takes buffers of a client in place of tensors");
}

std::uint64_t current_context() noexcept {
    CUcontext context = nullptr;
    return loaded != nullptr && loaded->cuCtxGetCurrent_(&context) == CUDA_SUCCESS
               ? reinterpret_cast<std::uint64_t>(context)
               : 0;
}

bool device_address(std::uint64_t& address) noexcept {
    if (address == 0) return true;
    CUdeviceptr known = 0;
    if (loaded == nullptr ||
        loaded->cuPointerGetAttribute_(&known, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, address) != CUDA_SUCCESS)
        return false;
    address = known;
    return true;
}

InlineDevice inline_device() {
    load_cuda();
    CUdevice device = 0;
    driver::check_cuda(loaded->cuCtxGetDevice_(&device), "asking for the current CUDA device");
    const auto attribute = [&](CUdevice_attribute which) {
        int value = 0;
        driver::check_cuda(loaded->cuDeviceGetAttribute_(&value, which, device), "asking what a device has");
        return value;
    };
    return {device,
            10 * attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)};
}

InlineFunction load_inline_function(const std::string& image, const std::string& entry, bool large_clusters) {
    load_cuda();
    const WithoutCapture none(*loaded);
    const std::string what = "kernel '" + entry + "'";
    CUmodule module = nullptr;
    driver::check_cuda(loaded->cuModuleLoadDataEx_(&module, image.data(), 0, nullptr, nullptr),
                       "loading the image of " + what, Status::bad_image);
    CUfunction function = nullptr;
    driver::check_cuda(loaded->cuModuleGetFunction_(&function, module, entry.c_str()),
                       "looking for " + what + " in its image", Status::bad_image);
    driver::check_cuda(loaded->cuFuncLoad_(function), "loading " + what);
    if (large_clusters)
        driver::check_cuda(
            loaded->cuFuncSetAttribute_(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
            "allowing " + what + " large clusters");
    const auto attribute = [&](CUfunction_attribute which) {
        int value = 0;
        driver::check_cuda(loaded->cuFuncGetAttribute_(&value, which, function),
                           "reading an attribute of " + what);
        return value;
    };
    return {reinterpret_cast<std::uint64_t>(function), attribute(CU_FUNC_ATTRIBUTE_NUM_REGS),
            attribute(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES), attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES),
            attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)};
}

void allow_inline_shared(std::uint64_t function, std::uint32_t bytes) {
    driver::check_cuda(
        loaded->cuFuncSetAttribute_(reinterpret_cast<CUfunction>(function),
                                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(bytes)),
        "letting a kernel use the device's shared memory");
}

bool launches_by_itself(std::uint64_t stream) noexcept {
    return stream_of(stream) == CU_STREAM_PER_THREAD || is_capturing(*loaded, stream);
}

std::unique_ptr<InlineKernel> make_inline_kernel(const InlineShape& shape) {
    load_cuda();
    return std::make_unique<CudaInlineKernel>(shape);
}

int encode_tensor_map(const triton::TensorMapKind& kind, const std::uint64_t* of, TensorMap& out) noexcept {
    return driver::encode_tensor_map(of[0], layout_of(kind, of), kind.small_mended, out);
}

std::string inline_error_text(int result) {
    return driver::cuda_error_text(static_cast<CUresult>(result));
}

void set_most_inline_graphs(std::size_t most) {
    most_graphs = most;
    for (const auto& [context, known] : budgets)
        if (const auto budget = known.lock()) {
            budget->set_most(most);
            make_room(driver::cuda_api(), *budget, most + 1);
        }
}

}  // namespace ringlaunch::python
