// Leaving a shared processor: when the thread is moved, when not, and that it is free again afterwards. The
// times are given, so nothing here depends on how fast the machine is.
#include "daemon/executor/shared_cpu.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

namespace ringlaunch::executor {
namespace {

constexpr std::uint64_t kUs = 1'000;
constexpr std::uint64_t kStart = 1'000'000'000;

cpu_set_t allowed() {
    cpu_set_t set;
    EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
    return set;
}

// The first `count` of the processors that this thread may use; fewer, if it has no more.
cpu_set_t first_of(const cpu_set_t& all, int count) {
    cpu_set_t some;
    CPU_ZERO(&some);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&some) < count; ++cpu)
        if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &some);
    return some;
}

class SharedCpuTest : public ::testing::Test {
  protected:
    void SetUp() override {
        before_ = allowed();
        char path[] = "/tmp/ringlaunch-load-XXXXXX";
        UniqueFd file(::mkstemp(path));
        ASSERT_TRUE(file);
        path_ = path;
        machine_runs("1/100");
    }
    void TearDown() override {
        ::unlink(path_.c_str());
        EXPECT_EQ(::sched_setaffinity(0, sizeof before_, &before_), 0);
    }
    // False: there are fewer.
    bool use(int processors) {
        const cpu_set_t some = first_of(before_, processors);
        EXPECT_EQ(::sched_setaffinity(0, sizeof some, &some), 0);
        return CPU_COUNT(&some) == processors;
    }
    void machine_runs(const std::string& threads) {
        std::ofstream(path_) << "0.12 0.34 0.56 " << threads << " 4711\n";
    }
    static void share(SharedCpu& cpu, std::uint64_t from = kStart) {
        cpu.yielded(from, from + 25 * kUs);
        cpu.yielded(from + 50 * kUs, from + 75 * kUs);
    }

    cpu_set_t before_{};
    std::string path_;
};

#define NEED_PROCESSORS(count) \
    if (!use(count)) GTEST_SKIP() << "this thread may not use " << (count) << " processors"

TEST_F(SharedCpuTest, a_thread_that_shares_while_the_other_processor_is_idle_is_moved_and_free_again) {
    NEED_PROCESSORS(2);
    const cpu_set_t both = allowed();
    SharedCpu cpu(path_.c_str());
    EXPECT_TRUE(cpu.few());
    for (std::uint64_t i = 1; i <= 20; ++i) {
        share(cpu, i * kStart);
        EXPECT_EQ(cpu.moves(), i);
        const cpu_set_t now = allowed();
        EXPECT_TRUE(CPU_EQUAL(&now, &both));
    }
}

TEST_F(SharedCpuTest, it_stays_where_anything_else_wants_to_run) {
    NEED_PROCESSORS(2);
    SharedCpu cpu(path_.c_str());
    for (const char* busy : {"2/100", "12/100", "100/100"}) {
        machine_runs(busy);
        share(cpu, kStart);
        EXPECT_EQ(cpu.moves(), 0u) << busy;
    }
}

TEST_F(SharedCpuTest, it_stays_where_the_load_cannot_be_read_or_understood) {
    NEED_PROCESSORS(2);
    SharedCpu none("/nonexistent/loadavg");
    share(none);
    EXPECT_EQ(none.moves(), 0u);
    for (const char* text : {"", "1", "1 1 1", "0.1 0.2 0.3 ", "0.1 0.2 0.3 one/2 3"}) {
        std::ofstream(path_) << text;
        SharedCpu cpu(path_.c_str());
        share(cpu);
        EXPECT_EQ(cpu.moves(), 0u) << '"' << text << '"';
    }
}

TEST_F(SharedCpuTest, one_long_absence_or_short_ones_or_distant_ones_mean_nothing) {
    NEED_PROCESSORS(2);
    SharedCpu once(path_.c_str());
    once.yielded(kStart, kStart + 3'000 * kUs);
    EXPECT_EQ(once.moves(), 0u);

    SharedCpu brief(path_.c_str());
    for (std::uint64_t i = 0; i < 1'000; ++i) brief.yielded(kStart + 2 * i * kUs, kStart + (2 * i + 1) * kUs);
    EXPECT_EQ(brief.moves(), 0u);

    SharedCpu distant(path_.c_str());
    for (std::uint64_t i = 1; i < 100; ++i) distant.yielded(i * kStart, i * kStart + 25 * kUs);
    EXPECT_EQ(distant.moves(), 0u);
}

TEST_F(SharedCpuTest, sleeps_that_are_over_at_once_mean_the_same_and_longer_ones_nothing) {
    NEED_PROCESSORS(2);
    SharedCpu rung(path_.c_str());
    rung.slept(kStart, kStart + 6 * kUs);
    EXPECT_EQ(rung.moves(), 0u);
    rung.slept(kStart + 60 * kUs, kStart + 66 * kUs);
    EXPECT_EQ(rung.moves(), 1u);

    SharedCpu idle(path_.c_str());
    for (std::uint64_t at = 0; at < 100'000; at += 100)
        idle.slept(kStart + at * kUs, kStart + (at + 60) * kUs);
    EXPECT_EQ(idle.moves(), 0u);
}

TEST_F(SharedCpuTest, tries_are_bounded_to_some_in_a_row_and_one_a_millisecond) {
    NEED_PROCESSORS(2);
    SharedCpu cpu(path_.c_str());
    std::uint64_t at = kStart;
    for (int i = 0; i < 40; ++i, at += 25 * kUs) cpu.yielded(at, at + 20 * kUs);  // 1 ms
    const std::uint64_t in_a_row = cpu.moves();
    EXPECT_GE(in_a_row, 31u);
    EXPECT_LE(in_a_row, 33u);
    for (int i = 0; i < 4'000; ++i, at += 25 * kUs) cpu.yielded(at, at + 20 * kUs);  // 100 ms
    EXPECT_GE(cpu.moves() - in_a_row, 99u);
    EXPECT_LE(cpu.moves() - in_a_row, 101u);
}

TEST_F(SharedCpuTest, with_one_processor_there_is_nowhere_to_go) {
    NEED_PROCESSORS(1);
    SharedCpu cpu(path_.c_str());
    EXPECT_TRUE(cpu.few());
    share(cpu);
    EXPECT_EQ(cpu.moves(), 0u);
    const cpu_set_t now = allowed();
    EXPECT_EQ(CPU_COUNT(&now), 1);
}

TEST_F(SharedCpuTest, where_there_are_more_than_two_it_is_left_to_the_os) {
    NEED_PROCESSORS(3);
    EXPECT_FALSE(SharedCpu(path_.c_str()).few());
}

// A real neighbour on the same processor, which runs and sleeps in turn as a client does.
TEST_F(SharedCpuTest, a_neighbour_that_runs_and_sleeps_is_noticed_by_yielding) {
    NEED_PROCESSORS(2);
    SharedCpu cpu(path_.c_str());
    const cpu_set_t one = first_of(before_, 1);
    std::atomic<bool> over{false};
    std::thread neighbour([&] {
        EXPECT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
        while (!over.load(std::memory_order_relaxed)) {  // relaxed: nothing is read on the strength of it
            const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
            while (std::chrono::steady_clock::now() < end) {
            }
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    });
    const cpu_set_t both = allowed();
    const auto watchdog = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (cpu.moves() == 0 && std::chrono::steady_clock::now() < watchdog) {
        EXPECT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);  // beside it, and free to leave
        EXPECT_EQ(::sched_setaffinity(0, sizeof both, &both), 0);
        for (int i = 0; i < 1'000 && cpu.moves() == 0; ++i) cpu.yield();
    }
    over.store(true, std::memory_order_relaxed);
    neighbour.join();
    EXPECT_GE(cpu.moves(), 1u);
}

}  // namespace
}  // namespace ringlaunch::executor
