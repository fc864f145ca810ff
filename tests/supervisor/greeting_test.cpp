// How a connection begins, and what becomes of messages that are none.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {
namespace {

class Greeting : public ::testing::Test {
  protected:
    static void SetUpTestSuite() { daemon_ = new Daemon; }
    static void TearDownTestSuite() {
        delete daemon_;
        daemon_ = nullptr;
    }
    // Whatever a test did, others are served.
    void TearDown() override { EXPECT_NE(SessionClient(daemon_->socket()).session(), 0u); }
    static Daemon* daemon_;
};
Daemon* Greeting::daemon_ = nullptr;

TEST_F(Greeting, WelcomesWithADoorbellAndTheDevicesLimits) {
    RawClient client(daemon_->socket());
    Answer welcome = client.hello();
    ASSERT_EQ(welcome.status(), Status::ok) << welcome.text();
    const auto* what = welcome->answer_as_Welcome();
    ASSERT_NE(what, nullptr);
    EXPECT_EQ(what->version(), kProtocolVersion);
    EXPECT_NE(what->session(), 0u);
    EXPECT_EQ(what->daemon_pid(), daemon_->pid());
    EXPECT_EQ(what->driver(), schema::DriverKind::Null);
    EXPECT_GT(what->max_grid_x(), 0u);
    EXPECT_EQ(what->max_block_x(), 1024u);
    EXPECT_EQ(what->max_block_y(), 1024u);
    EXPECT_EQ(what->max_block_z(), 64u);
    EXPECT_GT(what->max_memory_bytes(), 0u);
    EXPECT_EQ(what->max_staging_bytes(), 1u << 30);
    EXPECT_TRUE(what->producer_must_fence());  // this client did not register
    EXPECT_EQ(welcome.message.fds.size(), 1u);
}

TEST_F(Greeting, WhyTheDaemonTookItsDriverIsSaidWhereNobodyAskedForIt) {
    const Daemon chosen({"driver=host", "driver_note=no GPU in here"});
    SessionClient session(chosen.socket());
    for (const auto& [daemon, note] :
         {std::pair(&chosen, "no GPU in here"), std::pair<const Daemon*, const char*>(daemon_, "")}) {
        RawClient client(daemon->socket());
        const Answer welcome = client.hello(kProtocolVersion, true);
        ASSERT_EQ(welcome.status(), Status::ok) << welcome.text();
        EXPECT_EQ(welcome->answer_as_Welcome()->driver_note()->str(), note);
        const Answer status = client.ask(
            schema::Request::GetStatus,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); });
        EXPECT_EQ(status->answer_as_DaemonStatus()->driver_note()->str(), note);
    }
    std::uint64_t bytes = 0;
    const UniqueFd cubin = image_of_file(TEST_CUBIN, bytes);
    const Answer refused = session.try_load(cubin, bytes, "gpu.cubin");
    EXPECT_EQ(refused.status(), Status::bad_image);
    EXPECT_NE(refused.text().find("; this daemon runs the host driver: no GPU in here"), std::string::npos)
        << refused.text();
}

TEST_F(Greeting, AnotherVersionIsToldBothAndHungUpOn) {
    RawClient client(daemon_->socket());
    const Answer refused = client.hello(kProtocolVersion + 41);
    EXPECT_EQ(refused.status(), Status::version_mismatch);
    EXPECT_NE(refused.text().find("version " + std::to_string(kProtocolVersion + 41)), std::string::npos)
        << refused.text();
    EXPECT_NE(refused.text().find("version " + std::to_string(kProtocolVersion) + ";"), std::string::npos)
        << refused.text();
    EXPECT_TRUE(client.hung_up());
}

TEST_F(Greeting, AnotherMagicWordIsRefused) {
    RawClient client(daemon_->socket());
    EXPECT_EQ(client.hello(kProtocolVersion, false, 0x12345678).status(), Status::malformed_message);
    EXPECT_TRUE(client.hung_up());
}

TEST_F(Greeting, AnotherDeviceIsNotFound) {
    RawClient client(daemon_->socket());
    const Answer refused = client.ask(schema::Request::Hello, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateHello(builder, kHelloMagic, kProtocolVersion, 0, 3).Union();
    });
    EXPECT_EQ(refused.status(), Status::not_found);
}

TEST_F(Greeting, NothingComesBeforeHelloAndHelloComesOnce) {
    RawClient early(daemon_->socket());
    EXPECT_EQ(early
                  .ask(schema::Request::GetStatus,
                       [](flatbuffers::FlatBufferBuilder& builder) {
                           return schema::CreateGetStatus(builder).Union();
                       })
                  .status(),
              Status::malformed_message);
    EXPECT_TRUE(early.hung_up());
    SessionClient twice(daemon_->socket());
    EXPECT_EQ(twice.hello().status(), Status::malformed_message);
    EXPECT_NE(twice.open_stream()->id, 0u);
}

TEST_F(Greeting, WhoObservesOwnsNothing) {
    RawClient operators(daemon_->socket());
    const Answer welcome = operators.hello(kProtocolVersion, true);
    ASSERT_EQ(welcome.status(), Status::ok);
    EXPECT_EQ(welcome->answer_as_Welcome()->session(), 0u);
    EXPECT_TRUE(welcome.message.fds.empty());
    EXPECT_EQ(operators
                  .ask(schema::Request::AllocBuffer,
                       [](flatbuffers::FlatBufferBuilder& builder) {
                           return schema::CreateAllocBuffer(builder, 1).Union();
                       })
                  .status(),
              Status::permission_denied);
}

TEST_F(Greeting, RandomBytesAreRefusedAndHungUpOn) {
    std::mt19937 random(11);
    for (int i = 0; i < 50; ++i) {
        RawClient client(daemon_->socket());
        std::vector<std::byte> bytes(1 + random() % 300);
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
        ASSERT_TRUE(client.send_raw(bytes));
        const auto answer = client.receive();
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status(), Status::malformed_message);
        EXPECT_TRUE(client.hung_up());
    }
}

TEST_F(Greeting, ATruncatedOrChangedMessageNeverHarmsTheDaemon) {
    flatbuffers::FlatBufferBuilder builder;
    const auto name = builder.CreateString("a stream");
    const auto open = schema::CreateOpenStream(builder, 256, schema::OnRestart::Stop, 0, name);
    builder.Finish(schema::CreateClientMessage(builder, 7, schema::Request::OpenStream, open.Union()));
    const std::vector<std::byte> whole(
        reinterpret_cast<std::byte*>(builder.GetBufferPointer()),
        reinterpret_cast<std::byte*>(builder.GetBufferPointer()) + builder.GetSize());
    for (std::size_t length = 1; length < whole.size(); length += 3) {
        SessionClient client(daemon_->socket());
        client.send_raw(std::span(whole).first(length));
        EXPECT_TRUE(client.receive()) << length;
    }
    std::mt19937 random(5);
    for (int i = 0; i < 200; ++i) {
        SessionClient client(daemon_->socket());
        std::vector<std::byte> changed = whole;
        for (int change = 0; change < 3; ++change)
            changed[random() % changed.size()] = static_cast<std::byte>(random());
        client.send_raw(changed);
        EXPECT_TRUE(client.receive()) << i;
    }
}

TEST_F(Greeting, AMessageThatIsTooLongIsRefused) {
    SessionClient client(daemon_->socket());
    const std::vector<char> bytes(kMaxControlBytes + 1, 'x');
    ASSERT_EQ(::send(client.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    const auto answer = client.receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status(), Status::malformed_message);
    EXPECT_TRUE(client.hung_up());
}

TEST(GreetingInTime, AFirstMessageWithDescriptorsIsAnsweredAndHungUpOnAtOnce) {
    const Daemon daemon({"handshake_timeout_ms=600000"});
    RawClient client(daemon.socket());
    const Answer refused = client.answer(
        client.send(schema::Request::Hello,
                    [](flatbuffers::FlatBufferBuilder& builder) {
                        return schema::CreateHello(builder, kHelloMagic, kProtocolVersion).Union();
                    },
                    {client.fd()}));
    EXPECT_EQ(refused.status(), Status::malformed_message);
    EXPECT_NE(refused.text().find("this one brought 1"), std::string::npos) << refused.text();
    EXPECT_TRUE(client.hung_up());
}

TEST_F(Greeting, DescriptorsThatNobodyAskedForAreRefused) {
    SessionClient client(daemon_->socket());
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    const auto alloc = [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAllocBuffer(builder, 64).Union();
    };
    EXPECT_EQ(client.ask(schema::Request::AllocBuffer, alloc, {event.get()}).status(),
              Status::malformed_message);
    EXPECT_EQ(client.ask(schema::Request::AllocBuffer, alloc, std::vector<int>(200, event.get())).status(),
              Status::malformed_message);
    // LoadModule brings exactly one.
    const auto load = [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateLoadModule(builder, 0, 10).Union();
    };
    EXPECT_EQ(client.ask(schema::Request::LoadModule, load).status(), Status::malformed_message);
    EXPECT_EQ(client.ask(schema::Request::LoadModule, load, {event.get(), event.get()}).status(),
              Status::malformed_message);
    EXPECT_EQ(client.ask(schema::Request::AllocBuffer, alloc).status(), Status::ok);
}

TEST_F(Greeting, ARequestWithoutAnIdIsHungUpOn) {
    SessionClient client(daemon_->socket());
    flatbuffers::FlatBufferBuilder builder;
    const auto status = schema::CreateGetStatus(builder);
    builder.Finish(schema::CreateClientMessage(builder, 0, schema::Request::GetStatus, status.Union()));
    client.send_raw({reinterpret_cast<std::byte*>(builder.GetBufferPointer()), builder.GetSize()});
    EXPECT_TRUE(client.hung_up());
}

TEST(GreetingOfItsOwn, WhoNeverSaysHelloIsHungUpOn) {
    const Daemon daemon({"handshake_timeout_ms=1000"});
    RawClient silent(daemon.socket());
    ASSERT_TRUE(silent.connected());
    EXPECT_TRUE(silent.hung_up());
    EXPECT_NE(SessionClient(daemon.socket()).session(), 0u);
}

// A client as another user; its exit status is the refusal's status.
int hello_as(uid_t uid, const std::string& socket) {
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setgid(uid) != 0 || ::setuid(uid) != 0) ::_exit(250);
        RawClient client(socket);
        if (!client.connected()) ::_exit(251);
        ::_exit(static_cast<int>(client.hello().status()));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(OtherUsers, AreLetInOnlyWhereAllowedAndNeverByTheHostDriver) {
    if (::getuid() != 0) GTEST_SKIP() << "only root can be several users";
    for (const std::string driver : {"null", "host"}) {
        Folder folder;
        ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
        const Daemon daemon({"driver=" + driver, "allow_uid=65534"}, folder.file("daemon.sock"));
        EXPECT_EQ(hello_as(65534, daemon.socket()),
                  static_cast<int>(driver == "null" ? Status::ok : Status::permission_denied));
        EXPECT_EQ(hello_as(65533, daemon.socket()), static_cast<int>(Status::permission_denied));
    }
    const Folder folder;
    ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
    const Daemon closed({}, folder.file("daemon.sock"));
    EXPECT_EQ(hello_as(65534, closed.socket()), 251);  // the socket's mode alone shuts others out
}

TEST(OtherUsers, HaveAnExecutorOfTheirOwn) {
    if (::getuid() != 0) GTEST_SKIP() << "only root can be several users";
    const Folder folder;
    ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
    const Daemon daemon({"allow_uid=65534"}, folder.file("daemon.sock"));
    SessionClient own(daemon.socket());
    const auto stream = own.open_stream();
    ASSERT_EQ(daemon.executors().size(), 1u);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(1);
        SessionClient client(daemon.socket());
        client.open_stream();
        ::pause();
        ::_exit(0);
    }
    EXPECT_TRUE(eventually([&] { return daemon.executors().size() == 2; }));
    ::kill(child, SIGKILL);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(eventually([&] { return daemon.executors().size() == 1; }));
    EXPECT_EQ(stream->state(), schema::StreamState::Running);
}

}  // namespace
}  // namespace ringlaunch::test
