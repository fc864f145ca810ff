// The kernels of the daemon's tests, as a module for the host driver.
#include <ringlaunch/kernel.h>

extern "C" __global__ void scale(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
RINGLAUNCH_EXPORT(scale)

extern "C" __global__ void add(const float* x, const float* y, float* z, float factor, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) z[i] = x[i] + factor * y[i];
}
RINGLAUNCH_EXPORT(add)

extern "C" __global__ void crash(unsigned long long address) {
    *reinterpret_cast<volatile int*>(address) = 1;
}
RINGLAUNCH_EXPORT(crash)
