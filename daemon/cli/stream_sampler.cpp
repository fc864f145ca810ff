#include "daemon/cli/stream_sampler.hpp"

#include <algorithm>
#include <cstring>

#include "daemon/cli/terminal.hpp"
#include "daemon/cli/text.hpp"
#include "schema/error.hpp"
#include "schema/id_text.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

namespace {

// relaxed: a counter is read for people, and orders nothing.
std::uint64_t peek(const SharedU64& word) {
    return word.load(std::memory_order_relaxed);
}

void copy_histogram(const LatencyHistogram& from, Buckets& to) {
    for (std::size_t i = 0; i < kHistogramBuckets; ++i) to[i] = peek(from.buckets[i]);
}

StreamSample read_page(const StatusPage& page) {
    StreamSample sample;
    sample.at = std::chrono::steady_clock::now();
    // sync: STATE (pairs with the release store of `state` by whoever stopped or ended the stream): the error
    // that belongs to the state is read after it.
    const std::uint32_t state = page.state.load(std::memory_order_acquire);
    sample.state = static_cast<schema::StreamState>(state);
    if (sample.state != schema::StreamState::Running) {
        sample.error_status = page.error_status;
        sample.error_position = page.error_position;
        sample.error_kernel = page.error_kernel;
        sample.error_text =
            printable(std::string(page.error_text, ::strnlen(page.error_text, sizeof page.error_text)));
        // Resumed or stopped anew meanwhile: the fields may belong to two errors, so none is shown where that
        // is seen. (A resume clears them before it stores `state`: cleared ones may slip by. A line for
        // people: no model.)
        std::atomic_thread_fence(
            std::memory_order_acquire);  // sync: STATE, the reads above stay before this look
        if (page.state.load(std::memory_order_relaxed) != state) {
            sample.error_status = 0;
            sample.error_text.clear();
        }
    }
    // Completed before issued, so that it is never seen ahead of it.
    // sync: COMPLETED (pairs with the store of `completed` by the device or the dispatcher; only the order
    // matters here)
    sample.completed = page.completed.load(std::memory_order_acquire);
    sample.issued = std::max(peek(page.issued), sample.completed);
    sample.heartbeat_ns = peek(page.heartbeat_ns);
    sample.reader_asleep = page.need_wakeup.load(std::memory_order_relaxed) != 0;  // relaxed: as in peek()
    const StreamCounters& counters = page.counters;
    sample.records = peek(counters.records);
    sample.launches = peek(counters.launches);
    sample.copies = peek(counters.copies);
    sample.copied_bytes = peek(counters.copied_bytes);
    sample.fills = peek(counters.fills);
    sample.events = peek(counters.events);
    sample.waits = peek(counters.waits);
    sample.paddings = peek(counters.paddings);
    sample.batches = peek(counters.batches);
    sample.chained = peek(counters.chained);
    sample.held_turns = peek(counters.held_turns);
    sample.wakeups = peek(counters.wakeups);
    sample.graphs = peek(counters.graphs);
    sample.updates = peek(counters.updates);
    sample.long_chains = peek(counters.long_chains);
    sample.single_graphs = peek(counters.single_graphs);
    copy_histogram(page.enqueue_to_issue, sample.enqueue_to_issue);
    copy_histogram(page.issue_to_complete, sample.issue_to_complete);
    return sample;
}

}  // namespace

std::vector<StreamView> StreamSampler::look() {
    std::vector<StreamView> views;
    for (std::uint32_t seen = 0;;) {
        const Answer answer = client_.ask(
            schema::Request::GetStats,
            [seen](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateGetStats(builder, seen).Union();
            },
            schema::Answer::Stats);
        const schema::Stats& stats = *answer.view()->answer_as_Stats();
        if (stats.streams() == nullptr || stats.streams()->size() == 0) break;
        for (const schema::StreamStats* stream : *stats.streams()) {
            StreamView view;
            view.session = stream->session();
            view.stream = stream->stream();
            view.device = stream->device();
            view.name = text(stream->name());
            view.epoch = stream->epoch();
            view.ring_slots = stream->ring_slots();
            const int index = stream->status_fd();
            if (index >= 0 && static_cast<std::size_t>(index) < answer.message.fds.size()) {
                const UniqueFd& fd = answer.message.fds[static_cast<std::size_t>(index)];
                const std::string what = "the status page of stream " + id_text(view.stream);
                check_seals(fd, Sealing::one_writer, sizeof(StatusPage), what);
                const Mapping mapping(fd, sizeof(StatusPage), Mapping::Access::read_only, what);
                const auto& page = *mapping.as<const StatusPage>();
                if (page.magic != kStatusMagic || page.version != kProtocolVersion)
                    throw CommandError(ExitCode::version_mismatch,
                                       what + " is of protocol version " + std::to_string(page.version) +
                                           ", expected " + std::to_string(kProtocolVersion));
                view.now = read_page(page);
                view.now.published = std::max(stream->published(), view.now.issued);
                view.readable = true;
            }
            const auto before = before_.find({view.session, view.stream});
            if (view.readable && before != before_.end()) {
                view.has_before = true;
                view.before = before->second;
            }
            views.push_back(std::move(view));
        }
        seen += stats.streams()->size();
        if (seen >= stats.total()) break;
    }
    before_.clear();
    for (const StreamView& view : views)
        if (view.readable) before_[{view.session, view.stream}] = view.now;
    std::sort(views.begin(), views.end(), [](const StreamView& a, const StreamView& b) {
        return std::pair(a.session, a.stream) < std::pair(b.session, b.stream);
    });
    return views;
}

Buckets difference(const Buckets& later, const Buckets& earlier) {
    Buckets out{};
    for (std::size_t i = 0; i < out.size(); ++i) {
        if (later[i] < earlier[i]) return later;
        out[i] = later[i] - earlier[i];
    }
    return out;
}

Quantiles quantiles(const Buckets& buckets) {
    LatencyHistogram histogram{};
    for (std::size_t i = 0; i < buckets.size(); ++i)
        histogram.buckets[i].store(buckets[i], std::memory_order_relaxed);  // relaxed: private to this thread
    return {samples(histogram), quantile(histogram, 0.5), quantile(histogram, 0.99),
            quantile(histogram, 0.999)};
}

}  // namespace ringlaunch::cli
