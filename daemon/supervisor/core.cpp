// Connections and greetings, answers, and how the daemon begins and leaves.
#include "daemon/supervisor/core.hpp"

#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <csignal>
#include <system_error>

#include "schema/ring.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::size_t kMaxUngreeted = 64;
constexpr std::chrono::milliseconds kOverRateRest{20};
constexpr std::chrono::milliseconds kDrainPoll{5};
// Of the first executor, where another driver could be taken: one whose device hangs.
constexpr std::chrono::seconds kFirstPatience{20};

// What a session holds of the daemon's descriptors.
std::uint64_t descriptors_of(const Session& session) {
    return Descriptors::kSession + Descriptors::kStream * session.streams.size() + session.staging.size() +
           session.chunks.size() + session.loans.size() + (session.making_bytes != 0 ? 1 : 0) +
           session.modules.size() + session.graphs.size() + session.pending_graphs.size();
}

// Descriptors that a request brings.
std::size_t fds_of(schema::Request request) {
    return request == schema::Request::LoadModule || request == schema::Request::MakeGraph ? 1 : 0;
}

}  // namespace

std::string printable(const flatbuffers::String* text, std::size_t at_most) {
    std::string clean;
    if (text == nullptr) return clean;
    clean = text->str().substr(0, at_most);
    for (char& c : clean)
        if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
    return clean;
}

Core::Core(const SupervisorOptions& options)
    : options_(options), own_uid_(::geteuid()), descriptors_(Descriptors::of_this_process()) {
    for (const int device : options_.devices) devices_[device];
}

Core::~Core() {
    for (auto& [pointer, client] : clients_) client.connection->close("the daemon leaves");
    clients_.clear();
}

int Core::run() {
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    signals_.add(SIGHUP);
    signals_.async_wait([this](const auto& error, int signal) {
        if (error) return;
        spdlog::info("{}: leaving", signal_name(signal));
        shut_down(kExitOk);
    });
    // From here on clients may connect; whoever then ends the daemon finds it ready for that.
    listener_.emplace(io_, options_.socket_path, options_.make_folder,
                      !options_.allow_uids.empty() || !options_.allow_gids.empty());
    // The executor that most sessions will use is there before the first of them.
    start_first(options_.devices.front(), own_uid_);
    if (options_.on_unusable) {
        first_timer_.expires_after(kFirstPatience);
        first_timer_.async_wait([this](const auto& error) {
            if (!error && !announced_ && !shutting_down_)
                take_other_driver("the driver cannot be used: it was not ready after " +
                                  std::to_string(kFirstPatience.count()) + " s");
        });
    }
    listener_->start([this](UniqueFd socket) { accept(std::move(socket)); });
    watch_idle();
    if (max_streams() < options_.limits.max_streams)
        spdlog::warn(
            "this process may open {} descriptors: a session gets at most {} streams, not {}; raise its hard "
            "limit "
            "(ulimit -Hn, or LimitNOFILE= in the unit)",
            descriptors_.limit(), max_streams(), options_.limits.max_streams);
    spdlog::info("descriptors: {}, room for {} streams in all and {} in a session", descriptors_.limit(),
                 descriptors_.streams_in_all(), max_streams());
    spdlog::info("listening at {} (process {}, user {})", options_.socket_path, ::getpid(), own_uid_);
    io_.run();
    return exit_;
}

// ---- connections

void Core::accept(UniqueFd socket) {
    if (descriptors_.is_for_restarts(socket.get())) {
        const std::string text =
            "the daemon has " + std::to_string(descriptors_.limit()) +
            " descriptors, and the last of them are kept for restarts; close a session, or start "
            "it with a higher limit (ulimit -Hn)";
        spdlog::warn("a connection was refused: {}", text);
        flatbuffers::FlatBufferBuilder builder;
        const auto error = builder.CreateString(text);
        builder.Finish(schema::CreateServerMessage(builder, 0,
                                                   static_cast<std::uint32_t>(Status::limit_reached), error));
        send_message(socket.get(),
                     {reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()}, {},
                     false);
        return;
    }
    std::shared_ptr<Connection> connection;
    try {
        Peer peer = identify(socket.get());
        std::size_t ungreeted = 0;
        for (const auto& [pointer, client] : clients_) ungreeted += client.greeted ? 0 : 1;
        connection = std::make_shared<Connection>(io_, std::move(socket), std::move(peer),
                                                  options_.limits.max_pending_bytes, descriptors_);
        if (ungreeted >= kMaxUngreeted) {
            refuse(*connection, 0, Status::rate_limited,
                   std::to_string(ungreeted) +
                       " connections have not said Hello yet; connect again in a moment");
            return;
        }
    } catch (const std::exception& error) {
        spdlog::warn("a connection was dropped: {}", error.what());
        return;
    }
    Connection* pointer = connection.get();
    Client& client = clients_
                         .emplace(pointer, Client{connection, false, false, 0,
                                                  RateLimit(options_.limits.messages_per_second, now_ns()),
                                                  std::make_unique<boost::asio::steady_timer>(io_)})
                         .first->second;
    client.deadline->expires_after(std::chrono::milliseconds(options_.handshake_timeout_ms));
    client.deadline->async_wait([weak = std::weak_ptr<Connection>(connection)](const auto& error) {
        if (error) return;
        if (const auto alive = weak.lock()) alive->close("it never said Hello");
    });
    connection->start({[this, pointer](Message& message, bool whole) {
                           const auto at = clients_.find(pointer);
                           if (at != clients_.end()) on_message(at->second, message, whole);
                       },
                       [this, pointer](const std::string& why) { on_gone(pointer, why); },
                       [this, pointer] {
                           refuse(*pointer, 0, Status::malformed_message,
                                  "a control message has 1 to " + std::to_string(kMaxControlBytes) +
                                      " bytes and at most " + std::to_string(kMaxMessageFds) +
                                      " descriptors; the one that came has more");
                       }});
}

void Core::on_gone(Connection* connection, const std::string& why) {
    const auto at = clients_.find(connection);
    if (at == clients_.end()) return;
    const std::uint64_t id = at->second.session;
    clients_.erase(at);
    if (Session* session = find(id)) {
        spdlog::info("session {} ({}, process {}) ends: {}", id_text(id), session->program, session->pid,
                     why);
        end_session(*session);
    }
    watch_idle();
}

void Core::on_message(Client& client, Message& message, bool whole) {
    Connection& connection = *client.connection;
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(message.bytes.data()),
                                   message.bytes.size());
    if (!verifier.VerifyBuffer<schema::ClientMessage>(nullptr)) {
        refuse(connection, 0, Status::malformed_message,
               "a message of " + std::to_string(message.bytes.size()) +
                   " bytes is no ClientMessage of schema/control.fbs; is this a client of ringlaunch?");
        return connection.close("it sent what is no message");
    }
    const auto& request = *flatbuffers::GetRoot<schema::ClientMessage>(message.bytes.data());
    if (request.id() == 0) {
        refuse(connection, 0, Status::malformed_message,
               "a request has an id that is not 0; 0 marks the daemon's notices");
        return connection.close("it sent a request without an id");
    }
    if (!client.rate.take(now_ns())) {
        refuse(connection, request.id(), Status::rate_limited,
               "a session may send " + std::to_string(client.rate.per_second()) +
                   " control messages a second, and this one sent more; slow down and ask again");
        return connection.pause_for(kOverRateRest);
    }
    try {
        if (!whole)
            throw Error(Status::limit_reached,
                        "the daemon has no descriptors left to receive those of this message: close "
                        "something, or start "
                        "it with a higher limit (ulimit -Hn)");
        dispatch(client, request, message);
    } catch (const Error& error) {
        refuse(connection, request.id(), error.status(), error.what());
    } catch (const std::system_error& error) {
        const bool full = error.code().value() == EMFILE || error.code().value() == ENFILE;
        refuse(connection, request.id(), full ? Status::limit_reached : Status::internal_error,
               std::string(error.what()) +
                   (full ? "; the daemon has no descriptors left: raise its limit (ulimit -n)" : ""));
    }
}

Session& Core::session_of(Client& client) {
    Session* session = living(client.session);
    if (session == nullptr)
        throw Error(
            Status::permission_denied,
            "this connection has no session (it observes), so it owns nothing; say Hello without `observer`");
    return *session;
}

void Core::require_descriptors(const Session& session, unsigned more, const std::string& doing) const {
    const std::uint64_t held = descriptors_of(session);
    if (held + more > descriptors_.a_session())
        throw Error(Status::limit_reached,
                    doing + ": this session holds " + std::to_string(held) +
                        " of the daemon's descriptors (" + std::to_string(session.streams.size()) +
                        " streams, " + std::to_string(session.modules.size()) + " modules, " +
                        std::to_string(session.staging.size()) + " staging segments, " +
                        std::to_string(session.chunks.size()) +
                        " chunks of memory), and one session may hold " +
                        std::to_string(descriptors_.a_session()) +
                        "; close some, or start the daemon with a higher limit (ulimit -Hn)");
    if (!descriptors_.room(more))
        throw Error(Status::limit_reached,
                    doing + ": the daemon's sessions hold all of the " +
                        std::to_string(descriptors_.for_requests()) + " descriptors that are for them (of " +
                        std::to_string(descriptors_.limit()) +
                        "); close something, or start the daemon with a higher limit (ulimit -Hn)");
}

std::uint64_t Core::max_streams() const {
    return std::min<std::uint64_t>(options_.limits.max_streams, descriptors_.streams_a_session());
}

void Core::dispatch(Client& client, const schema::ClientMessage& request, Message& message) {
    using schema::Request;
    Connection& connection = *client.connection;
    const std::uint32_t id = request.id();
    const Request kind = request.request_type();
    if (message.fds.size() != fds_of(kind)) {
        const std::string text = std::string("a message ") + schema::EnumNameRequest(kind) + " brings " +
                                 std::to_string(fds_of(kind)) + " descriptors, this one brought " +
                                 std::to_string(message.fds.size());
        if (client.greeted) throw Error(Status::malformed_message, text);
        refuse(connection, id, Status::malformed_message, text);
        return connection.close("it did not say Hello");
    }
    if (!client.greeted) {
        if (kind == Request::Hello && !client.greeting) return hello(client, id, *request.request_as_Hello());
        refuse(connection, id, Status::malformed_message,
               std::string("the first message of a connection is Hello, this one is ") +
                   schema::EnumNameRequest(kind));
        return connection.close("it did not say Hello");
    }
    switch (kind) {
        case Request::OpenStream:
            return open_stream(session_of(client), id, *request.request_as_OpenStream());
        case Request::CloseStream:
            return close_stream(session_of(client), id, request.request_as_CloseStream()->stream());
        case Request::ResumeStream:
            return resume_stream(session_of(client), id, *request.request_as_ResumeStream());
        case Request::LoadModule:
            return load_module(session_of(client), id, *request.request_as_LoadModule(),
                               std::move(message.fds[0]));
        case Request::UnloadModule:
            return unload_module(session_of(client), id, request.request_as_UnloadModule()->module_id());
        case Request::ConfigureKernel:
            return configure_kernel(session_of(client), id, *request.request_as_ConfigureKernel());
        case Request::AllocBuffer:
            return alloc_buffer(session_of(client), id, request.request_as_AllocBuffer()->bytes());
        case Request::FreeBuffer:
            return free_buffer(session_of(client), id, *request.request_as_FreeBuffer());
        case Request::AddStaging:
            return add_staging(session_of(client), id, request.request_as_AddStaging()->bytes());
        case Request::DropStaging:
            return drop_staging(session_of(client), id, *request.request_as_DropStaging());
        case Request::Share:
            return share(session_of(client), id, *request.request_as_Share());
        case Request::Borrow:
            return borrow(session_of(client), id, *request.request_as_Borrow());
        case Request::MakeGraph:
            return make_graph(session_of(client), id, *request.request_as_MakeGraph(),
                              std::move(message.fds[0]));
        case Request::DropGraph:
            return drop_graph(session_of(client), id, *request.request_as_DropGraph());
        case Request::EncodeTensorMap:
            return encode_tensor_map(session_of(client), id, *request.request_as_EncodeTensorMap());
        case Request::GetStatus:
            return get_status(client, id);
        case Request::GetStats:
            return get_stats(client, id, request.request_as_GetStats()->skip());
        case Request::GetSessions:
            return get_sessions(client, id, request.request_as_GetSessions()->skip());
        case Request::GetKernels:
            return get_kernels(client, id, request.request_as_GetKernels()->skip());
        case Request::StopDaemon:
            return stop_daemon(client, id, request.request_as_StopDaemon()->drain_ms());
        case Request::Hello:
            throw Error(Status::malformed_message, "this connection has said Hello already");
        case Request::NONE:
            break;
    }
    throw Error(Status::unsupported, "this daemon (protocol " + std::to_string(kProtocolVersion) +
                                         ") knows no request of kind " +
                                         std::to_string(static_cast<int>(kind)));
}

void Core::hello(Client& client, std::uint32_t request, const schema::Hello& hello) {
    Connection& connection = *client.connection;
    const auto hang_up = [&](Status status, const std::string& text) {
        refuse(connection, request, status, text);
        connection.close(text);
    };
    if (hello.magic() != kHelloMagic)
        return hang_up(Status::malformed_message,
                       "the first message is no Hello of ringlaunch (its magic word is " +
                           std::to_string(hello.magic()) + ", not " + std::to_string(kHelloMagic) + ")");
    if (hello.version() != kProtocolVersion)
        return hang_up(Status::version_mismatch,
                       "the client speaks protocol version " + std::to_string(hello.version()) +
                           ", this daemon (" + options_.version + ") speaks version " +
                           std::to_string(kProtocolVersion) +
                           "; install the same release of ringlaunch on both sides");
    if (const auto why = refuse_peer(connection.peer(), own_uid_, options_))
        return hang_up(Status::permission_denied, *why);
    if (!hello.observer()) {
        if (draining_) return hang_up(Status::stopping, "the daemon is leaving; start another");
        if (!devices_.contains(hello.device())) {
            std::string served;
            for (const auto& [ordinal, device] : devices_)
                served += (served.empty() ? "" : ", ") + std::to_string(ordinal);
            return hang_up(Status::not_found, "the client asks for device " + std::to_string(hello.device()) +
                                                  ", this daemon serves device" +
                                                  (devices_.size() == 1 ? " " : "s ") + served +
                                                  " (`ringlaunchd serve --devices` chooses)");
        }
        if (sessions_.size() >= options_.limits.max_sessions)
            return hang_up(Status::limit_reached,
                           "the daemon has " + std::to_string(sessions_.size()) + " sessions, its limit is " +
                               std::to_string(options_.limits.max_sessions) + " (--max-sessions); close one");
    }
    client.greeting = true;
    client.deadline->cancel();
    // Who only observes is told of the first.
    const int wanted = hello.observer() ? options_.devices.front() : hello.device();
    const Greeting greeting{printable(hello.program()), wanted,          hello.membarrier(), hello.observer(),
                            hello.kernel_timeout_ms(),  hello.coalesce()};
    Device& device = devices_.at(wanted);
    try {
        if (device.known || greeting.observer) return welcome(client, request, greeting);
        start_first(wanted, connection.peer().uid);
    } catch (const Error& error) {
        return hang_up(error.status(), error.what());
    }
    // Held until the device's first executor says what it is; or says why there is none.
    connection.pause();
    device.waiting.push_back([this, weak = std::weak_ptr<Connection>(client.connection), request,
                              greeting](const std::string* why_not) {
        const auto alive = weak.lock();
        if (!alive) return;
        if (why_not != nullptr) {
            refuse(*alive, request, Status::unsupported, *why_not);
            return alive->close(*why_not);
        }
        const auto at = clients_.find(alive.get());
        if (at == clients_.end()) return;
        // Another driver than the one it asked may serve fewer users.
        if (const auto why = refuse_peer(alive->peer(), own_uid_, options_)) {
            refuse(*alive, request, Status::permission_denied, *why);
            return alive->close(*why);
        }
        try {
            welcome(at->second, request, greeting);
        } catch (const Error& error) {
            refuse(*alive, request, error.status(), error.what());
            alive->close(error.what());
        } catch (const std::exception& error) {
            refuse(*alive, request, Status::internal_error, error.what());
            alive->close(error.what());
        }
        alive->resume();
    });
}

void Core::welcome(Client& client, std::uint32_t request, const Greeting& greeting) {
    Session* session = greeting.observer ? nullptr : &open_session(client, greeting);
    client.greeted = true;
    const Device& device = devices_.at(greeting.device);
    std::vector<int> fds;
    if (session != nullptr) fds.push_back(session->doorbell.get());
    const std::uint64_t memory =
        options_.limits.max_memory_bytes != 0 ? options_.limits.max_memory_bytes : device.range.bytes();
    answer(
        *client.connection, request,
        [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
            const auto version = builder.CreateString(options_.version);
            const auto name = builder.CreateString(device.name);
            const auto architecture = builder.CreateString(device.architecture);
            const auto note = builder.CreateString(options_.driver_note);
            return {schema::Answer::Welcome,
                    schema::CreateWelcome(
                        builder, kProtocolVersion, session == nullptr ? 0 : session->id, ::getpid(), version,
                        options_.driver, greeting.device, name, architecture,
                        session == nullptr || session->fences, device.max_param_bytes, device.max_grid_x,
                        device.max_grid_y, device.max_grid_z, device.max_threads_per_block,
                        static_cast<std::uint32_t>(max_streams()), options_.limits.max_modules, memory,
                        device.max_block_x, device.max_block_y, device.max_block_z,
                        options_.limits.max_staging_bytes, note)
                        .Union()};
        },
        fds);
}

// ---- answers

void Core::send(Connection& connection, flatbuffers::FlatBufferBuilder& builder, std::span<const int> fds,
                std::uint64_t coalesce) {
    connection.send({reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()}, fds,
                    coalesce);
}

void Core::answer_done(Connection& connection, std::uint32_t request) {
    answer(connection, request, [](flatbuffers::FlatBufferBuilder& builder) -> Built {
        return {schema::Answer::Done, schema::CreateDone(builder).Union()};
    });
}

void Core::refuse(Connection& connection, std::uint32_t request, Status status, const std::string& text) {
    flatbuffers::FlatBufferBuilder builder;
    const auto error = builder.CreateString(text.substr(0, 4096));
    builder.Finish(schema::CreateServerMessage(builder, request, static_cast<std::uint32_t>(status), error));
    send(connection, builder, {}, 0);
}

void Core::done_later(std::uint64_t session, std::uint32_t request) {
    answer_later(session, request, [](flatbuffers::FlatBufferBuilder& builder) -> Built {
        return {schema::Answer::Done, schema::CreateDone(builder).Union()};
    });
}

void Core::refuse_later(std::uint64_t session, std::uint32_t request, Status status,
                        const std::string& text) {
    if (Session* found = living(session)) {
        refuse(*found->connection, request, status, text);
        request_answered(*found);
    }
}

void Core::request_opened(Session& session) {
    if (++session.open_requests >= options_.limits.max_open_requests) session.connection->pause();
}

void Core::request_answered(Session& session) {
    if (session.open_requests-- >= options_.limits.max_open_requests &&
        session.open_requests < options_.limits.max_open_requests)
        session.connection->resume();
}

// ---- leaving

void Core::watch_idle() {
    if (options_.exit_when_idle_ms == 0 || shutting_down_) return;
    for (const auto& [id, session] : sessions_)
        if (session->connection) {
            idle_armed_ = false;
            idle_timer_.cancel();
            return;
        }
    if (idle_armed_) return;  // since the last one left; who only observes changes nothing
    idle_armed_ = true;
    idle_timer_.expires_after(std::chrono::milliseconds(options_.exit_when_idle_ms));
    idle_timer_.async_wait([this](const auto& error) {
        if (error || shutting_down_) return;
        idle_armed_ = false;
        for (const auto& [id, session] : sessions_)
            if (session->connection) return;
        // Who has connected and not been heard yet is a client too.
        for (const auto& [pointer, client] : clients_)
            if (!client.greeted) return watch_idle();
        if (!listener_->idle()) return watch_idle();
        spdlog::info("leaving: no client for {} ms", options_.exit_when_idle_ms);
        shut_down(kExitOk);
    });
}

bool Core::drained() {
    for (const auto& [id, session] : sessions_)
        for (const auto& [stream_id, stream] : session->streams) {
            if (stream->phase != Stream::Phase::open || !stream->page || stream->page.stopped()) continue;
            // A client that lies only makes itself be waited for until the bound.
            const RingConsumer<> reader(stream->ring_mapping.as<const Slot>(kRingHeaderBytes), stream->slots,
                                        stream->page.completed());
            if (reader.peek()) return false;
        }
    return true;
}

void Core::drain() {
    if (shutting_down_) return;
    if (drained() || now_ns() >= drain_until_ns_) return shut_down(kExitOk);
    drain_timer_.expires_after(kDrainPoll);
    drain_timer_.async_wait([this](const auto& error) {
        if (!error) drain();
    });
}

void Core::shut_down(int exit) {
    if (shutting_down_) return;
    shutting_down_ = true;
    draining_ = true;
    exit_ = exit;
    listener_->stop();
    for (auto* timer : {&first_timer_, &idle_timer_, &reclaim_timer_, &probation_timer_, &drain_timer_})
        timer->cancel();
    signals_.cancel();
    for (auto& [pointer, client] : clients_) {
        client.deadline->cancel();
        client.connection->close("the daemon leaves");
    }
    for (auto& [key, domain] : domains_) domain->leave();
    maybe_finished();
}

void Core::maybe_finished() {
    if (shutting_down_ && domains_.empty() && leaving_domains_.empty()) io_.stop();
}

// ---- the way in

int run_supervisor(const SupervisorOptions& options) {
    // A process of the same user could reach every ring and every session's memory through /proc otherwise.
    ::prctl(PR_SET_DUMPABLE, 0);
    ::signal(SIGPIPE, SIG_IGN);
    try {
        Core core(options);
        return core.run();
    } catch (const AlreadyRunning& error) {
        spdlog::error("{}", error.what());
        return kExitAlreadyRunning;
    } catch (const SocketRefused& error) {
        spdlog::error("{}", error.what());
        return kExitSocketRefused;
    } catch (const std::exception& error) {
        spdlog::error("the daemon fails: {}", error.what());
        return kExitFailure;
    }
}

}  // namespace ringlaunch::supervisor
