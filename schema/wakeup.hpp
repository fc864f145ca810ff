// How the reader of the rings falls asleep and is woken, and how a client that waits does: both sides' steps.
//
// Four words take part: `need_wakeup` and `completed` of the status page (the daemon writes), a slot's stamp
// and `wait_position` of the ring (the client writes). Each side stores a word, then looks at the other's;
// both may not miss. That needs a full barrier between store and look on each side (store buffers delay
// stores past later loads).
//
// `need_wakeup` is 0 while the reader is awake, else the number of its sleep: each sleep has its own, and
// kRingAlways is none. A producer rings once for a sleep (RungSleep), because a doorbell that was rung
// after the sleep was announced ends it, however late: the records that follow need no other, and each would
// cost a system call until the reader is on a processor again.
//
//   W1  producer:  stamp; barrier; look at need_wakeup          (producer_must_ring)
//       reader:    need_wakeup; barrier; look at the stamps     (announce_sleep, then barrier_before_sleep,
//       then look) Either the producer sees the number of this sleep and has rung or rings for it, or the
//       reader sees the stamp and stays awake. (Who sees the number of an earlier sleep looked before the
//       barrier.)
//   W2  waiter:    wait_position; barrier; look at need_wakeup  (announce_wait, then must_ring)
//       reader:    need_wakeup; barrier; look at wait_position
//       Either the reader sees who waits before it sleeps, or the waiter wakes it.
//
// The producer's barrier would cost 33 to 80 ns for every record. So the reader pays for both with
// membarrier(GLOBAL_EXPEDITED): the OS runs a full barrier on every processor that runs a registered process.
// Where that cannot be had, Welcome.producer_must_fence says so and each side has its own. A waiter is slow:
// it always fences.
//
// Crash of the reader: the supervisor stores need_wakeup = kRingAlways into the dead page for good, so that
// every producer looks further at every record; the next reader looks at every ring before it first sleeps,
// and its barrier_before_sleep orders that look as in W1. Doorbells outlive readers. tests/model holds all of
// this.
#pragma once

#include <cstdint>

#include "pages.hpp"  // beside this file, as in include/ringlaunch/
#include "ring_producer.hpp"

namespace ringlaunch {

// ---- the client
// --------------------------------------------------------------------------------------------

// The last sleep that a producer has rung for. Readers number their own sleeps, so the page belongs to it: a
// stream's pages must not be unmapped while the stream lives (another could come to stand there).
class RungSleep {
  public:
    // True: ring now. False: it was rung for this sleep.
    bool rings_for(const SharedU64& need_wakeup, std::uint64_t sleep) noexcept {
        if (page_ == &need_wakeup && sleep_ == sleep && sleep != kRingAlways) return false;
        page_ = &need_wakeup;
        sleep_ = sleep;
        return true;
    }

  private:
    const SharedU64* page_ = nullptr;
    std::uint64_t sleep_ = 0;
};

// After publish(): must the doorbell be rung? The hot path's last step. Who hears true rings.
template <class Memory = StdMemory>
[[nodiscard, gnu::always_inline]] inline bool producer_must_ring(const SharedU64& need_wakeup,
                                                                 RungSleep& rung, bool must_fence) noexcept {
    Memory::after_stamp(must_fence);
    // relaxed: it decides only about the doorbell; nothing is read on the strength of it. W1 orders it.
    const std::uint64_t sleep = Memory::load_relaxed(need_wakeup);
    if (sleep == 0) [[likely]]
        return false;
    return rung.rings_for(need_wakeup, sleep);
}

// A waiter, in this order: drain the wake eventfd; announce_wait(lowest position awaited); look at
// `completed` and `state` again; if must_ring(), write the doorbell; poll the wake eventfd and the socket;
// when done, announce_wait(0) (or the next lowest). Draining after the announcement could swallow its answer;
// not looking again would wait for ever for a position that was answered already (the reader wakes once for a
// value).
template <class Memory = StdMemory>
inline void announce_wait(RingHeader& ring, std::uint64_t position) noexcept {
    Memory::store_relaxed(ring.wait_position, position);  // relaxed: nothing is released by it; W2 orders it.
    Memory::full_fence();
}
template <class Memory = StdMemory>
[[nodiscard]] inline bool must_ring(const SharedU64& need_wakeup) noexcept {
    return Memory::load_relaxed(need_wakeup) != 0;  // relaxed: as in producer_must_ring
}

// ---- the reader
// --------------------------------------------------------------------------------------------

// Doorbells are eventfds that the reader watches edge-triggered and never reads: each write is an edge of its
// own, whatever the count is, and one that came while the reader was awake ends its next sleep at once. So
// there is nothing to drain, and nothing that a drain at the wrong moment could swallow.
// Before it sleeps, in this order: announce_sleep(page, number) for each page, with a number that this reader
// has not used (from 1); barrier_before_sleep() once; look at every ring and wait position once more; sleep,
// which takes the edges, if there is nothing. After waking, or if there was something: announce_awake(page)
// for each page, before the look that follows.
template <class Memory = StdMemory>
inline void announce_sleep(SharedU64& need_wakeup, std::uint64_t sleep) noexcept {
    Memory::store_relaxed(need_wakeup, sleep);  // relaxed: W1, W2 order it by barrier_before_sleep
}
template <class Memory = StdMemory>
inline void announce_awake(SharedU64& need_wakeup) noexcept {
    // relaxed: whoever sees it late rings a doorbell too many; whoever sees it early is looked at before the
    // next sleep.
    Memory::store_relaxed(need_wakeup, std::uint64_t{0});
}

// Can this process use membarrier(GLOBAL_EXPEDITED) as a reader? Asked once, at its start.
bool membarrier_available() noexcept;
// Registers this process as one that membarrier() of a reader reaches. False: it must be told to fence.
bool register_for_membarrier() noexcept;
// The reader's barrier; with `membarrier`, a full barrier in every registered process as well.
void barrier_before_sleep(bool membarrier) noexcept;

}  // namespace ringlaunch
