// The cold halves of the hot path, and how a stream follows the daemon's epochs.
#include "client/src/stream_state.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "client/src/client_state.hpp"
#include "client/src/clock.hpp"
#include "client/src/eventfd.hpp"
#include "client/src/graph.hpp"
#include "client/src/waiter.hpp"

namespace ringlaunch::detail {

namespace {

constexpr auto kRunning = static_cast<std::uint32_t>(schema::StreamState::Running);
constexpr auto kStopped = static_cast<std::uint32_t>(schema::StreamState::Stopped);
constexpr auto kEnded = static_cast<std::uint32_t>(schema::StreamState::Ended);
constexpr auto kClosed = static_cast<std::uint32_t>(schema::StreamState::Closed);

struct LastError {
    const StreamState* stream = nullptr;
    std::string text;
};
LastError& last_error() {
    thread_local LastError error;
    return error;
}

}  // namespace

StreamState::StreamState(std::shared_ptr<ClientState> owner, OpenedStream opened)
    : id(opened.id),
      ring_slots(opened.ring_slots),
      name(std::move(opened.name)),
      spin_ns(longest_spin_ns()),
      client(owner.get()),
      keeper(std::move(owner)),
      wake(std::move(opened.wake)),
      ring(std::move(opened.ring)) {
    page.store(opened.page.as<const StatusPage>(), std::memory_order_release);  // sync: EPOCH
    HotStream::owner = client;
    must_fence = client->must_fence;
    header = ring.as<RingHeader>();
    producer = RingProducer<>(ring.as<Slot>(kRingHeaderBytes), ring_slots, current().start_position);
    pages.push_back(std::move(opened.page));
    guard();
}

StreamState::~StreamState() {
    unguard();
}

Status StreamState::not_running() noexcept {
    for (bool looked = false;; looked = true) {
        const StatusPage& now = current();
        // sync: STATE (pairs with the dispatcher's or the supervisor's store): what it wrote before is there.
        switch (const std::uint32_t state = now.state.load(std::memory_order_acquire); state) {
            case kRunning:
                return Status::ok;
            case kClosed: {
                Status life = client->life();
                if (life == Status::ok) life = Status::closed;
                remember_error(*this, life,
                               client->forked.load(std::memory_order_relaxed) ? client->life_text() : "");
                return life;
            }
            default:
                // The daemon may have told us more than the page does.
                if (!looked) {
                    client->connection->pump();
                    break;
                }
                // Between two epochs: the ring is the journal, and the next executor reads it.
                if (state == kEnded) return Status::ok;
                remember_error(*this, Status::stream_stopped);
                return Status::stream_stopped;
        }
    }
}

Status StreamState::looks_full() noexcept {
    client->connection->pump();
    if (current().state.load(std::memory_order_relaxed) == kClosed)
        return not_running();  // relaxed: it looks again
    return Status::ring_full;
}

void HotStream::ring_doorbell() noexcept {
    ClientState& client = *static_cast<StreamState*>(this)->client;
    if (client.forked.load(std::memory_order_relaxed)) return;
    signal(client.doorbell);
    client.connection->pump();
}

void StreamState::take_sample() noexcept {
    // One sample at a time: a deep ring would otherwise move it on before the dispatcher comes by.
    // relaxed: a late look skips one sample.
    if (current().issued.load(std::memory_order_relaxed) < last_sample) return;
    last_sample = producer.position();
    // relaxed: the stamp of the record, which comes after, releases both.
    header->sample_ns.store(now_ns(), std::memory_order_relaxed);
    header->sample_position.store(last_sample, std::memory_order_relaxed);
}

void StreamState::replace_page(Mapping next, const schema::StreamEpoch& notice) {
    const std::lock_guard lock(mutex);
    if (ended) return;
    issued_before = notice.issued();
    stop_status = static_cast<Status>(notice.status());
    stop_text = notice.error() == nullptr ? std::string() : notice.error()->str();
    if (next) {
        pages.push_back(std::move(next));
        page.store(pages.back().as<const StatusPage>(), std::memory_order_release);  // sync: EPOCH
    }
    signal(wake);  // sleepers look again, at the new page
}

void StreamState::end() noexcept {
    const std::lock_guard lock(mutex);
    if (ended) return;
    ended = true;
    const StatusPage& now = current();
    last_page.magic = now.magic;
    last_page.version = now.version;
    last_page.epoch = now.epoch;
    last_page.session = now.session;
    last_page.stream = now.stream;
    last_page.slot_count = now.slot_count;
    // What has completed stays so. sync: COMPLETED
    last_page.completed.store(now.completed.load(std::memory_order_acquire), std::memory_order_relaxed);
    // relaxed: released with the page
    last_page.issued.store(now.issued.load(std::memory_order_relaxed), std::memory_order_relaxed);
    last_page.state.store(kClosed, std::memory_order_relaxed);
    page.store(&last_page, std::memory_order_release);  // sync: EPOCH
    signal(wake);
    changed.notify_all();
}

void StreamState::after_fork_in_child() noexcept {
    // No lock: see fork_guard.hpp. The parent's page may be read once more, its ring is let go of.
    client->forked.store(true, std::memory_order_relaxed);
    const StatusPage& now = current();
    last_page.completed.store(now.completed.load(std::memory_order_relaxed), std::memory_order_relaxed);
    last_page.issued.store(now.issued.load(std::memory_order_relaxed), std::memory_order_relaxed);
    last_page.state.store(kClosed, std::memory_order_relaxed);
    page.store(&last_page, std::memory_order_relaxed);
    ended = true;
    header = nullptr;
    ring = Mapping();
    if (staging) staging->unmap();
    wake.reset();
    loop.reset();
    kick.reset();
}

void remember_error(const StreamState& stream, Status status, std::string_view text) noexcept {
    try {
        LastError& error = last_error();
        error.stream = &stream;
        if (!text.empty()) {
            error.text = text;
        } else if (status == Status::daemon_lost || status == Status::closed) {
            error.text = stream.client->life_text();
        } else {
            error.text = status_text(status);
        }
    } catch (...) {  // no memory for a text: the status alone must do
    }
}

Status refuse(const StreamState& stream, Status status, const std::string& text) noexcept {
    remember_error(stream, status, text);
    return status;
}

std::string remembered_error(const StreamState& stream) {
    const LastError& error = last_error();
    return error.stream == &stream ? error.text : std::string();
}

}  // namespace ringlaunch::detail
