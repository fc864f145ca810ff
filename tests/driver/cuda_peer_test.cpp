// Memory of another GPU under the cuda driver: copies from and to it, directly and through the host.
#include <cstdint>
#include <numeric>

#include "daemon/driver/cuda.hpp"
#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

// Empty: two GPUs can be used here.
std::string no_second_device() {
    if (std::string why = no_cuda_device(); !why.empty()) return why;
    int devices = 0;
    const auto count = reinterpret_cast<int (*)(int*)>(
        ::dlsym(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), "cuDeviceGetCount"));
    count(&devices);
    return devices > 1 ? std::string() : "this needs two GPUs, and there is one";
}

class CudaPeer : public testing::TestWithParam<bool> {};

TEST_P(CudaPeer, CopiesAreExactBothWays) {
    if (const std::string why = no_second_device(); !why.empty()) GTEST_SKIP() << why;
    std::vector<std::uint32_t> values(Rig::kBytes / 4), others(Rig::kBytes / 4);
    std::iota(values.begin(), values.end(), 77u);
    std::iota(others.begin(), others.end(), 0x80000000u);
    UniqueFd chunk;
    std::uint64_t there = 0;
    {
        Rig zero(make_cuda_driver(0, nullptr, {.direct_peers = GetParam()}));
        TestStream stream(*zero.driver);
        zero.write(stream, zero.base, values);
        there = zero.base;
        chunk = std::move(zero.chunk);
    }
    {
        Rig one(make_cuda_driver(1, nullptr, {.direct_peers = GetParam()}));
        one.driver->map_chunk(there, Rig::kBytes, chunk);
        TestStream stream(*one.driver);
        EXPECT_EQ(one.base, there + (std::uint64_t{1} << 40));
        stream.copy(schema::RecordKind::CopyOnDevice, one.base, Rig::kBytes, nullptr, 0, there);
        EXPECT_EQ(one.read<std::uint32_t>(stream, one.base, values.size()), values);
        one.write(stream, one.base, others);
        stream.copy(schema::RecordKind::CopyOnDevice, there, Rig::kBytes, nullptr, 0, one.base);
        stream.fill(one.base, Rig::kBytes, 0, 4);
        stream.copy(schema::RecordKind::CopyOnDevice, one.base + 4096, 4096, nullptr, 0, there + 4096);
        const auto found = one.read<std::uint32_t>(stream, one.base, values.size());
        ASSERT_EQ(found.size(), values.size());
        EXPECT_EQ(found[0], 0u);
        EXPECT_EQ(found[1024], others[1024]);
        EXPECT_EQ(found[2047], others[2047]);
        EXPECT_EQ(found[2048], 0u);
        stream.destroy();
        one.driver->unmap_chunk(there, Rig::kBytes);
    }
    const auto zero = make_cuda_driver(0, nullptr, {.direct_peers = GetParam()});
    zero->map_chunk(there, Rig::kBytes, chunk);
    const UniqueFd segment = make_memfd("staging", Rig::kBytes);
    seal(segment, Sealing::shared, "staging");
    const Mapping view(segment, Rig::kBytes, Mapping::Access::read_write, "staging");
    const auto staging = zero->map_staging(zero->device().staging_base, segment, Rig::kBytes);
    TestStream stream(*zero);
    stream.copy(schema::RecordKind::CopyToHost, there, Rig::kBytes, staging.get(), 0);
    ASSERT_TRUE(stream.finish());
    EXPECT_EQ(std::memcmp(view.data(), others.data(), Rig::kBytes), 0);
}

INSTANTIATE_TEST_SUITE_P(Drivers, CudaPeer, testing::Bool(),
                         [](const auto& of) { return of.param ? "Directly" : "ThroughTheHost"; });

}  // namespace
}  // namespace ringlaunch::driver
