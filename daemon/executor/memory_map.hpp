// Which session owns which addresses: of device memory, and of staging memory, which kernels reach too. A
// flat table each, by chunks, so that checking a pointer is one load and one comparison.
//
// The control thread writes, the dispatch thread reads. An entry changes only while nothing that relies on it
// can be in the rings (a new chunk is told to its client after this) or before the dispatcher is asked for a
// barrier (a chunk that goes). Who finds an owner finds the memory mapped, too, whatever way it was told.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "daemon/driver/driver.hpp"
#include "schema/error.hpp"

namespace ringlaunch::executor {

// Stands for a session in the table; never 0, which is nobody.
using OwnerTag = std::uint32_t;

// Of one range.
class OwnerTable {
  public:
    // Throws Error{internal_error} where the chunk size is no power of two.
    OwnerTable(std::uint64_t base, std::uint64_t bytes, std::uint64_t chunk_bytes)
        : base_(base), shift_(static_cast<unsigned>(std::countr_zero(chunk_bytes))) {
        if (!std::has_single_bit(chunk_bytes))
            throw Error(Status::internal_error,
                        "the driver's chunk size " + std::to_string(chunk_bytes) + " is not a power of two");
        count_ = static_cast<std::size_t>(bytes >> shift_);
        owners_ = std::make_unique<std::atomic<OwnerTag>[]>(count_);
    }

    bool owns(OwnerTag tag, std::uint64_t address) const noexcept {
        const std::uint64_t chunk =
            (address - base_) >> shift_;  // wraps below the base: then it is too large
        // sync: OWNER (pairs with set_owner())
        return chunk < count_ && owners_[chunk].load(std::memory_order_acquire) == tag;
    }

    // Neighbouring chunks of one session are one range. `bytes` may be 0: then only the address counts.
    bool owns_range(OwnerTag tag, std::uint64_t address, std::uint64_t bytes) const noexcept {
        if (!owns(tag, address)) return false;
        if (bytes <= 1) return true;
        const std::uint64_t last = address + (bytes - 1);
        if (last < address) return false;
        const std::uint64_t last_chunk = (last - base_) >> shift_;
        if (last_chunk >= count_) return false;
        for (std::uint64_t chunk = ((address - base_) >> shift_) + 1; chunk <= last_chunk; ++chunk)
            // sync: OWNER (pairs with set_owner())
            if (owners_[chunk].load(std::memory_order_acquire) != tag) return false;
        return true;
    }

    // `bytes` in whole chunks.
    std::uint64_t rounded(std::uint64_t bytes) const noexcept {
        const std::uint64_t mask = (std::uint64_t{1} << shift_) - 1;
        return (bytes + mask) & ~mask;
    }
    // Is [address, address + bytes) made of whole chunks of this range?
    bool is_whole_chunks(std::uint64_t address, std::uint64_t bytes) const noexcept {
        const std::uint64_t mask = (std::uint64_t{1} << shift_) - 1;
        const std::uint64_t first = (address - base_) >> shift_;
        return bytes != 0 && ((address - base_) & mask) == 0 && (bytes & mask) == 0 && first < count_ &&
               (bytes >> shift_) <= count_ - first;
    }

    // `tag` 0: nobody's from now on. The range must be whole chunks.
    void set_owner(OwnerTag tag, std::uint64_t address, std::uint64_t bytes) noexcept {
        const std::uint64_t first = (address - base_) >> shift_;
        for (std::uint64_t i = 0; i < bytes >> shift_; ++i)
            owners_[first + i].store(tag, std::memory_order_release);  // sync: OWNER (pairs with owns())
    }

  private:
    std::uint64_t base_;
    unsigned shift_;
    std::size_t count_ = 0;
    std::unique_ptr<std::atomic<OwnerTag>[]> owners_;
};

struct MemoryMap {
    explicit MemoryMap(const driver::DeviceInfo& info)
        : device(info.range_base, info.range_bytes, info.chunk_bytes),
          staging(info.staging_base, info.staging_bytes, info.chunk_bytes) {}

    // May a kernel of the session be given this address?
    bool reaches(OwnerTag tag, std::uint64_t address) const noexcept {
        return device.owns(tag, address) || staging.owns(tag, address);
    }

    OwnerTable device, staging;
};

}  // namespace ringlaunch::executor
