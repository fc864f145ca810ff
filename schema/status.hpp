// The numbered results that cross a process boundary: answers of the supervisor, refusals of the dispatcher.
#pragma once

#include <cstdint>
#include <string_view>

namespace ringlaunch {

// The numbers are wire format: append, never renumber.
enum class Status : std::uint32_t {
    ok = 0,

    // Where a record or a message is made (never on the wire).
    ring_full = 1,        // the ring has no room now; an answer, not an error
    record_too_long = 2,  // more than a quarter of the ring
    stream_stopped = 3,   // the stream halted; error() says why, resume() goes on
    daemon_lost = 4,      // the daemon's life ended, or its socket closed
    timed_out = 5,
    closed = 6,  // the handle was closed, or belongs to a forked parent
    invalid_argument = 7,
    interrupted = 8,  // the caller's own hook (a signal, Ctrl-C) asked to give up a wait

    // Answers of the supervisor.
    version_mismatch = 20,
    malformed_message = 21,
    permission_denied = 22,
    limit_reached = 23,  // sessions, streams, modules, memory or control messages
    out_of_memory = 24,
    not_found = 25,  // an id that is unknown, stale or of another session
    bad_image = 26,  // not what the driver takes; the text says what was found and expected
    bad_seals = 27,
    unsupported = 28,
    executor_lost = 29,  // the executor died while it worked on this
    stopping = 30,       // the daemon is draining
    driver_error = 31,
    internal_error = 32,
    executor_quarantined = 33,  // the session killed executors too often
    rate_limited = 34,  // more control messages in a second than a session may send: ask the same again later

    // Why the dispatcher refused a record (law 2). The stream stops at it.
    bad_kind = 50,
    bad_slot_count = 51,
    bad_stamp = 52,  // a continuation slot whose stamp does not belong to this record
    bad_flags = 53,
    reserved_not_zero = 54,
    bad_kernel = 55,  // no such kernel in this session, or an old generation
    undeclared_kernel = 56,
    bad_param_bytes = 57,
    bad_pointer = 58,  // neither null nor inside memory that this session may use
    bad_grid = 59,
    bad_block = 60,
    bad_shared_bytes = 61,
    bad_staging = 62,  // unknown segment, or a range outside it
    bad_range = 63,    // a copy or fill that leaves the session's memory
    bad_fill_width = 64,
    bad_awaited_stream = 65,
    awaited_stream_stopped = 66,
    wait_cycle = 67,      // streams that wait for each other for ever
    bad_cluster = 68,     // a grid that is not whole clusters, or clusters that the device cannot place
    grid_too_large = 69,  // a cooperative grid whose blocks do not fit onto the device at once
    bad_graph = 70,       // no such graph in this stream, or one that cannot be launched now
    bad_node = 71,        // an update of what is no launch of the graph

    // Why a stream stopped without a fault of its record.
    kernel_faulted = 80,     // this stream's launch killed the executor; the text names kernel and record
    neighbour_faulted = 81,  // another session's fault restarted the executor; records may be in doubt
    executor_killed = 82,    // the executor was killed, from outside or by a kernel: nobody can tell
    driver_failed = 83,      // the driver refused the work
    suspect = 84             // one of several streams whose work may have killed the executor
};

// Did a stream stop at a record of its own (not because of a restart)?
constexpr bool stopped_at_record(Status status) noexcept {
    const auto number = static_cast<std::uint32_t>(status);
    return (number >= 50 && number < 80) || status == Status::driver_failed;
}

// The spelling of the enumerator, for logs and errors; "unknown" for a number of a newer peer.
std::string_view status_name(Status status) noexcept;
// One sentence for people.
std::string_view status_text(Status status) noexcept;

}  // namespace ringlaunch
