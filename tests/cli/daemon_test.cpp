// The daemon as a whole: a client that speaks the raw protocol on one side, the command line on the other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "schema/id_text.hpp"
#include "schema/status.hpp"
#include "tests/cli/daemon_process.hpp"
#include "tests/cli/raw_client.hpp"

namespace ringlaunch::test {
namespace {

using testing::HasSubstr;

Status status_of(const Received& received) {
    return static_cast<Status>(received->status());
}

std::map<std::string, std::uint64_t> load_kernels(RawClient& client) {
    std::map<std::string, std::uint64_t> kernels;
    for (auto& [name, id] : client.load(TEST_KERNELS_PATH)) kernels[name] = id;
    return kernels;
}

TEST(Daemon, LaunchesWhatAClientEnqueuesAndTheResultIsRight) {
    DaemonProcess daemon({"--driver", "host"});
    RawClient client(daemon.socket());
    const Received welcome = client.hello();
    ASSERT_EQ(status_of(welcome), Status::ok) << welcome.error();
    EXPECT_EQ(welcome->answer_as_Welcome()->daemon_pid(), daemon.pid());
    EXPECT_EQ(welcome->answer_as_Welcome()->driver(), schema::DriverKind::Host);

    const auto kernels = load_kernels(client);
    RawStream stream = client.open_stream();
    constexpr int kCount = 1000;
    constexpr std::uint64_t kBytes = kCount * sizeof(float);
    const std::uint64_t x = client.allocate(kBytes).second, y = client.allocate(kBytes).second,
                        z = client.allocate(kBytes).second;
    const auto staging = client.add_staging(3 * kBytes);
    auto* values = staging.bytes.as<float>();
    for (int i = 0; i < kCount; ++i) {
        values[i] = static_cast<float>(i);
        values[kCount + i] = static_cast<float>(2 * i);
    }
    client.copy(stream, schema::RecordKind::CopyToDevice, x, staging.id, 0, kBytes);
    client.copy(stream, schema::RecordKind::CopyToDevice, y, staging.id, kBytes, kBytes);
    // Five parameters: the head slot and a continuation.
    client.launch(stream, kernels.at("add"), 4, 256, Params().add(x).add(y).add(z).add(0.5f).add(kCount));
    for (int i = 0; i < 10; ++i)
        client.launch(stream, kernels.at("scale"), 4, 256, Params().add(z).add(2.0f).add(kCount));
    const std::uint64_t end =
        client.copy(stream, schema::RecordKind::CopyToHost, z, staging.id, 2 * kBytes, kBytes);
    ASSERT_TRUE(client.wait_completed(stream, end)) << stream.page().error_text;
    for (int i = 0; i < kCount; ++i)
        ASSERT_EQ(values[2 * kCount + i], static_cast<float>(2 * i) * 1024.0f) << i;

    // What the operator sees of it. The last copy is counted behind its hand-over to the driver, so maybe
    // after it completed.
    RawClient::wait_until([&] { return stream.page().counters.copied_bytes.load() == 3 * kBytes; });
    const auto stats = daemon.run({"stats", "--json"}).json();
    ASSERT_EQ(stats["streams"].size(), 1u);
    const auto& seen = stats["streams"][0];
    EXPECT_EQ(seen["stream"], id_text(stream.id));
    EXPECT_EQ(seen["session"], id_text(client.session));
    EXPECT_EQ(seen["name"], "raw");
    EXPECT_EQ(seen["state"], "running");
    EXPECT_EQ(seen["counters"]["launches"], 11);
    EXPECT_EQ(seen["counters"]["copies"], 3);
    EXPECT_EQ(seen["counters"]["copied_bytes"], 3 * kBytes);
    EXPECT_EQ(seen["positions"]["published"], end);
    EXPECT_EQ(seen["positions"]["completed"], end);
    EXPECT_EQ(seen["rates"]["launches_per_s"], 0);
    const auto modules = daemon.run({"kernels", "--json"}).json()["modules"];
    ASSERT_EQ(modules.size(), 1u);
    EXPECT_EQ(modules[0]["users"], 1);
    EXPECT_EQ(modules[0]["kernels"].size(), 3u);
    EXPECT_THAT(daemon.run({"kernels"}).text, HasSubstr("add(pointer, pointer, pointer, float32, int32)"));
    EXPECT_EQ(modules[0]["kernels"][0]["stack_bytes"], 0);
    EXPECT_THAT(daemon.run({"kernels"}).text, Not(HasSubstr("stack")));
    std::uint64_t deep = 0;
    client.load(TEST_KERNELS_PATH, &deep, 8192);
    EXPECT_THAT(daemon.run({"kernels"}).text, HasSubstr("[stack=8192]"));
    EXPECT_EQ(daemon.run({"kernels", "--json"}).json()["modules"][1]["kernels"][0]["stack_bytes"], 8192);
    const auto sessions = daemon.run({"sessions", "--json"}).json()["sessions"];
    ASSERT_EQ(sessions.size(), 1u);
    EXPECT_EQ(sessions[0]["pid"], ::getpid());
    EXPECT_EQ(sessions[0]["uid"], ::getuid());
    EXPECT_EQ(sessions[0]["program"], "raw_client");
    EXPECT_EQ(sessions[0]["buffers"], 3);
    const auto status = daemon.run({"status", "--json"}).json();
    EXPECT_EQ(status["pid"], daemon.pid());
    EXPECT_EQ(status["driver"], "host");
    EXPECT_EQ(status["sessions"], 1);
    EXPECT_EQ(status["streams"], 1);
    ASSERT_EQ(status["executors"].size(), 1u);
    EXPECT_EQ(status["executors"][0]["restarts"], 0);
    for (const char* command : {"status", "stats", "sessions", "kernels"}) {
        const Output text = daemon.run({command});
        EXPECT_EQ(text.exit_code, 0) << text.text;
        EXPECT_THAT(text.text, Not(HasSubstr("\x1b")));
    }
}

TEST(Daemon, ABadRecordStopsItsStreamAloneAndTheOperatorSeesWhy) {
    DaemonProcess daemon({"--driver", "null"});
    RawClient client(daemon.socket());
    client.hello();
    const auto kernels = load_kernels(client);
    RawStream bad = client.open_stream(), good = client.open_stream();
    client.launch(bad, 0xdead, 1, 1, Params().add(std::uint64_t{0}));
    RawClient::wait_until([&] { return bad.state() == schema::StreamState::Stopped; });
    EXPECT_EQ(static_cast<Status>(bad.page().error_status), Status::bad_kernel);
    const std::uint64_t end = client.launch(good, kernels.at("crash"), 1, 1, Params().add(std::uint64_t{0}));
    EXPECT_TRUE(client.wait_completed(good, end));

    const auto streams = daemon.run({"stats", "--json", "--over", "0"}).json()["streams"];
    ASSERT_EQ(streams.size(), 2u);
    EXPECT_EQ(streams[0]["state"], "stopped");
    EXPECT_EQ(streams[0]["error"]["name"], "bad_kernel");
    EXPECT_NE(streams[0]["error"]["text"], "");
    EXPECT_EQ(streams[1]["state"], "running");
    EXPECT_EQ(streams[1]["error"], nullptr);
    EXPECT_THAT(daemon.run({"stats"}).text, HasSubstr("bad_kernel"));
}

TEST(Daemon, AFaultingKernelCostsItsClientAnErrorAndItsNeighbourNothing) {
    DaemonProcess daemon({"--driver", "host"});
    RawClient culprit(daemon.socket()), neighbour(daemon.socket());
    culprit.hello();
    neighbour.hello();
    const auto kernels = load_kernels(culprit), others = load_kernels(neighbour);
    RawStream bad = culprit.open_stream(), good = neighbour.open_stream();
    constexpr int kCount = 64;
    const std::uint64_t x = neighbour.allocate(kCount * sizeof(float)).second;
    const auto staging = neighbour.add_staging(kCount * sizeof(float));
    for (int i = 0; i < kCount; ++i) staging.bytes.as<float>()[i] = static_cast<float>(i);
    std::uint64_t end =
        neighbour.copy(good, schema::RecordKind::CopyToDevice, x, staging.id, 0, kCount * sizeof(float));
    ASSERT_TRUE(neighbour.wait_completed(good, end));

    const std::uint64_t position = bad.producer.position();
    culprit.launch(bad, kernels.at("crash"), 1, 1, Params().add(std::uint64_t{64}));
    Received notice = culprit.notice();
    ASSERT_NE(notice->answer_as_StreamEpoch(), nullptr);
    const schema::StreamEpoch& epoch = *notice->answer_as_StreamEpoch();
    EXPECT_EQ(epoch.stream(), bad.id);
    EXPECT_EQ(epoch.epoch(), 2u);
    EXPECT_EQ(epoch.state(), schema::StreamState::Stopped);
    EXPECT_EQ(static_cast<Status>(epoch.status()), Status::kernel_faulted);
    EXPECT_EQ(epoch.completed(), position);
    EXPECT_THAT(epoch.error()->str(), HasSubstr("crash"));

    notice = neighbour.notice();
    ASSERT_NE(notice->answer_as_StreamEpoch(), nullptr);
    EXPECT_EQ(notice->answer_as_StreamEpoch()->state(), schema::StreamState::Running);
    ASSERT_EQ(notice.message.fds.size(), 1u);
    good.status =
        Mapping(notice.message.fds[0], sizeof(StatusPage), Mapping::Access::read_only, "the new page");
    neighbour.launch(good, others.at("scale"), 1, kCount, Params().add(x).add(3.0f).add(kCount));
    end = neighbour.copy(good, schema::RecordKind::CopyToHost, x, staging.id, 0, kCount * sizeof(float));
    ASSERT_TRUE(neighbour.wait_completed(good, end)) << good.page().error_text;
    for (int i = 0; i < kCount; ++i) ASSERT_EQ(staging.bytes.as<float>()[i], static_cast<float>(3 * i));

    const auto status = daemon.run({"status", "--json"}).json();
    ASSERT_EQ(status["executors"].size(), 1u);
    EXPECT_EQ(status["executors"][0]["epoch"], 2);
    EXPECT_EQ(status["executors"][0]["restarts"], 1);
    EXPECT_NE(status["executors"][0]["last_death"], "");
    const auto sessions = daemon.run({"sessions", "--json"}).json()["sessions"];
    ASSERT_EQ(sessions.size(), 2u);
    EXPECT_EQ(sessions[0]["deaths_caused"], 1);
    EXPECT_EQ(sessions[1]["deaths_caused"], 0);
    // The counters went on from page to page.
    const auto stats = daemon.run({"stats", "--json", "--over", "0"}).json();
    for (const auto& stream : stats["streams"])
        EXPECT_EQ(stream["counters"]["copies"], stream["stream"] == id_text(good.id) ? 2 : 0);
}

TEST(Daemon, AnObserverHasNoSession) {
    DaemonProcess daemon({"--driver", "null"});
    RawClient observer(daemon.socket());
    const Received welcome = observer.hello(true);
    ASSERT_EQ(status_of(welcome), Status::ok) << welcome.error();
    EXPECT_EQ(welcome->answer_as_Welcome()->session(), 0u);
    EXPECT_TRUE(welcome.message.fds.empty());
    EXPECT_EQ(daemon.run({"sessions", "--json"}).json()["sessions"].size(), 0u);
    const Received refused =
        observer.ask(schema::Request::AllocBuffer, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, 64).Union();
        });
    EXPECT_NE(status_of(refused), Status::ok);
}

TEST(Daemon, AClientOfAnotherVersionIsToldBothAndHungUpOn) {
    DaemonProcess daemon({"--driver", "null"});
    RawClient client(daemon.socket());
    const Received answer = client.hello(false, kProtocolVersion + 41);
    EXPECT_EQ(status_of(answer), Status::version_mismatch);
    EXPECT_THAT(answer.error(), HasSubstr(std::to_string(kProtocolVersion + 41)));
    EXPECT_THAT(answer.error(), HasSubstr(std::to_string(kProtocolVersion)));
    EXPECT_TRUE(client.hung_up());
}

TEST(Daemon, ASecondDaemonOnTheSameSocketLeavesAtOnce) {
    DaemonProcess daemon({"--driver", "null"});
    const Output second = daemon.run({"serve", "--driver", "null"});
    EXPECT_EQ(second.exit_code, 4);
    EXPECT_THAT(second.text, HasSubstr("pid " + std::to_string(daemon.pid())));
    EXPECT_EQ(daemon.run({"status"}).exit_code, 0);
}

TEST(Daemon, StopEndsItAndItsClientsLearnOfIt) {
    DaemonProcess daemon({"--driver", "host"});
    RawClient client(daemon.socket());
    client.hello();
    const RawStream stream = client.open_stream();
    const Output stop = daemon.run({"stop", "--drain", "1000"});
    EXPECT_EQ(stop.exit_code, 0) << stop.text;
    EXPECT_THAT(stop.text, HasSubstr("Stopped"));
    EXPECT_EQ(daemon.wait_for_end(), 0) << daemon.log();
    EXPECT_TRUE(client.hung_up());
    EXPECT_FALSE(std::filesystem::exists(daemon.socket()));
    EXPECT_EQ(daemon.run({"stop"}).exit_code, 3);
}

TEST(Daemon, SigtermEndsItInOrder) {
    DaemonProcess daemon({"--driver", "host"});
    RawClient client(daemon.socket());
    client.hello();
    ::kill(daemon.pid(), SIGTERM);
    EXPECT_EQ(daemon.wait_for_end(), 0) << daemon.log();
    EXPECT_FALSE(std::filesystem::exists(daemon.socket()));
}

TEST(Daemon, APrivateDaemonLeavesWithItsLastClient) {
    DaemonProcess daemon({"--driver", "null", "--private", "--exit-when-idle", "1.5"});
    {
        RawClient client(daemon.socket());
        client.hello();
        std::this_thread::sleep_for(std::chrono::milliseconds(2500));
        EXPECT_EQ(daemon.run({"status"}).exit_code, 0) << "it left although it had a session";
    }
    EXPECT_EQ(daemon.wait_for_end(), 0) << daemon.log();
}

TEST(Daemon, WatchingStatsPrintsAnObjectALineWithTheRatesOfEachInterval) {
    DaemonProcess daemon({"--driver", "null"});
    RawClient client(daemon.socket());
    client.hello();
    const auto kernels = load_kernels(client);
    RawStream stream = client.open_stream(4096);
    std::atomic<bool> enough{false};
    std::uint64_t launched = 0;
    std::thread producer([&] {
        while (!enough) {
            for (int i = 0; i < 16; ++i, ++launched)
                client.launch(stream, kernels.at("crash"), 1, 1, Params().add(std::uint64_t{0}));
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    const Output watched = daemon.run({"stats", "--json", "--watch", "0.2", "--count", "4"});
    enough = true;
    producer.join();
    ASSERT_EQ(watched.exit_code, 0) << watched.text;
    std::vector<nlohmann::json> lines;
    std::stringstream text(watched.text);
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    ASSERT_EQ(lines.size(), 4u);
    EXPECT_EQ(lines[0]["streams"][0]["rates"]["launches_per_s"], nullptr);
    std::uint64_t before = lines[0]["streams"][0]["counters"]["launches"];
    for (std::size_t i = 1; i < lines.size(); ++i) {
        const auto& now = lines[i]["streams"][0];
        const std::uint64_t launches = now["counters"]["launches"];
        EXPECT_GE(launches, before);  // it may have paused for an interval, but not for all of them
        EXPECT_LE(launches, launched);
        const double counted =
            now["rates"]["launches_per_s"].get<double>() * now["rates"]["over_s"].get<double>();
        EXPECT_NEAR(counted, static_cast<double>(launches - before), 0.01);
        EXPECT_EQ(now["latency_scope"], "interval");
        before = launches;
    }
    EXPECT_GT(before, lines[0]["streams"][0]["counters"]["launches"].get<std::uint64_t>());
}

}  // namespace
}  // namespace ringlaunch::test
