#include "tests/supervisor/harness.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/make_record.hpp"

namespace ringlaunch::test {

namespace {

using Clock = std::chrono::steady_clock;

template <class Record>
std::uint64_t put(TestStream& stream, Record& record, std::uint32_t slots) {
    record.mutate_slots(static_cast<std::uint16_t>(slots));
    const std::uint64_t end = stream.producer.publish(record);
    stream.ring_doorbell();
    return end;
}

bool copy(TestStream& stream, schema::RecordKind kind, std::uint64_t staging, std::uint64_t address,
          std::size_t bytes) {
    if (!eventually([&] { return stream.producer.reserve(1, stream.status().completed) == Status::ok; }))
        return false;
    schema::CopyRecord record{};
    record.mutate_kind(kind);
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    record.mutate_device(address);
    record.mutate_bytes(bytes);
    record.mutate_staging(staging);
    return stream.reaches(put(stream, record, 1));
}

}  // namespace

Folder::Folder() {
    char name[] = "/tmp/ringlaunch-test-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw std::runtime_error("cannot make a folder for a test");
    path_ = name;
}

Folder::~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

bool eventually(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kPatience;
    while (!condition()) {
        if (Clock::now() > deadline) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    return true;
}

Daemon::Daemon(const std::vector<std::string>& options, const std::string& socket, uid_t uid) {
    if (socket.empty()) {
        folder_ = std::make_unique<Folder>();
        if (uid != 0) {
            EXPECT_EQ(::chown(folder_->path().c_str(), uid, uid), 0);
        }
        socket_ = folder_->file("daemon.sock");
    } else {
        socket_ = socket;
    }
    std::vector<std::string> words{TEST_DAEMON, "serve", socket_};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0)) ::_exit(126);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    EXPECT_TRUE(eventually([&] {
        siginfo_t info{};
        if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid == pid_)
            return true;
        return RawClient(socket_).connected();
    }));
}

Daemon::~Daemon() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGTERM);
    if (const std::optional<int> exit = wait()) {
        EXPECT_EQ(*exit, 0) << "the daemon did not leave in order";
        return;
    }
    ADD_FAILURE() << "the daemon did not leave when asked to";
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
}

void Daemon::kill(int signal) {
    ::kill(pid_, signal);
}

std::optional<int> Daemon::wait() {
    std::optional<int> exit;
    eventually([&] {
        int status = 0;
        if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
        exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return true;
    });
    if (exit) pid_ = 0;
    return exit;
}

std::vector<pid_t> Daemon::executors() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        std::ifstream stat(entry.path() / "stat");
        std::string line;
        std::getline(stat, line);
        const std::size_t after = line.rfind(')');
        if (after == std::string::npos) continue;
        char state = 0;
        int parent = 0;
        if (std::sscanf(line.c_str() + after + 1, " %c %d", &state, &parent) == 2 && parent == pid_ &&
            state != 'Z')
            found.push_back(std::stoi(name));
    }
    return found;
}

pid_t Daemon::executor() const {
    pid_t found = 0;
    eventually([&] {
        const std::vector<pid_t> all = executors();
        if (all.size() == 1) found = all[0];
        return found != 0;
    });
    return found;
}

RawClient::RawClient(const std::string& socket) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket.c_str(), sizeof address.sun_path - 1);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
        socket_ = std::move(fd);
}

std::uint32_t RawClient::send(schema::Request kind, const Build& build, std::vector<int> fds) {
    flatbuffers::FlatBufferBuilder builder;
    const auto request = build(builder);
    const std::uint32_t id = next_id_++;
    builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
    send_raw({reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()},
             std::move(fds));
    return id;
}

bool RawClient::send_raw(std::span<const std::byte> bytes, std::vector<int> fds) {
    return send_message(socket_.get(), bytes, fds, true) == Transfer::done;
}

std::optional<Answer> RawClient::receive() {
    const auto deadline = Clock::now() + kPatience;
    for (;;) {
        Answer answer;
        switch (receive_message(socket_.get(), answer.message, false)) {
            case Transfer::done: {
                flatbuffers::Verifier verifier(
                    reinterpret_cast<const std::uint8_t*>(answer.message.bytes.data()),
                    answer.message.bytes.size());
                if (!verifier.VerifyBuffer<schema::ServerMessage>(nullptr)) {
                    ADD_FAILURE() << "the daemon sent what is no message";
                    return std::nullopt;
                }
                return answer;
            }
            case Transfer::would_block:
                break;
            default:
                return std::nullopt;
        }
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left <= 0) {
            ADD_FAILURE() << "the daemon said nothing";
            return std::nullopt;
        }
        pollfd entry{socket_.get(), POLLIN, 0};
        ::poll(&entry, 1, static_cast<int>(left));
    }
}

Answer RawClient::answer(std::uint32_t id) {
    for (auto at = kept_.begin(); at != kept_.end(); ++at)
        if ((*at)->id() == id) {
            Answer found = std::move(*at);
            kept_.erase(at);
            return found;
        }
    while (auto got = receive()) {
        if ((*got)->id() == id) return std::move(*got);
        kept_.push_back(std::move(*got));
    }
    throw std::runtime_error("no answer to request " + std::to_string(id));
}

std::optional<Answer> RawClient::notice(schema::Answer kind, std::uint64_t stream) {
    const auto fits = [&](const Answer& got) {
        if (got->id() != 0 || got->answer_type() != kind) return false;
        return stream == 0 || kind != schema::Answer::StreamEpoch ||
               got->answer_as_StreamEpoch()->stream() == stream;
    };
    for (auto at = kept_.begin(); at != kept_.end(); ++at)
        if (fits(*at)) {
            Answer found = std::move(*at);
            kept_.erase(at);
            return found;
        }
    while (auto got = receive()) {
        if (fits(*got)) return got;
        kept_.push_back(std::move(*got));
    }
    return std::nullopt;
}

bool RawClient::kept(schema::Answer kind) const {
    return std::ranges::any_of(
        kept_, [&](const Answer& got) { return got->id() == 0 && got->answer_type() == kind; });
}

bool RawClient::kept_answer(std::uint32_t id) const {
    return std::ranges::any_of(kept_, [&](const Answer& got) { return got->id() == id; });
}

bool RawClient::hung_up() {
    return eventually([&] {
        Message message;
        for (;;) {
            const Transfer result = receive_message(socket_.get(), message, false);
            if (result == Transfer::closed) return true;
            if (result == Transfer::would_block) return false;
        }
    });
}

Answer RawClient::hello(std::uint32_t version, bool observer, std::uint32_t magic, int device) {
    return ask(schema::Request::Hello, [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto program = builder.CreateString("test");
        return schema::CreateHello(builder, magic, version, program, device, false, observer).Union();
    });
}

void TestStream::ring_doorbell() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(doorbell, &one, sizeof one);
}

std::uint64_t TestStream::event() {
    EXPECT_EQ(producer.reserve(1, status().completed), Status::ok);
    schema::EventRecord record{};
    record.mutate_kind(schema::RecordKind::EventRecord);
    return put(*this, record, 1);
}

std::uint64_t TestStream::wait_for(std::uint64_t stream, std::uint64_t position) {
    EXPECT_EQ(producer.reserve(1, status().completed), Status::ok);
    schema::WaitRecord record{};
    record.mutate_kind(schema::RecordKind::EventWait);
    record.mutate_stream(stream);
    record.mutate_position(position);
    return put(*this, record, 1);
}

std::uint64_t TestStream::fill(std::uint64_t address, std::size_t bytes) {
    EXPECT_EQ(producer.reserve(1, status().completed), Status::ok);
    schema::FillRecord record{};
    record.mutate_kind(schema::RecordKind::Fill);
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    record.mutate_width(1);
    record.mutate_device(address);
    record.mutate_bytes(bytes);
    return put(*this, record, 1);
}

void TestStream::take_page(UniqueFd fd) {
    page_fd = std::move(fd);
    page = Mapping(page_fd, kStatusPageBytes, Mapping::Access::read_only, "a status page");
}

std::uint64_t TestStream::launch(std::uint64_t kernel, std::span<const std::byte> params) {
    schema::LaunchRecord record = launch_record(kernel, params);
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    if (!eventually([&] { return producer.reserve(record.slots(), status().completed) == Status::ok; })) {
        throw std::runtime_error("the ring stays full");
    }
    write_continuations(producer, params, kHeadParamBytes);
    return put(*this, record, record.slots());
}

SessionClient::SessionClient(const std::string& socket, int device) : RawClient(socket) {
    Answer welcome = hello(kProtocolVersion, false, kHelloMagic, device);
    if (welcome.status() != Status::ok) throw std::runtime_error("no session: " + welcome.text());
    session_ = welcome->answer_as_Welcome()->session();
    doorbell_ = std::move(welcome.message.fds.at(0));
}

Answer SessionClient::try_open_stream(std::uint32_t slots) {
    return ask(schema::Request::OpenStream, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateOpenStream(builder, slots).Union();
    });
}

std::unique_ptr<TestStream> SessionClient::open_stream(schema::OnRestart on_restart, std::uint32_t slots,
                                                       const std::string& name) {
    Answer opened = ask(schema::Request::OpenStream, [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto called = builder.CreateString(name);
        return schema::CreateOpenStream(builder, slots, on_restart, 0, called).Union();
    });
    if (opened.status() != Status::ok) throw std::runtime_error("no stream: " + opened.text());
    const auto* what = opened->answer_as_StreamOpened();
    auto stream = std::make_unique<TestStream>();
    stream->id = what->stream();
    stream->slots = what->ring_slots();
    stream->ring_fd = std::move(opened.message.fds.at(0));
    stream->wake = std::move(opened.message.fds.at(2));
    stream->ring = Mapping(stream->ring_fd, what->ring_bytes(), Mapping::Access::read_write, "a ring");
    stream->take_page(std::move(opened.message.fds.at(1)));
    stream->doorbell = doorbell();
    stream->producer = RingProducer<>(stream->ring.as<Slot>(kRingHeaderBytes), stream->slots, 0);
    return stream;
}

void SessionClient::close_stream(std::uint64_t id) {
    const Answer closed = ask(schema::Request::CloseStream, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateCloseStream(builder, id).Union();
    });
    EXPECT_EQ(closed.status(), Status::ok) << closed.text();
}

Answer SessionClient::try_load(const UniqueFd& image, std::uint64_t bytes, const std::string& name,
                               std::uint64_t stack_bytes) {
    return ask(schema::Request::LoadModule,
               [&](flatbuffers::FlatBufferBuilder& builder) {
                   const auto called = builder.CreateString(name);
                   return schema::CreateLoadModule(builder, called, bytes, 0, 0, stack_bytes).Union();
               },
               {image.get()});
}

void SessionClient::load_file(const std::string& path) {
    std::uint64_t bytes = 0;
    const UniqueFd image = image_of_file(path, bytes);
    const Answer loaded = try_load(image, bytes, path.substr(path.rfind('/') + 1));
    if (loaded.status() != Status::ok) throw std::runtime_error("no module: " + loaded.text());
    for (const schema::KernelInfo* kernel : *loaded->answer_as_ModuleLoaded()->kernels())
        kernels_.emplace_back(kernel->name()->str(), kernel->id());
}

std::uint64_t SessionClient::kernel(const std::string& name) const {
    for (const auto& [called, id] : kernels_)
        if (called == name) return id;
    throw std::runtime_error("no kernel " + name);
}

Answer SessionClient::try_alloc(std::uint64_t bytes) {
    return ask(schema::Request::AllocBuffer, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAllocBuffer(builder, bytes).Union();
    });
}

SessionClient::Memory SessionClient::alloc(std::uint64_t bytes) {
    const Answer got = try_alloc(bytes);
    if (got.status() != Status::ok) throw std::runtime_error("no memory: " + got.text());
    return {got->answer_as_BufferAllocated()->buffer(), got->answer_as_BufferAllocated()->address()};
}

Answer SessionClient::free(std::uint64_t buffer, std::uint64_t stream, std::uint64_t position) {
    return ask(schema::Request::FreeBuffer, [&](flatbuffers::FlatBufferBuilder& builder) {
        std::vector<flatbuffers::Offset<schema::StreamPosition>> after;
        if (stream != 0) after.push_back(schema::CreateStreamPosition(builder, stream, position));
        const auto list = builder.CreateVector(after);
        return schema::CreateFreeBuffer(builder, buffer, list).Union();
    });
}

SessionClient::Staging SessionClient::add_staging(std::uint64_t bytes) {
    Answer added = ask(schema::Request::AddStaging, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateAddStaging(builder, bytes).Union();
    });
    if (added.status() != Status::ok) throw std::runtime_error("no staging: " + added.text());
    return {added->answer_as_StagingAdded()->staging(),
            Mapping(added.message.fds.at(0), bytes, Mapping::Access::read_write, "staging")};
}

std::optional<Answer> SessionClient::next_epoch(TestStream& stream) {
    auto told = notice(schema::Answer::StreamEpoch, stream.id);
    if (told) stream.take_page(std::move(told->message.fds.at(0)));
    return told;
}

Answer SessionClient::resume(std::uint64_t stream, bool rerun) {
    return ask(schema::Request::ResumeStream, [&](flatbuffers::FlatBufferBuilder& builder) {
        return schema::CreateResumeStream(builder, stream, rerun).Union();
    });
}

bool SessionClient::read(TestStream& stream, Staging& staging, std::uint64_t address, std::size_t bytes) {
    return copy(stream, schema::RecordKind::CopyToHost, staging.id, address, bytes);
}

bool SessionClient::write(TestStream& stream, Staging& staging, std::uint64_t address, std::size_t bytes) {
    return copy(stream, schema::RecordKind::CopyToDevice, staging.id, address, bytes);
}

bool SessionClient::copy_on_device(TestStream& stream, std::uint64_t to, std::uint64_t from,
                                   std::size_t bytes) {
    if (!eventually([&] { return stream.producer.reserve(1, stream.status().completed) == Status::ok; }))
        return false;
    schema::CopyRecord record{};
    record.mutate_kind(schema::RecordKind::CopyOnDevice);
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    record.mutate_device(to);
    record.mutate_other(from);
    record.mutate_bytes(bytes);
    const std::uint64_t end = put(stream, record, 1);
    EXPECT_TRUE(eventually(
        [&] { return stream.completed() >= end || stream.state() == schema::StreamState::Stopped; }));
    return stream.completed() >= end;
}

UniqueFd image_of_file(const std::string& path, std::uint64_t& bytes) {
    std::ifstream file(path, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    bytes = content.size();
    return make_image("image", std::as_bytes(std::span(content)));
}

}  // namespace ringlaunch::test
