#include "daemon/supervisor/connection.hpp"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <boost/asio/post.hpp>

namespace ringlaunch::supervisor {

namespace {

// A session's turn of the loop: a flood of one does not keep the others waiting.
constexpr int kMessagesATurn = 16;
// What the OS may hold of a session's unread answers.
constexpr int kSendBufferBytes = 192 << 10;

}  // namespace

Connection::Connection(boost::asio::io_context& io, UniqueFd socket, Peer peer,
                       std::uint64_t max_pending_bytes, const Descriptors& descriptors)
    : io_(io),
      socket_(io),
      process_(io),
      pause_timer_(io),
      peer_(std::move(peer)),
      max_pending_bytes_(max_pending_bytes),
      descriptors_(descriptors) {
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
    socket_.assign(boost::asio::generic::seq_packet_protocol(AF_UNIX, 0), socket.release());
    process_.assign(peer_.process.release());
}

void Connection::start(Events events) {
    events_ = std::move(events);
    process_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                        [self = shared_from_this()](const auto& error) {
                            if (!error) self->close("its process ended");
                        });
    wait_readable();
}

void Connection::wait_readable() {
    if (waiting_readable_ || paused_ || resting_ || closing_) return;
    waiting_readable_ = true;
    socket_.async_wait(boost::asio::socket_base::wait_read, [self = shared_from_this()](const auto& error) {
        self->waiting_readable_ = false;
        if (!error) self->take_messages();
    });
}

void Connection::take_messages() {
    for (int i = 0; i < kMessagesATurn; ++i) {
        if (paused_ || resting_ || closing_) return;
        switch (receive_message(socket_.native_handle(), incoming_, false)) {
            case Transfer::done:
                events_.message(incoming_, true);
                incoming_.fds.clear();  // what nobody wanted
                break;
            case Transfer::no_descriptors:
                events_.message(incoming_, false);
                break;
            case Transfer::would_block:
                return wait_readable();
            case Transfer::closed:
                return close("it left");
            case Transfer::malformed:
                events_.malformed();
                return close("it sent what is no message");
        }
    }
    wait_readable();
}

bool Connection::all_read() const {
    int unread = 0;
    return waiting_.empty() &&
           ::ioctl(const_cast<Connection*>(this)->socket_.native_handle(), SIOCOUTQ, &unread) == 0 &&
           unread == 0;
}

Transfer Connection::try_send(std::span<const std::byte> bytes, std::span<const int> fds) {
    if (!fds.empty()) {
        // Descriptors in flight count against the daemon's user: a peer that reads nothing may not use them
        // up.
        if (unread_fds_ + fds.size() > kMaxUnreadFds) {
            int unread = 0;
            if (::ioctl(socket_.native_handle(), SIOCOUTQ, &unread) != 0 || unread != 0)
                return Transfer::would_block;
            unread_fds_ = 0;
        }
    }
    const Transfer result = send_message(socket_.native_handle(), bytes, fds, false);
    if (result == Transfer::done) unread_fds_ += fds.size();
    return result;
}

void Connection::send(std::span<const std::byte> bytes, std::span<const int> fds, std::uint64_t coalesce) {
    if (closing_) return;
    if (waiting_.empty()) {
        switch (try_send(bytes, fds)) {
            case Transfer::done:
                return;
            case Transfer::would_block:
                break;
            case Transfer::closed:
                return close("it left");
            case Transfer::malformed:
            case Transfer::no_descriptors:
                return close("an answer to it was too long");
        }
    }
    Waiting entry{{bytes.begin(), bytes.end()}, {}, coalesce};
    for (const int fd : fds) {
        UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
        if (!copy || !descriptors_.is_for_requests(copy.get()))
            return close("it does not read its answers, and the daemon has no descriptors left to keep them");
        entry.fds.push_back(std::move(copy));
    }
    if (coalesce != 0) {
        for (Waiting& other : waiting_) {
            if (other.coalesce != coalesce) continue;
            waiting_bytes_ += entry.bytes.size() - other.bytes.size();
            other = std::move(entry);
            return;
        }
    }
    waiting_bytes_ += entry.bytes.size();
    waiting_.push_back(std::move(entry));
    if (waiting_bytes_ > max_pending_bytes_ || waiting_.size() > kMaxUnreadFds)
        return close("it does not read its answers: " + std::to_string(waiting_.size()) + " messages (" +
                     std::to_string(waiting_bytes_) + " bytes) were waiting");
    wait_writable();
}

void Connection::wait_writable() {
    if (waiting_writable_ || closing_) return;
    waiting_writable_ = true;
    socket_.async_wait(boost::asio::socket_base::wait_write, [self = shared_from_this()](const auto& error) {
        self->waiting_writable_ = false;
        if (!error) self->flush();
    });
}

void Connection::flush() {
    std::vector<int> fds;
    while (!waiting_.empty() && !closing_) {
        Waiting& first = waiting_.front();
        fds.clear();
        for (const UniqueFd& fd : first.fds) fds.push_back(fd.get());
        switch (try_send(first.bytes, fds)) {
            case Transfer::done:
                waiting_bytes_ -= first.bytes.size();
                waiting_.pop_front();
                break;
            case Transfer::would_block: {
                // Writable, but too many descriptors are in flight: look again in a while.
                if (waiting_writable_) return;
                waiting_writable_ = true;
                auto timer = std::make_shared<boost::asio::steady_timer>(io_, std::chrono::milliseconds(5));
                timer->async_wait([self = shared_from_this(), timer](const auto&) {
                    self->waiting_writable_ = false;
                    self->wait_writable();
                });
                return;
            }
            case Transfer::closed:
            case Transfer::malformed:
            case Transfer::no_descriptors:
                return close("it left");
        }
    }
}

void Connection::pause() {
    paused_ = true;
}

void Connection::resume() {
    paused_ = false;
    wait_readable();
}

void Connection::pause_for(std::chrono::milliseconds time) {
    if (resting_) return;
    resting_ = true;
    pause_timer_.expires_after(time);
    pause_timer_.async_wait([self = shared_from_this()](const auto& error) {
        self->resting_ = false;
        if (!error) self->wait_readable();
    });
}

void Connection::close(const std::string& why) {
    if (closing_) return;
    closing_ = true;
    // From the loop: whoever is in the middle of an answer finds everything as it was.
    boost::asio::post(io_, [self = shared_from_this(), why] {
        boost::system::error_code ignored;
        self->socket_.close(ignored);
        self->process_.close(ignored);
        self->pause_timer_.cancel();
        const Events events = std::move(self->events_);
        self->events_ = {};
        if (events.gone) events.gone(why);
    });
}

}  // namespace ringlaunch::supervisor
