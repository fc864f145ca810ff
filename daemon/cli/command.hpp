// What every command of ringlaunchd shares: how it is added to the command line, how it fails, how it prints.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <string>

#include "daemon/cli/exit_codes.hpp"

namespace ringlaunch::cli {

// Ends a command. The text says what was being done, to what, what was found and what to do.
class CommandError : public std::runtime_error {
  public:
    CommandError(ExitCode code, const std::string& text) : std::runtime_error(text), code_(code) {}
    ExitCode code() const { return code_; }

  private:
    ExitCode code_;
};

// What a parsed command line asks for; set by the command's callback.
using Action = std::function<ExitCode()>;

// Each adds its subcommand; parsing it stores what is to be done in `action`.
void add_serve(CLI::App& app, Action& action, char* const* argv);
void add_executor(CLI::App& app, Action& action);
void add_status(CLI::App& app, Action& action);
void add_stats(CLI::App& app, Action& action);
void add_sessions(CLI::App& app, Action& action);
void add_kernels(CLI::App& app, Action& action);
void add_stop(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_version(CLI::App& app, Action& action);

// Options of the commands that ask a running daemon.
struct AskOptions {
    std::string socket;
    double timeout_s = 5.0;
    bool json = false;
};
void add_ask_options(CLI::App& command, AskOptions& options);
void add_socket_option(CLI::App& command, std::string& socket);
// As CLI::Range, which lets pass what is no number at all (nan).
CLI::Validator number_within(double least, double most);

}  // namespace ringlaunch::cli
