// When the device is empty: what waits for that is done then, once and in its order, and nobody is held up
// for long.
#include "daemon/executor/lull.hpp"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "daemon/executor/burst.hpp"

namespace ringlaunch::executor {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kMs = 1'000'000;

struct Device {
    std::uint64_t now = kMs;
    bool idle = false;
    int held = 0;  // how often hold() was called without go_on()
    bool shallow = false;
    std::uint64_t held_since = 0, held_ns = 0;
    std::uint64_t awaited = 0;  // the number of the last try; 0: none
    std::vector<std::string> done;
    Lull lull{{[this] {
                   ++held;
                   held_since = now;
               },
               [this] {
                   --held;
                   held_ns += now - held_since;
               },
               [this](bool on) { shallow = on; }, [this] { return idle; },
               [this](std::uint64_t number) { awaited = number; }, [this] { return now; }}};

    void put_off(const std::string& name, bool gives_up = false, bool slow = false,
                 std::uint64_t takes_ns = 0) {
        Lull::Task task{[this, name, takes_ns] {
            done.push_back(name + (held == 0 ? ", going on" : ""));
            now += takes_ns;
        }};
        if (gives_up) task.give_up = [this, name] { done.push_back(name + " given up"); };
        task.slow = slow;
        lull.put_off(task);
    }
    // Time goes by, and ticks come as they were asked for.
    void wait(std::uint64_t ns) {
        const std::uint64_t until = now + ns;
        for (int ms = lull.tick(); now < until; ms = lull.tick())
            now = ms < 0 ? until : std::min(until, now + static_cast<std::uint64_t>(ms) * kMs);
    }
};

TEST(Lull, IsAtOnceWhereNothingIsOnTheDevice) {
    Device device;
    device.idle = true;
    device.put_off("load");
    device.put_off("unload");
    EXPECT_THAT(device.done, ElementsAre("load", "unload"));
    EXPECT_EQ(device.held, 0);
    EXPECT_EQ(device.awaited, 0u);
    EXPECT_EQ(device.lull.tick(), -1);
}

TEST(Lull, IsWhenWhatWasOnTheDeviceIsThroughAndNothingElseIsIssued) {
    Device device;
    device.put_off("load");
    device.put_off("unload");
    EXPECT_THAT(device.done, IsEmpty());
    EXPECT_EQ(device.held, 1);
    device.now += 10 * kMs;
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("load", "unload"));
    EXPECT_EQ(device.held, 0);
    EXPECT_EQ(device.lull.waiting(), 0u);
}

TEST(Lull, OfWhatIsSlowByItselfIsForItsBeginningAlone) {
    Device device;
    device.put_off("unmap");
    device.put_off("compile", false, true);
    device.put_off("load");
    device.now += 10 * kMs;
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("unmap", "compile, going on"));
    EXPECT_EQ(device.held, 0);
    device.wait(31 * kMs);
    EXPECT_EQ(device.held, 1);
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("unmap", "compile, going on", "load"));
    EXPECT_EQ(device.held, 0);
}

TEST(Lull, HoldsNobodyUpForAKernelThatDoesNotEnd) {
    Device device;
    device.put_off("close");
    for (int i = 0; i < 300; ++i) device.wait(100 * kMs);
    EXPECT_THAT(device.done, IsEmpty());
    EXPECT_LE(device.held_ns, Lull::kFirstTryNs + kMs) << "but once";
    EXPECT_EQ(device.lull.tick(), -1);
}

TEST(Lull, IsTriedForLongerUntilTheDeviceIsThroughAndHoldsOthersUpForAQuarterOfTheTime) {
    Device device;
    device.put_off("load");
    // What is on the device takes 300 ms, whether more comes or not.
    std::uint64_t number = 0, since = 0;
    const std::uint64_t began = device.now, end = began + 20'000 * kMs;
    while (device.done.empty() && device.now < end) {
        if (device.awaited != number) number = device.awaited, since = device.now;
        if (device.now - since == 300 * kMs) device.lull.emptied(number);
        device.wait(kMs);
        if (device.held == 0) {
            EXPECT_LE(device.held_ns, (device.now - began) / 4 + 400 * kMs);
        }
    }
    EXPECT_THAT(device.done, ElementsAre("load"));
    EXPECT_EQ(device.held, 0);
}

TEST(Lull, ThatCameTooLateIsNone) {
    Device device;
    device.put_off("load");
    const std::uint64_t first = device.awaited;
    device.wait(Lull::kFirstTryNs + kMs);
    EXPECT_EQ(device.held, 0);
    device.lull.emptied(first);
    EXPECT_THAT(device.done, IsEmpty());
    EXPECT_EQ(device.held, 0) << "not its time yet";
    for (int ms = 0; device.held == 0 && ms < 1000; ++ms) device.wait(kMs);
    EXPECT_NE(device.awaited, first);
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("load"));
}

// A queue of 2.5 s that is filled up again as soon as it may, and a stream that is never deep.
TEST(Lull, LetsALongQueueRunOffWhileOthersGoOn) {
    Device device;
    device.put_off("load");
    EXPECT_FALSE(device.shallow) << "a short queue is through at once";
    const std::uint64_t first = device.awaited;
    device.wait(2'500 * kMs);
    EXPECT_EQ(device.held, 0);
    EXPECT_TRUE(device.shallow);
    EXPECT_LE(device.held_ns, Lull::kFirstTryNs + kMs);
    device.lull.emptied(first);
    while (device.held == 0) device.wait(kMs);
    EXPECT_LE(device.now, 2'600 * kMs);
    device.wait(10 * kMs);  // one kernel of the deep stream
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("load"));
    EXPECT_EQ(device.held, 0);
    EXPECT_FALSE(device.shallow);
    EXPECT_LE(device.held_ns, Lull::kFirstTryNs + 12 * kMs);
}

TEST(Lull, IsShallowNoLongerThanSomethingWaits) {
    Device given_up, forced;
    given_up.put_off("load", true);
    given_up.wait(Lull::kGiveUpNs / 2);
    EXPECT_TRUE(given_up.shallow);
    given_up.wait(Lull::kGiveUpNs);
    EXPECT_FALSE(given_up.shallow);
    forced.put_off("unmap");
    forced.wait(100 * kMs);
    EXPECT_TRUE(forced.shallow);
    forced.lull.run_all();
    EXPECT_FALSE(forced.shallow);
}

TEST(Lull, IsNotShallowForEverBesideAKernelThatDoesNotEnd) {
    Device device;
    device.put_off("close");
    const std::uint64_t first = device.awaited;
    device.wait(Lull::kGiveUpNs / 2);
    EXPECT_TRUE(device.shallow);
    device.wait(Lull::kGiveUpNs);
    EXPECT_FALSE(device.shallow);
    device.wait(Lull::kGiveUpNs);
    EXPECT_FALSE(device.shallow);
    device.lull.emptied(first);
    while (device.held == 0) device.wait(kMs);
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("close"));
}

TEST(Burst, GrowsWhileItIsShortAndShrinksWhereItIsLong) {
    Burst burst;
    std::uint64_t now = 1;
    const auto takes = [&](std::uint64_t each_ns) {
        const std::uint32_t size = burst.size();
        burst.begin(now);
        burst.end(now += size * each_ns);
        return size;
    };
    std::vector<std::uint32_t> sizes;
    for (int i = 0; i < 9; ++i) sizes.push_back(takes(600));
    EXPECT_THAT(sizes, ElementsAre(1, 2, 4, 8, 16, 32, 64, 64, 64));
    for (int i = 0; i < 20; ++i) takes(100'000);
    EXPECT_LE(burst.size() * 100'000, Burst::kLongNs);
    EXPECT_GT(burst.size() * 100'000, Burst::kLongNs / 2 - 100'000);
    for (int i = 0; i < 20; ++i) takes(10 * kMs);
    EXPECT_EQ(burst.size(), 1u);
    burst.end(now += 1);  // what began before is not known
    EXPECT_EQ(burst.size(), 1u);
}

TEST(Lull, OfAKernelWithoutAnEndIsGivenUpByWhoCannotWait) {
    Device device;
    device.put_off("close");
    device.put_off("load", true);
    device.wait(Lull::kGiveUpNs + Lull::kLongestTryNs);
    EXPECT_THAT(device.done, ElementsAre("load given up"));
    EXPECT_EQ(device.lull.waiting(), 1u);
    device.wait(30'000 * kMs);
    device.idle = true;
    device.lull.emptied(device.awaited);
    device.wait(kMs);
    EXPECT_THAT(device.done, ElementsAre("load given up", "close"));
    EXPECT_EQ(device.held, 0);
}

TEST(Lull, IsForALittleAtATime) {
    Device device;
    for (int i = 0; i < 10; ++i) device.put_off(std::to_string(i), false, false, 20 * kMs);
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("0", "1", "2"));
    EXPECT_EQ(device.held, 0);
    const std::uint64_t paused = device.now;
    while (device.lull.waiting() != 0 && device.now < paused + 10'000 * kMs) {
        device.wait(10 * kMs);
        if (device.held != 0) device.lull.emptied(device.awaited);
    }
    EXPECT_EQ(device.done.size(), 10u);
    EXPECT_GE(device.now - paused, 3u * 120 * kMs) << "others go on meanwhile";
}

TEST(Lull, KeepsTheOrderOfWhatIsPutOffMeanwhile) {
    Device device;
    device.lull.put_off({[&] {
        device.done.push_back("first");
        device.put_off("third");
    }});
    device.put_off("second");
    device.lull.emptied(device.awaited);
    EXPECT_THAT(device.done, ElementsAre("first", "second", "third"));
    EXPECT_EQ(device.held, 0);
}

TEST(Lull, MayBeMadeByForce) {
    Device device;
    device.put_off("unmap");
    device.lull.run_all();
    EXPECT_THAT(device.done, ElementsAre("unmap"));
    device.lull.emptied(device.awaited);
    EXPECT_EQ(device.held, 0);
    EXPECT_EQ(device.lull.tick(), -1);
}

}  // namespace
}  // namespace ringlaunch::executor
