// Which chunks of a range are mapped: the checks that every driver makes before it maps or unmaps one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace ringlaunch::driver {

// Control thread.
class ChunkTable {
  public:
    // `piece`: what a chunk of it is called.
    ChunkTable(std::uint64_t range_base, std::uint64_t range_bytes, std::uint64_t chunk_bytes,
               std::string piece = "chunk")
        : range_base_(range_base),
          range_bytes_(range_bytes),
          chunk_bytes_(chunk_bytes),
          piece_(std::move(piece)) {}

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
    std::string piece_;
    std::map<std::uint64_t, std::uint64_t> chunks_;
};

// The ranges of a driver's devices, one behind the other, so that an address says whose it is and is the same
// in every process. A process reserves its own device's range, and another's when the first chunk of it
// comes. Control thread.
class RangeTables {
  public:
    // `reserve` takes a base and reserves a range there; it throws where it cannot. Called for `own` at once.
    RangeTables(std::uint64_t first_base, std::uint64_t range_bytes, std::uint64_t chunk_bytes, int own,
                int devices, std::function<void(std::uint64_t)> reserve);

    std::uint64_t base(int device) const {
        return first_base_ + static_cast<std::uint64_t>(device) * range_bytes_;
    }
    std::uint64_t range_bytes() const { return range_bytes_; }
    // That of the range in which `address` lies, reserved now where it is not yet; the own one where it lies
    // in none.
    ChunkTable& at(std::uint64_t address);
    // By device: the ranges that are reserved.
    const std::map<int, ChunkTable>& reserved() const { return tables_; }

  private:
    ChunkTable& reserve(int device);

    std::uint64_t first_base_, range_bytes_, chunk_bytes_;
    int own_, devices_;
    std::function<void(std::uint64_t)> reserve_;
    std::map<int, ChunkTable> tables_;
};

// "0x7e8000000000"
std::string hex_address(std::uint64_t value);
// "the chunk of 2097152 bytes at 0x7e8000000000"
std::string describe_chunk(std::uint64_t address, std::uint64_t bytes, const std::string& piece = "chunk");

}  // namespace ringlaunch::driver
