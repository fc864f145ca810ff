// What same_results.cpp launches: kernels whose results tell order, parameters, grid, block and shared memory
// of every launch. Each thread writes words of its own only.
#include <ringlaunch/kernel.h>

struct Triple {
    float x, y, z;
};
struct Long {
    unsigned words[900];
};

static __device__ unsigned thread_number() {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    return block * (blockDim.x * blockDim.y * blockDim.z) + thread;
}
static __device__ unsigned dynamic_shared_bytes() {
#if defined(__CUDACC__)
    unsigned bytes;
    asm volatile("mov.u32 %0, %dynamic_smem_size;" : "=r"(bytes));
    return bytes;
#else
    return 0;
#endif
}

extern "C" __global__ void affine(unsigned* words, unsigned count, unsigned a, unsigned b) {
    const unsigned i = thread_number();
    if (i < count) words[i] = words[i] * a + b + i;
}
RINGLAUNCH_EXPORT(affine)

// From one place into another that does not overlap it.
extern "C" __global__ void gather(unsigned* out, const unsigned* in, unsigned count, unsigned stride) {
    const unsigned i = thread_number();
    if (i < count) out[i] = out[i] * 3 ^ in[i * stride % count];
}
RINGLAUNCH_EXPORT(gather)

extern "C" __global__ void shape(unsigned* word) {
    if (thread_number() != 0) return;
    unsigned sum = *word;
    sum = sum * 31 + gridDim.x;
    sum = sum * 31 + gridDim.y;
    sum = sum * 31 + gridDim.z;
    sum = sum * 31 + blockDim.x;
    sum = sum * 31 + blockDim.y;
    sum = sum * 31 + blockDim.z;
    *word = sum * 31 + dynamic_shared_bytes();
}
RINGLAUNCH_EXPORT(shape)

extern "C" __global__ void mixed(double* out, signed char a, short b, Triple c, double d, bool e,
                                 unsigned char f, long long g, unsigned h) {
    if (thread_number() != 0) return;
    out[0] = out[0] * 0.5 + a;
    out[1] = out[1] * 0.25 + b;
    out[2] = out[2] / 3 + static_cast<double>(c.x) + 10 * static_cast<double>(c.y) + static_cast<double>(c.z);
    out[3] = out[3] * 0.125 + d;
    out[4] = out[4] * 0.75 + (e ? 1 : 2);
    out[5] = out[5] * 0.75 + f;
    out[6] = out[6] * 0.5 + static_cast<double>(g);
    out[7] = out[7] * 0.5 + h;
}
RINGLAUNCH_EXPORT(mixed)

extern "C" __global__ void sum_long(unsigned* word, Long values) {
    if (thread_number() != 0) return;
    unsigned sum = *word;
    for (unsigned i = 0; i < 900; ++i) sum = sum * 5 + values.words[i];
    *word = sum;
}
RINGLAUNCH_EXPORT(sum_long)

extern "C" __global__ void scale(float* x, unsigned count, float by, float more) {
    const unsigned i = thread_number();
    if (i < count) x[i] = x[i] * by + more;
}
RINGLAUNCH_EXPORT(scale)

// A log: what came when.
extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned slots, unsigned value) {
    if (thread_number() != 0) return;
    log[*count % slots] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)

extern "C" __global__ void twelve(unsigned* words, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e,
                                  unsigned f, unsigned g, unsigned h, unsigned i, unsigned j, unsigned k) {
    const unsigned t = thread_number();
    if (t >= 11) return;
    const unsigned values[11] = {a, b, c, d, e, f, g, h, i, j, k};
    words[t] = words[t] * 7 + values[t];
}
RINGLAUNCH_EXPORT(twelve)

extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)
