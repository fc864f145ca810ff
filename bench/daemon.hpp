// A private daemon and a client of it, for a benchmark: its own socket in a fresh folder, gone when the
// program ends.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <ringlaunch/error.hpp>
#include <ringlaunch/ringlaunch.hpp>
#include <stdexcept>
#include <string>

namespace ringlaunch::bench {

class PrivateDaemon {
  public:
    explicit PrivateDaemon(const std::string& driver) {
        char folder[] = "/tmp/ringlaunch-bench-XXXXXX";
        if (::mkdtemp(folder) == nullptr)
            throw std::runtime_error("cannot make a folder for the daemon's socket in /tmp");
        folder_ = folder;
        options_.socket = folder_ + "/daemon.sock";
        options_.driver = driver;
        options_.daemon_path = RINGLAUNCH_BENCH_DAEMON;
        options_.start_private = true;
        first_ = Client::connect(options_);
    }
    ~PrivateDaemon() {
        first_.close();
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    PrivateDaemon(const PrivateDaemon&) = delete;
    PrivateDaemon& operator=(const PrivateDaemon&) = delete;

    Client connect() const { return Client::connect(options_); }
    Client& client() { return first_; }
    const std::string& socket() const { return options_.socket; }
    int pid() const { return first_.daemon().pid; }
    static std::string kernels() { return RINGLAUNCH_BENCH_KERNELS; }

  private:
    std::string folder_;
    ConnectOptions options_;
    Client first_;
};

// Ends the program with a message when a call that must succeed did not.
inline void must(Status status, const char* doing) {
    if (status == Status::ok) return;
    std::fprintf(stderr, "%s: %s\n", doing, std::string(status_text(status)).c_str());
    std::exit(1);
}

}  // namespace ringlaunch::bench
