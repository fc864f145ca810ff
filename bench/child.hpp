// Processes that a benchmark starts: the same program with other arguments, told and answering a line at a
// time. Each wait is bounded, and none outlives its owner.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bench/report.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::bench {

class Child {
  public:
    explicit Child(std::vector<std::string> arguments) {
        int to[2], from[2];
        if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0)
            throw std::runtime_error("cannot make pipes for a process");
        UniqueFd its_input(to[0]), its_output(from[1]);
        to_.reset(to[1]);
        from_.reset(from[0]);
        arguments.insert(arguments.begin(), "/proc/self/exe");
        std::vector<char*> pointers;
        for (std::string& argument : arguments) pointers.push_back(argument.data());
        pointers.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::dup2(its_input.get(), STDIN_FILENO);
            ::dup2(its_output.get(), STDOUT_FILENO);
            ::execv("/proc/self/exe", pointers.data());
            ::_exit(127);
        }
        if (pid_ < 0) throw std::runtime_error("cannot start a process");
    }
    ~Child() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    void say(const std::string& line) {
        const std::string text = line + "\n";
        if (::write(to_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
            throw std::runtime_error("a process of the benchmark is gone");
    }
    // The next line of its output.
    std::string hear(int timeout_s = 120) {
        const std::uint64_t end = now_ns() + static_cast<std::uint64_t>(timeout_s) * 1'000'000'000;
        for (;;) {
            if (const auto at = heard_.find('\n'); at != std::string::npos) {
                const std::string line = heard_.substr(0, at);
                heard_.erase(0, at + 1);
                return line;
            }
            pollfd ready{from_.get(), POLLIN, 0};
            const std::uint64_t now = now_ns();
            char bytes[256];
            if (now >= end || ::poll(&ready, 1, static_cast<int>((end - now) / 1'000'000) + 1) < 0)
                throw std::runtime_error("a process of the benchmark does not answer");
            if ((ready.revents & (POLLIN | POLLHUP)) == 0) continue;
            const ssize_t got = ::read(from_.get(), bytes, sizeof bytes);
            if (got <= 0) throw std::runtime_error("a process of the benchmark failed");
            heard_.append(bytes, static_cast<std::size_t>(got));
        }
    }

  private:
    pid_t pid_ = 0;
    UniqueFd to_, from_;
    std::string heard_;
};

}  // namespace ringlaunch::bench
