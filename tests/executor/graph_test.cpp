// Graphs in the executor: their page across restarts and kills, and their records in the dispatcher's turns.
#include "daemon/executor/graph.hpp"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <random>

#include "schema/counters.hpp"
#include "schema/error.hpp"
#include "tests/executor/harness.hpp"

namespace ringlaunch::executor::test {
namespace {

using schema::RecordKind;
using schema::StreamState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- the page
// ---------------------------------------------------------------------------------------------------------

driver::Launch launch_of(const std::vector<std::byte>& params) {
    driver::Launch launch;
    launch.kernel_id = make_id(0);
    launch.grid = {1, 1, 1};
    launch.block = {32, 1, 1};
    launch.params = params.data();
    launch.param_bytes = static_cast<std::uint32_t>(params.size());
    return launch;
}
std::vector<std::byte> word(std::uint32_t value, std::size_t bytes = 24) {
    std::vector<std::byte> params(bytes);
    std::memcpy(params.data(), &value, 4);
    return params;
}
std::uint32_t first_word(const driver::Launch& launch) {
    std::uint32_t value;
    std::memcpy(&value, launch.params, 4);
    return value;
}
std::uint32_t stored_word(const GraphPage& page, std::size_t node) {
    return first_word(std::get<driver::Launch>(page.stored()[node]));
}

// Two launches and a fill.
constexpr std::size_t kNodeBytes = (sizeof(StoredNode) + 63) / 64 * 64;
constexpr std::size_t kLaunchBytes = kNodeBytes + 64,
                      kBaseBytes = kLaunchBytes + kNodeBytes + kNodeBytes + 256;
GraphPage small_page() {
    const auto a = word(1), b = word(2, 200);
    return GraphPage(std::vector<driver::GraphNode>{launch_of(a), driver::Fill{}, launch_of(b)});
}

TEST(GraphPage, AfterARestartUpdatesBeforeWhereTheStreamGoesOnAreThereOnceAndOthersAreNot) {
    GraphPage page = small_page();
    const auto update = [&](std::uint64_t end, std::uint32_t node, std::uint32_t value) {
        const auto params = word(value, node == 0 ? 24 : 200);
        ASSERT_TRUE(page.log(end, node, launch_of(params), 0));
    };
    update(10, 0, 100);
    update(20, 2, 200);
    update(30, 0, 300);
    GraphPage next(page.fd().duplicate(), 15);
    EXPECT_EQ(next.stored().size(), 3u);
    EXPECT_EQ(stored_word(next, 0), 100u);
    EXPECT_EQ(stored_word(next, 2), 2u);
    EXPECT_TRUE(std::holds_alternative<driver::Fill>(next.stored()[1]));
    std::vector<std::uint32_t> seen;
    next.go_on_at(20, [&](std::uint32_t node, const driver::Launch& launch, Refusal) {
        EXPECT_EQ(node, 2u);
        seen.push_back(first_word(launch));
    });
    EXPECT_THAT(seen, ElementsAre(200u));
    // The ring brings the third again; the executor after this one must not see it twice.
    const GraphPage after(next.fd().duplicate(), 40);
    EXPECT_EQ(stored_word(after, 0), 100u);
    EXPECT_EQ(stored_word(after, 2), 200u);
}

TEST(GraphPage, AnUpdateThatIsTakenAgainReplacesItself) {
    GraphPage page = small_page();
    const auto is = word(1), set = word(5);
    ASSERT_TRUE(page.log(8, 0, launch_of(set), 0));
    for (int i = 0; i < 1000; ++i)
        ASSERT_TRUE(page.log(10, 0, launch_of(is), 0, {Status::bad_pointer, 8})) << i;
    ASSERT_TRUE(page.log(10, 0, launch_of(set), 0));
    const GraphPage next(page.fd().duplicate(), 10);
    EXPECT_EQ(stored_word(next, 0), 5u);
    EXPECT_EQ(next.refusal(0).status, Status::ok);
}

TEST(GraphPage, ARefusalIsThereUntilTheNodesNextUpdate) {
    GraphPage page = small_page();
    const auto is = word(1), set = word(5);
    ASSERT_TRUE(page.log(10, 0, launch_of(is), 0, {Status::bad_pointer, 8}));
    ASSERT_TRUE(page.log(20, 0, launch_of(set), 0));
    const auto refused_as_of = [&](std::uint64_t completed, std::uint64_t goes_on_at) {
        const std::size_t bytes = check_seals(page.fd(), Sealing::shared, 64, "page");
        UniqueFd copy = make_memfd("copy", bytes);
        seal(copy, Sealing::shared, "copy");
        const Mapping from(page.fd(), bytes, Mapping::Access::read_only, "a page"),
            to(copy, bytes, Mapping::Access::read_write, "copy");
        std::memcpy(to.data(), from.data(), bytes);
        GraphPage next(std::move(copy), completed);
        Refusal refusal = next.refusal(0);
        next.go_on_at(goes_on_at, [&](std::uint32_t, const driver::Launch&, Refusal now) { refusal = now; });
        return std::pair{refusal.status, refusal.position};
    };
    const std::pair none{Status::ok, std::uint64_t{0}}, refused{Status::bad_pointer, std::uint64_t{8}};
    EXPECT_EQ(refused_as_of(0, 9), none) << "the ring brings the update again";
    EXPECT_EQ(refused_as_of(0, 10), refused);
    EXPECT_EQ(refused_as_of(10, 10), refused);
    EXPECT_EQ(refused_as_of(10, 20), none);
    EXPECT_EQ(refused_as_of(20, 20), none);
}

TEST(GraphPage, WhatGoesOnBehindTheDoubtHasEveryUpdateThatWasIssued) {
    GraphPage page = small_page();
    const auto params = word(7);
    ASSERT_TRUE(page.log(10, 0, launch_of(params), 0));
    GraphPage next(page.fd().duplicate(), 3);
    EXPECT_EQ(stored_word(next, 0), 1u);
    std::uint32_t seen = 0;
    next.go_on_at(10,
                  [&](std::uint32_t, const driver::Launch& launch, Refusal) { seen = first_word(launch); });
    EXPECT_EQ(seen, 7u);
}

TEST(GraphPage, AFullLogWaitsForCompletionAndThenGoesOn) {
    GraphPage page = small_page();
    const auto params = word(9);
    std::uint64_t end = 0;
    while (page.log(end + 1, 0, launch_of(params), 0)) ++end;
    EXPECT_GE(end, 16u);
    EXPECT_FALSE(page.log(end + 1, 0, launch_of(params), 0));
    EXPECT_TRUE(page.log(end + 1, 0, launch_of(params), 1)) << "one has completed";
    EXPECT_FALSE(page.log(end + 2, 0, launch_of(params), 1));
    page.unlog();
    EXPECT_TRUE(page.log(end + 1, 0, launch_of(params), 1));
}

TEST(GraphPage, RefusesWhatIsNoPage) {
    const auto refused = [](const std::function<void(GraphPageHeader&, StoredNode&)>& change) {
        GraphPage page = small_page();
        const Mapping mapping(page.fd(), 4096, Mapping::Access::read_write, "a page");
        change(*mapping.as<GraphPageHeader>(), *mapping.as<StoredNode>(64));
        try {
            const GraphPage again(page.fd().duplicate(), 0);
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::internal_error) << error.what();
            return true;
        }
        return false;
    };
    EXPECT_FALSE(refused([](GraphPageHeader&, StoredNode&) {}));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { ++head.magic; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { ++head.version; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.nodes = 4000; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.nodes = 0; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.entries = 1u << 30; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.entry_bytes += 64; }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.folded.store(1); }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.logged.store(1000); }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode&) { head.logged.store(1); })) << "of no launch";
    EXPECT_TRUE(refused([](GraphPageHeader&, StoredNode& node) { node.param_bytes = 1u << 20; }));
    EXPECT_TRUE(refused([](GraphPageHeader&, StoredNode& node) { node.kind = 3; }));
    // What a record of it would cut off, so that something else would be checked than is launched.
    EXPECT_TRUE(refused([](GraphPageHeader&, StoredNode& node) { node.block[1] += 1u << 16; }));
    EXPECT_TRUE(refused([](GraphPageHeader&, StoredNode& node) { node.block[2] = 0; }));
    EXPECT_TRUE(refused([](GraphPageHeader&, StoredNode& node) {
        auto& fill = *reinterpret_cast<StoredNode*>(reinterpret_cast<std::byte*>(&node) + kLaunchBytes);
        EXPECT_EQ(fill.kind, static_cast<std::uint32_t>(RecordKind::Fill));
        fill.width = 0;
    }));
    EXPECT_TRUE(refused([](GraphPageHeader& head, StoredNode& node) {
        auto& logged = *reinterpret_cast<StoredNode*>(reinterpret_cast<std::byte*>(&node) + kBaseBytes);
        std::memcpy(static_cast<void*>(&logged), &node, sizeof node);
        head.logged.store(1);
        logged.block[0] += 1u << 16;
    }));
}

// A writer that is killed anywhere, again and again: whoever goes on finds, for every place from what had
// completed to what was issued, just the updates before it. Update k ends at position k and says k.
TEST(GraphPage, AWriterThatIsKilledAnywhereLosesNoUpdateAndDoublesNone) {
    struct Seen {
        std::atomic<std::uint64_t> completed{0}, issued{0};
    };
    UniqueFd shared_fd = make_memfd("seen", 4096);
    const Mapping shared(shared_fd, 4096, Mapping::Access::read_write, "seen");
    auto& seen = *new (shared.data()) Seen;
    UniqueFd page = small_page().fd().duplicate();
    std::mt19937 random(5);
    for (int round = 0; round < 60; ++round) {
        const std::uint64_t begin = seen.completed.load();
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            ::alarm(60);
            GraphPage mine(std::move(page), begin);
            mine.go_on_at(seen.issued.load(), [](std::uint32_t, const driver::Launch&, Refusal) {});
            for (std::uint64_t k = seen.issued.load() + 1;; ++k) {
                const auto params = word(static_cast<std::uint32_t>(k));
                while (!mine.log(k, 0, launch_of(params), seen.completed.load()))
                    seen.completed.store(seen.completed.load() + 40);
                seen.issued.store(k);
            }
        }
        ::usleep(static_cast<unsigned>(200 + random() % 3000));
        ASSERT_EQ(::kill(child, SIGKILL), 0);
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        const std::uint64_t a = seen.completed.load(), b = seen.issued.load();
        ASSERT_LE(a, b);
        // Looked at in a copy: going on somewhere forgets what is behind it.
        for (const std::uint64_t at : {a, a + (b - a) / 2, b}) {
            const Mapping now(page, 4096, Mapping::Access::read_only, "a page");
            const auto& head = *now.as<GraphPageHeader>();
            const std::size_t bytes = 64 + kBaseBytes + std::size_t{head.entries} * head.entry_bytes;
            UniqueFd copy = make_memfd("copy", bytes);
            seal(copy, Sealing::shared, "copy");
            const Mapping from(page, bytes, Mapping::Access::read_only, "a page"),
                to(copy, bytes, Mapping::Access::read_write, "copy");
            std::memcpy(to.data(), from.data(), bytes);
            GraphPage next(std::move(copy), a);
            std::uint64_t last = a == 0 ? 0 : stored_word(next, 0);
            EXPECT_EQ(last, a) << "as it was made, or every update that has completed";
            next.go_on_at(at, [&](std::uint32_t, const driver::Launch& launch, Refusal) {
                EXPECT_EQ(first_word(launch), last + 1);
                last = first_word(launch);
            });
            ASSERT_EQ(last, at) << "round " << round << ", " << a << " to " << b;
        }
    }
    EXPECT_GT(seen.issued.load(), 1000u);
}

// ---- in the dispatcher
// ------------------------------------------------------------------------------------------------

class Graphs : public DispatcherTest {
  protected:
    static constexpr std::uint64_t kGraph = make_id(3);

    // The records of a graph as a client describes it.
    struct Description {
        Description() : ring(std::make_unique<Slot[]>(4096)), producer(ring.get(), 4096, 0) {}
        void launch(std::uint64_t kernel, const std::vector<std::byte>& params) {
            ringlaunch::test::write_continuations(producer, params, kHeadParamBytes);
            producer.publish(ringlaunch::test::launch_record(kernel, params, 1, 32));
        }
        void fill(std::uint64_t address, std::uint64_t bytes) {
            schema::FillRecord record{};
            record.mutate_kind(RecordKind::Fill);
            record.mutate_slots(1);
            record.mutate_width(4);
            record.mutate_device(address);
            record.mutate_bytes(bytes);
            producer.publish(record);
        }
        template <class Record>
        void raw(Record record, RecordKind kind) {
            record.mutate_kind(kind);
            record.mutate_slots(1);
            producer.publish(record);
        }
        std::span<const std::byte> bytes() const {
            return {reinterpret_cast<const std::byte*>(ring.get()), producer.position() * kSlotBytes};
        }
        std::unique_ptr<Slot[]> ring;
        RingProducer<> producer;
    };

    Bounds bounds() const { return {view, memory, limits}; }
    // Of two launches of saxpy, whose last words are 1 and 2, and a fill between them.
    Description usual() {
        Description described;
        described.launch(kSaxpy, saxpy_params(base(), 0, base() + 64, 1));
        described.fill(base() + 128, 64);
        described.launch(kSaxpy, saxpy_params(base(), 0, base() + 64, 2));
        return described;
    }
    Graph& add(StreamPort& port, const Description& described, std::uint64_t id = kGraph) {
        graphs.push_back(std::make_unique<Graph>(id, described.bytes(), bounds(), driver));
        port.graphs.set(id, graphs.back().get());
        return *graphs.back();
    }
    static std::uint64_t put_launch(ClientStream& client, std::uint64_t graph = kGraph) {
        schema::GraphLaunchRecord record{};
        record.mutate_kind(RecordKind::GraphLaunch);
        record.mutate_graph(graph);
        return client.put(record);
    }
    std::uint64_t put_update(ClientStream& client, std::uint32_t node, int n,
                             const std::function<void(schema::GraphUpdateRecord&)>& change = {}) {
        const auto params = saxpy_params(base(), 0, base() + 64, n);
        schema::GraphUpdateRecord record = ringlaunch::test::update_record(kGraph, node, params, 1, 32);
        EXPECT_EQ(client.producer.reserve(record.slots(), client.page->completed), Status::ok);
        ringlaunch::test::write_continuations(client.producer, params, kUpdateHeadParamBytes);
        if (change) change(record);
        return client.producer.publish(record);
    }
    // The stream stopped there with that; it goes on after it.
    void expect_refused(ClientStream& client, StreamPort& port, Status status, const std::string& says) {
        work();
        ASSERT_EQ(client.state(), StreamState::Stopped) << says;
        EXPECT_EQ(client.error(), status) << client.text();
        EXPECT_THAT(client.text(), HasSubstr(says));
        EXPECT_THAT(client.text(), HasSubstr("position " + std::to_string(client.page->error_position)));
        const std::uint64_t at = client.page->error_position;
        dispatcher.resume(port, at + dispatcher.measure(port, at));
        work();
        ASSERT_EQ(client.state(), StreamState::Running);
    }

    const DeviceLimits limits = DeviceLimits::of(driver.device());
    std::vector<std::unique_ptr<Graph>> graphs;
};

TEST_F(Graphs, OneRecordRunsAllOfItAndUpdatesAreForWhatComesAfterThem) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    add(port, usual());
    put_launch(client);
    put_update(client, 2, 20);
    put_launch(client);
    put_update(client, 0, 10);
    put_update(client, 0, 11);
    const std::uint64_t end = put_launch(client);
    work();
    EXPECT_EQ(client.completed(), end);
    EXPECT_THAT(device(port).graphs,
                ElementsAre(ElementsAre(1u, 0u, 2u), ElementsAre(1u, 0u, 20u), ElementsAre(11u, 0u, 20u)));
    const StreamCounters& counters = client.page->counters;
    EXPECT_EQ(counters.graphs.load(), 3u);
    EXPECT_EQ(counters.updates.load(), 3u);
    EXPECT_EQ(counters.launches.load(), 6u);
    EXPECT_EQ(counters.fills.load(), 3u);
    EXPECT_EQ(counters.records.load(), 6u);
    for (std::size_t i = 0; i < device(port).operations.size(); ++i)
        EXPECT_GE(device(port).issued_seen[i], device(port).operations[i].end) << i;
}

TEST_F(Graphs, StandInOrderWithLaunchesAroundThem) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    add(port, usual());
    put_saxpy(client, 1);
    put_saxpy(client, 2);
    put_launch(client);
    put_saxpy(client, 3);
    work();
    std::vector<Operation::Kind> kinds;
    for (const Operation& operation : device(port).operations) kinds.push_back(operation.kind);
    using enum Operation::Kind;
    EXPECT_THAT(kinds, ElementsAre(launch, launch, graph, launch));
}

TEST_F(Graphs, AGraphIsAsLongATurnAsItsNodes) {
    DispatcherConfig config;
    config.max_batch = 8;
    Dispatcher small(config, driver, memory);
    ClientStream client(kSession, make_id(0));
    StreamPort port(client.setup(), view, driver, client.ring_fd, client.status_fd,
                    client.wake_fd.duplicate());
    small.add(port);
    add(port, usual());
    for (int i = 0; i < 10; ++i) put_launch(client);
    small.do_work();
    EXPECT_EQ(client.issued(), 3u) << "three graphs of three nodes";
    while (small.do_work()) {
    }
    EXPECT_EQ(client.completed(), 10u);
    small.remove(port);
}

TEST_F(Graphs, RecordsThatCannotBeAreRefusedWithTheirReason) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    add(port, usual());
    put_launch(client, make_id(9));
    expect_refused(client, port, Status::bad_graph, "graph 9 is not of this stream");
    put_launch(client, make_id(3, 2));
    expect_refused(client, port, Status::bad_graph, "is not of this stream");
    schema::GraphLaunchRecord launch{};
    launch.mutate_kind(RecordKind::GraphLaunch);
    launch.mutate_graph(kGraph);
    launch.mutate_reserved0(1);
    client.put(launch);
    expect_refused(client, port, Status::reserved_not_zero, "reserved");
    launch.mutate_reserved0(0);
    client.put(launch, 2);
    client.ring[(client.producer.position() - 1) % client.slots].stamp.store(client.producer.position() |
                                                                             kContinuation);
    expect_refused(client, port, Status::bad_slot_count, "2 slots");
    launch.mutate_flags(static_cast<schema::RecordFlag>(4));
    client.put(launch);
    expect_refused(client, port, Status::bad_flags, "flags 0x4");

    const auto update = [&](const std::function<void(schema::GraphUpdateRecord&)>& change, Status status,
                            const std::string& says) {
        put_update(client, 2, 99, change);
        expect_refused(client, port, status, says);
    };
    update([](auto& record) { record.mutate_graph(make_id(9)); }, Status::bad_graph, "graph 9");
    update([](auto& record) { record.mutate_node(1); }, Status::bad_node, "node 1 of graph 3");
    update([](auto& record) { record.mutate_node(3); }, Status::bad_node, "no such launch");
    update([](auto& record) { record.mutate_node(~0u); }, Status::bad_node, "no such launch");
    update([](auto& record) { record.mutate_param_bytes(28); }, Status::bad_param_bytes, "28 bytes");
    update([](auto& record) { record.mutate_param_bytes(5000); }, Status::bad_param_bytes, "graph update");
    update([](auto& record) { record.mutate_grid_z(11); }, Status::bad_grid, "updating node 2 of graph 3");
    update([](auto& record) { record.mutate_block_x(257); }, Status::bad_block, "257");
    update([](auto& record) { record.mutate_shared_bytes(4000); }, Status::bad_shared_bytes, "4000");
    update([](auto& record) { record.mutate_reserved1(1); }, Status::reserved_not_zero, "reserved");
    update([](auto& record) { record.mutate_reserved2(1); }, Status::reserved_not_zero, "reserved");
    update([](auto& record) { record.mutate_flags(static_cast<schema::RecordFlag>(2)); }, Status::bad_flags,
           "flags");
    update([](auto& record) { (*record.mutable_params()).Mutate(7, 0xff); }, Status::bad_pointer,
           "parameter 0 'x'");
    put_update(client, 2, 3);
    put_launch(client);
    work();
    ASSERT_EQ(device(port).graphs.size(), 1u);
    EXPECT_THAT(device(port).graphs[0], ElementsAre(1u, 0u, 3u)) << "nothing refused has changed it";
}

// Else it would run with what the program has replaced.
TEST_F(Graphs, AfterARefusedUpdateItIsNotLaunchedUntilThatNodeIsUpdatedAgain) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    Graph& graph = add(port, usual());
    const auto refused_launch = [&](const std::string& says) {
        put_launch(client);
        expect_refused(client, port, Status::bad_graph, says);
    };
    const std::uint64_t at = client.producer.position();
    put_update(client, 2, 99, [](auto& record) { (*record.mutable_params()).Mutate(7, 0xff); });
    put_launch(client);
    work();
    EXPECT_EQ(client.error(), Status::bad_pointer);
    EXPECT_THAT(client.text(), HasSubstr("graph update at position " + std::to_string(at)));
    dispatcher.resume(port, at + dispatcher.measure(port, at));
    const std::string reason = "the update of node 2 of graph 3 at position " + std::to_string(at) +
                               " was refused: " + std::string(status_text(Status::bad_pointer));
    expect_refused(client, port, Status::bad_graph, reason);
    refused_launch("graph launch at position");
    put_update(client, 0, 10);
    refused_launch(reason);

    // The next executor refuses it, too, wherever the stream has come to.
    const std::uint64_t end = client.producer.position();
    for (const std::uint64_t completed : {at, end}) {
        Graph next(kGraph, graph.page().duplicate(), completed, bounds(), driver);
        next.go_on_at(end);
        std::uint32_t node = 0;
        Refusal refusal;
        ASSERT_TRUE(next.has_refused(node, refusal)) << completed;
        EXPECT_EQ(node, 2u);
        EXPECT_EQ(refusal.status, Status::bad_pointer);
        EXPECT_EQ(refusal.position, at);
        EXPECT_THAT(static_cast<ScriptedGraph&>(*next.driver_graph()).words, ElementsAre(10u, 0u, 2u));
    }

    put_update(client, 2, 2);
    put_launch(client);
    work();
    EXPECT_EQ(client.state(), StreamState::Running) << client.text();
    EXPECT_THAT(device(port).graphs, ElementsAre(ElementsAre(10u, 0u, 2u)));

    // What the driver refuses is refused alike.
    driver.refuse_updates_with = Status::driver_failed;
    put_update(client, 0, 30);
    expect_refused(client, port, Status::driver_failed, "graph update at position");
    driver.refuse_updates_with = Status::ok;
    refused_launch("the update of node 0 of graph 3");
    put_update(client, 0, 31);
    put_launch(client);
    work();
    EXPECT_EQ(client.state(), StreamState::Running) << client.text();
    EXPECT_THAT(device(port).graphs.back(), ElementsAre(31u, 0u, 2u));
}

TEST_F(Graphs, ManyRefusedUpdatesFindRoom) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    add(port, usual());
    for (int i = 0; i < 600; ++i) {
        put_update(client, 0, 9, [](auto& record) { record.mutate_grid_z(11); });
        expect_refused(client, port, Status::bad_grid, "graph update at position");
    }
}

TEST_F(Graphs, AnotherStreamsGraphIsNone) {
    ClientStream client(kSession, make_id(0)), other(kSession, make_id(1));
    add(open(client), usual());
    open(other);
    put_launch(other);
    work();
    EXPECT_EQ(other.error(), Status::bad_graph);
}

TEST_F(Graphs, WhatGoesMeanwhileStopsTheLaunchAndAnUpdateMendsIt) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    Description described;
    const std::uint64_t second_chunk = base() + driver.device().chunk_bytes;
    described.launch(kSaxpy, saxpy_params(second_chunk, 0, base() + 64, 1));
    add(port, described);
    put_launch(client);
    work();
    ASSERT_EQ(client.state(), StreamState::Running);
    memory.device.set_owner(0, second_chunk, driver.device().chunk_bytes);
    view.changes.fetch_add(1);
    put_launch(client);
    expect_refused(client, port, Status::bad_pointer, "launching node 0 of graph 3");
    put_update(client, 0, 5);
    put_launch(client);
    work();
    EXPECT_EQ(client.state(), StreamState::Running) << client.text();
    EXPECT_EQ(device(port).graphs.size(), 2u);
    // A kernel that went stays away.
    view.kernels.erase(kSaxpy);
    view.changes.fetch_add(1);
    put_launch(client);
    expect_refused(client, port, Status::bad_kernel, "has no kernel");
    EXPECT_NE(graphs[0]->break_off("its module was unloaded"), nullptr);
    put_launch(client);
    expect_refused(client, port, Status::bad_graph, "its module was unloaded");
    put_update(client, 0, 5);
    expect_refused(client, port, Status::bad_graph, "its module was unloaded");
}

TEST_F(Graphs, ADriverWithoutRoomIsAskedAgainAndOneThatRefusesStopsTheStream) {
    driver.completes_at_once = false;
    driver.room = 1;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    add(port, usual());
    put_launch(client);
    put_update(client, 2, 20);
    put_launch(client);
    work();
    EXPECT_EQ(device(port).graphs.size(), 1u);
    EXPECT_EQ(client.state(), StreamState::Running);
    device(port).run_to(1);
    work();
    device(port).run_all();
    work();
    EXPECT_EQ(client.completed(), client.producer.position());
    EXPECT_THAT(device(port).graphs.back(), ElementsAre(1u, 0u, 20u));

    driver.refuse_updates_with = Status::driver_failed;
    put_update(client, 0, 30);
    work();
    EXPECT_EQ(client.error(), Status::driver_failed);
    EXPECT_THAT(client.text(), HasSubstr("graph update at position"));
    EXPECT_THAT(client.text(), HasSubstr("the test refuses it"));
    driver.refuse_updates_with = Status::ok;
    const std::uint64_t at = client.page->error_position;
    dispatcher.resume(port, at + dispatcher.measure(port, at));
    put_update(client, 0, 1);
    driver.refuse_with = Status::driver_failed;
    driver.refuse_at = put_launch(client) - 1;
    work();
    EXPECT_EQ(client.error(), Status::driver_failed);
    EXPECT_THAT(client.text(), HasSubstr("graph launch at position"));
    driver.refuse_with = Status::ok;
    dispatcher.resume(port, client.page->error_position);
    work();
    device(port).run_all();
    work();
    EXPECT_THAT(device(port).graphs.back(), ElementsAre(1u, 0u, 20u))
        << "the update that failed did not happen";
}

TEST_F(Graphs, ManyUpdatesInFlightWaitForCompletion) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0), 4096);
    StreamPort& port = open(client, [](StreamSetup& setup) { setup.max_in_flight = 4096; });
    add(port, usual());
    for (int i = 0; i < 1000; ++i) put_update(client, 0, 100 + i);
    put_launch(client);
    for (int i = 0; i < 10'000 && client.completed() != client.producer.position(); ++i) {
        dispatcher.do_work();
        device(port).run_all();
    }
    EXPECT_EQ(client.state(), StreamState::Running) << client.text();
    EXPECT_THAT(device(port).graphs, ElementsAre(ElementsAre(1099u, 0u, 2u)));
}

TEST_F(Graphs, ANextExecutorHasItWithTheUpdatesBeforeWhereTheStreamGoesOn) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    Graph& graph = add(port, usual());
    put_update(client, 2, 20);
    const std::uint64_t a = put_launch(client);
    work();
    device(port).run_to(a);
    work();
    ASSERT_EQ(client.completed(), a);
    const std::uint64_t updated = put_update(client, 0, 10);
    const std::uint64_t b = put_launch(client);
    work();
    ASSERT_EQ(client.issued(), b);
    const UniqueFd page = graph.page().duplicate();
    const auto next_words = [&](std::uint64_t goes_on_at) {
        // A copy of what the dead executor left, for each way to go on.
        const std::size_t bytes = check_seals(page, Sealing::shared, 64, "page");
        UniqueFd copy = make_memfd("copy", bytes);
        seal(copy, Sealing::shared, "copy");
        const Mapping from(page, bytes, Mapping::Access::read_only, "page"),
            to(copy, bytes, Mapping::Access::read_write, "copy");
        std::memcpy(to.data(), from.data(), bytes);
        Graph next(kGraph, std::move(copy), a, bounds(), driver);
        next.go_on_at(goes_on_at);
        return static_cast<ScriptedGraph&>(*next.driver_graph()).words;
    };
    EXPECT_THAT(next_words(a), ElementsAre(1u, 0u, 20u)) << "a rerun meets the update again in the ring";
    EXPECT_THAT(next_words(updated), ElementsAre(10u, 0u, 20u));
    EXPECT_THAT(next_words(b), ElementsAre(10u, 0u, 20u)) << "behind the doubt it counts as taken";

    // Where the driver does not take again what it took before, the graph is not what it should be.
    driver.refuse_updates_with = Status::driver_failed;
    Graph torn(kGraph, page.duplicate(), a, bounds(), driver);
    ASSERT_NE(torn.driver_graph(), nullptr);
    torn.go_on_at(b);
    EXPECT_EQ(torn.driver_graph(), nullptr);
    EXPECT_THAT(torn.why(), HasSubstr("refused an update"));
    driver.refuse_updates_with = Status::ok;

    // What it is made of may be gone by then: then its launches say so.
    view.kernels.erase(kSaxpy);
    const Graph dead(kGraph, page.duplicate(), a, bounds(), driver);
    EXPECT_EQ(dead.driver_graph(), nullptr);
    EXPECT_THAT(dead.why(), HasSubstr("is gone"));
}

TEST_F(Graphs, DescriptionsAreCheckedRecordByRecord) {
    const auto refused = [&](const Description& described, Status status, const std::string& says) {
        try {
            const Graph graph(kGraph, described.bytes(), bounds(), driver);
            ADD_FAILURE() << "taken, expected: " << says;
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), status) << error.what();
            EXPECT_THAT(error.what(), HasSubstr(says));
        }
    };
    refused(Description(), Status::invalid_argument, "0 slots");
    Description kernel = usual();
    kernel.launch(make_id(7), {});
    refused(kernel, Status::bad_kernel, "node 3");
    Description pointer;
    pointer.launch(kSaxpy, saxpy_params(1, 0, base(), 1));
    refused(pointer, Status::bad_pointer, "parameter 0 'x'");
    Description range;
    range.fill(base() - 64, 64);
    refused(range, Status::bad_range, "node 0");
    Description event = usual();
    event.raw(schema::EventRecord{}, RecordKind::EventRecord);
    refused(event, Status::unsupported, "no event");
    Description wait;
    wait.raw(schema::WaitRecord{}, RecordKind::EventWait);
    refused(wait, Status::unsupported, "no wait");
    Description host;
    host.raw(schema::CopyRecord{}, RecordKind::CopyToHost);
    refused(host, Status::unsupported, "no copy to host");
    Description nested;
    nested.raw(schema::GraphLaunchRecord{}, RecordKind::GraphLaunch);
    refused(nested, Status::unsupported, "no graph launch");
    Description flagged;
    schema::FillRecord fill{};
    fill.mutate_width(1);
    fill.mutate_device(base());
    fill.mutate_flags(schema::RecordFlag::ForceCompletion);
    flagged.raw(fill, RecordKind::Fill);
    refused(flagged, Status::bad_flags, "node 0");
    Description stamp = usual();
    stamp.ring[2].stamp.store(77);
    refused(stamp, Status::bad_stamp, "no record stands at slot 2");
    Description cut = usual();
    cut.ring[0].stamp.store(1);
    schema::LaunchRecord longer{};
    longer.mutate_kind(RecordKind::Launch);
    longer.mutate_slots(70);
    std::memcpy(cut.ring[0].payload, reinterpret_cast<const std::byte*>(&longer) + 8, 56);
    refused(cut, Status::bad_stamp, "node 0");
    Description many;
    for (int i = 0; i < 4000; ++i) many.fill(base(), 0);
    const Graph taken(kGraph, many.bytes(), bounds(), driver);
    EXPECT_EQ(taken.nodes(), 4000u);
    driver.no_graphs = true;
    refused(usual(), Status::out_of_memory, "no room for graphs");
}

// Descriptions of noise, and right ones with a few bytes changed: what is taken is sound, all else is an
// error.
TEST_F(Graphs, HostileDescriptions) {
    std::mt19937_64 random(11);
    int taken = 0;
    std::map<Status, int> refusals;
    for (int round = 0; round < 20'000; ++round) {
        Description described = usual();
        auto* bytes = reinterpret_cast<unsigned char*>(described.ring.get());
        const std::size_t size = described.bytes().size();
        for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes)
            bytes[random() % size] = static_cast<unsigned char>(random());
        if (round % 10 == 0)
            for (std::size_t i = 8; i < size; ++i)
                if (i % 64 >= 12) bytes[i] = static_cast<unsigned char>(random());
        try {
            const Graph graph(kGraph, described.bytes(), bounds(), driver);
            ++taken;
            EXPECT_LE(graph.nodes(), 5u);
        } catch (const Error& error) {
            ++refusals[error.status()];
            EXPECT_THAT(error.what(), HasSubstr("cannot make graph"));
        }
    }
    EXPECT_GT(taken, 0);
    EXPECT_GE(refusals.size(), 8u);
}

}  // namespace
}  // namespace ringlaunch::executor::test
