// One control message: bytes and file descriptors over a SOCK_SEQPACKET socket.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "schema/unique_fd.hpp"

namespace ringlaunch {

struct Message {
    std::vector<std::byte> bytes;  // private: nobody else can change it after it was verified
    std::vector<UniqueFd> fds;
};

enum class Transfer {
    done,
    would_block,
    closed,          // the peer is gone
    no_descriptors,  // the bytes are whole, but those that came with them are lost: this process may open no
                     // more
    malformed,  // truncated bytes or descriptors: longer than kMaxControlBytes, or more than kMaxMessageFds
};

inline constexpr std::size_t kMaxMessageFds = 250;

// Never raises SIGPIPE. `wait`: block until the socket takes or has a message (EINTR is retried).
Transfer send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds, bool wait);
// On `done` the message is whole and every descriptor is close-on-exec. On anything else no descriptor leaks.
Transfer receive_message(int socket, Message& out, bool wait);

}  // namespace ringlaunch
