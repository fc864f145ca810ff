#include "daemon/executor/dispatcher.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

#include "daemon/executor/clock.hpp"
#include "schema/counters.hpp"

namespace ringlaunch::executor {

namespace {

using schema::RecordKind;
using schema::StreamState;
using Phase = StreamPort::Phase;

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
}

// ---- turns

bool Dispatcher::do_work() noexcept {
    bool worked = false;
    all_limited_ = false;
    // Always in the same order, the greater priority first: so exactly one batch of each other stream of its
    // priority stands between two turns of a stream, and nobody starves, whatever the others do.
    std::size_t above = 0;  // streams of a greater priority
    for (std::size_t i = 0; i < streams_.size(); ++i) {
        StreamPort& stream = *streams_[i];
        if (i != 0 && stream.setup.priority != streams_[i - 1]->setup.priority) above = i;
        // What has come for them meanwhile waits for one batch of lesser streams, not for one of each.
        for (std::size_t k = 0; k < above; ++k)
            if (streams_[k]->phase == Phase::running && streams_[k]->consumer.peek())
                worked |= turn(*streams_[k]);
        worked |= turn(stream);
    }
    if (!barriers_.empty()) worked |= look_at_barriers();
    return worked;
}

bool Dispatcher::turn(StreamPort& stream) noexcept {
    const std::uint64_t completed = stream.load_completed();
    if (completed != stream.completed_seen) retire(stream, completed);
    bool worked = false;
    stream.more = false;
    if (stream.phase == Phase::running && issue_holds_ == 0) worked = take(stream);
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
    const bool gathering = gathers(stream);
    const std::uint32_t budget =
        gathering ? 0
                  : std::min(room(stream), stream.setup.watched || stream.single() ? 1 : config_.max_batch);
    if (budget == 0) {
        stream.limited = true;
        all_limited_ |= !gathering && own_room(stream) != 0;
        count(stream.page->counters.held_turns);
        return worked;
    }
    if (shallow_ && stream.idle()) stream.burst.begin(now_ns());

    counts_ = {};
    std::uint32_t pending = 0, taken = 0;
    Step step = Step::taken;
    while (step == Step::taken && taken < budget && stream.consumer.peek()) {
        if (taken >= 2) stream.consumer.prefetch();
        RecordCopy& copy = copies_[pending];
        const Status copied = stream.consumer.copy(copy);
        if (copied == Status::ok && is_launch(kind_of(copy))) {
            const Status checked = check_launch(copy, bounds(stream), launches_[pending]);
            if (checked == Status::ok) {
                ++taken;
                ++pending;
                stream.consumer.advance(copy.slots);
                if (!stream.setup.coalesce || forces_completion(copy)) {
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
            taken += 1 + std::exchange(graph_nodes_, 0);
            stream.consumer.advance(copy.slots);
        }
    }
    if (pending != 0) step = flush(stream, pending);
    stream.driver_full = step == Step::retry;
    stream.more = step == Step::taken && taken >= budget && stream.consumer.peek();
    if (step == Step::ended && stream.phase == Phase::stopped) worked = true;

    if (counts_.records != 0) {
        worked = true;
        StreamCounters& counters = stream.page->counters;
        count(counters.batches);
        count(counters.records, counts_.records);
        if (counts_.launches != 0) {
            count(counters.launches, counts_.launches);
            const driver::GraphUse use = stream.driver_stream->graph_use();
            const driver::GraphUse before = std::exchange(stream.graph_use, use);
            if (use.chained != before.chained) count(counters.chained, use.chained - before.chained);
            if (use.in_long_chains != before.in_long_chains)
                count(counters.long_chains, use.in_long_chains - before.in_long_chains);
            if (use.singly != before.singly) count(counters.single_graphs, use.singly - before.singly);
        }
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
    // relaxed: see StatusPage::issued
    stream.page->issued.store(end, std::memory_order_relaxed);
    Status status;
    std::size_t taken = 0;
    if (wanted == 1) {
        status = stream.driver_stream->launch(launches_[0]);
        taken = status == Status::ok ? 1 : 0;
    } else {
        status = stream.driver_stream->launch_chain({launches_.get(), wanted}, taken);
        if (status == Status::ok) taken = wanted;
        taken = std::min<std::size_t>(taken, wanted);
    }
    for (std::size_t i = 0; i < taken; ++i) stream.note_issued(launches_[i].end);
    if (taken != 0) stream.driver_end = stream.handed;
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
    stream.page->issued.store(stream.handed, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    stream.consumer.advance_to(launches_[taken].position);
    if (status == Status::ring_full) return Step::retry;
    driver_refused(stream, launches_[taken].position, &launches_[taken], "launch", status);
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
        case RecordKind::GraphLaunch:
            return take_graph_launch(stream, copy);
        case RecordKind::GraphUpdate:
            return take_graph_update(stream, copy);
        case RecordKind::Launch:
        case RecordKind::CompactLaunch:
        case RecordKind::None:
            break;
    }
    return answer(stream, copy, Status::bad_kind);
}

template <class Call>
Dispatcher::Step Dispatcher::issue(StreamPort& stream, const RecordCopy& copy, std::uint64_t bytes,
                                   Call&& call) noexcept {
    const std::uint64_t end = copy.position + copy.slots;
    stream.page->issued.store(end, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    const Status status = bytes == 0 ? Status::ok : call();
    if (status == Status::ok) {
        if (bytes != 0) stream.driver_end = end;
        stream.force_complete |= forces_completion(copy);
        note_issued(stream, copy.position, end);
        return Step::taken;
    }
    stream.page->issued.store(stream.handed, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    if (status == Status::ring_full) return Step::retry;
    driver_refused(stream, copy.position, nullptr, kind_name(kind_of(copy)), status);
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
    stream.page->issued.store(stream.handed, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    ++counts_.records;
    ++counts_.paddings;
    return Step::taken;
}

// An event is its position: nothing for the driver but to make its completion visible (settle()).
Dispatcher::Step Dispatcher::take_event(StreamPort& stream, const RecordCopy& copy) noexcept {
    const Status status = check_event(copy);
    if (status != Status::ok) return answer(stream, copy, status);
    const std::uint64_t end = copy.position + copy.slots;
    stream.page->issued.store(end, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    note_issued(stream, copy.position, end);
    ++counts_.events;
    stream.force_complete = true;
    return Step::taken;
}

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
    // `awaited` null: nothing to wait for any more. What the driver does not know (events, padding) has
    // completed when the operation before it has.
    const Step step = issue(stream, copy, awaited != nullptr ? 1 : 0, [&] {
        return stream.driver_stream->wait(*awaited->driver_stream,
                                          std::min(wait.position, awaited->driver_end), wait.end);
    });
    if (step == Step::taken) {
        ++counts_.waits;
        if (awaited != nullptr) stream.last_wait_end = wait.end;
    }
    return step;
}

// ---- stopping

void Dispatcher::refuse(StreamPort& stream, const RecordCopy& copy, Status status,
                        const char* detail) noexcept {
    describe_refusal(status, copy, bounds(stream), stream.page->error_text, detail);
    const bool launch = is_launch(kind_of(copy));
    stop(stream, status, copy.position, launch ? kernel_id(copy) : 0);
}

void Dispatcher::driver_refused(StreamPort& stream, std::uint64_t position, const driver::Launch* launch,
                                const char* what, Status status, const char* why) noexcept {
    // A dead device refuses everything: that is not this stream's doing, and the process ends here.
    look_at_device();
    char kernel[256] = "";
    if (launch != nullptr)
        std::snprintf(
            kernel, sizeof kernel,
            "kernel '%.100s', grid %u x %u x %u, block %u x %u x %u, %u bytes of dynamic shared memory: ",
            launch->kernel->layout().name.c_str(), launch->grid.x, launch->grid.y, launch->grid.z,
            launch->block.x, launch->block.y, launch->block.z, launch->shared_bytes);
    const std::string_view name = status_name(status);
    if (why == nullptr) why = stream.driver_stream->why();
    char text[1024];
    std::snprintf(text, sizeof text, "%s at position %" PRIu64 ": %sthe driver refused it with %.*s%s%s",
                  what, position, kernel, static_cast<int>(name.size()), name.data(), *why == 0 ? "" : ": ",
                  why);
    // Cut where the page has no more room.
    const std::size_t length = std::min(std::strlen(text), sizeof stream.page->error_text - 1);
    std::memcpy(stream.page->error_text, text, length);
    stream.page->error_text[length] = 0;
    // What a driver finds wrong with a record has its own reason, as what the dispatcher does.
    const bool reason = status == Status::bad_cluster || status == Status::grid_too_large;
    stop(stream, reason ? status : Status::driver_failed, position,
         launch != nullptr ? launch->kernel_id : 0);
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

}  // namespace ringlaunch::executor
