// Memory that outlives its process: what a new executor finds at the same addresses.
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <csignal>
#include <numeric>

#include "harness.hpp"
#include "schema/message.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

TEST(HostMemory, SurvivesAProcessThatIsKilled) {
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    const UniqueFd here(sockets[0]), there(sockets[1]);
    std::vector<std::uint32_t> values(Rig::kBytes / 4);
    std::iota(values.begin(), values.end(), 7u);

    ::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(30);
        Rig rig(DriverKind::Host);
        const auto module = load(*rig.driver, TEST_KERNELS);
        TestStream stream(*rig.driver);
        rig.write(stream, rig.base, values);
        const int fd = rig.chunk.get();
        const std::byte byte{1};
        (void)send_message(there.get(), {&byte, 1}, {&fd, 1}, true);
        // Killed with a kernel running.
        stream.fill(rig.base, 4, 0, 4);
        stream.launch(find(*module, "hold"), {}, {}, pack(rig.base));
        (void)stream.finish();
        ::_exit(99);
    }
    Message message;
    ASSERT_EQ(receive_message(here.get(), message, true), Transfer::done);
    ASSERT_EQ(message.fds.size(), 1u);
    ::usleep(2000);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));

    const auto driver = make_driver(DriverKind::Host, 0, nullptr);
    const std::uint64_t base = driver->device().range_base;
    driver->map_chunk(base, Rig::kBytes, message.fds[0]);
    const auto* const words = device_pointer<std::uint32_t>(base);
    EXPECT_TRUE(std::equal(values.begin() + 1, values.end(), words + 1));
}

TEST(HostMemory, RefusesAChunkThatItsOwnerCouldShrink) {
    const auto driver = make_driver(DriverKind::Host, 0, nullptr);
    const UniqueFd loose = make_memfd("loose", Rig::kBytes);
    EXPECT_THAT(refusal(Status::bad_seals,
                        [&] { driver->map_chunk(driver->device().range_base, Rig::kBytes, loose); }),
                HasSubstr("must be sealed"));
    const UniqueFd small = make_memfd("small", Rig::kBytes / 2);
    seal(small, Sealing::shared, "small");
    EXPECT_THAT(refusal(Status::bad_seals,
                        [&] { driver->map_chunk(driver->device().range_base, Rig::kBytes, small); }),
                HasSubstr("has 1048576"));
}

TEST(HostMemory, AnAddressSaysWhoseItIs) {
    // Two devices in turn, for a process has one at a time: what the first left is found by the second, at
    // its address.
    UniqueFd chunk;
    std::uint64_t there = 0;
    {
        const auto first = make_driver(DriverKind::Host, 1, nullptr);
        there = first->device().range_base;
        chunk = first->make_chunk(there, Rig::kBytes);
        *device_pointer<std::uint32_t>(there) = 77;
    }
    const auto second = make_driver(DriverKind::Null, 0, nullptr);
    EXPECT_EQ(there, second->device().range_base + second->device().range_bytes);
    // It makes memory in its own range alone.
    EXPECT_THAT(refusal(Status::invalid_argument, [&] { second->make_chunk(there, Rig::kBytes); }),
                HasSubstr("within 0x7e8000000000 to"));
    second->map_chunk(there, Rig::kBytes, chunk);
    EXPECT_EQ(*device_pointer<std::uint32_t>(there), 77u);
    EXPECT_THAT(refusal(Status::invalid_argument, [&] { second->map_chunk(there, Rig::kBytes, chunk); }),
                HasSubstr("is there"));
    second->unmap_chunk(there, Rig::kBytes);
    EXPECT_THAT(refusal(Status::not_found, [&] { second->unmap_chunk(there, Rig::kBytes); }),
                HasSubstr("is not mapped"));
    EXPECT_THAT(refusal(Status::invalid_argument, [&] { second->map_chunk(1 << 21, Rig::kBytes, chunk); }),
                HasSubstr("within 0x7e8000000000 to"));
}

TEST(HostMemory, TheRangeIsGivenBack) {
    for (int turn = 0; turn < 3; ++turn) {
        const Rig rig(DriverKind::Host);
        EXPECT_EQ(rig.base, 0x7e8000000000u);
    }
}

}  // namespace
}  // namespace ringlaunch::driver
