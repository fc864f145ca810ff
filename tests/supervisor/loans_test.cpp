// What sessions lend each other: who may, how long it lasts, and what becomes of it when executors and
// sessions end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <optional>

#include "lending.hpp"
#include "work.hpp"

namespace ringlaunch::test {
namespace {

using testing::HasSubstr;

constexpr std::size_t kLent = 3u << 20;

SessionClient::Memory borrow(SessionClient& client, const Right& right) {
    const Answer answer = try_borrow(client, right);
    EXPECT_EQ(answer.status(), Status::ok) << answer.text();
    const auto* borrowed = answer->answer_as_Borrowed();
    return borrowed == nullptr ? SessionClient::Memory{}
                               : SessionClient::Memory{borrowed->buffer(), borrowed->address()};
}

// A client with a stream and staging memory.
struct Party {
    explicit Party(const Daemon& daemon, int device)
        : client(daemon.socket(), device), staging(client.add_staging(kLent)), stream(client.open_stream()) {}
    void write(std::uint64_t address, unsigned char value) {
        std::memset(staging.bytes.data(), value, kLent);
        ASSERT_TRUE(client.write(*stream, staging, address, kLent));
    }
    void expect(std::uint64_t address, unsigned char value) {
        std::memset(staging.bytes.data(), ~value, kLent);
        ASSERT_TRUE(client.read(*stream, staging, address, kLent));
        for (std::size_t i = 0; i < kLent; ++i)
            if (staging.bytes.data()[i] != std::byte{value}) {
                ADD_FAILURE() << "byte " << i << " is another";
                return;
            }
    }
    bool copy(std::uint64_t to, std::uint64_t from) {
        return client.copy_on_device(*stream, to, from, kLent);
    }
    SessionClient client;
    SessionClient::Staging staging;
    std::unique_ptr<TestStream> stream;
};

// The executor of this party's device is killed, and the next one has taken its stream up.
void restart(const Daemon& daemon, Party& party) {
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const auto executor = [&] {
        const Answer listed =
            operators.ask(schema::Request::GetSessions, [](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateGetSessions(builder).Union();
            });
        for (const schema::SessionInfo* session : *listed->answer_as_Sessions()->sessions())
            if (session->session() == party.client.session()) return session->executor_pid();
        return 0;
    };
    ::kill(executor(), SIGKILL);
    ASSERT_TRUE(party.client.next_epoch(*party.stream));
    ASSERT_EQ(party.stream->state(), schema::StreamState::Running);
}

TEST(Loans, GoBetweenDevicesAndDomainsAndBackToTheByte) {
    for (const std::string isolate : {"user", "session", "none"}) {
        const Daemon daemon({"driver=host", "devices=2", "isolate=" + isolate});
        Party zero(daemon, 0), one(daemon, 1), also_one(daemon, 1);
        const auto source = zero.client.alloc(kLent);
        zero.write(source.address, 0x5a);
        const Right right = share(zero.client, source.id);
        EXPECT_EQ(share(zero.client, source.id), right) << "asked again, it is the same";
        for (Party* party : {&one, &also_one}) {
            const auto lent = borrow(party->client, right);
            EXPECT_EQ(lent.address, source.address) << "the same address in every executor";
            const auto own = party->client.alloc(kLent);
            EXPECT_TRUE(party->copy(own.address, lent.address));
            party->expect(own.address, 0x5a);
            party->write(own.address, 0x33);
            EXPECT_TRUE(party->copy(lent.address, own.address));
            zero.expect(source.address, 0x33);
            zero.write(source.address, 0x5a);
        }
    }
}

TEST(Loans, AreForWhoKnowsTheRightAlone) {
    const Daemon daemon({"driver=host", "devices=2"});
    Party owner(daemon, 0), stranger(daemon, 1);
    const auto memory = owner.client.alloc(kLent), other = owner.client.alloc(kLent);
    const Right right = share(owner.client, memory.id);
    EXPECT_NE(right.low, 0u);
    EXPECT_NE(right, share(owner.client, other.id));
    for (const Right guess :
         {Right{0, 0}, Right{right.low, 0}, Right{right.low, right.high + 1}, Right{right.high, right.low}})
        EXPECT_EQ(try_borrow(stranger.client, guess).status(), Status::not_found);
    // Without a loan a copy that names the owner's memory stops its stream.
    const auto own = stranger.client.alloc(kLent);
    EXPECT_FALSE(stranger.copy(own.address, memory.address));
    EXPECT_EQ(static_cast<Status>(stranger.stream->status().error_status), Status::bad_range);
    EXPECT_THAT(stranger.stream->status().error_text, HasSubstr("borrowed"));
    EXPECT_EQ(try_borrow(owner.client, right).status(), Status::invalid_argument) << "its own";
    // What is somebody else's cannot be passed on.
    const auto lent = borrow(stranger.client, right);
    EXPECT_EQ(try_share(stranger.client, lent.id).status(), Status::not_found);
    EXPECT_EQ(try_share(stranger.client, memory.id + 7).status(), Status::not_found);
    EXPECT_EQ(try_share(stranger.client, 0, owner.stream->id).status(), Status::not_found);
}

TEST(Loans, AreNoneForAnotherUser) {
    if (::getuid() != 0) GTEST_SKIP() << "only root can be several users";
    const Folder folder;
    ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
    const Daemon daemon({"devices=2", "allow_uid=65534", "isolate=none"}, folder.file("daemon.sock"));
    SessionClient owner(daemon.socket());
    const Right right = share(owner, owner.alloc(64).id);
    const Right stream = share(owner, 0, owner.open_stream()->id);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(1);
        SessionClient client(daemon.socket(), 1);
        const bool refused = try_borrow(client, right).status() == Status::not_found &&
                             try_borrow(client, stream).status() == Status::not_found;
        ::_exit(refused ? 0 : 2);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Loans, OutliveTheOwnersFreeAndTheOwner) {
    const Daemon daemon({"driver=host", "devices=2"});
    Party one(daemon, 1);
    const auto own = one.client.alloc(kLent);
    SessionClient::Memory lent;
    std::uint64_t address = 0;
    Right right;
    {
        Party zero(daemon, 0);
        const auto memory = zero.client.alloc(kLent);
        address = memory.address;
        zero.write(memory.address, 0x77);
        right = share(zero.client, memory.id);
        lent = borrow(one.client, right);
        EXPECT_EQ(zero.client.free(memory.id).status(), Status::ok);
        EXPECT_EQ(try_borrow(one.client, right).status(), Status::not_found) << "who let go lends no more";
        const auto next = zero.client.alloc(kLent);
        EXPECT_NE(next.address, memory.address);
        zero.write(next.address, 0x11);
        EXPECT_TRUE(one.copy(own.address, lent.address));
        one.expect(own.address, 0x77);
    }
    // Its addresses are nobody else's while the loan lasts, then somebody's, and zero.
    EXPECT_TRUE(eventually([&] { return try_borrow(one.client, right).status() == Status::not_found; }));
    for (int i = 0; i < 3; ++i) {
        Party next(daemon, 0);
        const auto memory = next.client.alloc(kLent);
        EXPECT_TRUE(memory.address + kLent <= address || memory.address >= address + kLent);
        next.write(memory.address, 0x22);
        EXPECT_TRUE(one.copy(own.address, lent.address));
        one.expect(own.address, 0x77);
    }
    EXPECT_EQ(one.client.free(lent.id).status(), Status::ok);
    EXPECT_TRUE(eventually([&] {
        Party next(daemon, 0);
        const auto memory = next.client.alloc(kLent);
        if (memory.address >> 22 != address >> 22) return false;
        next.expect(memory.address, 0);
        return true;
    }));
    EXPECT_EQ(one.client.free(lent.id).status(), Status::not_found);
    EXPECT_FALSE(one.copy(own.address, address)) << "what was given back may not be named any more";
}

TEST(Loans, AnAllocationWaitsForOneToComeBackWhereItMakesRoom) {
    const Daemon daemon({"driver=host", "max_memory_bytes=8388608", "alloc_patience_ms=20000"});
    SessionClient owner(daemon.socket()), borrower(daemon.socket());
    const auto big = owner.alloc(8u << 20);
    const auto lent = borrow(borrower, share(owner, big.id));
    EXPECT_EQ(owner.free(big.id).status(), Status::ok);
    const std::uint32_t waiting =
        owner.send(schema::Request::AllocBuffer, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, 7u << 20).Union();
        });
    // What is asked behind it is answered meanwhile.
    ASSERT_TRUE(owner.open_stream());
    EXPECT_FALSE(owner.kept_answer(waiting));
    EXPECT_EQ(borrower.free(lent.id).status(), Status::ok);
    const Answer given = owner.answer(waiting);
    EXPECT_EQ(given.status(), Status::ok) << given.text();
}

TEST(Loans, AnAllocationDoesNotWaitForOneThatDoesNotComeBack) {
    const Daemon daemon({"driver=host", "max_memory_bytes=8388608", "alloc_patience_ms=50"});
    SessionClient owner(daemon.socket()), borrower(daemon.socket());
    const auto big = owner.alloc(8u << 20);
    const auto lent = borrow(borrower, share(owner, big.id));
    EXPECT_EQ(owner.free(big.id).status(), Status::ok);
    const Answer refused = owner.try_alloc(7u << 20);
    EXPECT_EQ(refused.status(), Status::limit_reached);
    EXPECT_THAT(refused.text(), HasSubstr("(--max-memory); free some"));
    EXPECT_EQ(borrower.free(lent.id).status(), Status::ok);
    EXPECT_TRUE(eventually([&] { return owner.try_alloc(7u << 20).status() == Status::ok; }));
}

TEST(Loans, AreThereAgainAfterARestartOfEither) {
    for (const std::string isolate : {"user", "session"}) {
        const Daemon daemon({"driver=host", "devices=2", "isolate=" + isolate});
        Party zero(daemon, 0), one(daemon, 1), beside(daemon, 0);
        const auto memory = zero.client.alloc(kLent);
        const Right right = share(zero.client, memory.id);
        const auto lent = borrow(one.client, right);
        borrow(beside.client, right);
        const auto own = one.client.alloc(kLent), near = beside.client.alloc(kLent);
        unsigned char value = 1;
        for (Party* victim : {&zero, &one, &zero, &beside, &one}) {
            restart(daemon, *victim);
            if (isolate == "user" && victim == &zero) {
                ASSERT_TRUE(beside.client.next_epoch(*beside.stream));
            } else if (isolate == "user" && victim == &beside) {
                ASSERT_TRUE(zero.client.next_epoch(*zero.stream));
            }
            zero.write(memory.address, ++value);
            EXPECT_TRUE(one.copy(own.address, lent.address));
            one.expect(own.address, value);
            EXPECT_TRUE(beside.copy(near.address, memory.address));
            beside.expect(near.address, value);
        }
    }
}

TEST(Loans, ABorrowerThatDiesLeavesNothingHeld) {
    const Daemon daemon({"driver=host", "devices=2"});
    Party zero(daemon, 0);
    const auto memory = zero.client.alloc(kLent);
    const Right right = share(zero.client, memory.id);
    {
        Party one(daemon, 1);
        borrow(one.client, right);
        EXPECT_EQ(zero.client.free(memory.id).status(), Status::ok);
    }
    EXPECT_TRUE(eventually([&] {
        const auto next = zero.client.alloc(kLent);
        const bool again = next.address == memory.address;
        zero.client.free(next.id);
        return again;
    }));
}

// ---- waits

TEST(Waits, GoFromDeviceToDeviceAndOverRestarts) {
    const Daemon daemon({"driver=host", "devices=2"});
    Party zero(daemon, 0), one(daemon, 1);
    zero.client.load_file(TEST_KERNELS);
    const auto gate = zero.client.alloc(64), own = one.client.alloc(kLent);
    const auto other = zero.client.open_stream();
    const Right right = share(zero.client, 0, other->id);
    const Answer borrowed = try_borrow(one.client, right);
    ASSERT_EQ(borrowed.status(), Status::ok) << borrowed.text();
    EXPECT_EQ(borrowed->answer_as_Borrowed()->stream(), other->id);
    std::uint64_t position = 0;
    for (const bool restarts : {false, true}) {
        if (restarts) {
            restart(daemon, zero);
            ASSERT_TRUE(zero.client.next_epoch(*other));
            restart(daemon, one);
        }
        // Held until the other device has come so far, which somebody lets it.
        unsigned value = 0;
        std::memcpy(zero.staging.bytes.data(), &value, sizeof value);
        ASSERT_TRUE(zero.client.write(*zero.stream, zero.staging, gate.address, sizeof value));
        other->launch(zero.client.kernel("hold"), pack(gate.address));
        position = other->event();
        one.stream->wait_for(other->id, position);
        const std::uint64_t behind = one.stream->fill(own.address, 64);
        ::usleep(20'000);
        EXPECT_LT(one.stream->completed(), behind);
        value = 1;
        std::memcpy(zero.staging.bytes.data(), &value, sizeof value);
        ASSERT_TRUE(zero.client.write(*zero.stream, zero.staging, gate.address, sizeof value));
        EXPECT_TRUE(one.stream->reaches(behind));
    }
    // A closed stream's past may be waited for, its future not.
    zero.client.close_stream(other->id);
    one.stream->wait_for(other->id, position);
    EXPECT_TRUE(one.stream->reaches(one.stream->fill(own.address, 64)));
    one.stream->wait_for(other->id, position + 1);
    EXPECT_TRUE(eventually([&] { return one.stream->state() == schema::StreamState::Stopped; }));
    EXPECT_EQ(static_cast<Status>(one.stream->status().error_status), Status::awaited_stream_stopped);
}

// The wait was made before the death, or before the next executor was there; whoever is restored first.
void a_wait_outlives_the_executors(const std::string& isolate, bool awaited_first, bool before, bool crash) {
    SCOPED_TRACE(isolate + (awaited_first ? ", awaited first" : ", waiter first") +
                 (before ? ", waits before" : ", waits after") + (crash ? ", crash" : ", SIGKILL"));
    const Daemon daemon({"driver=host", "isolate=" + isolate});
    std::optional<Work> theirs, ours, third;
    if (awaited_first) theirs.emplace(daemon);
    ours.emplace(daemon);
    if (!awaited_first) theirs.emplace(daemon);
    if (crash) third.emplace(daemon);
    const auto awaited = theirs->client.open_stream(schema::OnRestart::Rerun);
    const auto waiting = ours->client.open_stream();
    lend_stream(theirs->client, *awaited, ours->client);
    const std::uint64_t held = theirs->hold(*awaited);
    theirs->append(*awaited, 1);
    const std::uint64_t position = awaited->event();
    std::uint64_t end = 0;
    const auto wait = [&] {
        waiting->wait_for(awaited->id, position);
        end = ours->append(*waiting, 2);
    };
    ASSERT_TRUE(eventually([&] { return awaited->issued() >= held; }));
    if (before) {
        wait();
        ::usleep(20'000);
        ASSERT_EQ(waiting->issued(), 0u);
    }
    if (crash) {
        third->crash(*third->side);
    } else {
        for (const pid_t executor : daemon.executors()) ::kill(executor, SIGKILL);
    }
    ASSERT_TRUE(eventually([&] { return waiting->state() == schema::StreamState::Ended; }));
    if (!before) wait();
    const auto goes_on = [](Work& work, TestStream& stream) {
        return eventually([&] { return stream.state() == schema::StreamState::Ended; }) &&
               settles(work.client, stream, [&] { return stream.state() == schema::StreamState::Running; });
    };
    ASSERT_TRUE(goes_on(*theirs, *awaited));
    ASSERT_TRUE(goes_on(*theirs, *theirs->side));
    ASSERT_TRUE(goes_on(*ours, *waiting));
    ASSERT_TRUE(goes_on(*ours, *ours->side));
    ::usleep(20'000);
    EXPECT_LT(waiting->completed(), end);
    ASSERT_EQ(waiting->state(), schema::StreamState::Running) << waiting->status().error_text;
    theirs->put(theirs->gate.address, 1);
    ASSERT_TRUE(waiting->reaches(end)) << waiting->status().error_text;
    EXPECT_GE(awaited->completed(), position) << "it went on too early";
    EXPECT_EQ(theirs->look(theirs->count.address), 1u);
    EXPECT_EQ(ours->look(ours->count.address), 1u);
    EXPECT_EQ(ours->look(ours->log.address), 2u);
}

TEST(Waits, OutliveTheExecutorsThatAreKilled) {
    for (const std::string isolate : {"user", "session"})
        for (const bool awaited_first : {true, false})
            for (const bool before : {true, false})
                a_wait_outlives_the_executors(isolate, awaited_first, before, false);
}

TEST(Waits, OutliveTheCrashOfAThirdSession) {
    for (const bool awaited_first : {true, false})
        for (const bool before : {true, false})
            a_wait_outlives_the_executors("user", awaited_first, before, true);
}

TEST(Waits, AreToldOfWhatARestartStopped) {
    for (const bool awaited_first : {true, false}) {
        const Daemon daemon({"driver=host"});
        std::optional<Work> theirs, ours;
        if (awaited_first) theirs.emplace(daemon);
        ours.emplace(daemon);
        if (!awaited_first) theirs.emplace(daemon);
        const auto awaited = theirs->client.open_stream(schema::OnRestart::Stop);
        const auto waiting = ours->client.open_stream();
        lend_stream(theirs->client, *awaited, ours->client);
        const std::uint64_t position = theirs->hold(*awaited);
        ASSERT_TRUE(eventually([&] { return awaited->issued() >= position; }));
        waiting->wait_for(awaited->id, position);
        ::kill(daemon.executor(), SIGKILL);
        ASSERT_TRUE(eventually([&] { return waiting->state() == schema::StreamState::Ended; }));
        ASSERT_TRUE(settles(ours->client, *waiting,
                            [&] { return waiting->state() == schema::StreamState::Stopped; }));
        EXPECT_EQ(static_cast<Status>(waiting->status().error_status), Status::awaited_stream_stopped);
    }
}

TEST(Waits, ForAStreamThatWasNotLentAreRefused) {
    const Daemon daemon({"driver=host", "devices=2"});
    Party zero(daemon, 0), one(daemon, 1);
    one.stream->wait_for(zero.stream->id, 1);
    EXPECT_TRUE(eventually([&] { return one.stream->state() == schema::StreamState::Stopped; }));
    EXPECT_EQ(static_cast<Status>(one.stream->status().error_status), Status::bad_awaited_stream);
}

}  // namespace
}  // namespace ringlaunch::test
