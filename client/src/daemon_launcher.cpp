#include "client/src/daemon_launcher.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "schema/error.hpp"

namespace ringlaunch::detail {

namespace {

constexpr int kMonitorLookMs = 10;

bool executable(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

std::string folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

// What the monitor tells: where the daemon's life ended, as waitpid() says it, or errno of the exec.
struct Report {
    enum Kind : int { ended, not_executed } kind;
    int value;
};

void write_report(int fd, Report report) noexcept {
    [[maybe_unused]] const ssize_t put = ::write(fd, &report, sizeof report);  // the reader may have left
}

struct Plan {
    const char* program;
    char* const* arguments;
    char* const* environment;
    int null, log, report, leash, parents_report, parents_leash;
};

// The child between the two. Only calls that are safe after a fork of a process with several threads.
[[noreturn]] void monitor(const Plan& plan) noexcept {
    ::close(plan.parents_report);
    ::close(plan.parents_leash);
    ::setsid();
    // Signals that the parent blocked or ignored are none of the daemon's business.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (const int number : {SIGPIPE, SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGHUP})
        ::sigaction(number, &standard, nullptr);
    const pid_t daemon = ::_Fork();
    if (daemon == 0) {
        ::dup2(plan.null, STDIN_FILENO);
        ::dup2(plan.log, STDOUT_FILENO);
        ::dup2(plan.log, STDERR_FILENO);
        // What the program has open is not the daemon's to keep: a lock's file, a pipe whose reader waits for
        // its end. Closed by the exec: the report, too.
        ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
        // The folder may be unmounted or removed while the daemon lives.
        if (::chdir("/") == 0) ::execve(plan.program, plan.arguments, plan.environment);
        write_report(plan.report, {Report::not_executed, errno});
        ::_exit(127);
    }
    if (daemon < 0) {
        write_report(plan.report, {Report::not_executed, errno});
        ::_exit(1);
    }
    for (;;) {
        pollfd entry{plan.leash, POLLIN, 0};
        if (::poll(&entry, 1, kMonitorLookMs) > 0) ::_exit(0);  // the parent needs us no more
        int status = 0;
        if (::waitpid(daemon, &status, WNOHANG) == daemon) {
            write_report(plan.report, {Report::ended, status});
            ::_exit(0);
        }
    }
}

void make_pipe(UniqueFd& read_end, UniqueFd& write_end) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw Error(errno == EMFILE || errno == ENFILE ? Status::limit_reached : Status::daemon_lost,
                    "cannot start a daemon: no pipe: " + why_no_descriptor(errno));
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
}

}  // namespace

std::string find_daemon(const std::string& option) {
    const auto named = [](const std::string& path, const std::string& who) {
        if (!executable(path))
            throw Error(Status::not_found, "cannot start a daemon: " + who + " names " + path +
                                               ", which is not a program that can be executed");
        return path;
    };
    if (!option.empty()) return named(option, "the caller");
    if (const char* path = std::getenv("RINGLAUNCHD"); path != nullptr && *path != 0)
        return named(path, "$RINGLAUNCHD");

    std::string looked;
    const auto try_folder = [&](const std::string& folder) {
        looked += (looked.empty() ? "" : ", ") + folder;
        return executable(folder + "/ringlaunchd");
    };
    Dl_info library{};
    if (::dladdr(reinterpret_cast<const void*>(&find_daemon), &library) != 0 && library.dli_fname != nullptr)
        if (const std::string folder = folder_of(library.dli_fname); try_folder(folder))
            return folder + "/ringlaunchd";
    char program[4096];
    if (const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program); length > 0)
        if (const std::string folder = folder_of({program, static_cast<std::size_t>(length)});
            try_folder(folder))
            return folder + "/ringlaunchd";
    if (const char* path = std::getenv("PATH"); path != nullptr) {
        const std::string folders = path;
        for (std::size_t begin = 0; begin <= folders.size();) {
            std::size_t end = folders.find(':', begin);
            if (end == std::string::npos) end = folders.size();
            const std::string folder = end == begin ? "." : folders.substr(begin, end - begin);
            if (executable(folder + "/ringlaunchd")) return folder + "/ringlaunchd";
            begin = end + 1;
        }
    }
    throw Error(Status::not_found, "cannot start a daemon: no program ringlaunchd in " + looked +
                                       " or on PATH; install it, or name it with $RINGLAUNCHD");
}

StartingDaemon::StartingDaemon(const std::string& program, const SocketPlace& place,
                               const std::string& driver)
    : program_(program.find('/') == 0 ? program : "") {
    if (program_.empty()) {
        char* absolute = ::realpath(program.c_str(), nullptr);
        program_ = absolute != nullptr ? absolute : program;
        std::free(absolute);
    }
    const std::string folder = socket_folder(place);
    std::string stem = place.path.substr(place.path.rfind('/') + 1);
    if (stem.ends_with(".sock")) stem.resize(stem.size() - 5);
    log_path_ = folder + "/" + stem + ".log";

    const UniqueFd log(
        ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600));
    if (!log)
        throw Error(Status::daemon_lost, "cannot start a daemon: its log " + log_path_ +
                                             " cannot be written: " + std::strerror(errno));
    log_begin_ = ::lseek(log.get(), 0, SEEK_END);
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null) throw Error(Status::daemon_lost, "cannot start a daemon: /dev/null cannot be opened");

    char* absolute = ::realpath(folder.c_str(), nullptr);
    const std::string socket = (absolute != nullptr ? std::string(absolute) : folder) + "/" +
                               place.path.substr(place.path.rfind('/') + 1);
    std::free(absolute);
    std::vector<std::string> arguments = {program_, "serve", "--private", "--socket", socket};
    if (!driver.empty()) arguments.insert(arguments.end(), {"--driver", driver});
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);

    UniqueFd report, leash;
    make_pipe(report_, report);
    make_pipe(leash, leash_);
    ::fcntl(report_.get(), F_SETFL, O_NONBLOCK);
    const Plan plan{program_.c_str(), pointers.data(), environ,       null.get(),  log.get(),
                    report.get(),     leash.get(),     report_.get(), leash_.get()};
    // _Fork: no handlers, since the child only executes another program.
    monitor_ = ::_Fork();
    if (monitor_ == 0) monitor(plan);
    if (monitor_ < 0)
        throw Error(Status::daemon_lost,
                    std::string("cannot start a daemon: no process: ") + std::strerror(errno));
}

StartingDaemon::~StartingDaemon() {
    leash_.reset();
    int status = 0;
    while (monitor_ > 0 && ::waitpid(monitor_, &status, 0) < 0 && errno == EINTR) {
    }
}

std::optional<StartingDaemon::End> StartingDaemon::ended() {
    Report report{};
    if (::read(report_.get(), &report, sizeof report) != sizeof report) return {};
    End end;
    if (report.kind == Report::not_executed) {
        end.text = std::string("could not be executed: ") + std::strerror(report.value);
    } else if (WIFEXITED(report.value)) {
        end.exit_code = WEXITSTATUS(report.value);
        end.text = "exited with status " + std::to_string(end.exit_code);
    } else {
        end.text = "was killed by signal " + std::to_string(WTERMSIG(report.value));
    }
    return end;
}

std::string StartingDaemon::log_end() const {
    constexpr off_t kMostBytes = 2000;
    const UniqueFd log(::open(log_path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!log) return {};
    const off_t size = ::lseek(log.get(), 0, SEEK_END);
    const off_t begin = std::max(log_begin_, size - kMostBytes);
    if (size <= begin) return {};
    std::string text(static_cast<std::size_t>(size - begin), 0);
    const ssize_t got = ::pread(log.get(), text.data(), text.size(), begin);
    text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

}  // namespace ringlaunch::detail
