// The fault page: where a dying executor leaves word of who killed it. Written from a signal handler, read by
// the supervisor once the executor has been reaped.
#pragma once

#include <atomic>
#include <cstdint>

namespace ringlaunch::driver {

enum class FaultKind : std::uint32_t {
    none = 0,
    signal = 1,  // host driver: a kernel raised a signal; the culprit is exact
    device = 2,  // the device reported an error; `stream` is 0 where it does not say whose
};

// The launch that a fault dump names.
struct FaultedLaunch {
    std::uint64_t stream = 0;
    std::uint64_t position = 0;
    std::uint64_t kernel = 0;
};
inline constexpr std::size_t kMaxFaultedLaunches = 8;

struct FaultPage {
    std::uint32_t magic = 0x544c4652;  // "RFLT"
    std::uint32_t signal = 0;
    std::uint64_t stream = 0;
    std::uint64_t position = 0;  // the record's first slot
    std::uint64_t kernel = 0;    // id in the session
    std::uint64_t address = 0;
    char text[256] = {};
    std::uint32_t also_count = 0;
    FaultedLaunch also[kMaxFaultedLaunches] = {};  // of other streams: faulted with it; `stream` 0: suspects
    // The request whose module the control thread is loading, 0: none. Not of the fault, and written before
    // it.
    std::atomic<std::uint32_t> loading{0};
    // A FaultKind, stored last with release: the rest belongs to it. First fault wins.
    std::atomic<std::uint32_t> kind{0};
};
static_assert(sizeof(FaultPage) <= 4096);

// The exit status of an executor that found its device lost and left in order.
inline constexpr int kExitDeviceLost = 70;

}  // namespace ringlaunch::driver
