// Where the daemon's socket stands, and whether its folder, and who listens there, can be trusted. All sides
// ask here, so that they agree.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ringlaunch {

struct SocketPlace {
    std::string path;
    bool named = false;  // by the user (an option or $RINGLAUNCH_SOCKET): the folder is the user's own choice
    bool option = false;  // by an option, which goes before $RINGLAUNCH_SOCKET
};

// `option` where it is not empty, else $RINGLAUNCH_SOCKET, else $XDG_RUNTIME_DIR/ringlaunch/daemon.sock
// (where that is a directory of this user), else /tmp/ringlaunch-<uid>/daemon.sock. Touches nothing. Throws
// Error{invalid_argument} where a unix socket cannot have that path.
SocketPlace find_socket(const std::string& option = {});

// The folder of a socket, without the last slash.
std::string socket_folder(const SocketPlace& place);

// Checks the folder of the socket before anybody binds or connects there. A default folder must be a
// directory (no link) of this user that nobody else may enter (0700): else another user could have put a
// socket there. A folder the user named must not be one where everybody may replace files (writable by others
// and not sticky). Returns false where there is no such folder; with `make`, a default folder is made (0700)
// and a named one is not. Throws Error{permission_denied} that says what was found and what to do.
bool check_socket_folder(const SocketPlace& place, bool make);

// Checks who listens at the other end of a connected socket, before anything is told there: this user, root,
// or the user `other` (without it the one that $RINGLAUNCH_DAEMON_UID names). Whoever serves the socket gets
// a program's data and kernels, and what it answers is believed: a stranger who was first at a socket's path
// must not. Throws Error{permission_denied}, or Error{invalid_argument} for a variable that is no user's
// number.
void check_socket_owner(int socket, const SocketPlace& place, std::optional<std::uint32_t> other = {});

}  // namespace ringlaunch
