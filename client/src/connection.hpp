// The control socket of a session: requests and their answers, and the daemon's notices.
//
// Any thread may ask; whoever waits and finds no reader becomes the reader. Threads that wait for work
// (waiter.cpp) and producers on their slow path pump() the socket as well. All taking in happens under one
// lock, so notices are applied in the order in which they were sent. Every wait is bounded by the daemon's
// life: its end is the socket's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "control_generated.h"
#include "schema/message.hpp"
#include "schema/status.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

// Asked from time to time during long waits, without a lock held; true: give the wait up.
struct WaitHook {
    bool (*give_up)(void*) = nullptr;
    void* context = nullptr;
    explicit operator bool() const { return give_up != nullptr; }
    bool operator()() const { return give_up != nullptr && give_up(context); }
};

// How often it is asked.
inline constexpr int kHookSliceMs = 50;

// Whom the daemon's notices concern. Called under the connection's lock.
class NoticeSink {
  public:
    virtual void on_notice(const schema::ServerMessage& notice, std::vector<UniqueFd>& fds) = 0;
    // The answer to a post.
    virtual void on_late_answer(std::uint32_t id, Status status) = 0;
    // What the daemon made for a request whose asker has given up, or cannot use it: it is to be let go of.
    virtual void on_orphan(const schema::ServerMessage& answer) = 0;
    virtual void on_lost() noexcept = 0;

  protected:
    ~NoticeSink() = default;
};

struct Reply {
    Message message;  // verified
    const schema::ServerMessage& view() const {
        return *flatbuffers::GetRoot<schema::ServerMessage>(message.bytes.data());
    }
};

class Connection {
  public:
    // A connected SOCK_SEQPACKET socket. `peer` names the daemon in errors.
    Connection(UniqueFd socket, std::string peer, NoticeSink& sink);

    struct Ask {
        schema::Request kind;
        schema::Answer wanted;
        std::size_t wanted_fds = 0;
        std::string doing;  // begins every error: "cannot load module x"
        std::span<const int> fds = {};
        std::uint64_t deadline_ns = ~std::uint64_t{0};  // CLOCK_MONOTONIC
    };
    // Sends a request and waits for its answer; where the session sent too many in a second, again until it
    // may. `build` makes the table of `kind` and returns its offset. Throws Error: the daemon's refusal,
    // daemon_lost, closed, timed_out, interrupted, malformed_message.
    template <class Build>
    Reply ask(const Ask& what, Build&& build) {
        flatbuffers::FlatBufferBuilder builder;
        const std::uint32_t id = next_id();
        finish(builder, id, what.kind, build(builder).Union());
        return exchange(what, id,
                        {reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()});
    }

    // Sends a request whose answer nobody waits for (it goes to the sink), and never blocks. False: the
    // socket takes nothing now.
    template <class Build>
    bool post(std::uint32_t id, schema::Request kind, Build&& build) {
        flatbuffers::FlatBufferBuilder builder;
        finish(builder, id, kind, build(builder).Union());
        return send_now({reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()});
    }

    // A number that no other request of this connection bears.
    std::uint32_t next_id() noexcept;

    // Takes in what the socket has, without waiting for more. Not from within a NoticeSink.
    void pump() noexcept;

    // The end: pending and later requests fail with closed.
    void close() noexcept;
    // In a forked child: the parent's socket is none of ours. Takes no lock.
    void abandon() noexcept { socket_.reset(); }

    bool lost() const noexcept { return lost_.load(std::memory_order_acquire) != Status::ok; }
    // ok; else how the session ended.
    Status end() const noexcept { return lost_.load(std::memory_order_acquire); }
    std::string end_text() const;
    int socket() const noexcept { return socket_.get(); }

    void set_hook(WaitHook hook);
    WaitHook hook() const;

  private:
    struct Pending {
        Reply reply;
        bool done = false;
        bool whole = true;  // else its descriptors could not be received
    };

    static void finish(flatbuffers::FlatBufferBuilder& builder, std::uint32_t id, schema::Request kind,
                       flatbuffers::Offset<void> request);
    Reply exchange(const Ask& what, std::uint32_t id, std::span<const std::byte> bytes);
    // One request and its answer, whatever that is.
    Reply exchange_once(const Ask& what, std::uint32_t id, std::span<const std::byte> bytes);
    void send_all(const Ask& what, std::span<const std::byte> bytes);
    bool send_now(std::span<const std::byte> bytes);
    void wait_as_reader(int timeout_ms) const noexcept;
    void take_in(std::unique_lock<std::mutex>& lock);
    void deliver(Message message, bool whole);
    void keep_spare() noexcept;
    void lose(Status status, const std::string& text) noexcept;
    [[noreturn]] void fail(const Ask& what) const;

    UniqueFd socket_;
    UniqueFd kick_;  // wakes the reader when another thread took in its answer
    std::string peer_;
    NoticeSink& sink_;
    // sync: LOST (release in lose(), acquire here): the text belongs to it, as an error to `state` in the
    // scenario `stop` of tests/model.
    std::atomic<Status> lost_{Status::ok};
    // relaxed: only its uniqueness counts.
    std::atomic<std::uint32_t> last_id_{0};

    mutable std::mutex mutex_;  // everything below
    std::condition_variable changed_;
    std::unordered_map<std::uint32_t, Pending*> pending_;
    bool has_reader_ = false;
    std::string lost_text_;
    // An error that answers no request: mostly why the daemon hangs up.
    std::string farewell_;
    Status farewell_status_ = Status::daemon_lost;
    // Given up while something is received, so that a notice's one descriptor arrives in a process that has
    // all its numbers in use. A new status page needs one only until it is mapped.
    UniqueFd spare_;
    WaitHook hook_;
};

}  // namespace ringlaunch::detail
