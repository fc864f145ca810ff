// A module that kills whoever loads it.
#include <ringlaunch/kernel.h>

extern "C" __global__ void never_run() {}
RINGLAUNCH_EXPORT(never_run)

__attribute__((constructor)) static void on_load() {
    *reinterpret_cast<volatile int*>(8) = 1;
}
