// Graphs in a stream: their launches, and the updates that go before them.
#include <cinttypes>
#include <cstdio>
#include <string_view>

#include "daemon/executor/dispatcher.hpp"
#include "daemon/executor/graph.hpp"
#include "schema/counters.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::executor {

// A refusal of what `copy` does with one of a graph's nodes: `record` is that node's, by itself.
void Dispatcher::refuse_node(StreamPort& stream, const RecordCopy& copy, const RecordCopy& record,
                             Status status, const Graph& graph, std::uint32_t node,
                             const char* what) noexcept {
    char detail[96];
    std::snprintf(detail, sizeof detail, "%s node %u of graph %s", what, node, id_text(graph.id()).c_str());
    describe_refusal(status, record, bounds(stream), stream.page->error_text, detail, kind_of(copy));
    stop(stream, status, copy.position, is_launch(kind_of(record)) ? kernel_id(record) : 0);
}

// The graph that a record names, as of that record. Null: there is none that can be launched, and the stream
// was stopped for it.
Graph* Dispatcher::find_graph(StreamPort& stream, const RecordCopy& copy, std::uint64_t id) noexcept {
    Graph* const graph = stream.graphs.find(id);
    if (graph != nullptr) graph->go_on_at(copy.position);
    if (graph != nullptr && graph->driver_graph() != nullptr) return graph;
    char detail[160];
    if (graph != nullptr)
        std::snprintf(detail, sizeof detail, "%s", graph->why());
    else
        std::snprintf(detail, sizeof detail, "graph %s is not of this stream, or was dropped",
                      id_text(id).c_str());
    refuse(stream, copy, Status::bad_graph, detail);
    return nullptr;
}

Dispatcher::Step Dispatcher::take_graph_launch(StreamPort& stream, const RecordCopy& copy) noexcept {
    std::uint64_t id = 0;
    if (const Status status = check_graph_launch(copy, id); status != Status::ok)
        return answer(stream, copy, status);
    Graph* const graph = find_graph(stream, copy, id);
    if (graph == nullptr) return Step::ended;
    RecordCopy record;
    std::uint32_t node = 0;
    Refusal refused;
    if (graph->has_refused(node, refused)) {
        const std::string_view why = status_text(refused.status);
        char detail[256];
        std::snprintf(detail, sizeof detail,
                      "the update of node %u of graph %s at position %" PRIu64
                      " was refused: %.*s; update that node again",
                      node, id_text(id).c_str(), refused.position, static_cast<int>(why.size()), why.data());
        refuse(stream, copy, Status::bad_graph, detail);
        return Step::ended;
    }
    if (const Status status = graph->check(bounds(stream), copy.position, node, record);
        status != Status::ok) {
        refuse_node(stream, copy, record, status, *graph, node, "launching");
        return Step::ended;
    }
    const std::uint64_t end = copy.position + copy.slots;
    stream.page->issued.store(end, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    const Status status = stream.driver_stream->launch_graph(*graph->driver_graph(), copy.position, end);
    if (status != Status::ok) {
        // relaxed: see StatusPage::issued
        stream.page->issued.store(stream.handed, std::memory_order_relaxed);
        if (status == Status::ring_full) return Step::retry;
        driver_refused(stream, copy.position, nullptr, "graph launch", status);
        return Step::ended;
    }
    stream.driver_end = end;
    stream.force_complete |= forces_completion(copy);
    note_issued(stream, copy.position, end);
    const Graph::Counts& runs = graph->counts();
    StreamCounters& counters = stream.page->counters;
    count(counters.graphs);
    count(counters.launches, runs.launches);
    count(counters.copies, runs.copies);
    count(counters.copied_bytes, runs.copied_bytes);
    count(counters.fills, runs.fills);
    // It is as long a turn as if each stood in the ring by itself.
    graph_nodes_ = static_cast<std::uint32_t>(graph->nodes()) - 1;
    return Step::taken;
}

// Nothing for the device: what the graph's next launches run is the executor's own.
Dispatcher::Step Dispatcher::take_graph_update(StreamPort& stream, const RecordCopy& copy) noexcept {
    if (const Status status = check_graph_update(copy); status != Status::ok)
        return answer(stream, copy, status);
    const auto& update = copy.as<schema::GraphUpdateRecord>();
    Graph* const graph = find_graph(stream, copy, update.graph());
    if (graph == nullptr) return Step::ended;
    RecordCopy record;
    if (!graph->record_of(update, copy, record)) {
        refuse_node(stream, copy, copy, Status::bad_node, *graph, update.node(), "of");
        return Step::ended;
    }
    driver::Launch launch;
    if (const Status status = check_launch(record, bounds(stream), launch); status != Status::ok) {
        if (graph->refuse_update(update.node(), {status, copy.position}, copy.position + copy.slots,
                                 stream.load_completed()) == Status::ring_full)
            return Step::retry;
        refuse_node(stream, copy, record, status, *graph, update.node(), "updating");
        return Step::ended;
    }
    launch.end = copy.position + copy.slots;
    const Status status = graph->update(update.node(), launch, copy.position, stream.load_completed());
    if (status == Status::ring_full) return Step::retry;
    if (status != Status::ok) {
        driver_refused(stream, copy.position, &launch, "graph update", status, graph->driver_graph()->why());
        return Step::ended;
    }
    stream.page->issued.store(launch.end, std::memory_order_relaxed);  // relaxed: see StatusPage::issued
    stream.force_complete |= forces_completion(copy);
    note_issued(stream, copy.position, launch.end);
    count(stream.page->counters.updates);
    return Step::taken;
}

}  // namespace ringlaunch::executor
