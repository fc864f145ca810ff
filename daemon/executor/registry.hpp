// What this executor was told to hold: sessions with their memory and staging, streams, modules. Control
// thread only.
//
// A change prepares everything here, then swaps it into the dispatcher between two turns. What goes away goes
// in two steps: first the dispatcher forgets it, then a barrier tells when the device is through with what it
// was given, and only then is it destroyed and the request answered. Only a stream that closes has a
// deadline: where the device does not come through with its work in time, that is answered (the supervisor
// ends the executor for it), and the stream is kept until it does.
//
// What would make everybody wait for the device waits for a lull (lull.hpp): a module that is loaded, or
// whose turn it is to be destroyed, streams and staging that are. A stream or module has gone for whoever
// asked by then; the addresses of staging are taken until it has.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/dispatch_thread.hpp"
#include "daemon/executor/kernel_cache.hpp"
#include "daemon/executor/lull.hpp"
#include "daemon/executor/memory_map.hpp"
#include "daemon/executor/session_view.hpp"
#include "daemon/executor/stream_port.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

class Registry {
  public:
    // How a request that takes its time is answered; the text is empty with ok.
    using Answer = std::function<void(Status, const std::string&)>;

    Registry(driver::Driver& driver, MemoryMap& memory, DispatchThread& thread,
             const DispatcherConfig& config, std::uint64_t stuck_ns);
    ~Registry();  // ends the dispatch thread

    // For what keeps launches waiting (Driver::changes_stall): `run` is called now or later, or else, after a
    // while in which the device came to no end, `give_up`.
    // `slow`: see Lull.
    void when_the_device_is_empty(std::function<void()> run, std::function<void()> give_up, bool slow);

    // All of these throw Error (or std::system_error) that says what was wrong with what.
    void attach_session(std::uint64_t session, UniqueFd doorbell);
    void detach_session(std::uint64_t session);
    void open_stream(std::uint64_t session, StreamSetup setup, const UniqueFd& ring, const UniqueFd& status,
                     UniqueFd wake);
    void release_stream(std::uint64_t stream, std::uint64_t single_until);
    void resume_stream(std::uint64_t stream, std::uint64_t position, bool skip);
    void close_stream(std::uint64_t stream, Answer answer);
    void hold_issue();

    const KernelCache::Loaded& load_module(std::uint64_t key, const std::string& name, const UniqueFd& image,
                                           std::uint64_t bytes, const driver::LoadOptions& options);
    void unload_module(std::uint64_t key, Answer answer);
    // The same at once, for one that no session has ids of yet: nothing of it can be in flight.
    void discard_module(std::uint64_t key);
    // Each thread of the device has a stack of so many bytes from now on. Where it has less so far, nothing
    // more is issued until what is in flight has completed and the driver has given it, or refused; or, after
    // `patience_ns`, until this is given up. Throws where it is plain that it cannot be had.
    void give_stack(std::uint64_t bytes, std::uint64_t patience_ns, Answer answer);
    void bind_module(std::uint64_t session, std::uint64_t key, std::span<const std::uint64_t> ids);
    // One kernel with attributes of its own; answers what that is.
    const driver::KernelLayout& bind_kernel(std::uint64_t session, std::uint64_t key, std::uint32_t index,
                                            const driver::LaunchAttributes& attributes, std::uint64_t id);
    void unbind_kernels(std::uint64_t session, std::span<const std::uint64_t> ids);

    // `description` holds so many slots of records.
    struct MadeGraph {
        std::size_t nodes;
        UniqueFd page;
    };
    MadeGraph make_graph(std::uint64_t session, std::uint64_t stream, std::uint64_t graph,
                         const UniqueFd& description, std::uint32_t slots);
    void restore_graph(std::uint64_t session, std::uint64_t stream, std::uint64_t graph, UniqueFd page);
    void drop_graph(std::uint64_t session, std::uint64_t stream, std::uint64_t graph, Answer answer);

    UniqueFd make_chunk(std::uint64_t session, std::uint64_t address, std::uint64_t bytes);
    void map_chunk(std::uint64_t session, std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);
    void unmap_chunk(std::uint64_t session, std::uint64_t address, std::uint64_t bytes, Answer answer);
    // `chunk` of another session, in which the loan lies.
    void lend_memory(std::uint64_t session, std::uint64_t loan, const Loan& memory,
                     std::uint64_t chunk_address, std::uint64_t chunk_bytes, const UniqueFd& chunk);
    void return_memory(std::uint64_t session, std::uint64_t loan, Answer answer);
    void watch_stream(std::uint64_t session, std::uint64_t stream, const UniqueFd& status);
    // `away`: its next page is on its way; else it was closed.
    void watch_without_page(std::uint64_t session, std::uint64_t stream, std::uint64_t completed, bool away);
    void map_staging(std::uint64_t session, std::uint64_t staging, std::uint64_t address, std::uint64_t bytes,
                     const UniqueFd& segment);
    void unmap_staging(std::uint64_t session, std::uint64_t staging, Answer answer);

    // A barrier that the dispatcher reported: finishes and answers what waited for it.
    void barrier_reached(std::uint64_t barrier);
    // Answers for streams whose work goes on for too long. Returns the ms until it wants to be called again;
    // -1: no need.
    int tick(std::uint64_t now_ns);
    // Is nothing left that the device could still be working on?
    bool quiet();

  private:
    struct PlacedStaging {
        std::uint64_t address = 0;
        std::unique_ptr<driver::Staging> mapped;
    };
    struct Session {
        SessionView view;
        UniqueFd doorbell;
        std::unordered_map<std::uint64_t, PlacedStaging> staging;
        std::unordered_map<std::uint64_t, std::uint64_t> chunks;          // address -> bytes
        std::unordered_map<std::uint64_t, std::uint64_t> kernel_modules;  // kernel id -> module key
        struct LoanEntry {
            Loan memory;
            std::uint64_t chunk_address = 0;
        };
        std::unordered_map<std::uint64_t, LoanEntry> loans;
        struct Watched {
            Mapping page;
            WatchedStream view;
        };
        std::unordered_map<std::uint64_t, std::unique_ptr<Watched>> watched;
        std::size_t streams = 0;
        std::size_t barriers = 0;  // of its own, not reached yet
    };
    struct Stream {
        std::unique_ptr<StreamPort> port;
        Session* session = nullptr;
        bool closing = false;
        struct HeldGraph {
            std::unique_ptr<Graph> graph;
            std::set<std::uint64_t> modules;  // keys of those whose kernels it runs
        };
        std::map<std::uint64_t, HeldGraph> graphs;
    };
    static constexpr std::uint64_t kNever = ~std::uint64_t{0};
    struct Pending {
        std::function<void()> finish;
        Answer answer;
        std::uint64_t deadline_ns = kNever;
        std::string late = {};               // what is answered then
        std::function<void()> give_up = {};  // called then, and finish() no more
        bool answered = false;
    };

    Session& session(std::uint64_t id);
    Stream& stream(std::uint64_t id);
    std::uint64_t expect_barrier(Pending pending);
    // Destroys it, now or later.
    void let_go(std::shared_ptr<void> what, std::function<void()> then = nullptr);
    void check_chunk(std::uint64_t address, std::uint64_t bytes) const;
    void disown_staging(const PlacedStaging& placed) noexcept;
    void let_go_of_staging(PlacedStaging placed, std::function<void()> then = nullptr);
    // A chunk is mapped once, for its owner and for all loans in it.
    void hold_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);
    void let_go_of_chunk(std::uint64_t address);
    void change_loans(Session& session);
    void change_watched(Session& session, std::uint64_t stream, std::unique_ptr<Session::Watched> now);
    void change_kernels(Session& session, const std::function<void(IdTable<const KernelEntry>&)>& change);
    Stream& stream_for_graph(std::uint64_t session, std::uint64_t stream, std::uint64_t graph);
    void add_graph(Stream& owner, std::unique_ptr<Graph> graph);
    void break_off_graphs(std::uint64_t module);
    // Something that graphs may have named is gone; called once it is, or a graph might find it all well.
    static void note_gone(Session& session) noexcept {
        // sync: CHANGES (pairs with Graph::check): who sees the count sees what is gone. Within one process:
        // no model.
        session.view.changes.fetch_add(1, std::memory_order_release);
    }
    void change_staging(Session& session, const std::function<void(IdTable<driver::Staging>&)>& change);

    driver::Driver& driver_;
    MemoryMap& memory_;
    DispatchThread& thread_;
    const DispatcherConfig config_;
    const std::uint64_t stuck_ns_;

    // Destroyed from the last to the first: streams before what their work uses.
    KernelCache modules_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Session>> sessions_;
    std::unordered_map<std::uint64_t, Stream> streams_;
    std::unordered_map<std::uint64_t, Pending> pending_;
    struct MappedChunk {
        std::uint64_t bytes = 0;
        std::size_t holders = 0;
    };
    std::unordered_map<std::uint64_t, MappedChunk> mapped_;   // by address
    std::map<std::uint64_t, std::uint64_t> leaving_staging_;  // address -> bytes
    Lull lull_;                                               // holds what waits to be destroyed
    // That are still there, by session.
    std::unordered_map<std::uint64_t, std::size_t> streams_let_go_;
    // Beyond that a session opens no stream.
    static constexpr std::size_t kMostLetGo = 64;
    OwnerTag next_tag_ = 1;
    std::uint64_t next_barrier_ = 1;
};

}  // namespace ringlaunch::executor
