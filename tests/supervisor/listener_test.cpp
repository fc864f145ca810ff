// One daemon a socket: locks, stale sockets, folders, private daemons, and leaving.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "daemon/supervisor/supervisor.hpp"
#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {
namespace {

using namespace supervisor;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Listener, MakesAFolderAndASocketOfTheUserAlone) {
    const Folder folder;
    const Daemon daemon({}, folder.file("run/daemon.sock"));
    struct stat info {};
    ASSERT_EQ(::stat(folder.file("run").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    ASSERT_EQ(::stat(daemon.socket().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(Listener, OfTwoThatStartAtOnceOneServes) {
    const Folder folder;
    const std::string socket = folder.file("daemon.sock");
    for (int round = 0; round < 3; ++round) {
        auto first = std::make_unique<Daemon>(std::vector<std::string>{}, socket);
        Daemon second({}, socket);
        EXPECT_EQ(second.wait(), kExitAlreadyRunning);
        EXPECT_EQ(SessionClient(socket).hello().status(), Status::malformed_message);  // the session is there
    }
}

TEST(Listener, TakesOverFromADaemonThatDied) {
    const Folder folder;
    const std::string socket = folder.file("daemon.sock");
    Daemon dead({}, socket);
    dead.kill(SIGKILL);
    EXPECT_EQ(dead.wait(), 128 + SIGKILL);
    EXPECT_EQ(::access(socket.c_str(), F_OK), 0);
    // An executor that the dead one was about to start holds the listening socket until it is executed or
    // dies.
    EXPECT_TRUE(eventually([&] { return !RawClient(socket).connected(); }));
    const Daemon daemon({}, socket);
    EXPECT_TRUE(SessionClient(socket).session() != 0);
}

TEST(Listener, NamesTheDaemonWhoseSocketWasRemoved) {
    const Folder folder;
    const std::string socket = folder.file("daemon.sock"), log = folder.file("log");
    const Daemon first({}, socket);
    ASSERT_EQ(::unlink(socket.c_str()), 0);
    Daemon second({"log=" + log}, socket);
    EXPECT_EQ(second.wait(), kExitAlreadyRunning);
    std::ifstream file(log);
    const std::string said(std::istreambuf_iterator<char>(file), {});
    EXPECT_THAT(said, HasSubstr("nobody listens at " + socket));
    EXPECT_THAT(said, HasSubstr("kill " + std::to_string(first.pid())));
}

TEST(Listener, RefusesWhatIsNoSocketAndALongPath) {
    const Folder folder;
    const std::string path = folder.file("daemon.sock");
    ASSERT_EQ(::close(::creat(path.c_str(), 0600)), 0);
    Daemon blocked({}, path);
    EXPECT_EQ(blocked.wait(), kExitSocketRefused);
    Daemon too_long({}, folder.file(std::string(120, 'x')));
    EXPECT_EQ(too_long.wait(), kExitSocketRefused);
}

TEST(Listener, RefusesAFolderThatEverybodyMayChange) {
    const Folder folder;
    ASSERT_EQ(::mkdir(folder.file("open").c_str(), 0777), 0);
    ASSERT_EQ(::chmod(folder.file("open").c_str(), 0777), 0);
    Daemon daemon({}, folder.file("open/daemon.sock"));
    EXPECT_EQ(daemon.wait(), kExitSocketRefused);
}

TEST(Listener, WarnsOfAFolderThatOthersMayChangeAndServes) {
    const Folder folder;
    const std::string place = folder.file("place"), log = folder.file("log");
    ASSERT_EQ(::mkdir(place.c_str(), 0700), 0);
    const auto said = [&](mode_t mode) {
        EXPECT_EQ(::chmod(place.c_str(), mode), 0);
        const Daemon daemon({"log=" + log}, place + "/daemon.sock");
        EXPECT_NE(SessionClient(daemon.socket()).session(), 0u);
        std::ifstream file(log);
        return std::string(std::istreambuf_iterator<char>(file), {});
    };
    const std::string warning = said(0770);
    EXPECT_THAT(warning, HasSubstr("others may replace the socket " + place + "/daemon.sock"));
    EXPECT_THAT(warning, HasSubstr("mode 0770"));
    EXPECT_THAT(warning, HasSubstr("chmod g-w " + place));
    // Its owner's alone, or where nobody may remove what is another's.
    for (const mode_t mode : {0700u, 0755u, 01770u}) EXPECT_THAT(said(mode), Not(HasSubstr("others may")));
}

TEST(Daemon, LeavesOnSigtermAndTakesItsSocketAndExecutorsAlong) {
    const Folder folder;
    Daemon daemon({}, folder.file("daemon.sock"));
    SessionClient client(daemon.socket());
    const pid_t executor = daemon.executor();
    ASSERT_NE(executor, 0);
    daemon.kill(SIGTERM);
    EXPECT_EQ(daemon.wait(), kExitOk);
    EXPECT_NE(::access(folder.file("daemon.sock").c_str(), F_OK), 0);
    EXPECT_TRUE(client.hung_up());
    EXPECT_TRUE(eventually([&] { return ::kill(executor, 0) != 0; }));
}

TEST(Daemon, KilledTakesItsExecutorsAlong) {
    Daemon daemon;
    const pid_t executor = daemon.executor();
    ASSERT_NE(executor, 0);
    daemon.kill(SIGKILL);
    EXPECT_EQ(daemon.wait(), 128 + SIGKILL);
    EXPECT_TRUE(eventually([&] { return ::kill(executor, 0) != 0; }));
}

TEST(Daemon, StopsWhenAskedTo) {
    Daemon daemon;
    RawClient operators(daemon.socket());
    EXPECT_EQ(operators.hello(kProtocolVersion, true).status(), Status::ok);
    const Answer stopped =
        operators.ask(schema::Request::StopDaemon, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateStopDaemon(builder, 1000).Union();
        });
    EXPECT_EQ(stopped.status(), Status::ok);
    EXPECT_EQ(daemon.wait(), kExitOk);
}

TEST(Daemon, APrivateOneLeavesWhenItsLastClientHas) {
    Daemon daemon({"exit_when_idle_ms=1500"});
    auto first = std::make_unique<SessionClient>(daemon.socket());
    auto second = std::make_unique<SessionClient>(daemon.socket());
    first.reset();
    ::usleep(2'000'000);
    EXPECT_NE(second->open_stream()->id, 0u);  // it stayed for the second
    second.reset();
    EXPECT_EQ(daemon.wait(), kExitOk);
}

TEST(Daemon, APrivateOneLeavesWhenNobodyCame) {
    Daemon daemon({"exit_when_idle_ms=200"});
    EXPECT_EQ(daemon.wait(), kExitOk);
}

TEST(Daemon, WhoObservesKeepsNoPrivateOneAlive) {
    Daemon daemon({"exit_when_idle_ms=1500"});
    RawClient operators(daemon.socket());
    EXPECT_EQ(operators.hello(kProtocolVersion, true).status(), Status::ok);
    EXPECT_EQ(daemon.wait(), kExitOk);
}

TEST(Daemon, SaysThatItsExecutorCannotBeStarted) {
    Daemon daemon({"executor_path=/nonexistent", "first_delay_ms=1"});
    EXPECT_EQ(daemon.wait(), kExitFailure);
}

}  // namespace
}  // namespace ringlaunch::test
