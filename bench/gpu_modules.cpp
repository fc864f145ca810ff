// What a busy stream notices when another client loads modules and registers pinned memory: each of its
// launches is waited for, and the worst one is printed beside the quiet case.
#include <CLI/CLI.hpp>
#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr std::uint64_t kMark = 0x6b72616d206e6c72;  // bench/kernels.cu's

std::vector<std::byte> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    return {bytes, bytes + text.size()};
}

// The image with another mark: to the daemon a module that it has not seen.
std::vector<std::byte> marked(std::vector<std::byte> image, std::uint64_t mark) {
    int places = 0;
    for (std::size_t i = 0; i + 8 <= image.size(); ++i) {
        if (std::memcmp(image.data() + i, &kMark, 8) != 0) continue;
        std::memcpy(image.data() + i, &mark, 8);
        ++places;
    }
    if (places == 0) throw std::runtime_error("the benchmarks' image has no mark to change");
    return image;
}

// Launches on a stream of its own and waits for each, until it is told that enough is enough.
class BusyStream {
  public:
    explicit BusyStream(const PrivateDaemon& daemon)
        : client_(daemon.connect()),
          mix_(client_.load_file(daemon.kernels()).kernel("mix")),
          stream_(client_.stream()),
          words_(client_.alloc(64)) {
        must(stream_.fill(words_, 0, 4, 0, 64), "clearing the words");
        run_until([n = 0]() mutable { return ++n > 1000; });  // warms up
    }
    // Microseconds of each launch until it was seen completed.
    template <class Over>
    std::vector<double> run_until(Over over) {
        std::vector<double> us;
        us.reserve(1 << 20);
        while (!over()) {
            const std::uint64_t begin = now_ns();
            must(stream_.launch(mix_, {1}, {1}, words_, 3u, 7u, 0, 1.0f), "launching");
            must(stream_.synchronize(), "waiting");
            us.push_back(static_cast<double>(now_ns() - begin) * 1e-3);
            expected_ = expected_ * 3 + 8;
        }
        return us;
    }
    void check() {
        unsigned found = 0;
        must(stream_.copy_to_host(&found, words_, sizeof found), "reading the word");
        if (found != expected_)
            throw std::runtime_error("the busy stream's word is not what its launches give");
    }

  private:
    Client client_;
    Kernel mix_;
    Stream stream_;
    Buffer words_;
    unsigned expected_ = 0;
};

// What the busy stream's launches take while `work` runs on another thread, and how long that takes.
struct Beside {
    std::vector<double> us;
    double seconds = 0;
};
template <class Work>
Beside beside(BusyStream& busy, Work work) {
    std::atomic<bool> over{false};
    std::exception_ptr failure;
    Beside found;
    std::thread worker([&] {
        const std::uint64_t begin = now_ns();
        try {
            work();
        } catch (...) {
            failure = std::current_exception();
        }
        found.seconds = static_cast<double>(now_ns() - begin) * 1e-9;
        over.store(true, std::memory_order_relaxed);  // relaxed: join() orders the rest
    });
    found.us = busy.run_until([&] { return over.load(std::memory_order_relaxed); });  // relaxed: as above
    worker.join();
    if (failure) std::rethrow_exception(failure);
    return found;
}

int measure(const std::string& driver, int modules, std::size_t mib, double quiet_s, const std::string& csv) {
    if (const std::string why = driver == "cuda" ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    BusyStream busy(daemon);
    const std::vector<std::byte> image = read_file(daemon.kernels());

    Beside quiet = beside(busy, [&] { std::this_thread::sleep_for(std::chrono::duration<double>(quiet_s)); });
    Client other = daemon.connect();
    std::vector<Module> loaded;
    Beside loading = beside(busy, [&] {
        for (int i = 0; i < modules; ++i)
            loaded.push_back(other.load(marked(image, static_cast<std::uint64_t>(i) + 1), "module"));
    });
    if (driver != "null") {  // each is the one it was loaded as
        Stream stream = other.stream();
        const Buffer out = other.alloc(8);
        for (std::size_t i = 0; i < loaded.size(); ++i) {
            std::uint64_t found = 0;
            must(stream.launch(loaded[i].kernel("marked"), {1}, {1}, out), "asking a module for its mark");
            must(stream.copy_to_host(&found, out, sizeof found), "asking a module for its mark");
            if (found != i + 1) throw std::runtime_error("a module is not the one that was loaded");
        }
    }
    loaded.clear();
    Client third = daemon.connect();
    PinnedMemory memory;
    Beside registering = beside(busy, [&] { memory = third.alloc_pinned(mib << 20); });
    if (driver != "null") busy.check();

    Report report("A busy stream beside a client that loads modules and registers memory, " +
                      daemon.client().daemon().device_name + " (" + driver + " driver)",
                  {"launches", "p50_us", "p99_us", "worst_us", "worst/quiet", "took_ms"});
    const double worst = quantile(quiet.us, 1);
    const auto add = [&](const std::string& name, Beside& found) {
        report.add(name,
                   {static_cast<double>(found.us.size()), quantile(found.us, 0.5), quantile(found.us, 0.99),
                    quantile(found.us, 1), quantile(found.us, 1) / worst, found.seconds * 1e3});
    };
    add("ringlaunch, quiet", quiet);
    add("ringlaunch, while " + std::to_string(modules) + " modules are loaded", loading);
    add("ringlaunch, while " + std::to_string(mib) + " MiB are registered", registering);
    report.note(
        "each launch of the busy stream is waited for; took_ms: the loading or registering as a whole");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("The worst delay of a launch while another client loads modules and registers memory.");
    std::string driver = "cuda", csv;
    int modules = 100;
    std::size_t mib = 1024;
    double quiet_s = 2;
    app.add_option("--driver", driver, "The daemon's driver")->capture_default_str();
    app.add_option("--modules", modules, "Modules, all different")
        ->check(CLI::Range(1, 120))
        ->capture_default_str();
    app.add_option("--mib", mib, "MiB of pinned memory")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--quiet-seconds", quiet_s, "Length of the quiet case")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, modules, mib, quiet_s, csv); });
}
