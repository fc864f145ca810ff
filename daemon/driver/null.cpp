#include "daemon/driver/null.hpp"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>

#include "daemon/driver/graph_pool.hpp"
#include "daemon/driver/host_graph.hpp"
#include "daemon/driver/image_module.hpp"
#include "daemon/driver/memory.hpp"
#include "daemon/driver/memory_graph.hpp"
#include "daemon/driver/tensor_map.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

// What a GPU of today grants a block, so that a cubin's launch records pass as they would there.
constexpr std::uint32_t kGpuSharedBytes = 227 * 1024;

class NullKernel final : public Kernel {
  public:
    explicit NullKernel(KernelLayout layout) : Kernel(std::move(layout)) {}
};

class NullModule final : public OwningModule {
  public:
    explicit NullModule(ReadModule read) {
        for (KernelLayout& layout : read.layouts) {
            if (read.image.kind == ImageKind::cubin && layout.static_shared_bytes < kGpuSharedBytes)
                layout.max_dynamic_shared_bytes = kGpuSharedBytes - layout.static_shared_bytes;
            add(std::make_unique<NullKernel>(std::move(layout)));
        }
    }

  private:
    std::unique_ptr<Kernel> configured(const Kernel&, KernelLayout layout) override {
        return std::make_unique<NullKernel>(std::move(layout));
    }
};

// Everything has completed where it is issued, on the dispatch thread; like a GPU it says so where it was
// asked to.
class NullStream final : public Stream {
  public:
    // `budget` lives longer.
    NullStream(const StreamConfig& config, int completion_fd, GraphBudget& budget)
        : completed_(config.completed), position_(config.position), completion_fd_(completion_fd) {
        if (config.coalesce) graphs_.emplace(Graphs(position_), budget);
        publish();
    }

    Status launch(const Launch& launch) noexcept override {
        if (!graphs_ || !graphs_->launch(launch)) position_ = launch.end;
        return Status::ok;
    }
    Status launch_chain(std::span<const Launch> launches, std::size_t& taken) noexcept override {
        return launch_each(
            graphs_ ? &*graphs_ : nullptr, launches, taken,
            [this](const Launch& each) { return launch(each); }, [](std::span<const Launch>) {});
    }
    GraphUse graph_use() const noexcept override { return graphs_ ? graphs_->use() : GraphUse{}; }
    void forget(const Module& module) noexcept override {
        if (graphs_) graphs_->forget(module);
    }
    void forget_all() noexcept override {
        if (graphs_) graphs_->forget_all();
    }
    Status launch_graph(Graph& graph, std::uint64_t, std::uint64_t end) noexcept override {
        const GraphSequence& sequence = static_cast<HostGraph&>(graph).now();
        for (std::size_t i = 0; i < sequence.size(); ++i) {
            if (const auto* copy = std::get_if<Copy>(&sequence.node(i))) run_copy(*copy);
            if (const auto* fill = std::get_if<Fill>(&sequence.node(i))) run_fill(*fill);
        }
        position_ = end;
        return Status::ok;
    }
    Status copy(const Copy& copy) noexcept override {
        run_copy(copy);
        position_ = copy.end;
        return Status::ok;
    }
    Status fill(const Fill& fill) noexcept override {
        run_fill(fill);
        position_ = fill.end;
        return Status::ok;
    }
    Status wait(Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept override {
        // What was issued has completed, so there is nothing to wait for.
        if (static_cast<NullStream&>(awaited).position_ < position) return Status::invalid_argument;
        position_ = end;
        return Status::ok;
    }
    Status complete(std::uint64_t position) noexcept override {
        position_ = std::max(position_, position);
        publish();
        return Status::ok;
    }
    bool notify_at(std::uint64_t) noexcept override {
        (void)::eventfd_write(completion_fd_, 1);
        return true;
    }
    bool drain(std::uint64_t) noexcept override { return true; }

  private:
    // A graph that is launched has run.
    class Graphs {
      public:
        using Graph = std::unique_ptr<MemoryGraph>;
        explicit Graphs(std::uint64_t& position) : position_(position) {}
        static bool fits(const Launch& launch) noexcept { return MemoryGraph::fits(launch); }
        static std::uint64_t bytes_of(std::size_t nodes) noexcept { return MemoryGraph::bytes_of(nodes); }
        static bool make(Graph& graph, std::span<const Launch> launches) noexcept {
            try {
                graph = std::make_unique<MemoryGraph>(launches.size());
            } catch (const std::bad_alloc&) {
                return false;
            }
            return retarget(graph, launches);
        }
        static constexpr bool busy(const Graph&) noexcept { return false; }
        static constexpr bool running(const Graph&) noexcept { return false; }
        static bool retarget(Graph& graph, std::span<const Launch> launches) noexcept {
            graph->write(launches);
            return true;
        }
        bool launch(const Graph& graph) noexcept {
            position_ = graph->end();
            return true;
        }
        static void destroy(Graph& graph) noexcept { graph.reset(); }

      private:
        std::uint64_t& position_;
    };

    void publish() noexcept {
        // sync: COMPLETED (pairs with RingProducer::reserve and with clients that wait): what copies and
        // fills wrote happens before the client sees them completed.
        completed_->store(position_, std::memory_order_release);
    }

    SharedU64* completed_;
    std::uint64_t position_;  // what was issued ends here
    int completion_fd_;
    std::optional<GraphPool<Graphs>> graphs_;  // none where launches are not coalesced
};

class NullDriver final : public Driver {
  public:
    explicit NullDriver(int device) : memory_(device), completion_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (!completion_)
            throw Error(Status::limit_reached,
                        std::string("the null driver cannot make an eventfd: ") + std::strerror(errno));
        device_.kind = DriverKind::Null;
        device_.name = "null";
        device_.architecture = "any";
        device_.ordinal = device;
        memory_.describe(device_);
        device_.max_grid = {2147483647, 65535, 65535};
        device_.max_block = {1024, 1024, 64};
    }

    const DeviceInfo& device() const override { return device_; }
    UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes) override {
        return memory_.make_chunk(address, bytes);
    }
    void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) override {
        memory_.map_chunk(address, bytes, chunk);
    }
    void unmap_chunk(std::uint64_t address, std::uint64_t bytes) override {
        memory_.unmap_chunk(address, bytes);
    }
    std::unique_ptr<Staging> map_staging(std::uint64_t address, const UniqueFd& segment,
                                         std::uint64_t bytes) override {
        return memory_.map_staging(address, segment, bytes);
    }
    std::unique_ptr<Module> load_module(const std::string& name, const UniqueFd& image, std::uint64_t bytes,
                                        const LoadOptions& options) override {
        return std::make_unique<NullModule>(
            read_module("the null driver", true, name, image, bytes, options.signatures));
    }
    std::unique_ptr<Stream> open_stream(const StreamConfig& config) override {
        return std::make_unique<NullStream>(config, completion_.get(), graphs_);
    }
    TensorMap make_tensor_map(std::uint64_t address, std::uint64_t bytes,
                              const TensorLayout& layout) override {
        check_tensor(address, bytes, layout);
        return null_tensor_map(address, layout);
    }
    std::unique_ptr<Graph> make_graph(std::span<const GraphNode> nodes) override {
        return std::make_unique<HostGraph>(nodes);
    }
    int completion_fd() const override { return completion_.get(); }
    std::optional<std::string> failure() noexcept override { return std::nullopt; }

  private:
    DeviceInfo device_;
    HostMemory memory_;
    UniqueFd completion_;
    GraphBudget graphs_{kMemoryGraphBytes};
};

}  // namespace

std::unique_ptr<Driver> make_null_driver(int device) {
    return std::make_unique<NullDriver>(device);
}

}  // namespace ringlaunch::driver
