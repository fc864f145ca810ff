// Several clients that launch at once on one GPU, each in a stream of its own: 1 to 64 of one daemon, beside
// the threads of one process, and processes with contexts of their own, without MPS and with it. What a
// launch costs overall, and the GPU's memory.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "bench/child.hpp"
#include "bench/gpu_memory.hpp"
#include "bench/gpu_work.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr int kBurst = 512;
const Work kWork(Work::Kind::dependent);

// ---- a process that launches: says "ready"; told "go N" it has N threads launch, and says what they did

// What one thread does in a stream of its own.
struct Line {
    std::function<void(std::uint64_t)> launch;
    std::function<void()> wait;
    std::function<Words()> read;
    std::function<void()> enter = [] {};  // by the thread that will launch
    std::uint64_t next = 0, looked_at = 0;
    Words expected = {};

    void run(std::uint64_t end) {
        enter();
        while (now_ns() < end)
            for (int k = 0; k < kBurst; ++k) launch(next++);
        wait();
    }
    bool exact() {
        for (; looked_at < next; ++looked_at) kWork.apply(expected, looked_at);
        return read() == expected;
    }
};

int serve(std::vector<Line>& lines, double seconds, bool checked) {
    for (Line& line : lines) line.run(now_ns() + 1);  // one burst, to warm up
    std::printf("ready\n");
    std::fflush(stdout);
    for (std::string go; std::getline(std::cin, go);) {
        const auto count = static_cast<std::size_t>(std::stoi(go.substr(go.find(' '))));
        std::vector<std::uint64_t> before;
        for (const Line& line : lines) before.push_back(line.next);
        const std::uint64_t begin = now_ns();
        const auto end = begin + static_cast<std::uint64_t>(seconds * 1e9);
        if (count == 1) {
            lines[0].run(end);
        } else {
            std::vector<std::thread> threads;
            for (std::size_t i = 0; i < count; ++i) threads.emplace_back([&, i] { lines[i].run(end); });
            for (std::thread& thread : threads) thread.join();
        }
        const double took = static_cast<double>(now_ns() - begin) * 1e-9;
        std::uint64_t launches = 0;
        bool exact = true;
        for (std::size_t i = 0; i < count; ++i) {
            launches += lines[i].next - before[i];
            exact = exact && (!checked || lines[i].exact());
        }
        std::printf("%llu %.9f %s\n", static_cast<unsigned long long>(launches), took,
                    exact ? "exact" : "WRONG");
        std::fflush(stdout);
        if (!exact) return 1;
    }
    return 0;
}

int be_client(const std::string& socket, double seconds) {
    ConnectOptions options;
    options.socket = socket;
    Client client = Client::connect(options);
    OurWork work(client, kernel_image(client.daemon().architecture), kWork);
    std::vector<Line> lines;
    lines.push_back(
        {[&](std::uint64_t i) { work.launch(i); }, [&] { work.wait(); }, [&] { return work.read(); }});
    return serve(lines, seconds, client.daemon().driver != "null");
}

// A context with a stream for each of its threads.
int be_plain(double seconds, int threads) {
    const PlainCuda cuda;
    std::vector<std::unique_ptr<PlainWork>> works;
    std::vector<Line> lines;
    for (int i = 0; i < threads; ++i) {
        works.push_back(std::make_unique<PlainWork>(cuda, kWork, cuda.another_stream()));
        const PlainWork& work = *works.back();
        lines.push_back({[&](std::uint64_t k) { work.launch(k); }, [&] { work.wait(); },
                         [&] { return work.read(); }, [&] { cuda.enter(); }});
    }
    return serve(lines, seconds, true);
}

// ---- the processes together

using Children = std::vector<std::unique_ptr<Child>>;

// How many launches a second the first `count` of them make at once; exact results or an exception.
double run_together(Children& children, std::size_t count, int threads = 1) {
    for (std::size_t i = 0; i < count; ++i) children[i]->say("go " + std::to_string(threads));
    double launches = 0, longest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::istringstream said(children[i]->hear());
        double one = 0, took = 0;
        std::string verdict;
        said >> one >> took >> verdict;
        if (verdict != "exact") throw std::runtime_error("a process's word is not what its launches give");
        launches += one;
        longest = std::max(longest, took);
    }
    return launches / longest;
}

// Starts until there are so many, which are ready.
void grow(Children& children, std::size_t count, const std::vector<std::string>& arguments) {
    const std::size_t before = children.size();
    while (children.size() < count) children.push_back(std::make_unique<Child>(arguments));
    for (std::size_t i = before; i < count; ++i)
        if (children[i]->hear() != "ready") throw std::runtime_error("a process is not ready");
}

// A private MPS daemon; what is started within it goes through it.
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
        bool runs = false;
        within([&] { runs = std::system(("timeout 30 " + program() + " -d >/dev/null 2>&1").c_str()) == 0; });
        if (!runs) {
            stop();
            throw std::runtime_error("nvidia-cuda-mps-control does not start");
        }
    }
    ~Mps() { stop(); }
    Mps(const Mps&) = delete;
    Mps& operator=(const Mps&) = delete;

    template <class Body>
    void within(Body body) {
        ::setenv("CUDA_MPS_PIPE_DIRECTORY", (folder_ + "/pipe").c_str(), 1);
        ::setenv("CUDA_MPS_LOG_DIRECTORY", (folder_ + "/log").c_str(), 1);
        body();
        ::unsetenv("CUDA_MPS_PIPE_DIRECTORY");
        ::unsetenv("CUDA_MPS_LOG_DIRECTORY");
    }

  private:
    void stop() {
        within([&] {
            if (std::system(("echo quit | timeout 30 " + program() + " >/dev/null 2>&1").c_str()) != 0)
                std::fprintf(stderr, "nvidia-cuda-mps-control does not quit; its folder is %s\n",
                             folder_.c_str());
        });
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    std::string folder_;
};

// One way to have `count` launch at once, at several counts.
struct Way {
    std::string name;
    std::vector<std::size_t> counts;
    std::function<void()> start = [] {};  // for a round
    std::function<double(std::size_t count)> run;
    std::function<void()> stop = [] {};                  // after a round
    std::map<std::size_t, std::vector<double>> us = {};  // a launch, of all of them together
    std::map<std::size_t, double> mib = {};
    std::string failed = {};
};

struct Options {
    std::string driver = "cuda";
    std::vector<std::size_t> clients{1, 2, 4, 8, 16, 32, 64}, contexts{1, 2, 4, 8};
    int rounds = 3;
    double seconds = 0.3;
};

int measure(const Options& options, const std::string& csv) {
    const bool gpu = options.driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    const std::string length = std::to_string(options.seconds);
    const std::vector<std::string> plain{"--child", "plain", "--seconds", length, "--threads", "1"};
    const std::size_t most = *std::max_element(options.clients.begin(), options.clients.end());
    const double before = gpu_memory_mib();
    PrivateDaemon daemon(options.driver);
    const double of_daemon = gpu_memory_mib() - before;

    Children clients, threads, contexts, under_mps;
    std::unique_ptr<Mps> mps;
    std::vector<Way> ways(1);
    ways[0].name = "ringlaunch, clients of one daemon";
    ways[0].counts = options.clients;
    ways[0].run = [&](std::size_t count) {
        const double others = ways[0].mib.count(count) == 0 ? gpu_memory_mib() : 0;
        const std::size_t had = clients.size();
        grow(clients, count, {"--child", "client", "--socket", daemon.socket(), "--seconds", length});
        if (ways[0].mib.count(count) == 0) {
            const double earlier = had == 0 ? of_daemon : ways[0].mib[had];
            ways[0].mib[count] = earlier + gpu_memory_mib() - others;
        }
        return run_together(clients, count);
    };
    ways[0].stop = [&] { clients.clear(); };
    // Processes with contexts of their own stay from round to round: one that does nothing costs the others
    // nothing.
    const auto memory_of = [](std::vector<double>& seen, auto start) {
        seen.push_back(gpu_memory_mib());
        start();
        seen.push_back(gpu_memory_mib());
    };
    std::vector<double> plain_mib, mps_mib;
    if (gpu) {
        ways.push_back(
            {"threads of one process, own streams", options.clients,
             [&] {
                 if (threads.empty())
                     grow(threads, 1,
                          {"--child", "plain", "--seconds", length, "--threads", std::to_string(most)});
             },
             [&](std::size_t count) { return run_together(threads, 1, static_cast<int>(count)); }});
        const std::size_t processes = *std::max_element(options.contexts.begin(), options.contexts.end());
        ways.push_back({"own contexts", options.contexts,
                        [&, processes] {
                            if (contexts.empty())
                                memory_of(plain_mib, [&] { grow(contexts, processes, plain); });
                        },
                        [&](std::size_t count) { return run_together(contexts, count); }});
        if (!Mps::program().empty())
            ways.push_back({"own contexts under MPS", options.contexts,
                            [&, processes] {
                                if (!under_mps.empty()) return;
                                mps = std::make_unique<Mps>();
                                memory_of(mps_mib,
                                          [&] { mps->within([&] { grow(under_mps, processes, plain); }); });
                            },
                            [&](std::size_t count) { return run_together(under_mps, count); }});
    }
    for (int round = 0; round < options.rounds; ++round)
        for (Way& way : ways) {
            if (!way.failed.empty()) continue;
            try {
                way.start();
                for (const std::size_t count : way.counts) way.us[count].push_back(1e6 / way.run(count));
                way.stop();
            } catch (const std::exception& error) {
                if (&way == &ways[0]) throw;
                way.failed = error.what();
            }
        }
    // Of all processes together: what was measured when all of them were there.
    if (plain_mib.size() == 2) ways[2].mib[options.contexts.back()] = plain_mib[1] - plain_mib[0];
    if (mps_mib.size() == 2) ways[3].mib[options.contexts.back()] = mps_mib[1] - mps_mib[0];
    under_mps.clear();  // before MPS goes

    Report report("Clients that launch at once, a stream each, " + daemon.client().daemon().device_name +
                      " (" + options.driver + " driver)",
                  {"clients", "us", "us_min", "us_max", "launches/s", "gpu_MiB"});
    for (Way& way : ways) {
        for (auto& [count, us] : way.us)
            if (!us.empty())
                report.add(way.name, {static_cast<double>(count), quantile(us, 0.5), quantile(us, 0),
                                      quantile(us, 1), 1e6 / quantile(us, 0.5),
                                      gpu && way.mib.count(count) != 0 ? way.mib[count] : std::nan("")});
        if (!way.failed.empty()) report.note(way.name + ": not measured: " + way.failed);
    }
    report.along("clients");
    char text[200];
    std::snprintf(text, sizeof text,
                  "us a launch of all together, medians of %d rounds of %.2g s in turn, least and most; "
                  "every launch changes a "
                  "word; all results exact",
                  options.rounds, options.seconds);
    report.note(text);
    report.note(
        "clients: processes, except the threads; gpu_MiB: GPU memory of all of them, daemon included");
    if (gpu && Mps::program().empty()) report.note("MPS: nvidia-cuda-mps-control is not here");
    if (gpu) report.target("4 clients, us a launch overall", quantile(ways[0].us[4], 0.5), 0.32);
    report.note(setting(daemon.client()));
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Clients that launch at once: of one daemon, threads of one process, own contexts, own contexts "
        "under "
        "MPS.");
    Options options;
    std::string csv, child, socket;
    int threads = 1;
    app.add_option("--driver", options.driver,
                   "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--clients", options.clients, "Numbers of clients of the daemon, in rising order")
        ->check(CLI::Range(1, 64))
        ->capture_default_str();
    app.add_option("--contexts", options.contexts, "Numbers of processes with contexts, in rising order")
        ->check(CLI::Range(1, 64))
        ->capture_default_str();
    app.add_option("--rounds", options.rounds, "Interleaved repetitions")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--seconds", options.seconds, "Length of one measurement")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    app.add_option("--child", child)->group("");  // what this program starts
    app.add_option("--socket", socket)->group("");
    app.add_option("--threads", threads)->group("");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        if (child == "client") return be_client(socket, options.seconds);
        if (child == "plain") return be_plain(options.seconds, threads);
        return measure(options, csv);
    });
}
