// The launch record as the hot path writes it, word by word, against the struct of record.fbs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "client/src/stream_state.hpp"

namespace ringlaunch::detail {
namespace {

// A ring without a daemon, and a stream that writes it: as much of one as publishing needs.
struct Ring {
    static constexpr std::uint32_t kSlots = 1024;
    UniqueFd fd = make_memfd("ring", ring_segment_bytes(kSlots));
    Mapping mapping{fd, ring_segment_bytes(kSlots), Mapping::Access::read_write, "a ring"};
    RingConsumer<> reader{mapping.as<const Slot>(kRingHeaderBytes), kSlots, 0};
    RingProducer<> producer{mapping.as<Slot>(kRingHeaderBytes), kSlots, 0};
    StatusPage page{};
};

// Publishes a launch of random parameters and reads it back.
template <bool kPadded>
struct Published {
    Published(std::uint32_t param_bytes, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
              std::uint64_t id = 0x0000000700000003) {
        std::mt19937 random(param_bytes);
        kernel.set_id(id);
        kernel.param_bytes = param_bytes;
        params.resize(kPadded ? padded_param_bytes(param_bytes) : param_bytes);
        for (std::uint32_t i = 0; i < param_bytes; ++i) params[i] = static_cast<std::byte>(random());
        form = form_of(kernel, grid, block, shared_bytes);
        const std::uint32_t slots = slots_of(kernel, grid, block, shared_bytes);
        EXPECT_EQ(ring.producer.reserve(slots, ring.page.completed), Status::ok);
        const std::span<const std::byte> given(params.data(), param_bytes);
        if (form == LaunchForm::compact)
            publish_launch<kPadded, LaunchForm::compact>(ring.producer, kernel, grid, block, shared_bytes,
                                                         given);
        else
            publish_launch<kPadded, LaunchForm::general>(ring.producer, kernel, grid, block, shared_bytes,
                                                         given);
        EXPECT_EQ(ring.producer.position(), slots);
        EXPECT_TRUE(ring.reader.peek());
        EXPECT_EQ(ring.reader.copy(copy), Status::ok);
        EXPECT_EQ(copy.slots, slots);
        EXPECT_TRUE(std::equal(params.begin(), params.begin() + param_bytes, copy.params));
        const std::size_t whole = head_param_bytes(form) + (slots - 1) * kContinuationParamBytes;
        EXPECT_GE(padded_param_bytes(param_bytes), whole);
        for (std::size_t i = param_bytes; i < whole; ++i) EXPECT_EQ(copy.params[i], std::byte{0}) << i;
    }

    Ring ring;
    KernelState kernel;
    std::vector<std::byte> params;
    LaunchForm form{};
    RecordCopy copy;
};

constexpr std::uint32_t kLengths[] = {0,  1,  7,  8,  9,  15, 16,  17,  32,  39,   40,  41,
                                      71, 72, 73, 95, 96, 97, 127, 128, 129, 4095, 4096};

template <bool kPadded>
void compare(std::uint32_t param_bytes) {
    constexpr std::uint64_t kId = 0x1234567890abcdef;
    const Published<kPadded> made(param_bytes, {1, 0x20003, 0x40005}, {7, 1000, 64}, 0x60008, kId);
    const auto& record = made.copy.template as<schema::LaunchRecord>();
    EXPECT_EQ(record.kind(), schema::RecordKind::Launch);
    EXPECT_EQ(static_cast<int>(record.flags()), 0);
    EXPECT_EQ(record.slots(), launch_slots(param_bytes, LaunchForm::general));
    EXPECT_EQ(record.param_bytes(), param_bytes);
    EXPECT_EQ(record.reserved0(), 0);
    EXPECT_EQ(record.kernel(), kId);
    EXPECT_EQ(record.grid_x(), 1u);
    EXPECT_EQ(record.grid_y(), 0x20003u);
    EXPECT_EQ(record.grid_z(), 0x40005u);
    EXPECT_EQ(record.block_x(), 7);
    EXPECT_EQ(record.block_y(), 1000);
    EXPECT_EQ(record.block_z(), 64);
    EXPECT_EQ(record.reserved1(), 0);
    EXPECT_EQ(record.shared_bytes(), 0x60008u);
}

template <bool kPadded>
void compare_compact(std::uint32_t param_bytes, Dim3 block) {
    const Published<kPadded> made(param_bytes, {0x7fffffff, 1, 1}, block, 0);
    const auto& record = made.copy.template as<schema::CompactLaunchRecord>();
    EXPECT_EQ(record.kind(), schema::RecordKind::CompactLaunch);
    EXPECT_EQ(static_cast<int>(record.flags()), 0);
    EXPECT_EQ(record.slots(), launch_slots(param_bytes, LaunchForm::compact));
    EXPECT_EQ(record.param_bytes(), param_bytes);
    EXPECT_EQ(record.block_x(), block.x);
    EXPECT_EQ(record.kernel(), 7u << 22 | 3);
    EXPECT_EQ(kernel_of_compact(record.kernel()), made.kernel.id);
    EXPECT_EQ(record.grid_x(), 0x7fffffffu);
}

TEST(LaunchRecord, is_the_struct_of_the_schema_for_every_length_of_parameters) {
    for (const std::uint32_t bytes : kLengths) {
        SCOPED_TRACE(bytes);
        compare<false>(bytes);
        compare<true>(bytes);
        for (const Dim3 block : {Dim3{256}, Dim3{0, 0, 0}}) {
            compare_compact<false>(bytes, block);
            compare_compact<true>(bytes, block);
        }
    }
}

TEST(LaunchRecord, is_compact_where_its_shape_and_its_kernel_allow) {
    KernelState kernel;
    kernel.set_id(0x0000000700000003);
    const auto form = [&](Dim3 grid, Dim3 block, std::uint32_t shared_bytes) {
        return form_of(kernel, grid, block, shared_bytes);
    };
    EXPECT_EQ(form({1}, {1}, 0), LaunchForm::compact);
    EXPECT_EQ(form({1000}, {1024}, 0), LaunchForm::compact);
    EXPECT_EQ(form({1000}, {0, 0, 0}, 0), LaunchForm::compact);
    for (const Dim3 grid : {Dim3{1, 2}, Dim3{1, 1, 2}, Dim3{3, 2, 1}})
        EXPECT_EQ(form(grid, {1}, 0), LaunchForm::general);
    for (const Dim3 block : {Dim3{1, 2}, Dim3{1, 1, 2}, Dim3{4, 2, 2}, Dim3{0, 2, 2}, Dim3{0, 1, 1}})
        EXPECT_EQ(form({1}, block, 0), LaunchForm::general);
    EXPECT_EQ(form({1}, {1}, 1), LaunchForm::general);

    // Index and generation at their bounds, and beyond them.
    constexpr std::uint64_t kIndex = (1u << 22) - 1, kGeneration = (1u << 10) - 1;
    for (const std::uint64_t id : {kGeneration << 32 | kIndex, kGeneration << 32, std::uint64_t{1} << 32}) {
        EXPECT_NE(compact_kernel(id), 0u);
        EXPECT_EQ(kernel_of_compact(compact_kernel(id)), id);
    }
    for (const std::uint64_t id :
         {(kGeneration + 1) << 32, std::uint64_t{1} << 32 | (kIndex + 1), ~std::uint64_t{0}}) {
        kernel.set_id(id);
        EXPECT_EQ(form({1}, {1}, 0), LaunchForm::general);
    }
}

// The two comparisons of the hot path say what launchable() and form_of() do.
TEST(LaunchRecord, is_found_launchable_in_its_compact_form_by_two_comparisons) {
    std::mt19937 random(7);
    const auto one_of = [&](auto... values) {
        const std::uint32_t all[] = {static_cast<std::uint32_t>(values)...};
        return all[random() % std::size(all)];
    };
    int compact = 0, general = 0, neither = 0;
    for (int i = 0; i < 200'000; ++i) {
        KernelState kernel;
        kernel.set_id(one_of(0, 1) != 0 ? 0x0000000700000003 : ~std::uint64_t{0});
        kernel.declared = one_of(0, 1, 1) != 0;
        kernel.max_threads = one_of(0, 1, 64, 1024, 2048);
        kernel.max_shared_bytes = one_of(0, 64);
        kernel.max_grid = {one_of(1, 100, 0x7fffffff), one_of(1, 0xffff), one_of(1, 0xffff)};
        kernel.max_block = {one_of(1, 32, 1024, 0xffff), one_of(1, 1024), one_of(1, 64)};
        kernel.default_block = {one_of(0, 1, 64, 4096), one_of(0, 1, 2), one_of(0, 1, 2)};
        kernel.settle();
        const Dim3 grid{one_of(0, 1, 2, 100, 101, 0x7fffffff, 0xffffffff), one_of(0, 1, 1, 1, 2),
                        one_of(0, 1, 1, 1, 2)};
        const std::uint32_t y = one_of(0, 1, 1, 2);
        const Dim3 block{one_of(0, 1, 32, 33, 64, 65, 1024, 1025, 0xffff, 0xffffffff), y,
                         one_of(y, y, y, 0, 1, 2)};
        const std::uint32_t shared_bytes = one_of(0, 0, 0, 64, 65);
        const bool can = launchable(kernel, grid, block, shared_bytes);
        const bool is_compact = form_of(kernel, grid, block, shared_bytes) == LaunchForm::compact;
        ASSERT_EQ(compactly_launchable(kernel, grid, block, shared_bytes), can && is_compact) << i;
        ++(!can ? neither : is_compact ? compact : general);
    }
    EXPECT_GT(compact, 100);
    EXPECT_GT(general, 100);
    EXPECT_GT(neither, 100);
}

template <class... Args>
void expect_packed(const std::vector<unsigned char>& expected, const Args&... args) {
    using Pack = ArgPack<Args...>;
    std::uint64_t words[Pack::kWords];
    std::fill_n(words, Pack::kWords, 0x5a5a5a5a5a5a5a5a);
    Pack::store(words, args...);
    if constexpr (Pack::kWithinWords) {
        // Word by word, as the hot path asks for them, they are the same.
        const auto each = [&]<std::size_t... kWord>(std::index_sequence<kWord...>) {
            return std::vector<std::uint64_t>{Pack::template word<kWord>(args...)...};
        };
        EXPECT_EQ(std::vector<std::uint64_t>(words, words + Pack::kWords),
                  each(std::make_index_sequence<Pack::kWords>()));
    }
    std::vector<unsigned char> packed(sizeof words);
    std::memcpy(packed.data(), words, sizeof words);
    ASSERT_EQ(Pack::bytes(), expected.size());
    for (std::size_t i = 0; i < packed.size(); ++i)
        EXPECT_EQ(packed[i], i < expected.size() ? expected[i] : 0) << "byte " << i;
}

struct Six {
    std::uint16_t a, b, c;
};
struct Three {
    std::uint8_t a, b, c;
};
struct Twelve {
    std::uint32_t a, b, c;
};

TEST(Arguments, stand_at_their_natural_offsets) {
    expect_packed({});
    expect_packed({1}, std::uint8_t{1});
    expect_packed({1, 0, 2, 0, 3, 0, 0, 0}, std::uint8_t{1}, std::uint16_t{2}, std::uint32_t{3});
    expect_packed({255, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255, 255, 255, 255, 255, 1}, std::int8_t{-1},
                  std::int64_t{-2}, true);
    expect_packed({4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f},
                  DevicePointer{0x01020304}, nullptr, 1.0f);
}

TEST(Arguments, structs_may_reach_from_one_word_into_the_next) {
    expect_packed({1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0}, std::uint16_t{1}, std::uint16_t{2},
                  std::uint16_t{3}, Six{4, 5, 6}, std::uint16_t{7});
    expect_packed({1, 2, 3, 4, 5, 6, 7, 8, 9}, Three{1, 2, 3}, Three{4, 5, 6}, Three{7, 8, 9});
    expect_packed({1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0}, 1u, Twelve{2, 3, 4});
}

TEST(Arguments, have_another_digest_for_every_difference) {
    const std::vector<ArgLayout> some = {{ParamType::pointer, 0, 0, 8}, {ParamType::int32, 0, 8, 4}};
    const std::uint64_t digest = layout_digest(some, 12);
    EXPECT_EQ(digest, layout_digest(std::vector<ArgLayout>(some), 12));
    EXPECT_NE(digest, layout_digest({}, 12));
    EXPECT_NE(digest, layout_digest(some, 16));
    for (std::size_t i = 0; i < some.size(); ++i) {
        auto shorter = some, type = some, offset = some, size = some, twice = some;
        shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(i));
        twice.push_back(some[i]);
        type[i].type = ParamType::float32;
        offset[i].offset += 4;
        size[i].size *= 2;
        for (const auto& other : {shorter, type, offset, size, twice})
            EXPECT_NE(digest, layout_digest(other, 12));
    }
}

TEST(Samples, stand_closer_at_first_and_none_is_passed_by_the_hot_path) {
    Ring ring;
    auto samples_up_to = [&ring, random = std::mt19937(1)](std::uint64_t end) mutable {
        int samples = 0;
        while (ring.producer.position() < end) {
            const auto slots = static_cast<std::uint32_t>(1 + random() % kShortRecordSlots);
            const bool clear = ring.producer.clear(slots);
            if (!clear) {
                ring.page.completed = ring.producer.position();  // the reader has caught up
                EXPECT_EQ(ring.producer.reserve(slots, ring.page.completed), Status::ok);
            }
            const bool due = sample_is_due(ring.producer.position(), slots);
            EXPECT_FALSE(clear && due) << ring.producer.position();
            samples += due;
            ring.producer.publish_head(
                slots, [slots]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>) {
                    return kWord == 1 ? first_word(kLaunchKind, slots, 0) : 0;
                });
            if (!clear) ring.producer.look_ahead(slots_per_sample(ring.producer.position()));
        }
        return samples;
    };
    // Some would be due within the padding at the end of a lap.
    constexpr int kMost = 16384 / 128, kMostLater = ((1 << 20) - 16384) / 512;
    const int samples = samples_up_to(16384), later = samples_up_to(1 << 20);
    EXPECT_LE(samples, kMost);
    EXPECT_GE(samples, kMost * 3 / 4);
    EXPECT_LE(later, kMostLater);
    EXPECT_GE(later, kMostLater / 2);
}

}  // namespace
}  // namespace ringlaunch::detail
