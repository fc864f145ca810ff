// `ringlaunchd sessions`: who is connected and what each owns.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/table.hpp"
#include "daemon/cli/text.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::cli {

namespace {

nlohmann::json to_json(const schema::SessionInfo& session) {
    return {{"session", id_text(session.session())},
            {"pid", session.pid()},
            {"uid", session.uid()},
            {"program", text(session.program())},
            {"device", session.device()},
            {"streams", session.streams()},
            {"modules", session.modules()},
            {"buffers", session.buffers()},
            {"memory_bytes", session.memory_bytes()},
            {"staging_bytes", session.staging_bytes()},
            {"executor_pid", pid_or_null(session.executor_pid())},
            {"isolated", session.isolated()},
            {"coalesce", session.coalesce()},
            {"deaths_caused", session.deaths_caused()},
            {"age_ms", session.age_ms()}};
}

void add_row(Table& table, const schema::SessionInfo& session) {
    table.add({id_text(session.session()), std::to_string(session.pid()), std::to_string(session.uid()),
               or_dash(text(session.program())), std::to_string(session.device()),
               format_ms(session.age_ms()), std::to_string(session.streams()),
               std::to_string(session.modules()), std::to_string(session.buffers()),
               format_bytes(session.memory_bytes()), format_bytes(session.staging_bytes()),
               pid_or_dash(session.executor_pid()) + (session.isolated() ? " (alone)" : ""),
               session.coalesce() ? "graphs" : "plain", std::to_string(session.deaths_caused())},
              session.deaths_caused() > 0 ? Colour::yellow : Colour::none);
}

ExitCode show_sessions(const AskOptions& options) {
    ControlClient client = connect(options);
    Table table({{"SESSION", true, 20},
                 {"PID", true, 19},
                 {"UID", true, 8},
                 {"PROGRAM", false, 18, true},
                 {"DEVICE", true, 13},
                 {"AGE", true, 9},
                 {"STREAMS", true, 12},
                 {"MODULES", true, 5},
                 {"BUFFERS", true, 6},
                 {"MEMORY", true, 11},
                 {"STAGING", true, 4},
                 {"EXECUTOR", true, 7},
                 {"LAUNCHES", false, 3},
                 {"DEATHS", true, 10}});
    nlohmann::json list = nlohmann::json::array();
    for (std::uint32_t seen = 0;;) {
        const Answer answer = client.ask(
            schema::Request::GetSessions,
            [seen](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateGetSessions(builder, seen).Union();
            },
            schema::Answer::Sessions);
        const schema::Sessions& page = *answer.view()->answer_as_Sessions();
        if (page.sessions() == nullptr || page.sessions()->size() == 0) break;
        for (const schema::SessionInfo* session : *page.sessions()) {
            if (options.json)
                list.push_back(to_json(*session));
            else
                add_row(table, *session);
        }
        seen += page.sessions()->size();
        if (seen >= page.total()) break;
    }
    if (options.json)
        std::puts(dump({{"sessions", std::move(list)}}, 2).c_str());
    else if (table.empty())
        std::puts("No sessions.");
    else
        std::fputs(table.render(Terminal::of_stdout()).c_str(), stdout);
    return ExitCode::ok;
}

}  // namespace

void add_sessions(CLI::App& app, Action& action) {
    CLI::App* command =
        app.add_subcommand("sessions", "List the clients that are connected and what each owns");
    command->footer(
        "Examples:\n  ringlaunchd sessions\n  ringlaunchd sessions --json | jq '.sessions[].program'\n\n" +
        ask_exit_codes());
    auto options = std::make_shared<AskOptions>();
    add_ask_options(*command, *options);
    command->callback([&action, options] { action = [options] { return show_sessions(*options); }; });
}

}  // namespace ringlaunch::cli
