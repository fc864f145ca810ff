// What a session owns: streams, modules, buffers, staging; its limits; its end; and what operators see of it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <thread>

#include "daemon/driver/memory.hpp"
#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {
namespace {

bool says(const Answer& answer, const std::string& text) {
    return answer.text().find(text) != std::string::npos;
}

TEST(Streams, HandOutARingToWriteAndAPageToRead) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    const auto stream = client.open_stream();
    const auto& header = *stream->ring.as<RingHeader>();
    EXPECT_EQ(header.magic, kRingMagic);
    EXPECT_EQ(header.version, kProtocolVersion);
    EXPECT_EQ(header.slot_count, 256u);
    EXPECT_EQ(header.session, client.session());
    EXPECT_EQ(header.stream, stream->id);
    EXPECT_EQ(stream->status().magic, kStatusMagic);
    EXPECT_EQ(stream->status().stream, stream->id);
    EXPECT_EQ(stream->state(), schema::StreamState::Running);

    check_seals(stream->ring_fd, Sealing::shared, ring_segment_bytes(256), "the ring");
    check_seals(stream->page_fd, Sealing::one_writer, kStatusPageBytes, "the page");
    EXPECT_EQ(::mmap(nullptr, kStatusPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, stream->page_fd.get(), 0),
              MAP_FAILED);
    EXPECT_EQ(::write(stream->page_fd.get(), "x", 1), -1);
    const std::string again = "/proc/self/fd/" + std::to_string(stream->page_fd.get());
    const UniqueFd reopened(::open(again.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(::mmap(nullptr, kStatusPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.get(), 0),
              MAP_FAILED);
    EXPECT_NE(::ftruncate(stream->ring_fd.get(), 0), 0);
}

TEST(Streams, RunRecordsThroughARealExecutor) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    client.load_file(TEST_KERNELS);
    const auto memory = client.alloc(4096);
    const auto stream = client.open_stream();
    std::uint64_t end = 0;
    for (int i = 0; i < 1000; ++i)
        end = stream->launch(client.kernel("add"), pack(memory.address, memory.address, 1u));
    EXPECT_TRUE(stream->reaches(end));
    EXPECT_EQ(stream->state(), schema::StreamState::Running) << stream->status().error_text;
    // Counted behind the hand-over to the driver, so maybe after it completed; below too.
    EXPECT_TRUE(eventually([&] { return stream->status().counters.launches.load() == 1000; }));
    client.close_stream(stream->id);
}

TEST(Streams, AreOfTheirSessionOnly) {
    const Daemon daemon;
    SessionClient one(daemon.socket()), other(daemon.socket());
    const auto stream = one.open_stream();
    const auto close = [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateCloseStream(builder, stream->id).Union();
    };
    const Answer foreign = other.ask(schema::Request::CloseStream, close);
    EXPECT_EQ(foreign.status(), Status::not_found);
    EXPECT_TRUE(says(foreign, "another's")) << foreign.text();
    EXPECT_EQ(other.resume(stream->id, false).status(), Status::not_found);
    one.close_stream(stream->id);
    EXPECT_EQ(one.ask(schema::Request::CloseStream, close).status(), Status::not_found);
    const auto next = one.open_stream();
    EXPECT_NE(next->id, stream->id);
    EXPECT_EQ(static_cast<std::uint32_t>(next->id),
              static_cast<std::uint32_t>(stream->id));  // the next generation
}

TEST(Streams, RefuseRingsOfOddSizesAndAResumeWithoutAStop) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    for (const std::uint32_t slots : {1u, 63u, 100u, 1u << 17})
        EXPECT_EQ(client.try_open_stream(slots).status(), Status::invalid_argument) << slots;
    const auto stream = client.open_stream();
    EXPECT_EQ(client.resume(stream->id, false).status(), Status::invalid_argument);
}

TEST(Streams, ABadRecordStopsOneStreamAndResumeSkipsIt) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    client.load_file(TEST_KERNELS);
    const auto memory = client.alloc(64);
    const auto good = client.open_stream(), bad = client.open_stream();
    bad->launch(client.kernel("add"), pack(memory.address, memory.address, 1u));
    bad->launch(12345, {});
    const std::uint64_t end = bad->launch(client.kernel("add"), pack(memory.address, memory.address, 1u));
    EXPECT_TRUE(eventually([&] { return bad->state() == schema::StreamState::Stopped; }));
    EXPECT_EQ(static_cast<Status>(bad->status().error_status), Status::bad_kernel);
    EXPECT_TRUE(good->reaches(good->launch(client.kernel("add"), pack(memory.address, memory.address, 1u))));
    const Answer resumed = client.resume(bad->id, false);
    EXPECT_EQ(resumed.status(), Status::ok) << resumed.text();
    EXPECT_TRUE(bad->reaches(end));
}

TEST(Limits, OfStreamsModulesMemoryAndStagingAreSaid) {
    const Daemon daemon({"max_streams=2", "max_modules=1", "max_memory_bytes=8388608",
                         "max_staging_bytes=65536", "max_image_bytes=1000000"});
    SessionClient client(daemon.socket());
    client.open_stream();
    const auto second = client.open_stream();
    const Answer third = client.try_open_stream();
    EXPECT_EQ(third.status(), Status::limit_reached);
    EXPECT_TRUE(says(third, "--max-streams")) << third.text();
    client.close_stream(second->id);
    EXPECT_EQ(client.try_open_stream().status(), Status::ok);

    client.load_file(TEST_KERNELS);
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    EXPECT_EQ(client.try_load(image, bytes).status(), Status::limit_reached);

    const auto most = client.alloc(6u << 20);
    const Answer more = client.try_alloc(4u << 20);
    EXPECT_EQ(more.status(), Status::limit_reached);
    EXPECT_TRUE(says(more, "8388608")) << more.text();
    EXPECT_EQ(client.free(most.id).status(), Status::ok);
    EXPECT_EQ(client.try_alloc(8u << 20).status(), Status::ok);
    EXPECT_EQ(client.try_alloc(std::uint64_t{1} << 60).status(), Status::out_of_memory);
    EXPECT_EQ(client.try_alloc(0).status(), Status::invalid_argument);

    client.add_staging(65536);
    EXPECT_EQ(client
                  .ask(schema::Request::AddStaging,
                       [](flatbuffers::FlatBufferBuilder& builder) {
                           return schema::CreateAddStaging(builder, 1).Union();
                       })
                  .status(),
              Status::limit_reached);
}

TEST(Limits, OfSessionsAreSaidAndComeBack) {
    const Daemon daemon({"max_sessions=2"});
    SessionClient first(daemon.socket());
    auto second = std::make_unique<SessionClient>(daemon.socket());
    RawClient third(daemon.socket());
    EXPECT_EQ(third.hello().status(), Status::limit_reached);
    second.reset();
    EXPECT_TRUE(eventually([&] { return RawClient(daemon.socket()).hello().status() == Status::ok; }));
}

// What a session may ask for until it is refused; the refusal.
Answer until_refused(const std::function<Answer()>& ask) {
    for (int i = 0; i < 2000; ++i) {
        Answer answer = ask();
        if (answer.status() != Status::ok) return answer;
    }
    throw std::runtime_error("nothing was refused");
}

TEST(Descriptors, OneSessionGetsAShareAndLeavesTheOthersTheirs) {
    const Daemon daemon({"nofile=256", "max_streams=200", "messages_per_second=100000"});
    SessionClient greedy(daemon.socket());
    const Answer streams = until_refused([&] { return greedy.try_open_stream(64); });
    EXPECT_EQ(streams.status(), Status::limit_reached);
    EXPECT_NE(streams.text().find("descriptors allow"), std::string::npos) << streams.text();
    const Answer staging = until_refused([&] {
        return greedy.ask(schema::Request::AddStaging, [](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAddStaging(builder, 4096).Union();
        });
    });
    EXPECT_EQ(staging.status(), Status::limit_reached);
    EXPECT_NE(staging.text().find("one session may hold"), std::string::npos) << staging.text();
    const Answer memory = until_refused([&] { return greedy.try_alloc(2u << 20); });
    EXPECT_EQ(memory.status(), Status::limit_reached);

    SessionClient other(daemon.socket());
    const auto stream = other.open_stream();
    EXPECT_EQ(other.try_alloc(100).status(), Status::ok);
    // And what it holds comes back for others.
    greedy = SessionClient(daemon.socket());
    EXPECT_TRUE(eventually([&] { return greedy.try_open_stream(64).status() == Status::ok; }));
}

TEST(Descriptors, WhereAllAreTakenAConnectionIsStillAnsweredAndAnExecutorRestarted) {
    const Daemon daemon({"nofile=256", "messages_per_second=100000"});
    std::vector<std::unique_ptr<SessionClient>> sessions;
    std::vector<std::unique_ptr<TestStream>> streams;
    Answer refused;
    for (bool full = false; !full;) {
        ASSERT_LT(sessions.size(), 100u);
        RawClient probe(daemon.socket());
        refused = probe.hello();
        if (refused.status() != Status::ok) break;
        sessions.push_back(std::make_unique<SessionClient>(daemon.socket()));
        streams.push_back(sessions.back()->open_stream(schema::OnRestart::Stop, 64));
        for (int i = 0; i < 8 && !full; ++i) {
            refused = sessions.back()->try_open_stream(64);
            full = refused.status() != Status::ok;
        }
    }
    EXPECT_EQ(refused.status(), Status::limit_reached) << refused.text();
    EXPECT_NE(refused.text().find("descriptors that are for them"), std::string::npos) << refused.text();

    RawClient operators(daemon.socket());
    EXPECT_EQ(operators.hello(kProtocolVersion, true).status(), Status::ok);
    const pid_t before = daemon.executor();
    ASSERT_EQ(::kill(before, SIGKILL), 0);
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        const auto told = sessions[i]->next_epoch(*streams[i]);
        ASSERT_TRUE(told);
        EXPECT_EQ((*told)->answer_as_StreamEpoch()->state(), schema::StreamState::Running);
    }
    EXPECT_NE(daemon.executor(), before);

    // Whoever comes when connections have used up theirs is told, and the sessions are left alone.
    std::vector<std::unique_ptr<RawClient>> crowd;
    std::optional<Answer> told;
    for (int i = 0; i < 30 && !told; ++i) {
        crowd.push_back(std::make_unique<RawClient>(daemon.socket()));
        crowd.back()->send(schema::Request::Hello, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateHello(builder, kHelloMagic, kProtocolVersion, 0, 0, false, true).Union();
        });
        auto answer = crowd.back()->receive();
        ASSERT_TRUE(answer);
        if (answer->status() != Status::ok) told = std::move(answer);
    }
    ASSERT_TRUE(told);
    EXPECT_EQ(told->status(), Status::limit_reached);
    EXPECT_NE(told->text().find("kept for restarts"), std::string::npos) << told->text();
    ASSERT_EQ(::kill(daemon.executor(), SIGKILL), 0);
    for (std::size_t i = 0; i < sessions.size(); ++i) ASSERT_TRUE(sessions[i]->next_epoch(*streams[i]));
}

TEST(Descriptors, ImagesThatNobodyUsesDoNotHoldThemAll) {
    const Daemon daemon({"nofile=256", "messages_per_second=100000"});
    SessionClient client(daemon.socket());
    std::uint64_t bytes = 0;
    const UniqueFd file = image_of_file(TEST_KERNELS, bytes);
    const Mapping whole(file, bytes, Mapping::Access::read_only, "an image");
    std::string content(whole.as<char>(), bytes);
    for (int i = 0; i < 300; ++i) {
        const std::string variant = content + std::to_string(i);
        const Answer loaded =
            client.try_load(make_image("image", std::as_bytes(std::span(variant))), variant.size());
        ASSERT_EQ(loaded.status(), Status::ok) << i << ": " << loaded.text();
        const Answer gone =
            client.ask(schema::Request::UnloadModule, [&](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateUnloadModule(builder, loaded->answer_as_ModuleLoaded()->module_id())
                    .Union();
            });
        ASSERT_EQ(gone.status(), Status::ok) << gone.text();
    }
}

TEST(Descriptors, ThoseOfAMessageThatIsRefusedAreNotKept) {
    const Daemon daemon({"nofile=256"});
    std::vector<std::unique_ptr<SessionClient>> sessions;
    for (int i = 0; i < 8; ++i) {
        sessions.push_back(std::make_unique<SessionClient>(daemon.socket()));
        const std::vector<int> many(30, sessions.back()->fd());
        const Answer refused = sessions.back()->answer(sessions.back()->send(
            schema::Request::GetStatus,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); },
            many));
        EXPECT_EQ(refused.status(), Status::malformed_message) << refused.text();
    }
    EXPECT_EQ(sessions.front()->try_open_stream().status(), Status::ok);
}

TEST(Limits, OfMessagesASecondAreRefusedAndHarmNobodyElse) {
    const Daemon daemon({"messages_per_second=50"});
    SessionClient flood(daemon.socket()), other(daemon.socket());
    int refused = 0;
    for (int i = 0; i < 120; ++i) refused += flood.try_alloc(1).status() == Status::rate_limited ? 1 : 0;
    EXPECT_GT(refused, 0);
    EXPECT_EQ(other.try_alloc(1).status(), Status::ok);
}

TEST(Limits, APeerThatReadsNothingIsDroppedAndNobodyElseNotices) {
    const Daemon daemon({"max_pending_bytes=65536", "messages_per_second=1000000"});
    SessionClient other(daemon.socket()), deaf(daemon.socket());
    const auto status = [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateGetStatus(builder).Union();
    };
    flatbuffers::FlatBufferBuilder builder;
    const auto request = status(builder);
    builder.Finish(schema::CreateClientMessage(builder, 5, schema::Request::GetStatus, request));
    const std::span bytes(reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize());
    EXPECT_TRUE(eventually([&] {
        const Transfer sent = send_message(deaf.fd(), bytes, {}, false);
        return sent == Transfer::closed;
    }));
    EXPECT_EQ(other.ask(schema::Request::GetStatus, status).status(), Status::ok);
}

TEST(Modules, AreLoadedOnceAndSharedByContent) {
    const Daemon daemon;
    SessionClient one(daemon.socket()), two(daemon.socket());
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    const Answer first = one.try_load(image, bytes);
    ASSERT_EQ(first.status(), Status::ok) << first.text();
    EXPECT_FALSE(first->answer_as_ModuleLoaded()->cached());
    const Answer second = two.try_load(image_of_file(TEST_KERNELS, bytes), bytes);
    EXPECT_TRUE(second->answer_as_ModuleLoaded()->cached());
    EXPECT_EQ(second->answer_as_ModuleLoaded()->kernels()->size(),
              first->answer_as_ModuleLoaded()->kernels()->size());

    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer kernels = operators.ask(
        schema::Request::GetKernels,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetKernels(builder).Union(); });
    ASSERT_EQ(kernels->answer_as_Kernels()->total(), 1u);
    EXPECT_EQ(kernels->answer_as_Kernels()->modules()->Get(0)->users(), 2u);
    EXPECT_EQ(kernels->answer_as_Kernels()->modules()->Get(0)->hash()->size(), 64u);

    const std::uint64_t id = first->answer_as_ModuleLoaded()->module_id();
    const auto unload = [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateUnloadModule(builder, id).Union();
    };
    EXPECT_EQ(one.ask(schema::Request::UnloadModule, unload).status(), Status::ok);
    EXPECT_EQ(one.ask(schema::Request::UnloadModule, unload).status(), Status::not_found);
}

TEST(Modules, OfAnotherStackAreOtherModulesAndSayWhatTheyHave) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    const auto cached = [&](std::uint64_t stack_bytes) {
        const Answer loaded = client.try_load(image, bytes, "test", stack_bytes);
        EXPECT_EQ(loaded.status(), Status::ok) << loaded.text();
        for (const schema::KernelInfo* kernel : *loaded->answer_as_ModuleLoaded()->kernels())
            EXPECT_EQ(kernel->stack_bytes(), stack_bytes);
        return loaded->answer_as_ModuleLoaded()->cached();
    };
    EXPECT_FALSE(cached(0));
    EXPECT_FALSE(cached(4096));
    EXPECT_FALSE(cached(8192));
    EXPECT_TRUE(cached(4096));
    EXPECT_TRUE(cached(0));

    const Answer loaded = client.try_load(image, bytes, "test", 4096);
    const std::uint64_t kernel = loaded->answer_as_ModuleLoaded()->kernels()->Get(0)->id();
    const Answer configured =
        client.ask(schema::Request::ConfigureKernel, [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto cluster = schema::CreateKernelAttributes(builder, 2);
            return schema::CreateConfigureKernel(builder, kernel, cluster).Union();
        });
    ASSERT_EQ(configured.status(), Status::ok) << configured.text();
    EXPECT_EQ(configured->answer_as_KernelConfigured()->kernel()->stack_bytes(), 4096u);

    const Answer kernels = client.ask(
        schema::Request::GetKernels,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetKernels(builder).Union(); });
    std::multiset<std::uint64_t> stacks;
    for (const schema::LoadedModule* module : *kernels->answer_as_Kernels()->modules())
        stacks.insert(module->kernels()->Get(0)->stack_bytes());
    EXPECT_EQ(stacks, (std::multiset<std::uint64_t>{0, 4096, 8192}));
}

TEST(Limits, OfStacksAreSaid) {
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(TEST_KERNELS, bytes);
    const Daemon usual;
    SessionClient client(usual.socket());
    EXPECT_EQ(client.try_load(image, bytes, "deep", 32 << 10).status(), Status::ok);
    const Answer refused = client.try_load(image, bytes, "deep", (32 << 10) + 1);
    EXPECT_EQ(refused.status(), Status::limit_reached);
    EXPECT_TRUE(says(refused, "module deep with a stack of 32769 bytes")) << refused.text();
    EXPECT_TRUE(says(refused, "at most 32768 bytes (--max-stack)")) << refused.text();
    EXPECT_EQ(client.try_load(image, bytes, "deep", ~std::uint64_t{0}).status(), Status::limit_reached);

    const Daemon small({"max_stack_bytes=2048"});
    SessionClient other(small.socket());
    EXPECT_EQ(other.try_load(image, bytes, "deep", 2048).status(), Status::ok);
    EXPECT_EQ(other.try_load(image, bytes, "deep", 2049).status(), Status::limit_reached);
    // What every thread has anyway may be asked for.
    const Daemon large({"max_stack_bytes=2048", "stack_bytes=8192"});
    SessionClient third(large.socket());
    EXPECT_EQ(third.try_load(image, bytes, "deep", 8192).status(), Status::ok);
    EXPECT_EQ(third.try_load(image, bytes, "deep", 8193).status(), Status::limit_reached);
}

TEST(Modules, WhoseImagesAreNotSealedOrNoImagesAreRefused) {
    const Daemon daemon({"driver=host"});
    SessionClient client(daemon.socket());
    const UniqueFd open = make_memfd("image", 4096);
    EXPECT_EQ(client.try_load(open, 4096).status(), Status::bad_seals);
    seal(open, Sealing::shared, "image");
    const Answer writable = client.try_load(open, 4096);
    EXPECT_EQ(writable.status(), Status::bad_seals);
    EXPECT_TRUE(says(writable, "WRITE")) << writable.text();
    const UniqueFd zeroes = make_image("image", std::vector<std::byte>(4096));
    EXPECT_EQ(client.try_load(zeroes, 8192).status(), Status::bad_seals);  // shorter than it says
    EXPECT_EQ(client.try_load(zeroes, 0).status(), Status::bad_image);
    EXPECT_EQ(client.try_load(zeroes, 4096).status(), Status::bad_image);
    const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(client.try_load(file, 4096).status(), Status::bad_seals);
}

TEST(Memory, IsAlignedApartAndUsedAgain) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    const auto first = client.alloc(100), second = client.alloc(100);
    EXPECT_EQ(first.address % 256, 0u);
    EXPECT_GE(second.address, first.address + 256);
    EXPECT_EQ(client.free(first.id).status(), Status::ok);
    EXPECT_EQ(client.free(first.id).status(), Status::not_found);
    const auto third = client.alloc(200);
    EXPECT_EQ(third.address, first.address);
    EXPECT_NE(third.id, first.id);
    SessionClient other(daemon.socket());
    EXPECT_EQ(other.free(second.id).status(), Status::not_found);
    EXPECT_NE(other.alloc(100).address >> 21, second.address >> 21);  // a chunk of its own
}

TEST(Memory, AFreeWaitsForTheWorkItNames) {
    const Daemon daemon({"driver=host"});
    SessionClient client(daemon.socket());
    client.load_file(TEST_KERNELS);
    auto staging = client.add_staging(4096);
    const auto gate = client.alloc(64), used = client.alloc(64);
    const auto stream = client.open_stream(), side = client.open_stream();
    const std::uint64_t held = stream->launch(client.kernel("hold"), pack(gate.address));
    EXPECT_EQ(client.free(used.id, stream->id, held).status(), Status::ok);
    std::set<std::uint64_t> addresses;
    for (int i = 0; i < 10; ++i) addresses.insert(client.alloc(64).address);
    EXPECT_FALSE(addresses.contains(used.address));
    const unsigned one = 1;
    std::memcpy(staging.bytes.data(), &one, sizeof one);
    EXPECT_TRUE(client.write(*side, staging, gate.address, sizeof one));
    EXPECT_TRUE(stream->reaches(held));
    EXPECT_TRUE(eventually([&] { return client.alloc(64).address == used.address; }));
}

TEST(Memory, ThatTheExecutorIsLettingGoOfIsWaitedFor) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    // The whole range: the next allocation can only be made of what the last one left.
    for (int i = 0; i < 5; ++i) {
        const auto all = client.alloc(driver::kHostRangeBytes);
        EXPECT_EQ(client.free(all.id).status(), Status::ok);
    }
}

TEST(Memory, AllSessionsShareTheAddressesOfStaging) {
    constexpr std::uint64_t kMost = driver::kHostStagingBytes, kHalf = kMost / 2;
    const Daemon daemon({"max_staging_bytes=" + std::to_string(kMost)});
    const auto try_add = [](SessionClient& client, std::uint64_t bytes) {
        return client.ask(schema::Request::AddStaging, [bytes](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAddStaging(builder, bytes).Union();
        });
    };
    const auto address = [](const Answer& answer) { return answer->answer_as_StagingAdded()->address(); };
    SessionClient first(daemon.socket());
    {
        SessionClient second(daemon.socket());
        const Answer one = try_add(first, kHalf), other = try_add(second, kHalf);
        ASSERT_EQ(one.status(), Status::ok) << one.text();
        ASSERT_EQ(other.status(), Status::ok) << other.text();
        EXPECT_EQ(address(one), driver::kHostStagingBase);
        EXPECT_EQ(address(other), driver::kHostStagingBase + kHalf);
        const Answer full = try_add(first, 4096);
        EXPECT_EQ(full.status(), Status::out_of_memory);
        EXPECT_TRUE(says(full, "4096 bytes")) << full.text();
        EXPECT_TRUE(says(full, "0 of " + std::to_string(kMost))) << full.text();
    }
    // The second session's come back with its end.
    EXPECT_TRUE(eventually([&] { return try_add(first, 4096).status() == Status::ok; }));
}

TEST(Memory, ThatPassesToAnotherSessionIsZero) {
    const Daemon daemon({"driver=host"});
    constexpr std::size_t kBytes = 2u << 20;
    std::uint64_t address = 0;
    {
        SessionClient first(daemon.socket());
        auto staging = first.add_staging(kBytes);
        const auto memory = first.alloc(kBytes);
        address = memory.address;
        std::memset(staging.bytes.data(), 0xab, kBytes);
        const auto stream = first.open_stream();
        ASSERT_TRUE(first.write(*stream, staging, memory.address, kBytes));
    }
    bool same = false;
    EXPECT_TRUE(eventually([&] {
        SessionClient next(daemon.socket());
        auto staging = next.add_staging(kBytes);
        const auto memory = next.alloc(kBytes);
        same = memory.address == address;
        if (!same) return false;  // the first is still being taken apart
        const auto stream = next.open_stream();
        std::memset(staging.bytes.data(), 0xcd, kBytes);
        EXPECT_TRUE(next.read(*stream, staging, memory.address, kBytes));
        for (std::size_t i = 0; i < kBytes; ++i)
            if (staging.bytes.data()[i] != std::byte{0}) {
                ADD_FAILURE() << "byte " << i << " is another session's";
                break;
            }
        return true;
    }));
}

TEST(Sessions, EndWithTheirProcessAlsoWhereAChildKeepsTheSocket) {
    const Daemon daemon;
    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const auto sessions = [&] {
        const Answer listed =
            operators.ask(schema::Request::GetSessions, [](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateGetSessions(builder).Union();
            });
        return listed->answer_as_Sessions()->total();
    };
    int told[2];
    ASSERT_EQ(::pipe2(told, O_CLOEXEC), 0);
    const pid_t owner = ::fork();
    if (owner == 0) {
        SessionClient client(daemon.socket());
        client.alloc(100);
        client.open_stream();
        const pid_t heir = ::fork();
        if (heir == 0) {
            ::pause();
            ::_exit(0);
        }
        [[maybe_unused]] const ssize_t wrote = ::write(told[1], &heir, sizeof heir);
        ::pause();
        ::_exit(0);
    }
    pid_t heir = 0;
    ASSERT_EQ(::read(told[0], &heir, sizeof heir), static_cast<ssize_t>(sizeof heir));
    EXPECT_EQ(sessions(), 1u);
    ::kill(owner, SIGKILL);
    ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
    EXPECT_TRUE(eventually([&] { return sessions() == 0; }));
    ::kill(heir, SIGKILL);
}

TEST(Sessions, ThatEndWhileAStreamOfTheirsIsBeingOpenedHarmNobodyElse) {
    const Daemon daemon;
    SessionClient neighbour(daemon.socket());
    const auto stream = neighbour.open_stream();
    const pid_t executor = daemon.executor();
    const auto status = [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateGetStatus(builder).Union();
    };
    for (const int priority : {0, 1 << 20}) {  // the executor opens the one and refuses the other
        ASSERT_EQ(::kill(executor, SIGSTOP), 0);
        auto client = std::make_unique<SessionClient>(daemon.socket());
        client->send(schema::Request::OpenStream, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(builder, 256, schema::OnRestart::Stop, priority).Union();
        });
        client.reset();
        ASSERT_EQ(neighbour.ask(schema::Request::GetStatus, status).status(), Status::ok);
        ASSERT_EQ(::kill(executor, SIGCONT), 0);
        EXPECT_TRUE(eventually([&] {
            const Answer now = neighbour.ask(schema::Request::GetStatus, status);
            return now->answer_as_DaemonStatus()->sessions() == 1;
        }));
        EXPECT_TRUE(stream->reaches(stream->event()));
        EXPECT_EQ(daemon.executor(), executor);
    }
}

TEST(Operators, SeeStatusSessionsAndCountersOfStreams) {
    const Daemon daemon;
    SessionClient client(daemon.socket());
    client.load_file(TEST_KERNELS);
    const auto memory = client.alloc(64);
    const auto stream = client.open_stream(schema::OnRestart::Stop, 256, "main");
    ASSERT_TRUE(
        stream->reaches(stream->launch(client.kernel("add"), pack(memory.address, memory.address, 1u))));

    RawClient operators(daemon.socket());
    operators.hello(kProtocolVersion, true);
    const Answer status = operators.ask(
        schema::Request::GetStatus,
        [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); });
    const auto* what = status->answer_as_DaemonStatus();
    EXPECT_EQ(what->sessions(), 1u);
    EXPECT_EQ(what->streams(), 1u);
    EXPECT_EQ(what->executors()->size(), 1u);
    EXPECT_STREQ(what->executors()->Get(0)->state()->c_str(), "ready");
    EXPECT_EQ(what->executors()->Get(0)->pid(), daemon.executor());

    Answer stats = operators.ask(schema::Request::GetStats, [](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateGetStats(builder).Union();
    });
    const auto* listed = stats->answer_as_Stats();
    ASSERT_EQ(listed->total(), 1u);
    const auto* entry = listed->streams()->Get(0);
    EXPECT_STREQ(entry->name()->c_str(), "main");
    EXPECT_EQ(entry->published(), stream->producer.position());
    ASSERT_EQ(entry->status_fd(), 0);
    const Mapping page(stats.message.fds.at(0), kStatusPageBytes, Mapping::Access::read_only, "a page");
    EXPECT_TRUE(eventually([&] { return page.as<StatusPage>()->counters.launches.load() == 1; }));
    EXPECT_EQ(::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, stats.message.fds[0].get(), 0),
              MAP_FAILED);
}

}  // namespace
}  // namespace ringlaunch::test
