#include "client/src/waiter.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "client/src/client_state.hpp"
#include "client/src/clock.hpp"
#include "client/src/eventfd.hpp"

namespace ringlaunch::detail {

// One sleeping thread; stands on its stack.
struct Sleeper {
    std::uint64_t position = 0;
    Sleeper* previous = nullptr;
    Sleeper* next = nullptr;
};

namespace {

constexpr std::uint32_t kShortestSpinNs = 2'000;
constexpr int kLooksPerClock = 16;
// A nap is a 64th of what has been waited; a wait that is longer than kNapsNs can afford to be woken.
constexpr std::uint64_t kShortestNapNs = 10'000, kNapsNs = 20'000'000, kNapShare = 64;

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Stopped without a chance that what was issued completes: the executor that had it is dead.
bool died(Status status) noexcept {
    return status == Status::kernel_faulted || status == Status::neighbour_faulted ||
           status == Status::executor_killed || status == Status::suspect || status == Status::executor_lost;
}

// Spins until `position` has completed or the time is up.
bool spin(const StreamState& stream, std::uint64_t position, std::uint64_t begin_ns,
          std::uint64_t deadline_ns) noexcept {
    const std::uint32_t budget_ns = stream.spin_ns.load(std::memory_order_relaxed);
    if (budget_ns == 0) return false;
    const std::uint64_t end = std::min(deadline_ns, begin_ns + budget_ns);
    do {
        for (int i = 0; i < kLooksPerClock; ++i) {
            // relaxed: look_at() loads it again, with acquire
            if (stream.current().completed.load(std::memory_order_relaxed) >= position) return true;
            cpu_relax();
        }
    } while (now_ns() < end);
    return false;
}

// Timers of this thread are to the point while this lives; usually they may be 50 us late.
class ExactTimers {
  public:
    ExactTimers() noexcept : slack_ns_(::prctl(PR_GET_TIMERSLACK)) { ::prctl(PR_SET_TIMERSLACK, 1); }
    ~ExactTimers() {
        if (slack_ns_ > 0) ::prctl(PR_SET_TIMERSLACK, slack_ns_);
    }
    ExactTimers(const ExactTimers&) = delete;
    ExactTimers& operator=(const ExactTimers&) = delete;

  private:
    int slack_ns_;
};

// Where a GPU writes completions by itself, being woken costs what waits of a few ms notice: a host function
// that the stream waits for, its interrupt, the dispatcher, then this thread. So such a wait is slept through
// in naps, and nobody is asked for anything. timed_out: it takes longer than that.
Status nap(const StreamState& stream, std::uint64_t position, std::uint64_t begin_ns,
           std::uint64_t deadline_ns) noexcept {
    const ExactTimers exact;
    const std::uint64_t end = std::min(deadline_ns, begin_ns + kNapsNs);
    for (;;) {
        const std::uint64_t now = now_ns();
        const Status status = look_at(stream, position);
        if (status != Status::timed_out || now >= end) return status;
        const std::uint64_t nap_ns = std::max(kShortestNapNs, (now - begin_ns) / kNapShare);
        const timespec length{0, static_cast<long>(std::min(nap_ns, end - now))};
        ::nanosleep(&length, nullptr);  // interrupted: looks again
    }
}

// When the wait for `position` began: it may come in turns, of which each times out.
std::uint64_t began(StreamState& stream, std::uint64_t position, std::uint64_t now_ns) noexcept {
    // relaxed: of several waiters one has its turns counted; the others begin their naps anew.
    if (stream.waited_for.load(std::memory_order_relaxed) == position)
        return stream.waited_since_ns.load(std::memory_order_relaxed);
    stream.waited_since_ns.store(now_ns, std::memory_order_relaxed);
    stream.waited_for.store(position, std::memory_order_relaxed);
    return now_ns;
}

// How long the next wait spins, after one that spun in vain and then slept, `waited_ns` in all: long enough
// for another such wait, if that is worth it; half as long, if it is not.
void learn(StreamState& stream, std::uint64_t waited_ns) noexcept {
    const std::uint32_t longest = longest_spin_ns();
    if (longest == 0) return;
    const std::uint32_t budget_ns = stream.spin_ns.load(std::memory_order_relaxed);
    const std::uint32_t next = waited_ns <= longest
                                   ? std::min(longest, static_cast<std::uint32_t>(2 * waited_ns))
                                   : std::max(kShortestSpinNs, budget_ns / 2);
    stream.spin_ns.store(next, std::memory_order_relaxed);
}

// The lowest position that somebody waits for and that has not completed; 0: nobody. Under the stream's lock.
std::uint64_t lowest_awaited(const StreamState& stream) noexcept {
    // relaxed: a late look announces a position that was reached, which is answered at once.
    const std::uint64_t completed = stream.current().completed.load(std::memory_order_relaxed);
    std::uint64_t lowest = stream.armed > completed ? stream.armed : 0;
    for (const Sleeper* sleeper = stream.sleepers; sleeper != nullptr; sleeper = sleeper->next)
        if (sleeper->position > completed && (lowest == 0 || sleeper->position < lowest))
            lowest = sleeper->position;
    return lowest;
}

// Under the stream's lock.
void announce(StreamState& stream) noexcept {
    announce_wait(*stream.header, lowest_awaited(stream));
}

void wake_daemon_if_asleep(const StreamState& stream) noexcept {
    if (must_ring(stream.current().need_wakeup)) signal(stream.client->doorbell);
}

// Event loops are told when what they armed can be answered. Under the stream's lock.
void kick_if_due(const StreamState& stream) noexcept {
    if (stream.armed != 0 && look_at(stream, stream.armed) != Status::timed_out) signal(stream.kick);
}

// A sleeper of `stream` while it lives; leaves what it was told to the others when it goes.
class Sleep {
  public:
    // The hook is asked for before the stream's lock is taken: the connection's comes first.
    Sleep(StreamState& stream, std::uint64_t position)
        : stream_(stream), hook_(stream.client->connection->hook()), lock_(stream.mutex) {
        me_.position = position;
        me_.next = stream.sleepers;
        if (me_.next != nullptr) me_.next->previous = &me_;
        stream.sleepers = &me_;
    }

    Sleep(const Sleep&) = delete;
    Sleep& operator=(const Sleep&) = delete;

    ~Sleep() {
        if (me_.previous != nullptr)
            me_.previous->next = me_.next;
        else
            stream_.sleepers = me_.next;
        if (me_.next != nullptr) me_.next->previous = me_.previous;
        if (stream_.has_leader) return;
        announce(stream_);
        kick_if_due(stream_);
        stream_.changed.notify_all();  // one of them leads now
    }

    Status run(std::uint64_t deadline_ns) {
        for (;;) {
            Status status = look_at(stream_, me_.position);
            if (status != Status::timed_out) return status;
            if (now_ns() >= deadline_ns) return Status::timed_out;
            const int slice_ms = poll_ms(deadline_ns, hook_ ? kHookSliceMs : -1);
            if (stream_.has_leader)
                follow(slice_ms);
            else
                lead(slice_ms);
            if (hook_) {
                lock_.unlock();
                const bool give_up = hook_();
                lock_.lock();
                if (give_up) {
                    status = look_at(stream_, me_.position);
                    return status == Status::timed_out ? Status::interrupted : status;
                }
            }
        }
    }

  private:
    void follow(int slice_ms) {
        // The leader announced what it knew of; a lower position must be known before we rely on it.
        announce(stream_);
        if (look_at(stream_, me_.position) != Status::timed_out) return;
        wake_daemon_if_asleep(stream_);
        if (slice_ms < 0)
            stream_.changed.wait(lock_);
        else
            stream_.changed.wait_for(lock_, std::chrono::milliseconds(slice_ms));
    }

    void lead(int slice_ms) {
        stream_.has_leader = true;
        drain(stream_.wake);
        announce(stream_);
        kick_if_due(stream_);
        if (look_at(stream_, me_.position) == Status::timed_out) {
            wake_daemon_if_asleep(stream_);
            Connection& connection = *stream_.client->connection;
            pollfd entries[2] = {{stream_.wake.get(), POLLIN, 0}, {connection.socket(), POLLIN, 0}};
            lock_.unlock();
            ::poll(entries, 2, slice_ms);  // errors and interruptions: look again
            if (entries[1].revents != 0) connection.pump();
            lock_.lock();
        }
        stream_.has_leader = false;
        stream_.changed.notify_all();
    }

    StreamState& stream_;
    const WaitHook hook_;
    std::unique_lock<std::mutex> lock_;
    Sleeper me_;
};

}  // namespace

// Where there are processors enough a wait of a millisecond is worth spinning through, on a GPU above all:
// see nap(). learn() stops it where waits are longer.
std::uint32_t longest_spin_ns() noexcept {
    static const std::uint32_t spin_ns = [] {
        const unsigned processors = std::thread::hardware_concurrency();
        return processors <= 1 ? 0u : processors < 4 ? 20'000u : 2'000'000u;
    }();
    return spin_ns;
}

Status look_at(const StreamState& stream, std::uint64_t position) noexcept {
    const StatusPage& page = stream.current();
    // sync: COMPLETED (pairs with the device's or the dispatcher's store): the work's results are there.
    if (page.completed.load(std::memory_order_acquire) >= position) return Status::ok;
    // sync: STATE (pairs with the dispatcher's or the supervisor's store): the error below belongs to it.
    switch (static_cast<schema::StreamState>(page.state.load(std::memory_order_acquire))) {
        case schema::StreamState::Stopped: {
            // What was issued before the record that stopped the stream still completes, if its executor
            // lives.
            const auto why = static_cast<Status>(page.error_status);
            if (!died(why) && position <= page.error_position) return Status::timed_out;
            // It may have completed, and the stream stopped, since we looked.
            return page.completed.load(std::memory_order_acquire) >= position ? Status::ok
                                                                              : Status::stream_stopped;
        }
        case schema::StreamState::Closed: {
            const Status life = stream.client->life();
            return life == Status::ok ? Status::closed : life;
        }
        default:
            return Status::timed_out;
    }
}

Status wait_completed(StreamState& stream, std::uint64_t position, std::uint64_t deadline_ns) noexcept {
    Status status = look_at(stream, position);
    if (status != Status::timed_out) return status;
    const std::uint64_t begin = now_ns();
    if (spin(stream, position, begin, deadline_ns)) {
        status = look_at(stream, position);
        if (status != Status::timed_out) return status;
    }
    if (stream.client->info.driver == "cuda")
        status = nap(stream, position, began(stream, position, begin), deadline_ns);
    if (status == Status::timed_out) status = Sleep(stream, position).run(deadline_ns);
    learn(stream, now_ns() - begin);
    if (status != Status::timed_out) return status;
    // Whoever waits in turns too short to sleep in must hear of the daemon, too.
    stream.client->connection->pump();
    return look_at(stream, position);
}

std::uint64_t position_with_room(const StreamState& stream, std::uint32_t slots) noexcept {
    const std::uint64_t position = stream.producer.position();
    const std::uint32_t size = stream.ring_slots;
    const std::uint32_t to_end = size - (static_cast<std::uint32_t>(position) & (size - 1));
    const std::uint64_t needed = position + (slots <= to_end ? 0 : to_end) + slots;
    // An eighth of the ring more than needed: who was woken finds room for more than one record. Records are
    // at most a quarter, so this is less than what is published, and will be reached.
    const std::uint64_t free_from = needed + size / 8;
    return free_from <= size ? 0 : free_from - size;
}

int loop_fd(StreamState& stream) noexcept {
    // In a child the lock may be another thread's for ever.
    if (stream.client->forked.load(std::memory_order_relaxed)) return -1;
    const std::lock_guard lock(stream.mutex);
    if (stream.loop || stream.client->life() != Status::ok) return stream.loop.get();
    UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    UniqueFd loop(::epoll_create1(EPOLL_CLOEXEC));
    if (!kick || !loop) return -1;
    for (const int fd : {kick.get(), stream.wake.get(), stream.client->connection->socket()}) {
        epoll_event event{};
        event.events = EPOLLIN;
        if (::epoll_ctl(loop.get(), EPOLL_CTL_ADD, fd, &event) != 0) return -1;
    }
    stream.kick = std::move(kick);
    stream.loop = std::move(loop);
    return stream.loop.get();
}

Status arm(StreamState& stream, std::uint64_t position) noexcept {
    Status status = look_at(stream, position);
    if (status != Status::timed_out) return status;
    if (loop_fd(stream) < 0)
        return stream.client->life() == Status::ok ? Status::internal_error : stream.client->life();
    const std::lock_guard lock(stream.mutex);
    if (!stream.has_leader) drain(stream.wake);
    if (stream.armed == 0 || position < stream.armed) stream.armed = position;
    announce(stream);
    kick_if_due(stream);  // the answer to a lower position that was drained just now
    status = look_at(stream, position);
    if (status == Status::timed_out) wake_daemon_if_asleep(stream);
    return status;
}

void on_wake(StreamState& stream) noexcept {
    if (stream.client->forked.load(std::memory_order_relaxed)) return;  // as in loop_fd()
    stream.client->connection->pump();
    const std::lock_guard lock(stream.mutex);
    if (stream.kick) drain(stream.kick);
    if (!stream.has_leader) drain(stream.wake);
    stream.armed = 0;  // the loop arms again what is not done
    announce(stream);
}

}  // namespace ringlaunch::detail
