// What the client makes of a peer that is not as it should be. The peer is scripted; everything else in these
// tests meets the real daemon.
#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "tests/client/fake_peer.hpp"

namespace ringlaunch::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Runs it and returns the Error that it must throw.
template <class Call>
Error error_of(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        return error;
    }
    ADD_FAILURE() << "no Error was thrown";
    return {Status::ok, ""};
}

TEST(Connect, where_nobody_listens_says_where_and_what_to_do) {
    const TestFolder folder;
    ConnectOptions options;
    options.socket = folder.socket();
    const Error error = error_of([&] { Client::connect(options); });
    EXPECT_EQ(error.status(), Status::daemon_lost);
    EXPECT_THAT(error.what(), AllOf(HasSubstr(folder.socket()), HasSubstr("ringlaunchd serve")));
}

TEST(Connect, a_dead_socket_is_the_same_as_none) {
    const TestFolder folder;
    {
        const UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        folder.socket().copy(address.sun_path, sizeof address.sun_path - 1);
        ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }
    ConnectOptions options;
    options.socket = folder.socket();
    EXPECT_EQ(error_of([&] { Client::connect(options); }).status(), Status::daemon_lost);
}

TEST(Connect, a_folder_where_everybody_may_write_is_refused) {
    const TestFolder folder;
    std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
    ConnectOptions options;
    options.socket = folder.socket();
    EXPECT_EQ(error_of([&] { Client::connect(options); }).status(), Status::permission_denied);
}

TEST(Connect, the_environment_names_the_socket) {
    const TestFolder folder;
    ::setenv("RINGLAUNCH_SOCKET", folder.socket().c_str(), 1);
    const Error error = error_of([] { Client::connect(); });
    ::unsetenv("RINGLAUNCH_SOCKET");
    EXPECT_THAT(error.what(), HasSubstr(folder.socket()));
}

TEST(Handshake, another_version_is_an_error_that_names_both) {
    FakePeer peer([](FakePeer& self) { self.welcome(self.take(), kProtocolVersion + 41); });
    const Error error = error_of([&] { Client::connect(peer.options()); });
    EXPECT_EQ(error.status(), Status::version_mismatch);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("protocol version " + std::to_string(kProtocolVersion)),
                                    HasSubstr("protocol version " + std::to_string(kProtocolVersion + 41)),
                                    HasSubstr("9.9.9")));
}

TEST(Handshake, a_daemon_that_refuses_the_version_is_quoted_and_both_are_named) {
    FakePeer peer([](FakePeer& self) {
        self.refuse(self.take(), Status::version_mismatch, "this daemon speaks version 42 only");
    });
    const Error error = error_of([&] { Client::connect(peer.options()); });
    EXPECT_EQ(error.status(), Status::version_mismatch);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("version 42"),
                                    HasSubstr("protocol version " + std::to_string(kProtocolVersion))));
}

TEST(Handshake, the_hello_says_who_we_are) {
    std::string program;
    std::uint32_t magic = 0, version = 0;
    {
        FakePeer peer([&](FakePeer& self) {
            const std::uint32_t id = self.take();
            const auto* hello = self.view().request_as_Hello();
            ASSERT_NE(hello, nullptr);
            program = hello->program()->str();
            magic = hello->magic();
            version = hello->version();
            self.welcome(id);
        });
        Client::connect(peer.options());
    }
    EXPECT_EQ(program, program_invocation_short_name);
    EXPECT_EQ(magic, kHelloMagic);
    EXPECT_EQ(version, kProtocolVersion);
}

TEST(Handshake, a_daemon_of_another_user_is_taken_only_where_it_is_named) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user for a moment";
    constexpr uid_t kStranger = 65534;
    const auto serve_as_stranger = [](FakePeer::Script script) {
        // A listener's credentials are those at listen().
        EXPECT_EQ(::seteuid(kStranger), 0);
        auto peer = std::make_unique<FakePeer>(std::move(script));
        EXPECT_EQ(::seteuid(0), 0);
        return peer;
    };
    const auto welcome = [](FakePeer& self) { self.welcome(self.take()); };
    {
        bool greeted = false;
        {
            const auto peer = serve_as_stranger([&](FakePeer& self) { greeted = self.take() != 0; });
            const Error error = error_of([&] { Client::connect(peer->options()); });
            EXPECT_EQ(error.status(), Status::permission_denied);
            EXPECT_THAT(error.what(),
                        AllOf(HasSubstr("run by user 65534"), HasSubstr("RINGLAUNCH_DAEMON_UID=65534")));
        }
        EXPECT_FALSE(greeted) << "it was told something";
    }
    {
        const auto peer = serve_as_stranger(welcome);
        ConnectOptions options = peer->options();
        options.daemon_uid = kStranger;
        EXPECT_TRUE(Client::connect(options));
    }
    for (const char* named : {"65534", "65533", "nobody"}) {
        ::setenv("RINGLAUNCH_DAEMON_UID", named, 1);
        const bool right = std::string(named) == "65534";
        const auto peer = serve_as_stranger([&](FakePeer& self) {
            if (const std::uint32_t id = self.take(); right) self.welcome(id);
        });
        if (right)
            EXPECT_TRUE(Client::connect(peer->options()));
        else
            EXPECT_EQ(error_of([&] { Client::connect(peer->options()); }).status(),
                      std::string(named) == "nobody" ? Status::invalid_argument : Status::permission_denied);
        ::unsetenv("RINGLAUNCH_DAEMON_UID");
    }
}

TEST(Handshake, a_peer_that_hangs_up_is_lost) {
    FakePeer peer([](FakePeer& self) { self.take(); });
    EXPECT_EQ(error_of([&] { Client::connect(peer.options()); }).status(), Status::daemon_lost);
}

TEST(Handshake, a_peer_that_never_answers_costs_the_timeout_and_no_more) {
    FakePeer peer([](FakePeer& self) {
        self.take();
        self.take();  // until the client leaves
    });
    ConnectOptions options = peer.options();
    options.timeout_ms = 50;
    EXPECT_EQ(error_of([&] { Client::connect(options); }).status(), Status::timed_out);
}

TEST(Handshake, a_welcome_without_its_doorbell_is_malformed) {
    FakePeer peer([](FakePeer& self) {
        self.answer(self.take(), Status::ok, "", schema::Answer::Welcome,
                    [](flatbuffers::FlatBufferBuilder& builder) {
                        return schema::CreateWelcome(builder, kProtocolVersion).Union();
                    });
    });
    EXPECT_EQ(error_of([&] { Client::connect(peer.options()); }).status(), Status::malformed_message);
}

TEST(Handshake, bytes_that_are_no_message_end_the_session) {
    FakePeer peer([](FakePeer& self) {
        self.take();
        self.send(std::as_bytes(std::span("this is no flatbuffer, whatever it is")));
        self.take();
    });
    EXPECT_EQ(error_of([&] { Client::connect(peer.options()); }).status(), Status::malformed_message);
}

TEST(Answers, a_refusal_is_quoted_with_what_was_being_done) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        self.refuse(self.take(), Status::out_of_memory, "the device has 3 bytes left");
        self.take();
    });
    Client client = Client::connect(peer.options());
    const Error error = error_of([&] { client.alloc(4096); });
    EXPECT_EQ(error.status(), Status::out_of_memory);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("4096 bytes"), HasSubstr("3 bytes left")));
}

TEST(Answers, a_refusal_with_a_number_of_a_newer_daemon_is_still_an_error) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        self.refuse(self.take(), static_cast<Status>(4711), "");
        self.take();
    });
    Client client = Client::connect(peer.options());
    const Error error = error_of([&] { client.alloc(4096); });
    EXPECT_EQ(static_cast<std::uint32_t>(error.status()), 4711u);
    EXPECT_THAT(error.what(), HasSubstr("does not know"));
}

TEST(Answers, an_answer_of_another_kind_is_malformed) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        self.answer(
            self.take(), Status::ok, "", schema::Answer::Done,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateDone(builder).Union(); });
        self.take();
    });
    Client client = Client::connect(peer.options());
    EXPECT_EQ(error_of([&] { client.alloc(4096); }).status(), Status::malformed_message);
}

TEST(Answers, come_in_any_order_to_the_threads_that_asked) {
    constexpr int kThreads = 6;
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        std::vector<std::pair<std::uint32_t, std::uint64_t>> asked;
        for (int i = 0; i < kThreads; ++i) {
            const std::uint32_t id = self.take();
            asked.emplace_back(id, self.view().request_as_AllocBuffer()->bytes());
        }
        for (auto at = asked.rbegin(); at != asked.rend(); ++at)
            self.answer(at->first, Status::ok, "", schema::Answer::BufferAllocated,
                        [&](flatbuffers::FlatBufferBuilder& builder) {
                            return schema::CreateBufferAllocated(builder, at->second, at->second * 1000,
                                                                 at->second)
                                .Union();
                        });
        while (self.take() != 0) {
        }
    });
    Client client = Client::connect(peer.options());
    std::vector<std::thread> threads;
    std::array<std::uint64_t, kThreads> addresses{};
    for (std::size_t i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] { addresses[i] = client.alloc(i + 1).address(); });
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < kThreads; ++i) EXPECT_EQ(addresses[i], (i + 1) * 1000);
}

TEST(Answers, a_hang_up_reaches_every_thread_that_asked) {
    constexpr int kThreads = 4;
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        for (int i = 0; i < kThreads; ++i) self.take();
    });
    Client client = Client::connect(peer.options());
    std::vector<std::thread> threads;
    std::array<Status, kThreads> found{};
    for (std::size_t i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] { found[i] = error_of([&] { client.alloc(64); }).status(); });
    for (std::thread& thread : threads) thread.join();
    for (const Status status : found) EXPECT_EQ(status, Status::daemon_lost);
    EXPECT_EQ(error_of([&] { client.stream(); }).status(), Status::daemon_lost);
}

TEST(Answers, one_that_nobody_asked_for_is_passed_by) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        const std::uint32_t id = self.take();
        self.refuse(id + 1000, Status::internal_error, "nobody asked");
        self.answer(id, Status::ok, "", schema::Answer::BufferAllocated,
                    [](flatbuffers::FlatBufferBuilder& builder) {
                        return schema::CreateBufferAllocated(builder, 1, 256, 64).Union();
                    });
        while (self.take() != 0) {
        }
    });
    Client client = Client::connect(peer.options());
    EXPECT_EQ(client.alloc(64).address(), 256u);
}

TEST(Notices, a_warning_of_the_session_is_kept) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        const std::uint32_t id = self.take();
        self.answer(0, Status::ok, "", schema::Answer::SessionWarning,
                    [](flatbuffers::FlatBufferBuilder& builder) {
                        return schema::CreateSessionWarning(builder, 33,
                                                            builder.CreateString("you run alone now"), 100)
                            .Union();
                    });
        self.refuse(id, Status::out_of_memory, "no");
        self.take();
    });
    Client client = Client::connect(peer.options());
    EXPECT_EQ(client.warning(), "");
    error_of([&] { client.alloc(1); });
    EXPECT_EQ(client.warning(), "you run alone now");
}

TEST(Segments, a_ring_that_is_not_sealed_is_refused) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        const std::uint32_t id = self.take();
        const UniqueFd ring = make_memfd("ring", ring_segment_bytes(64));
        const UniqueFd page = make_memfd("status", kStatusPageBytes);
        const UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        const int fds[] = {ring.get(), page.get(), wake.get()};
        self.answer(
            id, Status::ok, "", schema::Answer::StreamOpened,
            [](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateStreamOpened(builder, 1, 1, 64, ring_segment_bytes(64), kStatusPageBytes)
                    .Union();
            },
            fds);
        while (self.take() != 0) {
        }
    });
    Client client = Client::connect(peer.options());
    const Error error = error_of([&] { client.stream(); });
    EXPECT_EQ(error.status(), Status::bad_seals);
    EXPECT_THAT(error.what(), HasSubstr("the ring"));
}

TEST(Closed, a_client_answers_closed_and_never_blocks) {
    FakePeer peer([](FakePeer& self) {
        self.welcome(self.take());
        self.take();
    });
    Client client = Client::connect(peer.options());
    client.close();
    EXPECT_EQ(error_of([&] { client.alloc(64); }).status(), Status::closed);
    EXPECT_EQ(client.synchronize(), Status::closed);
    client.close();
}

TEST(Empty, handles_answer_closed) {
    EXPECT_EQ(Stream().synchronize(), Status::closed);
    EXPECT_EQ(Stream().launch(Kernel(), {1}, {1}), Status::closed);
    EXPECT_EQ(Event().wait(), Status::closed);
    EXPECT_FALSE(Event().done());
    EXPECT_EQ(error_of([] { Client().alloc(1); }).status(), Status::closed);
    EXPECT_EQ(error_of([] { Module().kernel("x"); }).status(), Status::closed);
    EXPECT_EQ(error_of([] { static_cast<void>(Kernel().name()); }).status(), Status::closed);
}

}  // namespace
}  // namespace ringlaunch::testing
