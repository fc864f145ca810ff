// What a launch costs that is one of many on one stream of a GPU: through the daemon from C++, by a loop of
// cuLaunchKernel, by CUDA graphs of 100 kernels that are replayed as they are, and by such graphs whose
// parameters (and functions) are all set anew before each replay.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "bench/gpu_work.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr std::size_t kNodes = kLoop, kCopies = 4;

// Graphs of kNodes launches of a work. Updated: kCopies of them in turn, so that one is written while others
// run. As they are: one, which does launches 0 to kNodes - 1 each time.
class Graphs {
  public:
    Graphs(const PlainWork& work, bool updated) : work_(work), updated_(updated) {
        std::deque<PlainWork::Params> params;  // stay where they are
        std::vector<CUDA_KERNEL_NODE_PARAMS> nodes;
        for (std::size_t i = 0; i < kNodes; ++i) {
            params.emplace_back(work.params(i).words, work.params(i).call);
            nodes.push_back(work.node(params.back()));
        }
        for (std::size_t k = 0; k < (updated ? kCopies : 1); ++k)
            copies_.push_back(std::make_unique<PeerGraph>(nodes));
    }
    // Launches `i` and the kNodes - 1 behind it.
    void launch(std::uint64_t i) {
        PeerGraph& graph = *copies_[i / kNodes % copies_.size()];
        if (updated_)
            for (std::size_t k = 0; k < kNodes; ++k) {
                PlainWork::Params params = work_.params(i + k);
                graph.update(k, work_.node(params));
            }
        graph.launch(work_.stream());
    }

  private:
    const PlainWork& work_;
    bool updated_;
    std::vector<std::unique_ptr<PeerGraph>> copies_;
};

// One way to do a work. `step` launches are made by one call of `launch`, those from `i` on.
struct Way {
    std::string name;
    std::uint64_t step;
    bool repeats;  // does launches 0 to step - 1 each time
    std::function<void(std::uint64_t)> launch;
    std::function<void()> wait;
    std::function<Words()> read;
    Words expected = {};
    std::uint64_t next = 0;
    std::vector<double> us = {};
};

// Launches before each measurement: whoever was asleep meanwhile is awake.
constexpr std::uint64_t kBefore = 20 * kNodes;

// Microseconds a launch, all of them completed.
double sustained_us(Way& way, const Work& work, std::uint64_t launches) {
    const std::uint64_t first = way.next, ready = first + kBefore, end = ready + launches;
    for (std::uint64_t i = first; i < end; ++i) work.apply(way.expected, way.repeats ? i % way.step : i);
    for (; way.next < ready; way.next += way.step) way.launch(way.next);
    way.wait();
    const std::uint64_t begin = now_ns();
    for (; way.next < end; way.next += way.step) way.launch(way.next);
    way.wait();
    return static_cast<double>(now_ns() - begin) * 1e-3 / static_cast<double>(launches);
}

Way our_way(const std::string& name, OurWork& work) {
    return {name,
            1,
            false,
            [&](std::uint64_t i) { work.launch(i); },
            [&] { work.wait(); },
            [&] { return work.read(); }};
}

struct Case {
    std::string name;
    Work work;
    std::uint64_t launches;  // a round, a multiple of kNodes
};

// What was measured of one way: microseconds a launch, a figure a round.
struct Timed {
    std::string name;
    std::vector<double> us;
};

// One case, all ways in turn. Streams are open only while their case is measured: each that is open costs the
// dispatcher a look.
std::vector<Timed> measure_case(const Case& one, const PrivateDaemon& daemon, Client& client,
                                Client& without_graphs, const PlainCuda* cuda, int rounds) {
    OurWork ours(client, daemon.kernels(), one.work), singly(without_graphs, daemon.kernels(), one.work);
    std::vector<Way> ways;
    ways.push_back(our_way("ringlaunch", ours));
    std::vector<std::unique_ptr<PlainWork>> plain;  // each way's words are its own
    std::vector<std::unique_ptr<Graphs>> graphs;
    const auto another = [&]() -> PlainWork& {
        return *plain.emplace_back(std::make_unique<PlainWork>(*cuda, one.work));
    };
    if (cuda != nullptr) {
        PlainWork& loop = another();
        ways.push_back({"cuLaunchKernel", 1, false, [&loop](std::uint64_t i) { loop.launch(i); },
                        [&loop] { loop.wait(); }, [&loop] { return loop.read(); }});
    }
    ways.push_back(our_way("ringlaunch, without launch graphs", singly));
    if (cuda != nullptr)
        for (const bool updated : {false, true}) {
            PlainWork& work = another();
            Graphs& all = *graphs.emplace_back(std::make_unique<Graphs>(work, updated));
            ways.push_back({updated ? "CUDA graph, updated" : "CUDA graph, fixed parameters", kNodes,
                            !updated, [&all](std::uint64_t i) { all.launch(i); }, [&work] { work.wait(); },
                            [&work] { return work.read(); }});
        }
    for (int round = -1; round < rounds; ++round)  // the first warms up
        for (Way& way : ways) {
            const double us = sustained_us(way, one.work, one.launches);
            if (round >= 0) way.us.push_back(us);
        }
    std::vector<Timed> all;
    for (Way& way : ways) {
        if (client.daemon().driver != "null")
            check_words(way.read(), way.expected, one.name + ", " + way.name);
        all.push_back({way.name, way.us});
    }
    return all;
}

// The loop of cuLaunchKernel alone: a peer for programs that are not C++.
int measure_c_loop(int rounds, std::uint64_t many, const std::string& csv) {
    const PlainCuda cuda;
    Report report("Launches in a row on one stream by cuLaunchKernel alone", {"us", "us_min", "us_max"});
    for (const auto& [name, kind] :
         {std::pair{"null", Work::Kind::nothing}, {"24 functions", Work::Kind::functions}}) {
        const Work work(kind);
        PlainWork plain(cuda, work);
        Way way{"cuLaunchKernel",
                1,
                false,
                [&](std::uint64_t i) { plain.launch(i); },
                [&] { plain.wait(); },
                [&] { return plain.read(); }};
        for (int round = -1; round < rounds; ++round) {
            const double us = sustained_us(way, work, many);
            if (round >= 0) way.us.push_back(us);
        }
        check_words(way.read(), way.expected, name);
        report.add(std::string(name) + ": cuLaunchKernel",
                   {quantile(way.us, 0.5), quantile(way.us, 0), quantile(way.us, 1)});
    }
    return report.finish(csv);
}

int measure(const std::string& driver, int rounds, std::uint64_t many, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    Client without_graphs = daemon.connect(false);
    const std::unique_ptr<PlainCuda> cuda = gpu ? std::make_unique<PlainCuda>() : nullptr;
    const double ticks = cuda ? ticks_per_ns(*cuda) : 1;
    using Kind = Work::Kind;
    std::vector<Case> cases;
    many = (many + kNodes - 1) / kNodes * kNodes;
    cases.push_back({"null", Work(Kind::nothing), many});
    cases.push_back({"24 functions", Work(Kind::functions), many});
    cases.push_back({"loop", Work(Kind::loop), many});
    cases.push_back({"dependent", Work(Kind::dependent), many});
    cases.push_back({"5 us", Work(Kind::hold, static_cast<unsigned>(5000 * ticks)),
                     (many / 4 + kNodes - 1) / kNodes * kNodes});
    Report report("Launches in a row on one stream, " + daemon.client().daemon().device_name + " (" + driver +
                      " driver)",
                  {"us", "us_min", "us_max", "launches/s", "x_plain_rate"});
    std::map<std::string, double> us, ratio;
    for (const Case& one : cases) {
        std::vector<Timed> ways =
            measure_case(one, daemon, daemon.client(), without_graphs, cuda.get(), rounds);
        const std::vector<double> base = cuda ? ways[1].us : std::vector<double>{};  // cuLaunchKernel
        for (Timed& way : ways) {
            std::vector<double> ratios;  // round by round
            for (std::size_t i = 0; i < base.size(); ++i) ratios.push_back(base[i] / way.us[i]);
            const std::string name = one.name + ": " + way.name;
            us[name] = quantile(way.us, 0.5);
            ratio[name] = quantile(ratios, 0.5);
            report.add(name,
                       {us[name], quantile(way.us, 0), quantile(way.us, 1), 1e6 / us[name], ratio[name]});
        }
    }
    char text[200];
    std::snprintf(
        text, sizeof text,
        "us a launch until all have completed, medians of %d rounds in turn, least and most; x_plain_rate: "
        "median of the rounds' ratios",
        rounds);
    report.note(text);
    report.note(
        "null: five parameters that all change, of which every 256th launch lets the kernel write; 24 "
        "functions: "
        "at random, each changes one");
    report.note(
        "word; loop: the same 100 launches of the 24 functions again and again; dependent: one function "
        "changes one word; 5 us: the same, but it takes");
    report.note(
        std::string(
            "5 us. CUDA graphs are of 100 kernels in a row: replayed as they are (nothing changes), or every "
            "parameter set anew, 4 copies in turn. ") +
        (driver == "null" ? "" : "All words were compared. ") + "2000 launches went before each measurement");
    if (cuda) {
        report.target("null kernel, us", us["null: ringlaunch"], 0.60);
        report.target("null kernel, x cuLaunchKernel", ratio["null: ringlaunch"], 5, false);
        report.target("24 functions at random, us", us["24 functions: ringlaunch"], 1.05);
        report.target("dependent kernels, x cuLaunchKernel", ratio["dependent: ringlaunch"], 4, false);
        report.target("kernels of 5 us, x cuLaunchKernel", ratio["5 us: ringlaunch"], 1.1, false);
    }
    report.note(setting(daemon.client()));
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Many launches on one stream through the daemon, by cuLaunchKernel and by CUDA graphs.");
    std::string driver = "cuda", csv;
    int rounds = 5;
    bool c_loop = false;
    std::uint64_t many = 100'000;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--many", many, "Launches a measurement")->capture_default_str();
    app.add_flag("--c-loop", c_loop, "The loop of cuLaunchKernel alone, without a daemon");
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark(
        [&] { return c_loop ? measure_c_loop(rounds, many, csv) : measure(driver, rounds, many, csv); });
}
