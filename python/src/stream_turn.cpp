// Turns at a stream: it has one producer at a time, and threads of Python may share it.
#include "stream_turn.hpp"

#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "client/src/client_state.hpp"
#include "client/src/graph.hpp"
#include "client/src/stream_state.hpp"
#include "client/src/waiter.hpp"
#include "errors.hpp"
#include "wait.hpp"

namespace ringlaunch::python {

namespace {

// A copy to the device is cut so that its piece in flight is short, and no more is in flight than the
// stream's staging memory holds: then the library never waits for staging memory inside a piece, where no
// signal could be answered.
constexpr std::size_t kMaxPieceBytes = 256 << 10;
constexpr std::size_t kPieces = 16;           // at least, of a stream's staging memory
constexpr std::size_t kMaxStagedPart = 2;     // half of the staging memory
constexpr std::size_t kMaxStagedCopies = 32;  // half of the regions of a staging ring

// A copy to the host begins on an idle stream, so that the library waits for nothing but the piece itself,
// whose parts it pipelines: some milliseconds.
constexpr std::size_t kReadPieceBytes = 16 << 20;

constexpr std::uint64_t kTurnPollNs = 100'000;

// Enqueues one piece with the lock released. The caller has the interpreter lock and saw that the turn is
// free.
template <class Copy>
bool with_turn(StreamObject* stream, const char* doing, Copy&& copy) {
    stream->busy = true;
    // The stream may be closed by another thread meanwhile: this handle keeps it.
    ringlaunch::Stream keeper = stream->stream;
    PyThreadState* thread = PyEval_SaveThread();
    const Status status = copy(keeper);
    PyEval_RestoreThread(thread);
    stream->busy = false;
    if (status == Status::ok) return true;
    set_stream_error(stream, status, doing);
    return false;
}

bool await_event(StreamObject* stream, const ringlaunch::Event& event, std::optional<std::uint64_t> timeout,
                 const char* doing) {
    Status status = Status::ok;
    const ringlaunch::Event kept = event;
    if (!wait_in_slices([&](std::uint64_t slice_ns) { return kept.wait(slice_ns); }, timeout, status))
        return false;
    if (status == Status::ok) return true;
    set_stream_error(stream, status, doing);
    return false;
}

// Waits until `bytes` more may be staged, of at most `most` (no less than `bytes`).
bool await_staging(StreamObject* stream, std::size_t bytes, std::size_t most, const char* doing) {
    while (true) {
        while (!stream->staged.empty() && stream->staged.front().done.done()) stream->staged.pop_front();
        std::size_t in_flight = 0;
        for (const StagedCopy& copy : stream->staged) in_flight += copy.bytes;
        if (in_flight + bytes <= most && stream->staged.size() < kMaxStagedCopies) return true;
        const ringlaunch::Event oldest = stream->staged.front().done;
        if (!await_event(stream, oldest, std::nullopt, doing)) return false;
    }
}

}  // namespace

PyObject* set_stream_error(const StreamObject* stream, Status status, const std::string& doing) {
    if (status == Status::closed || stream->state == nullptr) {
        const char* why = stream->session->pid != ::getpid()
                              ? "it belongs to the parent of this forked process; connect anew"
                          : stream->session->closed ? "its client is closed"
                                                    : "the stream is closed";
        return set_named_error("Closed", doing + ": " + why);
    }
    if (status == Status::stream_stopped) {
        const StreamStatus now = stream->stream.status();
        if (now.status != Status::ok) return set_error(now.status, now.text);
    }
    // An event that is waited for knows nothing of why the daemon hung up.
    if (status == Status::daemon_lost)
        return set_error(status, doing + ": " + stream->state->client->life_text());
    const std::string own = status == Status::timed_out ? "" : stream->stream.last_error();
    return set_error(status, own.empty() ? doing + ": " + std::string(status_text(status)) : own);
}

bool await_turn(StreamObject* stream, const char* doing) {
    while (stream->busy) {
        // Copies are coarse, so a poll is enough; a condition variable would need a lock that survives a
        // fork.
        PyThreadState* thread = PyEval_SaveThread();
        std::this_thread::sleep_for(std::chrono::nanoseconds(kTurnPollNs));
        PyEval_RestoreThread(thread);
        if (PyErr_CheckSignals() != 0) return false;
    }
    if (stream->state != nullptr && !stream->session->closed) return true;
    set_stream_error(stream, Status::closed, doing);
    return false;
}

bool await_room(StreamObject* stream, std::uint32_t slots, const char* doing) {
    if (stream->state == nullptr) {
        set_stream_error(stream, Status::closed, doing);
        return false;
    }
    const ringlaunch::Stream keeper = stream->stream;
    detail::StreamState& state = *stream->state;
    const std::uint64_t position =
        detail::position_with_room(state, slots);  // the producer's: under the lock
    Status status = Status::timed_out;
    // Another thread may close the stream meanwhile: what is in it still runs, but no record follows.
    while (status == Status::timed_out && stream->state != nullptr)
        if (!wait_in_slices(
                [&](std::uint64_t slice_ns) {
                    return detail::wait_completed(state, position, monotonic_ns() + slice_ns);
                },
                kWaitSliceNs, status))
            return false;
    if (status == Status::ok) return true;
    if (status == Status::timed_out) status = Status::closed;
    set_stream_error(stream, status, doing);
    return false;
}

bool await_turn_and_room(StreamObject* stream, std::uint32_t slots, const char* doing) {
    while (true) {
        if (!await_turn(stream, doing)) return false;
        const Status status = detail::reserve(*stream->state, slots);
        if (status == Status::ok) return true;
        if (status != Status::ring_full) {
            set_stream_error(stream, status, doing);
            return false;
        }
        if (!await_room(stream, slots, doing)) return false;
    }
}

std::size_t recorded_nodes(const StreamObject* stream) noexcept {
    return stream->state->recorder == nullptr ? 0 : stream->state->recorder->nodes.size();
}

void keep_in_graph(StreamObject* stream, std::size_t nodes_before, std::vector<ringlaunch::Buffer> buffers,
                   bool fixed) {
    if (recorded_nodes(stream) <= nodes_before) return;
    detail::GraphNode& node = stream->state->recorder->nodes.back();
    node.keeps = std::move(buffers);
    node.fixed = fixed;
}

bool copy_to_device(StreamObject* stream, const ringlaunch::Buffer& to, std::size_t offset,
                    const std::byte* from, std::size_t bytes) {
    constexpr const char* kDoing = "copying to the device";
    for (std::size_t done = 0; done < bytes;) {
        if (!await_turn(stream, kDoing)) return false;
        const std::size_t staging = stream->state->client->staging_bytes;
        const std::size_t piece = std::min({kMaxPieceBytes, staging / kPieces, bytes - done});
        // Two records: the copy and its event. What waits for one may lose the other, so all are asked again.
        if (!await_staging(stream, piece, staging / kMaxStagedPart, kDoing) ||
            !await_turn_and_room(stream, 4, kDoing))
            return false;
        ringlaunch::Event copied;
        if (!with_turn(stream, kDoing, [&](ringlaunch::Stream& target) {
                const Status status = target.copy_to_device(to, from + done, piece, offset + done);
                if (status == Status::ok) copied = target.record();
                return status;
            }))
            return false;
        stream->staged.push_back({copied, piece});
        done += piece;
    }
    return true;
}

bool copy_to_host(StreamObject* stream, std::byte* to, const ringlaunch::Buffer& from, std::size_t offset,
                  std::size_t bytes, std::optional<std::uint64_t> timeout_ns) {
    constexpr const char* kDoing = "copying to the host";
    const std::uint64_t begin = monotonic_ns();
    for (std::size_t done = 0; done < bytes;) {
        // What stands before the piece is waited for here, in slices.
        if (!await_turn_and_room(stream, 4, kDoing)) return false;
        if (stream->state->recorder != nullptr)  // which refuses it, by its name
            return with_turn(stream, kDoing, [&](ringlaunch::Stream& source) {
                return source.copy_to_host(to, from, bytes, offset);
            });
        const ringlaunch::Event before = stream->stream.record();
        std::optional<std::uint64_t> left = timeout_ns;
        if (left) left = *left - std::min(*left, monotonic_ns() - begin);
        if (!await_event(stream, before, left, kDoing) || !await_turn_and_room(stream, 4, kDoing))
            return false;
        const std::size_t piece = std::min(kReadPieceBytes, bytes - done);
        if (!with_turn(stream, kDoing, [&](ringlaunch::Stream& source) {
                return source.copy_to_host(to + done, from, piece, offset + done);
            }))
            return false;
        done += piece;
    }
    return true;
}

}  // namespace ringlaunch::python
