// A real ringlaunchd for a test: a child process with a socket in a folder of its own, and commands that ask
// it.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ringlaunch::test {

struct Output {
    int exit_code = -1;
    std::string text;  // standard output and standard error
    nlohmann::json json() const { return nlohmann::json::parse(text); }
};

class DaemonProcess {
  public:
    explicit DaemonProcess(std::vector<std::string> arguments) {
        char name[] = "/tmp/rl-test-XXXXXX";
        if (::mkdtemp(name) == nullptr) throw std::runtime_error("cannot make a folder");
        folder_ = name;
        arguments.insert(arguments.begin(), {"serve", "--log-file", log_path(), "--log-level", "debug"});
        pid_ = start(arguments, -1);
        for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);;) {
            if (run({"status"}).exit_code == 0) return;
            int status = 0;
            if (::waitpid(pid_, &status, WNOHANG) == pid_) {
                pid_ = -1;
                throw std::runtime_error("the daemon ended: " + log());
            }
            if (std::chrono::steady_clock::now() > deadline)
                throw std::runtime_error("the daemon is not ready: " + log());
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }
    DaemonProcess(const DaemonProcess&) = delete;
    DaemonProcess& operator=(const DaemonProcess&) = delete;
    ~DaemonProcess() {
        if (pid_ > 0) {
            ::kill(pid_, SIGTERM);
            if (wait_for_end() == kStillRuns) {
                ::kill(pid_, SIGKILL);
                ::waitpid(pid_, nullptr, 0);
            }
        }
        std::filesystem::remove_all(folder_);
    }

    static constexpr int kStillRuns = -1000;
    // The exit code, or minus the signal's number.
    int wait_for_end() {
        for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
             std::chrono::steady_clock::now() < deadline;
             std::this_thread::sleep_for(std::chrono::milliseconds(5))) {
            int status = 0;
            if (::waitpid(pid_, &status, WNOHANG) != pid_) continue;
            pid_ = -1;
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        }
        return kStillRuns;
    }

    // Runs a command against this daemon and waits for its end.
    Output run(const std::vector<std::string>& arguments) const {
        const std::string path = folder_ + "/output";
        const int out = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        const pid_t child = start(arguments, out);
        ::close(out);
        int status = 0;
        ::waitpid(child, &status, 0);
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read(path)};
    }

    int pid() const { return pid_; }
    std::string socket() const { return folder_ + "/daemon.sock"; }
    std::string log() const { return read(log_path()); }

  private:
    std::string log_path() const { return folder_ + "/daemon.log"; }
    static std::string read(const std::string& path) {
        std::stringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }

    pid_t start(std::vector<std::string> arguments, int output) const {
        arguments.insert(arguments.begin(), RINGLAUNCHD_PATH);
        arguments.insert(arguments.end(), {"--socket", socket()});
        std::vector<char*> pointers;
        for (std::string& argument : arguments) pointers.push_back(argument.data());
        pointers.push_back(nullptr);
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        if (output >= 0) {
            ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
            ::posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
        }
        pid_t child = -1;
        const int failed =
            ::posix_spawn(&child, RINGLAUNCHD_PATH, &actions, nullptr, pointers.data(), environ);
        ::posix_spawn_file_actions_destroy(&actions);
        if (failed != 0) throw std::runtime_error("cannot start " RINGLAUNCHD_PATH);
        return child;
    }

    std::string folder_;
    pid_t pid_ = -1;
};

}  // namespace ringlaunch::test
