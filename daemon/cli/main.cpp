// ringlaunchd: the daemon and the commands that ask it. Parses the command line and runs what it says.
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>

#include "daemon/cli/command.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

CLI::Validator number_within(double least, double most) {
    char range[64];
    std::snprintf(range, sizeof range, "[%.10g - %.10g]", least, most);
    return CLI::Validator(
        [=, what = std::string(range)](const std::string& text) -> std::string {
            double value = 0;
            const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
            if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && value >= least &&
                value <= most)
                return "";
            return text + " is no number in " + what;
        },
        std::string("in ") + range);
}

void add_socket_option(CLI::App& command, std::string& socket) {
    command
        .add_option(
            "--socket", socket,
            "The daemon's socket. Default: $RINGLAUNCH_SOCKET, else $XDG_RUNTIME_DIR/ringlaunch/daemon.sock, "
            "else /tmp/ringlaunch-<uid>/daemon.sock")
        ->type_name("PATH")
        ->check(CLI::Validator(
            [](const std::string& path) -> std::string {
                return path.empty() ? "the path is empty: leave the option out for the default" : "";
            },
            ""));
}

void add_ask_options(CLI::App& command, AskOptions& options) {
    add_socket_option(command, options.socket);
    command.add_option("--timeout", options.timeout_s, "How long to wait for the daemon")
        ->type_name("SECONDS")
        ->check(number_within(0.001, 86400))
        ->capture_default_str();
    command.add_flag("--json", options.json, "Print JSON instead of text");
}

namespace {

// The last word of every command: was what it printed written?
ExitCode written(ExitCode code) {
    // A flush on the way that failed left its errno.
    const bool failed_before = !std::cout || std::ferror(stdout) != 0;
    if (!failed_before) {
        std::cout.flush();
        if (std::fflush(stdout) == 0 && std::cout) return code;
    }
    const int why = errno;
    std::fprintf(stderr, "ringlaunchd: cannot write to standard output: %s\n",
                 why == 0 ? "it was refused" : std::strerror(why));
    return ExitCode::failure;
}

int run(int argc, char** argv) {
    CLI::App app(
        "ringlaunchd: launches kernels for the processes that write launch records into shared memory.\n"
        "`ringlaunchd serve` is the daemon; the other commands ask a running one, or this machine.",
        "ringlaunchd");
    app.set_version_flag("--version", "ringlaunchd " RINGLAUNCH_VERSION " (protocol " +
                                          std::to_string(kProtocolVersion) + ")");
    app.require_subcommand(1);
    app.footer(
        "Examples:\n"
        "  ringlaunchd doctor               what this machine has, and what is missing\n"
        "  ringlaunchd serve                run the daemon in the foreground\n"
        "  ringlaunchd stats --watch        what its streams do, every second\n"
        "\n" +
        exit_code_help());
    Action action;
    add_serve(app, action, argv);
    add_status(app, action);
    add_stats(app, action);
    add_sessions(app, action);
    add_kernels(app, action);
    add_stop(app, action);
    add_doctor(app, action);
    add_version(app, action);
    add_executor(app, action);

    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& asked) {  // --help, --version
        return static_cast<int>(written(static_cast<ExitCode>(app.exit(asked))));
    } catch (const CLI::ParseError& error) {
        if (app.get_subcommands().empty() && argc > 1 && argv[1][0] != '-') {
            std::fprintf(stderr, "ringlaunchd: there is no command \"%s\"\nSee `ringlaunchd --help`.\n",
                         argv[1]);
            return static_cast<int>(ExitCode::usage);
        }
        const CLI::App* command = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
        const std::string name = command == &app ? "ringlaunchd" : "ringlaunchd " + command->get_name();
        std::fprintf(stderr, "%s: %s\nSee `%s --help`.\n", name.c_str(), error.what(), name.c_str());
        return static_cast<int>(ExitCode::usage);
    }
    try {
        return static_cast<int>(written(action()));
    } catch (const CommandError& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "ringlaunchd: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "ringlaunchd: %s\n", error.what());
        return static_cast<int>(ExitCode::failure);
    }
}

}  // namespace

}  // namespace ringlaunch::cli

int main(int argc, char** argv) {
    return ringlaunch::cli::run(argc, argv);
}
