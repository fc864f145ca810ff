// Reads the counters of every stream straight from the shared status pages: the dispatcher notices nothing.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/cli/control_client.hpp"
#include "schema/counters.hpp"
#include "schema/pages.hpp"

namespace ringlaunch::cli {

using Buckets = std::array<std::uint64_t, kHistogramBuckets>;

// A page's words at one moment. Each is true; together they are not a snapshot, since the dispatcher goes on.
struct StreamSample {
    std::chrono::steady_clock::time_point at;
    schema::StreamState state = schema::StreamState::Running;
    std::uint32_t error_status = 0;
    std::uint64_t error_position = 0;
    std::uint64_t error_kernel = 0;
    std::string error_text;
    std::uint64_t published = 0, issued = 0, completed = 0;
    std::uint64_t heartbeat_ns = 0;
    bool reader_asleep = false;
    std::uint64_t records = 0, launches = 0, copies = 0, copied_bytes = 0, fills = 0, events = 0, waits = 0,
                  paddings = 0, batches = 0, chained = 0, held_turns = 0, wakeups = 0, graphs = 0,
                  updates = 0, long_chains = 0, single_graphs = 0;
    Buckets enqueue_to_issue{}, issue_to_complete{};
};

struct StreamView {
    std::uint64_t session = 0, stream = 0;
    int device = 0;
    std::string name;
    std::uint32_t epoch = 0;
    std::uint32_t ring_slots = 0;
    bool readable = false;  // false: it has no status page just now (its executor is being restarted)
    StreamSample now;
    bool has_before = false;
    StreamSample before;  // of the look before this one
};

class StreamSampler {
  public:
    explicit StreamSampler(ControlClient& client) : client_(client) {}
    // Asks which streams there are, and reads the page of each. In the order of session and stream.
    std::vector<StreamView> look();

  private:
    ControlClient& client_;
    std::map<std::pair<std::uint64_t, std::uint64_t>, StreamSample> before_;
};

// `later` less `earlier`; all of `later` where the counts do not grow from one to the other.
Buckets difference(const Buckets& later, const Buckets& earlier);
struct Quantiles {
    std::uint64_t samples = 0;
    double p50_ns = 0, p99_ns = 0, p999_ns = 0;
};
Quantiles quantiles(const Buckets& buckets);

}  // namespace ringlaunch::cli
