// One life of an executor: starts it, carries messages both ways, kills it, and says when it has been reaped.
#pragma once

#include <boost/asio/generic/seq_packet_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "daemon/supervisor/death.hpp"
#include "schema/message.hpp"

namespace ringlaunch::supervisor {

class ExecutorProcess : public std::enable_shared_from_this<ExecutorProcess> {
  public:
    struct Events {
        std::function<void(Message&)> message;
        std::function<void()> writable;               // after send() answered would_block
        std::function<void(const ExitInfo&)> exited;  // last; everything it had sent came before
    };

    explicit ExecutorProcess(boost::asio::io_context& io);
    ~ExecutorProcess();

    // Throws std::system_error. Events come from the loop, never from within a call.
    void start(const std::string& path, const std::vector<std::string>& arguments, Events events);
    Transfer send(std::span<const std::byte> bytes, std::span<const int> fds);
    void kill();
    int pid() const { return pid_; }
    // No event comes any more.
    void forget() { events_ = {}; }

  private:
    void wait_readable();
    void wait_exit();
    void wait_writable();
    bool take_messages(std::size_t at_most);
    void reap();

    boost::asio::generic::seq_packet_protocol::socket socket_;
    boost::asio::posix::stream_descriptor pidfd_;
    boost::asio::steady_timer grace_;
    Events events_;
    int pid_ = 0;
    bool reaped_ = false;
    bool waiting_writable_ = false;
    bool hung_up_ = false;
    Message incoming_;
};

}  // namespace ringlaunch::supervisor
