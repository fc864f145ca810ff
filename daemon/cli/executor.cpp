// `ringlaunchd executor`: how the supervisor starts an executor; not for people.
#include "daemon/executor/executor.hpp"

#include <signal.h>

#include <memory>

#include "daemon/cli/command.hpp"
#include "daemon/cli/log.hpp"

namespace ringlaunch::cli {

namespace {

struct ExecutorOptions {
    int control_fd = -1;
    LogOptions log;
};

}  // namespace

void add_executor(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand("executor", "The supervisor starts these itself");
    command->group("");  // not in the help
    auto options = std::make_shared<ExecutorOptions>();
    command->add_option("--control-fd", options->control_fd, "The socket to the supervisor")
        ->required()
        ->check(CLI::NonNegativeNumber);
    add_log_options(*command, options->log, "Log");
    command->callback([&action, options] {
        action = [options] {
            ::signal(SIGPIPE, SIG_IGN);  // whoever reads the log may leave
            set_up_log(options->log);
            return static_cast<ExitCode>(executor::run_executor(options->control_fd));
        };
    });
}

}  // namespace ringlaunch::cli
