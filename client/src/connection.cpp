#include "client/src/connection.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "client/src/clock.hpp"
#include "client/src/eventfd.hpp"
#include "schema/error.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

namespace {

constexpr int kRateRestMs = 5;

std::string no_descriptors_text() {
    return "cannot receive the descriptors of the daemon's answer: " + no_descriptor_left();
}

}  // namespace

Connection::Connection(UniqueFd socket, std::string peer, NoticeSink& sink)
    : socket_(std::move(socket)),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      peer_(std::move(peer)),
      sink_(sink) {
    if (!kick_)
        throw Error(Status::limit_reached,
                    "cannot make an eventfd for " + peer_ + ": " + why_no_descriptor(errno));
    keep_spare();
}

void Connection::keep_spare() noexcept {
    if (!spare_) spare_.reset(::fcntl(kick_.get(), F_DUPFD_CLOEXEC, 0));
}

std::uint32_t Connection::next_id() noexcept {
    for (;;) {
        const std::uint32_t id = last_id_.fetch_add(1, std::memory_order_relaxed) + 1;
        if (id != 0) return id;  // 0 marks notices
    }
}

void Connection::finish(flatbuffers::FlatBufferBuilder& builder, std::uint32_t id, schema::Request kind,
                        flatbuffers::Offset<void> request) {
    builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
}

void Connection::set_hook(WaitHook hook) {
    const std::lock_guard lock(mutex_);
    hook_ = hook;
}

WaitHook Connection::hook() const {
    const std::lock_guard lock(mutex_);
    return hook_;
}

std::string Connection::end_text() const {
    const std::lock_guard lock(mutex_);
    return lost_text_;
}

void Connection::fail(const Ask& what) const {
    throw Error(end(), what.doing + ": " + lost_text_);
}

// The reader's wait: for the socket or the kick. Errors and interruptions: the caller looks again.
void Connection::wait_as_reader(int timeout_ms) const noexcept {
    pollfd entries[2] = {{socket_.get(), POLLIN, 0}, {kick_.get(), POLLIN, 0}};
    ::poll(entries, 2, timeout_ms);
}

bool Connection::send_now(std::span<const std::byte> bytes) {
    switch (send_message(socket_.get(), bytes, {}, false)) {
        case Transfer::done:
            pump();
            return true;  // answers to posts must not pile up
        case Transfer::would_block:
            pump();
            return false;
        default:
            pump();
            return lost();  // a lost daemon has forgotten the session anyway
    }
}

void Connection::send_all(const Ask& what, std::span<const std::byte> bytes) {
    for (;;) {
        switch (send_message(socket_.get(), bytes, what.fds, false)) {
            case Transfer::done:
                return;
            case Transfer::malformed:
            case Transfer::no_descriptors:
                throw Error(Status::invalid_argument,
                            what.doing + ": the request has " + std::to_string(bytes.size()) +
                                " bytes, but a control message takes at most 65536");
            case Transfer::closed: {
                // What it sent before it left says why.
                pump();
                std::unique_lock lock(mutex_);
                if (!lost()) lose(Status::daemon_lost, "the daemon at " + peer_ + " hung up");
                fail(what);
            }
            case Transfer::would_block:
                break;
        }
        // The daemon may wait for us to take its answers before it takes ours.
        if (now_ns() >= what.deadline_ns)
            throw Error(Status::timed_out, what.doing + ": the daemon at " + peer_ + " takes no message");
        pollfd entry{socket_.get(), POLLIN | POLLOUT, 0};
        ::poll(&entry, 1, poll_ms(what.deadline_ns, kHookSliceMs));
        pump();
        if (lost()) {
            const std::lock_guard lock(mutex_);
            fail(what);
        }
        if (hook()()) throw Error(Status::interrupted, what.doing + ": interrupted");
    }
}

Reply Connection::exchange_once(const Ask& what, std::uint32_t id, std::span<const std::byte> bytes) {
    Pending pending;
    std::unique_lock lock(mutex_);
    if (lost()) fail(what);
    pending_.emplace(id, &pending);
    // Whatever happens, nobody may find the pending entry after we left.
    struct Removal {
        Connection& of;
        std::unique_lock<std::mutex>& lock;
        std::uint32_t id;
        ~Removal() {
            if (!lock.owns_lock()) lock.lock();
            of.pending_.erase(id);
        }
    } const removal{*this, lock, id};

    lock.unlock();
    send_all(what, bytes);
    lock.lock();
    while (!pending.done && !lost()) {
        if (now_ns() >= what.deadline_ns)
            throw Error(Status::timed_out,
                        what.doing + ": the daemon at " + peer_ + " did not answer in time");
        const WaitHook hook = hook_;
        const int slice_ms = poll_ms(what.deadline_ns, hook ? kHookSliceMs : -1);
        if (has_reader_) {
            if (slice_ms < 0)
                changed_.wait(lock);
            else
                changed_.wait_for(lock, std::chrono::milliseconds(slice_ms));
        } else {
            has_reader_ = true;
            lock.unlock();
            wait_as_reader(slice_ms);
            lock.lock();
            drain(kick_);
            has_reader_ = false;
            take_in(lock);
            changed_.notify_all();  // for those whose answer came, and for the next reader
        }
        if (!pending.done && !lost() && hook) {
            lock.unlock();
            const bool give_up = hook();
            lock.lock();
            if (give_up && !pending.done) throw Error(Status::interrupted, what.doing + ": interrupted");
        }
    }
    if (!pending.done) fail(what);
    if (!pending.whole) throw Error(Status::limit_reached, what.doing + ": " + no_descriptors_text());

    return std::move(pending.reply);
}

Reply Connection::exchange(const Ask& what, std::uint32_t id, std::span<const std::byte> bytes) {
    Reply reply = exchange_once(what, id, bytes);
    while (reply.view().status() == static_cast<std::uint32_t>(Status::rate_limited) &&
           now_ns() < what.deadline_ns) {
        // The daemon rests from us as well. One who never gets through learns why by the hook or the
        // deadline.
        ::poll(nullptr, 0, kRateRestMs);
        if (hook()()) throw Error(Status::interrupted, what.doing + ": interrupted");
        reply = exchange_once(what, id, bytes);
    }
    const schema::ServerMessage& view = reply.view();
    if (view.status() != 0) {
        const std::string text = view.error() != nullptr && view.error()->size() != 0
                                     ? view.error()->str()
                                     : std::string(status_text(static_cast<Status>(view.status())));
        // The daemon's text mostly says what was being done by itself.
        throw Error(static_cast<Status>(view.status()),
                    text.starts_with("cannot ") ? text : what.doing + ": " + text);
    }
    if (view.answer_type() != what.wanted ||
        (what.wanted != schema::Answer::NONE && view.answer() == nullptr) ||
        reply.message.fds.size() != what.wanted_fds)
        throw Error(Status::malformed_message, what.doing + ": the daemon at " + peer_ + " answered with " +
                                                   schema::EnumNameAnswer(view.answer_type()) + " and " +
                                                   std::to_string(reply.message.fds.size()) +
                                                   " descriptors, but " +
                                                   schema::EnumNameAnswer(what.wanted) + " and " +
                                                   std::to_string(what.wanted_fds) + " were expected");
    return reply;
}

void Connection::pump() noexcept {
    // Most of the time there is nothing: look before making room for a message.
    char byte;
    if (::recv(socket_.get(), &byte, 0, MSG_PEEK | MSG_DONTWAIT) < 0 &&
        (errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    std::unique_lock lock(mutex_);
    take_in(lock);
}

void Connection::take_in(std::unique_lock<std::mutex>&) {
    bool answered = false;
    while (!lost()) {
        try {
            Message message;
            spare_.reset();
            const Transfer got = receive_message(socket_.get(), message, false);
            if (got == Transfer::would_block) break;
            if (got == Transfer::closed) {
                // One that has too many at its door says so, and lives.
                lose(farewell_status_ == Status::rate_limited ? farewell_status_ : Status::daemon_lost,
                     "the daemon at " + peer_ +
                         (farewell_.empty() ? " is gone: it hung up" : " hung up: " + farewell_));
            } else if (got == Transfer::malformed) {
                lose(Status::malformed_message,
                     "the daemon at " + peer_ + " sent a message that is too long");
            } else {
                deliver(std::move(message), got == Transfer::done);
                answered = true;
            }
        } catch (const std::exception& error) {
            lose(Status::internal_error,
                 "the client could not take in a message of the daemon at " + peer_ + ": " + error.what());
        }
    }
    keep_spare();
    if (answered || lost()) {
        changed_.notify_all();
        if (has_reader_) signal(kick_);
    }
}

void Connection::deliver(Message message, bool whole) {
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(message.bytes.data()),
                                   message.bytes.size());
    if (!verifier.VerifyBuffer<schema::ServerMessage>(nullptr)) {
        lose(Status::malformed_message, "the daemon at " + peer_ + " sent a message of " +
                                            std::to_string(message.bytes.size()) +
                                            " bytes that cannot be read");
        return;
    }
    Reply reply{std::move(message)};
    if (reply.view().id() == 0) {
        if (reply.view().answer_type() == schema::Answer::NONE) {
            if (reply.view().error() != nullptr) farewell_ = reply.view().error()->str();
            farewell_status_ = static_cast<Status>(reply.view().status());
        } else if (whole) {
            sink_.on_notice(reply.view(), reply.message.fds);
        } else {
            // A stream without its page cannot be waited for.
            lose(Status::daemon_lost, no_descriptors_text());
        }
        return;
    }
    const auto found = pending_.find(reply.view().id());
    const bool made = reply.view().status() == 0;
    if (made && (found == pending_.end() || !whole)) sink_.on_orphan(reply.view());
    if (found == pending_.end())
        return sink_.on_late_answer(reply.view().id(), static_cast<Status>(reply.view().status()));
    found->second->whole = whole;
    found->second->reply = std::move(reply);
    found->second->done = true;
}

void Connection::lose(Status status, const std::string& text) noexcept {
    if (lost()) return;
    try {
        lost_text_ = text;
    } catch (...) {  // the number alone must do
    }
    lost_.store(status, std::memory_order_release);  // sync: LOST
    ::shutdown(socket_.get(), SHUT_RDWR);            // who polls it wakes
    sink_.on_lost();
}

void Connection::close() noexcept {
    const std::lock_guard lock(mutex_);
    lose(Status::closed, "the client was closed");
    changed_.notify_all();
    if (has_reader_) signal(kick_);
}

}  // namespace ringlaunch::detail
