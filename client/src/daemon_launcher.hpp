// Starts a private daemon: one that leaves when its last client has.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "schema/socket_path.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

// The program ringlaunchd: `option` where it is not empty, else $RINGLAUNCHD, else beside the library or the
// program that runs, else on PATH. Throws Error{not_found} that says where it looked.
std::string find_daemon(const std::string& option);

// `ringlaunchd serve --private` on its way up. The daemon belongs to no terminal and to no parent: until this
// object goes, a small monitor process stands between the two and tells how the daemon ended, if it does.
class StartingDaemon {
  public:
    // Throws Error{daemon_lost} when nothing can be started.
    StartingDaemon(const std::string& program, const SocketPlace& place, const std::string& driver);
    StartingDaemon(const StartingDaemon&) = delete;
    StartingDaemon& operator=(const StartingDaemon&) = delete;
    ~StartingDaemon();

    // How it ended, if it has. Never blocks.
    struct End {
        int exit_code = -1;  // -1: a signal, or it could not be executed
        std::string text;    // "exited with status 2", "was killed by signal 9", "could not be executed: ..."
    };
    std::optional<End> ended();

    // The last lines that it wrote.
    std::string log_end() const;
    const std::string& log_path() const { return log_path_; }
    const std::string& program() const { return program_; }

  private:
    std::string program_;
    std::string log_path_;
    off_t log_begin_ = 0;
    pid_t monitor_ = -1;
    UniqueFd report_;  // the monitor writes how the daemon ended
    UniqueFd leash_;   // the monitor leaves when this closes
};

}  // namespace ringlaunch::detail
