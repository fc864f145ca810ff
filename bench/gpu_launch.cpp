// A launch on a GPU, through the daemon and plainly with cuLaunchKernel, in one process: how long until it is
// seen done on an idle stream, and how many a second one stream takes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr unsigned kFactor = 1664525;
constexpr int kWords = 8;

// The numbers of launch `i`: all five parameters change, and the words show each launch and its place.
struct Mix {
    unsigned a, b;
    int at;
    float more;
    explicit Mix(std::uint64_t i)
        : a(kFactor + 2 * static_cast<unsigned>(i % 1000)),
          b(static_cast<unsigned>(i)),
          at(static_cast<int>(i % kWords)),
          more(static_cast<float>(i % 100)) {}
};

// What the two arrays of words hold after `launches`.
struct Expected {
    unsigned words[2][kWords] = {};
    void add(std::uint64_t i) {
        const Mix mix(i);
        unsigned& word = words[i % 2][mix.at];
        word = word * mix.a + mix.b + static_cast<unsigned>(mix.more);
    }
};

// Bounded, so that a kernel that wrote elsewhere is an error and not a hang.
void await_flag(const void* flag, unsigned value) {
    const std::uint64_t end = now_ns() + 10'000'000'000;
    while (*static_cast<const volatile unsigned*>(flag) != value)
        if (now_ns() > end) throw std::runtime_error("a kernel's flag was not seen within 10 s");
}

class Ours {
  public:
    explicit Ours(const std::string& driver)
        : daemon_(driver),
          module_(daemon_.client().load_file(daemon_.kernels())),
          mix_(module_.kernel("mix")),
          raise_(module_.kernel("raise_flag")),
          stream_(daemon_.client().stream()),
          flag_(daemon_.client().alloc_pinned(sizeof(unsigned))) {
        for (Buffer& words : words_) {
            words = daemon_.client().alloc(sizeof(unsigned) * kWords);
            must(stream_.fill(words, 0, 4, 0, words.size()), "clearing the words");
        }
        wait();
    }
    void launch(std::uint64_t i) {
        const Mix mix(i);
        must(stream_.launch(mix_, {1}, {1}, words_[i % 2], mix.a, mix.b, mix.at, mix.more), "launching");
    }
    void wait() { must(stream_.synchronize(), "waiting"); }
    void raise(unsigned value) { must(stream_.launch(raise_, {1}, {1}, flag_, value), "raising the flag"); }
    void await(unsigned value) const { await_flag(flag_.data(), value); }
    void read(unsigned (&words)[2][kWords]) {
        for (int k : {0, 1})
            must(stream_.copy_to_host(words[k], words_[k], sizeof words[k]), "reading the words");
    }
    std::string device() { return daemon_.client().daemon().device_name; }

  private:
    PrivateDaemon daemon_;
    Module module_;
    Kernel mix_, raise_;
    Stream stream_;
    PinnedMemory flag_;
    Buffer words_[2];
};

class Plain {
  public:
    void launch(std::uint64_t i) {
        Mix mix(i);
        CUdeviceptr words = words_[i % 2].address();
        void* params[] = {&words, &mix.a, &mix.b, &mix.at, &mix.more};
        cuda_.launch(mix_, 1, params);
    }
    void wait() { cuda_.synchronize(); }
    void raise(unsigned value) {
        CUdeviceptr flag = flag_.address();
        void* params[] = {&flag, &value};
        cuda_.launch(raise_, 1, params);
    }
    void await(unsigned value) const { await_flag(flag_.data(), value); }
    void read(unsigned (&words)[2][kWords]) {
        for (int k : {0, 1})
            check_peer(peer_api().cuMemcpyDtoH_(words[k], words_[k].address(), sizeof words[k]),
                       "reading the words");
    }

  private:
    PlainCuda cuda_;
    CUfunction mix_ = cuda_.kernel("mix"), raise_ = cuda_.kernel("raise_flag");
    PeerMemory words_[2]{PeerMemory(sizeof(unsigned) * kWords), PeerMemory(sizeof(unsigned) * kWords)};
    PeerHostMemory flag_{4096};
};

template <class Side>
void check(Side& side, const Expected& expected, const char* who) {
    unsigned found[2][kWords];
    side.read(found);
    if (std::memcmp(found, expected.words, sizeof found) != 0)
        throw std::runtime_error(std::string(who) + ": the words are not what the launches give");
}

// Microseconds from a launch on an idle stream until wait(i) returns; the first tenth warms up.
template <class Launch, class Wait>
void idle_us(int launches, std::vector<double>& to, Launch launch, Wait wait) {
    for (int i = -launches / 10; i < launches; ++i) {
        for (const std::uint64_t until = now_ns() + 2000; now_ns() < until;) {
        }
        const std::uint64_t begin = now_ns();
        launch();
        wait();
        if (i >= 0) to.push_back(static_cast<double>(now_ns() - begin) * 1e-3);
    }
}

// Nanoseconds a launch, all of them completed.
template <class Side>
double sustained_ns(Side& side, int launches, std::uint64_t& next, Expected& expected) {
    for (int i = 0; i < launches; ++i) expected.add(next + static_cast<std::uint64_t>(i));
    const std::uint64_t begin = now_ns();
    for (int i = 0; i < launches; ++i) side.launch(next++);
    side.wait();
    return static_cast<double>(now_ns() - begin) / launches;
}

int measure(const std::string& driver, int rounds, int idle, int many, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    Ours ours(driver);
    std::unique_ptr<Plain> plain = gpu ? std::make_unique<Plain>() : nullptr;
    Expected our_words, plain_words;
    std::uint64_t our_next = 0, plain_next = 0;
    unsigned flag = 0, our_flag = 0;
    std::vector<double> to_our_flag, flag_ratio, to_flag, to_sync, to_completion, ours_ns, plain_ns, ratio;
    for (int round = 0; round < rounds; ++round) {
        idle_us(
            idle, to_completion,
            [&] {
                our_words.add(our_next);
                ours.launch(our_next++);
            },
            [&] { ours.wait(); });
        std::vector<double> our_round;
        if (driver != "null")
            idle_us(
                idle, our_round, [&] { ours.raise(++our_flag); }, [&] { ours.await(our_flag); });
        to_our_flag.insert(to_our_flag.end(), our_round.begin(), our_round.end());
        ours_ns.push_back(sustained_ns(ours, many, our_next, our_words));
        if (!plain) continue;
        std::vector<double> plain_round;
        idle_us(
            idle, plain_round, [&] { plain->raise(++flag); }, [&] { plain->await(flag); });
        to_flag.insert(to_flag.end(), plain_round.begin(), plain_round.end());
        flag_ratio.push_back(quantile(our_round, 0.5) / quantile(plain_round, 0.5));
        idle_us(
            idle, to_sync,
            [&] {
                plain_words.add(plain_next);
                plain->launch(plain_next++);
            },
            [&] { plain->wait(); });
        plain_ns.push_back(sustained_ns(*plain, many, plain_next, plain_words));
        ratio.push_back(ours_ns.back() / plain_ns.back());
    }
    if (driver != "null") check(ours, our_words, "ringlaunch");
    if (plain) check(*plain, plain_words, "cuLaunchKernel");

    Report report("A launch of five changing parameters on " + ours.device() + " (" + driver + " driver)",
                  {"p50_us", "p99_us", "x_plain_p50", "launches/s", "x_plain_rate"});
    const double none = std::nan(""), base = quantile(to_flag, 0.5);
    const auto latency = [&](const std::string& name, std::vector<double>& us) {
        if (!us.empty())
            report.add(name, {quantile(us, 0.5), quantile(us, 0.99), quantile(us, 0.5) / base, none, none});
    };
    latency("idle: ringlaunch, the kernel's flag seen", to_our_flag);
    latency("idle: ringlaunch, completion seen", to_completion);
    latency("idle: cuLaunchKernel, the kernel's flag seen", to_flag);
    latency("idle: cuLaunchKernel, cuStreamSynchronize", to_sync);
    const double ours_p50 = quantile(ours_ns, 0.5), plain_p50 = quantile(plain_ns, 0.5);
    report.add("sustained: ringlaunch",
               {ours_p50 * 1e-3, none, none, 1e9 / ours_p50, 1 / quantile(ratio, 0.5)});
    if (plain) report.add("sustained: cuLaunchKernel", {plain_p50 * 1e-3, none, none, 1e9 / plain_p50, 1});
    report.note(
        "idle: x_plain_p50 is against cuLaunchKernel and the kernel's own flag in page-locked memory; "
        "ringlaunch's flag stands in");
    report.note(
        "the client's pinned memory; completion is the position that the GPU writes behind the kernel. "
        "sustained: p50_us is the");
    report.note("time a launch, of the rounds' medians; the words that all launches changed were compared");
    if (plain) {
        char text[120];
        std::snprintf(text, sizeof text, "the kernel's flag, each round's medians: %.3f to %.3f of plain",
                      quantile(flag_ratio, 0), quantile(flag_ratio, 1));
        report.note(text);
    }
    if (!gpu) report.note("without plain CUDA beside it: this is not the cuda driver");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("A launch on a GPU through the daemon, beside cuLaunchKernel in the same process.");
    std::string driver = "cuda", csv;
    int rounds = 5, idle = 2000, many = 200'000;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--idle", idle, "Launches on an idle stream, a round")->capture_default_str();
    app.add_option("--many", many, "Launches without a pause, a round")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, rounds, idle, many, csv); });
}
