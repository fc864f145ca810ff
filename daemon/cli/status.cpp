// `ringlaunchd status`: the daemon, its devices, its executors and what it holds.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/table.hpp"
#include "daemon/cli/text.hpp"

namespace ringlaunch::cli {

namespace {

nlohmann::json to_json(const schema::DaemonStatus& status, const schema::Welcome& welcome) {
    nlohmann::json executors = nlohmann::json::array();
    if (status.executors() != nullptr)
        for (const schema::ExecutorStatus* executor : *status.executors())
            executors.push_back({{"pid", pid_or_null(executor->pid())},
                                 {"device", executor->device()},
                                 {"epoch", executor->epoch()},
                                 {"domain", text(executor->domain())},
                                 {"state", text(executor->state())},
                                 {"restarts", executor->restarts()},
                                 {"last_death", text(executor->last_death())},
                                 {"failure", text(executor->failure())},
                                 {"uptime_ms", executor->uptime_ms()}});
    nlohmann::json devices = nlohmann::json::array();
    if (status.devices() != nullptr)
        for (const schema::DeviceStatus* device : *status.devices())
            devices.push_back({{"device", device->device()},
                               {"name", text(device->name())},
                               {"architecture", text(device->architecture())},
                               {"sessions", device->sessions()},
                               {"memory_bytes", device->memory_bytes()}});
    return {{"pid", status.pid()},
            {"version", text(status.version())},
            {"protocol", welcome.version()},
            {"socket", text(status.socket())},
            {"uptime_ms", status.uptime_ms()},
            {"driver", driver_name(status.driver())},
            {"driver_note", text(status.driver_note())},
            {"devices", std::move(devices)},
            {"sessions", status.sessions()},
            {"streams", status.streams()},
            {"modules", status.modules()},
            {"memory_bytes", status.memory_bytes()},
            {"executors", std::move(executors)}};
}

void print(const schema::DaemonStatus& status, const schema::Welcome& welcome, const Terminal& terminal) {
    Facts facts;
    facts.add("daemon", "running, pid " + std::to_string(status.pid()) + ", version " +
                            text(status.version()) + " (protocol " + std::to_string(welcome.version()) +
                            "), up " + format_ms(status.uptime_ms()));
    facts.add("socket", text(status.socket()));
    const std::string note = text(status.driver_note());
    facts.add("driver", driver_name(status.driver()) + (note.empty() ? "" : ": " + note));
    if (status.devices() != nullptr)
        for (const schema::DeviceStatus* device : *status.devices())
            facts.add("device " + std::to_string(device->device()),
                      text(device->name()).empty()
                          ? "no session has asked for it yet"
                          : text(device->name()) + ", " + text(device->architecture()) + ": " +
                                plural(device->sessions(), "session") + ", " +
                                format_bytes(device->memory_bytes()));
    facts.add("holds", plural(status.sessions(), "session") + ", " + plural(status.streams(), "stream") +
                           ", " + plural(status.modules(), "module") + ", " +
                           format_bytes(status.memory_bytes()) + " of device memory");
    std::fputs(facts.render(terminal).c_str(), stdout);

    if (status.executors() == nullptr || status.executors()->size() == 0) {
        std::puts("\nNo executor runs: one is started when a session needs it.");
        return;
    }
    Table table({{"EXECUTOR", true, 10},
                 {"DEVICE", true, 9},
                 {"DOMAIN", false, 6},
                 {"STATE", false, 8},
                 {"EPOCH", true, 5},
                 {"RESTARTS", true, 7},
                 {"UP", true, 3},
                 {"LAST DEATH", false, 4, true}});
    for (const schema::ExecutorStatus* executor : *status.executors()) {
        const std::string state = text(executor->state());
        table.add({pid_or_dash(executor->pid()), std::to_string(executor->device()), text(executor->domain()),
                   state, std::to_string(executor->epoch()), std::to_string(executor->restarts()),
                   format_ms(executor->uptime_ms()), or_dash(text(executor->last_death()))},
                  state == "ready" ? Colour::none : Colour::yellow);
    }
    std::printf("\n%s", table.render(terminal).c_str());
    for (const schema::ExecutorStatus* executor : *status.executors())
        if (const std::string failure = text(executor->failure()); !failure.empty())
            std::printf(
                "\nThe executor of %s on device %d cannot be started again: %s\n"
                "Its sessions wait and keep what they have.\n",
                text(executor->domain()).c_str(), executor->device(), failure.c_str());
}

ExitCode show_status(const AskOptions& options) {
    ControlClient client = connect(options);
    const Answer answer = client.ask(
        schema::Request::GetStatus,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); },
        schema::Answer::DaemonStatus);
    const schema::DaemonStatus& status = *answer.view()->answer_as_DaemonStatus();
    if (options.json)
        std::puts(dump(to_json(status, client.welcome()), 2).c_str());
    else
        print(status, client.welcome(), Terminal::of_stdout());
    return ExitCode::ok;
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
    CLI::App* command =
        app.add_subcommand("status", "Show the running daemon, its devices and its executors");
    command->footer("Examples:\n  ringlaunchd status\n  ringlaunchd status --json | jq .executors\n\n" +
                    ask_exit_codes());
    auto options = std::make_shared<AskOptions>();
    add_ask_options(*command, *options);
    command->callback([&action, options] { action = [options] { return show_status(*options); }; });
}

}  // namespace ringlaunch::cli
