#include "daemon/driver/chunk_table.hpp"

#include <cstdio>
#include <iterator>

#include "schema/error.hpp"

namespace ringlaunch::driver {

std::string hex_address(std::uint64_t value) {
    char text[20];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

std::string describe_chunk(std::uint64_t address, std::uint64_t bytes, const std::string& piece) {
    return "the " + piece + " of " + std::to_string(bytes) + " bytes at " + hex_address(address);
}

void ChunkTable::check_free(std::uint64_t address, std::uint64_t bytes) const {
    const std::string placing = "cannot place " + describe_chunk(address, bytes, piece_) + ": ";
    if (bytes == 0 || address % chunk_bytes_ != 0 || bytes % chunk_bytes_ != 0 || address < range_base_ ||
        bytes > range_bytes_ || address - range_base_ > range_bytes_ - bytes)
        throw Error(Status::invalid_argument, placing + piece_ + "s are multiples of " +
                                                  std::to_string(chunk_bytes_) + " bytes within " +
                                                  hex_address(range_base_) + " to " +
                                                  hex_address(range_base_ + range_bytes_));
    const auto after = chunks_.lower_bound(address);
    if (after != chunks_.end() && after->first - address < bytes)
        throw Error(Status::invalid_argument,
                    placing + describe_chunk(after->first, after->second, piece_) + " is there");
    if (after != chunks_.begin()) {
        const auto before = std::prev(after);
        if (address - before->first < before->second)
            throw Error(Status::invalid_argument,
                        placing + describe_chunk(before->first, before->second, piece_) + " is there");
    }
}

void ChunkTable::check_mapped(std::uint64_t address, std::uint64_t bytes) const {
    const auto found = chunks_.find(address);
    if (found == chunks_.end() || found->second != bytes)
        throw Error(Status::not_found,
                    "cannot unmap " + describe_chunk(address, bytes, piece_) + ": it is not mapped as such");
}

RangeTables::RangeTables(std::uint64_t first_base, std::uint64_t range_bytes, std::uint64_t chunk_bytes,
                         int own, int devices, std::function<void(std::uint64_t)> reserve)
    : first_base_(first_base),
      range_bytes_(range_bytes),
      chunk_bytes_(chunk_bytes),
      own_(own),
      devices_(devices),
      reserve_(std::move(reserve)) {
    this->reserve(own_);
}

ChunkTable& RangeTables::reserve(int device) {
    if (const auto found = tables_.find(device); found != tables_.end()) return found->second;
    reserve_(base(device));
    return tables_.emplace(device, ChunkTable(base(device), range_bytes_, chunk_bytes_)).first->second;
}

ChunkTable& RangeTables::at(std::uint64_t address) {
    const std::uint64_t device = (address - first_base_) / range_bytes_;
    const bool none = address < first_base_ || device >= static_cast<std::uint64_t>(devices_);
    return reserve(none ? own_ : static_cast<int>(device));
}

}  // namespace ringlaunch::driver
