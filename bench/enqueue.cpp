// What a C++ launch costs the client: enqueued in bursts into a ring that a live daemon drains, beside the
// same bytes copied into the same ring, with the same reader, and published with a release store.
#include <CLI/CLI.hpp>
#include <array>
#include <cstring>
#include <vector>

#include "bench/daemon.hpp"
#include "bench/report.hpp"
#include "client/src/stream_state.hpp"
#include "record_generated.h"
#include "schema/ring.hpp"

using namespace ringlaunch;
using namespace ringlaunch::bench;

namespace {

// A launch of five parameters, encoded once, copied ever after. It keeps the ring's stamps so that the daemon
// reads it, and nothing else of a producer: no room check, no wake-up check, no arguments. It takes turns
// with the stream's own producer, whose place it takes over and hands back.
class RawWriter {
  public:
    RawWriter(Stream& stream, const Kernel& kernel, std::span<const std::byte> params)
        : state_(*detail::Access::state(stream)),
          slots_(state_.ring.as<Slot>(kRingHeaderBytes)),
          mask_(state_.ring_slots - 1) {
        schema::CompactLaunchRecord record{};
        record.mutate_kind(schema::RecordKind::CompactLaunch);
        record.mutate_slots(1);
        record.mutate_param_bytes(static_cast<std::uint16_t>(params.size()));
        record.mutate_block_x(32);
        record.mutate_kernel(detail::Access::state(kernel)->compact_id);
        record.mutate_grid_x(1);
        std::memcpy(record.mutable_params()->data(), params.data(), params.size());
        std::memcpy(payload_, reinterpret_cast<const std::byte*>(&record) + sizeof(SharedU64),
                    sizeof payload_);
    }

    void take_over() { position_ = state_.producer.position(); }

    // All that changes stays in registers.
    [[gnu::noinline]] void write(int records) {
        Slot* const slots = slots_;
        const std::uint64_t mask = mask_;
        std::uint64_t position = position_;
        std::byte payload[sizeof payload_];
        std::memcpy(payload, payload_, sizeof payload);
        for (int i = 0; i < records; ++i) {
            Slot& slot = slots[position & mask];
            std::memcpy(slot.payload, payload, sizeof payload);
            slot.stamp.store(++position,
                             std::memory_order_release);  // sync: STAMP (pairs with RingConsumer::peek)
        }
        position_ = position;
    }

    // Wakes the daemon where it sleeps; then the stream's own producer goes on.
    void hand_back() {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (state_.current().need_wakeup.load(std::memory_order_relaxed) != 0) state_.ring_doorbell();
        state_.producer = RingProducer<>(slots_, state_.ring_slots, position_);
    }

  private:
    detail::StreamState& state_;
    Slot* slots_;
    std::uint64_t mask_;
    std::uint64_t position_ = 0;
    std::byte payload_[kSlotBytes - sizeof(SharedU64)] = {};
};

// A burst each, in a function of its own: in main(), which runs once, the compiler would not lay them out as
// loops that matter.
[[gnu::noinline]] void launch_burst(Stream& stream, const Kernel& five, const Buffer& x, const Buffer& y,
                                    const Buffer& z, int burst) {
    for (int k = 0; k < burst; ++k) must(stream.launch(five, {1}, {32}, x, y, z, k, 1.0f), "launching");
}
[[gnu::noinline]] void launch_packed_burst(Stream& stream, const Kernel& five,
                                           std::span<const std::byte> params, int burst) {
    for (int k = 0; k < burst; ++k)
        must(stream.launch_packed(five, {1}, {32}, 0, params), "launching packed");
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Enqueue of a five-parameter launch into a live daemon's ring, beside a bare copy of the same "
        "bytes.");
    int bursts = 4000, burst = 512;
    std::string csv, driver = "null";
    app.add_option("--bursts", bursts, "Bursts of each kind, interleaved")->capture_default_str();
    app.add_option("--burst", burst, "Launches a burst; the ring is drained between bursts")
        ->capture_default_str();
    app.add_option("--driver", driver, "The daemon's driver")->capture_default_str();
    app.add_option("--csv", csv, "Write the table to this file");
    CLI11_PARSE(app, argc, argv);

    PrivateDaemon daemon(driver);
    Kernel five = daemon.client().load_file(daemon.kernels()).kernel("five");
    Stream stream = daemon.client().stream();
    Buffer x = daemon.client().alloc(4096), y = daemon.client().alloc(4096), z = daemon.client().alloc(4096);

    std::byte packed[32] = {};
    const std::uint64_t addresses[] = {x.address(), y.address(), z.address()};
    const std::int32_t n = 7;
    const float a = 1;
    std::memcpy(packed, addresses, sizeof addresses);
    std::memcpy(packed + 24, &n, sizeof n);
    std::memcpy(packed + 28, &a, sizeof a);
    RawWriter raw(stream, five, packed);

    enum Kind { kLaunch, kLaunchPacked, kBare, kKinds };
    std::array<std::vector<double>, kKinds> samples;
    const auto burst_of = [&](Kind kind) {
        if (kind == kBare) raw.take_over();
        const std::uint64_t begin = now_ns();
        if (kind == kLaunch)
            launch_burst(stream, five, x, y, z, burst);
        else if (kind == kLaunchPacked)
            launch_packed_burst(stream, five, packed, burst);
        else
            raw.write(burst);
        const auto took = static_cast<double>(now_ns() - begin) / burst;
        if (kind == kBare) raw.hand_back();
        must(stream.synchronize(), "draining");
        return took;
    };
    for (int i = -bursts / 10; i < bursts; ++i) {  // the first tenth warms up
        for (int turn = 0; turn < kKinds; ++turn) {
            // Each kind follows each other one as often.
            const int step = (i & 1) == 0 ? turn : kKinds - turn;
            const auto kind = static_cast<Kind>((step + (i & 0xffff)) % kKinds);
            const double took = burst_of(kind);
            if (i >= 0) samples[kind].push_back(took);
        }
    }

    Report report(
        "Enqueue of a five-parameter launch, " + driver + " driver, bursts of " + std::to_string(burst),
        {"p50_ns", "p99_ns", "x_bare_copy"});
    const double base = quantile(samples[kBare], 0.5);
    const auto row = [&](const std::string& name, std::vector<double>& all) {
        report.add(name, {quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.5) / base});
    };
    row("ringlaunch: launch(kernel, grid, block, x, y, z, n, a)", samples[kLaunch]);
    row("ringlaunch: launch_packed(...)", samples[kLaunchPacked]);
    row("bare copy of the slot, release store", samples[kBare]);
    report.note(
        "a sample is a burst's time over its launches; room check, argument check and wake-up check are in "
        "ours");
    return report.finish(csv);
}
