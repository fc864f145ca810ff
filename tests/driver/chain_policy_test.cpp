#include "daemon/driver/chain_policy.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace ringlaunch::driver {
namespace {

// How a backlog is cut where every chain is there; 1: by itself.
std::vector<std::size_t> cut(std::size_t launches) {
    std::vector<std::size_t> parts;
    while (launches != 0) {
        std::size_t part = 1;
        each_chain_length(launches, [&](std::size_t length) {
            part = length;
            return true;
        });
        parts.push_back(part);
        launches -= part;
    }
    return parts;
}

TEST(ChainPolicy, TakesTheLongestChainThatIsFilled) {
    EXPECT_EQ(cut(1), (std::vector<std::size_t>{1}));
    EXPECT_EQ(cut(2), (std::vector<std::size_t>{2}));
    EXPECT_EQ(cut(13), (std::vector<std::size_t>{13}));
    EXPECT_EQ(cut(16), (std::vector<std::size_t>{16}));
    EXPECT_EQ(cut(17), (std::vector<std::size_t>{16, 1}));
    EXPECT_EQ(cut(31), (std::vector<std::size_t>{24, 7}));
    EXPECT_EQ(cut(64), (std::vector<std::size_t>{64}));
    EXPECT_EQ(cut(101), (std::vector<std::size_t>{64, 32, 5}));
}

TEST(ChainPolicy, LooksAtEachLengthOnceAndTheLongestFirst) {
    for (std::size_t launches = 0; launches <= 200; ++launches) {
        std::vector<std::size_t> looked;
        EXPECT_FALSE(each_chain_length(launches, [&](std::size_t length) {
            looked.push_back(length);
            return false;
        }));
        EXPECT_TRUE(std::is_sorted(looked.rbegin(), looked.rend())) << launches;
        EXPECT_EQ(std::set<std::size_t>(looked.begin(), looked.end()).size(), looked.size()) << launches;
        if (launches < 2) {
            EXPECT_TRUE(looked.empty());
            continue;
        }
        EXPECT_EQ(looked.back(), std::min<std::size_t>(launches, 4));
        EXPECT_LE(looked.front(), std::min(launches, kLongestChain));
        if (launches <= kLongestExactChain) {
            EXPECT_EQ(looked.front(), launches);
        }
        // At most a third goes without, which the next look takes.
        EXPECT_GE(looked.front() * 3, std::min(launches, kLongestChain) * 2) << launches;
    }
}

TEST(ChainPolicy, AChainIsMadeWhenItWouldHavePaid) {
    for (std::size_t length = 2; length <= kLongestChain; ++length) {
        const std::uint64_t saved_ns = 900 * length;
        EXPECT_GT(sightings_before_chain(length) * saved_ns, making_ns(length));
        EXPECT_LE((sightings_before_chain(length) - 1) * saved_ns, making_ns(length));
    }
}

TEST(MakingAllowance, IsSpentAndEarnedAgainByLaunches) {
    MakingAllowance allowance;
    std::uint64_t made = 0;
    for (; allowance.covers(kLongestChain); ++made) allowance.spend(kLongestChain);
    EXPECT_EQ(made, MakingAllowance::kFirstNs / making_ns(kLongestChain));
    EXPECT_TRUE(allowance.covers(2)) << "what is left";
    while (allowance.covers(2)) allowance.spend(2);
    const std::uint64_t launches = making_ns(2) / MakingAllowance::kEarnedNs + 1;
    allowance.earn(launches);
    EXPECT_TRUE(allowance.covers(2));
    allowance.earn(1'000'000'000);
    for (made = 0; allowance.covers(kLongestChain); ++made) allowance.spend(kLongestChain);
    EXPECT_EQ(made, MakingAllowance::kFirstNs / making_ns(kLongestChain)) << "no more than at first";
}

TEST(SequenceKey, TellsSequencesApart) {
    const auto key_of = [](const std::vector<std::uint64_t>& kernels) {
        SequenceKey key;
        for (const std::uint64_t kernel : kernels) key.add(kernel);
        return key.value();
    };
    EXPECT_EQ(key_of({1, 2, 3}), key_of({1, 2, 3}));
    EXPECT_NE(key_of({1, 2, 3}), key_of({1, 3, 2}));
    EXPECT_NE(key_of({1, 1}), key_of({1, 1, 1}));
    // Addresses as an allocator gives them, in every order of up to four of 16.
    std::set<std::uint64_t> keys;
    std::size_t sequences = 0;
    for (std::size_t length = 1; length <= 4; ++length)
        for (std::size_t number = 0; number < std::size_t{1} << (4 * length); ++number) {
            std::vector<std::uint64_t> kernels;
            for (std::size_t i = 0; i < length; ++i)
                kernels.push_back(0x7f30'0000'1000 + 0x60 * ((number >> (4 * i)) & 15));
            keys.insert(key_of(kernels));
            ++sequences;
        }
    EXPECT_EQ(keys.size(), sequences);
}

TEST(Sightings, CountsWhatComesAgain) {
    Sightings sightings;
    for (std::uint32_t i = 1; i <= 20; ++i) EXPECT_EQ(sightings.see(77), i);
    EXPECT_EQ(sightings.see(78), 1u);
    sightings.forget(77);
    sightings.forget(79);
    EXPECT_EQ(sightings.see(77), 1u);
    EXPECT_EQ(sightings.see(78), 2u);
}

TEST(Sightings, TwoWithTheSamePlaceAreBothCounted) {
    Sightings sightings;
    const std::uint64_t one = 3, other = 3 | std::uint64_t{5} << 32;
    for (std::uint32_t i = 1; i <= 20; ++i) {
        sightings.see(one);
        sightings.see(other);
    }
    EXPECT_EQ(sightings.see(one), 21u);
    EXPECT_GT(sightings.see(other), 18u);
}

// Each of 100 sequences comes once a round, among ten thousand that never come again.
TEST(Sightings, WhatComesOnceDoesNotDriveOutWhatComesOften) {
    Sightings sightings;
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> often(100);
    for (std::uint64_t& key : often) key = random();
    std::set<std::uint64_t> known;
    for (int round = 0; round < 40; ++round) {
        for (const std::uint64_t key : often)
            if (sightings.see(key) >= sightings_before_chain(2)) known.insert(key);
        for (int i = 0; i < 10'000 / 40; ++i) EXPECT_LT(sightings.see(random()), sightings_before_chain(64));
    }
    EXPECT_GE(known.size(), 95u);
}

}  // namespace
}  // namespace ringlaunch::driver
