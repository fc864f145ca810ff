// Graphs of the C++ client against the real daemon: recording, launching, updating, refusals, restarts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schema/error.hpp"
#include "tests/client/daemon.hpp"

namespace ringlaunch::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Graphs : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        daemon_ = std::make_unique<Daemon>("host");
        client_ = daemon_->connect();
        module_ = client_.load_file(TEST_KERNELS);
        stream_ = client_.stream();
        log_ = client_.alloc(4096);
        count_ = client_.alloc(4);
        ASSERT_EQ(stream_.fill(count_, 0, 4, 0, 4), Status::ok);
    }
    Kernel kernel(const char* name) { return module_.kernel(name); }
    Status append(Stream& stream, unsigned value) {
        return stream.launch(kernel("append"), {1}, {1}, log_, count_, value);
    }
    std::vector<unsigned> logged(Stream& stream) {
        unsigned count = 0;
        EXPECT_EQ(stream.copy_to_host(&count, count_, 4), Status::ok) << stream.last_error();
        std::vector<unsigned> values(std::min(count, 1000u));
        if (count != 0) {
            EXPECT_EQ(stream.copy_to_host(values.data(), log_, values.size() * 4), Status::ok);
        }
        return values;
    }
    // A word that holds the kernel `gate` until it is opened.
    Buffer closed_gate() {
        Buffer gate = client_.alloc(4);
        Stream closer = client_.stream();  // a kill may have stopped the others
        EXPECT_EQ(closer.fill(gate, 0, 4, 0, 4), Status::ok);
        EXPECT_EQ(closer.synchronize(kPatienceNs), Status::ok);
        return gate;
    }
    void open(const Buffer& gate) {
        Stream opener = client_.stream();
        EXPECT_EQ(opener.fill(gate, 1, 4, 0, 4), Status::ok) << opener.last_error();
    }

    std::unique_ptr<Daemon> daemon_;
    Client client_;
    Module module_;
    Stream stream_;
    Buffer log_, count_;
};

TEST_F(Graphs, records_launches_and_runs_them_as_one_record) {
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    for (unsigned i = 1; i <= 3; ++i) {
        if (i == 2) stream_.name_next("second");
        ASSERT_EQ(append(stream_, i), Status::ok) << stream_.last_error();
    }
    Graph graph = stream_.end_graph();
    EXPECT_EQ(graph.size(), 3u);
    EXPECT_EQ(graph.node("second"), 1u);
    EXPECT_EQ(graph.name(1), "second");
    EXPECT_EQ(graph.name(0), "");
    EXPECT_THAT(logged(stream_), ElementsAre());
    const std::uint64_t before = stream_.status().published;
    ASSERT_EQ(graph.launch(), Status::ok) << graph.last_error();
    EXPECT_EQ(stream_.status().published, before + 1);
    ASSERT_EQ(graph.update("second", log_, count_, 20u), Status::ok) << graph.last_error();
    ASSERT_EQ(graph.update(0, log_, count_, 10u), Status::ok);
    ASSERT_EQ(graph.launch(stream_), Status::ok);
    EXPECT_THAT(logged(stream_), ElementsAre(1u, 2u, 3u, 10u, 20u, 3u));
}

TEST_F(Graphs, an_enqueue_after_the_recording_goes_into_the_ring_again) {
    ASSERT_EQ(append(stream_, 1), Status::ok);
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    ASSERT_EQ(append(stream_, 2), Status::ok);
    stream_.abandon_graph();
    for (unsigned i = 0; i < 300; ++i) ASSERT_EQ(stream_.launch(kernel("none"), {1}, {1}), Status::ok);
    ASSERT_EQ(append(stream_, 3), Status::ok);
    EXPECT_THAT(logged(stream_), ElementsAre(1u, 3u));
}

TEST_F(Graphs, refuses_what_a_graph_cannot_hold_and_throws_it_at_the_end) {
    unsigned word = 0;
    const Event event = client_.stream().record();
    const auto refused = [&](const char* says, const std::function<Status()>& act) {
        ASSERT_EQ(stream_.begin_graph(), Status::ok);
        EXPECT_EQ(append(stream_, 1), Status::ok);
        EXPECT_EQ(act(), Status::unsupported);
        EXPECT_THAT(stream_.last_error(), HasSubstr(says));
        try {
            stream_.end_graph();
            ADD_FAILURE() << says;
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::unsupported);
            EXPECT_THAT(error.what(), HasSubstr(says));
        }
    };
    refused("a copy from or to the host", [&] { return stream_.copy_to_device(log_, &word, 4); });
    refused("a copy from or to the host", [&] { return stream_.copy_to_host(&word, log_, 4); });
    refused("an event or a barrier", [&] { return stream_.barrier(); });
    refused("an event or a barrier", [&] { return stream_.record().wait(); });
    const Buffer gate = closed_gate();
    Stream gated = client_.stream();
    ASSERT_EQ(gated.launch(kernel("gate"), {1}, {1}, gate), Status::ok);
    const Event later = gated.record();
    refused("a wait for an event", [&] { return stream_.wait(later); });
    open(gate);
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    EXPECT_EQ(append(stream_, 1), Status::ok);
    EXPECT_EQ(stream_.begin_graph(), Status::invalid_argument);
    Graph graph = stream_.end_graph();
    refused("another graph", [&] { return graph.launch(); });
    EXPECT_EQ(append(stream_, 5), Status::ok);
    EXPECT_THAT(logged(stream_), ElementsAre(5u));
}

TEST_F(Graphs, mistakes_are_named) {
    EXPECT_THROW(stream_.end_graph(), Error);
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    EXPECT_THROW(stream_.end_graph(), Error) << "nothing was recorded";
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    EXPECT_EQ(stream_.launch(kernel("append"), {1}, {1}, log_, count_), Status::invalid_argument);
    ASSERT_EQ(append(stream_, 1), Status::ok);
    ASSERT_EQ(stream_.fill(log_, 7, 4, 0, 64), Status::ok);
    Graph graph = stream_.end_graph();
    EXPECT_EQ(graph.size(), 2u);
    EXPECT_EQ(graph.update(0, log_, count_), Status::invalid_argument);
    EXPECT_THAT(graph.last_error(), HasSubstr("takes 3 arguments"));
    EXPECT_EQ(graph.update(0, log_, count_, 1.5), Status::invalid_argument);
    EXPECT_EQ(graph.update(0, Buffer(), count_, 1u), Status::invalid_argument);
    EXPECT_EQ(graph.update(1, log_, count_, 1u), Status::invalid_argument);
    EXPECT_THAT(graph.last_error(), HasSubstr("is no launch"));
    EXPECT_EQ(graph.update("nobody", log_, count_, 1u), Status::invalid_argument);
    EXPECT_EQ(graph.reshape(0, {1}, {100'000}), Status::invalid_argument);
    EXPECT_EQ(graph.reshape(0, {2}, {1}), Status::ok);
    EXPECT_THROW(graph.node("nobody"), Error);
    EXPECT_EQ(Graph().launch(), Status::closed);
    EXPECT_EQ(Graph().update(0, 1u), Status::closed);
    EXPECT_EQ(graph.launch(daemon_->connect().stream()), Status::invalid_argument);
    EXPECT_EQ(graph.launch(), Status::ok);
    EXPECT_THAT(logged(stream_), ElementsAre(7u, 7u))
        << "the grid has two blocks, and the fill is behind them";
}

TEST_F(Graphs, limits_of_a_session_are_named_and_graphs_that_go_make_room) {
    const Daemon small("host", {"--max-graphs", "3", "--max-graph-bytes", "1024"});
    Client client = small.connect();
    Module module = client.load_file(TEST_KERNELS);
    Stream stream = client.stream();
    const auto make = [&](int nodes) {
        EXPECT_EQ(stream.begin_graph(), Status::ok);
        for (int i = 0; i < nodes; ++i) EXPECT_EQ(stream.launch(module.kernel("none"), {1}, {1}), Status::ok);
        return stream.end_graph();
    };
    const auto refused = [&](int nodes) -> std::string {
        try {
            make(nodes);
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::limit_reached);
            return error.what();
        }
        return "it was made";
    };
    EXPECT_THAT(refused(17), HasSubstr("--max-graph-bytes"));
    EXPECT_THAT(refused(5000), HasSubstr("at most 4096 nodes"));
    std::vector<Graph> graphs;
    for (int i = 0; i < 3; ++i) graphs.push_back(make(1));
    EXPECT_THAT(refused(1), HasSubstr("--max-graphs"));
    for (int i = 0; i < 20; ++i) {
        // In flight while it goes.
        EXPECT_EQ(stream.launch(module.kernel("nap"), {1}, {1}, 1u), Status::ok);
        EXPECT_EQ(graphs.back().launch(), Status::ok);
        graphs.pop_back();
        graphs.push_back(make(2));
    }
    // All of them at once; and where none goes, a refusal is answered at once.
    for (int i = 0; i < 20; ++i) {
        graphs.clear();
        for (int k = 0; k < 3; ++k) graphs.push_back(make(5));
        EXPECT_THAT(refused(1), HasSubstr("--max-graphs"));
    }
    // By the bytes of their records as well.
    graphs.clear();
    graphs.push_back(make(16));
    EXPECT_THAT(refused(1), HasSubstr("--max-graph-bytes"));
    graphs.clear();
    graphs.push_back(make(16));
    EXPECT_EQ(stream.synchronize(), Status::ok);
}

TEST_F(Graphs, a_graph_outlives_the_handles_of_its_stream_and_its_module) {
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    ASSERT_EQ(append(stream_, 4), Status::ok);
    Graph graph = stream_.end_graph();
    stream_ = Stream();
    module_ = Module();
    Stream other = client_.stream();
    ASSERT_EQ(graph.launch(), Status::ok);
    ASSERT_EQ(client_.synchronize(), Status::ok);
    ASSERT_EQ(graph.launch(other), Status::ok) << other.last_error();
    EXPECT_THAT(logged(other), ElementsAre(4u, 4u));
}

TEST_F(Graphs, memory_that_went_stops_the_launch_and_an_update_mends_it) {
    // A chunk of its own, so that it goes back to the daemon.
    constexpr std::size_t kLarge = std::size_t{128} << 20;
    Buffer large = client_.alloc(kLarge);
    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("store"), {1}, {1}, large, 0u, 1u), Status::ok);
    Graph graph = stream_.end_graph();
    ASSERT_EQ(graph.launch(), Status::ok);
    ASSERT_EQ(stream_.synchronize(), Status::ok);
    large = Buffer();
    ASSERT_TRUE(eventually([&] {
        client_.synchronize();
        if (graph.launch() != Status::ok) return true;
        return stream_.synchronize() != Status::ok;
    }));
    EXPECT_THAT(stream_.status().text, HasSubstr("launching node 0 of graph"));
    EXPECT_EQ(stream_.status().status, Status::bad_pointer);
    stream_.resume();
    ASSERT_EQ(graph.update(0, log_, 0u, 9u), Status::ok);
    ASSERT_EQ(graph.launch(), Status::ok);
    unsigned word = 0;
    ASSERT_EQ(stream_.copy_to_host(&word, log_, 4), Status::ok) << stream_.last_error();
    EXPECT_EQ(word, 9u);
}

TEST_F(Graphs, after_a_refused_update_it_is_not_launched_until_that_node_is_updated_again) {
    for (const bool restarted : {false, true}) {
        ASSERT_EQ(stream_.fill(count_, 0, 4, 0, 4), Status::ok);
        ASSERT_EQ(stream_.begin_graph(), Status::ok);
        ASSERT_EQ(append(stream_, 1), Status::ok);
        ASSERT_EQ(append(stream_, 2), Status::ok);
        Graph graph = stream_.end_graph();
        ASSERT_EQ(graph.launch(), Status::ok);
        ASSERT_EQ(stream_.synchronize(), Status::ok);
        const struct {
            std::uint64_t log, count;
            unsigned value;
        } nowhere{0x123456000, 0x123456000, 3};
        const std::uint64_t at = stream_.status().published;
        ASSERT_EQ(graph.update_packed(0, {1}, {1}, 0, std::as_bytes(std::span(&nowhere, 1)).first(20)),
                  Status::ok);
        ASSERT_EQ(graph.launch(), Status::ok);
        EXPECT_EQ(stream_.synchronize(), Status::stream_stopped);
        EXPECT_EQ(stream_.status().status, Status::bad_pointer);
        EXPECT_EQ(stream_.status().error_position, at);
        EXPECT_THAT(stream_.status().text, HasSubstr("graph update at position " + std::to_string(at)));
        if (restarted) daemon_->kill_executor();
        const std::string reason = "at position " + std::to_string(at) +
                                   " was refused: " + std::string(status_text(Status::bad_pointer));
        const auto expect_refused = [&] {
            EXPECT_EQ(stream_.synchronize(), Status::stream_stopped);
            EXPECT_EQ(stream_.status().status, Status::bad_graph);
            EXPECT_THAT(stream_.status().text, HasSubstr("the update of node 0 of graph"));
            EXPECT_THAT(stream_.status().text, HasSubstr(reason));
        };
        stream_.resume();
        expect_refused();
        stream_.resume();
        if (restarted) daemon_->kill_executor();
        ASSERT_EQ(graph.launch(), Status::ok);
        expect_refused();
        stream_.resume();
        EXPECT_THAT(logged(stream_), ElementsAre(1u, 2u)) << "nothing ran with what was replaced";
        ASSERT_EQ(graph.update(0, log_, count_, 1u), Status::ok);
        ASSERT_EQ(graph.launch(), Status::ok);
        EXPECT_THAT(logged(stream_), ElementsAre(1u, 2u, 1u, 2u));
    }
}

TEST_F(Graphs, a_kill_loses_no_update_and_doubles_none) {
    for (const OnRestart on_restart : {OnRestart::rerun, OnRestart::stop}) {
        StreamOptions options;
        options.on_restart = on_restart;
        Stream stream = client_.stream(options);
        ASSERT_EQ(stream.fill(count_, 0, 4, 0, 4), Status::ok);
        ASSERT_EQ(stream.begin_graph(), Status::ok);
        for (unsigned i = 0; i < 3; ++i) ASSERT_EQ(append(stream, i), Status::ok);
        Graph graph = stream.end_graph();
        ASSERT_EQ(graph.update(1, log_, count_, 10u), Status::ok);
        ASSERT_EQ(graph.launch(), Status::ok);
        ASSERT_EQ(stream.synchronize(), Status::ok);
        daemon_->kill_executor();
        ASSERT_EQ(graph.launch(), Status::ok);
        EXPECT_THAT(logged(stream), ElementsAre(0u, 10u, 2u, 0u, 10u, 2u));
        // An update and a launch in doubt, behind a record that holds them.
        const Buffer gate = closed_gate();
        ASSERT_EQ(stream.launch(kernel("gate"), {1}, {1}, gate), Status::ok);
        ASSERT_EQ(graph.update(2, log_, count_, 20u), Status::ok);
        ASSERT_EQ(graph.launch(), Status::ok);
        ASSERT_TRUE(eventually([&] { return stream.status().issued == stream.status().published; }));
        daemon_->kill_executor();
        open(gate);
        if (on_restart == OnRestart::stop) {
            ASSERT_TRUE(eventually([&] { return stream.status().status != Status::ok; }));
            EXPECT_EQ(stream.status().status, Status::executor_killed);
            stream.resume();
            ASSERT_EQ(graph.launch(), Status::ok);
            // The launch in doubt is left out, what was updated before it is not.
            EXPECT_THAT(logged(stream), ElementsAre(0u, 10u, 2u, 0u, 10u, 2u, 0u, 10u, 20u));
        } else {
            ASSERT_EQ(graph.launch(), Status::ok);
            EXPECT_THAT(logged(stream), ElementsAre(0u, 10u, 2u, 0u, 10u, 2u, 0u, 10u, 20u, 0u, 10u, 20u));
        }
    }
}

TEST_F(Graphs, a_fault_within_names_the_record_and_the_kernel_and_others_go_on) {
    Client peer = daemon_->connect();
    Module peer_module = peer.load_file(TEST_KERNELS);
    Stream peer_stream = peer.stream();
    Buffer peer_word = peer.alloc(4);
    ASSERT_EQ(peer_stream.begin_graph(), Status::ok);
    ASSERT_EQ(peer_stream.launch(peer_module.kernel("store"), {1}, {1}, peer_word, 0u, 1u), Status::ok);
    Graph peer_graph = peer_stream.end_graph();
    ASSERT_EQ(peer_graph.update(0, peer_word, 0u, 77u), Status::ok);
    ASSERT_EQ(peer_graph.launch(), Status::ok);
    ASSERT_EQ(peer_stream.synchronize(), Status::ok);

    ASSERT_EQ(stream_.begin_graph(), Status::ok);
    ASSERT_EQ(append(stream_, 1), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("crash"), {1}, {1}, nullptr), Status::ok) << stream_.last_error();
    Graph graph = stream_.end_graph();
    const std::uint64_t at = stream_.status().published;
    ASSERT_EQ(graph.launch(), Status::ok);
    EXPECT_EQ(stream_.synchronize(), Status::stream_stopped);
    const StreamStatus status = stream_.status();
    EXPECT_EQ(status.status, Status::kernel_faulted) << status.text;
    EXPECT_EQ(status.error_position, at);
    EXPECT_EQ(status.error_kernel, "crash");
    EXPECT_THAT(status.text, HasSubstr("crash (launch 1 of a graph)"));

    ASSERT_EQ(peer_stream.fill(peer_word, 0, 4, 0, 4), Status::ok);
    ASSERT_EQ(peer_graph.launch(), Status::ok);
    unsigned word = 0;
    ASSERT_EQ(peer_stream.copy_to_host(&word, peer_word, 4), Status::ok) << peer_stream.last_error();
    EXPECT_EQ(word, 77u);
    stream_.resume();
    ASSERT_EQ(append(stream_, 5), Status::ok);
    EXPECT_EQ(stream_.synchronize(), Status::ok);
}

}  // namespace
}  // namespace ringlaunch::testing
