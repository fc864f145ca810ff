// What only the host driver does: real kernels on this CPU, and workers that a test can hold.
#include <gmock/gmock.h>

#include <numeric>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

class HostDriverTest : public testing::Test {
  protected:
    HostDriverTest() : rig(DriverKind::Host), module(load(*rig.driver, TEST_KERNELS)) {}

    Kernel* kernel(const std::string& name) { return find(*module, name); }
    std::uint64_t at(std::uint64_t offset) const { return rig.base + offset; }
    // Holds a stream at the word at `offset`, until let_go.
    void hold(TestStream& stream, std::uint64_t offset) {
        stream.launch(kernel("hold"), {}, {}, pack(device_pointer<unsigned>(at(offset))));
    }
    // Past the device: the test's own store to the word that a kernel polls.
    void let_go(std::uint64_t offset) {
        __atomic_store_n(device_pointer<unsigned>(at(offset)), 1u, __ATOMIC_SEQ_CST);
    }

    Rig rig;
    std::unique_ptr<Module> module;
};

TEST_F(HostDriverTest, ParametersArriveAtTheirOffsets) {
    TestStream stream(*rig.driver);
    struct Triple {
        float x, y, z;
    };
    stream.launch(
        kernel("mixed"), {}, {},
        pack(device_pointer<double>(at(0)), static_cast<signed char>(-5), short{-300}, Triple{1, 2, 3}, 2.5,
             true, static_cast<unsigned char>(200), -123456789012LL, 4000000000u));
    EXPECT_EQ(rig.read<double>(stream, at(0), 8),
              (std::vector<double>{-5, -300, 321, 2.5, 1, 200, -123456789012.0, 4000000000.0}));
}

TEST_F(HostDriverTest, EveryThreadOfEveryBlockRunsOnceAndKnowsItsIndices) {
    for (const auto& [grid, block] : {std::pair<Dim3, Dim3>{{1, 1, 1}, {1, 1, 1}},
                                      {{7, 1, 1}, {33, 1, 1}},
                                      {{3, 4, 5}, {6, 7, 8}},
                                      {{1, 1, 9}, {1, 1, 64}},
                                      {{2, 65, 1}, {1, 1024, 1}}}) {
        TestStream stream(*rig.driver);
        const std::size_t threads = std::size_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z;
        stream.fill(at(0), Rig::kBytes, 0, 4);
        stream.launch(kernel("indices"), grid, block, pack(device_pointer<unsigned>(at(0))));
        std::vector<unsigned> expected(threads + 1);
        std::iota(expected.begin(), expected.end() - 1, 1u);
        EXPECT_EQ(rig.read<unsigned>(stream, at(0), threads + 1), expected);
    }
}

TEST_F(HostDriverTest, AtomicsHoldBetweenStreams) {
    std::deque<TestStream> streams;
    for (int i = 0; i < 4; ++i) streams.emplace_back(*rig.driver);
    for (TestStream& stream : streams)
        for (int i = 0; i < 10; ++i)
            stream.launch(kernel("count_up"), {100}, {50}, pack(device_pointer<unsigned>(at(0))));
    for (TestStream& stream : streams) ASSERT_TRUE(stream.finish());
    EXPECT_EQ(rig.read<unsigned>(streams[0], at(0), 1), std::vector<unsigned>{4 * 10 * 100 * 50});
    streams[0].launch(kernel("atomics"), {2}, {2},
                      pack(device_pointer<int>(at(64)), device_pointer<float>(at(128))));
    EXPECT_EQ(rig.read<int>(streams[0], at(64), 6), (std::vector<int>{20, -20, 7, 9, -3, 3}));
    EXPECT_EQ(rig.read<float>(streams[0], at(128), 1), std::vector<float>{2});
}

TEST_F(HostDriverTest, AHeldStreamHoldsNoOther) {
    TestStream held(*rig.driver), free(*rig.driver);
    hold(held, 0);
    for (unsigned i = 0; i < 500; ++i)
        free.launch(kernel("append"), {}, {},
                    pack(device_pointer<unsigned>(at(4096)), device_pointer<unsigned>(at(64)), i));
    EXPECT_TRUE(free.finish());
    EXPECT_EQ(held.completed(), 0u);
    let_go(0);
    EXPECT_TRUE(held.finish());
}

TEST_F(HostDriverTest, AWaitHoldsUntilTheAwaitedStreamGotThere) {
    TestStream held(*rig.driver), waiter(*rig.driver);
    hold(held, 0);
    held.fill(at(64), 4, 7, 4);
    waiter.wait(held, held.position());
    waiter.copy(schema::RecordKind::CopyOnDevice, at(128), 4, nullptr, 0, at(64));
    EXPECT_FALSE((*waiter).drain(20'000'000));
    EXPECT_EQ(waiter.completed(), 0u);
    // Work that arrives meanwhile wakes the worker, and must not release it.
    waiter.fill(at(192), 4, 1, 4);
    EXPECT_FALSE((*waiter).drain(20'000'000));
    let_go(0);
    EXPECT_EQ(rig.read<unsigned>(waiter, at(128), 1), std::vector<unsigned>{7});
}

TEST_F(HostDriverTest, TakesAsManyAsItPromisedAndThenSaysThatItIsFull) {
    constexpr std::uint32_t kInFlight = 16;
    TestStream stream(*rig.driver, 0, kInFlight);
    hold(stream, 0);
    unsigned taken = 0;
    Status last = Status::ok;
    for (; taken < 10 * kInFlight; ++taken) {
        last = stream.try_launch(
            kernel("append"), {}, {},
            pack(device_pointer<unsigned>(at(4096)), device_pointer<unsigned>(at(64)), taken));
        if (last != Status::ok) break;
    }
    EXPECT_EQ(last, Status::ring_full);
    EXPECT_GE(taken + 1, kInFlight);
    std::size_t none = 99;
    const auto params = pack(device_pointer<unsigned>(at(4096)), device_pointer<unsigned>(at(64)), 0u);
    const Launch more[] = {TestStream::make_launch(kernel("append"), {}, {}, params, stream.position())};
    EXPECT_EQ((*stream).launch_chain(more, none), Status::ring_full);
    EXPECT_EQ(none, 0u);
    let_go(0);
    ASSERT_TRUE(stream.finish());
    std::vector<unsigned> expected(taken);
    std::iota(expected.begin(), expected.end(), 0u);
    EXPECT_EQ(rig.read<unsigned>(stream, at(4096), taken), expected);
}

TEST_F(HostDriverTest, LongParametersFillTheQueueSoonerAndLoseNothing) {
    TestStream stream(*rig.driver, 0, 64);
    struct Words {
        unsigned words[1000];
    } values{};
    hold(stream, 1 << 20);
    std::uint64_t taken = 0;
    Status last = Status::ok;
    for (; taken < 1000; ++taken) {
        values.words[3] = static_cast<unsigned>(taken + 1);
        last = stream.try_launch(kernel("sum_long"), {}, {},
                                 pack(device_pointer<std::uint64_t>(at(8 * taken)), values));
        if (last != Status::ok) break;
    }
    EXPECT_EQ(last, Status::ring_full);
    EXPECT_GE(taken, 2u);
    let_go(1 << 20);
    std::vector<std::uint64_t> expected(taken);
    std::iota(expected.begin(), expected.end(), std::uint64_t{1});
    EXPECT_EQ(rig.read<std::uint64_t>(stream, at(0), taken), expected);
}

TEST_F(HostDriverTest, NotifiesWhenAHeldStreamComesThere) {
    TestStream held(*rig.driver);
    pollfd wake{rig.driver->completion_fd(), POLLIN, 0};
    hold(held, 0);
    held.fill(at(64), 4, 7, 4);
    (*held).notify_at(2);
    (*held).notify_at(1);
    EXPECT_EQ(::poll(&wake, 1, 20), 0);
    let_go(0);
    ASSERT_TRUE(held.finish());
    ASSERT_EQ(::poll(&wake, 1, 20'000), 1);
    std::uint64_t count = 0;
    ASSERT_TRUE(eventually([&] {
        std::uint64_t more = 0;
        if (::read(wake.fd, &more, sizeof(more)) == sizeof(more)) count += more;
        return count == 2;
    }));
}

TEST_F(HostDriverTest, DestructionDropsWhatHasNotBegun) {
    TestStream other(*rig.driver);
    std::vector<unsigned> count{0};
    // Nobody sees when destroy() has begun: a slow machine gets more time to come to it.
    for (const int ms : {20, 100, 500, 2500}) {
        other.fill(at(0), 4, 0, 4);
        other.fill(at(64), 4, 0, 4);
        ASSERT_TRUE(other.finish());
        TestStream held(*rig.driver);
        hold(held, 0);
        held.launch(kernel("append"), {}, {},
                    pack(device_pointer<unsigned>(at(4096)), device_pointer<unsigned>(at(64)), 1u));
        std::thread release([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(ms));
            let_go(0);
        });
        held.destroy();
        release.join();
        count = rig.read<unsigned>(other, at(64), 1);
        if (count[0] == 0) break;
    }
    EXPECT_EQ(count, std::vector<unsigned>{0});
}

TEST_F(HostDriverTest, AStreamThatWaitsCanBeDestroyed) {
    TestStream held(*rig.driver), waiter(*rig.driver), behind(*rig.driver);
    hold(held, 0);
    waiter.wait(held, held.position());
    behind.wait(waiter, waiter.position());
    waiter.destroy();
    behind.destroy();
    EXPECT_EQ(waiter.completed(), 0u);
    EXPECT_EQ(behind.completed(), 0u);
    let_go(0);
    EXPECT_TRUE(held.finish());
}

// In a child: the driver leaves the memory that such a kernel may still use where it is.
TEST(HostStreams, AnEndlessKernelIsGivenUpOnAndNeverTouchesTheStatusPageAgain) {
    const int status = in_child([] {
        Rig rig(DriverKind::Host);
        auto module = load(*rig.driver, TEST_KERNELS);
        TestStream endless(*rig.driver), other(*rig.driver);
        endless.launch(find(*module, "hold"), {}, {}, pack(rig.base));
        EXPECT_FALSE((*endless).drain(10'000'000));
        endless.destroy();  // bounded: it would hang here
        other.fill(rig.base + 64, 4, 3, 4);
        EXPECT_TRUE(other.finish());
        module.reset();  // its code still runs
        other.destroy();
        rig.driver.reset();
        __atomic_store_n(device_pointer<unsigned>(rig.base), 1u, __ATOMIC_SEQ_CST);
        for (int i = 0; i < 20; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            ASSERT_EQ(endless.completed(), 0u) << "the status page may be unmapped by now";
        }
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

TEST_F(HostDriverTest, ModulesWithTheSameKernelNamesStayApart) {
    TestStream stream(*rig.driver);
    const auto other = load(*rig.driver, TEST_OTHER_KERNELS);
    rig.write(stream, at(0), std::vector<float>{10, 10});
    stream.launch(kernel("scale"), {}, {1}, pack(device_pointer<float>(at(0)), 3.0f, 1));
    stream.launch(find(*other, "scale"), {}, {1}, pack(device_pointer<float>(at(4)), 3.0f, 1));
    EXPECT_EQ(rig.read<float>(stream, at(0), 2), (std::vector<float>{30, 13}));
}

TEST_F(HostDriverTest, AnImageLoadedAfterAnotherIsItself) {
    // The loader knows objects by their path, and descriptors are used again.
    TestStream stream(*rig.driver);
    module.reset();
    for (int turn = 0; turn < 6; ++turn) {
        const auto loaded = load(*rig.driver, turn % 2 == 0 ? TEST_KERNELS : TEST_OTHER_KERNELS);
        rig.write(stream, at(0), std::vector<float>{10});
        stream.launch(find(*loaded, "scale"), {}, {1}, pack(device_pointer<float>(at(0)), 3.0f, 1));
        EXPECT_EQ(rig.read<float>(stream, at(0), 1), std::vector<float>{turn % 2 == 0 ? 30.0f : 13.0f});
    }
}

TEST_F(HostDriverTest, RefusesACubinAndSaysWhatToDo) {
    const std::string text = refusal(
        Status::bad_image, [&] { load(*rig.driver, std::string(TEST_DATA) + "/declared_sm90.cubin"); });
    EXPECT_THAT(text, HasSubstr("a cubin for sm_90"));
    EXPECT_THAT(text, HasSubstr("the host driver takes x86-64 shared objects"));
    EXPECT_THAT(text, HasSubstr("g++ -O3 -shared -fPIC"));
    EXPECT_THAT(text, HasSubstr("--driver cuda"));
}

TEST_F(HostDriverTest, SharedMemoryIsNotOffered) {
    for (Kernel* each : module->kernels()) {
        EXPECT_EQ(each->layout().max_dynamic_shared_bytes, 0u);
        EXPECT_EQ(each->layout().static_shared_bytes, 0u);
    }
}

}  // namespace
}  // namespace ringlaunch::driver
