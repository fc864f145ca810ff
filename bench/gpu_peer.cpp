// Two GPUs of one daemon: copies from one to the other beside cuMemcpyPeerAsync in the same process, what
// handing work over costs, and both launching at once beside one alone.
#include <CLI/CLI.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr int kInARow = 16;

// A program of its own device in the daemon.
struct Side {
    explicit Side(Client connected, std::size_t bytes)
        : client(std::move(connected)),
          stream(client.stream()),
          checks(client.stream()),
          memory(client.alloc(bytes)) {
        Module module = client.load_file(kernel_image(client.daemon().architecture));
        step = module.kernel("step");
        word = client.alloc(4);
    }
    Client client;
    Stream stream;  // what is measured
    Stream checks;  // what sets it up and compares: its longer waits teach the other nothing
    Buffer memory;
    Kernel step;
    Buffer word;
};

// Plain CUDA: contexts on both devices in this process, as an ordinary program has them.
struct PlainPair {
    explicit PlainPair(std::size_t bytes) {
        const PeerApi& api = peer_api();
        for (int i = 0; i < 2; ++i) {
            CUdevice device = 0;
            check_peer(api.cuDeviceGet_(&device, i), "opening a device");
            check_peer(api.cuDevicePrimaryCtxRetain_(&contexts[i], device), "making a context");
            check_peer(api.cuCtxSetCurrent_(contexts[i]), "entering a context");
            check_peer(api.cuMemAlloc_(&memory[i], bytes), "allocating device memory");
            check_peer(api.cuStreamCreate_(&streams[i], CU_STREAM_NON_BLOCKING), "making a stream");
        }
        for (int i = 0; i < 2; ++i) {
            check_peer(api.cuCtxSetCurrent_(contexts[i]), "entering a context");
            // Refused where the devices cannot reach each other: then the driver copies through the host.
            enabled = api.cuCtxEnablePeerAccess_(contexts[1 - i], 0) == CUDA_SUCCESS && enabled;
        }
    }
    void copy(int to, int from, std::size_t bytes, int times) {
        const PeerApi& api = peer_api();
        check_peer(api.cuCtxSetCurrent_(contexts[to]), "entering a context");
        for (int i = 0; i < times; ++i)
            check_peer(api.cuMemcpyPeerAsync_(memory[to], contexts[to], memory[from], contexts[from], bytes,
                                              streams[to]),
                       "copying between devices");
        check_peer(api.cuStreamSynchronize_(streams[to]), "copying between devices");
    }
    CUcontext contexts[2] = {};
    CUdeviceptr memory[2] = {};
    CUstream streams[2] = {};
    bool enabled = true;
};

double gbs(std::size_t bytes, const std::function<void()>& move) {
    const std::uint64_t begin = now_ns();
    move();
    return static_cast<double>(bytes) / static_cast<double>(now_ns() - begin);
}

// Order-sensitive launches a second; the result is compared.
double launches(Side& side, unsigned count) {
    must(side.stream.fill(side.word, 1, 4, 0, 4), "filling");
    must(side.stream.synchronize(), "waiting");
    const std::uint64_t begin = now_ns();
    for (unsigned i = 0; i < count; ++i)
        must(side.stream.launch(side.step, {1}, {1}, side.word, 1664525u, i), "launching");
    must(side.stream.synchronize(), "waiting");
    const double rate = count * 1e9 / static_cast<double>(now_ns() - begin);
    unsigned expected = 1, found = 0;
    for (unsigned i = 0; i < count; ++i) expected = expected * 1664525u + i;
    must(side.stream.copy_to_host(&found, side.word, 4), "reading the result");
    if (side.client.daemon().driver != "null" && found != expected)
        throw std::runtime_error("a device's launches gave another result than their order does");
    return rate;
}

int measure(const std::string& socket, int rounds, std::size_t bytes, unsigned count,
            const std::string& csv) {
    const bool gpu = socket.empty();
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    int devices = 2;
    if (gpu) check_peer(peer_api().cuDeviceGetCount_(&devices), "counting the devices");
    if (devices < 2) {
        std::printf("one GPU here, nothing measured: this needs two\n");
        return kSkipped;
    }
    std::unique_ptr<PrivateDaemon> daemon;
    if (gpu) daemon = std::make_unique<PrivateDaemon>("cuda");
    const auto connect = [&](int device) {
        ConnectOptions options;
        options.socket = gpu ? daemon->socket() : socket;
        options.device = device;
        return Client::connect(options);
    };
    Side sides[2] = {Side(connect(0), bytes), Side(connect(1), bytes)};
    std::unique_ptr<PlainPair> plain;
    if (gpu) plain = std::make_unique<PlainPair>(bytes);

    Report report("Two devices of one daemon: " + sides[0].client.daemon().device_name + " and " +
                      sides[1].client.daemon().device_name,
                  {"0_to_1", "1_to_0", "0_to_1/plain", "1_to_0/plain"});
    struct Way {
        std::string name;
        int times;   // copies before the wait
        int beside;  // the way that it is compared with
        std::function<void(int to, int from, int times)> move;
        std::vector<double> rates[2] = {};  // by the device that is copied to
    };
    const auto ours = [&](int by, int to, int from, int times) {
        for (int i = 0; i < times; ++i)
            must(sides[by].stream.copy(sides[to].memory, 0, sides[from].memory, 0, bytes),
                 "copying between devices");
        must(sides[by].stream.synchronize(), "copying between devices");
    };
    std::vector<Way> ways;
    for (const int times : {1, kInARow}) {
        const std::string how = times == 1 ? "copy GB/s, " : std::to_string(times) + " in a row, ";
        const int beside = times == 1 ? 2 : 5;
        ways.push_back({how + "by the device copied to", times, beside,
                        [&](int to, int from, int n) { ours(to, to, from, n); }});
        ways.push_back({how + "by the device copied from", times, beside,
                        [&](int to, int from, int n) { ours(from, to, from, n); }});
        if (gpu)
            ways.push_back({how + "cuMemcpyPeerAsync", times, beside,
                            [&](int to, int from, int n) { plain->copy(to, from, bytes, n); }});
    }
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> source(bytes / 8), target(bytes / 8);
    for (int round = -1; round < rounds; ++round)  // the first warms up
        for (std::size_t i = 0; i < ways.size(); ++i)
            for (int to = 0; to < 2; ++to) {
                Way& way = ways[i];
                const bool compared = !gpu || i != static_cast<std::size_t>(way.beside);
                Side &here = sides[to], &there = sides[1 - to];
                if (compared) {
                    for (std::uint64_t& word : source) word = random();
                    must(there.checks.copy_to_device(there.memory, source.data(), bytes), "writing");
                    must(there.checks.synchronize(), "writing");
                    must(here.checks.fill(here.memory, 0, 4, 0, bytes), "clearing");
                    must(here.checks.synchronize(), "clearing");
                }
                const double rate = gbs(bytes * static_cast<std::size_t>(way.times),
                                        [&] { way.move(to, 1 - to, way.times); });
                if (compared) {
                    must(here.checks.copy_to_host(target.data(), here.memory, bytes), "reading");
                    if (source != target)
                        throw std::runtime_error(way.name + ": other bytes arrived than were sent");
                }
                if (round >= 0) way.rates[to].push_back(rate);
            }
    const double none = std::nan("");
    for (Way& way : ways) {
        const double there = quantile(way.rates[1], 0.5), back = quantile(way.rates[0], 0.5);
        Way* beside = gpu ? &ways[static_cast<std::size_t>(way.beside)] : nullptr;
        report.add(way.name, {there, back, beside ? there / quantile(beside->rates[1], 0.5) : none,
                              beside ? back / quantile(beside->rates[0], 0.5) : none});
    }

    // Handing over: a launch here, an event, a launch there that waits for it, and back.
    std::vector<double> turns;
    for (int round = 0; round < 200; ++round) {
        const std::uint64_t begin = now_ns();
        for (int side = 0; side < 2; ++side) {
            must(sides[side].stream.launch(sides[side].step, {1}, {1}, sides[side].word, 1u, 1u),
                 "launching");
            must(sides[1 - side].stream.wait(sides[side].stream.record()), "waiting for the other device");
        }
        must(sides[0].stream.synchronize(), "waiting");
        turns.push_back(static_cast<double>(now_ns() - begin) / 1000);
    }
    report.add("hand over and back, us p50", {quantile(turns, 0.5), none, none, none});

    std::vector<double> alone[2], both[2];
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 2; ++i) alone[i].push_back(launches(sides[i], count));
        std::thread other([&] { both[1].push_back(launches(sides[1], count)); });
        both[0].push_back(launches(sides[0], count));
        other.join();
    }
    report.add("launches/s, one device alone",
               {quantile(alone[0], 0.5), quantile(alone[1], 0.5), none, none});
    report.add("launches/s, both at once", {quantile(both[0], 0.5), quantile(both[1], 0.5),
                                            quantile(both[0], 0.5) / quantile(alone[0], 0.5),
                                            quantile(both[1], 0.5) / quantile(alone[1], 0.5)});
    report.note(
        "copies of " + std::to_string(bytes >> 20) +
        " MiB, medians, until the bytes have arrived; all bytes of ours were compared in every round");
    report.note(std::string("launches of an order-sensitive kernel, ") +
                (sides[0].client.daemon().driver == "null" ? "of which nothing runs" : "results compared") +
                "; columns: device 0, device 1, each beside alone");
    if (gpu && !plain->enabled)
        report.note("these devices cannot reach each other: CUDA copies through the host");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Copies between two GPUs through the daemon, beside cuMemcpyPeerAsync, and both busy at once.");
    std::string socket, csv;
    int rounds = 10;
    std::size_t mib = 64;
    unsigned count = 200'000;
    app.add_option(
        "--socket", socket,
        "A daemon that runs and serves devices 0 and 1, instead of one of its own with the cuda driver; "
        "tries the program, without peers");
    app.add_option("--rounds", rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--mib", mib, "MiB of a copy")->check(CLI::Range(1, 400))->capture_default_str();
    app.add_option("--launches", count, "Launches of a device")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(socket, rounds, mib << 20, count, csv); });
}
