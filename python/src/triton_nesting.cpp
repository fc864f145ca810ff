#include "triton_nesting.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "triton_kernel.hpp"

namespace ringlaunch::python::triton {

namespace {

// What a call may leave of its thread's stack to the Python code that it runs, which may compile: so much, or
// this part of a small stack.
constexpr std::size_t kStackLeft = 1 << 20;
constexpr std::size_t kStackPart = 4;

struct Stack {
    std::uintptr_t lowest = 0;
    std::size_t bytes = 0;  // 0: nothing is known of it
};

Stack stack_of_thread() noexcept {
    Stack found;
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return found;
    void* lowest = nullptr;
    std::size_t bytes = 0;
    if (pthread_attr_getstack(&attributes, &lowest, &bytes) == 0)
        found = {reinterpret_cast<std::uintptr_t>(lowest), bytes};
    pthread_attr_destroy(&attributes);
    return found;
}

}  // namespace

[[gnu::noinline]] bool may_nest(PyObject* kernel) {
    thread_local const Stack stack = stack_of_thread();
    const std::uintptr_t here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    const std::size_t left = here - stack.lowest;
    if (left >= std::min(kStackLeft, stack.bytes / kStackPart)) [[likely]]
        return true;
    PyErr_Format(
        PyExc_RecursionError,
        "kernel '%s': maximum recursion depth exceeded: the function of a grid, or an argument, calls "
        "kernels within calls of kernels, until there is no more stack",
        kernel_name(kernel).c_str());
    return false;
}

}  // namespace ringlaunch::python::triton
