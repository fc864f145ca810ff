// Which launch graphs a stream has, and which of them takes a launch: the same for every driver.
//
// A kernel that comes again gets a graph of one node, a sequence of kernels that comes again a chain
// (chain_policy.hpp). Both are made at need, under a budget that all streams of a device share, and given new
// parameters for each launch; the least used are thrown out, those of other streams too (GraphBudget). What a
// graph does not take (a launch that no node can express, what was met a few times only, a graph that still
// runs, no memory) is the caller's to launch plainly, and is told the right error there.
//
// Pools that share a budget belong to one thread, the device's dispatch thread (a region's to whoever holds
// its worker's lock): it uses them all, and throws graphs out of each. Any thread makes and destroys them.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <mutex>
#include <new>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/driver/chain_policy.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// Who has graphs of a budget: a stream's pool.
class GraphOwner {
  public:
    // Has it a graph that was used before `than` and does not run? Sets `than` to when the one that was used
    // longest ago was.
    virtual bool find_unused(std::uint64_t& than) noexcept = 0;
    // Destroys what find_unused() found just now.
    virtual void throw_out_unused() noexcept = 0;

  protected:
    ~GraphOwner() = default;
};

// What the graphs of all streams of a device share: how much of its memory they may take, and which sequences
// of kernels were met. The dispatch thread takes memory, the control thread gives back with a stream.
//
// Who is due a graph when all is taken gets the room of the one that was used longest ago, whosesoever that
// is, if it does not run and the device was given kStillUsed launches since. So a stream that was left alone
// keeps nothing from its neighbours, and busy streams that want more together than there is do not throw each
// other's graphs out in turn. A bound in launches rather than in time: what it costs the one who has to wait
// is that many plain launches, once.
class GraphBudget {
  public:
    static constexpr std::uint64_t kStillUsed = 1 << 16;

    explicit GraphBudget(std::uint64_t bytes, std::uint64_t still_used = kStillUsed)
        : bytes_(bytes), still_used_(still_used), left_(static_cast<std::int64_t>(bytes)) {}
    GraphBudget(const GraphBudget&) = delete;
    GraphBudget& operator=(const GraphBudget&) = delete;
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
    // Any thread. The owner lives until it has left.
    void join(GraphOwner& owner) {
        const std::scoped_lock hold(owners_lock_);
        owners_.push_back(&owner);
    }
    void leave(GraphOwner& owner) noexcept {
        const std::scoped_lock hold(owners_lock_);
        std::erase(owners_, &owner);
    }

    // ---- dispatch thread

    // As take(), where need be by throwing out graphs that nobody uses.
    bool take_or_throw_out(std::uint64_t bytes) noexcept {
        while (!take(bytes))
            if (bytes > bytes_ || !throw_out_unused()) return false;
        return true;
    }
    // Counts launches, and says when this is.
    std::uint64_t tick(std::uint64_t launches) noexcept { return clock_ += launches; }
    Sightings& sightings() noexcept { return sightings_; }

  private:
    bool throw_out_unused() noexcept {
        if (clock_ < look_again_at_) return false;
        // Whoever joins or leaves just now is not waited for.
        const std::unique_lock hold(owners_lock_, std::try_to_lock);
        if (!hold) return false;
        std::uint64_t used = clock_;
        GraphOwner* of = nullptr;
        for (GraphOwner* owner : owners_)
            if (owner->find_unused(used)) of = owner;
        if (of == nullptr || clock_ - used < still_used_) {
            // Before that nothing is old enough; what is, and ran just now, is found a little later.
            look_again_at_ = std::min(used + still_used_, clock_ + still_used_ / 16);
            return false;
        }
        of->throw_out_unused();
        return true;
    }

    const std::uint64_t bytes_, still_used_;
    std::atomic<std::int64_t> left_;
    std::uint64_t clock_ = 0;  // launches
    std::uint64_t look_again_at_ = 0;
    Sightings sightings_;
    std::mutex owners_lock_;
    std::vector<GraphOwner*> owners_;
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
    // May its last launch, of which the stream knows, not have ended?
    { graphs.running(graph) } -> std::same_as<bool>;
    // The next launch of it is of these: as many as it has nodes, and each of its node's kernel. False: it
    // has to be destroyed.
    { graphs.retarget(graph, launches) } -> std::same_as<bool>;
    // False: nothing was launched.
    { graphs.launch(graph) } -> std::same_as<bool>;
    // What runs of it ends all the same.
    {graphs.destroy(graph)};
};

template <LaunchGraphs Graphs>
class GraphPool final : GraphOwner {
  public:
    // `budget` lives longer.
    GraphPool(Graphs graphs, GraphBudget& budget) : graphs_(std::move(graphs)), budget_(budget) {
        budget_.join(*this);
    }
    ~GraphPool() {
        budget_.leave(*this);
        for (auto& [kernel, single] : singles_) destroy(single.graph);
        for (auto& [key, chain] : chains_) destroy(chain);
    }
    GraphPool(const GraphPool&) = delete;
    GraphPool& operator=(const GraphPool&) = delete;

    // Makes a graph for a kernel that was launched often enough (once); else allocates nothing. False:
    // nothing was done.
    [[nodiscard]] bool launch(const Launch& launch) noexcept;
    // The first of these launches as one chain. How many were launched; 0: nothing was done.
    [[nodiscard]] std::size_t launch_chain(std::span<const Launch> launches) noexcept;
    // The module, or the kernel, is about to be unloaded, and nothing of it runs: no graph may know it then.
    void forget(const Module& module) noexcept {
        forget_those([&](const Kernel* kernel) { return kernel->owner() == &module; });
    }
    void forget(const Kernel& kernel) noexcept {
        forget_those([&](const Kernel* known) { return known == &kernel; });
    }

    // The same for all kernels.
    void forget_all() noexcept {
        forget_those([](const Kernel*) { return true; });
    }
    const GraphUse& use() const noexcept { return use_; }

    // A kernel has shown that it will come again.
    static constexpr std::uint32_t kLaunchesBeforeGraph = 4;
    // Of one stream.
    static constexpr std::size_t kMostSingles = 64;
    static constexpr std::size_t kMostCounted = 256;
    static constexpr std::size_t kMostChains = 256;
    // So often is a chain launched again while it may still run until it gets another copy.
    static constexpr std::uint64_t kUsesBeforeCopy = 64;

  private:
    struct Owned {
        typename Graphs::Graph graph{};
        std::size_t nodes = 0;  // 0: there is no graph
    };
    struct Single {
        std::uint32_t launches = 0;  // so far, until the graph is made
        std::uint64_t last_used = 0;
        Owned graph;
    };
    struct Chain {
        std::vector<const Kernel*> kernels;
        std::uint64_t last_used = 0;
        std::uint64_t last_turn = 0;   // the same by `chain_clock_`
        std::uint64_t soon_again = 0;  // how often it was launched shortly after its last launch
        std::size_t next = 0;          // whose turn it is
        std::vector<Owned> copies;
    };
    using Singles = std::unordered_map<const Kernel*, Single>;
    using Chains = std::unordered_map<std::uint64_t, Chain>;

    bool find_unused(std::uint64_t& than) noexcept override;
    void throw_out_unused() noexcept override;
    bool make(Owned& owned, std::span<const Launch> launches) noexcept;
    bool retarget(Owned& owned, std::span<const Launch> launches) noexcept;
    void destroy(Owned& owned) noexcept;
    void destroy(Chain& chain) noexcept {
        for (Owned& copy : chain.copies) destroy(copy);
    }
    bool knows(std::uint64_t key, std::span<const Launch> launches) const noexcept;
    bool launch_known(std::uint64_t key, std::span<const Launch> launches) noexcept;
    bool launch_new(std::uint64_t key, std::span<const Launch> launches) noexcept;
    Owned* new_copy(Chain& chain, std::span<const Launch> launches) noexcept;
    Owned* written_copy(Chain& chain, std::span<const Launch> launches) noexcept;
    template <class Map>
    void throw_out_least_used(Map& map) noexcept;
    template <class Goes>
    void forget_those(const Goes& goes) noexcept;
    void erase(typename Singles::iterator at) noexcept {
        if (at->second.graph.nodes != 0) --made_;
        destroy(at->second.graph);
        singles_.erase(at);
    }
    typename Chains::iterator erase(typename Chains::iterator at) noexcept {
        destroy(at->second);
        return chains_.erase(at);
    }

    Graphs graphs_;
    GraphBudget& budget_;
    GraphUse use_;
    std::uint64_t chain_clock_ = 0;  // counts chains
    std::size_t made_ = 0;           // graphs among singles_
    Singles singles_;
    Chains chains_;  // by SequenceKey
    // What find_unused() found; end(): it was the other.
    typename Singles::iterator unused_single_;
    typename Chains::iterator unused_chain_;
    MakingAllowance making_;
};

// Launches all of these in order: those that a chain takes together, the others by `single(launch)`, whose
// status ends it where it is not ok. `chained(launches)` is told of each chain. `taken`: how many were
// launched. `pool` null: no graphs.
//
// Where no chain begins the next place to look for one is 1 launch further, then 2, 4 and so on: a look costs
// as much as a tenth of a launch, and in an order that does not come again all are in vain.
template <class Pool, class Single, class Chained>
Status launch_each(Pool* pool, std::span<const Launch> launches, std::size_t& taken, Single&& single,
                   Chained&& chained) noexcept {
    std::size_t look_at = 0, step = 1;
    for (taken = 0; taken < launches.size();) {
        if (pool != nullptr && taken >= look_at) {
            if (const std::size_t length = pool->launch_chain(launches.subspan(taken)); length != 0) {
                chained(launches.subspan(taken, length));
                taken += length;
                step = 1;
                continue;
            }
            look_at = taken + step;
            step *= 2;
        }
        if (const Status status = single(launches[taken]); status != Status::ok) return status;
        ++taken;
    }
    return Status::ok;
}

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::make(Owned& owned, std::span<const Launch> launches) noexcept {
    const std::uint64_t bytes = Graphs::bytes_of(launches.size());
    if (!budget_.take_or_throw_out(bytes)) return false;
    if (!graphs_.make(owned.graph, launches)) {
        budget_.give_back(bytes);
        return false;
    }
    owned.nodes = launches.size();
    making_.spend(owned.nodes);
    return true;
}

// One that is half changed is not launched: it goes.
template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::retarget(Owned& owned, std::span<const Launch> launches) noexcept {
    if (graphs_.busy(owned.graph)) return false;
    if (graphs_.retarget(owned.graph, launches)) [[likely]]
        return true;
    destroy(owned);
    return false;
}

template <LaunchGraphs Graphs>
void GraphPool<Graphs>::destroy(Owned& owned) noexcept {
    if (owned.nodes == 0) return;
    budget_.give_back(Graphs::bytes_of(owned.nodes));
    graphs_.destroy(owned.graph);
    owned = {};
}

template <LaunchGraphs Graphs>
template <class Map>
void GraphPool<Graphs>::throw_out_least_used(Map& map) noexcept {
    const auto least = std::min_element(map.begin(), map.end(), [](const auto& a, const auto& b) {
        return a.second.last_used < b.second.last_used;
    });
    if (least != map.end()) erase(least);
}

// A chain with all its copies.
template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::find_unused(std::uint64_t& than) noexcept {
    unused_single_ = singles_.end();
    unused_chain_ = chains_.end();
    if (made_ != 0)
        for (auto at = singles_.begin(); at != singles_.end(); ++at) {
            const Single& single = at->second;
            if (single.last_used >= than || single.graph.nodes == 0 || graphs_.running(single.graph.graph))
                continue;
            than = single.last_used;
            unused_single_ = at;
        }
    for (auto at = chains_.begin(); at != chains_.end(); ++at) {
        const Chain& chain = at->second;
        const auto running = [&](const Owned& copy) { return graphs_.running(copy.graph); };
        if (chain.last_used >= than || std::any_of(chain.copies.begin(), chain.copies.end(), running))
            continue;
        than = chain.last_used;
        unused_chain_ = at;
    }
    return unused_single_ != singles_.end() || unused_chain_ != chains_.end();
}

template <LaunchGraphs Graphs>
void GraphPool<Graphs>::throw_out_unused() noexcept {
    if (unused_chain_ != chains_.end())
        erase(unused_chain_);
    else
        erase(unused_single_);
}

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::launch(const Launch& launch) noexcept {
    if (!graphs_.fits(launch)) return false;
    auto found = singles_.find(launch.kernel);
    if (found == singles_.end()) {
        if (singles_.size() >= kMostCounted) throw_out_least_used(singles_);
        try {
            found = singles_.try_emplace(launch.kernel).first;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }
    Single& single = found->second;
    single.last_used = budget_.tick(1);
    making_.earn(1);
    if (single.graph.nodes == 0) {
        if (++single.launches <= kLaunchesBeforeGraph) return false;
        single.launches = 0;  // where it cannot be had now, it is tried again, but not at once
        if (!making_.covers(1)) return false;
        while (made_ >= kMostSingles) throw_out_least_used(singles_);
        if (!make(single.graph, {&launch, 1})) return false;
        ++made_;
    } else if (!retarget(single.graph, {&launch, 1})) {
        if (single.graph.nodes == 0) --made_;
        return false;
    }
    if (!graphs_.launch(single.graph.graph)) return false;
    ++use_.singly;
    return true;
}

template <LaunchGraphs Graphs>
std::size_t GraphPool<Graphs>::launch_chain(std::span<const Launch> launches) noexcept {
    const std::size_t most = std::min(launches.size(), kLongestChain);
    std::array<std::uint64_t, kLongestChain + 1> keys;
    SequenceKey key;
    std::size_t fitting = 0;
    while (fitting < most && graphs_.fits(launches[fitting])) {
        key.add(reinterpret_cast<std::uintptr_t>(launches[fitting].kernel));
        keys[++fitting] = key.value();
    }
    // The longest that is there; where a longer one would fit, that is counted, and made in the end.
    std::size_t longest = 0, known = 0;
    each_chain_length(fitting, [&](std::size_t length) {
        if (longest == 0) longest = length;
        if (knows(keys[length], launches.first(length))) known = length;
        return known != 0;
    });
    std::size_t taken = 0;
    if (known != longest && launch_new(keys[longest], launches.first(longest))) {
        taken = longest;
    } else if (known != 0) {
        if (launch_known(keys[known], launches.first(known))) taken = known;
    } else {
        each_chain_length(fitting, [&](std::size_t length) {
            if (length != longest && launch_new(keys[length], launches.first(length))) taken = length;
            return taken != 0;
        });
    }
    making_.earn(taken);
    use_.chained += taken;
    if (taken >= kLongChain) use_.in_long_chains += taken;
    return taken;
}

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::knows(std::uint64_t key, std::span<const Launch> launches) const noexcept {
    const auto found = chains_.find(key);
    if (found == chains_.end()) return false;
    const auto& kernels = found->second.kernels;
    const auto is = [](const Launch& launch, const Kernel* kernel) { return launch.kernel == kernel; };
    return std::equal(launches.begin(), launches.end(), kernels.begin(), kernels.end(), is);
}

template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::launch_known(std::uint64_t key, std::span<const Launch> launches) noexcept {
    const auto found = chains_.find(key);
    if (found == chains_.end()) return false;  // thrown out for a longer one, which could not be made
    Owned* const copy = written_copy(found->second, launches);
    if (copy != nullptr) return graphs_.launch(copy->graph);
    if (found->second.copies.empty()) erase(found);
    return false;
}

// Counts the sequence, and makes a chain of it when it was met often enough. False: nothing was launched.
template <LaunchGraphs Graphs>
bool GraphPool<Graphs>::launch_new(std::uint64_t key, std::span<const Launch> launches) noexcept {
    Sightings& sightings = budget_.sightings();
    if (sightings.see(key) < sightings_before_chain(launches.size())) return false;
    if (!making_.covers(launches.size()) || chains_.contains(key)) return false;
    sightings.forget(key);
    if (chains_.size() >= kMostChains) throw_out_least_used(chains_);
    auto at = chains_.end();
    try {
        at = chains_.try_emplace(key).first;
        at->second.last_used = budget_.tick(launches.size());
        at->second.last_turn = ++chain_clock_;
        at->second.copies.reserve(kChainCopies);
        for (const Launch& launch : launches) at->second.kernels.push_back(launch.kernel);
    } catch (const std::bad_alloc&) {
        if (at != chains_.end()) chains_.erase(at);
        return false;
    }
    Owned* made = new_copy(at->second, launches);
    if (made == nullptr && chains_.size() > 1) {
        throw_out_least_used(chains_);
        made = new_copy(at->second, launches);
    }
    if (made != nullptr) return graphs_.launch(made->graph);
    chains_.erase(at);
    return false;
}

// Null: there is no room for it.
template <LaunchGraphs Graphs>
auto GraphPool<Graphs>::new_copy(Chain& chain, std::span<const Launch> launches) noexcept -> Owned* {
    Owned made;
    if (!make(made, launches)) return nullptr;
    chain.copies.push_back(std::move(made));  // there is room: it was reserved
    return &chain.copies.back();
}

// A copy that may be launched with these parameters. Null: all run, or the one that was free is gone.
template <LaunchGraphs Graphs>
auto GraphPool<Graphs>::written_copy(Chain& chain, std::span<const Launch> launches) noexcept -> Owned* {
    chain.last_used = budget_.tick(launches.size());
    if (++chain_clock_ - chain.last_turn <= kChainCopies) ++chain.soon_again;
    chain.last_turn = chain_clock_;
    const std::size_t copies = chain.copies.size();
    std::size_t free = 0;
    while (free < copies && graphs_.busy(chain.copies[(chain.next + free) % copies].graph)) ++free;
    // Two take turns where one would do; more only where a graph that runs cannot be rewritten.
    const bool turns = copies == 1 && chain.soon_again > kUsesBeforeCopy;
    if (copies < kChainCopies && (free == copies || turns))
        if (Owned* const made = new_copy(chain, launches)) return made;
    if (free == copies) return nullptr;
    const std::size_t which = (chain.next + free) % copies;
    chain.next = which + 1;
    if (retarget(chain.copies[which], launches)) return &chain.copies[which];
    chain.copies.erase(chain.copies.begin() + static_cast<std::ptrdiff_t>(which));
    return nullptr;
}

template <LaunchGraphs Graphs>
template <class Goes>
void GraphPool<Graphs>::forget_those(const Goes& goes) noexcept {
    // Those that were only counted go with them: their kernels' addresses may come again.
    for (auto at = singles_.begin(); at != singles_.end();) {
        const auto here = at++;
        if (goes(here->first)) erase(here);
    }
    for (auto at = chains_.begin(); at != chains_.end();) {
        const auto& kernels = at->second.kernels;
        at = std::any_of(kernels.begin(), kernels.end(), goes) ? erase(at) : std::next(at);
    }
}

}  // namespace ringlaunch::driver
