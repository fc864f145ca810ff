#include "daemon/supervisor/listener.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "schema/error.hpp"
#include "schema/socket_path.hpp"

namespace ringlaunch::supervisor {

namespace {

// A daemon that is leaving holds its lock for a moment after its socket has gone.
constexpr std::chrono::milliseconds kLockPatience{2000};
constexpr std::chrono::milliseconds kLockPoll{20};

std::string reason() {
    return std::strerror(errno);
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        throw SocketRefused("cannot listen at '" + path + "': a socket's path has 1 to " +
                            std::to_string(sizeof address.sun_path - 1) + " bytes, this one " +
                            std::to_string(path.size()) + "; choose another with --socket");
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

bool somebody_listens(const sockaddr_un& address) {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return probe &&
           (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
            errno == EAGAIN);
}

// Whoever holds the lock writes its process id into it.
void sign_lock(const UniqueFd& lock) {
    const std::string pid = std::to_string(::getpid()) + "\n";
    // A disk that is full leaves it unsigned, which is only missed in a message.
    if (::ftruncate(lock.get(), 0) != 0 ||
        ::pwrite(lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
        return;
}

// 0: nobody that lives has signed it.
pid_t signer_of(const UniqueFd& lock) {
    char text[16]{};
    if (::pread(lock.get(), text, sizeof text - 1, 0) <= 0) return 0;
    const pid_t pid = std::atoi(text);
    return pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM) ? pid : 0;
}

UniqueFd take_lock(const std::string& path, const sockaddr_un& address) {
    const std::string lock_path = path + ".lock";
    // Never removed: who removed it while another opened it would give two daemons a lock each.
    UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock)
        throw SocketRefused("cannot open the lock file " + lock_path + ": " + reason() +
                            "; choose a folder of your own with --socket");
    const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
    while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            throw SocketRefused("cannot lock " + lock_path + ": " + reason());
        if (somebody_listens(address))
            throw AlreadyRunning("a daemon already serves " + path + " (it holds " + lock_path +
                                 "); use that one, stop it (ringlaunchd stop), or choose another --socket");
        if (std::chrono::steady_clock::now() > deadline) {
            const pid_t signer = signer_of(lock);
            const std::string pid = signer == 0 ? "" : std::to_string(signer);
            throw AlreadyRunning("a daemon" + (pid.empty() ? "" : " (pid " + pid + ")") + " holds " +
                                 lock_path + ", but nobody listens at " + path +
                                 ": its socket was removed; end it (kill" + (pid.empty() ? "" : " " + pid) +
                                 "), or choose another --socket");
        }
        std::this_thread::sleep_for(kLockPoll);
    }
    sign_lock(lock);
    return lock;
}

}  // namespace

Listener::Listener(boost::asio::io_context& io, const std::string& path, bool make_folder, bool open_to_all)
    : io_(io), socket_(io), retry_(io), path_(path) {
    const sockaddr_un address = address_of(path);
    if (make_folder) {
        const std::string folder = socket_folder({path, true});
        if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
            throw SocketRefused("cannot make the socket's folder " + folder + ": " + reason() +
                                "; make it, or choose another with --socket");
    }
    try {
        if (!check_socket_folder({path, true}, false))
            throw SocketRefused("the socket's folder " + socket_folder({path, true}) +
                                " is not there; make it, or choose another with --socket");
    } catch (const Error& error) {
        throw SocketRefused(error.what());
    }
    struct stat folder_info {};
    const std::string folder = socket_folder({path, true});
    // Writable by everybody is refused above; where a few others may, that may be what the operator wants.
    if (::stat(folder.c_str(), &folder_info) == 0 && (folder_info.st_mode & S_ISVTX) == 0 &&
        ((folder_info.st_mode & S_IWGRP) != 0 ||
         (folder_info.st_uid != ::geteuid() && folder_info.st_uid != 0)))
        spdlog::warn(
            "others may replace the socket {}: its folder belongs to user {} and group {}, who may write "
            "there (mode "
            "{:04o}); chmod g-w {}, or choose a folder of your own with --socket",
            path, folder_info.st_uid, folder_info.st_gid, folder_info.st_mode & 07777u, folder);
    lock_ = take_lock(path, address);

    struct stat info {};
    if (::lstat(path.c_str(), &info) == 0) {
        if (!S_ISSOCK(info.st_mode))
            throw SocketRefused("cannot listen at " + path +
                                ": something that is no socket stands there; remove it, or " +
                                "choose another --socket");
        ::unlink(path.c_str());  // left by a daemon that died: nobody else holds the lock
    }
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) throw SocketRefused("cannot make a socket: " + reason());
    // Nobody may connect between bind and chmod.
    const mode_t before = ::umask(0177);
    const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int bind_error = errno;
    ::umask(before);
    errno = bind_error;
    if (bound != 0)
        throw SocketRefused("cannot listen at " + path + ": " + reason() + "; choose another --socket");
    if (open_to_all && ::chmod(path.c_str(), 0666) != 0)
        throw SocketRefused("cannot open " + path + " to other users: " + reason());
    if (::listen(socket.get(), 128) != 0) throw SocketRefused("cannot listen at " + path + ": " + reason());
    socket_.assign(socket.release());
}

Listener::~Listener() {
    stop();
}

void Listener::start(std::function<void(UniqueFd)> accepted) {
    accepted_ = std::move(accepted);
    wait();
}

void Listener::wait() {
    socket_.async_wait(boost::asio::posix::descriptor_base::wait_read, [this](const auto& error) {
        if (!error) accept();
    });
}

void Listener::accept() {
    for (;;) {
        UniqueFd connection(
            ::accept4(socket_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (connection) {
            accepted_(std::move(connection));
            if (!socket_.is_open()) return;
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) return wait();
        // No descriptors left: whoever waits goes on waiting until some come back.
        spdlog::warn("cannot accept a connection: {}; trying again", reason());
        retry_.expires_after(std::chrono::milliseconds(200));
        retry_.async_wait([this](const auto& error) {
            if (!error) wait();
        });
        return;
    }
}

bool Listener::idle() const {
    pollfd entry{const_cast<Listener*>(this)->socket_.native_handle(), POLLIN, 0};
    return ::poll(&entry, 1, 0) == 0;
}

void Listener::stop() {
    if (!socket_.is_open()) return;
    ::unlink(path_.c_str());
    boost::system::error_code ignored;
    socket_.close(ignored);
    retry_.cancel();
}

}  // namespace ringlaunch::supervisor
