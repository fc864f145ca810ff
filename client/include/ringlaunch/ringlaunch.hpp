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
// Errors. What talks to the daemon's control socket (connect, load, alloc, stream, resume) blocks and throws
// ringlaunch::Error. What enqueues never throws and returns a Status. Waits return a Status and are bounded
// by the daemon's life: they end with daemon_lost when it dies, and go on across a restart of its executor.
//
// Threads. Client, Module, Kernel and Buffer may be used from any thread. A Stream has one producer at a
// time: the caller orders enqueues to one stream; waiting, from any thread, needs no order.
//
// Fork. A child has no session: its handles answer Status::closed (or throw Error{closed}); its destructors
// touch nothing.
#pragma once

#if __cplusplus < 202002L
#error "ringlaunch's C++ client needs C++20: compile with -std=c++20, or link ringlaunch::ringlaunch by CMake"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <ringlaunch/dim3.hpp>
#include <ringlaunch/error.hpp>
#include <ringlaunch/hot_path.hpp>
#include <ringlaunch/status.hpp>
#include <ringlaunch/tensor_map.hpp>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace ringlaunch {

namespace detail {
struct Access;
struct BufferState;
struct ClientState;
struct GraphState;
struct KernelState;
struct ModuleState;
struct PinnedState;
struct StreamState;
}  // namespace detail

// The numbers are those of the protocol.
enum class ParamType : std::uint8_t {
    unknown,
    pointer,
    boolean,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    bfloat16,
    float32,
    float64,
    bytes  // a struct passed by value
};

// "pointer", "int32", ...
std::string_view param_type_name(ParamType type) noexcept;

struct Param {
    ParamType type = ParamType::unknown;
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
    std::string name;
};

// Declares the parameters of a kernel whose image does not.
struct KernelSignature {
    std::string kernel;
    std::vector<Param> params;
};

// How an image is loaded.
struct LoadOptions {
    std::vector<KernelSignature> signatures;
    // The most registers that a thread of its kernels may take; 0: as many as the compiler likes. For PTX,
    // which the GPU's driver compiles; an image that is compiled already is refused with it
    // (Error{unsupported}).
    std::uint32_t max_registers = 0;
    // The least stack that each thread of its kernels has, beyond what their code says they need: for kernels
    // that recurse; 0: what the daemon gives. A GPU has one size for all kernels, so it is raised for
    // everybody, once all that is in flight there has completed, and stays until the daemon's executor ends.
    // Error{limit_reached}: more than the daemon allows (--max-stack); Error{out_of_memory}: more than the
    // device has room for; Error{timed_out}: the device was at work all the while; Error{unsupported}: more
    // than the device, or a thread of the host driver, can have.
    std::uint64_t stack_bytes = 0;
};

struct DaemonInfo {
    int pid = 0;
    std::string version, driver, device_name, architecture, socket;
    int device = 0;  // of this session, as device_name and architecture are
    std::uint64_t session = 0;
    // Why the daemon runs this driver, where it chose by itself (--driver auto): what keeps it from the GPU.
    // Empty where it was told which one to take.
    std::string driver_note;
};

struct ConnectOptions {
    std::string socket;  // empty: $RINGLAUNCH_SOCKET, else the user's default
    int device = 0;
    bool start_private = false;  // start a daemon where none runs; it leaves when its last client has
    std::string daemon_path;     // empty: $RINGLAUNCHD, else beside this library or program, else on PATH
    // "auto", "host", "null" or "cuda": of a daemon that is started; one that runs with another is refused.
    // Empty: whatever runs, or the default of one that is started.
    std::string driver;
    // A user whose daemon is taken besides this user's own and root's; empty: $RINGLAUNCH_DAEMON_UID, else
    // nobody's.
    std::optional<std::uint32_t> daemon_uid = {};
    std::uint32_t timeout_ms = 10'000;
    // The longest that a record may be at work before the daemon ends it and restarts the executor; 0: the
    // daemon's own bound. The shorter of both counts.
    std::uint32_t kernel_timeout_ms = 0;
    // false: each launch is given to the device by itself, as it is, without launch graphs (as all are under
    // `serve --no-coalesce`). Results are the same; to compare, or where a tool has to see plain launches.
    bool coalesce = true;
    // Of each stream that copies; larger copies are cut and pipelined. 0: 4 MiB, or an eighth of the
    // daemon's --max-staging where that is less.
    std::uint32_t staging_bytes = 0;
};

enum class OnRestart : std::uint8_t { stop, rerun };

struct StreamOptions {
    // A power of two, 64 to 65536. 0: 4096, or what the daemon's --max-ring-slots allows where that is less.
    std::uint32_t ring_slots = 0;
    OnRestart on_restart = OnRestart::stop;
    int priority = 0;  // 0 to 5 on most devices: the greater is served first, by the daemon and by the device
    std::string name;
};

// What a stream says of itself. Positions count slots; after a restart the records from `completed` up to
// `issued` are in doubt: started, not known to have completed.
struct StreamStatus {
    Status status = Status::ok;  // ok: running
    std::string text;            // why it stopped: what was being done, to what, what was found, what to do
    std::uint64_t completed = 0;
    std::uint64_t issued = 0;
    std::uint64_t published = 0;
    std::uint64_t error_position = 0;  // of the record that stopped it
    std::string error_kernel;
    std::uint32_t epoch = 0;
};

// A place in a stream: done once everything enqueued before it has completed. Copyable.
class Event {
  public:
    Event() = default;
    bool done() const noexcept;  // never blocks
    // Blocks. ok; timed_out after timeout_ns; stream_stopped when the stream stopped before this place;
    // daemon_lost; closed; or why record() failed.
    Status wait(std::optional<std::uint64_t> timeout_ns = {}) const noexcept;
    // For event loops, see Stream::wake_fd(). Never blocks. timed_out: not yet, wake_fd() becomes readable
    // when it is worth asking again; anything else is what wait() would answer now.
    Status arm() const noexcept;
    std::uint64_t position() const noexcept { return position_; }
    explicit operator bool() const { return stream_ != nullptr && failure_ == Status::ok; }

  private:
    friend class Stream;
    friend struct detail::Access;
    std::shared_ptr<detail::StreamState> stream_;
    std::uint64_t position_ = 0;
    Status failure_ = Status::ok;
};

// Device memory. Freed when the last copy of the handle goes and all work that was enqueued before has
// completed.
class Buffer {
  public:
    Buffer() = default;
    std::uint64_t address() const noexcept { return address_; }
    std::size_t size() const noexcept { return size_; }
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    friend class Stream;
    friend struct detail::Access;
    std::shared_ptr<detail::BufferState> state_;
    std::uint64_t address_ = 0;
    std::size_t size_ = 0;
};

// Host memory that the device reads and writes directly: copies from and to it go without a second one, and a
// kernel takes it as it takes a Buffer. Shared with the daemon, and with forked children. Given back when the
// last copy of the handle goes and the work that was enqueued before has completed; whoever keeps data()
// keeps the handle.
class PinnedMemory {
  public:
    PinnedMemory() = default;
    std::byte* data() const noexcept { return data_; }
    // Where kernels find it: another address than data(), the same in every epoch.
    std::uint64_t device_address() const noexcept { return device_address_; }
    std::size_t size() const noexcept { return size_; }
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    friend struct detail::Access;
    std::shared_ptr<detail::PinnedState> state_;
    std::byte* data_ = nullptr;
    std::uint64_t device_address_ = 0;
    std::size_t size_ = 0;
};

// A raw device address as an argument.
struct DevicePointer {
    std::uint64_t address = 0;
};

// How a kernel is launched, beside grid and block.
struct KernelAttributes {
    Dim3 cluster;              // blocks of a thread block cluster; a grid is whole clusters
    bool cooperative = false;  // all blocks are on the device at once, so that the grid may synchronize
    // May begin before the launch ahead of it in its stream has ended: the kernel itself waits for what it
    // needs of it (cudaGridDependencySynchronize), and before it ends.
    bool programmatic = false;
};

class Kernel {
  public:
    Kernel() = default;
    const std::string& name() const;
    std::span<const Param> params() const;
    std::uint32_t param_bytes() const;
    bool declared() const;       // false: no declaration of its parameters was found, so a launch is refused
    Dim3 default_block() const;  // 0 0 0: none
    std::uint32_t max_threads() const;
    std::uint32_t registers() const;    // of a thread; 0: not known
    std::uint32_t local_bytes() const;  // of a thread: its stack, and registers that were spilled
    std::uint64_t stack_bytes() const;  // LoadOptions::stack_bytes of its module
    std::uint32_t static_shared_bytes() const;
    std::uint32_t max_dynamic_shared_bytes() const;
    const KernelAttributes& attributes() const;
    // The same kernel, launched with these attributes instead of its own. Asks the daemon; throws
    // Error{unsupported} or Error{invalid_argument} where its driver cannot launch this kernel so. A grid
    // that is not whole clusters, or a cooperative one that does not fit onto the device at once, stops its
    // stream.
    Kernel with_attributes(const KernelAttributes& attributes) const;
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Module;
    friend class Stream;
    friend struct detail::Access;
    std::shared_ptr<const detail::HotKernel> state_;  // a detail::KernelState
};

namespace detail {

// One argument as C++ sees it; compared with the kernel's declaration as bytes.
struct ArgLayout {
    ParamType type = ParamType::unknown;
    std::uint8_t zero = 0;
    std::uint16_t offset = 0;
    std::uint32_t size = 0;
};
static_assert(std::has_unique_object_representations_v<ArgLayout> && sizeof(ArgLayout) == 8);

template <class T>
inline constexpr bool kIsAddress = std::is_same_v<T, Buffer> || std::is_same_v<T, PinnedMemory> ||
                                   std::is_same_v<T, DevicePointer> || std::is_same_v<T, std::nullptr_t>;

template <class T>
constexpr ParamType arg_type() {
    static_assert(!std::is_pointer_v<T>,
                  "a host pointer is no kernel argument: pass a Buffer, PinnedMemory or a DevicePointer");
    if constexpr (kIsAddress<T>) {
        return ParamType::pointer;
    } else if constexpr (std::is_enum_v<T>) {
        return arg_type<std::underlying_type_t<T>>();
    } else if constexpr (std::is_same_v<T, bool>) {
        return ParamType::boolean;
    } else if constexpr (std::is_integral_v<T>) {
        static_assert(sizeof(T) <= 8, "no kernel takes so wide an integer");
        constexpr int kWidth = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
        return static_cast<ParamType>((std::is_signed_v<T> ? 3 : 7) + kWidth);
    } else if constexpr (std::is_same_v<T, float>) {
        return ParamType::float32;
    } else if constexpr (std::is_same_v<T, double>) {
        return ParamType::float64;
    } else {
        static_assert(
            std::is_class_v<T> && std::is_trivially_copyable_v<T>,
            "a kernel argument is a Buffer, PinnedMemory, a DevicePointer, a scalar or a trivially copyable "
            "struct");
        return ParamType::bytes;
    }
}

template <class T>
inline constexpr std::size_t kArgBytes = kIsAddress<T> ? 8 : sizeof(T);
template <class T>
inline constexpr std::size_t kArgAlignment = kIsAddress<T> ? 8 : alignof(T);

template <class T>
inline std::uint64_t arg_address(const T& arg) {
    if constexpr (std::is_same_v<T, Buffer>)
        return arg.address();
    else if constexpr (std::is_same_v<T, PinnedMemory>)
        return arg.device_address();
    else if constexpr (std::is_same_v<T, DevicePointer>)
        return arg.address;
    else
        return 0;
}

// A list of arguments, or of parameters, and the bytes that they take in all, as one number (FNV-1a over its
// words): equal lists are found equal with one comparison, and two different ones have the same by no
// accident that anybody will see.
constexpr std::uint64_t layout_digest(std::span<const ArgLayout> all, std::uint64_t bytes) {
    std::uint64_t digest = 0xcbf29ce484222325;
    const auto add = [&digest](std::uint64_t word) {
        for (int shift = 0; shift < 64; shift += 8)
            digest = (digest ^ (word >> shift & 0xff)) * 0x100000001b3;
    };
    for (const ArgLayout& arg : all)
        add(static_cast<std::uint64_t>(arg.type) | std::uint64_t{arg.offset} << 16 |
            std::uint64_t{arg.size} << 32);
    add(bytes);
    return digest;
}

// What a call of launch() gives, whatever the values.
struct ArgShape {
    std::span<const ArgLayout> args;
    std::uint64_t digest;
    std::size_t padded_bytes;
};

// The arguments of one launch at CUDA's natural offsets.
template <class... Args>
struct ArgPack {
    static constexpr std::size_t kCount = sizeof...(Args);
    static constexpr std::array<ArgLayout, kCount> layout() {
        std::array<ArgLayout, kCount> all{};
        if constexpr (kCount != 0) {
            constexpr ParamType kTypes[] = {arg_type<Args>()...};
            constexpr std::size_t kSizes[] = {kArgBytes<Args>...};
            constexpr std::size_t kAlignments[] = {kArgAlignment<Args>...};
            std::size_t offset = 0;
            for (std::size_t i = 0; i < kCount; ++i) {
                offset = (offset + kAlignments[i] - 1) / kAlignments[i] * kAlignments[i];
                all[i] = {kTypes[i], 0, static_cast<std::uint16_t>(offset),
                          static_cast<std::uint32_t>(kSizes[i])};
                offset += kSizes[i];
            }
        }
        return all;
    }
    static constexpr std::array<ArgLayout, kCount> kLayout = layout();
    static constexpr std::size_t bytes() {
        if constexpr (kCount == 0)
            return 0;
        else
            return kLayout[kCount - 1].offset + kLayout[kCount - 1].size;
    }
    static_assert(bytes() <= 4096, "a kernel takes at most 4096 bytes of parameters");
    static constexpr ArgShape kShape{kLayout, layout_digest(kLayout, bytes()), padded_param_bytes(bytes())};

    static constexpr std::size_t kWords = kShape.padded_bytes / 8;
    // Does no argument reach from one word into the next? Scalars never do; a struct may.
    static constexpr bool kWithinWords = [] {
        for (const ArgLayout& arg : kLayout)
            if (arg.offset % 8 + arg.size > 8) return false;
        return true;
    }();

    // Is no argument an empty Buffer or PinnedMemory?
    [[gnu::always_inline]] static bool no_empty_buffer(const Args&... args) noexcept {
        return (true && ... && !is_empty_buffer(args));
    }
    // Which is; -1: none.
    [[gnu::always_inline]] static int empty_buffer(const Args&... args) noexcept {
        int found = -1;
        int i = 0;
        ((found = is_empty_buffer(args) ? i : found, ++i), ...);
        static_cast<void>(i);
        return found;
    }

    // Word kWord of the parameters; what stands between the arguments and behind them is zero.
    template <std::size_t kWord>
    [[gnu::always_inline]] static std::uint64_t word(const Args&... args) noexcept {
        static_assert(kWithinWords);
        return [&]<std::size_t... kArg>(std::index_sequence<kArg...>) __attribute__((always_inline)) {
            return (std::uint64_t{0} | ... | part<kWord, kArg>(args));
        }
        (std::index_sequence_for<Args...>());
    }

    // All of them.
    [[gnu::always_inline]] static void store(std::uint64_t (&words)[kWords], const Args&... args) noexcept {
        std::memset(words, 0, sizeof words);
        std::size_t i = 0;
        (store_one(reinterpret_cast<std::byte*>(words) + kLayout[i++].offset, args), ...);
        static_cast<void>(i);
    }

  private:
    template <class T>
    [[gnu::always_inline]] static bool is_empty_buffer(const T& arg) noexcept {
        if constexpr (std::is_same_v<T, Buffer> || std::is_same_v<T, PinnedMemory>)
            return arg_address(arg) == 0;
        else
            return false;
    }
    template <class T>
    [[gnu::always_inline]] static void store_one(std::byte* to, const T& arg) noexcept {
        if constexpr (kIsAddress<T>) {
            const std::uint64_t address = arg_address(arg);
            std::memcpy(to, &address, 8);
        } else {
            std::memcpy(to, &arg, sizeof arg);
        }
    }
    // What argument kArg gives to word kWord.
    template <std::size_t kWord, std::size_t kArg, class T>
    [[gnu::always_inline]] static std::uint64_t part(const T& arg) noexcept {
        if constexpr (kLayout[kArg].offset / 8 != kWord) {
            return 0;
        } else {
            std::uint64_t bits = 0;
            if constexpr (kIsAddress<T>)
                bits = arg_address(arg);
            else
                std::memcpy(&bits, &arg, sizeof arg);
            return bits << (8 * (kLayout[kArg].offset % 8));
        }
    }
};

}  // namespace detail

class Graph;

class Stream {
  public:
    Stream() = default;

    // Enqueues `kernel` over `grid` blocks of `block` threads (0 0 0: the kernel's default) with these
    // arguments: Buffers, PinnedMemory, DevicePointers, scalars and plain structs. Count, order and each type
    // must be the declared ones; a mismatch answers invalid_argument and last_error() names the parameter, as
    // it does for a kernel of another client.
    // Waits while the ring is full (bounded by the daemon's life); try_launch answers ring_full instead.
    template <class... Args>
    [[gnu::always_inline]] Status launch(const Kernel& kernel, Dim3 grid, Dim3 block,
                                         const Args&... args) noexcept {
        return launch_args<true>(kernel, grid, block, args...);
    }
    template <class... Args>
    [[gnu::always_inline]] Status try_launch(const Kernel& kernel, Dim3 grid, Dim3 block,
                                             const Args&... args) noexcept {
        return launch_args<false>(kernel, grid, block, args...);
    }
    // The same with parameters already packed at the kernel's offsets; `params` is copied.
    [[gnu::always_inline]] Status launch_packed(const Kernel& kernel, Dim3 grid, Dim3 block,
                                                std::uint32_t shared_bytes, std::span<const std::byte> params,
                                                bool wait = true) noexcept {
        if (state_ && kernel) [[likely]] {
            const detail::HotKernel& of = *kernel.state_;
            if (params.size() == of.param_bytes && of.owner == state_->owner &&
                detail::try_enqueue_launch<false>(*state_, of, grid, block, shared_bytes, params)) [[likely]]
                return Status::ok;
        }
        return launch_packed_slowly(kernel, grid, block, shared_bytes, params, wait);
    }

    // Copies of any size, through the stream's staging memory. to_device: `from` may be reused on return.
    // to_host: `to` is filled once the returned status is ok: blocks until the copy has completed.
    Status copy_to_device(const Buffer& to, const void* from, std::size_t bytes,
                          std::size_t offset = 0) noexcept;
    Status copy_to_host(void* to, const Buffer& from, std::size_t bytes, std::size_t offset = 0) noexcept;
    // Between buffers of this client and of others of the same daemon and user, on whatever devices they are.
    // The first such copy asks the daemon (Client::borrow). What another client's streams do is waited for by
    // an event.
    Status copy(const Buffer& to, std::size_t to_offset, const Buffer& from, std::size_t from_offset,
                std::size_t bytes) noexcept;
    // Copies from and to pinned memory wait for nothing: `from` may be written again, and `to` be read, once
    // the stream has passed them (record() and wait, or synchronize()).
    Status copy(const Buffer& to, std::size_t to_offset, const PinnedMemory& from, std::size_t from_offset,
                std::size_t bytes) noexcept;
    Status copy(const PinnedMemory& to, std::size_t to_offset, const Buffer& from, std::size_t from_offset,
                std::size_t bytes) noexcept;
    // `width` is 1, 2 or 4 bytes; `offset` and `bytes` are multiples of it.
    Status fill(const Buffer& to, std::uint32_t value, std::uint32_t width, std::size_t offset,
                std::size_t bytes) noexcept;

    Event record() noexcept;  // everything enqueued so far
    // What follows runs after it: of any stream of this client, or of another client of the same daemon and
    // user, on whatever device (the first such wait asks the daemon, as Client::borrow does). Within a client
    // the device waits; for another the daemon does, which looks for the event when it has nothing else to
    // do: once a millisecond, and down to every 10 ms while nothing of that stream completes.
    Status wait(const Event& event) noexcept;
    Status barrier() noexcept;  // nothing before it is ever replayed by a rerun

    // Records a graph: from begin_graph() to end_graph() launches, copies on the device and fills are not
    // enqueued but kept, with the parameters that they have now; whatever else is enqueued is refused
    // (unsupported), and end_graph() throws it. end_graph() asks the daemon, which checks all of it, and
    // blocks; it throws Error where there is nothing, too much (4096 nodes, the session's limits), or
    // something that could not be launched.
    Status begin_graph() noexcept;
    Graph end_graph();
    void abandon_graph() noexcept;  // nothing was recorded after all
    // The next launch that is recorded bears this name, by which Graph::node() finds it. Else of no effect.
    void name_next(std::string_view name) noexcept;

    Status synchronize(std::optional<std::uint64_t> timeout_ns = {}) noexcept;
    StreamStatus status() const;
    // After a stop: goes on behind what was in doubt, or with `rerun` at the first record that had not
    // completed.
    void resume(bool rerun = false);
    std::string last_error() const;  // of this thread's last refused call on this stream
    // A descriptor for event loops: readable when something that an armed event waits for may have happened.
    // The loop: event.arm() answers timed_out -> add the descriptor; readable -> on_wake(), then arm() every
    // event of this stream again that is not done. It stays the stream's. -1: it cannot be had.
    int wake_fd() const noexcept;
    void on_wake() const noexcept;
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    friend struct detail::Access;

    template <bool kWait, class... Args>
    [[gnu::always_inline]] Status launch_args(const Kernel& kernel, Dim3 grid, Dim3 block,
                                              const Args&... args) noexcept {
        using Pack = detail::ArgPack<Args...>;
        if (state_ && kernel && Pack::no_empty_buffer(args...)) [[likely]] {
            const detail::HotKernel& of = *kernel.state_;
            if (of.digest == Pack::kShape.digest && of.owner == state_->owner) [[likely]] {
                if constexpr (Pack::kWithinWords) {
                    if (detail::try_enqueue<Pack::bytes()>(
                            *state_, of, grid, block, 0,
                            [&]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>) __attribute__((
                                always_inline)) { return Pack::template word<kWord>(args...); })) [[likely]]
                        return Status::ok;
                } else {
                    std::uint64_t params[Pack::kWords];
                    Pack::store(params, args...);
                    if (detail::try_enqueue<Pack::bytes()>(
                            *state_, of, grid, block, 0,
                            [&]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>)
                                __attribute__((always_inline)) { return load_word(params + kWord); }))
                        [[likely]]
                        return Status::ok;
                }
            }
        }
        // Copies, made here: what the slow path takes the address of would be stored for every launch.
        std::uint64_t params[Pack::kWords];
        Pack::store(params, args...);
        return launch_slowly(kernel, Dim3{grid.x, grid.y, grid.z}, Dim3{block.x, block.y, block.z},
                             Pack::kShape, Pack::empty_buffer(args...), params, kWait);
    }
    // Whatever stood in the way of a launch with these words as parameters. `empty_buffer`: the argument that
    // is one, or -1.
    [[gnu::cold]] Status launch_slowly(const Kernel& kernel, Dim3 grid, Dim3 block,
                                       const detail::ArgShape& args, int empty_buffer,
                                       const std::uint64_t* params, bool wait) noexcept;
    [[gnu::cold]] Status launch_packed_slowly(const Kernel& kernel, Dim3 grid, Dim3 block,
                                              std::uint32_t shared_bytes, std::span<const std::byte> params,
                                              bool wait) noexcept;

    std::shared_ptr<detail::HotStream> state_;  // a detail::StreamState
};

// A sequence of launches, copies on the device and fills that was recorded on a stream, launched as one
// record of one slot. Nodes are numbered from 0 in the order in which they were recorded. It keeps its stream
// and its modules; the memory that it names is its maker's to keep.
//
// update() and launch() are for one thread at a time, ordered by the caller as enqueues to a stream are; a
// handle is another name of the same graph. An update is for the launches that are enqueued after it, on
// whatever stream; those before it run as they were. One that the daemon refuses stops the stream, and until
// an update of the same node is taken, launches there do, too: they would run with what was replaced.
class Graph {
  public:
    Graph() = default;
    std::size_t size() const noexcept;              // of its nodes
    std::size_t node(std::string_view name) const;  // throws Error{not_found} that lists the names there are
    const std::string& name(std::size_t node) const;  // "" without one; throws Error{not_found}

    // Gives a launch other arguments. Enqueues nothing and never blocks. invalid_argument: last_error() says
    // why, and nothing has changed.
    template <class... Args>
    Status update(std::size_t node, const Args&... args) noexcept {
        using Pack = detail::ArgPack<Args...>;
        std::uint64_t params[Pack::kWords];
        Pack::store(params, args...);
        return update_args(node, Pack::kShape, Pack::empty_buffer(args...), params);
    }
    template <class... Args>
    Status update(std::string_view name, const Args&... args) noexcept {
        return update(find(name), args...);
    }
    // The same with parameters already packed at the kernel's offsets, and another grid, block and shared
    // memory.
    Status update_packed(std::size_t node, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                         std::span<const std::byte> params) noexcept;
    Status reshape(std::size_t node, Dim3 grid, Dim3 block, std::uint32_t shared_bytes = 0) noexcept;

    // Enqueues it: one record of one slot, behind one for each launch that was updated since the last launch
    // of the graph on that stream. Waits while the ring is full. The first launch on a stream that it was not
    // recorded on asks the daemon. launch(): on the stream where it was recorded.
    Status launch(const Stream& stream) noexcept;
    Status launch() noexcept;
    std::string last_error() const;  // of this thread's last refused update or launch()
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Stream;
    friend struct detail::Access;

    std::size_t find(std::string_view name) const noexcept;  // size(): there is none
    Status update_args(std::size_t node, const detail::ArgShape& args, int empty_buffer,
                       const std::uint64_t* params) noexcept;
    Status launch_on(const std::shared_ptr<detail::StreamState>& stream) noexcept;

    std::shared_ptr<detail::GraphState> state_;
};

class Module {
  public:
    Module() = default;
    Kernel kernel(std::string_view name) const;  // throws Error{not_found} that lists the names there are
    std::vector<std::string> kernels() const;
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend class Client;
    friend struct detail::Access;
    std::shared_ptr<detail::ModuleState> state_;
};

class Client {
  public:
    Client() = default;
    static Client connect(const ConnectOptions& options = {});

    Module load(std::span<const std::byte> image, std::string name = "", const LoadOptions& options = {});
    Module load_file(const std::string& path, const LoadOptions& options = {});
    Stream stream(const StreamOptions& options = {});
    Buffer alloc(std::size_t bytes);
    PinnedMemory alloc_pinned(std::size_t bytes);  // of the session's --max-staging
    // Asks the daemon to let this client's copies name a buffer of another client, or its streams wait for
    // the event's stream: of the same daemon and user. Stream::copy and Stream::wait do it themselves at the
    // first use; done before, they ask nobody. Throws Error that says what stands between the two.
    void borrow(const Buffer& buffer);
    void borrow(const Event& event);
    // The map of a tensor that begins `offset` bytes into a buffer of this client, and lies in it: asks the
    // daemon, whose CUDA makes it, so that a kernel can be given it as a parameter (ParamType::bytes). It
    // stays right as long as the memory is the client's, also when the executor was restarted. Throws
    // Error{invalid_argument} that names what cannot be. The null driver answers what it was asked, for tests
    // (daemon/driver/tensor_map.hpp); the host driver has no such maps.
    TensorMap tensor_map(const Buffer& buffer, std::uint64_t offset, const TensorLayout& layout);
    Status synchronize(std::optional<std::uint64_t> timeout_ns = {}) noexcept;  // all streams of this client
    const DaemonInfo& daemon() const;
    // What the daemon last warned this session of (it kills executors again and again, or a part of it could
    // not be restored after a restart, so that it waits for an executor of its own); empty: nothing.
    std::string warning() const;
    void close();  // waits for nothing; handles answer `closed` from then on
    explicit operator bool() const { return state_ != nullptr; }

  private:
    friend struct detail::Access;
    std::shared_ptr<detail::ClientState> state_;
};

}  // namespace ringlaunch
