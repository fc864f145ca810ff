// Launches of a region, in the program's own CUDA context: through the launch graphs and chains that the
// daemon's cuda driver has, on a stream of the program's.
#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_graphs.hpp"
#include "daemon/driver/graph_pool.hpp"
#include "inline_kernel.hpp"

namespace ringlaunch::python {

using driver::CudaApi;
using driver::CudaGraphs;

namespace {

// Of a context, of its device's memory.
constexpr std::uint64_t kGraphBytes = 64u << 20;

// While this lives, the context is the calling thread's, and what the thread does to memory breaks nobody's
// capture of a stream.
class Entered {
  public:
    Entered(const CudaApi& api, CUcontext context) : api_(api) {
        api_.cuCtxGetCurrent_(&before_);
        changed_ = before_ != context && api_.cuCtxSetCurrent_(context) == CUDA_SUCCESS;
        api_.cuThreadExchangeStreamCaptureMode_(&mode_);
    }
    ~Entered() {
        api_.cuThreadExchangeStreamCaptureMode_(&mode_);
        if (changed_) api_.cuCtxSetCurrent_(before_);
    }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;

  private:
    const CudaApi& api_;
    CUcontext before_ = nullptr;
    CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
    bool changed_ = false;
};

class CudaIssuer final : public StreamIssuer {
  public:
    CudaIssuer() : api_(driver::cuda_api()) {}

    void aim(std::uint64_t context, std::uint64_t stream) override;
    void forget(InlineKernel& kernel) noexcept override;
    std::size_t issue(std::span<LaunchRing::Entry* const> entries, Refusal& why) noexcept override;

  private:
    using Pool = driver::GraphPool<CudaGraphs>;
    struct Target {
        CUcontext context;
        std::uint64_t stream;
        std::uint64_t last_used = 0;
        std::shared_ptr<driver::GraphBudget> budget;  // with the other targets of the context
        std::unique_ptr<Pool> graphs;
    };
    // Streams come and go: beyond this many the least used loses its graphs.
    static constexpr std::size_t kMostTargets = 16;

    void lose(Target& target) noexcept {
        const Entered entered(api_, target.context);
        target.graphs.reset();
    }

    const CudaApi& api_;
    std::vector<std::unique_ptr<Target>> targets_;
    Target* target_ = nullptr;
    std::uint64_t clock_ = 0;
};

void CudaIssuer::aim(std::uint64_t context, std::uint64_t stream) {
    const auto wanted = reinterpret_cast<CUcontext>(context);
    target_ = nullptr;
    std::shared_ptr<driver::GraphBudget> budget;
    for (const auto& each : targets_) {
        if (each->context != wanted) continue;
        budget = each->budget;
        if (each->stream == stream) target_ = each.get();
    }
    if (target_ == nullptr) {
        if (targets_.size() >= kMostTargets) {
            const auto least =
                std::min_element(targets_.begin(), targets_.end(),
                                 [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
            lose(**least);
            targets_.erase(least);
        }
        if (budget == nullptr) budget = std::make_shared<driver::GraphBudget>(kGraphBytes);
        // That a graph has ended nobody says here: CUDA keeps one that is destroyed until it has.
        auto graphs =
            std::make_unique<Pool>(CudaGraphs(reinterpret_cast<CUstream>(stream), nullptr), *budget);
        targets_.push_back(
            std::make_unique<Target>(Target{wanted, stream, 0, std::move(budget), std::move(graphs)}));
        target_ = targets_.back().get();
    }
    target_->last_used = ++clock_;
}

void CudaIssuer::forget(InlineKernel& kernel) noexcept {
    for (const auto& each : targets_) {
        if (reinterpret_cast<std::uint64_t>(each->context) != kernel.context()) continue;
        const Entered entered(api_, each->context);
        each->graphs->forget(kernel.node());
    }
}

std::size_t CudaIssuer::issue(std::span<LaunchRing::Entry* const> entries, Refusal& why) noexcept {
    const Entered entered(api_, target_->context);
    std::array<driver::Launch, LaunchWorker::kMostAtOnce> launches;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        LaunchRing::Entry& entry = *entries[i];
        const InlineShape& shape = entry.kernel->shape();
        driver::Launch& launch = launches[i];
        launch.kernel = &entry.kernel->node();
        launch.grid = {entry.grid.x, entry.grid.y, entry.grid.z};
        launch.block = {shape.block.x, shape.block.y, shape.block.z};
        launch.shared_bytes = shape.shared_bytes;
        launch.params = entry.params();
        launch.param_bytes = entry.kernel->param_bytes();
    }
    const std::span<const driver::Launch> all(launches.data(), entries.size());
    std::size_t done = 0;
    while (done < entries.size()) {
        if (const std::size_t chained = target_->graphs->launch_chain(all.subspan(done)); chained != 0) {
            done += chained;
            continue;
        }
        if (!target_->graphs->launch(all[done])) {
            LaunchRing::Entry& entry = *entries[done];
            const int result = entry.kernel->launch_plainly(entry.grid, entry.params(), target_->stream);
            if (result != CUDA_SUCCESS) {
                why = {entry.kernel->shape().name, result};
                return done;
            }
        }
        ++done;
    }
    return done;
}

}  // namespace

std::unique_ptr<StreamIssuer> make_issuer() {
    return std::make_unique<CudaIssuer>();
}

}  // namespace ringlaunch::python
