// One client's socket: takes its messages, sends answers and notices through a bounded queue, and says when
// the client has gone (its socket or its process, whichever is first).
#pragma once

#include <boost/asio/generic/seq_packet_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "daemon/supervisor/descriptors.hpp"
#include "daemon/supervisor/peer.hpp"
#include "schema/message.hpp"

namespace ringlaunch::supervisor {

class Connection : public std::enable_shared_from_this<Connection> {
  public:
    struct Events {
        // `whole`: with the descriptors that it brought.
        std::function<void(Message&, bool whole)> message;
        // Once, and last. `why`: "left", "its process ended", "sent a message that is no message", ...
        std::function<void(const std::string& why)> gone;
        std::function<void()> malformed;  // something arrived that is no message; close() follows
    };

    Connection(boost::asio::io_context& io, UniqueFd socket, Peer peer, std::uint64_t max_pending_bytes,
               const Descriptors& descriptors);

    void start(Events events);
    const Peer& peer() const { return peer_; }

    // Sends now, or as soon as the peer has read: in order. The descriptors are borrowed. A message with the
    // same `coalesce` (not 0) that still waits is replaced: only the newest notice about a stream matters. A
    // peer that lets more than the bound wait is hung up on.
    void send(std::span<const std::byte> bytes, std::span<const int> fds, std::uint64_t coalesce = 0);
    // How many descriptors the peer may have waiting in its socket.
    static constexpr std::size_t kMaxUnreadFds = 512;
    // Has the peer read everything?
    bool all_read() const;

    // Not reading for a while: the peer is held up, nobody else.
    void pause();
    void resume();
    void pause_for(std::chrono::milliseconds time);

    // Hangs up; `gone` is called from the loop. What the OS has taken still arrives.
    void close(const std::string& why);
    bool closing() const { return closing_; }

  private:
    struct Waiting {
        std::vector<std::byte> bytes;
        std::vector<UniqueFd> fds;
        std::uint64_t coalesce = 0;
    };
    void wait_readable();
    void take_messages();
    void wait_writable();
    void flush();
    Transfer try_send(std::span<const std::byte> bytes, std::span<const int> fds);

    boost::asio::io_context& io_;
    boost::asio::generic::seq_packet_protocol::socket socket_;
    boost::asio::posix::stream_descriptor process_;
    boost::asio::steady_timer pause_timer_;
    Peer peer_;
    std::uint64_t max_pending_bytes_;
    const Descriptors& descriptors_;
    Events events_;
    Message incoming_;
    std::deque<Waiting> waiting_;
    std::uint64_t waiting_bytes_ = 0;
    std::size_t unread_fds_ = 0;  // sent since the peer was last seen to have read everything
    bool waiting_readable_ = false;
    bool waiting_writable_ = false;
    bool paused_ = false;
    bool resting_ = false;  // pause_for()
    bool closing_ = false;
};

}  // namespace ringlaunch::supervisor
