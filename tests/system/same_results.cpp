// Do launch graphs and chains change a result? Two sessions of one daemon are given the same random sequence
// of launches, copies, fills, events and waits; one has its launches coalesced, the other has each given to
// the device by itself. After each round all their memory is the same, to the bit.
//
// A round begins with fresh memory and a fresh module, and is drawn from seed and number alone: one that
// differs can be had again by itself.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <ringlaunch/error.hpp>
#include <ringlaunch/ringlaunch.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ringlaunch::test {
namespace {

constexpr std::size_t kStreams = 4;
constexpr std::uint32_t kWords = 4096;   // of each stream's memory
constexpr std::uint32_t kThreads = 512;  // the most of a launch
constexpr std::uint64_t kPatienceNs = 120'000'000'000;

struct Triple {
    float x, y, z;
};
struct Long {
    std::uint32_t words[900];
};

void must(Status status, const char* doing, const Stream& stream) {
    if (status == Status::ok) return;
    const StreamStatus at = stream.status();
    throw std::runtime_error(std::string(doing) + ": " + std::string(status_text(status)) +
                             "; the stream says: " + (at.text.empty() ? stream.last_error() : at.text));
}

// Parameters at CUDA's natural offsets.
template <class... Args>
void pack(std::vector<std::byte>& packed, const Args&... args) {
    packed.clear();
    const auto add = [&](const auto& arg) {
        const std::size_t at =
            (packed.size() + alignof(decltype(arg)) - 1) / alignof(decltype(arg)) * alignof(decltype(arg));
        packed.resize(at + sizeof(arg));
        std::memcpy(packed.data() + at, &arg, sizeof(arg));
    };
    (add(args), ...);
}

class Random {
  public:
    Random(std::uint64_t seed, std::uint64_t round) : engine_(seed * 0x9e3779b97f4a7c15 + round) {}
    std::uint32_t word() { return static_cast<std::uint32_t>(engine_() >> 32); }
    std::uint32_t below(std::uint32_t bound) { return word() % bound; }
    std::uint32_t between(std::uint32_t low, std::uint32_t high) { return low + below(high - low + 1); }
    bool one_in(std::uint32_t n) { return below(n) == 0; }
    float real() { return static_cast<float>(static_cast<std::int32_t>(word())) / 65536.0f; }

  private:
    std::mt19937_64 engine_;
};

// What the rounds had, for the reader: a run that lacks a kind says so.
struct Counts {
    std::uint64_t launches = 0, copies = 0, fills = 0, events = 0, waits = 0, pauses = 0;
    void operator+=(const Counts& other) {
        launches += other.launches;
        copies += other.copies;
        fills += other.fills;
        events += other.events;
        waits += other.waits;
        pauses += other.pauses;
    }
};

enum KernelIndex : std::uint32_t {
    affine,
    gather,
    shape,
    mixed,
    sum_long,
    scale,
    append,
    twelve,
    nothing,
    kKernels
};
constexpr const char* kNames[kKernels] = {"affine", "gather", "shape",  "mixed",  "sum_long",
                                          "scale",  "append", "twelve", "nothing"};

class Session {
  public:
    Session(const ConnectOptions& options, std::string image)
        : client_(Client::connect(options)), image_(std::move(image)) {
        for (std::size_t i = 0; i < kStreams; ++i) {
            StreamOptions named;
            named.name = (options.coalesce ? "graphs " : "plain ") + std::to_string(i);
            streams_[i] = client_.stream(named);
            memory_[i] = client_.alloc(kWords * 4);
        }
    }
    const Client& client() const { return client_; }

    // Leaves what the memory holds then, and what copies to the host brought on the way, in `seen`.
    void round(std::uint64_t seed, std::uint64_t number, std::uint64_t launches) {
        Random random(seed, number);
        counts = {};
        seen.clear();
        const Module module = client_.load_file(image_);
        for (std::uint32_t i = 0; i < kKernels; ++i) kernels_[i] = module.kernel(kNames[i]);
        const std::size_t streams = random.between(1, kStreams);
        // How many kernels take part, how long backlogs are and how often they are broken: each round another
        // mix.
        const std::uint32_t kernels = random.between(1, kKernels), first = random.below(kKernels),
                            longest = 1u << random.below(9), others = random.between(1, 6);
        const bool pauses = random.one_in(3);
        const std::size_t looping = random.below(static_cast<std::uint32_t>(streams));
        for (std::size_t i = 0; i < kStreams; ++i)
            must(streams_[i].fill(memory_[i], random.word(), 4, 0, kWords * 4), "filling", streams_[i]);
        loop(random, looping, launches / 4);
        while (counts.launches < launches) {
            const std::size_t which = random.below(static_cast<std::uint32_t>(streams));
            for (std::uint32_t i = random.between(1, longest); i > 0; --i)
                launch(random, which, (first + random.below(kernels)) % kKernels);
            if (!random.one_in(others)) continue;
            switch (random.below(6)) {
                case 0:
                    copy_on_device(random, which);
                    break;
                case 1:
                    copy_to_device(random, which);
                    break;
                case 2:
                    fill(random, which);
                    break;
                case 3:
                    exchange(random, which, random.below(static_cast<std::uint32_t>(streams)));
                    break;
                case 4:
                    static_cast<void>(streams_[which].record()), ++counts.events;
                    break;
                case 5:
                    if (!pauses) break;
                    if (random.one_in(2))
                        copy_to_host(random, which);
                    else
                        pause(which);
                    break;
            }
        }
        for (std::size_t i = 0; i < kStreams; ++i) {
            seen.resize(seen.size() + kWords * 4);
            must(streams_[i].copy_to_host(seen.data() + seen.size() - kWords * 4, memory_[i], kWords * 4),
                 "reading back", streams_[i]);
        }
        kernels_ = {};  // so that the module goes, and with it the graphs that know its kernels
    }

    std::vector<std::byte> seen;
    Counts counts;

  private:
    std::uint64_t at(std::size_t stream, std::uint32_t word) const {
        return memory_[stream].address() + 4 * word;
    }

    // A shape of at most kThreads threads.
    static void draw_shape(Random& random, Dim3& grid, Dim3& block) {
        if (random.one_in(2)) {
            grid = {random.between(1, 4), 1, 1};
            block = {32u << random.below(3), 1, 1};
            return;
        }
        block = {random.between(1, 8), random.between(1, 4), random.between(1, 2)};
        grid = {random.between(1, 4), random.between(1, 2), random.one_in(4) ? 2u : 1u};
    }

    void launch(Random& random, std::size_t which, std::uint32_t kernel) {
        Dim3 grid, block;
        draw_shape(random, grid, block);
        const std::uint32_t count = random.between(1, kThreads),
                            place = random.below(kWords / 2 - kThreads) & ~1u;
        const std::uint32_t a = random.word() | 1, b = random.word();
        switch (kernel) {
            case affine:
                pack(params_, at(which, place), count, a, b);
                break;
            case gather:
                pack(params_, at(which, place), at(which, kWords / 2 + place), count, b % 64);
                break;
            case shape:
                pack(params_, at(which, place));
                break;
            case mixed:
                pack(params_, at(which, place), static_cast<signed char>(a), static_cast<short>(b),
                     Triple{random.real(), random.real(), random.real()}, static_cast<double>(random.real()),
                     (a & 2) != 0, static_cast<unsigned char>(b >> 8),
                     static_cast<long long>(std::uint64_t{a} * b), b);
                break;
            case sum_long: {
                Long values;
                for (std::uint32_t i = 0; i < 900; ++i) values.words[i] = a * i + b;
                pack(params_, at(which, place), values);
                break;
            }
            case scale:
                pack(params_, at(which, place), count, random.real(), random.real());
                break;
            case append:
                pack(params_, at(which, kWords - 256), at(which, kWords - 257), 256u, b);
                break;
            case twelve:
                pack(params_, at(which, place), a, b, a ^ b, a + b, 1u, 2u, 3u, 4u, 5u, b, a);
                break;
            default:
                params_.clear();
        }
        // What the kernel may have, in steps; the host driver has none.
        const std::uint32_t most = std::min(kernels_[kernel].max_dynamic_shared_bytes(), 64u << 10);
        const std::uint32_t shared = random.one_in(4) ? random.below(most / 256 + 1) * 256 : 0;
        must(streams_[which].launch_packed(kernels_[kernel], grid, block, shared, params_), "launching",
             streams_[which]);
        ++counts.launches;
    }
    // The same few kernels again and again, which long chains take.
    void loop(Random& random, std::size_t which, std::uint64_t launches) {
        std::array<std::uint32_t, 8> order;
        const std::uint32_t length = random.between(1, order.size());
        for (std::uint32_t& kernel : order) do
                kernel = random.below(kKernels);
            while (kernel == sum_long);  // whose parameters the host driver's graphs have no room for
        for (std::uint64_t i = 0; i < launches; ++i) launch(random, which, order[i % length]);
    }
    void copy_on_device(Random& random, std::size_t which) {
        const std::uint32_t words = random.between(1, 512);
        must(streams_[which].copy(memory_[which], random.below(kWords / 2 - words) * 4, memory_[which],
                                  (kWords / 2 + random.below(kWords / 2 - words)) * 4, words * 4),
             "copying on the device", streams_[which]);
        ++counts.copies;
    }
    void copy_to_device(Random& random, std::size_t which) {
        std::array<std::uint32_t, 256> words;
        for (std::uint32_t& word : words) word = random.word();
        must(streams_[which].copy_to_device(memory_[which], words.data(), sizeof words,
                                            random.below(kWords - 256) * 4),
             "copying to the device", streams_[which]);
        ++counts.copies;
    }
    void copy_to_host(Random& random, std::size_t which) {
        const std::size_t bytes = 4 * random.between(1, 64);
        seen.resize(seen.size() + bytes);
        must(streams_[which].copy_to_host(seen.data() + seen.size() - bytes, memory_[which], bytes,
                                          random.below(kWords - 64) * 4),
             "copying to the host", streams_[which]);
        ++counts.copies;
    }
    void fill(Random& random, std::size_t which) {
        const std::uint32_t width = 1u << random.below(3);
        must(streams_[which].fill(memory_[which], width == 4 ? random.word() : random.below(1u << 8 * width),
                                  width, random.below(kWords / 2) * 4, random.between(1, 256) * 4),
             "filling", streams_[which]);
        ++counts.fills;
    }
    // A kernel of one stream reads and writes the other's memory, and each waits for the other's work.
    void exchange(Random& random, std::size_t which, std::size_t with) {
        if (which == with) return;
        must(streams_[which].wait(streams_[with].record()), "waiting for a stream", streams_[which]);
        const std::uint32_t count = random.between(1, kThreads);
        pack(params_, at(which, 0), at(with, kWords / 2), count, random.below(64));
        must(streams_[which].launch_packed(kernels_[gather], {4}, {128}, 0, params_), "launching",
             streams_[which]);
        pack(params_, at(with, random.below(kWords / 2)), count, random.word() | 1, random.word());
        must(streams_[which].launch_packed(kernels_[affine], {4}, {128}, 0, params_), "launching",
             streams_[which]);
        must(streams_[with].wait(streams_[which].record()), "waiting for a stream", streams_[with]);
        counts.launches += 2;
        counts.events += 2;
        counts.waits += 2;
    }
    void pause(std::size_t which) {
        must(streams_[which].synchronize(kPatienceNs), "waiting", streams_[which]);
        ++counts.pauses;
    }

    Client client_;
    const std::string image_;
    std::array<Stream, kStreams> streams_;
    std::array<Buffer, kStreams> memory_;
    std::array<Kernel, kKernels> kernels_;
    std::vector<std::byte> params_;
};

// Launches of a session that launch graphs took, as the daemon's counters say.
struct InGraphs {
    std::uint64_t chained = 0, long_chains = 0, single = 0;
};
// Of the session that is coalesced, and of the other.
std::array<InGraphs, 2> in_graphs(const std::string& socket) {
    const std::string command = std::string(RINGLAUNCHD_PATH) + " stats --json --over 0 --socket " + socket;
    FILE* const output = ::popen(command.c_str(), "r");
    if (output == nullptr) throw std::runtime_error("cannot run " + command);
    std::string text;
    char bytes[4096];
    for (std::size_t got; (got = std::fread(bytes, 1, sizeof bytes, output)) != 0;) text.append(bytes, got);
    if (::pclose(output) != 0) throw std::runtime_error(command + " failed: " + text);
    std::array<InGraphs, 2> found{};
    const nlohmann::json stats = nlohmann::json::parse(text);
    for (const auto& stream : stats.at("streams")) {
        InGraphs& of = found[stream.at("name").get<std::string>().starts_with("plain") ? 1 : 0];
        const nlohmann::json& counters = stream.at("counters");
        of.chained += counters.at("chained").get<std::uint64_t>();
        of.long_chains += counters.at("long_chains").get<std::uint64_t>();
        of.single += counters.at("single_graphs").get<std::uint64_t>();
    }
    return found;
}

struct Options {
    std::string driver = "host";
    std::uint64_t launches = 0, seed = 0, round = 0, round_launches = 20'000;
    double seconds = 0;
};

class Folder {
  public:
    Folder() {
        if (::mkdtemp(path) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
    }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    char path[32] = "/tmp/ringlaunch-same-XXXXXX";
};

int run(const Options& options) {
    const Folder folder;
    ConnectOptions connect;
    connect.socket = std::string(folder.path) + "/daemon.sock";
    connect.driver = options.driver;
    connect.daemon_path = RINGLAUNCHD_PATH;
    connect.start_private = true;
    connect.timeout_ms = 60'000;
    const std::string image = options.driver == "cuda" ? SAME_CUBIN : SAME_KERNELS;
    if (image.empty()) {
        std::fprintf(stderr, "the kernels were not compiled for a GPU: build with nvcc\n");
        return 77;
    }
    Session graphs(connect, image);
    connect.coalesce = false;
    Session plain(connect, image);
    std::printf("%s, seed %llu\n", graphs.client().daemon().device_name.c_str(),
                static_cast<unsigned long long>(options.seed));

    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    Counts counts;
    double next_word = 5;
    std::uint64_t rounds = 0;
    const bool once = options.round != 0;
    for (std::uint64_t round = once ? options.round : 1;; ++round, ++rounds) {
        const bool enough =
            options.launches != 0 ? counts.launches >= options.launches : elapsed() >= options.seconds;
        if (rounds != 0 && (once || enough)) break;
        std::string failed;
        std::thread beside([&] {
            try {
                plain.round(options.seed, round, options.round_launches);
            } catch (const std::exception& error) {
                failed = error.what();
            }
        });
        try {
            graphs.round(options.seed, round, options.round_launches);
        } catch (const std::exception& error) {
            beside.join();
            throw std::runtime_error(std::string("coalesced: ") + error.what());
        }
        beside.join();
        if (!failed.empty()) throw std::runtime_error("plain: " + failed);
        counts += graphs.counts;
        if (graphs.seen != plain.seen) {
            std::size_t first = 0;
            while (first < std::min(graphs.seen.size(), plain.seen.size()) &&
                   graphs.seen[first] == plain.seen[first])
                ++first;
            const std::size_t end = graphs.seen.size() - kStreams * kWords * 4;
            std::printf(
                "DIFFERENT in round %llu, first in byte %zu of %zu (%s); again: --driver %s --seed %llu "
                "--round %llu\n",
                static_cast<unsigned long long>(round), first, graphs.seen.size(),
                first < end ? "of what was copied to the host on the way"
                            : ("of stream " + std::to_string((first - end) / (kWords * 4))).c_str(),
                options.driver.c_str(), static_cast<unsigned long long>(options.seed),
                static_cast<unsigned long long>(round));
            return 1;
        }
        if (elapsed() > next_word) {
            next_word += 5;
            std::printf("%6.0f s  %llu launches the same\n", elapsed(),
                        static_cast<unsigned long long>(counts.launches));
            std::fflush(stdout);
        }
    }
    const auto [taken, others] = in_graphs(connect.socket);
    const auto percent = [&](std::uint64_t launches) {
        return 100.0 * static_cast<double>(launches) / static_cast<double>(counts.launches);
    };
    std::printf(
        "same to the bit in %llu rounds, %.1f s: %llu launches each way, %llu copies, %llu fills, %llu "
        "events, "
        "%llu waits, %llu pauses; %.0f %% of the launches went in chains, %.0f %% in chains of 32 or more, "
        "%.0f %% in a graph each\n",
        static_cast<unsigned long long>(rounds), elapsed(), static_cast<unsigned long long>(counts.launches),
        static_cast<unsigned long long>(counts.copies), static_cast<unsigned long long>(counts.fills),
        static_cast<unsigned long long>(counts.events), static_cast<unsigned long long>(counts.waits),
        static_cast<unsigned long long>(counts.pauses), percent(taken.chained), percent(taken.long_chains),
        percent(taken.single));
    if (taken.long_chains == 0 || taken.single == 0 || others.chained + others.single != 0) {
        std::printf(
            "but not each way was tried: long chains took %llu launches of one session, graphs of one node "
            "%llu, and graphs took %llu of the other\n",
            static_cast<unsigned long long>(taken.long_chains), static_cast<unsigned long long>(taken.single),
            static_cast<unsigned long long>(others.chained + others.single));
        return 1;
    }
    return 0;
}

}  // namespace
}  // namespace ringlaunch::test

int main(int argc, char** argv) {
    CLI::App app("Are results the same, to the bit, with and without launch graphs?");
    ringlaunch::test::Options options;
    options.seed = std::random_device()();
    app.add_option("--driver", options.driver, "The daemon's driver; not null, which runs nothing")
        ->check(CLI::IsMember({"host", "cuda"}))
        ->capture_default_str();
    app.add_option("--seconds", options.seconds, "How long, in whole rounds; 0: one round")
        ->capture_default_str();
    app.add_option("--launches", options.launches, "How many launches of each session, instead of --seconds");
    app.add_option("--seed", options.seed, "What everything is drawn from")->capture_default_str();
    app.add_option("--round", options.round, "This round alone, from 1");
    app.add_option("--round-launches", options.round_launches,
                   "Launches of each session between two comparisons")
        ->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    try {
        return ringlaunch::test::run(options);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(options.seed), error.what());
        return 1;
    }
}
