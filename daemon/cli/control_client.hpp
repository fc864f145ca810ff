// A command's conversation with a running daemon: connects as an observer, asks, and takes the answer apart.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "control_generated.h"
#include "daemon/cli/command.hpp"
#include "schema/message.hpp"
#include "schema/socket_path.hpp"

namespace ringlaunch::cli {

// A verified answer and the descriptors that came with it.
struct Answer {
    Message message;
    const schema::ServerMessage* view() const {
        return flatbuffers::GetRoot<schema::ServerMessage>(message.bytes.data());
    }
};

class ControlClient {
  public:
    using Build = std::function<flatbuffers::Offset<void>(flatbuffers::FlatBufferBuilder&)>;

    enum class Versions { own, any };
    // Connects and shakes hands. Every wait of this client, and of each request, is bounded by `timeout`.
    // Throws CommandError: no_daemon, refused, version_mismatch or timed_out. Versions::any: a daemon that
    // speaks another version is no error, but nothing can be asked of it.
    ControlClient(const SocketPlace& place, std::chrono::milliseconds timeout,
                  Versions versions = Versions::own);

    // Sends one request and waits for its answer. Notices are passed by. Throws CommandError when the daemon
    // refuses, goes away, is silent, or answers with something else than `wanted` (NONE: whatever it is).
    Answer ask(schema::Request kind, const Build& build, schema::Answer wanted);

    const schema::Welcome& welcome() const { return *welcome_.view()->answer_as_Welcome(); }
    // The process at the other end, as the kernel names it; 0 where it cannot be seen from here.
    int peer_pid() const { return peer_pid_; }
    const UniqueFd& process() const { return process_; }  // a pidfd of it, where there is one
    bool other_version() const { return other_version_; }
    const std::string& path() const { return path_; }
    // Waits until the daemon hangs up. False: not within `timeout`.
    bool wait_for_hangup(std::chrono::milliseconds timeout);
    void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }

  private:
    using Clock = std::chrono::steady_clock;
    void connect(const SocketPlace& place);
    void greet();
    Answer receive(std::uint32_t id, Clock::time_point deadline);
    // False: the deadline passed.
    bool wait(short events, Clock::time_point deadline) const;
    [[noreturn]] void silent() const;
    [[noreturn]] void gone() const;

    UniqueFd socket_;
    std::string path_;
    std::chrono::milliseconds timeout_;
    std::uint32_t next_id_ = 1;
    int peer_pid_ = 0;
    UniqueFd process_;
    bool other_version_ = false;
    Answer welcome_;
};

// The daemon that an `AskOptions` names.
ControlClient connect(const AskOptions& options,
                      ControlClient::Versions versions = ControlClient::Versions::own);

}  // namespace ringlaunch::cli
