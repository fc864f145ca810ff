// How a fault dump is taken in, with a writer in CUDA's place: it opens the file that CUDA was told of,
// writes an H200's dump, and lets streams run on as soon as it is through.
#include "daemon/driver/cuda_fault_dumps.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "daemon/driver/fault_dump.hpp"
#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kDumpedPointer = 0xdead0000bee0;

class FaultDumpsTest : public testing::Test {
  protected:
    FaultDumpsTest() { begin(FaultDumps::kMostBytes); }
    ~FaultDumpsTest() override { streams.clear(); }

    void begin(std::size_t most_bytes) {
        streams.clear();
        dumps.emplace(most_bytes);
        path = ::getenv("CUDA_COREDUMP_FILE");
        for (const char* name :
             {"CUDA_COREDUMP_FILE", "CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "CUDA_COREDUMP_GENERATION_FLAGS"})
            ::unsetenv(name);
        for (std::uint64_t i = 0; i < 2; ++i)
            streams.push_back(dumps->journals().open(i + 1, 64, words[i], pages[i]));
    }

    void launch(std::size_t stream, std::uint64_t position) {
        const FaultDump dump = read_fault_dump(whole);
        NotedLaunch noted;
        noted.position = position;
        noted.kernel = 77;
        noted.module = dump.modules.at(dump.modules.size() - 2).handle;
        noted.name = digest("bad_store");
        noted.params = digest(pack(kDumpedPointer, std::uint64_t{0xabcdef12}, std::int64_t{1700000}));
        noted.block = {64, 1, 1};
        streams[stream]->note(noted);
    }
    // What CUDA does, in its own steps.
    void write(std::span<const std::byte> bytes, std::size_t step) {
        const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        ASSERT_TRUE(file) << path;
        for (std::size_t at = 0; at < bytes.size();) {
            const ssize_t wrote = ::write(file.get(), bytes.data() + at, std::min(step, bytes.size() - at));
            ASSERT_GT(wrote, 0);
            at += static_cast<std::size_t>(wrote);
        }
    }

    const std::vector<std::byte> whole = read_file(std::string(TEST_DATA) + "/fault_illegal.dump");
    std::optional<FaultDumps> dumps;
    std::string path;
    SharedU64 words[2] = {}, pages[2] = {};
    std::vector<LaunchJournals::Open> streams;
    FaultPage page;
};

TEST_F(FaultDumpsTest, TheStreamsAreLookedAtBeforeTheWriterIsThrough) {
    for (std::uint64_t i = 0; i < 20; ++i) launch(0, i);
    words[0] = 7;
    std::thread cuda([&] {
        write(whole, 1 << 12);
        words[0] = 20;
    });
    const std::string text = dumps->accuse("CUDA_ERROR_ILLEGAL_ADDRESS", &page);
    cuda.join();
    EXPECT_EQ(page.kind.load(), static_cast<std::uint32_t>(FaultKind::device)) << text;
    EXPECT_EQ(page.stream, 1u);
    EXPECT_EQ(page.position, 7u);
    EXPECT_EQ(pages[0], 7u);
    EXPECT_EQ(page.kernel, 77u);
    EXPECT_THAT(page.text, HasSubstr("Warp Illegal Address"));
    EXPECT_THAT(text, HasSubstr("CUDA_ERROR_ILLEGAL_ADDRESS"));
}

TEST_F(FaultDumpsTest, AWriterOfOneBigWriteIsHeldToo) {
    for (std::uint64_t i = 0; i < 20; ++i) launch(1, i);
    words[1] = 19;
    std::thread cuda([&] {
        write(whole, whole.size());
        words[1] = 20;
    });
    cuda.join();  // whole, long before anybody asks
    const std::string text = dumps->accuse("lost", &page);
    EXPECT_EQ(page.stream, 2u) << text;
    EXPECT_EQ(page.position, 19u);
    EXPECT_EQ(pages[1], 19u);
}

TEST_F(FaultDumpsTest, StreamsAtTheSameCodeAreSuspectsAndNobodyIsAccused) {
    launch(0, 3);
    launch(1, 4);
    std::thread cuda([&] { write(whole, 4096); });
    const std::string text = dumps->accuse("lost", &page);
    cuda.join();
    EXPECT_EQ(page.stream, 0u);
    ASSERT_EQ(page.also_count, 2u);
    EXPECT_EQ(page.also[0].position, 3u);
    EXPECT_EQ(page.also[1].position, 4u);
    EXPECT_THAT(text, HasSubstr("several streams"));
}

TEST_F(FaultDumpsTest, AStreamThatGoesBeforeTheDumpIsSearchedIsAccused) {
    for (std::uint64_t i = 0; i < 20; ++i) launch(0, i);
    words[0] = 7;
    std::thread cuda([&] { write(whole, 4096); });
    cuda.join();
    while (!dumps->whole()) std::this_thread::yield();
    words[0] = 20;
    streams[0].reset();
    const std::string text = dumps->accuse("lost", &page);
    EXPECT_EQ(page.stream, 1u) << text;
    EXPECT_EQ(page.position, 7u);
    EXPECT_EQ(pages[0], 0u) << "its page was written to after it had gone";
}

TEST_F(FaultDumpsTest, AStreamThatWasLeftWithWorkOnTheDeviceIsAccused) {
    for (std::uint64_t i = 0; i < 20; ++i) launch(0, i);
    words[0] = 7;
    dumps->journals().leave(std::move(streams[0]));
    words[0] = 8;
    std::thread cuda([&] { write(whole, 4096); });
    const std::string text = dumps->accuse("lost", &page);
    cuda.join();
    EXPECT_EQ(page.stream, 1u) << text;
    EXPECT_EQ(page.position, 8u);
    EXPECT_EQ(pages[0], 0u);
}

TEST_F(FaultDumpsTest, AStreamThatHadGoneBeforeTheFaultIsNot) {
    launch(0, 3);
    launch(1, 4);
    streams[0].reset();
    std::thread cuda([&] { write(whole, 4096); });
    const std::string text = dumps->accuse("lost", &page);
    cuda.join();
    EXPECT_EQ(page.stream, 2u) << text;
    EXPECT_EQ(page.position, 4u);
}

TEST_F(FaultDumpsTest, StreamsComeAndGoWhileTheDeviceFalls) {
    for (std::uint64_t i = 0; i < 20; ++i) launch(1, i);
    words[1] = 19;
    std::thread control([&] {
        SharedU64 word = 0, client = 0;
        for (int i = 0; i < 2000; ++i) dumps->journals().open(9, 64, word, client);
    });
    std::thread cuda([&] { write(whole, 4096); });
    const std::string text = dumps->accuse("lost", &page);
    cuda.join();
    control.join();
    EXPECT_EQ(page.stream, 2u) << text;
    EXPECT_EQ(page.position, 19u);
}

TEST_F(FaultDumpsTest, AFaultWithoutADumpAccusesNobody) {
    launch(0, 3);
    const std::string text = dumps->accuse("lost", &page);
    EXPECT_EQ(page.kind.load(), 0u);
    EXPECT_THAT(text, HasSubstr("CUDA wrote no GPU core dump"));
}

TEST_F(FaultDumpsTest, ADumpThatBreaksOffAccusesNobody) {
    launch(0, 3);
    std::thread cuda([&] { write(std::span(whole).first(whole.size() / 2), 4096); });
    const std::string text = dumps->accuse("lost", &page);
    cuda.join();
    EXPECT_EQ(page.kind.load(), 0u);
    EXPECT_THAT(text, HasSubstr("damaged"));
}

TEST_F(FaultDumpsTest, ADumpThatIsTooLargeIsReadToItsEndAndAccusesNobody) {
    begin(whole.size() - 1);
    launch(0, 3);
    write(whole, 4096);  // returns once all of it has been read
    const std::string text = dumps->accuse("lost", &page);
    EXPECT_EQ(page.kind.load(), 0u);
    EXPECT_THAT(text, HasSubstr("larger than the " + std::to_string(whole.size() - 1) + " bytes"));
    EXPECT_THAT(text, HasSubstr("lost"));
}

TEST_F(FaultDumpsTest, ADumpThatIsThereWakesTheDispatchThread) {
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    dumps->wake_with(event.get());
    EXPECT_FALSE(dumps->whole());
    write(whole, 4096);
    pollfd woken{event.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&woken, 1, 10'000), 1);
    EXPECT_TRUE(dumps->whole());
    streams.clear();
    dumps.reset();  // whose thread writes to it
}

TEST_F(FaultDumpsTest, WithoutAFaultItEndsAtOnce) {
    streams.clear();
    dumps.reset();
}

}  // namespace
}  // namespace ringlaunch::driver
