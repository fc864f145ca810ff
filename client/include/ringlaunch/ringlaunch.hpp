// ringlaunch: launch kernels through the daemon. The one header of the C++ client; it needs no CUDA.
//
//     ringlaunch::Client client = ringlaunch::Client::connect();
//     ringlaunch::Module module = client.load_file("kernels.so");
//     ringlaunch::Kernel scale = module.kernel("scale");
//     ringlaunch::Stream stream = client.stream();
//     ringlaunch::Buffer x = client.alloc(n * sizeof(float));
//     stream.copy_to_device(x, values.data(), n * sizeof(float));
//     stream.launch(scale, {blocks}, {256}, x, 2.0f, std::int32_t{n});
//     stream.copy_to_host(values.data(), x, n * sizeof(float));
//     stream.synchronize();
//
// Errors. What talks to the daemon's control socket (connect, load, alloc, stream, free) blocks and throws
// ringlaunch::Error. What enqueues never throws and returns a Status. Waits return a Status and are bounded by the
// daemon's life: they end with daemon_lost when it dies, and go on across a restart of its executor.
//
// Threads. Client, Module, Kernel and Buffer may be used from any thread. A Stream has one producer at a time: the
// caller orders enqueues to one stream; waiting, from any thread, needs no order.
//
// Fork. A child has no session: its handles answer Status::closed (or throw Error{closed}); its destructors touch nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <ringlaunch/status.hpp>

namespace ringlaunch {

namespace detail {
struct ClientState;
struct StreamState;
struct ModuleState;
struct KernelState;
struct BufferState;
}  // namespace detail

class Error;  // ringlaunch/error.hpp: status() and what()

struct Dim3 {
    std::uint32_t x = 1, y = 1, z = 1;
};

enum class ParamType : std::uint8_t {
    unknown, pointer, boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32,
    float64, bytes
};

struct Param {
    ParamType type = ParamType::unknown;
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
    std::string name;
};

struct KernelSignature {
    std::string kernel;
    std::vector<Param> params;
};

struct DaemonInfo {
    int pid = 0;
    std::string version, driver, device_name, architecture, socket;
    std::uint64_t session = 0;
};

struct ConnectOptions {
    std::string socket;        // empty: $RINGLAUNCH_SOCKET, else the user's default
    int device = 0;
    bool start_private = false;  // start a daemon where none runs; it leaves when its last client has
    std::string daemon_path;   // empty: $RINGLAUNCHD, else beside this program, else on PATH
    std::string driver;        // of a daemon that is started: "auto", "host", "null", "cuda"; empty: auto
    std::uint32_t timeout_ms = 10'000;
};

enum class OnRestart : std::uint8_t { stop, rerun };

struct StreamOptions {
    std::uint32_t ring_slots = 4096;  // a power of two, 64 to 65536
    OnRestart on_restart = OnRestart::stop;
    int priority = 0;
    std::string name;
};

// What a stream says of itself. Positions count slots; `completed` is law 6's A and `issued` its B.
struct StreamStatus {
    Status status = Status::ok;  // ok: running
    std::string text;            // why it stopped: what was being done, to what, what was found, what to do
    std::uint64_t completed = 0;
    std::uint64_t issued = 0;
    std::uint64_t published = 0;
    std::uint64_t error_position = 0;
    std::string error_kernel;
    std::uint32_t epoch = 0;
};

class Buffer;
class Kernel;

// A place in a stream: done once everything enqueued before it has completed. Copyable.
class Event {
  public:
    Event() = default;
    bool done() const noexcept;                                         // never blocks
    Status wait(std::optional<std::uint64_t> timeout_ns = {}) const noexcept;  // blocks; timed_out after timeout_ns
    std::uint64_t position() const noexcept { return position_; }

  private:
    friend class Stream;
    std::shared_ptr<detail::StreamState> stream_;
    std::uint64_t position_ = 0;
};

class Stream {
  public:
    Stream() = default;

    // Enqueues `kernel` over `grid` blocks of `block` threads (0 0 0: the kernel's default) with these arguments:
    // Buffers, DevicePointers and scalars. Count, order and each type must be the declared ones; a mismatch answers
    // invalid_argument and last_error() names the parameter. Waits while the ring is full (bounded by the daemon's
    // life); try_launch answers ring_full instead.
    template <class... Args>
    Status launch(const Kernel& kernel, Dim3 grid, Dim3 block, const Args&... args) noexcept;
    template <class... Args>
    Status try_launch(const Kernel& kernel, Dim3 grid, Dim3 block, const Args&... args) noexcept;
    // The same with parameters already packed at the kernel's offsets; `params` is copied.
    Status launch_packed(const Kernel& kernel, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                         std::span<const std::byte> params, bool wait = true) noexcept;

    // Copies of any size, through the session's staging memory. to_device: `from` may be reused on return.
    // to_host: `to` is filled once the returned status is ok: blocks until the copy has completed.
    Status copy_to_device(const Buffer& to, const void* from, std::size_t bytes, std::size_t offset = 0);
    Status copy_to_host(void* to, const Buffer& from, std::size_t bytes, std::size_t offset = 0);
    Status copy(const Buffer& to, std::size_t to_offset, const Buffer& from, std::size_t from_offset,
                std::size_t bytes) noexcept;
    Status fill(const Buffer& to, std::uint32_t value, std::uint32_t width, std::size_t offset, std::size_t bytes) noexcept;

    Event record() noexcept;                 // everything enqueued so far
    Status wait(const Event& event) noexcept;  // what follows runs after it; of any stream of this client
    Status barrier() noexcept;               // nothing before it is ever replayed by a rerun

    Status synchronize(std::optional<std::uint64_t> timeout_ns = {}) noexcept;
    StreamStatus status() const;
    // After a stop: goes on behind what was in doubt, or with `rerun` at the first record that had not completed.
    void resume(bool rerun = false);
    std::string last_error() const;          // of this thread's last refused call on this stream
    int wake_fd() const noexcept;            // for event loops; see docs of wait protocols in client/src/waiter.hpp
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    std::shared_ptr<detail::StreamState> state_;
};

// Device memory. Freed when the last copy of the handle goes and all work that was enqueued before has completed.
class Buffer {
  public:
    Buffer() = default;
    std::uint64_t address() const noexcept;
    std::size_t size() const noexcept;
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    friend class Stream;
    std::shared_ptr<detail::BufferState> state_;
};

// A raw device address as an argument.
struct DevicePointer {
    std::uint64_t address = 0;
};

class Kernel {
  public:
    Kernel() = default;
    const std::string& name() const;
    std::span<const Param> params() const;
    bool declared() const;
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Module;
    friend class Stream;
    std::shared_ptr<detail::KernelState> state_;
};

class Module {
  public:
    Module() = default;
    Kernel kernel(std::string_view name) const;  // throws Error{not_found} that lists the names there are
    std::vector<std::string> kernels() const;

  private:
    friend class Client;
    std::shared_ptr<detail::ModuleState> state_;
};

class Client {
  public:
    Client() = default;
    static Client connect(const ConnectOptions& options = {});

    Module load(std::span<const std::byte> image, std::string name = "", std::span<const KernelSignature> signatures = {});
    Module load_file(const std::string& path, std::span<const KernelSignature> signatures = {});
    Stream stream(const StreamOptions& options = {});
    Buffer alloc(std::size_t bytes);
    Status synchronize(std::optional<std::uint64_t> timeout_ns = {}) noexcept;  // all streams of this client
    const DaemonInfo& daemon() const;
    void close();  // waits for nothing; handles answer `closed` from then on

  private:
    std::shared_ptr<detail::ClientState> state_;
};

}  // namespace ringlaunch
