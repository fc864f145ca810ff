// Several processes that launch at once on one GPU: clients of one daemon, beside processes with contexts of
// their own, without MPS and with it. Launches a second in all, and the GPU's memory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <vector>

#include "bench/child.hpp"
#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/gpu_memory.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr unsigned kFactor = 1664525;
constexpr int kBurst = 4096;

// ---- a process that launches: says "ready", waits for "go", says what it did

// launch(b) is word = word * kFactor + b + 1; read() gives the word.
int launch_for(double seconds, bool checked, const std::function<void(unsigned)>& launch,
               const std::function<void()>& wait, const std::function<unsigned()>& read) {
    for (unsigned b = 0; b < 100; ++b) launch(b);
    wait();
    unsigned expected = read();
    std::printf("ready\n");
    std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line) || line != "go") return 1;
    const std::uint64_t begin = now_ns();
    const auto end = begin + static_cast<std::uint64_t>(seconds * 1e9);
    std::uint64_t launches = 0;
    while (now_ns() < end) {
        for (unsigned b = 0; b < kBurst; ++b) launch(b);
        launches += kBurst;
    }
    wait();
    const double took = static_cast<double>(now_ns() - begin) * 1e-9;
    for (std::uint64_t i = 0; i < launches; ++i)
        expected = expected * kFactor + static_cast<unsigned>(i % kBurst) + 1;
    const bool exact = !checked || read() == expected;
    std::printf("%llu %.9f %s\n", static_cast<unsigned long long>(launches), took, exact ? "exact" : "WRONG");
    std::fflush(stdout);
    std::getline(std::cin, line);  // stays until it is let go
    return exact ? 0 : 1;
}

int be_client(const std::string& socket, double seconds) {
    ConnectOptions options;
    options.socket = socket;
    Client client = Client::connect(options);
    const DaemonInfo& info = client.daemon();
    const Module module = client.load_file(kernel_image(info.architecture));
    const Kernel mix = module.kernel("mix");
    Stream stream = client.stream();
    std::printf("connected\n");
    std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line)) return 1;
    const Buffer word = client.alloc(4);
    must(stream.fill(word, 0, 4, 0, 4), "clearing the word");
    return launch_for(
        seconds, info.driver != "null",
        [&](unsigned b) { must(stream.launch(mix, {1}, {1}, word, kFactor, b, 0, 1.0f), "launching"); },
        [&] { must(stream.synchronize(), "waiting"); },
        [&] {
            unsigned value = 0;
            must(stream.copy_to_host(&value, word, sizeof value), "reading the word");
            return value;
        });
}

int be_plain(double seconds) {
    const PlainCuda cuda;
    const CUfunction mix = cuda.kernel("mix");
    const PeerMemory word(4);
    return launch_for(
        seconds, true,
        [&](unsigned b) {
            CUdeviceptr words = word.address();
            unsigned a = kFactor;
            int at = 0;
            float more = 1;
            void* params[] = {&words, &a, &b, &at, &more};
            cuda.launch(mix, 1, params);
        },
        [&] { cuda.synchronize(); },
        [&] {
            unsigned value = 0;
            check_peer(peer_api().cuMemcpyDtoH_(&value, word.address(), sizeof value), "reading the word");
            return value;
        });
}

// ---- the processes together

struct Found {
    double rate = 0;
    double before_mib = 0;     // nobody there
    double connected_mib = 0;  // clients of a daemon: connected, with a module and a stream, without buffers
    double running_mib = 0;
};

// Adds up what the processes do at once; exact results or an exception.
void run_together(std::vector<std::unique_ptr<Child>>& children, Found& found) {
    for (const auto& child : children)
        if (child->hear() != "ready") throw std::runtime_error("a process is not ready");
    found.running_mib = gpu_memory_mib();
    for (const auto& child : children) child->say("go");
    double launches = 0, longest = 0;
    for (const auto& child : children) {
        std::istringstream said(child->hear());
        double one = 0, took = 0;
        std::string verdict;
        said >> one >> took >> verdict;
        if (verdict != "exact") throw std::runtime_error("a process's word is not what its launches give");
        launches += one;
        longest = std::max(longest, took);
    }
    found.rate = launches / longest;
}

Found clients_of_a_daemon(const std::string& driver, int processes, const std::string& seconds) {
    Found found;
    found.before_mib = gpu_memory_mib();
    PrivateDaemon daemon(driver);
    const double daemon_mib = gpu_memory_mib();
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < processes; ++i)
        children.push_back(std::make_unique<Child>(std::vector<std::string>{
            "--child", "client", "--socket", daemon.socket(), "--seconds", seconds}));
    for (const auto& child : children)
        if (child->hear() != "connected") throw std::runtime_error("a client did not connect");
    found.connected_mib = gpu_memory_mib() - daemon_mib;
    for (const auto& child : children) child->say("on");
    run_together(children, found);
    return found;
}

Found plain_processes(int processes, const std::string& seconds) {
    Found found;
    found.before_mib = gpu_memory_mib();
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < processes; ++i)
        children.push_back(
            std::make_unique<Child>(std::vector<std::string>{"--child", "plain", "--seconds", seconds}));
    run_together(children, found);
    return found;
}

// A private MPS daemon; whoever starts CUDA while it is there goes through it.
class Mps {
  public:
    static std::string program() {
        const char* path = std::getenv("PATH");
        std::istringstream folders(std::string(path == nullptr ? "" : path) +
                                   ":/usr/local/nvidia/bin:/usr/bin");
        for (std::string folder; std::getline(folders, folder, ':');)
            if (const std::string found = folder + "/nvidia-cuda-mps-control";
                ::access(found.c_str(), X_OK) == 0)
                return found;
        return "";
    }
    Mps() {
        char folder[] = "/tmp/ringlaunch-mps-XXXXXX";
        if (::mkdtemp(folder) == nullptr) throw std::runtime_error("cannot make a folder for MPS");
        folder_ = folder;
        for (const char* name : {"pipe", "log"}) std::filesystem::create_directory(folder_ + "/" + name);
        ::setenv("CUDA_MPS_PIPE_DIRECTORY", (folder_ + "/pipe").c_str(), 1);
        ::setenv("CUDA_MPS_LOG_DIRECTORY", (folder_ + "/log").c_str(), 1);
        if (std::system(("timeout 30 " + program() + " -d >/dev/null 2>&1").c_str()) != 0) {
            stop();
            throw std::runtime_error("nvidia-cuda-mps-control does not start");
        }
    }
    ~Mps() { stop(); }
    Mps(const Mps&) = delete;
    Mps& operator=(const Mps&) = delete;

  private:
    void stop() {
        if (std::system(("echo quit | timeout 30 " + program() + " >/dev/null 2>&1").c_str()) != 0)
            std::fprintf(stderr, "nvidia-cuda-mps-control does not quit; its folder is %s\n",
                         folder_.c_str());
        ::unsetenv("CUDA_MPS_PIPE_DIRECTORY");
        ::unsetenv("CUDA_MPS_LOG_DIRECTORY");
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    std::string folder_;
};

int measure(const std::string& driver, int processes, int rounds, double seconds, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    struct Way {
        std::string name;
        std::function<Found()> run;
        std::vector<double> rates = {};
        Found last = {};
        std::string failed = {};
    };
    const std::string length = std::to_string(seconds);
    std::vector<Way> ways;
    ways.push_back({"ringlaunch, clients of one daemon",
                    [&] { return clients_of_a_daemon(driver, processes, length); }});
    if (gpu) {
        ways.push_back({"own contexts", [&] { return plain_processes(processes, length); }});
        if (!Mps::program().empty())
            ways.push_back({"own contexts under MPS", [&] {
                                const Mps mps;
                                return plain_processes(processes, length);
                            }});
    }
    for (int round = 0; round < rounds; ++round)
        for (Way& way : ways) {
            if (!way.failed.empty()) continue;
            try {
                way.last = way.run();
                way.rates.push_back(way.last.rate);
            } catch (const std::exception& error) {
                if (&way == &ways[0]) throw;
                way.failed = error.what();
            }
        }

    Report report(std::to_string(processes) + " processes that launch at once (" + driver + " driver)",
                  {"launches/s", "x_ringlaunch", "gpu_MiB", "MiB_connected"});
    const double ours = quantile(ways[0].rates, 0.5), none = std::nan("");
    for (Way& way : ways) {
        const double rate = quantile(way.rates, 0.5);
        report.add(way.name, {rate, rate / ours, gpu ? way.last.running_mib - way.last.before_mib : none,
                              gpu && &way == &ways[0] ? way.last.connected_mib : none});
        if (!way.failed.empty()) report.note(way.name + ": not measured: " + way.failed);
    }
    report.note(
        "launches of all processes together, every result exact; gpu_MiB: GPU memory of all of them while "
        "they run, daemon");
    report.note(
        "included; MiB_connected: what all clients add once connected, with module and stream, before they "
        "allocate");
    if (gpu && Mps::program().empty()) report.note("MPS: nvidia-cuda-mps-control is not here");
    if (!gpu) report.note("without plain CUDA beside it: this is not the cuda driver");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Several processes that launch at once: clients of one daemon, own contexts, MPS.");
    std::string driver = "cuda", csv, child, socket;
    int processes = 8, rounds = 3;
    double seconds = 2;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--processes", processes, "Processes")->check(CLI::Range(1, 64))->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--seconds", seconds, "Length of one measurement")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    app.add_option("--child", child)->group("");  // what this program starts
    app.add_option("--socket", socket)->group("");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        if (child == "client") return be_client(socket, seconds);
        if (child == "plain") return be_plain(seconds);
        return measure(driver, processes, rounds, seconds, csv);
    });
}
