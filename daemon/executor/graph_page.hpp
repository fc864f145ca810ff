// A graph's page: what the graph runs, in memory that outlives the executor. The executor makes it, the
// supervisor keeps its descriptor unread, and the next executor goes on from it.
//
//   GraphPageHeader
//   base      every node as the updates that were folded into it left it
//   log       a circle of updates that are not folded yet, each with the position where its record ends
//
// One writer: the dispatch thread of the executor that serves the stream. What a crash leaves: an update
// stands in the log before `issued` passes its record, so whatever a restart takes for issued is there. It is
// folded into the base only once its record has completed, which no restart goes back behind, and stays in
// the log until it has been: a base torn in the middle is written again. So the graph as of any position P
// from `completed` on is the base with the entries that end at P or before; those that end later are read
// from the ring again, or were never issued. An update that was refused stands in the log too: as what its
// node still is, with why.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "schema/status.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

struct GraphPageHeader {
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t nodes;
    std::uint32_t entry_bytes;
    std::uint32_t entries;
    // Counts of entries, never masked: [folded, logged) are in the log.
    // sync: none but the writer's own order (the reader comes when it has been reaped): an entry is whole
    // before `logged` says so, a base is before `folded` does. Release keeps the compiler to it.
    SharedU64 folded;
    SharedU64 logged;
};

// Why a node is not what the program made of it: its last update was refused.
struct Refusal {
    Status status = Status::ok;  // ok: it was not
    std::uint64_t position = 0;  // of the update
};

// A node with its parameters behind it.
struct StoredNode {
    std::uint64_t end;  // of the record that set it; 0: as the graph was made
    std::uint64_t refused_at;
    std::uint32_t refused;  // a Status; see Refusal
    std::uint32_t unused;
    std::uint32_t node;
    std::uint32_t kind;  // a schema::RecordKind: Launch, CopyOnDevice or Fill
    std::uint64_t kernel;
    std::uint32_t grid[3], block[3];
    std::uint32_t shared_bytes, param_bytes;
    std::uint64_t device, source, bytes;
    std::uint32_t value, width;
};

class GraphPage {
  public:
    // A new page. Throws std::system_error.
    explicit GraphPage(std::span<const driver::GraphNode> nodes);
    // One that an earlier executor made, as of `completed`. Throws Error{internal_error} where it is not what
    // one makes.
    GraphPage(UniqueFd page, std::uint64_t completed);

    const UniqueFd& fd() const { return fd_; }
    UniqueFd take_fd() { return std::move(fd_); }  // the mapping needs it no more
    // Launches have no kernel, only its id; their parameters point into the page.
    const std::vector<driver::GraphNode>& stored() const { return stored_; }
    Refusal refusal(std::uint32_t node) const { return refusal_of(*base_[node]); }  // of stored()

    // ---- dispatch thread
    // Remembers an update whose record ends at `end`; false: there is no room before more has completed. One
    // that was refused: `launch` is what the node stays.
    [[nodiscard]] bool log(std::uint64_t end, std::uint32_t node, const driver::Launch& launch,
                           std::uint64_t completed, Refusal refusal = {}) noexcept;
    void unlog() noexcept;  // the last one did not happen
    // After a restart: the stream goes on at `position`. Calls see(node, launch, refusal) for each update
    // before it that is not part of stored(), in order, and forgets those behind it.
    template <class See>
    void go_on_at(std::uint64_t position, const See& see) noexcept {
        for (; seen_ != logged_ && entry(seen_)->end <= position; ++seen_)
            see(entry(seen_)->node, launch_of(*entry(seen_)), refusal_of(*entry(seen_)));
        logged_ = seen_;
        header()->logged.store(logged_, std::memory_order_release);
    }

  private:
    GraphPageHeader* header() const { return mapping_.as<GraphPageHeader>(); }
    StoredNode* entry(std::uint64_t i) const {
        return mapping_.as<StoredNode>(log_at_ + (i % entries_) * entry_bytes_);
    }
    void fold(std::uint64_t completed) noexcept;
    void read();
    static driver::Launch launch_of(const StoredNode& stored) noexcept;
    static Refusal refusal_of(const StoredNode& stored) noexcept {
        return {static_cast<Status>(stored.refused), stored.refused_at};
    }

    UniqueFd fd_;
    Mapping mapping_;
    std::vector<StoredNode*> base_;
    std::vector<driver::GraphNode> stored_;
    std::size_t log_at_ = 0;
    std::uint32_t entry_bytes_ = 0, entries_ = 0;
    std::uint64_t folded_ = 0, logged_ = 0;
    std::uint64_t seen_ = 0;  // up to here stored() has them
};

}  // namespace ringlaunch::executor
