// Waiting for a GPU, which writes completions by itself: with a scripted daemon whose device is a thread
// here.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "tests/client/fake_peer.hpp"

namespace ringlaunch::testing {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 60s;
constexpr std::uint64_t kPatienceNs = 60'000'000'000;
constexpr std::uint32_t kSlots = 64;

// A daemon of the cuda driver with one stream. `device` runs beside it once the stream is there.
class Gpu {
  public:
    Gpu() {
        RingHeader& header = *ring_.as<RingHeader>();
        header.magic = kRingMagic;
        header.version = kProtocolVersion;
        header.slot_count = kSlots;
        StatusPage& page = *page_.as<StatusPage>();
        page.magic = kStatusMagic;
        page.version = kProtocolVersion;
        page.slot_count = kSlots;
        page.epoch = 1;
        page.session = (1ull << 32) | 1;
        page.stream = 1;
        seal(ring_fd_, Sealing::shared, "ring");
        seal(page_fd_, Sealing::one_writer, "status page");
    }

    void serve(FakePeer& peer) {
        peer.welcome(peer.take(), kProtocolVersion, schema::DriverKind::Cuda);
        const int fds[] = {ring_fd_.get(), page_fd_.get(), wake_.get()};
        peer.answer(
            peer.take(), Status::ok, "", schema::Answer::StreamOpened,
            [](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateStreamOpened(builder, 1, 1, kSlots, ring_segment_bytes(kSlots),
                                                  kStatusPageBytes)
                    .Union();
            },
            fds);
    }
    // Until the client hangs up.
    void serve_on(FakePeer& peer) {
        serve(peer);
        while (peer.take() != 0) {
        }
    }
    void complete(std::uint64_t position) {
        page_.as<StatusPage>()->completed.store(position, std::memory_order_seq_cst);
    }
    // 0: nobody says that he sleeps.
    std::uint64_t awaited() const {
        return ring_.as<RingHeader>()->wait_position.load(std::memory_order_seq_cst);
    }
    void wake() {
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(wake_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    }

  private:
    UniqueFd ring_fd_ = make_memfd("ring", ring_segment_bytes(kSlots));
    UniqueFd page_fd_ = make_memfd("status", kStatusPageBytes);
    UniqueFd wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    Mapping ring_{ring_fd_, ring_segment_bytes(kSlots), Mapping::Access::read_write, "ring"};
    Mapping page_{page_fd_, kStatusPageBytes, Mapping::Access::read_write, "status page"};
};

TEST(GpuWaits, of_a_few_ms_end_without_anybody_being_asked_or_woken) {
    Gpu gpu;
    FakePeer peer([&](FakePeer& self) { gpu.serve_on(self); });
    Client client = Client::connect(peer.options());
    Stream stream = client.stream();
    int unasked = 0;
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(stream.barrier(), Status::ok);
        const Event event = stream.record();
        std::atomic<bool> over{false};
        std::thread device([&] {
            std::this_thread::sleep_for(5ms);
            const bool asked = gpu.awaited() != 0;
            gpu.complete(event.position());
            unasked += asked ? 0 : 1;
            // On a busy machine it may have said by now that it sleeps.
            while (!over.load()) {
                if (gpu.awaited() != 0) gpu.wake();
                std::this_thread::sleep_for(1ms);
            }
        });
        EXPECT_EQ(event.wait(kPatienceNs), Status::ok);
        over = true;
        device.join();
    }
    EXPECT_GT(unasked, 0) << "each wait of 5 ms asked to be woken";
}

TEST(GpuWaits, of_longer_ask_to_be_woken) {
    Gpu gpu;
    FakePeer peer([&](FakePeer& self) { gpu.serve_on(self); });
    Client client = Client::connect(peer.options());
    Stream stream = client.stream();
    ASSERT_EQ(stream.barrier(), Status::ok);
    const Event event = stream.record();
    std::thread device([&] {
        const auto end = std::chrono::steady_clock::now() + kPatience;
        while (gpu.awaited() == 0 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
        EXPECT_EQ(gpu.awaited(), event.position());
        gpu.complete(event.position());
        gpu.wake();
    });
    EXPECT_EQ(event.wait(2 * kPatienceNs), Status::ok);
    device.join();
}

TEST(GpuWaits, end_when_their_time_is_over) {
    Gpu gpu;
    FakePeer peer([&](FakePeer& self) { gpu.serve_on(self); });
    Client client = Client::connect(peer.options());
    Stream stream = client.stream();
    ASSERT_EQ(stream.barrier(), Status::ok);
    const Event event = stream.record();
    for (const std::uint64_t time_ns : {0u, 1u, 3'000'000u, 30'000'000u})
        EXPECT_EQ(event.wait(time_ns), Status::timed_out);
    gpu.complete(event.position());
    EXPECT_EQ(event.wait(0), Status::ok);
}

TEST(GpuWaits, in_turns_too_short_to_sleep_in_hear_that_the_daemon_has_gone) {
    Gpu gpu;
    std::atomic<bool> leaves{false};
    FakePeer peer([&](FakePeer& self) {
        gpu.serve(self);
        while (!leaves.load()) std::this_thread::sleep_for(1ms);
    });
    Client client = Client::connect(peer.options());
    Stream stream = client.stream();
    ASSERT_EQ(stream.barrier(), Status::ok);
    const Event event = stream.record();
    EXPECT_EQ(event.wait(1'000'000), Status::timed_out);
    leaves = true;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    Status status = Status::timed_out;
    while (status == Status::timed_out && std::chrono::steady_clock::now() < end) status = event.wait(0);
    EXPECT_EQ(status, Status::daemon_lost);
}

}  // namespace
}  // namespace ringlaunch::testing
