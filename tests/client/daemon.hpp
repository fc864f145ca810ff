// A real ringlaunchd of a test: its own process, socket and folder, gone when the test ends.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

#include "schema/unique_fd.hpp"
#include "tests/client/folder.hpp"

namespace ringlaunch::testing {

// The processes whose parent is `parent`.
inline std::vector<int> children_of(int parent) {
    std::istringstream in(
        read_file("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children"));
    std::vector<int> children;
    for (int child; in >> child;) children.push_back(child);
    return children;
}

// The program under test; $RINGLAUNCH_TEST_DAEMON names another, such as one without a sanitizer.
inline const char* daemon_program() {
    const char* named = std::getenv("RINGLAUNCH_TEST_DAEMON");
    return named != nullptr ? named : RINGLAUNCHD;
}

class Daemon {
  public:
    explicit Daemon(const std::string& driver = "host", std::vector<std::string> more = {}) {
        std::vector<std::string> arguments = {daemon_program(), "serve",    "--driver",
                                              driver,           "--socket", folder_.socket()};
        arguments.insert(arguments.end(), more.begin(), more.end());
        std::vector<char*> pointers;
        for (std::string& argument : arguments) pointers.push_back(argument.data());
        pointers.push_back(nullptr);
        const std::string log = folder_.path() + "/serve.log";
        pid_ = ::fork();
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::freopen(log.c_str(), "w", stderr) == nullptr) ::_exit(126);
            ::execv(daemon_program(), pointers.data());
            ::_exit(127);
        }
        if (!eventually([&] {
                if (::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
                return pid_ < 0 || listens();
            }) ||
            pid_ < 0)
            throw std::runtime_error("ringlaunchd did not start: " + read_file(log));
    }
    ~Daemon() {
        if (pid_ < 0) return;
        ::kill(pid_, SIGTERM);
        if (!eventually([&] { return ::waitpid(pid_, nullptr, WNOHANG) == pid_; })) {
            ADD_FAILURE() << "ringlaunchd did not leave on SIGTERM:\n" << log();
            kill();
        }
        if (::testing::Test::HasFailure()) std::cerr << log();
    }
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    ConnectOptions options() const {
        ConnectOptions options;
        options.socket = folder_.socket();
        return options;
    }
    Client connect() const { return Client::connect(options()); }
    int pid() const { return pid_; }
    std::string log() const { return read_file(folder_.path() + "/serve.log"); }

    // SIGKILL, as the worst thing that can happen to it.
    void kill() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
    // The one executor; 0 while there is none.
    int executor() const {
        const std::vector<int> children = children_of(pid_);
        return children.empty() ? 0 : children.front();
    }
    // Kills the executor and waits for the next one.
    void kill_executor() {
        const int dying = executor();
        ASSERT_GT(dying, 0) << log();
        ::kill(dying, SIGKILL);
        ASSERT_TRUE(eventually([&] {
            const int now = executor();
            return now != 0 && now != dying;
        })) << log();
    }

  private:
    bool listens() const {
        const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        folder_.socket().copy(address.sun_path, sizeof address.sun_path - 1);
        return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    }

    TestFolder folder_;
    int pid_ = -1;
};

}  // namespace ringlaunch::testing
