// A stream as the client holds it, and how every record is enqueued.
//
// Who touches what
//   the producer   HotStream (but for `page`), `last_sample`, `staging`, `next_event`: one thread at a time,
//                  ordered by the caller (in Python by the interpreter lock)
//   anybody        reads `page`; whoever takes in the daemon's notices (ClientState) replaces it, under
//                  `mutex`
//   sleepers       everything below `mutex`, under it
//
// The status page. `page` is where the stream's epoch stands. The producer and the waiters load it anew for
// each record and each look, and never keep it. A page that was replaced stays mapped until the stream is
// destroyed (8 KiB a restart), so that who loaded it just before may still read it: it reads an ended epoch,
// takes the slow path and finds the new one. When the session ends (daemon lost, closed, forked) `page`
// becomes `last_page`, which is the stream's own: its state is Closed, so the hot path notices all of these
// with the one look at `state` that it has anyway.
//
// A record has two steps: reserve() (may answer that the ring is full; position_with_room() says what to wait
// for) and its publishing, which cannot fail. Between a reserve() that said ok and its publish nothing else
// may be enqueued: whoever runs foreign code (a Python object's __index__, a finalizer) runs it before
// reserve(). The hot path (<ringlaunch/hot_path.hpp>) does both where nothing stands in the way; else comes
// enqueue_launch_slowly().
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <ringlaunch/ringlaunch.hpp>
#include <span>
#include <string>
#include <vector>

#include "client/src/fork_guard.hpp"
#include "client/src/module_state.hpp"
#include "client/src/staging_ring.hpp"
#include "control_generated.h"
#include "schema/pages.hpp"
#include "schema/ring.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::detail {

struct Recorder;
struct Sleeper;

static_assert(static_cast<int>(schema::StreamState::Running) == 0, "nothing_in_the_way() says so");

// A deadline that never comes.
inline constexpr std::uint64_t kForever = ~std::uint64_t{0};

// What OpenStream's answer brought.
struct OpenedStream {
    std::uint64_t id = 0;
    std::uint32_t epoch = 0;
    std::uint32_t ring_slots = 0;
    Mapping ring;
    Mapping page;
    UniqueFd wake;
    std::string name;
};

struct alignas(kCacheLine) StreamState final : HotStream, ForkGuarded {
    StreamState(std::shared_ptr<ClientState> owner, OpenedStream opened);
    ~StreamState();

    // ---- the producer's
    std::uint64_t last_sample = 0;  // the position last timed
    std::uint64_t next_event = 1;
    std::unique_ptr<StagingRing> staging;  // made at the first copy
    // While a graph is recorded. Then the producer looks no further ahead, so that every enqueue takes the
    // slow path, which looks here.
    std::unique_ptr<Recorder> recorder;

    // ---- set when made
    std::uint64_t id = 0;
    std::uint32_t ring_slots = 0;
    std::string name;
    RingHeader* header = nullptr;  // null in a forked child
    // relaxed: the wish of the last waiter is good enough. How long a waiter spins before it sleeps.
    std::atomic<std::uint32_t> spin_ns;
    // Likewise: the position that was waited for last on a GPU, and since when.
    std::atomic<std::uint64_t> waited_for{0}, waited_since_ns{0};
    ClientState* client = nullptr;        // lives as long as this
    std::shared_ptr<ClientState> keeper;  // empty for a stream that only drains (ClientState owns that)

    // ---- under `mutex`, which is taken after the client's own
    std::mutex mutex;
    std::condition_variable changed;  // the leader left, or a sleeper may be done
    UniqueFd wake;                    // the daemon's eventfd; drained by the leader, else by on_wake()
    Mapping ring;
    std::vector<Mapping> pages;  // every epoch's
    bool ended = false;          // `page` is `last_page`
    Sleeper* sleepers = nullptr;
    bool has_leader = false;
    std::uint64_t armed = 0;  // the lowest position that an event loop waits for; 0: none
    UniqueFd loop;            // epoll of `wake`, `kick` and the socket, for event loops
    UniqueFd kick;            // this process wakes its own event loop
    std::vector<std::weak_ptr<ClientState>> watchers;  // other clients whose streams may wait for it
    std::uint64_t issued_before = 0;  // B of the last restart, until the new epoch has issued as much
    std::string stop_text;            // what the last epoch notice said
    Status stop_status = Status::ok;

    StatusPage last_page{};

    // Cold halves of the hot path.
    [[gnu::cold]] Status not_running() noexcept;  // ok: enqueuing may go on
    [[gnu::cold]] Status looks_full() noexcept;   // ring_full, or why it will never be less full
    [[gnu::cold]] void take_sample() noexcept;

    // Notices, from whoever reads the socket.
    void replace_page(Mapping next, const schema::StreamEpoch& notice);
    void end() noexcept;  // daemon lost or client closed
    void after_fork_in_child() noexcept override;

    // relaxed: a caller who needs a position that another thread published was ordered behind it by the
    // program.
    std::uint64_t published() const noexcept { return producer.position(); }
};

// Step 1. Makes room for a record of `slots` in one piece. ok: publish now. Never blocks: ring_full is an
// answer.
[[nodiscard]] inline Status reserve(StreamState& stream, std::uint32_t slots) noexcept {
    if (stream.recorder != nullptr) [[unlikely]]
        return Status::ok;                                                 // nothing goes into the ring
    const StatusPage* page = stream.page.load(std::memory_order_acquire);  // sync: EPOCH
    // relaxed: only whether it is Running matters here; the slow path reads what belongs to another state.
    if (page->state.load(std::memory_order_relaxed) !=
        static_cast<std::uint32_t>(schema::StreamState::Running)) [[unlikely]] {
        if (const Status status = stream.not_running(); status != Status::ok) return status;
        page = stream.page.load(std::memory_order_acquire);  // sync: EPOCH
    }
    const Status status = stream.producer.reserve(slots, page->completed);
    if (status == Status::ring_full) [[unlikely]]
        return stream.looks_full();
    return status;
}

// After reserve() said ring_full: the position whose completion makes room for `slots`, and more. Wait for it
// with wait_completed() (waiter.hpp), which touches nothing of the producer's, so that the caller may let go
// of its turn meanwhile; then reserve() again.
[[nodiscard]] std::uint64_t position_with_room(const StreamState& stream, std::uint32_t slots) noexcept;

// Before a record of `slots` is published at the producer's position.
inline void sample_if_due(StreamState& stream, std::uint32_t slots) noexcept {
    if (sample_is_due(stream.producer.position(), slots)) [[unlikely]]
        stream.take_sample();
}

template <class Record>
inline void publish_record(StreamState& stream, const Record& record) noexcept {
    sample_if_due(stream, record.slots());
    stream.producer.publish(record);
    wake_reader(stream, stream.current(), stream.must_fence);
}

// Why launchable() said no: leaves a text for last_error() and answers its status.
[[gnu::cold]] Status refuse_launch(StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block,
                                   std::uint32_t shared_bytes) noexcept;

// Instead of enqueuing, while the stream records (graph.cpp).
Status record_launch(StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block,
                     std::uint32_t shared_bytes, std::span<const std::byte> params) noexcept;
Status record_record(StreamState& stream, schema::RecordKind kind, const void* record) noexcept;

// Are these arguments the kernel's? Else it leaves a text for last_error().
[[gnu::cold]] Status check_launch_args(const StreamState& stream, const KernelState& kernel,
                                       const ArgShape& args, int empty_buffer) noexcept;

// As try_enqueue_launch(), whatever stands in its way, but for a full ring: that is an answer. Never waits.
template <bool kPadded>
[[nodiscard, gnu::cold, gnu::noinline]] inline Status enqueue_launch_slowly(
    StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
    std::span<const std::byte> params) noexcept {
    if (stream.recorder != nullptr)
        return record_launch(stream, kernel, grid, block, shared_bytes, params.first(kernel.param_bytes));
    const std::uint32_t slots = slots_of(kernel, grid, block, shared_bytes);
    if (const Status status = reserve(stream, slots); status != Status::ok) return status;
    sample_if_due(stream, slots);
    if (form_of(kernel, grid, block, shared_bytes) == LaunchForm::compact)
        publish_launch<kPadded, LaunchForm::compact>(stream.producer, kernel, grid, block, shared_bytes,
                                                     params);
    else
        publish_launch<kPadded, LaunchForm::general>(stream.producer, kernel, grid, block, shared_bytes,
                                                     params);
    if (!stream.must_fence) stream.producer.look_ahead(slots_per_sample(stream.producer.position()));
    wake_reader(stream, stream.current(), stream.must_fence);
    return Status::ok;
}

template <bool kPadded>
[[nodiscard]] inline Status enqueue_launch(StreamState& stream, const KernelState& kernel, Dim3 grid,
                                           Dim3 block, std::uint32_t shared_bytes,
                                           std::span<const std::byte> params) noexcept {
    if (try_enqueue_launch<kPadded>(stream, kernel, grid, block, shared_bytes, params)) [[likely]]
        return Status::ok;
    return enqueue_launch_slowly<kPadded>(stream, kernel, grid, block, shared_bytes, params);
}

// The text of this thread's last refused call, for Stream::last_error().
void remember_error(const StreamState& stream, Status status, std::string_view text = {}) noexcept;
std::string remembered_error(const StreamState& stream);
// Leaves the text and answers the status.
Status refuse(const StreamState& stream, Status status, const std::string& text) noexcept;

// The states behind the public handles, for the bindings.
struct Access {
    static StreamState* state(const Stream& stream) noexcept {
        return static_cast<StreamState*>(stream.state_.get());
    }
    static const KernelState* state(const Kernel& kernel) noexcept {
        return static_cast<const KernelState*>(kernel.state_.get());
    }
    static GraphState* state(const Graph& graph) noexcept { return graph.state_.get(); }
    static Graph graph(std::shared_ptr<GraphState> state) noexcept {
        Graph made;
        made.state_ = std::move(state);
        return made;
    }
    static ClientState* state(const Client& client) noexcept { return client.state_.get(); }
    static const BufferState* state(const Buffer& buffer) noexcept { return buffer.state_.get(); }
    static const PinnedState* state(const PinnedMemory& memory) noexcept { return memory.state_.get(); }
    static std::shared_ptr<StreamState> stream(const Event& event) noexcept { return event.stream_; }
    static std::shared_ptr<StreamState> share(const Stream& stream) noexcept {
        return std::static_pointer_cast<StreamState>(stream.state_);
    }
};

}  // namespace ringlaunch::detail
