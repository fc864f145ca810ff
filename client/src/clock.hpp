// The clock of deadlines and samples: CLOCK_MONOTONIC in ns, through the vdso.
#pragma once

#include <time.h>

#include <cstdint>

namespace ringlaunch::detail {

inline std::uint64_t now_ns() noexcept {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

inline std::uint64_t deadline_in(std::uint64_t ns) noexcept {
    const std::uint64_t now = now_ns();
    return ns > ~std::uint64_t{0} - now ? ~std::uint64_t{0} : now + ns;
}

// For poll(): -1 without a deadline, rounded up, so that a poll never ends just before the deadline.
inline int poll_ms(std::uint64_t deadline_ns, int at_most = -1) noexcept {
    if (deadline_ns == ~std::uint64_t{0}) return at_most;
    const std::uint64_t now = now_ns();
    const std::uint64_t left_ms = deadline_ns <= now ? 0 : (deadline_ns - now + 999'999) / 1'000'000;
    const int bounded = left_ms > 60'000 ? 60'000 : static_cast<int>(left_ms);
    return at_most >= 0 && at_most < bounded ? at_most : bounded;
}

}  // namespace ringlaunch::detail
