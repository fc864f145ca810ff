// Sealed shared memory: what each sealing forbids, tried in every way that the OS offers.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "schema/error.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"

namespace ringlaunch {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kBytes = kStatusPageBytes;

UniqueFd segment(Sealing sealing) {
    UniqueFd fd = make_memfd("segment under test", kBytes);
    seal(fd, sealing, "segment under test");
    return fd;
}

// errno of a call, 0 where it succeeded.
int error_of(long result) {
    return result < 0 ? errno : 0;
}

int map_error(int fd, int protection, int flags) {
    void* at = ::mmap(nullptr, kBytes, protection, flags, fd, 0);
    if (at == MAP_FAILED) return errno;
    ::munmap(at, kBytes);
    return 0;
}

UniqueFd reopen(const UniqueFd& fd, int flags) {
    return UniqueFd(::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), flags | O_CLOEXEC));
}

// ---- one writer: the status page ----

TEST(OneWriter, CannotBeMappedWritable) {
    const UniqueFd fd = segment(Sealing::one_writer);
    EXPECT_EQ(map_error(fd.get(), PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    EXPECT_EQ(map_error(fd.get(), PROT_WRITE, MAP_SHARED), EPERM);
    EXPECT_EQ(map_error(fd.get(), PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE), EPERM);
    EXPECT_EQ(map_error(fd.get(), PROT_READ, MAP_SHARED), 0);
    EXPECT_THROW(Mapping(fd, kBytes, Mapping::Access::read_write, "page"), std::system_error);
}

TEST(OneWriter, CannotBeMadeWritableOnceMapped) {
    const UniqueFd fd = segment(Sealing::one_writer);
    const Mapping page(fd, kBytes, Mapping::Access::read_only, "page");
    EXPECT_EQ(error_of(::mprotect(page.data(), kBytes, PROT_READ | PROT_WRITE)), EACCES);
    EXPECT_EQ(error_of(::mprotect(page.data(), kBytes, PROT_WRITE)), EACCES);
}

TEST(OneWriter, CannotBeWrittenThroughItsDescriptor) {
    const UniqueFd fd = segment(Sealing::one_writer);
    const char byte = 1;
    EXPECT_EQ(error_of(::pwrite(fd.get(), &byte, 1, 0)), EPERM);
    EXPECT_EQ(error_of(::write(fd.get(), &byte, 1)), EPERM);
    EXPECT_EQ(error_of(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageBytes)),
              EPERM);
    EXPECT_EQ(error_of(::ftruncate(fd.get(), 0)), EPERM);
    EXPECT_EQ(error_of(::ftruncate(fd.get(), 2 * kBytes)), EPERM);
    EXPECT_EQ(error_of(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE)),
              EPERM);  // the seals themselves are sealed
}

TEST(OneWriter, ReopenedWritableIsSealedAllTheSame) {
    // A descriptor of a peer's can be opened anew through /proc with other flags: the seals are the file's.
    const UniqueFd fd = segment(Sealing::one_writer);
    const UniqueFd again = reopen(fd, O_RDWR);
    ASSERT_TRUE(again) << std::strerror(errno);
    const char byte = 1;
    EXPECT_EQ(error_of(::pwrite(again.get(), &byte, 1, 0)), EPERM);
    EXPECT_EQ(map_error(again.get(), PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    EXPECT_EQ(error_of(::ftruncate(again.get(), 0)), EPERM);
    const UniqueFd cut = reopen(fd, O_RDWR | O_TRUNC);
    EXPECT_FALSE(cut);
}

TEST(OneWriter, AnotherProcessCannotWriteItEither) {
    UniqueFd fd = make_memfd("page", kBytes);
    const Mapping writer(fd, kBytes, Mapping::Access::read_write, "page");
    seal(fd, Sealing::one_writer, "page");
    writer.as<StatusPage>()->completed = 41;
    const pid_t child = ::fork();
    if (child == 0) {
        // A child of fork() inherits the writable mapping itself, which a client never has: let it go first.
        ::munmap(writer.data(), kBytes);
        const char byte = 1;
        int wrong = 0;
        if (map_error(fd.get(), PROT_READ | PROT_WRITE, MAP_SHARED) != EPERM) wrong |= 1;
        if (error_of(::pwrite(fd.get(), &byte, 1, 64)) != EPERM) wrong |= 2;
        const UniqueFd again = reopen(fd, O_RDWR);
        if (map_error(again.get(), PROT_READ | PROT_WRITE, MAP_SHARED) != EPERM) wrong |= 4;
        if (map_error(fd.get(), PROT_READ, MAP_SHARED) != 0) wrong |= 8;
        ::_exit(wrong);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(writer.as<StatusPage>()->completed, 41u);
}

TEST(OneWriter, TheMappingMadeBeforeTheSealStillWrites) {
    UniqueFd fd = make_memfd("page", kBytes);
    const Mapping writer(fd, kBytes, Mapping::Access::read_write, "page");
    seal(fd, Sealing::one_writer, "page");
    const Mapping reader(fd, kBytes, Mapping::Access::read_only, "page");
    writer.as<StatusPage>()->completed.store(7, std::memory_order_release);
    EXPECT_EQ(reader.as<StatusPage>()->completed.load(std::memory_order_acquire), 7u);
    fd.reset();  // mappings outlive the descriptor
    writer.as<StatusPage>()->completed.store(8, std::memory_order_release);
    EXPECT_EQ(reader.as<StatusPage>()->completed.load(std::memory_order_acquire), 8u);
}

TEST(OneWriter, APrivateMappingWritesNobodysPage) {
    // Copy on write is allowed, and harmless: it is the writer's own memory.
    UniqueFd fd = make_memfd("page", kBytes);
    const Mapping writer(fd, kBytes, Mapping::Access::read_write, "page");
    seal(fd, Sealing::one_writer, "page");
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
    if (at != MAP_FAILED) {
        std::memset(at, 0xff, kBytes);
        ::munmap(at, kBytes);
    }
    EXPECT_EQ(writer.as<StatusPage>()->completed, 0u);
}

// ---- shared: rings and staging ----

TEST(SharedSegment, KeepsItsSize) {
    // A shrunk ring would raise SIGBUS in whoever reads it.
    const UniqueFd fd = segment(Sealing::shared);
    EXPECT_EQ(error_of(::ftruncate(fd.get(), kPageBytes)), EPERM);
    EXPECT_EQ(error_of(::ftruncate(fd.get(), 2 * kBytes)), EPERM);
    EXPECT_EQ(error_of(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE)), EPERM);
    EXPECT_EQ(map_error(fd.get(), PROT_READ | PROT_WRITE, MAP_SHARED), 0);
}

TEST(SharedSegment, AReadOnlyMappingOfItIsReadOnly) {
    const UniqueFd fd = segment(Sealing::shared);
    const Mapping ring(fd, kBytes, Mapping::Access::read_only, "ring");
    EXPECT_EXIT(
        {
            ::signal(SIGSEGV, SIG_DFL);
            *reinterpret_cast<volatile char*>(ring.data()) = 1;
        },
        ::testing::KilledBySignal(SIGSEGV), "");
}

// ---- immutable: images ----

TEST(Image, CanBeReadAndNeverWritten) {
    const std::vector<std::byte> bytes(100'000, std::byte{0x42});
    const UniqueFd fd = make_image("image", bytes);
    const Mapping image(fd, bytes.size(), Mapping::Access::read_only, "image");
    EXPECT_EQ(std::memcmp(image.data(), bytes.data(), bytes.size()), 0);
    const char byte = 1;
    EXPECT_EQ(error_of(::pwrite(fd.get(), &byte, 1, 0)), EPERM);
    EXPECT_EQ(map_error(fd.get(), PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    const UniqueFd again = reopen(fd, O_RDWR);
    EXPECT_EQ(map_error(again.get(), PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    EXPECT_EQ(check_seals(fd, Sealing::immutable, bytes.size(), "image"), bytes.size());
}

TEST(Image, OfNoBytesIsStillSealed) {
    const UniqueFd fd = make_image("image", {});
    EXPECT_EQ(check_seals(fd, Sealing::immutable, 0, "image"), 0u);
}

TEST(Image, CannotBeSealedWhileSomeoneHasItMappedWritable) {
    UniqueFd fd = make_memfd("image", kBytes);
    const Mapping writer(fd, kBytes, Mapping::Access::read_write, "image");
    EXPECT_THROW(seal(fd, Sealing::immutable, "image"), std::system_error);
}

// ---- what a receiver checks ----

std::string refusal(const UniqueFd& fd, Sealing sealing, std::size_t bytes) {
    try {
        check_seals(fd, sealing, bytes, "the image of module \"m\"");
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::bad_seals);
        return error.what();
    }
    return "";
}

TEST(CheckSeals, TakesWhatBearsAtLeastTheSealsAsked) {
    EXPECT_EQ(refusal(segment(Sealing::shared), Sealing::shared, kBytes), "");
    EXPECT_EQ(refusal(segment(Sealing::one_writer), Sealing::one_writer, kBytes), "");
    EXPECT_EQ(refusal(segment(Sealing::one_writer), Sealing::shared, kBytes), "");
    EXPECT_EQ(refusal(segment(Sealing::immutable), Sealing::immutable, kBytes), "");
}

TEST(CheckSeals, SaysWhichSealsWereFoundAndWanted) {
    EXPECT_THAT(refusal(segment(Sealing::shared), Sealing::immutable, kBytes),
                ::testing::AllOf(HasSubstr("module \"m\""), HasSubstr("SEAL | SHRINK | GROW | WRITE"),
                                 HasSubstr("its seals are SEAL | SHRINK | GROW")));
    EXPECT_THAT(refusal(make_memfd("unsealed", kBytes), Sealing::immutable, kBytes),
                HasSubstr("its seals are none"));
    EXPECT_THAT(refusal(segment(Sealing::shared), Sealing::one_writer, kBytes), HasSubstr("FUTURE_WRITE"));
}

TEST(CheckSeals, RefusesWhatIsNoMemfdOrTooShort) {
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_THAT(refusal(null, Sealing::immutable, 0), HasSubstr("takes no seals"));
    EXPECT_THAT(refusal(UniqueFd(), Sealing::immutable, 0), HasSubstr("takes no seals"));
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]), write_end(ends[1]);
    EXPECT_THAT(refusal(read_end, Sealing::shared, 0), HasSubstr("takes no seals"));
    EXPECT_THAT(refusal(segment(Sealing::immutable), Sealing::immutable, kBytes + 1),
                ::testing::AllOf(HasSubstr(std::to_string(kBytes + 1)), HasSubstr(std::to_string(kBytes))));
}

TEST(Segments, AreNotInheritedAcrossExec) {
    const UniqueFd fd = segment(Sealing::shared);
    EXPECT_EQ(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(::fcntl(fd.duplicate().get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(Segments, FailWithWhatWasBeingDone) {
    try {
        Mapping(UniqueFd(), kBytes, Mapping::Access::read_only, "the ring of stream 7");
        FAIL();
    } catch (const std::system_error& error) {
        EXPECT_THAT(error.what(), HasSubstr("cannot map the ring of stream 7"));
    }
    EXPECT_THROW(UniqueFd().duplicate(), std::system_error);
    EXPECT_THROW(make_memfd("huge", ~std::size_t{0}), std::system_error);
}

}  // namespace
}  // namespace ringlaunch
