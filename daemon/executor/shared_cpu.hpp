// Two processors or fewer: how the dispatch thread, while it spins, lets others on, and leaves a processor
// that it shares when the other one stands idle.
//
// A client that waits and this thread can come to sit on one processor: the OS may wake who is rung beside
// the ringer, and some kernels pack what often sleeps onto few processors. Each then spins while the other
// cannot run, and sleeps; so there are seldom two that are ready at once, and the OS moves neither for tens
// of ms, in which a round trip takes 50 us instead of 0.2.
//
// What is seen of it here: sched_yield() returns late, because another ran meanwhile; or a sleep is over as
// soon as it began, because whoever rings could only run then. If that happens twice in short succession, and
// nothing in the whole machine but this thread is ready to run now, then who ran here sleeps, and the other
// processor is idle: the thread has itself moved there, and is the OS's to move again. It may take several
// moves: a kernel that packs may wake the client beside the thread once more. Where anything else wants to
// run, the OS's choice stands.
#pragma once

#include <cstdint>

#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

// But for the constructor, used by one thread.
class SharedCpu {
  public:
    // Asks which processors the calling thread may use. `load_path`: a file like /proc/loadavg.
    explicit SharedCpu(const char* load_path = "/proc/loadavg");

    // Are there so few processors that a thread which spins must let others on?
    bool few() const noexcept { return few_; }

    // Lets others on. Moves the thread when it is time, as the two below do: makes system calls then.
    void yield() noexcept;

    // What yield() and a sleep that was rung out of have seen: the thread did not run from `left_ns` to
    // `back_ns`.
    void yielded(std::uint64_t left_ns, std::uint64_t back_ns) noexcept;
    void slept(std::uint64_t left_ns, std::uint64_t back_ns) noexcept;

    // How often the thread was moved, for tests.
    std::uint64_t moves() const noexcept { return moves_; }

  private:
    void looks_shared(std::uint64_t left_ns, std::uint64_t back_ns) noexcept;
    bool may_try(std::uint64_t now_ns) noexcept;
    bool only_this_thread_runs() const noexcept;
    bool move() noexcept;

    const bool few_;
    const UniqueFd load_;             // none where it cannot be read: then the thread stays
    std::uint64_t last_seen_ns_ = 0;  // when it last looked shared
    std::uint64_t tries_until_ns_ = 0;
    std::uint64_t moves_ = 0;
};

}  // namespace ringlaunch::executor
