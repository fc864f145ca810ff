// Copies between host and GPU through the daemon, beside cuMemcpyAsync in the same process: pinned memory
// beside page-locked memory, and ordinary memory on both sides.
#include <CLI/CLI.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// One way to move bytes there and back, each ending when they have arrived.
constexpr int kInARow = 8;

struct Way {
    std::string name;
    std::byte* source;
    std::byte* target;
    std::function<void()> there, back;
    int beside;      // the way that it is compared with
    int copies = 1;  // of all bytes, waited for together
    std::vector<double> there_gbs = {}, back_gbs = {};
};

double gbs(std::size_t bytes, const std::function<void()>& move) {
    const std::uint64_t begin = now_ns();
    move();
    return static_cast<double>(bytes) / static_cast<double>(now_ns() - begin);
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

    std::vector<Way> ways;
    ways.push_back({"ringlaunch, pinned memory", from.data(), to.data(),
                    [&] {
                        must(stream.copy(ours, 0, from, 0, bytes), "copying to the device");
                        must(stream.synchronize(), "copying to the device");
                    },
                    [&] {
                        must(stream.copy(to, 0, ours, 0, bytes), "copying to the host");
                        must(stream.synchronize(), "copying to the host");
                    },
                    3});
    // What it takes to wake a daemon that slept, and to be told, is shared by several.
    ways.push_back({"ringlaunch, pinned memory, " + std::to_string(kInARow) + " in a row", from.data(),
                    to.data(),
                    [&] {
                        for (int i = 0; i < kInARow; ++i)
                            must(stream.copy(ours, 0, from, 0, bytes), "copying to the device");
                        must(stream.synchronize(), "copying to the device");
                    },
                    [&] {
                        for (int i = 0; i < kInARow; ++i)
                            must(stream.copy(to, 0, ours, 0, bytes), "copying to the host");
                        must(stream.synchronize(), "copying to the host");
                    },
                    4, kInARow});
    ways.push_back({"ringlaunch, ordinary memory", source.data(), target.data(),
                    [&] {
                        must(stream.copy_to_device(ours, source.data(), bytes), "copying to the device");
                        must(stream.synchronize(), "copying to the device");
                    },
                    [&] { must(stream.copy_to_host(target.data(), ours, bytes), "copying to the host"); },
                    5});

    std::unique_ptr<PlainCuda> cuda;
    std::unique_ptr<PeerMemory> theirs;
    std::unique_ptr<PeerHostMemory> locked_from, locked_to;
    if (gpu) {
        const PeerApi& api = peer_api();
        cuda = std::make_unique<PlainCuda>();
        theirs = std::make_unique<PeerMemory>(bytes);
        locked_from = std::make_unique<PeerHostMemory>(bytes);
        locked_to = std::make_unique<PeerHostMemory>(bytes);
        for (const int copies : {1, kInARow})
            ways.push_back({"cuMemcpyAsync, cuMemHostAlloc" +
                                (copies == 1 ? std::string() : ", " + std::to_string(copies) + " in a row"),
                            static_cast<std::byte*>(locked_from->data()),
                            static_cast<std::byte*>(locked_to->data()),
                            [&, copies] {
                                for (int i = 0; i < copies; ++i)
                                    check_peer(api.cuMemcpyHtoDAsync_(theirs->address(), locked_from->data(),
                                                                      bytes, cuda->stream()),
                                               "copying to the device");
                                cuda->synchronize();
                            },
                            [&, copies] {
                                for (int i = 0; i < copies; ++i)
                                    check_peer(api.cuMemcpyDtoHAsync_(locked_to->data(), theirs->address(),
                                                                      bytes, cuda->stream()),
                                               "copying to the host");
                                cuda->synchronize();
                            },
                            copies == 1 ? 3 : 4, copies});
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
                        },
                        5});
    }

    std::mt19937_64 random(1);
    for (int round = -1; round < rounds; ++round) {  // the first warms up
        for (Way& way : ways) {
            for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
                const std::uint64_t word = random();
                std::memcpy(way.source + i, &word, 8);
            }
            std::memset(way.target, 0, bytes);
            const std::size_t moved = bytes * static_cast<std::size_t>(way.copies);
            const double there = gbs(moved, way.there), back = gbs(moved, way.back);
            if (driver != "null" && std::memcmp(way.source, way.target, bytes) != 0)
                throw std::runtime_error(way.name + ": other bytes came back than were sent");
            if (round < 0) continue;
            way.there_gbs.push_back(there);
            way.back_gbs.push_back(back);
        }
    }

    Report report("Copies of " + std::to_string(bytes >> 20) + " MiB between the host and " +
                      daemon.client().daemon().device_name + " (" + driver + " driver)",
                  {"to_device_GB/s", "to_host_GB/s", "to_device/plain", "to_host/plain"});
    for (Way& way : ways) {
        const double there = quantile(way.there_gbs, 0.5), back = quantile(way.back_gbs, 0.5);
        const double none = std::nan("");
        Way* beside = gpu ? &ways[static_cast<std::size_t>(way.beside)] : nullptr;
        report.add(way.name, {there, back, beside ? there / quantile(beside->there_gbs, 0.5) : none,
                              beside ? back / quantile(beside->back_gbs, 0.5) : none});
    }
    report.note("medians, until the bytes have arrived; all bytes were compared in every round");
    if (!gpu) report.note("without plain CUDA beside it: this is not the cuda driver");
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
