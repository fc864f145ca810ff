// A graph of short kernels on a GPU, as one record of the ring and plainly with cuGraphLaunch in one process:
// how long a replay takes where many come, where one launch is updated before each, and on an idle stream;
// and the same kernels launched one by one.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr unsigned kFactor = 1664525;

// word = word * a + b, the place in the sequence giving b: order-sensitive.
unsigned addend(int place) {
    return static_cast<unsigned>(place) * 2654435761u + 1;
}

class Expected {
  public:
    explicit Expected(int nodes) {
        for (int i = 0; i < nodes; ++i) addends_.push_back(addend(i));
    }
    void update(int node, unsigned b) { addends_[static_cast<std::size_t>(node)] = b; }
    void run() {
        for (const unsigned b : addends_) word_ = word_ * kFactor + b;
    }
    unsigned word() const { return word_; }

  private:
    std::vector<unsigned> addends_;
    unsigned word_ = 0;
};

class Ours {
  public:
    Ours(const std::string& driver, int nodes)
        : daemon_(driver),
          module_(daemon_.client().load_file(daemon_.kernels())),
          step_(module_.kernel("step")),
          stream_(daemon_.client().stream()),
          word_(daemon_.client().alloc(sizeof(unsigned))),
          nodes_(nodes) {
        must(stream_.fill(word_, 0, 4, 0, 4), "clearing the word");
        must(stream_.begin_graph(), "recording");
        single();
        graph_ = stream_.end_graph();
        wait();
    }
    void single() {
        for (int i = 0; i < nodes_; ++i)
            must(stream_.launch(step_, {1}, {1}, word_, kFactor, addend(i)), "launching");
    }
    void update(int node, unsigned b) {
        must(graph_.update(static_cast<std::size_t>(node), word_, kFactor, b), "updating");
    }
    void replay() { must(graph_.launch(), "launching the graph"); }
    void wait() { must(stream_.synchronize(), "waiting"); }
    unsigned word() {
        unsigned value = 0;
        must(stream_.copy_to_host(&value, word_, 4), "reading the word");
        return value;
    }
    std::string device() { return daemon_.client().daemon().device_name; }

  private:
    PrivateDaemon daemon_;
    Module module_;
    Kernel step_;
    Stream stream_;
    Buffer word_;
    Graph graph_;
    int nodes_;
};

class Plain {
  public:
    explicit Plain(int nodes) : nodes_(nodes) {
        // A node's parameters are copied where it is made.
        std::vector<std::unique_ptr<Params>> params;
        std::vector<CUDA_KERNEL_NODE_PARAMS> kernels;
        for (int i = 0; i < nodes; ++i) {
            params.push_back(std::make_unique<Params>(*this, addend(i)));
            kernels.push_back(peer_node(step_, 1, params.back()->values));
        }
        graph_ = std::make_unique<PeerGraph>(kernels);
        wait();
    }
    void single() {
        for (int i = 0; i < nodes_; ++i) {
            Params params(*this, addend(i));
            cuda_.launch(step_, 1, 1, params.values);
        }
    }
    void update(int node, unsigned b) {
        Params params(*this, b);
        graph_->update(static_cast<std::size_t>(node), peer_node(step_, 1, params.values));
    }
    void replay() { graph_->launch(cuda_.stream()); }
    void wait() { cuda_.synchronize(); }
    unsigned word() {
        unsigned value = 0;
        check_peer(peer_api().cuMemcpyDtoH_(&value, word_.address(), sizeof value), "reading the word");
        return value;
    }

  private:
    struct Params {
        Params(const Plain& of, unsigned with) : word(of.word_.address()), b(with) {}
        Params(const Params&) = delete;
        Params& operator=(const Params&) = delete;
        CUdeviceptr word;
        unsigned a = kFactor, b;
        void* values[3] = {&word, &a, &b};
    };

    PlainCuda cuda_;
    CUfunction step_ = cuda_.kernel("step");
    PeerMemory word_{sizeof(unsigned)};
    int nodes_;
    std::unique_ptr<PeerGraph> graph_;
};

struct Figures {
    std::vector<double> replay, updated, single, idle;  // microseconds a sequence
};

template <class Side>
void measure(Side& side, Expected& expected, int nodes, int replays, int idle, Figures& to) {
    const auto timed = [&](std::vector<double>& into, int times, const auto& act) {
        const std::uint64_t begin = now_ns();
        for (int i = 0; i < times; ++i) act(i);
        side.wait();
        into.push_back(static_cast<double>(now_ns() - begin) * 1e-3 / times);
        for (int i = 0; i < times; ++i) expected.run();
    };
    timed(to.replay, replays, [&](int) { side.replay(); });
    {
        const std::uint64_t begin = now_ns();
        for (int i = 0; i < replays; ++i) {
            side.update(i % nodes, static_cast<unsigned>(i));
            side.replay();
        }
        side.wait();
        to.updated.push_back(static_cast<double>(now_ns() - begin) * 1e-3 / replays);
        for (int i = 0; i < replays; ++i) {
            expected.update(i % nodes, static_cast<unsigned>(i));
            expected.run();
        }
        for (int i = 0; i < nodes; ++i) {
            side.update(i, addend(i));
            expected.update(i, addend(i));
        }
    }
    timed(to.single, std::max(1, replays / 10), [&](int) { side.single(); });
    for (int i = -idle / 10; i < idle; ++i) {
        for (const std::uint64_t until = now_ns() + 2000; now_ns() < until;) {
        }
        const std::uint64_t begin = now_ns();
        side.replay();
        side.wait();
        if (i >= 0) to.idle.push_back(static_cast<double>(now_ns() - begin) * 1e-3);
        expected.run();
    }
}

int run(const std::string& driver, int nodes, int rounds, int replays, int idle, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    Ours ours(driver, nodes);
    const std::unique_ptr<Plain> plain = gpu ? std::make_unique<Plain>(nodes) : nullptr;
    Expected our_word(nodes), plain_word(nodes);
    Figures us, theirs;
    for (int round = 0; round < rounds; ++round) {
        measure(ours, our_word, nodes, replays, idle, us);
        if (plain) measure(*plain, plain_word, nodes, replays, idle, theirs);
    }
    if (driver != "null" && ours.word() != our_word.word())
        throw std::runtime_error("ringlaunch: the word is not what the kernels give");
    if (plain && plain->word() != plain_word.word())
        throw std::runtime_error("cuGraphLaunch: the word is not what the kernels give");

    Report report("A sequence of " + std::to_string(nodes) + " short kernels on " + ours.device() + " (" +
                      driver + " driver), microseconds a sequence",
                  {"p50_us", "lowest", "highest", "x_plain"});
    const auto row = [&](const std::string& name, std::vector<double>& of, std::vector<double>* plainly) {
        if (of.empty()) return;
        const double middle = quantile(of, 0.5);
        report.add(
            name, {middle, quantile(of, 0), quantile(of, 1),
                   plainly == nullptr || plainly->empty() ? std::nan("") : middle / quantile(*plainly, 0.5)});
    };
    row("ringlaunch: replays in a row", us.replay, &theirs.replay);
    row("cuGraphLaunch: replays in a row", theirs.replay, nullptr);
    row("ringlaunch: one launch updated before each", us.updated, &theirs.updated);
    row("cuGraphLaunch: one node updated before each", theirs.updated, nullptr);
    row("ringlaunch: launches one by one", us.single, &theirs.single);
    row("cuLaunchKernel: launches one by one", theirs.single, nullptr);
    row("ringlaunch: a replay on an idle stream", us.idle, &theirs.idle);
    row("cuGraphLaunch: a replay on an idle stream", theirs.idle, nullptr);
    report.note("rows of replays: over " + std::to_string(rounds) + " rounds of " + std::to_string(replays) +
                "; idle: enqueued until seen completed, each by itself");
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    std::string driver = "cuda", csv;
    int nodes = 100, rounds = 5, replays = 2000, idle = 1000;
    CLI::App app("Replays of a graph, through the daemon and plainly");
    app.add_option("--driver", driver, "cuda, host or null")->capture_default_str();
    app.add_option("--nodes", nodes, "Kernels of the graph")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Rounds")->check(CLI::PositiveNumber)->capture_default_str();
    app.add_option("--replays", replays, "Replays in a row, a round")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--idle", idle, "Replays on an idle stream, a round")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--csv", csv, "Write the figures there");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return run(driver, nodes, rounds, replays, idle, csv); });
}
