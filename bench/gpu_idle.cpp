// How long a launch on an idle stream of a GPU takes until the process that made it sees it done: through the
// daemon, by cuLaunchKernel and by a CUDA graph of one kernel in that process itself, launched by the thread
// that waits or by another one.
#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "bench/gpu_work.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// Bounded, so that a kernel that wrote elsewhere is an error and not a hang.
void await_flag(const void* flag, unsigned value) {
    const std::uint64_t end = now_ns() + 10'000'000'000;
    while (*static_cast<const volatile unsigned*>(flag) != value)
        if (now_ns() > end) throw std::runtime_error("a kernel's flag was not seen within 10 s");
}

// A thread that does what it is asked for, as the daemon's does: it polls, and sleeps where nothing has come
// for long.
class OtherThread {
  public:
    explicit OtherThread(std::function<void(unsigned)> task)
        : thread_([this, task = std::move(task)] { run(task); }) {}
    ~OtherThread() {
        ask(kLeave);
        thread_.join();
    }
    OtherThread(const OtherThread&) = delete;
    OtherThread& operator=(const OtherThread&) = delete;

    void ask(unsigned number) {
        asked_.store(number, std::memory_order_release);
        asked_.notify_one();
    }

  private:
    static constexpr unsigned kLeave = ~0U;

    void run(const std::function<void(unsigned)>& task) {
        unsigned done = 0;
        std::uint64_t since = now_ns();
        for (;;) {
            const unsigned number = asked_.load(std::memory_order_acquire);
            if (number == kLeave) return;
            if (number != done) {
                try {
                    task(number);
                } catch (const std::exception& error) {  // whoever waits for the flag gives up
                    std::fprintf(stderr, "launching from another thread: %s\n", error.what());
                }
                done = number;
                since = now_ns();
            } else if (now_ns() - since > 1'000'000) {
                asked_.wait(done, std::memory_order_acquire);
            }
        }
    }

    std::atomic<unsigned> asked_{0};
    std::thread thread_;
};

struct Way {
    std::string name;
    std::function<void(unsigned)> launch_and_wait;  // the number of the launch, from 1
    std::vector<double> us = {}, p50 = {}, p99 = {};
    unsigned next = 1;
};

// Microseconds from a launch on a stream that has been idle for `gap_us` until it is seen done; the first
// tenth warms up.
void measure_one(Way& way, int launches, int gap_us) {
    std::vector<double> us;
    for (int i = -launches / 10; i < launches; ++i) {
        for (const std::uint64_t until = now_ns() + static_cast<std::uint64_t>(gap_us) * 1000;
             now_ns() < until;) {
        }
        const std::uint64_t begin = now_ns();
        way.launch_and_wait(way.next++);
        if (i >= 0) us.push_back(static_cast<double>(now_ns() - begin) * 1e-3);
    }
    way.us.insert(way.us.end(), us.begin(), us.end());
    way.p50.push_back(quantile(us, 0.5));
    way.p99.push_back(quantile(us, 0.99));
}

int measure(const std::string& driver, int rounds, int launches, int gap_us, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    const Work work(Work::Kind::dependent);
    PrivateDaemon daemon(driver);
    Client& client = daemon.client();
    const Kernel raise = client.load_file(daemon.kernels()).kernel("raise_flag");
    Stream stream = client.stream();
    const PinnedMemory flag = client.alloc_pinned(sizeof(unsigned));
    OurWork ours(client, daemon.kernels(), work);
    std::vector<Way> ways;
    if (driver != "null")
        ways.push_back({"ringlaunch, the kernel's flag seen", [&](unsigned i) {
                            must(stream.launch(raise, {1}, {1}, flag, i), "raising the flag");
                            await_flag(flag.data(), i);
                        }});
    ways.push_back({"ringlaunch, completion seen", [&](unsigned i) {
                        ours.launch(i);
                        ours.wait();
                    }});

    // Flags of their own, so that none sees another's.
    std::unique_ptr<PlainCuda> cuda;
    std::unique_ptr<PeerHostMemory> flags[3];
    std::unique_ptr<PlainWork> plain;
    std::unique_ptr<PeerGraph> graph;
    std::unique_ptr<OtherThread> other;
    if (gpu) {
        cuda = std::make_unique<PlainCuda>();
        for (auto& one : flags) one = std::make_unique<PeerHostMemory>(4096);
        plain = std::make_unique<PlainWork>(*cuda, work);
        const CUfunction plain_raise = cuda->kernel("raise_flag");
        ways.push_back({"cuLaunchKernel, the kernel's flag seen", [&, plain_raise](unsigned i) {
                            CUdeviceptr to = flags[0]->address();
                            void* params[] = {&to, &i};
                            cuda->launch(plain_raise, 1, 1, params);
                            await_flag(flags[0]->data(), i);
                        }});
        ways.push_back({"cuLaunchKernel, cuStreamSynchronize", [&](unsigned i) {
                            plain->launch(i);
                            plain->wait();
                        }});
        CUdeviceptr to = flags[1]->address();
        unsigned none = 0;
        void* first[] = {&to, &none};
        graph = std::make_unique<PeerGraph>(std::vector{peer_node(plain_raise, 1, first)});
        const auto launch_graph = [&, plain_raise](unsigned i, const PeerHostMemory& raised) {
            CUdeviceptr address = raised.address();
            void* params[] = {&address, &i};
            graph->update(0, peer_node(plain_raise, 1, params));
            graph->launch(cuda->stream());
        };
        ways.push_back({"CUDA graph of one kernel, updated, its flag seen", [&, launch_graph](unsigned i) {
                            launch_graph(i, *flags[1]);
                            await_flag(flags[1]->data(), i);
                        }});
        other = std::make_unique<OtherThread>([&, launch_graph, entered = false](unsigned i) mutable {
            if (!std::exchange(entered, true)) cuda->enter();
            launch_graph(i, *flags[2]);
        });
        ways.push_back({"the same, by another thread", [&](unsigned i) {
                            other->ask(i);
                            await_flag(flags[2]->data(), i);
                        }});
    }
    for (int round = 0; round < rounds; ++round)
        for (Way& way : ways) measure_one(way, launches, gap_us);
    if (driver != "null") {
        Words expected{}, plain_expected{};
        for (Way& way : ways)
            for (unsigned i = 1; i < way.next; ++i) {
                if (way.name == "ringlaunch, completion seen") work.apply(expected, i);
                if (way.name == "cuLaunchKernel, cuStreamSynchronize") work.apply(plain_expected, i);
            }
        check_words(ours.read(), expected, "ringlaunch");
        if (plain) check_words(plain->read(), plain_expected, "cuLaunchKernel");
    }

    Report report("A launch on an idle stream until it is seen done, " + client.daemon().device_name + " (" +
                      driver + " driver)",
                  {"p50_us", "p50_us_min", "p50_us_max", "p99_us", "p99_us_min", "p99_us_max", "x_plain_p50",
                   "x_plain_p99"});
    const double none = std::nan("");
    double x50 = none, x99 = none;
    for (Way& way : ways) {
        const double p50 = quantile(way.us, 0.5), p99 = quantile(way.us, 0.99);
        const double of50 = cuda ? p50 / quantile(ways[2].us, 0.5) : none;
        const double of99 = cuda ? p99 / quantile(ways[2].us, 0.99) : none;
        if (&way == &ways[0]) x50 = of50, x99 = of99;
        report.add(way.name, {p50, quantile(way.p50, 0), quantile(way.p50, 1), p99, quantile(way.p99, 0),
                              quantile(way.p99, 1), of50, of99});
    }
    char text[200];
    std::snprintf(
        text, sizeof text,
        "of all launches, %d rounds of %d in turn, each %d us after the last was seen done; min, max: of the "
        "rounds' own p50 and p99",
        rounds, launches, gap_us);
    report.note(text);
    report.note(
        "x_plain: against cuLaunchKernel and its flag; a flag is page-locked memory that the kernel writes "
        "and this "
        "process polls, ringlaunch's in");
    report.note(
        std::string(
            "the client's pinned memory; completion is the position that the GPU writes behind the kernel") +
        (driver == "null" ? "" : ". The words that launches changed were compared"));
    if (cuda) {
        report.target("flag seen, p50, x cuLaunchKernel", x50, 0.8);
        report.target("flag seen, p99, x cuLaunchKernel", x99, 0.8);
    }
    report.note(setting(client));
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("A launch on an idle stream until it is seen done, through the daemon and by plain CUDA.");
    std::string driver = "cuda", csv;
    int rounds = 20, launches = 1000, gap_us = 20;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--launches", launches, "Launches a round")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--gap-us", gap_us, "How long the stream is idle before each")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, rounds, launches, gap_us, csv); });
}
