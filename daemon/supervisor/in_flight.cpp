#include "daemon/supervisor/in_flight.hpp"

namespace ringlaunch::supervisor {

namespace {

bool is_work(schema::RecordKind kind) {
    switch (kind) {
        case schema::RecordKind::CopyToDevice:
        case schema::RecordKind::CopyToHost:
        case schema::RecordKind::CopyOnDevice:
        case schema::RecordKind::Fill:
        case schema::RecordKind::GraphLaunch:
            return true;
        default:
            return is_launch(kind);
    }
}

}  // namespace

RecordsInFlight records_in_flight(const Slot* slots, std::uint32_t slot_count, std::uint64_t completed,
                                  std::uint64_t issued, bool one_by_one) {
    RecordsInFlight found{completed, completed, 0};
    bool any = false;
    RingConsumer<> records(slots, slot_count, completed);
    RecordCopy copy;
    while (records.position() < issued) {
        if (!records.peek() || records.copy(copy) != Status::ok) {
            // Its client has written over it.
            found.last = issued - 1;
            break;
        }
        const schema::RecordKind kind = copy.as<schema::PaddingRecord>().kind();
        if (is_work(kind)) {
            found.last = copy.position;
            if (!any) {
                found.first = copy.position;
                found.kernel = is_launch(kind) ? kernel_id(copy) : 0;
            }
            any = true;
            if (one_by_one) break;
        }
        records.advance(copy.slots);
    }
    return found;
}

std::string name_records(const RecordsInFlight& records, const std::string& kernel) {
    const std::string first = std::to_string(records.first);
    if (!records.one())
        return "one of the records at positions " + first + " to " + std::to_string(records.last) +
               (kernel.empty() ? "" : " (the first is of kernel " + kernel + ")");
    return (kernel.empty() ? "work" : "kernel " + kernel) + ", record at position " + first;
}

}  // namespace ringlaunch::supervisor
