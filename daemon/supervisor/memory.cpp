// Buffers and staging: addresses, chunks, limits, and frees that wait for the work that uses them.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/supervisor/core.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::uint64_t kKeepIdleBytes = 64u << 20;  // of empty chunks, a session
constexpr std::uint64_t kReclaimFirstMs = 1, kReclaimMaxMs = 50;
constexpr std::size_t kMaxDeferred = 1u << 16;

}  // namespace

std::vector<std::pair<std::uint64_t, std::uint64_t>> Core::positions_of(
    Session& session, const flatbuffers::Vector<flatbuffers::Offset<schema::StreamPosition>>* after) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> positions;
    if (after == nullptr) return positions;
    // A stream that is not there (any more) has nothing outstanding.
    for (const schema::StreamPosition* entry : *after)
        if (session.streams.contains(entry->stream()))
            positions.emplace_back(entry->stream(), entry->position());
    return positions;
}

// ---- buffers

void Core::alloc_buffer(Session& session, std::uint32_t request, std::uint64_t bytes) {
    if (bytes == 0)
        throw Error(Status::invalid_argument, "cannot allocate a buffer of 0 bytes; ask for at least 1");
    if (bytes > range_of(session).bytes())
        throw Error(Status::out_of_memory, "cannot allocate a buffer of " + std::to_string(bytes) +
                                               " bytes: the device's address range has " +
                                               std::to_string(range_of(session).bytes()));
    request_opened(session);
    session.allocs.push_back({request, bytes, now_ns() + options_.alloc_patience_ms * kNsPerMs});
    reclaim(session);
    pump_allocs(session);
}

void Core::pump_allocs(Session& session) {
    while (!session.allocs.empty()) {
        const PendingAlloc alloc = session.allocs.front();
        if (const auto address = session.heap.allocate(alloc.bytes)) {
            session.allocs.pop_front();
            const std::uint64_t id = session.buffer_ids.take();
            session.buffers.emplace(id, Buffer{id, *address, alloc.bytes, false});
            answer_later(session.id, alloc.request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                return {schema::Answer::BufferAllocated,
                        schema::CreateBufferAllocated(builder, id, *address, alloc.bytes).Union()};
            });
            continue;
        }
        if (session.making_bytes != 0) return;  // its answer comes back here
        const std::uint64_t limit = options_.limits.max_memory_bytes;
        const std::uint64_t have = session.heap.chunk_bytes();
        std::uint64_t wanted = session.heap.next_chunk_bytes(alloc.bytes, range_of(session).unit());
        const std::uint64_t least =
            round_up(round_up(alloc.bytes, kBufferAlignment), range_of(session).unit());
        if ((limit != 0 && have + wanted > limit) || range_of(session).largest() < wanted) wanted = least;
        const bool over_limit = limit != 0 && have + wanted > limit;
        if (!over_limit && range_of(session).largest() >= wanted) {
            try {
                require_descriptors(session, 1,
                                    "cannot allocate a buffer of " + std::to_string(alloc.bytes) + " bytes");
            } catch (const Error& error) {
                session.allocs.pop_front();
                refuse_later(session.id, alloc.request, error.status(), error.what());
                continue;
            }
            return make_chunk(session, wanted);
        }
        // Chunks in which nothing lies count too: let them go before saying no.
        if (!session.heap.idle_chunks(0).empty()) {
            for (const std::uint64_t chunk : session.heap.idle_chunks(0)) unmap_chunk(session, chunk);
            continue;
        }
        if (waits_for_room(session, alloc)) return;
        session.allocs.pop_front();
        const std::string what = "cannot allocate a buffer of " + std::to_string(alloc.bytes) + " bytes: ";
        const std::string mine = "this session has " + std::to_string(session.heap.used_bytes()) +
                                 " bytes in " + std::to_string(session.buffers.size()) + " buffers (" +
                                 std::to_string(have) + " bytes of chunks)";
        if (over_limit)
            refuse_later(
                session.id, alloc.request, Status::limit_reached,
                what + mine + ", its limit is " + std::to_string(limit) + " (--max-memory); free some");
        else
            refuse_later(session.id, alloc.request, Status::out_of_memory,
                         what + "the largest free piece of the device's range has " +
                             std::to_string(range_of(session).largest()) + " bytes, " + mine + "; free some");
    }
}

// Frees that are not due yet make room, and so do chunks that the executor is letting go of.
bool Core::waits_for_room(const Session& session, const PendingAlloc& alloc) {
    if (now_ns() >= alloc.deadline_ns) return false;
    if (session.deferred.empty() && session.unmapping_chunks == 0) return false;
    schedule_reclaim();  // looks at the allocations again: what makes room may take longer than they wait
    return true;
}

void Core::make_chunk(Session& session, std::uint64_t bytes) {
    const std::uint64_t address = *range_of(session).take(bytes);
    session.making_bytes = bytes;
    call(
        session, Call::OnDeath::repeat,
        [address, bytes](Call::Wire& wire, Session& in) {
            wire.kind = internal::ExecutorRequest::MakeChunk;
            wire.request = internal::CreateMakeChunk(wire.builder, in.id, address, bytes).Union();
            return true;
        },
        [this, address, bytes](Session& in, Reply& reply) {
            in.making_bytes = 0;
            if (reply.status == Status::ok && reply.fds.size() == 1) {
                in.chunks.emplace(address, Chunk{address, bytes, std::move(reply.fds[0])});
                in.heap.add_chunk(address, bytes);
                return pump_allocs(in);
            }
            range_of(in).give_back(address, bytes);
            if (in.allocs.empty()) return;
            PendingAlloc& alloc = in.allocs.front();
            if (waits_for_room(in, alloc)) return;
            const std::uint32_t request = alloc.request;
            const std::string text = "cannot allocate a buffer of " + std::to_string(alloc.bytes) +
                                     " bytes: the device gives no chunk of " + std::to_string(bytes) +
                                     " bytes: " + reply.error;
            in.allocs.pop_front();
            refuse_later(in.id, request, reply.status == Status::ok ? Status::internal_error : reply.status,
                         text);
            pump_allocs(in);
        });
}

void Core::free_buffer(Session& session, std::uint32_t request, const schema::FreeBuffer& free) {
    const auto at = session.buffers.find(free.buffer());
    const auto loan = session.loans.find(free.buffer());
    const bool lent = loan != session.loans.end() && loan->second.mapped && !loan->second.freeing;
    if (!lent && (at == session.buffers.end() || at->second.freeing))
        throw Error(Status::not_found,
                    "cannot free buffer " + id_text(free.buffer()) + ": this session has no such buffer");
    if (session.deferred.size() >= kMaxDeferred)
        throw Error(Status::limit_reached, "cannot free buffer " + id_text(free.buffer()) + ": " +
                                               std::to_string(session.deferred.size()) +
                                               " frees wait for their streams already; synchronize them");
    if (lent) {
        loan->second.freeing = true;
    } else {
        at->second.freeing = true;
        forget_right(at->second.right);
    }
    session.deferred.push_back({lent ? DeferredFree::Kind::loan : DeferredFree::Kind::buffer, free.buffer(),
                                positions_of(session, free.after())});
    answer_done(*session.connection, request);
    reclaim(session);
    schedule_reclaim();
}

// ---- staging

void Core::add_staging(Session& session, std::uint32_t request, std::uint64_t bytes) {
    if (bytes == 0)
        throw Error(Status::invalid_argument, "cannot add a staging segment of 0 bytes; ask for at least 1");
    request_opened(session);
    session.stagings.push_back({request, bytes, now_ns() + options_.alloc_patience_ms * kNsPerMs});
    reclaim(session);
    pump_stagings(session);
}

void Core::pump_stagings(Session& session) {
    while (!session.stagings.empty()) {
        const PendingAlloc asked = session.stagings.front();
        const std::uint64_t limit = options_.limits.max_staging_bytes;
        const bool fits = asked.bytes <= limit && session.staging_bytes <= limit - asked.bytes;
        // Segments that were dropped make room: at the latest when the executor has let go of them.
        const bool leaving = std::any_of(session.staging.begin(), session.staging.end(),
                                         [](const auto& entry) { return entry.second.freeing; });
        if (!fits && asked.bytes <= limit && leaving && now_ns() < asked.deadline_ns)
            return schedule_reclaim();
        session.stagings.pop_front();
        const std::string doing =
            "cannot add a staging segment of " + std::to_string(asked.bytes) + " bytes: ";
        if (!fits) {
            refuse_later(session.id, asked.request, Status::limit_reached,
                         doing + "this session has " + std::to_string(session.staging_bytes) + " of " +
                             std::to_string(limit) + " (--max-staging); let go of some");
            continue;
        }
        try {
            require_descriptors(session, 1, "cannot add a staging segment");
            make_staging(session, asked.request, asked.bytes);
        } catch (const Error& error) {
            refuse_later(session.id, asked.request, error.status(), error.what());
        } catch (const std::exception& error) {
            refuse_later(session.id, asked.request, Status::limit_reached, doing + error.what());
        }
    }
}

void Core::make_staging(Session& session, std::uint32_t request, std::uint64_t bytes) {
    StagingSegment segment;
    segment.bytes = round_up(bytes, kPageBytes);
    segment.fd = make_memfd("staging", segment.bytes);
    seal(segment.fd, Sealing::shared, "a staging segment");
    const auto address = staging_range_.take(round_up(segment.bytes, staging_range_.unit()));
    if (!address)
        throw Error(Status::out_of_memory,
                    "cannot add a staging segment of " + std::to_string(bytes) +
                        " bytes: of the addresses of staging memory, which all sessions share, the largest "
                        "free piece has " +
                        std::to_string(staging_range_.largest()) + " of " +
                        std::to_string(staging_range_.bytes()) + " bytes; let go of some");
    segment.address = *address;
    segment.id = session.staging_ids.take();
    const std::uint64_t id = segment.id;
    session.staging_bytes += segment.bytes;
    session.staging.emplace(id, std::move(segment));
    call(
        session, Call::OnDeath::repeat,
        [id](Call::Wire& wire, Session& in) {
            const auto at = in.staging.find(id);
            if (at == in.staging.end()) return false;
            wire.kind = internal::ExecutorRequest::MapStaging;
            wire.request =
                internal::CreateMapStaging(wire.builder, in.id, id, at->second.bytes, at->second.address)
                    .Union();
            wire.fds = {at->second.fd.get()};
            return true;
        },
        [this, id, request](Session& in, Reply& reply) {
            const auto at = in.staging.find(id);
            if (at == in.staging.end()) return;
            if (reply.status != Status::ok) {
                forget_staging(in, id);
                return refuse_later(in.id, request, reply.status,
                                    "cannot add a staging segment: " + reply.error);
            }
            at->second.mapped = true;
            answer_later(
                in.id, request,
                [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                    return {schema::Answer::StagingAdded,
                            schema::CreateStagingAdded(builder, id, at->second.bytes, at->second.address)
                                .Union()};
                },
                std::array{at->second.fd.get()});
        });
}

// No executor has it any more.
void Core::forget_staging(Session& session, std::uint64_t id) {
    const auto at = session.staging.find(id);
    staging_range_.give_back(at->second.address, round_up(at->second.bytes, staging_range_.unit()));
    session.staging_bytes -= at->second.bytes;
    session.staging_ids.give_back(id);
    session.staging.erase(at);
}

void Core::drop_staging(Session& session, std::uint32_t request, const schema::DropStaging& drop) {
    const auto at = session.staging.find(drop.staging());
    if (at == session.staging.end() || at->second.freeing || !at->second.mapped)
        throw Error(Status::not_found, "cannot drop staging segment " + id_text(drop.staging()) +
                                           ": this session has no such segment");
    at->second.freeing = true;
    session.deferred.push_back(
        {DeferredFree::Kind::staging, drop.staging(), positions_of(session, drop.after())});
    answer_done(*session.connection, request);
    reclaim(session);
    schedule_reclaim();
}

// ---- what may be freed now

bool Core::reclaim(Session& session) {
    const auto due = [&](const DeferredFree& entry) {
        if (entry.kind == DeferredFree::Kind::buffer && session.buffers.at(entry.id).loans != 0) return false;
        for (const auto& [stream, position] : entry.after) {
            const auto at = session.streams.find(stream);
            if (at == session.streams.end()) continue;  // closed: nothing of it is outstanding
            if (!at->second->page || at->second->page.completed() < position) return false;
        }
        return true;
    };
    std::vector<DeferredFree> now;
    for (auto at = session.deferred.begin(); at != session.deferred.end();) {
        if (!due(*at)) {
            ++at;
            continue;
        }
        now.push_back(std::move(*at));
        at = session.deferred.erase(at);
    }
    for (const DeferredFree& entry : now) {
        switch (entry.kind) {
            case DeferredFree::Kind::buffer: {
                const Buffer buffer = session.buffers.at(entry.id);
                session.heap.free(buffer.address, buffer.bytes);
                session.buffers.erase(entry.id);
                session.buffer_ids.give_back(entry.id);
                break;
            }
            case DeferredFree::Kind::graph:
                let_go_of_graph(session, entry.id);
                break;
            case DeferredFree::Kind::loan:
                return_loan(session, entry.id);
                break;
            case DeferredFree::Kind::staging:
                session.staging.at(entry.id).mapped = false;  // a restart does not map it again
                call(
                    session, Call::OnDeath::settled,
                    [id = entry.id](Call::Wire& wire, Session& in) {
                        wire.kind = internal::ExecutorRequest::UnmapStaging;
                        wire.request = internal::CreateUnmapStaging(wire.builder, in.id, id).Union();
                        return true;
                    },
                    [this, id = entry.id](Session& in, Reply& reply) {
                        const auto at = in.staging.find(id);
                        if (reply.status != Status::ok || at == in.staging.end()) return;
                        forget_staging(in, id);
                        pump_stagings(in);
                    });
                break;
            case DeferredFree::Kind::chunk: {
                Chunk& leaving = session.chunks.at(entry.id);
                leaving.leaving = true;  // a restart does not map it again
                const std::uint64_t bytes = leaving.bytes;
                ++session.unmapping_chunks;
                call(
                    session, Call::OnDeath::settled,
                    [address = entry.id, bytes](Call::Wire& wire, Session& in) {
                        wire.kind = internal::ExecutorRequest::UnmapChunk;
                        wire.request =
                            internal::CreateUnmapChunk(wire.builder, in.id, address, bytes).Union();
                        return true;
                    },
                    [this, address = entry.id, bytes](Session& in, Reply& reply) {
                        --in.unmapping_chunks;
                        // Not ok: it may still be mapped. Its addresses come back when the session or the
                        // executor ends.
                        if (reply.status == Status::ok && in.chunks.erase(address) != 0)
                            give_back_chunk(in.device, address, bytes);
                        pump_allocs(in);
                    });
                break;
            }
        }
    }
    if (!now.empty()) release_idle_chunks(session);
    return !now.empty();
}

void Core::release_idle_chunks(Session& session) {
    for (const std::uint64_t chunk : session.heap.idle_chunks(kKeepIdleBytes)) unmap_chunk(session, chunk);
}

// A client may have said too little about what still uses a buffer. Its addresses go to another session only
// when whatever was handed to the device by now has completed.
void Core::unmap_chunk(Session& session, std::uint64_t address) {
    session.heap.remove_chunk(address);
    DeferredFree entry{DeferredFree::Kind::chunk, address, {}};
    for (const auto& [id, stream] : session.streams)
        if (stream->page && stream->page.issued() > stream->page.completed())
            entry.after.emplace_back(id, stream->page.issued());
    session.deferred.push_back(std::move(entry));
    schedule_reclaim();
}

void Core::schedule_reclaim() {
    if (reclaim_scheduled_ || shutting_down_) return;
    reclaim_scheduled_ = true;
    reclaim_timer_.expires_after(std::chrono::milliseconds(reclaim_ms_));
    reclaim_timer_.async_wait([this](const auto& error) {
        reclaim_scheduled_ = false;
        if (error) return;
        bool waiting = false;
        bool progress = false;
        for (const auto& [id, session] : sessions_) {
            const auto waits = [&session] {
                return !session->deferred.empty() || !session->stagings.empty() || !session->allocs.empty() ||
                       !session->pending_graphs.empty();
            };
            if (!waits() || !session->connection) continue;
            progress |= reclaim(*session);
            pump_allocs(*session);
            pump_stagings(*session);
            pump_graphs(*session);
            waiting |= waits();
        }
        reclaim_ms_ = progress || !waiting ? kReclaimFirstMs : std::min(reclaim_ms_ * 2, kReclaimMaxMs);
        if (waiting) schedule_reclaim();
    });
}

}  // namespace ringlaunch::supervisor
