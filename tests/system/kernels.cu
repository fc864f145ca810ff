// What the hostile client and its neighbour launch. A kernel that a hostile record may reach writes one byte
// and reads none, so that whatever parameters pass the checks, it runs to its end.
#include <ringlaunch/kernel.h>

// Order-sensitive: a launch that is lost, doubled or misplaced gives another result.
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) {
    *word = *word * a + b;
}
RINGLAUNCH_EXPORT(step)

extern "C" __global__ void touch(unsigned char* at, unsigned value, unsigned more) {
    if (at != nullptr) *at = static_cast<unsigned char>(value + more);
}
RINGLAUNCH_EXPORT(touch)

// Two slots.
extern "C" __global__ void touch_two(unsigned char* one, unsigned char* two, double value, unsigned more) {
    if (one != nullptr) *one = static_cast<unsigned char>(more);
    if (two != nullptr) *two = static_cast<unsigned char>(value > 1 ? 1 : 0);
}
RINGLAUNCH_EXPORT(touch_two)

// One without a declaration: what RINGLAUNCH_EXPORT makes, but for the signature.
extern "C" __global__ void undeclared(unsigned char* at) {
    if (at != nullptr) *at = 1;
}
extern "C" RINGLAUNCH_DEVICE_DATA const ringlaunch::kernel_abi::HostKernel ringlaunch_kernel_undeclared = {
    ringlaunch::kernel_abi::kHostKernelMagic, ringlaunch::kernel_abi::kHostAbiVersion,
    &ringlaunch::kernel_abi::Thunk<decltype(&undeclared), &undeclared>::run};
