// What clients of one daemon and user have of each other: memory that copies name, streams that are waited
// for.
#pragma once

#include <memory>

#include "client/src/client_state.hpp"

namespace ringlaunch::detail {

// From now on, records of `borrower` may name it. Ask the daemon once for each pair; nothing where it is the
// borrower's own. Throw Error: another daemon, another user, a client that is closed; for memory also what
// stands between two devices.
void borrow(const std::shared_ptr<ClientState>& borrower, const BufferState& buffer);
void borrow(const std::shared_ptr<ClientState>& borrower, StreamState& stream);

}  // namespace ringlaunch::detail
