// Executors that die: from outside, of a kernel, of a module, of nobody knows whom. Host driver, real
// signals.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "schema/id_text.hpp"
#include "tests/supervisor/work.hpp"

namespace ringlaunch::test {
namespace {

using schema::OnRestart;
using schema::StreamState;

bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}
Status why(const Answer& epoch) {
    return static_cast<Status>(epoch->answer_as_StreamEpoch()->status());
}
std::string text(const Answer& epoch) {
    return epoch->answer_as_StreamEpoch()->error()->str();
}

TEST(Restart, AfterAKillEveryIdleStreamGoesOnAndEveryByteIsThere) {
    const Daemon daemon({"driver=host"});
    Work work(daemon);
    const auto stream = work.client.open_stream();
    for (unsigned i = 0; i < 50; ++i) ASSERT_TRUE(stream->reaches(work.append(*stream, 100 + i)));
    // Counted behind the hand-over to the driver, so maybe after it completed; outlives epochs.
    const auto counts = [&](std::uint64_t launches) {
        return eventually([&] { return stream->status().counters.launches.load() == launches; });
    };
    EXPECT_TRUE(counts(50));
    for (unsigned round = 0; round < 3; ++round) {
        const pid_t executor = daemon.executor();
        ASSERT_EQ(::kill(executor, SIGKILL), 0);
        const auto told = work.client.next_epoch(*stream);
        ASSERT_TRUE(told);
        EXPECT_EQ((*told)->answer_as_StreamEpoch()->state(), StreamState::Running) << text(*told);
        ASSERT_TRUE(work.client.next_epoch(*work.side));
        ASSERT_NE(daemon.executor(), executor);
        EXPECT_EQ(work.look(work.count.address), 50 + round);
        EXPECT_EQ(work.look(work.log.address + 4 * 49), 149u);
        EXPECT_TRUE(stream->reaches(work.append(*stream, 7)));
        EXPECT_TRUE(counts(51 + round));
    }
}

TEST(Restart, WhoOnlyEnqueuesLosesNoWakeUp) {
    const Daemon daemon({"driver=host"});
    Work work(daemon);
    const auto stream = work.client.open_stream();
    ASSERT_TRUE(stream->reaches(work.append(*stream, 0)));
    ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
    // Published while nobody reads, and not a word over the socket.
    for (unsigned i = 1; i <= 20; ++i) work.append(*stream, i);
    ASSERT_TRUE(eventually([&] { return stream->state() == StreamState::Ended; }));
    EXPECT_EQ(stream->status().need_wakeup.load(), kRingAlways);
    ASSERT_TRUE(work.client.next_epoch(*stream));
    EXPECT_TRUE(stream->reaches(stream->producer.position()));
    ASSERT_TRUE(work.client.next_epoch(*work.side));
    EXPECT_EQ(work.look(work.count.address), 21u);
}

TEST(Restart, AFaultStopsTheCulpritWithItsKernelAndRecord) {
    const Daemon daemon({"driver=host"});
    Work neighbour(daemon), culprit(daemon);
    const auto idle = neighbour.client.open_stream();
    ASSERT_TRUE(idle->reaches(neighbour.append(*idle, 1)));
    const auto stream = culprit.client.open_stream(OnRestart::Rerun, 256, "suicidal");
    ASSERT_TRUE(stream->reaches(culprit.append(*stream, 5)));
    const std::uint64_t at = stream->producer.position();
    culprit.crash(*stream);
    const std::uint64_t after = culprit.append(*stream, 6);

    const auto told = culprit.client.next_epoch(*stream);
    ASSERT_TRUE(told);
    EXPECT_EQ((*told)->answer_as_StreamEpoch()->state(), StreamState::Stopped);
    EXPECT_EQ(why(*told), Status::kernel_faulted);
    EXPECT_EQ((*told)->answer_as_StreamEpoch()->completed(), at);
    EXPECT_TRUE(says(text(*told), "crash")) << text(*told);
    EXPECT_TRUE(says(text(*told), "record at position " + std::to_string(at))) << text(*told);
    EXPECT_TRUE(says(text(*told), "SIGSEGV")) << text(*told);
    EXPECT_EQ(stream->state(), StreamState::Stopped);
    EXPECT_EQ(stream->status().error_position, at);
    EXPECT_EQ(stream->status().error_kernel, culprit.client.kernel("crash"));

    // The neighbour had nothing in doubt.
    const auto next = neighbour.client.next_epoch(*idle);
    ASSERT_TRUE(next);
    EXPECT_EQ((*next)->answer_as_StreamEpoch()->state(), StreamState::Running);
    EXPECT_TRUE(idle->reaches(neighbour.append(*idle, 2)));

    // The owner goes on after what was in doubt.
    const std::uint64_t b = (*told)->answer_as_StreamEpoch()->issued();
    EXPECT_EQ(culprit.client.resume(stream->id, false).status(), Status::ok);
    const std::uint64_t end = culprit.append(*stream, 9);
    EXPECT_TRUE(stream->reaches(end));
    ASSERT_TRUE(culprit.client.next_epoch(*culprit.side));
    EXPECT_EQ(culprit.look(culprit.count.address), b >= after ? 2u : 3u);
}

TEST(Restart, InDoubtStopHaltsAndResumesAtBOrAtA) {
    for (const bool rerun : {false, true}) {
        const Daemon daemon({"driver=host"});
        Work work(daemon);
        const auto stream = work.client.open_stream(OnRestart::Stop);
        ASSERT_TRUE(stream->reaches(work.append(*stream, 1)));
        const std::uint64_t a = stream->producer.position();
        const std::uint64_t b = work.hold(*stream);
        ASSERT_TRUE(eventually([&] { return stream->issued() >= b; }));
        ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
        const std::uint64_t end = work.append(*stream, 2);
        const auto told = work.client.next_epoch(*stream);
        ASSERT_TRUE(told);
        EXPECT_EQ(why(*told), Status::executor_killed);
        EXPECT_EQ((*told)->answer_as_StreamEpoch()->completed(), a);
        EXPECT_GE((*told)->answer_as_StreamEpoch()->issued(), b);
        EXPECT_EQ(stream->completed(), a);
        ASSERT_TRUE(work.client.next_epoch(*work.side));
        // Another death while it is stopped changes nothing.
        ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
        const auto again = work.client.next_epoch(*stream);
        ASSERT_TRUE(again);
        EXPECT_EQ(why(*again), Status::executor_killed);
        EXPECT_EQ(stream->completed(), a);
        ASSERT_TRUE(work.client.next_epoch(*work.side));
        EXPECT_EQ(work.client.resume(stream->id, rerun).status(), Status::ok);
        if (rerun) {
            ASSERT_TRUE(eventually([&] { return stream->issued() >= b; }));
            EXPECT_LT(stream->completed(), b);  // it holds again
            work.put(work.gate.address, 1);
        }
        EXPECT_TRUE(stream->reaches(end));
    }
}

TEST(Restart, RerunStreamsEndWithTheRightResultsUnderANeighboursFaults) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work peer(daemon);
    constexpr unsigned kCells = 64, kRounds = 6;
    const auto cells = peer.client.alloc(4 * (kCells + 1));
    // Room for all of it: this producer looks at its page only at the end.
    const auto stream = peer.client.open_stream(OnRestart::Rerun, 4096);
    Work bully(daemon);
    for (unsigned round = 0; round < kRounds; ++round) {
        auto bad = bully.client.open_stream();
        // A chain through memory: each cell is the one before plus one.
        for (unsigned i = 0; i < kCells; ++i) {
            stream->launch(peer.client.kernel("add"),
                           pack(cells.address + 4 * (i + 1), cells.address + 4 * i, 1u));
            if (i == kCells / 2) bully.crash(*bad);
        }
        ASSERT_TRUE(bully.client.next_epoch(*bad));
        bully.client.close_stream(bad->id);
    }
    std::uint64_t end = stream->producer.position();
    // Its page may change while we wait; the last one counts.
    EXPECT_TRUE(eventually([&] {
        if (stream->state() == StreamState::Ended && !peer.client.next_epoch(*stream)) return true;
        return stream->completed() >= end;
    }));
    EXPECT_EQ(stream->state(), StreamState::Running) << stream->status().error_text;
    while (peer.side->state() == StreamState::Ended) ASSERT_TRUE(peer.client.next_epoch(*peer.side));
    for (const unsigned i : {1u, kCells / 2, kCells}) EXPECT_EQ(peer.look(cells.address + 4 * i), i);
}

TEST(Restart, WithoutACulpritSuspectsAreRerunAloneUntilItIsFound) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work work(daemon);
    const auto innocent = work.client.open_stream(OnRestart::Rerun, 256, "innocent");
    const auto guilty = work.client.open_stream(OnRestart::Rerun, 256, "guilty");
    const std::uint64_t held = work.hold(*innocent);
    ASSERT_TRUE(eventually([&] { return innocent->issued() >= held; }));
    work.run(*guilty, "vanish");  // no word of who it was; both are in doubt
    // The innocent is rerun alone, and holds; it is let through from a stream that had nothing in doubt.
    ASSERT_TRUE(work.client.next_epoch(*innocent));
    ASSERT_TRUE(work.client.next_epoch(*guilty));
    ASSERT_TRUE(work.client.next_epoch(*work.side));
    work.put(work.gate.address, 1);
    Answer told;
    ASSERT_TRUE(eventually([&] {
        while (guilty->state() == StreamState::Ended) {
            auto next = work.client.next_epoch(*guilty);
            if (!next) return true;
            told = std::move(*next);
        }
        return guilty->state() == StreamState::Stopped;
    }));
    EXPECT_EQ(static_cast<Status>(guilty->status().error_status), Status::kernel_faulted)
        << guilty->status().error_text;
    EXPECT_TRUE(eventually([&] {
        if (innocent->state() == StreamState::Ended && !work.client.next_epoch(*innocent)) return true;
        return innocent->completed() >= held;
    }));
    EXPECT_EQ(innocent->state(), StreamState::Running) << innocent->status().error_text;
}

// A fault may be seen when its stream has completed and gone.
TEST(Restart, AFaultOfAStreamThatHasClosedIsNobodyElses) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work culprit(daemon), neighbour(daemon), messenger(daemon);
    const auto gone = culprit.client.open_stream();
    ASSERT_TRUE(gone->reaches(culprit.append(*gone, 1)));
    const auto stopping = neighbour.client.open_stream(OnRestart::Stop, 256, "stopping");
    const std::uint64_t held = neighbour.hold(*stopping);
    ASSERT_TRUE(eventually([&] { return stopping->issued() >= held; }));
    culprit.client.close_stream(gone->id);
    const auto by = messenger.client.open_stream(OnRestart::Stop, 256, "by");
    by->launch(messenger.client.kernel("accuse"), pack(gone->id));
    for (const auto& [work, stream] : {std::pair{&neighbour, &*stopping}, std::pair{&messenger, &*by}}) {
        const auto told = work->client.next_epoch(*stream);
        ASSERT_TRUE(told);
        EXPECT_EQ(why(*told), Status::neighbour_faulted) << text(*told);
    }
}

// Nothing runs of what a restart stopped, also once its owner has closed it; what was issued before a bad
// record does.
TEST(Restart, AStreamThatStoppedAndClosedIsNoSuspect) {
    for (int i = 0; i < 5; ++i) {
        const Daemon daemon({"driver=host", "first_delay_ms=1"});
        Work work(daemon), innocent(daemon);
        const auto stopping = innocent.client.open_stream(OnRestart::Stop, 256, "stopping");
        const std::uint64_t held = innocent.hold(*stopping);
        ASSERT_TRUE(eventually([&] { return stopping->issued() >= held; }));
        const auto crashing = work.client.open_stream();
        work.crash(*crashing);
        ASSERT_TRUE(innocent.client.next_epoch(*stopping));
        ASSERT_EQ(stopping->state(), StreamState::Stopped);
        ASSERT_TRUE(work.client.next_epoch(*crashing));
        ASSERT_TRUE(innocent.client.next_epoch(*innocent.side));
        const auto vanishing = work.client.open_stream(OnRestart::Stop, 256, "vanishing");
        const std::uint64_t at = vanishing->producer.position();
        // Its answer may come before the death, or behind it.
        innocent.client.send(schema::Request::CloseStream, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateCloseStream(builder, stopping->id).Union();
        });
        work.run(*vanishing, "vanish");
        const auto told = work.client.next_epoch(*vanishing);
        ASSERT_TRUE(told);
        EXPECT_TRUE(
            says(text(*told), "record at position " + std::to_string(at) + ", was all that was in flight"))
            << text(*told);
    }
}

TEST(Restart, WhatWasIssuedBeforeABadRecordMayBeTheCulprit) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work work(daemon), neighbour(daemon);
    const auto refused = work.client.open_stream(OnRestart::Stop, 256, "refused");
    work.hold(*refused);
    const std::uint64_t issued = work.run(*refused, "vanish");
    refused->launch(0xbad, {});
    ASSERT_TRUE(eventually([&] { return refused->state() == StreamState::Stopped; }));
    ASSERT_EQ(refused->issued(), issued);
    const auto beside = neighbour.client.open_stream(OnRestart::Stop, 256, "beside");
    const std::uint64_t held = neighbour.hold(*beside);
    ASSERT_TRUE(eventually([&] { return beside->issued() >= held; }));
    work.put(work.gate.address, 1);
    const auto told = neighbour.client.next_epoch(*beside);
    ASSERT_TRUE(told);
    EXPECT_TRUE(says(text(*told), "nobody knows who did it: also in flight: stream")) << text(*told);
}

// But not of one that never was.
TEST(Restart, AFaultOfAStreamThatNobodyHadIsNotBelieved) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work work(daemon);
    const auto by = work.client.open_stream(OnRestart::Stop, 256, "by");
    by->launch(work.client.kernel("accuse"), pack(std::uint64_t{0x7700000077}));
    const auto told = work.client.next_epoch(*by);
    ASSERT_TRUE(told);
    EXPECT_EQ(why(*told), Status::suspect) << text(*told);
}

TEST(Restart, ASuspectIsRerunOneRecordAtATimeAndThenGoesOnAsBefore) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    Work work(daemon);
    const auto stream = work.client.open_stream(OnRestart::Rerun);
    const std::uint64_t held = work.hold(*stream);
    for (unsigned i = 0; i < 20; ++i) work.append(*stream, i);
    const std::uint64_t end = stream->producer.position();
    ASSERT_TRUE(eventually([&] { return stream->issued() >= end; }));
    ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(work.client.next_epoch(*stream));
    ASSERT_TRUE(work.client.next_epoch(*work.side));
    ASSERT_TRUE(eventually([&] { return stream->issued() >= held; }));
    EXPECT_EQ(work.look(work.gate.address), 0u);  // time for what should not be issued
    EXPECT_EQ(stream->issued(), held) << "what stands behind waits for it";
    work.put(work.gate.address, 1);
    EXPECT_TRUE(stream->reaches(end));
    EXPECT_EQ(work.look(work.count.address), 20u);
    work.put(work.gate.address, 0);
    work.hold(*stream);
    const std::uint64_t behind = work.append(*stream, 20);
    EXPECT_TRUE(eventually([&] { return stream->issued() >= behind; })) << "it is no suspect any more";
    work.put(work.gate.address, 1);
    EXPECT_TRUE(stream->reaches(behind));
}

TEST(Restart, WhoKillsAgainAndAgainEndsAloneAndIsTold) {
    const Daemon daemon({"driver=host", "first_delay_ms=10", "warn_at=3"});
    Work neighbour(daemon);
    const auto calm = neighbour.client.open_stream();
    Work bully(daemon);
    const pid_t shared_first = daemon.executor();
    for (int death = 1; death <= 4; ++death) {
        const auto bad = bully.client.open_stream();
        bully.crash(*bad);
        const auto told = bully.client.next_epoch(*bad);
        ASSERT_TRUE(told);
        EXPECT_EQ(why(*told), Status::kernel_faulted);
        const std::string text = (*told)->answer_as_StreamEpoch()->error()->str();
        const std::string alone_since = "; " + std::to_string(death) +
                                        " deaths of executors are put down to this session, so it has one of "
                                        "its own, which starts after ";
        EXPECT_EQ(text.find(alone_since) != text.npos, death >= 2) << text;
        EXPECT_EQ(text.find("of its own") != text.npos, death >= 2) << text;
        bully.client.close_stream(bad->id);
        if (death <= 2) {
            ASSERT_TRUE(neighbour.client.next_epoch(*calm));
            ASSERT_TRUE(neighbour.client.next_epoch(*neighbour.side));
        }
        EXPECT_TRUE(calm->reaches(neighbour.append(*calm, static_cast<unsigned>(death))));
        EXPECT_EQ(calm->state(), StreamState::Running);
    }
    const auto warned = bully.client.notice(schema::Answer::SessionWarning);
    ASSERT_TRUE(warned);
    EXPECT_EQ(static_cast<Status>((*warned)->answer_as_SessionWarning()->status()),
              Status::executor_quarantined);
    EXPECT_GT((*warned)->answer_as_SessionWarning()->delay_ms(), 0u);

    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer listed = operators.ask(
        schema::Request::GetSessions,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetSessions(builder).Union(); });
    int shared = 0, alone = 0;
    for (const schema::SessionInfo* session : *listed->answer_as_Sessions()->sessions()) {
        if (session->session() == neighbour.client.session()) {
            shared = session->executor_pid();
            EXPECT_EQ(session->deaths_caused(), 0u);
            EXPECT_FALSE(session->isolated());
        } else {
            alone = session->executor_pid();
            EXPECT_EQ(session->deaths_caused(), 4u);
            EXPECT_TRUE(session->isolated());
        }
    }
    EXPECT_NE(shared, alone);
    EXPECT_NE(shared, shared_first);
    EXPECT_EQ(neighbour.look(neighbour.count.address), 4u);
    while (bully.side->state() == StreamState::Ended) ASSERT_TRUE(bully.client.next_epoch(*bully.side));
    EXPECT_EQ(bully.look(bully.count.address), 0u);
}

// The session as an operator sees it.
struct Seen {
    int executor = 0;
    unsigned deaths = 0;
    bool isolated = false;
};
Seen see(const Daemon& daemon, const SessionClient& client) {
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer listed = operators.ask(
        schema::Request::GetSessions,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetSessions(builder).Union(); });
    for (const schema::SessionInfo* session : *listed->answer_as_Sessions()->sessions())
        if (session->session() == client.session())
            return {session->executor_pid(), session->deaths_caused(), session->isolated()};
    ADD_FAILURE() << "no such session";
    return {};
}

TEST(Restart, ADeathWithoutAWordIsToldWithTheOnlyKernelThatWasInFlight) {
    for (const std::string kernel : {"kill_itself", "vanish"}) {
        const Daemon daemon({"driver=host"});
        Work work(daemon);
        const auto stream = work.client.open_stream(OnRestart::Stop, 256, "quiet");
        ASSERT_TRUE(stream->reaches(work.append(*stream, 1)));
        const std::uint64_t at = stream->producer.position();
        work.run(*stream, kernel);
        const auto told = work.client.next_epoch(*stream);
        ASSERT_TRUE(told);
        EXPECT_EQ(why(*told), kernel == "vanish" ? Status::suspect : Status::executor_killed);
        EXPECT_TRUE(says(text(*told), "kernel " + kernel + ", record at position " + std::to_string(at) +
                                          ", was all that was in flight"))
            << text(*told);
        EXPECT_EQ(stream->status().error_kernel, work.client.kernel(kernel));
        EXPECT_EQ(stream->status().error_position, at);
        EXPECT_EQ(see(daemon, work.client).deaths, 1u);
    }
}

TEST(Restart, ARerunThatIsKilledAgainAndAgainNamesItsKernel) {
    for (const std::string kernel : {"kill_itself", "vanish"}) {
        const Daemon daemon({"driver=host", "first_delay_ms=1"});
        Work work(daemon);
        const auto stream = work.client.open_stream(OnRestart::Rerun);
        ASSERT_TRUE(stream->reaches(work.append(*stream, 1)));
        const std::uint64_t at = stream->producer.position();
        work.run(*stream, kernel);
        ASSERT_TRUE(settles(work.client, *stream, [&] { return stream->state() == StreamState::Stopped; }));
        const std::string said = stream->status().error_text;
        EXPECT_EQ(static_cast<Status>(stream->status().error_status), Status::kernel_faulted) << said;
        EXPECT_TRUE(says(said, "kernel " + kernel + ", record at position " + std::to_string(at))) << said;
        EXPECT_EQ(stream->status().error_kernel, work.client.kernel(kernel));
    }
}

// Executor after executor dies of one session, beside another that is always at work.
void kills_beside_a_busy_peer(const std::string& kernel, OnRestart on_restart) {
    SCOPED_TRACE(kernel + (on_restart == OnRestart::Rerun ? ", rerun" : ", stop"));
    const Daemon daemon({"driver=host", "first_delay_ms=1", "max_delay_ms=20"});
    Work peer(daemon), bully(daemon);
    constexpr unsigned kCells = 1024, kRounds = 8;
    const auto cells = peer.client.alloc(4 * (kCells + 1));
    const auto stream = peer.client.open_stream(OnRestart::Rerun, 4096);
    unsigned launched = 0;
    const auto work = [&] {  // enough for the next death to find some of it in flight
        for (unsigned i = 0; i < 40 && launched < kCells; ++i, ++launched)
            stream->launch(peer.client.kernel("add"),
                           pack(cells.address + 4 * (launched + 1), cells.address + 4 * launched, 1u));
        stream->launch(peer.client.kernel("nap"), pack(peer.count.address, 20u));
    };
    unsigned peers_restarts = 0;
    for (unsigned round = 1; round <= kRounds; ++round) {
        const auto bad = bully.client.open_stream(on_restart);
        work();
        const std::uint64_t first = stream->producer.position();
        ASSERT_TRUE(settles(
            peer.client, *stream, [&] { return stream->issued() >= first; }, &peers_restarts));
        bully.run(*bad, kernel);
        ASSERT_TRUE(settles(bully.client, *bad, [&] { return bad->state() == StreamState::Stopped; }));
        EXPECT_EQ(bad->status().error_kernel, bully.client.kernel(kernel)) << bad->status().error_text;
        bully.client.close_stream(bad->id);
    }
    const std::uint64_t end = stream->producer.position();
    ASSERT_TRUE(settles(
        peer.client, *stream, [&] { return stream->completed() >= end; }, &peers_restarts));
    EXPECT_EQ(stream->state(), StreamState::Running) << stream->status().error_text;
    // Two that made both suspects, and one more if it was the peer that was moved first.
    EXPECT_LE(peers_restarts, 3u);
    EXPECT_FALSE(see(daemon, bully.client).executor == see(daemon, peer.client).executor);
    EXPECT_TRUE(see(daemon, bully.client).isolated);
    EXPECT_EQ(see(daemon, peer.client).deaths, 0u);
    EXPECT_TRUE(bully.client.notice(schema::Answer::SessionWarning));
    while (peer.side->state() == StreamState::Ended) ASSERT_TRUE(peer.client.next_epoch(*peer.side));
    for (unsigned i = 0; i <= launched; i += 37) EXPECT_EQ(peer.look(cells.address + 4 * i), i);
    // Every notice so far has been read: none is a warning.
    EXPECT_FALSE(peer.client.kept(schema::Answer::SessionWarning));
}

TEST(Restart, WhoKillsWithoutAWordEndsAloneAndItsBusyPeerIsLeftInPeace) {
    for (const std::string kernel : {"kill_itself", "vanish"})
        for (const OnRestart on_restart : {OnRestart::Stop, OnRestart::Rerun})
            kills_beside_a_busy_peer(kernel, on_restart);
}

// Two deaths that are put down to it: the start of the executor that it is alone in waits for it.
void put_off_the_next_start(Work& killer) {
    for (int death = 1; death <= 2; ++death) {
        const auto stream = killer.client.open_stream();
        killer.run(*stream, "vanish");
        ASSERT_TRUE(eventually([&] { return stream->state() == StreamState::Ended; }));
        if (death == 2) return;
        ASSERT_TRUE(killer.client.next_epoch(*stream));
        ASSERT_TRUE(killer.client.next_epoch(*killer.side));
    }
}
constexpr const char* kLongerThanAnyTest = "first_delay_ms=120000";
constexpr const char* kAtMost = "max_delay_ms=120000";

TEST(Restart, WhoComesWaitsForNobodysDelay) {
    const Daemon daemon({"driver=host", kLongerThanAnyTest, kAtMost});
    Work killer(daemon);
    put_off_the_next_start(killer);
    EXPECT_EQ(daemon.executors().size(), 0u);
    Work late(daemon);
    const auto stream = late.client.open_stream();
    EXPECT_TRUE(stream->reaches(late.append(*stream, 1)));
    EXPECT_FALSE(see(daemon, late.client).isolated);
    EXPECT_TRUE(see(daemon, killer.client).isolated);
    EXPECT_EQ(daemon.executors().size(), 1u) << "its delay runs on";
    EXPECT_FALSE(late.client.kept(schema::Answer::SessionWarning));
}

TEST(Restart, SeveralWhoComeAtOnceWaitForNobodysDelay) {
    const Daemon daemon({"driver=host", kLongerThanAnyTest, kAtMost});
    Work killer(daemon);
    put_off_the_next_start(killer);
    std::vector<std::unique_ptr<SessionClient>> late;
    std::vector<std::uint32_t> requests;
    for (int i = 0; i < 4; ++i) late.push_back(std::make_unique<SessionClient>(daemon.socket()));
    for (const auto& each : late)
        requests.push_back(
            each->send(schema::Request::OpenStream, [](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateOpenStream(builder, 64).Union();
            }));
    for (std::size_t i = 0; i < late.size(); ++i)
        EXPECT_EQ(late[i]->answer(requests[i]).status(), Status::ok);
    EXPECT_EQ(daemon.executors().size(), 1u);
}

TEST(Restart, WhoMakesWayWaitsForTheRestOfItsDelayAndKeepsWhatItHas) {
    constexpr std::chrono::milliseconds kDelay{4000}, kBefore{3000};
    const Daemon daemon({"driver=host", "first_delay_ms=4000"});
    Work killer(daemon);
    killer.put(killer.log.address, 77);
    put_off_the_next_start(killer);
    const auto since = std::chrono::steady_clock::now();
    const auto waited = [&] { return std::chrono::steady_clock::now() - since; };
    // What it asks for meanwhile goes along.
    const std::uint32_t opening =
        killer.client.send(schema::Request::OpenStream, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(builder, 64).Union();
        });
    std::this_thread::sleep_for(kBefore);
    Work late(daemon);
    const pid_t executor = see(daemon, late.client).executor;
    ASSERT_TRUE(
        settles(killer.client, *killer.side, [&] { return killer.side->state() == StreamState::Running; }));
    EXPECT_GE(waited(), kDelay - std::chrono::milliseconds(500));  // `since` is a little late
    EXPECT_LT(waited(), kDelay + kBefore);
    EXPECT_EQ(killer.client.answer(opening).status(), Status::ok);
    EXPECT_EQ(killer.look(killer.log.address), 77u);
    EXPECT_NE(see(daemon, killer.client).executor, executor);
    EXPECT_EQ(see(daemon, late.client).executor, executor);
}

TEST(Restart, AModuleOfWhoMakesWayIsLoadedWhereItGoes) {
    const Daemon daemon({"driver=host", kLongerThanAnyTest, kAtMost});
    Work killer(daemon);
    put_off_the_next_start(killer);
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_BAD_MODULE, bytes);
    const std::uint32_t load =
        killer.client.send(schema::Request::LoadModule,
                           [&](flatbuffers::FlatBufferBuilder& builder) {
                               return schema::CreateLoadModule(builder, 0, bytes).Union();
                           },
                           {image.get()});
    // Answered behind whatever the daemon has read and sent before.
    const auto catch_up = [&] {
        killer.client.ask(schema::Request::GetStatus, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateGetStatus(builder).Union();
        });
    };
    catch_up();
    Work late(daemon);
    const auto stream = late.client.open_stream();
    EXPECT_TRUE(stream->reaches(late.append(*stream, 1)));
    catch_up();
    EXPECT_FALSE(killer.client.kept_answer(load)) << "it waits for its session's executor";
    EXPECT_EQ(see(daemon, killer.client).deaths, 2u);
}

TEST(Restart, ADelayEndsWithTheSessionItIsFor) {
    const Daemon daemon({"driver=host", kLongerThanAnyTest, kAtMost});
    auto killer = std::make_unique<Work>(daemon);
    put_off_the_next_start(*killer);
    killer.reset();
    EXPECT_NE(daemon.executor(), 0);
    Work late(daemon);
    const auto stream = late.client.open_stream();
    EXPECT_TRUE(stream->reaches(late.append(*stream, 1)));
}

// Without room for one more executor all have to wait; not for what has gone, though.
TEST(Restart, WhereNoOtherExecutorCanBeHadAllWaitForTheDelay) {
    const Daemon daemon({"driver=host", kLongerThanAnyTest, kAtMost, "nofile=160"});
    auto killer = std::make_unique<Work>(daemon);
    put_off_the_next_start(*killer);
    SessionClient late(daemon.socket());
    std::vector<std::unique_ptr<RawClient>> fill;
    do fill.push_back(std::make_unique<RawClient>(daemon.socket()));
    while (fill.back()->hello().status() == Status::ok);
    fill.pop_back();
    const std::uint32_t alloc =
        late.send(schema::Request::AllocBuffer, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, 4096).Union();
        });
    EXPECT_FALSE(see(daemon, killer->client).isolated);
    EXPECT_EQ(daemon.executors().size(), 0u);
    EXPECT_FALSE(late.kept_answer(alloc));
    killer.reset();
    const Answer answer = late.answer(alloc);
    EXPECT_EQ(answer.status(), Status::ok) << answer.text();
}

TEST(Restart, KillsFromOutsideNowAndThenAreForgotten) {
    const Daemon daemon({"driver=host", "suspicion_ms=0", "first_delay_ms=1"});
    Work one(daemon), two(daemon);
    for (int death = 1; death <= 5; ++death) {
        // Two that hold and then one alone.
        const auto first = one.client.open_stream();
        const auto second = two.client.open_stream();
        const std::uint64_t held = one.hold(*first);
        ASSERT_TRUE(eventually([&] { return first->issued() >= held; }));
        if (death != 5) {
            const std::uint64_t also = two.hold(*second);
            ASSERT_TRUE(eventually([&] { return second->issued() >= also; }));
        }
        ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
        const auto told = one.client.next_epoch(*first);
        ASSERT_TRUE(told);
        EXPECT_EQ(why(*told), Status::executor_killed);
        if (death != 5) {
            EXPECT_TRUE(says(text(*told), "nobody knows who did it: also in flight: stream")) << text(*told);
            EXPECT_TRUE(says(text(*told), "of session")) << text(*told);
        }
        ASSERT_TRUE(two.client.next_epoch(*second));
        one.client.close_stream(first->id);
        two.client.close_stream(second->id);
    }
    EXPECT_EQ(see(daemon, one.client).executor, see(daemon, two.client).executor);
    EXPECT_FALSE(see(daemon, one.client).isolated);
    EXPECT_LE(see(daemon, one.client).deaths, 1u);
    EXPECT_EQ(see(daemon, two.client).deaths, 0u);
}

TEST(Restart, ADeadClientsEndlessKernelIsEndedForTheOthers) {
    const Daemon daemon({"driver=host", "close_timeout_ms=300"});
    Work neighbour(daemon);
    const auto stream = neighbour.client.open_stream();
    const pid_t before = daemon.executor();
    {
        Work leaver(daemon);
        const auto endless = leaver.client.open_stream();
        const std::uint64_t at = leaver.hold(*endless);
        ASSERT_TRUE(eventually([&] { return endless->issued() >= at; }));
    }
    ASSERT_TRUE(neighbour.client.next_epoch(*stream));
    EXPECT_TRUE(stream->reaches(neighbour.append(*stream, 1)));
    EXPECT_NE(daemon.executor(), before);
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer listed = operators.ask(
        schema::Request::GetSessions,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetSessions(builder).Union(); });
    EXPECT_EQ(listed->answer_as_Sessions()->total(), 1u);
}

// A session that leaves with a kernel that never ends.
void leave_endless_work(const Daemon& daemon) {
    Work leaver(daemon);
    const auto endless = leaver.client.open_stream();
    const std::uint64_t at = leaver.hold(*endless);
    ASSERT_TRUE(eventually([&] { return endless->issued() >= at; }));
}

TEST(Restart, WhatOthersHaveInFlightCompletesBeforeAnExecutorIsEndedForAbandonedWork) {
    const Daemon daemon({"driver=host", "close_timeout_ms=100", "max_in_flight=8"});
    Work neighbour(daemon);
    const auto stream = neighbour.client.open_stream(OnRestart::Stop, 4096);
    const pid_t before = daemon.executor();
    // At any moment some of them are in flight, long after the other has left.
    const auto nap = [&] {
        return stream->launch(neighbour.client.kernel("nap"), pack(neighbour.count.address, 5u));
    };
    unsigned naps = 0;
    for (; naps < 100; ++naps) nap();
    leave_endless_work(daemon);
    ASSERT_TRUE(eventually([&] {
        if (stream->state() == StreamState::Ended) return true;
        if (stream->producer.position() - stream->completed() < 100) {
            nap();
            ++naps;
        }
        return false;
    }));
    const auto told = neighbour.client.next_epoch(*stream);
    ASSERT_TRUE(told);
    EXPECT_EQ((*told)->answer_as_StreamEpoch()->state(), StreamState::Running) << text(*told);
    EXPECT_EQ((*told)->answer_as_StreamEpoch()->completed(), (*told)->answer_as_StreamEpoch()->issued());
    EXPECT_NE(daemon.executor(), before);
    EXPECT_TRUE(stream->reaches(stream->producer.position()));
    ASSERT_TRUE(neighbour.client.next_epoch(*neighbour.side));
    EXPECT_EQ(neighbour.look(neighbour.count.address), naps) << "each ran once";
}

TEST(Restart, WhatIsInDoubtBesideAbandonedWorkIsToldWhatHappened) {
    const Daemon daemon({"driver=host", "close_timeout_ms=100", "drain_timeout_ms=50"});
    Work neighbour(daemon);
    const auto stream = neighbour.client.open_stream(OnRestart::Stop, 256, "mine");
    const auto again = neighbour.client.open_stream(OnRestart::Rerun);
    const std::uint64_t end = neighbour.hold(*stream);
    const std::uint64_t other_end = neighbour.hold(*again);
    ASSERT_TRUE(eventually([&] { return stream->issued() >= end && again->issued() >= other_end; }));
    leave_endless_work(daemon);
    const auto told = neighbour.client.next_epoch(*stream);
    ASSERT_TRUE(told);
    EXPECT_EQ(why(*told), Status::executor_killed);
    EXPECT_TRUE(says(text(*told), "stream " + std::to_string(static_cast<std::uint32_t>(stream->id)) +
                                      " (mine) had work in flight"))
        << text(*told);
    EXPECT_TRUE(says(text(*told), "a client left stream ")) << text(*told);
    EXPECT_TRUE(says(text(*told), "with work that had not ended 100 ms later")) << text(*told);
    EXPECT_FALSE(says(text(*told), "fault")) << text(*told);
    // Nobody's fault is looked for: who chose it is rerun at once.
    const auto next = neighbour.client.next_epoch(*again);
    ASSERT_TRUE(next);
    EXPECT_EQ((*next)->answer_as_StreamEpoch()->state(), StreamState::Running);
    ASSERT_TRUE(neighbour.client.next_epoch(*neighbour.side));
    neighbour.put(neighbour.gate.address, 1);
    EXPECT_TRUE(again->reaches(other_end));
    EXPECT_EQ(neighbour.client.resume(stream->id, true).status(), Status::ok);
    EXPECT_TRUE(stream->reaches(end));
}

TEST(Memory, AnAllocationWaitsForTheFreesThatMakeRoomForIt) {
    const Daemon daemon({"driver=host", "max_memory_bytes=8388608"});
    Work work(daemon);  // has one chunk of 2 MiB
    const auto stream = work.client.open_stream();
    const auto big = work.client.alloc(6u << 20);
    const std::uint64_t held = work.hold(*stream);
    EXPECT_EQ(work.client.free(big.id, stream->id, held).status(), Status::ok);
    const std::uint32_t waiting =
        work.client.send(schema::Request::AllocBuffer, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, 5u << 20).Union();
        });
    work.put(work.gate.address, 1);
    const Answer given = work.client.answer(waiting);
    EXPECT_EQ(given.status(), Status::ok) << given.text();
}

TEST(Memory, AnAllocationForWhichNothingMakesRoomInTimeIsRefused) {
    const Daemon daemon({"driver=host", "max_memory_bytes=8388608", "alloc_patience_ms=50"});
    Work work(daemon);
    const auto stream = work.client.open_stream();
    const auto big = work.client.alloc(6u << 20);
    const std::uint64_t held = work.hold(*stream);
    EXPECT_EQ(work.client.free(big.id, stream->id, held).status(), Status::ok);
    const Answer refused = work.client.try_alloc(5u << 20);  // while the work that uses it goes on and on
    EXPECT_EQ(refused.status(), Status::limit_reached);
    EXPECT_TRUE(says(refused.text(), "its limit is 8388608 (--max-memory); free some")) << refused.text();
    EXPECT_LT(stream->completed(), held);
    // The free stands, and makes room for whoever asks later.
    work.put(work.gate.address, 1);
    ASSERT_TRUE(stream->reaches(held));
    EXPECT_TRUE(eventually([&] { return work.client.try_alloc(5u << 20).status() == Status::ok; }));
}

// The terminal's and the service manager's signals, which run_executor() ignores: such a kernel did nothing.
TEST(Restart, ASignalForTheSupervisorIsNothingToAnExecutorAlsoFromAKernel) {
    const Daemon daemon({"driver=host"});
    Work work(daemon);
    const pid_t before = daemon.executor();
    const auto stream = work.client.open_stream();
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE})
        for (const int thread : {0, 1}) {
            const auto end = stream->launch(work.client.kernel("signal_itself"), pack(signal, thread));
            EXPECT_TRUE(stream->reaches(end)) << ::strsignal(signal);
        }
    EXPECT_TRUE(stream->reaches(work.append(*stream, 1)));
    EXPECT_EQ(stream->state(), StreamState::Running);
    EXPECT_EQ(daemon.executor(), before);
}

TEST(Restart, AnyOtherSignalOfAKernelStopsItsStreamWithAnError) {
    // Others are blocked in the threads that run kernels: raised there they do nothing.
    constexpr std::pair<int, int> kSignals[] = {{SIGKILL, 0}, {SIGUSR1, 0}, {SIGALRM, 0},
                                                {SIGABRT, 1}, {SIGSEGV, 1}, {SIGBUS, 1},
                                                {SIGFPE, 1},  {SIGILL, 1},  {SIGTRAP, 1}};
    for (const auto& [signal, thread] : kSignals) {
        SCOPED_TRACE(::strsignal(signal));
        const Daemon daemon({"driver=host"});
        Work work(daemon);
        const auto stream = work.client.open_stream();
        ASSERT_TRUE(stream->reaches(work.append(*stream, 1)));
        const std::uint64_t at = stream->producer.position();
        stream->launch(work.client.kernel("signal_itself"), pack(signal, thread));
        const auto told = work.client.next_epoch(*stream);
        ASSERT_TRUE(told);
        EXPECT_EQ(stream->state(), StreamState::Stopped);
        EXPECT_NE(why(*told), Status::ok);
        EXPECT_EQ(stream->status().error_status, static_cast<std::uint32_t>(why(*told)));
        EXPECT_TRUE(says(text(*told), "kernel signal_itself, record at position " + std::to_string(at)))
            << text(*told);
    }
}

TEST(Restart, AnExecutorThatDoesNotAnswerIsEnded) {
    const Daemon daemon({"driver=host", "ping_every_ms=50", "ping_timeout_ms=1000"});
    Work work(daemon);
    const auto stream = work.client.open_stream();
    ASSERT_EQ(::kill(daemon.executor(), SIGSTOP), 0);
    ASSERT_TRUE(work.client.next_epoch(*stream));
    EXPECT_TRUE(stream->reaches(work.append(*stream, 1)));
}

TEST(Restart, ALongKernelIsNotTakenForAHang) {
    const Daemon daemon({"driver=host", "ping_every_ms=20", "ping_timeout_ms=1000"});
    Work work(daemon);
    const pid_t before = daemon.executor();
    const auto stream = work.client.open_stream();
    const std::uint64_t end = work.hold(*stream);
    ::usleep(2'500'000);
    work.put(work.gate.address, 1);
    EXPECT_TRUE(stream->reaches(end));
    EXPECT_EQ(daemon.executor(), before);
}

// Ctrl-Z and fg, a machine that is held: the silence of an executor counts while the supervisor runs.
TEST(Restart, AnExecutorThatWasStoppedTogetherWithTheSupervisorIsLeftAlone) {
    const Daemon daemon({"driver=host", "ping_every_ms=20", "ping_timeout_ms=1000"});
    Work work(daemon);
    const pid_t executor = daemon.executor();
    const auto stream = work.client.open_stream();
    ASSERT_TRUE(stream->reaches(work.append(*stream, 1)));
    ASSERT_EQ(::kill(executor, SIGSTOP), 0);
    ::usleep(100'000);  // until it owes an answer
    ASSERT_EQ(::kill(daemon.pid(), SIGSTOP), 0);
    ::usleep(5'000'000);  // longer than either bound
    ASSERT_EQ(::kill(daemon.pid(), SIGCONT), 0);
    ::usleep(100'000);
    ASSERT_EQ(::kill(executor, SIGCONT), 0);
    EXPECT_TRUE(stream->reaches(work.append(*stream, 2)));
    EXPECT_EQ(daemon.executor(), executor);
}

TEST(Restart, AModuleThatKillsItsLoaderIsRefusedAndCountsAgainstItsSession) {
    const Daemon daemon({"driver=host"});
    Work neighbour(daemon);
    const auto stream = neighbour.client.open_stream();
    SessionClient client(daemon.socket());
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_BAD_MODULE, bytes);
    const Answer refused = client.try_load(image, bytes, "bad");
    EXPECT_EQ(refused.status(), Status::executor_lost) << refused.text();
    ASSERT_TRUE(neighbour.client.next_epoch(*stream));
    EXPECT_TRUE(stream->reaches(neighbour.append(*stream, 1)));
    EXPECT_NE(client.alloc(100).address, 0u);
}

// Loads a module that does harm meanwhile (bad_again.cu), beside work in flight of its session and of
// another.
struct HarmfulLoad {
    explicit HarmfulLoad(const std::string& how)
        : daemon({"driver=host", "first_delay_ms=1", "max_delay_ms=20", "blocked_by=" + folder.file("harm")}),
          loader(daemon),
          other(daemon) {
        own = loader.client.open_stream(OnRestart::Stop, 256, "own");
        others = other.client.open_stream(OnRestart::Stop, 256, "others");
        std::ofstream(folder.file("harm")) << "module " << how;
    }
    void put_in_flight(Work& work, TestStream& stream) const {
        const std::uint64_t held = work.hold(stream);
        ASSERT_TRUE(eventually([&] { return stream.issued() >= held; }));
    }
    Answer load() {
        std::uint64_t bytes = 0;
        const UniqueFd image = image_of_file(TEST_BAD_AGAIN, bytes);
        return loader.client.try_load(image, bytes, "bad");
    }

    Folder folder;
    Daemon daemon;
    Work loader, other;
    std::unique_ptr<TestStream> own, others;
};

TEST(Restart, AModuleThatKillsItsLoaderIsNamedAndNoRecordIs) {
    for (const bool busy : {false, true}) {
        SCOPED_TRACE(busy);
        HarmfulLoad harm("segv");
        if (busy) harm.put_in_flight(harm.loader, *harm.own);
        if (busy) harm.put_in_flight(harm.other, *harm.others);
        const Answer refused = harm.load();
        EXPECT_EQ(refused.status(), Status::executor_lost);
        EXPECT_TRUE(says(refused.text(), "caught SIGSEGV at address 0x8 in loading module 'bad'"))
            << refused.text();
        EXPECT_FALSE(says(refused.text(), "record")) << refused.text();
        const auto own = harm.loader.client.next_epoch(*harm.own);
        const auto others = harm.other.client.next_epoch(*harm.others);
        ASSERT_TRUE(own && others);
        EXPECT_EQ(why(*own), busy ? Status::neighbour_faulted : Status::ok);
        EXPECT_EQ(why(*others), busy ? Status::neighbour_faulted : Status::ok);
        EXPECT_EQ(see(harm.daemon, harm.loader.client).deaths, 1u);
        EXPECT_EQ(see(harm.daemon, harm.other.client).deaths, 0u);
        if (!busy) continue;
        EXPECT_TRUE(says(text(*own), "the loading of module 'bad' ended the executor of stream "))
            << text(*own);
        EXPECT_TRUE(says(text(*own), "(own): it caught SIGSEGV")) << text(*own);
        EXPECT_TRUE(says(text(*others), "the loading of a module of session " +
                                            id_text(harm.loader.client.session()) +
                                            " ended the executor of stream "))
            << text(*others);
        for (const auto& told : {&own, &others}) EXPECT_FALSE(says(text(**told), "record")) << text(**told);
    }
}

TEST(Restart, AModuleThatEndsItsLoaderInOtherWaysIsNamedToo) {
    {
        HarmfulLoad harm("leave");
        const std::string said = harm.load().text();
        EXPECT_TRUE(says(said, "exit() called in loading module 'bad') while it worked on this")) << said;
    }
    HarmfulLoad harm("send 1");
    harm.put_in_flight(harm.other, *harm.others);
    EXPECT_EQ(harm.load().status(), Status::ok);
    const auto told = harm.other.client.next_epoch(*harm.others);
    ASSERT_TRUE(told);
    EXPECT_TRUE(says(text(*told),
                     "sent to this process with kill() by one of the kernels that were running, or "
                     "in loading module 'bad'"))
        << text(*told);
}

// An exit or a SIGKILL says nothing: it can have been the load, or what was in flight.
TEST(Restart, ADeathDuringALoadIsPutDownToItAsMuchAsToWhatWasInFlight) {
    for (const std::string how : {"exit 1", "kill 1"}) {
        SCOPED_TRACE(how);
        HarmfulLoad harm(how);
        harm.put_in_flight(harm.other, *harm.others);
        const std::uint64_t at = harm.others->completed();
        EXPECT_EQ(harm.load().status(), Status::ok) << "the second time it does no harm";
        const auto told = harm.other.client.next_epoch(*harm.others);
        ASSERT_TRUE(told);
        EXPECT_TRUE(says(text(*told), "kernel hold, record at position " + std::to_string(at) +
                                          ", was in flight when the executor "))
            << text(*told);
        EXPECT_TRUE(says(text(*told), "; nobody knows who did it: the loading of a module of session " +
                                          id_text(harm.loader.client.session()) + " was under way"))
            << text(*told);
        EXPECT_EQ(see(harm.daemon, harm.loader.client).deaths, 0u);
        EXPECT_EQ(see(harm.daemon, harm.other.client).deaths, 0u);
    }
}

// A load runs nothing on the device.
TEST(Restart, ADeviceThatIsLostDuringALoadIsPutDownToItsWorkAlone) {
    HarmfulLoad harm("hang 1");
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_BAD_AGAIN, bytes);
    const std::uint32_t load =
        harm.loader.client.send(schema::Request::LoadModule,
                                [&](flatbuffers::FlatBufferBuilder& builder) {
                                    return schema::CreateLoadModule(builder, 0, bytes).Union();
                                },
                                {image.get()});
    ASSERT_TRUE(eventually([&] {
        std::string line;
        return std::getline(std::ifstream(harm.folder.file("harm")), line) && line == "module hang 0";
    }));
    harm.others->launch(harm.other.client.kernel("accuse"), pack(std::uint64_t{0x7700000077}));
    const auto told = harm.other.client.next_epoch(*harm.others);
    ASSERT_TRUE(told);
    EXPECT_TRUE(says(text(*told), "was all that was in flight when the executor lost its device"))
        << text(*told);
    EXPECT_EQ(see(harm.daemon, harm.other.client).deaths, 1u);
    EXPECT_EQ(harm.loader.client.answer(load).status(), Status::ok);
}

// Whoever has the same load again and again end an executor ends alone; neighbours do not wait.
TEST(Restart, WhoseModuleKillsWithoutAWordEndsAlone) {
    for (const std::string how : {"exit", "kill"}) {
        SCOPED_TRACE(how);
        HarmfulLoad harm(how);
        const Answer refused = harm.load();
        EXPECT_EQ(refused.status(), Status::executor_lost) << refused.text();
        EXPECT_FALSE(says(refused.text(), "record")) << refused.text();
        EXPECT_GE(see(harm.daemon, harm.loader.client).deaths, 2u);
        EXPECT_TRUE(see(harm.daemon, harm.loader.client).isolated);
        EXPECT_EQ(see(harm.daemon, harm.other.client).deaths, 0u);
        EXPECT_FALSE(see(harm.daemon, harm.other.client).isolated);
        // Those at which nobody knew whose it was: no third one.
        unsigned restarts = 0;
        ASSERT_TRUE(settles(
            harm.other.client, *harm.others, [&] { return harm.others->state() == StreamState::Running; },
            &restarts));
        EXPECT_LE(restarts, 2u);
        EXPECT_TRUE(harm.others->reaches(harm.other.append(*harm.others, 1)));
    }
}

// The host driver's threads have the stack that the limit says where their executor starts.
TEST(Restart, TheNextExecutorGivesModulesTheirStack) {
    const Daemon daemon({"driver=host", "max_stack_bytes=8388608", "first_delay_ms=1", "max_delay_ms=20"});
    SessionClient client(daemon.socket());
    const auto stream = client.open_stream();
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    const rlimit before{8u << 20, 8u << 20}, less{2u << 20, 8u << 20};
    ASSERT_EQ(::prlimit(daemon.pid(), RLIMIT_STACK, &before, nullptr), 0);
    const auto restart = [&] { return ::kill(daemon.executor(), SIGKILL) == 0; };
    ASSERT_TRUE(restart());
    ASSERT_TRUE(client.next_epoch(*stream));
    const Answer loaded = client.try_load(image, bytes, "deep", 4u << 20);
    ASSERT_EQ(loaded.status(), Status::ok) << loaded.text();
    ASSERT_TRUE(restart());
    ASSERT_TRUE(client.next_epoch(*stream)) << "there is enough of it";

    ASSERT_EQ(::prlimit(daemon.pid(), RLIMIT_STACK, &less, nullptr), 0);
    ASSERT_TRUE(restart());
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    std::string failure;
    EXPECT_TRUE(eventually([&] {
        const Answer status = operators.ask(
            schema::Request::GetStatus,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); });
        const auto* executors = status->answer_as_DaemonStatus()->executors();
        failure = executors->size() == 1 ? executors->Get(0)->failure()->str() : "";
        return failure.find("so one of 4194304 cannot be had") != failure.npos;
    })) << failure;
    ASSERT_EQ(::prlimit(daemon.pid(), RLIMIT_STACK, &before, nullptr), 0);
    EXPECT_TRUE(eventually([&] { return client.try_alloc(64).status() == Status::ok; }));
}

TEST(Restart, RequestsThatWereUnderWayAreAnsweredByTheNextExecutor) {
    const Daemon daemon({"driver=host", "first_delay_ms=1"});
    SessionClient client(daemon.socket());
    client.open_stream();
    const pid_t executor = daemon.executor();
    ASSERT_EQ(::kill(executor, SIGSTOP), 0);
    std::vector<std::uint32_t> requests;
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    requests.push_back(client.send(schema::Request::LoadModule,
                                   [&](flatbuffers::FlatBufferBuilder& builder) {
                                       return schema::CreateLoadModule(builder, 0, bytes).Union();
                                   },
                                   {image.get()}));
    requests.push_back(client.send(schema::Request::AllocBuffer, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAllocBuffer(builder, 5u << 20).Union();
    }));
    requests.push_back(client.send(schema::Request::AddStaging, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAddStaging(builder, 4096).Union();
    }));
    requests.push_back(client.send(schema::Request::OpenStream, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateOpenStream(builder, 64).Union();
    }));
    ASSERT_EQ(::kill(executor, SIGKILL), 0);
    for (const std::uint32_t request : requests) {
        const Answer answer = client.answer(request);
        EXPECT_EQ(answer.status(), Status::ok) << answer.text();
    }
}

TEST(Isolation, EachSessionItsOwnExecutorWhereAsked) {
    const Daemon daemon({"driver=host", "isolate=session"});
    auto one = std::make_unique<Work>(daemon);
    Work two(daemon);
    EXPECT_TRUE(eventually([&] { return daemon.executors().size() == 2; }));
    const auto stream = two.client.open_stream();
    const auto bad = one->client.open_stream();
    one->crash(*bad);
    ASSERT_TRUE(one->client.next_epoch(*bad));
    EXPECT_TRUE(stream->reaches(two.append(*stream, 1)));
    EXPECT_EQ(stream->state(), StreamState::Running);  // its executor never died
    one.reset();
    EXPECT_TRUE(eventually([&] { return daemon.executors().size() == 1; }));
}

}  // namespace
}  // namespace ringlaunch::test
