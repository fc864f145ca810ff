// The daemon's place in the file system: one daemon a socket (a lock file says which), its socket, its
// connections.
#pragma once

#include <boost/asio/generic/seq_packet_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <stdexcept>
#include <string>

#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

// Another daemon holds the lock.
class AlreadyRunning : public std::runtime_error {
    using std::runtime_error::runtime_error;
};
// The socket or its folder cannot be made or trusted.
class SocketRefused : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Listener {
  public:
    // Locks, removes what an earlier daemon left, binds and listens. `open_to_all`: others may connect (and
    // are checked by their credentials); else the socket is the user's own (0600). Throws AlreadyRunning or
    // SocketRefused.
    Listener(boost::asio::io_context& io, const std::string& path, bool make_folder, bool open_to_all);
    ~Listener();

    void start(std::function<void(UniqueFd)> accepted);
    // Removes the socket and takes nobody any more. The lock stays until the end.
    void stop();
    // Is nobody waiting to be accepted?
    bool idle() const;

  private:
    void wait();
    void accept();

    boost::asio::io_context& io_;
    boost::asio::posix::stream_descriptor socket_;
    boost::asio::steady_timer retry_;
    std::string path_;
    UniqueFd lock_;
    std::function<void(UniqueFd)> accepted_;
};

}  // namespace ringlaunch::supervisor
