// Copies between host and GPU through the daemon, beside cuMemcpyAsync in the same process: pinned memory
// beside page-locked memory, one by one, in a row and after a pause, and ordinary memory on both sides.
#include <CLI/CLI.hpp>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr int kMany = 8;

// One way to move bytes there and back, each ending when they have arrived.
struct Way {
    std::string name;
    std::byte* source;
    std::byte* target;
    std::function<void()> there, back;
    int copies = 1;  // of all bytes, in `there` and in `back`
    int turns = 1;   // of there and back
    std::vector<double> there_gbs = {}, back_gbs = {};
};

// Pinned memory is used in three ways. All its bytes are written by the host before each measurement, for
// some 50 ms: so the first copy finds a daemon that sleeps, which those behind it share.
void add_pinned(std::vector<Way>& ways, const std::string& side, std::byte* source, std::byte* target,
                const std::function<void()>& there, const std::function<void()>& back,
                const std::function<void()>& wait) {
    const auto times = [wait](const std::function<void()>& copy, int copies) {
        return [wait, copy, copies] {
            for (int i = 0; i < copies; ++i) copy();
            wait();
        };
    };
    const std::string many = std::to_string(kMany);
    ways.push_back({side + ", there and back " + many + " times", source, target, times(there, 1),
                    times(back, 1), 1, kMany});
    ways.push_back(
        {side + ", " + many + " in a row", source, target, times(there, kMany), times(back, kMany), kMany});
    ways.push_back({side + ", one after a pause", source, target, times(there, 1), times(back, 1)});
}

double seconds(const std::function<void()>& move) {
    const std::uint64_t begin = now_ns();
    move();
    return static_cast<double>(now_ns() - begin) * 1e-9;
}

void measure_one(Way& way, std::size_t bytes, bool compares, bool warms_up) {
    double there = 0, back = 0;
    for (int turn = 0; turn < way.turns; ++turn) {
        there += seconds(way.there);
        back += seconds(way.back);
    }
    if (compares && std::memcmp(way.source, way.target, bytes) != 0)
        throw std::runtime_error(way.name + ": other bytes came back than were sent");
    if (warms_up) return;
    const double gigabytes =
        static_cast<double>(bytes) * static_cast<double>(way.copies) * static_cast<double>(way.turns) * 1e-9;
    way.there_gbs.push_back(gigabytes / there);
    way.back_gbs.push_back(gigabytes / back);
}

int measure(const std::string& driver, int rounds, std::size_t bytes, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    Stream stream = daemon.client().stream();
    const Buffer ours = daemon.client().alloc(bytes);
    const PinnedMemory from = daemon.client().alloc_pinned(bytes), to = daemon.client().alloc_pinned(bytes);
    std::vector<std::byte> source(bytes), target(bytes);

    std::vector<Way> ways;  // ours, then plain CUDA's, in the same order
    add_pinned(
        ways, "ringlaunch, pinned memory", from.data(), to.data(),
        [&] { must(stream.copy(ours, 0, from, 0, bytes), "copying to the device"); },
        [&] { must(stream.copy(to, 0, ours, 0, bytes), "copying to the host"); },
        [&] { must(stream.synchronize(), "waiting for a copy"); });
    ways.push_back({"ringlaunch, ordinary memory", source.data(), target.data(),
                    [&] {
                        must(stream.copy_to_device(ours, source.data(), bytes), "copying to the device");
                        must(stream.synchronize(), "copying to the device");
                    },
                    [&] { must(stream.copy_to_host(target.data(), ours, bytes), "copying to the host"); }});
    const std::size_t beside = ways.size();

    std::unique_ptr<PlainCuda> cuda;
    std::unique_ptr<PeerMemory> theirs;
    std::unique_ptr<PeerHostMemory> locked_from, locked_to;
    if (gpu) {
        const PeerApi& api = peer_api();
        cuda = std::make_unique<PlainCuda>();
        theirs = std::make_unique<PeerMemory>(bytes);
        locked_from = std::make_unique<PeerHostMemory>(bytes);
        locked_to = std::make_unique<PeerHostMemory>(bytes);
        add_pinned(
            ways, "cuMemcpyAsync, cuMemHostAlloc", static_cast<std::byte*>(locked_from->data()),
            static_cast<std::byte*>(locked_to->data()),
            [&] {
                check_peer(
                    api.cuMemcpyHtoDAsync_(theirs->address(), locked_from->data(), bytes, cuda->stream()),
                    "copying to the device");
            },
            [&] {
                check_peer(
                    api.cuMemcpyDtoHAsync_(locked_to->data(), theirs->address(), bytes, cuda->stream()),
                    "copying to the host");
            },
            [&] { cuda->synchronize(); });
        ways.push_back({"cuMemcpy, ordinary memory", source.data(), target.data(),
                        [&] {
                            check_peer(api.cuMemcpyHtoD_(theirs->address(), source.data(), bytes),
                                       "copying to the device");
                            // Such a copy may return before its last bytes have arrived.
                            check_peer(api.cuStreamSynchronize_(nullptr), "copying to the device");
                        },
                        [&] {
                            check_peer(api.cuMemcpyDtoH_(target.data(), theirs->address(), bytes),
                                       "copying to the host");
                        }});
    }

    std::mt19937_64 random(1);
    for (int round = -1; round < rounds; ++round) {  // the first warms up
        for (Way& way : ways) {
            for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
                const std::uint64_t word = random();
                std::memcpy(way.source + i, &word, 8);
            }
            std::memset(way.target, 0, bytes);
            measure_one(way, bytes, driver != "null", round < 0);
        }
    }

    Report report("Copies of " + std::to_string(bytes >> 20) + " MiB between the host and " +
                      daemon.client().daemon().device_name + " (" + driver + " driver)",
                  {"to_device_GB/s", "to_host_GB/s", "to_device/plain", "to_host/plain"});
    for (std::size_t i = 0; i < ways.size(); ++i) {
        const double there = quantile(ways[i].there_gbs, 0.5), back = quantile(ways[i].back_gbs, 0.5);
        const double none = std::nan("");
        Way* const plain = gpu ? &ways[i % beside + beside] : nullptr;
        report.add(ways[i].name, {there, back, plain ? there / quantile(plain->there_gbs, 0.5) : none,
                                  plain ? back / quantile(plain->back_gbs, 0.5) : none});
    }
    report.note(
        "medians, each until the bytes have arrived, after the host has written all of them for some");
    report.note(std::string("50 ms (so that the daemon sleeps); ") +
                (driver == "null" ? "nothing was compared" : "all bytes were compared in every round"));
    if (!gpu) {
        report.note("without plain CUDA beside it: this is not the cuda driver");
    } else {
        const char* const hows[] = {"each waited for", "in a row", "one after a pause"};
        for (std::size_t i = 0; i < std::size(hows); ++i) {
            const std::string how = hows[i];
            report.target("to the device, " + how + ", x cuMemcpyAsync",
                          quantile(ways[i].there_gbs, 0.5) / quantile(ways[i + beside].there_gbs, 0.5), 0.95,
                          false);
            report.target("to the host, " + how + ", x cuMemcpyAsync",
                          quantile(ways[i].back_gbs, 0.5) / quantile(ways[i + beside].back_gbs, 0.5), 0.95,
                          false);
        }
    }
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Copies between host and GPU through the daemon, beside cuMemcpyAsync in the same process.");
    std::string driver = "cuda", csv;
    int rounds = 10;
    std::size_t mib = 64;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--mib", mib, "MiB of a copy")->check(CLI::Range(1, 400))->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, rounds, mib << 20, csv); });
}
