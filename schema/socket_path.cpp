#include "schema/socket_path.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "schema/error.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch {

namespace {

constexpr std::size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;

std::optional<std::uint32_t> daemon_uid_of_environment() {
    const char* named = std::getenv("RINGLAUNCH_DAEMON_UID");
    if (named == nullptr || *named == 0) return {};
    const std::string_view text(named);
    std::uint32_t uid = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), uid);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size())
        throw Error(Status::invalid_argument, "cannot connect: $RINGLAUNCH_DAEMON_UID is \"" +
                                                  std::string(text) + "\", not the number of a user");
    return uid;
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

bool is_directory_of_this_user(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == ::geteuid();
}

// What to do to have another socket.
std::string choose(const SocketPlace& place, const std::string& what) {
    return place.option ? "give " + what + " for the socket" : "set RINGLAUNCH_SOCKET to " + what;
}

std::string octal(mode_t mode) {
    char text[8];
    std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode & 07777));
    return text;
}

}  // namespace

SocketPlace find_socket(const std::string& option) {
    SocketPlace place;
    if (!option.empty()) {
        place = {option, true, true};
    } else if (std::string named = environment("RINGLAUNCH_SOCKET"); !named.empty()) {
        place = {named, true, false};
    } else if (std::string runtime = environment("XDG_RUNTIME_DIR");
               runtime.starts_with('/') && is_directory_of_this_user(runtime)) {
        // A folder of somebody else (kept across su) is passed by: it could not be trusted.
        place = {runtime + "/ringlaunch/daemon.sock", false, false};
    } else {
        place = {"/tmp/ringlaunch-" + std::to_string(::geteuid()) + "/daemon.sock", false, false};
    }
    if (place.path.size() > kMaxPathBytes)
        throw Error(Status::invalid_argument,
                    "the socket path " + place.path + " has " + std::to_string(place.path.size()) +
                        " bytes, but a unix socket takes at most " + std::to_string(kMaxPathBytes) + ": " +
                        choose(place, "a shorter one"));
    return place;
}

std::string socket_folder(const SocketPlace& place) {
    const std::size_t slash = place.path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : place.path.substr(0, slash);
}

bool check_socket_folder(const SocketPlace& place, bool make) {
    const std::string folder = socket_folder(place);
    const auto refuse = [&](const std::string& found, const std::string& advice) {
        throw Error(Status::permission_denied,
                    "the socket's folder " + folder + " cannot be trusted: " + found + "; " + advice);
    };
    if (make && !place.named && ::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
        throw Error(Status::permission_denied, "cannot make the socket's folder " + folder + ": " +
                                                   std::strerror(errno) + "; " +
                                                   choose(place, "a path you may use"));

    // Looked at through one descriptor, so that what is checked is one directory and not two in turn.
    const UniqueFd opened(
        ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | (place.named ? 0 : O_NOFOLLOW)));
    if (!opened) {
        if (errno == ENOENT) return false;
        if (errno == ENOTDIR || errno == ELOOP)
            refuse("it is not a directory", "remove it, or " + choose(place, "another path"));
        if (errno == EMFILE || errno == ENFILE)
            throw Error(Status::limit_reached,
                        "cannot look at the socket's folder " + folder + ": " + why_no_descriptor(errno));
        refuse(std::strerror(errno), choose(place, "a path you may use"));
    }
    struct stat info {};
    if (::fstat(opened.get(), &info) != 0) refuse(std::strerror(errno), choose(place, "another path"));
    if (place.named) {
        if ((info.st_mode & S_IWOTH) != 0 && (info.st_mode & S_ISVTX) == 0)
            refuse(
                "everybody may replace files in it (mode " + octal(info.st_mode) + ")",
                "take away write permission for others (chmod o-w " + folder + ") or choose another folder");
        return true;
    }
    if (info.st_uid != ::geteuid())
        refuse("it belongs to user " + std::to_string(info.st_uid) + ", not to you (" +
                   std::to_string(::geteuid()) + ")",
               choose(place, "a path in a folder of your own"));
    if ((info.st_mode & 0077) != 0)
        refuse("others may enter it (mode " + octal(info.st_mode) + ")", "chmod 700 " + folder);
    return true;
}

void check_socket_owner(int socket, const SocketPlace& place, std::optional<std::uint32_t> other) {
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        throw Error(Status::permission_denied, "cannot connect: the owner of the daemon at " + place.path +
                                                   " is not known: " + std::strerror(errno));
    if (peer.uid == ::geteuid() || peer.uid == 0) return;
    if (!other) other = daemon_uid_of_environment();
    if (other && peer.uid == *other) return;
    const std::string uid = std::to_string(peer.uid);
    throw Error(Status::permission_denied,
                "cannot connect: the daemon at " + place.path + " is run by user " + uid + ", not by you (" +
                    std::to_string(::geteuid()) +
                    ") or root; if you trust that user, set RINGLAUNCH_DAEMON_UID=" + uid);
}

}  // namespace ringlaunch
