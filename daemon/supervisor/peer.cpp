#include "daemon/supervisor/peer.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ringlaunch::supervisor {

Peer identify(int socket) {
    Peer peer;
    ucred credentials{};
    socklen_t length = sizeof credentials;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
        throw std::system_error(errno, std::generic_category(), "cannot ask who the peer of a connection is");
    peer.pid = credentials.pid;
    peer.uid = credentials.uid;
    peer.gid = credentials.gid;

    gid_t groups[256];
    length = sizeof groups;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups, &length) == 0)
        peer.groups.assign(groups, groups + length / sizeof(gid_t));

    // The kernel's own answer (Linux 6.5) cannot be another process that got the id since; where it is not
    // there, an id reused in this moment would make a session live as long as a stranger, or its socket:
    // whichever ends first.
    int pidfd = -1;
    length = sizeof pidfd;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0)
        pidfd = static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0));
    if (pidfd < 0)
        throw std::system_error(
            errno, std::generic_category(),
            "cannot watch process " + std::to_string(peer.pid) + " at the other end of a connection");
    ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    peer.process.reset(pidfd);
    return peer;
}

std::optional<std::string> refuse_peer(const Peer& peer, uid_t own, const SupervisorOptions& options) {
    if (peer.uid == own) return std::nullopt;
    const std::string who =
        "user " + std::to_string(peer.uid) + " (process " + std::to_string(peer.pid) + ")";
    if (options.driver == schema::DriverKind::Host)
        return "cannot open a session for " + who +
               ": the host driver runs a module's native code as the daemon's user " + std::to_string(own) +
               ", so it serves that user only, whatever --allow-uid or --allow-gid says; start a " +
               "daemon of your own (ringlaunchd serve)";
    const auto allowed = [](const auto& list, auto id) {
        return std::find(list.begin(), list.end(), id) != list.end();
    };
    if (allowed(options.allow_uids, peer.uid) || allowed(options.allow_gids, peer.gid)) return std::nullopt;
    for (const gid_t group : peer.groups)
        if (allowed(options.allow_gids, group)) return std::nullopt;
    const auto listed = [](const char* what, const auto& list) {
        std::string text;
        for (const auto id : list) text += (text.empty() ? what : ", ") + std::to_string(id);
        return text;
    };
    return "cannot open a session for " + who + ": this daemon serves user " + std::to_string(own) +
           listed(", those of --allow-uid ", options.allow_uids) +
           listed(", the groups of --allow-gid ", options.allow_gids) +
           ", and nobody else; its owner can widen that (ringlaunchd serve --allow-uid " +
           std::to_string(peer.uid) + "), or start a daemon of your own";
}

}  // namespace ringlaunch::supervisor
