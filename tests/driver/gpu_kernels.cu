// Kernels that only a GPU can have, or that end a CUDA context.
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

// out[i] = n - 1 - i, by way of n words of dynamic shared memory; one block.
extern "C" __global__ void through_shared(unsigned* out, unsigned n) {
    extern __shared__ unsigned words[];
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) words[i] = i;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) out[i] = words[n - 1 - i];
}
RINGLAUNCH_EXPORT(through_shared)
