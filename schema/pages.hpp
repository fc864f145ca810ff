// The layout of the two shared segments of a stream, and who writes each word.
//
//   ring segment (memfd, sealed SHRINK | GROW | SEAL; the client maps it writable, the daemon read-only)
//     0     RingHeader      the daemon writes `magic` ... `stream` before it hands the segment over and never
//                           reads them again; the client writes the rest
//     4096  slots           64 bytes each, the client writes
//
//   status page (memfd, sealed SHRINK | GROW | FUTURE_WRITE | SEAL; executor and device write through
//   mappings made before the seal, the supervisor writes `state`, `need_wakeup` and the error once the
//   executor has been reaped, the client maps it read-only). A status page belongs to one epoch of one
//   stream.
//     0     StatusPage
//
// Positions are counts of slots since the stream began and are never masked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ringlaunch {

inline constexpr std::size_t kCacheLine = 64;
// Processors fetch lines in pairs: what one side writes for every record and the other reads for every record
// stand in different pairs.
inline constexpr std::size_t kLinePair = 128;
inline constexpr std::size_t kSlotBytes = 64;
inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kRingHeaderBytes = kPageBytes;
inline constexpr std::size_t kStatusPageBytes = 2 * kPageBytes;

constexpr std::size_t ring_segment_bytes(std::uint32_t slots) {
    return kRingHeaderBytes + kSlotBytes * slots;
}

using SharedU64 = std::atomic<std::uint64_t>;
using SharedU32 = std::atomic<std::uint32_t>;
static_assert(SharedU64::is_always_lock_free && SharedU32::is_always_lock_free);
static_assert(sizeof(SharedU64) == 8 && sizeof(SharedU32) == 4);

// A value of need_wakeup: the page is dead, ring for every record.
inline constexpr std::uint64_t kRingAlways = ~std::uint64_t{0};

struct RingHeader {
    // The daemon, before the hand-over.
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t slot_count;
    std::uint64_t session;
    std::uint64_t stream;

    // The client: the lowest position that a sleeper of this stream waits to see completed; 0: nobody sleeps.
    alignas(kCacheLine) SharedU64 wait_position;
    // The client: about one record in 128 slots is timed, later in 512. `sample_ns` (CLOCK_MONOTONIC) and
    // `sample_position` (the record's first slot) are written before the record's stamp, which releases both;
    // the dispatcher takes the sample when it issues that position. The time may be a later record's, should
    // the client be 128 slots further by then, but never an earlier one's.
    alignas(kCacheLine) SharedU64 sample_position;
    SharedU64 sample_ns;
};
static_assert(offsetof(RingHeader, wait_position) == 64);
static_assert(offsetof(RingHeader, sample_position) == 128);
static_assert(sizeof(RingHeader) <= kRingHeaderBytes);

// Log-linear latency histogram: 4 buckets an octave, in ns. Bucket of v: see bucket_of() in
// schema/counters.hpp.
inline constexpr std::size_t kHistogramBuckets = 160;
struct LatencyHistogram {
    SharedU64 buckets[kHistogramBuckets];
};

// All of them: the dispatch thread writes with relaxed stores, operators read.
struct StreamCounters {
    SharedU64 records;
    SharedU64 launches;
    SharedU64 copies;
    SharedU64 copied_bytes;
    SharedU64 fills;
    SharedU64 events;
    SharedU64 waits;
    SharedU64 paddings;
    SharedU64 batches;
    SharedU64 chained;        // launches that went out in a launch graph together with others, as a chain
    SharedU64 held_turns;     // turns in which the stream waited for an event, for its bound, or for a chain
    SharedU64 wakeups;        // sleepers woken
    SharedU64 graphs;         // graphs launched; what they run counts as launches, copies and fills
    SharedU64 updates;        // of graphs' launches
    SharedU64 long_chains;    // of `chained`: in chains of 32 and more
    SharedU64 single_graphs;  // launches that went out in a launch graph each
};

struct StatusPage {
    // The daemon, before the hand-over.
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t epoch;
    std::uint64_t session;
    std::uint64_t stream;
    std::uint64_t start_position;  // where this epoch takes the stream up
    std::uint32_t slot_count;
    std::uint32_t reserved0;

    // The device (or the thread that stands for it): everything before this position has completed.
    alignas(kLinePair) SharedU64 completed;
    // The dispatch thread: everything before this position was handed to the driver, or is just about to be:
    // stored before the driver's call, so that whoever reaps a killed executor never takes what a driver had
    // for what it had not. relaxed, like its loads: waitpid() orders it for the supervisor, `state` for who
    // reads it of a stream that stopped or goes on, and everybody else reads a number for people.
    alignas(kLinePair) SharedU64 issued;
    // The dispatch thread (the supervisor, once the epoch has ended): not 0: the reader may sleep; ring the
    // doorbell (schema/wakeup.hpp). The producer looks at this line for every record: only what changes
    // rarely stands in it.
    alignas(kLinePair) SharedU64 need_wakeup;
    // The dispatch thread (the supervisor, once the epoch has ended). `state` is a schema::StreamState,
    // stored last with release: the error below belongs to it.
    SharedU32 state;
    std::uint32_t error_status;
    std::uint64_t error_position;  // the record's first slot
    std::uint64_t error_kernel;    // 0: none
    char error_text[296];          // UTF-8, ends with 0
    // The dispatch thread: CLOCK_MONOTONIC, ns, about once a second while it lives.
    alignas(kCacheLine) SharedU64 heartbeat_ns;

    alignas(kCacheLine) StreamCounters counters;
    alignas(kCacheLine) LatencyHistogram enqueue_to_issue;
    LatencyHistogram issue_to_complete;
};
static_assert(offsetof(StatusPage, completed) == 128);
static_assert(offsetof(StatusPage, issued) == 256);
static_assert(offsetof(StatusPage, need_wakeup) == 384);
static_assert(offsetof(StatusPage, state) == 392);
static_assert(sizeof(StatusPage) <= kStatusPageBytes);

}  // namespace ringlaunch
