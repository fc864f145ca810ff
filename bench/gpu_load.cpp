// How long a launch on a GPU takes until it is seen done while launches come at a given rate, whatever became
// of the ones before (an open loop): through the daemon and by cuLaunchKernel.
#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "bench/gpu_work.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr double kCannot = 0.95;  // of a side's peak: what comes faster only queues

// When the launches come, in nanoseconds from the beginning: at random, so many a second.
std::vector<std::uint64_t> arrivals(double rate, double seconds, unsigned seed) {
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(rate * 1e-9);
    std::vector<std::uint64_t> all;
    all.reserve(static_cast<std::size_t>(rate * seconds * 1.1) + 100);
    for (double at = 0; (at += gap(random)) < seconds * 1e9;) all.push_back(static_cast<std::uint64_t>(at));
    return all;
}

// Launches `step_and_tell`: a word changes, and the launch's number stands in memory that this process polls.
class Side {
  public:
    Side(std::string name, const volatile unsigned* told, std::function<void(unsigned)> launch,
         std::function<void()> wait, std::function<unsigned()> read)
        : name_(std::move(name)),
          told_(told),
          launch_(std::move(launch)),
          wait_(std::move(wait)),
          read_(std::move(read)) {}

    const std::string& name() const { return name_; }
    // Launches a second, one after the other.
    double peak(int launches) {
        const std::uint64_t begin = now_ns();
        for (int i = 0; i < launches; ++i) launch_(++launched_);
        wait_();
        return launches / (static_cast<double>(now_ns() - begin) * 1e-9);
    }
    // Microseconds from when each launch was to be made until it is seen done. A launch that had to wait for
    // those before it counts from its own time all the same.
    void latencies(const std::vector<std::uint64_t>& arrivals, std::vector<double>& us) {
        struct Sight {
            unsigned value;
            std::uint64_t at;
        };
        const unsigned first = launched_ + 1, last = launched_ + static_cast<unsigned>(arrivals.size());
        std::vector<Sight> sights;
        sights.reserve(arrivals.size() + 1);
        std::atomic<bool> watching{false}, hung{false};
        // Room for all of them, so that the observer never waits for memory; a page that was never touched
        // would make it.
        sights.resize(sights.capacity());
        std::size_t seen = 0;
        std::thread observer([&] {
            unsigned before = *told_;
            watching = true;
            const std::uint64_t limit = now_ns() + 30'000'000'000;
            for (std::uint64_t now = 0; before != last;) {
                const unsigned value = *told_;
                now = now_ns();
                if (value != before && seen < sights.size()) sights[seen++] = {before = value, now};
                if (now > limit) return void(hung = true);
            }
        });
        while (!watching) std::this_thread::yield();
        const std::uint64_t begin = now_ns() + 100'000;
        for (const std::uint64_t arrival : arrivals) {
            while (now_ns() < begin + arrival) {
            }
            launch_(++launched_);
        }
        observer.join();
        wait_();
        if (hung) throw std::runtime_error(name_ + ": the last launch was not seen within 30 s");
        std::size_t k = 0;
        for (unsigned i = first; i <= last; ++i) {
            while (sights[k].value < i) ++k;
            us.push_back(
                (static_cast<double>(sights[k].at) - static_cast<double>(begin + arrivals[i - first])) *
                1e-3);
        }
    }
    void check() const {
        unsigned expected = 0;
        for (unsigned i = 1; i <= launched_; ++i) expected = expected * kFactor + i;
        if (read_() != expected) throw std::runtime_error(name_ + ": the word is not what the launches give");
    }

  private:
    std::string name_;
    const volatile unsigned* told_;
    std::function<void(unsigned)> launch_;
    std::function<void()> wait_;
    std::function<unsigned()> read_;
    unsigned launched_ = 0;
};

struct Point {
    double rate;
    std::string what;
    std::vector<double> us = {}, p50 = {}, p99 = {}, p999 = {};
};

struct Measured {
    Side side;
    std::vector<double> peaks = {};
    std::vector<Point> points = {};
    double peak() { return quantile(peaks, 0.5); }
};

int measure(const std::string& driver, int rounds, double seconds, int many, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    Client& client = daemon.client();
    const Kernel kernel = client.load_file(daemon.kernels()).kernel("step_and_tell");
    Stream stream = client.stream();
    const Buffer word = client.alloc(4);
    must(stream.fill(word, 0, 4, 0, 4), "clearing the word");
    const PinnedMemory told = client.alloc_pinned(4096);
    std::memset(told.data(), 0, told.size());
    std::vector<Measured> all;
    all.push_back({Side(
        "ringlaunch", reinterpret_cast<const volatile unsigned*>(told.data()),
        [&](unsigned i) { must(stream.launch(kernel, {1}, {1}, word, told, kFactor, i), "launching"); },
        [&] { must(stream.synchronize(), "waiting"); },
        [&] {
            unsigned value = 0;
            must(stream.copy_to_host(&value, word, sizeof value), "reading the word");
            return value;
        })});
    std::unique_ptr<PlainCuda> cuda;
    std::unique_ptr<PeerHostMemory> plain_told;
    std::unique_ptr<PeerMemory> plain_word;
    if (gpu) {
        cuda = std::make_unique<PlainCuda>();
        plain_told = std::make_unique<PeerHostMemory>(4096);
        std::memset(plain_told->data(), 0, 4096);
        plain_word = std::make_unique<PeerMemory>(4);
        all.push_back({Side(
            "cuLaunchKernel", static_cast<const volatile unsigned*>(plain_told->data()),
            [&, function = cuda->kernel("step_and_tell"), to = plain_told->address(),
             at = plain_word->address()](unsigned i) {
                CUdeviceptr at_ = at, to_ = to;
                unsigned factor = kFactor;
                void* params[] = {&at_, &to_, &factor, &i};
                cuda->launch(function, 1, 1, params);
            },
            [&] { cuda->synchronize(); },
            [&] {
                unsigned value = 0;
                check_peer(peer_api().cuMemcpyDtoH_(&value, plain_word->address(), sizeof value),
                           "reading the word");
                return value;
            })});
    }
    for (int round = -1; round < 3; ++round)  // the first warms up
        for (Measured& one : all) {
            const double peak = one.side.peak(many);
            if (round >= 0) one.peaks.push_back(peak);
        }

    char text[220];
    // Shares of our peak, and of the other side's, each tried on both.
    for (Measured& one : all)
        for (Measured& of : all)
            for (const int share : {10, 50, 90}) {
                std::snprintf(text, sizeof text, "%d%% of %s's peak", share, of.side.name().c_str());
                one.points.push_back({of.peak() * share / 100, text});
            }
    for (int round = -1; round < rounds; ++round)
        for (std::size_t k = 0; k < all[0].points.size(); ++k) {
            const std::vector<std::uint64_t> when =
                arrivals(all[0].points[k].rate, round < 0 ? 0.05 : seconds,
                         static_cast<unsigned>(round * 100 + 100) + static_cast<unsigned>(k));
            for (Measured& one : all) {
                Point& point = one.points[k];
                if (point.rate > kCannot * one.peak()) continue;
                std::vector<double> us;
                one.side.latencies(when, us);
                if (round < 0) continue;
                point.us.insert(point.us.end(), us.begin(), us.end());
                point.p50.push_back(quantile(us, 0.5));
                point.p99.push_back(quantile(us, 0.99));
                point.p999.push_back(quantile(us, 0.999));
            }
        }

    Report report("A launch until it is seen done while launches come at a rate, " +
                      client.daemon().device_name + " (" + driver + " driver)",
                  {"launches/s", "p50_us", "p50_us_min", "p50_us_max", "p99_us", "p99_us_min", "p99_us_max",
                   "p99.9_us", "p99.9_us_min", "p99.9_us_max"});
    for (Measured& one : all) {
        std::snprintf(text, sizeof text, "%s alone, without a pause: %.0f launches a second (%.0f to %.0f)",
                      one.side.name().c_str(), one.peak(), quantile(one.peaks, 0), quantile(one.peaks, 1));
        report.note(text);
        std::sort(one.points.begin(), one.points.end(),
                  [](const Point& a, const Point& b) { return a.rate < b.rate; });
        for (Point& point : one.points) {
            if (point.us.empty()) {
                report.note(one.side.name() + " cannot: " + point.what);
                continue;
            }
            report.add(one.side.name(),
                       {point.rate, quantile(point.us, 0.5), quantile(point.p50, 0), quantile(point.p50, 1),
                        quantile(point.us, 0.99), quantile(point.p99, 0), quantile(point.p99, 1),
                        quantile(point.us, 0.999), quantile(point.p999, 0), quantile(point.p999, 1)});
        }
        if (driver != "null") one.side.check();
    }
    report.along("launches/s");
    std::snprintf(text, sizeof text,
                  "open loop: launches come at random times (exponential gaps), %d rounds of %.2g s; a "
                  "latency counts from "
                  "when the launch was to be made",
                  rounds, seconds);
    report.note(text);
    report.note(
        "until the number that its kernel writes is seen by a polling thread; one that comes late counts "
        "from its own "
        "time. Rates are 10, 50");
    report.note(std::string("and 90% of each side's peak, min and max of the rounds' own") +
                (driver == "null" ? "" : ". The words that launches changed were compared"));
    report.note(setting(client));
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("A launch until it is seen done under load, through the daemon and by cuLaunchKernel.");
    std::string driver = "cuda", csv;
    int rounds = 3, many = 100'000;
    double seconds = 0.5;
    app.add_option("--driver", driver, "The daemon's driver; host tries the program, without peers")
        ->check(CLI::IsMember({"cuda", "host"}))
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--seconds", seconds, "Length of one measurement")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--many", many, "Launches of a measurement of the peak")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, rounds, seconds, many, csv); });
}
