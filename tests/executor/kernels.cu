// The kernel that the executor's process test loads: one object for the host and the null driver.
#include <ringlaunch/kernel.h>

extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned value) {
    log[*count] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)
