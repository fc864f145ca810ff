// Which graphs a stream has and which of them takes a launch, with graphs that keep a log of what they ran.
#include "daemon/driver/graph_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/driver/image_module.hpp"
#include "daemon/driver/memory_graph.hpp"

namespace ringlaunch::driver {
namespace {

class PoolKernel final : public Kernel {
  public:
    explicit PoolKernel(KernelLayout layout) : Kernel(std::move(layout)) {}
};

class PoolModule final : public OwningModule {
  public:
    explicit PoolModule(std::size_t kernels) {
        for (std::size_t i = 0; i < kernels; ++i) add(std::make_unique<PoolKernel>(KernelLayout{}));
    }

  private:
    std::unique_ptr<Kernel> configured(const Kernel&, KernelLayout layout) override {
        return std::make_unique<PoolKernel>(std::move(layout));
    }
};

// What all graphs of a pool did, and what they are told to refuse.
struct Log {
    std::vector<std::uint64_t> ran;  // positions
    std::vector<std::size_t> lengths;
    std::set<const MemoryGraph*> alive;
    std::size_t made = 0, retargeted = 0;
    std::function<bool()> fails = [] { return false; };
    std::function<bool(const MemoryGraph&)> busy = [](const MemoryGraph&) { return false; };
    std::function<bool(const MemoryGraph&)> running = [](const MemoryGraph&) { return false; };
};

class LoggedGraphs {
  public:
    using Graph = std::unique_ptr<MemoryGraph>;
    explicit LoggedGraphs(Log& log) : log_(&log) {}
    static bool fits(const Launch& launch) noexcept { return MemoryGraph::fits(launch); }
    static std::uint64_t bytes_of(std::size_t nodes) noexcept { return 100 + nodes; }
    bool make(Graph& graph, std::span<const Launch> launches) noexcept {
        if (log_->fails()) return false;
        graph = std::make_unique<MemoryGraph>(launches.size());
        graph->write(launches);
        log_->alive.insert(graph.get());
        ++log_->made;
        return true;
    }
    bool busy(const Graph& graph) noexcept { return log_->busy(*graph); }
    bool running(const Graph& graph) const noexcept { return log_->running(*graph); }
    bool retarget(Graph& graph, std::span<const Launch> launches) noexcept {
        EXPECT_FALSE(log_->busy(*graph));
        EXPECT_EQ(graph->nodes().size(), launches.size());
        for (std::size_t i = 0; i < launches.size(); ++i)
            EXPECT_EQ(graph->nodes()[i].launch.kernel, launches[i].kernel) << "a node keeps its kernel";
        if (log_->fails()) return false;
        graph->write(launches);
        ++log_->retargeted;
        return true;
    }
    bool launch(Graph& graph) noexcept {
        if (log_->fails()) return false;
        for (const MemoryGraph::Node& node : graph->nodes()) log_->ran.push_back(node.launch.position);
        log_->lengths.push_back(graph->nodes().size());
        return true;
    }
    void destroy(Graph& graph) noexcept {
        log_->alive.erase(graph.get());
        graph.reset();
    }

  private:
    Log* log_;
};
using Pool = GraphPool<LoggedGraphs>;

constexpr std::int64_t kPlenty = 1 << 20;

class GraphPoolTest : public testing::Test {
  protected:
    Launch launch_of(std::size_t kernel, std::uint32_t param_bytes = 8) {
        Launch launch;
        launch.kernel = module.kernels()[kernel];
        launch.position = position++;
        launch.end = position;
        launch.params = params;
        launch.param_bytes = param_bytes;
        return launch;
    }
    std::vector<Launch> backlog_of(std::size_t length, std::size_t kernel = 0) {
        std::vector<Launch> launches;
        for (std::size_t i = 0; i < length; ++i) launches.push_back(launch_of(kernel));
        return launches;
    }
    // As a driver's stream does it: chains, else singles, else plainly.
    void issue(Pool& pool, std::span<const Launch> launches) {
        std::size_t taken = 0;
        const Status status = launch_each(
            &pool, launches, taken,
            [&](const Launch& each) {
                if (!pool.launch(each)) log.ran.push_back(each.position);
                return Status::ok;
            },
            [](std::span<const Launch>) {});
        EXPECT_EQ(status, Status::ok);
        EXPECT_EQ(taken, launches.size());
    }

    PoolModule module{200}, other{1};
    std::byte params[MemoryGraph::Node::kParamBytes + 1]{};
    std::uint64_t position = 0;
    Log log;
    GraphBudget budget{kPlenty};
};

TEST_F(GraphPoolTest, AKernelThatComesAgainGetsAGraphOfItsOwn) {
    Pool pool(LoggedGraphs(log), budget);
    for (std::uint32_t i = 0; i < Pool::kLaunchesBeforeGraph; ++i) EXPECT_FALSE(pool.launch(launch_of(0)));
    EXPECT_EQ(log.made, 0u);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(pool.launch(launch_of(0)));
    EXPECT_EQ(log.made, 1u);
    EXPECT_EQ(log.retargeted, 9u);
    EXPECT_FALSE(pool.launch(launch_of(1))) << "another kernel was launched once";
    EXPECT_EQ(log.ran, (std::vector<std::uint64_t>{4, 5, 6, 7, 8, 9, 10, 11, 12, 13}));
}

TEST_F(GraphPoolTest, ASequenceThatComesAgainGetsAChainOfItsOwn) {
    Pool pool(LoggedGraphs(log), budget);
    for (std::uint32_t i = 1; i < sightings_before_chain(8); ++i)
        EXPECT_EQ(pool.launch_chain(backlog_of(8)), 0u);
    EXPECT_EQ(log.made, 0u);
    EXPECT_EQ(pool.launch_chain(backlog_of(8)), 8u);
    EXPECT_EQ(log.made, 1u);
    EXPECT_EQ(pool.launch_chain(backlog_of(9)), 8u) << "the longest that is there";
    EXPECT_EQ(pool.launch_chain(backlog_of(8, 1)), 0u) << "another kernel";
    std::vector<Launch> launches = backlog_of(8);
    launches[7].kernel = module.kernels()[1];
    EXPECT_EQ(pool.launch_chain(launches), 0u) << "another kernel at the end";
    EXPECT_EQ(pool.launch_chain(backlog_of(1)), 0u);
    EXPECT_EQ(log.lengths, (std::vector<std::size_t>{8, 8}));
}

// A loop over many kernels, taken in batches that begin anywhere in it.
TEST_F(GraphPoolTest, ALoopGoesIntoLongChainsWhereverItsBatchesBegin) {
    Pool pool(LoggedGraphs(log), budget);
    std::mt19937 random(7);
    const auto batch_of = [&](std::size_t length) {
        std::vector<Launch> launches;
        for (std::size_t i = 0; i < length; ++i) launches.push_back(launch_of(position % 50));
        return launches;
    };
    while (position < 50 * 4000) issue(pool, batch_of(kLongestChain));
    const std::size_t made = log.made;
    log.lengths.clear();
    const std::uint64_t before = position;
    while (position < 50 * 8000) issue(pool, batch_of(kLongestChain));
    EXPECT_EQ(log.made, made) << "all that it needs is there";
    EXPECT_EQ(log.lengths, std::vector<std::size_t>((position - before) / kLongestChain, kLongestChain));
    while (position < 50 * 12000) issue(pool, batch_of(1 + random() % kLongestChain));
    log.lengths.clear();
    const std::uint64_t from = position;
    while (position < 50 * 12100) issue(pool, batch_of(1 + random() % kLongestChain));
    EXPECT_LT(log.lengths.size(), (position - from) / 8) << "of whatever length the batches are";
    std::vector<std::uint64_t> all(position);
    for (std::uint64_t i = 0; i < position; ++i) all[i] = i;
    EXPECT_EQ(log.ran, all);
}

// What never comes again in the same order may cost the making of a few chains, not of one after another.
TEST_F(GraphPoolTest, SequencesAtRandomMakeFewChains) {
    Pool pool(LoggedGraphs(log), budget);
    std::mt19937 random(7);
    while (position < 100'000) {
        std::vector<Launch> launches;
        for (std::size_t i = 0; i < kLongestChain; ++i) launches.push_back(launch_of(random() % 100));
        issue(pool, launches);
    }
    const std::uint64_t may_ns = MakingAllowance::kFirstNs + position * MakingAllowance::kEarnedNs;
    EXPECT_LT(log.made * making_ns(1), may_ns);
}

TEST_F(GraphPoolTest, AChainEndsBeforeALaunchThatNoNodeTakes) {
    Pool pool(LoggedGraphs(log), budget);
    while (pool.launch_chain(backlog_of(5)) == 0) {
    }
    std::vector<Launch> launches = backlog_of(8);
    launches[5].param_bytes = sizeof params;
    EXPECT_EQ(pool.launch_chain(launches), 5u);
    EXPECT_EQ(pool.launch_chain(std::span(launches).subspan(5)), 0u);
    EXPECT_FALSE(pool.launch(launches[5]));
}

TEST_F(GraphPoolTest, CopiesOfAChainTakeTurnsAndOneThatRunsIsLeftAlone) {
    Pool pool(LoggedGraphs(log), budget);
    while (pool.launch_chain(backlog_of(2)) == 0) {
    }
    log.busy = [](const MemoryGraph&) { return true; };
    for (std::size_t i = 1; i < kChainCopies; ++i) EXPECT_EQ(pool.launch_chain(backlog_of(2)), 2u);
    EXPECT_EQ(log.made, kChainCopies);
    const std::uint64_t second = position - 2 * (kChainCopies - 1);
    EXPECT_EQ(pool.launch_chain(backlog_of(2)), 0u) << "all copies run";
    log.busy = [&](const MemoryGraph& graph) { return graph.position() > second; };
    EXPECT_EQ(pool.launch_chain(backlog_of(2)), 2u) << "two have ended";
    EXPECT_EQ(pool.launch_chain(backlog_of(2)), 2u);
    EXPECT_EQ(pool.launch_chain(backlog_of(2)), 0u);
    EXPECT_EQ(log.made, kChainCopies);
}

TEST_F(GraphPoolTest, AChainThatIsLaunchedAgainAtOnceGetsCopies) {
    Pool pool(LoggedGraphs(log), budget);
    for (std::uint64_t i = 0; i < 4 * Pool::kUsesBeforeCopy; ++i)
        static_cast<void>(pool.launch_chain(backlog_of(2)));
    EXPECT_EQ(log.made, 2u) << "they take turns";
}

TEST_F(GraphPoolTest, TheLeastUsedChainIsThrownOut) {
    Pool pool(LoggedGraphs(log), budget);
    const auto launched = [&](std::size_t kernel) {
        return pool.launch_chain(backlog_of(2 + kernel / 128, kernel % 128)) != 0;
    };
    const auto warm = [&](std::size_t kernel) {
        while (!launched(kernel)) {
        }
    };
    for (std::size_t kernel = 0; kernel < Pool::kMostChains; ++kernel) warm(kernel);
    EXPECT_EQ(log.alive.size(), Pool::kMostChains);
    EXPECT_TRUE(launched(0));  // so that kernel 1's is the least used
    warm(Pool::kMostChains);
    EXPECT_EQ(log.alive.size(), Pool::kMostChains);
    EXPECT_TRUE(launched(0));
    EXPECT_FALSE(launched(1));
    EXPECT_TRUE(launched(2));
}

TEST_F(GraphPoolTest, TheLeastUsedGraphIsThrownOut) {
    Pool pool(LoggedGraphs(log), budget);
    const auto warm = [&](std::size_t kernel) {
        for (std::uint32_t i = 0; i <= Pool::kLaunchesBeforeGraph; ++i)
            static_cast<void>(pool.launch(launch_of(kernel)));
    };
    for (std::size_t kernel = 0; kernel < Pool::kMostSingles; ++kernel) warm(kernel);
    EXPECT_EQ(log.alive.size(), Pool::kMostSingles);
    EXPECT_TRUE(pool.launch(launch_of(0)));  // so that kernel 1 is the least used
    warm(Pool::kMostSingles);
    EXPECT_EQ(log.alive.size(), Pool::kMostSingles);
    EXPECT_TRUE(pool.launch(launch_of(0)));
    EXPECT_FALSE(pool.launch(launch_of(1)));
    EXPECT_TRUE(pool.launch(launch_of(2)));
}

TEST_F(GraphPoolTest, WhatIsBeyondTheBudgetIsLaunchedPlainlyAndTriedAgainLater) {
    GraphBudget small(101);  // one graph of one node
    {
        Pool pool(LoggedGraphs(log), small), neighbour(LoggedGraphs(log), small);
        issue(neighbour, backlog_of(1));
        for (int i = 0; i < 100; ++i) issue(pool, backlog_of(1 + static_cast<std::size_t>(i) % 3));
        EXPECT_EQ(small.left(), 0);
        for (int i = 0; i < 100; ++i) {
            issue(neighbour, backlog_of(1));
            issue(neighbour, backlog_of(40));
        }
        EXPECT_EQ(log.alive.size(), 1u);
        pool.forget(module);
        EXPECT_EQ(small.left(), 101);
        for (int i = 0; i < 5; ++i) issue(neighbour, backlog_of(1));
        EXPECT_EQ(small.left(), 0) << "the neighbour has it now";
    }
    EXPECT_EQ(small.left(), 101);
    std::vector<std::uint64_t> all(position);
    for (std::uint64_t i = 0; i < position; ++i) all[i] = i;
    EXPECT_EQ(log.ran, all);
}

TEST_F(GraphPoolTest, WhatAnIdlePoolHasGoesToANeighbourThatIsDueSome) {
    GraphBudget small(3 * 101);
    Pool idle(LoggedGraphs(log), small), neighbour(LoggedGraphs(log), small);
    for (std::size_t kernel = 0; kernel < 3; ++kernel)
        for (int i = 0; i < 10; ++i) issue(idle, backlog_of(1, kernel));
    EXPECT_EQ(small.left(), 0);
    for (std::uint64_t i = 0; i < GraphBudget::kStillUsed - 100; ++i) issue(neighbour, backlog_of(1));
    EXPECT_EQ(neighbour.use().singly, 0u) << "they may still be used";
    for (int i = 0; i < 200; ++i) issue(neighbour, backlog_of(1));
    EXPECT_GT(neighbour.use().singly, 50u);
    EXPECT_EQ(log.alive.size(), 3u) << "no more than it needs is thrown out";
    for (int i = 0; i < 100; ++i) issue(neighbour, backlog_of(48));
    EXPECT_GE(neighbour.use().in_long_chains, 48u * 50) << "a chain takes the room of two";
    EXPECT_EQ(log.alive.size(), 2u) << "the neighbour's own, which it uses";
    // And back again.
    for (std::uint64_t i = 0; i < GraphBudget::kStillUsed + 100; ++i) issue(idle, backlog_of(1, 2));
    EXPECT_GT(idle.use().singly, 50u);
    std::vector<std::uint64_t> all(position);
    for (std::uint64_t i = 0; i < position; ++i) all[i] = i;
    EXPECT_EQ(log.ran, all);
}

TEST_F(GraphPoolTest, AnIdleChainGoesWithAllItsCopies) {
    GraphBudget small(kChainCopies * 102, 1000);
    Pool idle(LoggedGraphs(log), small), neighbour(LoggedGraphs(log), small);
    while (idle.launch_chain(backlog_of(2)) == 0) {
    }
    log.busy = [](const MemoryGraph&) { return true; };  // so that each launch wants another copy
    while (idle.launch_chain(backlog_of(2)) != 0) {
    }
    EXPECT_EQ(log.alive.size(), kChainCopies);
    log.busy = [](const MemoryGraph&) { return false; };
    for (int i = 0; i < 990; ++i) issue(neighbour, backlog_of(1));
    EXPECT_EQ(log.alive.size(), kChainCopies);
    // One copy that runs keeps all.
    const MemoryGraph* const last = *log.alive.rbegin();
    log.running = [&](const MemoryGraph& graph) { return &graph == last; };
    for (int i = 0; i < 500; ++i) issue(neighbour, backlog_of(1));
    EXPECT_EQ(log.alive.size(), kChainCopies);
    log.running = [](const MemoryGraph&) { return false; };
    for (int i = 0; i < 1100; ++i) issue(neighbour, backlog_of(1));
    EXPECT_EQ(log.alive.size(), 1u);
    EXPECT_GT(neighbour.use().singly, 0u);
    EXPECT_EQ(idle.launch_chain(backlog_of(2)), 0u);
}

TEST_F(GraphPoolTest, APoolThatGoesOnBeingUsedKeepsItsGraphs) {
    GraphBudget small(2 * 101, 1000);
    Pool pool(LoggedGraphs(log), small), neighbour(LoggedGraphs(log), small);
    for (int i = 0; i < 10; ++i) issue(pool, backlog_of(1));
    for (std::size_t i = 0; i < 20'000; ++i) {
        issue(neighbour, backlog_of(1, i % 10));
        if (i % 900 == 0) {
            EXPECT_TRUE(pool.launch(launch_of(0)));
        }
    }
    EXPECT_GT(neighbour.use().singly, 1000u) << "it has what is left";
    EXPECT_EQ(log.made, 2u) << "and throws out what it uses itself no more than others'";
}

TEST_F(GraphPoolTest, WhatRunsIsNotThrownOut) {
    GraphBudget small(101, 1000);
    Pool idle(LoggedGraphs(log), small), neighbour(LoggedGraphs(log), small);
    for (int i = 0; i < 10; ++i) issue(idle, backlog_of(1));
    const std::uint64_t before = position;
    log.running = [&](const MemoryGraph& graph) { return graph.position() < before; };
    for (int i = 0; i < 5000; ++i) issue(neighbour, backlog_of(1));
    EXPECT_EQ(neighbour.use().singly, 0u);
    log.running = [](const MemoryGraph&) { return false; };
    for (int i = 0; i < 1100; ++i) issue(neighbour, backlog_of(1));
    EXPECT_GT(neighbour.use().singly, 0u);
    EXPECT_EQ(log.alive.size(), 1u);
}

// Graphs without a log, which threads would have to share.
class QuietGraphs {
  public:
    using Graph = std::unique_ptr<MemoryGraph>;
    static bool fits(const Launch& launch) noexcept { return MemoryGraph::fits(launch); }
    static std::uint64_t bytes_of(std::size_t nodes) noexcept { return 100 + nodes; }
    static bool make(Graph& graph, std::span<const Launch> launches) noexcept {
        graph = std::make_unique<MemoryGraph>(launches.size());
        graph->write(launches);
        return true;
    }
    static bool busy(const Graph&) noexcept { return false; }
    static bool running(const Graph&) noexcept { return false; }
    static bool retarget(Graph& graph, std::span<const Launch> launches) noexcept {
        graph->write(launches);
        return true;
    }
    static bool launch(Graph&) noexcept { return true; }
    static void destroy(Graph& graph) noexcept { graph.reset(); }
};

// Streams come and go on the control thread while the dispatch thread looks for graphs to throw out.
TEST_F(GraphPoolTest, PoolsComeAndGoBesideAThreadThatThrowsOut) {
    using Quiet = GraphPool<QuietGraphs>;
    GraphBudget small(4 * 101, 50);
    const std::vector<Launch> launches = [&] {
        std::vector<Launch> all;
        for (std::size_t kernel = 0; kernel < 8; ++kernel) all.push_back(launch_of(kernel));
        return all;
    }();
    std::array<std::atomic<Quiet*>, 4> given{};  // to the dispatch thread, which gives it back as null
    std::atomic<bool> end{false};
    std::uint64_t with_graph = 0;
    std::thread dispatch([&] {
        Quiet own(QuietGraphs(), small);
        while (!end.load()) {
            for (auto& place : given) {
                Quiet* const pool = place.load();
                if (pool == nullptr) continue;
                for (int i = 0; i < 10; ++i)
                    with_graph += pool->launch(launches[static_cast<std::size_t>(i) % 2]);
                place.store(nullptr);  // it is not used again, but what it has may go
            }
            for (const Launch& each : launches)
                for (int i = 0; i < 6; ++i) with_graph += own.launch(each);
        }
    });
    for (int round = 0; round < 300; ++round) {
        std::vector<std::unique_ptr<Quiet>> pools;
        for (auto& place : given) {
            pools.push_back(std::make_unique<Quiet>(QuietGraphs(), small));
            place.store(pools.back().get());
        }
        for (auto& place : given)
            while (place.load() != nullptr) std::this_thread::yield();
    }
    end = true;
    dispatch.join();
    EXPECT_GT(with_graph, 0u);
    EXPECT_EQ(small.left(), 4 * 101);
}

TEST_F(GraphPoolTest, NoGraphKnowsAModuleThatIsForgotten) {
    Pool pool(LoggedGraphs(log), budget);
    Kernel* const foreign = other.kernels()[0];
    while (pool.launch_chain(backlog_of(4)) == 0) {  // a chain of `module` alone
    }
    for (int i = 0; i < 10; ++i) static_cast<void>(pool.launch(launch_of(0)));
    std::vector<Launch> mixed = backlog_of(8);
    mixed[7].kernel = foreign;
    while (pool.launch_chain(mixed) == 0) {
    }
    Launch single = launch_of(0);
    single.kernel = foreign;
    while (!pool.launch(single)) {
    }
    pool.forget(other);
    for (const MemoryGraph* graph : log.alive)
        for (const MemoryGraph::Node& node : graph->nodes()) EXPECT_EQ(node.launch.kernel->owner(), &module);
    EXPECT_EQ(log.alive.size(), 2u) << "what is of the other module stays: a chain, a single";
    EXPECT_FALSE(pool.launch(single)) << "its address may be another kernel's now";
    pool.forget(module);
    EXPECT_TRUE(log.alive.empty());
    EXPECT_EQ(budget.left(), kPlenty);
}

TEST_F(GraphPoolTest, AllGraphsAreForgottenAndMadeAgain) {
    Pool pool(LoggedGraphs(log), budget);
    while (pool.launch_chain(backlog_of(4)) == 0) {
    }
    Launch foreign = launch_of(0);
    foreign.kernel = other.kernels()[0];
    while (!pool.launch(foreign)) {
    }
    EXPECT_EQ(log.alive.size(), 2u);
    pool.forget_all();
    EXPECT_TRUE(log.alive.empty());
    EXPECT_EQ(budget.left(), kPlenty);
    EXPECT_FALSE(pool.launch(foreign));
    for (int i = 0; i < 10; ++i) static_cast<void>(pool.launch(foreign));
    EXPECT_EQ(log.alive.size(), 1u);
}

// Whatever fails, runs or is too long: each launch is given on once and in its order, and no byte of the
// budget is lost.
TEST_F(GraphPoolTest, AnythingAtRandomKeepsOrderAndBudget) {
    for (unsigned seed = 0; seed < 200; ++seed) {
        std::mt19937 random(seed);
        const auto below = [&](unsigned bound) { return static_cast<unsigned>(random() % bound); };
        log = {};
        position = 0;
        const std::int64_t bytes = below(4000);
        GraphBudget few(static_cast<std::uint64_t>(bytes), 1 + below(500));
        {
            std::array<std::optional<Pool>, 3> pools;
            for (auto& pool : pools) pool.emplace(LoggedGraphs(log), few);
            const unsigned used = 1 + below(3);
            const unsigned failing = below(2) * below(50), running = below(2) * below(100),
                           kernels = 1 + below(below(2) == 0 ? 4 : 199);
            log.fails = [&] { return below(100) < failing; };
            // Within one question about a graph the answer stays the same.
            log.busy = [&, seed](const MemoryGraph& graph) {
                return (graph.position() * 2654435761u + seed) % 100 < running;
            };
            log.running = log.busy;
            while (position < 3000) {
                std::optional<Pool>& pool = pools[below(used)];
                std::vector<Launch> backlog;
                for (unsigned i = below(100); i > 0; --i)
                    backlog.push_back(launch_of(below(kernels), below(40) == 0 ? sizeof params : below(513)));
                issue(*pool, backlog);
                if (below(30) == 0) pool->forget(below(2) == 0 ? module : other);
                if (below(100) == 0) pool.emplace(LoggedGraphs(log), few);
                ASSERT_GE(few.left(), 0) << "seed " << seed;
            }
        }
        ASSERT_EQ(few.left(), bytes) << "seed " << seed;
        ASSERT_TRUE(log.alive.empty()) << "seed " << seed;
        ASSERT_EQ(log.ran.size(), position) << "seed " << seed;
        for (std::uint64_t i = 0; i < position; ++i) ASSERT_EQ(log.ran[i], i) << "seed " << seed;
    }
}

}  // namespace
}  // namespace ringlaunch::driver
