// Waits between streams: when one is held, when it goes on, and who would wait for ever.
#include <algorithm>
#include <utility>

#include "daemon/executor/dispatcher.hpp"

namespace ringlaunch::executor {

using Phase = StreamPort::Phase;

// Between two looks at a stream of another session.
constexpr std::int64_t kShortestWatchUs = 1000, kLongestWatchUs = 10'000;

// A stream of another session, known by its status page alone, since it may stand in another executor: it is
// waited for here, not on the device, and dies with nobody. Its events make their completion visible at once.
Dispatcher::WaitAnswer Dispatcher::look_at_watched(const WatchedStream& watched, std::uint64_t position,
                                                   Status& why) noexcept {
    const StatusPage* page = watched.page;
    // sync: COMPLETED: what that stream wrote before is seen by what is issued behind this wait.
    const std::uint64_t completed =
        page == nullptr ? watched.completed : page->completed.load(std::memory_order_acquire);
    if (completed >= position) return WaitAnswer::satisfied;
    why = Status::awaited_stream_stopped;
    if (page == nullptr) return watched.away ? WaitAnswer::hold : WaitAnswer::refuse;
    // sync: STATE: the error belongs to it. An ended page has a successor, which is on its way here.
    const auto state = static_cast<schema::StreamState>(page->state.load(std::memory_order_acquire));
    if (state != schema::StreamState::Stopped) return WaitAnswer::hold;
    // What was issued before a bad record completes; what a restart stopped is in doubt.
    // relaxed: ordered by `state`, see StatusPage::issued
    const bool comes = stopped_at_record(static_cast<Status>(page->error_status)) &&
                       page->issued.load(std::memory_order_relaxed) >= position;
    return comes ? WaitAnswer::hold : WaitAnswer::refuse;
}

// How long may this dispatcher sleep for a stream that is held for one known by its status page alone, of
// which nobody wakes it? Longer as long as nothing completes there; negative: it is not held so.
std::int64_t Dispatcher::watch_sleep_us(StreamPort& stream) noexcept {
    if (!stream.waiting()) return -1;
    const WatchedStream* watched = stream.session.watched.find(stream.wait.stream);
    if (watched == nullptr) return -1;
    // relaxed: only how often it is looked at depends on it.
    const std::uint64_t at = watched->page == nullptr
                                 ? watched->completed
                                 : watched->page->completed.load(std::memory_order_relaxed);
    const bool went_on =
        std::exchange(stream.watched_for, stream.wait.end) != stream.wait.end || at != stream.watched_at;
    stream.watched_at = at;
    stream.watch_us = went_on ? kShortestWatchUs : std::min(2 * stream.watch_us, kLongestWatchUs);
    return stream.watch_us;
}

// What becomes of a wait that stands at position `at` of `stream`. Sets `awaited` for `issue`, `why` for
// `refuse`.
Dispatcher::WaitAnswer Dispatcher::look_at_wait(const StreamPort& stream, std::uint64_t at, const Wait& wait,
                                                StreamPort*& awaited, Status& why) const noexcept {
    if (const WatchedStream* watched = stream.session.watched.find(wait.stream))
        return look_at_watched(*watched, wait.position, why);
    StreamPort* const other = find(wait.stream);
    if (other == nullptr) {
        const auto closed = closed_.find(wait.stream);
        if (closed != closed_.end() && closed->second.session == stream.session.id) {
            if (wait.position <= closed->second.final_position) return WaitAnswer::satisfied;
            why = Status::awaited_stream_stopped;
        } else {
            why = Status::bad_awaited_stream;
        }
        return WaitAnswer::refuse;
    }
    if (&other->session != &stream.session) {
        why = Status::bad_awaited_stream;
        return WaitAnswer::refuse;
    }
    if (other == &stream) {
        // Its own earlier work is before it anyway; its own later work never comes.
        if (wait.position <= at) return WaitAnswer::satisfied;
        why = Status::wait_cycle;
        return WaitAnswer::refuse;
    }
    if (other->load_completed() >= wait.position) return WaitAnswer::satisfied;
    if (other->handed >= wait.position) {
        // A stream that closes must not be named to the driver any more: its completion is waited for here.
        if (other->phase == Phase::closing) return WaitAnswer::hold;
        awaited = other;
        return WaitAnswer::issue;
    }
    if (other->phase == Phase::stopped || other->phase == Phase::closing) {
        why = Status::awaited_stream_stopped;
        return WaitAnswer::refuse;
    }
    return WaitAnswer::hold;
}

// Would `stream`, held for `wait`, be waited for by the one it waits for? A cycle closes with its last wait,
// so it is enough to look when a stream begins to be held. What was issued comes, whoever waits for whom
// since: a wait for another session's stream is held until it has completed.
bool Dispatcher::closes_cycle(const StreamPort& stream, const Wait& wait) const noexcept {
    const Wait* held = &wait;
    for (std::size_t steps = 0; steps <= streams_.size(); ++steps) {
        const StreamPort* const awaited = find(held->stream);
        if (awaited == nullptr || awaited->handed >= held->position) return false;
        if (awaited == &stream) return true;
        if (!awaited->waiting()) return false;
        held = &awaited->wait;
    }
    return false;
}

// A held stream: has what it waits for been issued? The record is still in the ring and is taken anew, checks
// and all.
bool Dispatcher::go_on_after_wait(StreamPort& stream) noexcept {
    StreamPort* awaited = nullptr;
    Status why{};
    if (look_at_wait(stream, stream.consumer.position(), stream.wait, awaited, why) == WaitAnswer::hold)
        return false;
    stream.wait = {};
    return true;
}

}  // namespace ringlaunch::executor
