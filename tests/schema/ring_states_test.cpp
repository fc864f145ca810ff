// The ring on states that were written by hand: what an honest producer leaves at each step, and what a
// hostile one may leave at any.
#include <gtest/gtest.h>

#include <random>

#include "tests/schema/ring_fixture.hpp"

namespace ringlaunch {
namespace {

using testing::difference;
using testing::Ring;
using testing::Sample;
using testing::send;

constexpr std::uint32_t kSlots = 64;

schema::LaunchRecord launch(std::uint16_t slots) {
    schema::LaunchRecord record{};
    record.mutate_kind(schema::RecordKind::Launch);
    record.mutate_slots(slots);
    return record;
}

schema::PaddingRecord padding(std::uint16_t slots) {
    schema::PaddingRecord record{};
    record.mutate_kind(schema::RecordKind::Padding);
    record.mutate_slots(slots);
    return record;
}

Status copy_at_head(Ring& ring) {
    RecordCopy out;
    EXPECT_TRUE(ring.consumer.peek());
    return ring.consumer.copy(out);
}

// ---- the reader ----

TEST(RingConsumer, SeesNothingInAFreshRing) {
    Ring ring(kSlots);
    EXPECT_FALSE(ring.consumer.peek());
}

TEST(RingConsumer, SeesARecordOnceItsStampStands) {
    Ring ring(kSlots);
    auto record = launch(1);
    record.mutate_kernel(77);
    ring.write_raw(0, 0, &record);  // the payload is there, the stamp is not
    EXPECT_FALSE(ring.consumer.peek());
    ring.at(0).stamp.store(1, std::memory_order_release);
    ASSERT_TRUE(ring.consumer.peek());
    RecordCopy out;
    ASSERT_EQ(ring.consumer.copy(out), Status::ok);
    EXPECT_EQ(out.position, 0u);
    EXPECT_EQ(out.slots, 1u);
    EXPECT_EQ(out.as<schema::LaunchRecord>().kernel(), 77u);
}

TEST(RingConsumer, TakesNoOtherStampForItsOwn) {
    // At position 3 * 64 + 5 only that position + 1 is a record: not a lap earlier or later, not a
    // continuation.
    constexpr std::uint64_t kAt = 3 * kSlots + 5;
    auto record = launch(1);
    for (const std::uint64_t stamp :
         {std::uint64_t{0}, kAt, kAt + 2, kAt + 1 - kSlots, kAt + 1 - 2 * kSlots, kAt + 1 + kSlots,
          (kAt + 1) | kContinuation, kContinuation, ~std::uint64_t{0}}) {
        Ring ring(kSlots, kAt);
        ring.write_raw(kAt, stamp, &record);
        EXPECT_FALSE(ring.consumer.peek()) << "stamp " << stamp;
    }
    Ring ring(kSlots, kAt);
    ring.write_raw(kAt, kAt + 1, &record);
    EXPECT_TRUE(ring.consumer.peek());
}

TEST(RingConsumer, TakesAWholeLapOfStaleStampsForAnEmptyRing) {
    Ring ring(kSlots, kSlots);
    auto record = launch(1);
    for (std::uint64_t p = 0; p < kSlots; ++p) ring.write_raw(p, p + 1, &record);
    for (std::uint64_t p = kSlots; p < 2 * kSlots; ++p) {
        ring.consumer.advance_to(p);
        EXPECT_FALSE(ring.consumer.peek()) << p;
    }
}

TEST(RingConsumer, RefusesImpossibleSlotCounts) {
    for (const int slots : {0, 17, 32, 63, 64, 65, 1000, 65535}) {
        Ring ring(kSlots);
        auto record = launch(static_cast<std::uint16_t>(slots));
        ring.write_raw(0, 1, &record);
        EXPECT_EQ(copy_at_head(ring), Status::bad_slot_count) << slots;
    }
}

TEST(RingConsumer, RefusesARecordThatWouldLeaveTheRing) {
    for (const std::uint32_t room : {1u, 2u, 5u, 15u}) {
        const std::uint64_t at = kSlots - room;
        Ring ring(kSlots, at);
        auto record = launch(static_cast<std::uint16_t>(room + 1));
        ring.write_raw(at, at + 1, &record);
        EXPECT_EQ(copy_at_head(ring), Status::bad_slot_count) << room;
    }
}

TEST(RingConsumer, TakesPaddingOnlyToTheEndOfTheRing) {
    constexpr std::uint64_t kAt = 2 * kSlots - 5;
    for (const int slots : {0, 1, 4, 5, 6, 64, 65535}) {
        Ring ring(kSlots, kAt);
        auto record = padding(static_cast<std::uint16_t>(slots));
        ring.write_raw(kAt, kAt + 1, &record);
        EXPECT_EQ(copy_at_head(ring), slots == 5 ? Status::ok : Status::bad_slot_count) << slots;
    }
}

TEST(RingConsumer, RefusesPaddingThatSkipsMoreThanAnHonestOneEverWould) {
    Ring ring(kSlots);
    auto record = padding(kSlots);  // ends where the ring ends, but is a whole lap
    ring.write_raw(0, 1, &record);
    EXPECT_EQ(copy_at_head(ring), Status::bad_slot_count);
}

TEST(RingConsumer, LooksAtNoContinuationOfPadding) {
    constexpr std::uint64_t kAt = kSlots - 3;
    Ring ring(kSlots, kAt);
    const auto junk = launch(9);
    ring.write_raw(kAt + 1, 0xdeadbeef, &junk);
    ring.write_raw(kAt + 2, kAt + 3, &junk);
    auto record = padding(3);
    ring.write_raw(kAt, kAt + 1, &record);
    EXPECT_EQ(copy_at_head(ring), Status::ok);
}

TEST(RingConsumer, RefusesContinuationsThatAreNotThisRecords) {
    constexpr std::uint64_t kAt = 4 * kSlots + 7;
    for (const std::uint32_t which : {1u, 2u, 3u}) {
        const std::uint64_t right = (kAt + which + 1) | kContinuation;
        for (const std::uint64_t stamp : {std::uint64_t{0}, kAt + which + 1, right + 1, right - 1,
                                          right - kSlots, right + kSlots, ~std::uint64_t{0}}) {
            Ring ring(kSlots, kAt);
            auto record = launch(4);
            for (std::uint32_t i = 1; i < 4; ++i)
                ring.write_raw(kAt + i, i == which ? stamp : (kAt + i + 1) | kContinuation, &record);
            ring.write_raw(kAt, kAt + 1, &record);
            EXPECT_EQ(copy_at_head(ring), Status::bad_stamp)
                << "continuation " << which << ", stamp " << stamp;
        }
    }
}

TEST(RingConsumer, CopiesTheLongestRecordWithinItsBuffer) {
    // 16 slots of a small ring, and 16384 of the largest, whose parameters exceed any launch's.
    for (const std::uint32_t slot_count : {kSlots, kMaxRingSlots}) {
        Ring ring(slot_count);
        const std::uint32_t slots = slot_count / 4;
        auto record = launch(static_cast<std::uint16_t>(slots));
        for (std::uint32_t i = 1; i < slots; ++i) ring.write_raw(i, (i + 1) | kContinuation, &record);
        ring.write_raw(0, 1, &record);
        struct {
            RecordCopy copy;
            std::byte guard[256];
        } out;
        std::memset(out.guard, 0x5a, sizeof out.guard);
        ASSERT_TRUE(ring.consumer.peek());
        EXPECT_EQ(ring.consumer.copy(out.copy), Status::ok);
        EXPECT_EQ(out.copy.slots, slots);
        for (const std::byte b : out.guard) ASSERT_EQ(b, std::byte{0x5a});
    }
}

TEST(RingConsumer, KeepsItsCopyWhenTheRingChangesAfterwards) {
    Ring ring(kSlots);
    ASSERT_EQ(send(ring.producer, ring.completed, Sample(1, 3)), Status::ok);
    RecordCopy out;
    ASSERT_TRUE(ring.consumer.peek());
    ASSERT_EQ(ring.consumer.copy(out), Status::ok);
    std::memset(static_cast<void*>(&ring.at(0)), 0xff, 3 * kSlotBytes);
    EXPECT_EQ(difference(out, 1), "");
}

TEST(RingConsumer, TakesUpAJournalAtAnyRecordsFirstSlot) {
    Ring ring(kSlots);
    for (std::uint64_t i = 0; i < 8; ++i)
        ASSERT_EQ(send(ring.producer, ring.completed, Sample(i, 2)), Status::ok);
    for (std::uint64_t i = 0; i < 8; ++i) {
        RingConsumer<> second(ring.slots_memory.get(), kSlots, 2 * i);
        RecordCopy out;
        ASSERT_TRUE(second.peek());
        ASSERT_EQ(second.copy(out), Status::ok);
        EXPECT_EQ(difference(out, i), "");
        RingConsumer<> astray(ring.slots_memory.get(), kSlots, 2 * i + 1);  // within a record: sees nothing
        EXPECT_FALSE(astray.peek());
    }
}

TEST(RingConsumer, SeesNothingOfATornRecord) {
    // The states that a producer leaves when it dies within a record of 3 slots, in the order of its stores,
    // over the remains of an earlier lap.
    constexpr std::uint64_t kAt = kSlots;
    for (int stores = 0; stores <= 6; ++stores) {
        Ring ring(kSlots, kAt);
        const Sample old(5, 3), now(6, 3);
        for (std::uint32_t i = 1; i < 3; ++i) ring.write_raw(i, (i + 1) | kContinuation, &old.head);
        ring.write_raw(0, 1, &old.head);
        const auto write = [&](int step, auto&& store) {
            if (step < stores) store();
        };
        for (std::uint32_t i = 1; i < 3; ++i) {
            write(2 * static_cast<int>(i) - 2,
                  [&] { ring.at(kAt + i).stamp = (kAt + i + 1) | kContinuation; });
            write(2 * static_cast<int>(i) - 1,
                  [&] { std::memcpy(ring.at(kAt + i).payload, now.params.data() + 16 + (i - 1) * 56, 56); });
        }
        write(4, [&] {
            std::memcpy(ring.at(kAt).payload, reinterpret_cast<const std::byte*>(&now.head) + 8, 56);
        });
        write(5, [&] { ring.at(kAt).stamp.store(kAt + 1, std::memory_order_release); });
        EXPECT_EQ(ring.consumer.peek(), stores == 6) << stores << " stores";
        if (stores == 6) {
            RecordCopy out;
            ASSERT_EQ(ring.consumer.copy(out), Status::ok);
            EXPECT_EQ(difference(out, 6), "");
        }
    }
}

// ---- the writer ----

TEST(RingProducer, WritesStampsAndNeverPayloadWhereAStampStands) {
    // R2: with a payload of all ones, every word at a slot's start is still a stamp.
    Ring ring(kSlots);
    std::array<std::byte, 4096> ones;
    ones.fill(std::byte{0xff});
    for (int lap = 0; lap < 3; ++lap) {
        for (int i = 0; i < 4; ++i) {
            ASSERT_EQ(ring.producer.reserve(16, ring.completed), Status::ok);
            auto record = launch(16);
            std::memset(record.mutable_params()->data(), 0xff, 16);
            for (std::uint32_t k = 1; k < 16; ++k) ring.producer.write_continuation(k, ones.data());
            const std::uint64_t at = ring.producer.position();
            EXPECT_EQ(ring.producer.publish(record), at + 16);
            EXPECT_EQ(ring.at(at).stamp, at + 1);
            for (std::uint32_t k = 1; k < 16; ++k)
                EXPECT_EQ(ring.at(at + k).stamp, (at + k + 1) | kContinuation);
            ring.complete(ring.producer.position());
        }
    }
}

TEST(RingProducer, FillsTheRestOfAContinuationWithZero) {
    for (std::size_t bytes = 0; bytes <= kContinuationParamBytes; ++bytes) {
        Ring ring(kSlots);
        std::memset(static_cast<void*>(ring.slots_memory.get()), 0xee, kSlots * kSlotBytes);
        std::array<std::byte, 56> from;
        from.fill(std::byte{0x11});
        ASSERT_EQ(ring.producer.reserve(2, ring.completed), Status::ok);
        ring.producer.write_continuation(1, from.data(), bytes, 0);
        ring.producer.publish(launch(2));
        for (std::size_t i = 0; i < 56; ++i)
            ASSERT_EQ(ring.at(1).payload[i], i < bytes ? std::byte{0x11} : std::byte{0}) << bytes << ' ' << i;
    }
}

TEST(RingProducer, WritesTheSameBytesFromAStructAndFromWords) {
    const Sample sample(4, 3);
    Ring one(kSlots, 7), other(kSlots, 7), third(kSlots, 7);
    for (Ring* ring : {&one, &other, &third})
        ASSERT_EQ(ring->producer.reserve(3, ring->completed), Status::ok);
    for (std::uint32_t i = 1; i < 3; ++i) one.producer.write_continuation(i, sample.continuation(i));
    for (std::uint32_t i = 1; i < 3; ++i) other.producer.write_continuation(i, sample.continuation(i));
    one.producer.publish(sample.head);
    other.producer.publish_head(3, testing::WordsOf{sample});
    third.producer.publish_each<3>(testing::WordsOf{sample});
    for (Ring* ring : {&other, &third}) {
        EXPECT_EQ(one.producer.position(), ring->producer.position());
        for (std::uint64_t at = 7; at < 10; ++at)
            EXPECT_EQ(std::memcmp(static_cast<const void*>(&one.at(at)),
                                  static_cast<const void*>(&ring->at(at)), kSlotBytes),
                      0)
                << at;
    }
}

TEST(WrittenUntil, IsWhereTheProducerStandsFromEveryPlaceBehindIt) {
    for (std::uint64_t start : {std::uint64_t{0}, std::uint64_t{5}, 3 * kSlots - 1ul, 7ul * kSlots}) {
        Ring ring(kSlots, start);
        const auto until = [&](std::uint64_t from) {
            return written_until(ring.slots_memory.get(), kSlots, from);
        };
        EXPECT_EQ(until(start), start);
        std::uint32_t slots = 1;
        std::uint64_t completed = start;
        for (int i = 0; i < 400; ++i, slots = slots % 7 + 1) {
            while (send(ring.producer, ring.completed, Sample(static_cast<std::uint64_t>(i), slots)) ==
                   Status::ring_full) {
                EXPECT_EQ(until(completed), ring.producer.position()) << "full";
                RecordCopy out;
                ASSERT_TRUE(ring.consumer.peek());
                ASSERT_EQ(ring.consumer.copy(out), Status::ok);
                ring.consumer.advance(out.slots);
                ring.complete(completed = ring.consumer.position());
            }
            ASSERT_EQ(until(completed), ring.producer.position()) << start << " " << i;
        }
    }
}

TEST(WrittenUntil, StaysWithinTheRingWhateverItsStampsAre) {
    Ring ring(kSlots);
    std::mt19937_64 random(1);
    for (int round = 0; round < 1000; ++round) {
        const std::uint64_t from = random();
        for (std::uint32_t i = 0; i < kSlots; ++i)
            ring.at(i).stamp.store(random() % 2 != 0 ? random() : from + i + 1, std::memory_order_relaxed);
        const std::uint64_t until = written_until(ring.slots_memory.get(), kSlots, from);
        EXPECT_LE(until - from, kSlots);
    }
}

TEST(RingProducer, RefusesWhatIsLongerThanAQuarter) {
    Ring ring(kSlots);
    EXPECT_EQ(ring.producer.reserve(0, ring.completed), Status::record_too_long);
    EXPECT_EQ(ring.producer.reserve(17, ring.completed), Status::record_too_long);
    EXPECT_EQ(ring.producer.reserve(~0u, ring.completed), Status::record_too_long);
    EXPECT_EQ(ring.producer.reserve(16, ring.completed), Status::ok);
    EXPECT_EQ(ring.producer.position(), 0u);  // a reservation alone changes nothing
}

TEST(RingProducer, IsFullAtExactlyTheSlotCount) {
    Ring ring(kSlots);
    for (std::uint64_t i = 0; i < kSlots; ++i)
        ASSERT_EQ(send(ring.producer, ring.completed, Sample(i, 1)), Status::ok);
    EXPECT_EQ(ring.producer.reserve(1, ring.completed), Status::ring_full);
    // Nothing was overwritten: the oldest record is still whole.
    RecordCopy out;
    ASSERT_TRUE(ring.consumer.peek());
    ASSERT_EQ(ring.consumer.copy(out), Status::ok);
    EXPECT_EQ(difference(out, 0), "");
    ring.complete(1);
    EXPECT_EQ(ring.producer.reserve(2, ring.completed), Status::ring_full);
    EXPECT_EQ(ring.producer.reserve(1, ring.completed), Status::ok);
    EXPECT_EQ(send(ring.producer, ring.completed, Sample(kSlots, 1)), Status::ok);
    EXPECT_EQ(ring.producer.reserve(1, ring.completed), Status::ring_full);
}

TEST(RingProducer, CountsPaddingIntoTheRoomItNeeds) {
    Ring ring(kSlots, kSlots - 3);  // 3 slots to the end; a record of 4 needs 3 + 4
    ring.complete(kSlots - 3);
    ASSERT_EQ(send(ring.producer, ring.completed, Sample(0, 4)), Status::ok);
    EXPECT_EQ(ring.producer.position(), kSlots + 4u);
    RecordCopy out;
    ASSERT_TRUE(ring.consumer.peek());
    ASSERT_EQ(ring.consumer.copy(out), Status::ok);
    EXPECT_EQ(out.as<schema::PaddingRecord>().kind(), schema::RecordKind::Padding);
    EXPECT_EQ(out.slots, 3u);
    ring.consumer.advance(out.slots);
    ASSERT_TRUE(ring.consumer.peek());
    ASSERT_EQ(ring.consumer.copy(out), Status::ok);
    EXPECT_EQ(out.position, kSlots);
    EXPECT_EQ(difference(out, 0), "");
}

TEST(RingProducer, WritesNoPaddingWhenThereIsNoRoomBehindIt) {
    Ring ring(kSlots);
    for (std::uint64_t i = 0; i < 31; ++i)
        ASSERT_EQ(send(ring.producer, ring.completed, Sample(i, 2)), Status::ok);
    ring.complete(2);  // at 62, 2 slots to the end and 2 free behind it: a record of 3 has no room
    EXPECT_EQ(ring.producer.reserve(3, ring.completed), Status::ring_full);
    EXPECT_EQ(ring.producer.position(), 62u);
    EXPECT_EQ(ring.at(62).stamp, 0u);
    ring.complete(4);
    EXPECT_EQ(ring.producer.reserve(3, ring.completed), Status::ok);
    EXPECT_EQ(ring.producer.position(), 64u);
}

TEST(RingProducer, NeverNeedsMoreThanAnEmptyRingForTheLongestRecord) {
    for (std::uint64_t start = 0; start < kSlots; ++start) {
        Ring ring(kSlots, start);
        EXPECT_EQ(ring.producer.reserve(ring.producer.max_record_slots(), ring.completed), Status::ok)
            << start;
    }
}

TEST(RingProducer, ReadsTheCompletedPositionOnlyWhenTheRingLooksFull) {
    Ring ring(kSlots);
    SharedU64 poisoned{~std::uint64_t{0} >> 2};  // would look like endless room
    for (std::uint64_t i = 0; i < kSlots; ++i)
        ASSERT_EQ(send(ring.producer, poisoned, Sample(i, 1)), Status::ok);
    Ring other(kSlots);
    SharedU64 behind{0};
    for (std::uint64_t i = 0; i < kSlots; ++i)
        ASSERT_EQ(send(other.producer, behind, Sample(i, 1)), Status::ok);
    EXPECT_EQ(send(other.producer, behind, Sample(0, 1)), Status::ring_full);
}

// ---- the hot path's question, which alone decides about most launches ----

constexpr std::uint64_t kNever = std::uint64_t{1} << 63;

// Of a producer that has just looked ahead.
bool is_clear(RingProducer<> producer, std::uint32_t count, std::uint64_t every = kNever) {
    producer.look_ahead(every);
    return count <= producer.max_record_slots() && producer.clear(count);
}

TEST(Clear, NotBeforeALookAhead) {
    const Ring ring(kSlots);
    EXPECT_FALSE(ring.producer.clear(1));
    EXPECT_FALSE(RingProducer<>().clear(1));
}

TEST(Clear, UpToTheLastFreeSlot) {
    Ring ring(kSlots, kSlots / 2);  // so that the ring's end is not what is in the way
    for (std::uint64_t i = 0; i < kSlots - 2; ++i) {
        ASSERT_TRUE(is_clear(ring.producer, 1)) << i;
        ASSERT_EQ(send(ring.producer, ring.completed, Sample(i, 1)), Status::ok);
    }
    EXPECT_TRUE(is_clear(ring.producer, 2));
    EXPECT_FALSE(is_clear(ring.producer, 3));
    ASSERT_EQ(send(ring.producer, ring.completed, Sample(kSlots - 2, 1)), Status::ok);
    EXPECT_TRUE(is_clear(ring.producer, 1));
    EXPECT_FALSE(is_clear(ring.producer, 2));
    ASSERT_EQ(send(ring.producer, ring.completed, Sample(kSlots - 1, 1)), Status::ok);
    EXPECT_FALSE(is_clear(ring.producer, 1));
}

TEST(Clear, KnowsOnlyWhatReserveReadOfTheCompletedPosition) {
    Ring ring(kSlots);
    for (std::uint64_t i = 0; i < kSlots; ++i)
        ASSERT_EQ(send(ring.producer, ring.completed, Sample(i, 1)), Status::ok);
    ring.complete(2);
    EXPECT_FALSE(is_clear(ring.producer, 1));
    ASSERT_EQ(ring.producer.reserve(1, ring.completed), Status::ok);
    ring.complete(3);  // not read
    EXPECT_TRUE(is_clear(ring.producer, 2));
    EXPECT_FALSE(is_clear(ring.producer, 3));
}

TEST(Clear, NotForARecordThatWouldCrossTheEnd) {
    for (const std::uint32_t to_end : {1u, 2u, 15u}) {
        Ring ring(kSlots, 3 * kSlots - to_end);
        EXPECT_TRUE(is_clear(ring.producer, to_end)) << to_end;
        EXPECT_FALSE(is_clear(ring.producer, to_end + 1)) << to_end;
        // reserve() pads, and then there is room.
        ASSERT_EQ(ring.producer.reserve(to_end + 1, ring.completed), Status::ok);
        EXPECT_EQ(ring.producer.position(), 3 * kSlots);
        EXPECT_TRUE(is_clear(ring.producer, to_end + 1)) << to_end;
    }
}

TEST(Clear, UpToTheLongestRecord) {
    for (const std::uint32_t slot_count : {kMinRingSlots, 4 * kMinRingSlots, kMaxRingSlots}) {
        Ring ring(slot_count);
        EXPECT_TRUE(is_clear(ring.producer, slot_count / 4)) << slot_count;
        EXPECT_FALSE(is_clear(ring.producer, slot_count / 4 + 1)) << slot_count;
        EXPECT_FALSE(is_clear(ring.producer, ~0u)) << slot_count;
    }
}

// Wherever it stands, however full the ring: yes exactly where reserve() would change nothing and say ok.
TEST(Clear, AgreesWithReserveInEveryState) {
    for (const std::uint64_t start :
         {std::uint64_t{0}, std::uint64_t{kSlots} - 1, std::uint64_t{5} * kSlots + 33,
          (std::uint64_t{1} << 32) - 3, (std::uint64_t{1} << 63) - 20000}) {
        Ring ring(kSlots, start);
        for (std::uint64_t used = 0; used <= kSlots; ++used) {
            for (std::uint32_t count = 1; count <= ring.producer.max_record_slots() + 2; ++count) {
                RingProducer<> asked = ring.producer;
                const std::uint64_t at = asked.position();
                const bool crosses = at / kSlots != (at + count - 1) / kSlots;
                const bool room = !crosses && asked.reserve(count, ring.completed) == Status::ok;
                ASSERT_EQ(is_clear(ring.producer, count), room)
                    << count << " slots at " << at << ", " << used << " in use";
            }
            if (used < kSlots) {
                ASSERT_EQ(send(ring.producer, ring.completed, Sample(used, 1)), Status::ok);
            }
        }
    }
}

// However far behind the look ahead is: yes only where reserve() would change nothing and say ok.
TEST(Clear, HoldsUntilTheNextLookAhead) {
    for (const std::uint64_t start : {std::uint64_t{0}, std::uint64_t{17}, std::uint64_t{3} * kSlots - 1}) {
        Ring ring(kSlots, start);
        ring.producer.look_ahead(kNever);
        for (std::uint64_t sent = 0; ring.producer.clear(1); ++sent) {
            for (std::uint32_t count = 1; count <= ring.producer.max_record_slots(); ++count) {
                if (!ring.producer.clear(count)) continue;
                RingProducer<> asked = ring.producer;
                ASSERT_EQ(asked.reserve(count, ring.completed), Status::ok) << count << " at " << sent;
                ASSERT_EQ(asked.position(), ring.producer.position()) << "it was padded";
            }
            ring.producer.publish(Sample(sent, 1).head);
        }
        EXPECT_EQ(ring.producer.position() % kSlots, 0u) << "the lap's end is what ends it";
    }
}

TEST(Clear, ReachesNoMultiple) {
    for (const std::uint64_t every : {4u, 16u, 128u})
        for (std::uint64_t at = 0; at < 2 * every; ++at) {
            const Ring ring(1024, at);
            for (std::uint32_t count = 1; count <= 130; ++count)
                ASSERT_EQ(is_clear(ring.producer, count, every), at / every == (at + count) / every)
                    << count << " at " << at << ", every " << every;
        }
}

// ---- both, over laps and numbers ----

class FarPositions : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(FarPositions, EveryRecordArrivesWholeOverManyLaps) {
    Ring ring(kSlots, GetParam());
    std::uint64_t sent = 0, seen = 0;
    while (seen < 500) {
        while (sent < 500) {
            const Status status =
                send(ring.producer, ring.completed, Sample(sent, 1 + testing::mix(9, sent) % 16));
            if (status == Status::ring_full) break;
            ASSERT_EQ(status, Status::ok);
            ++sent;
        }
        // R5
        ASSERT_LE(ring.producer.position() - ring.completed.load(), kSlots);
        RecordCopy out;
        ASSERT_TRUE(ring.consumer.peek());
        while (ring.consumer.peek()) {
            ASSERT_EQ(ring.consumer.copy(out), Status::ok);
            if (out.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding) {
                ASSERT_EQ(difference(out, seen), "");
                ++seen;
            }
            ring.consumer.advance(out.slots);
        }
        ring.complete(ring.consumer.position());
    }
    EXPECT_EQ(ring.consumer.position(), ring.producer.position());
}

INSTANTIATE_TEST_SUITE_P(Starts, FarPositions,
                         ::testing::Values(0, 1, 63, 64, 12345, (std::uint64_t{1} << 32) - 3,
                                           (std::uint64_t{1} << 62) + 17,
                                           // The last laps that a 63-bit position can count: at 10^9 slots a
                                           // second some 290 years away.
                                           (std::uint64_t{1} << 63) - 20000));

TEST(LaunchSlots, CountsHeadAndContinuations) {
    EXPECT_EQ(launch_slots(0), 1u);
    EXPECT_EQ(launch_slots(16), 1u);
    EXPECT_EQ(launch_slots(17), 2u);
    EXPECT_EQ(launch_slots(72), 2u);
    EXPECT_EQ(launch_slots(73), 3u);
    EXPECT_EQ(launch_slots(40, LaunchForm::compact), 1u);
    EXPECT_EQ(launch_slots(41, LaunchForm::compact), 2u);
    EXPECT_EQ(launch_slots(96, LaunchForm::compact), 2u);
    EXPECT_EQ(launch_slots(97, LaunchForm::compact), 3u);
    for (const LaunchForm form : {LaunchForm::general, LaunchForm::compact}) {
        for (std::size_t bytes = 0; bytes <= kMaxParamBytes; ++bytes) {
            const std::size_t slots = launch_slots(bytes, form);
            const std::size_t held = head_param_bytes(form) + (slots - 1) * kContinuationParamBytes;
            ASSERT_GE(held, bytes);
            ASSERT_GE(padded_param_bytes(bytes), held);
            if (slots > 1) {
                ASSERT_LT(held - kContinuationParamBytes, bytes);
            }
        }
    }
}

}  // namespace
}  // namespace ringlaunch
