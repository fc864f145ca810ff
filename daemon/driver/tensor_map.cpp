#include "daemon/driver/tensor_map.hpp"

#include <array>
#include <cstring>
#include <span>

#include "daemon/driver/chunk_table.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

// CUtensorMapDataType, by number.
constexpr std::array<const char*, kTensorElementBytes.size()> kElementNames = {
    "uint8",   "uint16",  "uint32",   "int32",         "uint64", "int64",     "float16",
    "float32", "float64", "bfloat16", "float32 (ftz)", "tf32",   "tf32 (ftz)"};
constexpr std::uint32_t kFirstReal = 6;

constexpr std::uint32_t kInterleave16 = 1, kInterleave32 = 2;
constexpr std::uint32_t kSwizzle32 = 1, kLastSwizzle = 6;
constexpr std::uint32_t kLastPromotion = 3, kFillNan = 1;
constexpr std::uint64_t kMostSide = std::uint64_t{1} << 32, kMostStride = std::uint64_t{1} << 40;
constexpr std::uint32_t kMostBox = 256, kMostStep = 8;

[[noreturn]] void refuse(const std::string& what, Status status = Status::invalid_argument) {
    throw Error(status, "cannot make a tensor map: " + what);
}

template <class Number>
std::string list(std::span<const Number> numbers) {
    std::string text;
    for (const Number number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
    return "(" + text + ")";
}

// "the box's side is 300 in dimension 1 (0 is the innermost), it has to be 1 to 256"
template <class Number>
std::string at_dimension(const char* what, Number found, std::uint32_t dimension, const std::string& bounds) {
    return std::string(what) + " is " + std::to_string(found) + " in dimension " + std::to_string(dimension) +
           " (0 is the innermost), it has to be " + bounds;
}

// Of what the hardware takes at once, with this swizzling; 0: as much as a box has.
std::uint32_t swizzled_bytes(std::uint32_t swizzle) {
    return swizzle == 0 ? 0 : swizzle < 3 ? 16u << swizzle : 128;
}

// That all of it lies there, and that there is anything to judge.
void check_extent(std::uint64_t address, std::uint64_t bytes, const TensorLayout& layout) {
    if (layout.rank == 0 || layout.rank > TensorLayout::kMaxRank)
        refuse("the rank is " + std::to_string(layout.rank) + ", it has to be 1 to 5");
    if (layout.element_type >= kTensorElementBytes.size())
        refuse("element type " + std::to_string(layout.element_type) +
                   " (CUtensorMapDataType) is none of whole bytes, which are 0 to 12",
               Status::unsupported);
    // The last byte that is read, and not one beyond: no multiplication here may run over.
    std::uint64_t extent = kTensorElementBytes[layout.element_type];
    for (std::uint32_t i = 0; i < layout.rank; ++i) {
        if (layout.sides[i] == 0 || layout.sides[i] > kMostSide)
            refuse(at_dimension("the tensor's side", layout.sides[i], i, "1 to 2^32"));
        const std::uint64_t stride =
            i == 0 ? kTensorElementBytes[layout.element_type] : layout.strides[i - 1];
        std::uint64_t step = 0;
        if (__builtin_mul_overflow(layout.sides[i] - 1, stride, &step) ||
            __builtin_add_overflow(extent, step, &extent))
            extent = ~std::uint64_t{0};
        if (extent > bytes)
            refuse("the tensor " + describe_tensor(address, layout) + " is larger than the " +
                   std::to_string(bytes) + " bytes that its buffer has from there on");
    }
}

// What of it the hardware cannot read, by CUDA's documentation of cuTensorMapEncodeTiled; empty: nothing.
std::string fault_of(std::uint64_t address, const TensorLayout& layout) {
    const std::uint32_t rank = layout.rank;
    if (layout.interleave > kInterleave32)
        return "interleave " + std::to_string(layout.interleave) + " is none of CUDA's, which are 0 to 2";
    if (layout.swizzle > kLastSwizzle)
        return "swizzle " + std::to_string(layout.swizzle) + " is none of CUDA's, which are 0 to 6";
    if (layout.promotion > kLastPromotion)
        return "L2 promotion " + std::to_string(layout.promotion) + " is none of CUDA's, which are 0 to 3";
    if (layout.fill > kFillNan)
        return "fill " + std::to_string(layout.fill) + " is none of CUDA's, which are 0 and 1";
    if (layout.fill == kFillNan && layout.element_type < kFirstReal)
        return std::string("what lies outside is filled with NaN, which ") +
               kElementNames[layout.element_type] + " does not have";
    if (layout.interleave != 0 && rank < 3)
        return "the rank is " + std::to_string(rank) + ", with interleave it has to be 3 to 5";
    if (layout.interleave == kInterleave32 && layout.swizzle != kSwizzle32)
        return "swizzle is " + std::to_string(layout.swizzle) +
               ", with interleave of 32 bytes it has to be 1";
    const std::uint64_t unit = layout.interleave == kInterleave32 ? 32 : 16;
    if (address % unit != 0)
        return "the address is " + hex_address(address) + ", it has to be a multiple of " +
               std::to_string(unit);
    for (std::uint32_t i = 0; i + 1 < rank; ++i)
        if (layout.strides[i] % unit != 0 || layout.strides[i] >= kMostStride)
            return at_dimension("the stride in bytes", layout.strides[i], i + 1,
                                "a multiple of " + std::to_string(unit) + " below 2^40");
    for (std::uint32_t i = 0; i < rank; ++i) {
        if (layout.box[i] == 0 || layout.box[i] > kMostBox)
            return at_dimension("the box's side", layout.box[i], i, "1 to 256");
        if (layout.steps[i] == 0 || layout.steps[i] > kMostStep)
            return at_dimension("the step", layout.steps[i], i, "1 to 8");
    }
    const std::uint64_t row = std::uint64_t{layout.box[0]} * kTensorElementBytes[layout.element_type];
    if (layout.interleave == 0 && row % 16 != 0)
        return "the box's innermost side is " + std::to_string(row) +
               " bytes, it has to be a multiple of 16 bytes";
    const std::uint32_t most = swizzled_bytes(layout.swizzle);
    if (layout.interleave == 0 && most != 0 && row > most)
        return "the box's innermost side is " + std::to_string(row) + " bytes, with swizzle " +
               std::to_string(layout.swizzle) + " it has to be at most " + std::to_string(most);
    return {};
}

}  // namespace

void check_tensor(std::uint64_t address, std::uint64_t bytes, const TensorLayout& layout) {
    check_extent(address, bytes, layout);
    if (const std::string fault = fault_of(address, layout); !fault.empty()) refuse(fault);
}

std::string describe_tensor(std::uint64_t address, const TensorLayout& layout) {
    const std::span sides(layout.sides.data(), layout.rank);
    const std::span strides(layout.strides.data(), layout.rank - 1);
    const std::span box(layout.box.data(), layout.rank);
    const std::span steps(layout.steps.data(), layout.rank);
    return std::string("of ") + kElementNames[layout.element_type] + " at " + hex_address(address) +
           " with sides " + list<std::uint64_t>(sides) + ", strides " + list<std::uint64_t>(strides) +
           " in bytes, box " + list<std::uint32_t>(box) + ", steps " + list<std::uint32_t>(steps) +
           " (the innermost first), interleave " + std::to_string(layout.interleave) + ", swizzle " +
           std::to_string(layout.swizzle) + ", L2 promotion " + std::to_string(layout.promotion) + ", fill " +
           std::to_string(layout.fill);
}

TensorMap null_tensor_map(std::uint64_t address, const TensorLayout& layout) {
    NullTensorMap made;
    made.address = address;
    for (std::uint32_t i = 0; i < layout.rank; ++i) {
        made.sides[i] = layout.sides[i];
        if (i + 1 < layout.rank) made.strides[i] = layout.strides[i];
        made.box[i] = static_cast<std::uint16_t>(layout.box[i]);
        made.steps[i] = static_cast<std::uint8_t>(layout.steps[i]);
    }
    made.rank = static_cast<std::uint8_t>(layout.rank);
    made.element_type = static_cast<std::uint8_t>(layout.element_type);
    made.interleave = static_cast<std::uint8_t>(layout.interleave);
    made.swizzle = static_cast<std::uint8_t>(layout.swizzle);
    made.promotion = static_cast<std::uint8_t>(layout.promotion);
    made.fill = static_cast<std::uint8_t>(layout.fill);
    TensorMap map;
    std::memcpy(map.data(), &made, sizeof made);
    return map;
}

}  // namespace ringlaunch::driver
