#include "client/src/loans.hpp"

#include <algorithm>

#include "schema/id_text.hpp"

namespace ringlaunch::detail {

namespace {

bool same(const std::weak_ptr<ClientState>& one, const std::shared_ptr<ClientState>& other) {
    return !one.owner_before(other) && !other.owner_before(one);
}

// The owner's session vouches, the borrower's takes it up.
Reply take_up(ClientState& owner, const std::shared_ptr<ClientState>& borrower, std::uint64_t buffer,
              std::uint64_t stream, const std::string& doing) {
    owner.require_life(doing.c_str());
    borrower->require_life(doing.c_str());
    if (owner.info.pid != borrower->info.pid || owner.info.socket != borrower->info.socket)
        throw Error(Status::invalid_argument, doing + ": it belongs to a client of another daemon (" +
                                                  owner.info.socket + ", not " + borrower->info.socket + ")");
    owner.sweep();
    borrower->sweep();
    const Reply right = owner.connection->ask({schema::Request::Share, schema::Answer::Shared, 0, doing},
                                              [&](flatbuffers::FlatBufferBuilder& builder) {
                                                  return schema::CreateShare(builder, buffer, stream);
                                              });
    const schema::Shared& shared = *right.view().answer_as_Shared();
    return borrower->connection->ask({schema::Request::Borrow, schema::Answer::Borrowed, 0, doing},
                                     [&](flatbuffers::FlatBufferBuilder& builder) {
                                         return schema::CreateBorrow(builder, shared.right_low(),
                                                                     shared.right_high());
                                     });
}

}  // namespace

void borrow(const std::shared_ptr<ClientState>& borrower, const BufferState& buffer) {
    if (buffer.client == borrower) return;
    {
        const std::lock_guard lock(buffer.loans_mutex);
        for (const BufferState::Loan& loan : buffer.loans)
            if (same(loan.borrower, borrower)) return;
    }
    const Reply reply = take_up(*buffer.client, borrower, buffer.id, 0,
                                "cannot use a buffer of another client, of " + std::to_string(buffer.bytes) +
                                    " bytes on device " + std::to_string(buffer.client->info.device));
    const std::lock_guard lock(buffer.loans_mutex);
    buffer.loans.push_back({borrower, reply.view().answer_as_Borrowed()->buffer()});
}

void borrow(const std::shared_ptr<ClientState>& borrower, StreamState& stream) {
    if (stream.client == borrower.get()) return;
    {
        const std::lock_guard lock(stream.mutex);
        for (const std::weak_ptr<ClientState>& each : stream.watchers)
            if (same(each, borrower)) return;
    }
    take_up(*stream.client, borrower, 0, stream.id,
            "cannot wait for stream " + (stream.name.empty() ? id_text(stream.id) : stream.name) +
                " of another client");
    const std::lock_guard lock(stream.mutex);
    stream.watchers.push_back(borrower);
}

}  // namespace ringlaunch::detail
