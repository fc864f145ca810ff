// What the supervisor knows: sessions with their streams, modules, buffers and staging; images by content.
// The truth from which every executor is set up anew. Plain data: the services change it.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control_generated.h"
#include "daemon/supervisor/ids.hpp"
#include "daemon/supervisor/memory_map.hpp"
#include "daemon/supervisor/placement.hpp"
#include "daemon/supervisor/rate_limit.hpp"
#include "daemon/supervisor/status_page.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

class Connection;
class FaultDomain;

struct ParamInfo {
    schema::ParamType type{};
    std::uint32_t offset = 0, size = 0;
    std::string name;
};
struct KernelAttributes {
    std::uint32_t cluster_x = 1, cluster_y = 1, cluster_z = 1;
    bool cooperative = false, programmatic = false;
    bool operator==(const KernelAttributes&) const = default;
};
struct KernelDescription {
    std::string name;
    bool declared = false;
    std::vector<ParamInfo> params;
    std::uint32_t param_bytes = 0;
    std::uint32_t block_x = 0, block_y = 0, block_z = 0;
    std::uint32_t max_threads = 0, static_shared_bytes = 0, max_dynamic_shared_bytes = 0, registers = 0,
                  local_bytes = 0;
    KernelAttributes attributes;
    std::uint64_t stack_bytes = 0;  // its module's
};
struct DeclaredSignature {
    std::string kernel;
    std::vector<ParamInfo> params;
};

// An image with its declarations: one for all sessions of a device that bring the same bytes to be
// loaded alike.
struct Module {
    std::uint64_t key = 0;
    int device = 0;
    std::string digest;  // SHA-256 of the image and of how it is loaded, hexadecimal
    std::string name;
    std::uint64_t bytes = 0;
    UniqueFd image;
    std::vector<DeclaredSignature> signatures;
    std::uint32_t max_registers = 0;         // 0: no limit
    std::uint64_t stack_bytes = 0;           // of a thread, at least; 0: whatever it has
    std::vector<KernelDescription> kernels;  // known once an executor has loaded it
    bool known = false;
    std::uint32_t users = 0;         // sessions' uses, loading ones included
    std::uint64_t unused_since = 0;  // a count, for the order of eviction
};

// What one session may give to others of its user: known to whoever its owner told.
struct Right {
    std::uint64_t low = 0, high = 0;
    auto operator<=>(const Right&) const = default;
};

struct Stream {
    std::uint64_t id = 0, session = 0;
    std::string name;
    std::uint32_t slots = 0;
    schema::OnRestart on_restart{};
    int priority = 0;
    UniqueFd ring, wake;
    std::optional<Right> right;
    Mapping ring_mapping;  // of `ring`, read-only: a client's words, never trusted
    EpochPage page;        // of the epoch that serves it, or served it last
    enum class Phase {
        opening,  // its first executor has not answered
        open,
        closing,
    } phase = Phase::opening;
    bool asked = false;   // an executor was asked to open it, and may not have answered
    bool served = false;  // an executor has it open, and `page` is that executor's
    bool hold = false;    // that executor waits for its release
    bool suspect = false;
    // The watchdog's: how far the stream was when it last moved, when that was, and how many waits it had
    // issued when nothing of it was in flight.
    std::uint64_t watched_completed = 0, watched_since_ns = 0, watched_waits = 0;
    std::uint64_t suspect_until = 0;  // its rerun has come to its end here
    std::uint32_t times_alone = 0;    // deaths in a row at which nothing else was in doubt, ...
    std::uint64_t alone_at = 0;       // ... all at this record
    // What the next page says of a stop that a restart made or kept.
    Status stop = Status::ok;
    std::uint64_t stop_position = 0, stop_kernel = 0;
    std::string stop_text;
    std::uint64_t next_completed = 0, next_issued = 0;    // A and B of the next page
    std::uint64_t doubt_completed = 0, doubt_issued = 0;  // A and B of the last restart, for the notice
};

struct Buffer {
    std::uint64_t id = 0, address = 0, bytes = 0;
    bool freeing = false;
    std::optional<Right> right = std::nullopt;
    std::uint32_t loans = 0;  // to other sessions: it is not freed before they have let go
};
// Memory that a session has of another.
struct Loan {
    std::uint64_t id = 0;  // among the borrower's buffers
    std::uint64_t owner = 0, buffer = 0;
    std::uint64_t address = 0, bytes = 0, chunk = 0;
    bool mapped = false;   // an executor has answered
    bool freeing = false;  // the borrower has let go
    bool leaving = false;  // an executor was asked to let go
};
// A chunk in which something is lent: it stays when its owner goes.
struct LentChunk {
    UniqueFd fd;
    std::uint64_t bytes = 0;
    int device = 0;
    std::uint32_t loans = 0;
    bool owner_gone = false;
};
struct Chunk {
    std::uint64_t address = 0, bytes = 0;
    UniqueFd fd;
    bool leaving = false;  // an executor was asked to unmap it
};
struct StagingSegment {
    std::uint64_t id = 0, bytes = 0;
    std::uint64_t address = 0;  // in every executor
    UniqueFd fd;
    bool mapped = false;  // an executor has answered
    bool freeing = false;
};
// Of one stream, and gone with it.
struct Graph {
    std::uint64_t stream = 0;
    std::uint32_t slots = 0;
    UniqueFd fd;  // what its client described; once `made` the page that the executor made of it
    bool made = false;
    bool freeing = false;
};
struct ModuleUse {
    std::uint64_t id = 0, key = 0;
    std::vector<std::uint64_t> kernel_ids;
    bool bound = false;  // an executor has answered
    // Kernels with attributes of their own.
    struct Configured {
        std::uint64_t id = 0;
        std::uint32_t index = 0;  // of the kernel in the module
        KernelAttributes wanted;
        KernelDescription kernel;  // as the executor answered
        bool bound = false;        // it has
    };
    std::vector<Configured> configured;

    // Of all kernels that an executor may know.
    std::vector<std::uint64_t> all_ids() const {
        std::vector<std::uint64_t> ids = kernel_ids;
        for (const Configured& each : configured) ids.push_back(each.id);
        return ids;
    }
};
// Acts once every stream named has completed its position.
struct DeferredFree {
    enum class Kind { buffer, staging, chunk, loan, graph } kind{};
    std::uint64_t id = 0;  // of the buffer, segment, loan or graph; a chunk's address
    std::vector<std::pair<std::uint64_t, std::uint64_t>> after;  // stream, position
};
struct PendingAlloc {
    std::uint32_t request = 0;
    std::uint64_t bytes = 0;
    std::uint64_t deadline_ns = 0;  // how long it may wait for deferred frees
};

struct PendingGraph {
    std::uint32_t request = 0;
    std::uint64_t stream = 0;
    std::uint32_t slots = 0;
    UniqueFd description;
    std::uint64_t deadline_ns = 0;  // how long it may wait for graphs that are being let go of
};

struct Session {
    std::uint64_t id = 0;
    std::shared_ptr<Connection> connection;  // none: it is being taken apart
    int pid = 0;
    std::uint32_t uid = 0;
    std::string program;
    int device = 0;
    bool fences = false;
    std::uint64_t since_ns = 0;
    UniqueFd doorbell;
    DomainKey domain;
    bool placed = false;    // `domain` counts it
    bool attached = false;  // an executor has answered, or its restoring does
    bool attaching = false;
    bool alone = false;
    std::uint32_t failed_restores =
        0;  // tries in a row that failed at this session, and not at all of its others
    std::uint32_t deaths_caused = 0;
    // Of these: those at which only its work was in flight, which proves nothing once. They and `suspicions`
    // are forgotten RestartPolicy::suspicion_ms after the last of them.
    std::uint32_t unproven_deaths = 0;
    std::uint32_t suspicions = 0;  // deaths at which others had work in flight, too
    std::uint64_t suspected_ns = 0;
    std::optional<DomainKey> on_trial;    // moved out of there because of suspicions: which of the two dies?
    std::uint64_t kernel_timeout_ms = 0;  // 0: none
    bool coalesce = true;                 // both the daemon and the client let its launches be coalesced
    std::uint64_t moved_ns = 0;           // when the watchdog last saw a stream of it complete something

    std::map<std::uint64_t, std::unique_ptr<Stream>> streams;
    IdAllocator module_ids, kernel_ids, buffer_ids, staging_ids, graph_ids;
    std::map<std::uint64_t, ModuleUse> modules;
    std::map<std::uint64_t, Buffer> buffers;
    std::map<std::uint64_t, Loan> loans;
    // Streams of other sessions that this one's may wait for; with a value: closed, with this completed.
    std::map<std::uint64_t, std::optional<std::uint64_t>> watched;
    std::map<std::uint64_t, StagingSegment> staging;
    std::uint64_t staging_bytes = 0;
    std::map<std::uint64_t, Graph> graphs;
    std::uint64_t graph_bytes = 0;  // of the records that describe them
    SessionHeap heap;
    std::map<std::uint64_t, Chunk> chunks;  // by address
    std::uint64_t making_bytes = 0;         // of a chunk that an executor is making
    std::uint32_t unmapping_chunks = 0;     // that an executor is letting go of
    std::deque<PendingAlloc> allocs;
    std::deque<PendingAlloc> stagings;
    std::deque<PendingGraph> pending_graphs;
    std::deque<DeferredFree> deferred;

    std::uint32_t open_requests = 0;  // of the client, unanswered
    std::uint32_t open_calls = 0;     // of ours to its executor
    enum class Ending { no, closing_streams, releasing, detaching } ending = Ending::no;
};

}  // namespace ringlaunch::supervisor
