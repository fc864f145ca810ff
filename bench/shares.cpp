// Who gets how much of a device when several clients want it: seven light ones beside one that floods it,
// equal ones beside each other, one of a high priority beside a flood of a low one, and streams that do not
// depend on each other. Every client is a process of its own.
#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <numeric>
#include <sstream>
#include <thread>
#include <vector>

#include "bench/child.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr int kLight = 7, kEqual = 8, kStreams = 4;
constexpr std::uint64_t kTogetherNs = 100'000;  // a kernel of the streams that run at the same time
const double kNone = std::nan("");

// What a client launches.
struct Load {
    std::string name;
    std::uint64_t busy_ns;  // 0: a kernel that does next to nothing
    std::uint32_t blocks, threads;
};
const Load kTiny{"tiny kernels", 0, 1, 1};
const Load kShort{"kernels of 20 us", 20'000, 1, 1};
// Two such blocks to each multiprocessor of an H200 are all that it holds at once.
const Load kWide{"kernels of 20 us that fill the device", 20'000, 264, 1024};
// So that a block of another's waits for one wave, or for all of them.
const Load kWaves{"kernels of 16 waves of 20 us", 20'000, 16 * 264, 1024};

// ---- the clients' side

class Worker {
  public:
    Worker(const std::string& socket, int priority, const Load& load)
        : client_(connect(socket)),
          module_(client_.load_file(kernel_image(client_.daemon().architecture))),
          step_(module_.kernel("step")),
          busy_(module_.kernel("busy")),
          stream_(client_.stream({0, OnRestart::stop, priority, "shares"})),
          word_(client_.alloc(4)),
          load_(load) {
        launch();
        must(stream_.synchronize(), "warming up");
    }

    // One launch after another, each waited for, with a pause between: "launches p50 p99 worst", us.
    std::string light(double seconds) {
        std::vector<double> us;
        for (const std::uint64_t end = after(seconds); now_ns() < end;) {
            const std::uint64_t begin = now_ns();
            must(stream_.launch(step_, {1}, {1}, word_, 3u, 1u), "launching");
            must(stream_.synchronize(), "waiting");
            us.push_back(static_cast<double>(now_ns() - begin) / 1000);
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
        std::ostringstream line;
        line << us.size() << ' ' << quantile(us, 0.5) << ' ' << quantile(us, 0.99) << ' ' << quantile(us, 1);
        return line.str();
    }
    // Keeps its ring full: "completed 0 0 0", of the time in which all of them did.
    std::string flood(double seconds) {
        const std::uint64_t begin = stream_.status().completed, end = after(seconds);
        while (now_ns() < end)
            for (int i = 0; i < 8; ++i) launch();
        const std::uint64_t completed = stream_.status().completed - begin;  // a launch of it is a slot
        must(stream_.synchronize(), "waiting for the flood");
        return std::to_string(completed) + " 0 0 0";
    }

  private:
    static Client connect(const std::string& socket) {
        ConnectOptions options;
        options.socket = socket;
        return Client::connect(options);
    }
    static std::uint64_t after(double seconds) {
        return now_ns() + static_cast<std::uint64_t>(seconds * 1e9);
    }
    void launch() {
        if (load_.busy_ns == 0)
            must(stream_.launch(step_, {1}, {1}, word_, 3u, 1u), "launching");
        else
            must(stream_.launch(busy_, {load_.blocks}, {load_.threads}, load_.busy_ns), "launching");
    }

    Client client_;
    Module module_;
    Kernel step_, busy_;
    Stream stream_;
    Buffer word_;
    const Load load_;
};

// Told "light SECONDS" or "flood SECONDS", until its input ends.
int serve(const std::string& socket, int priority, const Load& load) {
    Worker worker(socket, priority, load);
    std::puts("ready");
    std::fflush(stdout);
    char line[64], role[16];
    double seconds = 0;
    while (std::fgets(line, sizeof line, stdin) != nullptr &&
           std::sscanf(line, "%15s %lf", role, &seconds) == 2) {
        std::puts((role[0] == 'l' ? worker.light(seconds) : worker.flood(seconds)).c_str());
        std::fflush(stdout);
    }
    return 0;
}

// ---- the benchmark's side

struct Answer {
    double launches = 0, p50 = 0, p99 = 0, worst = 0;
};

class Clients {
  public:
    Clients(const PrivateDaemon& daemon, int count, const Load& load, int priority = 0) {
        for (int i = 0; i < count; ++i)
            all_.push_back(std::make_unique<Child>(std::vector<std::string>{
                "--serve", daemon.socket(), "--priority", std::to_string(priority), "--busy-ns",
                std::to_string(load.busy_ns), "--blocks", std::to_string(load.blocks), "--threads",
                std::to_string(load.threads)}));
        for (const auto& each : all_)
            if (each->hear() != "ready") throw std::runtime_error("a client did not begin");
    }
    void tell(const std::string& role, double seconds) {
        for (const auto& each : all_) each->say(role + " " + std::to_string(seconds));
    }
    std::vector<Answer> hear() {
        std::vector<Answer> answers;
        for (const auto& each : all_) {
            Answer answer;
            if (std::sscanf(each->hear().c_str(), "%lf %lf %lf %lf", &answer.launches, &answer.p50,
                            &answer.p99, &answer.worst) != 4)
                throw std::runtime_error("a client's answer is not understood");
            answers.push_back(answer);
        }
        return answers;
    }

  private:
    std::vector<std::unique_ptr<Child>> all_;
};

// All light clients as one: the median of their medians, the worst of the rest.
Answer together(const std::vector<Answer>& answers) {
    Answer sum;
    std::vector<double> medians;
    for (const Answer& each : answers) {
        sum.launches += each.launches;
        medians.push_back(each.p50);
        sum.p99 = std::max(sum.p99, each.p99);
        sum.worst = std::max(sum.worst, each.worst);
    }
    sum.p50 = quantile(medians, 0.5);
    return sum;
}

class Measurement {
  public:
    Measurement(const std::string& driver, double seconds, Report& report)
        : daemon_(driver), seconds_(seconds), report_(report), prefix_(driver + ": ") {}

    void light_beside_floods(const std::vector<Load>& loads) {
        Clients light(daemon_, kLight, kTiny);
        const std::string who = std::to_string(kLight) + " light clients ";
        const Answer alone = measure(light);
        add(who + "alone", alone, alone, kNone);
        for (const Load& load : loads) {
            Clients flood(daemon_, 1, load);
            const auto [seen, rate] = measure(light, flood);
            add(who + "beside a flood of " + load.name, seen, alone, rate);
        }
    }
    void priorities(const Load& load) {
        for (const int priority : {0, 5}) {
            Clients light(daemon_, 1, kTiny, priority);
            const Answer alone = measure(light);
            Clients flood(daemon_, 1, load);
            const auto [seen, rate] = measure(light, flood);
            add("priority " + std::to_string(priority) + " beside a flood of priority 0, " + load.name, seen,
                alone, rate);
        }
    }
    void equals(const Load& load) {
        Clients clients(daemon_, kEqual, load);
        clients.tell("flood", seconds_);
        std::vector<double> done;
        for (const Answer& each : clients.hear()) done.push_back(each.launches);
        const double sum = std::accumulate(done.begin(), done.end(), 0.0), mean = sum / kEqual;
        report_.add(prefix_ + std::to_string(kEqual) + " equal clients, " + load.name,
                    {sum, kNone, kNone, kNone, kNone, sum / seconds_, quantile(done, 0) / mean,
                     quantile(done, 1) / mean, kNone});
    }
    // Kernels of one block, the same number on each stream.
    void at_the_same_time() {
        Client client = daemon_.connect();
        const Kernel busy = client.load_file(daemon_.kernels()).kernel("busy");
        std::vector<Stream> streams;
        for (int i = 0; i < kStreams; ++i) streams.push_back(client.stream());
        constexpr int kLaunches = 500;
        const auto run = [&](int count) {
            const std::uint64_t begin = now_ns();
            for (int k = 0; k < kLaunches; ++k)
                for (int i = 0; i < count; ++i)
                    must(streams[static_cast<std::size_t>(i)].launch(busy, {1}, {1}, kTogetherNs),
                         "launching");
            for (int i = 0; i < count; ++i)
                must(streams[static_cast<std::size_t>(i)].synchronize(), "waiting");
            return static_cast<double>(now_ns() - begin);
        };
        run(kStreams);
        for (const int count : {1, kStreams}) {
            const double launches = static_cast<double>(count) * kLaunches, took = run(count);
            report_.add(prefix_ + std::to_string(count) + " streams of one client, kernels of 100 us",
                        {launches, kNone, kNone, kNone, kNone, launches / took * 1e9, kNone, kNone,
                         launches * static_cast<double>(kTogetherNs) / took});
        }
    }

  private:
    Answer measure(Clients& light) {
        light.tell("light", seconds_);
        return together(light.hear());
    }
    // Begun after the flood and ended before it. And the flood's launches a second.
    std::pair<Answer, double> measure(Clients& light, Clients& flood) {
        const double longer = seconds_ + 1;
        flood.tell("flood", longer);
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        const Answer seen = measure(light);
        return {seen, flood.hear()[0].launches / longer};
    }
    void add(const std::string& name, const Answer& seen, const Answer& alone, double flood_rate) {
        report_.add(prefix_ + name, {seen.launches, seen.p50, seen.p99, seen.worst, seen.p99 / alone.p99,
                                     flood_rate, kNone, kNone, kNone});
    }

    PrivateDaemon daemon_;
    const double seconds_;
    Report& report_;
    const std::string prefix_;
};

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Who gets how much of a device when several clients want it.");
    double seconds = 2;
    std::string csv, driver = "cuda", socket;
    int priority = 0;
    Load load = kTiny;
    app.add_option("--driver", driver, "The daemon's driver")->capture_default_str();
    app.add_option("--seconds", seconds, "Length of one measurement")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    // Of a client that this program starts.
    app.add_option("--serve", socket)->group("");
    app.add_option("--priority", priority)->group("");
    app.add_option("--busy-ns", load.busy_ns)->group("");
    app.add_option("--blocks", load.blocks)->group("");
    app.add_option("--threads", load.threads)->group("");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        if (!socket.empty()) return serve(socket, priority, load);
        Report report("Who gets how much of a device when several clients want it",
                      {"launches", "p50_us", "p99_us", "worst_us", "p99/alone", "launches/s", "least/mean",
                       "most/mean", "at_once"});
        Measurement measurement(driver, seconds, report);
        std::vector<Load> floods{kTiny};
        if (driver != "null") floods.push_back(kShort);
        if (driver == "cuda") floods.push_back(kWide);
        measurement.light_beside_floods(floods);
        measurement.priorities(driver == "cuda" ? kWaves : floods.back());
        for (const Load& each : floods) measurement.equals(each);
        if (driver != "null") measurement.at_the_same_time();
        report.note(
            "a light client launches one small kernel, waits for it, pauses for 200 us and launches the "
            "next; p50 is the "
            "median of the clients', p99 and worst are the worst client's;");
        report.note(
            "launches/s: the flood's, of the equal clients together, or of the streams; least and most: of "
            "an equal "
            "client's launches, to the mean of all; at_once: kernels that ran at the same time, on average");
        return report.finish(csv);
    });
}
