// The kernels that the benchmarks launch. Compiled with g++ for the host and null drivers, with nvcc for
// CUDA.
#include <ringlaunch/kernel.h>

#if defined(__CUDACC__)
__device__ inline unsigned long long clock_ns() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}
#else
#include <time.h>
static unsigned long long clock_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<unsigned long long>(now.tv_sec) * 1000000000u +
           static_cast<unsigned long long>(now.tv_nsec);
}
#endif

// Three pointers and two numbers: the five parameters of every launch benchmark.
extern "C" __global__ void five(const float* x, const float* y, float* z, int n, float a) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) z[i] = a * x[i] + y[i];
}
RINGLAUNCH_EXPORT(five)

// Order-sensitive: two launches that change places give another result.
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) {
    *word = *word * a + b;
}
RINGLAUNCH_EXPORT(step)

// Keeps whoever runs it busy for so long.
extern "C" __global__ void busy(unsigned long long ns) {
    const unsigned long long begin = clock_ns();
    while (clock_ns() - begin < ns) {
    }
}
RINGLAUNCH_EXPORT(busy)

extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)

// The same with five parameters, all of which may change: which words, which of them, how.
extern "C" __global__ void mix(unsigned* words, unsigned a, unsigned b, int at, float more) {
    words[at] = words[at] * a + b + static_cast<unsigned>(more);
}
RINGLAUNCH_EXPORT(mix)

// What a benchmark changes in the image's bytes to have many modules that differ.
__device__ unsigned long long mark[1] = {0x6b72616d206e6c72};
extern "C" __global__ void marked(unsigned long long* out) {
    *out = *static_cast<volatile unsigned long long*>(mark);
}
RINGLAUNCH_EXPORT(marked)

// Seen by a CPU that polls memory of the host.
extern "C" __global__ void raise_flag(volatile unsigned* flag, unsigned value) {
    *flag = value;
    __threadfence_system();
}
RINGLAUNCH_EXPORT(raise_flag)
