// The staging memory of one stream: a ring of regions, each in use until its copy has completed.
//
// One producer uses it, as it uses the stream. Regions are freed in the order in which they were taken, which
// is the order in which a stream's copies complete. Staging is data, not protocol: the daemon never
// interprets it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "schema/segment.hpp"

namespace ringlaunch::detail {

class StagingRing {
  public:
    static constexpr std::size_t kRegions = 64;
    static constexpr std::size_t kAlignment = 64;

    StagingRing(std::uint64_t id, Mapping segment) : id_(id), segment_(std::move(segment)) {}

    struct Region {
        std::size_t offset = 0;    // in the segment
        std::uint64_t number = 0;  // for finish()
    };

    // Room for `bytes` in one piece, or nothing: then wait for oldest() to complete and try again. A region
    // begins in use and stays so until finish().
    std::optional<Region> take(std::size_t bytes, std::uint64_t completed) noexcept;
    // The host has no more to do with the region; it is free once the stream has completed `position`.
    void finish(const Region& region, std::uint64_t position) noexcept;
    // The position that frees the oldest region. Nothing: there is none, or the host still uses it.
    std::optional<std::uint64_t> oldest() const noexcept;

    std::uint64_t id() const { return id_; }
    std::size_t size() const { return segment_.size(); }
    // The most that is asked for in one piece: a quarter, so that copies overlap.
    std::size_t piece_bytes() const { return size() / 4; }
    std::byte* at(std::size_t offset) const { return segment_.data() + offset; }
    void unmap() noexcept { segment_ = Mapping(); }

  private:
    struct Entry {
        std::uint64_t end = 0;       // never wrapped: bytes taken since the beginning, with what was skipped
        std::uint64_t position = 0;  // kInUse: the host still uses it
    };
    static constexpr std::uint64_t kInUse = ~std::uint64_t{0};

    std::uint64_t id_;
    Mapping segment_;
    Entry entries_[kRegions];
    std::uint64_t first_ = 0, next_ = 0;  // numbers of the oldest region and of the next one
    std::uint64_t head_ = 0, tail_ = 0;   // bytes taken and freed since the beginning
};

}  // namespace ringlaunch::detail
