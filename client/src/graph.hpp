// Graphs as the client holds them: what was recorded, as it is now, and what the daemon has of it.
//
// In the daemon a graph belongs to one stream, so that updates are ordered with its launches by their places
// in the ring. Here it belongs to its client: each stream that launches it has an instance of its own, made
// at the first launch there, and before a launch the instance is told what has changed since the last one.
//
// One thread at a time uses a graph, ordered by the caller, as with a stream's producer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ringlaunch/ringlaunch.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/src/client_state.hpp"
#include "client/src/stream_state.hpp"

namespace ringlaunch::detail {

struct GraphNode {
    std::string name;                           // "": it has none
    std::shared_ptr<const KernelState> kernel;  // null: a copy or a fill; keeps the module
    Dim3 grid, block;
    std::uint32_t shared_bytes = 0;
    std::vector<std::byte> params;
    std::array<std::byte, kSlotBytes> record{};  // of a copy or a fill
    std::vector<Buffer> keeps;                   // memory that it names, where the caller said so
    bool fixed = false;  // its kernel was compiled for these very arguments, where the caller said so
};

// What a stream records instead of enqueuing it.
struct Recorder {
    std::vector<GraphNode> nodes;
    std::string next_name;
    std::unordered_map<const KernelState*, std::shared_ptr<const KernelState>> kernels;
    Status failure = Status::ok;
    std::string why;
};

struct GraphInstance {
    const StreamState* stream = nullptr;
    std::uint64_t stream_id = 0;
    std::uint64_t id = 0;
    std::vector<std::uint64_t> sent;  // each node's version
    std::uint64_t version = 0;        // everything up to here was sent
    std::uint64_t looked_at = 0;      // of GraphState::version, when ...
    std::size_t first_stale = 0;      // ... no node before this one was stale
};

// An instance on its way. What the daemon made and nobody adopted is dropped.
struct PendingInstance {
    ~PendingInstance();
    std::shared_ptr<StreamState> stream;
    UniqueFd description;
    std::uint32_t slots = 0;
    GraphInstance made;  // `id` 0: the daemon has not made it

    // Asks the daemon, and blocks; touches nothing of the graph. Throws Error.
    void ask();
};

struct GraphState {
    ~GraphState();
    std::shared_ptr<StreamState> home;  // where it was recorded
    std::shared_ptr<ClientState> client;
    std::vector<GraphNode> nodes;
    std::uint64_t version = 0;            // grows with each update
    std::vector<std::uint64_t> versions;  // each node's: when it was last updated
    std::vector<GraphInstance> instances;

    // Null: the stream has none yet.
    GraphInstance* find(const StreamState& stream) noexcept;
    // An instance in three steps, of which the second alone waits. Throw Error.
    std::shared_ptr<PendingInstance> prepare(std::shared_ptr<StreamState> stream);
    GraphInstance& adopt(PendingInstance& pending);
};

// From here on the stream records. Refuses where it does already, or has stopped.
Status begin_recording(StreamState& stream) noexcept;
// It records no more: what it did. Null: it did not record.
std::unique_ptr<Recorder> end_recording(StreamState& stream) noexcept;
// What was recorded as a graph, of which the daemon has nothing yet. Throws Error where it can be none.
std::shared_ptr<GraphState> make_graph(const std::shared_ptr<StreamState>& stream, Recorder& recorded);

// Checks a launch as one of the stream is, and makes it node `i`'s. On a refusal the text is the home
// stream's.
Status update_node(GraphState& graph, std::size_t i, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                   std::span<const std::byte> params) noexcept;

// What stands before the graph's launch, and then that, one record at a time: how many slots the next has,
// ...
std::uint32_t next_slots(const GraphState& graph, GraphInstance& instance) noexcept;
// ... and enqueues it, or answers that the ring is full. `launched`: it was the launch.
Status enqueue_next(GraphState& graph, GraphInstance& instance, StreamState& stream, bool& launched) noexcept;

}  // namespace ringlaunch::detail
