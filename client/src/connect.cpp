#include "client/src/connect.hpp"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "client/src/client_state.hpp"
#include "client/src/clock.hpp"
#include "client/src/daemon_launcher.hpp"
#include "schema/error.hpp"
#include "schema/socket_path.hpp"
#include "schema/version.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::detail {

namespace {

// `ringlaunchd serve --help`: another daemon has the socket.
constexpr int kExitAlreadyRunning = 4;
constexpr int kRetryMs = 5;
constexpr std::uint64_t kDefaultStagingBytes = 4u << 20;
constexpr std::uint64_t kLeastStagingBytes = 4096;  // of which segments are made
constexpr std::uint64_t kStagingShares = 8;         // so many streams of a session fit below any limit
// How often a daemon that hangs up on the Hello is greeted where none is started in its place.
constexpr int kGreetings = 3;
// How long after a daemon left for another that started before it the other may take to listen or to die.
constexpr std::uint64_t kStartAgainNs = 500'000'000;

std::string version_text(std::uint32_t version, const std::string& release) {
    return "protocol version " + std::to_string(version) + (release.empty() ? "" : " (" + release + ")");
}

// A connected socket; nothing when nobody listens there. Throws Error for what waiting will not mend.
std::optional<UniqueFd> connect_socket(const SocketPlace& place, std::uint64_t deadline_ns) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        throw Error(errno == EMFILE || errno == ENFILE ? Status::limit_reached : Status::daemon_lost,
                    "cannot make a unix socket: " + why_no_descriptor(errno));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, place.path.c_str(), place.path.size() + 1);
    while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        if (errno == EINTR) continue;
        if (errno == ENOENT || errno == ECONNREFUSED) return {};
        if (errno == EAGAIN && now_ns() < deadline_ns) {
            ::poll(nullptr, 0, kRetryMs);  // its queue is full: it is busy, not gone
            continue;
        }
        const int found = errno;
        throw Error(
            found == EACCES || found == EPERM ? Status::permission_denied : Status::daemon_lost,
            "cannot connect to the daemon at " + place.path + ": " + std::strerror(found) +
                (found == EACCES ? "; the daemon's owner can admit you with --allow-uid or --allow-gid"
                                 : ""));
    }
    return socket;
}

// Of each stream that copies. Where the daemon allows less than that, it says so at the copy.
std::uint32_t staging_bytes(const ConnectOptions& options, const schema::Welcome& welcome) {
    std::uint64_t bytes = options.staging_bytes;
    if (bytes == 0) {
        bytes = kDefaultStagingBytes;
        if (const std::uint64_t most = welcome.max_staging_bytes(); most != 0)
            bytes = std::min(bytes, most / kStagingShares / kLeastStagingBytes * kLeastStagingBytes);
    }
    return static_cast<std::uint32_t>(std::max(bytes, kLeastStagingBytes));
}

// Hello and Welcome.
std::shared_ptr<ClientState> shake_hands(UniqueFd socket, const SocketPlace& place,
                                         const ConnectOptions& options, std::uint64_t deadline_ns) {
    auto client = ClientState::make();
    client->info.socket = place.path;
    const bool membarrier = register_for_membarrier();
    client->must_fence = !membarrier;
    client->connection = std::make_unique<Connection>(std::move(socket), place.path, *client);
    const std::string doing = "cannot open a session with the daemon at " + place.path;
    try {
        Reply reply = client->connection->ask(
            {schema::Request::Hello, schema::Answer::Welcome, 1, doing, {}, deadline_ns},
            [&](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateHello(builder, kHelloMagic, kProtocolVersion,
                                           builder.CreateString(program_invocation_short_name),
                                           options.device, membarrier, false, options.kernel_timeout_ms,
                                           options.coalesce);
            });
        const schema::Welcome& welcome = *reply.view().answer_as_Welcome();
        if (welcome.version() != kProtocolVersion)
            throw Error(
                Status::version_mismatch,
                doing + ": this client speaks " + version_text(kProtocolVersion, RINGLAUNCH_VERSION) +
                    ", the daemon speaks " +
                    version_text(welcome.version(),
                                 welcome.daemon_version() == nullptr ? "" : welcome.daemon_version()->str()) +
                    "; install the same release of both and restart the daemon (`ringlaunchd stop --socket " +
                    place.path + "` stops it)");
        client->staging_bytes = staging_bytes(options, welcome);
        client->opened(welcome, std::move(reply.message.fds[0]));
    } catch (const Error& error) {
        if (error.status() != Status::version_mismatch) throw;
        const std::string text = error.what();
        const std::string own = "this client speaks " + version_text(kProtocolVersion, RINGLAUNCH_VERSION);
        if (text.find(own) != std::string::npos) throw;
        throw Error(Status::version_mismatch,
                    text + " (" + own + "); `ringlaunchd stop --socket " + place.path + "` stops it");
    }
    return client;
}

// Only a daemon that is started here launches on what the caller chose.
void check_driver(const ClientState& client, const ConnectOptions& options) {
    const DaemonInfo& running = client.info;
    if (options.driver.empty() || options.driver == "auto" || options.driver == running.driver) return;
    throw Error(Status::unsupported,
                "cannot connect with driver " + options.driver + ": the daemon at " + running.socket +
                    " (pid " + std::to_string(running.pid) + ") runs with driver " + running.driver +
                    (running.driver_note.empty() ? "" : " (" + running.driver_note + ")") +
                    "; stop it with `ringlaunchd stop --socket " + running.socket +
                    "`, name another socket, or connect without a driver");
}

[[noreturn]] void nobody_listens(const SocketPlace& place) {
    throw Error(Status::daemon_lost,
                "cannot connect: no daemon listens at " + place.path +
                    "; start one with `ringlaunchd serve`, have connect() start a private one, or name "
                    "another socket" +
                    (place.option ? "" : " with $RINGLAUNCH_SOCKET"));
}

std::string with_log(const StartingDaemon& daemon) {
    const std::string log = daemon.log_end();
    return log.empty() ? "; it wrote nothing to " + daemon.log_path()
                       : "; the end of its log " + daemon.log_path() + ":\n" + log;
}

}  // namespace

std::shared_ptr<ClientState> connect(const ConnectOptions& options) {
    const std::uint64_t deadline_ns = deadline_in(std::uint64_t{options.timeout_ms} * 1'000'000);
    const SocketPlace place = find_socket(options.socket);
    if (!check_socket_folder(place, options.start_private)) {
        if (!options.start_private) nobody_listens(place);
        throw Error(Status::daemon_lost, "cannot start a daemon: the folder of its socket, " +
                                             socket_folder(place) +
                                             ", does not exist; make it or name another socket");
    }

    std::optional<StartingDaemon> starting;
    std::uint64_t start_from_ns = 0;
    std::string left_for_another;  // what the last one that was started said of that
    int greetings = 0;
    for (;;) {
        if (auto socket = connect_socket(place, deadline_ns)) {
            check_socket_owner(socket->get(), place, options.daemon_uid);
            try {
                auto client = shake_hands(std::move(*socket), place, options, deadline_ns);
                check_driver(*client, options);
                return client;
            } catch (const Error& error) {
                if (error.status() == Status::rate_limited && now_ns() < deadline_ns) {
                    ::poll(nullptr, 0, kRetryMs);  // too many at its door for the moment: it is there
                    continue;
                }
                // A private daemon may just be leaving, with its last client: it took us and hung up. The
                // next look finds nobody, or another.
                if (error.status() != Status::daemon_lost && error.status() != Status::stopping) throw;
                if (now_ns() >= deadline_ns) throw;
                if (!options.start_private && ++greetings >= kGreetings) throw;
            }
        } else if (!options.start_private) {
            nobody_listens(place);
        }
        if (starting) {
            if (const auto end = starting->ended()) {
                if (end->exit_code != kExitAlreadyRunning)
                    throw Error(Status::daemon_lost, "cannot start a daemon: " + starting->program() + " " +
                                                         end->text + with_log(*starting));
                // Another was first; it will listen soon, or is just leaving.
                left_for_another = with_log(*starting);
                starting.reset();
                start_from_ns = now_ns() + kStartAgainNs;
            }
        } else if (options.start_private && now_ns() >= start_from_ns) {
            starting.emplace(find_daemon(options.daemon_path), place, options.driver);
        }
        if (now_ns() >= deadline_ns)
            throw Error(Status::timed_out,
                        "cannot connect: the daemon does not listen at " + place.path + " after " +
                            std::to_string(options.timeout_ms) + " ms" +
                            (left_for_another.empty() && starting ? with_log(*starting) : left_for_another));
        ::poll(nullptr, 0, kRetryMs);
    }
}

}  // namespace ringlaunch::detail
