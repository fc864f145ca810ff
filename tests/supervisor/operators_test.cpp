// What operators ask of a daemon that has much: lists of many pages, cached images beyond their bound, closes
// of streams whose work does not end, and leaving while work runs.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>
#include <set>

#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {
namespace {

using flatbuffers::FlatBufferBuilder;
using schema::StreamState;

RawClient operators_of(const Daemon& daemon) {
    RawClient client(daemon.socket());
    client.hello(kProtocolVersion, true);
    return client;
}

// ---- lists of many pages

TEST(Paging, ShowsEachOfManyStreamsOnceWithItsPage) {
    const Daemon daemon({"max_streams=450"});
    SessionClient client(daemon.socket());
    std::set<std::uint64_t> opened;
    for (int i = 0; i < 450; ++i)
        opened.insert(client.open_stream(schema::OnRestart::Stop, 64, "stream " + std::to_string(i))->id);
    ASSERT_EQ(opened.size(), 450u);

    RawClient operators = operators_of(daemon);
    std::set<std::uint64_t> seen;
    std::set<std::string> names;
    int pages = 0;
    for (std::uint32_t skip = 0; skip < 450; ++pages) {
        const Answer answer = operators.ask(schema::Request::GetStats, [&](FlatBufferBuilder& builder) {
            return schema::CreateGetStats(builder, skip).Union();
        });
        ASSERT_EQ(answer.status(), Status::ok) << answer.text();
        const auto* stats = answer->answer_as_Stats();
        EXPECT_EQ(stats->total(), 450u);
        ASSERT_GT(stats->streams()->size(), 0u);
        EXPECT_LE(stats->streams()->size(), 200u);
        for (const schema::StreamStats* stream : *stats->streams()) {
            EXPECT_TRUE(seen.insert(stream->stream()).second) << stream->stream();
            names.insert(stream->name()->str());
            ASSERT_GE(stream->status_fd(), 0);
            const Mapping page(answer.message.fds.at(static_cast<std::size_t>(stream->status_fd())),
                               kStatusPageBytes, Mapping::Access::read_only, "a page");
            EXPECT_EQ(page.as<StatusPage>()->stream, stream->stream()) << "the page of another stream";
        }
        skip += stats->streams()->size();
    }
    EXPECT_EQ(pages, 3);
    EXPECT_EQ(seen, opened);
    EXPECT_EQ(names.size(), 450u);
    const Answer behind = operators.ask(schema::Request::GetStats, [](FlatBufferBuilder& builder) {
        return schema::CreateGetStats(builder, ~0u).Union();
    });
    EXPECT_EQ(behind->answer_as_Stats()->streams()->size(), 0u);
    EXPECT_EQ(behind->answer_as_Stats()->total(), 450u);
}

TEST(Paging, ShowsEachOfManySessionsOnce) {
    constexpr std::uint32_t kSessions = 450;
    const Daemon daemon({"max_sessions=450"});
    std::vector<std::unique_ptr<RawClient>> clients;
    std::set<std::uint64_t> opened;
    for (std::uint32_t i = 0; i < kSessions; ++i) {
        clients.push_back(std::make_unique<RawClient>(daemon.socket()));
        const Answer welcome = clients.back()->ask(schema::Request::Hello, [&](FlatBufferBuilder& builder) {
            const auto program = builder.CreateString(std::string(200, 'p'));
            return schema::CreateHello(builder, kHelloMagic, kProtocolVersion, program).Union();
        });
        ASSERT_EQ(welcome.status(), Status::ok) << welcome.text();
        opened.insert(welcome->answer_as_Welcome()->session());
    }
    RawClient operators = operators_of(daemon);
    std::set<std::uint64_t> seen;
    int pages = 0;
    for (std::uint32_t skip = 0; skip < kSessions; ++pages) {
        const Answer answer = operators.ask(schema::Request::GetSessions, [&](FlatBufferBuilder& builder) {
            return schema::CreateGetSessions(builder, skip).Union();
        });
        ASSERT_EQ(answer.status(), Status::ok) << answer.text();
        const auto* listed = answer->answer_as_Sessions();
        EXPECT_EQ(listed->total(), kSessions);
        ASSERT_GT(listed->sessions()->size(), 0u);
        for (const schema::SessionInfo* session : *listed->sessions())
            EXPECT_TRUE(seen.insert(session->session()).second) << session->session();
        skip += listed->sessions()->size();
    }
    EXPECT_GT(pages, 1);
    EXPECT_EQ(seen, opened);
}

// ---- images that nobody uses

class Cache : public ::testing::Test {
  protected:
    // An image of its own content for each number.
    UniqueFd image(unsigned number) {
        std::uint64_t bytes = 0;
        const UniqueFd file = image_of_file(TEST_KERNELS, bytes);
        const Mapping mapping(file, bytes, Mapping::Access::read_only, "the kernels");
        std::vector<std::byte> content(mapping.data(), mapping.data() + bytes);
        content.resize(kBytes(), static_cast<std::byte>(number));
        return make_image("kernels", content);
    }
    static std::uint64_t kBytes() {
        static const std::uint64_t bytes = [] {
            std::uint64_t own = 0;
            image_of_file(TEST_KERNELS, own);
            return own + 64;
        }();
        return bytes;
    }
    struct Loaded {
        std::uint64_t id = 0, append = 0;
        bool cached = false;
    };
    Loaded load(SessionClient& client, unsigned number) {
        const Answer answer = client.try_load(image(number), kBytes(), "image " + std::to_string(number));
        EXPECT_EQ(answer.status(), Status::ok) << answer.text();
        Loaded loaded;
        if (answer.status() != Status::ok) return loaded;
        const auto* module = answer->answer_as_ModuleLoaded();
        loaded = {module->module_id(), 0, module->cached()};
        for (const schema::KernelInfo* kernel : *module->kernels())
            if (kernel->name()->str() == "append") loaded.append = kernel->id();
        return loaded;
    }
    void unload(SessionClient& client, std::uint64_t id) {
        const Answer answer = client.ask(schema::Request::UnloadModule, [&](FlatBufferBuilder& builder) {
            return schema::CreateUnloadModule(builder, id).Union();
        });
        EXPECT_EQ(answer.status(), Status::ok) << answer.text();
    }
    void use(SessionClient& client, unsigned number) { unload(client, load(client, number).id); }
    static std::set<std::string> kept(const Daemon& daemon) {
        const Answer listed = operators_of(daemon).ask(
            schema::Request::GetKernels,
            [](FlatBufferBuilder& builder) { return schema::CreateGetKernels(builder).Union(); });
        std::set<std::string> names;
        for (const schema::LoadedModule* module : *listed->answer_as_Kernels()->modules())
            names.insert(module->name()->str());
        return names;
    }
    using Names = std::set<std::string>;
};

TEST_F(Cache, KeepsUnusedImagesUpToItsBoundTheLongestUnusedGoFirst) {
    const Daemon daemon({"driver=host", "max_cached_image_bytes=" + std::to_string(2 * kBytes())});
    SessionClient client(daemon.socket());
    use(client, 1);
    use(client, 2);
    EXPECT_EQ(kept(daemon), (Names{"image 1", "image 2"}));
    EXPECT_TRUE(load(client, 1).cached);  // and stays in use
    use(client, 3);
    EXPECT_EQ(kept(daemon), (Names{"image 1", "image 2", "image 3"})) << "one in use does not count";
    use(client, 4);
    EXPECT_EQ(kept(daemon), (Names{"image 1", "image 3", "image 4"}));
    EXPECT_FALSE(load(client, 2).cached);
}

TEST_F(Cache, ASecondUseMakesAnImageYoungAgain) {
    const Daemon daemon({"driver=host", "max_cached_image_bytes=" + std::to_string(2 * kBytes())});
    SessionClient client(daemon.socket());
    for (const unsigned number : {1u, 2u, 1u, 3u}) use(client, number);
    EXPECT_EQ(kept(daemon), (Names{"image 1", "image 3"}));
}

TEST_F(Cache, WithoutRoomAnImageGoesWithItsLastUserAndNoSooner) {
    const Daemon daemon({"driver=host", "max_cached_image_bytes=0"});
    auto one = std::make_unique<SessionClient>(daemon.socket());
    SessionClient two(daemon.socket());
    const Loaded first = load(*one, 1);
    EXPECT_FALSE(first.cached);
    const Loaded second = load(two, 1);
    EXPECT_TRUE(second.cached);
    use(two, 2);
    EXPECT_EQ(kept(daemon), Names{"image 1"});
    one.reset();  // with its session
    // What the other has still runs, though loads and unloads go on beside it.
    const auto memory = two.alloc(4096), count = two.alloc(64);
    const auto stream = two.open_stream();
    for (unsigned i = 0; i < 20; ++i) {
        use(two, 3 + i % 2);
        ASSERT_TRUE(stream->reaches(stream->launch(second.append, pack(memory.address, count.address, i))))
            << stream->status().error_text;
    }
    auto staging = two.add_staging(4096);
    ASSERT_TRUE(two.read(*stream, staging, count.address, sizeof(unsigned)));
    unsigned found = 0;
    std::memcpy(&found, staging.bytes.data(), sizeof found);
    EXPECT_EQ(found, 20u);
    EXPECT_EQ(kept(daemon), Names{"image 1"});
    unload(two, second.id);
    EXPECT_EQ(kept(daemon), Names{});
    EXPECT_FALSE(load(two, 1).cached);
    EXPECT_EQ(daemon.executors().size(), 1u);
}

TEST_F(Cache, WhatASessionLeavesBehindIsEvictedTooAndNotRestored) {
    const Daemon daemon({"driver=host", "max_cached_image_bytes=" + std::to_string(kBytes())});
    SessionClient stays(daemon.socket());
    const auto stream = stays.open_stream();
    {
        SessionClient leaves(daemon.socket());
        for (const unsigned number : {1u, 2u, 3u}) load(leaves, number);
        EXPECT_EQ(kept(daemon).size(), 3u);
    }
    EXPECT_TRUE(eventually([&] { return kept(daemon).size() == 1; }));
    const std::string name = *kept(daemon).begin();
    ::kill(daemon.executor(), SIGKILL);
    ASSERT_TRUE(stays.next_epoch(*stream));
    EXPECT_TRUE(load(stays, static_cast<unsigned>(name.back() - '0')).cached) << name;
}

// ---- work that goes on

// A session with a kernel that runs until its gate is opened.
struct Holder {
    explicit Holder(const Daemon& daemon) : client(daemon.socket()) {
        client.load_file(TEST_KERNELS);
        staging = client.add_staging(4096);
        gate = client.alloc(64);
        stream = client.open_stream();
        side = client.open_stream();
    }
    std::uint64_t hold() {
        const std::uint64_t end = stream->launch(client.kernel("hold"), pack(gate.address));
        EXPECT_TRUE(eventually([&] { return stream->issued() >= end; }));
        return end;
    }
    void open_gate() {
        const unsigned one = 1;
        std::memcpy(staging.bytes.data(), &one, sizeof one);
        EXPECT_TRUE(client.write(*side, staging, gate.address, sizeof one));
    }
    std::uint32_t send_close() {
        return client.send(schema::Request::CloseStream, [&](FlatBufferBuilder& builder) {
            return schema::CreateCloseStream(builder, stream->id).Union();
        });
    }

    SessionClient client;
    SessionClient::Staging staging;
    SessionClient::Memory gate;
    std::unique_ptr<TestStream> stream, side;
};

TEST(Close, OfAStreamWhoseKernelNeverEndsEndsTheExecutorAndIsItsSessionsDeath) {
    const Daemon daemon({"driver=host", "close_timeout_ms=300"});
    Holder holder(daemon), neighbour(daemon);
    holder.hold();
    const pid_t before = daemon.executor();
    EXPECT_EQ(holder.client.answer(holder.send_close()).status(), Status::ok);
    // Closed; and Ended from when the executor has been reaped.
    EXPECT_GE(holder.stream->state(), StreamState::Ended);
    ASSERT_TRUE(holder.client.next_epoch(*holder.side));
    const auto told = neighbour.client.next_epoch(*neighbour.stream);
    ASSERT_TRUE(told);
    EXPECT_EQ((*told)->answer_as_StreamEpoch()->state(), StreamState::Running);
    EXPECT_NE(daemon.executor(), before);

    RawClient operators = operators_of(daemon);
    const Answer listed = operators.ask(schema::Request::GetSessions, [](FlatBufferBuilder& builder) {
        return schema::CreateGetSessions(builder).Union();
    });
    for (const schema::SessionInfo* session : *listed->answer_as_Sessions()->sessions())
        EXPECT_EQ(session->deaths_caused(), session->session() == holder.client.session() ? 1u : 0u);
    const Answer status = operators.ask(schema::Request::GetStatus, [](FlatBufferBuilder& builder) {
        return schema::CreateGetStatus(builder).Union();
    });
    const std::string death = status->answer_as_DaemonStatus()->executors()->Get(0)->last_death()->str();
    EXPECT_NE(death.find("had not ended"), std::string::npos) << death;
    EXPECT_NE(death.find("300 ms"), std::string::npos) << death;

    // It is gone: nothing of it can be asked, and another is opened in its place.
    EXPECT_EQ(holder.client.answer(holder.send_close()).status(), Status::not_found);
    holder.stream = holder.client.open_stream();
    holder.open_gate();
    EXPECT_TRUE(holder.stream->reaches(holder.hold()));
}

TEST(Close, WaitsForAKernelThatEndsWithinTheBound) {
    const Daemon daemon({"driver=host", "close_timeout_ms=20000"});
    Holder holder(daemon);
    const std::uint64_t end = holder.hold();
    const pid_t before = daemon.executor();
    const std::uint32_t asked = holder.send_close();
    ASSERT_TRUE(eventually([&] { return holder.stream->state() == StreamState::Closed; }));
    EXPECT_LT(holder.stream->completed(), end);
    holder.open_gate();
    EXPECT_EQ(holder.client.answer(asked).status(), Status::ok);
    EXPECT_EQ(holder.stream->completed(), end);
    EXPECT_EQ(daemon.executor(), before);
}

TEST(Close, WhatIsGivenBackBesideWorkThatGoesOnComesBackWhenThatEnds) {
    const Daemon daemon({"driver=host", "close_timeout_ms=100", "max_staging_bytes=8192"});
    Holder holder(daemon);
    const std::uint64_t end = holder.hold();
    const auto more = holder.client.add_staging(4096);
    const Answer dropped = holder.client.ask(schema::Request::DropStaging, [&](FlatBufferBuilder& builder) {
        return schema::CreateDropStaging(builder, more.id).Union();
    });
    ASSERT_EQ(dropped.status(), Status::ok) << dropped.text();
    // Longer than the bound of a stream that closes: here it has none.
    ::usleep(300'000);
    EXPECT_LT(holder.stream->completed(), end);
    holder.open_gate();
    EXPECT_TRUE(holder.stream->reaches(end));
    EXPECT_NE(holder.client.add_staging(4096).id, 0u);  // throws where there is no room
}

Answer stop(RawClient& operators, std::uint32_t drain_ms) {
    return operators.ask(schema::Request::StopDaemon, [&](FlatBufferBuilder& builder) {
        return schema::CreateStopDaemon(builder, drain_ms).Union();
    });
}

TEST(Drain, LetsWorkThatWasEnqueuedEndAndNothingNewBegin) {
    Daemon daemon({"driver=host"});
    Holder holder(daemon);
    const std::uint64_t end = holder.hold();
    RawClient operators = operators_of(daemon);
    ASSERT_EQ(stop(operators, 20'000).status(), Status::ok);
    EXPECT_EQ(holder.client.try_open_stream().status(), Status::stopping);
    RawClient late(daemon.socket());
    if (late.connected()) {
        EXPECT_EQ(late.hello().status(), Status::stopping);
    }
    EXPECT_LT(holder.stream->completed(), end);
    holder.open_gate();
    EXPECT_EQ(daemon.wait(), 0);
    EXPECT_GE(holder.stream->completed(), end) << "it left before the work that was enqueued had ended";
    EXPECT_TRUE(holder.client.hung_up());
}

TEST(Drain, OfWorkThatDoesNotEndIsBounded) {
    Daemon daemon({"driver=host"});
    Holder holder(daemon);
    const std::uint64_t end = holder.hold();
    const pid_t executor = daemon.executor();
    RawClient operators = operators_of(daemon);
    ASSERT_EQ(stop(operators, 1'000).status(), Status::ok);
    ASSERT_EQ(stop(operators, 60'000).status(), Status::ok) << "the first word counts";
    EXPECT_EQ(daemon.wait(), 0);
    EXPECT_LT(holder.stream->completed(), end);
    EXPECT_TRUE(holder.client.hung_up());
    EXPECT_TRUE(eventually([&] { return ::kill(executor, 0) != 0; }));
}

TEST(Drain, IsSeenByOperatorsAndCutShortByThem) {
    Daemon daemon({"driver=host"});
    Holder holder(daemon);
    const std::uint64_t end = holder.hold();
    RawClient operators = operators_of(daemon);
    ASSERT_EQ(stop(operators, 1'000'000).status(), Status::ok);
    RawClient impatient(daemon.socket());
    ASSERT_EQ(impatient.hello(kProtocolVersion, true).status(), Status::ok);
    const Answer status = impatient.ask(schema::Request::GetStatus, [](FlatBufferBuilder& builder) {
        return schema::CreateGetStatus(builder).Union();
    });
    EXPECT_EQ(status->answer_as_DaemonStatus()->sessions(), 1u);
    ASSERT_EQ(stop(impatient, 0).status(), Status::ok);
    EXPECT_EQ(daemon.wait(), 0);
    EXPECT_LT(holder.stream->completed(), end);
}

}  // namespace
}  // namespace ringlaunch::test
