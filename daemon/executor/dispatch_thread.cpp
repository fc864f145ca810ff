#include "daemon/executor/dispatch_thread.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <span>
#include <system_error>

#include "daemon/executor/clock.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::executor {

namespace {

constexpr std::uint64_t kHeartbeatNs = 1'000'000'000;
// What the device was given is through soon, as a rule, and who waited for it comes again at once: being
// woken for that takes 30 to 130 us. Where there are processors enough, that is.
constexpr std::uint64_t kAwaitDeviceNs = 2'000'000;
constexpr std::uint32_t kTurnsPerClock = 256;  // turns of work between two looks at the clock
constexpr std::uint32_t kLooksPerClock = 16;   // the same of looks in vain: the clock costs two of them
constexpr std::uint32_t kPausesPerYield = 32;
constexpr std::uint64_t kStuckWriteNs = 500'000'000;
constexpr int kRescueSignal = SIGURG;  // ignored by default, and nobody else's here

[[noreturn]] void fail(const char* doing) {
    throw std::system_error(errno, std::generic_category(), doing);
}

UniqueFd make_eventfd() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) fail("cannot make an eventfd for the dispatch thread");
    return fd;
}

void signal(const UniqueFd& event) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(event.get(), &one, sizeof one);  // full is a signal too
}

void watch_edges(int epoll, int fd) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    event.data.fd = fd;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("cannot watch a descriptor of the dispatch thread");
}

// How many came; negative microseconds: waits for ever.
int wait_for_edges(int epoll, std::span<epoll_event> events, std::int64_t longest_us) {
    if (longest_us > 0 && longest_us % 1000 != 0) {
        const timespec longest{longest_us / 1'000'000, longest_us % 1'000'000 * 1000};
        const int got =
            ::epoll_pwait2(epoll, events.data(), static_cast<int>(events.size()), &longest, nullptr);
        if (got >= 0 || errno != ENOSYS) return got;  // Linux has it from 5.11 on
    }
    const std::int64_t ms = longest_us < 0 ? -1 : (longest_us + 999) / 1000;
    return ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), static_cast<int>(ms));
}

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

DispatchThread::DispatchThread(const Config& config, driver::Driver& driver, const MemoryMap& memory,
                               std::function<void(const std::string&)> device_lost)
    : config_(config),
      driver_(driver),
      dispatcher_(config.dispatcher, driver, memory, std::move(device_lost)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      change_event_(make_eventfd()),
      notice_event_(make_eventfd()) {
    if (!epoll_) fail("cannot make an epoll set for the dispatch thread");
    watch_edges(epoll_.get(), change_event_.get());
    if (driver.completion_fd() >= 0) watch_edges(epoll_.get(), driver.completion_fd());
}

DispatchThread::~DispatchThread() {
    stop();
}

void DispatchThread::start() {
    if (thread_.joinable()) return;
    // Without SA_RESTART, so that the call which it meets returns.
    struct sigaction interrupt {};
    interrupt.sa_handler = [](int) {};
    if (::sigaction(kRescueSignal, &interrupt, nullptr) != 0)
        fail("cannot set up the dispatch thread's signal");
    thread_ = std::thread([this] { loop(); });
    ::pthread_setname_np(thread_.native_handle(), "rl-dispatch");
}

void DispatchThread::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        // relaxed: pending_ releases it; under the mutex, so that run_changes() does not take the flag back.
        stop_.store(true, std::memory_order_relaxed);
        pending_.store(true, std::memory_order_release);  // sync: CHANGE (pairs with look())
        signal(change_event_);
    }
    thread_.join();
}

// Saves two wake-ups, the dispatch thread's and the caller's.
bool DispatchThread::call_asleep(const std::function<void(Dispatcher&)>& change) {
    const std::unique_lock free(awake_, std::try_to_lock);
    if (!free) return false;
    const auto after = [this] {
        if (!dispatcher_.notices().empty()) pass_notices();
        signal(change_event_);  // there may be more to wait for, or to do
    };
    try {
        change(dispatcher_);
    } catch (...) {
        after();
        throw;
    }
    after();
    return true;
}

void DispatchThread::call(const std::function<void(Dispatcher&)>& change) {
    if (call_asleep(change)) return;
    std::unique_lock lock(mutex_);
    Change entry{&change, false, nullptr};
    changes_.push_back(&entry);
    // sync: CHANGE (pairs with look()): the queue itself is the mutex's, and the write below is an edge in
    // any case, so that a flag seen late costs a turn and no wake-up: no model.
    pending_.store(true, std::memory_order_release);
    // Always: the thread may be about to sleep, and an edge is not lost.
    signal(change_event_);
    while (!changed_.wait_for(lock, std::chrono::seconds(1), [&] { return entry.done; })) rescue();
    if (entry.failed) std::rethrow_exception(entry.failed);
}

void DispatchThread::rescue() noexcept {
    const std::uint64_t since = dispatcher_.writing_since_ns();
    if (since != 0 && thread_.joinable() && now_ns() > since + kStuckWriteNs)
        ::pthread_kill(thread_.native_handle(), kRescueSignal);
}

void DispatchThread::watch(int doorbell) {
    watch_edges(epoll_.get(), doorbell);
}

void DispatchThread::unwatch(int doorbell) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, doorbell, nullptr);
}

std::vector<Notice> DispatchThread::take_notices() {
    std::uint64_t seen;
    [[maybe_unused]] const ssize_t got = ::read(notice_event_.get(), &seen, sizeof seen);  // before the queue
    const std::lock_guard lock(mutex_);
    return std::exchange(notices_, {});
}

// ---- the thread
// ------------------------------------------------------------------------------------------------

void DispatchThread::loop() {
    const std::lock_guard awake(awake_);
    std::uint64_t idle_since = 0, quiet_since = 0;
    std::uint32_t turns = 0, idle_rounds = 0;
    const std::uint32_t looks_per_clock = config_.spin_ns == 0 ? 1 : kLooksPerClock;
    const std::uint64_t await_ns = config_.spin_ns == 0 || cpu_.few() ? 0 : kAwaitDeviceNs;
    for (;;) {
        const bool worked = look();
        if (worked) {
            if (stop_.load(std::memory_order_relaxed)) break;  // relaxed: pending_ brought it
            idle_since = 0;
            idle_rounds = 0;
            if (++turns < kTurnsPerClock) continue;
        } else if (++idle_rounds % looks_per_clock != 0) {
            spin(idle_rounds);
            continue;
        }
        turns = 0;
        const std::uint64_t now = now_ns();
        beat(now);
        if (worked) continue;
        if (idle_since == 0) idle_since = quiet_since = now;
        if (!dispatcher_.nothing_in_flight() && now - idle_since < await_ns) quiet_since = now;
        if (now - quiet_since < config_.spin_ns) {
            spin(idle_rounds);
            continue;
        }
        sleep();
        idle_since = 0;
        idle_rounds = 0;
    }
}

// Everything that there may be to do, once.
bool DispatchThread::look() {
    bool worked = dispatcher_.do_work();
    if (!dispatcher_.notices().empty()) pass_notices();
    // sync: CHANGE (pairs with call() and stop())
    if (pending_.load(std::memory_order_acquire)) {
        run_changes();
        worked = true;
    }
    return worked;
}

void DispatchThread::spin(std::uint32_t round) {
    pause_cpu();
    // Where a client and this thread share two processors with the rest of the machine, others must get on.
    if (cpu_.few() && round % kPausesPerYield == 0) cpu_.yield();
}

// W1 and W2 of schema/wakeup.hpp, in their order. The look after the barrier is an ordinary turn: it sees
// every ring, every wait position and every change. Whoever stores later than that look sees need_wakeup and
// writes a doorbell; a change writes its eventfd in any case, and the driver writes its own for what arm()
// asked.
void DispatchThread::sleep() {
    dispatcher_.look_at_device();
    dispatcher_.announce_sleep();
    barrier_before_sleep(config_.membarrier);
    while (!look()) {
        const std::int64_t longest_us = dispatcher_.arm();
        sleeps_.fetch_add(1, std::memory_order_relaxed);  // relaxed: a count for people
        epoll_event events[16];
        awake_.unlock();
        const std::uint64_t asleep_ns = now_ns();
        const int got = wait_for_edges(epoll_.get(), events, longest_us);
        const std::uint64_t awake_ns = now_ns();
        awake_.lock();
        bool driver_told = false;
        for (int i = 0; i < got; ++i) driver_told |= events[i].data.fd == driver_.completion_fd();
        if (driver_told) dispatcher_.disarm();
        beat(awake_ns);
        if (got > 0) {
            cpu_.slept(asleep_ns, awake_ns);
            break;
        }
        dispatcher_.look_at_device();
        // Only time went by: need_wakeup stands, and so does the barrier's promise. One more look, and sleep
        // on.
    }
    dispatcher_.announce_awake();
}

void DispatchThread::run_changes() {
    std::vector<Change*> taken;
    {
        const std::lock_guard lock(mutex_);
        taken.swap(changes_);
        // relaxed: under the mutex that call() holds when it sets it; stop() sets it last and joins.
        pending_.store(stop_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    for (Change* change : taken) try {
            (*change->run)(dispatcher_);
        } catch (...) {
            change->failed = std::current_exception();
        }
    if (!dispatcher_.notices().empty()) pass_notices();
    const std::lock_guard lock(mutex_);
    for (Change* change : taken) change->done = true;
    changed_.notify_all();
}

void DispatchThread::pass_notices() {
    {
        const std::lock_guard lock(mutex_);
        notices_.insert(notices_.end(), dispatcher_.notices().begin(), dispatcher_.notices().end());
    }
    dispatcher_.notices().clear();
    signal(notice_event_);
}

// About once a second: a sign of life, and a look whether the device still has one.
void DispatchThread::beat(std::uint64_t now) {
    if (now < next_heartbeat_ns_) return;
    dispatcher_.heartbeat(now);
    next_heartbeat_ns_ = now + kHeartbeatNs;
    dispatcher_.look_at_device();
}

}  // namespace ringlaunch::executor
