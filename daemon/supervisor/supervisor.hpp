// The daemon's front as a function: what it is told, and how it leaves.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "control_generated.h"

namespace ringlaunch::supervisor {

// Which sessions share an executor, and so an address space on the device.
enum class Isolate {
    user,     // sessions of one user share one
    session,  // each session has its own
    none,     // all share one
};

struct Limits {
    std::uint32_t max_sessions = 256;
    std::uint32_t max_streams = 64;              // a session
    std::uint32_t max_modules = 128;             // a session
    std::uint64_t max_memory_bytes = 0;          // device memory a session; 0: what the device has
    std::uint64_t max_staging_bytes = 1u << 30;  // a session
    std::uint64_t max_image_bytes = 256u << 20;
    std::uint64_t max_stack_bytes = 32u << 10;  // of a thread, that a module may ask for
    std::uint32_t max_graphs = 256;             // a session
    std::uint64_t max_graph_bytes = 4u << 20;   // of records, of all graphs of a session
    std::uint32_t max_ring_slots = 1u << 16;
    std::uint32_t messages_per_second = 5000;           // control messages a session
    std::uint32_t max_open_requests = 64;               // a session: beyond it, its socket is not read
    std::uint64_t max_pending_bytes = 256u << 10;       // answers and notices that a session has not read
    std::uint64_t max_cached_image_bytes = 256u << 20;  // images that nobody uses any more
};

struct RestartPolicy {
    std::uint32_t own_executor_at = 2;  // deaths caused: the session gets an executor of its own
    std::uint32_t warn_at = 4;          // deaths caused: the session is told (SessionWarning)
    std::uint64_t first_delay_ms = 50;  // doubles with each death
    std::uint64_t max_delay_ms = 10'000;
    std::uint64_t calm_ms = 10'000;       // a shared executor that lived so long starts over without a delay
    std::uint32_t max_failed_starts = 5;  // of an executor that was never ready: then its sessions are let go
    // Of one that was: how long its sessions are kept while the next one cannot be started or set up.
    std::uint64_t patience_ms = 300'000;
    std::uint64_t start_timeout_ms = 60'000;
    // Of a module's load while others wait for it: its session is given an executor of its own then.
    std::uint64_t load_timeout_ms = 10'000;
    std::uint64_t suspicion_ms = 60'000;  // without a death of which a session is suspected: all is forgotten
    std::uint64_t probation_ms = 2'000;   // how long other streams may be held for a suspect's rerun
};

struct SupervisorOptions {
    std::string socket_path;  // its folder is there and was checked (schema/socket_path.hpp)
    bool make_folder = true;  // make the socket's folder (0700) where it is missing
    schema::DriverKind driver = schema::DriverKind::Null;
    std::string driver_note;         // why this one, where nobody asked for it; clients are told
    std::vector<int> devices = {0};  // the first has an executor from the beginning, others when asked for
    Isolate isolate = Isolate::user;
    std::vector<uid_t> allow_uids;  // besides the daemon's own
    std::vector<gid_t> allow_gids;
    Limits limits;
    RestartPolicy restart;

    // The executor's; see internal::Configure.
    std::uint64_t spin_ns = 50'000;
    std::uint32_t max_in_flight = 256;
    std::uint32_t max_batch = 64;
    bool coalesce = true;
    bool fault_dumps = false;       // the device writes down who faulted (cuda)
    std::uint64_t stack_bytes = 0;  // of each thread on a device, beyond a kernel's own (cuda); 0: CUDA's

    std::uint64_t exit_when_idle_ms = 0;         // not 0: leave when there was no session for so long
    std::uint64_t handshake_timeout_ms = 5'000;  // until Hello
    std::uint64_t alloc_patience_ms = 10'000;    // of an allocation, for frees that make room for it
    std::uint64_t ping_every_ms = 1'000;
    std::uint64_t ping_timeout_ms = 10'000;  // 0: never taken for stuck
    // How long the device may go on with the work of a stream that was closed, by its client or with its
    // session, before it counts as stuck. The executor measures it.
    std::uint64_t close_timeout_ms = 10'000;
    // Before the executor is ended for that: how long what others have in flight may take to complete.
    std::uint64_t drain_timeout_ms = 3'000;

    // How long a record may be issued and not complete before its executor is ended for it; 0: for ever. A
    // session may ask for less.
    std::uint64_t kernel_timeout_ms = 0;

    std::string version;             // of this program, for Welcome and errors
    std::function<void()> on_ready;  // called once, when clients are served
    // Called where the first executor of all cannot be used, with what stands in its way. True: it has put
    // another `driver`, its `driver_note` and its `devices` in, which serve those who wait; else, and without
    // it, the daemon leaves.
    std::function<bool(SupervisorOptions& options, const std::string& why)> on_unusable;

    // How an executor is started: `executor_path executor_arguments... --control-fd N`.
    std::string executor_path = "/proc/self/exe";
    std::vector<std::string> executor_arguments = {"executor"};
};

// What run_supervisor() returns; the command line passes it on as its exit code.
enum SupervisorExit : int {
    kExitOk = 0,              // asked to leave (StopDaemon, SIGINT, SIGTERM), or idle
    kExitFailure = 1,         // the log says why
    kExitAlreadyRunning = 4,  // another daemon serves this socket
    kExitSocketRefused = 5,   // the socket or its folder cannot be made, or cannot be trusted
    kExitDriverUnusable = 8,  // the first executor cannot use the driver; the log says what is missing
};

// Serves until it is told to leave. Blocks; one a process. Makes the process not dumpable.
int run_supervisor(const SupervisorOptions& options);

}  // namespace ringlaunch::supervisor
