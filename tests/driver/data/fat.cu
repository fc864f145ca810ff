// What fat_cubins.fatbin and fat_ptx.fatbin were made from, with CUDA 13.0; both are compressed:
//   nvcc -fatbin -std=c++17 -Xfatbin -compress-all -gencode arch=compute_80,code=sm_80
//     -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=compute_80 fat.cu -o
//     fat_cubins.fatbin
//   nvcc -fatbin -std=c++17 -Xfatbin -compress-all -gencode arch=compute_80,code=sm_80
//     -gencode arch=compute_80,code=compute_80 fat.cu -o fat_ptx.fatbin
// A device of sm_90 takes the cubin of the first and compiles the text of the second.

struct Triple {
    float x, y, z;
};

// Which of them it is.
extern "C" __global__ void compiled_for(unsigned* out) {
#if __CUDA_ARCH__ >= 900
    *out = 90;
#else
    *out = 80;
#endif
}

extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) {
    *word = *word * a + b;
}

extern "C" __global__ void mixed(double* out, signed char a, short b, Triple c, double d, bool e) {
    out[0] = a;
    out[1] = b;
    out[2] = static_cast<double>(c.x) + 10 * static_cast<double>(c.y) + 100 * static_cast<double>(c.z);
    out[3] = d;
    out[4] = e;
}
