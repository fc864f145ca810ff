// Who faulted: finds the launches of a fault dump among those that the streams were given.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "daemon/driver/fault_dump.hpp"
#include "daemon/driver/launch_journal.hpp"

namespace ringlaunch::driver {

struct Culprit {
    std::string what;  // "CUDA_EXCEPTION_14, Warp Illegal Address at program counter 0x7f.. = write_to+0x70"
    // The launches that it may have been, of which nothing in the dump tells one from another: one, as a
    // rule.
    std::vector<FaultedLaunch> launches;
};

// One for each exception's place. `journals` stand as they were when the device fell: a launch that had not
// completed then, or else one that had.
std::vector<Culprit> find_culprits(const FaultDump& dump, std::span<const LaunchJournal* const> journals);

}  // namespace ringlaunch::driver
