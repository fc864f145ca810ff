// What the restart tests launch: kernels that log, hold, and die in every way.
#include <ringlaunch/kernel.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../daemon/driver/fault.hpp"

// log[(*count)++] = value
extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned value) {
    log[*count] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)

// to[0] = from[0] + by: the same however often it runs.
extern "C" __global__ void add(unsigned* to, const unsigned* from, unsigned by) {
    *to = *from + by;
}
RINGLAUNCH_EXPORT(add)

// Holds its stream until somebody writes the word.
extern "C" __global__ void hold(const volatile unsigned* until) {
    while (*until == 0) usleep(200);
}
RINGLAUNCH_EXPORT(hold)

// Takes its time.
extern "C" __global__ void nap(unsigned* count, unsigned ms) {
    usleep(ms * 1000);
    *count += 1;
}
RINGLAUNCH_EXPORT(nap)

extern "C" __global__ void crash(unsigned* nowhere) {
    *nowhere = 1;
}
RINGLAUNCH_EXPORT(crash)

extern "C" __global__ void divide(int* out, int by) {
    *out = 100 / by;
}
RINGLAUNCH_EXPORT(divide)

// Ends the process without a word of who did it.
extern "C" __global__ void vanish() {
    _exit(3);
}
RINGLAUNCH_EXPORT(vanish)

// The same, once another stream is at work too.
extern "C" __global__ void vanish_when(const volatile unsigned* ready) {
    while (*ready == 0) usleep(200);
    _exit(3);
}
RINGLAUNCH_EXPORT(vanish_when)

// To the process, as from outside, or to this thread.
extern "C" __global__ void signal_itself(int signal, int thread) {
    if (thread)
        raise(signal);
    else
        kill(getpid(), signal);
}
RINGLAUNCH_EXPORT(signal_itself)

// Leaves word of a device that failed of a launch of `stream`, as a fault dump has it, and ends the process.
extern "C" __global__ void accuse(unsigned long long stream) {
    using namespace ringlaunch::driver;
    FILE* const maps = fopen("/proc/self/maps", "r");
    if (maps == nullptr) _exit(3);
    char line[512];
    unsigned long long from = 0;
    while (from == 0 && fgets(line, sizeof line, maps) != nullptr)
        if (strstr(line, "memfd:") != nullptr && strstr(line, "fault") != nullptr)
            sscanf(line, "%llx-", &from);
    if (from == 0) _exit(4);
    FaultPage& page = *reinterpret_cast<FaultPage*>(from);
    page.stream = stream;
    page.kind.store(static_cast<unsigned>(FaultKind::device));
    _exit(kExitDeviceLost);
}
RINGLAUNCH_EXPORT(accuse)

// Ends the process as somebody outside would.
extern "C" __global__ void kill_itself() {
    kill(getpid(), SIGKILL);
    pause();
}
RINGLAUNCH_EXPORT(kill_itself)
