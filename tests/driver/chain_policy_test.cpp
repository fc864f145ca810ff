#include "daemon/driver/chain_policy.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace ringlaunch::driver {
namespace {

// How a backlog is cut; 1: by itself.
std::vector<std::size_t> cut(std::size_t launches) {
    std::vector<std::size_t> parts;
    while (launches != 0) {
        const std::size_t which = chain_for(launches);
        parts.push_back(which == kChainLengths.size() ? 1 : kChainLengths[which]);
        launches -= parts.back();
    }
    return parts;
}

TEST(ChainPolicy, TakesTheLongestChainThatIsFilled) {
    EXPECT_EQ(cut(0), (std::vector<std::size_t>{}));
    EXPECT_EQ(cut(1), (std::vector<std::size_t>{1}));
    EXPECT_EQ(cut(3), (std::vector<std::size_t>{1, 1, 1}));
    EXPECT_EQ(cut(4), (std::vector<std::size_t>{4}));
    EXPECT_EQ(cut(31), (std::vector<std::size_t>{16, 8, 4, 1, 1, 1}));
    EXPECT_EQ(cut(32), (std::vector<std::size_t>{32}));
    EXPECT_EQ(cut(64), (std::vector<std::size_t>{32, 32}));
    EXPECT_EQ(cut(101), (std::vector<std::size_t>{32, 32, 32, 4, 1}));
}

TEST(ChainPolicy, NeverWaitsForMore) {
    for (std::size_t launches = 1; launches <= 200; ++launches) {
        std::size_t sum = 0;
        for (const std::size_t part : cut(launches)) sum += part;
        EXPECT_EQ(sum, launches);
        EXPECT_LE(cut(launches).size(), launches / 32 + 3 + 3);
    }
}

}  // namespace
}  // namespace ringlaunch::driver
