// Who is running on this thread, and what a fault of theirs leaves behind: the signal handlers of the host
// driver.
#pragma once

#include <csignal>
#include <cstdint>

#include "daemon/driver/fault.hpp"

namespace ringlaunch::driver {

// What a thread is doing for a stream. Written by that thread, read by the signal handler that runs on it.
struct Running {
    std::uint64_t stream = 0;
    std::uint64_t position = 0;
    std::uint64_t kernel = 0;    // id in the session; 0: no kernel
    const char* what = nullptr;  // the kernel's name, or what else is done; null: nothing that can be blamed
    std::int64_t node = -1;      // of a graph; negative: it is none of one
};

// Catches the signals that a fault raises (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP) and exit(), in
// the whole process. On a thread with something to blame it fills the fault page; then the process dies by
// that signal. A fault elsewhere goes on to whoever caught the signal before. _exit() cannot be caught. A
// signal that a kernel sent with kill() comes on any thread, and may come when the kernel has returned: then
// the only stream that can have sent it is named, or all that can as suspects.
class FaultCatcher {
  public:
    explicit FaultCatcher(FaultPage* page);  // may be null; one catcher in a process at a time
    ~FaultCatcher();
    FaultCatcher(const FaultCatcher&) = delete;
    FaultCatcher& operator=(const FaultCatcher&) = delete;
};

// Of a worker thread: a stack for its handlers, so that a stack overflow can be caught, too, and a place
// among those that may have sent a signal.
class FaultStack {
  public:
    FaultStack();
    ~FaultStack();
    FaultStack(const FaultStack&) = delete;
    FaultStack& operator=(const FaultStack&) = delete;

  private:
    void* stack_ = nullptr;
    stack_t before_{};  // a sanitizer gives its threads one
};

// Names what this thread does until it is destroyed, or cleared. The stores are a few plain ones.
void set_running(const Running& running) noexcept;
void clear_running() noexcept;

}  // namespace ringlaunch::driver
