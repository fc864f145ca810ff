// Records that no honest client writes: right ones with a few bytes or a whole field changed, and noise.
// Seeded, so that a failure repeats. For rings of any kind: the tests of the dispatcher and those of a whole
// daemon.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "record_generated.h"
#include "schema/ring.hpp"
#include "tests/make_record.hpp"

namespace ringlaunch::test {

// A record as it will stand in a ring, whatever it says of itself.
struct RecordImage {
    std::vector<std::array<std::byte, kSlotBytes>> slots{1};
    std::uint32_t spoiled = 0;  // this continuation bears `stamp` instead of its own; 0: none does
    std::uint64_t stamp = 0;

    template <class Record>
    static RecordImage of(const Record& record, std::span<const std::byte> params = {}) {
        static_assert(sizeof(Record) == kSlotBytes);
        RecordImage image;
        const LaunchForm form = form_of(record.kind());
        const bool update = record.kind() == schema::RecordKind::GraphUpdate;
        const std::size_t in_head = update ? kUpdateHeadParamBytes : head_param_bytes(form);
        image.slots.resize(update ? update_slots(params.size()) : launch_slots(params.size(), form));
        std::memcpy(image.slots[0].data(), &record, kSlotBytes);
        if (!params.empty())
            std::memcpy(image.slots[0].data() + kSlotBytes - in_head, params.data(),
                        std::min(params.size(), in_head));
        for (std::size_t i = 1; i < image.slots.size(); ++i) {
            const std::size_t from = in_head + (i - 1) * kContinuationParamBytes;
            std::memcpy(image.slots[i].data() + sizeof(SharedU64), params.data() + from,
                        std::min(kContinuationParamBytes, params.size() - from));
        }
        return image;
    }
    template <class Record>
    Record& as() {
        static_assert(sizeof(Record) == kSlotBytes);
        return *reinterpret_cast<Record*>(slots[0].data());
    }
    schema::RecordKind kind() { return as<schema::PaddingRecord>().kind(); }
    std::uint32_t slots_said() { return as<schema::PaddingRecord>().slots(); }

    // The head's stamp last, as the protocol wants it: a reader sees the rest.
    void write(Slot* ring, std::uint32_t slot_count, std::uint64_t position) const {
        for (std::size_t i = slots.size(); i-- > 0;) {
            Slot& slot = ring[(position + i) & (slot_count - 1)];
            std::memcpy(slot.payload, slots[i].data() + sizeof(SharedU64), sizeof slot.payload);
            const std::uint64_t own = (position + i + 1) | (i == 0 ? 0 : kContinuation);
            slot.stamp.store(i != 0 && i == spoiled ? stamp : own, std::memory_order_release);  // sync: STAMP
        }
    }
};

// What a hostile client has, and what it knows of others.
struct HostileWorld {
    struct Kernel {
        std::uint64_t id = 0;
        std::vector<std::byte> params;  // right ones
    };
    std::vector<Kernel> kernels;
    std::uint64_t memory = 0, memory_bytes = 0;
    std::uint64_t staging = 0, staging_bytes = 0;  // 0: there is none, and no copies from or to it
    std::uint64_t stream = 0;                      // the one that the records go to
    std::uint64_t graph = 0;                 // of that stream, whose node 0 launches kernels[0]; 0: none
    std::vector<std::uint64_t> interesting;  // ids and addresses of others, old ones, numbers that were right
};

class HostileRecords {
  public:
    HostileRecords(std::uint64_t seed, HostileWorld of) : world(std::move(of)), random_(seed) {}

    // A record that a dispatcher takes.
    RecordImage honest() {
        using schema::RecordKind;
        if (world.graph != 0 && below(6) == 0) return of_graph();
        switch (below(world.staging == 0 ? 5 : 7)) {
            case 0: {
                const HostileWorld::Kernel& kernel = world.kernels[below(world.kernels.size())];
                schema::CompactLaunchRecord record{};
                record.mutate_kind(RecordKind::CompactLaunch);
                record.mutate_slots(
                    static_cast<std::uint16_t>(launch_slots(kernel.params.size(), LaunchForm::compact)));
                record.mutate_param_bytes(static_cast<std::uint16_t>(kernel.params.size()));
                record.mutate_kernel(compact_kernel(kernel.id));
                record.mutate_grid_x(1);
                record.mutate_block_x(4);
                return RecordImage::of(record, kernel.params);
            }
            case 1: {
                const HostileWorld::Kernel& kernel = world.kernels[below(world.kernels.size())];
                return RecordImage::of(launch_record(kernel.id, kernel.params, 1, 4), kernel.params);
            }
            case 2: {
                schema::EventRecord record{};
                record.mutate_kind(RecordKind::EventRecord);
                return alone(record);
            }
            case 3: {
                schema::WaitRecord record{};
                record.mutate_kind(RecordKind::EventWait);
                record.mutate_stream(world.stream);
                return alone(record);
            }
            case 4: {
                schema::FillRecord record{};
                record.mutate_kind(RecordKind::Fill);
                record.mutate_width(4);
                record.mutate_bytes(64);
                record.mutate_device(world.memory);
                return alone(record);
            }
            case 5:
                return copy(below(2) == 0 ? RecordKind::CopyToDevice : RecordKind::CopyToHost, 0,
                            world.staging);
            default:
                return copy(RecordKind::CopyOnDevice, world.memory + world.memory_bytes / 2, 0);
        }
    }

    // One to three bytes of it are others.
    RecordImage changed() {
        RecordImage image = honest();
        for (std::uint64_t changes = 1 + below(3); changes > 0; --changes)
            image.slots[below(image.slots.size())][8 + below(56)] = static_cast<std::byte>(random_());
        return image;
    }

    // A field of it bears a number that means something elsewhere, or a stamp is another.
    RecordImage mistaken() {
        RecordImage image = honest();
        if (image.slots.size() > 1 && below(8) == 0) {
            image.spoiled = static_cast<std::uint32_t>(1 + below(image.slots.size() - 1));
            image.stamp = below(2) == 0 ? 0 : random_() | kContinuation;
            return image;
        }
        constexpr std::array<std::uint64_t, 9> kNumbers{
            0, 1, 2, 3, 64, 4096, 0xffff, 0xffffffff, ~std::uint64_t{0}};
        const std::size_t which = below(kNumbers.size() + world.interesting.size());
        const std::uint64_t value =
            which < kNumbers.size() ? kNumbers[which] : world.interesting[which - kNumbers.size()];
        const std::size_t width = std::size_t{1} << below(4);
        std::memcpy(image.slots[0].data() + 8 + width * below(56 / width), &value, width);
        return image;
    }

    // Random but for a kind and counts that are small, so that more than the first check is reached.
    RecordImage noise() {
        RecordImage image;
        image.slots.resize(1 + below(3));
        for (auto& slot : image.slots) fill_with_noise(std::span(slot).subspan(sizeof(SharedU64)));
        return image;
    }
    void fill_with_noise(std::span<std::byte> payload) {
        for (std::byte& byte : payload) byte = static_cast<std::byte>(random_());
        payload[0] = static_cast<std::byte>(below(13));
        if (below(2) == 0) payload[1] = std::byte{0};
        payload[2] = static_cast<std::byte>(below(4));
        payload[3] = std::byte{0};
    }

    std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

    HostileWorld world;

  private:
    template <class Record>
    static RecordImage alone(Record record) {
        record.mutate_slots(1);
        return RecordImage::of(record);
    }
    RecordImage of_graph() {
        if (below(2) == 0) {
            schema::GraphLaunchRecord record{};
            record.mutate_kind(schema::RecordKind::GraphLaunch);
            record.mutate_graph(world.graph);
            return alone(record);
        }
        const HostileWorld::Kernel& kernel = world.kernels[0];
        return RecordImage::of(update_record(world.graph, 0, kernel.params, 1, 4), kernel.params);
    }
    RecordImage copy(schema::RecordKind kind, std::uint64_t other, std::uint64_t staging) {
        schema::CopyRecord record{};
        record.mutate_kind(kind);
        record.mutate_device(world.memory);
        record.mutate_other(other);
        record.mutate_bytes(100);
        record.mutate_staging(staging);
        return alone(record);
    }

    std::mt19937_64 random_;
};

}  // namespace ringlaunch::test
