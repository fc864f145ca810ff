// Which launches in the program's own process go through a launch graph, and which graphs there are: no more
// than a budget, none for what comes a few times only, the least used thrown out.
//
// A graph belongs to a kernel on a stream, which together have a seat. All of this is guarded by the
// interpreter lock, but for the graph of a seat that a thread has taken.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/driver/chain_policy.hpp"

namespace ringlaunch::python {

struct OneNodeGraph;  // the driver's

// A kernel on a stream.
struct Seat {
    std::uint64_t stream = 0;
    std::uint64_t last_used = 0;
    std::uint32_t launches = 0;     // so far, until a graph is made
    bool taken = false;             // a thread launches with it, perhaps without the interpreter lock
    OneNodeGraph* graph = nullptr;  // none: launches are plain
};

enum class Way : std::uint8_t {
    plain,
    make,   // a graph is made for the seat, which is taken
    graph,  // the seat's graph is launched; the seat is taken
};

// What the seats of a context share.
class SeatBudget {
  public:
    explicit SeatBudget(std::size_t most) : most_(most) {}

    // How a launch goes.
    Way choose(Seat& seat) {
        seat.last_used = ++clock_;
        making_.earn(1);
        if (seat.taken) return Way::plain;  // a graph takes no two threads at once
        if (seat.graph != nullptr) {
            seat.taken = true;
            return Way::graph;
        }
        if (++seat.launches <= kLaunchesBeforeGraph) return Way::plain;
        seat.launches = 0;  // where it cannot be had now, it is tried again, but not at once
        if (!making_.covers(1)) return Way::plain;
        if (full() && least_used() == nullptr) return Way::plain;
        making_.spend(1);
        seat.taken = true;
        return Way::make;
    }

    bool full() const noexcept { return owners_.size() >= most_; }
    // Whose graph goes for another. Null: each has a thread.
    Seat* least_used() const noexcept {
        Seat* found = nullptr;
        for (Seat* seat : owners_)
            if (!seat->taken && (found == nullptr || seat->last_used < found->last_used)) found = seat;
        return found;
    }
    void add(Seat& owner) { owners_.push_back(&owner); }
    void remove(const Seat& owner) noexcept {
        owners_.erase(std::remove(owners_.begin(), owners_.end(), &owner), owners_.end());
    }
    std::size_t graphs() const noexcept { return owners_.size(); }
    std::size_t most() const noexcept { return most_; }
    void set_most(std::size_t most) noexcept { most_ = most; }

    // A kernel has shown that it will come again.
    static constexpr std::uint32_t kLaunchesBeforeGraph = 4;

  private:
    std::size_t most_;
    std::uint64_t clock_ = 0;
    driver::MakingAllowance making_;
    std::vector<Seat*> owners_;  // of a graph
};

// The seats of one kernel. They do not move.
class Seats {
  public:
    // Streams come and go: beyond this many, the least used of those that no thread has makes room.
    static constexpr std::size_t kMostStreams = 64;

    // The seat of a stream; a new one if need be. Null: there is none. `gone`: one that made room, which the
    // caller lets go of.
    Seat* find(std::uint64_t stream, std::unique_ptr<Seat>& gone) {
        if (last_ != nullptr && last_->stream == stream) return last_;
        for (const auto& seat : seats_)
            if (seat->stream == stream) return last_ = seat.get();
        if (seats_.size() >= kMostStreams) {
            auto least = seats_.end();
            for (auto at = seats_.begin(); at != seats_.end(); ++at)
                if (!(*at)->taken && (least == seats_.end() || (*at)->last_used < (*least)->last_used))
                    least = at;
            if (least == seats_.end()) return nullptr;
            if (last_ == least->get()) last_ = nullptr;
            gone = std::move(*least);
            seats_.erase(least);
        }
        seats_.push_back(std::make_unique<Seat>());
        seats_.back()->stream = stream;
        return last_ = seats_.back().get();
    }
    template <class Visit>
    void each(const Visit& visit) {
        for (const auto& seat : seats_) visit(*seat);
    }

  private:
    std::vector<std::unique_ptr<Seat>> seats_;
    Seat* last_ = nullptr;
};

}  // namespace ringlaunch::python
