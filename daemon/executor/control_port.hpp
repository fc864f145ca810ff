// The executor's end of the conversation with the supervisor (daemon/executor_control.fbs): receives,
// verifies, has it done, answers. Control thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/driver/fault.hpp"
#include "daemon/executor/dispatch_thread.hpp"
#include "daemon/executor/memory_map.hpp"
#include "daemon/executor/registry.hpp"
#include "executor_control_generated.h"
#include "schema/message.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

class ControlPort {
  public:
    enum class End {
        quit,         // asked to
        peer_closed,  // the supervisor is gone
        malformed,    // what came was no message of this conversation
    };

    explicit ControlPort(UniqueFd socket) : socket_(std::move(socket)) {}

    // Serves until it ends.
    End run();
    // After run(): ends the dispatch thread. False: the device is still at work, and tearing down would wait
    // for it.
    bool settle();

  private:
    using ToExecutor = internal::ToExecutor;

    bool serve_one(End& end);
    void handle(const ToExecutor& message, std::vector<UniqueFd>& fds);
    void handle_stream(const ToExecutor& message, std::vector<UniqueFd>& fds);
    void handle_graph(const ToExecutor& message, std::vector<UniqueFd>& fds);
    void handle_module(const ToExecutor& message, std::vector<UniqueFd>& fds);
    void make_tensor_map(std::uint32_t id, const internal::MakeTensorMap& request);
    void handle_memory(const ToExecutor& message, std::vector<UniqueFd>& fds);
    void configure(std::uint32_t id, const internal::Configure& request, std::vector<UniqueFd>& fds);
    void load_module(std::uint32_t id, const internal::LoadModule& request, std::vector<UniqueFd>& fds);
    struct WantedModule;
    void load_now(std::uint32_t id, const WantedModule& wanted);
    // What `handle` throws is the answer.
    template <class Handle>
    void answering(std::uint32_t id, const Handle& handle);
    void pass_notices();
    Registry& registry();

    Registry::Answer later(std::uint32_t id);
    void answer_ok(std::uint32_t id, int fd = -1);
    void answer_error(std::uint32_t id, Status status, const std::string& text);
    void send(flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<internal::FromExecutor> message,
              int fd = -1);

    const UniqueFd socket_;
    bool quit_ = false;

    // From Configure on; each uses those before it.
    Mapping fault_page_;
    std::unique_ptr<driver::Driver> driver_;
    std::unique_ptr<MemoryMap> memory_;
    std::unique_ptr<DispatchThread> thread_;
    std::unique_ptr<Registry> registry_;
};

}  // namespace ringlaunch::executor
