#include "client/src/graph.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "client/src/enqueue.hpp"
#include "client/src/waiter.hpp"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch {

namespace detail {

namespace {

// The recording cannot become what the program meant.
Status spoil(StreamState& stream, Status status, std::string text) noexcept {
    Recorder& recorder = *stream.recorder;
    remember_error(stream, status, text);
    if (recorder.failure == Status::ok) {
        recorder.failure = status;
        recorder.why = std::move(text);
    }
    return status;
}

const char* what_it_is(schema::RecordKind kind) {
    switch (kind) {
        case schema::RecordKind::CopyToDevice:
        case schema::RecordKind::CopyToHost:
            return "a copy from or to the host";
        case schema::RecordKind::EventRecord:
            return "an event or a barrier";
        case schema::RecordKind::EventWait:
            return "a wait for an event";
        case schema::RecordKind::GraphLaunch:
        case schema::RecordKind::GraphUpdate:
            return "another graph";
        default:
            return "this";
    }
}

// Memory that a recording or a graph takes may be short; then its text is, too.
template <class Do>
Status guarded(const StreamState& stream, Do&& act) noexcept {
    try {
        return act();
    } catch (const Error& error) {
        return refuse(stream, error.status(), error.what());
    } catch (const std::bad_alloc&) {
        remember_error(stream, Status::out_of_memory);
        return Status::out_of_memory;
    } catch (const std::exception& error) {
        remember_error(stream, Status::internal_error, error.what());
        return Status::internal_error;
    }
}

struct KeptKernel {
    std::shared_ptr<ModuleState> module;
    KernelState kernel;
};

std::shared_ptr<const KernelState> keep(Recorder& recorder, const KernelState& kernel) {
    std::shared_ptr<const KernelState>& kept = recorder.kernels[&kernel];
    if (!kept) {
        auto made = std::make_shared<KeptKernel>(KeptKernel{kernel.module->shared_from_this(), kernel});
        const KernelState* state = &made->kernel;
        kept = std::shared_ptr<const KernelState>(std::move(made), state);
    }
    return kept;
}

std::uint32_t slots_of(const GraphNode& node) noexcept {
    return node.kernel == nullptr ? 1 : slots_of(*node.kernel, node.grid, node.block, node.shared_bytes);
}

void publish_node(RingProducer<>& to, const GraphNode& node) noexcept {
    if (node.kernel == nullptr) {
        schema::CopyRecord record;  // or a fill: the bytes are what counts
        std::memcpy(static_cast<void*>(&record), node.record.data(), sizeof record);
        to.publish(record);
    } else if (form_of(*node.kernel, node.grid, node.block, node.shared_bytes) == LaunchForm::compact) {
        publish_launch<false, LaunchForm::compact>(to, *node.kernel, node.grid, node.block, node.shared_bytes,
                                                   node.params);
    } else {
        publish_launch<false, LaunchForm::general>(to, *node.kernel, node.grid, node.block, node.shared_bytes,
                                                   node.params);
    }
}

// The records of a graph as it is now, in the form of a ring's.
UniqueFd describe(const GraphState& graph, std::uint32_t& slots) {
    std::size_t all = 0;
    for (const GraphNode& node : graph.nodes) all += slots_of(node);
    const std::string making = "cannot make a graph of " + std::to_string(graph.nodes.size()) + " nodes: ";
    if (graph.nodes.empty())
        throw Error(Status::invalid_argument, making + "nothing was recorded on this stream");
    if (graph.nodes.size() > kMaxGraphNodes || all > kMaxGraphSlots)
        throw Error(Status::limit_reached, making + "they take " + std::to_string(all) +
                                               " slots; a graph has at most " +
                                               std::to_string(kMaxGraphNodes) + " nodes and " +
                                               std::to_string(kMaxGraphSlots) + " slots; make several of it");
    // With so much room that no record wraps, and none is too long.
    const auto room = static_cast<std::uint32_t>(std::bit_ceil(std::max<std::size_t>(all, 512)) * 4);
    const auto ring = std::make_unique<Slot[]>(room);
    RingProducer<> producer(ring.get(), room, 0);
    for (const GraphNode& node : graph.nodes) publish_node(producer, node);
    slots = static_cast<std::uint32_t>(all);
    return make_image("graph", {reinterpret_cast<const std::byte*>(ring.get()), all * kSlotBytes});
}

// An update as it stands in the ring. There is room.
void publish_update(StreamState& stream, std::uint64_t graph, std::uint32_t i,
                    const GraphNode& node) noexcept {
    const auto bytes = static_cast<std::uint32_t>(node.params.size());
    const std::uint32_t slots = update_slots(bytes);
    sample_if_due(stream, slots);
    RingProducer<>& producer = stream.producer;
    for (std::uint32_t slot = 1; slot < slots; ++slot)
        producer.write_continuation(slot, node.params.data(), bytes,
                                    kUpdateHeadParamBytes + (slot - 1) * kContinuationParamBytes);
    schema::GraphUpdateRecord head{};
    head.mutate_kind(schema::RecordKind::GraphUpdate);
    head.mutate_slots(static_cast<std::uint16_t>(slots));
    head.mutate_param_bytes(static_cast<std::uint16_t>(bytes));
    head.mutate_graph(graph);
    head.mutate_node(i);
    head.mutate_grid_x(node.grid.x);
    head.mutate_grid_y(node.grid.y);
    head.mutate_grid_z(node.grid.z);
    head.mutate_block_x(static_cast<std::uint16_t>(node.block.x));
    head.mutate_block_y(static_cast<std::uint16_t>(node.block.y));
    head.mutate_block_z(static_cast<std::uint16_t>(node.block.z));
    head.mutate_shared_bytes(node.shared_bytes);
    if (bytes != 0)
        std::memcpy(reinterpret_cast<std::byte*>(&head) + sizeof head - kUpdateHeadParamBytes,
                    node.params.data(), std::min<std::size_t>(bytes, kUpdateHeadParamBytes));
    producer.publish(head);
    wake_reader(stream, stream.current(), stream.must_fence);
}

// The next node that this instance has not as it is now; the count of nodes: there is none.
std::size_t next_stale(const GraphState& graph, GraphInstance& instance) noexcept {
    if (instance.version == graph.version) return graph.nodes.size();
    if (std::exchange(instance.looked_at, graph.version) != graph.version) instance.first_stale = 0;
    while (instance.first_stale < graph.nodes.size() &&
           instance.sent[instance.first_stale] == graph.versions[instance.first_stale])
        ++instance.first_stale;
    return instance.first_stale;
}

}  // namespace

// ---- recording

Status begin_recording(StreamState& stream) noexcept {
    if (stream.recorder != nullptr)
        return refuse(stream, Status::invalid_argument,
                      "cannot record a graph: this stream records one already");
    if (const Status status = reserve(stream, 1); status != Status::ok && status != Status::ring_full)
        return status;
    return guarded(stream, [&] {
        stream.recorder = std::make_unique<Recorder>();
        stream.producer.look_no_further();
        return Status::ok;
    });
}

std::unique_ptr<Recorder> end_recording(StreamState& stream) noexcept {
    return std::move(stream.recorder);
}

Status record_launch(StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block,
                     std::uint32_t shared_bytes, std::span<const std::byte> params) noexcept {
    return guarded(stream, [&] {
        Recorder& recorder = *stream.recorder;
        std::string name = std::exchange(recorder.next_name, {});
        if (!name.empty())
            for (const GraphNode& other : recorder.nodes)
                if (other.name == name)
                    return spoil(stream, Status::invalid_argument,
                                 "cannot record a launch of kernel " + kernel.name +
                                     ": another launch of the "
                                     "graph is named '" +
                                     name + "' already");
        GraphNode node;
        node.name = std::move(name);
        node.kernel = keep(recorder, kernel);
        node.grid = grid;
        node.block = block;
        node.shared_bytes = shared_bytes;
        node.params.assign(params.begin(), params.end());
        recorder.nodes.push_back(std::move(node));
        return Status::ok;
    });
}

Status record_record(StreamState& stream, schema::RecordKind kind, const void* record) noexcept {
    return guarded(stream, [&] {
        if (kind != schema::RecordKind::CopyOnDevice && kind != schema::RecordKind::Fill)
            return spoil(stream, Status::unsupported,
                         std::string("cannot record ") + what_it_is(kind) +
                             ": a graph holds launches, copies on the device and fills; enqueue it before or "
                             "after the graph");
        GraphNode node;
        std::memcpy(node.record.data(), record, kSlotBytes);
        stream.recorder->nodes.push_back(std::move(node));
        return Status::ok;
    });
}

// ---- graphs

std::shared_ptr<GraphState> make_graph(const std::shared_ptr<StreamState>& stream, Recorder& recorded) {
    if (recorded.failure != Status::ok) throw Error(recorded.failure, recorded.why);
    auto graph = std::make_shared<GraphState>();
    graph->home = stream;
    graph->client = stream->keeper;
    graph->nodes = std::move(recorded.nodes);
    graph->versions.assign(graph->nodes.size(), 0);
    return graph;
}

GraphState::~GraphState() {
    for (const GraphInstance& instance : instances) client->drop_graph(instance.id);
}

GraphInstance* GraphState::find(const StreamState& stream) noexcept {
    for (GraphInstance& instance : instances)
        if (instance.stream == &stream && instance.stream_id == stream.id) return &instance;
    return nullptr;
}

std::shared_ptr<PendingInstance> GraphState::prepare(std::shared_ptr<StreamState> stream) {
    if (stream->client != client.get())
        throw Error(Status::invalid_argument,
                    "cannot launch a graph: it was recorded on a stream of another client; record it anew");
    client->require_life("cannot make a graph");
    client->sweep();
    auto pending = std::make_shared<PendingInstance>();
    pending->description = describe(*this, pending->slots);
    pending->made.stream = stream.get();
    pending->made.stream_id = stream->id;
    pending->made.sent = versions;
    pending->made.version = version;
    pending->stream = std::move(stream);
    instances.reserve(instances.size() + 1);
    return pending;
}

void PendingInstance::ask() {
    const int fds[] = {description.get()};
    const Reply reply = stream->client->connection->ask(
        {schema::Request::MakeGraph, schema::Answer::GraphMade, 0, "cannot make a graph", fds},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateMakeGraph(builder, stream->id, slots);
        });
    made.id = reply.view().answer_as_GraphMade()->graph();
}

PendingInstance::~PendingInstance() {
    if (made.id != 0) stream->client->drop_graph(made.id);
}

GraphInstance& GraphState::adopt(PendingInstance& pending) {
    instances.push_back(pending.made);
    pending.made.id = 0;
    return instances.back();
}

Status update_node(GraphState& graph, std::size_t i, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                   std::span<const std::byte> params) noexcept {
    StreamState& home = *graph.home;
    return guarded(home, [&] {
        if (i >= graph.nodes.size() || graph.nodes[i].kernel == nullptr)
            return refuse(home, Status::invalid_argument,
                          "cannot update node " + std::to_string(i) + " of a graph of " +
                              std::to_string(graph.nodes.size()) + " nodes: it is no launch");
        GraphNode& node = graph.nodes[i];
        if (!launchable(*node.kernel, grid, block, shared_bytes))
            return refuse_launch(home, *node.kernel, grid, block, shared_bytes);
        if (params.size() != node.params.size())
            return refuse(home, Status::invalid_argument,
                          "cannot update a launch of kernel " + node.kernel->name + ": it takes " +
                              std::to_string(node.params.size()) + " bytes of parameters, but " +
                              std::to_string(params.size()) + " were given");
        std::copy(params.begin(), params.end(), node.params.begin());
        node.grid = grid;
        node.block = block;
        node.shared_bytes = shared_bytes;
        graph.versions[i] = ++graph.version;
        return Status::ok;
    });
}

std::uint32_t next_slots(const GraphState& graph, GraphInstance& instance) noexcept {
    const std::size_t i = next_stale(graph, instance);
    return i == graph.nodes.size() ? 1 : update_slots(graph.nodes[i].params.size());
}

Status enqueue_next(GraphState& graph, GraphInstance& instance, StreamState& stream,
                    bool& launched) noexcept {
    launched = false;
    if (stream.recorder != nullptr) return record_record(stream, schema::RecordKind::GraphLaunch, nullptr);
    const std::size_t i = next_stale(graph, instance);
    const bool update = i != graph.nodes.size();
    const std::uint32_t slots = update ? update_slots(graph.nodes[i].params.size()) : 1;
    if (const Status status = reserve(stream, slots); status != Status::ok) return status;
    if (update) {
        publish_update(stream, instance.id, static_cast<std::uint32_t>(i), graph.nodes[i]);
        instance.sent[i] = graph.versions[i];
        return Status::ok;
    }
    instance.version = graph.version;
    schema::GraphLaunchRecord record{};
    record.mutate_kind(schema::RecordKind::GraphLaunch);
    record.mutate_slots(1);
    record.mutate_graph(instance.id);
    publish_record(stream, record);
    launched = true;
    return Status::ok;
}

}  // namespace detail

using detail::Access;

// ---- the public handles

Status Stream::begin_graph() noexcept {
    if (!state_) return Status::closed;
    return detail::begin_recording(*Access::state(*this));
}

Graph Stream::end_graph() {
    if (!state_) throw Error(Status::closed, "cannot make a graph: this Stream is empty");
    const std::unique_ptr<detail::Recorder> recorded = detail::end_recording(*Access::state(*this));
    if (recorded == nullptr)
        throw Error(Status::invalid_argument,
                    "cannot make a graph: this stream records none; call begin_graph() first");
    Graph graph;
    graph.state_ = detail::make_graph(Access::share(*this), *recorded);
    const auto pending = graph.state_->prepare(Access::share(*this));
    pending->ask();
    graph.state_->adopt(*pending);
    return graph;
}

void Stream::abandon_graph() noexcept {
    if (state_) detail::end_recording(*Access::state(*this));
}

void Stream::name_next(std::string_view name) noexcept {
    if (!state_) return;
    detail::StreamState& stream = *Access::state(*this);
    if (stream.recorder == nullptr) return;
    try {
        stream.recorder->next_name = name;
    } catch (...) {  // no memory: the recording says so
        stream.recorder->failure = Status::out_of_memory;
    }
}

std::size_t Graph::size() const noexcept {
    return state_ ? state_->nodes.size() : 0;
}

const std::string& Graph::name(std::size_t node) const {
    if (node >= size())
        throw Error(Status::not_found,
                    "a graph of " + std::to_string(size()) + " nodes has no node " + std::to_string(node));
    return state_->nodes[node].name;
}

std::size_t Graph::node(std::string_view name) const {
    if (!state_) throw Error(Status::closed, "this Graph is empty; make one with Stream::end_graph()");
    const std::size_t found = find(name);
    if (found != state_->nodes.size()) return found;
    std::string names;
    for (const detail::GraphNode& node : state_->nodes)
        if (!node.name.empty()) names += (names.empty() ? "" : ", ") + node.name;
    throw Error(Status::not_found, "the graph has no launch named '" + std::string(name) + "'" +
                                       (names.empty() ? "; it has no names at all" : "; it has " + names));
}

std::size_t Graph::find(std::string_view name) const noexcept {
    if (!state_) return 0;
    std::size_t i = 0;
    while (i < state_->nodes.size() && (name.empty() || state_->nodes[i].name != name)) ++i;
    return i;
}

Status Graph::update_args(std::size_t node, const detail::ArgShape& args, int empty_buffer,
                          const std::uint64_t* params) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& home = *state_->home;
    if (node >= state_->nodes.size() || state_->nodes[node].kernel == nullptr)
        return detail::update_node(*state_, node, {}, {}, 0, {});  // says why not
    const detail::GraphNode& of = state_->nodes[node];
    if (const Status status = detail::check_launch_args(home, *of.kernel, args, empty_buffer);
        status != Status::ok)
        return status;
    return detail::update_node(*state_, node, of.grid, of.block, of.shared_bytes,
                               {reinterpret_cast<const std::byte*>(params), of.params.size()});
}

Status Graph::update_packed(std::size_t node, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                            std::span<const std::byte> params) noexcept {
    if (!state_) return Status::closed;
    return detail::update_node(*state_, node, grid, block, shared_bytes, params);
}

Status Graph::reshape(std::size_t node, Dim3 grid, Dim3 block, std::uint32_t shared_bytes) noexcept {
    if (!state_) return Status::closed;
    if (node >= state_->nodes.size()) return detail::update_node(*state_, node, grid, block, 0, {});
    return detail::guarded(*state_->home, [&] {
        const std::vector<std::byte> params = state_->nodes[node].params;
        return detail::update_node(*state_, node, grid, block, shared_bytes, params);
    });
}

Status Graph::launch(const Stream& stream) noexcept {
    if (!state_ || !stream) return Status::closed;
    return launch_on(Access::share(stream));
}

Status Graph::launch() noexcept {
    return state_ ? launch_on(state_->home) : Status::closed;
}

Status Graph::launch_on(const std::shared_ptr<detail::StreamState>& on) noexcept {
    detail::StreamState& stream = *on;
    detail::GraphInstance* instance = state_->find(stream);
    if (instance == nullptr && stream.recorder == nullptr) {
        const Status status = detail::guarded(stream, [&] {
            const auto pending = state_->prepare(on);
            pending->ask();
            instance = &state_->adopt(*pending);
            return Status::ok;
        });
        if (status != Status::ok) return status;
    }
    if (stream.recorder != nullptr)
        return detail::record_record(stream, schema::RecordKind::GraphLaunch, nullptr);
    for (bool launched = false; !launched;) {
        Status status = detail::enqueue_next(*state_, *instance, stream, launched);
        if (status == Status::ring_full)
            status = detail::wait_completed(
                stream, detail::position_with_room(stream, detail::next_slots(*state_, *instance)));
        if (status != Status::ok) {
            if (status == Status::record_too_long) detail::remember_error(stream, status);
            return status;
        }
    }
    return Status::ok;
}

std::string Graph::last_error() const {
    return state_ ? detail::remembered_error(*state_->home) : "this Graph is empty";
}

}  // namespace ringlaunch
