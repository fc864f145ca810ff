#include "daemon/supervisor/recovery.hpp"

namespace ringlaunch::supervisor {

Decision decide(DeathCause cause, const StreamAtDeath& stream) {
    const std::uint64_t a = stream.completed;
    if (stream.culprit) return {Fate::stop, a, Status::kernel_faulted};
    if (stream.stopped_by_restart) return {Fate::stay, a, Status::ok};
    // What stands before a refused record has completed: there is nothing to take up but the refusal itself.
    if (stream.refused && !stream.in_doubt() && !stream.suspect) return {Fate::stay, a, Status::ok};
    // A suspect that was still held has nothing in doubt on its page: its doubt is that of the earlier death.
    if (stream.suspect && stream.rerun)
        return {cause == DeathCause::culprit_known ? Fate::go_on : Fate::hold, a, Status::ok};
    if (!stream.in_doubt()) return {Fate::go_on, a, Status::ok};
    const bool of_another = cause == DeathCause::culprit_known || cause == DeathCause::abandoned_work;
    if (stream.rerun) return {of_another ? Fate::go_on : Fate::hold, a, Status::ok};
    switch (cause) {
        case DeathCause::culprit_known:
            return {Fate::stop, a, Status::neighbour_faulted};
        case DeathCause::unknown:
            return {Fate::stop, a, Status::suspect};
        case DeathCause::killed:
        case DeathCause::abandoned_work:
            return {Fate::stop, a, Status::executor_killed};
    }
    return {Fate::stop, a, Status::suspect};
}

bool convicts_probationer(DeathCause cause, std::size_t in_doubt, bool probationer_in_doubt,
                          std::uint32_t times_alone) {
    if (!probationer_in_doubt || in_doubt != 1) return false;
    return cause == DeathCause::unknown || (cause == DeathCause::killed && times_alone >= kKillsToConvict);
}

bool is_its_own(const Unrestorable& session) {
    const bool lack = session.status == Status::out_of_memory || session.status == Status::limit_reached;
    if (session.others_hold) return session.tries >= (lack ? kTriesOfLackBesideOthers : 1);
    return session.tries >= (lack ? kTriesOfLack : 2);
}

}  // namespace ringlaunch::supervisor
