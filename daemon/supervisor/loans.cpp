// What sessions of one user lend each other: memory, so that copies go between devices and programs, and
// streams to wait for.
//
// The owner asks for a right, a number that nobody guesses, and tells whom it trusts; who knows it and is the
// same user borrows. A loan is a chunk's descriptor in the borrower's executor: nothing of it depends on the
// owner's executor, nor on its life.
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "daemon/supervisor/core.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::size_t kMaxWatched = 4096;  // streams, a session

Right make_right() {
    std::uint64_t words[2];
    if (::getrandom(words, sizeof words, 0) != static_cast<ssize_t>(sizeof words))
        throw std::system_error(errno, std::generic_category(), "cannot make a right");
    return {words[0], words[1]};
}

}  // namespace

// ---- rights

void Core::share(Session& session, std::uint32_t request, const schema::Share& share) {
    std::optional<Right>* right = nullptr;
    if (share.stream() != 0) {
        Stream& stream = stream_of(session, share.stream(), "share");
        if (stream.phase != Stream::Phase::open)
            throw Error(Status::not_found,
                        "cannot share stream " + id_text(stream.id) + ": it is not open yet");
        right = &stream.right;
    } else {
        const auto at = session.buffers.find(share.buffer());
        if (at == session.buffers.end() || at->second.freeing)
            throw Error(Status::not_found,
                        "cannot share buffer " + id_text(share.buffer()) +
                            ": this session has no such buffer of its own (it was freed, or is another's)");
        right = &at->second.right;
    }
    if (!*right) {
        *right = make_right();
        rights_[**right] = {session.id, share.stream() != 0 ? 0 : share.buffer(), share.stream()};
    }
    answer(*session.connection, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        return {schema::Answer::Shared, schema::CreateShared(builder, (*right)->low, (*right)->high).Union()};
    });
}

void Core::forget_right(std::optional<Right>& right) {
    if (right) rights_.erase(*right);
    right.reset();
}

void Core::borrow(Session& session, std::uint32_t request, const schema::Borrow& borrow) {
    const auto found = rights_.find({borrow.right_low(), borrow.right_high()});
    Session* owner = found == rights_.end() ? nullptr : living(found->second.session);
    // Another user learns no more than that there is nothing.
    if (owner == nullptr || owner->uid != session.uid)
        throw Error(
            Status::not_found,
            "cannot borrow: nobody of this user on this daemon shares anything under that number; its "
            "owner may have let go of it, or have left");
    if (owner == &session) throw Error(Status::invalid_argument, "cannot borrow: it is this session's own");
    if (found->second.stream != 0)
        return borrow_stream(session, request, *owner->streams.at(found->second.stream));
    borrow_buffer(session, request, *owner, owner->buffers.at(found->second.buffer));
}

// ---- memory

bool Core::make_lend(Call::Wire& wire, const Session& session, const Loan& loan) const {
    const LentChunk& chunk = lent_.at(loan.chunk);
    wire.kind = internal::ExecutorRequest::LendMemory;
    wire.request = internal::CreateLendMemory(wire.builder, session.id, loan.id, loan.address, loan.bytes,
                                              loan.chunk, chunk.bytes)
                       .Union();
    wire.fds = {chunk.fd.get()};
    return true;
}

void Core::borrow_buffer(Session& session, std::uint32_t request, Session& owner, Buffer& buffer) {
    require_descriptors(session, 1, "cannot borrow a buffer");
    const auto chunk = std::prev(owner.chunks.upper_bound(buffer.address));
    const auto [lent, first] = lent_.try_emplace(chunk->first);
    if (first) {
        lent->second.bytes = chunk->second.bytes;
        lent->second.device = owner.device;
        try {
            lent->second.fd = chunk->second.fd.duplicate();
        } catch (...) {
            lent_.erase(lent);
            throw;
        }
    }
    Loan loan;
    loan.id = session.buffer_ids.take();
    loan.owner = owner.id;
    loan.buffer = buffer.id;
    loan.address = buffer.address;
    loan.bytes = buffer.bytes;
    loan.chunk = chunk->first;
    ++lent->second.loans;
    ++buffer.loans;
    const std::uint64_t id = loan.id;
    session.loans.emplace(id, loan);
    request_opened(session);
    call(
        session, Call::OnDeath::repeat,
        [this, id](Call::Wire& wire, Session& in) {
            const auto at = in.loans.find(id);
            return at != in.loans.end() && make_lend(wire, in, at->second);
        },
        [this, id, request, device = owner.device](Session& in, Reply& reply) {
            const auto at = in.loans.find(id);
            if (at == in.loans.end()) return;
            if (reply.status != Status::ok) {
                drop_loan(in, id);
                return refuse_later(in.id, request, reply.status,
                                    "cannot borrow a buffer of device " + std::to_string(device) +
                                        " for device " + std::to_string(in.device) + ": " + reply.error);
            }
            at->second.mapped = true;
            const Loan lent_now = at->second;
            answer_later(in.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                return {
                    schema::Answer::Borrowed,
                    schema::CreateBorrowed(builder, id, lent_now.address, lent_now.bytes, 0, device).Union()};
            });
        });
}

void Core::return_loan(Session& session, std::uint64_t id) {
    session.loans.at(id).leaving = true;  // a restart does not map it again
    call(
        session, Call::OnDeath::settled,
        [id](Call::Wire& wire, Session& in) {
            wire.kind = internal::ExecutorRequest::ReturnMemory;
            wire.request = internal::CreateReturnMemory(wire.builder, in.id, id).Union();
            return true;
        },
        [this, id](Session& in, Reply& reply) {
            // Not ok: the executor could not. It is let go when the session or the executor ends.
            if (reply.status == Status::ok) drop_loan(in, id);
        });
}

void Core::drop_loan(Session& session, std::uint64_t id) {
    const auto at = session.loans.find(id);
    if (at == session.loans.end()) return;
    const Loan loan = at->second;
    session.loans.erase(at);
    session.buffer_ids.give_back(id);
    if (Session* owner = find(loan.owner))
        if (const auto buffer = owner->buffers.find(loan.buffer); buffer != owner->buffers.end()) {
            --buffer->second.loans;
            schedule_reclaim();
        }
    const auto lent = lent_.find(loan.chunk);
    if (--lent->second.loans != 0) return;
    const LentChunk last = std::move(lent->second);
    lent_.erase(lent);
    if (last.owner_gone) devices_.at(last.device).range.give_back(loan.chunk, last.bytes);
}

void Core::give_back_chunk(int device, std::uint64_t address, std::uint64_t bytes) {
    if (const auto lent = lent_.find(address); lent != lent_.end())
        lent->second.owner_gone = true;
    else
        devices_.at(device).range.give_back(address, bytes);
}

// ---- streams

bool Core::make_watch(Call::Wire& wire, const Session& session, std::uint64_t id) {
    const auto watched = session.watched.find(id);
    if (watched == session.watched.end()) return false;
    if (watched->second) {
        wire.kind = internal::ExecutorRequest::UnwatchStream;
        wire.request = internal::CreateUnwatchStream(wire.builder, session.id, id, *watched->second).Union();
        return true;
    }
    const Stream& stream = *find(stream_sessions_.at(id))->streams.at(id);
    wire.kind = internal::ExecutorRequest::WatchStream;
    wire.request = internal::CreateWatchStream(wire.builder, session.id, id, stream.page.completed()).Union();
    // One that is not sealed is told once it is (tell_watchers).
    if (stream.page.sealed()) wire.fds = {stream.page.fd().get()};
    return true;
}

void Core::borrow_stream(Session& session, std::uint32_t request, const Stream& stream) {
    if (!session.watched.contains(stream.id) && session.watched.size() >= kMaxWatched)
        throw Error(Status::limit_reached,
                    "cannot wait for more streams of other sessions: this session has " +
                        std::to_string(session.watched.size()));
    session.watched[stream.id].reset();
    request_opened(session);
    call(
        session, Call::OnDeath::repeat,
        [this, id = stream.id](Call::Wire& wire, Session& in) { return make_watch(wire, in, id); },
        [this, id = stream.id, request](Session& in, Reply& reply) {
            if (reply.status != Status::ok)
                return refuse_later(in.id, request, reply.status,
                                    "cannot wait for stream " + id_text(id) + ": " + reply.error);
            answer_later(in.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                return {schema::Answer::Borrowed,
                        schema::CreateBorrowed(builder, 0, 0, 0, id, in.device).Union()};
            });
        });
}

void Core::tell_watchers(const Stream& stream, bool closed) {
    for (auto& [id, session] : sessions_) {
        const auto watched = session->watched.find(stream.id);
        if (watched == session->watched.end()) continue;
        if (closed) watched->second = stream.page ? stream.page.completed() : 0;
        if (session->ending != Session::Ending::no) continue;
        call(
            *session, Call::OnDeath::drop,
            [this, of = stream.id](Call::Wire& wire, Session& in) { return make_watch(wire, in, of); },
            nullptr);
    }
}

}  // namespace ringlaunch::supervisor
