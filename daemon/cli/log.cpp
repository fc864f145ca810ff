#include "daemon/cli/log.hpp"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <filesystem>

#include "daemon/cli/command.hpp"

namespace ringlaunch::cli {

void add_log_options(CLI::App& command, LogOptions& options, const std::string& group) {
    command.add_option("--log-level", options.level, "The least important messages that are logged")
        ->type_name("trace|debug|info|warn|error|off")
        ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}).description(""))
        ->capture_default_str()
        ->group(group);
    command.add_option("--log-file", options.file, "Append the log to this file instead of standard error")
        ->type_name("PATH")
        ->group(group);
}

void set_up_log(const LogOptions& options) {
    // spdlog would make it.
    const std::filesystem::path folder = std::filesystem::path(options.file).parent_path();
    if (std::error_code ignored; !folder.empty() && !std::filesystem::exists(folder, ignored))
        throw CommandError(ExitCode::refused, "cannot write the log " + options.file +
                                                  ": there is no folder " + folder.string() +
                                                  ": mkdir -p it, or name another --log-file");
    std::shared_ptr<spdlog::logger> logger;
    try {
        logger = options.file.empty() ? spdlog::stderr_color_mt("ringlaunchd")
                                      : spdlog::basic_logger_mt("ringlaunchd", options.file);
    } catch (const spdlog::spdlog_ex& error) {
        throw CommandError(ExitCode::failure, std::string("cannot write the log: ") + error.what());
    }
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ [%P] %v");
    logger->set_level(spdlog::level::from_str(options.level));
    logger->flush_on(spdlog::level::trace);  // what a daemon says last is what one wants to read
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace ringlaunch::cli
