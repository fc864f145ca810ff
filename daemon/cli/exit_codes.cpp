// The exit codes as a part of --help.
#include "daemon/cli/exit_codes.hpp"

#include <algorithm>

namespace ringlaunch::cli {

namespace {

std::string line_of(const ExitCodeLine& line) {
    const std::string number = std::to_string(static_cast<int>(line.code));
    return "  " + std::string(number.size() < 2 ? 1 : 0, ' ') + number + "  " + std::string(line.meaning) +
           "\n";
}

}  // namespace

std::string exit_code_help(std::initializer_list<ExitCode> codes) {
    std::string text = "Exit codes:\n";
    for (const ExitCodeLine& line : kExitCodes)
        if (std::find(codes.begin(), codes.end(), line.code) != codes.end()) text += line_of(line);
    return text;
}

std::string exit_code_help() {
    std::string text = "Exit codes:\n";
    for (const ExitCodeLine& line : kExitCodes) text += line_of(line);
    return text;
}

}  // namespace ringlaunch::cli
