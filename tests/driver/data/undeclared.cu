// What undeclared_sm120.cubin was made from: nvcc -cubin -arch=sm_120 undeclared.cu -o undeclared_sm120.cubin
// Kernels without a declaration; the second has more parameters than the older attribute can describe.
struct Huge {
    int words[1200];
};
extern "C" __global__ void plain(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
extern "C" __global__ void huge(int* out, Huge values, short last) {
    *out = values.words[*out] + last;
}
