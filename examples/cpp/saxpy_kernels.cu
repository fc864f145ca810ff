// Two kernels: plain CUDA C++, compiled by g++ for the host driver and by nvcc for a GPU.
#include <ringlaunch/kernel.h>

// y = a * x + y
extern "C" __global__ void saxpy(float* y, const float* x, float a, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] += a * x[i];
}
RINGLAUNCH_EXPORT(saxpy)

// x = 0, 1, 2, ...
extern "C" __global__ void count_up(float* x, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] = static_cast<float>(i);
}
RINGLAUNCH_EXPORT(count_up)
