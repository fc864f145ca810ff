// A region's ring and the thread behind it: order, room, lives of what launches hold, failures, sleep.
// Nothing of it needs a device.
#include "python/src/inline_worker.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace ringlaunch::python {
namespace {

using Entry = LaunchRing::Entry;

InlineKernel& kernel_of(std::uint64_t number) {
    return *std::bit_cast<InlineKernel*>(number << 4);
}

// Whoever holds the worker's lock calls it, so it needs none of its own.
class Log final : public Issuer {
  public:
    std::size_t issue(std::span<Entry* const> entries, Refusal& why) noexcept override {
        if (before) before();
        for (std::size_t i = 0; i < entries.size(); ++i) {
            std::uint64_t number = 0;
            std::memcpy(&number, entries[i]->params(), sizeof number);
            if (number == refused) {
                why = {"number " + std::to_string(number), 42};
                return i;
            }
            ok &= entries[i]->kernel == &kernel_of(number % 7 + 1) && entries[i]->grid.x == number % 100 + 1;
            for (std::size_t byte = sizeof number; byte < entries[i]->param_bytes(); ++byte)
                ok &= entries[i]->params()[byte] == static_cast<std::byte>(number + byte);
            issued.push_back(number);
        }
        longest = std::max(longest, entries.size());
        return entries.size();
    }
    std::vector<std::uint64_t> issued;
    std::uint64_t refused = ~std::uint64_t{0};
    bool ok = true;
    std::size_t longest = 0;
    std::function<void()> before;
};

// What a launch holds: a number that says which, and is let go of once.
class Held {
  public:
    void* add() {
        counts_.push_back(1);
        return std::bit_cast<void*>(counts_.size());
    }
    void let_go(void* held) { --counts_.at(std::bit_cast<std::uint64_t>(held) - 1); }
    std::size_t left() const {
        return static_cast<std::size_t>(std::count(counts_.begin(), counts_.end(), 1));
    }
    bool none_twice() const {
        return std::all_of(counts_.begin(), counts_.end(), [](int n) { return n >= 0; });
    }

  private:
    std::vector<int> counts_;
};

bool put(LaunchRing& ring, Held& held, std::uint64_t number, std::size_t param_bytes, std::size_t holds,
         const std::function<void(const Entry&)>& publish) {
    Entry* const entry = ring.reserve(
        kernel_of(number % 7 + 1), {static_cast<std::uint32_t>(number % 100 + 1), 1, 1}, param_bytes, holds);
    if (entry == nullptr) return false;
    std::memcpy(entry->params(), &number, sizeof number);
    for (std::size_t byte = sizeof number; byte < param_bytes; ++byte)
        entry->params()[byte] = static_cast<std::byte>(number + byte);
    for (std::size_t i = 0; i < holds; ++i) ring.hold(held.add());
    publish(*entry);
    return true;
}
bool put(LaunchRing& ring, Held& held, std::uint64_t number, std::size_t param_bytes, std::size_t holds) {
    return put(ring, held, number, param_bytes, holds, [&](const Entry& entry) { ring.publish(entry); });
}
void put(LaunchWorker& worker, Held& held, std::uint64_t number, std::size_t param_bytes = 40,
         std::size_t holds = 3) {
    while (!put(worker.ring(), held, number, param_bytes, holds,
                [&](const Entry& entry) { worker.publish(entry); })) {
        worker.make_room();
        worker.ring().reclaim([&](void* each) { held.let_go(each); });
    }
}

std::vector<std::uint64_t> numbers(std::uint64_t begin, std::uint64_t end) {
    std::vector<std::uint64_t> out;
    for (std::uint64_t i = begin; i < end; ++i) out.push_back(i);
    return out;
}

bool eventually(const std::function<bool()>& is) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!is()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

// "S": it sleeps. Empty: there is no such thread.
std::string state_of_worker() {
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream name(task.path() / "comm"), stat(task.path() / "stat");
        std::string called, text;
        std::getline(name, called);
        std::getline(stat, text);
        if (called == "ringlaunch" && text.size() > text.rfind(')') + 2)
            return text.substr(text.rfind(')') + 2, 1);
    }
    return "";
}

TEST(LaunchRing, EntriesComeWholeAndInOrderWhateverTheirSizes) {
    Log log;
    Held held;
    LaunchRing ring(256);
    std::mt19937_64 pick(3);
    std::uint64_t number = 0;
    for (int round = 0; round < 20'000; ++round) {
        const std::size_t param_bytes = 8 + pick() % 40 * 8;
        const std::size_t holds = pick() % 50 == 0 ? 100 + pick() % 100 : pick() % 6;
        if (put(ring, held, number, param_bytes, holds)) ++number;
        if (pick() % 4 == 0) {
            std::array<Entry*, 7> entries;
            std::uint64_t end = 0;
            Issuer::Refusal why;
            const std::size_t count = ring.take(entries, end);
            ASSERT_EQ(log.issue({entries.data(), count}, why), count);
            ring.issued_up_to(end);
        }
        if (pick() % 5 == 0) ring.reclaim([&](void* each) { held.let_go(each); });
        ASSERT_TRUE(log.ok);
    }
    EXPECT_GT(number, 5000u);
    EXPECT_EQ(log.issued, numbers(0, log.issued.size()));
    EXPECT_TRUE(held.none_twice());
}

TEST(LaunchRing, WhatIsNotIssuedIsHeld) {
    Held held;
    LaunchRing ring(64);
    ASSERT_TRUE(put(ring, held, 0, 40, 3));
    ASSERT_TRUE(put(ring, held, 1, 40, 3));
    ring.reclaim([&](void* each) { held.let_go(each); });
    EXPECT_EQ(held.left(), 6u);
    std::array<Entry*, 1> one;
    std::uint64_t end = 0;
    ASSERT_EQ(ring.take(one, end), 1u);
    ring.issued_up_to(end);
    EXPECT_FALSE(ring.all_issued());
    ring.reclaim([&](void* each) { held.let_go(each); });
    EXPECT_EQ(held.left(), 3u);
}

TEST(LaunchRing, IsFullUntilWhatItHoldsIsLetGoOf) {
    Held held;
    LaunchRing ring(64);
    std::uint64_t number = 0;
    while (put(ring, held, number, 40, 3)) ++number;
    EXPECT_EQ(number, 64u);
    std::array<Entry*, 64> entries;
    std::uint64_t end = 0;
    EXPECT_EQ(ring.take(entries, end), 64u);
    ring.issued_up_to(end);
    EXPECT_FALSE(put(ring, held, number, 40, 3));
    ring.reclaim([&](void* each) { held.let_go(each); });
    EXPECT_TRUE(put(ring, held, number, 40, 3));
    // As full it is of what is held.
    ring.reclaim([&](void* each) { held.let_go(each); });
    std::size_t holding = 0;
    while (put(ring, held, number, 40, 50)) ++holding;
    EXPECT_EQ(holding, 5u);  // and the 3 from before
}

TEST(LaunchRing, LettingGoMayComeBackToTheRing) {
    Held held;
    LaunchRing ring(64);
    std::array<Entry*, 64> entries;
    std::uint64_t end = 0, number = 0;
    const auto issue_all = [&] {
        (void)ring.take(entries, end);
        ring.issued_up_to(end);
    };
    for (; number < 20; ++number) ASSERT_TRUE(put(ring, held, number, 40, 3));
    issue_all();
    int depth = 0;
    const std::function<void(void*)> let_go = [&](void* each) {
        held.let_go(each);
        if (depth >= 3) return;
        ++depth;
        while (put(ring, held, number, 40, 3)) ++number;
        issue_all();
        ring.reclaim(let_go);
        --depth;
    };
    ring.reclaim(let_go);
    ring.reclaim([&](void* each) { held.let_go(each); });
    EXPECT_GT(number, 60u);
    EXPECT_EQ(held.left(), 0u);
    EXPECT_TRUE(held.none_twice());
}

TEST(LaunchWorker, IssuesInOrderBesideTheProducer) {
    Log log;
    Held held;
    LaunchWorker worker(log, 256);
    ASSERT_TRUE(worker.begin());
    std::mt19937_64 pick(5);
    constexpr std::uint64_t kCount = 100'000;
    for (std::uint64_t number = 0; number < kCount; ++number) {
        put(worker, held, number, 8 + pick() % 12 * 8, pick() % 5);
        if (pick() % 2000 == 0) std::this_thread::sleep_for(std::chrono::microseconds(pick() % 500));
        if (pick() % 5000 == 0) {
            worker.drain();
            ASSERT_TRUE(worker.ring().all_issued());
        }
    }
    worker.drain();
    worker.end();
    EXPECT_EQ(log.issued, numbers(0, kCount));
    EXPECT_TRUE(log.ok);
    EXPECT_LE(log.longest, LaunchWorker::kMostAtOnce);
    worker.ring().reclaim([&](void* each) { held.let_go(each); });
    EXPECT_EQ(held.left(), 0u);
    EXPECT_TRUE(held.none_twice());
}

TEST(LaunchWorker, IsWokenByEachLaunchThatFindsItAsleep) {
    Log log;
    Held held;
    LaunchWorker worker(log);
    for (std::uint64_t number = 0; number < 300; ++number) {
        if (number % 3 == 0) {
            ASSERT_TRUE(worker.begin());
        }
        if (number % 3 == 2) worker.end();
        put(worker, held, number);
        // Nobody helps: it has to be told.
        ASSERT_TRUE(eventually([&] { return worker.ring().issued() == worker.ring().published(); }))
            << number;
    }
    worker.stop();
    EXPECT_EQ(log.issued, numbers(0, 300));
}

TEST(LaunchWorker, SleepsOutsideOfRegions) {
    Log log;
    Held held;
    LaunchWorker worker(log);
    EXPECT_EQ(state_of_worker(), "");
    ASSERT_TRUE(worker.begin());
    put(worker, held, 0);
    worker.drain();
    worker.end();
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(eventually([] { return state_of_worker() == "S"; }));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    worker.stop();
    EXPECT_EQ(state_of_worker(), "");
}

TEST(LaunchWorker, WhoeverWaitsIssuesWhereThereIsNoThread) {
    Log log;
    Held held;
    LaunchWorker worker(log, 256);
    for (std::uint64_t number = 0; number < 1000; ++number) put(worker, held, number);
    worker.drain();
    EXPECT_EQ(log.issued, numbers(0, 1000));
}

TEST(LaunchWorker, DrainWaitsForWhatTheThreadHasBegun) {
    Log log;
    Held held;
    std::atomic<bool> begun = false, goes_on = false;
    log.before = [&] {
        begun = true;
        while (!goes_on) std::this_thread::yield();
    };
    LaunchWorker worker(log);
    ASSERT_TRUE(worker.begin());
    put(worker, held, 0);
    ASSERT_TRUE(eventually([&] { return begun.load(); }));
    put(worker, held, 1);
    std::atomic<bool> drained = false;
    std::thread waiting([&] {
        worker.drain();
        drained = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(drained);
    goes_on = true;
    waiting.join();
    EXPECT_EQ(log.issued, numbers(0, 2));
}

TEST(LaunchWorker, AFailureIsThatOfTheFirstAndDropsWhatIsBehind) {
    Log log;
    Held held;
    log.refused = 100;
    LaunchWorker worker(log);
    ASSERT_TRUE(worker.begin());
    for (std::uint64_t number = 0; number < 160; ++number) put(worker, held, number);
    worker.drain();
    EXPECT_TRUE(worker.failed());
    put(worker, held, 160);
    worker.drain();
    const auto failure = worker.take_failure();
    ASSERT_TRUE(failure.has_value());
    EXPECT_EQ(failure->why.kernel, "number 100");
    EXPECT_EQ(failure->why.result, 42);
    EXPECT_EQ(failure->grid.x, 1u);
    EXPECT_EQ(failure->dropped, 60u);
    EXPECT_EQ(log.issued, numbers(0, 100));
    EXPECT_FALSE(worker.failed());
    EXPECT_FALSE(worker.take_failure().has_value());
    // It goes on.
    log.issued.clear();
    put(worker, held, 200);
    worker.drain();
    EXPECT_EQ(log.issued, numbers(200, 201));
    worker.ring().reclaim([&](void* each) { held.let_go(each); });
    EXPECT_EQ(held.left(), 0u);
}

TEST(LaunchWorker, NothingIsIssuedWhileItIsPaused) {
    Log log;
    Held held;
    LaunchWorker worker(log);
    ASSERT_TRUE(worker.begin());
    {
        const auto paused = worker.pause();
        for (std::uint64_t number = 0; number < 50; ++number) put(worker, held, number);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        EXPECT_TRUE(log.issued.empty());
    }
    worker.drain();
    EXPECT_EQ(log.issued, numbers(0, 50));
}

TEST(LaunchWorker, StopsWithAllIssuedAndBeginsAgain) {
    Log log;
    Held held;
    LaunchWorker worker(log);
    std::uint64_t number = 0;
    for (int round = 0; round < 50; ++round) {
        ASSERT_TRUE(worker.begin());
        for (int i = 0; i < round; ++i) put(worker, held, number++);
        worker.stop();
        ASSERT_TRUE(worker.ring().all_issued());
    }
    EXPECT_EQ(log.issued, numbers(0, number));
}

}  // namespace
}  // namespace ringlaunch::python
