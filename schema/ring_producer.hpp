// The writing half of the ring, and what both halves share; schema/ring.hpp says what the ring guarantees.
// It needs the standard library alone, since programs compile it into each of their launches: it is installed
// as <ringlaunch/ring_producer.hpp>.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "pages.hpp"  // beside this file, as in include/ringlaunch/
#include "status.hpp"

namespace ringlaunch {

// Of schema::RecordKind, which needs flatbuffers; schema/ring.hpp compares them.
inline constexpr std::uint64_t kLaunchKind = 1;
inline constexpr std::uint64_t kPaddingKind = 8;
inline constexpr std::uint64_t kCompactLaunchKind = 9;
inline constexpr std::uint64_t kGraphUpdateKind = 11;

// Every ring takes records as long as this: a quarter of the shortest ring's slots.
inline constexpr std::uint32_t kShortRecordSlots = 16;

inline constexpr std::uint64_t kContinuation = std::uint64_t{1} << 63;
inline constexpr std::size_t kContinuationParamBytes = 56;

// How a launch stands in the ring: LaunchRecord or CompactLaunchRecord of record.fbs.
enum class LaunchForm : bool { general, compact };

constexpr std::size_t head_param_bytes(LaunchForm form) {
    return form == LaunchForm::compact ? 40 : 16;
}
inline constexpr std::size_t kHeadParamBytes = head_param_bytes(LaunchForm::general);

constexpr std::uint32_t launch_slots(std::size_t param_bytes, LaunchForm form = LaunchForm::general) {
    const std::size_t in_head = head_param_bytes(form);
    if (param_bytes <= in_head) return 1;
    return static_cast<std::uint32_t>(1 + (param_bytes - in_head + kContinuationParamBytes - 1) /
                                              kContinuationParamBytes);
}

// The same of GraphUpdateRecord.
inline constexpr std::size_t kUpdateHeadParamBytes = 8;
constexpr std::uint32_t update_slots(std::size_t param_bytes) {
    if (param_bytes <= kUpdateHeadParamBytes) return 1;
    return static_cast<std::uint32_t>(
        1 + (param_bytes - kUpdateHeadParamBytes + kContinuationParamBytes - 1) / kContinuationParamBytes);
}

// What a record's slots hold of parameters, whichever its form.
constexpr std::size_t padded_param_bytes(std::size_t bytes) {
    std::size_t most = 0;
    for (const LaunchForm form : {LaunchForm::general, LaunchForm::compact}) {
        const std::size_t held =
            head_param_bytes(form) + (launch_slots(bytes, form) - 1) * kContinuationParamBytes;
        most = held > most ? held : most;
    }
    return most;
}

// A kernel's id as a compact launch says it, and back; 0: it has no such form. The index stands in an id's
// low half, the generation (never 0) in the high one.
inline constexpr int kCompactIndexBits = 22;
constexpr std::uint32_t compact_kernel(std::uint64_t id) noexcept {
    const std::uint64_t index = id & 0xffffffff, generation = id >> 32;
    if (index >> kCompactIndexBits != 0 || generation >> (32 - kCompactIndexBits) != 0) return 0;
    return static_cast<std::uint32_t>(generation << kCompactIndexBits | index);
}
constexpr std::uint64_t kernel_of_compact(std::uint32_t kernel) noexcept {
    return std::uint64_t{kernel >> kCompactIndexBits} << 32 | (kernel & ((1u << kCompactIndexBits) - 1));
}

// A word through a register, alone. Parameters were stored a moment ago, word by word: a vector load of two
// of them would have to wait until both have left the store buffer, behind every earlier store to the ring
// (40 ns a record and more).
[[gnu::always_inline]] inline std::uint64_t load_word(const void* from) noexcept {
    std::uint64_t word;
    std::memcpy(&word, from, sizeof word);
    asm volatile("" : "+r"(word));  // keeps the compiler from making a vector load of two
    return word;
}

// The word at `at` of `bytes` bytes, what lies behind them zero.
inline std::uint64_t word_within(const std::byte* from, std::size_t bytes, std::size_t at) noexcept {
    if (at + sizeof(std::uint64_t) <= bytes) return load_word(from + at);
    if (at >= bytes) return 0;
    const std::size_t missing = at + sizeof(std::uint64_t) - bytes;
    if (bytes >= sizeof(std::uint64_t))
        return load_word(from + bytes - sizeof(std::uint64_t)) >> (8 * missing);
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < bytes; ++i) word |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
    return word;
}

// The first word of a record, behind its stamp: kind, slots and, of a launch, bytes of parameters.
constexpr std::uint64_t first_word(std::uint64_t kind, std::uint32_t slots, std::uint32_t param_bytes) {
    return kind | std::uint64_t{slots} << 16 | std::uint64_t{param_bytes} << 32;
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
        if (with_fence) [[unlikely]]
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
    RingProducer(Slot* slots, std::uint32_t slot_count, std::uint64_t position)
        : slots_(slots), mask_(slot_count - 1), position_(position), completed_(position) {}

    // Any thread may ask; each position it sees was published.
    std::uint64_t position() const { return __atomic_load_n(&position_, __ATOMIC_RELAXED); }
    std::uint32_t slot_count() const { return static_cast<std::uint32_t>(mask_ + 1); }
    std::uint32_t max_record_slots() const { return slot_count() / 4; }

    // Makes room for a record of `count` slots that stand in one piece, padding to the end of the ring where
    // needed. ok: the record's head is at position(). Reads the completed position only when the ring looks
    // full.
    [[nodiscard]] Status reserve(std::uint32_t count, const SharedU64& completed) noexcept {
        if (count == 0 || count > max_record_slots()) return Status::record_too_long;
        const std::uint64_t to_end = slot_count() - index(position_);
        const std::uint64_t padding = count <= to_end ? 0 : to_end;
        if (position_ + padding + count > completed_ + slot_count()) {
            // sync: COMPLETED (pairs with the device's or the dispatcher's store of `completed`): what the
            // reader did with the slots happens before we write them again.
            completed_ = Memory::load_acquire(completed);
            if (position_ + padding + count > completed_ + slot_count()) return Status::ring_full;
        }
        if (padding != 0) publish_padding(static_cast<std::uint32_t>(padding));
        return Status::ok;
    }

    // The hot path's question: is the way clear for a record of `count` slots, at most max_record_slots()? It
    // was looked ahead that far: there is room, in one piece, and no multiple of `every` is reached. Where
    // not, reserve() has the answer.
    [[nodiscard]] bool clear(std::uint32_t count) const noexcept { return position_ + count <= clear_until_; }
    // For clear(), with what reserve() last read. `every` is a power of two.
    void look_ahead(std::uint64_t every) noexcept {
        const std::uint64_t lap_end = position_ + slot_count() - index(position_);
        const std::uint64_t before_multiple = position_ | (every - 1);
        clear_until_ = std::min({completed_ + slot_count(), lap_end, before_multiple});
    }
    // clear() says no until the next look ahead.
    void look_no_further() noexcept { clear_until_ = 0; }

    // Writes continuation slot `i` (from 1) of the record reserved, all 56 bytes of it.
    [[gnu::always_inline]] void write_continuation(std::uint32_t i, const std::byte* from) noexcept {
        const std::uint64_t position = position_;
        Slot& slot = slots_[index(position) + i];
        // relaxed: the head's stamp releases it.
        Memory::store_relaxed(slot.stamp, (position + i + 1) | kContinuation);
        write_slot<0>(
            slot.payload, [from]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>)
                              __attribute__((always_inline)) { return load_word(from + 8 * (kWord - 1)); });
    }

    // The same with the parameters from `first` on, of `bytes` in all; what lies behind them becomes zero.
    void write_continuation(std::uint32_t i, const std::byte* params, std::size_t bytes,
                            std::size_t first) noexcept {
        Slot& slot = slots_[index(position_) + i];
        // relaxed: the head's stamp releases it.
        Memory::store_relaxed(slot.stamp, (position_ + i + 1) | kContinuation);
        for (std::size_t at = 0; at < kContinuationParamBytes; at += 8) {
            const std::uint64_t word = word_within(params, bytes, first + at);
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
        move_to(position_ + record.slots());
        return position_;
    }

    // The same for a record whose head is given word by word: `word(k)` for k = std::integral_constant<1> to
    // <7> (the first word is the stamp's place). No loop and no array, so that each word goes from a register
    // into the ring: an image of the record in between would be stored, and loaded from the store buffer.
    template <class Word>
    [[gnu::always_inline]] void publish_head(std::uint32_t slots, const Word& word) noexcept {
        // A copy: what is stored to the ring might be this member, as far as the compiler knows.
        const std::uint64_t position = position_;
        Slot& slot = slots_[index(position)];
        write_slot<0>(slot.payload, word);
        // sync: STAMP (pairs with RingConsumer::peek): as in publish()
        Memory::store_release(slot.stamp, position + 1);
        // The only store outside the record: the line of a slot comes from the reader's core, and while it
        // comes, every store takes one of the places in which later records could wait for theirs.
        move_to(position + slots);
    }

    // A whole record of kSlots slots, eight words each.
    template <std::uint32_t kSlots, class Word>
    [[gnu::always_inline]] void publish_each(const Word& word) noexcept {
        write_continuations(slots_ + index(position_), position_, word,
                            std::make_integer_sequence<std::uint32_t, kSlots - 1>());
        publish_head(kSlots, word);
    }

  private:
    // relaxed: who must see what was published there is told in another way.
    void move_to(std::uint64_t position) noexcept {
        __atomic_store_n(&position_, position, __ATOMIC_RELAXED);
    }
    std::uint64_t index(std::uint64_t position) const { return position & mask_; }

    template <class Word, std::uint32_t... kBefore>
    [[gnu::always_inline]] static void write_continuations(
        Slot* head, std::uint64_t position, const Word& word,
        std::integer_sequence<std::uint32_t, kBefore...>) noexcept {
        // relaxed: the head's stamp releases it.
        ((Memory::store_relaxed(head[kBefore + 1].stamp, (position + kBefore + 2) | kContinuation),
          write_slot<8 * (kBefore + 1)>(head[kBefore + 1].payload, word)),
         ...);
    }
    // Words kFirst + 1 to kFirst + 7, all but the first of them in pairs.
    template <std::size_t kFirst, class Word>
    [[gnu::always_inline]] static void write_slot(std::byte* to, const Word& word) noexcept {
        const std::uint64_t first = word(std::integral_constant<std::size_t, kFirst + 1>());
        Memory::write_payload(to, &first, sizeof first);
        write_pair<kFirst + 2>(to + 8, word);
        write_pair<kFirst + 4>(to + 24, word);
        write_pair<kFirst + 6>(to + 40, word);
    }
    // In one store: each waits in the store buffer behind those before it, for the line to come. Built in a
    // vector register, where a word from memory goes without a general one in between.
    template <std::size_t kWord, class Word>
    [[gnu::always_inline]] static void write_pair(std::byte* to, const Word& word) noexcept {
        using Pair [[gnu::vector_size(16)]] = double;  // of bits, which nothing here looks at
        auto low = std::bit_cast<double>(word(std::integral_constant<std::size_t, kWord>()));
        auto high = std::bit_cast<double>(word(std::integral_constant<std::size_t, kWord + 1>()));
        // As in load_word(), and two words are never loaded as one vector.
#ifdef __aarch64__
        asm volatile("" : "+w"(low));
#else
        asm volatile("" : "+x"(low));
#endif
        const Pair pair = {low, high};
        Memory::write_payload(to, &pair, sizeof pair);
    }

    void publish_padding(std::uint32_t count) noexcept {
        publish_head(count, [count]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>) {
            return kWord == 1 ? first_word(kPaddingKind, count, 0) : 0;
        });
    }

    Slot* slots_ = nullptr;
    std::uint64_t mask_ = 0;  // the slots of the ring, a power of two, less one
    std::uint64_t position_ = 0;
    std::uint64_t completed_ = 0;    // as last read
    std::uint64_t clear_until_ = 0;  // see clear()
};

}  // namespace ringlaunch
