// The dispatch thread with real rings, real eventfds and the null driver: no wake-up is lost, changes happen
// while others dispatch, and an idle thread sleeps. The bounded sleeps that would hide a lost wake-up are
// switched off: whoever is not woken waits until the watchdog.
#include "daemon/executor/dispatch_thread.hpp"

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "daemon/executor/clock.hpp"
#include "daemon/executor/registry.hpp"
#include "schema/error.hpp"
#include "tests/executor/harness.hpp"

namespace ringlaunch::executor::test {
namespace {

using namespace std::chrono_literals;

constexpr int kLongWaitMs = 30'000;

// A client of one stream: publishes as a client does, rings only when it must, waits as schema/wakeup.hpp
// says.
class LiveClient {
  public:
    LiveClient(ClientStream& stream, int doorbell, bool must_fence)
        : stream_(stream), doorbell_(doorbell), must_fence_(must_fence) {}

    // False: there was no room for as long as anybody may wait.
    bool launch(std::uint64_t kernel, const std::vector<std::byte>& params) {
        const std::uint32_t count = launch_slots(params.size());
        while (stream_.producer.reserve(count, stream_.page->completed) != Status::ok)
            if (!wait(stream_.producer.position() - stream_.slots / 2)) return false;
        stream_.put_launch(kernel, params);
        if (producer_must_ring(stream_.page->need_wakeup, stream_.rung, must_fence_)) ring();
        return true;
    }
    // False: nobody woke us.
    bool wait(std::uint64_t position) {
        while (stream_.completed() < position) {
            stream_.take_wakes();
            announce_wait(*stream_.header, position);
            if (stream_.completed() >= position) break;
            if (must_ring(stream_.page->need_wakeup)) ring();
            if (!readable(stream_.wake_fd.get(), kLongWaitMs)) return false;
        }
        announce_wait(*stream_.header, 0);
        return true;
    }
    void ring() const {
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(doorbell_, &one, sizeof one), 8);
    }

  private:
    ClientStream& stream_;
    const int doorbell_;
    const bool must_fence_;
};

struct Rig {
    explicit Rig(bool membarrier, std::uint64_t spin_ns, driver::DriverKind kind = driver::DriverKind::Null)
        : Rig(membarrier, spin_ns, driver::make_driver(kind, 0, nullptr)) {}
    Rig(bool membarrier, std::uint64_t spin_ns, std::unique_ptr<driver::Driver> with)
        : driver(std::move(with)),
          memory(driver->device()),
          thread(config(membarrier, spin_ns), *driver, memory, {}),
          registry(*driver, memory, thread, DispatcherConfig{.max_in_flight = 256}, 10'000'000'000) {
        thread.start();
    }
    static DispatchThread::Config config(bool membarrier, std::uint64_t spin_ns) {
        DispatchThread::Config config;
        config.spin_ns = spin_ns;
        config.membarrier = membarrier;
        config.dispatcher.longest_sleep_ms = -1;
        config.dispatcher.armed_sleep_ms = -1;
        return config;
    }
    int attach(std::uint64_t session) {
        UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        doorbells.push_back(doorbell.duplicate());
        registry.attach_session(session, std::move(doorbell));
        return doorbells.back().get();
    }
    void open(std::uint64_t session, const ClientStream& client) {
        registry.open_stream(session, client.setup(), client.ring_fd, client.status_fd,
                             client.wake_fd.duplicate());
    }
    // Closes it and waits until that is answered.
    bool close(std::uint64_t stream) {
        bool closed = false;
        registry.close_stream(stream,
                              [&](Status status, const std::string&) { closed = status == Status::ok; });
        return until([&] { return closed; });
    }
    bool until(const std::function<bool()>& done) {
        for (const auto end = std::chrono::steady_clock::now() + 30s;
             std::chrono::steady_clock::now() < end;) {
            if (done()) return true;
            if (!readable(thread.notice_fd(), kLongWaitMs)) return done();
            for (const Notice& notice : thread.take_notices()) {
                if (notice.kind == Notice::Kind::barrier_reached) registry.barrier_reached(notice.id);
                if (notice.kind == Notice::Kind::stream_stopped) stopped.push_back(notice.id);
            }
        }
        return done();
    }

    std::unique_ptr<driver::Driver> driver;
    MemoryMap memory;
    DispatchThread thread;
    Registry registry;
    std::vector<UniqueFd> doorbells;
    std::vector<std::uint64_t> stopped;
};

// Records that need no kernel, so that the registry can be used as it is.
schema::EventRecord event() {
    schema::EventRecord record{};
    record.mutate_kind(schema::RecordKind::EventRecord);
    return record;
}

class WakeUps : public ::testing::TestWithParam<std::tuple<bool, std::uint64_t>> {
  protected:
    bool membarrier() const {
        return std::get<0>(GetParam()) && membarrier_available() && register_for_membarrier();
    }
    std::uint64_t spin_ns() const { return std::get<1>(GetParam()); }
};

// Ping-pong with pauses around the dispatcher's spin time, so that records and waits meet it falling asleep.
TEST_P(WakeUps, NoneIsLostBetweenProducersWaitersAndTheSleepingDispatcher) {
    const bool with_membarrier = membarrier();
    Rig rig(with_membarrier, spin_ns());
    constexpr int kClients = 2, kRounds = 3000;
    std::vector<std::unique_ptr<ClientStream>> streams;
    std::vector<int> doorbells;
    for (std::uint32_t i = 0; i < kClients; ++i) {
        streams.push_back(std::make_unique<ClientStream>(i + 1, make_id(i), 64));
        doorbells.push_back(rig.attach(i + 1));
        rig.open(i + 1, *streams.back());
    }
    std::atomic<int> lost{0};
    std::vector<std::thread> clients;
    for (std::size_t i = 0; i < kClients; ++i)
        clients.emplace_back([&, i] {
            ClientStream& stream = *streams[i];
            LiveClient client(stream, doorbells[i], !with_membarrier);
            std::mt19937 random(static_cast<unsigned>(i));
            for (int round = 0; round < kRounds && lost == 0; ++round) {
                const int burst = 1 + static_cast<int>(random() % 3);
                for (int j = 0; j < burst; ++j) {
                    stream.put(event());
                    if (producer_must_ring(stream.page->need_wakeup, stream.rung, !with_membarrier))
                        client.ring();
                }
                if (!client.wait(stream.producer.position())) ++lost;
                if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 60));
            }
        });
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(lost, 0) << "a client was never woken";
    EXPECT_GT(rig.thread.sleeps(), 0u) << "the dispatcher never slept, so nothing was tested";
    for (auto& stream : streams) {
        EXPECT_EQ(stream->completed(), stream->producer.position());
        EXPECT_TRUE(rig.close(stream->id));
    }
}

INSTANTIATE_TEST_SUITE_P(Barriers, WakeUps,
                         ::testing::Combine(::testing::Bool(), ::testing::Values(0u, 20'000u)),
                         [](const auto& with) {
                             return std::string(std::get<0>(with.param) ? "membarrier" : "fence") + "_spin" +
                                    std::to_string(std::get<1>(with.param));
                         });

TEST(DispatchThread, AnIdleThreadSleepsAndBeats) {
    std::unique_ptr<driver::Driver> driver = driver::make_driver(driver::DriverKind::Null, 0, nullptr);
    MemoryMap memory(driver->device());
    DispatchThread::Config config;
    config.spin_ns = 1000;
    DispatchThread thread(config, *driver, memory, {});
    Registry registry(*driver, memory, thread, DispatcherConfig{.max_in_flight = 256}, 10'000'000'000);
    thread.start();
    ClientStream client(1, make_id(0));
    registry.attach_session(1, UniqueFd(::eventfd(0, EFD_CLOEXEC)));
    registry.open_stream(1, client.setup(), client.ring_fd, client.status_fd, client.wake_fd.duplicate());
    const auto slept = [&] { return client.page->need_wakeup.load() != 0; };
    for (int i = 0; i < 5000 && !slept(); ++i) std::this_thread::sleep_for(1ms);
    ASSERT_TRUE(slept());
    const std::uint64_t sleeps = thread.sleeps(), beat = client.page->heartbeat_ns.load();
    for (int i = 0; i < 10'000 && client.page->heartbeat_ns.load() == beat; ++i)
        std::this_thread::sleep_for(1ms);
    EXPECT_GT(client.page->heartbeat_ns.load(), beat);
    // It wakes for the heartbeat and for nothing else: an idle daemon costs next to nothing.
    EXPECT_LE(thread.sleeps() - sleeps, 12u);
    EXPECT_TRUE(slept());
}

TEST(DispatchThread, ChangesHappenWhileOtherStreamsDispatch) {
    Rig rig(false, 10'000);
    const int doorbell = rig.attach(1);
    ClientStream busy(1, make_id(0));
    rig.open(1, busy);
    std::atomic<bool> over{false};
    std::atomic<bool> lost{false};
    std::thread client([&] {
        LiveClient live(busy, doorbell, true);
        while (!over) {
            for (int i = 0; i < 20; ++i) {
                busy.put(event());
                if (producer_must_ring(busy.page->need_wakeup, busy.rung, true)) live.ring();
            }
            if (!live.wait(busy.producer.position())) lost = true;
        }
    });
    for (std::uint32_t i = 1; i <= 200; ++i) {
        rig.attach(1 + i);
        ClientStream other(1 + i, make_id(i));
        other.put_event();
        rig.open(1 + i, other);
        EXPECT_TRUE(rig.close(other.id));
        rig.registry.detach_session(1 + i);
    }
    over = true;
    client.join();
    EXPECT_FALSE(lost);
    EXPECT_TRUE(rig.close(busy.id));
}

TEST(DispatchThread, AChangeBesideASleepingThreadIsMadeByTheCallerAndSeenByTheThread) {
    Rig rig(false, 0);
    rig.attach(1);
    bool by_caller = false;
    const std::thread::id caller = std::this_thread::get_id();
    const auto end = std::chrono::steady_clock::now() + 30s;
    for (std::uint32_t i = 0; (!by_caller || i < 200) && std::chrono::steady_clock::now() < end; ++i) {
        ClientStream client(1, make_id(i));
        client.put_event();  // nobody rings for it
        rig.open(1, client);
        while (client.completed() != client.producer.position()) {  // no notice tells of it
            ASSERT_LT(std::chrono::steady_clock::now(), end);
            std::this_thread::yield();
        }
        if (i % 2 == 0) std::this_thread::sleep_for(1ms);
        rig.thread.call([&](Dispatcher& dispatcher) {
            by_caller |= std::this_thread::get_id() == caller;
            EXPECT_NE(dispatcher.find(client.id), nullptr);
        });
        EXPECT_TRUE(rig.close(client.id));
    }
    EXPECT_TRUE(by_caller);
    EXPECT_THROW(rig.thread.call([](Dispatcher&) { throw Error(Status::internal_error, "as expected"); }),
                 Error);
}

// A client that fills its wake eventfd, whose writes block, at the worst moment: others go on, at the latest
// when the control thread has come to the rescue.
TEST(DispatchThread, AClientThatMakesItsWakeUpBlockHoldsOthersUpForABoundedTime) {
    Rig rig(false, 0);
    const int bad_doorbell = rig.attach(1), good_doorbell = rig.attach(2);
    ClientStream bad(1, make_id(0)), good(2, make_id(1));
    ASSERT_EQ(::fcntl(bad.wake_fd.get(), F_SETFL, 0), 0);
    rig.open(1, bad);
    rig.open(2, good);
    std::atomic<bool> over{false};
    std::thread hostile([&] {
        LiveClient live(bad, bad_doorbell, true);
        const UniqueFd theirs = bad.wake_fd.duplicate();
        for (std::uint64_t round = 0; !over; ++round) {
            // Another value each time, so that each turn has somebody to wake.
            bad.header->wait_position = 1 + round % 2;
            if (round == 0) {
                bad.put(event());
                bad.put(event());
            }
            live.ring();
            pollfd entry{theirs.get(), POLLOUT, 0};
            const std::uint64_t full = ~std::uint64_t{0} - 1;
            std::uint64_t some;
            if (::poll(&entry, 1, 0) == 1 && (entry.revents & POLLOUT) != 0 && round % 3 != 0) {
                // Emptied first, or this very write would block.
                pollfd filled{theirs.get(), POLLIN, 0};
                if (::poll(&filled, 1, 0) == 1 && ::read(theirs.get(), &some, sizeof some) != sizeof some)
                    break;
                if (::poll(&filled, 1, 0) == 0 && ::write(theirs.get(), &full, sizeof full) != sizeof full)
                    break;
            }
        }
    });
    std::atomic<bool> rescuing{true};
    std::thread control([&] {
        while (rescuing) {
            rig.thread.rescue();
            std::this_thread::sleep_for(20ms);
        }
    });
    LiveClient live(good, good_doorbell, true);
    bool lost = false;
    for (int round = 0; round < 2000 && !lost; ++round) {
        good.put(event());
        if (producer_must_ring(good.page->need_wakeup, good.rung, true)) live.ring();
        lost = !live.wait(good.producer.position());
    }
    over = true;
    // The hostile thread may sit in its own trap.
    std::uint64_t some;
    while (readable(bad.wake_fd.get()) && ::read(bad.wake_fd.get(), &some, sizeof some) == sizeof some) {
    }
    hostile.join();
    rescuing = false;
    control.join();
    EXPECT_FALSE(lost);
    EXPECT_TRUE(rig.close(good.id));
    EXPECT_TRUE(rig.close(bad.id));
}

TEST(DispatchThread, AStopIsReportedAndTheStreamResumes) {
    Rig rig(false, 10'000);
    const int doorbell = rig.attach(1);
    ClientStream client(1, make_id(0));
    rig.open(1, client);
    LiveClient live(client, doorbell, true);
    client.put_raw(schema::RecordKind::None);
    client.put(event());
    live.ring();
    ASSERT_TRUE(rig.until([&] { return !rig.stopped.empty(); }));
    EXPECT_EQ(rig.stopped.front(), client.id);
    EXPECT_EQ(client.state(), schema::StreamState::Stopped);
    rig.registry.resume_stream(client.id, 0, true);
    EXPECT_TRUE(live.wait(2));
    EXPECT_TRUE(rig.close(client.id));
}

TEST(DispatchThread, ErrorsOfAChangeReachWhoAskedForIt) {
    Rig rig(false, 1000);
    rig.attach(1);
    EXPECT_THROW(rig.attach(1), Error);
    ClientStream client(1, make_id(0));
    rig.open(1, client);
    EXPECT_THROW(rig.open(1, client), Error);
    EXPECT_THROW(rig.open(2, client), Error);
    EXPECT_THROW(rig.registry.resume_stream(client.id, 0, false), Error) << "it is not stopped";
    EXPECT_THROW(rig.registry.resume_stream(make_id(5), 0, false), Error);
    EXPECT_THROW(rig.registry.detach_session(1), Error) << "its stream is open";
    EXPECT_THROW(rig.registry.unload_module(3, [](Status, const std::string&) {}), Error);
    EXPECT_THROW(rig.thread.call([](Dispatcher&) { throw Error(Status::not_found, "x"); }), Error);
    EXPECT_TRUE(rig.close(client.id));
    rig.registry.detach_session(1);
}

schema::FillRecord fill_at(std::uint64_t address) {
    schema::FillRecord fill{};
    fill.mutate_kind(schema::RecordKind::Fill);
    fill.mutate_width(1);
    fill.mutate_bytes(8);
    fill.mutate_device(address);
    return fill;
}

// A session with one stream; changes run here, and so does the dispatcher, when told to.
struct ByHand {
    static constexpr std::uint64_t kStuckNs = 1'000'000;

    ByHand() {
        driver.completes_at_once = false;
        memory.device.set_owner(1, driver.device().range_base, driver.device().chunk_bytes);
        registry.attach_session(1, UniqueFd(::eventfd(0, EFD_CLOEXEC)));
        registry.open_stream(1, client.setup(), client.ring_fd, client.status_fd, client.wake_fd.duplicate());
        StreamPort* port = nullptr;
        thread.call([&](Dispatcher& dispatcher) { port = dispatcher.find(client.id); });
        stream = static_cast<ScriptedStream*>(port->driver_stream.get());
    }
    void work() {
        thread.call([&](Dispatcher& dispatcher) {
            while (dispatcher.do_work())
                ;
        });
        for (const Notice& notice : thread.take_notices()) registry.barrier_reached(notice.id);
    }
    void put_fill() { client.put(fill_at(driver.device().range_base)); }
    Registry::Answer answer() {
        return [this](Status status, const std::string& text) { answers.emplace_back(status, text); };
    }

    ScriptedDriver driver;
    MemoryMap memory{driver.device()};
    DispatchThread thread{{}, driver, memory, {}};  // not started
    Registry registry{driver, memory, thread, DispatcherConfig{.max_in_flight = 256}, kStuckNs};
    ClientStream client{1, make_id(0)};
    ScriptedStream* stream = nullptr;
    std::vector<std::pair<Status, std::string>> answers;
};

TEST(DispatchThread, WorkThatDoesNotEndIsReportedInTimeAndLetGoLater) {
    ByHand rig;
    rig.put_fill();
    rig.work();
    ASSERT_EQ(rig.client.issued(), 1u);
    EXPECT_FALSE(rig.registry.quiet());
    rig.registry.close_stream(rig.client.id, rig.answer());
    rig.work();
    EXPECT_GT(rig.registry.tick(0), 0);
    EXPECT_EQ(rig.registry.tick(~std::uint64_t{0}), -1);
    ASSERT_EQ(rig.answers.size(), 1u);
    EXPECT_EQ(rig.answers[0].first, Status::timed_out);
    EXPECT_NE(rig.answers[0].second.find("still at work"), std::string::npos) << rig.answers[0].second;
    EXPECT_THROW(rig.registry.detach_session(1), Error);
    rig.stream->run_all();
    rig.work();
    EXPECT_EQ(rig.answers.size(), 1u) << "answered once";
    rig.registry.detach_session(1);
    EXPECT_TRUE(rig.registry.quiet());
}

constexpr std::uint64_t kPatienceNs = 1'000'000'000;

TEST(Stack, IsGivenOnceNothingIsInFlightAndWhatComesMeanwhileWaits) {
    ByHand rig;
    rig.registry.give_stack(1024, kPatienceNs, rig.answer());
    ASSERT_EQ(rig.answers.size(), 1u) << "it is there already";
    EXPECT_EQ(rig.answers[0].first, Status::ok);
    rig.put_fill();
    rig.work();
    rig.registry.give_stack(4096, kPatienceNs, rig.answer());
    rig.registry.give_stack(2048, kPatienceNs, rig.answer());
    rig.put_fill();
    rig.work();
    EXPECT_EQ(rig.client.issued(), 1u);
    EXPECT_EQ(rig.driver.stack, 1024u);
    EXPECT_EQ(rig.answers.size(), 1u);
    rig.stream->run_to(1);
    rig.work();
    ASSERT_EQ(rig.answers.size(), 3u);
    EXPECT_EQ(rig.answers[1].first, Status::ok);
    EXPECT_EQ(rig.answers[2].first, Status::ok);
    EXPECT_EQ(rig.driver.stack, 4096u) << "the largest";
    EXPECT_EQ(rig.driver.stack_changes, 1);
    EXPECT_EQ(rig.stream->forgotten, 1) << "graphs that were made before are made anew";
    rig.work();
    EXPECT_EQ(rig.client.issued(), 2u);
    EXPECT_EQ(rig.registry.tick(~std::uint64_t{0}), -1) << "nothing is waited for";
}

TEST(Stack, ThatTheDriverRefusesLeavesEverythingAsItWas) {
    ByHand rig;
    rig.put_fill();
    rig.work();
    rig.driver.refuse_stack = true;
    rig.registry.give_stack(4096, kPatienceNs, rig.answer());
    rig.put_fill();
    rig.stream->run_to(1);
    rig.work();
    ASSERT_EQ(rig.answers.size(), 1u);
    EXPECT_EQ(rig.answers[0], std::pair(Status::unsupported, std::string("the test gives no stack")));
    rig.work();
    EXPECT_EQ(rig.client.issued(), 2u);
    EXPECT_THROW(rig.registry.give_stack(2u << 20, kPatienceNs, rig.answer()), Error);
    rig.put_fill();
    rig.work();
    EXPECT_EQ(rig.client.issued(), 3u) << "what cannot be had holds nobody up";
    EXPECT_EQ(rig.stream->forgotten, 0);
    EXPECT_EQ(rig.driver.stack, 1024u);
}

TEST(Stack, IsGivenUpWhereTheDeviceStaysAtWork) {
    ByHand rig;
    rig.put_fill();
    rig.work();
    rig.registry.give_stack(4096, kPatienceNs, rig.answer());
    rig.put_fill();
    rig.work();
    EXPECT_GT(rig.registry.tick(now_ns()), 0);
    EXPECT_EQ(rig.registry.tick(now_ns() + kPatienceNs), -1);
    ASSERT_EQ(rig.answers.size(), 1u);
    EXPECT_EQ(rig.answers[0].first, Status::timed_out);
    EXPECT_NE(rig.answers[0].second.find("stack of 4096 bytes"), std::string::npos) << rig.answers[0].second;
    rig.work();
    EXPECT_EQ(rig.client.issued(), 2u) << "who waited goes on";
    rig.stream->run_all();
    rig.work();
    EXPECT_EQ(rig.answers.size(), 1u) << "answered once";
    EXPECT_EQ(rig.driver.stack, 1024u);
}

// What came while launches were held back is taken up again, though its producer rings for a sleep only once
// and the dispatcher sleeps for ever.
TEST(Stack, GivenBesideALiveStreamLosesNoWakeUp) {
    auto scripted = std::make_unique<ScriptedDriver>();
    ScriptedDriver& driver = *scripted;
    Rig rig(false, 0, std::move(scripted));
    rig.memory.device.set_owner(1, driver.device().range_base, driver.device().chunk_bytes);
    const int doorbell = rig.attach(1);
    ClientStream client(1, make_id(0));
    rig.open(1, client);
    std::atomic<bool> over{false};
    std::uint64_t done = 0;
    std::thread producer([&] {
        LiveClient live(client, doorbell, true);
        while (!over) {
            const std::uint64_t end = client.put(fill_at(driver.device().range_base));
            if (producer_must_ring(client.page->need_wakeup, client.rung, true)) live.ring();
            if (!live.wait(end)) break;
            ++done;
        }
    });
    int given = 0;
    constexpr int kTimes = 500;
    for (int i = 1; i <= kTimes; ++i) {
        rig.registry.give_stack(1024 + static_cast<std::uint64_t>(i), kPatienceNs * 30,
                                [&](Status status, const std::string&) { given += status == Status::ok; });
        if (!rig.until([&] { return given == i; })) break;
    }
    over = true;
    producer.join();
    EXPECT_EQ(given, kTimes);
    EXPECT_EQ(driver.stack_changes, kTimes);
    EXPECT_EQ(client.completed(), done) << "somebody waits for ever";
    EXPECT_GT(done, 0u);
    EXPECT_TRUE(rig.close(client.id));
}

// A thread that is not started, so that all of it runs here; a stream that has a record at work until the
// test says otherwise, on a driver whose changes keep launches waiting.
struct StallingRig {
    StallingRig() {
        driver.completes_at_once = false;
        driver.stalls = true;
        registry.attach_session(1, UniqueFd(::eventfd(0, EFD_CLOEXEC)));
        memory.device.set_owner(1, driver.device().range_base, driver.device().chunk_bytes);
        open(busy);
        thread.call([&](Dispatcher& dispatcher) { port = dispatcher.find(busy.id); });
        put_work();
        EXPECT_EQ(busy.issued(), 1u);
    }
    void open(ClientStream& stream) {
        registry.open_stream(1, stream.setup(), stream.ring_fd, stream.status_fd, stream.wake_fd.duplicate());
    }
    void close(ClientStream& stream) {
        registry.close_stream(stream.id, [&](Status status, const std::string& text) {
            EXPECT_EQ(status, Status::ok) << text;
            ++closed;
        });
        work();
    }
    void put_work() {
        schema::FillRecord fill{};
        fill.mutate_kind(schema::RecordKind::Fill);
        fill.mutate_width(1);
        fill.mutate_bytes(8);
        fill.mutate_device(driver.device().range_base);
        busy.put(fill);
        work();
    }
    void work() {
        thread.call([&](Dispatcher& dispatcher) {
            while (dispatcher.do_work())
                ;
        });
        for (const Notice& notice : thread.take_notices()) registry.barrier_reached(notice.id);
    }
    void complete() { static_cast<ScriptedStream&>(*port->driver_stream).run_all(); }

    ScriptedDriver driver;
    MemoryMap memory{driver.device()};
    DispatchThread thread{DispatchThread::Config{}, driver, memory, {}};
    Registry registry{driver, memory, thread, DispatcherConfig{.max_in_flight = 256}, 1'000'000'000};
    ClientStream busy{1, make_id(0)};
    StreamPort* port = nullptr;
    int closed = 0;
};

TEST(DispatchThread, AStreamThatIsClosedStallsNobodyWhoseKernelsRun) {
    StallingRig rig;
    ClientStream idle(1, make_id(1));
    rig.open(idle);
    EXPECT_EQ(rig.driver.streams, 2);
    rig.close(idle);
    EXPECT_EQ(rig.closed, 1) << "it has gone for its client";
    EXPECT_EQ(rig.driver.streams, 2) << "but the driver's is there as long as the other one works";
    rig.open(idle);  // and in no one's way
    EXPECT_EQ(rig.driver.streams, 3);
    bool loaded = false;
    rig.registry.when_the_device_is_empty([&] { loaded = true; }, [] {}, false);
    EXPECT_FALSE(loaded);

    rig.complete();
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!loaded && std::chrono::steady_clock::now() < end) {
        rig.work();
        rig.registry.tick(now_ns());
    }
    EXPECT_TRUE(loaded);
    EXPECT_EQ(rig.driver.streams, 2);
    loaded = false;
    rig.registry.when_the_device_is_empty([&] { loaded = true; }, [] {}, false);
    EXPECT_TRUE(loaded) << "nothing is on the device";
    const std::uint64_t issued = rig.busy.issued();
    rig.put_work();
    EXPECT_EQ(rig.busy.issued(), issued + 1) << "all go on";
    rig.complete();
    rig.work();
    rig.close(idle);
    rig.close(rig.busy);
    EXPECT_EQ(rig.closed, 3);
    EXPECT_EQ(rig.driver.streams, 0);
    rig.registry.detach_session(1);
}

TEST(DispatchThread, StreamsThatAreClosedBesideAKernelWithoutAnEndAreBounded) {
    StallingRig rig;
    std::string refused;
    for (int i = 0; refused.empty() && i < 1000; ++i) {
        ClientStream another(1, make_id(1));
        try {
            rig.open(another);
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::limit_reached);
            refused = error.what();
            break;
        }
        rig.close(another);
    }
    EXPECT_EQ(rig.closed, 64);
    EXPECT_NE(refused.find("64 that this session closed are still there"), std::string::npos) << refused;
}

}  // namespace
}  // namespace ringlaunch::executor::test
