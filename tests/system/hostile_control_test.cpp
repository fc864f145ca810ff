// Hostile messages on the control socket of a real daemon: cut off, random, of the wrong kind, with
// descriptors missing, foreign or unsealed, with ids and sizes out of all bounds. Each is answered with a
// reason or hung up on, within the bound of every wait here, and a neighbour compares its results all the
// while.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <iostream>
#include <map>
#include <optional>
#include <random>

#include "schema/status.hpp"
#include "schema/tensor_layout.hpp"
#include "tests/cli/daemon_process.hpp"
#include "tests/system/neighbour.hpp"

namespace ringlaunch::test {
namespace {

using flatbuffers::FlatBufferBuilder;
using schema::Request;
using Bytes = std::vector<std::byte>;

template <class Build>
Bytes message_of(Request kind, Build build, std::uint32_t id = 1) {
    FlatBufferBuilder builder;
    const auto request = build(builder).Union();
    builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
    const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
    return Bytes(bytes, bytes + builder.GetSize());
}
Bytes hello_message(std::uint32_t magic = kHelloMagic, std::uint32_t version = kProtocolVersion,
                    int device = 0) {
    return message_of(Request::Hello, [&](FlatBufferBuilder& builder) {
        return schema::CreateHello(builder, magic, version, builder.CreateString("hostile"), device);
    });
}

// One right message of each kind that a session may send, but StopDaemon, which is obeyed.
std::vector<Bytes> right_messages() {
    std::vector<Bytes> all{hello_message()};
    const auto add = [&](Request kind, auto build) { all.push_back(message_of(kind, build)); };
    add(Request::OpenStream, [](FlatBufferBuilder& builder) {
        return schema::CreateOpenStream(builder, 64, schema::OnRestart::Rerun, 1,
                                        builder.CreateString("a name"));
    });
    add(Request::CloseStream,
        [](FlatBufferBuilder& builder) { return schema::CreateCloseStream(builder, 7); });
    add(Request::ResumeStream,
        [](FlatBufferBuilder& builder) { return schema::CreateResumeStream(builder, 7, true); });
    add(Request::LoadModule, [](FlatBufferBuilder& builder) {
        const auto param =
            schema::CreateParam(builder, schema::ParamType::Int32, 0, 4, builder.CreateString("n"));
        const auto params = builder.CreateVector(&param, 1);
        const auto signature = schema::CreateSignature(builder, builder.CreateString("kernel"), params);
        const auto signatures = builder.CreateVector(&signature, 1);
        return schema::CreateLoadModule(builder, builder.CreateString("module"), 4096, signatures, 32, 4096);
    });
    add(Request::UnloadModule,
        [](FlatBufferBuilder& builder) { return schema::CreateUnloadModule(builder, 7); });
    add(Request::AllocBuffer,
        [](FlatBufferBuilder& builder) { return schema::CreateAllocBuffer(builder, 4096); });
    const auto after = [](FlatBufferBuilder& builder) {
        const auto position = schema::CreateStreamPosition(builder, 7, 8);
        return builder.CreateVector(&position, 1);
    };
    add(Request::FreeBuffer,
        [&](FlatBufferBuilder& builder) { return schema::CreateFreeBuffer(builder, 7, after(builder)); });
    add(Request::AddStaging,
        [](FlatBufferBuilder& builder) { return schema::CreateAddStaging(builder, 4096); });
    add(Request::DropStaging,
        [&](FlatBufferBuilder& builder) { return schema::CreateDropStaging(builder, 7, after(builder)); });
    add(Request::DropGraph,
        [&](FlatBufferBuilder& builder) { return schema::CreateDropGraph(builder, 7, after(builder)); });
    add(Request::EncodeTensorMap, [](FlatBufferBuilder& builder) {
        const auto layout = write_layout(
            builder, {.element_type = 7, .rank = 2, .sides = {32, 64}, .strides = {128}, .box = {32, 16}});
        return schema::CreateEncodeTensorMap(builder, 7, 4096, layout);
    });
    add(Request::GetStatus, [](FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder); });
    add(Request::GetStats, [](FlatBufferBuilder& builder) { return schema::CreateGetStats(builder, 1); });
    add(Request::GetSessions,
        [](FlatBufferBuilder& builder) { return schema::CreateGetSessions(builder, 1); });
    add(Request::GetKernels, [](FlatBufferBuilder& builder) { return schema::CreateGetKernels(builder, 1); });
    return all;
}

// A change of a byte may make any request a StopDaemon: that one any client of the same user may send.
bool stops_the_daemon(const Bytes& bytes) {
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    return verifier.VerifyBuffer<schema::ClientMessage>(nullptr) &&
           flatbuffers::GetRoot<schema::ClientMessage>(bytes.data())->request_type() == Request::StopDaemon;
}

class HostileControl : public ::testing::Test {
  protected:
    HostileControl()
        : daemon_({"--driver", "host", "--max-messages", "1000000000", "--max-memory", "64MiB",
                   "--max-staging", "1MiB", "--max-image", "1MiB"}),
          neighbour_(daemon_.socket()) {}
    ~HostileControl() override {
        EXPECT_TRUE(neighbour_.goes_on());
        EXPECT_EQ(neighbour_.end(), "");
        std::cout << outcomes_.size() << " kinds of outcome:";
        for (const auto& [what, times] : outcomes_) std::cout << ' ' << what << '=' << times;
        std::cout << "; the neighbour: " << neighbour_.launches()
                  << " launches, each with the right result\n";
        const auto executors = daemon_.run({"status", "--json"}).json().at("executors");
        EXPECT_EQ(executors.size(), 1u);
        for (const auto& executor : executors) EXPECT_EQ(executor.at("restarts"), 0) << daemon_.log();
    }

    RawClient greeted() const {
        RawClient client(daemon_.socket());
        client.hello();
        return client;
    }

    // Sends, and takes in what comes until the answer, or the end of the connection. False: it is over.
    bool provoke(RawClient& client, const Bytes& bytes, const std::vector<int>& fds = {}) {
        const std::optional<Received> answer = client.send_and_receive(bytes, fds);
        if (!answer) {
            ++outcomes_["hung_up"];
            return false;
        }
        const auto status = static_cast<Status>((*answer)->status());
        ++outcomes_[std::string(status_name(status))];
        EXPECT_NE(status_name(status), "unknown");
        EXPECT_NE(status, Status::internal_error) << answer->error();
        EXPECT_TRUE(status == Status::ok || answer->error() != "") << status_name(status);
        last_status_ = status;
        last_error_ = answer->error();
        return true;
    }
    // The answer to a request of one that is greeted; it goes on afterwards.
    void expect_refused(const Bytes& bytes, Status expected, const std::vector<int>& fds = {}) {
        RawClient client = greeted();
        ASSERT_TRUE(provoke(client, bytes, fds)) << "hung up on";
        EXPECT_EQ(status_name(last_status_), status_name(expected)) << last_error_;
        EXPECT_GT(client.allocate(64).second, 0u);
    }
    // Answered with this and hung up on, or just hung up on.
    void expect_end(RawClient& client, const Bytes& bytes, const std::vector<int>& fds = {}) {
        if (provoke(client, bytes, fds)) {
            EXPECT_NE(last_status_, Status::ok);
        }
        EXPECT_TRUE(client.hung_up());
    }

    DaemonProcess daemon_;
    Neighbour neighbour_;
    std::map<std::string, int> outcomes_;
    Status last_status_ = Status::ok;
    std::string last_error_;
};

TEST_F(HostileControl, MessagesThatAreCutOff) {
    for (const Bytes& right : right_messages())
        for (std::size_t length = 1; length < right.size(); ++length) {
            const Bytes cut(right.begin(), right.begin() + static_cast<std::ptrdiff_t>(length));
            RawClient client = greeted();
            if (!provoke(client, cut)) continue;
            // What the verifier takes for whole (a cut in the padding) is answered, and the session goes on.
            EXPECT_TRUE(client.over() || client.allocate(64).second != 0);
        }
    EXPECT_GT(outcomes_["malformed_message"], 100);
}

TEST_F(HostileControl, RandomBytes) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 3000; ++i) {
        Bytes noise(1 + random() % (i % 10 == 0 ? 65536 : 200));
        for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
        if (stops_the_daemon(noise)) continue;
        RawClient client = i % 2 == 0 ? greeted() : RawClient(daemon_.socket());
        expect_end(client, noise);
    }
}

TEST_F(HostileControl, RightMessagesWithAFewBytesChanged) {
    std::mt19937_64 random(2);
    const std::vector<Bytes> right = right_messages();
    std::optional<RawClient> client;
    for (int i = 0; i < 20'000; ++i) {
        Bytes changed = right[random() % right.size()];
        for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes)
            changed[random() % changed.size()] = static_cast<std::byte>(random());
        if (stops_the_daemon(changed)) continue;
        if (!client) client.emplace(greeted());
        if (!provoke(*client, changed) || last_status_ == Status::malformed_message) client.reset();
    }
    EXPECT_GE(outcomes_.size(), 6u);
}

// The table of one kind under the name of each other, and numbers that name none.
TEST_F(HostileControl, UnionsOfTheWrongKind) {
    for (int kind = 0; kind < 256; ++kind) {
        if (static_cast<Request>(kind) == Request::StopDaemon) continue;
        const auto as = [&](auto build) {
            RawClient client = greeted();
            provoke(client, message_of(static_cast<Request>(kind), build));
        };
        as([](FlatBufferBuilder& builder) { return schema::CreateAllocBuffer(builder, ~std::uint64_t{0}); });
        as([](FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder); });
        as([](FlatBufferBuilder& builder) {
            return schema::CreateLoadModule(builder, builder.CreateString("module"), 4096);
        });
    }
    EXPECT_EQ(outcomes_["unsupported"], 3 * (256 - static_cast<int>(Request::MAX)))
        << "numbers that name none";
}

TEST_F(HostileControl, MessagesThatAreTooLong) {
    for (const std::size_t bytes :
         {std::size_t{kMaxControlBytes} + 1, std::size_t{100'000}, std::size_t{200'000}}) {
        RawClient client = greeted();
        expect_end(client, Bytes(bytes));
        RawClient stranger(daemon_.socket());
        expect_end(stranger, Bytes(bytes, std::byte{0xff}));
    }
}

TEST_F(HostileControl, GreetingsThatAreNone) {
    const auto end = [&](const Bytes& bytes) {
        RawClient client(daemon_.socket());
        expect_end(client, bytes);
    };
    end(hello_message(1));
    end(hello_message(kHelloMagic, kProtocolVersion + 1));
    end(hello_message(kHelloMagic, ~0u));
    end(hello_message(kHelloMagic, kProtocolVersion, 1));
    end(hello_message(kHelloMagic, kProtocolVersion, -1));
    for (std::size_t i = 1; i < right_messages().size(); ++i) end(right_messages()[i]);
    end(message_of(
        Request::GetStatus, [](FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder); }, 0));
    expect_refused(hello_message(), Status::malformed_message);
}

TEST_F(HostileControl, DescriptorsThatAreMissingForeignOrUnsealed) {
    const auto load = [](std::uint64_t bytes) {
        return message_of(Request::LoadModule, [&](FlatBufferBuilder& builder) {
            return schema::CreateLoadModule(builder, builder.CreateString("module"), bytes);
        });
    };
    expect_refused(load(4096), Status::malformed_message);

    std::vector<std::pair<std::string, UniqueFd>> foreign;
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    foreign.emplace_back("a pipe's end", UniqueFd(ends[0]));
    foreign.emplace_back("its other end", UniqueFd(ends[1]));
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    foreign.emplace_back("a socket", UniqueFd(ends[0]));
    foreign.emplace_back("its peer", UniqueFd(ends[1]));
    foreign.emplace_back("a device", UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC)));
    foreign.emplace_back("a file", UniqueFd(::open(TEST_KERNELS, O_RDONLY | O_CLOEXEC)));
    foreign.emplace_back("a folder", UniqueFd(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    foreign.emplace_back("a path", UniqueFd(::open("/tmp", O_PATH | O_CLOEXEC)));
    foreign.emplace_back("an eventfd", UniqueFd(::eventfd(0, EFD_CLOEXEC)));
    foreign.emplace_back("an epoll", UniqueFd(::epoll_create1(EPOLL_CLOEXEC)));
    foreign.emplace_back("an unsealed memfd", make_memfd("image", 4096));
    foreign.emplace_back("a ring's memfd", make_memfd("image", 4096));
    seal(foreign.back().second, Sealing::shared, "image");
    foreign.emplace_back("a page's memfd", make_memfd("image", 4096));
    seal(foreign.back().second, Sealing::one_writer, "image");
    foreign.emplace_back("a shorter memfd", make_image("image", Bytes(4095)));
    for (const auto& [what, fd] : foreign) {
        SCOPED_TRACE(what);
        ASSERT_TRUE(fd);
        expect_refused(load(4096), Status::bad_seals, {fd.get()});
    }

    const UniqueFd zeros = make_image("image", Bytes(4096));
    expect_refused(load(4096), Status::bad_image, {zeros.get()});
    expect_refused(load(0), Status::bad_image, {zeros.get()});
    expect_refused(load(std::uint64_t{1} << 40), Status::limit_reached, {zeros.get()});
    expect_refused(load(4096), Status::malformed_message, {zeros.get(), zeros.get()});
    for (const Bytes& right : right_messages())
        expect_refused(right, Status::malformed_message, {zeros.get(), zeros.get(), zeros.get()});

    // More than the protocol ever sends, and as many as the system lets through.
    for (const std::size_t count : {kMaxMessageFds, kMaxMessageFds + 1, std::size_t{253}}) {
        RawClient client = greeted();
        if (provoke(client, load(4096), std::vector<int>(count, zeros.get()))) {
            EXPECT_EQ(last_status_, Status::malformed_message);
        }
    }
}

// What describes a graph: descriptors that are none, lengths that cannot be, and records of noise.
TEST_F(HostileControl, DescriptionsOfGraphs) {
    RawClient client = greeted();
    const RawStream stream = client.open_stream(64);
    const auto make = [&](const UniqueFd& fd, std::uint32_t slots) {
        EXPECT_TRUE(provoke(client,
                            message_of(Request::MakeGraph,
                                       [&](FlatBufferBuilder& builder) {
                                           return schema::CreateMakeGraph(builder, stream.id, slots);
                                       }),
                            {fd.get()}));
        return last_status_;
    };
    const UniqueFd zeros = make_image("graph", Bytes(4096));
    EXPECT_EQ(make(zeros, 0), Status::invalid_argument);
    EXPECT_EQ(make(zeros, kMaxGraphSlots + 1), Status::limit_reached);
    EXPECT_EQ(make(zeros, ~0u), Status::limit_reached);
    EXPECT_EQ(make(zeros, 65), Status::bad_seals);
    EXPECT_EQ(make(zeros, 64), Status::bad_stamp) << last_error_;
    EXPECT_EQ(make(make_memfd("graph", 4096), 1), Status::bad_seals);
    EXPECT_EQ(make(UniqueFd(::eventfd(0, EFD_CLOEXEC)), 1), Status::bad_seals);
    std::mt19937_64 random(3);
    for (int i = 0; i < 2000; ++i) {
        Bytes noise(kSlotBytes * (1 + random() % 8));
        for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
        for (std::uint64_t at = 0; at * kSlotBytes < noise.size(); ++at) {
            const std::uint64_t stamp = (at + 1) | (at != 0 && random() % 2 == 0 ? kContinuation : 0);
            std::memcpy(noise.data() + at * kSlotBytes, &stamp, sizeof stamp);
            noise[at * kSlotBytes + 8] = static_cast<std::byte>(random() % 13);
            noise[at * kSlotBytes + 9] = std::byte{0};
            noise[at * kSlotBytes + 10] = static_cast<std::byte>(1 + random() % 3);
            noise[at * kSlotBytes + 11] = std::byte{0};
        }
        EXPECT_NE(make(make_image("graph", noise), static_cast<std::uint32_t>(noise.size() / kSlotBytes)),
                  Status::ok)
            << "noise names no kernel and no memory of this session";
    }
    EXPECT_GT(client.allocate(64).second, 0u);
    EXPECT_GE(outcomes_.size(), 6u);
}

TEST_F(HostileControl, IdsThatAreNobodysOrAnothers) {
    for (const std::uint64_t id : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{0xffffffff},
                                   std::uint64_t{1} << 32, ~std::uint64_t{0}, neighbour_.stream(),
                                   neighbour_.staging(), neighbour_.stream() + (std::uint64_t{1} << 32)}) {
        SCOPED_TRACE(id);
        const auto refused = [&](Request kind, auto build) {
            expect_refused(message_of(kind, build), Status::not_found);
        };
        refused(Request::CloseStream,
                [&](FlatBufferBuilder& builder) { return schema::CreateCloseStream(builder, id); });
        refused(Request::ResumeStream,
                [&](FlatBufferBuilder& builder) { return schema::CreateResumeStream(builder, id, true); });
        refused(Request::UnloadModule,
                [&](FlatBufferBuilder& builder) { return schema::CreateUnloadModule(builder, id); });
        refused(Request::FreeBuffer,
                [&](FlatBufferBuilder& builder) { return schema::CreateFreeBuffer(builder, id); });
        refused(Request::DropStaging,
                [&](FlatBufferBuilder& builder) { return schema::CreateDropStaging(builder, id); });
        refused(Request::DropGraph,
                [&](FlatBufferBuilder& builder) { return schema::CreateDropGraph(builder, id); });
        const UniqueFd description = make_image("graph", Bytes(4096));
        expect_refused(
            message_of(Request::MakeGraph,
                       [&](FlatBufferBuilder& builder) { return schema::CreateMakeGraph(builder, id, 1); }),
            Status::not_found, {description.get()});
    }
}

TEST_F(HostileControl, SizesAndCountsBeyondTheLimits) {
    const auto alloc = [](std::uint64_t bytes) {
        return message_of(Request::AllocBuffer, [&](FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, bytes);
        });
    };
    const auto stage = [](std::uint64_t bytes) {
        return message_of(Request::AddStaging, [&](FlatBufferBuilder& builder) {
            return schema::CreateAddStaging(builder, bytes);
        });
    };
    const auto open = [](std::uint32_t slots, unsigned on_restart = 0) {
        return message_of(Request::OpenStream, [&](FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(builder, slots, static_cast<schema::OnRestart>(on_restart));
        });
    };
    expect_refused(alloc(0), Status::invalid_argument);
    expect_refused(alloc(65u << 20), Status::limit_reached);
    for (const std::uint64_t bytes :
         {std::uint64_t{1} << 40, std::uint64_t{1} << 63, ~std::uint64_t{0} - 255, ~std::uint64_t{0}}) {
        SCOPED_TRACE(bytes);
        RawClient client = greeted();
        ASSERT_TRUE(provoke(client, alloc(bytes)));
        EXPECT_THAT(last_status_, ::testing::AnyOf(Status::limit_reached, Status::out_of_memory))
            << last_error_;
        ASSERT_TRUE(provoke(client, stage(bytes)));
        EXPECT_EQ(last_status_, Status::limit_reached) << last_error_;
    }
    expect_refused(stage(0), Status::invalid_argument);
    for (const std::uint32_t slots : {1u, 63u, 65u, 1u << 17, 1u << 31, ~0u})
        expect_refused(open(slots), Status::invalid_argument);
    expect_refused(open(64, 2), Status::invalid_argument);
    expect_refused(open(64, 255), Status::invalid_argument);

    RawClient greedy = greeted();
    int opened = 0;
    while (provoke(greedy, open(64)) && last_status_ == Status::ok) ASSERT_LT(++opened, 1000);
    EXPECT_EQ(last_status_, Status::limit_reached) << last_error_;
    EXPECT_EQ(opened, 64);
    int staged = 0;
    while (provoke(greedy, stage(64 << 10)) && last_status_ == Status::ok) ASSERT_LT(++staged, 1000);
    EXPECT_EQ(last_status_, Status::limit_reached) << last_error_;

    // Names as long as a message may be, and lists.
    const std::string name(60'000, '\x1b');
    RawClient client = greeted();
    ASSERT_TRUE(provoke(client, message_of(Request::OpenStream, [&](FlatBufferBuilder& builder) {
                            return schema::CreateOpenStream(builder, 64, schema::OnRestart::Stop, 0,
                                                            builder.CreateString(name));
                        })));
    EXPECT_EQ(last_status_, Status::ok) << last_error_;
    EXPECT_EQ(daemon_.run({"stats", "--over", "0"}).text.find('\x1b'), std::string::npos);
    const auto buffer = client.allocate(64).first;
    ASSERT_TRUE(provoke(client, message_of(Request::FreeBuffer, [&](FlatBufferBuilder& builder) {
                            std::vector<flatbuffers::Offset<schema::StreamPosition>> after;
                            for (std::uint64_t i = 0; i < 2000; ++i)
                                after.push_back(schema::CreateStreamPosition(builder, i, ~i));
                            return schema::CreateFreeBuffer(builder, buffer, builder.CreateVector(after));
                        })));
    EXPECT_EQ(last_status_, Status::ok) << "what streams that are gone have used is free: " << last_error_;
    std::uint64_t bytes = 0;
    std::ifstream file(TEST_KERNELS, std::ios::binary);
    const std::vector<char> object{std::istreambuf_iterator<char>(file), {}};
    bytes = object.size();
    const UniqueFd image = make_image("image", std::as_bytes(std::span(object)));
    ASSERT_TRUE(provoke(client,
                        message_of(Request::LoadModule,
                                   [&](FlatBufferBuilder& builder) {
                                       std::vector<flatbuffers::Offset<schema::Signature>> all;
                                       const auto none = builder.CreateVector(
                                           std::vector<flatbuffers::Offset<schema::Param>>());
                                       const auto kernel = builder.CreateString("step");
                                       for (int i = 0; i < 3000; ++i)
                                           all.push_back(schema::CreateSignature(builder, kernel, none));
                                       return schema::CreateLoadModule(builder, builder.CreateString("many"),
                                                                       bytes, builder.CreateVector(all));
                                   }),
                        {image.get()}));
    EXPECT_NE(last_status_, Status::ok) << "a kernel is declared again and again, and otherwise than it is";
}

}  // namespace
}  // namespace ringlaunch::test
