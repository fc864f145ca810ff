// How many descriptors the daemon may open, how many of them a session may hold, and which are kept back: so
// that whatever clients ask for, a connection can still be taken and an executor restarted.
//
// The OS gives the lowest free number. A descriptor whose number lies in what is kept back therefore means
// that all below are in use: nothing has to be counted.
#pragma once

#include <cstdint>

namespace ringlaunch::supervisor {

class Descriptors {
  public:
    explicit Descriptors(std::uint64_t limit);
    // The limit of this process, raised to what it may raise it to.
    static Descriptors of_this_process();

    std::uint64_t limit() const { return limit_; }
    std::uint64_t for_requests() const { return requests_end_; }
    std::uint64_t a_session() const { return requests_end_ / 2; }
    // How many streams, each with a staging segment, fit.
    std::uint64_t streams_in_all() const;
    std::uint64_t streams_a_session() const;

    // Are `count` more left for what clients ask for?
    bool room(unsigned count) const;
    // Is this one of those that only restarts may use, or the next to them?
    bool is_for_restarts(int fd) const { return static_cast<std::uint64_t>(fd) + 1 >= connections_end_; }
    bool is_for_requests(int fd) const { return static_cast<std::uint64_t>(fd) < requests_end_; }

    static constexpr unsigned kSession = 3;   // socket, process, doorbell
    static constexpr unsigned kStream = 3;    // ring, status page, eventfd
    static constexpr unsigned kExecutor = 5;  // socket pair, process, fault page, and a page on its way

  private:
    std::uint64_t limit_;
    std::uint64_t requests_end_;     // numbers from here on are for connections and restarts
    std::uint64_t connections_end_;  // and from here on for restarts alone
};

}  // namespace ringlaunch::supervisor
