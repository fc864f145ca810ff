// When to do what CUDA does only once the device is through with all that it has, while every launch waits
// (loading a module, letting go of memory of the host that is registered, a larger stack; 280 ms beside a
// kernel of 300 ms, H200, CUDA 13.0): where there is little on the device. Who asked for it waits, rather
// than everybody else.
//
// A round tells how much there is: how long what was on the device when it began takes. Where that is little,
// everything that waits is done. Where the device is never without much to do, it is done after a while all
// the same, behind a round; where a round does not end, because a kernel does not, never.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

namespace ringlaunch::executor {

// Control thread only.
class Lull {
  public:
    static constexpr std::uint64_t kLittleNs = 20'000'000;
    static constexpr std::uint64_t kPatienceNs = 2'000'000'000;
    static constexpr std::uint64_t kGiveUpNs = 30'000'000'000;

    // `idle`: is nothing on the device? `begin_round`: round_over() is to be called when what is on it now is
    // through.
    Lull(std::function<bool()> idle, std::function<void()> begin_round)
        : idle_(std::move(idle)), begin_round_(std::move(begin_round)) {}

    // Neither throws. Without `give_up` it waits for as long as it takes.
    struct Task {
        std::function<void()> run;
        std::function<void()> give_up = nullptr;
    };
    // At once, where nothing is on the device.
    void put_off(Task task, std::uint64_t now_ns);
    void round_over(std::uint64_t now_ns);
    // Gives up what has waited for too long. Returns the ms until it wants to be called again; -1: no need.
    int tick(std::uint64_t now_ns);
    // Whatever is on the device.
    void run_all();
    std::size_t waiting() const { return waiting_.size(); }

  private:
    struct Waiting {
        Task task;
        std::uint64_t since_ns;
    };
    void begin_round(std::uint64_t now_ns);

    std::function<bool()> idle_;
    std::function<void()> begin_round_;
    std::deque<Waiting> waiting_;
    bool in_round_ = false;
    std::uint64_t round_began_ns_ = 0;
};

}  // namespace ringlaunch::executor
