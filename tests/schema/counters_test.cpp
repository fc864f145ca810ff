// Histogram buckets and quantiles.
#include "schema/counters.hpp"

#include <gtest/gtest.h>

#include <memory>

namespace ringlaunch {
namespace {

TEST(Buckets, CoverEveryValueOnceAndInOrder) {
    for (std::size_t i = 0; i < kHistogramBuckets; ++i) {
        const std::uint64_t floor = bucket_floor(i);
        EXPECT_EQ(bucket_of(floor), i);
        if (i > 0) {
            EXPECT_GT(floor, bucket_floor(i - 1));
            EXPECT_EQ(bucket_of(floor - 1), i - 1);
        }
    }
    EXPECT_EQ(bucket_of(~std::uint64_t{0}), kHistogramBuckets - 1);
}

TEST(Buckets, AreAtMostAQuarterWide) {
    for (std::size_t i = 8; i + 1 < kHistogramBuckets; ++i)
        EXPECT_LE((bucket_floor(i + 1) - bucket_floor(i)) * 4, bucket_floor(i)) << i;
}

TEST(Buckets, ReachTimesThatMatter) {
    EXPECT_GT(bucket_floor(kHistogramBuckets - 1), 60'000'000'000u);
}

TEST(Quantile, OfNothingIsZero) {
    const auto histogram = std::make_unique<LatencyHistogram>();
    EXPECT_EQ(samples(*histogram), 0u);
    EXPECT_EQ(quantile(*histogram, 0.5), 0);
}

TEST(Quantile, IsWithinABucketOfTheTruth) {
    const auto histogram = std::make_unique<LatencyHistogram>();
    for (std::uint64_t ns = 1; ns <= 10'000; ++ns) record_latency(*histogram, ns);
    EXPECT_EQ(samples(*histogram), 10'000u);
    for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
        const double truth = share * 10'000;
        EXPECT_NEAR(quantile(*histogram, share), truth, truth * 0.25 + 1) << share;
    }
}

TEST(Quantile, OfTheLastBucketIsItsFloor) {
    const auto histogram = std::make_unique<LatencyHistogram>();
    record_latency(*histogram, ~std::uint64_t{0});
    EXPECT_EQ(quantile(*histogram, 0.5), static_cast<double>(bucket_floor(kHistogramBuckets - 1)));
}

TEST(Count, Adds) {
    SharedU64 counter{40};
    count(counter);
    count(counter, 1);
    EXPECT_EQ(counter, 42u);
}

}  // namespace
}  // namespace ringlaunch
