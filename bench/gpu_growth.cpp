// What a launch on a GPU costs as it grows, in parameters or in blocks: through the daemon and by
// cuLaunchKernel.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "bench/gpu_work.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// A size: the kernel, its parameters, its grid, and what a launch makes of the word. The parameters are a
// pointer and numbers of 4 bytes, which follow one another without a gap, so that one image of them does for
// both sides.
struct Size {
    std::size_t numbers;  // behind the pointer
    std::string kernel;
    std::uint32_t blocks, threads;
    int launches;
    std::function<void(std::uint64_t i, unsigned* numbers)> fill;
    std::function<unsigned(unsigned word, const unsigned* numbers)> apply;
};

Size parameters(std::size_t numbers, int launches) {
    return {numbers,
            "sum_" + std::to_string(numbers),
            1,
            1,
            launches,
            [numbers](std::uint64_t i, unsigned* to) {
                for (std::size_t k = 0; k < numbers; ++k) to[k] = static_cast<unsigned>(i + k);
            },
            [numbers](unsigned word, const unsigned* given) {
                unsigned sum = 1;
                for (std::size_t k = 0; k < numbers; ++k) sum += given[k];
                return word * kFactor + sum;
            }};
}

Size grid(std::uint32_t blocks, int launches) {
    return {4,
            "last_block",
            blocks,
            32,
            launches,
            [](std::uint64_t i, unsigned* to) {
                const auto more = static_cast<float>(i % 100);
                to[0] = kFactor + 2 * static_cast<unsigned>(i % 1000);
                to[1] = static_cast<unsigned>(i);
                to[2] = 0;
                std::memcpy(to + 3, &more, sizeof more);
            },
            [blocks](unsigned word, const unsigned* given) {
                float more = 0;
                std::memcpy(&more, given + 3, sizeof more);
                return word * given[0] + given[1] + blocks + static_cast<unsigned>(more);
            }};
}

// The parameters as the kernel's own layout has them.
struct Image {
    explicit Image(const Size& size, std::uint64_t word) : bytes(sizeof word + 4 * size.numbers) {
        std::memcpy(bytes.data(), &word, sizeof word);
    }
    unsigned* numbers() { return reinterpret_cast<unsigned*>(bytes.data() + 8); }
    std::vector<std::byte> bytes;
};

class Side {
  public:
    explicit Side(const Size& size) : size_(size) {}
    virtual ~Side() = default;
    // Microseconds a launch, all of them completed.
    double sustained_us() {
        std::vector<unsigned> numbers(size_.numbers + 1);
        const std::uint64_t ready = next_ + static_cast<std::uint64_t>(size_.launches) / 10;
        const std::uint64_t end = ready + static_cast<std::uint64_t>(size_.launches);
        for (std::uint64_t i = next_; i < end; ++i) {
            size_.fill(i, numbers.data());
            expected_ = size_.apply(expected_, numbers.data());
        }
        run(next_, ready);  // whoever was asleep meanwhile is awake
        next_ = end;
        const std::uint64_t begin = now_ns();
        run(ready, end);
        return static_cast<double>(now_ns() - begin) * 1e-3 / size_.launches;
    }
    void check(const std::string& who) {
        if (read() != expected_) throw std::runtime_error(who + ": the word is not what the launches give");
    }

  protected:
    virtual void run(std::uint64_t first, std::uint64_t end) = 0;  // and waits
    virtual unsigned read() = 0;
    const Size& size_;

  private:
    std::uint64_t next_ = 0;
    unsigned expected_ = 0;
};

class Ours : public Side {
  public:
    Ours(const Size& size, Client& client, const std::string& kernels)
        : Side(size),
          stream_(client.stream()),
          kernel_(client.load_file(kernels).kernel(size.kernel)),
          word_(client.alloc(4)),
          image_(size, word_.address()) {
        must(stream_.fill(word_, 0, 4, 0, 4), "clearing the word");
    }

  private:
    void run(std::uint64_t first, std::uint64_t end) override {
        for (std::uint64_t i = first; i < end; ++i) {
            size_.fill(i, image_.numbers());
            must(stream_.launch_packed(kernel_, {size_.blocks}, {size_.threads}, 0, image_.bytes),
                 "launching");
        }
        must(stream_.synchronize(), "waiting");
    }
    unsigned read() override {
        unsigned value = 0;
        must(stream_.copy_to_host(&value, word_, sizeof value), "reading the word");
        return value;
    }
    Stream stream_;
    Kernel kernel_;
    Buffer word_;
    Image image_;
};

class Plain : public Side {
  public:
    Plain(const Size& size, const PlainCuda& cuda)
        : Side(size),
          cuda_(cuda),
          kernel_(cuda.kernel(size.kernel.c_str())),
          word_(4),
          image_(size, word_.address()) {
        params_.push_back(image_.bytes.data());
        for (std::size_t k = 0; k < size.numbers; ++k) params_.push_back(image_.numbers() + k);
    }

  private:
    void run(std::uint64_t first, std::uint64_t end) override {
        for (std::uint64_t i = first; i < end; ++i) {
            size_.fill(i, image_.numbers());
            cuda_.launch(kernel_, size_.blocks, size_.threads, params_.data());
        }
        cuda_.synchronize();
    }
    unsigned read() override {
        unsigned value = 0;
        check_peer(peer_api().cuMemcpyDtoH_(&value, word_.address(), sizeof value), "reading the word");
        return value;
    }
    const PlainCuda& cuda_;
    CUfunction kernel_;
    PeerMemory word_;
    Image image_;
    std::vector<void*> params_;
};

struct Point {
    Size size;
    std::vector<double> us[2] = {};
};

int measure(const std::string& driver, bool over_blocks, int rounds, int many, const std::string& csv) {
    const bool gpu = driver == "cuda";
    if (const std::string why = gpu ? why_no_gpu() : ""; !why.empty()) {
        std::printf("no GPU here, nothing measured: %s\n", why.c_str());
        return kSkipped;
    }
    PrivateDaemon daemon(driver);
    const std::unique_ptr<PlainCuda> cuda = gpu ? std::make_unique<PlainCuda>() : nullptr;
    std::vector<Point> points;
    if (over_blocks)
        for (const std::uint32_t blocks : {1u, 10u, 100u, 1000u, 10'000u, 100'000u})
            points.push_back({grid(blocks, blocks <= 1000 ? many : many / (blocks <= 10'000 ? 10 : 40))});
    else
        for (const std::size_t numbers : {0, 4, 8, 16, 32, 64}) points.push_back({parameters(numbers, many)});
    const char* names[] = {"ringlaunch", "cuLaunchKernel"};
    for (Point& point : points) {
        // Open only while it is measured: each stream that is open costs the dispatcher a look.
        std::unique_ptr<Side> sides[2] = {
            std::make_unique<Ours>(point.size, daemon.client(), daemon.kernels())};
        if (cuda) sides[1] = std::make_unique<Plain>(point.size, *cuda);
        for (int round = -1; round < rounds; ++round)  // the first warms up
            for (int k = 0; k < (cuda ? 2 : 1); ++k) {
                const double us = sides[k]->sustained_us();
                if (round >= 0) point.us[k].push_back(us);
            }
        for (int k = 0; driver != "null" && k < (cuda ? 2 : 1); ++k) sides[k]->check(names[k]);
    }

    Report report(std::string("A launch by its ") + (over_blocks ? "blocks" : "parameters") +
                      ", many on one stream, " + daemon.client().daemon().device_name + " (" + driver +
                      " driver)",
                  {over_blocks ? "blocks" : "parameters", "us", "us_min", "us_max", "x_plain_rate"});
    for (int k = 0; k < (cuda ? 2 : 1); ++k)
        for (Point& point : points) {
            std::vector<double> ratios;
            for (std::size_t i = 0; cuda && i < point.us[0].size(); ++i)
                ratios.push_back(point.us[1][i] / point.us[k][i]);
            const double x = over_blocks ? point.size.blocks : static_cast<double>(point.size.numbers + 1);
            report.add(names[k], {x, quantile(point.us[k], 0.5), quantile(point.us[k], 0),
                                  quantile(point.us[k], 1), quantile(ratios, 0.5)});
        }
    report.along(over_blocks ? "blocks" : "parameters");
    char text[200];
    std::snprintf(
        text, sizeof text,
        "us a launch until all have completed, medians of %d rounds in turn, least and most; %s", rounds,
        over_blocks ? "blocks of 32 threads, five parameters" : "a pointer and numbers, all of which change");
    report.note(text);
    if (driver != "null") report.note("each launch changes a word, which was compared");
    report.note(setting(daemon.client()));
    return report.finish(csv);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("What a launch costs as it grows, through the daemon and by cuLaunchKernel.");
    std::string driver = "cuda", csv, over = "parameters";
    int rounds = 5, many = 20'000;
    app.add_option("--driver", driver, "The daemon's driver; any but cuda tries the program, without peers")
        ->capture_default_str();
    app.add_option("--over", over, "What grows")
        ->check(CLI::IsMember({"parameters", "blocks"}))
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Interleaved repetitions")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--many", many, "Launches a measurement; fewer of large grids")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);
    return run_benchmark([&] { return measure(driver, over == "blocks", rounds, many, csv); });
}
