// The client across the ends of lives: of executors, of the daemon, of processes that fork, and of private
// daemons.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <functional>

#include "client/src/stream_state.hpp"
#include "schema/error.hpp"
#include "tests/client/daemon.hpp"
#include "tests/client/fake_peer.hpp"

namespace ringlaunch::testing {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

struct Session {
    explicit Session(const Daemon& daemon, OnRestart on_restart = OnRestart::stop,
                     std::uint32_t ring_slots = 4096)
        : client(daemon.connect()), module(client.load_file(TEST_KERNELS)) {
        StreamOptions options;
        options.on_restart = on_restart;
        options.ring_slots = ring_slots;
        stream = client.stream(options);
    }
    Client client;
    Module module;
    Stream stream;
};

// Runs it in a child and answers its exit status: 0 when `body` said true.
int in_child(const std::function<bool()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(30);
        ::_exit(body() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
}

// ---- the daemon dies

TEST(DaemonKilled, ends_a_wait) {
    Daemon daemon("host");
    Session session(daemon);
    ASSERT_EQ(session.stream.launch(session.module.kernel("nap"), {1}, {1}, 2'000u), Status::ok);
    const Event event = session.stream.record();
    std::vector<std::thread> threads;
    std::array<Status, 4> found{};
    for (std::size_t i = 0; i < found.size(); ++i)
        threads.emplace_back([&, i] { found[i] = event.wait(kPatienceNs); });
    std::this_thread::sleep_for(20ms);
    daemon.kill();
    for (std::thread& thread : threads) thread.join();
    for (const Status status : found) EXPECT_EQ(status, Status::daemon_lost);
    EXPECT_EQ(session.stream.launch(session.module.kernel("none"), {1}, {1}), Status::daemon_lost);
    EXPECT_THAT(session.stream.last_error(), HasSubstr("hung up"));
    EXPECT_EQ(session.stream.status().status, Status::daemon_lost);
    EXPECT_FALSE(event.done());
    EXPECT_THROW(session.client.alloc(64), Error);
}

TEST(DaemonKilled, ends_the_wait_for_room) {
    Daemon daemon("host");
    Session session(daemon, OnRestart::stop, 64);
    ASSERT_EQ(session.stream.launch(session.module.kernel("nap"), {1}, {1}, 2'000u), Status::ok);
    const Kernel none = session.module.kernel("none");
    std::thread killer([&] {
        std::this_thread::sleep_for(30ms);
        daemon.kill();
    });
    Status status = Status::ok;
    for (int i = 0; i < 1'000 && status == Status::ok; ++i) status = session.stream.launch(none, {1}, {1});
    killer.join();
    EXPECT_EQ(status, Status::daemon_lost);
    EXPECT_EQ(session.stream.try_launch(none, {1}, {1}), Status::daemon_lost);
}

TEST(DaemonKilled, ends_a_request_an_event_loop_and_a_copy) {
    Daemon daemon("host");
    Session session(daemon);
    const Buffer buffer = session.client.alloc(64);
    ASSERT_EQ(session.stream.launch(session.module.kernel("nap"), {1}, {1}, 2'000u), Status::ok);
    const Event event = session.stream.record();
    ASSERT_EQ(event.arm(), Status::timed_out);
    std::thread copier([&] {
        char out[64];
        EXPECT_EQ(session.stream.copy_to_host(out, buffer, sizeof out), Status::daemon_lost);
    });
    std::this_thread::sleep_for(20ms);
    daemon.kill();
    copier.join();
    pollfd entry{session.stream.wake_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&entry, 1, 30'000), 1);
    session.stream.on_wake();
    EXPECT_EQ(event.arm(), Status::daemon_lost);
}

// ---- an executor dies

TEST(ExecutorKilled, a_stream_with_nothing_in_doubt_goes_on_by_itself) {
    Daemon daemon("host");
    Session session(daemon);
    const Buffer words = session.client.alloc(64);
    ASSERT_EQ(session.stream.fill(words, 7, 4, 0, 64), Status::ok);
    ASSERT_EQ(session.stream.synchronize(kPatienceNs), Status::ok);
    const std::uint64_t address = words.address();
    daemon.kill_executor();
    ASSERT_EQ(session.stream.launch(session.module.kernel("store"), {1}, {1}, words, 1u, 9u), Status::ok)
        << session.stream.last_error();
    unsigned found[3];
    ASSERT_EQ(session.stream.copy_to_host(found, words, sizeof found), Status::ok)
        << session.stream.last_error();
    EXPECT_EQ(found[0], 7u);
    EXPECT_EQ(found[1], 9u);
    EXPECT_EQ(found[2], 7u);
    EXPECT_EQ(words.address(), address);
    EXPECT_GT(session.stream.status().epoch, 1u);
}

TEST(ExecutorKilled, a_stream_in_doubt_stops_and_its_waiters_learn_of_it) {
    Daemon daemon("host");
    Session session(daemon);
    const Buffer words = session.client.alloc(64);
    ASSERT_EQ(session.stream.fill(words, 0, 4, 0, 64), Status::ok);
    ASSERT_EQ(session.stream.synchronize(kPatienceNs), Status::ok);
    const std::uint64_t begin = session.stream.status().published;
    ASSERT_EQ(session.stream.launch(session.module.kernel("gate"), {1}, {1}, words), Status::ok);
    const std::uint64_t behind_gate = session.stream.status().published;
    ASSERT_TRUE(eventually([&] { return session.stream.status().issued >= behind_gate; }));
    std::thread waiter([&] { EXPECT_EQ(session.stream.synchronize(kPatienceNs), Status::stream_stopped); });
    std::this_thread::sleep_for(10ms);
    daemon.kill_executor();
    waiter.join();
    const StreamStatus status = session.stream.status();
    EXPECT_EQ(status.status, Status::executor_killed) << status.text;
    EXPECT_EQ(status.completed, begin);
    EXPECT_EQ(status.issued, behind_gate);
    EXPECT_NE(status.text, "");
    EXPECT_EQ(session.stream.launch(session.module.kernel("none"), {1}, {1}), Status::stream_stopped);
    session.stream.resume();
    ASSERT_EQ(session.stream.launch(session.module.kernel("store"), {1}, {1}, words, 0u, 5u), Status::ok)
        << session.stream.last_error();
    EXPECT_EQ(session.stream.synchronize(kPatienceNs), Status::ok) << session.stream.status().text;
}

// Law 6 under a producer that never waits: every record ran once, or was repeated by a rerun that its stream
// chose.
void enqueue_across_restarts(OnRestart on_restart) {
    Daemon daemon("host");
    Session session(daemon, on_restart, 256);
    constexpr unsigned kCount = 20'000;
    const Buffer words = session.client.alloc(kCount * 4);
    ASSERT_EQ(session.stream.fill(words, 0, 4, 0, kCount * 4), Status::ok);
    ASSERT_EQ(session.stream.synchronize(kPatienceNs), Status::ok);
    const Kernel store = session.module.kernel("store");
    std::atomic<bool> done{false};
    std::atomic<int> kills{0};
    std::thread killer([&] {
        do {
            std::this_thread::sleep_for(30ms);
            daemon.kill_executor();
            ++kills;
        } while (!done && kills < 3);
    });
    unsigned skipped = 0;
    // Resumes and says how many records were in doubt: they are skipped, as resume() promises.
    const auto go_on = [&] {
        const StreamStatus status = session.stream.status();
        ASSERT_EQ(status.status, Status::executor_killed) << status.text;
        skipped += static_cast<unsigned>(status.issued - status.completed);
        session.stream.resume();
    };
    for (unsigned i = 0; i < kCount; ++i) {
        Status status;
        while ((status = session.stream.launch(store, {1}, {1}, words, i, i + 1)) == Status::stream_stopped) {
            ASSERT_EQ(on_restart, OnRestart::stop);
            ASSERT_NO_FATAL_FAILURE(go_on());
        }
        ASSERT_EQ(status, Status::ok) << session.stream.last_error();
        if (i % 64 == 0) std::this_thread::sleep_for(200us);
    }
    done = true;
    killer.join();
    for (;;) {
        const Status status = session.stream.synchronize(kPatienceNs);
        if (status == Status::ok) break;
        ASSERT_EQ(status, Status::stream_stopped);
        ASSERT_NO_FATAL_FAILURE(go_on());
    }
    EXPECT_GT(kills, 0);
    std::vector<unsigned> found(kCount);
    ASSERT_EQ(session.stream.copy_to_host(found.data(), words, kCount * 4), Status::ok);
    unsigned missing = 0;
    for (unsigned i = 0; i < kCount; ++i) {
        if (found[i] == 0)
            ++missing;
        else
            ASSERT_EQ(found[i], i + 1);
    }
    EXPECT_LE(missing, skipped) << "a record was lost that was never in doubt";
    if (on_restart == OnRestart::rerun) {
        EXPECT_EQ(missing, 0u);
    }
}

TEST(ExecutorKilled, while_enqueuing_a_stream_that_stops) {
    enqueue_across_restarts(OnRestart::stop);
}
TEST(ExecutorKilled, while_enqueuing_a_stream_that_reruns) {
    enqueue_across_restarts(OnRestart::rerun);
}

TEST(ExecutorKilled, a_wait_goes_on_across_a_restart) {
    Daemon daemon("host");
    Session session(daemon, OnRestart::rerun);
    const Buffer gate = session.client.alloc(4);
    ASSERT_EQ(session.stream.fill(gate, 0, 4, 0, 4), Status::ok);
    ASSERT_EQ(session.stream.synchronize(kPatienceNs), Status::ok);
    ASSERT_EQ(session.stream.launch(session.module.kernel("gate"), {1}, {1}, gate), Status::ok);
    const Event event = session.stream.record();
    ASSERT_EQ(event.arm(), Status::timed_out);
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back(
            [&] { EXPECT_EQ(event.wait(kPatienceNs), Status::ok) << session.stream.status().text; });
    std::this_thread::sleep_for(20ms);
    daemon.kill_executor();
    Stream opener = session.client.stream();
    ASSERT_EQ(opener.fill(gate, 1, 4, 0, 4), Status::ok);
    Status status = event.arm();
    while (status == Status::timed_out) {
        pollfd entry{session.stream.wake_fd(), POLLIN, 0};
        ASSERT_EQ(::poll(&entry, 1, 30'000), 1) << "a wake-up was lost";
        session.stream.on_wake();
        status = event.arm();
    }
    EXPECT_EQ(status, Status::ok);
    for (std::thread& thread : threads) thread.join();
}

TEST(ExecutorKilled, streams_that_are_opened_meanwhile_follow_the_new_epoch) {
    Daemon daemon("host");
    Session session(daemon);
    std::atomic<bool> done{false};
    std::thread killer([&] {
        for (int i = 0; i < 3; ++i) daemon.kill_executor();
        done = true;
    });
    int opened = 0;
    while (!done || opened < 20) {
        Stream stream = session.client.stream();
        ASSERT_EQ(stream.launch(session.module.kernel("none"), {1}, {1}), Status::ok) << stream.last_error();
        const Status status = stream.synchronize(kPatienceNs);
        EXPECT_TRUE(status == Status::ok || status == Status::stream_stopped) << status_name(status);
        ++opened;
    }
    killer.join();
}

TEST(KernelFaulted, the_culprit_is_told_and_its_neighbour_goes_on) {
    Daemon daemon("host");
    Session culprit(daemon), neighbour(daemon);
    const Buffer words = neighbour.client.alloc(64);
    ASSERT_EQ(neighbour.stream.fill(words, 3, 4, 0, 64), Status::ok);
    ASSERT_EQ(neighbour.stream.synchronize(kPatienceNs), Status::ok);
    ASSERT_EQ(culprit.stream.launch(culprit.module.kernel("crash"), {1}, {1}, nullptr), Status::ok)
        << culprit.stream.last_error();
    EXPECT_EQ(culprit.stream.synchronize(kPatienceNs), Status::stream_stopped);
    const StreamStatus status = culprit.stream.status();
    EXPECT_EQ(status.status, Status::kernel_faulted) << status.text;
    EXPECT_EQ(status.error_kernel, "crash");
    EXPECT_THAT(status.text, HasSubstr("crash"));
    unsigned found = 0;
    ASSERT_EQ(neighbour.stream.copy_to_host(&found, words, 4), Status::ok) << neighbour.stream.last_error();
    EXPECT_EQ(found, 3u);
    culprit.stream.resume();
    ASSERT_EQ(culprit.stream.launch(culprit.module.kernel("none"), {1}, {1}), Status::ok);
    EXPECT_EQ(culprit.stream.synchronize(kPatienceNs), Status::ok) << culprit.stream.status().text;
}

// ---- the client forks

// AddressSanitizer's allocator does not survive a fork while another thread allocates, or ends.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kOthersMayAllocate = false;
#else
constexpr bool kOthersMayAllocate = true;
#endif

TEST(Fork, a_child_has_no_session_and_the_parent_keeps_its_own) {
    Daemon daemon("host");
    Session session(daemon);
    const Buffer words = session.client.alloc(64);
    const Kernel store = session.module.kernel("store");
    ASSERT_EQ(session.stream.launch(store, {1}, {1}, words, 0u, 1u), Status::ok);
    Event event = session.stream.record();
    // While others of the parent are within waits and requests.
    std::atomic<bool> done{false};
    std::thread waiter, requester;
    if (kOthersMayAllocate) {
        waiter = std::thread([&] {
            while (!done) EXPECT_EQ(session.stream.synchronize(kPatienceNs), Status::ok);
        });
        requester = std::thread([&] {
            while (!done) {
                EXPECT_NO_THROW(session.client.alloc(64));
                std::this_thread::sleep_for(1ms);
            }
        });
    }
    for (int round = 0; round < 20; ++round) {
        const int status = in_child([&] {
            bool right = session.stream.launch(store, {1}, {1}, words, 0u, 666u) == Status::closed;
            right &= session.stream.last_error().find("fork") != std::string::npos;
            right &= session.stream.record().wait() == Status::closed;
            right &= session.stream.barrier() == Status::closed;
            right &= session.stream.fill(words, 1, 4, 0, 64) == Status::closed;
            char byte = 0;
            right &= session.stream.copy_to_device(words, &byte, 1) == Status::closed;
            right &= session.stream.copy_to_host(&byte, words, 1) == Status::closed;
            right &= session.stream.status().status == Status::closed;
            right &= session.client.synchronize() == Status::closed;
            right &= session.stream.wake_fd() == -1;
            session.stream.on_wake();
            try {
                session.client.alloc(64);
                right = false;
            } catch (const Error& error) {
                right &= error.status() == Status::closed;
            }
            session.client.close();
            // Destructors, in the order in which a program might run them.
            session.stream = Stream();
            event = Event();
            session.module = Module();
            session.client = Client();
            // A session of its own.
            Session own(daemon);
            right &= own.stream.launch(own.module.kernel("none"), {1}, {1}) == Status::ok;
            right &= own.stream.synchronize(kPatienceNs) == Status::ok;
            return right;
        });
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
            << "round " << round << ", status " << status;
        EXPECT_EQ(session.stream.launch(store, {1}, {1}, words, 0u, 2u), Status::ok);
        if (HasFailure()) break;  // with the threads to be joined
    }
    done = true;
    if (waiter.joinable()) waiter.join();
    if (requester.joinable()) requester.join();
    unsigned found = 0;
    ASSERT_EQ(session.stream.copy_to_host(&found, words, 4), Status::ok);
    EXPECT_EQ(found, 2u);
}

// ---- private daemons

class Private : public ::testing::Test {
  protected:
    ConnectOptions options(const std::string& program = daemon_program()) const {
        ConnectOptions options;
        options.socket = folder_.socket();
        options.start_private = true;
        options.daemon_path = program;
        options.driver = "null";
        options.timeout_ms = 30'000;
        return options;
    }
    std::string script(const std::string& body) const {
        const std::string path = folder_.path() + "/ringlaunchd";
        std::ofstream(path) << "#!/bin/sh\n" << body;
        std::filesystem::permissions(path, std::filesystem::perms::owner_all);
        return path;
    }
    static bool gone(int pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }
    TestFolder folder_;
};

TEST_F(Private, is_started_serves_and_leaves_with_its_last_client) {
    int pid = 0;
    {
        Client first = Client::connect(options());
        pid = first.daemon().pid;
        EXPECT_EQ(first.daemon().driver, "null");
        Client second = Client::connect(options());
        EXPECT_EQ(second.daemon().pid, pid) << "the one that runs is taken";
        EXPECT_TRUE(children_of(::getpid()).empty())
            << "the daemon is nobody's child, and its monitor has left";
        Stream stream = second.stream();
        const Kernel none = second.load_file(TEST_KERNELS).kernel("none");
        EXPECT_EQ(stream.launch(none, {1}, {1}), Status::ok);
        EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok);
    }
    EXPECT_TRUE(eventually([&] { return gone(pid); }));
}

TEST_F(Private, of_another_driver_is_not_taken_without_a_word) {
    const Client first = Client::connect(options());
    ConnectOptions other = options();
    for (const char* any : {"", "auto"}) {
        other.driver = any;
        EXPECT_EQ(Client::connect(other).daemon().pid, first.daemon().pid) << any;
    }
    other.driver = "host";
    for (const bool start : {true, false}) {
        other.start_private = start;
        try {
            Client::connect(other);
            ADD_FAILURE() << "no Error was thrown";
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::unsupported);
            EXPECT_THAT(error.what(), AllOf(HasSubstr("driver host"), HasSubstr("driver null"),
                                            HasSubstr("ringlaunchd stop"), HasSubstr(other.socket)));
        }
    }
    EXPECT_EQ(Client::connect(options()).daemon().pid, first.daemon().pid) << "it goes on";
}

TEST_F(Private, is_started_in_the_place_of_one_that_leaves_while_it_is_greeted) {
    FakePeer leaving([](FakePeer& self) { self.take(); });
    ConnectOptions mine = options();
    mine.socket = leaving.options().socket;
    const Client client = Client::connect(mine);
    EXPECT_EQ(client.daemon().driver, "null");
    EXPECT_GT(client.daemon().pid, 0);
}

TEST_F(Private, that_says_it_is_leaving_is_waited_for) {
    FakePeer leaving(
        [](FakePeer& self) { self.refuse(self.take(), Status::stopping, "the daemon is leaving"); });
    ConnectOptions mine = options();
    mine.socket = leaving.options().socket;
    EXPECT_EQ(Client::connect(mine).daemon().driver, "null");
}

TEST_F(Private, that_leaves_while_it_is_greeted_is_named_where_none_is_started) {
    FakePeer leaving([](FakePeer& self) { self.take(); });
    ConnectOptions mine = options();
    mine.socket = leaving.options().socket;
    mine.start_private = false;
    try {
        Client::connect(mine);
        ADD_FAILURE() << "no Error was thrown";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::daemon_lost);
        EXPECT_THAT(error.what(), HasSubstr(mine.socket));
    }
}

TEST_F(Private, programs_that_start_at_once_get_one_daemon) {
    constexpr int kPrograms = 4;
    int pipe_ends[2];
    ASSERT_EQ(::pipe2(pipe_ends, O_CLOEXEC), 0);
    std::vector<pid_t> programs;
    for (int i = 0; i < kPrograms; ++i) {
        const pid_t program = ::fork();
        if (program == 0) {
            ::alarm(60);
            int pid = -1;
            Client client;
            try {
                client = Client::connect(options());
                pid = client.daemon().pid;
            } catch (const Error& error) {
                std::cerr << error.what() << '\n';
            }
            const bool wrote = ::write(pipe_ends[1], &pid, sizeof pid) == sizeof pid;
            // Stays until all have said which one they got.
            std::this_thread::sleep_for(1s);
            ::_exit(wrote && pid > 0 ? 0 : 1);
        }
        programs.push_back(program);
    }
    std::vector<int> pids(kPrograms);
    for (int& pid : pids) ASSERT_EQ(::read(pipe_ends[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
    for (const pid_t program : programs) {
        int status = 0;
        ASSERT_EQ(::waitpid(program, &status, 0), program);
        EXPECT_EQ(status, 0);
    }
    for (const int pid : pids) EXPECT_EQ(pid, pids[0]);
    EXPECT_TRUE(eventually([&] { return gone(pids[0]); }));
    ::close(pipe_ends[0]);
    ::close(pipe_ends[1]);
}

TEST_F(Private, one_that_dies_at_once_is_an_error_with_the_end_of_its_log) {
    try {
        Client::connect(options(script("echo \"there is no flux in the capacitor\" >&2\nexit 8\n")));
        FAIL() << "it connected";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::daemon_lost);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("status 8"), HasSubstr("no flux in the capacitor"),
                                        HasSubstr(folder_.path() + "/daemon.log")));
    }
}

TEST_F(Private, one_that_never_listens_costs_the_timeout_and_no_more) {
    ConnectOptions patient = options(script("exec sleep 5\n"));
    patient.timeout_ms = 100;
    try {
        Client::connect(patient);
        FAIL() << "it connected";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::timed_out);
    }
    EXPECT_TRUE(children_of(::getpid()).empty());
}

TEST_F(Private, what_is_no_program_is_refused) {
    try {
        Client::connect(options("/nowhere/ringlaunchd"));
        FAIL() << "it connected";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::not_found);
        EXPECT_THAT(error.what(), HasSubstr("/nowhere/ringlaunchd"));
    }
    const std::string path = folder_.path() + "/broken";
    std::ofstream(path) << "\x7f"
                           "ELF, but not really";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    try {
        Client::connect(options(path));
        FAIL() << "it connected";
    } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("could not be executed"));
    }
}

TEST_F(Private, the_environment_names_the_program) {
    ::setenv("RINGLAUNCHD", "/nowhere/else", 1);
    try {
        Client::connect(options(""));
        ADD_FAILURE() << "it connected";
    } catch (const Error& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("$RINGLAUNCHD"), HasSubstr("/nowhere/else")));
    }
    ::setenv("RINGLAUNCHD", daemon_program(), 1);
    EXPECT_GT(Client::connect(options("")).daemon().pid, 0);
    ::unsetenv("RINGLAUNCHD");
}

}  // namespace
}  // namespace ringlaunch::testing
