#include "daemon/executor/stream_port.hpp"

#include <bit>
#include <string>

#include "schema/error.hpp"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch::executor {

namespace {

const StreamSetup& checked(const StreamSetup& setup) {
    if (!std::has_single_bit(setup.ring_slots) || setup.ring_slots < kMinRingSlots ||
        setup.ring_slots > kMaxRingSlots)
        throw Error(Status::invalid_argument,
                    "cannot open stream " + id_text(setup.id) + " with " + std::to_string(setup.ring_slots) +
                        " slots: it must be a power of two from " + std::to_string(kMinRingSlots) + " to " +
                        std::to_string(kMaxRingSlots));
    return setup;
}

void expect(bool as_expected, const StreamSetup& setup, const std::string& what) {
    if (!as_expected)
        throw Error(Status::internal_error,
                    "cannot open stream " + id_text(setup.id) + ": its status page bears " + what);
}

}  // namespace

StreamPort::StreamPort(const StreamSetup& of, const SessionView& in, driver::Driver& driver,
                       const UniqueFd& ring, const UniqueFd& status, UniqueFd wake_fd)
    : setup(checked(of)),
      session(in),
      ring_mapping(ring, ring_segment_bytes(of.ring_slots), Mapping::Access::read_only,
                   "the ring of stream " + id_text(of.id)),
      status_mapping(status, kStatusPageBytes, Mapping::Access::read_write,
                     "the status page of stream " + id_text(of.id)),
      header(ring_mapping.as<RingHeader>()),
      page(status_mapping.as<StatusPage>()),
      wake(std::move(wake_fd)),
      consumer(ring_mapping.as<Slot>(kRingHeaderBytes), of.ring_slots, of.position) {
    expect(page->magic == kStatusMagic, setup, "another magic word");
    expect(page->version == kProtocolVersion, setup, "version " + std::to_string(page->version));
    expect(page->slot_count == setup.ring_slots, setup, std::to_string(page->slot_count) + " slots");

    const auto bound = std::bit_ceil(std::max<std::uint64_t>(setup.max_in_flight, 1));
    ends.resize(bound);
    ends_mask = bound - 1;

    // relaxed: the supervisor wrote the page before it sent the descriptor.
    const auto state = static_cast<schema::StreamState>(page->state.load(std::memory_order_relaxed));
    const std::uint64_t completed = page->completed.load(std::memory_order_relaxed);
    phase = state == schema::StreamState::Stopped ? Phase::stopped
            : setup.hold                          ? Phase::held
                                                  : Phase::running;
    // What was in doubt when the last executor died did not go to this one's driver, and nobody may wait for
    // it here.
    handed = asked = driver_end = phase == Phase::stopped ? completed : setup.position;
    completed_seen = completed;
    // A stream that came stopped keeps what the supervisor wrote until it is resumed, from where nobody knows
    // yet.
    if (phase != Phase::stopped) take_driver_stream(open_driver_stream(driver, setup.position));
}

std::unique_ptr<driver::Stream> StreamPort::open_driver_stream(driver::Driver& driver,
                                                               std::uint64_t position) const {
    driver::StreamConfig config;
    config.id = setup.id;
    config.completed = &page->completed;
    config.position = position;
    config.priority = setup.priority;
    config.max_in_flight = setup.max_in_flight;
    config.coalesce = setup.coalesce;
    return driver.open_stream(config);
}

}  // namespace ringlaunch::executor
