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
//   end. R5  published - completed <= slot_count.
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
#include "schema/status.hpp"
#include "schema/version.hpp"

namespace ringlaunch {

inline constexpr std::uint64_t kContinuation = std::uint64_t{1} << 63;
inline constexpr std::size_t kHeadParamBytes = 16;
inline constexpr std::size_t kContinuationParamBytes = 56;
inline constexpr std::size_t kMaxContinuations =
    (kMaxParamBytes - kHeadParamBytes + kContinuationParamBytes - 1) / kContinuationParamBytes;

constexpr std::uint32_t launch_slots(std::size_t param_bytes) {
    return param_bytes <= kHeadParamBytes ? 1
                                          : static_cast<std::uint32_t>(1 + (param_bytes - kHeadParamBytes +
                                                                            kContinuationParamBytes - 1) /
                                                                               kContinuationParamBytes);
}

// A word through a register, alone. Parameters were stored a moment ago, word by word: a vector load of two
// of them would have to wait until both have left the store buffer, behind every earlier store to the ring
// (40 ns a record and more).
inline std::uint64_t load_word(const void* from) noexcept {
    std::uint64_t word;
    std::memcpy(&word, from, sizeof word);
    asm volatile("" : "+r"(word));  // keeps the compiler from making a vector load of two
    return word;
}

struct alignas(kSlotBytes) Slot {
    SharedU64 stamp;
    std::byte payload[kSlotBytes - sizeof(SharedU64)];
};
static_assert(sizeof(Slot) == kSlotBytes);

// The memory operations of the real thing.
struct StdMemory {
    static std::uint64_t load_acquire(const SharedU64& word) { return word.load(std::memory_order_acquire); }
    static std::uint32_t load_acquire(const SharedU32& word) { return word.load(std::memory_order_acquire); }
    static std::uint64_t load_relaxed(const SharedU64& word) { return word.load(std::memory_order_relaxed); }
    static std::uint32_t load_relaxed(const SharedU32& word) { return word.load(std::memory_order_relaxed); }
    static void store_release(SharedU64& word, std::uint64_t value) {
        word.store(value, std::memory_order_release);
    }
    static void store_release(SharedU32& word, std::uint32_t value) {
        word.store(value, std::memory_order_release);
    }
    static void store_relaxed(SharedU64& word, std::uint64_t value) {
        word.store(value, std::memory_order_relaxed);
    }
    static void store_relaxed(SharedU32& word, std::uint32_t value) {
        word.store(value, std::memory_order_relaxed);
    }
    static void write_payload(std::byte* to, const void* from, std::size_t bytes) {
        std::memcpy(to, from, bytes);
    }
    static void read_payload(void* to, const std::byte* from, std::size_t bytes) {
        std::memcpy(to, from, bytes);
        // Keeps the compiler from fetching the shared bytes again after they were checked (a hostile producer
        // may change them at any time): nothing it knows about memory survives this line.
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    // Orders the caller's earlier stores before its later loads.
    static void full_fence() {
        // ThreadSanitizer does not know fences; no payload is released by one, so it does not miss this.
#ifndef __SANITIZE_THREAD__
        std::atomic_thread_fence(std::memory_order_seq_cst);
#else
        __sync_synchronize();
#endif
    }
    // Orders the producer's stamp before its look at need_wakeup. `with_fence`: the sleeper has no
    // membarrier.
    static void after_stamp(bool with_fence) {
        if (with_fence)
            full_fence();
        else
            std::atomic_signal_fence(std::memory_order_seq_cst);  // the sleeper's membarrier does the rest
    }
};

// The writing side. One thread at a time.
template <class Memory = StdMemory>
class RingProducer {
  public:
    RingProducer() = default;
    RingProducer(RingHeader* header, Slot* slots, std::uint32_t slot_count, std::uint64_t position)
        : header_(header),
          slots_(slots),
          slot_count_(slot_count),
          position_(position),
          completed_(position) {}

    std::uint64_t position() const { return position_; }
    std::uint32_t slot_count() const { return slot_count_; }
    std::uint32_t max_record_slots() const { return slot_count_ / 4; }

    // Makes room for a record of `count` slots that stand in one piece, padding to the end of the ring where
    // needed. ok: the record's head is at position(). Reads the completed position only when the ring looks
    // full.
    [[nodiscard]] Status reserve(std::uint32_t count, const SharedU64& completed) noexcept {
        if (count == 0 || count > max_record_slots()) return Status::record_too_long;
        const std::uint32_t to_end = slot_count_ - index(position_);
        const std::uint32_t padding = count <= to_end ? 0 : to_end;
        if (position_ + padding + count > completed_ + slot_count_) {
            // sync: COMPLETED (pairs with the device's or the dispatcher's store of `completed`): what the
            // reader did with the slots happens before we write them again.
            completed_ = Memory::load_acquire(completed);
            if (position_ + padding + count > completed_ + slot_count_) return Status::ring_full;
        }
        if (padding != 0) publish_padding(padding);
        return Status::ok;
    }

    // The hot path's question: is there room for `count` slots as things stand, without padding and without a
    // look at `completed`? Where not, reserve() has the answer.
    [[nodiscard]] bool has_room(std::uint32_t count) const noexcept {
        return count <= max_record_slots() && count <= slot_count_ - index(position_) &&
               position_ + count <= completed_ + slot_count_;
    }

    // Writes continuation slot `i` (from 1) of the record reserved, all 56 bytes of it.
    void write_continuation(std::uint32_t i, const void* from) noexcept {
        Slot& slot = slots_[index(position_) + i];
        // relaxed: the head's stamp releases it.
        Memory::store_relaxed(slot.stamp, (position_ + i + 1) | kContinuation);
        write_words<kContinuationParamBytes / 8>(slot.payload, from);
    }

    // The same with the last `bytes` <= 56 of the parameters; the rest becomes zero.
    void write_continuation(std::uint32_t i, const void* from, std::size_t bytes) noexcept {
        Slot& slot = slots_[index(position_) + i];
        // relaxed: the head's stamp releases it.
        Memory::store_relaxed(slot.stamp, (position_ + i + 1) | kContinuation);
        for (std::size_t at = 0; at < kContinuationParamBytes; at += 8) {
            const std::uint64_t word =
                at < bytes ? first_bytes(static_cast<const std::byte*>(from) + at, bytes - at) : 0;
            Memory::write_payload(slot.payload + at, &word, sizeof word);
        }
    }

    // Writes the head and publishes the record. `record` is one of the 64-byte structs of record.fbs.
    // `record.slots` must be the count reserved. Returns the position after the record.
    template <class Record>
    std::uint64_t publish(const Record& record) noexcept {
        static_assert(sizeof(Record) == kSlotBytes);
        Slot& slot = slots_[index(position_)];
        const std::byte* bytes = reinterpret_cast<const std::byte*>(&record);
        Memory::write_payload(slot.payload, bytes + sizeof(SharedU64), sizeof(slot.payload));
        // sync: STAMP (pairs with RingConsumer::peek): the record's bytes are there before its stamp.
        Memory::store_release(slot.stamp, position_ + 1);
        position_ += record.slots();
        Memory::store_relaxed(header_->published, position_);  // relaxed: a hint for counters
        return position_;
    }

    // The same with a record's 64 bytes as eight words (the first is the stamp's place).
    std::uint64_t publish_words(const std::uint64_t (&words)[8], std::uint32_t slots) noexcept {
        Slot& slot = slots_[index(position_)];
        write_words<7>(slot.payload, words + 1);
        // sync: STAMP (pairs with RingConsumer::peek): as in publish()
        Memory::store_release(slot.stamp, position_ + 1);
        position_ += slots;
        Memory::store_relaxed(header_->published, position_);  // relaxed: a hint for counters
        return position_;
    }

  private:
    std::uint32_t index(std::uint64_t position) const {
        return static_cast<std::uint32_t>(position) & (slot_count_ - 1);
    }

    // Up to eight bytes as a word, the missing ones zero.
    static std::uint64_t first_bytes(const std::byte* from, std::size_t bytes) noexcept {
        if (bytes >= sizeof(std::uint64_t)) return load_word(from);
        std::uint64_t word = 0;
        for (std::size_t i = 0; i < bytes; ++i) word |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
        return word;
    }

    template <std::size_t kWords>
    static void write_words(std::byte* to, const void* from) noexcept {
        for (std::size_t i = 0; i < kWords; ++i) {
            const std::uint64_t word = load_word(static_cast<const std::byte*>(from) + 8 * i);
            Memory::write_payload(to + 8 * i, &word, sizeof word);
        }
    }

    void publish_padding(std::uint32_t count) noexcept {
        schema::PaddingRecord record{};
        record.mutate_kind(schema::RecordKind::Padding);
        record.mutate_slots(static_cast<std::uint16_t>(count));
        publish(record);
    }

    RingHeader* header_ = nullptr;
    Slot* slots_ = nullptr;
    std::uint32_t slot_count_ = 0;
    std::uint64_t position_ = 0;
    std::uint64_t completed_ = 0;  // as last read
};

// A record as the reader took it: private memory, so that nobody can change it after a check.
struct RecordCopy {
    std::uint64_t position = 0;
    std::uint32_t slots = 0;
    alignas(8) std::byte head[kSlotBytes];  // stamp and all
    alignas(
        16) std::byte params[kHeadParamBytes + kMaxContinuations * kContinuationParamBytes];  // of a launch

    template <class Record>
    const Record& as() const {
        static_assert(sizeof(Record) == kSlotBytes);
        return *reinterpret_cast<const Record*>(head);
    }
};

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
        if (record.kind() == schema::RecordKind::Launch)
            std::memcpy(out.params, out.head + kSlotBytes - kHeadParamBytes, kHeadParamBytes);
        for (std::uint32_t i = 1; i < out.slots; ++i) {
            const Slot& slot = slots_[at + i];
            // relaxed: the head's stamp, read with acquire, covers it.
            if (Memory::load_relaxed(slot.stamp) != ((position_ + i + 1) | kContinuation))
                return Status::bad_stamp;
            const std::size_t offset = kHeadParamBytes + (i - 1) * kContinuationParamBytes;
            if (offset + kContinuationParamBytes <= sizeof(out.params))
                Memory::read_payload(out.params + offset, slot.payload, kContinuationParamBytes);
        }
        return Status::ok;
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

}  // namespace ringlaunch
