// Who is at the other end of a socket, and may they use this daemon.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "daemon/supervisor/supervisor.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

struct Peer {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;  // supplementary
    UniqueFd process;           // a pidfd: readable once the process has ended
};

// Asks the kernel of the OS. Throws std::system_error, also where the peer is gone already.
Peer identify(int socket);

// Nothing, or why not and what to do.
std::optional<std::string> refuse_peer(const Peer& peer, uid_t own, const SupervisorOptions& options);

}  // namespace ringlaunch::supervisor
