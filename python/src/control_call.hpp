// Calls that talk to the daemon's control socket: with the interpreter lock released, and answering Ctrl-C.
//
// The library blocks in such a call until the daemon answers or dies. Python's signal handlers run on its
// main thread, so there the call is made by a helper thread and waited for in slices; when a handler raises,
// the helper is left to finish by itself. It owns all that it uses.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <ringlaunch/error.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "wait.hpp"

namespace ringlaunch::python {

bool on_main_thread();

// Returns call(), or throws what it threw (ringlaunch::Error), or error_already_set. `call` must own what it
// captures and touch nothing of Python.
template <class Call>
auto control_call(Call call) {
    using Result = decltype(call());
    struct Shared {
        std::mutex mutex;
        std::condition_variable changed;
        std::optional<Result> result;
        std::exception_ptr failure;
    };
    auto shared = std::make_shared<Shared>();
    auto run = [shared, call = std::move(call)]() mutable {
        std::optional<Result> result;
        std::exception_ptr failure;
        try {
            result.emplace(call());
        } catch (...) {
            failure = std::current_exception();
        }
        const std::lock_guard lock(shared->mutex);
        shared->result = std::move(result);
        shared->failure = failure;
        shared->changed.notify_all();
    };
    if (on_main_thread()) {
        try {
            std::thread(std::move(run)).detach();
        } catch (const std::system_error& error) {
            throw Error(Status::limit_reached,
                        std::string("this process gets no thread to ask the daemon with: ") +
                            error.code().message() + "; raise its limit (ulimit -u), or end threads");
        }
        Status status = Status::ok;
        const bool finished = wait_in_slices(
            [&](std::uint64_t slice_ns) {
                std::unique_lock lock(shared->mutex);
                const bool done = shared->changed.wait_for(lock, std::chrono::nanoseconds(slice_ns), [&] {
                    return shared->result.has_value() || shared->failure != nullptr;
                });
                return done ? Status::ok : Status::timed_out;
            },
            std::nullopt, status);
        if (!finished) throw pybind11::error_already_set();
    } else {
        PyThreadState* state = PyEval_SaveThread();
        run();
        PyEval_RestoreThread(state);
    }
    if (shared->failure) std::rethrow_exception(shared->failure);
    return std::move(*shared->result);
}

}  // namespace ringlaunch::python
