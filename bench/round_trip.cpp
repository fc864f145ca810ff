// How long until another process has taken a message and its answer is seen: a launch through the daemon
// (enqueued, validated, retired by the null driver, completion seen) beside the channels one would use
// otherwise.
#include <CLI/CLI.hpp>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "bench/daemon.hpp"
#include "bench/peers.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

struct Samples {
    std::string name;
    std::vector<double> ns;
};

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Round trip of one 64-byte message: ringlaunch (null driver) beside its peers, in interleaved "
        "rounds.");
    int rounds = 10, messages = 5000;
    std::string csv;
    app.add_option("--rounds", rounds, "Rounds; each runs every channel once")->capture_default_str();
    app.add_option("--messages", messages, "Round trips a channel and round")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] {
        PrivateDaemon daemon("null");
        Module module = daemon.client().load_file(daemon.kernels());
        Kernel five = module.kernel("five");
        Stream stream = daemon.client().stream();
        Buffer x = daemon.client().alloc(4096), y = daemon.client().alloc(4096),
               z = daemon.client().alloc(4096);

        std::vector<Samples> all;
        all.push_back({"ringlaunch, launch to completion seen", {}});
        const auto makers = echo_peer_makers();
        for (const auto& make : makers) all.push_back({make()->name(), {}});

        std::uint8_t message[kMessageBytes];
        std::mt19937 random(1);
        for (int round = 0; round < rounds; ++round) {
            for (std::size_t which = 0; which < all.size(); ++which) {
                const std::unique_ptr<EchoPeer> peer = which == 0 ? nullptr : makers[which - 1]();
                for (int i = -messages / 10; i < messages; ++i) {  // the first tenth warms up
                    for (auto& byte : message) byte = static_cast<std::uint8_t>(i);
                    const std::uint64_t begin = now_ns();
                    if (which == 0) {
                        must(stream.launch(five, {1}, {32}, x, y, z, i, 1.0f), "launching");
                        must(stream.synchronize(), "waiting for the launch");
                    } else {
                        peer->round_trip(message);
                    }
                    const auto took = static_cast<double>(now_ns() - begin);
                    if (i >= 0) all[which].ns.push_back(took);
                }
            }
        }

        Report report("Round trip of one message through another process",
                      {"p50_ns", "p99_ns", "p99.9_ns", "mean_ns", "x_ringlaunch"});
        const double ours = quantile(all[0].ns, 0.5);
        for (Samples& samples : all) {
            const double mean = std::accumulate(samples.ns.begin(), samples.ns.end(), 0.0) /
                                static_cast<double>(samples.ns.size());
            report.add(samples.name, {quantile(samples.ns, 0.5), quantile(samples.ns, 0.99),
                                      quantile(samples.ns, 0.999), mean, quantile(samples.ns, 0.5) / ours});
        }
        report.note("the clock itself (two reads) is in every figure");
        return report.finish(csv);
    });
}
