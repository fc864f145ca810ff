#include "daemon/executor/dispatcher.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "daemon/executor/clock.hpp"
#include "schema/counters.hpp"
#include "schema/error.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::executor {

namespace {

using schema::RecordKind;
using schema::StreamState;
using Phase = StreamPort::Phase;

constexpr std::uint32_t kRecordsPerCompletion = 32;
constexpr std::uint64_t kRecordsPerTimed = 64;
constexpr std::uint64_t kLongestSampleNs = 3600ull * 1'000'000'000u;
constexpr std::size_t kClosedRemembered = 4096;
constexpr int kDriverFullSleepMs = 1;

// Of two sleeps; negative is for ever.
int shorter(int one, int other) {
    if (one < 0) return other;
    return other < 0 ? one : std::min(one, other);
}

DispatcherConfig filled_in(DispatcherConfig config) {
    config.max_in_flight = std::max(1u, config.max_in_flight);
    config.max_batch = std::max(1u, config.max_batch);
    if (config.max_in_flight_all == 0) config.max_in_flight_all = 2 * config.max_in_flight;
    return config;
}

}  // namespace

Dispatcher::Dispatcher(const DispatcherConfig& config, driver::Driver& driver, const MemoryMap& memory,
                       std::function<void(const std::string&)> device_lost)
    : config_(filled_in(config)),
      driver_(driver),
      memory_(memory),
      limits_(DeviceLimits::of(driver.device())),
      device_lost_(std::move(device_lost)),
      copies_(std::make_unique<RecordCopy[]>(config_.max_batch + 1)),
      launches_(std::make_unique<driver::Launch[]>(config_.max_batch + 1)) {
    notices_.reserve(64);
    closed_order_.reserve(kClosedRemembered);
}

// ---- turns
// ---------------------------------------------------------------------------------------------------

bool Dispatcher::do_work() noexcept {
    bool worked = false;
    all_limited_ = false;
    // Always in the same order: so exactly one batch of each other stream stands between two turns of a
    // stream.
    for (StreamPort* stream : streams_) worked |= turn(*stream);
    if (!barriers_.empty()) worked |= look_at_barriers();
    return worked;
}

bool Dispatcher::turn(StreamPort& stream) noexcept {
    const std::uint64_t completed = stream.load_completed();
    if (completed != stream.completed_seen) retire(stream, completed);
    bool worked = false;
    stream.more = false;
    if (stream.phase == Phase::running) worked = take(stream);
    if (stream.asked != stream.handed) settle(stream);
    worked |= wake_sleeper(stream);
    return worked;
}

// Takes a batch. What is in the ring beyond it waits for the next turn, after all other streams had theirs.
bool Dispatcher::take(StreamPort& stream) noexcept {
    stream.limited = stream.driver_full = false;
    bool worked = false;
    if (stream.waiting()) {
        if (!go_on_after_wait(stream)) {
            count(stream.page->counters.held_turns);
            return false;
        }
        worked = true;
    }
    if (!stream.consumer.peek()) return worked;
    const std::uint32_t budget = std::min(room(stream), config_.max_batch);
    if (budget == 0) {
        stream.limited = true;
        all_limited_ |= stream.in_flight() < config_.max_in_flight;
        count(stream.page->counters.held_turns);
        return worked;
    }

    counts_ = {};
    std::uint32_t pending = 0, taken = 0;
    Step step = Step::taken;
    while (step == Step::taken && taken < budget && stream.consumer.peek()) {
        RecordCopy& copy = copies_[pending];
        const Status copied = stream.consumer.copy(copy);
        if (copied == Status::ok && kind_of(copy) == RecordKind::Launch) {
            const Status checked = check_launch(copy, bounds(stream), launches_[pending]);
            if (checked == Status::ok) {
                ++taken;
                ++pending;
                stream.consumer.advance(copy.slots);
                if (!config_.coalesce || forces_completion(copy)) {
                    stream.force_complete |= forces_completion(copy);
                    step = flush(stream, pending);
                    pending = 0;
                }
                continue;
            }
            step = flush(stream, pending);
            if (step == Step::taken) {
                refuse(stream, copy, checked);
                step = Step::ended;
            }
            pending = 0;
            break;
        }
        // Everything else goes alone, behind the launches collected so far.
        step = flush(stream, pending);
        pending = 0;
        if (step != Step::taken) break;
        if (copied != Status::ok) {
            refuse(stream, copy, copied);
            step = Step::ended;
            break;
        }
        step = take_one(stream, copy);
        if (step == Step::taken) {
            ++taken;
            stream.consumer.advance(copy.slots);
        }
    }
    if (pending != 0) step = flush(stream, pending);
    stream.driver_full = step == Step::retry;
    stream.more = step == Step::taken && taken == budget && stream.consumer.peek();
    if (step == Step::ended && stream.phase == Phase::stopped) worked = true;

    if (counts_.records != 0) {
        worked = true;
        StreamCounters& counters = stream.page->counters;
        count(counters.batches);
        count(counters.records, counts_.records);
        if (counts_.launches != 0) count(counters.launches, counts_.launches);
        if (counts_.chained != 0) count(counters.chained, counts_.chained);
        if (counts_.records != counts_.launches) {
            count(counters.copies, counts_.copies);
            count(counters.copied_bytes, counts_.copied_bytes);
            count(counters.fills, counts_.fills);
            count(counters.events, counts_.events);
            count(counters.waits, counts_.waits);
            count(counters.paddings, counts_.paddings);
        }
    }
    return worked;
}

// Hands launches_[0, wanted) to the driver. What it does not take goes back: the consumer stands before it
// again.
Dispatcher::Step Dispatcher::flush(StreamPort& stream, std::uint32_t wanted) noexcept {
    if (wanted == 0) return Step::taken;
    const std::uint64_t first = launches_[0].position;
    const std::uint64_t end = launches_[wanted - 1].end;
    // sync: ISSUED (pairs with the supervisor's read after it reaped this process, and with a resume's
    // reader)
    stream.page->issued.store(end, std::memory_order_release);
    Status status;
    std::size_t taken = 0;
    if (wanted == 1) {
        status = stream.driver_stream->launch(launches_[0]);
        taken = status == Status::ok ? 1 : 0;
    } else {
        status = stream.driver_stream->launch_chain({launches_.get(), wanted}, taken);
        if (status == Status::ok) taken = wanted;
        taken = std::min<std::size_t>(taken, wanted);
        counts_.chained += taken;
    }
    for (std::size_t i = 0; i < taken; ++i) stream.note_issued(launches_[i].end);
    in_flight_all_ += taken;
    counts_.records += taken;
    counts_.launches += taken;
    if (taken != 0) {
        sample_enqueue(stream, first, stream.handed);
        if (stream.issued_records >= stream.next_timed && stream.timed_end == 0) {
            stream.timed_end = stream.handed;
            stream.timed_ns = now_ns();
        }
    }
    if (status == Status::ok) return Step::taken;

    // The driver returned and says what it did not take: that is not in doubt.
    stream.page->issued.store(stream.handed, std::memory_order_release);  // sync: ISSUED
    stream.consumer.advance_to(launches_[taken].position);
    if (status == Status::ring_full) return Step::retry;
    driver_refused(stream, launches_[taken].position, launches_[taken].kernel_id, "launch", status);
    return Step::ended;
}

Dispatcher::Step Dispatcher::take_one(StreamPort& stream, const RecordCopy& copy) noexcept {
    switch (kind_of(copy)) {
        case RecordKind::CopyToDevice:
        case RecordKind::CopyToHost:
        case RecordKind::CopyOnDevice: {
            driver::Copy operation;
            const Status status = check_copy(copy, bounds(stream), operation);
            if (status != Status::ok) return answer(stream, copy, status);
            const Step step =
                issue(stream, copy, operation.bytes, [&] { return stream.driver_stream->copy(operation); });
            if (step == Step::taken) {
                ++counts_.copies;
                counts_.copied_bytes += operation.bytes;
            }
            return step;
        }
        case RecordKind::Fill: {
            driver::Fill operation;
            const Status status = check_fill(copy, bounds(stream), operation);
            if (status != Status::ok) return answer(stream, copy, status);
            const Step step =
                issue(stream, copy, operation.bytes, [&] { return stream.driver_stream->fill(operation); });
            if (step == Step::taken) ++counts_.fills;
            return step;
        }
        case RecordKind::EventRecord:
            return take_event(stream, copy);
        case RecordKind::EventWait:
            return take_wait(stream, copy);
        case RecordKind::Padding:
            return take_padding(stream, copy);
        case RecordKind::Launch:
        case RecordKind::None:
            break;
    }
    return answer(stream, copy, Status::bad_kind);
}

template <class Call>
Dispatcher::Step Dispatcher::issue(StreamPort& stream, const RecordCopy& copy, std::uint64_t bytes,
                                   Call&& call) noexcept {
    const std::uint64_t end = copy.position + copy.slots;
    stream.page->issued.store(end, std::memory_order_release);  // sync: ISSUED
    const Status status = bytes == 0 ? Status::ok : call();
    if (status == Status::ok) {
        stream.force_complete |= forces_completion(copy);
        note_issued(stream, copy.position, end);
        return Step::taken;
    }
    stream.page->issued.store(stream.handed, std::memory_order_release);  // sync: ISSUED
    if (status == Status::ring_full) return Step::retry;
    driver_refused(stream, copy.position, 0, kind_name(kind_of(copy)), status);
    return Step::ended;
}

void Dispatcher::note_issued(StreamPort& stream, std::uint64_t first, std::uint64_t end) noexcept {
    stream.note_issued(end);
    ++in_flight_all_;
    ++counts_.records;
    sample_enqueue(stream, first, end);
}

// A refusal by one of the checks.
Dispatcher::Step Dispatcher::answer(StreamPort& stream, const RecordCopy& copy, Status status) noexcept {
    refuse(stream, copy, status);
    return Step::ended;
}

// Nothing for the driver: the positions are moved over by the next completion.
Dispatcher::Step Dispatcher::take_padding(StreamPort& stream, const RecordCopy& copy) noexcept {
    const Status status = check_padding(copy);
    if (status != Status::ok) return answer(stream, copy, status);
    stream.handed = copy.position + copy.slots;
    stream.page->issued.store(stream.handed, std::memory_order_release);  // sync: ISSUED
    ++counts_.records;
    ++counts_.paddings;
    return Step::taken;
}

// An event is its position: nothing for the driver but to make its completion visible (settle()).
Dispatcher::Step Dispatcher::take_event(StreamPort& stream, const RecordCopy& copy) noexcept {
    const Status status = check_event(copy);
    if (status != Status::ok) return answer(stream, copy, status);
    const std::uint64_t end = copy.position + copy.slots;
    stream.page->issued.store(end, std::memory_order_release);  // sync: ISSUED
    note_issued(stream, copy.position, end);
    ++counts_.events;
    stream.force_complete = true;
    return Step::taken;
}

// ---- waits between streams
// -------------------------------------------------------------------------------------

Dispatcher::Step Dispatcher::take_wait(StreamPort& stream, const RecordCopy& copy) noexcept {
    Wait wait;
    Status why = check_wait(copy, wait);
    if (why != Status::ok) return answer(stream, copy, why);
    StreamPort* awaited = nullptr;
    switch (look_at_wait(stream, copy.position, wait, awaited, why)) {
        case WaitAnswer::refuse:
            return answer(stream, copy, why);
        case WaitAnswer::hold:
            if (closes_cycle(stream, wait)) return answer(stream, copy, Status::wait_cycle);
            stream.wait = wait;  // the consumer stays before the record
            return Step::ended;
        case WaitAnswer::satisfied:
        case WaitAnswer::issue:
            break;
    }
    // `awaited` null: nothing to wait for any more.
    const Step step = issue(stream, copy, awaited != nullptr ? 1 : 0, [&] {
        return stream.driver_stream->wait(*awaited->driver_stream, wait.position, wait.end);
    });
    if (step == Step::taken) {
        ++counts_.waits;
        if (awaited != nullptr) stream.last_wait_end = wait.end;
    }
    return step;
}

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

// ---- completion
// --------------------------------------------------------------------------------------------------

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
    if (stream.timed_end != 0 && completed >= stream.timed_end) {
        const std::uint64_t now = now_ns();
        record_latency(stream.page->issue_to_complete, now - std::min(now, stream.timed_ns));
        stream.timed_end = 0;
        stream.next_timed = stream.issued_records + kRecordsPerTimed;
    }
}

// Asks the driver to make completion visible, where it is time: at the end of a backlog, every so many
// records, where the ring or the bound is near full, for a record that wants it, and for a sleeper.
void Dispatcher::settle(StreamPort& stream) noexcept {
    // relaxed: a hint; a sleeper that is missed here is seen in the look before sleep (W2 in
    // schema/wakeup.hpp).
    const bool sleeper = stream.header->wait_position.load(std::memory_order_relaxed) != 0;
    const bool due = !stream.more || stream.force_complete || sleeper || stream.limited ||
                     stream.records_since_complete >= kRecordsPerCompletion ||
                     stream.handed - stream.asked >= stream.setup.ring_slots / 4;
    if (!due) return;
    const Status status = stream.driver_stream->complete(stream.handed);
    if (status == Status::ring_full) {
        stream.driver_full = true;
        return;
    }
    stream.asked = stream.handed;
    stream.asked_points[stream.asked_count++ % stream.asked_points.size()] = stream.asked;
    stream.records_since_complete = 0;
    stream.force_complete = false;
    if (status != Status::ok && stream.phase != Phase::stopped)
        driver_refused(stream, stream.handed, 0, "completion", status);
}

std::uint32_t Dispatcher::room(const StreamPort& stream) const noexcept {
    const std::uint32_t out = stream.in_flight();
    if (out >= config_.max_in_flight) return 0;
    const std::uint32_t own = config_.max_in_flight - out;
    const std::uint64_t all = config_.max_in_flight_all;
    if (in_flight_all_ + own <= all) return own;
    // Short of room in all: what is free, or what is missing to an equal share, so that nobody starves behind
    // streams that came first.
    const auto share = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, all / streams_.size()));
    const std::uint32_t to_share = out < share ? share - out : 0;
    const auto free = static_cast<std::uint32_t>(in_flight_all_ < all ? all - in_flight_all_ : 0);
    return std::min(own, std::max(free, to_share));
}

// ---- sleepers
// ------------------------------------------------------------------------------------------------------

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
    // The client holds this eventfd too, and a counter that it filled would block the write. Full is a signal
    // as well.
    pollfd writable{stream.wake.get(), POLLOUT, 0};
    if (::poll(&writable, 1, 0) == 1 && (writable.revents & POLLOUT) != 0) {
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t wrote = ::write(stream.wake.get(), &one, sizeof one);
    }
    return true;
}

void Dispatcher::announce_sleep() noexcept {
    for (StreamPort* stream : streams_) ringlaunch::announce_sleep(stream->page->need_wakeup);
}

void Dispatcher::announce_awake() noexcept {
    for (StreamPort* stream : streams_) ringlaunch::announce_awake(stream->page->need_wakeup);
}

int Dispatcher::arm() noexcept {
    int longest = config_.longest_sleep_ms;
    for (StreamPort* each : streams_) {
        StreamPort& stream = *each;
        const std::uint64_t completed = stream.load_completed();
        std::uint64_t lowest = ~std::uint64_t{0};
        const auto want = [&](std::uint64_t position) {
            if (position > completed && position <= stream.asked) lowest = std::min(lowest, position);
        };
        // relaxed: as in wake_sleeper().
        want(stream.header->wait_position.load(std::memory_order_relaxed));
        want(stream.barrier_until);
        want(stream.timed_end);
        if (!stream.idle() && (stream.limited || stream.driver_full || all_limited_)) {
            // Half of what is in flight: waking up for each record would cost more than it gives.
            const std::uint64_t half = stream.retired_records + stream.in_flight() / 2;
            want(stream.ends[half & stream.ends_mask]);
        }
        if (lowest == ~std::uint64_t{0}) {
            if (stream.driver_full) longest = shorter(longest, kDriverFullSleepMs);
            continue;
        }
        // The page shows a completion only where it was asked for: the lowest such place from here.
        std::uint64_t point = stream.asked;
        const std::size_t known = std::min<std::size_t>(stream.asked_count, stream.asked_points.size());
        for (std::size_t i = 0; i < known; ++i)
            if (stream.asked_points[i] >= lowest) point = std::min(point, stream.asked_points[i]);
        longest = shorter(longest, config_.armed_sleep_ms);
        if (point == stream.armed) continue;
        stream.armed = point;
        stream.driver_stream->notify_at(point);
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
    // sync: SAMPLE (pairs with the client's release store): sample_ns belongs to it.
    const std::uint64_t at = stream.header->sample_position.load(std::memory_order_acquire);
    if (at - first >= end - first || at == stream.last_sample) return;
    stream.last_sample = at;
    // relaxed: ordered by the line above. The client may have written anything.
    const std::uint64_t enqueued = stream.header->sample_ns.load(std::memory_order_relaxed);
    if (enqueued == 0) return;
    const std::uint64_t now = now_ns();
    record_latency(stream.page->enqueue_to_issue, std::min(now - std::min(now, enqueued), kLongestSampleNs));
}

// ---- stopping
// ------------------------------------------------------------------------------------------------------

void Dispatcher::refuse(StreamPort& stream, const RecordCopy& copy, Status status,
                        const char* detail) noexcept {
    describe_refusal(status, copy, bounds(stream), stream.page->error_text, detail);
    const bool launch = kind_of(copy) == RecordKind::Launch;
    stop(stream, status, copy.position, launch ? copy.as<schema::LaunchRecord>().kernel() : 0);
}

void Dispatcher::driver_refused(StreamPort& stream, std::uint64_t position, std::uint64_t kernel,
                                const char* what, Status status) noexcept {
    // A dead device refuses everything: that is not this stream's doing, and the process ends here.
    look_at_device();
    const std::string_view name = status_name(status);
    std::snprintf(stream.page->error_text, sizeof stream.page->error_text,
                  "%s at position %" PRIu64 ": the driver refused it with %.*s", what, position,
                  static_cast<int>(name.size()), name.data());
    stop(stream, Status::driver_failed, position, kernel);
}

// The text is there already.
void Dispatcher::stop(StreamPort& stream, Status status, std::uint64_t position,
                      std::uint64_t kernel) noexcept {
    StatusPage& page = *stream.page;
    page.error_status = static_cast<std::uint32_t>(status);
    page.error_position = position;
    page.error_kernel = kernel;
    // sync: STATE (pairs with the client's acquire): the error belongs to it. The turn ends with a look at
    // who sleeps.
    page.state.store(static_cast<std::uint32_t>(StreamState::Stopped), std::memory_order_release);
    stream.phase = Phase::stopped;
    stream.wait = {};
    stream.consumer.advance_to(position);
    notices_.push_back({Notice::Kind::stream_stopped, stream.setup.id});
}

// ---- changes
// -------------------------------------------------------------------------------------------------------

StreamPort* Dispatcher::find(std::uint64_t id) const noexcept {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : found->second;
}

void Dispatcher::add(StreamPort& stream) {
    if (!by_id_.try_emplace(stream.setup.id, &stream).second)
        throw Error(Status::internal_error, "stream " + std::to_string(stream.setup.id) + " is open already");
    streams_.push_back(&stream);
    if (stream.phase != Phase::stopped)
        stream.page->issued.store(stream.handed, std::memory_order_release);  // sync: ISSUED
    stream.page->heartbeat_ns.store(now_ns(), std::memory_order_relaxed);     // relaxed: as in heartbeat()
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

void Dispatcher::release(StreamPort& stream) noexcept {
    if (stream.phase == Phase::held) stream.phase = Phase::running;
}

void Dispatcher::resume(StreamPort& stream, std::uint64_t position) {
    if (stream.phase != Phase::stopped && stream.phase != Phase::held)
        throw Error(Status::invalid_argument,
                    "cannot resume stream " + std::to_string(stream.setup.id) + ": it is not stopped");
    // Where work went to this epoch's driver, only what comes after it can follow.
    const std::uint64_t completed = stream.load_completed();
    const std::uint64_t lowest = stream.issued_records != 0 ? stream.handed : completed;
    if (position < lowest || position - completed > stream.setup.ring_slots)
        throw Error(Status::invalid_argument, "cannot resume stream " + std::to_string(stream.setup.id) +
                                                  " at position " + std::to_string(position) +
                                                  ": it must be from " + std::to_string(lowest) + " to " +
                                                  std::to_string(completed + stream.setup.ring_slots));
    StatusPage& page = *stream.page;
    page.error_status = 0;
    page.error_position = 0;
    page.error_kernel = 0;
    page.error_text[0] = 0;
    page.issued.store(position, std::memory_order_release);  // sync: ISSUED
    // sync: STATE (pairs with the client's acquire)
    page.state.store(static_cast<std::uint32_t>(StreamState::Running), std::memory_order_release);
    stream.consumer.advance_to(position);
    stream.handed = position;
    // Even where that is old: `completed` has to become `position`, behind all that is in flight.
    stream.asked = position;
    stream.asked_points[stream.asked_count++ % stream.asked_points.size()] = position;
    if (stream.driver_stream->complete(position) == Status::ring_full) stream.asked = completed;
    stream.woken = 0;
    stream.phase = Phase::running;
}

std::uint32_t Dispatcher::measure(const StreamPort& stream, std::uint64_t position) const {
    RingConsumer<> reader(stream.ring_mapping.as<Slot>(kRingHeaderBytes), stream.setup.ring_slots, position);
    const auto copy = std::make_unique<RecordCopy>();
    if (!reader.peek() || reader.copy(*copy) != Status::ok)
        throw Error(Status::unsupported,
                    "cannot skip the record at position " + std::to_string(position) + " of stream " +
                        std::to_string(stream.setup.id) +
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
