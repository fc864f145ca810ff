#include "daemon/supervisor/descriptors.hpp"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <vector>

#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::uint64_t kMost = 1u << 30;  // "unlimited"
constexpr std::uint64_t kDaemonsOwn = 32;  // socket, lock, log, timers, the first executor

}  // namespace

Descriptors::Descriptors(std::uint64_t limit) : limit_(std::min(limit, kMost)) {
    const std::uint64_t kept = std::clamp<std::uint64_t>(limit_ / 16, 16, 256);
    connections_end_ = limit_ - std::min(limit_, kept);
    requests_end_ = limit_ - std::min(limit_, 2 * kept);
}

Descriptors Descriptors::of_this_process() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return Descriptors(1024);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    return Descriptors(::setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before);
}

std::uint64_t Descriptors::streams_in_all() const {
    return (requests_end_ - std::min(requests_end_, kDaemonsOwn)) / (kStream + 1);
}

std::uint64_t Descriptors::streams_a_session() const {
    return (a_session() - std::min<std::uint64_t>(a_session(), kSession)) / (kStream + 1);
}

bool Descriptors::room(unsigned count) const {
    std::vector<UniqueFd> taken;
    for (unsigned i = 0; i < count; ++i) {
        UniqueFd next(::open("/", O_PATH | O_CLOEXEC));
        if (!next || !is_for_requests(next.get())) return false;
        taken.push_back(std::move(next));
    }
    return true;
}

}  // namespace ringlaunch::supervisor
