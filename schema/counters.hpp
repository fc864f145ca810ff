// Reading and writing the counters and histograms of a status page.
#pragma once

#include <bit>
#include <cstdint>

#include "schema/pages.hpp"

namespace ringlaunch {

// Log-linear: values 0 to 7 have a bucket each, after that 4 buckets an octave. The last bucket takes the
// rest.
constexpr std::size_t bucket_of(std::uint64_t value) {
    if (value < 8) return static_cast<std::size_t>(value);
    const unsigned octave = 63 - static_cast<unsigned>(std::countl_zero(value));
    const std::size_t bucket = 8 + (octave - 3) * 4 + ((value >> (octave - 2)) & 3);
    return bucket < kHistogramBuckets ? bucket : kHistogramBuckets - 1;
}
// The smallest value of a bucket.
constexpr std::uint64_t bucket_floor(std::size_t bucket) {
    if (bucket < 8) return bucket;
    const std::uint64_t octave = (bucket - 8) / 4 + 3;
    return (std::uint64_t{4} + (bucket - 8) % 4) << (octave - 2);
}

// One writer: a plain add, spelled with relaxed atomics because operators read it meanwhile.
inline void count(SharedU64& counter, std::uint64_t by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}
inline void record_latency(LatencyHistogram& histogram, std::uint64_t ns) {
    count(histogram.buckets[bucket_of(ns)]);
}

// The value below which `share` (0 to 1) of the samples lie, in ns, interpolated within its bucket; 0 without
// samples.
double quantile(const LatencyHistogram& histogram, double share);
std::uint64_t samples(const LatencyHistogram& histogram);

}  // namespace ringlaunch
