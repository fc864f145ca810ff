#include "daemon/executor/lull.hpp"

#include <algorithm>
#include <utility>

namespace ringlaunch::executor {

void Lull::put_off(Task task) {
    const bool first = waiting_.empty() && !trying_;
    waiting_.push_back({std::move(task), device_.now_ns()});
    if (first) begin_try();
}

// Where nothing is on the device this is the try, too.
void Lull::begin_try() {
    trying_ = true;
    began_ns_ = device_.now_ns();
    device_.hold();
    ++try_;
    if (device_.idle()) return emptied(try_);
    if (began_ns_ < next_ns_) return end_try(next_ns_ - began_ns_);  // not its time yet
    device_.await_empty(try_);
}

void Lull::end_try(std::uint64_t pause_ns) {
    trying_ = false;
    device_.go_on();
    next_ns_ = device_.now_ns() + pause_ns;
}

void Lull::emptied(std::uint64_t number) {
    if (!trying_ || number != try_) return;  // too late
    const std::uint64_t begun = device_.now_ns();
    // One after another: what is done may put off more.
    while (!waiting_.empty() && device_.now_ns() - begun < kSliceNs) {
        const Task task = std::move(waiting_.front().task);
        waiting_.pop_front();
        if (task.slow && trying_) end_try(0);
        task.run();
        if (!trying_) break;
    }
    if (waiting_.empty()) try_ns_ = kFirstTryNs;
    const std::uint64_t took = device_.now_ns() - began_ns_;
    if (trying_)
        end_try(kPausesPerTry * took);
    else
        next_ns_ = device_.now_ns() + kPausesPerTry * took;
}

void Lull::run_all() {
    for (std::deque<Waiting> all = std::exchange(waiting_, {}); Waiting & each : all) each.task.run();
}

int Lull::tick() {
    const std::uint64_t now = device_.now_ns();
    if (trying_ && now - began_ns_ >= try_ns_) {
        end_try(kPausesPerTry * try_ns_);
        try_ns_ = std::min(2 * try_ns_, kLongestTryNs);
    }
    for (std::size_t i = 0; i < waiting_.size();) {
        if (waiting_[i].task.give_up && now - waiting_[i].since_ns >= kGiveUpNs) {
            const Task gone = std::move(waiting_[i].task);
            waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
            gone.give_up();
        } else {
            ++i;
        }
    }
    if (!trying_ && !waiting_.empty() && now >= next_ns_) begin_try();
    if (!trying_ && waiting_.empty()) return -1;
    // Somebody who gives up is not later by more than a try.
    const std::uint64_t due = trying_ ? began_ns_ + try_ns_ : next_ns_;
    return static_cast<int>((due - std::min(due, now)) / 1'000'000 + 1);
}

}  // namespace ringlaunch::executor
