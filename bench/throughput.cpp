// How many launches a second one client gets through the daemon, sustained, and what waiting costs the rate:
// a client that sleeps until its work is done beside one that spins.
#include <CLI/CLI.hpp>
#include <thread>
#include <vector>

#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// Launches for `seconds`, draining the stream every `burst` launches; returns completed launches a second.
template <class Drain>
double rate(Stream& stream, const Kernel& kernel, const Buffer& x, double seconds, int burst, Drain drain) {
    const std::uint64_t begin = now_ns();
    const auto end = begin + static_cast<std::uint64_t>(seconds * 1e9);
    std::uint64_t launched = 0;
    while (now_ns() < end) {
        for (int i = 0; i < burst; ++i) must(stream.launch(kernel, {1}, {32}, x, x, x, i, 1.0f), "launching");
        launched += static_cast<std::uint64_t>(burst);
        drain(stream);
    }
    must(stream.synchronize(), "waiting for the stream");
    return static_cast<double>(launched) / (static_cast<double>(now_ns() - begin) * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Sustained launches a second through the daemon, one client, five parameters.");
    double seconds = 1;
    int rounds = 5;
    std::string csv;
    std::vector<std::string> drivers{"null", "host"};
    app.add_option("--seconds", seconds, "Length of one measurement")->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions; the median is shown")->capture_default_str();
    app.add_option("--driver", drivers, "Drivers to measure")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        Report report("Completed launches a second, one client",
                      {"sustained/s", "sleeping/s", "spinning/s", "spin/sleep"});
        for (const std::string& driver : drivers) {
            PrivateDaemon daemon(driver);
            Kernel five = daemon.client().load_file(daemon.kernels()).kernel("five");
            Stream stream = daemon.client().stream();
            Buffer x = daemon.client().alloc(1 << 20);
            std::vector<double> free, sleeping, spinning, ratio;
            for (int round = 0; round < rounds; ++round) {
                free.push_back(rate(stream, five, x, seconds, 512, [](Stream&) {}));
                sleeping.push_back(
                    rate(stream, five, x, seconds, 512, [](Stream& s) { must(s.synchronize(), "waiting"); }));
                spinning.push_back(rate(stream, five, x, seconds, 512, [](Stream& s) {
                    const Event event = s.record();
                    while (!event.done()) {
                    }
                }));
                ratio.push_back(spinning.back() / sleeping.back());
            }
            report.add(driver + " driver", {quantile(free, 0.5), quantile(sleeping, 0.5),
                                            quantile(spinning, 0.5), quantile(ratio, 0.5)});
        }
        report.note(
            "sustained: the ring is never drained on purpose; sleeping and spinning: every 512 launches the "
            "client waits for them,");
        report.note("through synchronize() or by reading the event without a pause");
        return report.finish(csv);
    });
}
