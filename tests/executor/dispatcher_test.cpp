// The dispatcher's turns, one by one: order, fairness, bounds, completion, stops and resumes, closing,
// counters.
#include "daemon/executor/dispatcher.hpp"

#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "schema/counters.hpp"
#include "schema/error.hpp"
#include "tests/executor/harness.hpp"

namespace ringlaunch::executor::test {
namespace {

using schema::RecordKind;
using schema::StreamState;

class SmallBatches : public DispatcherTest {
  protected:
    SmallBatches() : DispatcherTest(config()) {}
    static DispatcherConfig config() {
        DispatcherConfig config;
        config.max_batch = 8;
        config.max_in_flight = 32;
        return config;
    }
};

// ---- turns

TEST_F(SmallBatches, AGreaterPriorityIsServedBeforeEachLesserTurnAndNobodyStarves) {
    ClientStream low(kSession, make_id(0)), also_low(kSession, make_id(1)), high(kSession, make_id(2)),
        highest(kSession, make_id(3));
    open(low);
    open(high, [](StreamSetup& setup) { setup.priority = 2; });
    open(also_low);
    open(highest, [](StreamSetup& setup) { setup.priority = 5; });
    for (ClientStream* each : {&low, &also_low, &high, &highest})
        for (int i = 0; i < 30; ++i) each->put_launch(kEmpty, {});
    // One round: a batch of 8 each, and another of the greater before each lesser one.
    dispatcher.do_work();
    EXPECT_EQ(low.issued(), 8u);
    EXPECT_EQ(also_low.issued(), 8u);
    EXPECT_EQ(high.issued(), 24u);
    EXPECT_EQ(highest.issued(), 30u);
    dispatcher.do_work();
    EXPECT_EQ(low.issued(), 16u) << "its turn comes, however much is above it";
    EXPECT_EQ(also_low.issued(), 16u);
    EXPECT_EQ(high.issued(), 30u);
    work();
    for (ClientStream* each : {&low, &also_low, &high, &highest}) EXPECT_EQ(each->completed(), 30u);
}

TEST_F(SmallBatches, StreamsOfOnePriorityHaveOneBatchEachARound) {
    ClientStream one(kSession, make_id(0)), two(kSession, make_id(1)), three(kSession, make_id(2));
    for (ClientStream* each : {&one, &two, &three}) {
        open(*each);
        for (int i = 0; i < 30; ++i) each->put_launch(kEmpty, {});
    }
    dispatcher.do_work();
    for (ClientStream* each : {&one, &two, &three}) EXPECT_EQ(each->issued(), 8u);
}

// ---- order
// ---------------------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, RecordsReachTheDriverInOrderAndWithTheirParameters) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    int sent = 0;
    std::vector<std::uint64_t> ends;
    for (int round = 0; round < 40;
         ++round) {  // many laps of the ring, with padding where a record would wrap
        for (int i = 0; i < 37; ++i) {
            if (i % 5 == 4) client.put_launch(kEmpty, {});
            if (i % 5 != 4) put_saxpy(client, sent++);
        }
        work();
        ASSERT_EQ(client.completed(), client.producer.position());
    }
    int seen = 0;
    std::uint64_t last = 0;
    for (const Operation& operation : device(port).operations) {
        EXPECT_GE(operation.position, last);
        last = operation.end;
        if (operation.end - operation.position != 2) continue;
        EXPECT_EQ(operation.word, static_cast<std::uint32_t>(seen++));
    }
    EXPECT_EQ(seen, sent);
    EXPECT_GT(client.page->counters.paddings.load(), 0u);
    EXPECT_EQ(client.state(), StreamState::Running);
}

TEST_F(DispatcherTest, IssuedIsPublishedBeforeTheDriverIsCalled) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    for (int i = 0; i < 20; ++i) put_saxpy(client);
    schema::FillRecord fill{};
    fill.mutate_kind(RecordKind::Fill);
    fill.mutate_width(1);
    fill.mutate_bytes(16);
    fill.mutate_device(base());
    client.put(fill);
    work();
    const ScriptedStream& stream = device(port);
    ASSERT_EQ(stream.operations.size(), 21u);
    for (std::size_t i = 0; i < stream.operations.size(); ++i)
        EXPECT_GE(stream.issued_seen[i], stream.operations[i].end) << i;
    EXPECT_GT(stream.longest_chain, 1u);
}

TEST_F(DispatcherTest, ARecordThatIsNotPublishedIsNotTaken) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    put_saxpy(client);
    client.ring[2].stamp.store(3 | kContinuation);  // a continuation where a head should be
    work();
    EXPECT_EQ(device(port).operations.size(), 1u);
    client.ring[2].stamp.store(3 - 256);  // the stamp of a lap ago
    work();
    EXPECT_EQ(device(port).operations.size(), 1u);
    EXPECT_EQ(client.state(), StreamState::Running);
}

TEST_F(DispatcherTest, CoalescingOffLaunchesOneByOne) {
    ClientStream client(kSession, make_id(0)), neighbour(kSession, make_id(1));
    StreamPort& port = open(client, [](StreamSetup& setup) { setup.coalesce = false; });
    StreamPort& other = open(neighbour);
    for (int i = 0; i < 10; ++i) {
        put_saxpy(client);
        put_saxpy(neighbour);
    }
    work();
    EXPECT_EQ(device(port).operations.size(), 10u);
    EXPECT_EQ(device(port).longest_chain, 0u);
    EXPECT_EQ(device(other).longest_chain, 10u) << "it is the stream's own";
}

// ---- fairness and bounds
// ---------------------------------------------------------------------------------------------

TEST_F(SmallBatches, AFloodingStreamDelaysALightOneByAtMostOneBatch) {
    ClientStream flood(kSession, make_id(0)), light(kSession, make_id(1));
    StreamPort& flooding = open(flood);
    StreamPort& lit = open(light);
    for (int round = 0; round < 50; ++round) {
        while (flood.producer.reserve(2, flood.page->completed) == Status::ok) put_saxpy(flood);
        put_saxpy(light);
        const std::size_t flooded = device(flooding).operations.size(),
                          before = device(lit).operations.size();
        dispatcher.do_work();
        EXPECT_EQ(device(lit).operations.size(), before + 1)
            << "its next record goes within one round of turns";
        EXPECT_LE(device(flooding).operations.size() - flooded, 8u);
    }
    EXPECT_GT(flood.producer.position(), 50u * 8);
}

TEST_F(SmallBatches, InFlightIsBoundedAndTheRestStaysInTheRing) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    for (int i = 0; i < 60; ++i) put_saxpy(client);
    work();
    EXPECT_EQ(device(port).operations.size(), 32u);
    EXPECT_EQ(client.issued(), 64u);
    EXPECT_EQ(client.completed(), 0u);
    EXPECT_GT(client.page->counters.held_turns.load(), 0u);

    device(port).run_to(device(port).asked.front());
    const std::uint64_t done = client.completed();
    ASSERT_GT(done, 0u);
    work();
    EXPECT_EQ(device(port).operations.size(), std::min<std::size_t>(60, 32 + done / 2));
    device(port).run_all();
    work();
    device(port).run_all();
    EXPECT_EQ(device(port).operations.size(), 60u);
    EXPECT_EQ(client.completed(), 120u);
}

TEST_F(SmallBatches, ABlockedStreamDoesNotHoldUpOthersAndTheBoundInAllLeavesEachItsShare) {
    driver.completes_at_once = false;
    std::vector<std::unique_ptr<ClientStream>> clients;
    for (std::uint32_t i = 0; i < 6; ++i) {
        clients.push_back(std::make_unique<ClientStream>(kSession, make_id(i)));
        open(*clients.back());
        if (i < 4)
            for (int j = 0; j < 60; ++j) put_saxpy(*clients.back());
    }
    work();
    EXPECT_LE(dispatcher.in_flight(), 2u * 32 + 2 * (2 * 32 / 6 + 1));
    for (int i = 4; i < 6; ++i) put_saxpy(*clients[static_cast<std::size_t>(i)]);
    work();
    for (int i = 0; i < 6; ++i)
        EXPECT_GE(device(*ports[static_cast<std::size_t>(i)]).operations.size(), 1u)
            << "stream " << i << " starves";
}

TEST_F(DispatcherTest, WhatTheDriverHasNoRoomForIsTriedAgainAndIsNotInDoubt) {
    driver.completes_at_once = false;
    driver.room = 5;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    for (int i = 0; i < 12; ++i) put_saxpy(client, i);
    for (int i = 0; i < 5; ++i) dispatcher.do_work();
    EXPECT_EQ(device(port).operations.size(), 5u);
    EXPECT_EQ(client.issued(), 10u);
    EXPECT_EQ(client.state(), StreamState::Running);
    while (device(port).operations.size() < 12) {
        const std::size_t before = device(port).operations.size();
        device(port).run_all();
        work();
        ASSERT_GT(device(port).operations.size(), before);
    }
    device(port).run_all();
    for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(device(port).operations[i].word, i);
    EXPECT_EQ(client.completed(), 24u);
}

// ---- completion
// ------------------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, CompletionIsAskedForAtTheEndOfABacklog) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    for (int i = 0; i < 3; ++i) put_saxpy(client);
    dispatcher.do_work();
    EXPECT_EQ(device(port).asked, std::vector<std::uint64_t>{6});
    work();
    EXPECT_EQ(device(port).asked.size(), 1u) << "once is enough";
}

TEST_F(SmallBatches, CompletionIsAskedForWithinABacklogEvery32RecordsAndWhereTheRingIsNearFull) {
    ClientStream large(kSession, make_id(0), 1024), small(kSession, make_id(1), 64);
    StreamPort& first = open(large);
    StreamPort& second = open(small);
    for (int i = 0; i < 128; ++i) large.put_launch(kEmpty, {});
    for (int i = 0; i < 30; ++i) put_saxpy(small);
    for (int i = 0; i < 7; ++i) dispatcher.do_work();
    const auto& asked = device(first).asked;
    ASSERT_GE(asked.size(), 1u);
    for (std::size_t i = 0; i < asked.size(); ++i) EXPECT_LE(asked[i] - (i == 0 ? 0 : asked[i - 1]), 40u);
    for (std::size_t i = 1; i < device(second).asked.size(); ++i)
        EXPECT_LE(device(second).asked[i] - device(second).asked[i - 1], 32u);
}

TEST_F(SmallBatches, ForceCompletionEventsAndSleepersAreAnsweredWithinABacklog) {
    ClientStream forced(kSession, make_id(0), 1024), event(kSession, make_id(1), 1024),
        slept(kSession, make_id(2), 1024);
    StreamPort& first = open(forced);
    StreamPort& second = open(event);
    StreamPort& third = open(slept);
    forced.put_launch(kEmpty, {}, [](auto& r) { r.mutate_flags(schema::RecordFlag::ForceCompletion); });
    event.put_event();
    slept.header->wait_position = 1;
    for (ClientStream* client : {&forced, &event, &slept})
        for (int i = 0; i < 30; ++i) client->put_launch(kEmpty, {});
    dispatcher.do_work();
    for (StreamPort* port : {&first, &second, &third}) EXPECT_EQ(device(*port).asked.size(), 1u);
    EXPECT_EQ(slept.take_wakes(), 1u);
}

TEST_F(DispatcherTest, PaddingAndEventsAtTheEndAreMovedOver) {
    ClientStream client(kSession, make_id(0), 64);
    open(client);
    for (int i = 0; i < 31; ++i) put_saxpy(client);
    client.put_launch(kEmpty, {});  // 63 slots: the next launch of two needs padding
    work();
    EXPECT_EQ(client.completed(), 63u);
    EXPECT_EQ(put_saxpy(client), 66u);
    work();
    EXPECT_EQ(client.completed(), 66u);
    EXPECT_EQ(client.put_event(), 67u);
    work();
    EXPECT_EQ(client.completed(), 67u);
    EXPECT_EQ(client.issued(), 67u);
    EXPECT_TRUE(dispatcher.nothing_in_flight());
}

// ---- sleepers
// --------------------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, ASleeperIsWokenOnceForItsPosition) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    const std::uint64_t end = put_saxpy(client);
    client.header->wait_position = end;
    work();
    EXPECT_EQ(client.take_wakes(), 0u);
    dispatcher.arm();
    EXPECT_EQ(device(port).notified, std::vector<std::uint64_t>{end});
    EXPECT_FALSE(readable(driver.completion_fd()));
    device(port).run_all();
    EXPECT_TRUE(readable(driver.completion_fd()));
    for (int i = 0; i < 5; ++i) dispatcher.do_work();
    EXPECT_EQ(client.take_wakes(), 1u) << "once for a value";
    client.header->wait_position = 0;
    work();
    client.header->wait_position = end - 1;  // reached already
    work();
    EXPECT_EQ(client.take_wakes(), 1u);
    EXPECT_EQ(client.page->counters.wakeups.load(), 2u);
}

TEST_F(DispatcherTest, WhatADriverDoesNotWriteToThePageIsPublishedAndWaitedForWithoutASleeper) {
    driver.completes_at_once = false;
    driver.publishes = true;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    device(port).run_to(put_saxpy(client));  // whose latency is sampled, which is waited for in any case
    work();
    EXPECT_EQ(client.completed(), client.issued());
    const std::uint64_t first = put_saxpy(client);
    work();
    const std::uint64_t end = put_saxpy(client);
    work();
    const std::int64_t sleep_us = dispatcher.arm();
    EXPECT_TRUE(sleep_us > 0 && sleep_us <= 10'000) << sleep_us << ": what is done meanwhile is to be seen";
    EXPECT_EQ(device(port).notified, std::vector<std::uint64_t>{end}) << "nobody else would look";
    device(port).run_to(first);
    EXPECT_FALSE(readable(driver.completion_fd()));
    work();
    EXPECT_EQ(client.completed(), first);
    device(port).run_all();
    EXPECT_TRUE(readable(driver.completion_fd()));
    EXPECT_EQ(client.completed(), first);
    work();
    EXPECT_EQ(client.completed(), end);
    EXPECT_TRUE(dispatcher.nothing_in_flight());
    dispatcher.disarm();
    EXPECT_NE(dispatcher.arm(), sleep_us);
    EXPECT_EQ(device(port).notified.size(), 1u) << "and nothing more to wait for";
}

// The device runs on, and nobody waits for its end: the dispatcher looks by itself, less and less often.
TEST_F(DispatcherTest, WhatADriverCannotSignalIsLookedAtAfterShortSleeps) {
    driver.completes_at_once = false;
    driver.notifies_last_only = true;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    const std::uint64_t first = put_saxpy(client);
    work();
    const std::uint64_t last = put_saxpy(client);
    work();
    client.header->wait_position = first;
    EXPECT_EQ(dispatcher.arm(), 50);
    EXPECT_TRUE(device(port).notified.empty());
    EXPECT_EQ(dispatcher.arm(), 100);
    for (int i = 0; i < 10; ++i) dispatcher.arm();
    EXPECT_EQ(dispatcher.arm(), 2000) << "no longer than this";
    device(port).run_to(first);
    work();
    EXPECT_EQ(client.take_wakes(), 1u);
    client.header->wait_position = last;
    EXPECT_GT(dispatcher.arm(), 2000);
    EXPECT_EQ(device(port).notified, std::vector<std::uint64_t>{last}) << "nothing is behind it";
}

// With much in flight a stream is left alone until there is a chain to take, or little is left.
TEST_F(DispatcherTest, ABusyStreamGathersWhatComes) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0), 1024);
    StreamPort& port = open(client);
    std::vector<std::uint64_t> ends;
    const auto put = [&](int records) {
        for (int i = 0; i < records; ++i) ends.push_back(put_saxpy(client));
        work();
    };
    for (int i = 0; i < 24; ++i) put(1);
    EXPECT_EQ(client.issued(), ends.back()) << "not yet busy";
    put(1);
    EXPECT_EQ(client.issued(), ends[24]);
    put(10);
    EXPECT_EQ(client.issued(), ends[24]) << "25 are in flight";
    device(port).run_to(ends[24 - 9]);
    work();
    EXPECT_EQ(client.issued(), ends[24]) << "9 are left";
    device(port).run_to(ends[24 - 8]);
    work();
    EXPECT_EQ(client.issued(), ends.back()) << "8 are left";
    put(20);
    EXPECT_EQ(client.issued(), ends[34 + 20]) << "18 were in flight";
    put(200);
    EXPECT_GE(client.issued(), ends[34 + 20 + 64]) << "a long chain has come";
    device(port).run_all();
    for (int i = 0; i < 10; ++i) {
        work();
        device(port).run_all();
    }
    EXPECT_EQ(client.completed(), ends.back());
}

// The device does not wait for the dispatcher to fall asleep: what it completes between the last look and
// arm() is seen by neither, and nobody signals it.
TEST_F(DispatcherTest, WhatCompletesBetweenTheLastLookAndSleepIsLookedAtAtOnce) {
    driver.completes_at_once = false;
    ClientStream gathering(kSession, make_id(0), 1024), waited(kSession, make_id(1));
    StreamPort& gathering_port = open(gathering);
    StreamPort& waited_port = open(waited);
    for (int i = 0; i < 40; ++i) {
        put_saxpy(gathering);
        work();
    }
    ASSERT_TRUE(gathering_port.deep);
    const std::uint64_t issued = gathering.issued();
    ASSERT_LT(issued, gathering.producer.position()) << "the rest is gathered";
    const std::uint64_t end = put_saxpy(waited);
    waited.header->wait_position = end;
    work();
    device(gathering_port).run_all();
    EXPECT_EQ(dispatcher.arm(), 0) << "room for what was gathered";
    work();
    EXPECT_EQ(gathering.issued(), gathering.producer.position());
    device(waited_port).run_all();
    EXPECT_EQ(dispatcher.arm(), 0) << "a sleeper's position";
    EXPECT_EQ(waited.take_wakes(), 0u);
    work();
    EXPECT_EQ(waited.take_wakes(), 1u);
    EXPECT_NE(dispatcher.arm(), 0);
}

TEST_F(DispatcherTest, AStreamThatGathersWakesNobodyForAnother) {
    driver.completes_at_once = false;
    ClientStream busy(kSession, make_id(0), 1024), other(kSession, make_id(1));
    StreamPort& busy_port = open(busy);
    StreamPort& other_port = open(other);
    const std::uint64_t first = put_saxpy(other);  // is timed, and so waited for
    work();
    device(other_port).run_to(first);
    work();
    put_saxpy(other);
    for (int i = 0; i < 30; ++i) {
        put_saxpy(busy);
        work();
    }
    EXPECT_TRUE(busy_port.deep);
    dispatcher.arm();
    EXPECT_TRUE(device(other_port).notified.empty()) << "nobody waits for it, and the bound in all is far";
    EXPECT_FALSE(device(busy_port).notified.empty());
}

TEST_F(DispatcherTest, AStreamThatWasNotToBeCoalescedGathersNothing) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0), 1024);
    open(client, [](StreamSetup& setup) { setup.coalesce = false; });
    for (int i = 0; i < 40; ++i) {
        const std::uint64_t end = put_saxpy(client);
        work();
        EXPECT_EQ(client.issued(), end);
    }
}

TEST_F(DispatcherTest, APositionThatIsNotIssuedIsNotArmed) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    client.header->wait_position = 5;
    work();
    dispatcher.arm();
    EXPECT_TRUE(device(port).notified.empty());
    EXPECT_EQ(client.take_wakes(), 0u);
}

TEST_F(DispatcherTest, ASleeperOfAStoppingStreamIsWoken) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    open(client);
    client.header->wait_position = 100;
    client.put_raw(RecordKind::None);
    work();
    EXPECT_EQ(client.state(), StreamState::Stopped);
    EXPECT_EQ(client.take_wakes(), 1u);
}

TEST_F(DispatcherTest, AWakeEventfdThatTheClientFilledHoldsNobodyUp) {
    ClientStream client(kSession, make_id(0));
    open(client);
    const std::uint64_t full = ~std::uint64_t{0} - 1;
    ASSERT_EQ(::write(client.wake_fd.get(), &full, sizeof full), 8);
    ASSERT_EQ(::fcntl(client.wake_fd.get(), F_SETFL, 0), 0);  // a write would block now
    client.header->wait_position = put_saxpy(client);
    work();
    EXPECT_EQ(client.completed(), 2u);
}

TEST_F(DispatcherTest, NeedWakeupIsSetAndTakenBackOnEveryPageAndNumbersTheSleep) {
    ClientStream one(kSession, make_id(0)), two(kSession, make_id(1));
    open(one);
    open(two);
    for (std::uint64_t sleep = 1; sleep <= 3; ++sleep) {
        dispatcher.announce_sleep();
        EXPECT_EQ(one.page->need_wakeup.load(), sleep);
        EXPECT_EQ(two.page->need_wakeup.load(), sleep);
        dispatcher.announce_awake();
        EXPECT_EQ(one.page->need_wakeup.load(), 0u);
        EXPECT_EQ(two.page->need_wakeup.load(), 0u);
    }
}

// ---- waits between streams
// -------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, AWaitHoldsItsStreamOnlyUntilThePositionIsIssued) {
    driver.completes_at_once = false;
    ClientStream maker(kSession, make_id(0)), waiter(kSession, make_id(1)), other(kSession, make_id(2));
    StreamPort& made = open(maker);
    StreamPort& waited = open(waiter);
    StreamPort& apart = open(other);
    waiter.put_wait(maker.id, 2);
    put_saxpy(waiter);
    put_saxpy(other);
    work();
    EXPECT_TRUE(device(waited).operations.empty());
    EXPECT_EQ(device(apart).operations.size(), 1u);
    EXPECT_EQ(waiter.issued(), 0u);
    EXPECT_GT(waiter.page->counters.held_turns.load(), 0u);

    put_saxpy(maker);
    work();
    ASSERT_EQ(device(waited).waits.size(), 1u);
    EXPECT_EQ(device(waited).waits[0].first, &device(made));
    EXPECT_EQ(device(waited).waits[0].second, 2u);
    EXPECT_EQ(device(waited).operations.size(), 2u);
    for (StreamPort* port : {&made, &waited, &apart}) device(*port).run_all();
}

TEST_F(DispatcherTest, AWaitForWhatHasCompletedAsksTheDriverNothing) {
    ClientStream maker(kSession, make_id(0)), waiter(kSession, make_id(1));
    open(maker);
    StreamPort& waited = open(waiter);
    put_saxpy(maker);
    work();
    waiter.put_wait(maker.id, 2);
    work();
    EXPECT_TRUE(device(waited).operations.empty());
    EXPECT_EQ(waiter.completed(), 1u);
    // Its own past is over, too.
    waiter.put_wait(waiter.id, 1);
    work();
    EXPECT_EQ(waiter.completed(), 2u);
    EXPECT_EQ(waiter.page->counters.waits.load(), 2u);
}

// Positions of records that are no operation are unknown to the driver until it is asked for their
// completion.
TEST_F(SmallBatches, TheDriverIsToldOfAWaitOnlyUpToWhatItKnows) {
    driver.completes_at_once = false;
    ClientStream maker(kSession, make_id(0)), waiter(kSession, make_id(1));
    StreamPort& made = open(maker);
    StreamPort& waited = open(waiter);
    for (int i = 0; i < 7; ++i) put_saxpy(maker);
    maker.put_wait(maker.id, 1);  // over; ends at 15, and ends the batch
    for (int i = 0; i < 20; ++i) put_saxpy(maker);
    waiter.put_wait(maker.id, 15);
    dispatcher.do_work();
    ASSERT_EQ(maker.issued(), 15u);
    ASSERT_TRUE(device(made).asked.empty());
    ASSERT_EQ(device(waited).waits.size(), 1u);
    EXPECT_EQ(device(waited).waits[0].second, 14u);
    for (StreamPort* port : {&made, &waited}) device(*port).run_all();
}

TEST_F(DispatcherTest, WaitsForStreamsThatAreNotOfTheSessionAreRefused) {
    ClientStream theirs(kStranger, make_id(0)), one(kSession, make_id(1)), two(kSession, make_id(2));
    open(theirs, {}, &stranger);
    open(one);
    open(two);
    one.put_wait(theirs.id, 1);
    two.put_wait(make_id(2, 9), 1);
    work();
    EXPECT_EQ(one.error(), Status::bad_awaited_stream);
    EXPECT_EQ(two.error(), Status::bad_awaited_stream);
    EXPECT_EQ(theirs.state(), StreamState::Running);
}

TEST_F(DispatcherTest, AWaiterOfAStreamThatStopsIsToldUnlessThePositionWasIssued) {
    ClientStream maker(kSession, make_id(0)), early(kSession, make_id(1)), late(kSession, make_id(2));
    open(maker);
    open(early);
    open(late);
    early.put_wait(maker.id, 2);
    late.put_wait(maker.id, 4);
    work();
    put_saxpy(maker);
    maker.put_raw(RecordKind::None);
    put_saxpy(maker);
    work();
    EXPECT_EQ(maker.error(), Status::bad_kind);
    EXPECT_EQ(early.state(), StreamState::Running);
    EXPECT_EQ(early.completed(), 1u);
    EXPECT_EQ(late.error(), Status::awaited_stream_stopped);
    EXPECT_EQ(late.page->error_position, 0u);
}

TEST_F(DispatcherTest, AnEventOfAClosedStreamCanStillBeAwaited) {
    ClientStream maker(kSession, make_id(0)), waiter(kSession, make_id(1)), late(kSession, make_id(2));
    StreamPort& made = open(maker);
    open(waiter);
    open(late);
    put_saxpy(maker);
    work();
    close_now(made);
    waiter.put_wait(maker.id, 2);
    late.put_wait(maker.id, 3);
    work();
    EXPECT_EQ(waiter.completed(), 1u);
    EXPECT_EQ(late.error(), Status::awaited_stream_stopped);
}

TEST_F(DispatcherTest, AStreamOfAnotherSessionIsWaitedForThroughItsPageAlone) {
    ClientStream theirs(kStranger, make_id(0)), waiter(kSession, make_id(1));
    StreamPort& held = open(waiter);
    auto& page = *theirs.page;  // of a stream that stands in another executor
    WatchedStream watched{&page};
    view.watched.set(theirs.id, &watched);
    waiter.put_wait(theirs.id, 3);
    put_saxpy(waiter);
    work();
    EXPECT_EQ(waiter.issued(), 0u);
    EXPECT_EQ(dispatcher.arm(), 1000) << "nobody wakes it, so it looks once a millisecond";
    std::vector<std::int64_t> sleeps;
    for (int i = 0; i < 5; ++i) sleeps.push_back(dispatcher.arm());
    EXPECT_EQ(sleeps, (std::vector<std::int64_t>{2000, 4000, 8000, 10'000, 10'000}))
        << "less often while nothing comes";
    page.completed.store(2);
    work();
    EXPECT_EQ(waiter.issued(), 0u);
    EXPECT_EQ(dispatcher.arm(), 1000);
    EXPECT_EQ(dispatcher.arm(), 2000);
    // Its executor dies: the next page goes on where it was.
    page.state.store(static_cast<std::uint32_t>(StreamState::Ended));
    work();
    EXPECT_EQ(waiter.state(), StreamState::Running);
    ClientStream next(kStranger, make_id(2));
    next.page->completed.store(3);
    WatchedStream after{next.page};
    view.watched.set(theirs.id, &after);
    work();
    EXPECT_EQ(waiter.completed(), waiter.producer.position());
    EXPECT_TRUE(device(held).waits.empty()) << "the device was asked to wait";
    EXPECT_GT(dispatcher.arm(), 10'000);
    waiter.put_wait(theirs.id, 4);
    work();
    EXPECT_EQ(dispatcher.arm(), 1000) << "of another wait";
}

TEST_F(DispatcherTest, AStreamOfAnotherSessionThatIsAwayIsWaitedForUntilItHasAPage) {
    ClientStream theirs(kStranger, make_id(0)), past(kSession, make_id(1)), waiter(kSession, make_id(2));
    open(past);
    open(waiter);
    WatchedStream away{nullptr, 5, true};
    view.watched.set(theirs.id, &away);
    past.put_wait(theirs.id, 5);
    waiter.put_wait(theirs.id, 6);
    work();
    EXPECT_EQ(past.completed(), 1u);
    EXPECT_EQ(waiter.state(), StreamState::Running);
    EXPECT_EQ(waiter.issued(), 0u);
    EXPECT_EQ(dispatcher.arm(), 1000) << "nobody wakes it, so it looks once a millisecond";
    theirs.page->completed.store(6);
    WatchedStream back{theirs.page};
    view.watched.set(theirs.id, &back);
    work();
    EXPECT_EQ(waiter.completed(), 1u);
}

TEST_F(DispatcherTest, AWaiterOfAnotherSessionsStreamThatStopsOrClosesIsTold) {
    ClientStream theirs(kStranger, make_id(0));
    auto& page = *theirs.page;
    WatchedStream watched{&page}, closed{nullptr, 5};
    view.watched.set(theirs.id, &watched);
    page.issued.store(4);
    page.completed.store(2);
    page.error_status = static_cast<std::uint32_t>(Status::bad_kind);
    page.state.store(static_cast<std::uint32_t>(StreamState::Stopped));
    ClientStream early(kSession, make_id(1)), late(kSession, make_id(2)), in_doubt(kSession, make_id(3)),
        before(kSession, make_id(4)), behind(kSession, make_id(5));
    for (ClientStream* each : {&early, &late, &in_doubt, &before, &behind}) open(*each);
    early.put_wait(theirs.id, 4);
    late.put_wait(theirs.id, 5);
    work();
    EXPECT_EQ(early.state(), StreamState::Running) << "what was issued before a bad record completes";
    EXPECT_EQ(late.error(), Status::awaited_stream_stopped);
    page.completed.store(4);
    work();
    EXPECT_EQ(early.completed(), 1u);
    // What a restart stopped may never complete.
    page.issued.store(9);
    page.error_status = static_cast<std::uint32_t>(Status::suspect);
    in_doubt.put_wait(theirs.id, 9);
    work();
    EXPECT_EQ(in_doubt.error(), Status::awaited_stream_stopped);
    view.watched.set(theirs.id, &closed);
    before.put_wait(theirs.id, 5);
    behind.put_wait(theirs.id, 6);
    work();
    EXPECT_EQ(before.completed(), 1u);
    EXPECT_EQ(behind.error(), Status::awaited_stream_stopped);
}

TEST_F(DispatcherTest, StreamsThatWaitForEachOtherAreFound) {
    std::vector<std::unique_ptr<ClientStream>> ring;
    for (std::uint32_t i = 0; i < 3; ++i) {
        ring.push_back(std::make_unique<ClientStream>(kSession, make_id(i)));
        open(*ring.back());
    }
    for (std::size_t i = 0; i < 3; ++i) ring[i]->put_wait(ring[(i + 1) % 3]->id, 5);
    work();
    std::map<Status, int> errors;
    for (auto& client : ring) ++errors[client->error()];
    EXPECT_EQ(errors[Status::wait_cycle], 1);
    EXPECT_EQ(errors[Status::awaited_stream_stopped], 2);

    ClientStream self(kSession, make_id(9));
    open(self);
    self.put_wait(self.id, 1);
    work();
    EXPECT_EQ(self.error(), Status::wait_cycle);
}

TEST_F(DispatcherTest, AChainOfWaitsIsNoCycle) {
    ClientStream one(kSession, make_id(0)), two(kSession, make_id(1)), three(kSession, make_id(2));
    for (ClientStream* client : {&one, &two, &three}) open(*client);
    // one -> two -> three, and three has waited for what one had issued before.
    put_saxpy(one);
    one.put_wait(two.id, 3);
    three.put_wait(one.id, 2);
    two.put_wait(three.id, 3);
    put_saxpy(two);
    put_saxpy(three);
    work();
    for (ClientStream* client : {&one, &two, &three}) {
        EXPECT_EQ(client->state(), StreamState::Running) << client->text();
        EXPECT_EQ(client->completed(), 3u);
    }
}

// A wait for another session's stream is held until that has completed: what it has issued comes, and makes
// no cycle with what it waits for behind that.
TEST_F(DispatcherTest, SessionsThatHandWorkToAndFroAreNoCycle) {
    driver.completes_at_once = false;
    ClientStream ours(kSession, make_id(0)), theirs(kStranger, make_id(1));
    StreamPort& our_port = open(ours);
    StreamPort& their_port = open(theirs, {}, &stranger);
    WatchedStream watched_ours{ours.page}, watched_theirs{theirs.page};
    view.watched.set(theirs.id, &watched_theirs);
    stranger.watched.set(ours.id, &watched_ours);
    theirs.put_launch(kEmpty, {});
    const std::uint64_t first = theirs.put_event();
    theirs.put_wait(ours.id, 5);
    const std::uint64_t second = theirs.put_event();
    work();
    ASSERT_EQ(theirs.issued(), first);
    ours.put_wait(theirs.id, first);
    put_saxpy(ours);
    while (ours.producer.position() < 5) ours.put_event();
    work();
    EXPECT_EQ(ours.state(), StreamState::Running) << ours.text();
    EXPECT_EQ(ours.issued(), 0u) << "what it waits for is in flight";
    device(their_port).run_all();
    work();
    device(our_port).run_all();
    work();
    device(their_port).run_all();
    work();
    EXPECT_EQ(ours.completed(), ours.producer.position());
    EXPECT_EQ(theirs.completed(), second);
    // This one is a cycle.
    theirs.put_wait(ours.id, ours.producer.position() + 1);
    work();
    ours.put_wait(theirs.id, theirs.producer.position());
    work();
    EXPECT_EQ(ours.error(), Status::wait_cycle);
    EXPECT_EQ(theirs.error(), Status::awaited_stream_stopped);
}

// ---- an emptying device
// -------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, AShallowStreamHasOneBurstOnTheDeviceAndKeepsItsOrder) {
    driver.completes_at_once = false;
    ClientStream deep(kSession, make_id(0)), light(kSession, make_id(1));
    StreamPort& deep_port = open(deep);
    StreamPort& light_port = open(light);
    for (int i = 0; i < 40; ++i) put_saxpy(deep, i);
    work();
    ASSERT_EQ(deep.issued(), deep.producer.position());
    dispatcher.keep_shallow(true);
    for (int i = 40; i < 100; ++i) put_saxpy(deep, i);
    for (int i = 0; i < 20; ++i) put_saxpy(light, i);
    work();
    EXPECT_EQ(deep.issued(), 80u) << "what is there runs off first";
    EXPECT_EQ(light.issued(), 2u) << "a burst of one, of which nobody knows yet how long it takes";
    for (int i = 0; i < 1000 && light.completed() < light.producer.position(); ++i) {
        device(light_port).run_all();
        work();
    }
    EXPECT_EQ(light.completed(), light.producer.position());
    EXPECT_EQ(deep.issued(), 80u);
    device(deep_port).run_all();
    work();
    EXPECT_EQ(deep.issued(), 82u);
    dispatcher.keep_shallow(false);
    work();
    EXPECT_EQ(deep.issued(), deep.producer.position());
    device(deep_port).run_all();
    work();
    ASSERT_EQ(device(deep_port).operations.size(), 100u);
    for (int i = 0; i < 100; ++i)
        EXPECT_EQ(device(deep_port).operations[static_cast<std::size_t>(i)].word, static_cast<unsigned>(i));
}

// Nobody waited for it, so nobody has looked since.
TEST_F(DispatcherTest, WhetherTheDeviceIsThroughIsLookedAtAnew) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    put_saxpy(client);
    work();
    EXPECT_FALSE(dispatcher.look_whether_through());
    device(port).run_all();
    EXPECT_FALSE(dispatcher.nothing_in_flight());
    EXPECT_TRUE(dispatcher.look_whether_through());
}

// ---- stopping and resuming
// -------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, ABadRecordStopsItsStreamOnlyAndNamesItself) {
    ClientStream bad(kSession, make_id(0)), good(kSession, make_id(1));
    StreamPort& port = open(bad);
    open(good);
    put_saxpy(bad);
    bad.put_launch(kSaxpy, saxpy_params(base(), 0xdeadbeef, 0, 1));
    put_saxpy(bad);
    put_saxpy(good);
    work();
    EXPECT_EQ(bad.state(), StreamState::Stopped);
    EXPECT_EQ(bad.error(), Status::bad_pointer);
    EXPECT_EQ(bad.page->error_position, 2u);
    EXPECT_EQ(bad.page->error_kernel, kSaxpy);
    EXPECT_EQ(bad.text(),
              "launch at position 2: kernel 'saxpy': parameter 1 'y' is 0xdeadbeef, neither null nor inside "
              "memory of "
              "this session");
    EXPECT_EQ(device(port).operations.size(), 1u) << "what stands before it went, nothing after it";
    EXPECT_EQ(bad.issued(), 2u);
    EXPECT_EQ(bad.completed(), 2u);
    EXPECT_TRUE(has_notice(Notice::Kind::stream_stopped, bad.id));
    EXPECT_EQ(good.completed(), 2u);
    EXPECT_EQ(good.state(), StreamState::Running);
}

TEST_F(DispatcherTest, AStoppedStreamGoesOnAfterTheRefusedRecord) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    client.put_launch(kSaxpy, saxpy_params(3, 0, 0, 1));
    put_saxpy(client, 42);
    work();
    ASSERT_EQ(client.state(), StreamState::Stopped);
    EXPECT_EQ(dispatcher.measure(port, 0), 2u);
    dispatcher.resume(port, 2);
    EXPECT_EQ(client.state(), StreamState::Running);
    EXPECT_EQ(client.error(), Status::ok);
    EXPECT_EQ(client.text(), "");
    work();
    ASSERT_EQ(device(port).operations.size(), 1u);
    EXPECT_EQ(device(port).operations[0].word, 42u);
    EXPECT_EQ(client.completed(), 4u);
    EXPECT_THROW(dispatcher.resume(port, 4), Error) << "it is not stopped";
}

TEST_F(DispatcherTest, AResumedStreamsSkippedRecordCompletesBehindWhatIsInFlight) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    put_saxpy(client);
    client.put_launch(kSaxpy, saxpy_params(3, 0, 0, 1));
    work();
    ASSERT_EQ(client.state(), StreamState::Stopped);
    EXPECT_THROW(dispatcher.resume(port, 0), Error) << "before what was issued";
    EXPECT_THROW(dispatcher.resume(port, 4000), Error) << "beyond the ring";
    dispatcher.resume(port, 4);
    work();
    EXPECT_EQ(client.completed(), 0u);
    device(port).run_all();
    work();
    EXPECT_EQ(client.completed(), 4u);
}

TEST_F(DispatcherTest, ARecordOfUnknownLengthCannotBeSkipped) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    put_saxpy(client);
    client.ring[1].stamp.store(99);
    work();
    EXPECT_EQ(client.error(), Status::bad_stamp);
    EXPECT_THROW(dispatcher.measure(port, 0), Error);
    EXPECT_THROW(dispatcher.measure(port, 2), Error) << "nothing stands there";
}

TEST_F(DispatcherTest, ARefusalOfTheDriverStopsTheStreamAtThatRecord) {
    driver.refuse_with = Status::driver_error;
    driver.refuse_at = 4;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    for (int i = 0; i < 5; ++i) put_saxpy(client);
    work();
    EXPECT_EQ(client.error(), Status::driver_failed);
    EXPECT_EQ(client.page->error_position, 4u);
    EXPECT_NE(client.text().find("driver_error"), std::string::npos) << client.text();
    EXPECT_EQ(device(port).operations.size(), 2u);
    EXPECT_EQ(client.issued(), 4u) << "the refused one is not in doubt";
    EXPECT_EQ(client.completed(), 4u);
}

TEST_F(DispatcherTest, ARefusalOfTheDriverNamesKernelShapeAndReason) {
    driver.refuse_with = Status::grid_too_large;
    driver.refuse_text = "at most 3 blocks are on the device at once";
    driver.refuse_at = 2;
    ClientStream client(kSession, make_id(0)), other(kSession, make_id(1));
    open(client);
    open(other);
    put_saxpy(client);
    put_saxpy(client);
    work();
    EXPECT_EQ(client.error(), Status::grid_too_large);
    EXPECT_EQ(client.page->error_position, 2u);
    EXPECT_NE(client.page->error_kernel, 0u);
    EXPECT_NE(client.text().find("launch at position 2: kernel 'saxpy', grid "), std::string::npos)
        << client.text();
    EXPECT_NE(client.text().find(driver.refuse_text), std::string::npos) << client.text();
    put_saxpy(other, 1);
    work();
    EXPECT_EQ(other.state(), schema::StreamState::Running);
}

TEST_F(DispatcherTest, ADeviceThatIsLostIsReportedBeforeAnyStreamIsBlamed) {
    std::string lost;
    schema::StreamState state_then{};
    ClientStream client(kSession, make_id(0));
    Dispatcher dying({}, driver, memory, [&](const std::string& text) {
        if (lost.empty()) state_then = client.state();
        lost = text;
    });
    StreamPort port(client.setup(), view, driver, client.ring_fd, client.status_fd,
                    client.wake_fd.duplicate());
    dying.add(port);
    driver.refuse_with = Status::driver_error;
    driver.failed = "the device fell off the bus";
    put_saxpy(client);
    dying.do_work();
    EXPECT_EQ(lost, "the device fell off the bus");
    EXPECT_EQ(state_then, StreamState::Running);
    dying.remove(port);
}

TEST_F(DispatcherTest, AHeldStreamTakesNothingUntilItIsReleased) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client, [](StreamSetup& setup) { setup.hold = true; });
    put_saxpy(client);
    work();
    EXPECT_TRUE(device(port).operations.empty());
    dispatcher.release(port);
    work();
    EXPECT_EQ(client.completed(), 2u);
}

TEST_F(DispatcherTest, AStreamIsReleasedWithOneRecordAtATimeUpToAPlace) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client, [](StreamSetup& setup) { setup.hold = true; });
    for (int i = 0; i < 6; ++i) client.put_launch(kEmpty, {});
    dispatcher.release(port, 3);
    for (std::uint64_t i = 1; i <= 3; ++i) {
        work();
        EXPECT_EQ(client.issued(), i) << "the next one only when this one has completed";
        device(port).run_to(i);
    }
    work();
    EXPECT_EQ(client.completed(), 3u);
    EXPECT_EQ(client.issued(), 6u);
    device(port).run_all();
    work();
    EXPECT_EQ(client.completed(), 6u);
}

TEST_F(DispatcherTest, AStreamThatComesStoppedOutOfARestartKeepsWhatIsInDoubtUntilItIsResumed) {
    ClientStream client(kSession, make_id(0), 256, 6), waiter(kSession, make_id(1));
    client.page->completed = 2;  // A; B = 6
    client.page->state = static_cast<std::uint32_t>(StreamState::Stopped);
    client.page->error_status = static_cast<std::uint32_t>(Status::suspect);
    StreamPort& port = open(client, [](StreamSetup& setup) { setup.hold = true; });
    open(waiter);
    waiter.put_wait(client.id, 2);
    waiter.put_wait(client.id, 4);  // in doubt: nobody can promise that
    put_saxpy(client, 11);
    work();
    EXPECT_EQ(client.completed(), 2u);
    EXPECT_EQ(client.issued(), 6u);
    EXPECT_EQ(client.error(), Status::suspect);
    EXPECT_EQ(waiter.completed(), 1u);
    EXPECT_EQ(waiter.error(), Status::awaited_stream_stopped);

    port.take_driver_stream(port.open_driver_stream(driver, 6));
    dispatcher.resume(port, 6);
    work();
    EXPECT_EQ(client.completed(), 8u);
    EXPECT_EQ(client.state(), StreamState::Running);
}

// ---- closing and barriers
// ----------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, ClosingWaitsForWhatWasIssuedAndDropsTheRest) {
    driver.completes_at_once = false;
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    put_saxpy(client);
    work();
    client.header->wait_position = 50;
    dispatcher.close(port, 77);
    put_saxpy(client);
    work();
    EXPECT_EQ(client.state(), StreamState::Closed);
    EXPECT_EQ(client.take_wakes(), 1u);
    EXPECT_EQ(device(port).operations.size(), 1u);
    EXPECT_FALSE(has_notice(Notice::Kind::barrier_reached, 77));
    dispatcher.arm();
    device(port).run_all();
    EXPECT_TRUE(readable(driver.completion_fd()));
    work();
    EXPECT_TRUE(has_notice(Notice::Kind::barrier_reached, 77));
}

TEST_F(DispatcherTest, AClosedStreamIsKeptForWhoWaitsOnItInTheDriver) {
    driver.completes_at_once = false;
    ClientStream maker(kSession, make_id(0)), waiter(kSession, make_id(1)), late(kSession, make_id(2));
    StreamPort& made = open(maker);
    StreamPort& waited = open(waiter);
    StreamPort& later = open(late);
    put_saxpy(maker);
    work();
    waiter.put_wait(maker.id, 2);
    work();
    ASSERT_EQ(device(waited).waits.size(), 1u);
    dispatcher.close(made, 5);
    late.put_wait(maker.id, 2);  // after the close: is held here and never named to the driver
    work();
    EXPECT_TRUE(device(later).waits.empty());
    device(made).run_all();
    work();
    EXPECT_EQ(late.completed(), 1u);
    EXPECT_TRUE(device(later).waits.empty());
    EXPECT_FALSE(has_notice(Notice::Kind::barrier_reached, 5)) << "the waiter may still look at it";
    device(waited).run_all();
    work();
    EXPECT_TRUE(has_notice(Notice::Kind::barrier_reached, 5));
}

TEST_F(DispatcherTest, ABarrierIsReachedWhenWhatWasIssuedBeforeItHasCompleted) {
    driver.completes_at_once = false;
    ClientStream ours(kSession, make_id(0)), theirs(kStranger, make_id(1));
    StreamPort& mine = open(ours);
    StreamPort& other = open(theirs, {}, &stranger);
    put_saxpy(ours);
    theirs.put_launch(kEmpty, {});
    work();
    dispatcher.begin_barrier(&view, 1);
    dispatcher.begin_barrier(nullptr, 2);
    put_saxpy(ours);  // after it: not waited for
    work();
    device(mine).run_to(2);
    work();
    EXPECT_TRUE(has_notice(Notice::Kind::barrier_reached, 1));
    EXPECT_FALSE(has_notice(Notice::Kind::barrier_reached, 2));
    device(other).run_all();
    work();
    EXPECT_TRUE(has_notice(Notice::Kind::barrier_reached, 2));
    dispatcher.begin_barrier(&view, 3);
    device(mine).run_all();
    work();
    EXPECT_TRUE(has_notice(Notice::Kind::barrier_reached, 3));
}

// ---- counters
// ----------------------------------------------------------------------------------------------------------

TEST_F(DispatcherTest, CountersSayWhatWasTaken) {
    ClientStream client(kSession, make_id(0));
    open(client);
    schema::CopyRecord copy{};
    copy.mutate_kind(RecordKind::CopyOnDevice);
    copy.mutate_device(base());
    copy.mutate_other(base() + 4096);
    copy.mutate_bytes(100);
    schema::FillRecord fill{};
    fill.mutate_kind(RecordKind::Fill);
    fill.mutate_width(2);
    fill.mutate_bytes(16);
    fill.mutate_device(base());
    for (int i = 0; i < 4; ++i) put_saxpy(client);
    client.put(copy);
    client.put(copy);
    client.put(fill);
    client.put_event();
    client.put_wait(client.id, 1);
    work();
    const StreamCounters& counters = client.page->counters;
    EXPECT_EQ(counters.records.load(), 9u);
    EXPECT_EQ(counters.launches.load(), 4u);
    EXPECT_EQ(counters.chained.load(), 0u) << "they came together, but no graph took them";
    EXPECT_EQ(counters.copies.load(), 2u);
    EXPECT_EQ(counters.copied_bytes.load(), 200u);
    EXPECT_EQ(counters.fills.load(), 1u);
    EXPECT_EQ(counters.events.load(), 1u);
    EXPECT_EQ(counters.waits.load(), 1u);
    EXPECT_EQ(counters.batches.load(), 1u);
}

TEST_F(DispatcherTest, CountersSayWhatWentInLaunchGraphs) {
    ClientStream client(kSession, make_id(0));
    StreamPort& port = open(client);
    const StreamCounters& counters = client.page->counters;
    for (int i = 0; i < 40; ++i) put_saxpy(client);
    device(port).use = {38, 32, 1};
    work();
    EXPECT_EQ(counters.chained.load(), 38u);
    EXPECT_EQ(counters.long_chains.load(), 32u);
    EXPECT_EQ(counters.single_graphs.load(), 1u);
    // Another stream of the driver's counts from 0, the page goes on.
    port.take_driver_stream(port.open_driver_stream(driver, port.handed));
    put_saxpy(client);
    device(port).use = {0, 0, 1};
    work();
    EXPECT_EQ(counters.chained.load(), 38u);
    EXPECT_EQ(counters.single_graphs.load(), 2u);
}

// With the real pool of launch graphs: one stream has taken all that the device has for them, and sits idle.
TEST(LaunchGraphs, AnIdleStreamLeavesThemToItsNeighbour) {
    const auto device = driver::make_driver(schema::DriverKind::Null, 0, nullptr);
    MemoryMap memory(device->device());
    HandKernel kernels[2] = {HandKernel(empty_layout("first")), HandKernel(empty_layout("second"))};
    KernelEntry entries[2] = {KernelEntry(kernels[0]), KernelEntry(kernels[1])};
    SessionView view;
    view.id = 7;
    for (std::uint32_t i = 0; i < 2; ++i) view.kernels.set(make_id(i), &entries[i]);
    Dispatcher dispatcher({}, *device, memory);
    std::vector<std::unique_ptr<ClientStream>> clients;
    std::vector<std::unique_ptr<StreamPort>> ports;
    const auto open = [&]() -> ClientStream& {
        ClientStream& client =
            *clients.emplace_back(std::make_unique<ClientStream>(7, make_id(std::uint32_t(clients.size()))));
        ports.push_back(std::make_unique<StreamPort>(client.setup(), view, *device, client.ring_fd,
                                                     client.status_fd, client.wake_fd.duplicate()));
        dispatcher.add(*ports.back());
        return client;
    };
    const auto launch = [&](ClientStream& client, std::span<const std::uint32_t> order) {
        for (const std::uint32_t kernel : order) client.put_launch(make_id(kernel), {});
        while (dispatcher.do_work()) {
        }
    };
    std::mt19937 random(1);
    for (int streams = 0; streams < 12; ++streams) {
        ClientStream& hog = open();
        for (int loops = 0; loops < 26; ++loops) {
            std::uint32_t order[64];
            for (std::uint32_t& each : order) each = random() % 2;
            for (int i = 0; i < 20; ++i) launch(hog, order);
        }
        EXPECT_GT(hog.page->counters.long_chains.load(), 0u);
    }
    ClientStream& neighbour = open();
    const StreamCounters& counters = neighbour.page->counters;
    const std::uint32_t one[1] = {0}, many[64] = {};
    for (int i = 0; i < 70'000; ++i) launch(neighbour, one);
    EXPECT_GT(counters.single_graphs.load(), 1000u);
    for (int i = 0; i < 100; ++i) launch(neighbour, many);
    EXPECT_GT(counters.long_chains.load(), 64u * 50);
    EXPECT_EQ(neighbour.page->completed.load(), neighbour.producer.position());
    for (auto& port : ports) dispatcher.remove(*port);
}

TEST_F(DispatcherTest, LatenciesAreSampledAndTheClientsTimesAreNotTrusted) {
    ClientStream client(kSession, make_id(0));
    open(client);
    const auto sample = [&](std::uint64_t ns) {
        client.header->sample_ns = ns;
        client.header->sample_position.store(client.producer.position(), std::memory_order_release);
        client.put_launch(kEmpty, {});
        work();
    };
    sample(1);
    EXPECT_EQ(samples(client.page->enqueue_to_issue), 1u);
    sample(~std::uint64_t{0});  // the future: no time at all
    EXPECT_EQ(client.page->enqueue_to_issue.buckets[0].load(), 1u);
    sample(0);  // never written
    EXPECT_EQ(samples(client.page->enqueue_to_issue), 2u);
    client.header->sample_position = 1'000'000;  // not issued
    for (int i = 0; i < 300; ++i) {
        client.put_launch(kEmpty, {});
        work();
    }
    EXPECT_EQ(samples(client.page->enqueue_to_issue), 2u);
    EXPECT_GE(samples(client.page->issue_to_complete), 3u);
    EXPECT_LE(samples(client.page->issue_to_complete), 6u);
}

TEST_F(DispatcherTest, HeartbeatsReachEveryPage) {
    ClientStream one(kSession, make_id(0)), two(kSession, make_id(1));
    open(one);
    open(two);
    dispatcher.heartbeat(123);
    EXPECT_EQ(one.page->heartbeat_ns.load(), 123u);
    EXPECT_EQ(two.page->heartbeat_ns.load(), 123u);
}

TEST_F(DispatcherTest, PagesThatAreNotWhatTheyShouldBeAreRefused) {
    ClientStream client(kSession, make_id(0));
    client.page->version = 99;
    EXPECT_THROW(open(client), Error);
    client.page->version = kProtocolVersion;
    EXPECT_THROW(open(client, [](StreamSetup& setup) { setup.ring_slots = 100; }), Error);
    EXPECT_THROW(open(client, [](StreamSetup& setup) { setup.ring_slots = 128; }), Error);
    open(client);
    EXPECT_EQ(dispatcher.stream_count(), 1u);
}

}  // namespace
}  // namespace ringlaunch::executor::test
