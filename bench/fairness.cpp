// What a stream that is flooded does to the others: streams that launch one small kernel after another and
// wait for each, alone, beside a busy core and beside a flood (a ring kept full). With the host driver the
// flood stands behind kernels that take a second; with the null driver it is as fast as its client can write.
#include <CLI/CLI.hpp>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "bench/daemon.hpp"
#include "bench/observer.hpp"
#include "bench/report.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

constexpr std::uint32_t kFactor = 1664525, kAddend = 1013904223;
constexpr std::uint32_t kFloodSlots = 4096;
constexpr double kBatch = 64;  // records that the dispatcher takes from a stream in a turn

// A session with one stream and a word that `step` changes, so that a lost, doubled or reordered launch
// shows.
class Session {
  public:
    Session(const PrivateDaemon& daemon, const std::string& name)
        : client_(daemon.connect()),
          module_(client_.load_file(daemon.kernels())),
          step_(module_.kernel("step")),
          busy_(module_.kernel("busy")),
          stream_(client_.stream({kFloodSlots, OnRestart::stop, 0, name})),
          word_(client_.alloc(sizeof(std::uint32_t))) {
        must(stream_.fill(word_, 0, 4, 0, 4), "clearing a word");
        must(stream_.synchronize(), "clearing a word");
    }
    void step() {
        must(stream_.launch(step_, {1}, {1}, word_, kFactor, kAddend), "launching");
        expected_ = expected_ * kFactor + kAddend;
        ++launches_;
    }
    void be_busy(std::uint64_t ns) {
        must(stream_.launch(busy_, {1}, {1}, std::uint64_t{ns}), "launching the slow kernel");
        ++launches_;
    }
    void wait() { must(stream_.synchronize(), "waiting"); }
    void check() {
        std::uint32_t found = 0;
        must(stream_.copy_to_host(&found, word_, sizeof found), "reading a word");
        if (found != expected_) throw std::runtime_error("a stream's word is not what its launches give");
    }
    std::uint64_t launches() const { return launches_; }

  private:
    Client client_;
    Module module_;
    Kernel step_, busy_;
    Stream stream_;
    Buffer word_;
    std::uint32_t expected_ = 0;
    std::atomic<std::uint64_t> launches_{0};
};

// Runs until it is destroyed.
class Background {
  public:
    template <class Body>
    explicit Background(Body body) : thread_([this, body] { body(over_); }) {}
    ~Background() {
        over_ = true;
        thread_.join();
    }

  private:
    std::atomic<bool> over_{false};
    std::thread thread_;
};

struct Seen {
    std::vector<double> us;     // launch to completion seen
    std::vector<double> ahead;  // records of the flood that were issued meanwhile
};

// One launch after another, each waited for.
Seen launch_and_wait(Session& session, double seconds, const ObservedPage* flood) {
    Seen seen;
    const std::uint64_t end = now_ns() + static_cast<std::uint64_t>(seconds * 1e9);
    for (std::uint64_t begin = now_ns(); begin < end; begin = now_ns()) {
        const std::uint64_t before = flood == nullptr ? 0 : flood->issued();
        session.step();
        session.wait();
        seen.us.push_back(static_cast<double>(now_ns() - begin) / 1000);
        if (flood != nullptr) seen.ahead.push_back(static_cast<double>(flood->issued() - before));
    }
    return seen;
}

enum class Beside { nothing, busy_core, flood };
constexpr const char* kNames[] = {"alone", "a busy core", "a flood"};

struct Options {
    int others = 2, rounds = 2;
    double seconds = 4;
    std::uint64_t slow_ns = 1'000'000'000;
};

class Measurement {
  public:
    Measurement(const std::string& driver, const Options& options)
        : driver_(driver), options_(options), daemon_(driver), flood_(daemon_, "flood") {
        for (int i = 0; i < options.others; ++i)
            others_.push_back(std::make_unique<Session>(daemon_, "other " + std::to_string(i + 1)));
        page_.emplace(std::move(observe(daemon_.socket()).at("flood")));
        for (auto& seen : seen_) seen.resize(others_.size());
    }

    void round(Beside beside) {
        std::optional<Background> background;
        if (beside == Beside::busy_core)
            background.emplace([](const std::atomic<bool>& over) {
                while (!over.load(std::memory_order_relaxed)) {  // relaxed: only its value matters
                }
            });
        const std::uint64_t begin = now_ns(), completed = page_->completed();
        const std::uint64_t launches = page_->launches(), batches = page_->batches();
        if (beside == Beside::flood) {
            background.emplace([this](const std::atomic<bool>& over) { flood(over); });
            const std::uint64_t full = flood_.launches() + kFloodSlots;
            while (flood_.launches() < full && now_ns() - begin < 10'000'000'000) std::this_thread::yield();
        }
        {
            std::vector<std::thread> threads;
            for (std::size_t i = 0; i < others_.size(); ++i)
                threads.emplace_back([&, i] {
                    const ObservedPage* page = beside == Beside::flood ? &*page_ : nullptr;
                    add(seen_[static_cast<int>(beside)][i],
                        launch_and_wait(*others_[i], options_.seconds, page));
                });
            const std::uint64_t end = now_ns() + static_cast<std::uint64_t>(options_.seconds * 1e9);
            while (beside == Beside::flood && now_ns() < end) {
                // Issued first: what moves between the two looks makes the difference smaller, never greater.
                const std::uint64_t issued = page_->issued(), done = page_->completed();
                if (issued > done) most_in_flight_ = std::max(most_in_flight_, issued - done);
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
            }
            for (std::thread& thread : threads) thread.join();
        }
        if (beside == Beside::flood) {
            flooded_ += page_->completed() - completed;
            flood_launches_ += page_->launches() - launches;
            flood_batches_ += page_->batches() - batches;
            flood_s_ += static_cast<double>(now_ns() - begin) * 1e-9;
        }
        background.reset();
        flood_.wait();
    }

    // The words of all streams; the null driver changes none.
    void check() {
        if (driver_ == "null") return;
        flood_.check();
        for (const auto& other : others_) other->check();
    }

    void report(Report& report) {
        for (const Beside beside : {Beside::nothing, Beside::busy_core, Beside::flood})
            for (std::size_t i = 0; i < others_.size(); ++i) {
                Seen& alone = seen_[0][i];
                Seen& seen = seen_[static_cast<int>(beside)][i];
                if (seen.us.empty()) continue;
                const bool flooded = beside == Beside::flood;
                const double none = std::nan("");
                report.add(
                    driver_ + ", " + kNames[static_cast<int>(beside)] + ", stream " + std::to_string(i + 1),
                    {static_cast<double>(seen.us.size()), quantile(seen.us, 0.5), quantile(seen.us, 0.99),
                     quantile(seen.us, 1), quantile(seen.us, 0.5) / quantile(alone.us, 0.5),
                     quantile(seen.us, 0.99) / quantile(alone.us, 0.99),
                     flooded ? static_cast<double>(flooded_) : none,
                     flooded ? static_cast<double>(most_in_flight_) : none,
                     flooded ? quantile(seen.ahead, 0.5) : none,
                     flooded ? quantile(seen.ahead, 0.99) : none});
                if (flooded) report.note(shares(i, seen.ahead));
            }
        char text[200];
        std::snprintf(text, sizeof text,
                      "%s: the flood completed %.0f launches a second, in batches of %.1f; all words %s",
                      driver_.c_str(), static_cast<double>(flooded_) / flood_s_,
                      static_cast<double>(flood_launches_) /
                          static_cast<double>(std::max<std::uint64_t>(flood_batches_, 1)),
                      driver_ == "null" ? "untouched by this driver" : "as their launches give");
        report.note(text);
    }

  private:
    // Keeps the ring full; with slow kernels a ring apart, so that nearly always one is running.
    void flood(const std::atomic<bool>& over) {
        for (std::uint64_t i = 0; !over.load(std::memory_order_relaxed);
             ++i) {  // relaxed: only its value matters
            if (driver_ != "null" && i % kFloodSlots == 0)
                flood_.be_busy(options_.slow_ns);
            else
                flood_.step();
        }
    }
    static void add(Seen& to, const Seen& from) {
        to.us.insert(to.us.end(), from.us.begin(), from.us.end());
        to.ahead.insert(to.ahead.end(), from.ahead.begin(), from.ahead.end());
    }
    std::string shares(std::size_t stream, const std::vector<double>& ahead) const {
        const auto within = [&](double most) {
            return 100.0 *
                   static_cast<double>(
                       std::count_if(ahead.begin(), ahead.end(), [&](double x) { return x <= most; })) /
                   static_cast<double>(ahead.size());
        };
        char text[200];
        std::snprintf(
            text, sizeof text,
            "%s, stream %zu: of its launches %.2f%% were seen completed with at most one batch of the flood "
            "(%.0f) issued meanwhile, %.2f%% with at most two",
            driver_.c_str(), stream + 1, within(kBatch), kBatch, within(2 * kBatch));
        return text;
    }

    const std::string driver_;
    const Options options_;
    PrivateDaemon daemon_;
    Session flood_;
    std::vector<std::unique_ptr<Session>> others_;
    std::optional<ObservedPage> page_;  // the flood's
    std::vector<Seen> seen_[3];
    std::uint64_t flooded_ = 0, flood_launches_ = 0, flood_batches_ = 0, most_in_flight_ = 0;
    double flood_s_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "What a flooded stream does to others that launch a small kernel and wait for it, one after "
        "another.");
    Options options;
    double slow_s = 1;
    std::string csv;
    std::vector<std::string> drivers{"host", "null"};
    app.add_option("--others", options.others, "Streams beside the flood, each in a session of its own")
        ->check(CLI::Range(1, 64))
        ->capture_default_str();
    app.add_option("--seconds", options.seconds, "Length of one measurement")->capture_default_str();
    app.add_option("--rounds", options.rounds, "Interleaved repetitions")->capture_default_str();
    app.add_option("--slow", slow_s, "Seconds that the flood's slow kernel takes (host, cuda)")
        ->capture_default_str();
    app.add_option("--driver", drivers, "Drivers to measure")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    options.slow_ns = static_cast<std::uint64_t>(slow_s * 1e9);

    Report report("A small kernel launched and waited for, beside a flooded stream",
                  {"launches", "p50_us", "p99_us", "worst_us", "p50/alone", "p99/alone", "flood_done",
                   "flood_flight", "ahead_p50", "ahead_p99"});
    try {
        for (const std::string& driver : drivers) {
            Measurement measurement(driver, options);
            for (int round = 0; round < options.rounds; ++round)
                for (const Beside beside : {Beside::nothing, Beside::busy_core, Beside::flood})
                    measurement.round(beside);
            measurement.check();
            measurement.report(report);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    report.note(
        "flood_done: launches that the flooded stream completed in all rounds; flood_flight: the most issued "
        "and not "
        "completed (bound: 256);");
    report.note(
        "ahead: records of the flood issued between a launch and its completion being seen; a busy core: a "
        "thread "
        "that computes, without a flood");
    return report.finish(csv);
}
