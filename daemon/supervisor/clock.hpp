// The monotonic clock, in ns.
#pragma once

#include <time.h>

#include <cstdint>

namespace ringlaunch::supervisor {

inline std::uint64_t now_ns() {
    timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
           static_cast<std::uint64_t>(time.tv_nsec);
}
inline constexpr std::uint64_t kNsPerMs = 1'000'000;

}  // namespace ringlaunch::supervisor
