// A client of a few lines that speaks the protocol itself, so that the daemon is tested without the client
// library.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "control_generated.h"
#include "record_generated.h"
#include "schema/message.hpp"
#include "schema/ring.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"
#include "schema/wakeup.hpp"
#include "tests/make_record.hpp"

namespace ringlaunch::test {

using Clock = std::chrono::steady_clock;
inline constexpr std::chrono::seconds kPatience{30};  // the watchdog of every wait

struct Received {
    Message message;
    const schema::ServerMessage* operator->() const {
        return flatbuffers::GetRoot<schema::ServerMessage>(message.bytes.data());
    }
    std::string error() const { return (*this)->error() == nullptr ? "" : (*this)->error()->str(); }
};

struct RawStream {
    std::uint64_t id = 0;
    Mapping ring, status;
    UniqueFd wake;
    RingProducer<> producer;
    RungSleep rung;
    RingHeader& header() const { return *ring.as<RingHeader>(); }
    const StatusPage& page() const { return *status.as<const StatusPage>(); }
    std::uint64_t completed() const {
        return page().completed.load(std::memory_order_acquire);
    }  // sync: COMPLETED
    schema::StreamState state() const {
        return static_cast<schema::StreamState>(page().state.load(std::memory_order_acquire));  // sync: STATE
    }
};

class RawClient {
  public:
    using Build = std::function<flatbuffers::Offset<void>(flatbuffers::FlatBufferBuilder&)>;

    explicit RawClient(const std::string& path)
        : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
            throw std::runtime_error("cannot connect to " + path + ": " + std::strerror(errno));
    }

    Received hello(bool observer = false, std::uint32_t version = kProtocolVersion) {
        const bool membarrier = register_for_membarrier();
        Received answer = ask(schema::Request::Hello, [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto program = builder.CreateString("raw_client");
            schema::HelloBuilder hello(builder);
            hello.add_magic(kHelloMagic);
            hello.add_version(version);
            hello.add_program(program);
            hello.add_membarrier(membarrier);
            hello.add_observer(observer);
            return hello.Finish().Union();
        });
        if (const schema::Welcome* welcome = answer->answer_as_Welcome(); welcome != nullptr) {
            must_fence_ = welcome->producer_must_fence();
            session = welcome->session();
            if (!answer.message.fds.empty()) doorbell_ = std::move(answer.message.fds[0]);
        }
        return answer;
    }

    Received ask(schema::Request kind, const Build& build, std::vector<int> fds = {}) {
        flatbuffers::FlatBufferBuilder builder;
        const std::uint32_t id = next_id_++;
        const auto request = build(builder);
        builder.Finish(schema::CreateClientMessage(builder, id, kind, request));
        if (send_message(socket_.get(),
                         {reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()},
                         fds, true) != Transfer::done)
            throw std::runtime_error("the daemon hung up before " +
                                     std::string(schema::EnumNameRequest(kind)));
        const auto deadline = Clock::now() + kPatience;
        for (;;) {
            Received received = receive(deadline);
            if (received->id() == id) return received;
            notices_.push_back(std::move(received));
        }
    }

    Received notice() {
        if (notices_.empty()) return receive(Clock::now() + kPatience);
        Received first = std::move(notices_.front());
        notices_.pop_front();
        return first;
    }

    Received resume(const RawStream& stream, bool rerun) {
        return ask(schema::Request::ResumeStream, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateResumeStream(builder, stream.id, rerun).Union();
        });
    }
    void close_stream(const RawStream& stream) {
        Received answer = ask(schema::Request::CloseStream, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateCloseStream(builder, stream.id).Union();
        });
        expect(answer, answer->answer_as_Done());
    }

    // Any bytes, and the next message that comes; nothing: the daemon hung up.
    std::optional<Received> send_and_receive(std::span<const std::byte> bytes, const std::vector<int>& fds) {
        // Not through send_message(), which refuses what no honest peer sends.
        iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
        std::vector<char> control(fds.empty() ? 0 : CMSG_SPACE(fds.size() * sizeof(int)));
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (!fds.empty()) {
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            cmsghdr* head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
            std::memcpy(CMSG_DATA(head), fds.data(), fds.size() * sizeof(int));
        }
        if (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
            throw std::runtime_error(std::string("cannot send: ") + std::strerror(errno));
        return receive_or_end(Clock::now() + kPatience);
    }

    // Has the daemon hung up by the time it has answered one more question?
    bool over() {
        flatbuffers::FlatBufferBuilder builder;
        const auto request = schema::CreateGetStatus(builder).Union();
        builder.Finish(schema::CreateClientMessage(builder, next_id_++, schema::Request::GetStatus, request));
        return !send_and_receive(
            {reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()}, {});
    }

    bool hung_up() {
        for (const auto deadline = Clock::now() + kPatience; Clock::now() < deadline;) {
            Message message;
            pollfd entry{socket_.get(), POLLIN, 0};
            ::poll(&entry, 1, 100);
            if (receive_message(socket_.get(), message, false) == Transfer::closed) return true;
        }
        return false;
    }

    RawStream open_stream(std::uint32_t slots = 256, schema::OnRestart on_restart = schema::OnRestart::Stop) {
        Received answer = ask(schema::Request::OpenStream, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateOpenStream(builder, slots, on_restart, 0, builder.CreateString("raw"))
                .Union();
        });
        const schema::StreamOpened* opened = expect(answer, answer->answer_as_StreamOpened());
        RawStream stream;
        stream.id = opened->stream();
        stream.ring =
            Mapping(answer.message.fds.at(0), opened->ring_bytes(), Mapping::Access::read_write, "the ring");
        stream.status =
            Mapping(answer.message.fds.at(1), opened->status_bytes(), Mapping::Access::read_only, "the page");
        stream.wake = std::move(answer.message.fds.at(2));
        stream.producer = RingProducer<>(stream.ring.as<Slot>(kRingHeaderBytes), opened->ring_slots(), 0);
        return stream;
    }

    // The ids of the module's kernels, by name.
    std::vector<std::pair<std::string, std::uint64_t>> load(const std::string& path,
                                                            std::uint64_t* module = nullptr,
                                                            std::uint64_t stack_bytes = 0) {
        std::ifstream file(path, std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        const UniqueFd image = make_image("test kernels", std::as_bytes(std::span(bytes)));
        Received answer =
            ask(schema::Request::LoadModule,
                [&](flatbuffers::FlatBufferBuilder& builder) {
                    return schema::CreateLoadModule(builder, builder.CreateString("test kernels"),
                                                    bytes.size(), 0, 0, stack_bytes)
                        .Union();
                },
                {image.get()});
        std::vector<std::pair<std::string, std::uint64_t>> kernels;
        const schema::ModuleLoaded* loaded = expect(answer, answer->answer_as_ModuleLoaded());
        if (module != nullptr) *module = loaded->module_id();
        for (const schema::KernelInfo* kernel : *loaded->kernels())
            kernels.emplace_back(kernel->name()->str(), kernel->id());
        return kernels;
    }

    std::pair<std::uint64_t, std::uint64_t> allocate(std::uint64_t bytes) {  // id and address
        Received answer = ask(schema::Request::AllocBuffer, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAllocBuffer(builder, bytes).Union();
        });
        const auto* allocated = expect(answer, answer->answer_as_BufferAllocated());
        return {allocated->buffer(), allocated->address()};
    }

    struct Staging {
        std::uint64_t id = 0, address = 0;
        Mapping bytes;
    };
    Staging add_staging(std::uint64_t bytes) {
        Received answer = ask(schema::Request::AddStaging, [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateAddStaging(builder, bytes).Union();
        });
        const auto* added = expect(answer, answer->answer_as_StagingAdded());
        return {added->staging(), added->address(),
                Mapping(answer.message.fds.at(0), added->bytes(), Mapping::Access::read_write, "staging")};
    }

    template <class Record>
    std::uint64_t publish(RawStream& stream, Record record, const std::vector<std::byte>& params = {}) {
        const std::uint32_t slots = launch_slots(params.size());
        wait_until([&] { return stream.producer.reserve(slots, stream.page().completed) == Status::ok; });
        write_continuations(stream.producer, params, kHeadParamBytes);
        record.mutate_slots(static_cast<std::uint16_t>(slots));
        const std::uint64_t end = stream.producer.publish(record);
        wake_reader(stream);
        return end;
    }
    // After a record stands in the ring.
    void wake_reader(RawStream& stream) {
        if (producer_must_ring(stream.page().need_wakeup, stream.rung, must_fence_)) ring_doorbell();
    }

    std::uint64_t launch(RawStream& stream, std::uint64_t kernel, std::uint32_t grid, std::uint16_t block,
                         const std::vector<std::byte>& params) {
        return publish(stream, launch_record(kernel, params, grid, block), params);
    }

    std::uint64_t copy(RawStream& stream, schema::RecordKind kind, std::uint64_t device,
                       std::uint64_t staging, std::uint64_t offset, std::uint64_t bytes) {
        schema::CopyRecord record{};
        record.mutate_kind(kind);
        record.mutate_device(device);
        record.mutate_other(offset);
        record.mutate_staging(staging);
        record.mutate_bytes(bytes);
        return publish(stream, record);
    }

    // Announces the wait, so that a completion is made visible, and sleeps on the stream's eventfd. False: it
    // stopped or the wait was given up.
    bool wait_completed(RawStream& stream, std::uint64_t position) {
        const auto deadline = Clock::now() + kPatience;
        while (stream.completed() < position) {
            if (stream.state() != schema::StreamState::Running || Clock::now() > deadline) return false;
            announce_wait(stream.header(), position);
            if (stream.completed() < position && must_ring(stream.page().need_wakeup)) ring_doorbell();
            pollfd entry{stream.wake.get(), POLLIN, 0};
            if (stream.completed() < position && ::poll(&entry, 1, 1000) == 1) {
                std::uint64_t count = 0;
                if (::read(stream.wake.get(), &count, sizeof count) < 0) continue;
            }
        }
        announce_wait(stream.header(), 0);
        return true;
    }

    static void wait_until(const std::function<bool()>& done) {
        for (const auto deadline = Clock::now() + kPatience; !done();) {
            if (Clock::now() > deadline) throw std::runtime_error("waited too long");
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    std::uint64_t session = 0;

  private:
    template <class Table>
    static const Table* expect(const Received& answer, const Table* table) {
        if (answer->status() != 0 || table == nullptr)
            throw std::runtime_error("the daemon refused: " + answer.error());
        return table;
    }

    void ring_doorbell() { ::eventfd_write(doorbell_.get(), 1); }

    Received receive(Clock::time_point deadline) {
        std::optional<Received> received = receive_or_end(deadline);
        if (!received) throw std::runtime_error("the daemon hung up");
        return std::move(*received);
    }

    std::optional<Received> receive_or_end(Clock::time_point deadline) {
        for (;;) {
            Received received;
            const Transfer got = receive_message(socket_.get(), received.message, false);
            if (got == Transfer::done) {
                flatbuffers::Verifier verifier(
                    reinterpret_cast<const std::uint8_t*>(received.message.bytes.data()),
                    received.message.bytes.size());
                if (!verifier.VerifyBuffer<schema::ServerMessage>(nullptr))
                    throw std::runtime_error("not a message");
                return received;
            }
            if (got != Transfer::would_block) return std::nullopt;
            if (Clock::now() > deadline) throw std::runtime_error("the daemon is silent");
            pollfd entry{socket_.get(), POLLIN, 0};
            ::poll(&entry, 1, 1000);
        }
    }

    UniqueFd socket_, doorbell_;
    bool must_fence_ = true;
    std::uint32_t next_id_ = 1;
    std::deque<Received> notices_;
};

// Parameters packed at CUDA's natural offsets.
class Params {
  public:
    template <class T>
    Params& add(T value) {
        bytes_.resize((bytes_.size() + alignof(T) - 1) / alignof(T) * alignof(T));
        const auto* from = reinterpret_cast<const std::byte*>(&value);
        bytes_.insert(bytes_.end(), from, from + sizeof value);
        return *this;
    }
    operator const std::vector<std::byte>&() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

}  // namespace ringlaunch::test
