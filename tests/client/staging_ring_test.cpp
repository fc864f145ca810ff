// The staging ring, on its own: what is taken, when it is free again, and how it wraps.
#include "client/src/staging_ring.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace ringlaunch::detail {
namespace {

constexpr std::size_t kBytes = 64 * 1024;

StagingRing make_ring() {
    const UniqueFd fd = make_memfd("staging", kBytes);
    return StagingRing(7, Mapping(fd, kBytes, Mapping::Access::read_write, "staging"));
}

TEST(StagingRing, a_region_is_free_once_its_position_has_completed) {
    StagingRing ring = make_ring();
    const auto whole = ring.take(kBytes, 0);
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->offset, 0u);
    EXPECT_FALSE(ring.take(1, 1000)) << "the host still uses it";
    EXPECT_FALSE(ring.oldest()) << "nobody can wait for what the host uses";
    ring.finish(*whole, 10);
    EXPECT_EQ(ring.oldest(), 10u);
    EXPECT_FALSE(ring.take(1, 9));
    EXPECT_TRUE(ring.take(1, 10));
}

TEST(StagingRing, regions_are_freed_in_the_order_of_the_stream) {
    StagingRing ring = make_ring();
    const auto first = ring.take(kBytes / 2, 0), second = ring.take(kBytes / 2, 0);
    ASSERT_TRUE(first && second);
    ring.finish(*second, 2);
    EXPECT_FALSE(ring.take(64, 5)) << "the first is still in use";
    ring.finish(*first, 1);
    const auto third = ring.take(64, 1);
    ASSERT_TRUE(third);
    EXPECT_EQ(third->offset, 0u);
}

TEST(StagingRing, a_region_never_wraps_and_the_end_is_skipped) {
    StagingRing ring = make_ring();
    const auto first = ring.take(kBytes * 3 / 4, 0);
    ASSERT_TRUE(first);
    ring.finish(*first, 1);
    const auto second = ring.take(kBytes / 2, 1);
    ASSERT_TRUE(second);
    EXPECT_EQ(second->offset, 0u);
    EXPECT_FALSE(ring.take(kBytes / 2, 1)) << "the skipped end counts until the second is free";
}

TEST(StagingRing, holds_a_bounded_number_of_regions) {
    StagingRing ring = make_ring();
    for (std::size_t i = 0; i < StagingRing::kRegions; ++i) {
        const auto region = ring.take(1, 0);
        ASSERT_TRUE(region);
        ring.finish(*region, i + 1);
    }
    EXPECT_FALSE(ring.take(1, 0));
    EXPECT_TRUE(ring.take(1, 1));
}

TEST(StagingRing, regions_in_use_never_overlap) {
    StagingRing ring = make_ring();
    std::mt19937 random(42);
    struct Used {
        std::size_t begin, end;
        std::uint64_t position;
    };
    std::vector<Used> used;
    std::uint64_t position = 0, completed = 0;
    std::size_t taken = 0;
    for (int i = 0; i < 20'000; ++i) {
        const std::size_t bytes = 1 + random() % (kBytes / 4);
        if (const auto region = ring.take(bytes, completed)) {
            ++taken;
            std::erase_if(used, [&](const Used& entry) { return entry.position <= completed; });
            ASSERT_LE(region->offset + bytes, kBytes);
            for (const Used& entry : used)
                ASSERT_TRUE(region->offset >= entry.end || region->offset + bytes <= entry.begin);
            ring.finish(*region, ++position);
            used.push_back({region->offset, region->offset + bytes, position});
        } else {
            ASSERT_LT(completed, position) << "an empty ring takes whatever is a quarter of it";
            completed += 1 + random() % (position - completed);
        }
    }
    EXPECT_GT(taken, 5'000u);
}

}  // namespace
}  // namespace ringlaunch::detail
