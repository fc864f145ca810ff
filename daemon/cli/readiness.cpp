#include "daemon/cli/readiness.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "schema/unique_fd.hpp"

namespace ringlaunch::cli {

namespace {

// The protocol of sd_notify(3): one datagram of KEY=value lines. '@' begins a name of the abstract namespace.
std::string notify(std::string_view text) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    if (path == nullptr || *path == 0) return "";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::size_t length = std::strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof address.sun_path)
        return std::string("cannot notify $NOTIFY_SOCKET: ") + path + " is not the path of a socket";
    std::memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    if (!socket || ::sendto(socket.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                            reinterpret_cast<const sockaddr*>(&address), size) < 0)
        return std::string("cannot notify $NOTIFY_SOCKET (") + path + "): " + std::strerror(errno);
    return "";
}

}  // namespace

std::string announce_ready(int ready_fd) {
    std::string failed = notify("READY=1\nMAINPID=" + std::to_string(::getpid()) + "\n");
    if (ready_fd >= 0) {
        constexpr std::string_view kReady = "READY=1\n";
        if (::write(ready_fd, kReady.data(), kReady.size()) != static_cast<ssize_t>(kReady.size()))
            failed +=
                (failed.empty() ? "" : "; ") + ("cannot write to descriptor " + std::to_string(ready_fd) +
                                                " (--ready-fd): " + std::strerror(errno));
        ::close(ready_fd);
    }
    return failed;
}

void announce_stopping() {
    notify("STOPPING=1\n");
}

}  // namespace ringlaunch::cli
