// What the death of an executor means for its streams and sessions, and how the next one is set up from the
// registry.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "daemon/supervisor/core.hpp"
#include "daemon/supervisor/recovery.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::chrono::milliseconds kProbationPoll{2};

void wake(const UniqueFd& eventfd) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote =
        ::write(eventfd.get(), &one, sizeof one);  // full: it wakes already
}

std::string unrestored(const Session& session, const std::string& failing, const std::string& why) {
    return "session " + id_text(session.id) + " (" + session.program + ") could not be restored: " + failing +
           ": " + why;
}

std::string bytes_at(std::uint64_t bytes, std::uint64_t address) {
    char text[64];
    std::snprintf(text, sizeof text, "%llu bytes at 0x%llx", static_cast<unsigned long long>(bytes),
                  static_cast<unsigned long long>(address));
    return text;
}

// How much an executor needs for it, about: each part is descriptors and memory.
std::size_t parts_of(const Session* session) {
    return session->modules.size() + session->chunks.size() + session->loans.size() +
           session->staging.size() + session->watched.size() + session->graphs.size() +
           Descriptors::kStream * session->streams.size();
}

// The launch of this stream that the death is put down to, or may be.
std::optional<driver::FaultedLaunch> faulted_launch(const Death& death, std::uint64_t stream) {
    if (stream == death.stream) return driver::FaultedLaunch{death.stream, death.position, death.kernel};
    for (const driver::FaultedLaunch& each : death.also)
        if (each.stream == stream) return each;
    return std::nullopt;
}

}  // namespace

std::vector<Session*> Core::sessions_in(const FaultDomain& domain) {
    std::vector<Session*> in;
    for (const auto& [id, session] : sessions_)
        if (session->placed && session->domain == domain.key()) in.push_back(session.get());
    return in;
}

void Core::on_stream_stopped(FaultDomain& domain, std::uint64_t stream) {
    const auto at = stream_sessions_.find(stream);
    Session* session = at == stream_sessions_.end() ? nullptr : find(at->second);
    if (session == nullptr || existing_domain(*session) != &domain) return;
    Stream& stopped = *session->streams.at(stream);
    if (!stopped.page) return;
    // The client reads the page, and is woken by the dispatcher; this is for the log.
    spdlog::info("stream {} of session {} ({}) stopped at {}: {}", id_text(stream), id_text(session->id),
                 session->program, stopped.page.page().error_position, stopped.page.error_text());
}

std::uint64_t Core::last_heartbeat_ns(const FaultDomain& domain) {
    std::uint64_t last = 0;
    for (const Session* session : sessions_in(domain))
        for (const auto& [id, stream] : session->streams)
            if (stream->served)
                // relaxed: a sign of life, nothing depends on its order.
                last = std::max(last, stream->page.page().heartbeat_ns.load(std::memory_order_relaxed));
    return last;
}

bool Core::stopped_by_restart(const Stream& stream) {
    // Also where it has been closed since: a stream that runs has no error.
    const auto why = static_cast<Status>(stream.page.page().error_status);
    return why != Status::ok && !stopped_at_record(why);
}

bool Core::nothing_in_doubt(const FaultDomain& domain) {
    for (const Session* session : sessions_in(domain)) {
        if (session->ending != Session::Ending::no) continue;
        for (const auto& [id, stream] : session->streams) {
            if (!stream->served || stream->phase == Stream::Phase::closing) continue;
            // What a restart stopped is in doubt until its owner decides; nothing of it runs.
            if (stopped_by_restart(*stream)) continue;
            if (stream->page.completed() < stream->page.issued()) return false;
        }
    }
    return true;
}

// ---- a death

std::optional<std::uint64_t> Core::on_death(FaultDomain& domain, Death& death) {
    const std::vector<Session*> sessions = sessions_in(domain);
    if (death.before_ready) return on_failed_start(domain, sessions);
    // A page written by a process that ran other people's kernels: believed only where it names a stream of
    // its own.
    Session* culprit_session = nullptr;
    const auto closed_shortly_before = [&](std::uint64_t stream) {
        return std::ranges::find_if(closed_streams_, [&](const ClosedStream& each) {
            return each.stream == stream && each.domain == domain.key();
        });
    };
    // Where all that it can have been have closed, it was none of those that are there.
    if (death.stream == 0 && !death.also.empty() &&
        std::ranges::all_of(death.also, [&](const driver::FaultedLaunch& launch) {
            return closed_shortly_before(launch.stream) != closed_streams_.end();
        })) {
        death.stream = death.also.front().stream;
        death.cause = DeathCause::culprit_known;
    }
    if (death.stream != 0) {
        const auto at = stream_sessions_.find(death.stream);
        Session* owner = at == stream_sessions_.end() ? nullptr : find(at->second);
        if (owner != nullptr && existing_domain(*owner) == &domain) {
            culprit_session = owner;
        } else if (const auto gone = closed_shortly_before(death.stream); gone != closed_streams_.end()) {
            culprit_session = find(gone->session);  // null: it has gone as well
        } else {
            death.stream = 0;
            if (death.cause == DeathCause::culprit_known) death.cause = DeathCause::unknown;
        }
    }
    std::erase_if(death.also, [&](const driver::FaultedLaunch& launch) {
        return std::ranges::none_of(sessions, [&](const Session* session) {
            const auto at = session->streams.find(launch.stream);
            return at != session->streams.end() && at->second->served;
        });
    });
    if (death.by_load) {  // no stream did it
        culprit_session = find(death.loader);
        death.cause = DeathCause::culprit_known;
    }
    const std::vector<Stream*> in_doubt = streams_in_doubt(sessions);
    const bool known = culprit_session != nullptr || death.stream != 0 || death.by_load;
    if (!known && death.also.empty())
        for (const Stream* stream : in_doubt) death.suspects.push_back(stream->id);
    else if (!known)
        // It is known whom it can have been, in doubt or not.
        for (const driver::FaultedLaunch& launch : death.also) death.suspects.push_back(launch.stream);
    std::vector<Session*> suspects = suspect(domain, death);
    // A suspect that was rerun while nothing else was in doubt.
    if (in_doubt.size() == 1 && death.suspects == std::vector{in_doubt[0]->id} && death.loader == 0 &&
        convicts_probationer(death.cause, 1, in_doubt[0]->id == domain.probationer,
                             in_doubt[0]->times_alone)) {
        culprit_session = find(in_doubt[0]->session);
        death.put_down_to(domain.probationer, in_flight(*culprit_session, *in_doubt[0]));
        if (death.cause == DeathCause::killed) death.text += " each time that this record ran alone";
        death.cause = DeathCause::culprit_known;
        suspects.clear();
    }
    // Several were in doubt: next time everything else waits for the suspect.
    const bool unexplained = death.cause == DeathCause::unknown || death.cause == DeathCause::killed;
    domain.strict_probation = domain.probationer != 0 && unexplained;
    domain.first_suspect = std::exchange(domain.probationer, 0);

    std::vector<Stream*> stopped;
    for (Session* session : sessions)
        for (const auto& [id, stream] : session->streams)
            if (decide_stream(*session, *stream, death) == Fate::stop) stopped.push_back(stream.get());
    for (Session* session : sessions) {
        session->attached = false;
        forget_leaving_chunks(*session);
    }

    // Whose work was in flight and nobody else's did it, as far as anybody can know.
    const bool unproven = suspects.size() == 1;
    if (unproven) {
        culprit_session = suspects.front();
        ++culprit_session->unproven_deaths;
    }

    // What was being taken apart has come apart.
    std::vector<std::uint64_t> ended, closed;
    for (Session* session : sessions) {
        if (session->ending != Session::Ending::no && session != culprit_session)
            ended.push_back(session->id);
        for (const auto& [id, stream] : session->streams)
            if (stream->phase == Stream::Phase::closing) closed.push_back(id);
    }

    std::uint64_t delay = 0;
    if (culprit_session != nullptr) {
        ++culprit_session->deaths_caused;
        spdlog::warn("session {} ({}) {} its executor: {} so far", id_text(culprit_session->id),
                     culprit_session->program,
                     unproven ? "alone had work in flight at the death of" : "caused the death of",
                     culprit_session->deaths_caused);
        const std::uint64_t own_delay = own_delay_ms(options_.restart, culprit_session->deaths_caused);
        if (culprit_session->deaths_caused >= options_.restart.warn_at)
            warn_of_deaths(*culprit_session, own_delay);
        if (culprit_session->ending != Session::Ending::no) {
            ended.push_back(culprit_session->id);
        } else if (culprit_session->deaths_caused >= options_.restart.own_executor_at) {
            const bool shared = domain.key().kind != DomainKey::Kind::session;
            const bool no_others = unproven && sessions.size() == 1;
            const bool stays = shared && (no_others || !descriptors_.room(Descriptors::kExecutor));
            for (Stream* stream : stopped)
                if (stream->session == culprit_session->id)
                    stream->stop_text += "; " + std::to_string(culprit_session->deaths_caused) +
                                         " deaths of executors are put down to this session, so " +
                                         (stays ? "the next one" : "it has one of its own, which") +
                                         " starts after " + std::to_string(own_delay) + " ms";
            if (stays) {
                delay = own_delay;  // it stays where it is, and all wait with it; who comes does not
                domain.put_off_for = culprit_session->id;
            } else {
                move_alone(*culprit_session,
                           "it caused " + std::to_string(culprit_session->deaths_caused) + " deaths");
                if (shared)
                    domains_.at(culprit_session->domain)->start_after(own_delay);
                else
                    delay = own_delay;
            }
        }
        domain.deaths_without_culprit = 0;
    } else if (!suspects.empty() && descriptors_.room(Descriptors::kExecutor)) {
        domain.deaths_without_culprit = 0;
        try_suspect(domain, suspects);
    } else {
        const bool calm = now_ns() - domain.started_ns() > options_.restart.calm_ms * kNsPerMs;
        domain.deaths_without_culprit = calm ? 1 : domain.deaths_without_culprit + 1;
        delay = shared_delay_ms(options_.restart, domain.deaths_without_culprit);
    }
    if (!still_needed(domain, closed, ended)) return std::nullopt;
    if (delay != 0) spdlog::warn("the next executor of {} starts in {} ms", domain.name(), delay);
    return delay;
}

// What was being taken apart has come apart. Does anybody need another executor?
bool Core::still_needed(const FaultDomain& domain, const std::vector<std::uint64_t>& closed_streams,
                        const std::vector<std::uint64_t>& ended_sessions) {
    for (const std::uint64_t id : closed_streams)
        if (const auto at = stream_sessions_.find(id); at != stream_sessions_.end())
            erase_stream(*find(at->second), id);
    for (const std::uint64_t id : ended_sessions) erase_session(id);
    return domain.state() != FaultDomain::State::leaving &&
           (is_first(domain.key()) || !sessions_in(domain).empty());
}

// What an executor would not let go of went with it; what it was still asked for is answered by its death.
void Core::forget_leaving_chunks(Session& session) {
    std::erase_if(session.chunks, [&](const auto& entry) {
        if (entry.second.leaving) give_back_chunk(session.device, entry.first, entry.second.bytes);
        return entry.second.leaving;
    });
}

// It ran nothing: what the death before it meant for each stream stands.
std::optional<std::uint64_t> Core::on_failed_start(FaultDomain& domain,
                                                   const std::vector<Session*>& sessions) {
    std::vector<std::uint64_t> ended, closed;
    for (Session* session : sessions) {
        session->attached = false;
        forget_leaving_chunks(*session);
        if (session->ending != Session::Ending::no) ended.push_back(session->id);
        for (const auto& [id, stream] : session->streams) {
            if (stream->phase == Stream::Phase::closing) closed.push_back(id);
            if (!std::exchange(stream->served, false)) continue;
            stream->page.end();
            wake(stream->wake);
        }
    }
    set_apart_unrestorable(domain, sessions);
    if (!still_needed(domain, closed, ended)) return std::nullopt;
    return 0;
}

// What one session cannot have costs nobody else anything: it goes on trying in an executor of its own.
void Core::set_apart_unrestorable(FaultDomain& domain, const std::vector<Session*>& sessions) {
    bool others = false, others_hold = false;
    std::vector<Session*> refused;
    for (Session* session : sessions) {
        if (session->ending != Session::Ending::no) continue;
        if (domain.unrestored.contains(session->id)) {
            refused.push_back(session);
            continue;
        }
        others = true;
        others_hold |= !session->chunks.empty() || std::ranges::any_of(session->modules, [](const auto& use) {
            return use.second.bound;
        }) || std::ranges::any_of(session->streams, [](const auto& each) {
            return each.second->phase == Stream::Phase::open;
        });
    }
    // Of several that are all refused none is told from the device.
    if (!others && refused.size() != 1) return;
    for (Session* session : refused) {
        const Status status = domain.unrestored.at(session->id).status;
        if (is_its_own({status, ++session->failed_restores, others_hold}) && others &&
            descriptors_.room(Descriptors::kExecutor))
            set_apart(domain, *session);
    }
}

void Core::set_apart(FaultDomain& domain, Session& unrestorable) {
    const FaultDomain::Refusal refusal = domain.unrestored.at(unrestorable.id);
    move_alone(unrestorable, refusal.why);
    warn(unrestorable, refusal.status,
         refusal.why + "; so it has an executor of its own now, whose start is tried again for " +
             std::to_string(options_.restart.patience_ms / 1000) +
             " s (--restart-patience), and keeps what it has meanwhile; sessions beside it go on",
         0);
    domains_.at(unrestorable.domain)->start();
    domain.unrestored.erase(unrestorable.id);
}

// Who comes into an executor whose start waits for one session alone, for its deaths or for what it cannot
// have, does not wait for that: the other one gets an executor of its own.
void Core::make_way(FaultDomain& domain, const Session& newcomer) {
    if (!domain.delayed()) return;
    const bool room = descriptors_.room(Descriptors::kExecutor);
    if (Session* killer = find(domain.put_off_for); killer != nullptr) {
        if (!room) return;
        move_alone(*killer, "it caused " + std::to_string(killer->deaths_caused) +
                                " deaths, and another session came");
        bring_along(killer->id, domain.key());
        domains_.at(killer->domain)->start_after(domain.cut_delay());
        return;
    }
    std::vector<Session*> others = sessions_in(domain);
    std::erase(others, &newcomer);
    if (others.size() != 1) return;
    const auto refused = domain.unrestored.find(others.front()->id);
    if (refused == domain.unrestored.end()) return;
    // Too early to say that it is this session's: the next try says more, for it is not alone in that.
    if (room && is_its_own({refused->second.status, others.front()->failed_restores, false})) {
        set_apart(domain, *others.front());
        bring_along(others.front()->id, domain.key());
    }
    domain.cut_delay();
}

Fate Core::decide_stream(Session& session, Stream& stream, const Death& death) {
    // One that no executor had yet is opened anew by its request.
    if (!stream.page || stream.phase == Stream::Phase::opening) {
        stream.served = false;
        return Fate::go_on;
    }
    const StatusPage& page = stream.page.page();
    const auto page_error = static_cast<Status>(page.error_status);
    const bool page_stopped = stream.page.stopped();
    StreamAtDeath at;
    const std::optional<driver::FaultedLaunch> launch = faulted_launch(death, stream.id);
    const bool accused = death.stream != 0;
    at.culprit = accused && launch;
    at.completed = stream.page.completed();
    at.issued = stream.page.issued();
    at.rerun = stream.on_restart == schema::OnRestart::Rerun;
    at.refused = page_stopped && stopped_at_record(page_error);
    at.stopped_by_restart = page_stopped && !at.refused;
    at.suspect = stream.suspect;
    if (at.culprit && at.stopped_by_restart) at.culprit = false;  // its doubt is older than this life
    // It is known whom it can have been, and this stream is not among them.
    const bool cleared = !accused && !launch && !death.also.empty();
    const Decision decision = decide(cleared ? DeathCause::culprit_known : death.cause, at);

    stream.next_completed = decision.position;
    stream.next_issued = decision.position;
    stream.doubt_completed = at.completed;
    stream.doubt_issued = at.suspect ? std::max(at.issued, stream.suspect_until) : at.issued;
    if (decision.fate != Fate::stop && at.rerun && at.in_doubt() && !at.stopped_by_restart)
        spdlog::info("session {} ({}): stream {} ({}) is run again from {} to {}", id_text(session.id),
                     session.program, id_text(stream.id), stream.name, at.completed, at.issued);
    stream.hold = false;
    const bool was_suspect = stream.suspect;
    stream.suspect = false;
    const bool known = at.culprit && launch->position < at.issued;
    const std::string where =
        "stream " + id_text(stream.id) + (stream.name.empty() ? "" : " (" + stream.name + ")");
    switch (decision.fate) {
        case Fate::go_on:
            stream.stop = Status::ok;
            stream.stop_text.clear();
            break;
        case Fate::hold:
            stream.stop = Status::ok;
            stream.stop_text.clear();
            stream.hold = true;
            stream.suspect = true;
            stream.suspect_until = was_suspect ? std::max(stream.suspect_until, at.issued) : at.issued;
            break;
        case Fate::stay:
            stream.stop = page_error;
            stream.stop_position = page.error_position;
            stream.stop_kernel = page.error_kernel;
            stream.stop_text = stream.page.error_text();
            stream.next_issued = at.issued;
            stream.hold = true;
            break;
        case Fate::stop:
            stream.stop = decision.status;
            stream.next_issued = at.issued;
            stream.hold = true;
            stream.stop_kernel = 0;
            stream.stop_position = at.completed;
            switch (decision.status) {
                case Status::kernel_faulted: {
                    const std::string kernel = kernel_name(session, launch->kernel);
                    stream.stop_kernel = launch->kernel;
                    if (known) stream.stop_position = launch->position;
                    const RecordsInFlight* records = death.records ? &*death.records : nullptr;
                    const std::string found =
                        records == nullptr ? "work"
                                           : name_records(*records, kernel_name(session, records->kernel));
                    stream.stop_text = launch->kernel == 0 && kernel.empty()
                                           ? found + " of " + where + " ended the executor: it " + death.text
                                           : "kernel " + (kernel.empty() ? id_text(launch->kernel) : kernel) +
                                                 ", record at position " +
                                                 std::to_string(stream.stop_position) + " of " + where +
                                                 ", faulted: the executor " + death.text;
                    break;
                }
                case Status::neighbour_faulted:
                    stream.stop_text =
                        death.by_load ? describe_load(session, death) + " ended the executor of " + where +
                                            (death.loader == session.id ? ": it " + death.text : "")
                                      : "another stream's fault restarted the executor of " + where;
                    break;
                case Status::executor_killed:
                    if (death.cause == DeathCause::abandoned_work) {
                        stream.stop_text = "the executor was restarted while " + where +
                                           " had work in flight: it " + death.text;
                        break;
                    }
                    [[fallthrough]];
                default:
                    if (launch) {
                        const std::string kernel = kernel_name(session, launch->kernel);
                        stream.stop_kernel = launch->kernel;
                        stream.stop_position = launch->position;
                        stream.stop_text = (kernel.empty() ? "work" : "kernel " + kernel) +
                                           ", record at position " + std::to_string(launch->position) +
                                           " of " + where +
                                           " or a later one, may be what faulted: the executor " + death.text;
                        break;
                    }
                    const RecordsInFlight records = in_flight(session, stream);
                    stream.stop_position = records.first;
                    stream.stop_kernel = records.one() ? records.kernel : 0;
                    stream.stop_text = where + ": " + describe_suspicion(session, stream, death);
                    break;
            }
            stream.stop_text += "; completed up to " + std::to_string(stream.doubt_completed) +
                                ", in doubt up to " + std::to_string(stream.doubt_issued) +
                                "; resume() goes on after it, resume(rerun) repeats it";
            spdlog::warn("session {} ({}): {}", id_text(session.id), session.program, stream.stop_text);
            break;
    }
    // The executor has been reaped: nobody but us writes this page now.
    stream.page.end();
    stream.served = false;
    wake(stream.wake);
    return decision.fate;
}

void Core::warn_of_deaths(Session& session, std::uint64_t delay_ms) {
    const std::string text =
        "this session's work caused the death of " + std::to_string(session.deaths_caused) + " executors" +
        (session.unproven_deaths == 0 ? ""
                                      : " (it was all that was in flight at " +
                                            std::to_string(session.unproven_deaths) + " of these deaths)") +
        "; the next one of its own starts after " + std::to_string(delay_ms) +
        " ms; find out what its kernels do wrong (the streams' errors name them)";
    warn(session, Status::executor_quarantined, text, delay_ms);
}

void Core::warn(Session& session, Status status, const std::string& text, std::uint64_t delay_ms) {
    if (!session.connection) return;
    answer(*session.connection, 0, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        const auto error = builder.CreateString(text);
        return {schema::Answer::SessionWarning,
                schema::CreateSessionWarning(builder, static_cast<std::uint32_t>(status), error,
                                             static_cast<std::uint32_t>(delay_ms))
                    .Union()};
    });
}

// ---- the next executor

void Core::on_started(FaultDomain& domain, const internal::Ready& ready) {
    if (Device& device = devices_.at(domain.device()); !device.known) {
        device.name = ready.device_name() ? ready.device_name()->str() : "";
        device.architecture = ready.architecture() ? ready.architecture()->str() : "";
        device.max_param_bytes = ready.max_param_bytes();
        device.max_grid_x = ready.max_grid_x();
        device.max_grid_y = ready.max_grid_y();
        device.max_grid_z = ready.max_grid_z();
        device.max_threads_per_block = ready.max_threads_per_block();
        device.max_block_x = ready.max_block_x();
        device.max_block_y = ready.max_block_y();
        device.max_block_z = ready.max_block_z();
        device.uses_membarrier = ready.uses_membarrier();
        device.range = DeviceRange(ready.range_base(), ready.range_bytes(), ready.chunk_bytes());
        if (staging_range_.bytes() == 0)
            staging_range_ = DeviceRange(ready.staging_base(), ready.staging_bytes(), ready.chunk_bytes());
        device.known = true;
        spdlog::info("device {}: {} ({})", domain.device(), device.name, device.architecture);
        if (!std::exchange(announced_, true) && options_.on_ready) options_.on_ready();
        for (auto& waiting : std::exchange(device.waiting, {})) waiting(nullptr);
    }
    std::vector<Session*> sessions = sessions_in(domain);
    // Who needs little is first: where not all can be had, what lacks is then left to who needs most of it.
    std::ranges::stable_sort(sessions, {}, parts_of);
    // Each module once, before the kernels of any session.
    std::vector<std::uint64_t> modules;
    for (const Session* session : sessions)
        for (const auto& [id, use] : session->modules)
            if (use.bound && std::ranges::find(modules, use.key) == modules.end()) modules.push_back(use.key);
    const auto waited_for = [&](std::uint64_t key) {  // by a session without it
        return std::ranges::any_of(sessions, [&](const Session* session) {
            return session->ending == Session::Ending::no &&
                   std::ranges::none_of(session->modules, [key](const auto& use) {
                       return use.second.bound && use.second.key == key;
                   });
        });
    };
    for (const std::uint64_t key : modules) {
        Call call;
        call.module = key;
        if (waited_for(key) && descriptors_.room(Descriptors::kExecutor))
            call.timeout_ms = options_.restart.load_timeout_ms;
        call.make = [this, key](Call::Wire& wire) {
            const auto module = modules_.find(key);
            return module != modules_.end() && make_load_module(wire, module->second);
        };
        call.done = [this, key, where = domain.key()](Reply& reply) {
            const auto at = domains_.find(where);
            if (at == domains_.end()) return;
            if (reply.status == Status::ok) {
                at->second->loaded.insert(key);
                return;
            }
            const auto module = modules_.find(key);
            const std::string name = module == modules_.end() ? "" : module->second.name;
            for (const Session* session : sessions_in(*at->second))
                if (std::ranges::any_of(session->modules, [key](const auto& use) {
                        return use.second.bound && use.second.key == key;
                    }))
                    at->second->cannot_restore(
                        session->id, reply.status,
                        unrestored(*session,
                                   "module " + (name.empty() ? "(without a name)" : name) +
                                       " could not be loaded again",
                                   reply.error));
        };
        domain.restore_call(std::move(call));
    }
    for (Session* session : sessions) restore_session(domain, *session);
    domain.finish_restore();
}

void Core::restore_session(FaultDomain& domain, Session& session) {
    if (session.ending != Session::Ending::no) return;
    const auto restore = [&](const std::string& failing, auto make) {
        Call call;
        call.session = session.id;
        call.make = [this, id = session.id, make](Call::Wire& wire) {
            Session* found = find(id);
            return found != nullptr && make(wire, *found);
        };
        call.done = [this, where = domain.key(), id = session.id, failing](Reply& reply) {
            const Session* in = find(id);
            const auto at = domains_.find(where);
            if (reply.status == Status::ok || in == nullptr || at == domains_.end()) return;
            at->second->cannot_restore(id, reply.status, unrestored(*in, failing, reply.error));
        };
        domain.restore_call(std::move(call));
    };
    restore("the executor does not take it", [](Call::Wire& wire, Session& in) {
        wire.kind = internal::ExecutorRequest::AttachSession;
        wire.request = internal::CreateAttachSession(wire.builder, in.id).Union();
        wire.fds = {in.doorbell.get()};
        return true;
    });
    session.attached = true;
    for (const auto& [address, chunk] : session.chunks)
        if (!chunk.leaving)
            restore(bytes_at(chunk.bytes, address) + " of its memory could not be mapped again",
                    [address = address](Call::Wire& wire, Session& in) {
                        const auto at = in.chunks.find(address);
                        if (at == in.chunks.end()) return false;
                        wire.kind = internal::ExecutorRequest::MapChunk;
                        wire.request =
                            internal::CreateMapChunk(wire.builder, in.id, address, at->second.bytes).Union();
                        wire.fds = {at->second.fd.get()};
                        return true;
                    });
    for (const auto& [id, loan] : session.loans)
        if (loan.mapped && !loan.leaving)
            restore(bytes_at(loan.bytes, loan.address) + " that it borrowed could not be mapped again",
                    [this, id = id](Call::Wire& wire, Session& in) {
                        const auto at = in.loans.find(id);
                        return at != in.loans.end() && !at->second.leaving && make_lend(wire, in, at->second);
                    });
    for (const auto& [stream, closed] : session.watched)
        restore(
            "stream " + id_text(stream) +
                " of another session, which it waits for, could not be watched again",
            [this, stream = stream](Call::Wire& wire, Session& in) { return make_watch(wire, in, stream); });
    for (const auto& [id, segment] : session.staging)
        if (segment.mapped)
            restore("staging memory " + id_text(id) + " of " + std::to_string(segment.bytes) +
                        " bytes could not be mapped again",
                    [id = id](Call::Wire& wire, Session& in) {
                        const auto at = in.staging.find(id);
                        if (at == in.staging.end()) return false;
                        wire.kind = internal::ExecutorRequest::MapStaging;
                        wire.request = internal::CreateMapStaging(wire.builder, in.id, id, at->second.bytes,
                                                                  at->second.address)
                                           .Union();
                        wire.fds = {at->second.fd.get()};
                        return true;
                    });
    for (const auto& [id, use] : session.modules)
        if (use.bound)
            restore("the kernels of module " + modules_.at(use.key).name + " could not be bound again",
                    [id = id](Call::Wire& wire, Session& in) {
                        const auto at = in.modules.find(id);
                        if (at == in.modules.end()) return false;
                        wire.kind = internal::ExecutorRequest::BindModule;
                        const auto kernels = wire.builder.CreateVector(at->second.kernel_ids);
                        wire.request =
                            internal::CreateBindModule(wire.builder, in.id, at->second.key, kernels).Union();
                        return true;
                    });
    for (const auto& [id, use] : session.modules)
        for (const ModuleUse::Configured& kernel : use.configured)
            if (use.bound && kernel.bound)
                restore("kernel " + kernel.kernel.name + " could not be given its attributes again",
                        [id = id, kernel](Call::Wire& wire, Session& in) {
                            const auto at = in.modules.find(id);
                            return at != in.modules.end() && make_bind_kernel(wire, in, at->second, kernel);
                        });
    for (const auto& [id, stream] : session.streams)
        if (stream->phase == Stream::Phase::open) restore_stream(domain, session, *stream);
    for (const auto& [id, graph] : session.graphs)
        if (graph.made) restore_graph(domain, session, id);
}

void Core::restore_stream(FaultDomain& domain, Session& session, Stream& stream) {
    // In a strict probation everything waits for the suspect.
    if (domain.strict_probation && stream.stop == Status::ok) stream.hold = true;
    Call call;
    call.session = session.id;
    call.make = [this, id = session.id, stream_id = stream.id, epoch = domain.epoch()](Call::Wire& wire) {
        Session* found = find(id);
        if (found == nullptr) return false;
        const auto at = found->streams.find(stream_id);
        return at != found->streams.end() && make_open_stream(wire, *found, *at->second, epoch, true);
    };
    call.done = [this, id = session.id, stream_id = stream.id, where = domain.key()](Reply& reply) {
        Session* found = find(id);
        const auto at = domains_.find(where);
        if (found == nullptr || at == domains_.end()) return;
        const auto entry = found->streams.find(stream_id);
        if (entry == found->streams.end()) return;
        Stream& restored = *entry->second;
        if (reply.status != Status::ok)
            return at->second->cannot_restore(
                id, reply.status,
                unrestored(*found,
                           "stream " + id_text(stream_id) +
                               (restored.name.empty() ? "" : " (" + restored.name + ")") +
                               " could not be opened again",
                           reply.error));
        restored.page.seal();
        restored.served = true;
        tell_epoch(*found, restored);
        tell_watchers(restored, false);
    };
    domain.restore_call(std::move(call));
}

void Core::on_ready(FaultDomain& domain) {
    spdlog::info("executor {} of {} is ready after {} ms", domain.pid(), domain.name(),
                 (now_ns() - domain.started_ns()) / kNsPerMs);
    // Only now that all of them stand: one may wait for an event of another, and an executor that could not
    // be set up has run nothing.
    for (Session* session : sessions_in(domain)) {
        session->failed_restores = 0;
        for (const auto& [id, stream] : session->streams)
            if (stream->served && stream->phase == Stream::Phase::open && !stream->hold) {
                Call release;
                release.session = session->id;
                release.make = [this, of = session->id, id = id](Call::Wire& wire) {
                    Session* found = find(of);
                    return found != nullptr && make_release(wire, *found, id);
                };
                domain.restore_call(std::move(release));
            }
    }
    go_on_probation(domain);
}

// ---- suspects, one at a time

void Core::release_stream(Session& session, Stream& stream) {
    if (!stream.hold || !stream.served || stream.stop != Status::ok) return;
    stream.hold = false;
    call(
        session, Call::OnDeath::drop,
        [id = stream.id](Call::Wire& wire, Session& in) { return make_release(wire, in, id); }, nullptr);
}

bool Core::make_release(Call::Wire& wire, const Session& session, std::uint64_t id) {
    const auto at = session.streams.find(id);
    if (at == session.streams.end() || at->second->stop != Status::ok) return false;
    wire.kind = internal::ExecutorRequest::ReleaseStream;
    // A suspect's records one at a time: so that, if it ends the executor again, its record is known.
    const std::uint64_t single_until = at->second->suspect ? at->second->suspect_until : 0;
    wire.request = internal::CreateReleaseStream(wire.builder, id, single_until).Union();
    return true;
}

void Core::go_on_probation(FaultDomain& domain) {
    if (domain.state() != FaultDomain::State::ready) return;
    const std::vector<Session*> sessions = sessions_in(domain);
    if (domain.probationer != 0) {
        for (Session* session : sessions) {
            const auto at = session->streams.find(domain.probationer);
            if (at == session->streams.end()) continue;
            Stream& stream = *at->second;
            const bool over = stream.page.completed() >= stream.suspect_until || stream.page.stopped() ||
                              stream.phase != Stream::Phase::open || !stream.suspect;
            if (!over) {
                const bool late =
                    now_ns() - domain.probation_since_ns > options_.restart.probation_ms * kNsPerMs;
                // Its rerun takes long, or is endless: the others do not wait for it any more. What it does
                // is in doubt on its page, so that it stays a suspect with whoever dies beside it.
                if (!late) return;
                spdlog::warn("the rerun of suspect stream {} takes long; the others go on",
                             id_text(stream.id));
            }
            stream.suspect = false;
        }
        domain.probationer = 0;
    }
    Session* session_of_next = nullptr;
    Stream* next = nullptr;
    for (Session* session : sessions)
        for (const auto& [id, stream] : session->streams) {
            if (!stream->suspect || !stream->hold || stream->phase != Stream::Phase::open) continue;
            if (next != nullptr && id != domain.first_suspect) continue;
            session_of_next = session;
            next = stream.get();
        }
    if (next != nullptr) {
        domain.probationer = next->id;
        domain.probation_since_ns = now_ns();
        spdlog::info("suspect stream {} of session {} is rerun alone, up to {}", id_text(next->id),
                     id_text(session_of_next->id), next->suspect_until);
        release_stream(*session_of_next, *next);
        if (!probation_scheduled_) watch_probations();
        return;
    }
    domain.strict_probation = false;
    for (Session* session : sessions)
        for (const auto& [id, stream] : session->streams)
            if (stream->phase == Stream::Phase::open) release_stream(*session, *stream);
}

void Core::watch_probations() {
    probation_scheduled_ = true;
    probation_timer_.expires_after(kProbationPoll);
    probation_timer_.async_wait([this](const auto& error) {
        probation_scheduled_ = false;
        if (error || shutting_down_) return;
        bool any = false;
        for (const auto& [key, domain] : domains_) {
            if (domain->probationer != 0) go_on_probation(*domain);
            any |= domain->probationer != 0;
        }
        if (any && !probation_scheduled_) watch_probations();
    });
}

// ---- executors that will not start, or have left

void Core::on_unusable(FaultDomain& domain, bool driver, const std::string& text) {
    if (!announced_ && !shutting_down_ && take_other_driver(text)) return;
    spdlog::error("{}", text);
    Device& device = devices_.at(domain.device());
    for (auto& waiting : std::exchange(device.waiting, {})) waiting(&text);
    // Nobody has been served yet.
    if (!announced_) return shut_down(driver ? kExitDriverUnusable : kExitFailure);
    for (Session* session : sessions_in(domain)) {
        if (!session->connection) continue;
        refuse(*session->connection, 0, Status::executor_lost, text);
        session->connection->close(text);
    }
    for (Session* session : sessions_in(domain)) {
        session->placed = false;
        session->attached = session->attaching = false;
    }
    if (is_first(domain.key())) device.first_domain.reset();
    const auto at = domains_.find(domain.key());
    if (at == domains_.end()) return;
    leaving_domains_.push_back(std::move(at->second));
    domains_.erase(at);
    if (!leaving_domains_.back()->has_process()) leaving_domains_.back()->leave();
}

// Who has connected meanwhile goes on waiting, for the other driver's executor.
bool Core::take_other_driver(const std::string& why) {
    // Once: the other driver has no other.
    const auto ask = std::exchange(options_.on_unusable, nullptr);
    if (!ask || !ask(options_, why)) return false;
    for (auto& [key, domain] : std::exchange(domains_, {})) {
        domain->leave();
        leaving_domains_.push_back(std::move(domain));
    }
    std::map<int, Device> before = std::exchange(devices_, {});
    for (const int device : options_.devices) devices_[device];
    start_first(options_.devices.front(), own_uid_);
    for (auto& [ordinal, device] : before) {
        if (device.waiting.empty()) continue;
        if (const auto now = devices_.find(ordinal); now != devices_.end()) {
            now->second.waiting = std::move(device.waiting);
            start_first(ordinal, own_uid_);
        } else {
            for (auto& waiting : device.waiting) waiting(&why);
        }
    }
    return true;
}

void Core::on_left(FaultDomain& domain) {
    const auto current = domains_.find(domain.key());
    if (current != domains_.end() && current->second.get() == &domain)
        domains_.erase(current);
    else
        std::erase_if(leaving_domains_, [&](const auto& entry) { return entry.get() == &domain; });
    maybe_finished();
}

}  // namespace ringlaunch::supervisor
