// Waiting that releases the interpreter lock and answers signals.
//
// Whoever waits with the lock released may find the interpreter gone when it wants the lock back: before
// Python 3.14 the thread then ends by a forced unwinding. So the lock is taken back in plain functions, never
// in a destructor.
#pragma once

#include <Python.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <ringlaunch/ringlaunch.hpp>

namespace ringlaunch::python {

// How late a signal (Ctrl-C) may be answered.
inline constexpr std::uint64_t kWaitSliceNs = 20'000'000;

inline std::uint64_t monotonic_ns() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::steady_clock::now().time_since_epoch())
                                          .count());
}

// Calls `wait(slice_ns)`, which must not touch Python, until it answers something else than timed_out or the
// timeout is over. False: a signal handler raised; the Python error is set.
template <class Wait>
bool wait_in_slices(Wait&& wait, std::optional<std::uint64_t> timeout_ns, Status& out) {
    const std::uint64_t begin = monotonic_ns();
    while (true) {
        std::uint64_t slice = kWaitSliceNs;
        if (timeout_ns) {
            const std::uint64_t spent = monotonic_ns() - begin;
            slice = spent >= *timeout_ns ? 0 : std::min(slice, *timeout_ns - spent);
        }
        PyThreadState* state = PyEval_SaveThread();
        const Status status = wait(slice);
        PyEval_RestoreThread(state);
        if (PyErr_CheckSignals() != 0) return false;
        if (status != Status::timed_out) {
            out = status;
            return true;
        }
        if (timeout_ns && monotonic_ns() - begin >= *timeout_ns) {
            out = Status::timed_out;
            return true;
        }
    }
}

}  // namespace ringlaunch::python
