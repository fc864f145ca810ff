#include "daemon/executor/executor.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>

#include "daemon/executor/control_port.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

namespace {

// Nobody of the same user reaches this process' descriptors through /proc, and it never outlives its
// supervisor. False: the supervisor died before that was arranged.
bool harden(int control_fd) {
    ::prctl(PR_SET_DUMPABLE, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, "rl-executor");
    // The terminal's and the service manager's signals are for the supervisor, which tells this process what
    // to do.
    for (const int each : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(each, SIG_IGN);
    ucred peer{};
    socklen_t bytes = sizeof peer;
    if (::getsockopt(control_fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return false;
    // pid 0: the supervisor stands in another pid namespace, and the socket's end is what tells of its death.
    return peer.pid == 0 || peer.pid == ::getppid();
}

}  // namespace

int run_executor(int control_fd) {
    UniqueFd socket(control_fd);
    if (!harden(control_fd)) {
        spdlog::error("the supervisor was gone before the executor began");
        return 1;
    }
    ::fcntl(control_fd, F_SETFD, FD_CLOEXEC);
    try {
        ControlPort port(std::move(socket));
        const ControlPort::End end = port.run();
        if (end == ControlPort::End::malformed)
            spdlog::error("the supervisor sent what is no message; leaving");
        const int status = end == ControlPort::End::quit ? 0 : 1;
        // Work that does not end would hold up the driver's teardown; the OS tears down as well.
        if (!port.settle()) ::_exit(status);
        return status;
    } catch (const std::exception& error) {
        spdlog::critical("the executor failed: {}", error.what());
        return 1;
    }
}

}  // namespace ringlaunch::executor
