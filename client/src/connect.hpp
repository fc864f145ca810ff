// From a socket's address to an open session.
#pragma once

#include <memory>
#include <ringlaunch/ringlaunch.hpp>

namespace ringlaunch::detail {

// Throws Error; see Client::connect.
std::shared_ptr<ClientState> connect(const ConnectOptions& options);

}  // namespace ringlaunch::detail
