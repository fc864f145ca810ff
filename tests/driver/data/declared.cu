// What declared_sm90.cubin was made from: nvcc -cubin -arch=sm_90 -I<include> declared.cu -o
// declared_sm90.cubin Kernels with all that an image can say about them.
#include <ringlaunch/kernel.h>

struct Triple {
    float x, y, z;
};
struct Long {
    int words[200];
};

extern "C" __global__ void __launch_bounds__(256)
    mixed(float* out, signed char a, short b, Triple c, double d, bool e, unsigned char f) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = static_cast<float>(a + b + f) + c.x * c.y + c.z + static_cast<float>(e ? d : -d);
}
RINGLAUNCH_EXPORT(mixed)

extern "C" __global__ void nothing() {}
RINGLAUNCH_EXPORT(nothing)

extern "C" __global__ void long_struct(int* out, Long values) {
    *out = values.words[*out];
}
RINGLAUNCH_EXPORT(long_struct)

extern "C" __global__ void __block_size__((64, 2, 1)) fixed_block(int* out) {
    __shared__ int tile[128];
    tile[threadIdx.x + 64 * threadIdx.y] = out[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[127 - threadIdx.x];
}
RINGLAUNCH_EXPORT(fixed_block)
