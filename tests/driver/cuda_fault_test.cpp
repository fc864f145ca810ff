// What a kernel that faults leaves of the cuda driver. Such a kernel poisons its process, so each case runs
// in one of its own: this program again, with the case in an environment variable.
#include <gmock/gmock.h>
#include <spawn.h>

#include <cstdlib>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

constexpr const char* kInside = "RINGLAUNCH_TEST_CUDA_FAULT";

struct Fault {
    const char* name;
    const char* kernel;
    std::uint64_t address;  // 0: the kernel takes none
    const char* text;
};

constexpr Fault kFaults[] = {
    {"IllegalAddress", "write_to", 8, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {"MisalignedAddress", "write_to", 0x200000000002, "CUDA_ERROR_MISALIGNED_ADDRESS"},
    {"Trap", "trap", 0, "CUDA_ERROR_"},
};

class CudaFault : public testing::TestWithParam<Fault> {};

// Runs `test` of this program in a new process. The exit status is gtest's.
int run_alone(const std::string& test) {
    std::string program = "/proc/self/exe", filter = "--gtest_filter=" + test;
    char* arguments[] = {program.data(), filter.data(), nullptr};
    pid_t child = 0;
    ::setenv(kInside, "1", 1);
    const int spawned = ::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ);
    ::unsetenv(kInside);
    if (spawned != 0) return -1;
    int status = 0;
    if (!eventually([&] { return ::waitpid(child, &status, WNOHANG) == child; })) {
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
        return -2;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -3;
}

// In the new process: the kernel ends the device, the driver says of what, and nothing of it hangs.
void expect_lost(const Fault& fault) {
    Rig rig(DriverKind::Cuda);
    const auto module = load(*rig.driver, TEST_GPU_KERNELS);
    TestStream stream(*rig.driver), other(*rig.driver);
    const auto word = pack(device_pointer<unsigned>(rig.base), 3u);
    other.launch(find(*module, "add"), {}, {}, word);
    EXPECT_EQ(rig.read<unsigned>(other, rig.base, 1), std::vector<unsigned>{3});
    EXPECT_EQ(rig.driver->failure(), std::nullopt);

    stream.launch(find(*module, fault.kernel), {}, {},
                  fault.address == 0 ? std::vector<std::byte>() : pack(fault.address));
    (void)(*stream).complete(stream.position());
    std::optional<std::string> failed;
    EXPECT_TRUE(eventually([&] { return (failed = rig.driver->failure()).has_value(); }));
    EXPECT_THAT(failed.value_or(""), HasSubstr(fault.text));
    // Every stream of the process is lost with it.
    EXPECT_EQ(other.try_launch(find(*module, "add"), {}, {}, word), Status::driver_failed);
    EXPECT_TRUE((*stream).drain(1'000'000'000));
    EXPECT_TRUE((*other).drain(1'000'000'000));
}

TEST_P(CudaFault, IsReportedAndHangsNothing) {
    if (std::getenv(kInside) != nullptr) return expect_lost(GetParam());
    if (std::string(TEST_GPU_KERNELS).empty())
        GTEST_SKIP() << "no nvcc was found when this was built, so there is no cubin of gpu_kernels.cu";
    const std::string missing = no_cuda_device();
    if (!missing.empty()) GTEST_SKIP() << missing;
    EXPECT_EQ(run_alone(std::string("Drivers/CudaFault.IsReportedAndHangsNothing/") + GetParam().name), 0);
}

INSTANTIATE_TEST_SUITE_P(Drivers, CudaFault, testing::ValuesIn(kFaults),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace ringlaunch::driver
