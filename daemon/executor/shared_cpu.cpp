#include "daemon/executor/shared_cpu.hpp"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "daemon/executor/clock.hpp"

namespace ringlaunch::executor {

namespace {

constexpr int kFewProcessors = 2;
// A yield with nobody to yield to takes less than 1 us, a client's turn with its spin and its sleep more than
// this.
constexpr std::uint64_t kLateNs = 5'000;
// An idle processor takes about as long to wake up.
constexpr std::uint64_t kShortSleepNs = 20'000;
constexpr std::uint64_t kSuccessionNs = 1'000'000;
// A try costs some 30 us, so this bounds what all of them cost to a few percent; so many in a row may be
// needed.
constexpr std::uint64_t kPerTryNs = 1'000'000, kTriesInARow = 32;

bool few_processors() {
    cpu_set_t set;
    return ::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) <= kFewProcessors;
}

}  // namespace

SharedCpu::SharedCpu(const char* load_path)
    : few_(few_processors()), load_(few_ ? ::open(load_path, O_RDONLY | O_CLOEXEC) : -1) {}

void SharedCpu::yield() noexcept {
    const std::uint64_t left_ns = now_ns();
    ::sched_yield();
    yielded(left_ns, now_ns());
}

void SharedCpu::yielded(std::uint64_t left_ns, std::uint64_t back_ns) noexcept {
    if (back_ns - left_ns >= kLateNs) [[unlikely]]
        looks_shared(left_ns, back_ns);
}

void SharedCpu::slept(std::uint64_t left_ns, std::uint64_t back_ns) noexcept {
    if (few_ && back_ns - left_ns < kShortSleepNs) looks_shared(left_ns, back_ns);
}

void SharedCpu::looks_shared(std::uint64_t left_ns, std::uint64_t back_ns) noexcept {
    const bool again = last_seen_ns_ != 0 && left_ns - last_seen_ns_ < kSuccessionNs;
    last_seen_ns_ = back_ns;
    if (again && only_this_thread_runs() && may_try(back_ns) && move()) ++moves_;
}

// Each try moves `tries_until_ns_` on by kPerTryNs, and it may not run ahead of the clock by more than so
// many.
bool SharedCpu::may_try(std::uint64_t now_ns) noexcept {
    const std::uint64_t until = std::max(tries_until_ns_, now_ns) + kPerTryNs;
    if (until > now_ns + kTriesInARow * kPerTryNs) return false;
    tries_until_ns_ = until;
    return true;
}

// The fourth field of /proc/loadavg begins with the number of threads that run or are ready to, in all the
// machine.
bool SharedCpu::only_this_thread_runs() const noexcept {
    char text[128];
    const ssize_t got = ::pread(load_.get(), text, sizeof text - 1, 0);
    if (got <= 0) return false;
    text[got] = 0;
    const char* at = text;
    for (int field = 0; field < 3; ++field) {
        at = std::strchr(at, ' ');
        if (at == nullptr) return false;
        ++at;
    }
    return std::strtol(at, nullptr, 10) == 1;
}

bool SharedCpu::move() noexcept {
    // Asked for anew: whoever set it since wants it kept.
    cpu_set_t allowed;
    const int here = ::sched_getcpu();
    if (here < 0 || ::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
    cpu_set_t others = allowed;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) == 0 || ::sched_setaffinity(0, sizeof others, &others) != 0) return false;
    const bool moved = ::sched_getcpu() != here;
    // It fails only where none of these processors may be used any more: the OS has set others by then.
    ::sched_setaffinity(0, sizeof allowed, &allowed);
    return moved;
}

}  // namespace ringlaunch::executor
