// The executor as a process, over a real socket pair, with the supervisor's part played by the test: every
// request, what it answers to wrong ones, restarts of a stream in a new process, and that it goes when its
// supervisor does.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <set>
#include <thread>

#include "executor_control_generated.h"
#include "schema/id_text.hpp"
#include "schema/message.hpp"
#include "tests/executor/harness.hpp"

namespace ringlaunch::executor::test {
namespace {

namespace fb = flatbuffers;
using namespace std::chrono_literals;
using internal::ExecutorAnswer;
using internal::ExecutorRequest;

constexpr int kWaitMs = 20'000;

struct Reply {
    Message message;
    const internal::FromExecutor* operator->() const {
        return fb::GetRoot<internal::FromExecutor>(message.bytes.data());
    }
    bool ok() const { return !message.bytes.empty() && (*this)->status() == 0; }
    std::string error() const {
        return message.bytes.empty()         ? "no reply"
               : (*this)->error() == nullptr ? ""
                                             : (*this)->error()->str();
    }
};

// An executor process and the supervisor's end of its socket.
class Process {
  public:
    Process() {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
            throw std::runtime_error("socketpair");
        socket = UniqueFd(ends[0]);
        UniqueFd theirs(ends[1]);
        const std::string number = std::to_string(ends[1]);
        pid = ::fork();
        if (pid == 0) {
            ::fcntl(ends[1], F_SETFD, 0);
            ::execl(TEST_EXECUTOR, TEST_EXECUTOR, number.c_str(), static_cast<char*>(nullptr));
            ::_exit(127);
        }
    }
    ~Process() {
        if (pid > 0) {
            ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
        }
    }

    template <class Offset>
    std::uint32_t send(fb::FlatBufferBuilder& builder, ExecutorRequest type, Offset request,
                       const std::vector<int>& fds = {}) {
        const std::uint32_t id = ++last_id;
        builder.Finish(internal::CreateToExecutor(builder, id, type, request.Union()));
        EXPECT_EQ(
            send_message(socket.get(),
                         std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())), fds, true),
            Transfer::done);
        return id;
    }
    template <class Offset>
    Reply ask(fb::FlatBufferBuilder& builder, ExecutorRequest type, Offset request,
              const std::vector<int>& fds = {}) {
        const std::uint32_t id = send(builder, type, request, fds);
        Reply reply = next();
        while (!reply.message.bytes.empty() && reply->id() != id) {
            later.push_back(std::move(reply));
            reply = next();
        }
        return reply;
    }
    // The next message; empty where none came in time.
    Reply next() {
        Reply reply;
        if (!readable(socket.get(), kWaitMs)) return reply;
        if (receive_message(socket.get(), reply.message, false) != Transfer::done)
            reply.message.bytes.clear();
        return reply;
    }
    // The exit status, as waitpid gives it.
    int wait() {
        int status = -1;
        for (int i = 0; i < kWaitMs / 5; ++i) {
            if (::waitpid(pid, &status, WNOHANG) == pid) {
                pid = -1;
                return status;
            }
            std::this_thread::sleep_for(5ms);
        }
        return -1;
    }

    Reply configure(schema::DriverKind driver, int fault_fd = -1, std::uint64_t close_timeout_ms = 0) {
        fb::FlatBufferBuilder b;
        const auto request =
            internal::CreateConfigure(b, driver, 0, 1, 20'000, 64, 16, true, close_timeout_ms);
        return ask(b, ExecutorRequest::Configure, request,
                   fault_fd >= 0 ? std::vector{fault_fd} : std::vector<int>{});
    }
    Reply attach(std::uint64_t session, int doorbell) {
        fb::FlatBufferBuilder b;
        return ask(b, ExecutorRequest::AttachSession, internal::CreateAttachSession(b, session), {doorbell});
    }
    Reply open(std::uint64_t session, const ClientStream& client, bool hold = false) {
        fb::FlatBufferBuilder b;
        const auto request =
            internal::CreateOpenStream(b, session, client.id, client.slots, client.position, 0, hold);
        return ask(b, ExecutorRequest::OpenStream, request,
                   {client.ring_fd.get(), client.status_fd.get(), client.wake_fd.get()});
    }
    Reply load(std::uint64_t key, const UniqueFd& image, std::size_t bytes) {
        fb::FlatBufferBuilder b;
        const auto name = b.CreateString("kernels");
        internal::LoadModuleBuilder request(b);
        request.add_module_key(key);
        request.add_name(name);
        request.add_bytes(bytes);
        return ask(b, ExecutorRequest::LoadModule, request.Finish(), {image.get()});
    }
    Reply bind(std::uint64_t session, std::uint64_t key, std::vector<std::uint64_t> ids) {
        fb::FlatBufferBuilder b;
        return ask(b, ExecutorRequest::BindModule, internal::CreateBindModuleDirect(b, session, key, &ids));
    }
    // A request with nothing but numbers, made by `make(builder)`.
    template <class Make>
    Reply simple(ExecutorRequest type, Make make, const std::vector<int>& fds = {}) {
        fb::FlatBufferBuilder b;
        const auto request = make(b);
        return ask(b, type, request, fds);
    }
    Reply close(std::uint64_t stream) {
        return simple(ExecutorRequest::CloseStream,
                      [&](auto& b) { return internal::CreateCloseStream(b, stream); });
    }
    Reply resume(std::uint64_t stream, std::uint64_t position, bool skip) {
        return simple(ExecutorRequest::ResumeStream,
                      [&](auto& b) { return internal::CreateResumeStream(b, stream, position, skip); });
    }
    Reply quit() {
        return simple(ExecutorRequest::Quit, [](auto& b) { return internal::CreateQuit(b); });
    }

    UniqueFd socket;
    pid_t pid = -1;
    std::uint32_t last_id = 0;
    std::vector<Reply> later;
};

std::vector<std::byte> kernels_file() {
    std::ifstream file(TEST_KERNELS, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    return {bytes, bytes + text.size()};
}

// A client that publishes into a ring and rings when it must.
void ring(const ClientStream& client, int doorbell) {
    StdMemory::full_fence();
    const std::uint64_t one = 1;
    if (client.page->need_wakeup.load() == 0) return;
    ASSERT_EQ(::write(doorbell, &one, sizeof one), 8);
}

bool reaches(const std::function<bool()>& done) {
    for (int i = 0; i < kWaitMs; ++i) {
        if (done()) return true;
        std::this_thread::sleep_for(1ms);
    }
    return false;
}

class ProcessTest : public ::testing::Test {
  protected:
    ProcessTest() : doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), image(make_image("kernels", bytes)) {}

    // A session with a chunk at the beginning of the range, the kernel `append` under `kKernel` and `hold`
    // under `kHold`.
    void prepare(Process& process, schema::DriverKind driver, const UniqueFd* chunk_fd = nullptr,
                 std::uint64_t close_timeout_ms = 0) {
        Reply ready = process.configure(driver, -1, close_timeout_ms);
        ASSERT_TRUE(ready.ok()) << ready.error();
        const auto* device = ready->answer_as_Ready();
        ASSERT_NE(device, nullptr);
        base = device->range_base();
        chunk_bytes = device->chunk_bytes();
        staging_base = device->staging_base();
        ASSERT_TRUE(process.attach(kSession, doorbell.get()).ok());
        Reply loaded = process.load(1, image, bytes.size());
        ASSERT_TRUE(loaded.ok()) << loaded.error();
        ASSERT_EQ(loaded->answer_as_ModuleLayout()->kernels()->size(), 2u);
        // In the order in which the object has them, which is the linker's.
        const auto* kernels = loaded->answer_as_ModuleLayout()->kernels();
        const bool append_first = kernels->Get(0)->name()->str() == "append";
        const auto* kernel = kernels->Get(append_first ? 0 : 1);
        EXPECT_EQ(kernel->name()->str(), "append");
        EXPECT_TRUE(kernel->declared());
        EXPECT_EQ(kernel->params()->size(), 3u);
        EXPECT_EQ(kernel->param_bytes(), 20u);
        EXPECT_EQ(kernels->Get(append_first ? 1 : 0)->name()->str(), "hold");
        const std::vector<std::uint64_t> bound =
            append_first ? std::vector{kKernel, kHold} : std::vector{kHold, kKernel};
        ASSERT_TRUE(process.bind(kSession, 1, bound).ok());
        if (chunk_fd == nullptr) {
            Reply made = process.simple(ExecutorRequest::MakeChunk, [&](auto& b) {
                return internal::CreateMakeChunk(b, kSession, base, chunk_bytes);
            });
            ASSERT_TRUE(made.ok()) << made.error();
            ASSERT_EQ(made.message.fds.size(), 1u);
            chunk = std::move(made.message.fds[0]);
        } else {
            const Reply mapped = process.simple(
                ExecutorRequest::MapChunk,
                [&](auto& b) { return internal::CreateMapChunk(b, kSession, base, chunk_bytes); },
                {chunk_fd->get()});
            ASSERT_TRUE(mapped.ok()) << mapped.error();
        }
    }
    std::uint64_t put_append(ClientStream& client, std::uint32_t value) {
        std::vector<std::byte> params(20);
        const std::uint64_t log = base + 4096, count = base;
        std::memcpy(params.data(), &log, 8);
        std::memcpy(params.data() + 8, &count, 8);
        std::memcpy(params.data() + 16, &value, 4);
        const std::uint64_t end =
            client.put_launch(kKernel, params, [](auto& record) { record.mutate_block_x(1); });
        ring(client, doorbell.get());
        return end;
    }
    // What the kernels wrote, read from the chunk that the supervisor keeps.
    std::vector<std::uint32_t> log() const {
        const Mapping memory(chunk, chunk_bytes, Mapping::Access::read_only, "the chunk");
        const auto* words = memory.as<std::uint32_t>();
        return {words + 1024, words + 1024 + words[0]};
    }

    static constexpr std::uint64_t kSession = 3;
    static constexpr std::uint64_t kKernel = make_id(4, 2), kHold = make_id(5);
    const std::vector<std::byte> bytes = kernels_file();
    UniqueFd doorbell, image, chunk;
    std::uint64_t base = 0, chunk_bytes = 0, staging_base = 0;
};

TEST_F(ProcessTest, LaunchesGoThroughAndEveryRequestIsAnswered) {
    for (const auto kind : {schema::DriverKind::Null, schema::DriverKind::Host}) {
        SCOPED_TRACE(schema::EnumNameDriverKind(kind));
        Process process;
        ASSERT_NO_FATAL_FAILURE(prepare(process, kind));
        ClientStream client(kSession, make_id(0));
        ASSERT_TRUE(process.open(kSession, client).ok());
        std::vector<std::uint32_t> values;
        for (std::uint32_t i = 0; i < 300; ++i) {
            if (i % 50 == 49) {
                ASSERT_TRUE(reaches([&] { return client.completed() == client.producer.position(); }));
            }
            put_append(client, i * 3);
            values.push_back(i * 3);
        }
        client.put_event();
        ring(client, doorbell.get());
        ASSERT_TRUE(reaches([&] { return client.completed() == client.producer.position(); }))
            << client.text();
        if (kind == schema::DriverKind::Host) {
            EXPECT_EQ(log(), values);
        }

        const UniqueFd segment = make_memfd("staging", 1 << 16);
        seal(segment, Sealing::shared, "staging");
        const auto map_staging = [&](auto& b) {
            return internal::CreateMapStaging(b, kSession, make_id(0), 1 << 16, staging_base);
        };
        Reply mapped = process.simple(ExecutorRequest::MapStaging, map_staging, {segment.get()});
        ASSERT_TRUE(mapped.ok()) << mapped.error();
        schema::CopyRecord copy{};
        copy.mutate_kind(schema::RecordKind::CopyToHost);
        copy.mutate_device(base);
        copy.mutate_bytes(4);
        copy.mutate_staging(make_id(0));
        client.put(copy);
        ring(client, doorbell.get());
        ASSERT_TRUE(reaches([&] { return client.completed() == client.producer.position(); }))
            << client.text();

        EXPECT_TRUE(
            process.simple(ExecutorRequest::Ping, [](auto& b) { return internal::CreatePing(b); }).ok());
        Reply early = process.simple(ExecutorRequest::UnloadModule,
                                     [](auto& b) { return internal::CreateUnloadModule(b, 1); });
        EXPECT_NE(early.error().find("still have"), std::string::npos) << early.error();
        std::vector<std::uint64_t> ids{kKernel, kHold};
        EXPECT_TRUE(
            process
                .simple(ExecutorRequest::UnbindKernels,
                        [&](auto& b) { return internal::CreateUnbindKernelsDirect(b, kSession, &ids); })
                .ok());
        EXPECT_TRUE(process
                        .simple(ExecutorRequest::UnloadModule,
                                [](auto& b) { return internal::CreateUnloadModule(b, 1); })
                        .ok());
        EXPECT_TRUE(
            process
                .simple(ExecutorRequest::UnmapStaging,
                        [&](auto& b) { return internal::CreateUnmapStaging(b, kSession, make_id(0)); })
                .ok());
        EXPECT_TRUE(
            process
                .simple(ExecutorRequest::UnmapChunk,
                        [&](auto& b) { return internal::CreateUnmapChunk(b, kSession, base, chunk_bytes); })
                .ok());
        // Both are gone for the ring, too.
        put_append(client, 1);
        ASSERT_TRUE(reaches([&] { return client.state() == schema::StreamState::Stopped; }));
        EXPECT_EQ(client.error(), Status::bad_kernel);
        EXPECT_TRUE(process.close(client.id).ok());
        EXPECT_EQ(client.state(), schema::StreamState::Closed);
        EXPECT_TRUE(process
                        .simple(ExecutorRequest::DetachSession,
                                [](auto& b) { return internal::CreateDetachSession(b, kSession); })
                        .ok());
        EXPECT_TRUE(process.quit().ok());
        const int status = process.wait();
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
}

TEST_F(ProcessTest, WorkThatGoesOnMakesAClosingStreamStuckAndNothingElse) {
    Process process;
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Host, nullptr, 50));
    const UniqueFd segment = make_memfd("staging", 1 << 16);
    seal(segment, Sealing::shared, "staging");
    ASSERT_TRUE(process
                    .simple(ExecutorRequest::MapStaging,
                            [&](auto& b) {
                                return internal::CreateMapStaging(b, kSession, make_id(0), 1 << 16,
                                                                  staging_base);
                            },
                            {segment.get()})
                    .ok());
    ClientStream client(kSession, make_id(0));
    ASSERT_TRUE(process.open(kSession, client).ok());
    std::vector<std::byte> params(8);
    std::memcpy(params.data(), &base, 8);
    const std::uint64_t end =
        client.put_launch(kHold, params, [](auto& record) { record.mutate_block_x(1); });
    ring(client, doorbell.get());
    ASSERT_TRUE(reaches([&] { return client.page->issued.load() == end; })) << client.text();

    fb::FlatBufferBuilder staging, chunks;
    const std::uint32_t first = process.send(staging, ExecutorRequest::UnmapStaging,
                                             internal::CreateUnmapStaging(staging, kSession, make_id(0)));
    process.send(chunks, ExecutorRequest::UnmapChunk,
                 internal::CreateUnmapChunk(chunks, kSession, base, chunk_bytes));
    // Asked after them and with the same bound: were they bounded, their answers would come first.
    const Reply closed = process.close(client.id);
    EXPECT_EQ(closed->status(), static_cast<std::uint32_t>(Status::timed_out)) << closed.error();
    EXPECT_NE(closed.error().find("stream " + id_text(client.id)), std::string::npos) << closed.error();
    EXPECT_NE(closed.error().find("50 ms"), std::string::npos) << closed.error();
    EXPECT_TRUE(process.later.empty()) << process.later.front().error();

    Mapping memory(chunk, chunk_bytes, Mapping::Access::read_write, "the chunk");
    // relaxed: a word for the kernel, which nothing is read by
    std::atomic_ref(*memory.as<unsigned>()).store(1, std::memory_order_relaxed);
    std::set<std::uint32_t> answered;
    for (int i = 0; i < 2; ++i) {
        const Reply unmapped = process.next();
        ASSERT_TRUE(unmapped.ok()) << unmapped.error();
        answered.insert(unmapped->id());
    }
    EXPECT_EQ(answered, (std::set<std::uint32_t>{first, first + 1}));
    // The stream is gone as well, though it was answered before.
    EXPECT_TRUE(
        reaches([&] { return process.close(client.id).error().find("no stream") != std::string::npos; }));
}

TEST_F(ProcessTest, AStopIsToldAndASkipGoesOn) {
    Process process;
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Null));
    ClientStream client(kSession, make_id(0));
    ASSERT_TRUE(process.open(kSession, client).ok());
    client.put_launch(kKernel, {});
    const std::uint64_t end = put_append(client, 1);
    Reply notice = process.next();
    ASSERT_FALSE(notice.message.bytes.empty());
    EXPECT_EQ(notice->id(), 0u);
    ASSERT_EQ(notice->answer_type(), ExecutorAnswer::StreamStopped);
    EXPECT_EQ(notice->answer_as_StreamStopped()->stream(), client.id);
    EXPECT_EQ(client.error(), Status::bad_param_bytes);
    EXPECT_FALSE(process.resume(client.id, 40, true).ok()) << "nothing stands there";
    EXPECT_TRUE(process.resume(client.id, client.page->error_position, true).ok());
    EXPECT_TRUE(reaches([&] { return client.completed() == end; }));
}

TEST_F(ProcessTest, TheNextExecutorGoesOnWhereTheDeadOneWas) {
    ClientStream first(kSession, make_id(0));
    std::uint64_t completed = 0;
    {
        Process process;
        ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Host));
        ASSERT_TRUE(process.open(kSession, first).ok());
        for (std::uint32_t i = 0; i < 20; ++i) put_append(first, i);
        ASSERT_TRUE(reaches([&] { return first.completed() == first.producer.position(); }));
        completed = first.completed();
    }
    // The new page; the ring is the journal and stays.
    ClientStream next(kSession, make_id(0), first.slots, completed);
    next.ring_fd = first.ring_fd.duplicate();
    for (std::uint32_t i = 20; i < 30; ++i) put_append(first, i);  // while nobody reads
    Process process;
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Host, &chunk));
    ASSERT_TRUE(process.open(kSession, next, true).ok());
    EXPECT_EQ(next.completed(), completed) << "held";
    EXPECT_TRUE(process
                    .simple(ExecutorRequest::ReleaseStream,
                            [&](auto& b) { return internal::CreateReleaseStream(b, next.id); })
                    .ok());
    ASSERT_TRUE(reaches([&] { return next.completed() == first.producer.position(); })) << next.text();
    std::vector<std::uint32_t> expected;
    for (std::uint32_t i = 0; i < 30; ++i) expected.push_back(i);
    EXPECT_EQ(log(), expected);
}

TEST_F(ProcessTest, WrongRequestsAreAnsweredWithWhatIsWrong) {
    Process process;
    EXPECT_NE(process.attach(1, doorbell.get()).error().find("not been configured"), std::string::npos);
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Null));
    EXPECT_NE(process.configure(schema::DriverKind::Null).error().find("configured already"),
              std::string::npos);
    EXPECT_NE(process.close(make_id(9)).error().find("no stream"), std::string::npos);
    const Reply without = process.simple(ExecutorRequest::AttachSession,
                                         [](auto& b) { return internal::CreateAttachSession(b, 44); });
    EXPECT_EQ(without->status(), static_cast<std::uint32_t>(Status::malformed_message));
    EXPECT_NE(without.error().find("doorbell"), std::string::npos);
    EXPECT_NE(process.bind(kSession, 1, {make_id(1)}).error().find("1 ids for its 2"), std::string::npos);
    EXPECT_NE(process.bind(kSession, 1, {5, make_id(1)}).error().find("generation 0"), std::string::npos);
    const Reply chunk_off = process.simple(ExecutorRequest::MakeChunk, [&](auto& b) {
        return internal::CreateMakeChunk(b, kSession, base + 4096, chunk_bytes);
    });
    EXPECT_NE(chunk_off.error().find("whole chunks"), std::string::npos) << chunk_off.error();
    const UniqueFd junk = make_image("junk", bytes.empty() ? bytes : std::vector<std::byte>(100));
    EXPECT_EQ(process.load(2, junk, 100)->status(), static_cast<std::uint32_t>(Status::bad_image));
    EXPECT_TRUE(process.simple(ExecutorRequest::Ping, [](auto& b) { return internal::CreatePing(b); }).ok());
}

TEST_F(ProcessTest, GarbageOnTheSocketEndsIt) {
    Process process;
    const std::vector<std::byte> garbage(100, std::byte{0x5a});
    ASSERT_EQ(send_message(process.socket.get(), garbage, {}, true), Transfer::done);
    const int status = process.wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

TEST_F(ProcessTest, ItGoesWhenTheSupervisorHangsUp) {
    Process process;
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Null));
    process.socket.reset();
    const int status = process.wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

TEST_F(ProcessTest, ItIsNotDumpableAndDoesNotHeedTheTerminal) {
    Process process;
    ASSERT_NO_FATAL_FAILURE(prepare(process, schema::DriverKind::Null));
    for (const int each : {SIGINT, SIGTERM, SIGHUP}) ::kill(process.pid, each);
    EXPECT_TRUE(process.simple(ExecutorRequest::Ping, [](auto& b) { return internal::CreatePing(b); }).ok());
    struct stat info {};
    // A process that is not dumpable has its /proc owned by root; as root that is the same as ours, so ask
    // there only where it says something.
    if (::geteuid() != 0) {
        ASSERT_EQ(::stat(("/proc/" + std::to_string(process.pid) + "/fd").c_str(), &info), 0);
        EXPECT_EQ(info.st_uid, 0u);
    }
    std::ifstream name("/proc/" + std::to_string(process.pid) + "/comm");
    std::string comm;
    name >> comm;
    EXPECT_EQ(comm, "rl-executor");
}

}  // namespace
}  // namespace ringlaunch::executor::test
