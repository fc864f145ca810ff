// What a restart does to a stream: the table of law 6, as a pure function of the stream and of how its
// executor died.
#pragma once

#include <cstddef>
#include <cstdint>

#include "schema/status.hpp"

namespace ringlaunch::supervisor {

// How an executor died, as far as its streams are concerned.
enum class DeathCause {
    culprit_known,   // a stream's record did it, and we know whose
    unknown,         // it died of itself and nobody knows whose record did it
    killed,          // by a signal that no fault raises: from outside, or by a kernel itself
    abandoned_work,  // by the daemon, for work that a closed stream left behind and that did not end
};

struct StreamAtDeath {
    bool culprit = false;
    std::uint64_t completed = 0;  // A
    std::uint64_t issued = 0;     // B
    bool rerun = false;           // what the stream chose at its creation
    // It had stopped across an earlier restart and nobody has resumed it: A and B are those of that restart.
    bool stopped_by_restart = false;
    // It had stopped at a record of its own that was refused.
    bool refused = false;
    // An earlier death left it a suspect whose rerun has not come to its end.
    bool suspect = false;

    bool in_doubt() const { return issued > completed; }
};

enum class Fate {
    go_on,  // runs from `position` by itself
    hold,   // runs from `position`, once it is its turn: a suspect is rerun alone
    stop,   // `status` says why; its owner resumes or closes it
    stay,   // it was stopped and stays so, for the reason it had
};

struct Decision {
    Fate fate = Fate::go_on;
    std::uint64_t position = 0;  // where the next epoch takes the stream up
    Status status = Status::ok;  // of a stop
    friend bool operator==(const Decision&, const Decision&) = default;
};

Decision decide(DeathCause cause, const StreamAtDeath& stream);

// A death without a culprit, while one suspect was rerun and nothing else was in doubt: that suspect did it.
// Of a signal that may have come from outside it did so when it was alone at kKillsToConvict deaths at the
// same record. `in_doubt`: streams with work in doubt (or suspects that were running),
// `probationer_in_doubt`: the one being rerun, `times_alone`: this death included.
inline constexpr std::uint32_t kKillsToConvict = 3;
bool convicts_probationer(DeathCause cause, std::size_t in_doubt, bool probationer_in_doubt,
                          std::uint32_t times_alone);

// A session that the next executor could not be set up with, while other sessions of it could be.
struct Unrestorable {
    Status status = Status::ok;  // of what was refused
    std::uint32_t tries = 0;     // that failed so in a row, this one included
    bool others_hold = false;    // another session that was restored holds something of the device
};
// Whether that is for the session alone to bear. What is lacking now (memory, descriptors) may be there in a
// moment, so that is waited for, though not for long where others that hold something could go on: it goes on
// trying in an executor of its own, and loses nothing. A device that fails for good refuses whoever holds
// something of it: where nobody else does, the driver has to be usable once more.
inline constexpr std::uint32_t kTriesOfLack = 8;
inline constexpr std::uint32_t kTriesOfLackBesideOthers = 4;
bool is_its_own(const Unrestorable& session);

}  // namespace ringlaunch::supervisor
