// How many records a stream may have on the device at once while that is to become empty (lull.hpp): taken
// only where it has none there, so many that they take about a millisecond. Their device is through with them
// soon whenever nothing more comes, and meanwhile loses little.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ringlaunch::executor {

class Burst {
  public:
    static constexpr std::uint32_t kLargest = 64;  // the longest chain
    static constexpr std::uint64_t kLongNs = 1'000'000;

    std::uint32_t size() const noexcept { return size_; }
    void begin(std::uint64_t now_ns) noexcept { began_ns_ = now_ns; }
    // All of it has completed.
    void end(std::uint64_t now_ns) noexcept {
        if (began_ns_ == 0) return;
        const std::uint64_t took = now_ns - std::min(now_ns, began_ns_);
        began_ns_ = 0;
        if (took <= kLongNs / 2)
            size_ = std::min(2 * size_, kLargest);
        else if (took > kLongNs)
            size_ = std::max(size_ / 2, 1u);
    }

    void forget() noexcept { began_ns_ = 0; }

  private:
    std::uint32_t size_ = 1;
    std::uint64_t began_ns_ = 0;  // 0: none has begun
};

}  // namespace ringlaunch::executor
