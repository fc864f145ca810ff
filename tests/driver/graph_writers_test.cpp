// What is given to the threads that write graphs is done once, by one of them or by who gave it.
#include "daemon/driver/graph_writers.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {
namespace {

using namespace std::chrono_literals;

struct Done {
    std::atomic<int> times{0};
    std::atomic<std::size_t> by{99};
    bool well = true;
};

bool note(void*, void* graph, std::span<const Launch>, std::size_t thread) noexcept {
    Done& done = *static_cast<Done*>(graph);
    ++done.times;
    done.by = thread;
    return done.well;
}

GraphWriters::Task task_of(Done& done) {
    return {&note, nullptr, &done, {}};
}

TEST(GraphWriters, DoEachTaskOnce) {
    std::atomic<int> begun{0};
    GraphWriters writers(2, [&](std::size_t) { ++begun; });
    EXPECT_EQ(writers.threads(), 2u);
    for (int i = 0; i < 5'000; ++i) {
        Done first, second;
        second.well = i % 3 == 0;
        static_cast<void>(writers.awake());
        writers.give(0, task_of(first));
        writers.give(1, task_of(second));
        EXPECT_TRUE(writers.finish(0));
        EXPECT_EQ(writers.finish(1), i % 3 == 0);
        EXPECT_EQ(first.times, 1);
        EXPECT_EQ(second.times, 1);
        EXPECT_TRUE(first.by == 0u || first.by == GraphWriters::kMost);
        EXPECT_TRUE(second.by == 1u || second.by == GraphWriters::kMost);
        if (i % 1000 == 0) std::this_thread::sleep_for(2ms);  // they sleep
    }
    for (int i = 0; begun < 2 && i < 5'000; ++i) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(begun, 2);
}

TEST(GraphWriters, TakeWhatTheyAreGivenWhileNobodyWaits) {
    GraphWriters writers(1, [](std::size_t) {});
    Done done;
    const auto end = std::chrono::steady_clock::now() + 20s;
    do {
        // Asleep again, perhaps, between being woken and being given something.
        static_cast<void>(writers.awake());
        done.times = 0;
        writers.give(0, task_of(done));
        const auto soon = std::chrono::steady_clock::now() + 50ms;
        while (done.times == 0 && std::chrono::steady_clock::now() < soon) std::this_thread::yield();
        EXPECT_TRUE(writers.finish(0));
        EXPECT_EQ(done.times, 1);
    } while (done.by != 0u && std::chrono::steady_clock::now() < end);
    EXPECT_EQ(done.by, 0u);
}

TEST(GraphWriters, SleepAndAreWoken) {
    GraphWriters writers(2, [](std::size_t) {});
    const auto becomes = [&](bool awake) {
        const auto end = std::chrono::steady_clock::now() + 20s;
        while (std::chrono::steady_clock::now() < end) {
            if (writers.awake() == awake) return true;
            if (!awake) std::this_thread::sleep_for(20ms);
        }
        return false;
    };
    for (int i = 0; i < 5; ++i) {
        EXPECT_TRUE(becomes(false));
        EXPECT_TRUE(becomes(true));
    }
}

TEST(GraphWriters, DoWhatIsGivenWhileTheySleepByWhoGaveIt) {
    GraphWriters writers(1, [](std::size_t) {});
    std::this_thread::sleep_for(50ms);
    Done done;
    writers.give(0, task_of(done));
    EXPECT_TRUE(writers.finish(0));
    EXPECT_EQ(done.times, 1);
}

TEST(GraphWriters, EndAtAnyTime) {
    for (int i = 0; i < 200; ++i) {
        GraphWriters writers(GraphWriters::kMost + 3, [](std::size_t) {});
        EXPECT_EQ(writers.threads(), GraphWriters::kMost);
        if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(10 * i));
    }
}

TEST(GraphWriters, AreTwoWhereThereIsRoomForThem) {
    EXPECT_EQ(GraphWriters::as_rule(1), 0u);
    EXPECT_EQ(GraphWriters::as_rule(5), 0u);
    EXPECT_EQ(GraphWriters::as_rule(6), 2u);
    EXPECT_EQ(GraphWriters::as_rule(128), 2u);
}

}  // namespace
}  // namespace ringlaunch::driver
