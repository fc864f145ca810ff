#include "daemon/driver/graph_writers.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace ringlaunch::driver {

namespace {

// Longer than any pause within a backlog.
constexpr std::chrono::microseconds kAwake{500};
constexpr int kLooksPerClock = 256;

inline void pause_cpu() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

GraphWriters::GraphWriters(std::size_t threads, const std::function<void(std::size_t)>& begin) {
    try {
        for (std::size_t i = 0; i < std::min(threads, kMost); ++i) {
            threads_.emplace_back([this, i, begin] {
                begin(i);
                work(i);
            });
            ::pthread_setname_np(threads_.back().native_handle(), "rl-graphs");
        }
    } catch (...) {
        stop();
        throw;
    }
}

GraphWriters::~GraphWriters() {
    stop();
}

void GraphWriters::stop() noexcept {
    stopping_.store(true, std::memory_order_seq_cst);
    rings_.fetch_add(1, std::memory_order_seq_cst);
    rings_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

bool GraphWriters::awake() noexcept {
    // relaxed: a look. Who falls asleep behind it is not waited for: see finish().
    const auto sleeps = [](const Place& place) { return place.asleep.load(std::memory_order_relaxed); };
    if (std::none_of(places_.begin(), places_.end(), sleeps)) return true;
    rings_.fetch_add(1, std::memory_order_seq_cst);
    rings_.notify_all();
    return false;
}

void GraphWriters::give(std::size_t thread, const Task& task) noexcept {
    Place& place = places_[thread];
    place.task = task;
    place.state.store(State::given, std::memory_order_release);  // sync: TASK (pairs with run_given())
}

bool GraphWriters::finish(std::size_t thread) noexcept {
    Place& place = places_[thread];
    if (!run_given(place, kMost))
        // sync: DONE (pairs with run_given())
        while (place.state.load(std::memory_order_acquire) != State::done) pause_cpu();
    // relaxed: nobody else looks for more than that it is not given.
    place.state.store(State::none, std::memory_order_relaxed);
    return place.well;
}

// False: there is none that has not been begun.
bool GraphWriters::run_given(Place& place, std::size_t thread) noexcept {
    State seen = State::given;
    // sync: TASK (pairs with give()): the task is there, and this thread alone has it.
    if (!place.state.compare_exchange_strong(seen, State::begun, std::memory_order_acquire,
                                             std::memory_order_relaxed))
        return false;
    const Task& task = place.task;
    place.well = task.write(task.graphs, task.graph, task.launches, thread);
    place.state.store(State::done, std::memory_order_release);  // sync: DONE (pairs with finish())
    return true;
}

void GraphWriters::work(std::size_t thread) noexcept {
    Place& place = places_[thread];
    auto until = std::chrono::steady_clock::now() + kAwake;
    // relaxed: stop() rings, too.
    for (int looks = 0; !stopping_.load(std::memory_order_relaxed);) {
        // relaxed: run_given() reads it anew.
        if (place.state.load(std::memory_order_relaxed) == State::given && run_given(place, thread)) {
            until = std::chrono::steady_clock::now() + kAwake;
            looks = 0;
            continue;
        }
        pause_cpu();
        if (++looks < kLooksPerClock) continue;
        looks = 0;
        if (std::chrono::steady_clock::now() < until) continue;
        const std::uint32_t seen = rings_.load(std::memory_order_seq_cst);
        place.asleep.store(true, std::memory_order_seq_cst);
        // A ring from here on changes what was seen; one from before was for another sleep.
        if (!stopping_.load(std::memory_order_seq_cst)) rings_.wait(seen, std::memory_order_seq_cst);
        place.asleep.store(false, std::memory_order_seq_cst);
        until = std::chrono::steady_clock::now() + kAwake;
    }
}

}  // namespace ringlaunch::driver
