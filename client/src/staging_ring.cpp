#include "client/src/staging_ring.hpp"

namespace ringlaunch::detail {

std::optional<StagingRing::Region> StagingRing::take(std::size_t bytes, std::uint64_t completed) noexcept {
    while (first_ != next_) {
        const Entry& oldest = entries_[first_ % kRegions];
        if (oldest.position == kInUse || oldest.position > completed) break;
        tail_ = oldest.end;
        ++first_;
    }
    if (next_ - first_ == kRegions) return {};
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const std::size_t at = static_cast<std::size_t>(head_ % size());
    const std::size_t skipped = rounded <= size() - at ? 0 : size() - at;
    if (head_ + skipped + rounded > tail_ + size()) return {};
    const Region region{skipped == 0 ? at : 0, next_};
    head_ += skipped + rounded;
    entries_[next_ % kRegions] = {head_, kInUse};
    ++next_;
    return region;
}

void StagingRing::finish(const Region& region, std::uint64_t position) noexcept {
    entries_[region.number % kRegions].position = position;
}

std::optional<std::uint64_t> StagingRing::oldest() const noexcept {
    if (first_ == next_) return {};
    const std::uint64_t position = entries_[first_ % kRegions].position;
    if (position == kInUse) return {};
    return position;
}

}  // namespace ringlaunch::detail
