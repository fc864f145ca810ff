// What a stream had in flight when its executor died, read from its ring, and how that is said.
#pragma once

#include <cstdint>
#include <string>

#include "schema/ring.hpp"

namespace ringlaunch::supervisor {

// Of records that can end an executor: launches, copies, fills, graphs.
struct RecordsInFlight {
    // Their positions; the same where only one can have been at work.
    std::uint64_t first = 0, last = 0;
    std::uint64_t kernel = 0;  // of the first; 0: it is no launch
    bool one() const { return first == last; }
};

// `one_by_one`: each completes by itself, so that it can only be the first. The ring is its client's: what
// stands there is not trusted.
RecordsInFlight records_in_flight(const Slot* slots, std::uint32_t slot_count, std::uint64_t completed,
                                  std::uint64_t issued, bool one_by_one);

// "kernel add, record at position 7", "one of the records at positions 7 to 19 (the first is of kernel add)".
// `kernel`: the name of the first one's, "" where that is not known.
std::string name_records(const RecordsInFlight& records, const std::string& kernel);

}  // namespace ringlaunch::supervisor
