// When the device has little to do: what waits for that is done then, once and in its order.
#include "daemon/executor/lull.hpp"

#include <gmock/gmock.h>

#include <string>
#include <vector>

namespace ringlaunch::executor {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kMs = 1'000'000;

struct Device {
    bool idle = false;
    int rounds = 0;
    std::vector<std::string> done;
    Lull lull{[this] { return idle; }, [this] { ++rounds; }};

    void put_off(const std::string& name, std::uint64_t now, bool gives_up = false) {
        Lull::Task task{[this, name] { done.push_back(name); }};
        if (gives_up) task.give_up = [this, name] { done.push_back(name + " given up"); };
        lull.put_off(task, now);
    }
};

TEST(Lull, IsAtOnceWhereNothingIsOnTheDevice) {
    Device device;
    device.idle = true;
    device.put_off("load", 0);
    EXPECT_THAT(device.done, ElementsAre("load"));
    EXPECT_EQ(device.rounds, 0);
}

TEST(Lull, IsBehindARoundThatWasShort) {
    Device device;
    device.put_off("load", 0);
    device.put_off("unload", kMs);
    EXPECT_THAT(device.done, IsEmpty());
    EXPECT_EQ(device.rounds, 1);
    device.lull.round_over(Lull::kLittleNs);
    EXPECT_THAT(device.done, ElementsAre("load", "unload"));
    EXPECT_EQ(device.rounds, 1);
    EXPECT_EQ(device.lull.waiting(), 0u);
}

TEST(Lull, IsNotBehindALongOne) {
    Device device;
    device.put_off("load", 0);
    device.lull.round_over(500 * kMs);
    EXPECT_THAT(device.done, IsEmpty());
    EXPECT_EQ(device.rounds, 2);
    device.lull.round_over(505 * kMs);
    EXPECT_THAT(device.done, ElementsAre("load"));
}

TEST(Lull, IsNotWaitedForForEverWhereTheDeviceGetsOn) {
    Device device;
    device.put_off("load", 0);
    std::uint64_t now = 0;
    while (device.done.empty()) {
        ASSERT_LE(now, Lull::kPatienceNs + 300 * kMs);
        now += 300 * kMs;
        device.lull.round_over(now);
    }
    EXPECT_GE(now, Lull::kPatienceNs);
}

TEST(Lull, OfAKernelWithoutAnEndIsGivenUpByWhoCannotWait) {
    Device device;
    device.put_off("close", 0);
    device.put_off("load", kMs, true);
    EXPECT_GT(device.lull.tick(2 * kMs), 29'000);
    EXPECT_EQ(device.lull.tick(Lull::kGiveUpNs + kMs), -1);
    EXPECT_THAT(device.done, ElementsAre("load given up"));
    EXPECT_EQ(device.lull.waiting(), 1u);
    device.lull.round_over(Lull::kGiveUpNs * 2);
    EXPECT_THAT(device.done, ElementsAre("load given up", "close"));
}

TEST(Lull, KeepsTheOrderOfWhatIsPutOffMeanwhile) {
    Device device;
    device.lull.put_off({[&] {
                            device.done.push_back("first");
                            device.put_off("third", 0);
                        }},
                        0);
    device.put_off("second", 0);
    device.lull.round_over(kMs);
    EXPECT_THAT(device.done, ElementsAre("first", "second"));
    EXPECT_EQ(device.rounds, 2);
    device.lull.round_over(2 * kMs);
    EXPECT_THAT(device.done, ElementsAre("first", "second", "third"));
}

TEST(Lull, MayBeMadeByForce) {
    Device device;
    device.put_off("unmap", 0);
    device.lull.run_all();
    EXPECT_THAT(device.done, ElementsAre("unmap"));
    device.lull.round_over(900 * kMs);
    EXPECT_EQ(device.rounds, 1);
}

}  // namespace
}  // namespace ringlaunch::executor
