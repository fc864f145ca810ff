// How a raw client lends, and takes up what is lent.
#pragma once

#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {

struct Right {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Right&) const = default;
};

inline Answer try_share(SessionClient& client, std::uint64_t buffer, std::uint64_t stream = 0) {
    return client.ask(schema::Request::Share, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateShare(builder, buffer, stream).Union();
    });
}

inline Right share(SessionClient& client, std::uint64_t buffer, std::uint64_t stream = 0) {
    const Answer answer = try_share(client, buffer, stream);
    EXPECT_EQ(answer.status(), Status::ok) << answer.text();
    const auto* shared = answer->answer_as_Shared();
    return shared == nullptr ? Right{} : Right{shared->right_low(), shared->right_high()};
}

inline Answer try_borrow(SessionClient& client, const Right& right) {
    return client.ask(schema::Request::Borrow, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateBorrow(builder, right.low, right.high).Union();
    });
}

// From now on streams of `waiter` may wait for this one of `owner`.
inline void lend_stream(SessionClient& owner, const TestStream& stream, SessionClient& waiter) {
    const Answer borrowed = try_borrow(waiter, share(owner, 0, stream.id));
    EXPECT_EQ(borrowed.status(), Status::ok) << borrowed.text();
}

}  // namespace ringlaunch::test
