// The ring: single producer, single consumer, 64-byte slots, one stamp a slot. See schema/pages.hpp for the
// map.
//
// Guarantees
//   - A record and its publication are one store: the head slot's stamp, last, with release.
//   - The consumer sees records whole and in order, or not at all. A dead producer leaves no record half
//   seen.
//   - Neither side ever waits for the other in here; full and empty are answers.
//
// Invariants
//   R1  The slot of position p holds stamp p + 1 when it is the head of a published record, and
//       (p + 1) | kContinuation when it continues one. 0 was never written. Positions only grow, so a stamp
//       of an earlier lap is smaller than the one awaited and cannot be taken for it.
//   R2  No payload byte stands in the first 8 bytes of a slot.
//   R3  The producer writes the slot of position p only while p < completed + slot_count: the consumer's side
//   has
//       completed the record that stood there a lap ago and will never look at it again.
//   R4  A record's slots are contiguous. One that would wrap is preceded by a padding record up to the ring's
//   end. R5  What was written ends at most slot_count behind completed.
//
// Crash of the producer at any store: the head stamp is not there, and the reader never looks behind it.
// Crash of the consumer: the ring is the journal; the next one starts at `completed`, which is a record's
// first slot.
//
// `Memory` supplies the memory operations, so that a model checker or an interleaving test can replace them
// and a mutant can weaken one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "record_generated.h"
#include "schema/pages.hpp"
#include "schema/ring_producer.hpp"
#include "schema/status.hpp"
#include "schema/version.hpp"

namespace ringlaunch {

static_assert(kLaunchKind == static_cast<std::uint64_t>(schema::RecordKind::Launch));
static_assert(kCompactLaunchKind == static_cast<std::uint64_t>(schema::RecordKind::CompactLaunch));
static_assert(kGraphUpdateKind == static_cast<std::uint64_t>(schema::RecordKind::GraphUpdate));
static_assert(kShortRecordSlots == kMinRingSlots / 4);
static_assert(kPaddingKind == static_cast<std::uint64_t>(schema::RecordKind::Padding));

// Which a record's kind says; those that are no launch have no parameters.
constexpr LaunchForm form_of(schema::RecordKind kind) {
    return kind == schema::RecordKind::CompactLaunch ? LaunchForm::compact : LaunchForm::general;
}
constexpr bool is_launch(schema::RecordKind kind) {
    return kind == schema::RecordKind::Launch || kind == schema::RecordKind::CompactLaunch;
}

// In slots: what the reader of a backlog fetches ahead.
inline constexpr std::uint64_t kPrefetchFrom = 4, kPrefetchTo = 6;

// A record as the reader took it: private memory, so that nobody can change it after a check.
struct RecordCopy {
    std::uint64_t position = 0;
    std::uint32_t slots = 0;
    alignas(8) std::byte head[kSlotBytes];                             // stamp and all
    alignas(16) std::byte params[padded_param_bytes(kMaxParamBytes)];  // of a launch or an update

    template <class Record>
    const Record& as() const {
        static_assert(sizeof(Record) == kSlotBytes);
        return *reinterpret_cast<const Record*>(head);
    }
};

// The id of a launch's kernel, whichever its form; nobody has checked it.
inline std::uint64_t kernel_id(const RecordCopy& launch) {
    return launch.as<schema::PaddingRecord>().kind() == schema::RecordKind::CompactLaunch
               ? kernel_of_compact(launch.as<schema::CompactLaunchRecord>().kernel())
               : launch.as<schema::LaunchRecord>().kernel();
}

// The reading side. Trusts nothing but its own position and slot count.
template <class Memory = StdMemory>
class RingConsumer {
  public:
    RingConsumer() = default;
    RingConsumer(const Slot* slots, std::uint32_t slot_count, std::uint64_t position)
        : slots_(slots), slot_count_(slot_count), position_(position) {}

    std::uint64_t position() const { return position_; }

    // Is there a record at position()?
    bool peek() const noexcept {
        // sync: STAMP (pairs with RingProducer::publish)
        return Memory::load_acquire(slots_[index(position_)].stamp) == position_ + 1;
    }

    // Have at least so many slots been written from position() on, as far as is known now?
    bool backlog(std::uint32_t slots) const noexcept {
        const std::uint64_t last = position_ + slots - 1;
        // relaxed: a guess at how much there is; what is taken is read after peek().
        return (Memory::load_relaxed(slots_[index(last)].stamp) & ~kContinuation) == last + 1;
    }

    // Copies the record at position() out of the ring; call after peek() said yes. Does not advance.
    // bad_slot_count, bad_stamp: no honest producer wrote this; `out.position` and the head are valid.
    [[nodiscard]] Status copy(RecordCopy& out) const noexcept {
        const std::uint32_t at = index(position_);
        const Slot& head = slots_[at];
        out.position = position_;
        std::memset(out.head, 0, sizeof(SharedU64));
        Memory::read_payload(out.head + sizeof(SharedU64), head.payload, sizeof(head.payload));
        const auto& record = out.as<schema::PaddingRecord>();
        out.slots = record.slots();
        // R4, and no honest record or padding is longer than a quarter of the ring.
        if (out.slots == 0 || out.slots > slot_count_ / 4 || out.slots > slot_count_ - at)
            return Status::bad_slot_count;
        if (record.kind() == schema::RecordKind::Padding) {
            // An honest one ends where the ring ends. It has no continuations to look at.
            return out.slots == slot_count_ - at ? Status::ok : Status::bad_slot_count;
        }
        std::size_t in_head = head_param_bytes(form_of(record.kind()));
        if (record.kind() == schema::RecordKind::CompactLaunch) {
            std::memcpy(out.params, out.head + kSlotBytes - head_param_bytes(LaunchForm::compact),
                        head_param_bytes(LaunchForm::compact));
        } else if (record.kind() == schema::RecordKind::Launch) {
            std::memcpy(out.params, out.head + kSlotBytes - kHeadParamBytes, kHeadParamBytes);
        } else if (record.kind() == schema::RecordKind::GraphUpdate) {
            in_head = kUpdateHeadParamBytes;
            std::memcpy(out.params, out.head + kSlotBytes - kUpdateHeadParamBytes, kUpdateHeadParamBytes);
        }
        for (std::uint32_t i = 1; i < out.slots; ++i) {
            const Slot& slot = slots_[at + i];
            // relaxed: the head's stamp, read with acquire, covers it.
            if (Memory::load_relaxed(slot.stamp) != ((position_ + i + 1) | kContinuation))
                return Status::bad_stamp;
            const std::size_t offset = in_head + (i - 1) * kContinuationParamBytes;
            if (offset + kContinuationParamBytes <= sizeof(out.params))
                Memory::read_payload(out.params + offset, slot.payload, kContinuationParamBytes);
        }
        return Status::ok;
    }

    // Begins to fetch what stands some records further on, of a backlog. Where there is none this would take
    // the lines from the producer that is about to write them.
    void prefetch() const noexcept {
        for (std::uint64_t ahead = kPrefetchFrom; ahead < kPrefetchTo; ++ahead)
            __builtin_prefetch(&slots_[index(position_ + ahead)]);
    }

    void advance(std::uint32_t slots) noexcept { position_ += slots; }
    void advance_to(std::uint64_t position) noexcept { position_ = position; }

  private:
    std::uint32_t index(std::uint64_t position) const {
        return static_cast<std::uint32_t>(position) & (slot_count_ - 1);
    }

    const Slot* slots_ = nullptr;
    std::uint32_t slot_count_ = 0;
    std::uint64_t position_ = 0;
};

// Where the written records end, for a reader at `from`, a position at or behind `completed`. For counters
// and whoever waits for a ring to be empty: a record that is being written may count in part, and padding
// before the ring's end counts as one slot until the record behind it is there.
inline std::uint64_t written_until(const Slot* slots, std::uint32_t slot_count, std::uint64_t from) noexcept {
    const auto written = [&](std::uint64_t position) {
        // relaxed: a guess; nothing is read by it.
        const std::uint64_t stamp = slots[position & (slot_count - 1)].stamp.load(std::memory_order_relaxed);
        return (stamp & ~kContinuation) == position + 1;
    };
    // Padding has one stamp, at its head, and ends where the ring ends; else what is written has no gap.
    const std::uint64_t lap_end = (from | (slot_count - 1)) + 1;
    const bool wrapped = lap_end < from + slot_count && written(lap_end);
    std::uint64_t low = wrapped ? lap_end + 1 : from, high = wrapped ? from + slot_count : lap_end;
    while (low < high) {
        const std::uint64_t middle = low + (high - low) / 2;
        if (written(middle))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

}  // namespace ringlaunch
