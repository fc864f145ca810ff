// Which addresses of the device belong to whom: chunks of the device's range, and buffers within a session's
// chunks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace ringlaunch::supervisor {

inline constexpr std::uint64_t kBufferAlignment = 256;

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Free pieces of an address range; neighbours are joined when they become free.
class FreeList {
  public:
    // The smallest piece that is long enough, lowest address first; takes `bytes` from its front.
    std::optional<std::uint64_t> take(std::uint64_t bytes);
    // Not free before, and nothing of it is.
    void give_back(std::uint64_t address, std::uint64_t bytes);
    // Takes exactly this piece, which lies within one free piece; false where it does not.
    bool take_at(std::uint64_t address, std::uint64_t bytes);
    std::uint64_t free_bytes() const { return free_bytes_; }
    std::uint64_t largest() const;
    std::size_t pieces() const { return pieces_.size(); }
    // Is all of this free, in one piece?
    bool covers(std::uint64_t address, std::uint64_t bytes) const;

  private:
    std::map<std::uint64_t, std::uint64_t> pieces_;        // address -> bytes
    std::multimap<std::uint64_t, std::uint64_t> by_size_;  // bytes -> address
    std::uint64_t free_bytes_ = 0;
    void add(std::uint64_t address, std::uint64_t bytes);
    void remove(std::map<std::uint64_t, std::uint64_t>::iterator piece);
};

// The device's range, cut into chunks. One for all executors of a device: no address is given twice at a
// time.
class DeviceRange {
  public:
    DeviceRange() = default;
    DeviceRange(std::uint64_t base, std::uint64_t bytes, std::uint64_t chunk_bytes);
    std::optional<std::uint64_t> take(std::uint64_t bytes) { return free_.take(bytes); }
    void give_back(std::uint64_t address, std::uint64_t bytes) { free_.give_back(address, bytes); }
    std::uint64_t unit() const { return chunk_bytes_; }
    std::uint64_t bytes() const { return bytes_; }
    std::uint64_t free_bytes() const { return free_.free_bytes(); }
    std::uint64_t largest() const { return free_.largest(); }

  private:
    FreeList free_;
    std::uint64_t bytes_ = 0;
    std::uint64_t chunk_bytes_ = 2u << 20;
};

// The buffers of one session within its chunks.
class SessionHeap {
  public:
    // An address for `bytes`, or nothing: then add a chunk of next_chunk_bytes().
    std::optional<std::uint64_t> allocate(std::uint64_t bytes);
    void free(std::uint64_t address, std::uint64_t bytes);

    void add_chunk(std::uint64_t address, std::uint64_t bytes);
    // Chunks in which no buffer lies, beyond `keep_bytes` of them. The caller takes them out with
    // remove_chunk().
    std::vector<std::uint64_t> idle_chunks(std::uint64_t keep_bytes) const;
    void remove_chunk(std::uint64_t address);

    // How long the next chunk should be to hold `bytes`: grows with the session, so that a session has few
    // chunks.
    std::uint64_t next_chunk_bytes(std::uint64_t bytes, std::uint64_t unit) const;

    std::uint64_t chunk_bytes() const { return chunk_bytes_; }  // of all its chunks
    std::uint64_t used_bytes() const { return used_bytes_; }    // of all its buffers
    const std::map<std::uint64_t, std::uint64_t>& chunks() const { return chunks_; }

  private:
    // One free list a chunk: a buffer never lies across two, even where they are neighbours by chance.
    std::map<std::uint64_t, FreeList> free_;
    std::map<std::uint64_t, std::uint64_t> chunks_;
    std::uint64_t chunk_bytes_ = 0;
    std::uint64_t used_bytes_ = 0;
};

}  // namespace ringlaunch::supervisor
