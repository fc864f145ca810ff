// A session as the client holds it: the connection, its streams, and what is let go of once streams have
// passed it.
//
// Locks, in the order in which they are taken: Connection's, then `mutex`, then a StreamState's. Nobody asks
// or pumps the connection while holding either of the latter two.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/src/connection.hpp"
#include "client/src/fork_guard.hpp"
#include "client/src/stream_state.hpp"
#include "schema/error.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

struct ClientState final : ForkGuarded, NoticeSink {
    ClientState() = default;
    ~ClientState();
    // The last step of connecting.
    void opened(const schema::Welcome& welcome, UniqueFd doorbell_fd);

    // Makes a shared pointer whose last copy destroys the session, except in a forked child, which leaks it.
    static std::shared_ptr<ClientState> make();

    std::unique_ptr<Connection> connection;
    UniqueFd doorbell;
    DaemonInfo info;
    Dim3 max_grid, max_block;
    std::uint32_t max_param_bytes = 0;
    std::uint32_t staging_bytes = 0;
    bool must_fence = true;
    // relaxed: set in a child before its only thread goes on.
    std::atomic<bool> forked{false};

    // ok: the session lives. Else closed or daemon_lost.
    Status life() const noexcept;
    // Throws Error{closed} in a child or after close(), Error{daemon_lost} after that.
    void require_life(const char* doing) const;
    std::string life_text() const;

    std::shared_ptr<StreamState> open_stream(std::shared_ptr<ClientState> self, const StreamOptions& options);
    struct Staging {
        std::uint64_t id = 0;
        std::uint64_t address = 0;  // where kernels reach it
        Mapping segment;
    };
    Staging add_staging(std::size_t bytes);

    // Never block. What streams may still use goes when they have passed what is published now.
    void free_buffer(std::uint64_t id) noexcept { free_later(schema::Request::FreeBuffer, id); }
    void drop_staging(std::uint64_t id) noexcept { free_later(schema::Request::DropStaging, id); }
    void drop_graph(std::uint64_t id) noexcept { free_later(schema::Request::DropGraph, id); }
    void unload_module(std::uint64_t id) noexcept;
    void release_stream(StreamState* stream) noexcept;  // the last handle went
    // Sends what became due. Called by what talks to the daemon anyway.
    void sweep() noexcept;

    std::vector<std::shared_ptr<StreamState>> open_streams();
    void close() noexcept;

    void name_kernels(std::span<const KernelState> kernels);
    std::string kernel_name(std::uint64_t id);

    void on_notice(const schema::ServerMessage& notice, std::vector<UniqueFd>& fds) override;
    void on_late_answer(std::uint32_t request, Status status) override;
    void on_orphan(const schema::ServerMessage& answer) override;
    void on_lost() noexcept override;
    void after_fork_in_child() noexcept override;

    std::mutex mutex;  // everything below
    struct Place {
        std::uint64_t stream = 0, position = 0;
    };
    // Positions that streams have not completed yet.
    std::vector<Place> places_ahead();
    bool passed(const std::vector<Place>& places) const;

    std::unordered_map<std::uint64_t, std::weak_ptr<StreamState>> streams;
    std::unordered_map<std::uint64_t, StreamState*> live;  // `streams` and `draining`, for notices
    std::vector<StreamState*> draining;                    // without handles, work still in flight; owned
    struct Unsent {
        schema::Request kind;
        std::uint64_t id = 0;
        std::vector<Place> after;
    };
    std::vector<Unsent> unsent;                        // waits for streams, or for room in the socket
    std::unordered_map<std::uint32_t, Unsent> posted;  // by the request's id, until it is answered
    // An epoch notice may overtake the thread that opens its stream.
    struct EarlyNotice {
        std::uint64_t stream = 0;
        std::vector<std::byte> bytes;
        Mapping page;
    };
    std::vector<EarlyNotice> early;
    std::uint32_t opening = 0;
    std::unordered_map<std::uint64_t, std::string> kernel_names;
    std::string warning;

  private:
    void post(Unsent request);
    // As Connection::ask(); what the daemon made and cannot hand over is let go of at once.
    template <class Build>
    Reply ask_for_descriptors(const Connection::Ask& what, Build&& build) {
        try {
            return connection->ask(what, build);
        } catch (const Error&) {
            sweep();
            throw;
        }
    }
    void free_later(schema::Request kind, std::uint64_t id) noexcept;
    void close_stream(StreamState* stream) noexcept;
    void take_epoch(const schema::ServerMessage& notice, std::vector<UniqueFd>& fds);
};

struct BufferState {
    ~BufferState() {
        for (const Loan& loan : loans)
            if (const auto borrower = loan.borrower.lock()) borrower->free_buffer(loan.id);
        if (client) client->free_buffer(id);
    }
    std::shared_ptr<ClientState> client;
    // Clients whose copies may name it, and what it is called there.
    struct Loan {
        std::weak_ptr<ClientState> borrower;
        std::uint64_t id = 0;
    };
    mutable std::mutex loans_mutex;
    mutable std::vector<Loan> loans;
    std::uint64_t id = 0;
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
};

// The mapping goes at once: copies on their way use the daemon's.
struct PinnedState {
    ~PinnedState() {
        if (client) client->drop_staging(id);
    }
    std::shared_ptr<ClientState> client;
    std::uint64_t id = 0;
    Mapping segment;
};

}  // namespace ringlaunch::detail
