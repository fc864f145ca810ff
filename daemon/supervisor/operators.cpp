// What an operator asks: status, counters, sessions, kernels, and that the daemon leaves.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <boost/asio/post.hpp>

#include "daemon/supervisor/core.hpp"
#include "daemon/supervisor/kernel_info.hpp"
#include "schema/ring.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::size_t kMaxStatsStreams = 200;  // descriptors a message
constexpr std::size_t kMaxListBytes = kMaxControlBytes - 8 * 1024;

const char* state_name(FaultDomain::State state) {
    switch (state) {
        case FaultDomain::State::resting:
            return "waiting";
        case FaultDomain::State::starting:
            return "starting";
        case FaultDomain::State::restoring:
            return "restoring";
        case FaultDomain::State::ready:
            return "ready";
        case FaultDomain::State::leaving:
            return "leaving";
    }
    return "?";
}

std::uint64_t ms_since(std::uint64_t ns) {
    return (now_ns() - ns) / kNsPerMs;
}

}  // namespace

bool Core::may_see(const Client& client, const Session& session) const {
    const std::uint32_t uid = client.connection->peer().uid;
    return uid == own_uid_ || uid == 0 || uid == session.uid;
}

void Core::get_status(Client& client, std::uint32_t request) {
    struct Held {
        std::uint32_t sessions = 0;
        std::uint64_t memory_bytes = 0;
    };
    std::map<int, Held> held;  // by device
    std::uint32_t streams = 0;
    std::uint64_t memory = 0;
    for (const auto& [id, session] : sessions_) {
        streams += static_cast<std::uint32_t>(session->streams.size());
        memory += session->heap.chunk_bytes();
        ++held[session->device].sessions;
        held[session->device].memory_bytes += session->heap.chunk_bytes();
    }
    answer(*client.connection, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        std::vector<flatbuffers::Offset<schema::ExecutorStatus>> executors;
        for (const auto& [key, domain] : domains_) {
            if (builder.GetSize() > kMaxListBytes) break;
            const auto name = builder.CreateString(domain_name(key));
            const auto death = builder.CreateString(domain->last_death().substr(0, 256));
            const auto state = builder.CreateString(state_name(domain->state()));
            const auto failure = builder.CreateString(domain->failure().substr(0, 512));
            executors.push_back(schema::CreateExecutorStatus(
                builder, domain->pid(), domain->epoch(), name, domain->restarts(), death, state,
                domain->has_process() ? ms_since(domain->started_ns()) : 0, key.device, failure));
        }
        std::vector<flatbuffers::Offset<schema::DeviceStatus>> devices;
        for (const auto& [ordinal, each] : devices_) {
            const auto name = builder.CreateString(each.name);
            const auto architecture = builder.CreateString(each.architecture);
            devices.push_back(schema::CreateDeviceStatus(builder, ordinal, name, architecture,
                                                         held[ordinal].sessions, held[ordinal].memory_bytes));
        }
        const auto served = builder.CreateVector(devices);
        const auto list = builder.CreateVector(executors);
        const auto version = builder.CreateString(options_.version);
        const auto device = builder.CreateString(devices_.at(options_.devices.front()).name);
        const auto socket = builder.CreateString(options_.socket_path);
        const auto note = builder.CreateString(options_.driver_note);
        return {schema::Answer::DaemonStatus,
                schema::CreateDaemonStatus(
                    builder, ::getpid(), version, options_.driver, device, socket, ms_since(started_ns_),
                    static_cast<std::uint32_t>(sessions_.size()), streams,
                    static_cast<std::uint32_t>(modules_.size()), memory, list, served, note)
                    .Union()};
    });
}

// Status pages bear FUTURE_WRITE by now: whoever gets the descriptor can read only.
void Core::get_stats(Client& client, std::uint32_t request, std::uint32_t skip) {
    if (!client.connection->all_read())
        throw Error(Status::limit_reached,
                    "cannot hand out status pages: this connection has not read its answers yet");
    std::vector<const Stream*> visible;
    for (const auto& [stream_id, session_id] : stream_sessions_) {
        const Session* session = find(session_id);
        if (session == nullptr || !may_see(client, *session)) continue;
        const Stream* stream = session->streams.at(stream_id).get();
        if (stream->phase == Stream::Phase::open) visible.push_back(stream);
    }
    std::vector<int> fds;
    flatbuffers::FlatBufferBuilder builder;
    std::vector<flatbuffers::Offset<schema::StreamStats>> list;
    for (std::size_t i = skip;
         i < visible.size() && list.size() < kMaxStatsStreams && builder.GetSize() < kMaxListBytes; ++i) {
        const Stream& stream = *visible[i];
        int index = -1;
        if (stream.page.sealed()) {
            index = static_cast<int>(fds.size());
            fds.push_back(stream.page.fd().get());
        }
        const std::uint64_t published = written_until(stream.ring_mapping.as<const Slot>(kRingHeaderBytes),
                                                      stream.slots, stream.page.completed());
        const auto name = builder.CreateString(stream.name);
        list.push_back(schema::CreateStreamStats(builder, stream.session, stream.id, name,
                                                 stream.page.page().epoch, stream.slots, index, published,
                                                 find(stream.session)->device));
    }
    const auto streams = builder.CreateVector(list);
    const auto stats = schema::CreateStats(builder, static_cast<std::uint32_t>(visible.size()), streams);
    builder.Finish(schema::CreateServerMessage(builder, request, 0, 0, schema::Answer::Stats, stats.Union()));
    send(*client.connection, builder, fds, 0);
}

void Core::get_sessions(Client& client, std::uint32_t request, std::uint32_t skip) {
    std::vector<const Session*> visible;
    for (const auto& [id, session] : sessions_)
        if (may_see(client, *session)) visible.push_back(session.get());
    answer(*client.connection, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        std::vector<flatbuffers::Offset<schema::SessionInfo>> list;
        for (std::size_t i = skip; i < visible.size() && builder.GetSize() < kMaxListBytes; ++i) {
            const Session& session = *visible[i];
            const FaultDomain* domain = existing_domain(session);
            const auto program = builder.CreateString(session.program);
            list.push_back(schema::CreateSessionInfo(
                builder, session.id, session.pid, session.uid, program,
                static_cast<std::uint32_t>(session.streams.size()),
                static_cast<std::uint32_t>(session.modules.size()),
                static_cast<std::uint32_t>(session.buffers.size()), session.heap.chunk_bytes(),
                session.staging_bytes, domain == nullptr ? 0 : domain->pid(), session.deaths_caused,
                ms_since(session.since_ns), session.alone, session.device, session.coalesce));
        }
        const auto sessions = builder.CreateVector(list);
        return {
            schema::Answer::Sessions,
            schema::CreateSessions(builder, static_cast<std::uint32_t>(visible.size()), sessions).Union()};
    });
}

void Core::get_kernels(Client& client, std::uint32_t request, std::uint32_t skip) {
    const std::uint32_t uid = client.connection->peer().uid;
    std::vector<const Module*> visible;
    for (const auto& [key, module] : modules_) {
        if (!module.known) continue;
        bool seen = uid == own_uid_ || uid == 0;
        for (const auto& [id, session] : sessions_)
            for (const auto& [use_id, use] : session->modules) seen |= session->uid == uid && use.key == key;
        if (seen) visible.push_back(&module);
    }
    answer(*client.connection, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        std::vector<flatbuffers::Offset<schema::LoadedModule>> list;
        for (std::size_t i = skip; i < visible.size(); ++i) {
            const Module& module = *visible[i];
            // What does not fit with everything said comes with less; what does not fit at all comes with the
            // next page.
            auto fits = [&](Detail detail) {
                flatbuffers::FlatBufferBuilder probe;
                write_kernels(probe, module.kernels, nullptr, detail);
                return builder.GetSize() + probe.GetSize() + 1024 < kMaxListBytes;
            };
            const bool first = list.empty();
            flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<schema::KernelInfo>>> kernels;
            if (fits(Detail::names))
                kernels = write_kernels(builder, module.kernels, nullptr, Detail::names);
            else if (!first)
                break;
            else if (fits(Detail::types))
                kernels = write_kernels(builder, module.kernels, nullptr, Detail::types);
            else if (fits(Detail::none))
                kernels = write_kernels(builder, module.kernels, nullptr, Detail::none);
            const auto digest = builder.CreateString(module.digest);
            const auto name = builder.CreateString(module.name);
            list.push_back(schema::CreateLoadedModule(builder, digest, module.bytes, module.users, kernels,
                                                      name, module.device));
        }
        const auto modules = builder.CreateVector(list);
        return {schema::Answer::Kernels,
                schema::CreateKernels(builder, static_cast<std::uint32_t>(visible.size()), modules).Union()};
    });
}

void Core::stop_daemon(Client& client, std::uint32_t request, std::uint32_t drain_ms) {
    const Peer& peer = client.connection->peer();
    if (peer.uid != own_uid_ && peer.uid != 0)
        throw Error(Status::permission_denied, "cannot stop the daemon: it belongs to user " +
                                                   std::to_string(own_uid_) + ", you are user " +
                                                   std::to_string(peer.uid));
    spdlog::info("asked to leave by process {}, {} ms to drain", peer.pid, drain_ms);
    answer_done(*client.connection, request);
    // Of several who ask the one who waits least.
    const std::uint64_t until_ns = now_ns() + drain_ms * kNsPerMs;
    drain_until_ns_ = draining_ ? std::min(drain_until_ns_, until_ns) : until_ns;
    draining_ = true;
    // From the loop: this message is still being handled.
    boost::asio::post(io_, [this] { drain(); });
}

}  // namespace ringlaunch::supervisor
