// Kernels that end a CUDA context, each in its own way; and one that does not.
#include <ringlaunch/kernel.h>

extern "C" __global__ void write_to(unsigned long long address) {
    *reinterpret_cast<volatile int*>(address) = 1;
}
RINGLAUNCH_EXPORT(write_to)

extern "C" __global__ void trap() {
    asm volatile("trap;");
}
RINGLAUNCH_EXPORT(trap)

extern "C" __global__ void add(unsigned* at, unsigned value) {
    *at += value;
}
RINGLAUNCH_EXPORT(add)
