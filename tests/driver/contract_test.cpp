// What every driver promises (daemon/driver/driver.hpp), on each driver that this machine can open.
#include <gmock/gmock.h>

#include <deque>
#include <functional>
#include <numeric>
#include <optional>
#include <random>

#include "harness.hpp"
#include "schema/version.hpp"
#include "tests/make_layout.hpp"

namespace ringlaunch::driver {
namespace {

using schema::RecordKind;
using Type = schema::ParamType;  // gtest has a ParamType of its own
using test::tile;
using testing::Each;
using testing::HasSubstr;

struct Case {
    DriverKind kind;
    bool runs_kernels;
    std::string image;  // kernels.cu, compiled for it
};

void PrintTo(const Case& of, std::ostream* out) {
    *out << schema::EnumNameDriverKind(of.kind);
}

class DriverContract : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        if (GetParam().kind == DriverKind::Cuda) {
            if (GetParam().image.empty())
                GTEST_SKIP() << "no nvcc was found when this was built, so there is no cubin of kernels.cu";
            const std::string missing = no_cuda_device();
            if (!missing.empty()) GTEST_SKIP() << missing;
        }
        rig.emplace(GetParam().kind);
        const std::string& found = rig->driver->device().architecture;
        if (GetParam().kind == DriverKind::Cuda && found != TEST_CUDA_ARCHITECTURE)
            GTEST_SKIP() << "kernels.cu was compiled for " TEST_CUDA_ARCHITECTURE ", this device is "
                         << found;
        module = load(*rig->driver, GetParam().image);
    }

    bool runs() const { return GetParam().runs_kernels; }
    Kernel* kernel(const std::string& name) { return find(*module, name); }
    // An address in the chunk.
    std::uint64_t at(std::uint64_t offset) const { return rig->base + offset; }

    std::optional<Rig> rig;
    std::unique_ptr<Module> module;
};

TEST_P(DriverContract, DescribesItsDevice) {
    const DeviceInfo& device = rig->driver->device();
    EXPECT_EQ(device.kind, GetParam().kind);
    EXPECT_FALSE(device.name.empty());
    EXPECT_FALSE(device.architecture.empty());
    EXPECT_EQ(device.range_base % device.chunk_bytes, 0u);
    EXPECT_EQ(device.range_bytes % device.chunk_bytes, 0u);
    EXPECT_EQ(device.staging_base % device.chunk_bytes, 0u);
    EXPECT_GE(device.staging_bytes, std::uint64_t{32} << 30);
    EXPECT_GE(device.max_param_bytes, kMaxParamBytes);
    EXPECT_EQ(rig->driver->failure(), std::nullopt);
}

TEST_P(DriverContract, LayoutsComeFromTheDeclaration) {
    const KernelLayout& layout = kernel("mixed")->layout();
    EXPECT_TRUE(layout.declared);
    ASSERT_EQ(layout.params.size(), 9u);
    const std::vector<std::tuple<Type, unsigned, unsigned>> expected = {
        {Type::Pointer, 0, 8}, {Type::Int8, 8, 1},     {Type::Int16, 10, 2},
        {Type::Bytes, 12, 12}, {Type::Float64, 24, 8}, {Type::Bool, 32, 1},
        {Type::UInt8, 33, 1},  {Type::Int64, 40, 8},   {Type::UInt32, 48, 4}};
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const Param& param = layout.params[i];
        EXPECT_EQ(std::tuple(param.type, param.offset, param.size), expected[i]) << "parameter " << i;
    }
    EXPECT_EQ(layout.param_bytes, 52u);
    EXPECT_EQ(kernel("nothing")->layout().param_bytes, 0u);
    EXPECT_TRUE(kernel("nothing")->layout().declared);
}

TEST_P(DriverContract, NewChunksAreZeroAndKeepWhatIsCopiedIn) {
    TestStream stream(*rig->driver);
    EXPECT_THAT(rig->read<std::uint64_t>(stream, at(0), Rig::kBytes / 8), Each(0u));
    std::vector<std::uint32_t> values(Rig::kBytes / 4);
    std::iota(values.begin(), values.end(), 1u);
    rig->write(stream, at(0), values);
    EXPECT_EQ(rig->read<std::uint32_t>(stream, at(0), values.size()), values);
}

TEST_P(DriverContract, AChunkIsMappedAgainFromItsDescriptor) {
    TestStream stream(*rig->driver);
    const std::vector<std::uint64_t> values = {11, 22, 33};
    rig->write(stream, at(4096), values);
    rig->driver->unmap_chunk(rig->base, Rig::kBytes);
    const std::uint64_t elsewhere = rig->base + 8 * Rig::kBytes;
    rig->driver->map_chunk(elsewhere, Rig::kBytes, rig->chunk);
    EXPECT_EQ(rig->read<std::uint64_t>(stream, elsewhere + 4096, 3), values);
    // The place is free again, and what is made there is new.
    const UniqueFd fresh = rig->driver->make_chunk(rig->base, Rig::kBytes);
    EXPECT_THAT(rig->read<std::uint64_t>(stream, at(4096), 3), Each(0u));
}

TEST_P(DriverContract, RefusesChunksThatDoNotFit) {
    const DeviceInfo& device = rig->driver->device();
    const auto make = [&](std::uint64_t address, std::uint64_t bytes) {
        return refusal(Status::invalid_argument, [&] { rig->driver->make_chunk(address, bytes); });
    };
    EXPECT_THAT(make(rig->base, Rig::kBytes), HasSubstr("is there"));
    EXPECT_THAT(make(rig->base + 4096, Rig::kBytes), HasSubstr("multiples"));
    EXPECT_THAT(make(rig->base + Rig::kBytes, 4096), HasSubstr("multiples"));
    EXPECT_THAT(make(rig->base + Rig::kBytes, 0), HasSubstr("multiples"));
    EXPECT_THAT(make(rig->base - Rig::kBytes, Rig::kBytes), HasSubstr("within"));
    EXPECT_THAT(make(device.range_base + device.range_bytes, Rig::kBytes), HasSubstr("within"));
    EXPECT_THAT(make(device.range_base + Rig::kBytes, device.range_bytes), HasSubstr("within"));
    const UniqueFd next = rig->driver->make_chunk(rig->base + 2 * Rig::kBytes, Rig::kBytes);
    EXPECT_THAT(make(rig->base + Rig::kBytes, 2 * Rig::kBytes), HasSubstr("is there"));
    EXPECT_NE(refusal(Status::not_found, [&] { rig->driver->unmap_chunk(rig->base, 2 * Rig::kBytes); }), "");
    EXPECT_NE(
        refusal(Status::not_found, [&] { rig->driver->unmap_chunk(rig->base + Rig::kBytes, Rig::kBytes); }),
        "");
}

TEST_P(DriverContract, FillsWithEveryWidth) {
    TestStream stream(*rig->driver);
    stream.fill(at(0), 1000, 0xab, 1);
    stream.fill(at(1000), 1000, 0xabcd, 2);
    stream.fill(at(2000), 1000, 0xdeadbeef, 4);
    stream.fill(at(3000), 4, 0x01020304, 4);
    EXPECT_THAT(rig->read<std::uint8_t>(stream, at(0), 1000), Each(0xab));
    EXPECT_THAT(rig->read<std::uint16_t>(stream, at(1000), 500), Each(0xabcd));
    EXPECT_THAT(rig->read<std::uint32_t>(stream, at(2000), 250), Each(0xdeadbeef));
    EXPECT_EQ(rig->read<std::uint32_t>(stream, at(3000), 2), (std::vector<std::uint32_t>{0x01020304, 0}));
}

TEST_P(DriverContract, CopiesOnTheDevice) {
    TestStream stream(*rig->driver);
    std::vector<std::uint16_t> values(3000);
    std::iota(values.begin(), values.end(), std::uint16_t{5});
    rig->write(stream, at(128), values);
    stream.copy(RecordKind::CopyOnDevice, at(100'000), values.size() * 2, nullptr, 0, at(128));
    EXPECT_EQ(rig->read<std::uint16_t>(stream, at(100'000), values.size()), values);
}

TEST_P(DriverContract, CopiesUseTheirOffsetInTheStaging) {
    TestStream stream(*rig->driver);
    rig->write(stream, at(0), std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6, 7, 8});
    stream.copy(RecordKind::CopyToDevice, at(100), 3, rig->staging.get(), 2);
    EXPECT_EQ(rig->read<std::uint8_t>(stream, at(100), 4), (std::vector<std::uint8_t>{3, 4, 5, 0}));
}

TEST_P(DriverContract, CopiesOfALargeStagingSegmentStartAndEndAnywhere) {
    constexpr std::uint64_t kMiB = std::uint64_t{1} << 20, kBytes = 100 * kMiB;
    TestStream stream(*rig->driver);
    const std::uint64_t device = rig->base + Rig::kBytes;
    const UniqueFd chunk = rig->driver->make_chunk(device, kBytes);
    const UniqueFd segment = make_memfd("large", kBytes);
    seal(segment, Sealing::shared, "large");
    const Mapping view(segment, kBytes, Mapping::Access::read_write, "large");
    auto* const words = view.as<std::uint32_t>();
    const std::unique_ptr<Staging> large =
        rig->driver->map_staging(rig->driver->device().staging_base + Rig::kBytes, segment, kBytes);
    ASSERT_EQ(large->size(), kBytes);
    const auto value = [](std::size_t i) { return static_cast<std::uint32_t>(i * 2654435761u); };
    for (std::size_t i = 0; i < kBytes / 4; ++i) words[i] = value(i);
    stream.copy(RecordKind::CopyToDevice, device, kBytes, large.get(), 0);
    ASSERT_TRUE(stream.finish());
    std::memset(view.data(), 0, kBytes);
    // Across borders, up to one, from one, and what is left.
    std::uint64_t at = 0;
    for (const std::uint64_t end : {16 * kMiB - 4, 16 * kMiB + 4, 64 * kMiB, 64 * kMiB + 4096, kBytes}) {
        stream.copy(RecordKind::CopyToHost, device + at, end - at, large.get(), at);
        at = end;
    }
    ASSERT_TRUE(stream.finish());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < kBytes / 4; ++i) wrong += words[i] != value(i);
    EXPECT_EQ(wrong, 0u);
}

// A segment as the test and the device see it.
class SharedSegment {
  public:
    explicit SharedSegment(std::uint64_t bytes)
        : fd(make_memfd("segment", bytes)),
          view((seal(fd, Sealing::shared, "segment"), fd), bytes, Mapping::Access::read_write, "segment") {}
    UniqueFd fd;
    Mapping view;
};

TEST_P(DriverContract, KernelsReadAndWriteStagingMemoryWhereItIsMapped) {
    TestStream stream(*rig->driver);
    const std::uint64_t base = rig->driver->device().staging_base + 3 * Rig::kBytes;
    SharedSegment shared(Rig::kBytes);
    std::unique_ptr<Staging> staging = rig->driver->map_staging(base, shared.fd, Rig::kBytes);
    auto* const words = shared.view.as<unsigned>();
    const auto append = [&](unsigned value) {
        stream.launch(kernel("append"), {}, {},
                      pack(device_pointer<unsigned>(base + 4096), device_pointer<unsigned>(base), value));
    };
    words[0] = 5;
    append(70);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(words[0], runs() ? 6u : 5u);
    EXPECT_EQ(words[1024 + 5], runs() ? 70u : 0u);
    // The next executor has it at the same place.
    staging.reset();
    staging = rig->driver->map_staging(base, shared.fd, Rig::kBytes);
    append(71);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(words[0], runs() ? 7u : 5u);
    EXPECT_EQ(words[1024 + 6], runs() ? 71u : 0u);
}

TEST_P(DriverContract, RefusesStagingThatDoesNotFit) {
    const DeviceInfo& device = rig->driver->device();
    const std::uint64_t base = device.staging_base, unit = device.chunk_bytes;
    SharedSegment shared(4096);
    const auto map = [&](std::uint64_t address) {
        return refusal(Status::invalid_argument,
                       [&] { (void)rig->driver->map_staging(address, shared.fd, 4096); });
    };
    EXPECT_THAT(map(base), HasSubstr("is there"));  // the rig's
    EXPECT_THAT(map(base + unit + 4096), HasSubstr("multiples"));
    EXPECT_THAT(map(base - unit), HasSubstr("within"));
    EXPECT_THAT(map(base + device.staging_bytes), HasSubstr("within"));
    // A segment that its owner could shrink, and one that is shorter than was said.
    const UniqueFd open = make_memfd("open", 4096);
    EXPECT_THROW((void)rig->driver->map_staging(base + unit, open, 4096), Error);
    EXPECT_THROW((void)rig->driver->map_staging(base + unit, shared.fd, 1 << 20), Error);
    EXPECT_NE(rig->driver->map_staging(base + unit, shared.fd, 4096), nullptr) << "nothing of these stays";
}

TEST_P(DriverContract, RunsLaunchesInOrder) {
    constexpr unsigned kLaunches = 3000;
    TestStream stream(*rig->driver);
    for (unsigned i = 0; i < kLaunches; ++i)
        stream.launch(kernel("append"), {}, {},
                      pack(device_pointer<unsigned>(at(64)), device_pointer<unsigned>(at(0)), i));
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(stream.completed(), stream.position());
    std::vector<unsigned> expected(kLaunches);
    if (runs()) std::iota(expected.begin(), expected.end(), 0u);
    EXPECT_EQ(rig->read<unsigned>(stream, at(64), kLaunches), expected);
    EXPECT_EQ(rig->read<unsigned>(stream, at(0), 1), std::vector<unsigned>{runs() ? kLaunches : 0});
}

TEST_P(DriverContract, CompletedNeverRunsAhead) {
    TestStream stream(*rig->driver, 1000);
    EXPECT_EQ(stream.completed(), 1000u);
    std::uint64_t last = 1000;
    for (int i = 0; i < 2000; ++i) {
        stream.launch(kernel("nothing"), {}, {});
        const std::uint64_t now = stream.completed();
        EXPECT_GE(now, last);
        EXPECT_LE(now, stream.position());
        last = now;
    }
    EXPECT_TRUE(stream.finish());
}

TEST_P(DriverContract, ChainsDoWhatSinglesDo) {
    TestStream singles(*rig->driver), chains(*rig->driver);
    std::mt19937 random(1);
    std::vector<std::vector<std::byte>> params_of_singles, params_of_chains;
    constexpr unsigned kLaunches = 500;
    for (unsigned i = 0; i < kLaunches; ++i) {
        const unsigned value = static_cast<unsigned>(random());
        params_of_singles.push_back(
            pack(device_pointer<unsigned>(at(64)), device_pointer<unsigned>(at(0)), value));
        params_of_chains.push_back(
            pack(device_pointer<unsigned>(at(65536 + 64)), device_pointer<unsigned>(at(65536)), value));
    }
    for (const auto& params : params_of_singles) singles.launch(kernel("append"), {}, {}, params);

    std::vector<Launch> chain;
    for (unsigned i = 0; i < kLaunches;) {
        const unsigned length = std::min<unsigned>(1 + static_cast<unsigned>(random() % 90), kLaunches - i);
        chain.clear();
        for (unsigned k = 0; k < length; ++k)
            chain.push_back(TestStream::make_launch(kernel("append"), {}, {}, params_of_chains[i + k],
                                                    chains.position() + k));
        for (std::size_t done = 0; done < chain.size();) {
            std::size_t taken = 0;
            Status status = Status::ok;
            ASSERT_TRUE(eventually([&] {
                status = (*chains).launch_chain(std::span(chain).subspan(done), taken);
                return status != Status::ring_full || taken > 0;
            }));
            ASSERT_LE(taken, chain.size() - done);
            if (status == Status::ok) {
                ASSERT_EQ(taken, chain.size() - done);
            }
            done += taken;
        }
        i += length;
        chains.moved_to(chains.position() + length);
    }
    ASSERT_TRUE(singles.finish());
    ASSERT_TRUE(chains.finish());
    EXPECT_EQ(chains.completed(), singles.completed());
    const auto expected = rig->read<unsigned>(singles, at(0), kLaunches + 16);
    EXPECT_EQ(rig->read<unsigned>(chains, at(65536), kLaunches + 16), expected);
    EXPECT_EQ(expected[0], runs() ? kLaunches : 0);
}

// As in kernels.cu.
struct Long {
    unsigned words[1000];
};

// Launches of all kinds, long and short, with copies and fills between them, that read what the ones before
// wrote: given one by one, each as it is, and given as backlogs of every length that the driver may cut as it
// likes.
TEST_P(DriverContract, BacklogsOfAnythingDoWhatSinglesDo) {
    constexpr std::uint64_t kRegion = 1u << 20;
    constexpr int kOperations = 6000;
    TestStream singles(*rig->driver, 0, 64, false), backlogs(*rig->driver);
    const auto run = [&](TestStream& stream, std::uint64_t base, bool together) {
        std::mt19937 random(7);
        const auto below = [&](unsigned bound) { return static_cast<unsigned>(random() % bound); };
        std::deque<std::vector<std::byte>> params;  // which the launches point to
        std::vector<Launch> backlog;
        const auto flush = [&] {
            if (together) {
                stream.launch_chain(backlog);
            } else {
                for (const Launch& launch : backlog) stream.launch_chain({&launch, 1});
            }
            backlog.clear();
            params.clear();
        };
        const auto add = [&](const char* name, Dim3 grid, Dim3 block, std::vector<std::byte> packed) {
            params.push_back(std::move(packed));
            backlog.push_back(TestStream::make_launch(kernel(name), grid, block, params.back(),
                                                      stream.position() + backlog.size()));
        };
        const std::uint64_t log = base + 4096, floats = base + 512 * 1024, sums = base + 768 * 1024;
        unsigned length = 1;
        for (int i = 0; i < kOperations; ++i) {
            switch (below(40)) {
                case 0:
                    flush();
                    stream.fill(floats + 4 * below(64), 64, 0x3f800000 + below(1000), 4);
                    break;
                case 1:
                    flush();
                    stream.copy(RecordKind::CopyOnDevice, sums + 8 * below(1000), 8, nullptr, 0, base);
                    break;
                case 2:
                case 3: {
                    Long values{};
                    for (unsigned& word : values.words) word = static_cast<unsigned>(random());
                    add("sum_long", {}, {},
                        pack(device_pointer<unsigned long long>(sums + 8 * below(1000)), values));
                    break;
                }
                case 4:
                case 5:
                    add("indices", {1 + below(3), 1 + below(3), 1 + below(2)},
                        {1 + below(8), 1 + below(4), 1}, pack(device_pointer<unsigned>(base + 900 * 1024)));
                    break;
                case 6:
                    add("nothing", {1 + below(100)}, {32}, {});
                    break;
                case 7:
                case 8:
                case 9:
                    add("count_up", {1 + below(3)}, {1 + below(2)}, pack(device_pointer<unsigned>(base)));
                    break;
                case 10:
                case 11:
                case 12:
                case 13:
                    add("scale", {1 + below(4)}, {32},
                        pack(device_pointer<float>(floats), 1.0f + static_cast<float>(below(7)) / 8,
                             static_cast<int>(below(100))));
                    break;
                default:  // where it writes says how often count_up ran before it
                    add("append", {}, {},
                        pack(device_pointer<unsigned>(log), device_pointer<unsigned>(base),
                             static_cast<unsigned>(i)));
            }
            if (backlog.size() >= length) {
                flush();
                length = below(3) == 0 ? 1 + below(3) : 1 + below(90);
            }
        }
        flush();
        ASSERT_TRUE(stream.finish());
    };
    run(singles, at(0), false);
    run(backlogs, at(kRegion), true);
    EXPECT_EQ(singles.completed(), backlogs.completed());
    const auto expected = rig->read<std::uint32_t>(singles, at(0), kRegion / 4);
    EXPECT_EQ(rig->read<std::uint32_t>(backlogs, at(kRegion), kRegion / 4), expected);
    if (runs()) {
        EXPECT_GT(expected[0], unsigned{kOperations / 2});
    }
}

// A module goes while a stream knows its kernels from backlogs; another takes its place in memory.
TEST_P(DriverContract, AModuleMayGoWhileItsStreamLives) {
    TestStream stream(*rig->driver);
    unsigned launches = 0;
    const auto backlog = [&](Module& first, Module& second) {
        const auto params = pack(device_pointer<unsigned>(at(0)));
        std::vector<Launch> all;
        for (unsigned i = 0; i < 60; ++i)
            all.push_back(TestStream::make_launch(find(i % 3 == 0 ? first : second, "count_up"), {}, {},
                                                  params, stream.position() + i));
        stream.launch_chain(all);
        for (unsigned i = 0; i < 10; ++i) stream.launch(find(first, "count_up"), {}, {}, params);
        launches += 70;
    };
    for (int round = 0; round < 10; ++round) {
        const std::unique_ptr<Module> other = load(*rig->driver, GetParam().image);
        for (int i = 0; i < 10; ++i) backlog(*other, *module);
        ASSERT_TRUE(stream.finish());
        (*stream).forget(*other);
    }
    for (int i = 0; i < 10; ++i) backlog(*module, *module);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(rig->read<unsigned>(stream, at(0), 1), std::vector<unsigned>{runs() ? launches : 0});
}

// What the device does not take in the middle of a backlog: all before it ran, it and what follows did not.
TEST_P(DriverContract, ALaunchThatIsRefusedEndsABacklogThere) {
    if (GetParam().kind != DriverKind::Cuda) GTEST_SKIP() << "this driver takes every launch";
    TestStream stream(*rig->driver);
    const auto params = pack(device_pointer<unsigned>(at(0)));
    unsigned expected = 0;
    for (const std::size_t bad : {0u, 1u, 5u, 31u, 40u, 59u}) {
        for (int again = 0; again < 5; ++again) {
            std::vector<Launch> all;
            for (unsigned i = 0; i < 60; ++i)
                all.push_back(
                    TestStream::make_launch(kernel("count_up"), {}, {}, params, stream.position() + i));
            stream.launch_chain(all);
            expected += 60;
            for (unsigned i = 0; i < 60; ++i) {
                all[i].position = stream.position() + i;
                all[i].end = all[i].position + 1;
            }
            all[bad].shared_bytes = 1u << 20;
            std::size_t taken = 0;
            EXPECT_EQ((*stream).launch_chain(all, taken), Status::driver_failed);
            EXPECT_EQ(taken, bad);
            EXPECT_THAT((*stream).why(), HasSubstr("CUDA_ERROR"));
            stream.moved_to(stream.position() + taken);
            expected += static_cast<unsigned>(taken);
        }
    }
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(rig->read<unsigned>(stream, at(0), 1), std::vector<unsigned>{expected});
}

TEST_P(DriverContract, WaitsOrderStreams) {
    // Each turn reads what the other stream wrote in the turn before: one word that travels between two
    // streams.
    TestStream left(*rig->driver), right(*rig->driver);
    for (int turn = 0; turn < 300; ++turn) {
        left.fill(at(0), 4, static_cast<std::uint32_t>(turn + 1), 4);
        right.wait(left, left.position());
        right.copy(RecordKind::CopyOnDevice, at(4096 + 4 * static_cast<std::uint64_t>(turn)), 4, nullptr, 0,
                   at(0));
        left.wait(right, right.position());
    }
    ASSERT_TRUE(left.finish());
    ASSERT_TRUE(right.finish());
    std::vector<std::uint32_t> expected(300);
    std::iota(expected.begin(), expected.end(), 1u);
    EXPECT_EQ(rig->read<std::uint32_t>(right, at(4096), 300), expected);
}

// Alone and in backlogs: kernels that wait for another stream's get what they wait for.
TEST_P(DriverContract, StreamsThatDoNotDependOnEachOtherRunAtTheSameTime) {
    if (!runs()) GTEST_SKIP() << "this driver runs no kernels";
    const std::vector<std::byte> flag = pack(device_pointer<unsigned>(at(0)));
    for (const std::size_t length : {1, 4, 32}) {
        TestStream waiting(*rig->driver), other(*rig->driver);
        const auto launch = [&](TestStream& stream, const char* name) {
            std::vector<Launch> backlog;
            for (std::size_t i = 0; i < length; ++i)
                backlog.push_back(TestStream::make_launch(kernel(name), {}, {}, flag, stream.position() + i));
            stream.launch_chain(backlog);
        };
        // First with the flag up, until launch graphs are there.
        waiting.fill(at(0), 4, 1, 4);
        ASSERT_TRUE(waiting.finish());
        for (int i = 0; i < 10; ++i) {
            launch(waiting, "hold");
            launch(other, "count_up");
        }
        ASSERT_TRUE(other.finish());
        waiting.fill(at(0), 4, 0, 4);
        ASSERT_TRUE(waiting.finish());
        launch(waiting, "hold");
        launch(other, "count_up");
        EXPECT_TRUE(other.finish()) << "backlogs of " << length;
        EXPECT_TRUE(waiting.finish()) << "backlogs of " << length;
    }
}

TEST_P(DriverContract, SeveralStreamsWaitForOne) {
    TestStream first(*rig->driver);
    std::deque<TestStream> others;
    for (int i = 0; i < 5; ++i) others.emplace_back(*rig->driver);
    first.fill(at(0), 1 << 20, 0x5a, 1);
    for (std::uint64_t i = 0; i < others.size(); ++i) {
        others[i].wait(first, first.position());
        others[i].copy(RecordKind::CopyOnDevice, at((1 << 20) + 4096 * i), 4096, nullptr, 0,
                       at((1 << 20) - 4096));
    }
    for (TestStream& other : others) ASSERT_TRUE(other.finish());
    EXPECT_THAT(rig->read<std::uint8_t>(first, at(1 << 20), 4096 * others.size()), Each(0x5a));
}

TEST_P(DriverContract, AWaitForItsOwnPastHoldsNothing) {
    TestStream stream(*rig->driver);
    stream.fill(at(0), 64, 1, 1);
    stream.wait(stream, stream.position());
    EXPECT_TRUE(stream.finish());
}

TEST_P(DriverContract, RefusesToWaitForWhatWasNotIssued) {
    TestStream waiter(*rig->driver), awaited(*rig->driver, 10);
    awaited.fill(at(0), 4, 1, 4);
    EXPECT_EQ((*waiter).wait(*awaited, 12, 1), Status::invalid_argument);
    EXPECT_EQ((*waiter).wait(*awaited, 11, 1), Status::ok);
    waiter.moved_to(1);
    EXPECT_TRUE(waiter.finish());
}

class CompletionFd {
  public:
    explicit CompletionFd(int fd) : fd_(fd) {}
    bool signalled(int timeout_ms) const {
        pollfd poll_for{fd_, POLLIN, 0};
        return ::poll(&poll_for, 1, timeout_ms) == 1;
    }
    std::uint64_t take() const {
        std::uint64_t count = 0;
        return ::read(fd_, &count, sizeof(count)) == sizeof(count) ? count : 0;
    }

  private:
    int fd_;
};

TEST_P(DriverContract, NotifiesOnceForAPositionThatHasCompleted) {
    TestStream stream(*rig->driver);
    const CompletionFd wake(rig->driver->completion_fd());
    EXPECT_FALSE(wake.signalled(0));
    stream.fill(at(0), 64, 1, 1);
    ASSERT_TRUE(stream.finish());
    EXPECT_FALSE(wake.signalled(0)) << "nobody asked";
    (*stream).notify_at(stream.position());
    ASSERT_TRUE(wake.signalled(20'000));
    EXPECT_EQ(wake.take(), 1u);
    stream.fill(at(0), 64, 1, 1);
    ASSERT_TRUE(stream.finish());
    EXPECT_FALSE(wake.signalled(0)) << "told once";
}

TEST_P(DriverContract, NotifiesForPositionsStillToCome) {
    TestStream stream(*rig->driver, 0, 256);
    const CompletionFd wake(rig->driver->completion_fd());
    for (int turn = 0; turn < 200; ++turn) {
        for (int i = 0; i < 3; ++i) stream.fill(at(0), 64, 1, 1);
        ASSERT_EQ((*stream).complete(stream.position()), Status::ok);
        (*stream).notify_at(stream.position());
        ASSERT_TRUE(wake.signalled(20'000)) << "turn " << turn;
        EXPECT_GE(stream.completed(), stream.position());
        EXPECT_GE(wake.take(), 1u);
    }
}

TEST_P(DriverContract, CountsPositionsInSixtyFourBits) {
    const std::uint64_t start = (std::uint64_t{1} << 40) - 3;
    TestStream stream(*rig->driver, start), other(*rig->driver, (std::uint64_t{1} << 62) - 1);
    for (int i = 0; i < 10; ++i) {
        stream.fill(at(0), 64, 1, 1);
        other.wait(stream, stream.position());
    }
    ASSERT_TRUE(stream.finish());
    ASSERT_TRUE(other.finish());
    EXPECT_EQ(stream.completed(), start + 10);
    EXPECT_EQ(other.completed(), (std::uint64_t{1} << 62) + 9);
}

TEST_P(DriverContract, RecordsMayBeSeveralSlotsLong) {
    TestStream stream(*rig->driver, 100);
    Fill fill;
    fill.position = 100;
    fill.end = 107;
    fill.device = at(0);
    fill.bytes = 4;
    ASSERT_EQ((*stream).fill(fill), Status::ok);
    stream.moved_to(107);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(stream.completed(), 107u);
}

TEST_P(DriverContract, CompletesPositionsThatNoOperationStandsFor) {
    // Padding and events take positions, too.
    TestStream stream(*rig->driver, 100), other(*rig->driver);
    stream.moved_to(105);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(stream.completed(), 105u);
    stream.fill(at(0), 64, 1, 1);
    stream.moved_to(110);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(stream.completed(), 110u);
    ASSERT_TRUE(stream.finish()) << "asked twice";
    other.wait(stream, 110);
    EXPECT_TRUE(other.finish());
}

TEST_P(DriverContract, DrainsWhatWasIssued) {
    TestStream stream(*rig->driver, 0, 256);
    for (int i = 0; i < 100; ++i) stream.fill(at(0), 65536, 1, 1);
    ASSERT_EQ((*stream).complete(stream.position()), Status::ok);
    EXPECT_TRUE((*stream).drain(20'000'000'000));
    EXPECT_EQ(stream.completed(), 100u);
    EXPECT_TRUE((*stream).drain(0)) << "nothing is left";
}

TEST_P(DriverContract, TheLongestParametersArriveWhole) {
    TestStream stream(*rig->driver);
    Long values;
    for (unsigned turn = 0; turn < 40; ++turn) {
        for (unsigned i = 0; i < 1000; ++i) values.words[i] = i * turn;
        stream.launch(kernel("sum_long"), {}, {},
                      pack(device_pointer<std::uint64_t>(at(8 * std::uint64_t{turn})), values));
    }
    std::vector<std::uint64_t> expected(40);
    if (runs())
        for (std::uint64_t turn = 0; turn < 40; ++turn) expected[turn] = turn * 999 * 1000 / 2;
    EXPECT_EQ(rig->read<std::uint64_t>(stream, at(0), 40), expected);
}

TEST_P(DriverContract, AConfiguredKernelIsMadeOnceAndRunsInOrderWithItsPlainSelf) {
    LaunchAttributes programmatic;
    programmatic.programmatic = true;
    Kernel* const plain = kernel("append");
    Kernel& made = module->configure(*plain, programmatic);
    EXPECT_EQ(&module->configure(*plain, programmatic), &made);
    EXPECT_NE(&made, plain);
    EXPECT_EQ(made.layout().attributes, programmatic);
    EXPECT_EQ(plain->layout().attributes, LaunchAttributes{});
    EXPECT_EQ(made.layout().params.size(), plain->layout().params.size());
    TestStream stream(*rig->driver);
    for (unsigned i = 0; i < 100; ++i)
        stream.launch(i % 2 == 0 ? plain : &made, {}, {},
                      pack(device_pointer<unsigned>(at(64)), device_pointer<unsigned>(at(0)), i));
    std::vector<unsigned> expected(100);
    if (runs()) std::iota(expected.begin(), expected.end(), 0u);
    EXPECT_EQ(rig->read<unsigned>(stream, at(64), 100), expected);
}

TEST_P(DriverContract, ClustersAndCooperativeLaunchesWorkOrAreRefusedWhereTheyAreConfigured) {
    LaunchAttributes clusters, cooperative;
    clusters.cluster = {2, 1, 1};
    cooperative.cooperative = true;
    Kernel& plain = *kernel("indices");
    if (GetParam().kind == DriverKind::Host) {
        for (const LaunchAttributes& each : {clusters, cooperative})
            EXPECT_THAT(refusal(Status::unsupported, [&] { module->configure(plain, each); }),
                        HasSubstr("kernel 'indices'"));
        return;
    }
    TestStream stream(*rig->driver);
    std::vector<unsigned> expected(4 * 32);
    if (runs()) std::iota(expected.begin(), expected.end(), 1u);
    for (const LaunchAttributes& each : {clusters, cooperative}) {
        stream.fill(at(0), 4096, 0, 4);
        stream.launch(&module->configure(plain, each), {4, 1, 1}, {32, 1, 1},
                      pack(device_pointer<unsigned>(at(0))));
        EXPECT_EQ(rig->read<unsigned>(stream, at(0), expected.size()), expected);
    }
}

TEST_P(DriverContract, RefusesAttributesThatCannotBe) {
    const auto refuse = [&](Dim3 cluster) {
        LaunchAttributes attributes;
        attributes.cluster = cluster;
        return refusal(Status::invalid_argument, [&] { module->configure(*kernel("nothing"), attributes); });
    };
    EXPECT_THAT(refuse({1, 0, 1}), HasSubstr("at least one block"));
    if (GetParam().kind == DriverKind::Cuda) {
        EXPECT_THAT(refuse({64, 1, 1}), HasSubstr("a cluster of 64 x 1 x 1 blocks, at most"));
        EXPECT_THAT(refuse({~0u, ~0u, ~0u}), HasSubstr("at most"));
    }
}

TEST_P(DriverContract, ALaunchThatIsRefusedHarmsNothing) {
    if (GetParam().kind != DriverKind::Cuda)
        GTEST_SKIP() << "what has come so far fits everywhere on this driver";
    TestStream stream(*rig->driver), other(*rig->driver);
    LaunchAttributes cooperative;
    cooperative.cooperative = true;
    Kernel& together = module->configure(*kernel("nothing"), cooperative);
    EXPECT_EQ(stream.try_launch(&together, {1u << 20, 1, 1}, {1024, 1, 1}), Status::grid_too_large);
    EXPECT_THAT((*stream).why(), HasSubstr("at most"));
    const std::vector<std::byte> none;
    Launch wide = TestStream::make_launch(kernel("nothing"), {}, {2048, 1, 1}, none, stream.position());
    EXPECT_EQ((*stream).launch(wide), Status::driver_failed);
    EXPECT_THAT((*stream).why(), HasSubstr("CUDA_ERROR_INVALID_VALUE"));
    Launch greedy = TestStream::make_launch(kernel("nothing"), {}, {}, none, stream.position());
    greedy.shared_bytes = 1u << 20;
    EXPECT_EQ((*stream).launch(greedy), Status::driver_failed);
    EXPECT_EQ(rig->driver->failure(), std::nullopt);
    for (TestStream* each : {&stream, &other}) {
        each->fill(at(0), 64, 7, 1);
        EXPECT_TRUE(each->finish());
    }
}

TEST_P(DriverContract, AKernelMayHaveMoreThan48KiBOfDynamicSharedMemory) {
    if (GetParam().kind != DriverKind::Cuda) GTEST_SKIP() << "kernels of this driver have no shared memory";
    constexpr std::uint32_t kBytes = 100 * 1024;
    const auto gpu_kernels = load(*rig->driver, TEST_GPU_KERNELS);
    Kernel* const through = find(*gpu_kernels, "through_shared");
    ASSERT_GE(through->layout().max_dynamic_shared_bytes, kBytes);
    EXPECT_GT(through->layout().registers, 0u);
    TestStream stream(*rig->driver);
    const std::vector<std::byte> params =
        pack(device_pointer<unsigned>(at(0)), static_cast<unsigned>(kBytes / 4));
    Launch launch = TestStream::make_launch(through, {}, {256, 1, 1}, params, stream.position());
    launch.shared_bytes = kBytes;
    ASSERT_EQ((*stream).launch(launch), Status::ok);
    stream.moved_to(stream.position() + 1);
    std::vector<unsigned> expected(kBytes / 4);
    std::iota(expected.rbegin(), expected.rend(), 0u);
    EXPECT_EQ(rig->read<unsigned>(stream, at(0), expected.size()), expected);
}

TEST_P(DriverContract, ThreadsHaveTheStackThatTheyWereGiven) {
    EXPECT_TRUE(rig->driver->has_stack(0));
    EXPECT_TRUE(rig->driver->has_stack(1024));
    if (!rig->driver->has_stack(16 << 10)) rig->driver->give_stack(16 << 10);
    EXPECT_TRUE(rig->driver->has_stack(16 << 10));
    if (GetParam().kind == DriverKind::Null) return;
    const Status expected = GetParam().kind == DriverKind::Cuda ? Status::out_of_memory : Status::unsupported;
    EXPECT_THAT(refusal(expected, [&] { static_cast<void>(rig->driver->has_stack(std::uint64_t{1} << 40)); }),
                HasSubstr("1099511627776"));
    EXPECT_TRUE(rig->driver->has_stack(16 << 10));
}

TEST_P(DriverContract, RefusesWhatIsNotAnImage) {
    const auto refuse = [&](std::vector<std::byte> bytes) {
        return refusal(Status::bad_image, [&] {
            rig->driver->load_module("mine", make_image("mine", bytes), bytes.size(), {});
        });
    };
    const auto text = [&](std::string_view from) {
        const auto bytes = std::as_bytes(std::span(from));
        return refuse({bytes.begin(), bytes.end()});
    };
    EXPECT_THAT(text(".version 8.0\n.target sm_90\n.address_size 64\nnonsense"), HasSubstr("PTX text"));
    EXPECT_THAT(text("extern \"C\" __global__ void f() {}"), HasSubstr("source text"));
    EXPECT_THAT(text("!<arch>\nlib.o/"), HasSubstr("static library"));
    EXPECT_THAT(text("\x50\xed\x55\xba rest of it"), HasSubstr("fat binary"));
    EXPECT_THAT(text("\xb1\x43\x62\x46 and an address"), HasSubstr("the wrapper of a fat binary"));
    EXPECT_THAT(text("\x01\x02\x03"), HasSubstr("3 bytes of an unknown kind that begin with 01 02 03"));
    const std::string program = refuse(read_file("/proc/self/exe"));
    EXPECT_THAT(program, HasSubstr("for x86-64"));
    EXPECT_THAT(program, HasSubstr("cannot load module 'mine'"));
    auto cut = read_file(GetParam().image);
    cut.resize(cut.size() / 2);
    EXPECT_THAT(refuse(cut), HasSubstr("damaged"));
    EXPECT_THAT(
        refusal(Status::bad_image, [&] { rig->driver->load_module("mine", make_memfd("x", 1), 0, {}); }),
        HasSubstr("empty"));
    EXPECT_THAT(refusal(Status::bad_image, [&] { rig->driver->load_module("", make_memfd("x", 1), 0, {}); }),
                HasSubstr("cannot load module (without a name)"));
    // An image that its sender could still change.
    EXPECT_THAT(
        refusal(Status::bad_seals, [&] { rig->driver->load_module("mine", make_memfd("x", 100), 100, {}); }),
        HasSubstr("sealed"));
}

TEST_P(DriverContract, TakesSignaturesThatAgreeWithTheImage) {
    const auto given = load(
        *rig->driver, GetParam().image,
        {{"scale", {{Type::Pointer, 0, 8, "x"}, {Type::Float32, 8, 4, "by"}, {Type::Int32, 12, 4, "n"}}}});
    EXPECT_EQ(find(*given, "scale")->layout().params[1].name, "by");
    // Sizes and offsets may be left out.
    const auto natural =
        load(*rig->driver, GetParam().image,
             {{"scale", {{Type::Pointer, 0, 0, ""}, {Type::Float32, 0, 0, ""}, {Type::Int32, 0, 0, ""}}}});
    EXPECT_EQ(find(*natural, "scale")->layout().params[2].offset, 12u);
}

TEST_P(DriverContract, RefusesSignaturesThatContradictTheImage) {
    const auto refuse = [&](const std::string& name, std::vector<Param> params) {
        return refusal(Status::bad_image, [&] { load(*rig->driver, GetParam().image, {{name, params}}); });
    };
    const std::string size =
        refuse("scale", {{Type::Pointer, 0, 8, ""}, {Type::Float64, 8, 8, ""}, {Type::Int32, 16, 4, ""}});
    EXPECT_THAT(size, HasSubstr("kernel 'scale': parameter 1"));
    EXPECT_THAT(size, HasSubstr("8 bytes at offset 8"));
    EXPECT_THAT(size, HasSubstr("4 bytes at offset 8"));
    EXPECT_THAT(refuse("scale", {{Type::Pointer, 0, 8, ""}}), HasSubstr("1 parameters"));
    EXPECT_THAT(refuse("missing", {}), HasSubstr("'missing', which the image does not have"));
    EXPECT_THAT(
        refuse("scale", {{Type::Unknown, 0, 8, ""}, {Type::Float32, 8, 4, ""}, {Type::Int32, 12, 4, ""}}),
        HasSubstr("no type that is known"));
    EXPECT_THAT(refuse("scale", {{Type::Pointer, 0, 4, ""}}), HasSubstr("which has 8 bytes, with 4"));
}

TEST_P(DriverContract, OneModuleIsNotAnother) {
    TestStream stream(*rig->driver);
    const auto again = load(*rig->driver, GetParam().image);
    EXPECT_EQ(again->kernels().size(), module->kernels().size());
    EXPECT_NE(find(*again, "append"), kernel("append"));
    module.reset();
    stream.launch(find(*again, "append"), {}, {},
                  pack(device_pointer<unsigned>(at(64)), device_pointer<unsigned>(at(0)), 5u));
    EXPECT_EQ(rig->read<unsigned>(stream, at(0), 1), std::vector<unsigned>{runs() ? 1u : 0u});
}

// ---- graphs

TEST_P(DriverContract, AGraphRunsItsSequenceInOrderEachTime) {
    TestStream stream(*rig->driver);
    const auto log = device_pointer<unsigned>(at(64)), count = device_pointer<unsigned>(at(0));
    const auto first = pack(log, count, 1u), second = pack(log, count, 2u);
    Fill fill;
    fill.device = at(4096);
    fill.bytes = 16;
    fill.value = 0xabcd0123;
    fill.width = 4;
    Copy copy;
    copy.kind = RecordKind::CopyOnDevice;
    copy.device = at(8192);
    copy.source = at(4096);
    copy.bytes = 16;
    const auto launch = [&](const std::vector<std::byte>& params) {
        return TestStream::make_launch(kernel("append"), {}, {}, params, 0);
    };
    const std::vector<GraphNode> nodes{launch(first), fill, launch(second), copy};
    const std::unique_ptr<Graph> graph = rig->driver->make_graph(nodes);
    for (int i = 0; i < 3; ++i) stream.launch_graph(*graph);
    stream.launch(kernel("append"), {}, {}, pack(log, count, 9u));
    EXPECT_THAT(rig->read<unsigned>(stream, at(8192), 4), Each(0xabcd0123u));
    if (!runs()) return;
    EXPECT_EQ(rig->read<unsigned>(stream, at(64), 7), (std::vector<unsigned>{1, 2, 1, 2, 1, 2, 9}));
}

TEST_P(DriverContract, AnUpdateOfAGraphIsForTheLaunchesBehindIt) {
    TestStream stream(*rig->driver);
    const auto log = device_pointer<unsigned>(at(64)), count = device_pointer<unsigned>(at(0));
    const auto params = pack(log, count, 0u);
    std::vector<GraphNode> nodes;
    for (int i = 0; i < 10; ++i)
        nodes.push_back(TestStream::make_launch(kernel("append"), {}, {}, params, 0));
    const std::unique_ptr<Graph> graph = rig->driver->make_graph(nodes);
    // Many in flight, each with another value in another node: none may see a later one's.
    std::vector<unsigned> expected, now(10);
    for (unsigned i = 1; i <= 40; ++i) {
        const auto changed = pack(log, count, i);
        const std::size_t node = i * 7 % 10;
        ASSERT_EQ(graph->update(node, TestStream::make_launch(kernel("append"), {}, {}, changed, 0)),
                  Status::ok)
            << graph->why();
        now[node] = i;
        expected.insert(expected.end(), now.begin(), now.end());
        stream.launch_graph(*graph);
    }
    ASSERT_TRUE(stream.finish());
    if (!runs()) return;
    EXPECT_EQ(rig->read<unsigned>(stream, at(64), 400), expected);
}

TEST_P(DriverContract, AnUpdateOfAGraphMayChangeTheShape) {
    TestStream stream(*rig->driver);
    const auto params = pack(device_pointer<unsigned>(at(0)));
    const std::vector<GraphNode> nodes{
        TestStream::make_launch(kernel("indices"), {2, 1, 1}, {4, 1, 1}, params, 0)};
    const std::unique_ptr<Graph> graph = rig->driver->make_graph(nodes);
    stream.launch_graph(*graph);
    if (runs()) {
        EXPECT_EQ(rig->read<unsigned>(stream, at(0), 9), (std::vector<unsigned>{1, 2, 3, 4, 5, 6, 7, 8, 0}));
    }
    ASSERT_EQ(graph->update(0, TestStream::make_launch(kernel("indices"), {2, 3, 2}, {2, 2, 2}, params, 0)),
              Status::ok);
    stream.launch_graph(*graph);
    std::vector<unsigned> all(96);
    std::iota(all.begin(), all.end(), 1u);
    const std::vector<unsigned> found = rig->read<unsigned>(stream, at(0), 96);
    if (runs()) {
        EXPECT_EQ(found, all);
    }
}

TEST_P(DriverContract, ManyGraphsAndLongOnesRunOnStreamsOfTheirOwn) {
    TestStream one(*rig->driver), two(*rig->driver);
    const auto append = [&](std::uint64_t base) {
        return pack(device_pointer<unsigned>(base + 64), device_pointer<unsigned>(base), 3u);
    };
    const auto at_one = append(at(0)), at_two = append(at(65536));
    std::vector<GraphNode> of_one(2000, TestStream::make_launch(kernel("append"), {}, {}, at_one, 0)),
        of_two(100, TestStream::make_launch(kernel("append"), {}, {}, at_two, 0));
    const auto first = rig->driver->make_graph(of_one), second = rig->driver->make_graph(of_two);
    for (int i = 0; i < 5; ++i) {
        one.launch_graph(*first);
        two.launch_graph(*second);
    }
    ASSERT_TRUE(one.finish());
    ASSERT_TRUE(two.finish());
    if (!runs()) return;
    EXPECT_EQ(rig->read<unsigned>(one, at(0), 1), std::vector<unsigned>{10000});
    EXPECT_EQ(rig->read<unsigned>(two, at(65536), 1), std::vector<unsigned>{500});
}

TEST_P(DriverContract, MakesMapsOfTensorsOfWhatTheyAreMade) {
    const auto make = [&](std::uint64_t address, const TensorLayout& layout) {
        return rig->driver->make_tensor_map(address, 64 << 10, layout);
    };
    if (GetParam().kind == DriverKind::Host) {
        EXPECT_THAT(refusal(Status::unsupported, [&] { make(at(0), tile()); }), HasSubstr("a CPU"));
        return;
    }
    const TensorMap map = make(at(0), tile());
    EXPECT_EQ(make(at(0), tile()), map);
    EXPECT_NE(make(at(16), tile()), map);
    const std::vector<std::function<void(TensorLayout&)>> changes = {
        [](TensorLayout& layout) { layout.element_type = 2; },
        [](TensorLayout& layout) { layout.rank = 1; },
        [](TensorLayout& layout) { layout.sides[1] = 63; },
        [](TensorLayout& layout) { layout.strides[0] = 256; },
        [](TensorLayout& layout) { layout.box[1] = 8; },
        [](TensorLayout& layout) { layout.steps[1] = 2; },
        [](TensorLayout& layout) { layout.swizzle = 3; },
        [](TensorLayout& layout) { layout.promotion = 0; },
        [](TensorLayout& layout) { layout.fill = 1; },
    };
    for (std::size_t i = 0; i < changes.size(); ++i) {
        TensorLayout changed = tile();
        changes[i](changed);
        EXPECT_NE(make(at(0), changed), map) << "change " << i;
    }
}

TEST_P(DriverContract, MapsOfTensorsThatCannotBeAreRefusedByWhatIsWrong) {
    if (GetParam().kind == DriverKind::Host) GTEST_SKIP() << "it makes none";
    const auto refused = [&](const std::function<void(TensorLayout&)>& change, std::uint64_t address,
                             std::uint64_t bytes = 1 << 20, Status status = Status::invalid_argument) {
        TensorLayout layout = tile();
        change(layout);
        return refusal(status, [&] { rig->driver->make_tensor_map(address, bytes, layout); });
    };
    const auto with = [&](const std::function<void(TensorLayout&)>& change) {
        return refused(change, at(0));
    };
    const auto nothing = [](TensorLayout&) {};
    EXPECT_EQ(refused(nothing, at(0), 8192), "") << "all of it lies in there";
    EXPECT_THAT(refused(nothing, at(0), 8191), HasSubstr("larger than the 8191 bytes"));
    EXPECT_THAT(refused(nothing, at(8)), HasSubstr("the address is "));
    EXPECT_THAT(with([](auto& layout) { layout.rank = 0; }), HasSubstr("the rank is 0"));
    EXPECT_THAT(with([](auto& layout) { layout.rank = 6; }), HasSubstr("the rank is 6"));
    EXPECT_THAT(with([](auto& layout) { layout.sides[0] = 0; }), HasSubstr("side is 0 in dimension 0"));
    EXPECT_THAT(with([](auto& layout) { layout.sides[1] = (1ull << 32) + 1; }), HasSubstr("1 to 2^32"));
    EXPECT_THAT(with([](auto& layout) {
                    layout.sides[1] = 1ull << 32;
                    layout.strides[0] = ~0ull - 15;
                }),
                HasSubstr("larger than"))
        << "where a multiplication would run over";
    EXPECT_THAT(with([](auto& layout) { layout.strides[0] = 136; }),
                HasSubstr("the stride in bytes is 136 in dimension 1"));
    EXPECT_THAT(with([](auto& layout) {
                    layout.sides[1] = 1;
                    layout.strides[0] = 1ull << 40;
                }),
                HasSubstr("below 2^40"));
    EXPECT_THAT(with([](auto& layout) { layout.box[1] = 0; }),
                HasSubstr("the box's side is 0 in dimension 1"));
    EXPECT_THAT(with([](auto& layout) { layout.box[1] = 257; }), HasSubstr("the box's side is 257"));
    EXPECT_THAT(with([](auto& layout) { layout.box[0] = 3; }), HasSubstr("is 12 bytes"));
    EXPECT_THAT(with([](auto& layout) { layout.steps[1] = 9; }), HasSubstr("the step is 9 in dimension 1"));
    EXPECT_THAT(with([](auto& layout) { layout.interleave = 3; }), HasSubstr("interleave 3"));
    EXPECT_THAT(with([](auto& layout) { layout.interleave = 1; }),
                HasSubstr("with interleave it has to be 3"));
    EXPECT_THAT(with([](auto& layout) { layout.swizzle = 99; }), HasSubstr("swizzle 99"));
    EXPECT_THAT(with([](auto& layout) { layout.swizzle = 1; }),
                HasSubstr("with swizzle 1 it has to be at most 32"));
    EXPECT_THAT(with([](auto& layout) { layout.promotion = 4; }), HasSubstr("L2 promotion 4"));
    EXPECT_THAT(with([](auto& layout) { layout.fill = 2; }), HasSubstr("fill 2"));
    EXPECT_THAT(with([](auto& layout) {
                    layout.element_type = 2;
                    layout.fill = 1;
                }),
                HasSubstr("NaN, which uint32 does not have"));
    EXPECT_THAT(refused([](auto& layout) { layout.element_type = 13; }, at(0), 1 << 20, Status::unsupported),
                HasSubstr("element type 13"));
}

INSTANTIATE_TEST_SUITE_P(Drivers, DriverContract,
                         testing::Values(Case{DriverKind::Null, false, TEST_KERNELS},
                                         Case{DriverKind::Host, true, TEST_KERNELS},
                                         Case{DriverKind::Cuda, true, TEST_CUDA_KERNELS}),
                         [](const auto& of) { return schema::EnumNameDriverKind(of.param.kind); });

TEST(MakeDriver, SaysWhatIsMissing) {
    // Empty on a machine that has such a device.
    const std::string cuda = refusal(Status::unsupported, [] { make_driver(DriverKind::Cuda, 0, nullptr); });
    if (!cuda.empty()) {
        EXPECT_THAT(cuda, HasSubstr("--driver host"));
    }
    EXPECT_THAT(refusal(Status::unsupported, [] { make_driver(DriverKind::Host, 8, nullptr); }),
                HasSubstr("has devices 0 to 5, not 8"));
    const auto first = make_driver(DriverKind::Null, 0, nullptr);
    EXPECT_THAT(refusal(Status::unsupported, [] { make_driver(DriverKind::Null, 0, nullptr); }),
                HasSubstr("cannot reserve the address range"));
}

}  // namespace
}  // namespace ringlaunch::driver
