// Opening, resuming and closing streams: their rings, pages and eventfds.
#include <sys/eventfd.h>
#include <unistd.h>

#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <system_error>

#include "daemon/supervisor/core.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

UniqueFd make_eventfd(const char* what) {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) throw std::system_error(errno, std::generic_category(), std::string("cannot make ") + what);
    return fd;
}

// The header's constant words, written before anybody else has the descriptor.
UniqueFd make_ring(const Stream& stream) {
    UniqueFd fd = make_memfd("ring", ring_segment_bytes(stream.slots));
    const Mapping mapping(fd, kRingHeaderBytes, Mapping::Access::read_write, "a ring's header");
    auto* header = mapping.as<RingHeader>();
    header->magic = kRingMagic;
    header->version = kProtocolVersion;
    header->slot_count = stream.slots;
    header->session = stream.session;
    header->stream = stream.id;
    seal(fd, Sealing::shared, "a ring");
    return fd;
}

}  // namespace

Stream& Core::stream_of(Session& session, std::uint64_t id, const char* doing) {
    const auto at = session.streams.find(id);
    if (at == session.streams.end() || at->second->phase == Stream::Phase::closing)
        throw Error(Status::not_found,
                    std::string("cannot ") + doing + " stream " + id_text(id) +
                        ": this session has no such stream (it was closed, or is another's)");
    return *at->second;
}

std::string Core::kernel_name(const Session& session, std::uint64_t kernel) const {
    for (const auto& [id, use] : session.modules) {
        for (const ModuleUse::Configured& each : use.configured)
            if (each.id == kernel) return each.kernel.name;
        for (std::size_t i = 0; i < use.kernel_ids.size(); ++i)
            if (use.kernel_ids[i] == kernel) {
                const auto module = modules_.find(use.key);
                if (module != modules_.end() && i < module->second.kernels.size())
                    return module->second.kernels[i].name;
            }
    }
    return {};
}

void Core::open_stream(Session& session, std::uint32_t request, const schema::OpenStream& open) {
    if (draining_) throw Error(Status::stopping, "cannot open a stream: the daemon is leaving");
    // What was closed makes room at once, though the executor may not have let go of it yet. Both together
    // are bounded too: a client may close faster than the executor does.
    const auto closing = static_cast<std::size_t>(std::ranges::count_if(
        session.streams, [](const auto& each) { return each.second->phase == Stream::Phase::closing; }));
    if (session.streams.size() - closing >= max_streams() || session.streams.size() >= 2 * max_streams())
        throw Error(Status::limit_reached,
                    "cannot open a stream: this session has " + std::to_string(session.streams.size()) +
                        (closing == 0 ? "" : ", " + std::to_string(closing) + " of them still being closed") +
                        ", its limit is " + std::to_string(max_streams()) +
                        (max_streams() == options_.limits.max_streams
                             ? " (--max-streams)"
                             : " (as many as the daemon's " + std::to_string(descriptors_.limit()) +
                                   " descriptors allow; ulimit -Hn)") +
                        "; close one");
    require_descriptors(session, Descriptors::kStream, "cannot open a stream");
    const std::uint32_t most = options_.limits.max_ring_slots;
    const std::uint32_t slots =
        open.ring_slots() == 0 ? std::min(kDefaultRingSlots, std::bit_floor(most)) : open.ring_slots();
    if (!std::has_single_bit(slots) || slots < kMinRingSlots || slots > most)
        throw Error(Status::invalid_argument, "cannot open a stream with a ring of " + std::to_string(slots) +
                                                  " slots: it takes a power of two from " +
                                                  std::to_string(kMinRingSlots) + " to " +
                                                  std::to_string(most) + " (--max-ring-slots)");
    if (open.on_restart() > schema::OnRestart::MAX)
        throw Error(Status::invalid_argument,
                    "cannot open a stream: on_restart is Stop (0) or Rerun (1), not " +
                        std::to_string(static_cast<int>(open.on_restart())));
    auto stream = std::make_unique<Stream>();
    stream->session = session.id;
    stream->name = printable(open.name(), 64);
    stream->slots = slots;
    stream->on_restart = open.on_restart();
    stream->priority = open.priority();
    stream->wake = make_eventfd("a stream's eventfd");
    stream->id = stream_ids_.take();
    const std::uint64_t id = stream->id;
    try {
        stream->ring = make_ring(*stream);
        stream->ring_mapping =
            Mapping(stream->ring, ring_segment_bytes(slots), Mapping::Access::read_only, "a ring");
    } catch (...) {
        stream_ids_.give_back(id);
        throw;
    }
    stream_sessions_.emplace(id, session.id);
    session.streams.emplace(id, std::move(stream));
    request_opened(session);
    call(
        session, Call::OnDeath::repeat,
        [this, id](Call::Wire& wire, Session& in) {
            const auto at = in.streams.find(id);
            const FaultDomain* domain = existing_domain(in);
            return at != in.streams.end() && domain != nullptr &&
                   make_open_stream(wire, in, *at->second, domain->epoch(), at->second->hold);
        },
        [this, id, request](Session& in, Reply& reply) {
            const auto at = in.streams.find(id);
            if (at == in.streams.end()) return;
            Stream& opened = *at->second;
            if (reply.status != Status::ok) {
                // Being closed by the end of its session: that goes on.
                if (opened.phase == Stream::Phase::opening) erase_stream(in, id);
                return refuse_later(in.id, request, reply.status, "cannot open a stream: " + reply.error);
            }
            opened.page.seal();
            opened.served = true;
            if (opened.phase != Stream::Phase::opening) return;
            opened.phase = Stream::Phase::open;
            answer_later(
                in.id, request,
                [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                    return {schema::Answer::StreamOpened,
                            schema::CreateStreamOpened(builder, id, opened.page.page().epoch, opened.slots,
                                                       ring_segment_bytes(opened.slots), kStatusPageBytes)
                                .Union()};
                },
                std::array{opened.ring.get(), opened.page.fd().get(), opened.wake.get()});
        });
}

bool Core::make_open_stream(Call::Wire& wire, Session& session, Stream& stream, std::uint32_t epoch,
                            bool hold) {
    PageStart start;
    start.session = session.id;
    start.stream = stream.id;
    start.epoch = epoch;
    start.slot_count = stream.slots;
    start.completed = stream.next_completed;
    start.issued = stream.next_issued;
    start.error = stream.stop;
    start.error_position = stream.stop_position;
    start.error_kernel = stream.stop_kernel;
    start.error_text = stream.stop_text;
    stream.page = EpochPage(start, &stream.page);
    stream.asked = true;
    wire.kind = internal::ExecutorRequest::OpenStream;
    wire.request = internal::CreateOpenStream(
                       wire.builder, session.id, stream.id, stream.slots, start.completed, stream.priority,
                       hold, session.kernel_timeout_ms != 0 || options_.fault_dumps, session.coalesce)
                       .Union();
    wire.fds = {stream.ring.get(), stream.page.fd().get(), stream.wake.get()};
    return true;
}

void Core::close_stream(Session& session, std::uint32_t request, std::uint64_t stream) {
    stream_of(session, stream, "close");
    // Where no executor is up there is nothing to be let go of.
    if (const FaultDomain* domain = existing_domain(session); domain == nullptr || !domain->has_process()) {
        erase_stream(session, stream);
        return answer_done(*session.connection, request);
    }
    request_opened(session);
    ask_close_stream(session, stream, request);
}

void Core::ask_close_stream(Session& session, std::uint64_t stream, std::optional<std::uint32_t> request) {
    session.streams.at(stream)->phase = Stream::Phase::closing;
    call(
        session, Call::OnDeath::settled,
        [stream](Call::Wire& wire, Session& in) {
            const auto at = in.streams.find(stream);
            // An executor that was never asked for it has nothing to let go of. One that was and has not
            // answered is asked in turn: it opens it first.
            if (at == in.streams.end() || !at->second->asked) return false;
            wire.kind = internal::ExecutorRequest::CloseStream;
            wire.request = internal::CreateCloseStream(wire.builder, stream).Union();
            return true;
        },
        [this, stream, request](Session& in, Reply& reply) {
            FaultDomain* domain = existing_domain(in);
            const bool gone =
                reply.status == Status::ok || reply.status == Status::not_found;  // never opened
            if (!gone && domain != nullptr && domain->has_process()) {
                // The device does not let go of its work: only the executor's end makes it. That death closes
                // it.
                const std::string whose =
                    "stream " + id_text(stream) + " of session " + id_text(in.id) + " (" + in.program + ")";
                if (reply.status == Status::timed_out)
                    domain->end_abandoned((in.connection ? "a client closed " : "a client left ") + whose +
                                              " with work that had not ended " +
                                              std::to_string(options_.close_timeout_ms) + " ms later",
                                          stream);
                else
                    domain->kill(whose + " cannot be closed: " + reply.error, stream);
                if (request) done_later(in.id, *request);
                return;
            }
            erase_stream(in, stream);
            if (request) done_later(in.id, *request);
        });
}

void Core::erase_stream(Session& session, std::uint64_t id) {
    const auto at = session.streams.find(id);
    if (at == session.streams.end()) return;
    forget_right(at->second->right);
    tell_watchers(*at->second, true);
    forget_graphs_of(session, id);
    session.streams.erase(at);
    stream_sessions_.erase(id);
    closed_streams_.push_back({id, session.id, session.domain});
    if (closed_streams_.size() > kMostClosed) closed_streams_.pop_front();
    stream_ids_.give_back(id);
    if (!session.deferred.empty()) schedule_reclaim();
}

void Core::resume_stream(Session& session, std::uint32_t request, const schema::ResumeStream& resume) {
    Stream& found = stream_of(session, resume.stream(), "resume");
    if (found.phase != Stream::Phase::open || (!found.page.stopped() && found.stop == Status::ok))
        throw Error(Status::invalid_argument,
                    "cannot resume stream " + id_text(found.id) + ": it has not stopped");
    request_opened(session);
    call(
        session, Call::OnDeath::repeat,
        [id = found.id, rerun = resume.rerun()](Call::Wire& wire, Session& in) {
            const auto at = in.streams.find(id);
            // A restart meanwhile may have set it going.
            if (at == in.streams.end() || !at->second->served || !at->second->page.stopped()) return false;
            const EpochPage& page = at->second->page;
            const auto why = static_cast<Status>(page.page().error_status);
            const bool own = stopped_at_record(why);
            const std::uint64_t position = own     ? page.page().error_position
                                           : rerun ? page.completed()
                                                   : page.issued();
            wire.kind = internal::ExecutorRequest::ResumeStream;
            wire.request = internal::CreateResumeStream(wire.builder, id, position, own && !rerun).Union();
            return true;
        },
        [this, id = found.id, request](Session& in, Reply& reply) {
            if (reply.status != Status::ok)
                return refuse_later(in.id, request, reply.status,
                                    "cannot resume stream " + id_text(id) + ": " + reply.error);
            if (const auto at = in.streams.find(id); at != in.streams.end()) {
                at->second->stop = Status::ok;
                at->second->hold = false;
                at->second->suspect = false;
            }
            done_later(in.id, request);
        });
}

// The new page after a restart, and what the restart did.
void Core::tell_epoch(Session& session, Stream& stream) {
    if (!session.connection || stream.phase != Stream::Phase::open) return;
    const bool stopped = stream.stop != Status::ok;
    answer(
        *session.connection, 0,
        [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
            const auto text = builder.CreateString(stream.stop_text);
            return {schema::Answer::StreamEpoch,
                    schema::CreateStreamEpoch(
                        builder, stream.id, stream.page.page().epoch,
                        stopped ? schema::StreamState::Stopped : schema::StreamState::Running,
                        stream.doubt_completed, stream.doubt_issued, static_cast<std::uint32_t>(stream.stop),
                        text)
                        .Union()};
        },
        std::array{stream.page.fd().get()}, stream.id);
}

}  // namespace ringlaunch::supervisor
