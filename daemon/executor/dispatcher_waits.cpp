// Waits between streams: when one is held, when it goes on, and who would wait for ever.
#include "daemon/executor/dispatcher.hpp"

namespace ringlaunch::executor {

using Phase = StreamPort::Phase;

// What becomes of a wait that stands at position `at` of `stream`. Sets `awaited` for `issue`, `why` for
// `refuse`.
Dispatcher::WaitAnswer Dispatcher::look_at_wait(const StreamPort& stream, std::uint64_t at, const Wait& wait,
                                                StreamPort*& awaited, Status& why) const noexcept {
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

// Is it held for a position that was not issued?
bool Dispatcher::is_blocked(const StreamPort& stream) const noexcept {
    if (!stream.waiting()) return false;
    const StreamPort* awaited = find(stream.wait.stream);
    return awaited != nullptr && awaited->handed < stream.wait.position;
}

// Would `stream`, held for `wait`, be waited for by the one it waits for? A cycle closes with its last wait,
// so it is enough to look when a stream begins to be held.
bool Dispatcher::closes_cycle(const StreamPort& stream, const Wait& wait) const noexcept {
    const StreamPort* next = find(wait.stream);
    for (std::size_t steps = 0; next != nullptr && steps <= streams_.size(); ++steps) {
        if (next == &stream) return true;
        if (!is_blocked(*next)) return false;
        next = find(next->wait.stream);
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
