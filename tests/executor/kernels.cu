// The kernels that the executor's process test loads: one object for the host and the null driver.
#include <ringlaunch/kernel.h>
#include <unistd.h>

extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned value) {
    log[*count] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)

// Holds its stream until somebody writes the word.
extern "C" __global__ void hold(const volatile unsigned* until) {
    while (*until == 0) usleep(200);
}
RINGLAUNCH_EXPORT(hold)
