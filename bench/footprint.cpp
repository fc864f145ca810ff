// What a daemon costs while it does nothing and when somebody comes: connect to first launch, waking up,
// memory, idle processor time, memory a stream.
#include <poll.h>
#include <sys/eventfd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "bench/daemon.hpp"
#include "bench/gpu_memory.hpp"
#include "bench/report.hpp"
#include "schema/unique_fd.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// The process and its children (the executors).
std::vector<int> family(int pid) {
    std::vector<int> pids{pid};
    std::ifstream children("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
    for (int child; children >> child;) pids.push_back(child);
    return pids;
}

// Resident memory in MiB, shared pages of files included: what `top` shows.
double resident_mib(int pid) {
    double kib = 0;
    for (int one : family(pid)) {
        std::ifstream status("/proc/" + std::to_string(one) + "/status");
        for (std::string line; std::getline(status, line);) {
            if (line.rfind("VmRSS:", 0) == 0) kib += std::stod(line.substr(6));
        }
    }
    return kib / 1024;
}

double processor_seconds(int pid) {
    double ticks = 0;
    for (int one : family(pid)) {
        std::ifstream stat("/proc/" + std::to_string(one) + "/stat");
        std::string text((std::istreambuf_iterator<char>(stat)), {});
        std::istringstream rest(text.substr(text.rfind(')') + 2));
        std::string field;
        for (int i = 3; i <= 15 && rest >> field; ++i)
            if (i >= 14) ticks += std::stod(field);
    }
    return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

constexpr int kClients = 32;
constexpr int kWakings = 1000, kAwake = 100'000;
// How long nobody wants anything, in ms: a dispatcher sleeps after 0.05, and the longer a processor has been
// idle, the longer it takes to begin again.
constexpr double kPauses[] = {0.1, 2};

void pause_ms(double ms) {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}
double us_since(std::uint64_t begin) {
    return static_cast<double>(now_ns() - begin) * 1e-3;
}

// Launch to completion seen, us, after a pause each.
std::vector<double> launches_us(Stream& stream, const Kernel& kernel, double after_ms, int count = kWakings) {
    std::vector<double> us;
    for (int i = 0; i < count; ++i) {
        if (after_ms > 0) pause_ms(after_ms);
        const std::uint64_t begin = now_ns();
        must(stream.launch(kernel, {1}, {1}), "launching");
        must(stream.synchronize(), "waiting");
        us.push_back(us_since(begin));
    }
    return us;
}

// What no daemon can do without: a thread that sleeps in poll() is woken by an eventfd, and says so.
std::vector<double> eventfd_us(double after_ms) {
    const UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
    std::atomic<int> seen{0};
    std::thread sleeper([&] {
        for (int i = 1; i <= kWakings; ++i) {
            pollfd rung{bell.get(), POLLIN, 0};
            std::uint64_t count = 0;
            if (::poll(&rung, 1, 10'000) != 1 || ::read(bell.get(), &count, sizeof count) != sizeof count)
                break;
            seen.store(i, std::memory_order_relaxed);  // relaxed: a count, nothing else is read
        }
        seen.store(kWakings + 1, std::memory_order_relaxed);
    });
    std::vector<double> us;
    for (int i = 1; i <= kWakings; ++i) {
        pause_ms(after_ms);
        const std::uint64_t begin = now_ns(), one = 1;
        if (::write(bell.get(), &one, sizeof one) != sizeof one) break;
        while (seen.load(std::memory_order_relaxed) < i) {  // relaxed: as above
        }
        us.push_back(us_since(begin));
    }
    sleeper.join();
    return us;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Connect to first launch, memory and idle processor time of a daemon.");
    std::string driver = "host", csv;
    int connects = 100, streams = 32;
    double idle_seconds = 5;
    app.add_option("--driver", driver, "The daemon's driver")->capture_default_str();
    app.add_option("--connects", connects, "Clients that come one after another")->capture_default_str();
    app.add_option("--streams", streams, "Streams opened to see what one costs")->capture_default_str();
    app.add_option("--idle-seconds", idle_seconds, "How long the idle daemon is watched")
        ->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        const bool gpu = driver == "cuda";
        const double nobody_mib = gpu ? gpu_memory_mib() : 0;
        PrivateDaemon daemon(driver);
        const double daemon_mib = gpu ? gpu_memory_mib() - nobody_mib : 0;
        std::vector<double> first_launch_ms;
        for (int i = 0; i < connects; ++i) {
            const std::uint64_t begin = now_ns();
            Client client = daemon.connect();
            Kernel step = client.load_file(daemon.kernels()).kernel("step");
            Stream stream = client.stream();
            Buffer word = client.alloc(4);
            must(stream.launch(step, {1}, {1}, word, 3u, 1u), "launching");
            must(stream.synchronize(), "waiting for the first launch");
            first_launch_ms.push_back(static_cast<double>(now_ns() - begin) * 1e-6);
        }

        std::this_thread::sleep_for(std::chrono::seconds(1));
        const double idle_mib = resident_mib(daemon.pid());
        const double before = processor_seconds(daemon.pid());
        std::this_thread::sleep_for(std::chrono::duration<double>(idle_seconds));
        const double idle_percent = (processor_seconds(daemon.pid()) - before) / idle_seconds * 100;

        std::vector<double> awake, asleep[std::size(kPauses)], bare[std::size(kPauses)];
        {
            Kernel nothing = daemon.client().load_file(daemon.kernels()).kernel("nothing");
            Stream stream = daemon.client().stream();
            launches_us(stream, nothing, 0, kAwake);
            awake = launches_us(stream, nothing, 0, kAwake);
            for (std::size_t i = 0; i < std::size(kPauses); ++i) {
                asleep[i] = launches_us(stream, nothing, kPauses[i]);
                bare[i] = eventfd_us(kPauses[i]);
            }
        }

        const double closed_mib = resident_mib(daemon.pid());
        std::vector<Stream> open;
        for (int i = 0; i < streams; ++i) open.push_back(daemon.client().stream());
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        const double stream_kib = (resident_mib(daemon.pid()) - closed_mib) * 1024 / streams;

        std::vector<Client> clients;
        const double before_mib = gpu ? gpu_memory_mib() : 0;
        for (int i = 0; gpu && i < kClients; ++i) clients.push_back(daemon.connect());
        const double client_mib = gpu ? (gpu_memory_mib() - before_mib) / kClients : 0;

        Report report("What a daemon costs (" + driver + " driver)", {"figure"});
        report.add("connect to first launch done, p50, ms", {quantile(first_launch_ms, 0.5)});
        report.add("connect to first launch done, p99, ms", {quantile(first_launch_ms, 0.99)});
        report.add("idle: resident memory of supervisor and executor, MiB", {idle_mib});
        report.add("idle: processor time, % of a core", {idle_percent});
        report.add("a launch that is waited for, the daemon awake, p50, us", {quantile(awake, 0.5)});
        for (std::size_t i = 0; i < std::size(kPauses); ++i) {
            char pause[32];
            std::snprintf(pause, sizeof pause, "after %.1f ms of nothing, ", kPauses[i]);
            const std::string after = pause;
            report.add(after + "p50, us", {quantile(asleep[i], 0.5)});
            report.add(after + "p99, us", {quantile(asleep[i], 0.99)});
            report.add(after + "a bare eventfd wakes a thread, p50, us", {quantile(bare[i], 0.5)});
            report.add(after + "a bare eventfd wakes a thread, p99, us", {quantile(bare[i], 0.99)});
        }
        report.add("resident memory a stream, in the daemon, KiB", {stream_kib});
        if (gpu) {
            report.add("GPU memory of the daemon, no client has allocated, MiB", {daemon_mib});
            report.add("GPU memory a further client, MiB", {client_mib});
        }
        report.note(
            "awake: from one launch to the next without a pause; the dispatcher sleeps after 50 us without "
            "work (serve "
            "--spin-us)");
        report.target("connect to first launch done, p50, ms", quantile(first_launch_ms, 0.5), 5);
        for (std::size_t i = 0; i < std::size(kPauses); ++i) {
            char what[64];
            std::snprintf(what, sizeof what, "waking up after %.1f ms of nothing, p50, us", kPauses[i]);
            report.target(what, quantile(asleep[i], 0.5) - quantile(awake, 0.5), 10);
        }
        report.note("waking up: what such a launch takes beyond one that finds the daemon awake");
        report.note(
            "connecting: handshake, module load, stream, allocation, launch and wait; the daemon runs "
            "already");
        return report.finish(csv);
    });
}
