// A session's beginning, which executor serves it, what is asked of that one in its name, and its end.
#include <malloc.h>
#include <sys/eventfd.h>

#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <system_error>

#include "daemon/supervisor/core.hpp"

namespace ringlaunch::supervisor {

Session* Core::find(std::uint64_t id) {
    const auto at = sessions_.find(id);
    return at == sessions_.end() ? nullptr : at->second.get();
}

Session* Core::living(std::uint64_t id) {
    Session* session = find(id);
    return session != nullptr && session->connection ? session : nullptr;
}

Session& Core::open_session(Client& client, const Greeting& greeting) {
    // Where each session has an executor of its own, that one's too.
    const bool own_executor = options_.isolate == Isolate::session;
    require_descriptors(Session{}, Descriptors::kSession + (own_executor ? Descriptors::kExecutor : 0),
                        "cannot open a session");
    UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!doorbell)
        throw std::system_error(errno, std::generic_category(), "cannot make a session's doorbell");
    auto session = std::make_unique<Session>();
    session->id = session_ids_.take();
    session->connection = client.connection;
    session->pid = client.connection->peer().pid;
    session->uid = client.connection->peer().uid;
    session->program = greeting.program;
    session->device = greeting.device;
    session->fences = !greeting.membarrier || !devices_.at(greeting.device).uses_membarrier;
    session->since_ns = now_ns();
    session->doorbell = std::move(doorbell);
    // The shorter of what both ask for.
    session->kernel_timeout_ms = options_.kernel_timeout_ms;
    if (greeting.kernel_timeout_ms != 0 &&
        (session->kernel_timeout_ms == 0 || greeting.kernel_timeout_ms < session->kernel_timeout_ms))
        session->kernel_timeout_ms = greeting.kernel_timeout_ms;
    session->coalesce = options_.coalesce && greeting.coalesce;
    client.session = session->id;
    Session& opened = *session;
    sessions_.emplace(opened.id, std::move(session));
    idle_armed_ = false;
    idle_timer_.cancel();
    if (own_executor) domain_of(opened);
    if (opened.kernel_timeout_ms != 0) watch_kernels();
    spdlog::info("session {} opened by {} (process {}, user {})", id_text(opened.id), opened.program,
                 opened.pid, opened.uid);
    return opened;
}

FaultDomain* Core::existing_domain(const Session& session) {
    if (!session.placed) return nullptr;
    const auto at = domains_.find(session.domain);
    return at == domains_.end() ? nullptr : at->second.get();
}

void Core::start_first(int device, std::uint32_t uid) {
    std::optional<DomainKey>& first = devices_.at(device).first_domain;
    if (first) return;
    if (!descriptors_.room(Descriptors::kExecutor))
        throw Error(Status::limit_reached,
                    "cannot start the executor of device " + std::to_string(device) +
                        ": the daemon's descriptors are used up; close something, or start the daemon with a "
                        "higher limit (ulimit -Hn)");
    const DomainKey key = place(options_.isolate, uid, 0, false, device);
    auto& domain = domains_[key];
    if (!domain) domain = std::make_unique<FaultDomain>(io_, options_, key, *this);
    first = key;
    domain->start();
}

FaultDomain& Core::domain_of(Session& session) {
    if (FaultDomain* domain = existing_domain(session)) return *domain;
    if (shutting_down_) throw Error(Status::stopping, "the daemon is leaving");
    session.domain = place(options_.isolate, session.uid, session.id, session.alone, session.device);
    session.placed = true;
    // The executor that was there first serves whoever is first, if nobody has used it.
    std::optional<DomainKey>& first = devices_.at(session.device).first_domain;
    if (session.domain.kind == DomainKey::Kind::session && !session.alone && first &&
        first->kind == DomainKey::Kind::session && session.uid == own_uid_) {
        session.domain = *first;
        first.reset();
    }
    auto& domain = domains_[session.domain];
    if (!domain) domain = std::make_unique<FaultDomain>(io_, options_, session.domain, *this);
    make_way(*domain, session);
    domain->start();
    return *domain;
}

void Core::leave_domain(Session& session) {
    FaultDomain* domain = existing_domain(session);
    if (domain == nullptr) return;
    session.placed = false;
    session.attached = session.attaching = false;
    const bool was_refused = domain->unrestored.erase(session.id) != 0 && domain->unrestored.empty();
    if (is_first(domain->key()) || !sessions_in(*domain).empty()) {
        // What its start waits for has gone.
        if (was_refused || domain->put_off_for == session.id) domain->cut_delay();
        return;
    }
    // Nobody uses it any more.
    auto at = domains_.find(domain->key());
    leaving_domains_.push_back(std::move(at->second));
    domains_.erase(at);
    domain->leave();
}

void Core::attach(Session& session) {
    if (session.attached || session.attaching) return;
    session.attaching = true;
    FaultDomain& domain = domain_of(session);
    Call call;
    call.session = session.id;
    call.make = [this, id = session.id](Call::Wire& wire) {
        Session* found = find(id);
        if (found == nullptr || found->attached) return false;
        wire.kind = internal::ExecutorRequest::AttachSession;
        wire.request = internal::CreateAttachSession(wire.builder, id).Union();
        wire.fds = {found->doorbell.get()};
        return true;
    };
    call.done = [this, id = session.id](Reply& reply) {
        Session* found = find(id);
        if (found == nullptr) return;
        found->attaching = false;
        --found->open_calls;
        if (reply.status == Status::ok) {
            found->attached = true;
        } else if (found->connection) {
            spdlog::error("session {} cannot be attached to its executor: {}", id_text(id), reply.error);
            refuse(*found->connection, 0, reply.status, "the executor refuses this session: " + reply.error);
            found->connection->close("its executor refuses it");
        }
        go_on_ending(*found);
    };
    ++session.open_calls;
    domain.call(std::move(call));
}

void Core::call(Session& session, Call::OnDeath on_death, std::function<bool(Call::Wire&, Session&)> make,
                std::function<void(Session&, Reply&)> done) {
    attach(session);
    FaultDomain& domain = domain_of(session);
    Call call;
    call.session = session.id;
    call.on_death = on_death;
    call.make = [this, id = session.id, make = std::move(make)](Call::Wire& wire) {
        Session* found = find(id);
        return found != nullptr && make(wire, *found);
    };
    call.done = [this, id = session.id, done = std::move(done)](Reply& reply) {
        Session* found = find(id);
        if (found == nullptr) return;
        --found->open_calls;
        if (done) done(*found, reply);
        // `done` may have ended it.
        if ((found = find(id)) != nullptr) go_on_ending(*found);
    };
    ++session.open_calls;
    domain.call(std::move(call));
}

void Core::move_alone(Session& session, const std::string& why) {
    FaultDomain* before = existing_domain(session);
    const std::uint64_t id = session.id;
    session.alone = true;
    if (before == nullptr || before->key().kind == DomainKey::Kind::session) return;
    const DomainKey from = before->key();
    spdlog::warn("session {} ({}) gets an executor of its own: {}", id_text(session.id), session.program,
                 why);
    session.domain = place(options_.isolate, session.uid, session.id, true, session.device);
    auto& domain = domains_[session.domain];
    domain = std::make_unique<FaultDomain>(io_, options_, session.domain, *this);
    domain->take_over_from(*before);
    // Once the death has been dealt with.
    boost::asio::post(io_, [this, id, from] { bring_along(id, from); });
}

// What a session that was moved has asked for goes along.
void Core::bring_along(std::uint64_t id, const DomainKey& from) {
    const auto old = domains_.find(from);
    Session* moved = find(id);
    if (old == domains_.end()) return;
    std::vector<Call> calls = old->second->take_calls(id);
    FaultDomain* now = moved == nullptr ? nullptr : existing_domain(*moved);
    std::vector<std::function<void(Reply&)>> elsewhere;
    for (Call& call : calls) {
        if (call.risk_of != 0)
            elsewhere.push_back(std::move(call.done));
        else if (now != nullptr)
            now->call(std::move(call));
    }
    if (!is_first(from) && sessions_in(*old->second).empty()) {
        // Nobody is left there.
        leaving_domains_.push_back(std::move(old->second));
        domains_.erase(old);
        FaultDomain& empty = *leaving_domains_.back();
        for (auto& [key, waiters] : std::exchange(empty.loading, {}))
            elsewhere.insert(elsewhere.end(), waiters.begin(), waiters.end());
        empty.leave();
    }
    // Who waited for a module goes on waiting where it is now.
    for (const auto& waiter : elsewhere) {
        Reply loaded_elsewhere;
        waiter(loaded_elsewhere);
    }
}

// ---- the end
//
// Its streams are closed first; when the device has let go of their work, what that work used is taken away;
// then its addresses may be another's. Where the device does not let go within a bound, the executor says so
// in its answer and is ended (ask_close_stream); one that answers nothing is ended for that
// (FaultDomain::ping).

void Core::end_session(Session& session) {
    session.connection.reset();
    session.allocs.clear();
    session.pending_graphs.clear();
    session.deferred.clear();
    if (shutting_down_) return;
    session.ending = Session::Ending::closing_streams;
    FaultDomain* domain = existing_domain(session);
    // Where no executor is up there is nothing to be let go of.
    if (domain == nullptr || !domain->has_process()) return erase_session(session.id);
    std::vector<std::uint64_t> streams;
    for (const auto& [id, stream] : session.streams)
        if (stream->phase != Stream::Phase::closing) streams.push_back(id);
    const std::uint64_t id = session.id;
    for (const std::uint64_t stream : streams) ask_close_stream(session, stream, std::nullopt);
    if (Session* still = find(id)) go_on_ending(*still);
}

void Core::go_on_ending(Session& session) {
    using Ending = Session::Ending;
    if (session.ending == Ending::no || session.open_calls != 0) return;
    const auto ask = [&](std::function<bool(Call::Wire&, Session&)> make,
                         std::function<void(Session&)> then = nullptr) {
        call(session, Call::OnDeath::settled, std::move(make), [this, then](Session& in, Reply& reply) {
            if (reply.status == Status::ok && then) then(in);
            FaultDomain* domain = existing_domain(in);
            if (reply.status == Status::ok || reply.status == Status::not_found || domain == nullptr) return;
            // What it still holds may not become another session's: only its end makes sure.
            domain->kill("what session " + id_text(in.id) + " left cannot be taken away: " + reply.error, 0);
        });
    };
    switch (session.ending) {
        case Ending::no:
            return;
        case Ending::closing_streams:
            if (!session.streams.empty()) return;  // one hangs: that ends the executor
            if (!session.attached) return erase_session(session.id);
            session.ending = Ending::releasing;
            release_all(session, ask);
            if (session.open_calls == 0) go_on_ending(session);
            return;
        case Ending::releasing:
            session.ending = Ending::detaching;
            ask([](Call::Wire& wire, Session& in) {
                wire.kind = internal::ExecutorRequest::DetachSession;
                wire.request = internal::CreateDetachSession(wire.builder, in.id).Union();
                return true;
            });
            return;
        case Ending::detaching:
            return erase_session(session.id);
    }
}

void Core::release_all(Session& session, const std::function<void(std::function<bool(Call::Wire&, Session&)>,
                                                                  std::function<void(Session&)>)>& ask_then) {
    const auto ask = [&](std::function<bool(Call::Wire&, Session&)> make) { ask_then(make, nullptr); };
    for (const auto& [staging, segment] : session.staging)
        if (segment.mapped)
            ask([staging = staging](Call::Wire& wire, Session& in) {
                wire.kind = internal::ExecutorRequest::UnmapStaging;
                wire.request = internal::CreateUnmapStaging(wire.builder, in.id, staging).Union();
                return true;
            });
    for (const auto& [use, module] : session.modules)
        if (module.bound)
            ask([kernels = module.all_ids()](Call::Wire& wire, Session& in) {
                wire.kind = internal::ExecutorRequest::UnbindKernels;
                const auto ids = wire.builder.CreateVector(kernels);
                wire.request = internal::CreateUnbindKernels(wire.builder, in.id, ids).Union();
                return true;
            });
    for (const auto& [id, loan] : session.loans)
        if (loan.mapped && !loan.leaving)
            ask([id = id](Call::Wire& wire, Session& in) {
                wire.kind = internal::ExecutorRequest::ReturnMemory;
                wire.request = internal::CreateReturnMemory(wire.builder, in.id, id).Union();
                return true;
            });
    std::vector<std::pair<std::uint64_t, std::uint64_t>> chunks;
    for (const auto& [address, chunk] : session.chunks)
        if (!chunk.leaving) chunks.emplace_back(address, chunk.bytes);
    // Memory goes as soon as it can: the session itself may have to wait for a kernel of another (staging).
    for (const auto& [address, bytes] : chunks)
        ask_then(
            [address = address, bytes = bytes](Call::Wire& wire, Session& in) {
                wire.kind = internal::ExecutorRequest::UnmapChunk;
                wire.request = internal::CreateUnmapChunk(wire.builder, in.id, address, bytes).Union();
                return true;
            },
            [this, address = address, bytes = bytes](Session& in) {
                if (in.chunks.erase(address) != 0) give_back_chunk(in.device, address, bytes);
            });
}

void Core::erase_session(std::uint64_t id) {
    Session* session = find(id);
    if (session == nullptr) return;
    if (FaultDomain* domain = existing_domain(*session)) domain->forget_calls(id);
    std::vector<std::uint64_t> streams, loans;
    for (const auto& [stream, ignored] : session->streams) streams.push_back(stream);
    for (const std::uint64_t stream : streams) erase_stream(*session, stream);
    for (const auto& [loan, ignored] : session->loans) loans.push_back(loan);
    for (const std::uint64_t loan : loans) drop_loan(*session, loan);
    for (auto& [buffer, held] : session->buffers) forget_right(held.right);
    for (const auto& [address, chunk] : session->chunks)
        give_back_chunk(session->device, address, chunk.bytes);
    for (const auto& [staging, segment] : session->staging)
        staging_range_.give_back(segment.address, round_up(segment.bytes, staging_range_.unit()));
    for (const auto& [use, module] : session->modules) release_module(module.key);
    leave_domain(*session);
    session_ids_.give_back(id);
    sessions_.erase(id);
    if (sessions_.empty()) ::malloc_trim(0);  // as the executor does (Registry::detach_session)
    evict_modules();
    watch_idle();
}

}  // namespace ringlaunch::supervisor
