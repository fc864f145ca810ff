#include "inline_worker.hpp"

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <system_error>
#include <utility>

namespace ringlaunch::python {

namespace {

std::uint64_t now_ns() noexcept {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::steady_clock::now().time_since_epoch())
                                          .count());
}

bool few_processors() noexcept {
    cpu_set_t allowed;
    return ::sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) <= 2;
}

bool register_barrier() noexcept {
    return ::syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

// A full barrier of each thread of this process that runs. It cannot fail once it was registered.
void barrier_of_all() noexcept {
    ::syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

void relax() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

LaunchWorker::LaunchWorker(Issuer& issuer, std::size_t ring_lines)
    : ring_(ring_lines),
      few_processors_(few_processors()),
      must_fence_(!register_barrier()),
      issuer_(issuer) {}

bool LaunchWorker::begin() noexcept {
    spins_.store(true, std::memory_order_relaxed);  // relaxed: decides only how an idle thread waits
    if (thread_.joinable()) return true;
    // Signals are for the program's own threads.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        thread_ = std::thread([this] { run(); });
        ::pthread_setname_np(thread_.native_handle(), "ringlaunch");
    } catch (const std::system_error&) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread_.joinable();
}

void LaunchWorker::end() noexcept {
    spins_.store(false, std::memory_order_relaxed);  // relaxed: as in begin()
}

void LaunchWorker::stop() noexcept {
    if (!thread_.joinable()) return;
    stops_.store(true, std::memory_order_seq_cst);  // before wake(), whose word the thread reads first
    wake();
    thread_.join();
    stops_.store(false, std::memory_order_relaxed);  // relaxed: there is no other thread now
}

void LaunchWorker::wake() noexcept {
    asleep_.store(0, std::memory_order_seq_cst);
    asleep_.notify_one();
}

// Either the producer sees the word, or this thread sees what it published: the word stands between two full
// barriers of this thread, of which the later one is one of the producer's, too. False: there is work.
bool LaunchWorker::sleep() noexcept {
    asleep_.store(1, std::memory_order_seq_cst);
    if (!must_fence_)
        barrier_of_all();
    else
        std::atomic_thread_fence(std::memory_order_seq_cst);
    if (ring_.issued() != ring_.published() || stops_.load(std::memory_order_seq_cst)) {
        asleep_.store(0, std::memory_order_relaxed);  // relaxed: who sees it late wakes nobody
        return false;
    }
    asleep_.wait(1, std::memory_order_acquire);
    return true;
}

void LaunchWorker::run() noexcept {
    std::uint64_t idle_since = 0, gathers_since = 0;
    // Each look at where the producer stands makes its next store wait.
    const auto let_others_on = [this](int pauses) {
        if (few_processors_)
            ::sched_yield();
        else
            for (int i = 0; i < pauses; ++i) relax();
    };
    while (true) {
        if (const std::uint64_t lines = ring_.published() - ring_.issued(); lines != 0) {
            idle_since = 0;
            const std::uint64_t now = now_ns();
            if (gathers_since == 0) gathers_since = now;
            // relaxed: a time, nothing is read on the strength of it
            const std::uint64_t until =
                std::max(gathers_since + kGatherNs, busy_until_ns_.load(std::memory_order_relaxed));
            if (lines < kEnoughLines && now < until && !stops_.load(std::memory_order_seq_cst)) {
                let_others_on(32);
                continue;
            }
            gathers_since = 0;
            const std::lock_guard lock(issuing_);
            issue_some();
            continue;
        }
        gathers_since = 0;
        if (stops_.load(std::memory_order_seq_cst)) return;
        // relaxed: as in begin()
        if (spins_.load(std::memory_order_relaxed)) {
            const std::uint64_t now = now_ns();
            if (idle_since == 0) idle_since = now;
            if (now - idle_since < (few_processors_ ? kSpinNs / 10 : kSpinNs)) {
                let_others_on(8);
                continue;
            }
        }
        sleep();
        idle_since = 0;
    }
}

// Under the lock. False: there was nothing.
bool LaunchWorker::issue_some() noexcept {
    std::array<LaunchRing::Entry*, kMostAtOnce> entries;
    std::uint64_t end = 0;
    const std::size_t count = ring_.take(entries, end);
    if (end == ring_.issued()) return false;
    std::size_t done = 0;
    if (!failure_ && count != 0) {
        Issuer::Refusal why;
        done = issuer_.issue({entries.data(), count}, why);
        if (done < count) {
            failure_ = Failure{std::move(why), entries[done]->grid};
            ++done;
            failed_.store(true, std::memory_order_relaxed);  // relaxed: see failed()
        }
    }
    if (failure_) failure_->dropped += count - done;
    // At the most what a chain takes ahead, lest a quicker device is thought busy for long. relaxed: as in
    // run()
    const std::uint64_t now = now_ns(), longest = now + kMostAtOnce * kDeviceNs;
    const std::uint64_t busy = std::max(now, busy_until_ns_.load(std::memory_order_relaxed));
    busy_until_ns_.store(std::min(busy + count * kDeviceNs, longest), std::memory_order_relaxed);
    ring_.issued_up_to(end);
    return true;
}

std::optional<LaunchWorker::Failure> LaunchWorker::take_failure() noexcept {
    const std::lock_guard lock(issuing_);
    failed_.store(false, std::memory_order_relaxed);  // relaxed: the producer's own word now
    return std::exchange(failure_, std::nullopt);
}

// `at_once`: whoever waits issues as soon as nobody else does.
template <class Done>
void LaunchWorker::await(const Done& done, bool at_once) noexcept {
    std::uint64_t seen = ring_.issued(), since = now_ns();
    while (!done()) {
        const bool slow = now_ns() - since > kSpinNs;
        if (at_once || slow || few_processors_ || !thread_.joinable()) {
            std::unique_lock lock(issuing_, std::defer_lock);
            if (slow)
                lock.lock();
            else
                (void)lock.try_lock();
            if (lock.owns_lock()) {
                issue_some();
                continue;
            }
        }
        if (few_processors_)
            ::sched_yield();
        else
            for (int i = 0; i < 8; ++i) relax();
        if (const std::uint64_t now = ring_.issued(); now != seen) {
            seen = now;
            since = now_ns();
        }
    }
}

void LaunchWorker::drain() noexcept {
    const std::uint64_t end = ring_.published();
    await([&] { return ring_.issued() >= end; }, true);
}

void LaunchWorker::make_room() noexcept {
    const std::uint64_t end = ring_.published();
    const std::uint64_t begin = ring_.issued();
    await([&] { return ring_.issued() >= begin + (end - begin) / 2; }, false);
}

}  // namespace ringlaunch::python
