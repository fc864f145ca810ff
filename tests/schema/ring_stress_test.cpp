// A producer and a consumer thread on small rings, records of random sizes, every byte checked. Run under
// ThreadSanitizer it also shows that stamps and the completed position order all payload.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/schema/ring_fixture.hpp"

namespace ringlaunch {
namespace {

using testing::difference;
using testing::mix;
using testing::Ring;
using testing::Sample;
using testing::send;

struct Load {
    std::uint32_t slot_count;
    std::uint32_t longest;    // slots of a record
    std::uint32_t in_flight;  // records that the reader copies before it completes them
};

void PrintTo(const Load& load, std::ostream* out) {
    *out << load.slot_count << " slots, records up to " << load.longest << ", completed every "
         << load.in_flight;
}

class RingUnderThreads : public ::testing::TestWithParam<Load> {};

TEST_P(RingUnderThreads, ArrivesWholeAndInOrder) {
    constexpr std::uint64_t kRecords = 60'000;
    const Load load = GetParam();
    Ring ring(load.slot_count, 3);
    std::atomic<bool> give_up{false};
    // A watchdog of the test, not a claim about speed.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(90);

    std::thread writer([&] {
        for (std::uint64_t i = 0; i < kRecords && !give_up.load(std::memory_order_relaxed); ++i) {
            const Sample sample(i, 1 + static_cast<std::uint32_t>(mix(7, i) % load.longest));
            while (send(ring.producer, ring.completed, sample) == Status::ring_full) {
                if (give_up.load(std::memory_order_relaxed)) return;
                std::this_thread::yield();
            }
        }
    });

    std::uint64_t seen = 0, paddings = 0, pending = 0;
    std::string wrong;
    RecordCopy out;
    while (seen < kRecords && wrong.empty()) {
        if (!ring.consumer.peek()) {
            ring.complete(ring.consumer.position());
            pending = 0;
            if (std::chrono::steady_clock::now() > deadline) wrong = "nothing more arrives";
            std::this_thread::yield();
            continue;
        }
        if (const Status status = ring.consumer.copy(out); status != Status::ok) {
            wrong = "refused: " + std::string(status_name(status));
            break;
        }
        ring.consumer.advance(out.slots);
        if (out.as<schema::PaddingRecord>().kind() == schema::RecordKind::Padding) {
            ++paddings;
        } else {
            wrong = difference(out, seen);
            ++seen;
        }
        if (++pending >= load.in_flight) {
            ring.complete(ring.consumer.position());
            pending = 0;
        }
    }
    give_up.store(true, std::memory_order_relaxed);
    writer.join();
    EXPECT_EQ(wrong, "");
    EXPECT_EQ(seen, kRecords);
    if (load.longest > 1) {
        EXPECT_GT(paddings, 0u);
    }
}

INSTANTIATE_TEST_SUITE_P(Rings, RingUnderThreads,
                         ::testing::Values(Load{4, 1, 1}, Load{8, 2, 3}, Load{16, 4, 1}, Load{64, 16, 7},
                                           Load{256, 64, 20}),
                         [](const auto& test) {
                             return std::to_string(test.param.slot_count) + "SlotsRecordsUpTo" +
                                    std::to_string(test.param.longest);
                         });

}  // namespace
}  // namespace ringlaunch
