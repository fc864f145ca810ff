#include "graphs.hpp"

#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/src/graph.hpp"
#include "client/src/stream_state.hpp"
#include "control_call.hpp"
#include "errors.hpp"
#include "handles.hpp"
#include "pack.hpp"
#include "stream_turn.hpp"

namespace py = pybind11;

namespace ringlaunch::python {

namespace {

constexpr const char* kRecording = "recording a graph";
constexpr const char* kLaunching = "launching a graph";

using Sides = std::array<std::uint32_t, 3>;

[[noreturn]] void raise_stream_error(const StreamObject* stream, Status status, const char* doing) {
    set_stream_error(stream, status, doing);
    throw py::error_already_set();
}

void check(bool ok) {
    if (!ok) throw py::error_already_set();
}

StreamObject* stream_of(const py::object& object) {
    if (!is_stream(object.ptr())) {
        set_named_error("ParamTypeError", "stream: expected a Stream, found " + short_repr(object.ptr()) +
                                              " (" + type_name(object.ptr()) + ")");
        throw py::error_already_set();
    }
    return reinterpret_cast<StreamObject*>(object.ptr());
}

Dim3 dim_of(const Sides& sides) {
    return {sides[0], sides[1], sides[2]};
}

// Used under the interpreter lock, but for what asks the daemon.
class GraphHandle {
  public:
    GraphHandle(std::shared_ptr<detail::GraphState> state, std::shared_ptr<Session> session)
        : state_(std::move(state)), session_(std::move(session)) {}

    std::size_t size() const { return state_->nodes.size(); }
    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const detail::GraphNode& node : state_->nodes) all.push_back(node.name);
        return all;
    }
    // Kernel, grid, block, shared; none: a copy or a fill.
    py::object launch_at(std::size_t i) const {
        const detail::GraphNode& node = state_->nodes.at(i);
        if (node.kernel == nullptr) return py::none();
        return py::make_tuple(node.kernel->name, py::make_tuple(node.grid.x, node.grid.y, node.grid.z),
                              py::make_tuple(node.block.x, node.block.y, node.block.z), node.shared_bytes);
    }

    // `args` none: as they were.
    void update(std::size_t i, const std::optional<py::tuple>& args, const std::optional<Sides>& grid,
                const std::optional<Sides>& block, const std::optional<std::uint32_t>& shared_bytes) {
        const auto state = state_;
        const detail::GraphNode& before = state->nodes.at(i);
        if (before.kernel == nullptr) {
            set_named_error("InvalidArgument", "node " + std::to_string(i) +
                                                   " of the graph is a copy or a fill: only launches are "
                                                   "updated");
            throw py::error_already_set();
        }
        if (before.fixed && (args || block || shared_bytes)) {
            set_named_error("Unsupported",
                            "launch " + std::to_string(i) + " of the graph is of the Triton kernel '" +
                                before.kernel->name +
                                "', which was compiled for the arguments that it has: only its grid "
                                "is updated; record the graph anew");
            throw py::error_already_set();
        }
        alignas(16) std::byte packed[kMaxPackedBytes + kPackedPadding];
        std::vector<ringlaunch::Buffer> buffers;
        if (args) {
            const Layout layout(before.kernel->name, before.kernel->params, before.kernel->param_bytes);
            std::vector<PyObject*> values;
            for (const py::handle arg : *args) values.push_back(arg.ptr());
            bool ran_python = false;
            check(pack(layout, session_.get(), values.data(), static_cast<Py_ssize_t>(values.size()), packed,
                       ran_python));
            check(repack_buffers(layout, session_.get(), values.data(), packed));
            buffers = buffers_among(values.data(), values.size());
        }
        // Arguments may have run code that updated it, too: from here on nothing does.
        detail::GraphNode& node = state->nodes.at(i);
        const std::vector<std::byte> as_they_were = args ? std::vector<std::byte>() : node.params;
        const std::span<const std::byte> params =
            args ? std::span<const std::byte>(packed, node.params.size()) : std::span(as_they_were);
        const Status status = detail::update_node(*state, i, grid ? dim_of(*grid) : node.grid,
                                                  block ? dim_of(*block) : node.block,
                                                  shared_bytes.value_or(node.shared_bytes), params);
        if (status != Status::ok) {
            const std::string why = detail::remembered_error(*state->home);
            set_error(status, why.empty() ? std::string(status_text(status)) : why);
            throw py::error_already_set();
        }
        if (args) node.keeps = std::move(buffers);
    }

    void launch(const py::object& on) {
        StreamObject* stream = stream_of(on);
        const auto state = state_;
        check(await_turn(stream, kLaunching));
        if (stream->session != session_) {
            set_named_error("InvalidArgument",
                            "stream: expected a stream of the graph's client, found one of another client");
            throw py::error_already_set();
        }
        if (stream->state->recorder == nullptr && state->find(*stream->state) == nullptr) make(stream);
        for (bool launched = false; !launched;) {
            detail::GraphInstance* known = state->find(*stream->state);
            const std::uint32_t slots = known == nullptr ? 1 : detail::next_slots(*state, *known);
            check(await_turn_and_room(stream, slots, kLaunching));
            if (stream->state->recorder != nullptr)
                raise_stream_error(
                    stream, detail::record_record(*stream->state, schema::RecordKind::GraphLaunch, nullptr),
                    kLaunching);
            detail::GraphInstance* instance = state->find(*stream->state);
            if (instance == nullptr) raise_stream_error(stream, Status::closed, kLaunching);
            const Status status = detail::enqueue_next(*state, *instance, *stream->state, launched);
            if (status != Status::ok && status != Status::ring_full)
                raise_stream_error(stream, status, kLaunching);
        }
    }

    // Has the daemon make what this stream launches.
    void make(StreamObject* stream) {
        const auto pending = state_->prepare(detail::Access::share(stream->stream));
        control_call([pending] {
            pending->ask();
            return true;
        });
        // Another thread may have been faster: then this one goes again.
        if (state_->find(*pending->stream) == nullptr) state_->adopt(*pending);
    }

  private:
    std::shared_ptr<detail::GraphState> state_;
    std::shared_ptr<Session> session_;
};

void stream_begin_graph(const py::object& self) {
    StreamObject* stream = stream_of(self);
    check(await_turn(stream, kRecording));
    const Status status = stream->stream.begin_graph();
    if (status != Status::ok) raise_stream_error(stream, status, kRecording);
}

GraphHandle stream_end_graph(const py::object& self) {
    StreamObject* stream = stream_of(self);
    check(await_turn(stream, kRecording));
    const std::unique_ptr<detail::Recorder> recorded = detail::end_recording(*stream->state);
    if (recorded == nullptr) {
        set_named_error("InvalidArgument", "the stream records no graph");
        throw py::error_already_set();
    }
    GraphHandle graph(detail::make_graph(detail::Access::share(stream->stream), *recorded), stream->session);
    graph.make(stream);
    return graph;
}

void stream_abandon_graph(const py::object& self) {
    stream_of(self)->stream.abandon_graph();
}

}  // namespace

void add_graphs(py::module_& module) {
    py::class_<GraphHandle>(module, "GraphHandle")
        .def("size", &GraphHandle::size)
        .def("names", &GraphHandle::names)
        .def("launch_at", &GraphHandle::launch_at, py::arg("node"))
        .def("update", &GraphHandle::update, py::arg("node"), py::arg("args"), py::arg("grid"),
             py::arg("block"), py::arg("shared"))
        .def("launch", &GraphHandle::launch, py::arg("stream"));
    module.def("stream_begin_graph", &stream_begin_graph, py::arg("stream"));
    module.def("stream_end_graph", &stream_end_graph, py::arg("stream"));
    module.def("stream_abandon_graph", &stream_abandon_graph, py::arg("stream"));
}

}  // namespace ringlaunch::python
