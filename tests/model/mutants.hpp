// The single weakenings that the interleaving test makes, one at a time: an order, a fence, a check, a step.
#pragma once

#include <array>
#include <ostream>
#include <string_view>

namespace ringlaunch::model {

enum class Mutant {
    none,
    // the ring
    head_stamp_relaxed,
    peek_relaxed,
    completed_load_relaxed,
    completed_store_relaxed,
    stamp_before_payload,
    continuation_after_head,
    completed_before_copy,
    reserve_off_by_a_slot,
    reserve_off_by_a_lap,
    room_off_by_a_slot,
    room_past_the_end,
    room_for_too_long_a_record,
    // falling asleep (W1)
    producer_no_look,
    producer_looks_before_stamp,
    producer_no_fence,
    producer_rings_once_for_a_page,
    sleeps_without_numbers,
    reader_no_announcement,
    reader_announces_after_barrier,
    reader_no_barrier,
    reader_fences_only_itself,
    reader_no_second_look,
    reader_takes_edges_after_second_look,
    doorbell_edge_only_from_zero,
    // waiting (W2)
    waiter_no_fence,
    waiter_no_second_look,
    waiter_no_doorbell,
    waiter_drains_after_second_look,
    reader_second_look_without_waiters,
    reader_no_notification,
    reader_sleeps_on_what_completed_meanwhile,
    // restart
    dead_page_not_marked,
    dead_page_marked_as_a_sleep,
    rung_sleep_without_its_page,
    next_reader_no_first_look,
    next_reader_starts_at_issued,
    no_notice_of_the_new_page,
    issued_after_handing_over,
    // a stop: the error first, then `state`
    state_store_relaxed,
    state_load_relaxed,
    state_before_error,
    issued_taken_back_after_state,
    // the client's page is replaced
    page_store_relaxed,
    page_load_relaxed,
    page_address_before_its_words,
    // a timed record
    sample_time_after_stamp,
};

// The scenario that must catch it (tests/model/scenarios.hpp).
enum class Where { ring, sleep, wait, restart, stop, page, sample };

struct MutantName {
    Mutant mutant;
    Where where;
    std::string_view name;
    std::string_view says;
};

// What GoogleTest says of it.
inline void PrintTo(const MutantName& mutant, std::ostream* out) {
    *out << mutant.says;
}

inline constexpr std::array kMutants{
    MutantName{Mutant::head_stamp_relaxed, Where::ring, "head_stamp_relaxed",
               "publish: the head's stamp stored relaxed, not release"},
    MutantName{Mutant::peek_relaxed, Where::ring, "peek_relaxed",
               "peek: the stamp loaded relaxed, not acquire"},
    MutantName{Mutant::completed_load_relaxed, Where::ring, "completed_load_relaxed",
               "reserve: completed loaded relaxed, not acquire"},
    MutantName{Mutant::completed_store_relaxed, Where::ring, "completed_store_relaxed",
               "completed stored relaxed, not release"},
    MutantName{Mutant::stamp_before_payload, Where::ring, "stamp_before_payload",
               "publish: the payload written after the stamp"},
    MutantName{Mutant::continuation_after_head, Where::ring, "continuation_after_head",
               "continuation stamps stored after the head's"},
    MutantName{Mutant::completed_before_copy, Where::ring, "completed_before_copy",
               "completed stored before the record was copied"},
    MutantName{Mutant::reserve_off_by_a_slot, Where::ring, "reserve_off_by_a_slot",
               "reserve: one slot too many"},
    MutantName{Mutant::reserve_off_by_a_lap, Where::ring, "reserve_off_by_a_lap", "reserve: a lap too many"},
    MutantName{Mutant::room_off_by_a_slot, Where::ring, "room_off_by_a_slot",
               "clear: one slot more than are free"},
    MutantName{Mutant::room_past_the_end, Where::ring, "room_past_the_end",
               "clear: one slot past the ring's end"},
    MutantName{Mutant::room_for_too_long_a_record, Where::ring, "room_for_too_long_a_record",
               "clear: a record one slot longer than the longest"},
    MutantName{Mutant::producer_no_look, Where::sleep, "producer_no_look",
               "the producer does not look at need_wakeup"},
    MutantName{Mutant::producer_looks_before_stamp, Where::sleep, "producer_looks_before_stamp",
               "the producer looks before its stamp"},
    MutantName{Mutant::producer_no_fence, Where::sleep, "producer_no_fence",
               "no membarrier, and the producer does not fence"},
    MutantName{Mutant::producer_rings_once_for_a_page, Where::sleep, "producer_rings_once_for_a_page",
               "the producer rings for one sleep only"},
    MutantName{Mutant::sleeps_without_numbers, Where::sleep, "sleeps_without_numbers",
               "every sleep has the same number"},
    MutantName{Mutant::reader_no_announcement, Where::sleep, "reader_no_announcement",
               "the reader sleeps without need_wakeup"},
    MutantName{Mutant::reader_announces_after_barrier, Where::sleep, "reader_announces_after_barrier",
               "need_wakeup stored after the barrier"},
    MutantName{Mutant::reader_no_barrier, Where::sleep, "reader_no_barrier", "the reader has no barrier"},
    MutantName{Mutant::reader_fences_only_itself, Where::sleep, "reader_fences_only_itself",
               "a fence where the membarrier should be"},
    MutantName{Mutant::reader_no_second_look, Where::sleep, "reader_no_second_look",
               "the reader sleeps without looking again"},
    MutantName{Mutant::reader_takes_edges_after_second_look, Where::sleep,
               "reader_takes_edges_after_second_look", "the doorbell's edges taken before sleeping"},
    MutantName{Mutant::doorbell_edge_only_from_zero, Where::sleep, "doorbell_edge_only_from_zero",
               "a doorbell that nobody reads has one edge only"},
    MutantName{Mutant::waiter_no_fence, Where::wait, "waiter_no_fence",
               "the waiter does not fence after wait_position"},
    MutantName{Mutant::waiter_no_second_look, Where::wait, "waiter_no_second_look",
               "the waiter sleeps without looking again"},
    MutantName{Mutant::waiter_no_doorbell, Where::wait, "waiter_no_doorbell",
               "the waiter does not ring a sleeping reader"},
    MutantName{Mutant::waiter_drains_after_second_look, Where::wait, "waiter_drains_after_second_look",
               "the wake eventfd drained before sleeping"},
    MutantName{Mutant::reader_second_look_without_waiters, Where::wait, "reader_second_look_without_waiters",
               "the second look skips wait positions"},
    MutantName{Mutant::reader_no_notification, Where::wait, "reader_no_notification",
               "no notify_at before the reader sleeps"},
    MutantName{Mutant::reader_sleeps_on_what_completed_meanwhile, Where::wait,
               "reader_sleeps_on_what_completed_meanwhile",
               "the reader arms nothing for what completed since its last look, and sleeps"},
    MutantName{Mutant::dead_page_not_marked, Where::restart, "dead_page_not_marked",
               "need_wakeup of the dead page left as it was"},
    MutantName{Mutant::dead_page_marked_as_a_sleep, Where::restart, "dead_page_marked_as_a_sleep",
               "the dead page marked with a number that may have been rung for"},
    MutantName{Mutant::rung_sleep_without_its_page, Where::restart, "rung_sleep_without_its_page",
               "a sleep of the dead reader taken for one of the next"},
    MutantName{Mutant::next_reader_no_first_look, Where::restart, "next_reader_no_first_look",
               "the next reader sleeps without a look"},
    MutantName{Mutant::next_reader_starts_at_issued, Where::restart, "next_reader_starts_at_issued",
               "the next reader starts at B, not at A"},
    MutantName{Mutant::no_notice_of_the_new_page, Where::restart, "no_notice_of_the_new_page",
               "the client is not told of the new page"},
    MutantName{Mutant::issued_after_handing_over, Where::restart, "issued_after_handing_over",
               "issued stored after the driver was given the record"},
    MutantName{Mutant::state_store_relaxed, Where::stop, "state_store_relaxed",
               "state stored relaxed, not release"},
    MutantName{Mutant::state_load_relaxed, Where::stop, "state_load_relaxed",
               "state loaded relaxed, not acquire, before the error is read"},
    MutantName{Mutant::state_before_error, Where::stop, "state_before_error",
               "the error written after state"},
    MutantName{Mutant::issued_taken_back_after_state, Where::stop, "issued_taken_back_after_state",
               "issued corrected for the refused record after state"},
    MutantName{Mutant::page_store_relaxed, Where::page, "page_store_relaxed",
               "replace_page, end: the page's address stored relaxed, not release"},
    MutantName{Mutant::page_load_relaxed, Where::page, "page_load_relaxed",
               "current: the page's address loaded relaxed, not acquire"},
    MutantName{Mutant::page_address_before_its_words, Where::page, "page_address_before_its_words",
               "the page's address stored before what stands in it"},
    MutantName{Mutant::sample_time_after_stamp, Where::sample, "sample_time_after_stamp",
               "sample_ns written after the record's stamp"},
};

}  // namespace ringlaunch::model
