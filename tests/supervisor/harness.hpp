// A real daemon in a process of its own, and a client that speaks the raw protocol. Every wait is bounded.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control_generated.h"
#include "schema/message.hpp"
#include "schema/ring.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"

namespace ringlaunch::test {

inline constexpr std::chrono::seconds kPatience{20};

// A folder that goes with the test.
class Folder {
  public:
    Folder();
    ~Folder();
    std::string file(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// True once `condition` holds; false after kPatience.
bool eventually(const std::function<bool()>& condition);

class Daemon {
  public:
    // `options`: name=value of tests/supervisor/daemon_main.cpp. Waits until somebody listens, unless it
    // ended. `uid`: not 0: the daemon runs as that user.
    explicit Daemon(const std::vector<std::string>& options = {}, const std::string& socket = {},
                    uid_t uid = 0);
    ~Daemon();
    const std::string& socket() const { return socket_; }
    pid_t pid() const { return pid_; }
    void kill(int signal);
    // Its exit status (128 + signal), or nothing after kPatience.
    std::optional<int> wait();
    std::vector<pid_t> executors() const;
    // The one executor there is; waits for it.
    pid_t executor() const;

  private:
    std::unique_ptr<Folder> folder_;
    std::string socket_;
    pid_t pid_ = 0;
};

struct Answer {
    Message message;
    const schema::ServerMessage& operator*() const {
        return *flatbuffers::GetRoot<schema::ServerMessage>(message.bytes.data());
    }
    const schema::ServerMessage* operator->() const { return &**this; }
    Status status() const { return static_cast<Status>((**this).status()); }
    std::string text() const { return (**this).error() ? (**this).error()->str() : ""; }
};

using Build = std::function<flatbuffers::Offset<void>(flatbuffers::FlatBufferBuilder&)>;

// A connection. Notices that come between answers are kept.
class RawClient {
  public:
    explicit RawClient(const std::string& socket);
    int fd() const { return socket_.get(); }
    bool connected() const { return static_cast<bool>(socket_); }

    std::uint32_t send(schema::Request kind, const Build& build, std::vector<int> fds = {});
    bool send_raw(std::span<const std::byte> bytes, std::vector<int> fds = {});
    // The answer to a request; a failure of the test where none comes.
    Answer answer(std::uint32_t id);
    Answer ask(schema::Request kind, const Build& build, std::vector<int> fds = {}) {
        return answer(send(kind, build, std::move(fds)));
    }
    // The next notice of this kind.
    std::optional<Answer> notice(schema::Answer kind, std::uint64_t stream = 0);
    // Has such a notice come, among what was received while something else was awaited?
    bool kept(schema::Answer kind) const;
    // Has this request's answer?
    bool kept_answer(std::uint32_t id) const;
    // Any message; nothing when the daemon hung up or kPatience passed.
    std::optional<Answer> receive();
    // Has the daemon hung up (reading whatever comes before)?
    bool hung_up();

    Answer hello(std::uint32_t version = kProtocolVersion, bool observer = false,
                 std::uint32_t magic = kHelloMagic, int device = 0);

  private:
    UniqueFd socket_;
    std::uint32_t next_id_ = 1;
    std::vector<Answer> kept_;
};

// A stream of a RawClient with its pages and a producer.
struct TestStream {
    std::uint64_t id = 0;
    std::uint32_t slots = 0;
    UniqueFd ring_fd, page_fd, wake;
    Mapping ring, page;
    int doorbell = -1;
    RingProducer<> producer;

    const StatusPage& status() const { return *page.as<StatusPage>(); }
    std::uint64_t completed() const { return status().completed.load(std::memory_order_acquire); }
    std::uint64_t issued() const { return status().issued.load(std::memory_order_acquire); }
    schema::StreamState state() const {
        return static_cast<schema::StreamState>(status().state.load(std::memory_order_acquire));
    }
    void ring_doorbell() const;
    void take_page(UniqueFd fd);  // of a new epoch
    std::uint64_t launch(std::uint64_t kernel, std::span<const std::byte> params);
    std::uint64_t event();
    std::uint64_t wait_for(std::uint64_t stream, std::uint64_t position);
    std::uint64_t fill(std::uint64_t address, std::size_t bytes);
    bool reaches(std::uint64_t position) const {
        return eventually([&] { return completed() >= position; });
    }
};

// A greeted client with the usual requests; each expects success.
class SessionClient : public RawClient {
  public:
    explicit SessionClient(const std::string& socket, int device = 0);
    std::uint64_t session() const { return session_; }
    int doorbell() const { return doorbell_.get(); }

    std::unique_ptr<TestStream> open_stream(schema::OnRestart on_restart = schema::OnRestart::Stop,
                                            std::uint32_t slots = 256, const std::string& name = "");
    Answer try_open_stream(std::uint32_t slots = 256);
    void close_stream(std::uint64_t id);
    // Loads an object; kernel() finds its kernels.
    Answer try_load(const UniqueFd& image, std::uint64_t bytes, const std::string& name = "test",
                    std::uint64_t stack_bytes = 0);
    void load_file(const std::string& path);
    std::uint64_t kernel(const std::string& name) const;
    Answer try_alloc(std::uint64_t bytes);
    struct Memory {
        std::uint64_t id = 0, address = 0;
    };
    Memory alloc(std::uint64_t bytes);
    Answer free(std::uint64_t buffer, std::uint64_t stream = 0, std::uint64_t position = 0);
    struct Staging {
        std::uint64_t id = 0;
        Mapping bytes;
    };
    Staging add_staging(std::uint64_t bytes);
    // Waits for the notice and takes the page up. The notice.
    std::optional<Answer> next_epoch(TestStream& stream);
    Answer resume(std::uint64_t stream, bool rerun);
    // Copies between staging and the device through `stream`, and waits.
    bool read(TestStream& stream, Staging& staging, std::uint64_t address, std::size_t bytes);
    bool write(TestStream& stream, Staging& staging, std::uint64_t address, std::size_t bytes);

    // False: it stopped the stream.
    bool copy_on_device(TestStream& stream, std::uint64_t to, std::uint64_t from, std::size_t bytes);

  private:
    std::uint64_t session_ = 0;
    UniqueFd doorbell_;
    std::vector<std::pair<std::string, std::uint64_t>> kernels_;
};

// Packs values at their natural offsets.
template <class... Values>
std::vector<std::byte> pack(const Values&... values) {
    std::vector<std::byte> packed;
    const auto add = [&](const auto& value) {
        packed.resize((packed.size() + sizeof value - 1) / sizeof value * sizeof value);
        const auto* bytes = reinterpret_cast<const std::byte*>(&value);
        packed.insert(packed.end(), bytes, bytes + sizeof value);
    };
    (add(values), ...);
    return packed;
}

UniqueFd image_of_file(const std::string& path, std::uint64_t& bytes);

}  // namespace ringlaunch::test
