// Deaths of which nobody is known to be the culprit: whose work was in flight, and what becomes of sessions
// that are suspected again and again.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <vector>

#include "daemon/driver/module_text.hpp"
#include "daemon/supervisor/core.hpp"
#include "schema/ring.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::size_t kSuspectsListed = 3;  // the text has to fit onto a status page

}  // namespace

std::vector<Stream*> Core::streams_in_doubt(const std::vector<Session*>& sessions) {
    std::vector<Stream*> in_doubt;
    for (Session* session : sessions)
        for (const auto& [id, stream] : session->streams)
            if (stream->served && !stopped_by_restart(*stream) &&
                stream->page.issued() > stream->page.completed())
                in_doubt.push_back(stream.get());
    return in_doubt;
}

std::vector<Session*> Core::suspect(FaultDomain& domain, const Death& death) {
    std::vector<Session*> suspects;
    if (!death.of_its_work()) return suspects;
    const auto add = [&](Session* session) {
        if (session != nullptr && std::ranges::find(suspects, session) == suspects.end())
            suspects.push_back(session);
    };
    for (const std::uint64_t id : death.suspects) add(find(stream_sessions_.at(id)));
    add(find(death.loader));
    if (suspects.empty()) return suspects;
    const std::uint64_t now = now_ns();
    for (Session* session : suspects) {
        if (now - session->suspected_ns > options_.restart.suspicion_ms * kNsPerMs) {
            session->deaths_caused -= session->unproven_deaths;
            session->unproven_deaths = session->suspicions = 0;
            for (const auto& [other, stream] : session->streams) stream->times_alone = 0;
        }
        session->suspected_ns = now;
    }
    if (suspects.size() > 1)
        for (Session* session : suspects) ++session->suspicions;
    // Who was moved out of here did not do it; who was moved here did.
    for (const auto& [id, session] : sessions_) {
        const bool here = session->placed && session->domain == domain.key();
        if (!session->on_trial || (!here && *session->on_trial != domain.key())) continue;
        session->on_trial.reset();
        session->suspicions = 0;
        if (!here) spdlog::info("session {} is no suspect any more", id_text(id));
    }
    if (death.suspects.size() == 1 && death.loader == 0) {
        Stream& alone = *suspects.front()->streams.at(death.suspects.front());
        const std::uint64_t at = alone.page.completed();
        alone.times_alone = alone.alone_at == at ? alone.times_alone + 1 : 1;
        alone.alone_at = at;
    }
    return suspects;
}

void Core::try_suspect(FaultDomain& domain, const std::vector<Session*>& suspects) {
    std::vector<Suspicion> candidates;
    for (const Session* session : suspects)
        if (session->ending == Session::Ending::no) candidates.push_back({session->id, session->suspicions});
    Session* chosen = find(choose_suspect(options_.restart, candidates));
    if (chosen == nullptr) return;
    const DomainKey from = domain.key();
    move_alone(*chosen, "it had work in flight at " + std::to_string(chosen->suspicions) +
                            " deaths of which nobody knows who did it");
    chosen->on_trial = from;
    domains_.at(chosen->domain)->start();
}

// A session with a kernel timeout has each of its records complete by itself, as all have with the host
// driver. Where there are fault dumps the page lags behind, by less than a timeout.
RecordsInFlight Core::in_flight(const Session& session, const Stream& stream, bool late) const {
    if (!stream.page) return {};
    const bool one_by_one = options_.driver == schema::DriverKind::Host ||
                            (session.kernel_timeout_ms != 0 && (late || !options_.fault_dumps));
    RecordsInFlight found =
        records_in_flight(stream.ring_mapping.as<const Slot>(kRingHeaderBytes), stream.slots,
                          stream.page.completed(), stream.page.issued(), one_by_one);
    if (kernel_name(session, found.kernel).empty()) found.kernel = 0;  // its client may have written over it
    return found;
}

std::string Core::describe_suspicion(const Session& session, const Stream& stream, const Death& death) const {
    const RecordsInFlight records = in_flight(session, stream);
    std::string text =
        name_records(records, kernel_name(session, records.kernel)) + (records.one() ? ", was " : " was ");
    std::vector<std::uint64_t> others = death.suspects;
    std::erase(others, stream.id);
    const bool alone = others.empty() && death.loader == 0;
    if (records.one())
        text += alone ? "all that was in flight when the executor " : "in flight when the executor ";
    else
        text += alone ? "at work, and nothing else was in flight, when the executor "
                      : "at work when the executor ";
    text += death.text;
    if (death.cause == DeathCause::killed) text += " (by a kernel itself, or from outside)";
    if (death.loader != 0)
        text += "; nobody knows who did it: " + describe_load(session, death) + " was under way";
    for (std::size_t i = 0; i < std::min(others.size(), kSuspectsListed); ++i) {
        const std::uint64_t whose = stream_sessions_.at(others[i]);
        text += (i != 0              ? ", "
                 : death.loader != 0 ? "; also in flight: stream "
                                     : "; nobody knows who did it: also in flight: stream ") +
                id_text(others[i]) + (whose == session.id ? "" : " of session " + id_text(whose));
    }
    if (others.size() > kSuspectsListed)
        text += " and " + std::to_string(others.size() - kSuspectsListed) + " more";
    return text;
}

std::string Core::describe_load(const Session& session, const Death& death) const {
    if (death.loader != session.id) return "the loading of a module of session " + id_text(death.loader);
    const auto module = modules_.find(death.module);
    return "the loading of " + driver::module_text(module == modules_.end() ? "" : module->second.name);
}

}  // namespace ringlaunch::supervisor
