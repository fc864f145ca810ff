// Maps of tensors: of which memory a session gets one, and what it is told otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>

#include "harness.hpp"
#include "schema/tensor_layout.hpp"
#include "tests/make_layout.hpp"

namespace ringlaunch::test {
namespace {

using testing::HasSubstr;

Answer ask_for_map(SessionClient& client, std::uint64_t buffer, std::uint64_t address,
                   const TensorLayout& layout = tile()) {
    return client.ask(schema::Request::EncodeTensorMap, [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto written = write_layout(builder, layout);
        return schema::CreateEncodeTensorMap(builder, buffer, address, written).Union();
    });
}

std::vector<std::uint8_t> map_of(SessionClient& client, std::uint64_t buffer, std::uint64_t address) {
    const Answer answer = ask_for_map(client, buffer, address);
    EXPECT_EQ(answer.status(), Status::ok) << answer.text();
    const auto* encoded = answer->answer_as_TensorMapEncoded();
    if (encoded == nullptr) return {};
    return {encoded->map()->begin(), encoded->map()->end()};
}

void expect_refused(const Answer& answer, Status status, const std::string& text) {
    EXPECT_EQ(answer.status(), status) << answer.text();
    EXPECT_THAT(answer.text(), HasSubstr(text));
}

TEST(TensorMaps, AreOfOnesOwnMemoryAlone) {
    const Daemon daemon({"driver=null"});
    SessionClient client(daemon.socket()), other(daemon.socket());
    const auto memory = client.alloc(2 * kTileBytes);
    EXPECT_EQ(map_of(client, memory.id, memory.address).size(), 128u);
    EXPECT_NE(map_of(client, memory.id, memory.address), map_of(client, memory.id, memory.address + 128));
    EXPECT_EQ(map_of(client, memory.id, memory.address + kTileBytes).size(), 128u) << "up to its last byte";

    const auto others = other.alloc(2 * kTileBytes);
    EXPECT_EQ(map_of(other, others.id, others.address).size(), 128u);
    expect_refused(ask_for_map(client, 0x1234567, memory.address), Status::not_found, "no buffer");
    expect_refused(ask_for_map(client, memory.id, others.address), Status::invalid_argument,
                   "does not lie in buffer");
    for (const std::uint64_t address :
         {memory.address - 16, memory.address + 2 * kTileBytes, std::uint64_t{0}, ~std::uint64_t{15}})
        expect_refused(ask_for_map(client, memory.id, address), Status::invalid_argument,
                       "does not lie in buffer");
    expect_refused(ask_for_map(client, memory.id, memory.address + kTileBytes + 16), Status::invalid_argument,
                   "larger than the 8176 bytes");

    ASSERT_EQ(client.free(memory.id).status(), Status::ok);
    expect_refused(ask_for_map(client, memory.id, memory.address), Status::not_found, "it was freed");
}

TEST(TensorMaps, ThatCannotBeAreRefusedByWhatIsWrong) {
    const Daemon daemon({"driver=null"});
    SessionClient client(daemon.socket());
    const auto memory = client.alloc(kTileBytes);
    const auto raw = [&](std::uint32_t sides, std::uint32_t strides, std::uint32_t box, std::uint32_t steps) {
        return client.ask(schema::Request::EncodeTensorMap, [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto longs = [&](std::uint32_t count) {
                return builder.CreateVector(std::vector<std::uint64_t>(count, 16));
            };
            const auto words = [&](std::uint32_t count) {
                return builder.CreateVector(std::vector<std::uint32_t>(count, 1));
            };
            const auto a = longs(sides), b = longs(strides);
            const auto c = words(box), d = words(steps);
            const auto layout = schema::CreateTensorLayout(builder, 7, a, b, c, d);
            return schema::CreateEncodeTensorMap(builder, memory.id, memory.address, layout).Union();
        });
    };
    for (const std::uint32_t rank : {0u, 6u, 1000u})
        expect_refused(raw(rank, 1, rank, rank), Status::invalid_argument,
                       "the rank is " + std::to_string(rank) + ", it has to be 1 to 5");
    expect_refused(raw(2, 2, 2, 2), Status::invalid_argument, "it has 2 strides where there have to be 1");
    expect_refused(raw(2, 1, 3, 2), Status::invalid_argument, "3 sides of a box where there have to be 2");
    expect_refused(raw(2, 1, 2, 1), Status::invalid_argument, "1 steps where there have to be 2");
    const Answer missing =
        client.ask(schema::Request::EncodeTensorMap, [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto sides = builder.CreateVector(std::vector<std::uint64_t>{16});
            const auto layout = schema::CreateTensorLayout(builder, 7, sides);
            return schema::CreateEncodeTensorMap(builder, memory.id, memory.address, layout).Union();
        });
    expect_refused(missing, Status::invalid_argument, "it has 0 sides of a box");
    // What the driver says comes to the client as it is; tests/driver has all of it.
    TensorLayout wide = tile();
    wide.box[1] = 300;
    expect_refused(ask_for_map(client, memory.id, memory.address, wide), Status::invalid_argument,
                   "the box's side is 300 in dimension 1");
    EXPECT_EQ(map_of(client, memory.id, memory.address).size(), 128u);
}

TEST(TensorMaps, AreTheSameFromTheNextExecutor) {
    const Daemon daemon({"driver=null"});
    SessionClient client(daemon.socket());
    const auto stream = client.open_stream();
    const auto memory = client.alloc(kTileBytes);
    const auto before = map_of(client, memory.id, memory.address);
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer listed = operators.ask(
        schema::Request::GetSessions,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetSessions(builder).Union(); });
    ASSERT_EQ(listed->answer_as_Sessions()->sessions()->size(), 1u);
    ::kill(listed->answer_as_Sessions()->sessions()->Get(0)->executor_pid(), SIGKILL);
    // Asked while there may be no executor: answered by the next one.
    EXPECT_EQ(map_of(client, memory.id, memory.address), before);
}

TEST(TensorMaps, AreNotForCpus) {
    const Daemon daemon({"driver=host"});
    SessionClient client(daemon.socket());
    const auto memory = client.alloc(kTileBytes);
    expect_refused(ask_for_map(client, memory.id, memory.address), Status::unsupported, "the host driver");
}

}  // namespace
}  // namespace ringlaunch::test
