// Executes this program again from a sealed copy of itself that may be executed and not read.
//
// exec makes a process dumpable, whatever it was before, and until it has said otherwise another process of
// the same user may open its /proc/PID/mem, and keep that. Of a file that its user may not read, exec makes a
// process that is not dumpable from its first instruction on; so are the executors, which are executed from
// the same file.
#pragma once

#include <string>

namespace ringlaunch::supervisor {

// Does not return where it executed the program again. Otherwise says why it could not; empty: there is
// nothing to gain, because this process is such a one already, or because its user may read every file. Call
// it first thing: before threads, and before descriptors are marked to be closed on exec.
std::string execute_sealed(char* const* argv);

}  // namespace ringlaunch::supervisor
