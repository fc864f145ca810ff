// Which of the records of a dead epoch can have been at work, and how that is said.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "daemon/supervisor/in_flight.hpp"
#include "schema/ring.hpp"

namespace ringlaunch::supervisor {
namespace {

using schema::RecordKind;

constexpr std::uint32_t kSlots = 64;

// A ring with records of one slot, published as a client does.
struct Ring {
    template <class Record>
    void put(Record record, RecordKind kind) {
        static_assert(sizeof(Record) == kSlotBytes);
        record.mutate_kind(kind);
        record.mutate_slots(1);
        auto* to = reinterpret_cast<std::byte*>(&slots[position % kSlots]);
        std::memcpy(to + sizeof(SharedU64), reinterpret_cast<const std::byte*>(&record) + sizeof(SharedU64),
                    kSlotBytes - sizeof(SharedU64));
        slots[position % kSlots].stamp.store(position + 1);
        ++position;
    }
    void launch(std::uint64_t kernel) {
        schema::CompactLaunchRecord record{};
        record.mutate_kernel(static_cast<std::uint32_t>(kernel));
        put(record, RecordKind::CompactLaunch);
    }
    void event() { put(schema::EventRecord{}, RecordKind::EventRecord); }
    void fill() { put(schema::FillRecord{}, RecordKind::Fill); }
    RecordsInFlight from(std::uint64_t completed, bool one_by_one = false) const {
        return records_in_flight(slots.data(), kSlots, completed, position, one_by_one);
    }

    std::vector<Slot> slots{kSlots};
    std::uint64_t position = 0;
};

TEST(InFlight, OneRecordThatCanHaveBeenAtWorkIsNamed) {
    Ring ring;
    ring.launch(5);
    ring.event();
    ring.launch(7);
    ring.event();
    const RecordsInFlight found = ring.from(1);
    EXPECT_EQ(found.first, 2u);
    EXPECT_TRUE(found.one()) << "events do nothing";
    EXPECT_EQ(found.kernel, 7u);
    EXPECT_EQ(name_records(found, "k"), "kernel k, record at position 2");
}

TEST(InFlight, OfSeveralNoneIsAccused) {
    Ring ring;
    for (std::uint64_t kernel = 1; kernel <= 4; ++kernel) ring.launch(kernel);
    ring.event();
    const RecordsInFlight found = ring.from(1);
    EXPECT_EQ(found.first, 1u);
    EXPECT_EQ(found.last, 3u);
    EXPECT_EQ(found.kernel, 2u);
    EXPECT_EQ(name_records(found, "k"), "one of the records at positions 1 to 3 (the first is of kernel k)");
    EXPECT_EQ(name_records(found, ""), "one of the records at positions 1 to 3");
}

TEST(InFlight, WhereEachCompletesByItselfItIsTheFirst) {
    Ring ring;
    for (std::uint64_t kernel = 1; kernel <= 4; ++kernel) ring.launch(kernel);
    const RecordsInFlight found = ring.from(1, true);
    EXPECT_TRUE(found.one());
    EXPECT_EQ(found.first, 1u);
    EXPECT_EQ(found.kernel, 2u);
}

TEST(InFlight, WhatIsNoLaunchHasNoKernel) {
    Ring ring;
    ring.fill();
    const RecordsInFlight found = ring.from(0);
    EXPECT_TRUE(found.one());
    EXPECT_EQ(name_records(found, ""), "work, record at position 0");
}

TEST(InFlight, WhatItsClientHasWrittenOverMayHaveBeenAnything) {
    Ring ring;
    for (std::uint64_t kernel = 1; kernel <= 4; ++kernel) ring.launch(kernel);
    ring.slots[2].stamp.store(99);
    const RecordsInFlight found = ring.from(0);
    EXPECT_EQ(found.first, 0u);
    EXPECT_EQ(found.last, 3u);
    ring.slots[0].stamp.store(99);
    EXPECT_EQ(ring.from(0).kernel, 0u);
}

}  // namespace
}  // namespace ringlaunch::supervisor
