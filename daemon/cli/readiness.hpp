// Tells whoever started the daemon that it is ready: a byte into a descriptor, and systemd's notification
// socket.
#pragma once

#include <string>

namespace ringlaunch::cli {

// `ready_fd` (-1: none) gets "READY=1\n" and is closed; $NOTIFY_SOCKET, where it is set, gets READY=1 and
// MAINPID. Returns what failed, empty where nothing did: a daemon that cannot say that it is ready is ready
// all the same.
std::string announce_ready(int ready_fd);
// Tells $NOTIFY_SOCKET that the daemon is leaving.
void announce_stopping();

}  // namespace ringlaunch::cli
