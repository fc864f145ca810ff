// Waking through an eventfd, and taking in what it has.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <cstdint>

#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

inline void signal(const UniqueFd& eventfd) noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t put =
        ::write(eventfd.get(), &one, sizeof one);  // full is as good as signalled
}

inline void drain(const UniqueFd& eventfd) noexcept {
    std::uint64_t count;
    // Only where it has something: the daemon's eventfd may be a blocking one.
    pollfd entry{eventfd.get(), POLLIN, 0};
    if (::poll(&entry, 1, 0) != 1 || (entry.revents & POLLIN) == 0) return;
    [[maybe_unused]] const ssize_t got = ::read(eventfd.get(), &count, sizeof count);
}

}  // namespace ringlaunch::detail
