// The stack of a GPU's threads, with a CUDA that the test plays.
#include "daemon/driver/cuda_stack.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <vector>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// 4 multiprocessors of 2048 threads.
struct PlayedCuda {
    std::size_t limit = 1024, most = 1u << 20, free = std::size_t{1} << 30;
    CUresult answer = CUDA_SUCCESS;
    std::vector<std::size_t> set;
} played;

CudaApi played_api() {
    played = {};
    CudaApi api;
    api.cuDeviceGetAttribute_ = [](int* value, CUdevice_attribute which, CUdevice) {
        *value = which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 4 : 2048;
        return CUDA_SUCCESS;
    };
    api.cuCtxGetLimit_ = [](std::size_t* bytes, CUlimit) {
        *bytes = played.limit;
        return CUDA_SUCCESS;
    };
    api.cuCtxSetLimit_ = [](CUlimit which, std::size_t bytes) {
        EXPECT_EQ(which, CU_LIMIT_STACK_SIZE);
        played.set.push_back(bytes);
        if (bytes > 1024 && played.answer != CUDA_SUCCESS) return played.answer;
        played.limit = std::min(bytes, played.most);
        return CUDA_SUCCESS;
    };
    api.cuMemGetInfo_ = [](std::size_t* free, std::size_t* total) {
        *free = played.free;
        *total = std::size_t{2} << 30;
        return CUDA_SUCCESS;
    };
    api.cuGetErrorName_ = [](CUresult, const char** text) {
        *text = "CUDA_ERROR_PLAYED";
        return CUDA_SUCCESS;
    };
    api.cuGetErrorString_ = [](CUresult, const char** text) {
        *text = "as the test wants it";
        return CUDA_SUCCESS;
    };
    return api;
}

TEST(CudaStack, IsRaisedAndNeverLowered) {
    const CudaApi api = played_api();
    CudaStack stack(0, "a GPU", api);
    EXPECT_TRUE(stack.has(0));
    EXPECT_TRUE(stack.has(1024));
    EXPECT_FALSE(stack.has(4096));
    EXPECT_TRUE(played.set.empty());
    stack.raise(4096);
    EXPECT_TRUE(stack.has(4096));
    EXPECT_TRUE(stack.has(2048));
    EXPECT_EQ(played.set, std::vector<std::size_t>{4096});
}

TEST(CudaStack, ForWhichThereIsNoRoomIsRefusedBeforeCudaIsAsked) {
    const CudaApi api = played_api();
    CudaStack stack(0, "a GPU", api);
    played.free = 8192 * 3000;
    EXPECT_FALSE(stack.has(1024 + 3000));
    EXPECT_THAT(refusal(Status::out_of_memory, [&] { static_cast<void>(stack.has(1024 + 3001)); }),
                AllOf(HasSubstr("stack of 4025 bytes for each of the 8192 threads that fit on a GPU"),
                      HasSubstr("24576000 of 2147483648 bytes are free"), HasSubstr("at most 4024 bytes")));
    // More than a product of 64 bits.
    EXPECT_FALSE(
        refusal(Status::out_of_memory, [&] { static_cast<void>(stack.has(~std::uint64_t{0})); }).empty());
    EXPECT_TRUE(played.set.empty());
}

TEST(CudaStack, ThatCudaRefusesStaysAsItWas) {
    const CudaApi api = played_api();
    CudaStack stack(0, "a GPU", api);
    played.answer = CUDA_ERROR_INVALID_VALUE;
    EXPECT_THAT(refusal(Status::unsupported, [&] { stack.raise(4096); }),
                AllOf(HasSubstr("stack of 4096 bytes"),
                      HasSubstr("CUDA_ERROR_PLAYED: as the test wants it; they keep 1024 bytes")));
    played.answer = CUDA_ERROR_OUT_OF_MEMORY;
    EXPECT_FALSE(refusal(Status::out_of_memory, [&] { stack.raise(4096); }).empty());
    EXPECT_EQ(played.limit, 1024u);
}

TEST(CudaStack, OfWhichCudaGivesLessIsRefused) {
    const CudaApi api = played_api();
    CudaStack stack(0, "a GPU", api);
    played.most = 4000;
    EXPECT_THAT(refusal(Status::unsupported, [&] { stack.raise(4096); }), HasSubstr("CUDA gives 4000"));
    EXPECT_EQ(played.limit, 1024u);
}

}  // namespace
}  // namespace ringlaunch::driver
