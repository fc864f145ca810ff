// Which launch graphs a stream has, and which of them takes a launch: the same for every driver.
//
// A kernel that comes again gets a graph of one node, a backlog goes into chains (chain_policy.hpp). Both are
// made at need, under a budget that all streams of a device share, and retargeted for each launch; the least
// used graph of one node is thrown out. What a graph does not take (a launch that no node can express, a
// kernel that was launched a few times only, a graph that still runs, no memory) is the caller's to launch
// plainly, and is told the right error there.
//
// Dispatch thread, but for construction and destruction.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <new>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/driver/chain_policy.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// What the graphs of all streams may take of the device's memory. The dispatch thread takes, the control
// thread gives back with a stream.
class GraphBudget {
  public:
    explicit GraphBudget(std::uint64_t bytes) : left_(static_cast<std::int64_t>(bytes)) {}
    // relaxed: a number, nothing is read on the strength of it.
    bool take(std::uint64_t bytes) noexcept {
        if (left_.fetch_sub(static_cast<std::int64_t>(bytes), std::memory_order_relaxed) >=
            static_cast<std::int64_t>(bytes))
            return true;
        give_back(bytes);
        return false;
    }
    void give_back(std::uint64_t bytes) noexcept {
        left_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
    }
    std::int64_t left() const noexcept { return left_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::int64_t> left_;
};

// A driver's graphs, whose nodes run one after another. Nothing of it throws.
template <class G>
concept LaunchGraphs = requires(G graphs, typename G::Graph& graph, const Launch& launch,
                                std::span<const Launch> launches) {
    requires std::default_initializable<typename G::Graph>;
    // Can a node express it?
    { graphs.fits(launch) } -> std::same_as<bool>;
    // What a graph takes of the budget.
    { G::bytes_of(launches.size()) } -> std::same_as<std::uint64_t>;
    // A graph of these launches. False: there is none, and `graph` is as it was made by default.
    { graphs.make(graph, launches) } -> std::same_as<bool>;
    // May it not be retargeted now?
    { graphs.busy(graph) } -> std::same_as<bool>;
    // The next launch of it is of these, as many as it has nodes. False: it has to be destroyed.
    { graphs.retarget(graph, launches) } -> std::same_as<bool>;
    // False: nothing was launched.
    { graphs.launch(graph) } -> std::same_as<bool>;
    // What runs of it ends all the same.
    {graphs.destroy(graph)};
};

template <LaunchGraphs Graphs>
class GraphPool {
  public:
    // `budget` lives longer.
    GraphPool(Graphs graphs, GraphBudget& budget) : graphs_(std::move(graphs)), budget_(budget) {}
    ~GraphPool() {
        for (auto& [kernel, single] : singles_) destroy(single.graph);
        for (Chains& chains : chains_)
            for (Owned& graph : chains.copies) destroy(graph);
    }
    GraphPool(const GraphPool&) = delete;
    GraphPool& operator=(const GraphPool&) = delete;

    // Makes a graph for a kernel that was launched often enough (once); else allocates nothing. False:
    // nothing was done.
    [[nodiscard]] bool launch(const Launch& launch) noexcept;
    // The first of these launches as one chain. How many were launched; 0: nothing was done.
    [[nodiscard]] std::size_t launch_chain(std::span<const Launch> launches) noexcept;
    // The module is about to be unloaded, and nothing of it runs: no graph may know its kernels then.
    void forget(const Module& module) noexcept;

    // A kernel has shown that it will come again.
    static constexpr std::uint32_t kLaunchesBeforeGraph = 4;
    static constexpr std::uint32_t kBacklogsBeforeChain = 2;
    // Of one stream.
    static constexpr std::size_t kMostSingles = 64;
    static constexpr std::size_t kMostCounted = 256;

  private:
    struct Owned {
        typename Graphs::Graph graph{};
        std::vector<const Module*> modules;  // whose kernel each node has; empty: there is no graph
    };
    struct Single {
        std::uint32_t launches = 0;  // so far, until the graph is made
        std::uint64_t last_used = 0;
        Owned graph;
    };
    struct Chains {
        std::uint32_t wanted = 0;  // how often, until the first is made
        std::size_t next = 0;
        std::array<Owned, kChainCopies> copies;
    };

    static void note_modules(Owned& owned, std::span<const Launch> launches) noexcept {
        for (std::size_t i = 0; i < launches.size(); ++i) owned.modules[i] = launches[i].kernel->owner();
    }
    bool make(Owned& owned, std::span<const Launch> launches) noexcept;
    bool retarget(Owned& owned, std::span<const Launch> launches) noexcept;
    void destroy(Owned& owned) noexcept;
    void throw_out_least_used() noexcept;
    void erase(typename std::unordered_map<const Kernel*, Single>::iterator at) noexcept {
        if (!at->second.graph.modules.empty()) --made_;
        destroy(at->second.graph);
        singles_.erase(at);
    }

    Graphs graphs_;
    GraphBudget& budget_;
    std::uint64_t clock_ = 0;  // counts launches
    std::size_t made_ = 0;     // graphs among singles_
    std::unordered_map<const Kernel*, Single> singles_;
    std::array<Chains, kChainLengths.size()> chains_;
};

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::make(Owned& owned, std::span<const Launch> launches) noexcept {
    const std::uint64_t bytes = Graphs::bytes_of(launches.size());
    if (!budget_.take(bytes)) return false;
    try {
        owned.modules.resize(launches.size());
    } catch (const std::bad_alloc&) {
        budget_.give_back(bytes);
        return false;
    }
    note_modules(owned, launches);
    if (graphs_.make(owned.graph, launches)) return true;
    owned.modules.clear();
    budget_.give_back(bytes);
    return false;
}

// One that is half changed is not launched, and nobody knows of which modules it is: it goes.
template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::retarget(Owned& owned, std::span<const Launch> launches) noexcept {
    if (graphs_.busy(owned.graph)) return false;
    if (!graphs_.retarget(owned.graph, launches)) [[unlikely]] {
        destroy(owned);
        return false;
    }
    note_modules(owned, launches);
    return true;
}

template <LaunchGraphs Graphs>
void GraphPool<Graphs>::destroy(Owned& owned) noexcept {
    if (owned.modules.empty()) return;
    budget_.give_back(Graphs::bytes_of(owned.modules.size()));
    graphs_.destroy(owned.graph);
    owned = {};
}

template <LaunchGraphs Graphs>
void GraphPool<Graphs>::throw_out_least_used() noexcept {
    const auto least = std::min_element(singles_.begin(), singles_.end(), [](const auto& a, const auto& b) {
        return a.second.last_used < b.second.last_used;
    });
    if (least != singles_.end()) erase(least);
}

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::launch(const Launch& launch) noexcept {
    if (!graphs_.fits(launch)) return false;
    auto found = singles_.find(launch.kernel);
    if (found == singles_.end()) {
        if (singles_.size() >= kMostCounted) throw_out_least_used();
        try {
            found = singles_.try_emplace(launch.kernel).first;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }
    Single& single = found->second;
    single.last_used = ++clock_;
    if (single.graph.modules.empty()) {
        if (++single.launches <= kLaunchesBeforeGraph) return false;
        single.launches = 0;  // where it cannot be had now, it is tried again, but not at once
        while (made_ >= kMostSingles) throw_out_least_used();
        if (!make(single.graph, {&launch, 1})) return false;
        ++made_;
    } else if (!retarget(single.graph, {&launch, 1})) {
        if (single.graph.modules.empty()) --made_;
        return false;
    }
    return graphs_.launch(single.graph.graph);
}

template <LaunchGraphs Graphs>
std::size_t GraphPool<Graphs>::launch_chain(std::span<const Launch> launches) noexcept {
    const auto plain = std::find_if_not(launches.begin(), launches.end(),
                                        [&](const Launch& launch) { return graphs_.fits(launch); });
    const std::size_t which = chain_for(static_cast<std::size_t>(plain - launches.begin()));
    if (which == kChainLengths.size()) return 0;
    const std::span<const Launch> taken = launches.first(kChainLengths[which]);
    Chains& chains = chains_[which];
    if (chains.wanted < kBacklogsBeforeChain) {
        ++chains.wanted;
        return 0;
    }
    Owned& next = chains.copies[chains.next % kChainCopies];
    if (next.modules.empty() ? !make(next, taken) : !retarget(next, taken)) return 0;
    if (!graphs_.launch(next.graph)) return 0;
    ++chains.next;
    return taken.size();
}

template <LaunchGraphs Graphs>
void GraphPool<Graphs>::forget(const Module& module) noexcept {
    // Those that were only counted go with them: their kernels' addresses may come again.
    for (auto at = singles_.begin(); at != singles_.end();) {
        const auto here = at++;
        if (here->first->owner() == &module) erase(here);
    }
    for (Chains& chains : chains_)
        for (Owned& graph : chains.copies)
            if (std::find(graph.modules.begin(), graph.modules.end(), &module) != graph.modules.end())
                destroy(graph);
}

}  // namespace ringlaunch::driver
