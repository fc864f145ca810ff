// The exit codes of ringlaunchd: scripts rely on them, so a number is never given another meaning.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace ringlaunch::cli {

enum class ExitCode : int {
    ok = 0,
    failure = 1,
    usage = 2,
    no_daemon = 3,
    already_running = 4,
    refused = 5,
    version_mismatch = 6,
    timed_out = 7,
    driver_unusable = 8,
    doctor_warnings = 9,
    doctor_missing = 10,
};

struct ExitCodeLine {
    ExitCode code;
    std::string_view meaning;
};

inline constexpr std::array kExitCodes = {
    ExitCodeLine{ExitCode::ok, "done"},
    ExitCodeLine{ExitCode::failure,
                 "failed, or the output could not be written; the message says what and why"},
    ExitCodeLine{ExitCode::usage, "the command line is wrong"},
    ExitCodeLine{ExitCode::no_daemon, "no daemon answers at the socket, or it went away"},
    ExitCodeLine{ExitCode::already_running, "serve: a daemon already runs on this socket"},
    ExitCodeLine{ExitCode::refused,
                 "refused: permissions of the socket or its folder, or the daemon said no"},
    ExitCodeLine{ExitCode::version_mismatch, "the daemon speaks another version of the protocol"},
    ExitCodeLine{ExitCode::timed_out,
                 "the daemon did not answer, was too busy, or had not stopped in the time given"},
    ExitCodeLine{ExitCode::driver_unusable, "serve: the driver asked for cannot be used on this machine"},
    ExitCodeLine{ExitCode::doctor_warnings,
                 "doctor: everything needed is there, something is not as good as it could be"},
    ExitCodeLine{ExitCode::doctor_missing, "doctor: something needed is missing"},
};

// "Exit codes:" and a line for each of `codes`.
std::string exit_code_help(std::initializer_list<ExitCode> codes);
// The same for all of them.
std::string exit_code_help();

}  // namespace ringlaunch::cli
