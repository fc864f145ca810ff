// Which executor serves which session, and how long a restart waits: pure decisions.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <span>
#include <string>

#include "daemon/supervisor/supervisor.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::supervisor {

// Sessions with the same key share an executor.
struct DomainKey {
    enum class Kind { all, user, session } kind = Kind::all;
    std::uint64_t value = 0;  // uid or session
    int device = 0;
    auto operator<=>(const DomainKey&) const = default;
};

// `alone`: the session has killed executors too often to share one.
inline DomainKey place(Isolate isolate, std::uint32_t uid, std::uint64_t session, bool alone, int device) {
    if (alone || isolate == Isolate::session) return {DomainKey::Kind::session, session, device};
    if (isolate == Isolate::user) return {DomainKey::Kind::user, uid, device};
    return {DomainKey::Kind::all, 0, device};
}

inline std::string domain_name(const DomainKey& key) {
    switch (key.kind) {
        case DomainKey::Kind::all:
            return "all";
        case DomainKey::Kind::user:
            return "user " + std::to_string(key.value);
        case DomainKey::Kind::session:
            return "session " + id_text(key.value);
    }
    return "?";
}

inline std::uint64_t doubled(std::uint64_t first, std::uint32_t times, std::uint64_t at_most) {
    std::uint64_t value = first;
    for (std::uint32_t i = 0; i < times && value < at_most; ++i) value *= 2;
    return std::min(value, at_most);
}

// A session in an executor of its own: nothing before the death that put it there, then doubling.
inline std::uint64_t own_delay_ms(const RestartPolicy& policy, std::uint32_t deaths_caused) {
    if (deaths_caused < policy.own_executor_at) return 0;
    return doubled(policy.first_delay_ms, deaths_caused - policy.own_executor_at, policy.max_delay_ms);
}

// Deaths at which a session had work in flight, and others too: each of them may have done it.
struct Suspicion {
    std::uint64_t session = 0;
    std::uint32_t deaths = 0;
};

// The suspect that is given an executor of its own, to see which of the two dies: the most suspected, of
// several the last; 0: nobody yet.
inline std::uint64_t choose_suspect(const RestartPolicy& policy, std::span<const Suspicion> suspects) {
    Suspicion chosen;
    for (const Suspicion& each : suspects)
        if (each.deaths >= policy.own_executor_at && each.deaths >= chosen.deaths) chosen = each;
    return chosen.session;
}

// A shared executor: only deaths in a row without a culprit or a suspect slow it, and the first of them does
// not.
inline std::uint64_t shared_delay_ms(const RestartPolicy& policy, std::uint32_t deaths_without_culprit) {
    if (deaths_without_culprit < 2) return 0;
    return doubled(policy.first_delay_ms, deaths_without_culprit - 2, policy.max_delay_ms);
}

}  // namespace ringlaunch::supervisor
