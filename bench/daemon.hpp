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

// The benchmarks' kernels as a file: a cubin for "sm_90" and its like, else the host's object.
inline std::string kernel_image(const std::string& architecture) {
    if (architecture.rfind("sm_", 0) != 0) return RINGLAUNCH_BENCH_KERNELS;
    const int number = std::stoi(architecture.substr(3));
    // A cubin serves its own minor version and later ones of the same major one.
    for (int one = number; one >= number / 10 * 10; --one) {
        const std::string path = RINGLAUNCH_BENCH_CUBINS "/kernels_sm_" + std::to_string(one) + ".cubin";
        if (std::filesystem::exists(path)) return path;
    }
    throw std::runtime_error("there is no cubin of the benchmarks' kernels for " + architecture +
                             " in " RINGLAUNCH_BENCH_CUBINS
                             ": build with an nvcc that compiles for it (-DRINGLAUNCH_BENCH_CUDA=" +
                             std::to_string(number) + ")");
}

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

    // `coalesce`: as of ConnectOptions.
    Client connect(bool coalesce = true) const {
        ConnectOptions options = options_;
        options.coalesce = coalesce;
        return Client::connect(options);
    }
    Client& client() { return first_; }
    const std::string& socket() const { return options_.socket; }
    int pid() const { return first_.daemon().pid; }
    // The benchmarks' kernels for the daemon's driver.
    std::string kernels() const { return kernel_image(first_.daemon().architecture); }

  private:
    std::string folder_;
    ConnectOptions options_;
    Client first_;
};

// Exit code of a benchmark that can measure nothing here.
inline constexpr int kSkipped = 77;

// main() of a benchmark, with what it throws as a message.
template <class Body>
int run_benchmark(Body body) {
    try {
        return body();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}

// Ends the program with a message when a call that must succeed did not.
inline void must(Status status, const char* doing) {
    if (status == Status::ok) return;
    std::fprintf(stderr, "%s: %s\n", doing, std::string(status_text(status)).c_str());
    std::exit(1);
}

}  // namespace ringlaunch::bench
