// The system call behind schema/wakeup.hpp.
#include "schema/wakeup.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ringlaunch {

namespace {

long membarrier(int command) noexcept {
    return ::syscall(__NR_membarrier, command, 0, 0);
}

}  // namespace

bool membarrier_available() noexcept {
    const long commands = membarrier(MEMBARRIER_CMD_QUERY);
    return commands > 0 && (commands & MEMBARRIER_CMD_GLOBAL_EXPEDITED) != 0;
}

bool register_for_membarrier() noexcept {
    return membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0;
}

void barrier_before_sleep(bool with_membarrier) noexcept {
    // The call is a full barrier of the caller too. It cannot fail once the query said that it is there; if a
    // filter took it away since, the fence alone is what is left, and the reader's bounded sleep does the
    // rest.
    if (with_membarrier && membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0) return;
    StdMemory::full_fence();
}

}  // namespace ringlaunch
