// The status pages of all streams of a daemon, as an operator sees them: what a benchmark reads that no
// client of one session may know.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

#include "control_generated.h"
#include "schema/message.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"

namespace ringlaunch::bench {

// A stream's page of its present epoch, mapped.
class ObservedPage {
  public:
    explicit ObservedPage(Mapping mapping) : mapping_(std::move(mapping)) {}
    // relaxed: figures for people, which order nothing.
    std::uint64_t issued() const { return page().issued.load(std::memory_order_relaxed); }
    std::uint64_t completed() const { return page().completed.load(std::memory_order_relaxed); }
    std::uint64_t launches() const { return page().counters.launches.load(std::memory_order_relaxed); }
    std::uint64_t batches() const { return page().counters.batches.load(std::memory_order_relaxed); }

  private:
    const StatusPage& page() const { return *mapping_.as<const StatusPage>(); }
    Mapping mapping_;
};

// The pages of all streams that are open now, by the streams' names.
inline std::map<std::string, ObservedPage> observe(const std::string& socket_path) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        throw std::runtime_error("cannot observe the daemon at " + socket_path + ": " + std::strerror(errno));
    const auto ask = [&](std::uint32_t id, schema::Request kind, auto build) {
        flatbuffers::FlatBufferBuilder builder;
        const auto request = build(builder).Union();
        builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
        const std::span bytes(reinterpret_cast<const std::byte*>(builder.GetBufferPointer()),
                              builder.GetSize());
        Message answer;
        if (send_message(socket.get(), bytes, {}, true) != Transfer::done ||
            receive_message(socket.get(), answer, true) != Transfer::done ||
            flatbuffers::GetRoot<schema::ServerMessage>(answer.bytes.data())->status() != 0)
            throw std::runtime_error("the daemon at " + socket_path + " does not let itself be observed");
        return answer;
    };
    ask(1, schema::Request::Hello, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateHello(builder, kHelloMagic, kProtocolVersion, 0, 0, false, true);
    });
    const Message answer = ask(2, schema::Request::GetStats, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateGetStats(builder);
    });
    std::map<std::string, ObservedPage> pages;
    const auto* stats = flatbuffers::GetRoot<schema::ServerMessage>(answer.bytes.data())->answer_as_Stats();
    for (const schema::StreamStats* stream : *stats->streams())
        if (stream->status_fd() >= 0)
            pages.emplace(
                stream->name()->str(),
                ObservedPage(Mapping(answer.fds.at(static_cast<std::size_t>(stream->status_fd())),
                                     kStatusPageBytes, Mapping::Access::read_only, "a status page")));
    return pages;
}

}  // namespace ringlaunch::bench
