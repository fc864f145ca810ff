#include "client/src/client_state.hpp"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "schema/error.hpp"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch::detail {

namespace {

std::string driver_name(schema::DriverKind kind) {
    switch (kind) {
        case schema::DriverKind::Null:
            return "null";
        case schema::DriverKind::Host:
            return "host";
        case schema::DriverKind::Cuda:
            return "cuda";
    }
    return "driver " + std::to_string(static_cast<int>(kind));
}

std::string text_of(const flatbuffers::String* text) {
    return text == nullptr ? std::string() : text->str();
}

// The page of a stream's epoch, checked: sealed against other writers, and ours.
Mapping map_page(const UniqueFd& fd, std::uint64_t stream, const std::string& what) {
    check_seals(fd, Sealing::one_writer, kStatusPageBytes, what);
    Mapping page(fd, kStatusPageBytes, Mapping::Access::read_only, what);
    const auto* status = page.as<const StatusPage>();
    if (status->magic != kStatusMagic || status->version != kProtocolVersion || status->stream != stream)
        throw Error(Status::malformed_message, what + " does not begin like one of protocol version " +
                                                   std::to_string(kProtocolVersion) + " and this stream");
    return page;
}

}  // namespace

std::shared_ptr<ClientState> ClientState::make() {
    auto deleter = [](ClientState* client) {
        // A child leaks it: other threads of the parent may have been half through a change of it.
        if (!client->forked.load(std::memory_order_relaxed)) delete client;
    };
    return std::shared_ptr<ClientState>(new ClientState, deleter);
}

void ClientState::opened(const schema::Welcome& welcome, UniqueFd doorbell_fd) {
    doorbell = std::move(doorbell_fd);
    info.pid = welcome.daemon_pid();
    info.version = text_of(welcome.daemon_version());
    info.driver = driver_name(welcome.driver());
    info.driver_note = text_of(welcome.driver_note());
    info.device_name = text_of(welcome.device_name());
    info.architecture = text_of(welcome.architecture());
    info.device = welcome.device();
    info.session = welcome.session();
    max_grid = {welcome.max_grid_x(), welcome.max_grid_y(), welcome.max_grid_z()};
    const auto bound = [](std::uint32_t said) {
        return said == 0 ? kMaxBlockSide : std::min(said, kMaxBlockSide);
    };
    max_block = {bound(welcome.max_block_x()), bound(welcome.max_block_y()), bound(welcome.max_block_z())};
    max_param_bytes = welcome.max_param_bytes();
    must_fence = must_fence || welcome.producer_must_fence();
    guard();
}

ClientState::~ClientState() {
    unguard();
    // Streams that only drain hold no reference to us; the session ends with us, and so do they.
    if (connection) connection->close();
    for (StreamState* stream : draining) delete stream;
}

Status ClientState::life() const noexcept {
    if (forked.load(std::memory_order_relaxed)) return Status::closed;
    const Status end = connection->end();
    if (end == Status::ok || end == Status::closed) return end;
    return Status::daemon_lost;
}

std::string ClientState::life_text() const {
    if (forked.load(std::memory_order_relaxed))
        return "the handle belongs to the process that was forked: a child has no session, connect again in "
               "it";
    return connection->end_text();
}

void ClientState::require_life(const char* doing) const {
    const Status status = life();
    if (status != Status::ok) throw Error(status, std::string(doing) + ": " + life_text());
}

std::shared_ptr<StreamState> ClientState::open_stream(std::shared_ptr<ClientState> self,
                                                      const StreamOptions& options) {
    require_life("cannot open a stream");
    sweep();
    const std::string doing =
        "cannot open a stream" +
        (options.ring_slots == 0 ? "" : " of " + std::to_string(options.ring_slots) + " slots") +
        (options.name.empty() ? "" : " named " + options.name);
    {
        const std::lock_guard lock(mutex);
        ++opening;
    }
    struct Opening {
        ClientState& client;
        ~Opening() {
            const std::lock_guard lock(client.mutex);
            if (--client.opening == 0) client.early.clear();
        }
    } const opening_now{*this};

    Reply reply = ask_for_descriptors(
        {schema::Request::OpenStream, schema::Answer::StreamOpened, 3, doing},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(
                builder, options.ring_slots,
                options.on_restart == OnRestart::rerun ? schema::OnRestart::Rerun : schema::OnRestart::Stop,
                options.priority, builder.CreateString(options.name));
        });
    const schema::StreamOpened& answer = *reply.view().answer_as_StreamOpened();
    std::vector<UniqueFd>& fds = reply.message.fds;

    OpenedStream stream;
    stream.id = answer.stream();
    stream.epoch = answer.epoch();
    stream.ring_slots = answer.ring_slots();
    stream.name = options.name;
    if (stream.ring_slots < kMinRingSlots || stream.ring_slots > kMaxRingSlots ||
        (stream.ring_slots & (stream.ring_slots - 1)) != 0)
        throw Error(Status::malformed_message,
                    doing + ": the daemon made a ring of " + std::to_string(stream.ring_slots) + " slots");
    const std::string what = "of stream " + id_text(stream.id);
    const std::size_t ring_bytes = ring_segment_bytes(stream.ring_slots);
    check_seals(fds[0], Sealing::shared, ring_bytes, "the ring " + what);
    stream.ring = Mapping(fds[0], ring_bytes, Mapping::Access::read_write, "the ring " + what);
    const auto* header = stream.ring.as<const RingHeader>();
    if (header->magic != kRingMagic || header->version != kProtocolVersion ||
        header->slot_count != stream.ring_slots)
        throw Error(Status::malformed_message, doing +
                                                   ": the ring does not begin like one of protocol version " +
                                                   std::to_string(kProtocolVersion));
    stream.page = map_page(fds[1], stream.id, "the status page " + what);
    stream.wake = std::move(fds[2]);
    // A child of a fork that runs no handlers finds no ring that it could write.
    ::madvise(stream.ring.data(), stream.ring.size(), MADV_DONTFORK);

    auto* raw = new StreamState(self, std::move(stream));
    std::shared_ptr<StreamState> shared(raw, [](StreamState* of) { of->client->release_stream(of); });
    {
        const std::lock_guard lock(mutex);
        streams.emplace(raw->id, shared);
        live.emplace(raw->id, raw);
        for (EarlyNotice& notice : early) {
            if (notice.stream != raw->id) continue;
            const auto& view = *flatbuffers::GetRoot<schema::ServerMessage>(notice.bytes.data());
            raw->replace_page(std::move(notice.page), *view.answer_as_StreamEpoch());
            notice.stream = 0;
        }
    }
    if (connection->lost()) raw->end();  // it was lost before the stream stood in the list
    return shared;
}

ClientState::Staging ClientState::add_staging(std::size_t bytes) {
    const std::string doing = "cannot add " + std::to_string(bytes) + " bytes of staging memory";
    Reply reply = ask_for_descriptors(
        {schema::Request::AddStaging, schema::Answer::StagingAdded, 1, doing},
        [&](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateAddStaging(builder, bytes); });
    const schema::StagingAdded& answer = *reply.view().answer_as_StagingAdded();
    if (answer.bytes() < bytes)
        throw Error(Status::malformed_message, doing + ": the daemon made " + std::to_string(answer.bytes()));
    const UniqueFd& fd = reply.message.fds[0];
    check_seals(fd, Sealing::shared, bytes, "the staging memory");
    return {answer.staging(), answer.address(),
            Mapping(fd, bytes, Mapping::Access::read_write, "the staging memory")};
}

std::vector<ClientState::Place> ClientState::places_ahead() {
    std::vector<Place> places;
    for (const auto& [id, stream] : live) {
        const std::uint64_t published = stream->published();
        if (stream->current().completed.load(std::memory_order_relaxed) < published)
            places.push_back({id, published});
    }
    return places;
}

bool ClientState::passed(const std::vector<Place>& places) const {
    return std::all_of(places.begin(), places.end(), [&](const Place& place) {
        const auto found = live.find(place.stream);
        // relaxed: nothing is read on the strength of it.
        return found == live.end() ||
               found->second->current().completed.load(std::memory_order_relaxed) >= place.position;
    });
}

// Sends it, or keeps it for the next sweep.
void ClientState::post(Unsent request) {
    const std::uint32_t number = connection->next_id();
    {
        const std::lock_guard lock(mutex);
        posted.emplace(number, request);
    }
    const bool sent = connection->post(
        number, request.kind, [&](flatbuffers::FlatBufferBuilder& builder) -> flatbuffers::Offset<void> {
            const auto after = [&] {
                std::vector<flatbuffers::Offset<schema::StreamPosition>> positions;
                for (const Place& place : request.after)
                    positions.push_back(schema::CreateStreamPosition(builder, place.stream, place.position));
                return builder.CreateVector(positions);
            };
            switch (request.kind) {
                case schema::Request::FreeBuffer:
                    return schema::CreateFreeBuffer(builder, request.id, after()).Union();
                case schema::Request::DropStaging:
                    return schema::CreateDropStaging(builder, request.id, after()).Union();
                case schema::Request::DropGraph:
                    return schema::CreateDropGraph(builder, request.id, after()).Union();
                case schema::Request::UnloadModule:
                    return schema::CreateUnloadModule(builder, request.id).Union();
                default:
                    return schema::CreateCloseStream(builder, request.id).Union();
            }
        });
    if (sent) return;
    const std::lock_guard lock(mutex);
    posted.erase(number);
    unsent.push_back(std::move(request));
}

// Sent by the next sweep: nothing is sent from here.
void ClientState::on_orphan(const schema::ServerMessage& answer) {
    const std::lock_guard lock(mutex);
    if (const auto* stream = answer.answer_as_StreamOpened())
        unsent.push_back({schema::Request::CloseStream, stream->stream(), {}});
    else if (const auto* staging = answer.answer_as_StagingAdded())
        unsent.push_back({schema::Request::DropStaging, staging->staging(), {}});
    else if (const auto* buffer = answer.answer_as_BufferAllocated())
        unsent.push_back({schema::Request::FreeBuffer, buffer->buffer(), {}});
    else if (const auto* loan = answer.answer_as_Borrowed(); loan != nullptr && loan->buffer() != 0)
        unsent.push_back({schema::Request::FreeBuffer, loan->buffer(), {}});
    else if (const auto* graph = answer.answer_as_GraphMade())
        unsent.push_back({schema::Request::DropGraph, graph->graph(), {}});
    else if (const auto* module = answer.answer_as_ModuleLoaded())
        unsent.push_back({schema::Request::UnloadModule, module->module_id(), {}});
}

void ClientState::on_late_answer(std::uint32_t request, Status status) {
    const std::lock_guard lock(mutex);
    const auto found = posted.find(request);
    if (found == posted.end()) return;
    // Too many messages in a second, or too many frees that wait: not refused for good. Whatever else the
    // daemon says, it holds no more of this than it did.
    if (status == Status::rate_limited || status == Status::limit_reached)
        unsent.push_back(std::move(found->second));
    posted.erase(found);
}

void ClientState::free_later(schema::Request kind, std::uint64_t id) noexcept {
    if (life() != Status::ok) return;
    try {
        Unsent request{kind, id, {}};
        {
            const std::lock_guard lock(mutex);
            request.after = places_ahead();
        }
        post(std::move(request));
    } catch (...) {  // no memory to say so: the daemon frees it with the session
    }
}

void ClientState::unload_module(std::uint64_t id) noexcept {
    if (life() != Status::ok) return;
    try {
        const std::lock_guard lock(mutex);
        unsent.push_back({schema::Request::UnloadModule, id, places_ahead()});
    } catch (...) {  // it goes with the session
    }
    sweep();
}

void ClientState::release_stream(StreamState* stream) noexcept {
    // A child leaks it; see make().
    if (forked.load(std::memory_order_relaxed)) return;
    // Goes last: it may be what keeps us.
    const std::shared_ptr<ClientState> keeper = std::move(stream->keeper);
    {
        const std::lock_guard lock(mutex);
        streams.erase(stream->id);
        const StatusPage& page = stream->current();
        const auto state = static_cast<schema::StreamState>(page.state.load(std::memory_order_relaxed));
        if (life() == Status::ok && state != schema::StreamState::Stopped &&
            page.completed.load(std::memory_order_relaxed) < stream->published()) {
            // What was enqueued runs: closing the stream now might lose it.
            try {
                draining.push_back(stream);
                return;
            } catch (...) {  // no memory for the list
            }
        }
        live.erase(stream->id);
    }
    close_stream(stream);
}

void ClientState::close_stream(StreamState* stream) noexcept {
    if (life() == Status::ok) {
        try {
            if (stream->staging)
                post({schema::Request::DropStaging,
                      stream->staging->id(),
                      {{stream->id, stream->published()}}});
            post({schema::Request::CloseStream, stream->id, {}});
        } catch (...) {  // it goes with the session
        }
    }
    delete stream;
}

void ClientState::sweep() noexcept {
    if (life() != Status::ok) return;
    try {
        std::vector<StreamState*> drained;
        std::vector<Unsent> due;
        {
            const std::lock_guard lock(mutex);
            std::erase_if(draining, [&](StreamState* stream) {
                const StatusPage& page = stream->current();
                const auto state =
                    static_cast<schema::StreamState>(page.state.load(std::memory_order_relaxed));
                if (page.completed.load(std::memory_order_relaxed) < stream->published() &&
                    state != schema::StreamState::Stopped)
                    return false;
                drained.push_back(stream);
                live.erase(stream->id);
                return true;
            });
            std::erase_if(unsent, [&](Unsent& request) {
                if (request.kind == schema::Request::UnloadModule && !passed(request.after)) return false;
                due.push_back(std::move(request));
                return true;
            });
        }
        for (StreamState* stream : drained) close_stream(stream);
        for (Unsent& request : due) post(std::move(request));
    } catch (...) {  // no memory now: the next sweep
    }
}

std::vector<std::shared_ptr<StreamState>> ClientState::open_streams() {
    std::vector<std::shared_ptr<StreamState>> open;
    const std::lock_guard lock(mutex);
    for (const auto& [id, weak] : streams)
        if (auto stream = weak.lock()) open.push_back(std::move(stream));
    return open;
}

void ClientState::close() noexcept {
    if (!forked.load(std::memory_order_relaxed)) connection->close();
}

void ClientState::name_kernels(std::span<const KernelState> kernels) {
    const std::lock_guard lock(mutex);
    for (const KernelState& kernel : kernels) kernel_names[kernel.id] = kernel.name;
}

std::string ClientState::kernel_name(std::uint64_t id) {
    if (id == 0) return {};
    const std::lock_guard lock(mutex);
    const auto found = kernel_names.find(id);
    return found == kernel_names.end() ? "kernel " + id_text(id) : found->second;
}

void ClientState::on_notice(const schema::ServerMessage& notice, std::vector<UniqueFd>& fds) {
    if (notice.answer_as_StreamEpoch() != nullptr) {
        take_epoch(notice, fds);
    } else if (const auto* warned = notice.answer_as_SessionWarning(); warned != nullptr) {
        const std::lock_guard lock(mutex);
        warning = text_of(warned->error());
    }
    // A newer daemon's notice that we do not know concerns nothing that we rely on.
}

void ClientState::take_epoch(const schema::ServerMessage& notice, std::vector<UniqueFd>& fds) {
    const schema::StreamEpoch& epoch = *notice.answer_as_StreamEpoch();
    Mapping page;
    if (!fds.empty())
        page = map_page(fds[0], epoch.stream(), "the new status page of stream " + id_text(epoch.stream()));
    const std::lock_guard lock(mutex);
    if (const auto found = live.find(epoch.stream()); found != live.end()) {
        found->second->replace_page(std::move(page), epoch);
    } else if (opening != 0) {
        // Copied: the message goes when the notice was taken in. Rebuilt, since a table cannot be cut out.
        flatbuffers::FlatBufferBuilder builder;
        const auto copy = schema::CreateStreamEpoch(builder, epoch.stream(), epoch.epoch(), epoch.state(),
                                                    epoch.completed(), epoch.issued(), epoch.status(),
                                                    builder.CreateString(text_of(epoch.error())));
        builder.Finish(
            schema::CreateServerMessage(builder, 0, 0, 0, schema::Answer::StreamEpoch, copy.Union()));
        const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
        early.push_back({epoch.stream(), {bytes, bytes + builder.GetSize()}, std::move(page)});
    }
    // Else the stream was closed meanwhile.
}

void ClientState::on_lost() noexcept {
    const std::lock_guard lock(mutex);
    for (const auto& [id, stream] : live) stream->end();
}

void ClientState::after_fork_in_child() noexcept {
    forked.store(true, std::memory_order_relaxed);
    connection->abandon();
    doorbell.reset();
}

}  // namespace ringlaunch::detail
