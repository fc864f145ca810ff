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

// What the benchmarks of launching launch: words, two numbers, which word, one number more (gpu_work.hpp).
// Does nothing but where `a` is odd, so that launches of a kernel that does nothing can be checked.
extern "C" __global__ void seldom(unsigned* words, unsigned a, unsigned b, int at, float more) {
    if (a % 2 != 0) words[at] = words[at] * a + b + static_cast<unsigned>(more);
}
RINGLAUNCH_EXPORT(seldom)

// Takes `a` ticks: of the processor's clock on a GPU, nanoseconds on the host.
extern "C" __global__ void hold(unsigned* words, unsigned a, unsigned b, int at, float more) {
#if defined(__CUDACC__)
    const long long begin = clock64();
    while (clock64() - begin < a) {
    }
#else
    const unsigned long long begin = clock_ns();
    while (clock_ns() - begin < a) {
    }
#endif
    words[at] = words[at] * 1664525u + b + static_cast<unsigned>(more);
}
RINGLAUNCH_EXPORT(hold)

// By its last block alone, whatever the grid.
extern "C" __global__ void last_block(unsigned* words, unsigned a, unsigned b, int at, float more) {
    if (blockIdx.x + 1 == gridDim.x && threadIdx.x == 0)
        words[at] = words[at] * a + b + gridDim.x + static_cast<unsigned>(more);
}
RINGLAUNCH_EXPORT(last_block)

// 24 functions that differ, and functions of a pointer and so many numbers.
// clang-format off
#define MIX(k)                                                                                        \
    extern "C" __global__ void mix_##k(unsigned* words, unsigned a, unsigned b, int at, float more) { \
        words[at] = words[at] * (a + 2 * k) + b + static_cast<unsigned>(more);                        \
    }                                                                                                 \
    RINGLAUNCH_EXPORT(mix_##k)
MIX(0) MIX(1) MIX(2) MIX(3) MIX(4) MIX(5) MIX(6) MIX(7) MIX(8) MIX(9) MIX(10) MIX(11)
MIX(12) MIX(13) MIX(14) MIX(15) MIX(16) MIX(17) MIX(18) MIX(19) MIX(20) MIX(21) MIX(22) MIX(23)

#define NUMBERS4(p) , unsigned p##0, unsigned p##1, unsigned p##2, unsigned p##3
#define NUMBERS8(p) NUMBERS4(p##0) NUMBERS4(p##1)
#define NUMBERS16(p) NUMBERS8(p##0) NUMBERS8(p##1)
#define NUMBERS32(p) NUMBERS16(p##0) NUMBERS16(p##1)
#define NUMBERS64(p) NUMBERS32(p##0) NUMBERS32(p##1)
#define SUM4(p) + p##0 + p##1 + p##2 + p##3
#define SUM8(p) SUM4(p##0) SUM4(p##1)
#define SUM16(p) SUM8(p##0) SUM8(p##1)
#define SUM32(p) SUM16(p##0) SUM16(p##1)
#define SUM64(p) SUM32(p##0) SUM32(p##1)
#define SUMMING(count, numbers, sum)                                 \
    extern "C" __global__ void sum_##count(unsigned* word numbers) { \
        *word = *word * 1664525u + 1 sum;                            \
    }                                                                \
    RINGLAUNCH_EXPORT(sum_##count)
SUMMING(0, , )
SUMMING(4, NUMBERS4(n), SUM4(n))
SUMMING(8, NUMBERS8(n), SUM8(n))
SUMMING(16, NUMBERS16(n), SUM16(n))
SUMMING(32, NUMBERS32(n), SUM32(n))
SUMMING(64, NUMBERS64(n), SUM64(n))
    // clang-format on

    // Changes a word and tells a CPU that polls how far it is.
    extern "C" __global__
    void step_and_tell(unsigned* word, volatile unsigned* told, unsigned a, unsigned b) {
    *word = *word * a + b;
    *told = b;
}
RINGLAUNCH_EXPORT(step_and_tell)

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
