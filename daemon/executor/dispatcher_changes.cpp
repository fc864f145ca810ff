// What the control thread changes between two turns: streams that come, go on and go, and barriers.
#include <algorithm>

#include "daemon/executor/clock.hpp"
#include "daemon/executor/dispatcher.hpp"
#include "schema/error.hpp"
#include "schema/id_text.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::executor {

namespace {

using schema::StreamState;
using Phase = StreamPort::Phase;

constexpr std::size_t kClosedRemembered = 4096;

}  // namespace

StreamPort* Dispatcher::find(std::uint64_t id) const noexcept {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : found->second;
}

void Dispatcher::add(StreamPort& stream) {
    if (!by_id_.try_emplace(stream.setup.id, &stream).second)
        throw Error(Status::internal_error, "stream " + id_text(stream.setup.id) + " is open already");
    // Behind those of its priority.
    const auto place = std::find_if(streams_.begin(), streams_.end(), [&](const StreamPort* other) {
        return other->setup.priority < stream.setup.priority;
    });
    streams_.insert(place, &stream);
    if (stream.phase != Phase::stopped)
        // relaxed: see StatusPage::issued
        stream.page->issued.store(stream.handed, std::memory_order_relaxed);
    stream.page->heartbeat_ns.store(now_ns(), std::memory_order_relaxed);  // relaxed: as in heartbeat()
    ringlaunch::announce_awake(stream.page->need_wakeup);
}

void Dispatcher::remove(StreamPort& stream) {
    retire(stream, stream.load_completed());
    in_flight_all_ -= stream.in_flight();
    by_id_.erase(stream.setup.id);
    std::erase(streams_, &stream);
    for (Barrier& barrier : barriers_)
        std::erase_if(barrier.until, [&](const auto& entry) { return entry.first == &stream; });

    const Closed closed{stream.session.id, stream.handed};
    if (closed_order_.size() < kClosedRemembered) {
        closed_order_.push_back(stream.setup.id);
    } else {
        closed_.erase(closed_order_[closed_next_]);
        closed_order_[closed_next_] = stream.setup.id;
        closed_next_ = (closed_next_ + 1) % kClosedRemembered;
    }
    closed_[stream.setup.id] = closed;
}

void Dispatcher::release(StreamPort& stream, std::uint64_t single_until) noexcept {
    if (stream.phase != Phase::held) return;
    stream.phase = Phase::running;
    stream.single_until = single_until;
}

void Dispatcher::resume(StreamPort& stream, std::uint64_t position) {
    if (stream.phase != Phase::stopped && stream.phase != Phase::held)
        throw Error(Status::invalid_argument,
                    "cannot resume stream " + id_text(stream.setup.id) + ": it is not stopped");
    // Where work went to this epoch's driver, only what comes after it can follow.
    const std::uint64_t completed = stream.load_completed();
    const std::uint64_t lowest = stream.issued_records != 0 ? stream.handed : completed;
    if (position < lowest || position - completed > stream.setup.ring_slots)
        throw Error(Status::invalid_argument, "cannot resume stream " + id_text(stream.setup.id) +
                                                  " at position " + std::to_string(position) +
                                                  ": it must be from " + std::to_string(lowest) + " to " +
                                                  std::to_string(completed + stream.setup.ring_slots));
    StatusPage& page = *stream.page;
    page.error_status = 0;
    page.error_position = 0;
    page.error_kernel = 0;
    page.error_text[0] = 0;
    page.issued.store(position, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    // sync: STATE (pairs with the client's acquire)
    page.state.store(static_cast<std::uint32_t>(StreamState::Running), std::memory_order_release);
    stream.consumer.advance_to(position);
    stream.handed = position;
    // `completed` has to become `position`, behind all that is in flight: settle() asks for it.
    stream.asked = completed;
    stream.woken = 0;
    stream.phase = Phase::running;
}

std::uint32_t Dispatcher::measure(const StreamPort& stream, std::uint64_t position) const {
    RingConsumer<> reader(stream.ring_mapping.as<Slot>(kRingHeaderBytes), stream.setup.ring_slots, position);
    const auto copy = std::make_unique<RecordCopy>();
    if (!reader.peek() || reader.copy(*copy) != Status::ok)
        throw Error(Status::unsupported,
                    "cannot skip the record at position " + std::to_string(position) + " of stream " +
                        id_text(stream.setup.id) +
                        ": its length is not known, because no whole record stands there; close the "
                        "stream and open another");
    return copy->slots;
}

void Dispatcher::close(StreamPort& stream, std::uint64_t id) {
    stream.phase = Phase::closing;
    stream.wait = {};
    // sync: STATE (pairs with the client's acquire)
    stream.page->state.store(static_cast<std::uint32_t>(StreamState::Closed), std::memory_order_release);
    Barrier barrier{id, {{&stream, stream.handed}}};
    // Who waits on it in the driver may look at its driver's stream until that wait is through.
    for (StreamPort* other : streams_)
        if (other != &stream && &other->session == &stream.session &&
            other->load_completed() < other->last_wait_end)
            barrier.until.emplace_back(other, other->last_wait_end);
    for (auto& [each, until] : barrier.until) each->barrier_until = std::max(each->barrier_until, until);
    barriers_.push_back(std::move(barrier));
}

void Dispatcher::begin_barrier(const SessionView* session, std::uint64_t id) {
    Barrier barrier{id, {}};
    for (StreamPort* stream : streams_)
        if (session == nullptr || &stream->session == session) {
            barrier.until.emplace_back(stream, stream->handed);
            stream->barrier_until = std::max(stream->barrier_until, stream->handed);
            stream->force_complete = true;
        }
    barriers_.push_back(std::move(barrier));
}

void Dispatcher::forget(const driver::Module& module) noexcept {
    for (StreamPort* stream : streams_)
        if (stream->driver_stream != nullptr) stream->driver_stream->forget(module);
}

void Dispatcher::forget_all() noexcept {
    for (StreamPort* stream : streams_)
        if (stream->driver_stream != nullptr) stream->driver_stream->forget_all();
}

void Dispatcher::keep_shallow(bool on) noexcept {
    shallow_ = on;
    for (StreamPort* stream : streams_) stream->burst.forget();
}

void Dispatcher::hold_issue() noexcept {
    ++issue_holds_;
    for (StreamPort* stream : streams_) stream->force_complete = true;
}

bool Dispatcher::look_at_barriers() noexcept {
    bool reached = false;
    for (std::size_t i = 0; i < barriers_.size();) {
        Barrier& barrier = barriers_[i];
        std::erase_if(barrier.until,
                      [](const auto& entry) { return entry.first->load_completed() >= entry.second; });
        if (!barrier.until.empty()) {
            ++i;
            continue;
        }
        notices_.push_back({Notice::Kind::barrier_reached, barrier.id});
        barriers_.erase(barriers_.begin() + static_cast<std::ptrdiff_t>(i));
        reached = true;
    }
    return reached;
}

}  // namespace ringlaunch::executor
