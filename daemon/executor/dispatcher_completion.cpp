// How completion comes back: what is in flight, when the driver is asked, who is woken, and what is set up
// before sleep.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "daemon/executor/clock.hpp"
#include "daemon/executor/dispatcher.hpp"
#include "schema/counters.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::executor {

namespace {

using Phase = StreamPort::Phase;

constexpr std::uint32_t kRecordsPerCompletion = 32;
constexpr std::uint32_t kWorthWhile = 64;  // room, in records, that is worth a turn of a busy stream
// In flight: from more than `deep` on, what comes is gathered until no more than `shallow` are left.
constexpr std::uint32_t kDeep = 24, kShallow = 8;
constexpr std::uint32_t kGatheredSlots = 64;
constexpr std::uint32_t kLeastShare = 32;  // of the room in all, for each of many streams: a chain
constexpr std::uint64_t kRecordsPerTimed = 64;
constexpr std::uint64_t kLongestSampleNs = 3600ull * 1'000'000'000u;
constexpr std::int64_t kDriverFullSleepUs = 1000;
// Between two looks at a completion that the driver does not signal: longer as long as nothing completes.
constexpr std::int64_t kShortestLookUs = 50, kLongestLookUs = 2000;
constexpr std::int64_t kPublishSleepUs =
    5000;  // while completions come that the driver does not write to the page

// Of two sleeps; negative is for ever.
std::int64_t shorter(std::int64_t one, std::int64_t other) {
    if (one < 0) return other;
    return other < 0 ? one : std::min(one, other);
}

}  // namespace

void Dispatcher::retire(StreamPort& stream, std::uint64_t completed) noexcept {
    stream.completed_seen = completed;
    const std::uint64_t before = stream.retired_records;
    if (completed >= stream.handed) {
        stream.retired_records = stream.issued_records;
    } else {
        while (stream.retired_records != stream.issued_records &&
               stream.ends[stream.retired_records & stream.ends_mask] <= completed)
            ++stream.retired_records;
    }
    in_flight_all_ -= stream.retired_records - before;
    if (shallow_ && stream.idle()) {
        // Of one behind which nothing waits nobody knows when it ended.
        if (stream.limited)
            stream.burst.end(now_ns());
        else
            stream.burst.forget();
    }
    if (stream.timed_end != 0 && completed >= stream.timed_end) {
        const std::uint64_t now = now_ns();
        record_latency(stream.page->issue_to_complete, now - std::min(now, stream.timed_ns));
        stream.timed_end = 0;
        stream.next_timed = stream.issued_records + kRecordsPerTimed;
    }
}

bool Dispatcher::look_whether_through() noexcept {
    for (StreamPort* stream : streams_)
        if (const std::uint64_t completed = stream->load_completed(); completed != stream->completed_seen)
            retire(*stream, completed);
    return nothing_in_flight();
}

// Asks the driver to make completion visible, where it is time: at the end of a backlog, every so many
// records, where the ring or the bound is near full, for a record that wants it, and for a sleeper.
void Dispatcher::settle(StreamPort& stream) noexcept {
    // relaxed: a hint; a sleeper that is missed here is seen in the look before sleep (W2 in
    // schema/wakeup.hpp).
    const bool sleeper = stream.header->wait_position.load(std::memory_order_relaxed) != 0;
    const bool due = !stream.more || stream.setup.watched || stream.force_complete || sleeper ||
                     stream.limited || stream.handed <= stream.single_until ||
                     stream.records_since_complete >= kRecordsPerCompletion ||
                     stream.handed - stream.asked >= stream.setup.ring_slots / 4;
    if (!due) return;
    const Status status = stream.driver_stream->complete(stream.handed);
    if (status == Status::ring_full) {
        stream.driver_full = true;
        return;
    }
    stream.asked = stream.driver_end = stream.handed;
    stream.asked_points[stream.asked_count++ % stream.asked_points.size()] = stream.asked;
    stream.records_since_complete = 0;
    stream.force_complete = false;
    if (status != Status::ok && stream.phase != Phase::stopped)
        driver_refused(stream, stream.handed, nullptr, "completion", status);
}

namespace {

// A stream that has much in flight waits until there is room for a long chain: taken one by one, as each
// completes, its records would be launched one by one for ever.
std::uint32_t granted(std::uint32_t free, std::uint32_t most, std::uint32_t out) {
    const std::uint32_t worth_while = std::clamp(most / 4, 1u, kWorthWhile);
    return free < worth_while && out > most / 2 ? 0 : free;
}

}  // namespace

// How many records may be taken by the stream's own bound.
std::uint32_t Dispatcher::own_room(const StreamPort& stream) const noexcept {
    const std::uint32_t out = stream.in_flight();
    if (stream.single()) return out == 0 ? 1 : 0;
    const std::uint32_t most = std::min(config_.max_in_flight, stream.setup.max_in_flight);
    if (shallow_) return out == 0 ? std::min(most, stream.burst.size()) : 0;
    return most > out ? granted(most - out, most, out) : 0;
}

// The same by the bound of all streams together, too.
std::uint32_t Dispatcher::room(const StreamPort& stream) const noexcept {
    const std::uint32_t own = own_room(stream);
    const std::uint64_t all = config_.max_in_flight_all;
    if (in_flight_all_ + own <= all) return own;
    // Short of room in all: what is free, or what is missing to an equal share, so that nobody starves behind
    // streams that came first.
    const std::uint32_t out = stream.in_flight();
    const std::uint32_t most = std::min(config_.max_in_flight, stream.setup.max_in_flight);
    const std::uint64_t least = std::clamp(most / 8, 1u, kLeastShare);
    const auto share = static_cast<std::uint32_t>(std::max(least, all / streams_.size()));
    const std::uint32_t to_share = out < share ? share - out : 0;
    const auto free = static_cast<std::uint32_t>(in_flight_all_ < all ? all - in_flight_all_ : 0);
    return std::min(own, granted(std::max(free, to_share), share, out));
}

// A device that is given launches one by one as they come, faster than it runs them so, falls behind until
// its queue is full; in chains it would keep up. So what comes to a stream with much in flight stays in the
// ring until there is a long chain of it, or until little is in flight. It waits for what the same stream
// still has to run, never for others to come.
bool Dispatcher::gathers(StreamPort& stream) const noexcept {
    if (!config_.coalesce || !stream.setup.coalesce || stream.setup.watched) return false;
    const std::uint32_t out = stream.in_flight();
    if (out > kDeep)
        stream.deep = true;
    else if (out <= kShallow)
        stream.deep = false;
    return stream.deep && !stream.consumer.backlog(std::min(kGatheredSlots, stream.setup.ring_slots / 4));
}

// Writes the wake eventfd once for each value of wait_position that was reached, or whose stream has stopped.
bool Dispatcher::wake_sleeper(StreamPort& stream) noexcept {
    // relaxed: nothing is read on the strength of it; W2 (schema/wakeup.hpp) orders the look before sleep.
    const std::uint64_t wait = stream.header->wait_position.load(std::memory_order_relaxed);
    if (wait == stream.woken) return false;
    if (wait == 0) {
        stream.woken = 0;
        return false;
    }
    // Fresh, and after the look at wait_position: a waiter that saw an older `completed` has announced itself
    // by now.
    const bool over = stream.phase == Phase::stopped || stream.phase == Phase::closing;
    if (stream.load_completed() < wait && !over) return false;
    stream.woken = wait;
    count(stream.page->counters.wakeups);
    if (!stream.wake_broken) write_wake(stream);
    return true;
}

// The client holds this eventfd too: a counter that it filled would block the write. Full is a signal as
// well, so then there is nothing to write; and a client that fills it between the look and the write is
// interrupted by DispatchThread::rescue() and never written to again.
void Dispatcher::write_wake(StreamPort& stream) noexcept {
    pollfd writable{stream.wake.get(), POLLOUT, 0};
    if (::poll(&writable, 1, 0) != 1 || (writable.revents & POLLOUT) == 0) return;
    const std::uint64_t one = 1;
    // relaxed: a time for who watches over this thread, nothing else.
    writing_since_ns_.store(now_ns(), std::memory_order_relaxed);
    const ssize_t wrote = ::write(stream.wake.get(), &one, sizeof one);
    writing_since_ns_.store(0, std::memory_order_relaxed);
    if (wrote < 0 && errno == EINTR) stream.wake_broken = true;
}

void Dispatcher::announce_sleep() noexcept {
    ++sleep_;
    for (StreamPort* stream : streams_) ringlaunch::announce_sleep(stream->page->need_wakeup, sleep_);
}

void Dispatcher::announce_awake() noexcept {
    for (StreamPort* stream : streams_) ringlaunch::announce_awake(stream->page->need_wakeup);
}

std::int64_t Dispatcher::arm() noexcept {
    std::int64_t longest = std::int64_t{config_.longest_sleep_ms} * 1000;
    for (StreamPort* each : streams_) {
        StreamPort& stream = *each;
        longest = shorter(longest, watch_sleep_us(stream));
        const std::uint64_t completed = stream.load_completed();
        if (completed != stream.completed_seen) {
            // Since the last look, which found something still to wait for: nobody would tell.
            longest = 0;
            continue;
        }
        std::uint64_t lowest = ~std::uint64_t{0};
        const auto want = [&](std::uint64_t position) {
            if (position > completed && position <= stream.asked) lowest = std::min(lowest, position);
        };
        // relaxed: as in wake_sleeper().
        want(stream.header->wait_position.load(std::memory_order_relaxed));
        want(stream.barrier_until);
        want(stream.timed_end);
        // Nobody else brings it to the page, where also the watchdog looks.
        if (stream.published && completed < stream.asked) {
            want(stream.asked);
            longest = shorter(longest, kPublishSleepUs);
        }
        if (!stream.idle() && (stream.limited || stream.driver_full || all_limited_)) {
            // Half of what is in flight: waking up for each record would cost more than it gives.
            const std::uint64_t half = stream.retired_records + stream.in_flight() / 2;
            want(stream.ends[half & stream.ends_mask]);
        }
        if (lowest == ~std::uint64_t{0}) {
            if (stream.driver_full) longest = shorter(longest, kDriverFullSleepUs);
            continue;
        }
        // The page shows a completion only where it was asked for: the lowest such place from here.
        std::uint64_t point = stream.asked;
        const std::size_t known = std::min<std::size_t>(stream.asked_count, stream.asked_points.size());
        for (std::size_t i = 0; i < known; ++i)
            if (stream.asked_points[i] >= lowest) point = std::min(point, stream.asked_points[i]);
        longest = shorter(longest, std::int64_t{config_.armed_sleep_ms} * 1000);
        if (point == stream.armed) continue;
        if (stream.driver_stream->notify_at(point)) {
            stream.armed = point;
            continue;
        }
        const bool went_on = completed != stream.looked_at;
        stream.looked_at = completed;
        stream.look_us =
            went_on ? kShortestLookUs : std::clamp(2 * stream.look_us, kShortestLookUs, kLongestLookUs);
        longest = shorter(longest, stream.look_us);
    }
    return longest;
}

void Dispatcher::disarm() noexcept {
    for (StreamPort* stream : streams_) stream->armed = 0;
}

void Dispatcher::heartbeat(std::uint64_t at_ns) noexcept {
    // relaxed: a sign of life, nothing depends on its order.
    for (StreamPort* stream : streams_) stream->page->heartbeat_ns.store(at_ns, std::memory_order_relaxed);
}

void Dispatcher::look_at_device() noexcept {
    const std::optional<std::string> failed = driver_.failure();
    if (failed && device_lost_) device_lost_(*failed);
}

void Dispatcher::sample_enqueue(StreamPort& stream, std::uint64_t first, std::uint64_t end) noexcept {
    // relaxed: the stamp at `at` was read with acquire, and the client wrote both words before it.
    const std::uint64_t at = stream.header->sample_position.load(std::memory_order_relaxed);
    if (at - first >= end - first || at == stream.last_sample) return;
    stream.last_sample = at;
    // relaxed: as above. The client may have written anything.
    const std::uint64_t enqueued = stream.header->sample_ns.load(std::memory_order_relaxed);
    if (enqueued == 0) return;
    const std::uint64_t now = now_ns();
    record_latency(stream.page->enqueue_to_issue, std::min(now - std::min(now, enqueued), kLongestSampleNs));
}

}  // namespace ringlaunch::executor
