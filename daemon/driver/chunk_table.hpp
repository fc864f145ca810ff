// Which chunks of a device's range are mapped: the checks that every driver makes before it maps or unmaps
// one.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace ringlaunch::driver {

// Control thread.
class ChunkTable {
  public:
    ChunkTable(std::uint64_t range_base, std::uint64_t range_bytes, std::uint64_t chunk_bytes)
        : range_base_(range_base), range_bytes_(range_bytes), chunk_bytes_(chunk_bytes) {}

    // Throws Error{invalid_argument} unless it is whole chunks within the range and nothing of it is mapped.
    void check_free(std::uint64_t address, std::uint64_t bytes) const;
    // Throws Error{not_found} unless exactly this chunk is mapped.
    void check_mapped(std::uint64_t address, std::uint64_t bytes) const;
    void add(std::uint64_t address, std::uint64_t bytes) { chunks_.emplace(address, bytes); }
    void remove(std::uint64_t address) { chunks_.erase(address); }
    // address -> bytes
    const std::map<std::uint64_t, std::uint64_t>& chunks() const { return chunks_; }

  private:
    std::uint64_t range_base_, range_bytes_, chunk_bytes_;
    std::map<std::uint64_t, std::uint64_t> chunks_;
};

// "0x7e8000000000"
std::string hex_address(std::uint64_t value);
// "the chunk of 2097152 bytes at 0x7e8000000000"
std::string describe_chunk(std::uint64_t address, std::uint64_t bytes);

}  // namespace ringlaunch::driver
