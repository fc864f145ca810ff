// The log of serve and of the executors: one format, one place.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace ringlaunch::cli {

struct LogOptions {
    std::string level = "info";
    std::string file;  // empty: standard error
};
void add_log_options(CLI::App& command, LogOptions& options, const std::string& group);
// Makes it the process's default logger. Throws CommandError where the file cannot be written.
void set_up_log(const LogOptions& options);

}  // namespace ringlaunch::cli
