// The kernels of the client tests, for the host driver.
#include <ringlaunch/kernel.h>
#include <unistd.h>

struct Pair {
    float a;
    float b;
};

extern "C" __global__ void scale(float* x, float by, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
RINGLAUNCH_EXPORT(scale)

// log[(*count)++] = value: the order in which launches ran is what the log says.
extern "C" __global__ void append(unsigned* log, unsigned* count, unsigned value) {
    log[*count] = value;
    *count += 1;
}
RINGLAUNCH_EXPORT(append)

// What a rerun may repeat: the same word gets the same value.
extern "C" __global__ void store(unsigned* words, unsigned at, unsigned value) {
    words[at] = value;
}
RINGLAUNCH_EXPORT(store)

extern "C" __global__ void nap(unsigned ms) {
    ::usleep(ms * 1000);
}
RINGLAUNCH_EXPORT(nap)

// Waits until *gate is not 0, but not for ever.
extern "C" __global__ void gate(const volatile unsigned* gate_word) {
    for (int i = 0; i < 30000 && *gate_word == 0; ++i) ::usleep(1000);
}
RINGLAUNCH_EXPORT(gate)

extern "C" __global__ void five(unsigned* out, unsigned a, float b, double c, Pair d) {
    out[0] = a;
    out[1] = static_cast<unsigned>(b);
    out[2] = static_cast<unsigned>(c);
    out[3] = static_cast<unsigned>(d.a);
    out[4] = static_cast<unsigned>(d.b);
}
RINGLAUNCH_EXPORT(five)

extern "C" __global__ void none() {}
RINGLAUNCH_EXPORT(none)

extern "C" __global__ void crash(unsigned* address) {
    *address = 1;
}
RINGLAUNCH_EXPORT(crash)
