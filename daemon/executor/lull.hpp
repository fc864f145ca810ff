// When to do what CUDA does only once the device is through with all that it has, while every launch waits
// (loading a module, letting go of memory of the host that is registered; 280 ms beside a kernel of 300 ms,
// H200, CUDA 13.0): when the device is empty. Who asked for it waits for that, rather than everybody else.
//
// It is made empty: nothing more is issued until it is through, for 20 ms at most. Where that is not enough,
// all go on, but shallow: a stream gives the device a millisecond's work, or one record, at a time, and
// nothing more before that is through (burst.hpp). So long queues run off while nobody is held up. Once what
// was on the device is through, and not before three times as long as the try took, it is tried again, for
// twice as long: what is there now is no more than each stream's one burst. So others are held up for a
// quarter of the time at most, and for a kernel that does not end nobody waits but who asked (after 30 s of
// it all go on as ever, until it has ended).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

namespace ringlaunch::executor {

// Control thread only.
class Lull {
  public:
    static constexpr std::uint64_t kFirstTryNs = 20'000'000;
    static constexpr std::uint64_t kLongestTryNs = 5'000'000'000;
    // After a try, and after what was done took its time: so many times as long everybody goes on.
    static constexpr std::uint64_t kPausesPerTry = 3;
    // What waits is done for so long at a time: the supervisor wants to be answered.
    static constexpr std::uint64_t kSliceNs = 50'000'000;
    static constexpr std::uint64_t kGiveUpNs = 30'000'000'000;

    // The device's side. Nothing of it throws.
    struct Device {
        std::function<void()> hold;   // nothing more is issued
        std::function<void()> go_on;  // as before `hold`
        std::function<void(bool)> keep_shallow;
        std::function<bool()> idle;  // is nothing on the device?
        // Calls emptied() with the number once what is on the device now is through.
        std::function<void(std::uint64_t)> await_empty;
        std::function<std::uint64_t()> now_ns;
    };
    explicit Lull(Device device) : device_(std::move(device)) {}

    // Nothing of it throws. Without `give_up` it waits for as long as it takes. What is slow by itself is
    // done while others go on again: the device was empty just before.
    struct Task {
        std::function<void()> run;
        std::function<void()> give_up = nullptr;
        bool slow = false;
    };
    // At once, where nothing is on the device and nothing waits.
    void put_off(Task task);
    void emptied(std::uint64_t number);
    // What is due. Returns the ms until it wants to be called again; -1: no need.
    int tick();
    // Whatever is on the device.
    void run_all();
    std::size_t waiting() const { return waiting_.size(); }

  private:
    struct Waiting {
        Task task;
        std::uint64_t since_ns;
    };
    void begin_try();
    void end_try();
    void empty();
    void set_shallow(bool on);

    Device device_;
    std::deque<Waiting> waiting_;
    bool trying_ = false;  // nothing is issued
    bool shallow_ = false;
    bool awaited_ = false;  // what was on the device at the last try is not through
    std::uint64_t try_ = 0;
    std::uint64_t try_ns_ = kFirstTryNs;  // how long the next one, or this one, is
    std::uint64_t began_ns_ = 0, next_ns_ = 0;
};

}  // namespace ringlaunch::executor
