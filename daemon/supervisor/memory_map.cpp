#include "daemon/supervisor/memory_map.hpp"

#include <algorithm>
#include <iterator>

namespace ringlaunch::supervisor {

void FreeList::add(std::uint64_t address, std::uint64_t bytes) {
    pieces_.emplace(address, bytes);
    by_size_.emplace(bytes, address);
    free_bytes_ += bytes;
}

void FreeList::remove(std::map<std::uint64_t, std::uint64_t>::iterator piece) {
    const auto [from, to] = by_size_.equal_range(piece->second);
    by_size_.erase(std::find_if(from, to, [&](const auto& entry) { return entry.second == piece->first; }));
    free_bytes_ -= piece->second;
    pieces_.erase(piece);
}

std::optional<std::uint64_t> FreeList::take(std::uint64_t bytes) {
    const auto best = by_size_.lower_bound(bytes);
    if (best == by_size_.end()) return std::nullopt;
    // Of the pieces of this size the lowest, so that what was given back is used again before fresh addresses
    // are.
    const auto [from, to] = by_size_.equal_range(best->first);
    const auto lowest =
        std::min_element(from, to, [](const auto& a, const auto& b) { return a.second < b.second; });
    const std::uint64_t address = lowest->second;
    const std::uint64_t length = lowest->first;
    remove(pieces_.find(address));
    if (length > bytes) add(address + bytes, length - bytes);
    return address;
}

bool FreeList::covers(std::uint64_t address, std::uint64_t bytes) const {
    auto after = pieces_.upper_bound(address);
    if (after == pieces_.begin()) return false;
    const auto piece = std::prev(after);
    return piece->first + piece->second >= address + bytes;
}

bool FreeList::take_at(std::uint64_t address, std::uint64_t bytes) {
    if (!covers(address, bytes)) return false;
    const auto piece = std::prev(pieces_.upper_bound(address));
    const std::uint64_t begin = piece->first;
    const std::uint64_t end = begin + piece->second;
    remove(piece);
    if (begin < address) add(begin, address - begin);
    if (address + bytes < end) add(address + bytes, end - address - bytes);
    return true;
}

void FreeList::give_back(std::uint64_t address, std::uint64_t bytes) {
    std::uint64_t begin = address;
    std::uint64_t end = address + bytes;
    auto after = pieces_.lower_bound(address);
    if (after != pieces_.end() && after->first == end) {
        end += after->second;
        remove(after);
        after = pieces_.lower_bound(address);
    }
    if (after != pieces_.begin()) {
        const auto before = std::prev(after);
        if (before->first + before->second == begin) {
            begin = before->first;
            remove(before);
        }
    }
    add(begin, end - begin);
}

std::uint64_t FreeList::largest() const {
    return by_size_.empty() ? 0 : by_size_.rbegin()->first;
}

DeviceRange::DeviceRange(std::uint64_t base, std::uint64_t bytes, std::uint64_t chunk_bytes)
    : bytes_(bytes), chunk_bytes_(chunk_bytes) {
    if (bytes != 0) free_.give_back(base, bytes);
}

std::optional<std::uint64_t> SessionHeap::allocate(std::uint64_t bytes) {
    const std::uint64_t wanted = round_up(bytes, kBufferAlignment);
    for (auto& [chunk, free] : free_) {
        if (free.largest() < wanted) continue;
        used_bytes_ += wanted;
        return free.take(wanted);
    }
    return std::nullopt;
}

void SessionHeap::free(std::uint64_t address, std::uint64_t bytes) {
    const std::uint64_t given = round_up(bytes, kBufferAlignment);
    const auto chunk = std::prev(free_.upper_bound(address));
    chunk->second.give_back(address, given);
    used_bytes_ -= given;
}

void SessionHeap::add_chunk(std::uint64_t address, std::uint64_t bytes) {
    chunks_.emplace(address, bytes);
    free_[address].give_back(address, bytes);
    chunk_bytes_ += bytes;
}

std::vector<std::uint64_t> SessionHeap::idle_chunks(std::uint64_t keep_bytes) const {
    std::vector<std::uint64_t> idle;
    std::uint64_t kept = 0;
    for (const auto& [address, bytes] : chunks_) {
        if (free_.at(address).free_bytes() != bytes) continue;
        if (kept + bytes <= keep_bytes)
            kept += bytes;
        else
            idle.push_back(address);
    }
    return idle;
}

void SessionHeap::remove_chunk(std::uint64_t address) {
    chunk_bytes_ -= chunks_.at(address);
    chunks_.erase(address);
    free_.erase(address);
}

std::uint64_t SessionHeap::next_chunk_bytes(std::uint64_t bytes, std::uint64_t unit) const {
    constexpr std::uint64_t kMaxGrowth = 64u << 20;
    const std::uint64_t growth = std::min(chunk_bytes_ / 8, kMaxGrowth);
    return round_up(std::max(round_up(bytes, kBufferAlignment), growth), unit);
}

}  // namespace ringlaunch::supervisor
