// Waiting for a position of a stream: spin a while, then sleep until the daemon wakes us.
//
// Several threads may wait for one stream. Of those that sleep, one leads: it announces the lowest position
// awaited, and polls the stream's wake eventfd and the daemon's socket. The others wait for the leader, and
// whoever finds no leader becomes one. The steps, and why none may be left out, stand in schema/wakeup.hpp
// (W2).
//
// Who drains the wake eventfd: the leader, before it announces; where there is none, on_wake() of an event
// loop. Whoever drains it looks at everything that waits: the leader at the sleepers and at what event loops
// armed (it writes `kick` for them), on_wake() makes its loop arm again.
//
// Every wait ends with the daemon: its socket hangs up, the session ends, and `state` is Closed.
#pragma once

#include <cstdint>

#include "client/src/stream_state.hpp"

namespace ringlaunch::detail {

// ok: everything before `position` has completed. timed_out: not yet, and it may still be. stream_stopped,
// daemon_lost, closed: it will not, as things stand. Never blocks.
[[nodiscard]] Status look_at(const StreamState& stream, std::uint64_t position) noexcept;

// Blocks until look_at() answers something else than timed_out, the deadline passes, or the client's hook
// gives up (interrupted). Any number of threads.
[[nodiscard]] Status wait_completed(StreamState& stream, std::uint64_t position,
                                    std::uint64_t deadline_ns = kForever) noexcept;

// For event loops; see Stream::wake_fd().
[[nodiscard]] Status arm(StreamState& stream, std::uint64_t position) noexcept;
[[nodiscard]] int loop_fd(StreamState& stream) noexcept;
void on_wake(StreamState& stream) noexcept;

// How long a waiter of this machine may spin: on few processors the daemon needs the one it would spin on.
std::uint32_t longest_spin_ns() noexcept;

}  // namespace ringlaunch::detail
