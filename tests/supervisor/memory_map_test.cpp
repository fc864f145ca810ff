// Addresses: no two owners at a time, alignment, joining, and how a session's chunks grow and go.
#include "daemon/supervisor/memory_map.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace ringlaunch::supervisor {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

TEST(FreeList, GivesTheSmallestPieceThatFits) {
    FreeList list;
    list.give_back(0, 1000);
    list.give_back(5000, 300);
    list.give_back(9000, 600);
    EXPECT_EQ(list.take(250), 5000u);
    EXPECT_EQ(list.take(500), 9000u);
    EXPECT_EQ(list.take(1001), std::nullopt);
    EXPECT_EQ(list.take(1000), 0u);
    EXPECT_EQ(list.free_bytes(), 150u);
}

TEST(FreeList, JoinsWithBothNeighbours) {
    FreeList list;
    list.give_back(0, 100);
    list.give_back(200, 100);
    EXPECT_EQ(list.pieces(), 2u);
    list.give_back(100, 100);
    EXPECT_EQ(list.pieces(), 1u);
    EXPECT_EQ(list.largest(), 300u);
    EXPECT_TRUE(list.covers(0, 300));
    EXPECT_FALSE(list.covers(0, 301));
}

TEST(FreeList, TakesAPieceOutOfTheMiddle) {
    FreeList list;
    list.give_back(0, 1000);
    EXPECT_TRUE(list.take_at(400, 200));
    EXPECT_FALSE(list.take_at(500, 10));
    EXPECT_FALSE(list.covers(0, 1000));
    EXPECT_EQ(list.pieces(), 2u);
    list.give_back(400, 200);
    EXPECT_TRUE(list.covers(0, 1000));
}

TEST(FreeList, NeverGivesTheSameAddressTwice) {
    std::mt19937 random(7);
    FreeList list;
    constexpr std::uint64_t kBytes = 1 << 16;
    list.give_back(0, kBytes);
    std::map<std::uint64_t, std::uint64_t> taken;
    std::uint64_t in_use = 0;
    for (int step = 0; step < 20000; ++step) {
        if (random() % 2 == 0) {
            const std::uint64_t bytes = 1 + random() % 2000;
            if (const auto at = list.take(bytes)) {
                const auto after = taken.lower_bound(*at);
                ASSERT_TRUE(after == taken.end() || *at + bytes <= after->first);
                ASSERT_TRUE(after == taken.begin() ||
                            std::prev(after)->first + std::prev(after)->second <= *at);
                taken.emplace(*at, bytes);
                in_use += bytes;
            }
        } else if (!taken.empty()) {
            const auto victim =
                std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
            list.give_back(victim->first, victim->second);
            in_use -= victim->second;
            taken.erase(victim);
        }
        ASSERT_EQ(list.free_bytes() + in_use, kBytes);
    }
    for (const auto& [address, bytes] : taken) list.give_back(address, bytes);
    EXPECT_EQ(list.pieces(), 1u);
}

TEST(DeviceRange, UsesAgainWhatCameBack) {
    DeviceRange range(0x7e8000000000, 8 * kMiB, 2 * kMiB);
    const auto first = range.take(4 * kMiB);
    EXPECT_EQ(first, 0x7e8000000000u);
    EXPECT_EQ(range.take(6 * kMiB), std::nullopt);
    EXPECT_EQ(range.largest(), 4 * kMiB);
    range.give_back(*first, 4 * kMiB);
    EXPECT_EQ(range.take(8 * kMiB), 0x7e8000000000u);
}

TEST(SessionHeap, AlignsBuffersAndKeepsThemWithinAChunk) {
    SessionHeap heap;
    EXPECT_EQ(heap.allocate(1), std::nullopt);
    heap.add_chunk(2 * kMiB, 2 * kMiB);
    heap.add_chunk(4 * kMiB, 2 * kMiB);  // a neighbour, by chance
    EXPECT_EQ(heap.allocate(3 * kMiB), std::nullopt);
    EXPECT_EQ(heap.allocate(1), 2 * kMiB);
    EXPECT_EQ(heap.allocate(1), 2 * kMiB + kBufferAlignment);
    EXPECT_EQ(heap.used_bytes(), 2 * kBufferAlignment);
    heap.free(2 * kMiB, 1);
    EXPECT_EQ(heap.allocate(kBufferAlignment), 2 * kMiB);
}

TEST(SessionHeap, SaysWhichChunksAreEmptyBeyondWhatItKeeps) {
    SessionHeap heap;
    heap.add_chunk(2 * kMiB, 2 * kMiB);
    heap.add_chunk(8 * kMiB, 2 * kMiB);
    EXPECT_EQ(heap.idle_chunks(0).size(), 2u);
    EXPECT_EQ(heap.idle_chunks(2 * kMiB), std::vector<std::uint64_t>{8 * kMiB});
    const auto at = heap.allocate(10);
    ASSERT_EQ(at, 2 * kMiB);
    EXPECT_EQ(heap.idle_chunks(0), std::vector<std::uint64_t>{8 * kMiB});
    heap.remove_chunk(8 * kMiB);
    EXPECT_EQ(heap.chunk_bytes(), 2 * kMiB);
}

TEST(SessionHeap, GrowsByAShareOfWhatItHas) {
    SessionHeap heap;
    EXPECT_EQ(heap.next_chunk_bytes(1, 2 * kMiB), 2 * kMiB);
    EXPECT_EQ(heap.next_chunk_bytes(3 * kMiB, 2 * kMiB), 4 * kMiB);
    heap.add_chunk(0, 160 * kMiB);
    EXPECT_EQ(heap.next_chunk_bytes(1, 2 * kMiB), 20 * kMiB);
    heap.add_chunk(1 << 30, 1024 * kMiB);
    EXPECT_EQ(heap.next_chunk_bytes(1, 2 * kMiB), 64 * kMiB);
}

}  // namespace
}  // namespace ringlaunch::supervisor
