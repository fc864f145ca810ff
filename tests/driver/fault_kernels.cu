// Kernels that raise each signal a fault can raise, for the host driver.
#include <ringlaunch/kernel.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

extern "C" __global__ void write_to(unsigned long long address) {
    *reinterpret_cast<volatile int*>(address) = 1;
}
RINGLAUNCH_EXPORT(write_to)

extern "C" __global__ void divide(int* out, int by) {
    *out = 100 / by;
}
RINGLAUNCH_EXPORT(divide)

extern "C" __global__ void trap() {
    __builtin_trap();
}
RINGLAUNCH_EXPORT(trap)

extern "C" __global__ void call_abort() {
    abort();
}
RINGLAUNCH_EXPORT(call_abort)

extern "C" __global__ void throw_out() {
    throw std::runtime_error("out of the kernel");
}
RINGLAUNCH_EXPORT(throw_out)

extern "C" __global__ void call_exit() {
    exit(0);
}
RINGLAUNCH_EXPORT(call_exit)

// A page of a file that has ended raises SIGBUS.
extern "C" __global__ void past_the_file() {
    const int fd = memfd_create("empty", 0);
    void* const at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *static_cast<volatile int*>(at) = 1;
}
RINGLAUNCH_EXPORT(past_the_file)

__attribute__((noinline)) static int deeper(int depth) {
    volatile char frame[256];
    memset(const_cast<char*>(frame), depth, sizeof(frame));
    return depth < 0 ? 0 : deeper(depth + 1) + frame[depth & 255];
}
extern "C" __global__ void overflow_stack(int* out) {
    *out = deeper(0);
}
RINGLAUNCH_EXPORT(overflow_stack)

// To the process, not to this thread: whoever gets it gets it later.
extern "C" __global__ void send(int signal) {
    kill(getpid(), signal);
}
RINGLAUNCH_EXPORT(send)
