// A scripted daemon for what a real one does not do: other versions, malformed answers, hang-ups.
#pragma once

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <functional>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <thread>

#include "control_generated.h"
#include "schema/message.hpp"
#include "schema/version.hpp"
#include "tests/client/folder.hpp"

namespace ringlaunch::testing {

class FakePeer {
  public:
    using Script = std::function<void(FakePeer&)>;

    // Listens, and runs the script once somebody has connected. Hangs up and leaves when the script ends.
    explicit FakePeer(Script script) {
        listener_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        folder_.socket().copy(address.sun_path, sizeof address.sun_path - 1);
        if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
            ::listen(listener_.get(), 4) != 0)
            throw std::runtime_error("the fake peer cannot listen");
        thread_ = std::thread([this, script = std::move(script)] {
            socket_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (socket_) script(*this);
            ::shutdown(listener_.get(), SHUT_RDWR);  // nobody else gets in
            socket_.reset();
        });
    }
    ~FakePeer() {
        ::shutdown(listener_.get(), SHUT_RDWR);  // accept() ends
        thread_.join();
    }

    ConnectOptions options() const {
        ConnectOptions options;
        options.socket = folder_.socket();
        options.timeout_ms = 20'000;
        return options;
    }

    // The id of the next request; 0: the client hung up.
    std::uint32_t take() {
        Message message;
        if (receive_message(socket_.get(), message, true) != Transfer::done) return 0;
        request_ = std::move(message);
        return view().id();
    }
    const schema::ClientMessage& view() const {
        return *flatbuffers::GetRoot<schema::ClientMessage>(request_.bytes.data());
    }

    template <class Build>
    void answer(std::uint32_t id, Status status, const std::string& error, schema::Answer kind, Build&& build,
                std::span<const int> fds = {}) {
        flatbuffers::FlatBufferBuilder builder;
        const flatbuffers::Offset<void> table = build(builder);
        const auto text = builder.CreateString(error);
        builder.Finish(
            schema::CreateServerMessage(builder, id, static_cast<std::uint32_t>(status), text, kind, table));
        send({reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()}, fds);
    }
    void refuse(std::uint32_t id, Status status, const std::string& error) {
        answer(id, status, error, schema::Answer::NONE,
               [](flatbuffers::FlatBufferBuilder&) { return flatbuffers::Offset<void>(); });
    }
    void welcome(std::uint32_t id, std::uint32_t version = kProtocolVersion,
                 schema::DriverKind driver = schema::DriverKind::Null) {
        const UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        const int fds[] = {doorbell.get()};
        answer(
            id, Status::ok, "", schema::Answer::Welcome,
            [&](flatbuffers::FlatBufferBuilder& builder) {
                const auto release = builder.CreateString("9.9.9");
                schema::WelcomeBuilder table(builder);
                table.add_version(version);
                table.add_session((1ull << 32) | 1);
                table.add_driver(driver);
                table.add_daemon_version(release);
                return table.Finish().Union();
            },
            fds);
    }
    void send(std::span<const std::byte> bytes, std::span<const int> fds = {}) {
        EXPECT_EQ(send_message(socket_.get(), bytes, fds, true), Transfer::done);
    }

  private:
    TestFolder folder_;
    UniqueFd listener_, socket_;
    Message request_;
    std::thread thread_;
};

}  // namespace ringlaunch::testing
