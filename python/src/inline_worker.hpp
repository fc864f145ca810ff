// The thread that issues what a region's ring holds, so that the thread in the region does not.
//
// It never takes the interpreter lock. It spins for a while, where there are processors for that, as long as
// the region lasts, and sleeps otherwise. Who waits for the ring (a region that is left, a ring that is full)
// does not wait for this thread to be woken, but issues by itself what it has not begun.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "inline_ring.hpp"

namespace ringlaunch::python {

// What launches. Called by one thread at a time: whoever holds the worker's lock.
class Issuer {
  public:
    virtual ~Issuer() = default;
    // Why a launch did not happen.
    struct Refusal {
        std::string kernel;  // its name: the kernel itself may be gone before anybody asks
        int result = 0;
    };
    // Launches in order. How many happened; fewer: `why` is of the next one.
    virtual std::size_t issue(std::span<LaunchRing::Entry* const> entries, Refusal& why) noexcept = 0;
};

class LaunchWorker {
  public:
    // The longest chain.
    static constexpr std::size_t kMostAtOnce = 64;
    static constexpr std::size_t kRingLines = 2048;
    // How long an idle worker spins in a region, and how long somebody tries before he sleeps for a lock.
    static constexpr std::uint64_t kSpinNs = 200'000;
    // Launches wait for so many lines of them, most of which are a chain of 64, but no longer than this; and
    // longer while the device is busy with what it was given, at what launches that do nothing take in a
    // launch graph (measured on an H200). Given one by one they would be run one by one, more slowly than
    // they come; and a program that does the same again gets the same chains again. Who waits for launches
    // waits for none of this.
    static constexpr std::uint64_t kEnoughLines = 64;
    static constexpr std::uint64_t kGatherNs = 30'000;
    static constexpr std::uint64_t kDeviceNs = 500;

    struct Failure {
        Issuer::Refusal why;
        Dim3 grid;
        std::uint64_t dropped = 0;  // launches behind it, which did not happen either
    };

    // `issuer` lives longer. The thread starts with the first region.
    explicit LaunchWorker(Issuer& issuer, std::size_t ring_lines = kRingLines);
    ~LaunchWorker() { stop(); }
    LaunchWorker(const LaunchWorker&) = delete;
    LaunchWorker& operator=(const LaunchWorker&) = delete;

    LaunchRing& ring() noexcept { return ring_; }

    // ---- the thread in the region

    // False: there is no thread to be had; whoever waits issues.
    bool begin() noexcept;
    void end() noexcept;  // spins no longer
    void publish(const LaunchRing::Entry& entry) noexcept {
        ring_.publish(entry);
        if (must_fence_) [[unlikely]]
            std::atomic_thread_fence(std::memory_order_seq_cst);
        // relaxed: it decides only about waking; the sleeper's barrier orders it (sleep()).
        if (asleep_.load(std::memory_order_relaxed) != 0) [[unlikely]]
            wake();
    }
    // relaxed: a hint; the failure itself is read once all is issued.
    bool failed() const noexcept { return failed_.load(std::memory_order_relaxed); }
    // What has failed, if all is issued; the launches from here on happen again. None: nothing has.
    std::optional<Failure> take_failure() noexcept;

    // ---- whoever may wait, without the interpreter lock

    // Until all that was published is issued.
    void drain() noexcept;
    // Until half of the ring is issued.
    void make_room() noexcept;
    // While it is held nothing is issued.
    std::unique_lock<std::mutex> pause() { return std::unique_lock(issuing_); }
    void stop() noexcept;

  private:
    void run() noexcept;
    bool sleep() noexcept;
    void wake() noexcept;
    bool issue_some() noexcept;
    template <class Done>
    void await(const Done& done, bool at_once) noexcept;

    LaunchRing ring_;
    // What the producer looks at for each launch stands apart from what changes with each batch.
    alignas(128) std::atomic<std::uint32_t> asleep_{0};
    std::atomic<bool> failed_{false};
    std::atomic<bool> spins_{false};
    std::atomic<bool> stops_{false};
    const bool few_processors_;
    const bool must_fence_;
    alignas(128) std::mutex issuing_;  // guards the consumer's side: issuer_, failure_
    Issuer& issuer_;
    std::optional<Failure> failure_;
    std::atomic<std::uint64_t> busy_until_ns_{0};  // the device, at least
    std::thread thread_;
};

}  // namespace ringlaunch::python
