// `ringlaunchd executor`: how the supervisor starts an executor; not for people.
#include <memory>

#include "daemon/cli/command.hpp"
#include "daemon/executor/executor.hpp"

namespace ringlaunch::cli {

void add_executor(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand("executor", "The supervisor starts these itself");
    command->group("");  // not in the help
    auto control_fd = std::make_shared<int>(-1);
    command->add_option("--control-fd", *control_fd, "The socket to the supervisor")
        ->required()
        ->check(CLI::NonNegativeNumber);
    command->callback([&action, control_fd] {
        action = [control_fd] { return static_cast<ExitCode>(executor::run_executor(*control_fd)); };
    });
}

}  // namespace ringlaunch::cli
