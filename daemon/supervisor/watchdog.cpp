// Ends an executor for records that take longer than their session's bound. It reads the status pages alone:
// a device that hangs need not answer.
#include <algorithm>

#include "daemon/supervisor/core.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::uint64_t kLooksPerTimeout = 8;
constexpr std::uint64_t kShortestLookMs = 5, kLongestLookMs = 250;

}  // namespace

void Core::watch_kernels() {
    if (watchdog_armed_ || shutting_down_) return;
    std::uint64_t shortest_ms = 0;
    for (const auto& [id, session] : sessions_)
        if (session->kernel_timeout_ms != 0)
            shortest_ms = shortest_ms == 0 ? session->kernel_timeout_ms
                                           : std::min(shortest_ms, session->kernel_timeout_ms);
    if (shortest_ms == 0) return;
    watchdog_armed_ = true;
    watchdog_timer_.expires_after(std::chrono::milliseconds(
        std::clamp(shortest_ms / kLooksPerTimeout, kShortestLookMs, kLongestLookMs)));
    watchdog_timer_.async_wait([this](const auto& error) {
        watchdog_armed_ = false;
        if (error || shutting_down_) return;
        look_at_kernels();
        watch_kernels();
    });
}

void Core::look_at_kernels() {
    for (const auto& [key, domain] : domains_)
        if (domain->state() == FaultDomain::State::ready) look_at_kernels(*domain);
}

void Core::look_at_kernels(FaultDomain& domain) {
    struct Late {
        const Session* session;
        const Stream* stream;
        bool may_wait;  // for another stream, which then is to blame
    };
    std::vector<Late> late;
    const std::uint64_t now = now_ns();
    for (Session* session : sessions_in(domain)) {
        if (session->kernel_timeout_ms == 0) continue;
        const std::uint64_t bound_ns = session->kernel_timeout_ms * kNsPerMs;
        std::vector<Late> candidates;
        for (const auto& [id, stream] : session->streams) {
            // What is closed has a bound of its own; what a restart stopped is in doubt, and does not run.
            if (!stream->served || stream->phase != Stream::Phase::open || stopped_by_restart(*stream)) {
                stream->watched_since_ns = 0;
                continue;
            }
            const std::uint64_t completed = stream->page.completed();
            // relaxed: a count, which only has to be there by the next look.
            const std::uint64_t waits = stream->page.page().counters.waits.load(std::memory_order_relaxed);
            const bool idle = stream->page.issued() == completed;
            const bool moved = completed != stream->watched_completed;
            if (moved) session->moved_ns = now;
            if (idle) stream->watched_waits = waits;
            if (idle || moved || stream->watched_since_ns == 0) {
                stream->watched_completed = completed;
                stream->watched_since_ns = idle ? 0 : now;
            } else if (now - stream->watched_since_ns > bound_ns) {
                candidates.push_back({session, stream.get(), waits != stream->watched_waits});
            }
        }
        // One that may be waiting for another is late when nothing of its session moves any more.
        for (const Late& each : candidates)
            if (!each.may_wait || now - session->moved_ns > bound_ns) late.push_back(each);
    }
    if (late.empty()) return;
    // Where several are late and only one of them waits for nobody, the others may wait for it.
    std::ranges::stable_partition(late, [](const Late& each) { return !each.may_wait; });
    const Late& named = late.front();
    const bool single = late.size() == 1 || (!named.may_wait && late[1].may_wait);
    std::string why = "the work of stream " + id_text(named.stream->id) + " at " +
                      std::to_string(named.stream->watched_completed) + " did not complete within " +
                      std::to_string(named.session->kernel_timeout_ms) + " ms (kernel timeout)";
    if (!single) why += ", nor did that of " + std::to_string(late.size() - 1) + " others";
    if (single)
        domain.end_late(why, named.stream->id, in_flight(*named.session, *named.stream, true));
    else
        domain.end_late(why, 0, std::nullopt);
}

}  // namespace ringlaunch::supervisor
