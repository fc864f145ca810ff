// One stream as the dispatcher has it: the ring mapped read-only, the status page, the driver's stream, and
// how far each of them is.
//
// The control thread makes and destroys it while the dispatcher does not know it; in between, everything but
// the constant fields is the dispatch thread's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/burst.hpp"
#include "daemon/executor/session_view.hpp"
#include "daemon/executor/validation.hpp"
#include "schema/pages.hpp"
#include "schema/ring.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

struct StreamSetup {
    std::uint64_t id = 0;
    std::uint32_t ring_slots = 0;
    std::uint64_t position = 0;
    int priority = 0;
    bool hold = false;
    bool watched = false;  // every record's completion is made visible by itself
    std::uint32_t max_in_flight = 256;
    bool coalesce = true;  // launches in a row go to the driver together, which may use launch graphs
};

class StreamPort {
  public:
    // Maps both segments, checks that they are what `setup` says, and opens the driver's stream. Throws
    // Error.
    StreamPort(const StreamSetup& setup, const SessionView& session, driver::Driver& driver,
               const UniqueFd& ring, const UniqueFd& status, UniqueFd wake);

    StreamPort(const StreamPort&) = delete;
    StreamPort& operator=(const StreamPort&) = delete;

    // A driver's stream that begins at `position`, for a port that issued nothing yet.
    std::unique_ptr<driver::Stream> open_driver_stream(driver::Driver& driver, std::uint64_t position) const;
    void take_driver_stream(std::unique_ptr<driver::Stream> stream) noexcept {
        driver_stream = std::move(stream);
        graph_use = {};
        published = driver_stream->publishes();
    }

    enum class Phase : std::uint8_t {
        running,
        held,     // takes nothing until it is released
        stopped,  // takes nothing until it is resumed; what was issued completes
        closing,  // takes nothing any more
    };

    std::uint32_t in_flight() const noexcept {
        return static_cast<std::uint32_t>(issued_records - retired_records);
    }
    bool idle() const noexcept { return issued_records == retired_records; }
    bool waiting() const noexcept { return wait.end != 0; }
    bool single() const noexcept { return completed_seen < single_until; }
    // Remembers that the records up to `end` went to the driver.
    void note_issued(std::uint64_t end) noexcept {
        handed = end;
        ends[issued_records++ & ends_mask] = end;
        ++records_since_complete;
    }
    // Has `completed` reached this? Reads the page: acquire, so that what the device did is seen by who acts
    // on it.
    std::uint64_t load_completed() const noexcept {
        if (published && driver_stream != nullptr) [[unlikely]]
            driver_stream->publish();
        // sync: COMPLETED (pairs with the device's store)
        return page->completed.load(std::memory_order_acquire);
    }

    // Constant.
    const StreamSetup setup;
    const SessionView& session;
    const Mapping ring_mapping, status_mapping;
    const RingHeader* const header;
    StatusPage* const page;
    const UniqueFd wake;

    // Where the stream is.
    Phase phase = Phase::running;
    RingConsumer<> consumer;
    std::uint64_t handed = 0;  // everything before this went to the driver
    std::uint64_t driver_end =
        0;  // the end of the last operation that the driver knows, or completion it was asked
    std::uint64_t completed_seen = 0;  // `completed`, as of the last turn
    std::uint64_t asked = 0;           // the highest position given to the driver's complete()
    std::uint32_t records_since_complete = 0;
    bool force_complete = false;     // a record of this turn wants its completion visible at once
    bool limited = false;            // there is a record, but no room in flight for it, or it is gathered
    bool deep = false;               // has so much in flight that what comes is gathered meanwhile
    bool driver_full = false;        // the driver said ring_full
    std::uint64_t single_until = 0;  // up to here one record at a time is in flight
    Burst burst;                     // while the device is to become empty
    bool more = false;               // the ring had another record when the turn ended

    // The records in flight: their ends, oldest first.
    std::vector<std::uint64_t> ends;
    std::uint64_t ends_mask = 0;
    std::uint64_t issued_records = 0, retired_records = 0;

    // The event it is held for; `wait.end` 0: none.
    Wait wait;
    std::uint64_t last_wait_end = 0;  // the end of the last wait given to the driver

    // Its graphs, by id. Swapped by the control thread between two turns, as a session's tables.
    IdTable<Graph> graphs;

    // Wake-ups.
    std::uint64_t woken = 0;      // the value of wait_position that was answered
    std::uint64_t armed = 0;      // the position that notify_at() was told; 0: none
    std::uint64_t looked_at = 0;  // `completed`, where the last sleep had to end by itself, after so long
    std::int64_t look_us = 0;
    // The wait for another session's stream and what that one had completed, where the last sleep had to end
    // by itself for it, after so long.
    std::uint64_t watched_for = 0, watched_at = 0;
    std::int64_t watch_us = 0;
    bool wake_broken = false;  // its client made a write to its eventfd block: it is not written any more
    std::uint64_t barrier_until = 0;               // a barrier waits for this position
    std::array<std::uint64_t, 16> asked_points{};  // the last positions given to complete(), a circle
    std::uint32_t asked_count = 0;

    // Samples of latency.
    std::uint64_t last_sample = ~std::uint64_t{0};
    std::uint64_t timed_end = 0;  // the record whose completion is timed; 0: none
    std::uint64_t timed_ns = 0;
    std::uint64_t next_timed = 0;  // the count of records at which the next is timed

    driver::GraphUse graph_use;  // what of the driver's stream was counted

    bool published = false;  // the driver's stream has to publish what has completed
    // Null for a stream that came stopped out of a restart. Last, so that it goes first: the device writes
    // the status page until then.
    std::unique_ptr<driver::Stream> driver_stream;
};

}  // namespace ringlaunch::executor
