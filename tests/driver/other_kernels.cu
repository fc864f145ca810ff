// A second module with a kernel of the same name that does something else: it adds.
#include <ringlaunch/kernel.h>

extern "C" __global__ void scale(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] += by;
}
RINGLAUNCH_EXPORT(scale)
