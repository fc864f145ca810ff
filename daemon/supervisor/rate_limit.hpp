// How many control messages a session may send: a bucket that holds a second's worth and fills steadily.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ringlaunch::supervisor {

class RateLimit {
  public:
    RateLimit(std::uint32_t per_second, std::uint64_t now_ns)
        : per_second_(per_second), left_(per_second), at_ns_(now_ns) {}

    std::uint32_t per_second() const { return per_second_; }

    // May one more message pass now?
    bool take(std::uint64_t now_ns) {
        const double gained = static_cast<double>(now_ns - at_ns_) * 1e-9 * per_second_;
        left_ = std::min<double>(per_second_, left_ + gained);
        at_ns_ = now_ns;
        if (left_ < 1) return false;
        left_ -= 1;
        return true;
    }

  private:
    std::uint32_t per_second_;
    double left_;
    std::uint64_t at_ns_;
};

}  // namespace ringlaunch::supervisor
