// Reads how an executor died: from its exit status, its fault page, and what the supervisor did to it itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/driver/fault.hpp"
#include "daemon/supervisor/in_flight.hpp"
#include "daemon/supervisor/recovery.hpp"

namespace ringlaunch::supervisor {

// As waitid() says it.
struct ExitInfo {
    bool by_signal = false;
    int code = 0;  // signal or exit status
};

// Why the supervisor killed it, if it did.
struct OwnKill {
    bool done = false;
    std::string why;           // "it did not answer for 10000 ms"
    std::uint64_t stream = 0;  // whose work made it necessary; 0: not known
    bool late = false;         // streams' work did, though perhaps nobody knows which stream's
    bool abandoned = false;    // that work did not fault: nobody waits for it any more, and it does not end
    std::optional<RecordsInFlight> records = std::nullopt;  // of `stream`, where that is known
};

struct Death {
    DeathCause cause = DeathCause::unknown;
    std::uint64_t stream = 0;  // the culprit's, 0: not known
    std::uint64_t position = 0;
    std::uint64_t kernel = 0;
    std::optional<RecordsInFlight> records;  // the culprit's, where no driver named one
    // Launches of other streams that faulted with it. Where no culprit is known: the only ones that it can
    // have been; none: it can have been any.
    std::vector<driver::FaultedLaunch> also;
    // A fault was caught outside of every stream's work: what the control thread was doing is to blame.
    bool outside_streams = false;
    // What its control thread was loading: the module's key, and the session that brought it; 0: nothing.
    std::uint64_t module = 0, loader = 0;
    bool by_load = false;                 // and that did it
    bool by_daemon = false;               // the supervisor ended it
    bool device_lost = false;             // it found its device lost
    bool before_ready = false;            // it had run no stream's work yet
    std::vector<std::uint64_t> suspects;  // streams of which one may have done it, where nobody is known to
    std::string text;                     // "caught SIGSEGV at address 0x0", "was killed by SIGKILL"

    void put_down_to(std::uint64_t culprit, const RecordsInFlight& work) {
        stream = culprit;
        position = work.first;
        kernel = work.one() ? work.kernel : 0;
        records = work;
    }
    // May work in flight have ended it?
    bool of_its_work() const {
        return (cause == DeathCause::unknown || cause == DeathCause::killed) && !outside_streams &&
               !by_daemon;
    }
};

// A copy of what a dying executor left; it cannot be trusted to be sane.
struct FaultReport {
    driver::FaultKind kind = driver::FaultKind::none;
    int signal = 0;
    std::uint64_t stream = 0, position = 0, kernel = 0, address = 0;
    std::string text;
    std::vector<driver::FaultedLaunch> also;
};
FaultReport read_fault_page(const driver::FaultPage& page);

Death explain_death(const ExitInfo& exit, const FaultReport& fault, const OwnKill& own_kill);

// "SIGSEGV"
std::string signal_name(int signal);

}  // namespace ringlaunch::supervisor
