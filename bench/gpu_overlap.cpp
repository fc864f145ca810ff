// Whether a copy and a kernel run at the same time: each alone, then both on streams of their own, through
// the daemon and with plain CUDA in the same process.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr std::size_t kBytes = std::size_t{64} << 20;
constexpr int kCopies = 8;
constexpr unsigned kBlocks = 132, kThreads = 256;  // each multiprocessor of an H200 has one

struct Work {
    std::string name;
    std::function<void()> kernel, there, back;
    std::function<void()> wait;  // for all of it
    std::vector<double> kernel_ms = {}, there_ms = {}, back_ms = {}, both_there_ms = {}, both_back_ms = {};

    // From the first call until all is done.
    void time(std::vector<double>& ms, std::initializer_list<const std::function<void()>*> calls) {
        const std::uint64_t begin = now_ns();
        for (const auto* call : calls) (*call)();
        wait();
        ms.push_back(static_cast<double>(now_ns() - begin) * 1e-6);
    }
    void round() {
        time(kernel_ms, {&kernel});
        time(there_ms, {&there});
        time(back_ms, {&back});
        time(both_there_ms, {&kernel, &there});
        time(both_back_ms, {&kernel, &back});
    }
    void forget() {
        for (auto* each : {&kernel_ms, &there_ms, &back_ms, &both_there_ms, &both_back_ms}) each->clear();
    }
};

int measure(const std::string& driver, int rounds, std::uint64_t kernel_ns, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    Client& client = daemon.client();
    const Kernel busy = client.load_file(daemon.kernels()).kernel("busy");
    Stream launches = client.stream(), copies = client.stream();
    const Buffer ours = client.alloc(kBytes);
    const PinnedMemory from = client.alloc_pinned(kBytes), to = client.alloc_pinned(kBytes);
    auto* const words = reinterpret_cast<std::uint32_t*>(from.data());
    std::iota(words, words + kBytes / 4, 1u);
    std::memset(to.data(), 0, kBytes);
    // One on the CPU: its blocks run one after another.
    const unsigned blocks = gpu ? kBlocks : 1, threads = gpu ? kThreads : 1;

    std::vector<Work> works;
    works.push_back(
        {"ringlaunch",
         [&] {
             must(launches.launch(busy, {blocks}, {threads}, static_cast<unsigned long long>(kernel_ns)),
                  "launching");
         },
         [&] {
             for (int i = 0; i < kCopies; ++i)
                 must(copies.copy(ours, 0, from, 0, kBytes), "copying to the device");
         },
         [&] {
             for (int i = 0; i < kCopies; ++i)
                 must(copies.copy(to, 0, ours, 0, kBytes), "copying to the host");
         },
         [&] {
             must(launches.synchronize(), "waiting for the kernel");
             must(copies.synchronize(), "waiting for the copies");
         }});
    std::unique_ptr<PlainCuda> cuda;
    std::unique_ptr<PeerMemory> theirs;
    std::unique_ptr<PeerHostMemory> locked;
    CUstream second = nullptr;
    if (gpu) {
        const PeerApi& api = peer_api();
        cuda = std::make_unique<PlainCuda>();
        theirs = std::make_unique<PeerMemory>(kBytes);
        locked = std::make_unique<PeerHostMemory>(kBytes);
        second = cuda->another_stream();
        const CUfunction kernel = cuda->kernel("busy");
        works.push_back(
            {"plain CUDA",
             [&, kernel] {
                 unsigned long long ns = kernel_ns;
                 void* params[] = {&ns};
                 cuda->launch(kernel, kBlocks, kThreads, params);
             },
             [&] {
                 for (int i = 0; i < kCopies; ++i)
                     check_peer(api.cuMemcpyHtoDAsync_(theirs->address(), locked->data(), kBytes, second),
                                "copying to the device");
             },
             [&] {
                 for (int i = 0; i < kCopies; ++i)
                     check_peer(api.cuMemcpyDtoHAsync_(locked->data(), theirs->address(), kBytes, second),
                                "copying to the host");
             },
             [&] {
                 cuda->synchronize();
                 check_peer(api.cuStreamSynchronize_(second), "waiting for the copies");
             }});
    }
    for (int round = -1; round < rounds; ++round)  // the first warms up
        for (Work& work : works) {
            work.round();
            if (round < 0) work.forget();
        }
    if (driver != "null" && std::memcmp(from.data(), to.data(), kBytes) != 0)
        throw std::runtime_error("other bytes came back than were sent");

    Report report("A kernel of " + std::to_string(kernel_ns / 1000) + " us and " + std::to_string(kCopies) +
                      " copies of " + std::to_string(kBytes >> 20) + " MiB on " +
                      client.daemon().device_name + " (" + driver + " driver)",
                  {"to_device_ms", "to_host_ms"});
    for (Work& work : works) {
        const double kernel = quantile(work.kernel_ms, 0.5), there = quantile(work.there_ms, 0.5),
                     back = quantile(work.back_ms, 0.5), both_there = quantile(work.both_there_ms, 0.5),
                     both_back = quantile(work.both_back_ms, 0.5);
        report.add(work.name + ", the kernel alone", {kernel, kernel});
        report.add(work.name + ", the copies alone", {there, back});
        report.add(work.name + ", both on two streams", {both_there, both_back});
        if (!gpu || &work != &works.front()) continue;
        report.target("both, x the longer of them, to the device", both_there / std::max(kernel, there), 1.1);
        report.target("both, x the longer of them, to the host", both_back / std::max(kernel, back), 1.1);
    }
    report.note("medians, until all is done; one after the other they would take the sum");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Whether a copy and a kernel run at the same time, through the daemon and with plain CUDA.");
    std::string driver = "cuda", csv;
    int rounds = 20;
    std::uint64_t kernel_us = 10'000;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--kernel-us", kernel_us, "How long the kernel takes")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, rounds, kernel_us * 1000, csv); });
}
