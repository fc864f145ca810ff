// The kernels that the benchmarks launch. Compiled with g++ for the host and null drivers, with nvcc for
// CUDA.
#include <ringlaunch/kernel.h>

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

extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)
