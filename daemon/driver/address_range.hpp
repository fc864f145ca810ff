// A reserved range of this process's addresses, and shared memory placed in it: so that memory stands
// at the same address in every executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "daemon/driver/chunk_table.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

// Address space that nobody else of the process gets, and that nothing can reach; `how`: MAP_FIXED or
// MAP_FIXED_NOREPLACE. False: errno says why not.
bool reserve_addresses(std::uint64_t address, std::uint64_t bytes, int how);

// Nothing else of the process lands there, and what is not mapped cannot be reached. Two of the same
// addresses cannot live in one process at a time. Control thread.
class AddressRange {
  public:
    // `piece`: what is placed in it, in words. Throws Error{unsupported} where the range is taken.
    AddressRange(std::uint64_t base, std::uint64_t bytes, std::uint64_t unit, const std::string& piece);
    ~AddressRange();
    AddressRange(const AddressRange&) = delete;
    AddressRange& operator=(const AddressRange&) = delete;

    // Throws Error{invalid_argument} unless it is whole units of the range, and free.
    void check_free(std::uint64_t address, std::uint64_t bytes) const { placed_.check_free(address, bytes); }
    // Of the `bytes` at `address`, which are free, the first `mapped` are the descriptor's; the rest stays
    // out of reach.
    void map(std::uint64_t address, std::uint64_t bytes, const UniqueFd& fd, std::uint64_t mapped);
    // Throws Error{not_found} unless exactly this was mapped.
    void unmap(std::uint64_t address, std::uint64_t bytes);
    std::uint64_t unit() const { return unit_; }

  private:
    const std::uint64_t base_, bytes_, unit_;
    const std::string piece_;
    ChunkTable placed_;
};

// A segment at an address of a range; unmapped when destroyed. The range outlives it.
class PlacedSegment {
  public:
    // Takes whole units of the range. Throws what check_free() and map() do, and Error{bad_seals} for a
    // segment that could shrink.
    PlacedSegment(AddressRange& range, std::uint64_t address, const UniqueFd& segment, std::uint64_t bytes);
    ~PlacedSegment();
    PlacedSegment(const PlacedSegment&) = delete;
    PlacedSegment& operator=(const PlacedSegment&) = delete;

    std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
    std::size_t size() const { return bytes_; }

  private:
    AddressRange& range_;
    const std::uint64_t address_, bytes_, taken_;
};

}  // namespace ringlaunch::driver
