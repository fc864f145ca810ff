// What a launch graph's nodes were last given: a node is written where its launch differs, and only there.
#include "daemon/driver/node_contents.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <vector>

namespace ringlaunch::driver {
namespace {

// Launches with parameters of their own.
struct Launches {
    explicit Launches(const std::vector<std::uint32_t>& bytes) {
        for (const std::uint32_t each : bytes) {
            params.emplace_back(each, std::byte{1});
            Launch launch;
            launch.grid = {2, 3, 4};
            launch.block = {32, 1, 1};
            launch.shared_bytes = 16;
            launch.params = params.back().data();
            launch.param_bytes = each;
            launches.push_back(launch);
        }
    }
    std::vector<std::vector<std::byte>> params;
    std::vector<Launch> launches;
};

TEST(NodeContents, ChangesWithEachThingThatANodeHolds) {
    Launches now({40, 0, 4, 4096});
    NodeContents contents(now.launches);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_FALSE(contents.change(i, now.launches[i])) << i;

    const std::vector<std::function<void(Launch&)>> changes{
        [](Launch& launch) { ++launch.grid.x; },         [](Launch& launch) { ++launch.grid.y; },
        [](Launch& launch) { ++launch.grid.z; },         [](Launch& launch) { ++launch.block.x; },
        [](Launch& launch) { ++launch.block.y; },        [](Launch& launch) { ++launch.block.z; },
        [](Launch& launch) { launch.shared_bytes = 0; },
    };
    for (std::size_t i = 0; i < 4; ++i)
        for (const auto& change : changes) {
            change(now.launches[i]);
            EXPECT_TRUE(contents.change(i, now.launches[i])) << i;
            EXPECT_FALSE(contents.change(i, now.launches[i])) << i;
        }
    for (const std::size_t i : {0, 2, 3})
        for (std::byte& each : now.params[i]) {
            each ^= std::byte{0x80};
            ASSERT_TRUE(contents.change(i, now.launches[i])) << i;
            ASSERT_FALSE(contents.change(i, now.launches[i])) << i;
        }
}

TEST(NodeContents, DoesNotCareWhereParametersStandOrWhichRecordItIs) {
    Launches one({8, 24}), other({8, 24});
    NodeContents contents(one.launches);
    for (std::size_t i = 0; i < 2; ++i) {
        other.launches[i].position = 77;
        other.launches[i].end = 78;
        EXPECT_FALSE(contents.change(i, other.launches[i]));
    }
}

TEST(NodeContents, HoldsWhatARunOfChangesLeaves) {
    std::mt19937 random(1);
    Launches now({1, 40, 0, 8, 512});
    NodeContents contents(now.launches);
    std::vector<std::vector<std::byte>> held = now.params;
    for (int round = 0; round < 20'000; ++round) {
        const std::size_t i = random() % now.launches.size();
        if (random() % 2 != 0 && !now.params[i].empty())
            now.params[i][random() % now.params[i].size()] = static_cast<std::byte>(random() % 4);
        ASSERT_EQ(contents.change(i, now.launches[i]), held[i] != now.params[i]) << round;
        held[i] = now.params[i];
    }
}

}  // namespace
}  // namespace ringlaunch::driver
