// Sleeping and waking with real threads, real processes and eventfds: no wake-up is lost, with membarrier and
// without.
#include "schema/wakeup.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "schema/segment.hpp"
#include "tests/schema/ring_fixture.hpp"

namespace ringlaunch {
namespace {

using testing::difference;
using testing::mix;
using testing::Sample;
using testing::send;

constexpr std::uint32_t kSlots = 16;
constexpr int kWatchdogMs = 30'000;  // a lost wake-up shows as this long a sleep

// What both processes share.
struct Shared {
    Shared()
        : ring_fd(make_memfd("ring", ring_segment_bytes(kSlots))),
          page_fd(make_memfd("page", kStatusPageBytes)),
          ring(ring_fd, ring_segment_bytes(kSlots), Mapping::Access::read_write, "ring"),
          page(page_fd, kStatusPageBytes, Mapping::Access::read_write, "page"),
          doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
          wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
    RingHeader& header() const { return *ring.as<RingHeader>(); }
    Slot* slots() const { return ring.as<Slot>(kRingHeaderBytes); }
    StatusPage& status() const { return *page.as<StatusPage>(); }

    UniqueFd ring_fd, page_fd;
    Mapping ring, page;
    UniqueFd doorbell, wake;
};

void signal_fd(const UniqueFd& fd) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(fd.get(), &one, sizeof one);
}
void drain_fd(const UniqueFd& fd) {
    std::uint64_t value;
    [[maybe_unused]] const ssize_t got = ::read(fd.get(), &value, sizeof value);
}
bool sleep_on(const UniqueFd& fd) {
    pollfd entry{fd.get(), POLLIN, 0};
    return ::poll(&entry, 1, kWatchdogMs) == 1;
}

// How the reader sleeps on a doorbell, which it never reads.
class Edges {
  public:
    explicit Edges(const UniqueFd& doorbell) : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
        epoll_event event{};
        event.events = EPOLLIN | EPOLLET;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, doorbell.get(), &event) != 0) std::abort();
    }
    bool sleep(int at_most_ms) const {
        epoll_event event;
        int found;
        do  // a process that was stopped and goes on comes out of this call, too
            found = ::epoll_wait(epoll_.get(), &event, 1, at_most_ms);
        while (found < 0 && errno == EINTR);
        return found == 1;
    }

  private:
    UniqueFd epoll_;
};

// The reader's turns: takes and completes what is there, wakes who waits, and sleeps at once when there is
// nothing, so that every record has its chance to lose a wake-up. "" once `records` were seen and nobody
// waits.
std::string read_records(const Shared& shared, std::uint64_t records, bool membarrier,
                         std::uint64_t& sleeps) {
    RingConsumer<> consumer(shared.slots(), kSlots, 0);
    const Edges doorbell(shared.doorbell);
    StatusPage& status = shared.status();
    std::uint64_t seen = 0, woken_for = 0, sleep = 0;
    RecordCopy out;
    std::string wrong;
    const auto look = [&] {
        bool found = false;
        while (wrong.empty() && consumer.peek()) {
            found = true;
            if (consumer.copy(out) != Status::ok) wrong = "refused";
            if (wrong.empty() && out.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding)
                wrong = difference(out, seen++);
            consumer.advance(out.slots);
            StdMemory::store_release(status.completed, consumer.position());
        }
        const std::uint64_t waits = StdMemory::load_relaxed(shared.header().wait_position);
        if (waits != 0 && waits != woken_for && consumer.position() >= waits) {
            found = true;
            woken_for = waits;
            signal_fd(shared.wake);
        }
        return found;
    };
    while (wrong.empty() && seen < records) {
        if (look()) continue;
        announce_sleep(status.need_wakeup, ++sleep);
        barrier_before_sleep(membarrier);
        if (!look()) {
            ++sleeps;
            if (!doorbell.sleep(kWatchdogMs))
                wrong = "the reader slept for ever; records seen: " + std::to_string(seen);
        }
        announce_awake(status.need_wakeup);
    }
    // The last waiter may announce itself after the last record.
    announce_sleep(status.need_wakeup, ++sleep);
    return wrong;
}

// The client's side: publishes in small bursts, and after each waits until all has completed.
std::string write_records(const Shared& shared, std::uint64_t records, bool must_fence,
                          std::uint64_t& waits) {
    RingProducer<> producer(shared.slots(), kSlots, 0);
    const StatusPage& status = shared.status();
    RungSleep rung;
    const auto wait_for = [&](std::uint64_t position) {
        for (;;) {
            if (StdMemory::load_acquire(status.completed) >= position) return true;
            drain_fd(shared.wake);
            announce_wait(shared.header(), position);
            if (StdMemory::load_acquire(status.completed) < position) {
                ++waits;
                if (must_ring(status.need_wakeup)) signal_fd(shared.doorbell);
                if (!sleep_on(shared.wake)) return false;
            }
            announce_wait(shared.header(), 0);
        }
    };
    for (std::uint64_t i = 0; i < records;) {
        const std::uint64_t burst = 1 + mix(17, i) % 3;
        for (std::uint64_t k = 0; k < burst && i < records; ++k, ++i) {
            const Sample sample(i, 1 + static_cast<std::uint32_t>(mix(19, i) % 4));
            while (send(producer, status.completed, sample) == Status::ring_full)
                if (!wait_for(producer.position())) return "the producer slept for ever on a full ring";
            if (producer_must_ring(status.need_wakeup, rung, must_fence)) signal_fd(shared.doorbell);
        }
        if (mix(23, i) % 2 == 0 && i < records && !wait_for(producer.position()))
            return "the waiter slept for ever after record " + std::to_string(i);
    }
    return "";
}

class Wakeup : public ::testing::TestWithParam<bool> {};

TEST_P(Wakeup, IsNeverLostBetweenThreads) {
    const bool membarrier = GetParam();
    if (membarrier && !(membarrier_available() && register_for_membarrier()))
        GTEST_SKIP() << "no membarrier here";
    constexpr std::uint64_t kRecords = 20'000;
    const Shared shared;
    std::uint64_t sleeps = 0, waits = 0;
    std::string reader_wrong;
    std::thread reader([&] { reader_wrong = read_records(shared, kRecords, membarrier, sleeps); });
    EXPECT_EQ(write_records(shared, kRecords, !membarrier, waits), "");
    reader.join();
    EXPECT_EQ(reader_wrong, "");
    EXPECT_GT(sleeps, 0u);
    EXPECT_GT(waits, 0u);
}

TEST_P(Wakeup, IsNeverLostBetweenProcesses) {
    const bool membarrier = GetParam();
    if (membarrier && !membarrier_available()) GTEST_SKIP() << "no membarrier here";
    constexpr std::uint64_t kRecords = 20'000;
    const Shared shared;
    const pid_t child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (membarrier && !register_for_membarrier()) ::_exit(4);
        std::uint64_t waits = 0;
        const std::string wrong = write_records(shared, kRecords, !membarrier, waits);
        if (!wrong.empty()) std::fprintf(stderr, "client: %s\n", wrong.c_str());
        ::_exit(wrong.empty() ? 0 : 3);
    }
    std::uint64_t sleeps = 0;
    EXPECT_EQ(read_records(shared, kRecords, membarrier, sleeps), "");
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT_GT(sleeps, 0u);
}

INSTANTIATE_TEST_SUITE_P(Barriers, Wakeup, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "WithMembarrier" : "WithFences"; });

// What the reader relies on of the OS, since it never reads a doorbell.
TEST(Doorbell, HasAnEdgeForEachWriteThoughNobodyReadsIt) {
    const UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const Edges edges(doorbell);
    for (int i = 0; i < 3; ++i) {
        EXPECT_FALSE(edges.sleep(0)) << i;
        signal_fd(doorbell);  // while nobody sleeps
        EXPECT_TRUE(edges.sleep(0)) << i;
    }
}

TEST(Membarrier, MayBeRegisteredForMoreThanOnce) {
    if (!membarrier_available()) GTEST_SKIP() << "no membarrier here";
    EXPECT_TRUE(register_for_membarrier());
    EXPECT_TRUE(register_for_membarrier());
    barrier_before_sleep(true);
}

}  // namespace
}  // namespace ringlaunch
