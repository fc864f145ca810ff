#include "daemon/driver/host_fault.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>
#include <mutex>
#include <string>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
constexpr std::size_t kStackBytes = 64 * 1024;
// A fault this near to the end of the stack is its overflow: large frames step over the guard page.
constexpr std::uint64_t kOverflowBytes = 64 * 1024;

// Read by the handlers. `page` and `before` change only while no worker thread runs.
std::atomic<FaultPage*> page{nullptr};
std::atomic<bool> caught{false};  // the first fault wins
std::array<struct sigaction, kSignals.size()> before;

constexpr std::int64_t kNever = -1, kRunning = -2;
constexpr std::int64_t kOnItsWayMs = 1000;  // longer than a signal is
// The kernel that a worker thread runs or ran last, for a handler that runs on another thread: a signal that
// was sent with kill() is the process's, and comes on any thread, perhaps when the kernel has returned.
struct Worker {
    // relaxed, all of them: one may be newer than another, and what is said of it says so.
    std::atomic<std::uint64_t> stream{0}, position{0}, kernel{0};
    std::atomic<std::int64_t> ended_ms{kNever};
    Worker* next = nullptr;
};

thread_local Running running;
thread_local Worker worker;
Worker* workers = nullptr;  // under `workers_held`, a lock that a handler may try
std::atomic<bool> workers_held{false};
thread_local std::uint64_t stack_low = 0;  // the lowest address of this thread's stack; 0: unknown

// Text into the fault page without a call that a signal handler may not make.
class Writer {
  public:
    Writer(char* at, std::size_t room) : at_(at), end_(at + room - 1) { *at_ = 0; }
    Writer& text(const char* from) {
        while (*from != 0 && at_ < end_) *at_++ = *from++;
        *at_ = 0;
        return *this;
    }
    Writer& number(std::uint64_t value, unsigned base) {
        char digits[24];
        char* first = digits + sizeof(digits) - 1;
        *first = 0;
        do *--first = "0123456789abcdef"[value % base];
        while ((value /= base) != 0);
        return text(first);
    }

  private:
    char* at_;
    char* end_;
};

const char* signal_name(int signal) {
    switch (signal) {
        case SIGSEGV:
            return "SIGSEGV";
        case SIGBUS:
            return "SIGBUS";
        case SIGFPE:
            return "SIGFPE";
        case SIGILL:
            return "SIGILL";
        case SIGABRT:
            return "SIGABRT";
        case SIGTRAP:
            return "SIGTRAP";
        default:
            return "a signal";
    }
}

const char* explain(int signal, const siginfo_t& info, std::uint64_t address) {
    if (signal == SIGSEGV || signal == SIGBUS) {
        if (stack_low != 0 && address < stack_low + kOverflowBytes && address >= stack_low - kOverflowBytes)
            return " (its stack overflowed)";
        // The hardware reports no address for a pointer that no address space has.
        if (signal == SIGSEGV && info.si_code == SI_KERNEL) return " (an address that is not canonical)";
        return "";
    }
    if (signal == SIGFPE)
        return info.si_code == FPE_INTDIV ? " (integer division by zero, or its overflow)" : "";
    if (signal == SIGABRT) return " (abort(), a failed assert, or an exception that left the kernel)";
    if (signal == SIGILL || signal == SIGTRAP)
        return " (a trap, or an instruction that this CPU does not have)";
    return "";
}

// Everything but `text`, whose writer it returns.
Writer describe(FaultPage& to, int signal, std::uint64_t address) {
    to.signal = static_cast<std::uint32_t>(signal);
    to.stream = running.stream;
    to.position = running.position;
    to.kernel = running.kernel;
    to.address = address;
    return Writer(to.text, sizeof(to.text));
}

void name_running(Writer& to) {
    to.text(running.what);
    if (running.node >= 0)
        to.text(" (launch ").number(static_cast<std::uint64_t>(running.node), 10).text(" of a graph)");
    if (running.stream != 0) to.text(", record ").number(running.position, 10);
}

void publish(FaultPage& to) {
    // sync: FAULT (pairs with the supervisor's load once it has reaped this process). waitpid() orders all of
    // it; release only keeps the compiler from storing the kind before the rest, should another signal end
    // this handler. A model adds nothing.
    to.kind.store(static_cast<std::uint32_t>(FaultKind::signal), std::memory_order_release);
}

std::int64_t now_ms() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);  // a few ns
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// False: somebody holds them who does not let go, this thread perhaps.
bool hold_workers() {
    for (int i = 0; i < 1'000'000; ++i) {
        // sync: WORKERS (pairs with let_go_of_workers)
        if (!workers_held.exchange(true, std::memory_order_acquire)) return true;
        ::sched_yield();
    }
    return false;
}

void let_go_of_workers() {
    workers_held.store(false, std::memory_order_release);  // sync: WORKERS
}

// This process sent itself the signal, and not to one thread. It was a kernel that runs, or one that has just
// returned: where only one stream has such, it was that one's. False: there is none.
bool accuse_senders(FaultPage& to, int signal) {
    if (!hold_workers()) return false;
    const std::int64_t now = now_ms();
    std::uint32_t found = 0;
    for (const Worker* each = workers; each != nullptr; each = each->next) {
        const std::int64_t ended = each->ended_ms.load(std::memory_order_relaxed);
        if (ended == kNever || (ended != kRunning && now > ended + kOnItsWayMs)) continue;
        if (found < std::size(to.also))
            to.also[found] = {each->stream.load(std::memory_order_relaxed),
                              each->position.load(std::memory_order_relaxed),
                              each->kernel.load(std::memory_order_relaxed)};
        ++found;
    }
    let_go_of_workers();
    if (found == 0) return false;
    to.signal = static_cast<std::uint32_t>(signal);
    Writer text(to.text, sizeof to.text);
    text.text(signal_name(signal)).text(", sent to this process with kill() by ");
    const bool loads = running.what != nullptr && running.stream == 0;  // whose constructors may have done it
    if (found == 1 && !loads) {
        to.stream = to.also[0].stream;
        to.position = to.also[0].position;
        to.kernel = to.also[0].kernel;
        text.text("this kernel, or by one of its stream just before, record ").number(to.position, 10);
    } else {
        to.also_count = found;
        text.text("one of the kernels that were running");
        if (loads) text.text(", or in ").text(running.what);
    }
    publish(to);
    return true;
}

void die_of(int signal) {
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
    // Blocked while the handler runs: it acts when the handler returns, unless the fault itself comes first.
    ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), signal);
}

void hand_on(int signal, siginfo_t* info, void* context) {
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
        if (kSignals[i] != signal) continue;
        const struct sigaction& earlier = before[i];
        if ((earlier.sa_flags & SA_SIGINFO) != 0) return earlier.sa_sigaction(signal, info, context);
        if (earlier.sa_handler == SIG_IGN) return;
        if (earlier.sa_handler != SIG_DFL) return earlier.sa_handler(signal);
    }
    die_of(signal);
}

void on_fault(int signal, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    // A signal that another process sent says nothing about what runs here.
    const bool sent_from_outside = info->si_code <= 0 && info->si_pid != ::getpid();
    const bool sent_to_all = !sent_from_outside && (info->si_code == SI_USER || info->si_code == SI_QUEUE);
    // relaxed: set before any thread had something to blame.
    FaultPage* const to = page.load(std::memory_order_relaxed);
    if (sent_to_all && to != nullptr) {
        if (caught.exchange(true, std::memory_order_relaxed))  // relaxed: as below
            for (;;) ::pause();
        if (accuse_senders(*to, signal)) {
            die_of(signal);
            errno = saved_errno;
            return;
        }
        caught.store(false, std::memory_order_relaxed);  // relaxed: as below
    }
    if (running.what == nullptr || sent_from_outside) {
        hand_on(signal, info, context);
        errno = saved_errno;
        return;
    }
    // relaxed: only who is first matters; what it writes is published by publish().
    if (caught.exchange(true, std::memory_order_relaxed))
        for (;;) ::pause();  // the first one is about to end the process
    if (to != nullptr) {
        const auto address = info->si_code > 0 ? reinterpret_cast<std::uint64_t>(info->si_addr) : 0;
        Writer text = describe(*to, signal, address);
        text.text(signal_name(signal));
        if (signal == SIGSEGV || signal == SIGBUS) text.text(" at address 0x").number(address, 16);
        text.text(explain(signal, *info, address)).text(running.kernel != 0 ? " in kernel " : " in ");
        name_running(text);
        publish(*to);
    }
    die_of(signal);
    errno = saved_errno;
}

// Runs on the thread that called exit().
void on_exit_called() {
    // relaxed: as in on_fault.
    FaultPage* const to = page.load(std::memory_order_relaxed);
    if (running.what == nullptr || to == nullptr) return;
    if (caught.exchange(true, std::memory_order_relaxed))  // relaxed: as in on_fault
        for (;;) ::pause();
    Writer text = describe(*to, SIGABRT, 0);
    name_running(text.text(running.kernel != 0 ? "exit() called in kernel " : "exit() called in "));
    publish(*to);
    // Neither the exit status of the kernel's choice nor the destructors of a process whose threads still
    // run.
    die_of(SIGABRT);
}

}  // namespace

FaultCatcher::FaultCatcher(FaultPage* to) {
    // relaxed: worker threads begin later.
    page.store(to, std::memory_order_relaxed);
    caught.store(false, std::memory_order_relaxed);  // relaxed: as above
    if (to != nullptr) {
        static std::once_flag once;
        std::call_once(once, [] { std::atexit(on_exit_called); });
    }
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigemptyset(&action.sa_mask);
    for (std::size_t i = 0; i < kSignals.size(); ++i)
        if (::sigaction(kSignals[i], &action, &before[i]) != 0)
            throw Error(Status::internal_error, std::string("the host driver cannot catch ") +
                                                    signal_name(kSignals[i]) + ": " + std::strerror(errno));
}

FaultCatcher::~FaultCatcher() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before[i], nullptr);
    page.store(nullptr, std::memory_order_relaxed);  // relaxed: the worker threads have ended
}

FaultStack::FaultStack() {
    while (!hold_workers()) {
    }
    worker.next = workers;
    workers = &worker;
    let_go_of_workers();
    void* const at = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED) {
        stack_ = at;
        stack_t stack{};
        stack.ss_sp = stack_;
        stack.ss_size = kStackBytes;
        ::sigaltstack(&stack, &before_);
    }
    pthread_attr_t attributes;
    if (::pthread_getattr_np(::pthread_self(), &attributes) == 0) {
        void* low = nullptr;
        std::size_t bytes = 0;
        if (::pthread_attr_getstack(&attributes, &low, &bytes) == 0)
            stack_low = reinterpret_cast<std::uint64_t>(low);
        ::pthread_attr_destroy(&attributes);
    }
}

FaultStack::~FaultStack() {
    while (!hold_workers()) {
    }
    Worker** at = &workers;
    while (*at != &worker) at = &(*at)->next;
    *at = worker.next;
    let_go_of_workers();
    if (stack_ == nullptr) return;
    ::sigaltstack(&before_, nullptr);
    ::munmap(stack_, kStackBytes);
}

void set_running(const Running& now) noexcept {
    running.stream = now.stream;
    running.position = now.position;
    running.kernel = now.kernel;
    running.node = now.node;
    if (now.kernel != 0) {
        worker.stream.store(now.stream, std::memory_order_relaxed);
        worker.position.store(now.position, std::memory_order_relaxed);
        worker.kernel.store(now.kernel, std::memory_order_relaxed);
        worker.ended_ms.store(kRunning, std::memory_order_relaxed);
    }
    // The handler looks at `what` first.
    std::atomic_signal_fence(std::memory_order_release);
    running.what = now.what;
    std::atomic_signal_fence(std::memory_order_release);
}

void clear_running() noexcept {
    std::atomic_signal_fence(std::memory_order_release);
    running.what = nullptr;
    if (running.kernel != 0) worker.ended_ms.store(now_ms(), std::memory_order_relaxed);
}

}  // namespace ringlaunch::driver
