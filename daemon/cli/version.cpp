// `ringlaunchd version`: which program this is and which protocol it speaks.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/cli/command.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

void add_version(CLI::App& app, Action& action) {
    CLI::App* command =
        app.add_subcommand("version", "Print the versions of this program and of its protocol");
    command->footer("Examples:\n  ringlaunchd version\n  ringlaunchd version --json\n\n" +
                    exit_code_help({ExitCode::ok, ExitCode::failure, ExitCode::usage}));
    auto json = std::make_shared<bool>(false);
    command->add_flag("--json", *json, "Print JSON instead of text");
    command->callback([&action, json] {
        action = [json] {
            if (*json)
                std::puts(nlohmann::json{{"version", RINGLAUNCH_VERSION}, {"protocol", kProtocolVersion}}
                              .dump()
                              .c_str());
            else
                std::printf("ringlaunchd %s (protocol %u)\n", RINGLAUNCH_VERSION, kProtocolVersion);
            return ExitCode::ok;
        };
    });
}

}  // namespace ringlaunch::cli
