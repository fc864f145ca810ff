// Which launches of a program's own get a graph, and whose graph goes: by the rules alone, without a device.
#include "python/src/inline_seats.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

namespace ringlaunch::python {
namespace {

OneNodeGraph* some_graph(std::uint64_t number) {
    return std::bit_cast<OneNodeGraph*>(number);
}

// Launches as inline_cuda.cpp does, with graphs that are numbers.
class Launches {
  public:
    explicit Launches(std::size_t most) : budget(most) {}
    Way launch(Seat& seat) {
        const Way way = budget.choose(seat);
        if (way == Way::make) {
            while (budget.full()) {
                Seat* const least = budget.least_used();
                lose(*least);
            }
            seat.graph = some_graph(++made);
            budget.add(seat);
        }
        seat.taken = false;
        return way;
    }
    void lose(Seat& seat) {
        budget.remove(seat);
        seat.graph = nullptr;
    }
    SeatBudget budget;
    std::uint64_t made = 0;
};

constexpr auto kBefore = SeatBudget::kLaunchesBeforeGraph;

TEST(InlineSeats, AGraphComesAfterAFewLaunchesAndStays) {
    Launches launches(8);
    Seat seat;
    for (std::uint32_t i = 0; i < kBefore; ++i) EXPECT_EQ(launches.launch(seat), Way::plain);
    EXPECT_EQ(launches.launch(seat), Way::make);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(launches.launch(seat), Way::graph);
    EXPECT_EQ(launches.made, 1u);
}

TEST(InlineSeats, ASeatThatAThreadHasIsLaunchedPlainlyByOthers) {
    Launches launches(8);
    Seat seat;
    while (launches.launch(seat) != Way::make) {
    }
    ASSERT_EQ(launches.budget.choose(seat), Way::graph);  // a thread has it from here on
    EXPECT_EQ(launches.budget.choose(seat), Way::plain);
    EXPECT_TRUE(seat.taken);
    seat.taken = false;
    EXPECT_EQ(launches.budget.choose(seat), Way::graph);
}

TEST(InlineSeats, TheLeastUsedGoesAndOneThatAThreadHasDoesNot) {
    Launches launches(3);
    std::array<Seat, 4> seats;
    for (std::size_t i = 0; i < 3; ++i)
        while (launches.launch(seats[i]) != Way::make) {
        }
    launches.launch(seats[0]);  // so 1 is the least used, and 2 behind it
    seats[1].taken = true;
    while (launches.launch(seats[3]) != Way::make) {
    }
    EXPECT_NE(seats[1].graph, nullptr);
    EXPECT_EQ(seats[2].graph, nullptr);
    EXPECT_EQ(launches.budget.graphs(), 3u);
}

TEST(InlineSeats, NoGraphIsMadeWhereEachHasAThread) {
    Launches launches(2);
    std::array<Seat, 3> seats;
    for (std::size_t i = 0; i < 2; ++i)
        while (launches.launch(seats[i]) != Way::make) {
        }
    seats[0].taken = seats[1].taken = true;
    for (int i = 0; i < 100; ++i) EXPECT_EQ(launches.budget.choose(seats[2]), Way::plain);
    EXPECT_FALSE(seats[2].taken);
}

TEST(InlineSeats, WhatDrivesEachOtherOutIsMadeSeldom) {
    constexpr std::size_t kMost = 16, kSeats = 64, kLaunches = 200'000;
    Launches launches(kMost);
    std::vector<Seat> seats(kSeats);
    for (std::size_t i = 0; i < kLaunches; ++i) {
        launches.launch(seats[i % kSeats]);
        ASSERT_LE(launches.budget.graphs(), kMost);
    }
    // What a program may spend as it begins, and then a tenth of what launches take.
    const std::uint64_t bound =
        (driver::MakingAllowance::kFirstNs + kLaunches * driver::MakingAllowance::kEarnedNs) /
        driver::making_ns(1);
    EXPECT_LE(launches.made, bound);
    EXPECT_GT(launches.made, kMost);
}

TEST(InlineSeats, WhatFitsTheBudgetIsMadeOnceWhateverTheOrder) {
    Launches launches(64);
    std::vector<Seat> seats(64);
    std::mt19937 pick(5);
    for (int i = 0; i < 20'000; ++i) launches.launch(seats[pick() % seats.size()]);
    EXPECT_EQ(launches.made, 64u);
}

TEST(InlineSeats, AKernelHasOneSeatAStream) {
    Seats seats;
    std::unique_ptr<Seat> gone;
    Seat* const one = seats.find(1, gone);
    Seat* const two = seats.find(2, gone);
    EXPECT_NE(one, two);
    EXPECT_EQ(seats.find(1, gone), one);
    EXPECT_EQ(seats.find(2, gone), two);
    EXPECT_EQ(gone, nullptr);
    EXPECT_EQ(one->stream, 1u);
}

TEST(InlineSeats, StreamsThatComeAndGoDoNotPileUp) {
    Seats seats;
    std::uint64_t clock = 0;
    for (std::uint64_t stream = 0; stream < 10 * Seats::kMostStreams; ++stream) {
        std::unique_ptr<Seat> gone;
        Seat* const seat = seats.find(stream, gone);
        ASSERT_NE(seat, nullptr);
        seat->last_used = ++clock;
        EXPECT_EQ(gone != nullptr, stream >= Seats::kMostStreams);
        if (gone != nullptr) {
            EXPECT_EQ(gone->stream, stream - Seats::kMostStreams);
        }
    }
    std::size_t count = 0;
    seats.each([&](Seat&) { ++count; });
    EXPECT_EQ(count, Seats::kMostStreams);
}

TEST(InlineSeats, AStreamBeyondTheLastHasNoSeatWhileEachHasAThread) {
    Seats seats;
    std::unique_ptr<Seat> gone;
    for (std::uint64_t stream = 0; stream < Seats::kMostStreams; ++stream)
        seats.find(stream, gone)->taken = true;
    EXPECT_EQ(seats.find(1000, gone), nullptr);
    EXPECT_EQ(gone, nullptr);
}

}  // namespace
}  // namespace ringlaunch::python
