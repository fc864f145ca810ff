#include "daemon/driver/cuda_tensor_map.hpp"

#include <cstring>

#include "daemon/driver/tensor_map.hpp"

namespace ringlaunch::driver {

namespace {

constexpr int kLastMistaken = 13010;  // cuDriverGetVersion's
constexpr std::uint64_t kSmallBytes = 128 << 10;
constexpr std::uint64_t kMistakenBit = std::uint64_t{1} << 21;  // of the second word

bool mistaken_driver() noexcept {
    int version = 0;
    return cuda_api().cuDriverGetVersion_(&version) == CUDA_SUCCESS && version <= kLastMistaken;
}

}  // namespace

CUresult encode_tensor_map(std::uint64_t address, const TensorLayout& layout, bool mend_small,
                           TensorMap& out) noexcept {
    static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
    static_assert(sizeof(cuuint64_t) == sizeof(std::uint64_t) && sizeof(cuuint32_t) == sizeof(std::uint32_t));
    cuuint64_t sides[TensorLayout::kMaxRank], strides[TensorLayout::kMaxRank];
    std::memcpy(sides, layout.sides.data(), sizeof sides);
    std::memcpy(strides, layout.strides.data(), sizeof strides);
    CUtensorMap map{};
    const CUresult result = cuda_api().cuTensorMapEncodeTiled_(
        &map, static_cast<CUtensorMapDataType>(layout.element_type), layout.rank,
        reinterpret_cast<void*>(address), sides, strides, layout.box.data(), layout.steps.data(),
        static_cast<CUtensorMapInterleave>(layout.interleave),
        static_cast<CUtensorMapSwizzle>(layout.swizzle),
        static_cast<CUtensorMapL2promotion>(layout.promotion),
        static_cast<CUtensorMapFloatOOBfill>(layout.fill));
    if (result != CUDA_SUCCESS) return result;
    if (mend_small && mistaken_driver()) {
        std::uint64_t extent = 1;
        for (std::uint32_t i = 1; i < layout.rank; ++i) extent += (sides[i] - 1) * strides[i - 1];
        extent += (sides[0] - 1) * kTensorElementBytes[layout.element_type];
        if (extent < kSmallBytes) map.opaque[1] &= ~kMistakenBit;
    }
    std::memcpy(out.data(), &map, sizeof map);
    return result;
}

}  // namespace ringlaunch::driver
