#include "daemon/supervisor/executor_process.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace ringlaunch::supervisor {

namespace {

constexpr int kControlFd = 3;  // in the executor
constexpr std::size_t kAnswersATurn = 64;
constexpr std::chrono::seconds kGrace{1};

[[noreturn]] void fail(const char* doing) {
    throw std::system_error(errno, std::generic_category(), doing);
}

// After fork: only calls that are safe in a signal handler. Never returns.
[[noreturn]] void become_executor(const char* path, char* const* argv, int control_fd, pid_t supervisor) {
    // Its own group: Ctrl-C at a terminal goes to the supervisor, which ends it in order.
    ::setpgid(0, 0);
    // It dies with the supervisor, also where its control thread hangs.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != supervisor) ::_exit(127);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0) ::dup2(null, STDIN_FILENO);
    if (control_fd == kControlFd) {
        ::fcntl(control_fd, F_SETFD, 0);
    } else {
        ::dup2(control_fd, kControlFd);
    }
    ::syscall(SYS_close_range, kControlFd + 1, ~0u, CLOSE_RANGE_CLOEXEC);
    ::execv(path, argv);
    static const char kText[] = "ringlaunchd: cannot start an executor: execv failed\n";
    [[maybe_unused]] const ssize_t wrote = ::write(STDERR_FILENO, kText, sizeof kText - 1);
    ::_exit(127);
}

}  // namespace

ExecutorProcess::ExecutorProcess(boost::asio::io_context& io) : socket_(io), pidfd_(io), grace_(io) {}

ExecutorProcess::~ExecutorProcess() {
    if (pid_ == 0 || reaped_) return;
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    // Not reaped yet, so the id is still its own. A killed process ends soon: this wait is short.
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

void ExecutorProcess::start(const std::string& path, const std::vector<std::string>& arguments,
                            Events events) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        fail("cannot make a socket pair for an executor");
    UniqueFd ours(ends[0]), theirs(ends[1]);
    // The executor's own reads may block.
    ::fcntl(theirs.get(), F_SETFL, ::fcntl(theirs.get(), F_GETFL) & ~O_NONBLOCK);

    std::vector<std::string> words{"ringlaunchd"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    words.insert(words.end(), {"--control-fd", std::to_string(kControlFd)});
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);

    const pid_t self = ::getpid();
    const pid_t child = ::fork();
    if (child < 0) fail("cannot fork an executor");
    if (child == 0) become_executor(path.c_str(), argv.data(), theirs.get(), self);
    pid_ = child;
    ::setpgid(child, child);  // as the child does: whoever comes first
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    if (!pidfd) fail("cannot watch an executor");
    ::fcntl(pidfd.get(), F_SETFD, FD_CLOEXEC);
    pidfd_.assign(pidfd.release());
    socket_.assign(boost::asio::generic::seq_packet_protocol(AF_UNIX, 0), ours.release());
    events_ = std::move(events);
    wait_readable();
    wait_exit();
}

Transfer ExecutorProcess::send(std::span<const std::byte> bytes, std::span<const int> fds) {
    if (reaped_ || hung_up_) return Transfer::closed;
    const Transfer result = send_message(socket_.native_handle(), bytes, fds, false);
    if (result == Transfer::would_block) wait_writable();
    return result;
}

void ExecutorProcess::kill() {
    if (pid_ != 0 && !reaped_) ::kill(pid_, SIGKILL);
}

bool ExecutorProcess::take_messages(std::size_t at_most) {
    for (std::size_t i = 0; i < at_most; ++i) {
        switch (receive_message(socket_.native_handle(), incoming_, false)) {
            case Transfer::done:
                if (events_.message) events_.message(incoming_);
                break;
            case Transfer::would_block:
                return true;
            case Transfer::closed:
            case Transfer::malformed:
            case Transfer::no_descriptors:
                // It is dying, or talks nonsense: either way it has to go. One that leaves in order gets a
                // moment, so that its exit status is its own.
                hung_up_ = true;
                grace_.expires_after(kGrace);
                grace_.async_wait([self = shared_from_this()](const auto& error) {
                    if (!error) self->kill();
                });
                return false;
        }
    }
    return true;
}

void ExecutorProcess::wait_readable() {
    socket_.async_wait(boost::asio::socket_base::wait_read, [self = shared_from_this()](const auto& error) {
        if (error || self->reaped_) return;
        if (self->take_messages(kAnswersATurn)) self->wait_readable();
    });
}

void ExecutorProcess::wait_writable() {
    if (waiting_writable_) return;
    waiting_writable_ = true;
    socket_.async_wait(boost::asio::socket_base::wait_write, [self = shared_from_this()](const auto& error) {
        self->waiting_writable_ = false;
        if (!error && !self->reaped_ && self->events_.writable) self->events_.writable();
    });
}

void ExecutorProcess::wait_exit() {
    pidfd_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                      [self = shared_from_this()](const auto& error) {
                          if (!error) self->reap();
                      });
}

void ExecutorProcess::reap() {
    // What it sent before it died counts. A dead peer's queue is finite.
    while (!hung_up_) {
        if (receive_message(socket_.native_handle(), incoming_, false) != Transfer::done) break;
        if (events_.message) events_.message(incoming_);
    }
    // Whatever it started goes with it; its id cannot be another's before it has been waited for.
    ::kill(-pid_, SIGKILL);
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED) != 0 && errno == EINTR) {
    }
    reaped_ = true;
    ExitInfo exit;
    exit.by_signal = info.si_code != CLD_EXITED;
    exit.code = info.si_status;
    boost::system::error_code ignored;
    socket_.close(ignored);
    pidfd_.close(ignored);
    grace_.cancel();
    const Events events = std::move(events_);
    events_ = {};
    if (events.exited) events.exited(exit);
}

}  // namespace ringlaunch::supervisor
