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
    if (device_.idle()) return empty();
    if (began_ns_ < next_ns_ || awaited_) {  // not its time yet
        trying_ = false;
        return device_.go_on();
    }
    awaited_ = true;
    device_.await_empty(try_);
}

void Lull::end_try() {
    trying_ = false;
    device_.go_on();
    const std::uint64_t now = device_.now_ns();
    next_ns_ = now + kPausesPerTry * (now - began_ns_);
}

void Lull::set_shallow(bool on) {
    if (std::exchange(shallow_, on) != on) device_.keep_shallow(on);
}

void Lull::emptied(std::uint64_t number) {
    awaited_ = false;
    if (trying_ && number == try_) empty();  // else too late
}

void Lull::empty() {
    const std::uint64_t begun = device_.now_ns();
    // One after another: what is done may put off more.
    while (trying_ && !waiting_.empty() && device_.now_ns() - begun < kSliceNs) {
        const Task task = std::move(waiting_.front().task);
        waiting_.pop_front();
        if (task.slow) end_try();
        task.run();
    }
    if (waiting_.empty()) {
        try_ns_ = kFirstTryNs;
        set_shallow(false);
    }
    if (trying_) end_try();
}

void Lull::run_all() {
    for (std::deque<Waiting> all = std::exchange(waiting_, {}); Waiting & each : all) each.task.run();
    if (waiting_.empty()) set_shallow(false);
}

int Lull::tick() {
    const std::uint64_t now = device_.now_ns();
    if (trying_ && now - began_ns_ >= try_ns_) {
        set_shallow(true);
        end_try();
        try_ns_ = std::min(2 * try_ns_, kLongestTryNs);
    }
    std::uint64_t due = ~std::uint64_t{0};
    for (std::size_t i = 0; i < waiting_.size();) {
        const std::uint64_t gives_up = waiting_[i].since_ns + kGiveUpNs;
        if (waiting_[i].task.give_up && now >= gives_up) {
            const Task gone = std::move(waiting_[i].task);
            waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
            gone.give_up();
            continue;
        }
        if (waiting_[i].task.give_up) due = std::min(due, gives_up);
        ++i;
    }
    if (waiting_.empty() || (awaited_ && now - began_ns_ >= kGiveUpNs)) set_shallow(false);
    if (shallow_ && awaited_) due = std::min(due, began_ns_ + kGiveUpNs);
    if (!trying_ && !awaited_ && !waiting_.empty() && now >= next_ns_) begin_try();
    if (trying_)
        due = std::min(due, began_ns_ + try_ns_);
    else if (!awaited_ && !waiting_.empty())
        due = std::min(due, next_ns_);
    if (due == ~std::uint64_t{0}) return -1;
    return static_cast<int>((due - std::min(due, now)) / 1'000'000 + 1);
}

}  // namespace ringlaunch::executor
