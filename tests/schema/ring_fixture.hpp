// A ring in private memory with both its ends, and records whose every byte can be told from every other
// record's.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "schema/ring.hpp"

namespace ringlaunch::testing {

// A hash that says whether bytes are the ones that were sent (splitmix64 over a running state).
constexpr std::uint64_t mix(std::uint64_t state, std::uint64_t value) {
    std::uint64_t z = state + 0x9e3779b97f4a7c15u + value;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Record number `sequence`: all its content follows from the number, so a reader can check every byte.
struct Sample {
    schema::LaunchRecord head{};
    std::vector<std::byte> params;
    std::uint32_t slots = 1;

    Sample(std::uint64_t sequence, std::uint32_t slot_count) : slots(slot_count) {
        head.mutate_kind(schema::RecordKind::Launch);
        head.mutate_slots(static_cast<std::uint16_t>(slots));
        head.mutate_kernel(mix(1, sequence));
        head.mutate_grid_x(static_cast<std::uint32_t>(mix(2, sequence)));
        head.mutate_grid_y(static_cast<std::uint32_t>(mix(3, sequence)));
        head.mutate_grid_z(static_cast<std::uint32_t>(mix(4, sequence)));
        head.mutate_shared_bytes(static_cast<std::uint32_t>(mix(5, sequence)));
        const std::size_t bytes = kHeadParamBytes + (slots - 1) * kContinuationParamBytes;
        head.mutate_param_bytes(static_cast<std::uint16_t>(bytes));
        params.resize(bytes);
        for (std::size_t i = 0; i < bytes; ++i) params[i] = static_cast<std::byte>(mix(sequence, i) & 0xff);
        std::memcpy(head.mutable_params()->data(), params.data(), kHeadParamBytes);
    }
    const std::byte* continuation(std::uint32_t i) const {
        return params.data() + kHeadParamBytes + (i - 1) * kContinuationParamBytes;
    }
};

// A sample's words as the hot path gives them.
struct WordsOf {
    const Sample& sample;
    template <std::size_t kWord>
    std::uint64_t operator()(std::integral_constant<std::size_t, kWord>) const {
        static_assert(kWord % 8 != 0, "the stamp's place is the ring's");
        return load_word(kWord < 8 ? reinterpret_cast<const std::byte*>(&sample.head) + 8 * kWord
                                   : sample.continuation(kWord / 8) + 8 * (kWord % 8 - 1));
    }
};

// Makes room and publishes; ok, ring_full or record_too_long.
template <class Memory>
Status send(RingProducer<Memory>& producer, const SharedU64& completed, const Sample& sample) {
    // Most as the client's launches, which ask first whether the way is clear; the others as what is no
    // launch.
    const bool asks_first = sample.head.kernel() / 3 % 4 != 0;
    const bool reserves =
        !asks_first || sample.slots > producer.max_record_slots() || !producer.clear(sample.slots);
    if (reserves) {
        const Status status = producer.reserve(sample.slots, completed);
        if (status != Status::ok) return status;
    }
    // All ways of publishing write the same bytes; the records take them in turn.
    const std::uint64_t way = sample.head.kernel() % 3;
    if (way == 2 && sample.slots == 1) {
        producer.template publish_each<1>(WordsOf{sample});
    } else if (way == 2 && sample.slots == 3) {
        producer.template publish_each<3>(WordsOf{sample});
    } else {
        for (std::uint32_t i = 1; i < sample.slots; ++i)
            producer.write_continuation(i, sample.continuation(i));
        if (way == 0)
            producer.publish(sample.head);
        else
            producer.publish_head(sample.slots, WordsOf{sample});
    }
    if (asks_first && reserves) producer.look_ahead(16);
    return Status::ok;
}

// "" if `copy` is record number `sequence` to the byte, else what is wrong with it.
inline std::string difference(const RecordCopy& copy, std::uint64_t sequence) {
    const Sample wanted(sequence, copy.slots);
    const std::string where =
        "record " + std::to_string(sequence) + " at position " + std::to_string(copy.position);
    if (std::memcmp(copy.head + 8, reinterpret_cast<const std::byte*>(&wanted.head) + 8, kSlotBytes - 8) != 0)
        return where + ": the head differs";
    if (std::memcmp(copy.params, wanted.params.data(), wanted.params.size()) != 0)
        return where + ": the parameters differ";
    return "";
}

// Slots and the word that the reader's side publishes.
struct Ring {
    explicit Ring(std::uint32_t slots, std::uint64_t position = 0)
        : slot_count(slots),
          slots_memory(
              static_cast<Slot*>(::operator new (slots * sizeof(Slot), std::align_val_t{kSlotBytes}))),
          producer(slots_memory.get(), slots, position),
          consumer(slots_memory.get(), slots, position),
          start(position) {
        std::memset(static_cast<void*>(slots_memory.get()), 0, slots * sizeof(Slot));
        completed.store(position, std::memory_order_relaxed);
    }

    Slot& at(std::uint64_t position) { return slots_memory.get()[position & (slot_count - 1)]; }
    void complete(std::uint64_t position) { completed.store(position, std::memory_order_release); }
    // Writes a slot as nobody's code would: any stamp, any payload.
    void write_raw(std::uint64_t position, std::uint64_t stamp, const void* record) {
        Slot& slot = at(position);
        std::memcpy(slot.payload, static_cast<const std::byte*>(record) + 8, sizeof slot.payload);
        slot.stamp.store(stamp, std::memory_order_release);
    }

    struct Free {
        void operator()(Slot* memory) const { ::operator delete (memory, std::align_val_t{kSlotBytes}); }
    };
    std::uint32_t slot_count;
    std::unique_ptr<Slot, Free> slots_memory;
    RingProducer<> producer;
    RingConsumer<> consumer;
    SharedU64 completed{0};
    std::uint64_t start;
};

}  // namespace ringlaunch::testing
