// Gives ids of 64 bits: index in the low half, generation (from 1) in the high one. None is ever given twice.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace ringlaunch::supervisor {

class IdAllocator {
  public:
    static constexpr std::uint32_t kMaxGeneration = std::numeric_limits<std::uint32_t>::max();

    // A free index where there is one, so that tables by index stay short.
    std::uint64_t take() {
        std::uint32_t index;
        if (free_.empty()) {
            index = static_cast<std::uint32_t>(generations_.size());
            generations_.push_back(1);
        } else {
            index = free_.back();
            free_.pop_back();
        }
        return std::uint64_t{generations_[index]} << 32 | index;
    }

    // `id` came from take() and was not given back yet. An index whose generations are used up is not used
    // again.
    void give_back(std::uint64_t id) {
        const auto index = static_cast<std::uint32_t>(id);
        if (generations_[index] == kMaxGeneration) return;
        ++generations_[index];
        free_.push_back(index);
    }

    // For tests: as if `index` had been given `generation - 1` times.
    void set_generation(std::uint32_t index, std::uint32_t generation) { generations_[index] = generation; }

  private:
    std::vector<std::uint32_t> generations_;
    std::vector<std::uint32_t> free_;
};

}  // namespace ringlaunch::supervisor
