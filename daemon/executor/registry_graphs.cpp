// The graphs of streams: made of a description, had again after a restart, and dropped.
#include <unistd.h>
#include <algorithm>
#include <cstring>

#include <cerrno>

#include "daemon/executor/graph.hpp"
#include "daemon/executor/registry.hpp"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch::executor {

namespace {

// A private copy: what is checked is what is used.
std::vector<std::byte> read_all(const UniqueFd& fd, std::size_t bytes, const std::string& what) {
    check_seals(fd, Sealing::immutable, bytes, what);
    std::vector<std::byte> all(bytes);
    std::size_t done = 0;
    while (done < bytes) {
        const ssize_t got = ::pread(fd.get(), all.data() + done, bytes - done, static_cast<off_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) throw Error(Status::bad_image, what + " cannot be read whole");
        done += static_cast<std::size_t>(got);
    }
    return all;
}

}  // namespace

Registry::Stream& Registry::stream_for_graph(std::uint64_t session_id, std::uint64_t stream_id,
                                             std::uint64_t graph) {
    Stream& owner = stream(stream_id);
    if (owner.session != &session(session_id) || owner.closing)
        throw Error(Status::not_found, "stream " + id_text(stream_id) + " has no room for graph " +
                                           id_text(graph) + ": it is closing, or of another session");
    if (owner.graphs.contains(graph))
        throw Error(Status::invalid_argument, "graph " + id_text(graph) + " is there already");
    return owner;
}

void Registry::add_graph(Stream& owner, std::unique_ptr<Graph> graph) {
    Stream::HeldGraph held;
    for (const std::uint64_t kernel : graph->kernels())
        if (const auto bound = owner.session->kernel_modules.find(kernel);
            bound != owner.session->kernel_modules.end())
            held.modules.insert(bound->second);
    IdTable<Graph> table = owner.port->graphs;
    table.set(graph->id(), graph.get());
    held.graph = std::move(graph);
    owner.graphs.emplace(held.graph->id(), std::move(held));
    thread_.call([&](Dispatcher&) { owner.port->graphs.swap(table); });
}

Registry::MadeGraph Registry::make_graph(std::uint64_t session_id, std::uint64_t stream_id, std::uint64_t id,
                                         const UniqueFd& description, std::uint32_t slots) {
    Stream& owner = stream_for_graph(session_id, stream_id, id);
    if (slots == 0 || slots > kMaxGraphSlots)
        throw Error(Status::limit_reached, "cannot make graph " + id_text(id) + ": it is described by " +
                                               std::to_string(slots) + " slots, it takes 1 to " +
                                               std::to_string(kMaxGraphSlots));
    const std::vector<std::byte> records =
        read_all(description, std::size_t{slots} * kSlotBytes, "the description of graph " + id_text(id));
    const DeviceLimits limits = DeviceLimits::of(driver_.device());
    add_graph(owner,
              std::make_unique<Graph>(id, records, Bounds{owner.session->view, memory_, limits}, driver_));
    Graph& made = *owner.graphs.at(id).graph;
    return {made.nodes(), made.take_page()};
}

void Registry::restore_graph(std::uint64_t session_id, std::uint64_t stream_id, std::uint64_t id,
                             UniqueFd page) {
    Stream& owner = stream_for_graph(session_id, stream_id, id);
    const DeviceLimits limits = DeviceLimits::of(driver_.device());
    add_graph(owner, std::make_unique<Graph>(id, std::move(page), owner.port->load_completed(),
                                             Bounds{owner.session->view, memory_, limits}, driver_));
    (void)owner.graphs.at(id).graph->take_page();
}

void Registry::drop_graph(std::uint64_t session_id, std::uint64_t stream_id, std::uint64_t id,
                          Answer answer) {
    Session& in = session(session_id);
    const auto owner = streams_.find(stream_id);
    // Its stream was closed: it went with it.
    if (owner == streams_.end() || !owner->second.graphs.contains(id)) return answer(Status::ok, "");
    IdTable<Graph> table = owner->second.port->graphs;
    table.erase(id);
    thread_.call([&](Dispatcher&) { owner->second.port->graphs.swap(table); });
    // Shared, because a std::function is copied.
    auto kept = std::make_shared<std::unique_ptr<Graph>>(std::move(owner->second.graphs.at(id).graph));
    owner->second.graphs.erase(id);
    ++in.barriers;
    const std::uint64_t barrier = expect_barrier({[&in, kept] {
                                                      --in.barriers;
                                                      kept->reset();
                                                  },
                                                  std::move(answer)});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(&in.view, barrier); });
}

// The module is about to be destroyed, and nothing of it is in flight.
void Registry::break_off_graphs(std::uint64_t module) {
    std::vector<std::unique_ptr<driver::Graph>> gone;
    for (auto& [id, owner] : streams_)
        for (auto& [graph, held] : owner.graphs) {
            if (!held.modules.contains(module)) continue;
            const std::string why =
                "graph " + id_text(graph) + " can be launched no more: a module of it was unloaded";
            thread_.call([&](Dispatcher&) { gone.push_back(held.graph->break_off(why)); });
        }
}

}  // namespace ringlaunch::executor
