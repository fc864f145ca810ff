#include "daemon/executor/lull.hpp"

#include <algorithm>
#include <utility>

namespace ringlaunch::executor {

void Lull::put_off(Task task, std::uint64_t now_ns) {
    if (waiting_.empty() && idle_()) return task.run();
    waiting_.push_back({std::move(task), now_ns});
    if (!in_round_) begin_round(now_ns);
}

void Lull::begin_round(std::uint64_t now_ns) {
    in_round_ = true;
    round_began_ns_ = now_ns;
    begin_round_();
}

void Lull::round_over(std::uint64_t now_ns) {
    in_round_ = false;
    if (waiting_.empty()) return;
    const bool little = now_ns - round_began_ns_ <= kLittleNs;
    if (little || now_ns - waiting_.front().since_ns >= kPatienceNs)
        run_all();
    else
        begin_round(now_ns);
}

void Lull::run_all() {
    // What is done may put off more.
    for (std::deque<Waiting> all = std::exchange(waiting_, {}); Waiting & each : all) each.task.run();
}

int Lull::tick(std::uint64_t now_ns) {
    std::uint64_t next = ~std::uint64_t{0};
    for (std::size_t i = 0; i < waiting_.size();) {
        Waiting& each = waiting_[i];
        if (each.task.give_up && now_ns - each.since_ns >= kGiveUpNs) {
            const Task gone = std::move(each.task);
            waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
            gone.give_up();
            continue;
        }
        if (each.task.give_up) next = std::min(next, each.since_ns + kGiveUpNs - now_ns);
        ++i;
    }
    return next == ~std::uint64_t{0} ? -1 : static_cast<int>(next / 1'000'000 + 1);
}

}  // namespace ringlaunch::executor
