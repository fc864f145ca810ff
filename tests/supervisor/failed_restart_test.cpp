// Executors that died and cannot be replaced at once: what everybody has is kept until they can.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <sstream>

#include "schema/id_text.hpp"
#include "tests/supervisor/lending.hpp"
#include "tests/supervisor/work.hpp"

namespace ringlaunch::test {
namespace {

using schema::OnRestart;
using schema::StreamState;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A daemon whose next executors may be kept from starting.
struct Blockable {
    explicit Blockable(std::vector<std::string> options = {}) : daemon(with(std::move(options), folder)) {}
    static std::vector<std::string> with(std::vector<std::string> options, const Folder& folder) {
        options.insert(options.begin(),
                       {"driver=host", "first_delay_ms=10", "max_delay_ms=40",
                        "blocked_by=" + folder.file("blocked"), "log=" + folder.file("log")});
        return options;
    }
    void block(const std::string& what) const { std::ofstream(folder.file("blocked")) << what; }
    void unblock() const { ::unlink(folder.file("blocked").c_str()); }
    std::string log() const {
        std::ostringstream text;
        text << std::ifstream(folder.file("log")).rdbuf();
        return text.str();
    }
    // What `status` says of the one executor: its failure, its restarts.
    std::pair<std::string, unsigned> failure() const {
        RawClient operators(daemon.socket());
        operators.hello(kProtocolVersion, true);
        const Answer answer = operators.ask(
            schema::Request::GetStatus,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); });
        const auto& executors = *answer->answer_as_DaemonStatus()->executors();
        EXPECT_EQ(executors.size(), 1u);
        return {executors.size() == 0 ? "" : executors.Get(0)->failure()->str(),
                executors.size() == 0 ? 0 : executors.Get(0)->restarts()};
    }
    bool has_failed(unsigned times) const {
        return eventually([&] {
            const std::string text = failure().first;
            return !text.empty() && std::stoul(text) >= times;
        });
    }
    unsigned sessions() const {
        RawClient operators(daemon.socket());
        operators.hello(kProtocolVersion, true);
        return operators
            .ask(schema::Request::GetSessions,
                 [](flatbuffers::FlatBufferBuilder& builder) {
                     return schema::CreateGetSessions(builder).Union();
                 })
            ->answer_as_Sessions()
            ->total();
    }

    Folder folder;
    Daemon daemon;
};

std::uint32_t send_alloc(SessionClient& client, std::uint64_t bytes) {
    return client.send(schema::Request::AllocBuffer, [bytes](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAllocBuffer(builder, bytes).Union();
    });
}

void nobody_loses_anything_while_no_executor_can_be_started(const std::string& missing) {
    SCOPED_TRACE(missing);
    const Blockable blockable({"max_delay_ms=150"});
    Work work(blockable.daemon);
    Work other(blockable.daemon);
    auto leaver = std::make_unique<Work>(blockable.daemon);
    // More than a descriptor or two too many would hold of any of them.
    std::vector<std::unique_ptr<TestStream>> more;
    for (int i = 0; i < 4; ++i)
        for (Work* each : {&other, leaver.get()}) more.push_back(each->client.open_stream());
    const auto idle = work.client.open_stream();
    const auto going = work.client.open_stream();
    const auto again = work.client.open_stream(OnRestart::Rerun);
    const auto closed = work.client.open_stream();
    const auto stops = other.client.open_stream(OnRestart::Stop);
    for (unsigned i = 0; i < 20; ++i) ASSERT_TRUE(idle->reaches(work.append(*idle, i)));
    const std::uint64_t again_end = work.hold(*again);
    const std::uint64_t stops_begin = stops->completed();
    const std::uint64_t stops_end = other.hold(*stops);
    ASSERT_TRUE(eventually([&] { return again->issued() >= again_end && stops->issued() >= stops_end; }));

    blockable.block(missing);
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(blockable.has_failed(4));
    EXPECT_THAT(
        blockable.failure().first,
        AllOf(HasSubstr(" tries in "), HasSubstr(missing == "addresses" ? "the driver cannot be used: "
                                                                        : " could not be restored: ")));
    EXPECT_EQ(blockable.failure().second, 1u) << "a try is no restart";
    EXPECT_THAT(blockable.log(), HasSubstr("its sessions wait and keep what they have; the next try is in"));
    // Meanwhile: launches stand in their rings, small memory is there, large memory waits; who closes or
    // leaves need not wait; who comes is served like the others.
    work.append(*going, 100);
    work.append(*going, 101);
    EXPECT_NE(work.client.alloc(64).address, 0u);
    const std::uint32_t large = send_alloc(work.client, 32u << 20);
    work.client.close_stream(closed->id);
    leaver.reset();
    EXPECT_TRUE(eventually([&] { return blockable.sessions() == 2; }));
    RawClient late(blockable.daemon.socket());
    EXPECT_EQ(late.hello().status(), Status::ok);
    const std::uint32_t opening =
        late.send(schema::Request::OpenStream, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(builder, 64).Union();
        });
    ASSERT_TRUE(blockable.has_failed(8));
    EXPECT_EQ(blockable.sessions(), 3u);
    EXPECT_FALSE(work.client.kept_answer(large));

    blockable.unblock();
    EXPECT_EQ(work.client.answer(large).status(), Status::ok);
    EXPECT_EQ(late.answer(opening).status(), Status::ok);
    EXPECT_THAT(blockable.failure().first, IsEmpty());
    // What the death meant for each stream is what it means now.
    ASSERT_TRUE(settles(other.client, *stops, [&] { return stops->state() == StreamState::Stopped; }));
    EXPECT_EQ(static_cast<Status>(stops->status().error_status), Status::executor_killed)
        << stops->status().error_text;
    EXPECT_THAT(stops->status().error_text, HasSubstr("completed up to " + std::to_string(stops_begin) +
                                                      ", in doubt up to " + std::to_string(stops_end)));
    ASSERT_TRUE(settles(work.client, *work.side, [&] { return work.side->state() == StreamState::Running; }));
    ASSERT_TRUE(settles(work.client, *going, [&] { return going->state() == StreamState::Running; }));
    work.put(work.gate.address, 1);
    EXPECT_TRUE(settles(work.client, *again, [&] { return again->completed() >= again_end; }));
    EXPECT_TRUE(
        settles(work.client, *going, [&] { return going->completed() == going->producer.position(); }));
    EXPECT_EQ(work.look(work.count.address), 22u);
    for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(work.look(work.log.address + 4 * i), i);
    EXPECT_EQ(work.look(work.log.address + 4 * 20), 100u);
    EXPECT_EQ(work.look(work.log.address + 4 * 21), 101u);
    // Nobody is blamed for the tries.
    ASSERT_TRUE(
        settles(other.client, *other.side, [&] { return other.side->state() == StreamState::Running; }));
    other.put(other.gate.address, 1);
    EXPECT_EQ(other.client.resume(stops->id, true).status(), Status::ok);
    EXPECT_TRUE(stops->reaches(stops_end));
    EXPECT_FALSE(work.client.kept(schema::Answer::SessionWarning));
}

TEST(FailedRestart, WhereItCannotBeConfiguredForAWhileNobodyLosesAnything) {
    nobody_loses_anything_while_no_executor_can_be_started("addresses");
}

TEST(FailedRestart, WhereItsSessionsCannotBeRestoredForAWhileNobodyLosesAnything) {
    // For itself alone, just about. The address sanitizer's executor has more, and its checks make pipes.
#ifdef __SANITIZE_ADDRESS__
    nobody_loses_anything_while_no_executor_can_be_started("descriptors 17");
#else
    nobody_loses_anything_while_no_executor_can_be_started("descriptors 12");
#endif
}

TEST(FailedRestart, IsGivenUpAfterItsBoundWithATextThatSaysSoAndTheDaemonGoesOn) {
    const Blockable blockable({"patience_ms=300"});
    SessionClient client(blockable.daemon.socket());
    const auto stream = client.open_stream();
    client.alloc(4096);
    blockable.block("addresses");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    std::string told;
    while (const auto message = client.receive())
        if (!message->text().empty()) told = message->text();
    EXPECT_THAT(told, AllOf(HasSubstr("could not be started again, in "), ContainsRegex(" tries in [0-9]+ s"),
                            HasSubstr("the driver cannot be used: cannot reserve the address range"),
                            HasSubstr("given up, with their memory; the daemon goes on"),
                            HasSubstr("--restart-patience"), Not(HasSubstr("gone"))));
    EXPECT_TRUE(client.hung_up());
    EXPECT_TRUE(eventually([&] { return blockable.sessions() == 0; }));
    // Who comes now has nothing to lose and is not kept waiting.
    SessionClient unlucky(blockable.daemon.socket());
    unlucky.send(schema::Request::OpenStream, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateOpenStream(builder, 64).Union();
    });
    EXPECT_TRUE(unlucky.hung_up());
    blockable.unblock();
    SessionClient next(blockable.daemon.socket());
    EXPECT_NE(next.alloc(4096).address, 0u);
}

TEST(FailedRestart, TheDaemonLeavesWhenAskedWhileItTries) {
    Blockable blockable({"max_delay_ms=10000"});
    SessionClient client(blockable.daemon.socket());
    const auto stream = client.open_stream();
    blockable.block("addresses");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(blockable.has_failed(2));
    blockable.daemon.kill(SIGTERM);
    EXPECT_EQ(blockable.daemon.wait(), 0);
}

// ---- what one session alone cannot have

// Its executor has died, and one that serves it for good runs it.
bool comes_back(SessionClient& client, TestStream& stream) {
    if (!eventually([&] { return stream.state() == StreamState::Ended; })) return false;
    const std::uint64_t end = stream.event();
    return settles(client, stream, [&] { return stream.completed() >= end; });
}

// The module needs a stack of 4 MiB, which the host driver's threads have while the daemon may give as much.
struct Deep {
    explicit Deep(const Blockable& blockable) : daemon(blockable.daemon), work(blockable.daemon) {
        allow(8u << 20);
        EXPECT_EQ(::kill(daemon.executor(), SIGKILL), 0);  // of before
        EXPECT_TRUE(comes_back(work.client, *work.side));
        std::uint64_t bytes = 0;
        const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
        const Answer loaded = work.client.try_load(image, bytes, "deep", 4u << 20);
        EXPECT_EQ(loaded.status(), Status::ok) << loaded.text();
        work.put(work.log.address, 77);
    }
    void allow(rlim_t stack) const {
        const rlimit limit{stack, 8u << 20};
        EXPECT_EQ(::prlimit(daemon.pid(), RLIMIT_STACK, &limit, nullptr), 0);
    }
    // With the next executor its module cannot be loaded again.
    void refuse() const {
        allow(2u << 20);
        EXPECT_EQ(::kill(daemon.executor(), SIGKILL), 0);
    }
    std::string warning() {
        const auto warned = work.client.notice(schema::Answer::SessionWarning);
        return warned ? (*warned)->answer_as_SessionWarning()->error()->str() : "";
    }

    const Daemon& daemon;
    Work work;
};

std::vector<std::string> with_stack(std::vector<std::string> more = {}) {
    more.push_back("max_stack_bytes=8388608");
    return more;
}

TEST(FailedRestart, AModuleThatIsRefusedCostsNobodyButItsSessionWhichKeepsWhatItHas) {
    const Blockable blockable(with_stack());
    Deep deep(blockable);
    Work other(blockable.daemon);
    const auto stream = other.client.open_stream();
    deep.refuse();
    ASSERT_TRUE(comes_back(other.client, *stream));
    EXPECT_TRUE(stream->reaches(other.append(*stream, 1)));
    EXPECT_THAT(deep.warning(),
                AllOf(HasSubstr("session " + id_text(deep.work.client.session())),
                      HasSubstr("module deep could not be loaded again"),
                      HasSubstr("so one of 4194304 cannot be had"), HasSubstr("an executor of its own"),
                      HasSubstr("300 s (--restart-patience)")));
    EXPECT_FALSE(other.client.kept(schema::Answer::SessionWarning));
    ASSERT_TRUE(comes_back(other.client, *other.side));
    EXPECT_EQ(other.look(other.count.address), 1u);
    Work late(blockable.daemon);
    EXPECT_EQ(blockable.sessions(), 3u);
    EXPECT_TRUE(eventually([&] {
        return blockable.log().find("session " + id_text(deep.work.client.session()) + ": session") !=
               std::string::npos;
    })) << blockable.log();

    deep.allow(8u << 20);
    ASSERT_TRUE(comes_back(deep.work.client, *deep.work.side));
    EXPECT_EQ(deep.work.look(deep.work.log.address), 77u);
}

TEST(FailedRestart, WhatOneSessionCannotHaveForTooLongEndsThatSessionAndNamesIt) {
    const Blockable blockable(with_stack({"patience_ms=300"}));
    Deep deep(blockable);
    Work other(blockable.daemon);
    deep.refuse();
    std::string told;
    while (const auto message = deep.work.client.receive())
        if (!message->text().empty()) told = message->text();
    EXPECT_THAT(told, AllOf(HasSubstr("the executor of session " + id_text(deep.work.client.session())),
                            HasSubstr("could not be started again"),
                            HasSubstr("module deep could not be loaded again"),
                            HasSubstr("so one of 4194304 cannot be had")));
    EXPECT_TRUE(deep.work.client.hung_up());
    ASSERT_TRUE(comes_back(other.client, *other.side));
    EXPECT_EQ(other.look(other.count.address), 0u);
}

// It has the executor to itself, so far.
TEST(FailedRestart, WhoComesNeedNotWaitForWhatAnotherSessionCannotHave) {
    const Blockable blockable(with_stack());
    Deep deep(blockable);
    deep.refuse();
    ASSERT_TRUE(blockable.has_failed(3));
    EXPECT_FALSE(deep.work.client.kept(schema::Answer::SessionWarning)) << "nobody is beside it";
    Work late(blockable.daemon);
    const auto stream = late.client.open_stream();
    EXPECT_TRUE(stream->reaches(late.append(*stream, 1)));
    EXPECT_THAT(deep.warning(), HasSubstr("module deep could not be loaded again"));
}

// Not in the time of a test.
const std::vector<std::string> kNoSecondTry{"first_delay_ms=120000", "max_delay_ms=120000"};

TEST(FailedRestart, WhoComesDoesNotWaitForTheNextTryOfASessionThatIsAlone) {
    const Blockable blockable(kNoSecondTry);
    Work bad(blockable.daemon);
    bad.client.load_file(TEST_BAD_AGAIN);
    blockable.block("module segv");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(blockable.has_failed(1));
    // One that it is not alone in, which is the second, tells.
    Work late(blockable.daemon);
    EXPECT_EQ(late.look(late.count.address), 0u);
    const auto warned = bad.client.notice(schema::Answer::SessionWarning);
    ASSERT_TRUE(warned);
    EXPECT_THAT((*warned)->answer_as_SessionWarning()->error()->str(),
                HasSubstr("could not be loaded again"));
}

TEST(FailedRestart, WhoWasRefusedOftenEnoughAloneMakesWayAtOnce) {
    const Blockable blockable({"first_delay_ms=2000", "max_delay_ms=120000"});
    Work bad(blockable.daemon);
    bad.client.load_file(TEST_BAD_AGAIN);
    bad.put(bad.log.address, 77);
    blockable.block("module segv");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(blockable.has_failed(2));
    Work late(blockable.daemon);
    EXPECT_EQ(late.look(late.count.address), 0u);
    ASSERT_TRUE(bad.client.notice(schema::Answer::SessionWarning));
    EXPECT_THAT(blockable.log(), Not(HasSubstr("(3 tries")));
    blockable.unblock();
    ASSERT_TRUE(comes_back(bad.client, *bad.side));
    EXPECT_EQ(bad.look(bad.log.address), 77u);
}

TEST(FailedRestart, ADelayEndsWithTheSessionThatCannotBeRestored) {
    const Blockable blockable(kNoSecondTry);
    auto bad = std::make_unique<Work>(blockable.daemon);
    bad->client.load_file(TEST_BAD_AGAIN);
    blockable.block("module segv");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(blockable.has_failed(1));
    bad.reset();
    EXPECT_NE(blockable.daemon.executor(), 0);
    Work late(blockable.daemon);
    EXPECT_EQ(late.look(late.count.address), 0u);
}

// A session whose module does harm to who loads it again (bad_again.cu), beside another.
struct Harm {
    explicit Harm(std::vector<std::string> options = {})
        : blockable(std::move(options)), bad(blockable.daemon), other(blockable.daemon) {
        bad.client.load_file(TEST_BAD_AGAIN);
        bad.put(bad.log.address, 77);
    }
    void begin(const std::string& how) const {
        blockable.block("module " + how);
        EXPECT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    }
    bool other_goes_on() {
        return comes_back(other.client, *other.side) && other.look(other.count.address) == 0;
    }
    std::string warning() {
        const auto warned = bad.client.notice(schema::Answer::SessionWarning);
        return warned ? (*warned)->answer_as_SessionWarning()->error()->str() : "";
    }
    bool bad_has_all() { return comes_back(bad.client, *bad.side) && bad.look(bad.log.address) == 77; }

    const Blockable blockable;
    Work bad, other;
};

void costs_nobody_but_its_session(const std::string& how, const std::string& death) {
    SCOPED_TRACE(how);
    // Of the others none waits for the bound: under a sanitizer a process takes a second to end.
    Harm harm({how == "hang" ? "load_timeout_ms=300" : "load_timeout_ms=20000", "patience_ms=20000"});
    harm.begin(how);
    ASSERT_TRUE(harm.other_goes_on()) << harm.blockable.log();
    EXPECT_THAT(harm.warning(), AllOf(HasSubstr("module supervisor_bad_again.so could not be loaded again"),
                                      HasSubstr(death), HasSubstr("an executor of its own")));
    EXPECT_FALSE(harm.other.client.kept(schema::Answer::SessionWarning));
    harm.blockable.unblock();
    if (how == "hang")  // the one that hangs has a start's time otherwise
        for (const pid_t each : harm.blockable.daemon.executors()) ::kill(each, SIGKILL);
    EXPECT_TRUE(harm.bad_has_all());
}

TEST(FailedRestart, AModuleThatKillsWhoLoadsItAgainCostsNobodyButItsSession) {
    costs_nobody_but_its_session("segv", "caught SIGSEGV");
}

TEST(FailedRestart, AModuleWhoseLoadEndsTheExecutorCostsNobodyButItsSession) {
    costs_nobody_but_its_session("exit", "left by itself with exit status 0 while it did this");
}

TEST(FailedRestart, AModuleWhoseLoadKillsTheExecutorEachTimeCostsNobodyButItsSession) {
    costs_nobody_but_its_session("kill", "was killed by SIGKILL while it did this, in 3 tries in a row");
}

TEST(FailedRestart, AModuleThatHangsWhenLoadedAgainCostsOthersTheBoundOfALoad) {
    costs_nobody_but_its_session("hang", "a part of its sessions was not restored after 300 ms");
}

// It may have come from outside.
TEST(FailedRestart, AKillDuringALoadIsNotTheModulesUnlessItComesAgain) {
    Harm harm;
    harm.begin("kill 2");
    ASSERT_TRUE(harm.other_goes_on());
    EXPECT_TRUE(harm.bad_has_all());
    EXPECT_FALSE(harm.bad.client.kept(schema::Answer::SessionWarning));
    EXPECT_EQ(harm.blockable.daemon.executors().size(), 1u);
}

TEST(FailedRestart, AModuleThatIsSlowToLoadHasTheTimeItNeedsWhereNobodyWaitsForIt) {
    Harm harm({"load_timeout_ms=300"});
    harm.begin("slow");
    ASSERT_TRUE(harm.other_goes_on());
    EXPECT_THAT(harm.warning(), HasSubstr("not restored after 300 ms"));
    EXPECT_TRUE(harm.bad_has_all());
    EXPECT_EQ(harm.blockable.daemon.executors().size(), 2u);
}

TEST(FailedRestart, AModuleThatAllOfItsExecutorHaveIsWaitedFor) {
    Harm harm({"load_timeout_ms=300"});
    harm.other.client.load_file(TEST_BAD_AGAIN);
    harm.begin("slow");
    ASSERT_TRUE(harm.other_goes_on());
    EXPECT_TRUE(harm.bad_has_all());
    EXPECT_EQ(harm.blockable.daemon.executors().size(), 1u);
}

// What is awaited stands in a session that has no executor for a while.
void a_wait_for_who_is_away(bool awaited_first, bool borrowed_before, bool leaves) {
    SCOPED_TRACE(std::string(awaited_first ? "awaited first" : "waiter first") +
                 (borrowed_before ? ", borrowed before" : ", borrowed while it is away") +
                 (leaves ? ", which leaves" : ""));
    const Blockable blockable;
    std::optional<Work> away, other;
    if (awaited_first) away.emplace(blockable.daemon);
    other.emplace(blockable.daemon);
    if (!awaited_first) away.emplace(blockable.daemon);
    away->client.load_file(TEST_BAD_AGAIN);
    const auto awaited = away->client.open_stream(), waiting = other->client.open_stream();
    const std::uint64_t past = away->append(*awaited, 1);
    ASSERT_TRUE(awaited->reaches(past));
    if (borrowed_before) lend_stream(away->client, *awaited, other->client);
    blockable.block("module segv");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(comes_back(other->client, *other->side));
    ASSERT_TRUE(comes_back(other->client, *waiting));
    ASSERT_TRUE(away->client.notice(schema::Answer::SessionWarning));
    if (!borrowed_before) lend_stream(away->client, *awaited, other->client);
    // What has come has come; what has not is held for.
    waiting->wait_for(awaited->id, past);
    ASSERT_TRUE(waiting->reaches(other->append(*waiting, 2))) << waiting->status().error_text;
    const std::uint64_t position = away->append(*awaited, 3);
    waiting->wait_for(awaited->id, position);
    const std::uint64_t end = other->append(*waiting, 4);
    ::usleep(100'000);
    ASSERT_EQ(waiting->state(), StreamState::Running) << waiting->status().error_text;
    EXPECT_LT(waiting->completed(), end);
    if (leaves) {
        away.reset();
        ASSERT_TRUE(eventually([&] { return waiting->state() == StreamState::Stopped; }));
        EXPECT_EQ(static_cast<Status>(waiting->status().error_status), Status::awaited_stream_stopped);
        EXPECT_EQ(other->look(other->count.address), 1u);
        return;
    }
    blockable.unblock();
    ASSERT_TRUE(waiting->reaches(end)) << waiting->status().error_text;
    ASSERT_TRUE(comes_back(away->client, *awaited));
    EXPECT_GE(awaited->completed(), position);
    EXPECT_EQ(other->look(other->count.address), 2u);
    ASSERT_TRUE(comes_back(away->client, *away->side));
    EXPECT_EQ(away->look(away->count.address), 2u);
}

TEST(FailedRestart, AWaitForASessionThatIsAwayGoesOnOnceItIsBackOrIsToldThatItLeft) {
    for (const bool awaited_first : {true, false})
        for (const bool borrowed_before : {true, false})
            for (const bool leaves : {true, false})
                a_wait_for_who_is_away(awaited_first, borrowed_before, leaves);
}

// Each of them fits by itself, both together do not: one of them goes, and both have all that they had.
TEST(FailedRestart, WhatDoesNotFitIntoOneExecutorIsServedByTwo) {
    const Blockable blockable;
    Work small(blockable.daemon), big(blockable.daemon);
    std::vector<std::unique_ptr<TestStream>> few, many;
    for (unsigned i = 0; i < 16; ++i) few.push_back(small.client.open_stream());
    for (unsigned i = 0; i < 40; ++i) many.push_back(big.client.open_stream());
    small.put(small.log.address, 1);
    big.put(big.log.address, 2);
    blockable.block("descriptors 64");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    const auto back = [](Work& work, std::vector<std::unique_ptr<TestStream>>& streams) {
        for (auto& stream : streams)
            if (!comes_back(work.client, *stream)) return false;
        return comes_back(work.client, *work.side);
    };
    ASSERT_TRUE(back(small, few)) << blockable.log();
    ASSERT_TRUE(back(big, many)) << blockable.log();
    EXPECT_EQ(blockable.daemon.executors().size(), 2u);
    EXPECT_EQ(small.look(small.log.address), 1u);
    EXPECT_EQ(big.look(big.log.address), 2u);
    EXPECT_THAT(blockable.log(), HasSubstr("gets an executor of its own: session"));
}

// It comes first by age, and would leave nothing for others.
TEST(FailedRestart, ASessionThatCannotBeHadTakesNothingFromOthers) {
    const Blockable blockable({"max_delay_ms=1000"});
    Work big(blockable.daemon);
    std::vector<std::unique_ptr<TestStream>> many;
    for (unsigned i = 0; i < 40; ++i) many.push_back(big.client.open_stream());
    big.put(big.log.address, 2);
    Work small(blockable.daemon), late(blockable.daemon);
    small.put(small.log.address, 1);
    blockable.block("descriptors 50");
    ASSERT_EQ(::kill(blockable.daemon.executor(), SIGKILL), 0);
    ASSERT_TRUE(comes_back(small.client, *small.side)) << blockable.log();
    ASSERT_TRUE(comes_back(late.client, *late.side)) << blockable.log();
    EXPECT_EQ(small.look(small.log.address), 1u);
    EXPECT_FALSE(small.client.kept(schema::Answer::SessionWarning));
    const auto warned = big.client.notice(schema::Answer::SessionWarning);
    ASSERT_TRUE(warned);
    EXPECT_EQ(static_cast<Status>((*warned)->answer_as_SessionWarning()->status()), Status::limit_reached);
    EXPECT_THAT(blockable.log(), Not(HasSubstr("5 tries")));
    blockable.unblock();
    ASSERT_TRUE(comes_back(big.client, *big.side));
    EXPECT_EQ(big.look(big.log.address), 2u);
}

// The one that was moved, too: its new executor was never ready, and it has something to lose.
TEST(FailedRestart, ASessionThatWasGivenAnExecutorOfItsOwnKeepsWhatItHas) {
    const Blockable blockable({"own_executor_at=2"});
    Work bully(blockable.daemon);
    bully.put(bully.log.address, 77);
    for (unsigned death = 1; death <= 2; ++death) {
        const auto bad = bully.client.open_stream();
        if (death == 2) blockable.block("addresses");
        bad->launch(bully.client.kernel("crash"), pack(std::uint64_t{0}));
        if (death == 1) {
            ASSERT_TRUE(settles(bully.client, *bad, [&] { return bad->state() == StreamState::Stopped; }));
            ASSERT_TRUE(settles(bully.client, *bully.side, [] { return true; }));
        }
    }
    EXPECT_TRUE(eventually([&] {
        const std::string text = blockable.log();
        return text.find("session 0: the driver cannot be used") != std::string::npos;
    })) << blockable.log();
    blockable.unblock();
    ASSERT_TRUE(settles(bully.client, *bully.side, [] { return true; }));
    EXPECT_EQ(bully.look(bully.log.address), 77u);
}

}  // namespace
}  // namespace ringlaunch::test
