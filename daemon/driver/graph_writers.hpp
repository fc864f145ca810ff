// Threads that write launch graphs for the dispatch thread, which launches them in their order: where each
// node gets another kernel, writing a graph costs more than launching it.
//
// They look for work without a pause while there is some, and sleep soon after: whoever has work asks first
// whether they are awake. A task that its thread does not begin in time is done by who gave it, so that
// nobody waits for a thread that the OS does not let run.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace ringlaunch::driver {

struct Launch;

class GraphWriters {
  public:
    static constexpr std::size_t kMost = 4;
    // Two get what can be had: CUDA's own lock is what they wait for.
    static constexpr std::size_t kAsRule = 2;
    // As many as a machine of so many processors has room for, beside a dispatch thread and clients.
    static std::size_t as_rule(std::size_t processors) noexcept { return processors >= 6 ? kAsRule : 0; }

    // `begin(thread)` is the first that each of them does. Throws std::system_error.
    GraphWriters(std::size_t threads, const std::function<void(std::size_t)>& begin);
    ~GraphWriters();
    GraphWriters(const GraphWriters&) = delete;
    GraphWriters& operator=(const GraphWriters&) = delete;

    // Writes `launches` into `graph`, one of `graphs`; `thread`: who does it, kMost for who gave it.
    struct Task {
        bool (*write)(void* graphs, void* graph, std::span<const Launch> launches,
                      std::size_t thread) noexcept = nullptr;
        void* graphs = nullptr;
        void* graph = nullptr;
        std::span<const Launch> launches{};
    };

    // All of these: one thread, as a rule the dispatch thread.

    std::size_t threads() const noexcept { return threads_.size(); }
    // False: some sleep, and are being woken (a system call) for the next time.
    [[nodiscard]] bool awake() noexcept;
    // To the thread of that number, which has none.
    void give(std::size_t thread, const Task& task) noexcept;
    // Until what was given there is done; false where that failed.
    [[nodiscard]] bool finish(std::size_t thread) noexcept;

  private:
    enum class State : std::uint32_t { none, given, begun, done };
    struct alignas(128) Place {
        std::atomic<State> state{State::none};
        std::atomic<bool> asleep{false};
        bool well = false;
        Task task;
    };

    void work(std::size_t thread) noexcept;
    bool run_given(Place& place, std::size_t thread) noexcept;
    void stop() noexcept;

    std::array<Place, kMost> places_;
    std::atomic<std::uint32_t> rings_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

}  // namespace ringlaunch::driver
