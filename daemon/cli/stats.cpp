// `ringlaunchd stats`: what every stream does, once or again and again, as a table or as JSON.
#include <signal.h>
#include <time.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/cli/format.hpp"
#include "daemon/cli/stream_sampler.hpp"
#include "daemon/cli/table.hpp"
#include "daemon/cli/text.hpp"
#include "schema/id_text.hpp"
#include "schema/status.hpp"

namespace ringlaunch::cli {

namespace {

struct StatsOptions {
    AskOptions ask;
    bool watch = false;
    std::string watch_s;
    double over_s = 0.5;
    std::uint64_t count = 0;
};

// Which of the samples a latency is told of.
enum class Scope { since_start, interval };

Quantiles latency(const Buckets& now, const Buckets& before, const StreamView& view, Scope scope) {
    return quantiles(scope == Scope::interval && view.has_before ? difference(now, before) : now);
}

// The time between the two looks; nothing after the first.
std::optional<double> interval(const StreamView& view) {
    if (!view.has_before) return std::nullopt;
    return std::chrono::duration<double>(view.now.at - view.before.at).count();
}

// Per second of it.
std::optional<double> rate(const StreamView& view, std::uint64_t StreamSample::*counter) {
    const std::optional<double> seconds = interval(view);
    if (!seconds || *seconds <= 0 || view.now.*counter < view.before.*counter) return std::nullopt;
    return static_cast<double>(view.now.*counter - view.before.*counter) / *seconds;
}

nlohmann::json to_json(const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

nlohmann::json to_json(const Quantiles& latency) {
    if (latency.samples == 0) return {{"samples", 0}, {"p50", nullptr}, {"p99", nullptr}, {"p999", nullptr}};
    return {{"samples", latency.samples},
            {"p50", latency.p50_ns},
            {"p99", latency.p99_ns},
            {"p999", latency.p999_ns}};
}

nlohmann::json to_json(const StreamView& view, Scope scope) {
    nlohmann::json out = {{"session", id_text(view.session)},
                          {"stream", id_text(view.stream)},
                          {"device", view.device},
                          {"name", view.name},
                          {"epoch", view.epoch},
                          {"ring_slots", view.ring_slots}};
    if (!view.readable) {
        out["state"] = "restarting";
        return out;
    }
    const StreamSample& now = view.now;
    out["state"] = state_name(now.state);
    out["positions"] = {{"published", now.published}, {"issued", now.issued}, {"completed", now.completed}};
    out["counters"] = {{"records", now.records},
                       {"launches", now.launches},
                       {"copies", now.copies},
                       {"copied_bytes", now.copied_bytes},
                       {"fills", now.fills},
                       {"events", now.events},
                       {"waits", now.waits},
                       {"paddings", now.paddings},
                       {"batches", now.batches},
                       {"chained", now.chained},
                       {"held_turns", now.held_turns},
                       {"wakeups", now.wakeups},
                       {"graphs", now.graphs},
                       {"updates", now.updates},
                       {"long_chains", now.long_chains},
                       {"single_graphs", now.single_graphs}};
    out["rates"] = {{"over_s", to_json(interval(view))},
                    {"records_per_s", to_json(rate(view, &StreamSample::records))},
                    {"launches_per_s", to_json(rate(view, &StreamSample::launches))},
                    {"copied_bytes_per_s", to_json(rate(view, &StreamSample::copied_bytes))}};
    out["latency_scope"] = scope == Scope::interval && view.has_before ? "interval" : "since_start";
    out["enqueue_to_issue_ns"] =
        to_json(latency(now.enqueue_to_issue, view.before.enqueue_to_issue, view, scope));
    out["issue_to_complete_ns"] =
        to_json(latency(now.issue_to_complete, view.before.issue_to_complete, view, scope));
    out["error"] = nullptr;
    if (now.error_status != 0)
        out["error"] = {
            {"status", now.error_status},
            {"name", status_name(static_cast<Status>(now.error_status))},
            {"position", now.error_position},
            {"kernel", now.error_kernel == 0 ? nlohmann::json() : nlohmann::json(id_text(now.error_kernel))},
            {"text", now.error_text}};
    return out;
}

std::string cell(const std::optional<double>& rate) {
    return rate ? format_count(*rate) : "-";
}
std::string cell(const Quantiles& latency, double Quantiles::*which) {
    return latency.samples == 0 ? "-" : format_ns(latency.*which);
}

void print(const std::vector<StreamView>& views, Scope scope, const Terminal& terminal) {
    if (views.empty()) {
        std::puts("No streams.");
        return;
    }
    // The titles of a latency: from where to where, and which quantile.
    Table table({{"SESSION", true, 30},
                 {"STREAM", true, 31},
                 {"DEVICE", true, 13},
                 {"NAME", false, 9, true},
                 {"STATE", false, 29},
                 {"EPOCH", true, 4},
                 {"LAUNCHES", true, 24},
                 {"LAUNCH/S", true, 28},
                 {"RECORD/S", true, 14},
                 {"QUEUED", true, 26},
                 {"IN FLIGHT", true, 25},
                 {"DONE AT", true, 3},
                 {"ISSUE P50", true, 22},
                 {"P99", true, 20},
                 {"P99.9", true, 12},
                 {"DONE P50", true, 21},
                 {"P99", true, 19},
                 {"P99.9", true, 11},
                 {"ERROR", false, 27, true}});
    for (const StreamView& view : views) {
        if (!view.readable) {
            table.add({id_text(view.session), id_text(view.stream), std::to_string(view.device), view.name,
                       "restarting", std::to_string(view.epoch)},
                      Colour::yellow);
            continue;
        }
        const StreamSample& now = view.now;
        const Quantiles to_issue = latency(now.enqueue_to_issue, view.before.enqueue_to_issue, view, scope);
        const Quantiles to_done = latency(now.issue_to_complete, view.before.issue_to_complete, view, scope);
        std::string error;
        if (now.error_status != 0)
            error = std::string(status_name(static_cast<Status>(now.error_status))) +
                    (now.error_text.empty() ? "" : ": " + now.error_text);
        table.add({id_text(view.session), id_text(view.stream), std::to_string(view.device),
                   or_dash(view.name), state_name(now.state), std::to_string(view.epoch),
                   std::to_string(now.launches), cell(rate(view, &StreamSample::launches)),
                   cell(rate(view, &StreamSample::records)), std::to_string(now.published - now.issued),
                   std::to_string(now.issued - now.completed), std::to_string(now.completed),
                   cell(to_issue, &Quantiles::p50_ns), cell(to_issue, &Quantiles::p99_ns),
                   cell(to_issue, &Quantiles::p999_ns), cell(to_done, &Quantiles::p50_ns),
                   cell(to_done, &Quantiles::p99_ns), cell(to_done, &Quantiles::p999_ns), or_dash(error)},
                  now.state == schema::StreamState::Running ? Colour::none : Colour::red);
    }
    std::fputs(table.render(terminal).c_str(), stdout);
}

void print_json(const std::vector<StreamView>& views, const ControlClient& client, Scope scope, int indent) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    nlohmann::json streams = nlohmann::json::array();
    for (const StreamView& view : views) streams.push_back(to_json(view, scope));
    const nlohmann::json line = {
        {"time_s", static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9},
        {"daemon_pid", client.welcome().daemon_pid()},
        {"streams", std::move(streams)}};
    std::puts(dump(line, indent).c_str());
}

// False: the user wants to leave.
bool pause_for(double seconds, const sigset_t& leave) {
    timespec time{static_cast<time_t>(seconds),
                  static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
    return ::sigtimedwait(&leave, nullptr, &time) < 0;
}

double parse_period(const std::string& text) {
    if (text.empty()) return 1.0;
    double period_s = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, period_s);
    if (parsed.ec != std::errc() || parsed.ptr != end || !(period_s >= 0.01 && period_s <= 86400))
        throw CommandError(ExitCode::usage,
                           "--watch takes a number of seconds from 0.01 to 86400, not \"" + text + "\"");
    return period_s;
}

ExitCode show_stats(const StatsOptions& options) {
    const double period_s = parse_period(options.watch_s);
    ControlClient client = connect(options.ask);
    StreamSampler sampler(client);
    const Terminal terminal = Terminal::of_stdout();
    // Taken at the pauses, so that a line is never left half printed.
    sigset_t leave;
    sigemptyset(&leave);
    sigaddset(&leave, SIGINT);
    sigaddset(&leave, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &leave, nullptr);

    if (!options.watch) {
        std::vector<StreamView> views = sampler.look();
        if (options.over_s > 0 && !views.empty()) {
            if (!pause_for(options.over_s, leave)) return ExitCode::failure;
            views = sampler.look();
        }
        if (options.ask.json)
            print_json(views, client, Scope::since_start, 2);
        else
            print(views, Scope::since_start, terminal);
        return ExitCode::ok;
    }

    for (std::uint64_t turn = 0;; ++turn) {
        const std::vector<StreamView> views = sampler.look();
        if (options.ask.json) {
            print_json(views, client, Scope::interval, -1);
        } else {
            std::fputs(terminal.clear().c_str(), stdout);
            std::printf("ringlaunchd pid %d, %s, %s, every %g s; Ctrl-C leaves\n",
                        client.welcome().daemon_pid(), driver_name(client.welcome().driver()).c_str(),
                        plural(views.size(), "stream").c_str(), period_s);
            print(views, Scope::interval, terminal);
        }
        if (std::fflush(stdout) != 0) return ExitCode::failure;  // main() says why
        if (options.count != 0 && turn + 1 >= options.count) return ExitCode::ok;
        if (!pause_for(period_s, leave)) return ExitCode::ok;
    }
}

}  // namespace

void add_stats(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand(
        "stats",
        "Show launches, rates, queue depths, latencies and errors of every stream, read from shared memory");
    command->footer(
        "Columns: QUEUED slots are published and not yet issued; IN FLIGHT are issued and not yet "
        "completed;\n"
        "DONE AT is the completed position. ISSUE is the time from enqueue to issue, measured at about one "
        "record in\n"
        "128 slots (beyond the first 16,384 slots: in 512), DONE from issue to completion, at one in 64. "
        "Rates are over\n"
        "--over, or over the time between two tables with --watch; latencies since the stream began, or with "
        "--watch since\n"
        "the table before. A narrow terminal leaves the less important columns out.\n\n"
        "Examples:\n"
        "  ringlaunchd stats\n"
        "  ringlaunchd stats --watch            a new table every second\n"
        "  ringlaunchd stats --watch 5 --json   an object a line every 5 seconds\n"
        "  ringlaunchd stats --json | jq '.streams[] | select(.error != null)'\n\n" +
        ask_exit_codes());
    auto options = std::make_shared<StatsOptions>();
    add_ask_options(*command, options->ask);
    CLI::Option* watch =
        command->add_option("--watch", options->watch_s, "Again every so many seconds (1), until Ctrl-C")
            ->type_name("[SECONDS]")
            ->expected(0, 1);
    command
        ->add_option("--over", options->over_s, "Without --watch: measure rates over this time; 0: no rates")
        ->type_name("SECONDS")
        ->check(number_within(0, 3600))
        ->capture_default_str();
    command->add_option("--count", options->count, "With --watch: leave after so many tables")
        ->type_name("N")
        ->needs(watch);
    command->callback([&action, options, watch] {
        options->watch = watch->count() > 0;
        action = [options] { return show_stats(*options); };
    });
}

}  // namespace ringlaunch::cli
