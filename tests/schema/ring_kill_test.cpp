// Two processes on one ring, and SIGKILL for one of them at every single step of the protocol.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "schema/segment.hpp"
#include "tests/schema/ring_fixture.hpp"

namespace ringlaunch {
namespace {

using testing::difference;
using testing::mix;
using testing::Sample;
using testing::send;

// Counts the steps of the process and kills it before a chosen one. Payload goes in pieces of 8 bytes, each a
// step, so that a record may be torn within a slot.
struct KillMemory {
    static inline std::uint64_t steps = 0;
    static inline std::uint64_t die_before = ~std::uint64_t{0};
    static inline bool count_loads = false;

    static void step() {
        if (steps++ == die_before) ::raise(SIGKILL);
    }
    template <class Word>
    static auto load_acquire(const Word& word) {
        if (count_loads) step();
        return StdMemory::load_acquire(word);
    }
    template <class Word>
    static auto load_relaxed(const Word& word) {
        if (count_loads) step();
        return StdMemory::load_relaxed(word);
    }
    static void store_release(SharedU64& word, std::uint64_t value) {
        step();
        StdMemory::store_release(word, value);
    }
    static void store_relaxed(SharedU64& word, std::uint64_t value) {
        step();
        StdMemory::store_relaxed(word, value);
    }
    static void write_payload(std::byte* to, const void* from, std::size_t bytes) {
        for (std::size_t i = 0; i < bytes; i += 8) {
            step();
            StdMemory::write_payload(to + i, static_cast<const std::byte*>(from) + i,
                                     std::min<std::size_t>(8, bytes - i));
        }
    }
    static void read_payload(void* to, const std::byte* from, std::size_t bytes) {
        for (std::size_t i = 0; i < bytes; i += 8) {
            if (count_loads) step();
            StdMemory::read_payload(static_cast<std::byte*>(to) + i, from + i,
                                    std::min<std::size_t>(8, bytes - i));
        }
    }
};

// A ring in a sealed memfd, and beside it the status page and the test's own notes, which outlive a killed
// child.
struct Notes {
    SharedU64 total_steps;
    SharedU64 executed[512];  // how often record i was run
};

struct SharedRing {
    static constexpr std::uint32_t kSlots = 32;

    SharedRing() {
        ring_fd = make_memfd("test ring", ring_segment_bytes(kSlots));
        seal(ring_fd, Sealing::shared, "test ring");
        ring = Mapping(ring_fd, ring_segment_bytes(kSlots), Mapping::Access::read_write, "test ring");
        page_fd = make_memfd("test page", kStatusPageBytes + sizeof(Notes));
        page = Mapping(page_fd, kStatusPageBytes + sizeof(Notes), Mapping::Access::read_write, "test page");
    }
    RingHeader* header() const { return ring.as<RingHeader>(); }
    Slot* slots() const { return ring.as<Slot>(kRingHeaderBytes); }
    StatusPage* status() const { return page.as<StatusPage>(); }
    Notes* notes() const { return page.as<Notes>(kStatusPageBytes); }

    void reset(std::uint64_t position) {
        std::memset(ring.data(), 0, ring.size());
        std::memset(page.data(), 0, page.size());
        // A lap of old records, completed.
        RingProducer<> old(slots(), kSlots, position - kSlots);
        status()->completed.store(position - kSlots, std::memory_order_relaxed);
        for (std::uint64_t i = 0; i < kSlots; ++i)
            ASSERT_EQ(send(old, status()->completed, Sample(900 + i, 1)), Status::ok);
        status()->completed.store(position, std::memory_order_relaxed);
        status()->issued.store(position, std::memory_order_relaxed);
    }

    UniqueFd ring_fd, page_fd;
    Mapping ring, page;
};

struct Death {
    bool killed = false;    // by SIGKILL
    bool finished = false;  // exit code 0
};

// Runs `work` in a child that dies before step `die_before`.
pid_t start_child(std::uint64_t die_before, bool count_loads, Notes* notes,
                  const std::function<void()>& work) {
    const pid_t child = ::fork();
    if (child != 0) return child;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    KillMemory::steps = 0;
    KillMemory::die_before = die_before;
    KillMemory::count_loads = count_loads;
    work();
    notes->total_steps.store(KillMemory::steps, std::memory_order_relaxed);
    ::_exit(0);
}

Death reap(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return {WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
            WIFEXITED(status) && WEXITSTATUS(status) == 0};
}

std::uint32_t slots_of(std::uint64_t sequence) {
    return 1 + static_cast<std::uint32_t>(mix(11, sequence) % 5);
}

// ---- the producer dies ----

TEST(ProducerKilled, AtEveryStoreLeavesAWholePrefix) {
    constexpr std::uint64_t kStart =
        3 * SharedRing::kSlots + 24;  // 8 slots to the end: one padding on the way
    constexpr std::uint64_t kRecords = 8;
    SharedRing shared;
    std::uint64_t kills = 0, longest_prefix = 0;
    for (std::uint64_t n = 0;; ++n) {
        ASSERT_NO_FATAL_FAILURE(shared.reset(kStart));
        const Death death = reap(start_child(n, false, shared.notes(), [&] {
            RingProducer<KillMemory> producer(shared.slots(), SharedRing::kSlots, kStart);
            for (std::uint64_t i = 0; i < kRecords; ++i)
                if (send(producer, shared.status()->completed, Sample(i, slots_of(i))) != Status::ok)
                    ::_exit(3);
        }));
        ASSERT_TRUE(death.killed || death.finished);

        RingConsumer<> consumer(shared.slots(), SharedRing::kSlots, kStart);
        RecordCopy out;
        std::uint64_t seen = 0;
        while (consumer.peek()) {
            ASSERT_EQ(consumer.copy(out), Status::ok) << "killed before store " << n;
            if (out.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding) {
                ASSERT_EQ(difference(out, seen++), "") << "killed before store " << n;
            }
            consumer.advance(out.slots);
        }
        ASSERT_GE(seen, longest_prefix) << "a later death left a shorter prefix";
        longest_prefix = seen;
        if (death.finished) {
            EXPECT_EQ(seen, kRecords);
            break;
        }
        ASSERT_LE(seen, kRecords);
        ++kills;
    }
    std::printf("producer killed at each of %llu stores\n", static_cast<unsigned long long>(kills));
    EXPECT_GT(kills, 150u);
}

TEST(ProducerKilled, UnderALiveReaderOverManyLapsLeavesAWholePrefix) {
    constexpr std::uint64_t kRecords = 400;
    SharedRing shared;
    for (std::uint64_t round = 0; round < 60; ++round) {
        const std::uint64_t start = SharedRing::kSlots * (1 + round) + round % SharedRing::kSlots;
        ASSERT_NO_FATAL_FAILURE(shared.reset(start));
        // Some 25 stores a record; the last rounds let it finish.
        const std::uint64_t n = round < 55 ? mix(13, round) % (kRecords * 20) : ~std::uint64_t{0};
        const pid_t child = start_child(n, false, shared.notes(), [&] {
            RingProducer<KillMemory> producer(shared.slots(), SharedRing::kSlots, start);
            for (std::uint64_t i = 0; i < kRecords; ++i)
                while (send(producer, shared.status()->completed, Sample(i, slots_of(i))) ==
                       Status::ring_full)
                    ::sched_yield();
        });
        RingConsumer<> consumer(shared.slots(), SharedRing::kSlots, start);
        RecordCopy out;
        std::uint64_t seen = 0;
        std::string wrong;
        const auto drain = [&] {
            while (wrong.empty() && consumer.peek()) {
                if (consumer.copy(out) != Status::ok) {
                    wrong = "refused";
                    break;
                }
                if (out.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding)
                    wrong = difference(out, seen++);
                consumer.advance(out.slots);
                StdMemory::store_release(shared.status()->completed, consumer.position());
            }
        };
        int status = 0;
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);  // a watchdog
        while (::waitpid(child, &status, WNOHANG) == 0) {
            drain();
            ::sched_yield();
            if (!wrong.empty() || std::chrono::steady_clock::now() > deadline) {
                ::kill(child, SIGKILL);
                ::waitpid(child, &status, 0);
                if (wrong.empty()) wrong = "the producer did not end";
                break;
            }
        }
        drain();
        ASSERT_EQ(wrong, "") << "round " << round << ", killed before store " << n;
        if (WIFEXITED(status)) {
            ASSERT_EQ(seen, kRecords) << "round " << round;
        }
    }
}

// ---- the consumer dies ----

// What an executor does: copy, publish issued, run, publish completed. Runs until the ring is empty.
template <class Memory>
std::string run_reader(const SharedRing& shared, std::uint64_t position, std::uint64_t next) {
    RingConsumer<Memory> consumer(shared.slots(), SharedRing::kSlots, position);
    RecordCopy out;
    while (consumer.peek()) {
        if (consumer.copy(out) != Status::ok) return "refused a record at " + std::to_string(out.position);
        consumer.advance(out.slots);
        Memory::store_release(shared.status()->issued, consumer.position());
        if (out.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding) {
            if (const std::string wrong = difference(out, next); !wrong.empty()) return wrong;
            SharedU64& executed = shared.notes()->executed[next];
            Memory::store_relaxed(executed, executed.load(std::memory_order_relaxed) + 1);
            ++next;
        }
        Memory::store_release(shared.status()->completed, consumer.position());
    }
    return "";
}

TEST(ConsumerKilled, AtEveryStepANewOneGoesOnAtCompleted) {
    constexpr std::uint64_t kStart = 2 * SharedRing::kSlots + 20;
    constexpr std::uint64_t kFirst = 7, kRecords = 60;
    SharedRing shared;
    std::uint64_t kills = 0;
    for (std::uint64_t n = 0;; ++n) {
        ASSERT_NO_FATAL_FAILURE(shared.reset(kStart));
        RingProducer<> producer(shared.slots(), SharedRing::kSlots, kStart);
        const SharedU64& completed = shared.status()->completed;
        std::uint64_t sent = 0;
        std::vector<std::uint64_t> ends;  // the position after each record
        const auto send_until = [&](std::uint64_t count) {
            while (sent < count && send(producer, completed, Sample(sent, slots_of(sent))) == Status::ok) {
                ends.push_back(producer.position());
                ++sent;
            }
        };
        send_until(kFirst);
        ASSERT_EQ(sent, kFirst);
        const Death death = reap(start_child(n, true, shared.notes(), [&] {
            if (!run_reader<KillMemory>(shared, kStart, 0).empty()) ::_exit(3);
        }));
        ASSERT_TRUE(death.killed || death.finished);

        // What the supervisor reads once the child is reaped.
        const std::uint64_t a = completed.load(), b = shared.status()->issued.load();
        ASSERT_LE(a, b);
        std::uint64_t done = 0;  // records that end at or before A
        while (done < ends.size() && ends[done] <= a) ++done;
        for (std::uint64_t i = 0; i < kFirst; ++i) {
            const std::uint64_t times = shared.notes()->executed[i].load();
            if (i < done) {
                ASSERT_EQ(times, 1u) << "record " << i << " is completed, death at " << n;
            }
            if (ends[i] > b) {
                ASSERT_EQ(times, 0u) << "record " << i << " was never issued, death at " << n;
            }
            ASSERT_LE(times, 1u);
        }

        // The producer goes on meanwhile, until the ring is full; nothing that is not completed is
        // overwritten.
        send_until(kRecords);
        ASSERT_LT(sent, kRecords);
        // A new reader at A, from the journal; then the two in turn to the end.
        std::uint64_t position = a, next = done;
        while (next < kRecords) {
            ASSERT_EQ(run_reader<StdMemory>(shared, position, next), "") << "death at " << n;
            position = completed.load();
            ASSERT_EQ(position, producer.position());
            next = sent;
            send_until(kRecords);
        }
        for (std::uint64_t i = 0; i < kRecords; ++i) {
            const std::uint64_t times = shared.notes()->executed[i].load();
            const bool in_doubt = i >= done && i < kFirst && ends[i] <= b;
            ASSERT_GE(times, 1u) << "record " << i << " was lost, death at " << n;
            ASSERT_LE(times, in_doubt ? 2u : 1u) << "record " << i << ", death at " << n;
        }
        if (death.finished) {
            ASSERT_EQ(done, kFirst);
            break;
        }
        ++kills;
    }
    std::printf("consumer killed at each of %llu steps\n", static_cast<unsigned long long>(kills));
    EXPECT_GT(kills, 150u);
}

}  // namespace
}  // namespace ringlaunch
