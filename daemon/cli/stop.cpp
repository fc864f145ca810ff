// `ringlaunchd stop`: asks the running daemon to leave and waits until it has.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/text.hpp"

namespace ringlaunch::cli {

namespace {

struct StopOptions {
    AskOptions ask;
    std::uint32_t drain_ms = 0;
};

// What every version understands: SIGTERM to the process that listens at the socket.
void end_by_signal(const ControlClient& client, const std::string& who, bool drain) {
    if (drain)
        throw CommandError(ExitCode::version_mismatch,
                           who +
                               " speaks another version of the protocol, and can be "
                               "ended by a signal only: stop it without --drain");
    if (!client.process() ||
        ::syscall(SYS_pidfd_send_signal, client.process().get(), SIGTERM, nullptr, 0) != 0)
        throw CommandError(
            ExitCode::version_mismatch,
            who + " speaks another version of the protocol, and cannot be ended by a signal: " +
                (client.process() ? std::strerror(errno) : "its process cannot be seen from here") +
                "; use the ringlaunchd of its installation");
    std::printf("Sent SIGTERM to %s, which speaks another version of the protocol.\n", who.c_str());
}

ExitCode stop(const StopOptions& options) {
    ControlClient client = connect(options.ask, ControlClient::Versions::any);
    const std::string who = "the daemon at " + client.path() +
                            (client.peer_pid() > 0 ? " (pid " + std::to_string(client.peer_pid()) + ")" : "");
    const auto patience = std::chrono::milliseconds(options.drain_ms) +
                          std::chrono::milliseconds(static_cast<std::int64_t>(options.ask.timeout_s * 1000));
    const auto deadline = std::chrono::steady_clock::now() + patience;
    client.set_timeout(patience);  // it may answer only once it has drained
    if (client.other_version()) {
        end_by_signal(client, who, options.drain_ms != 0);
    } else {
        try {
            client.ask(
                schema::Request::StopDaemon,
                [&](flatbuffers::FlatBufferBuilder& builder) {
                    return schema::CreateStopDaemon(builder, options.drain_ms).Union();
                },
                schema::Answer::NONE);
        } catch (const CommandError& error) {
            // It may be gone faster than its answer came: then that is what was asked for.
            if (error.code() != ExitCode::no_daemon) throw;
        }
    }
    const auto left = [&] {
        return std::max(std::chrono::milliseconds(0), std::chrono::duration_cast<std::chrono::milliseconds>(
                                                          deadline - std::chrono::steady_clock::now()));
    };
    bool ended = client.wait_for_hangup(left());
    if (ended && client.process()) {
        pollfd entry{client.process().get(), POLLIN, 0};
        ended = ::poll(&entry, 1, static_cast<int>(left().count())) == 1;
    }
    if (!ended)
        throw CommandError(ExitCode::timed_out, who + " was asked to stop, but has not ended after " +
                                                    std::to_string(patience.count()) +
                                                    " ms: wait longer with --timeout, or kill it");
    std::printf("Stopped %s.\n", who.c_str());
    return ExitCode::ok;
}

}  // namespace

void add_stop(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand("stop", "Stop the running daemon and wait until it has ended");
    command->footer(
        "Clients of a stopped daemon learn of it at once: what they wait for ends with an error. One that "
        "speaks "
        "another version\n"
        "of the protocol is ended by SIGTERM. While it drains it answers status and stats, and a further "
        "stop "
        "ends\n"
        "it earlier.\n\n"
        "Examples:\n"
        "  ringlaunchd stop\n"
        "  ringlaunchd stop --drain 5000    takes no new sessions, lets enqueued work complete, at most 5 "
        "s\n\n" +
        ask_exit_codes());
    auto options = std::make_shared<StopOptions>();
    add_socket_option(*command, options->ask.socket);
    command
        ->add_option("--drain", options->drain_ms,
                     "Let what is enqueued complete first, for at most this long")
        ->type_name("MS")
        ->check(CLI::Range(0u, 86'400'000u));
    command->add_option("--timeout", options->ask.timeout_s, "How long to wait for the end, beyond --drain")
        ->type_name("SECONDS")
        ->check(number_within(0.001, 86400))
        ->capture_default_str();
    command->callback([&action, options] { action = [options] { return stop(*options); }; });
}

}  // namespace ringlaunch::cli
