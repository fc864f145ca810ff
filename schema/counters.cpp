// Summing up a histogram for people.
#include "schema/counters.hpp"

namespace ringlaunch {

std::uint64_t samples(const LatencyHistogram& histogram) {
    std::uint64_t total = 0;
    for (const SharedU64& bucket : histogram.buckets) total += bucket.load(std::memory_order_relaxed);
    return total;
}

double quantile(const LatencyHistogram& histogram, double share) {
    // relaxed: a snapshot for people; the counts may be of slightly different moments.
    const double wanted = share * static_cast<double>(samples(histogram));
    double seen = 0;
    for (std::size_t i = 0; i < kHistogramBuckets; ++i) {
        const auto here = static_cast<double>(histogram.buckets[i].load(std::memory_order_relaxed));
        if (here > 0 && seen + here >= wanted) {
            const auto low = static_cast<double>(bucket_floor(i));
            const auto high =
                static_cast<double>(i + 1 < kHistogramBuckets ? bucket_floor(i + 1) : bucket_floor(i));
            return low + (high - low) * (wanted - seen) / here;
        }
        seen += here;
    }
    return 0;
}

}  // namespace ringlaunch
