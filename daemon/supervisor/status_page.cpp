#include "daemon/supervisor/status_page.hpp"

#include <algorithm>
#include <cstring>

#include "control_generated.h"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

template <class Counters>
void copy_words(Counters& to, const Counters& from) {
    static_assert(sizeof(Counters) % sizeof(SharedU64) == 0);
    auto* target = reinterpret_cast<SharedU64*>(&to);
    const auto* source = reinterpret_cast<const SharedU64*>(&from);
    // relaxed: counters; the writer of `from` has been reaped and nobody else has `to` yet.
    for (std::size_t i = 0; i < sizeof(Counters) / sizeof(SharedU64); ++i)
        target[i].store(source[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
}

}  // namespace

EpochPage::EpochPage(const PageStart& start, const EpochPage* before) {
    const std::string what = "the status page of stream " + id_text(start.stream);
    fd_ = make_memfd("status", kStatusPageBytes);
    mapping_ = Mapping(fd_, kStatusPageBytes, Mapping::Access::read_write, what);
    StatusPage& page = *mapping_.as<StatusPage>();
    page.magic = kStatusMagic;
    page.version = kProtocolVersion;
    page.epoch = start.epoch;
    page.session = start.session;
    page.stream = start.stream;
    page.start_position = start.completed;
    page.slot_count = start.slot_count;
    // relaxed: the descriptor has not left this process; handing it over orders all of this.
    page.completed.store(start.completed, std::memory_order_relaxed);
    page.issued.store(start.issued, std::memory_order_relaxed);
    if (start.error != Status::ok) {
        page.error_status = static_cast<std::uint32_t>(start.error);
        page.error_position = start.error_position;
        page.error_kernel = start.error_kernel;
        const std::size_t length = std::min(start.error_text.size(), sizeof(page.error_text) - 1);
        std::memcpy(page.error_text, start.error_text.data(), length);
        page.state.store(static_cast<std::uint32_t>(schema::StreamState::Stopped), std::memory_order_relaxed);
    }
    if (before != nullptr && *before) {
        copy_words(page.counters, before->page().counters);
        copy_words(page.enqueue_to_issue, before->page().enqueue_to_issue);
        copy_words(page.issue_to_complete, before->page().issue_to_complete);
    }
}

void EpochPage::seal() {
    if (sealed_) return;
    ringlaunch::seal(fd_, Sealing::one_writer, "a status page");
    sealed_ = true;
}

// sync: COMPLETED (pairs with the executor's stores). Order matters only while the executor lives.
std::uint64_t EpochPage::completed() const {
    return page().completed.load(std::memory_order_acquire);
}

std::uint64_t EpochPage::issued() const {
    const std::uint64_t completed = this->completed();
    return std::max(completed, page().issued.load(std::memory_order_relaxed));  // see StatusPage::issued
}

bool EpochPage::stopped() const {
    // sync: STATE (pairs with the dispatcher's store of `state`): the error is there before it.
    return page().state.load(std::memory_order_acquire) ==
           static_cast<std::uint32_t>(schema::StreamState::Stopped);
}

std::string EpochPage::error_text() const {
    const char* text = page().error_text;
    return std::string(text, ::strnlen(text, sizeof(page().error_text)));
}

void EpochPage::end() {
    StatusPage& page = *mapping_.as<StatusPage>();
    // sync: STATE (pairs with the client's look after need_wakeup, or before it sleeps).
    page.state.store(static_cast<std::uint32_t>(schema::StreamState::Ended), std::memory_order_release);
    // relaxed: it stays for good, so a producer that sees it late does so at its next record, and one that
    // sees it before `state` Ended rings and takes in notices, for this record and the next; sleepers get the
    // wake eventfd after this.
    page.need_wakeup.store(kRingAlways, std::memory_order_relaxed);
}

}  // namespace ringlaunch::supervisor
