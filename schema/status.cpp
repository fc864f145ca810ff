// The names and sentences of the numbered statuses.
#include "schema/status.hpp"

namespace ringlaunch {

namespace {

struct Entry {
    Status status;
    std::string_view name;
    std::string_view text;
};

constexpr Entry kEntries[] = {
    {Status::ok, "ok", "no error"},
    {Status::ring_full, "ring_full", "the ring has no room now"},
    {Status::record_too_long, "record_too_long",
     "the record is longer than a quarter of the ring: open the stream with more ring_slots"},
    {Status::stream_stopped, "stream_stopped", "the stream has stopped"},
    {Status::daemon_lost, "daemon_lost", "the daemon is gone"},
    {Status::timed_out, "timed_out", "the time given is over"},
    {Status::closed, "closed", "the handle is closed"},
    {Status::invalid_argument, "invalid_argument", "an argument is out of range"},
    {Status::interrupted, "interrupted", "the wait was interrupted"},
    {Status::version_mismatch, "version_mismatch",
     "client and daemon speak different versions of the protocol"},
    {Status::malformed_message, "malformed_message", "the control message is malformed"},
    {Status::permission_denied, "permission_denied", "not permitted"},
    {Status::limit_reached, "limit_reached", "a limit of the session or the daemon is reached"},
    {Status::out_of_memory, "out_of_memory", "out of memory"},
    {Status::not_found, "not_found", "no such object in this session"},
    {Status::bad_image, "bad_image", "the image is not what the driver takes"},
    {Status::bad_seals, "bad_seals", "the shared memory does not bear the seals it must"},
    {Status::unsupported, "unsupported", "not supported by this driver"},
    {Status::executor_lost, "executor_lost", "the executor died while it worked on this"},
    {Status::stopping, "stopping", "the daemon is stopping"},
    {Status::driver_error, "driver_error", "the driver reported an error"},
    {Status::internal_error, "internal_error", "an error inside the daemon"},
    {Status::executor_quarantined, "executor_quarantined",
     "the session killed executors again and again and now runs alone"},
    {Status::rate_limited, "rate_limited", "more control messages in a second than a session may send"},
    {Status::bad_kind, "bad_kind", "the record's kind is unknown"},
    {Status::bad_slot_count, "bad_slot_count", "the record's slot count is impossible"},
    {Status::bad_stamp, "bad_stamp", "a continuation slot bears a stamp that is not this record's"},
    {Status::bad_flags, "bad_flags", "the record bears unknown flags"},
    {Status::reserved_not_zero, "reserved_not_zero", "reserved bytes of the record are not zero"},
    {Status::bad_kernel, "bad_kernel", "no such kernel in this session"},
    {Status::undeclared_kernel, "undeclared_kernel", "the kernel's parameter types were not declared"},
    {Status::bad_param_bytes, "bad_param_bytes",
     "the packed parameters have another size than the kernel takes"},
    {Status::bad_pointer, "bad_pointer",
     "a pointer parameter is neither null nor inside memory of this session"},
    {Status::bad_grid, "bad_grid", "the grid is outside the device's limits"},
    {Status::bad_block, "bad_block", "the block is outside the kernel's limits"},
    {Status::bad_shared_bytes, "bad_shared_bytes", "more dynamic shared memory than the kernel may use"},
    {Status::bad_staging, "bad_staging", "the staging range is not the session's"},
    {Status::bad_range, "bad_range", "the device range is not the session's"},
    {Status::bad_fill_width, "bad_fill_width",
     "the fill's width is not 1, 2 or 4, or does not divide its range"},
    {Status::bad_awaited_stream, "bad_awaited_stream", "the awaited stream is not of this session"},
    {Status::awaited_stream_stopped, "awaited_stream_stopped",
     "the awaited stream stopped before it reached the position"},
    {Status::wait_cycle, "wait_cycle", "streams wait for each other"},
    {Status::bad_cluster, "bad_cluster", "the grid is not whole clusters, or the device cannot place them"},
    {Status::grid_too_large, "grid_too_large",
     "the blocks of a cooperative grid do not fit onto the device at once"},
    {Status::bad_graph, "bad_graph", "no graph of this stream that can be launched"},
    {Status::bad_node, "bad_node", "the graph has no such launch"},
    {Status::kernel_faulted, "kernel_faulted", "the stream's kernel faulted"},
    {Status::neighbour_faulted, "neighbour_faulted",
     "another stream's kernel faulted and the executor was restarted"},
    {Status::executor_killed, "executor_killed", "the executor was killed"},
    {Status::driver_failed, "driver_failed", "the driver refused the work"},
    {Status::suspect, "suspect", "one of several streams whose work may have killed the executor"},
};

const Entry* find(Status status) noexcept {
    for (const Entry& entry : kEntries)
        if (entry.status == status) return &entry;
    return nullptr;
}

}  // namespace

std::string_view status_name(Status status) noexcept {
    const Entry* entry = find(status);
    return entry ? entry->name : "unknown";
}

std::string_view status_text(Status status) noexcept {
    const Entry* entry = find(status);
    return entry ? entry->text : "an error that this version does not know";
}

}  // namespace ringlaunch
