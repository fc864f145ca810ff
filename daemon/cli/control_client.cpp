#include "daemon/cli/control_client.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "daemon/cli/terminal.hpp"
#include "schema/error.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

namespace {

constexpr const char* kStartAdvice = "start one with `ringlaunchd serve`";

ExitCode exit_code_of(Status status) {
    switch (status) {
        case Status::version_mismatch:
            return ExitCode::version_mismatch;
        case Status::permission_denied:
        case Status::limit_reached:
        case Status::stopping:
            return ExitCode::refused;
        case Status::timed_out:
        case Status::rate_limited:  // it lives, and is too busy for us
            return ExitCode::timed_out;
        case Status::daemon_lost:
            return ExitCode::no_daemon;
        default:
            return ExitCode::failure;
    }
}

}  // namespace

ControlClient::ControlClient(const SocketPlace& place, std::chrono::milliseconds timeout, Versions versions)
    : path_(place.path), timeout_(timeout) {
    connect(place);
    try {
        check_socket_owner(socket_.get(), place);
    } catch (const Error& error) {
        throw CommandError(exit_code_of(error.status()), error.what());
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0) peer_pid_ = peer.pid;
    // Before it answers: so that the number cannot have passed to another process.
    if (peer_pid_ > 0) process_.reset(static_cast<int>(::syscall(SYS_pidfd_open, peer_pid_, 0)));
    try {
        greet();
    } catch (const CommandError& error) {
        if (error.code() != ExitCode::version_mismatch) throw;
        other_version_ = true;
        if (versions == Versions::any) return;
        throw CommandError(error.code(),
                           std::string(error.what()) + "; `ringlaunchd stop` stops it" +
                               (peer_pid_ > 0 ? " (it is process " + std::to_string(peer_pid_) + ")" : ""));
    }
}

void ControlClient::greet() {
    welcome_ = ask(
        schema::Request::Hello,
        [](flatbuffers::FlatBufferBuilder& builder) {
            const auto program = builder.CreateString("ringlaunchd");
            schema::HelloBuilder hello(builder);
            hello.add_magic(kHelloMagic);
            hello.add_version(kProtocolVersion);
            hello.add_program(program);
            hello.add_observer(true);
            return hello.Finish().Union();
        },
        schema::Answer::Welcome);
    if (welcome().version() != kProtocolVersion)
        throw CommandError(
            ExitCode::version_mismatch,
            "the daemon at " + path_ + " speaks protocol version " + std::to_string(welcome().version()) +
                ", this ringlaunchd speaks " + std::to_string(kProtocolVersion) +
                ": use the ringlaunchd of the daemon's installation, or restart the daemon with this one");
}

void ControlClient::connect(const SocketPlace& place) {
    bool folder_exists = false;
    try {
        folder_exists = check_socket_folder(place, false);
    } catch (const Error& error) {
        throw CommandError(ExitCode::refused, error.what());
    }
    if (!folder_exists)
        throw CommandError(ExitCode::no_daemon, "no daemon answers at " + path_ + " (there is no folder " +
                                                    socket_folder(place) + "): " + kStartAdvice);
    socket_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket_)
        throw CommandError(ExitCode::failure,
                           std::string("cannot make a unix socket: ") + std::strerror(errno));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.size());  // find_socket() has checked the length
    const auto deadline = Clock::now() + timeout_;
    while (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        switch (errno) {
            case EINTR:
                continue;
            case EAGAIN:  // its queue of connections is full: it may be busy, or dead with its socket still
                          // held
                if (Clock::now() >= deadline) silent();
                ::poll(nullptr, 0, 10);
                continue;
            case ENOENT:
                throw CommandError(ExitCode::no_daemon, "no daemon answers at " + path_ +
                                                            " (there is no such socket): " + kStartAdvice);
            case ECONNREFUSED:
                if (struct stat found{}; ::stat(path_.c_str(), &found) == 0 && !S_ISSOCK(found.st_mode))
                    throw CommandError(
                        ExitCode::failure,
                        "cannot ask " + path_ + ": it is no socket; name the daemon's with --socket");
                throw CommandError(ExitCode::no_daemon,
                                   "no daemon answers at " + path_ +
                                       " (the socket is there, but nobody listens): " + kStartAdvice);
            case EACCES:
            case EPERM:
                throw CommandError(ExitCode::refused,
                                   "cannot connect to " + path_ +
                                       ": no permission to write to the socket; ask the daemon's user "
                                       "to start it with --allow-uid " +
                                       std::to_string(::getuid()));
            case EPROTOTYPE:
            case ENOTSOCK:
                throw CommandError(ExitCode::failure,
                                   "what stands at " + path_ + " is not the socket of a ringlaunch daemon (" +
                                       std::strerror(errno) + "): name another with --socket" +
                                       (place.option ? "" : " or RINGLAUNCH_SOCKET"));
            default:
                throw CommandError(ExitCode::failure,
                                   "cannot connect to " + path_ + ": " + std::strerror(errno));
        }
    }
}

Answer ControlClient::ask(schema::Request kind, const Build& build, schema::Answer wanted) {
    const auto deadline = Clock::now() + timeout_;
    const std::uint32_t id = next_id_++;
    flatbuffers::FlatBufferBuilder builder;
    const auto request = build(builder);
    builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(builder.GetBufferPointer()),
                                           builder.GetSize());
    for (;;) {
        const Transfer sent = send_message(socket_.get(), bytes, {}, false);
        if (sent == Transfer::done) break;
        if (sent == Transfer::would_block) {
            if (!wait(POLLOUT, deadline)) silent();
            continue;
        }
        // It may have said why before it hung up: what it said is still in the socket.
        if (sent == Transfer::closed) break;
        throw CommandError(ExitCode::failure, "the request is too long for one message");
    }
    Answer answer = receive(id, deadline);
    const schema::ServerMessage& view = *answer.view();
    const auto status = static_cast<Status>(view.status());
    if (status != Status::ok) {
        std::string text = view.error() != nullptr ? printable(view.error()->string_view())
                                                   : std::string(status_text(status));
        throw CommandError(exit_code_of(status), "the daemon at " + path_ + " refused (" +
                                                     std::string(status_name(status)) + "): " + text);
    }
    if (wanted != schema::Answer::NONE && view.answer_type() != wanted)
        throw CommandError(ExitCode::failure, "the daemon at " + path_ + " answered " +
                                                  schema::EnumNameRequest(kind) + " with " +
                                                  schema::EnumNameAnswer(view.answer_type()) +
                                                  " instead of " + schema::EnumNameAnswer(wanted));
    return answer;
}

Answer ControlClient::receive(std::uint32_t id, Clock::time_point deadline) {
    for (;;) {
        Answer answer;
        const Transfer got = receive_message(socket_.get(), answer.message, false);
        if (got == Transfer::would_block) {
            if (!wait(POLLIN, deadline)) silent();
            continue;
        }
        if (got == Transfer::closed) gone();
        if (got == Transfer::no_descriptors)
            throw CommandError(
                ExitCode::failure,
                "cannot receive the descriptors of the daemon's answer: this process has all that it may "
                "open in use; raise its limit (ulimit -n)");
        flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(answer.message.bytes.data()),
                                       answer.message.bytes.size());
        if (got != Transfer::done || !verifier.VerifyBuffer<schema::ServerMessage>(nullptr))
            throw CommandError(ExitCode::failure,
                               "the daemon at " + path_ + " sent a message that is not one of the protocol");
        // A notice, unless it refuses the whole connection, which an older or newer daemon does without an
        // id.
        if (answer.view()->id() == id || (answer.view()->id() == 0 && answer.view()->status() != 0 &&
                                          answer.view()->answer_type() == schema::Answer::NONE))
            return answer;
    }
}

bool ControlClient::wait(short events, Clock::time_point deadline) const {
    for (;;) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left < 0) return false;
        pollfd entry{socket_.get(), events, 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(left) + 1);
        if (ready > 0) return true;
        if (ready < 0 && errno != EINTR)
            throw CommandError(ExitCode::failure,
                               std::string("cannot wait for the daemon: ") + std::strerror(errno));
    }
}

bool ControlClient::wait_for_hangup(std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    for (;;) {
        Message message;
        const Transfer got = receive_message(socket_.get(), message, false);
        if (got == Transfer::closed) return true;
        if (got == Transfer::would_block && !wait(POLLIN, deadline)) return false;
    }
}

void ControlClient::silent() const {
    throw CommandError(ExitCode::timed_out,
                       "the daemon at " + path_ +
                           (peer_pid_ > 0 ? " (pid " + std::to_string(peer_pid_) + ")" : "") +
                           " did not answer within " + std::to_string(timeout_.count()) +
                           " ms: give it more with --timeout, or look at its log");
}

void ControlClient::gone() const {
    throw CommandError(ExitCode::no_daemon, "the daemon at " + path_ +
                                                " hung up before it answered: look at its log, " +
                                                "and start it again with `ringlaunchd serve`");
}

ControlClient connect(const AskOptions& options, ControlClient::Versions versions) {
    SocketPlace place;
    try {
        place = find_socket(options.socket);
    } catch (const Error& error) {
        throw CommandError(ExitCode::usage, error.what());
    }
    return ControlClient(
        place, std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout_s * 1000)), versions);
}

}  // namespace ringlaunch::cli
