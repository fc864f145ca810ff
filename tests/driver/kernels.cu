// The kernels of the driver tests, compiled with g++ for the host driver and with nvcc for a GPU.
#include <ringlaunch/kernel.h>

struct Triple {
    float x, y, z;
};
struct Long {
    unsigned words[1000];
};

// log[(*count)++] = value; one thread. The order in which launches ran is what the log says. Launched
// programmatically, it waits for the launch ahead of it.
extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    log[*count] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)

extern "C" __global__ void scale(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
RINGLAUNCH_EXPORT(scale)

// One word of out for each parameter after it.
extern "C" __global__ void mixed(double* out, signed char a, short b, Triple c, double d, bool e,
                                 unsigned char f, long long g, unsigned h) {
    out[0] = a;
    out[1] = b;
    out[2] = static_cast<double>(c.x) + 10 * static_cast<double>(c.y) + 100 * static_cast<double>(c.z);
    out[3] = d;
    out[4] = e;
    out[5] = f;
    out[6] = static_cast<double>(g);
    out[7] = h;
}
RINGLAUNCH_EXPORT(mixed)

// Each thread of each block writes its own number, counted from its indices.
extern "C" __global__ void indices(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
    out[i] = i + 1;
}
RINGLAUNCH_EXPORT(indices)

extern "C" __global__ void count_up(unsigned* at) {
    atomicAdd(at, 1u);
}
RINGLAUNCH_EXPORT(count_up)

// Every atomic once, on words that a test looks at.
extern "C" __global__ void atomics(int* words, float* real) {
    atomicAdd(&words[0], 5);
    atomicSub(&words[1], 5);
    atomicExch(&words[2], 7);
    atomicCAS(&words[3], 0, 9);
    atomicMin(&words[4], -3);
    atomicMax(&words[5], 3);
    atomicAdd(real, 0.5f);
}
RINGLAUNCH_EXPORT(atomics)

extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)

extern "C" __global__ void sum_long(unsigned long long* out, Long values) {
    unsigned long long sum = 0;
    for (unsigned i = 0; i < 1000; ++i) sum += values.words[i];
    *out = sum;
}
RINGLAUNCH_EXPORT(sum_long)

// Holds its stream until somebody writes the word.
extern "C" __global__ void hold(const volatile unsigned* until) {
    while (*until == 0) {
    }
}
RINGLAUNCH_EXPORT(hold)
