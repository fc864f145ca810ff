// sendmsg() and recvmsg() with everything that may go wrong.
#include "schema/message.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "schema/version.hpp"

namespace ringlaunch {

namespace {

void wait_for(int socket, short events) {
    pollfd entry{socket, events, 0};
    ::poll(&entry, 1, -1);  // EINTR and errors: the caller's next try says what is the matter
}

}  // namespace

Transfer send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds, bool wait) {
    if (bytes.empty() || bytes.size() > kMaxControlBytes || fds.size() > kMaxMessageFds)
        return Transfer::malformed;
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxMessageFds * sizeof(int))];
    if (!fds.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    for (;;) {
        if (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return Transfer::done;
        if (errno == EINTR) continue;
        // ETOOMANYREFS: too many descriptors in flight until the peer takes some.
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ETOOMANYREFS) {
            if (!wait) return Transfer::would_block;
            wait_for(socket, POLLOUT);
            continue;
        }
        return errno == EMSGSIZE ? Transfer::malformed : Transfer::closed;
    }
}

Transfer receive_message(int socket, Message& out, bool wait) {
    out.fds.clear();
    out.bytes.resize(kMaxControlBytes);
    iovec part{out.bytes.data(), out.bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxMessageFds * sizeof(int))];
    for (bool reset = false;;) {
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        const ssize_t got = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0) {
            if (errno == EINTR) continue;
            // Said once, of a peer that left without reading all: before what it sent, which comes next.
            if (errno == ECONNRESET && !std::exchange(reset, true)) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                if (!wait) return Transfer::would_block;
                wait_for(socket, POLLIN);
                continue;
            }
            return Transfer::closed;
        }
        for (cmsghdr* part_of = CMSG_FIRSTHDR(&header); part_of != nullptr;
             part_of = CMSG_NXTHDR(&header, part_of)) {
            if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SCM_RIGHTS) continue;
            const std::size_t count = (part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < count; ++i) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(part_of) + i * sizeof(int), sizeof fd);
                out.fds.emplace_back(fd);
            }
        }
        if (got == 0) return Transfer::closed;
        const bool whole = (header.msg_flags & MSG_TRUNC) == 0;
        const bool cut_off = (header.msg_flags & MSG_CTRUNC) != 0;
        // Cut off with room left in `control`: the OS could not give this process another number.
        const bool out_of_numbers = cut_off && out.fds.size() < kMaxMessageFds;
        if (!whole || cut_off) out.fds.clear();
        if (!whole || (cut_off && !out_of_numbers)) return Transfer::malformed;
        out.bytes.resize(static_cast<std::size_t>(got));
        return out_of_numbers ? Transfer::no_descriptors : Transfer::done;
    }
}

}  // namespace ringlaunch
