// Graphs of streams: an executor checks and makes them; the page that it answers with is kept here, so that
// the next one has them again as they were.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/supervisor/core.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

std::string making(std::uint32_t slots) {
    return "cannot make a graph of " + std::to_string(slots) + " slots: ";
}

}  // namespace

void Core::make_graph(Session& session, std::uint32_t request, const schema::MakeGraph& make,
                      UniqueFd description) {
    if (make.slots() == 0 || make.slots() > kMaxGraphSlots)
        throw Error(make.slots() == 0 ? Status::invalid_argument : Status::limit_reached,
                    making(make.slots()) + "a graph is described by 1 to " + std::to_string(kMaxGraphSlots) +
                        "; make several of it");
    check_seals(description, Sealing::immutable, std::uint64_t{make.slots()} * kSlotBytes,
                "the description of a graph");
    require_descriptors(session, 1, "cannot make a graph");
    request_opened(session);
    session.pending_graphs.push_back({request, make.stream(), make.slots(), std::move(description),
                                      now_ns() + options_.alloc_patience_ms * kNsPerMs});
    reclaim(session);
    pump_graphs(session);
}

void Core::pump_graphs(Session& session) {
    while (!session.pending_graphs.empty()) {
        PendingGraph& asked = session.pending_graphs.front();
        const auto& limits = options_.limits;
        const std::uint64_t bytes = std::uint64_t{asked.slots} * kSlotBytes;
        const bool too_many = session.graphs.size() >= limits.max_graphs;
        const bool fits = !too_many && session.graph_bytes + bytes <= limits.max_graph_bytes;
        // Graphs that were dropped make room: at the latest when the executor has let go of them.
        const auto leaving = [&] {
            return std::any_of(session.graphs.begin(), session.graphs.end(),
                               [](const auto& entry) { return entry.second.freeing; });
        };
        if (!fits && bytes <= limits.max_graph_bytes && leaving() && now_ns() < asked.deadline_ns)
            return schedule_reclaim();
        PendingGraph next = std::move(asked);
        session.pending_graphs.pop_front();
        try {
            if (too_many)
                throw Error(Status::limit_reached,
                            making(next.slots) + "this session has " + std::to_string(session.graphs.size()) +
                                " graphs, its limit is " + std::to_string(limits.max_graphs) +
                                " (--max-graphs); let go of one");
            if (!fits)
                throw Error(Status::limit_reached, making(next.slots) + "the graphs of this session have " +
                                                       std::to_string(session.graph_bytes) +
                                                       " bytes of records, its limit is " +
                                                       std::to_string(limits.max_graph_bytes) +
                                                       " (--max-graph-bytes); let go of one");
            make_graph_now(session, next);
        } catch (const Error& error) {
            refuse_later(session.id, next.request, error.status(), error.what());
        } catch (const std::exception& error) {
            refuse_later(session.id, next.request, Status::limit_reached, making(next.slots) + error.what());
        }
    }
}

void Core::make_graph_now(Session& session, PendingGraph& asked) {
    Stream& stream = stream_of(session, asked.stream, "make a graph of");
    if (stream.phase != Stream::Phase::open)
        throw Error(Status::not_found,
                    "cannot make a graph of stream " + id_text(stream.id) + ": it is not open yet");
    const std::uint32_t request = asked.request;
    const std::uint64_t id = session.graph_ids.take();
    Graph& graph = session.graphs[id];
    graph.stream = stream.id;
    graph.slots = asked.slots;
    graph.fd = std::move(asked.description);
    session.graph_bytes += std::uint64_t{asked.slots} * kSlotBytes;
    call(
        session, Call::OnDeath::repeat,
        [id](Call::Wire& wire, Session& in) {
            const auto at = in.graphs.find(id);
            if (at == in.graphs.end()) return false;
            wire.kind = internal::ExecutorRequest::MakeGraph;
            wire.request =
                internal::CreateMakeGraph(wire.builder, in.id, at->second.stream, id, at->second.slots)
                    .Union();
            wire.fds = {at->second.fd.get()};
            return true;
        },
        [this, id, request](Session& in, Reply& reply) {
            const auto at = in.graphs.find(id);
            if (at == in.graphs.end())
                return refuse_later(in.id, request, Status::not_found,
                                    "cannot make a graph: its stream was closed meanwhile");
            const auto* laid = reply.message == nullptr ? nullptr : reply.message->answer_as_GraphLaid();
            if (reply.status != Status::ok || laid == nullptr || reply.fds.size() != 1) {
                forget_graph(in, id);
                return refuse_later(
                    in.id, request, reply.status == Status::ok ? Status::internal_error : reply.status,
                    reply.error.empty() ? "cannot make a graph: the executor did not answer" : reply.error);
            }
            at->second.fd = std::move(reply.fds[0]);
            at->second.made = true;
            answer_later(in.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                return {schema::Answer::GraphMade,
                        schema::CreateGraphMade(builder, id, laid->nodes()).Union()};
            });
        });
}

void Core::drop_graph(Session& session, std::uint32_t request, const schema::DropGraph& drop) {
    const auto at = session.graphs.find(drop.graph());
    if (at == session.graphs.end() || !at->second.made || at->second.freeing)
        throw Error(Status::not_found,
                    "cannot drop graph " + id_text(drop.graph()) +
                        ": this session has no such graph (it was dropped, or its stream was closed)");
    at->second.freeing = true;
    session.deferred.push_back(
        {DeferredFree::Kind::graph, drop.graph(), positions_of(session, drop.after())});
    answer_done(*session.connection, request);
    reclaim(session);
    schedule_reclaim();
}

// Its streams have passed it.
void Core::let_go_of_graph(Session& session, std::uint64_t id) {
    const auto at = session.graphs.find(id);
    if (at == session.graphs.end()) return;  // it went with its stream
    at->second.made = false;                 // a restart does not make it again
    call(
        session, Call::OnDeath::settled,
        [id, stream = at->second.stream](Call::Wire& wire, Session& in) {
            wire.kind = internal::ExecutorRequest::DropGraph;
            wire.request = internal::CreateDropGraph(wire.builder, in.id, stream, id).Union();
            return true;
        },
        [this, id](Session& in, Reply& reply) {
            if (reply.status != Status::ok) return;
            forget_graph(in, id);
            pump_graphs(in);
        });
}

// No executor has it any more.
void Core::forget_graph(Session& session, std::uint64_t id) {
    const auto at = session.graphs.find(id);
    if (at == session.graphs.end()) return;
    session.graph_bytes -= std::uint64_t{at->second.slots} * kSlotBytes;
    session.graphs.erase(at);
    session.graph_ids.give_back(id);
}

void Core::forget_graphs_of(Session& session, std::uint64_t stream) {
    std::vector<std::uint64_t> gone;
    for (const auto& [id, graph] : session.graphs)
        if (graph.stream == stream) gone.push_back(id);
    for (const std::uint64_t id : gone) forget_graph(session, id);
}

// The next executor, once it has the graph's stream and before that goes on.
void Core::restore_graph(FaultDomain& domain, const Session& session, std::uint64_t id) {
    Call call;
    call.session = session.id;
    call.make = [this, session = session.id, id](Call::Wire& wire) {
        Session* found = find(session);
        if (found == nullptr) return false;
        const auto at = found->graphs.find(id);
        if (at == found->graphs.end() || !at->second.made) return false;
        wire.kind = internal::ExecutorRequest::RestoreGraph;
        wire.request = internal::CreateRestoreGraph(wire.builder, session, at->second.stream, id).Union();
        wire.fds = {at->second.fd.get()};
        return true;
    };
    // Without it, its launches are refused; nothing else needs it.
    call.done = [session = session.id, id](Reply& reply) {
        if (reply.status != Status::ok)
            spdlog::warn("graph {} of session {} is lost: {}", id_text(id), id_text(session), reply.error);
    };
    domain.restore_call(std::move(call));
}

}  // namespace ringlaunch::supervisor
