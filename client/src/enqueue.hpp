// Enqueuing one record of any kind, waiting while the ring is full.
#pragma once

#include "client/src/stream_state.hpp"
#include "client/src/waiter.hpp"

namespace ringlaunch::detail {

// reserve(), with the waiting. `wait` false: ring_full is the answer.
[[nodiscard]] inline Status reserve_or_wait(StreamState& stream, std::uint32_t slots, bool wait) noexcept {
    for (;;) {
        Status status = reserve(stream, slots);
        if (status != Status::ring_full || !wait) [[likely]]
            return status;
        status = wait_completed(stream, position_with_room(stream, slots));
        if (status != Status::ok) {
            remember_error(stream, status);
            return status;
        }
    }
}

// For the records of one slot.
template <class Record>
[[nodiscard]] inline Status enqueue(StreamState& stream, schema::RecordKind kind, Record record) noexcept {
    record.mutate_kind(kind);
    record.mutate_slots(1);
    if (stream.recorder != nullptr) [[unlikely]]
        return record_record(stream, kind, &record);
    const Status status = reserve_or_wait(stream, 1, true);
    if (status == Status::ok) publish_record(stream, record);
    return status;
}

}  // namespace ringlaunch::detail
