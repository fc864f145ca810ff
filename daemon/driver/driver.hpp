// The driver interface: what an executor launches on. Three implementations (cuda, host, null), one contract
// test-suite (tests/driver). Everything above this interface is the same code on all three.
//
// Threads: `Driver` and `Module` belong to the control thread; `Stream`'s operations to the dispatch thread,
// except open and destruction, which the control thread does while the dispatcher does not know the stream.
// Errors: control functions throw ringlaunch::Error with a text for people; stream operations return a
// Status, allocate nothing and never block, as long as no more than StreamConfig::max_in_flight operations
// are outstanding.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "control_generated.h"
#include "daemon/driver/fault.hpp"
#include "record_generated.h"
#include "schema/pages.hpp"
#include "schema/status.hpp"
#include "schema/tensor_map.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

using schema::DriverKind;
using schema::ParamType;

struct Dim3 {
    std::uint32_t x = 1, y = 1, z = 1;
    bool operator==(const Dim3&) const = default;
};

struct DeviceInfo {
    DriverKind kind = DriverKind::Null;
    int ordinal = 0;
    std::string name;          // "NVIDIA H200", "host (AMD EPYC)", "null"
    std::string architecture;  // "sm_90", "x86-64"
    // The reserved address range of the device, and the unit in which chunks are made.
    std::uint64_t range_base = 0;
    std::uint64_t range_bytes = 0;
    std::uint64_t chunk_bytes = 2u << 20;
    // The addresses of staging segments, which kernels reach too; each segment takes whole chunk_bytes of
    // them.
    std::uint64_t staging_base = 0;
    std::uint64_t staging_bytes = 0;
    Dim3 max_grid, max_block;
    std::uint32_t max_threads_per_block = 1024;
    std::uint32_t max_param_bytes = 4096;
    // Of streams; the greater number is served first.
    int lowest_priority = 0, highest_priority = 5;
};

struct Param {
    ParamType type = ParamType::Unknown;
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
    std::string name;
};

// How a kernel is launched, beside grid and block. What a driver cannot do for its kernels it refuses where
// they are configured. cuda: all of it. null: takes all of it, for it runs nothing. host runs the blocks of a
// grid one after another: `programmatic` it honours, for it permits and demands nothing; clusters of more
// than one block and `cooperative` it refuses, for blocks could not wait for each other.
struct LaunchAttributes {
    Dim3 cluster;              // blocks of a thread block cluster; the grid is whole clusters
    bool cooperative = false;  // all blocks are on the device at once, so that the grid may synchronize
    // May begin before the launch ahead of it in its stream has ended. Such a kernel waits itself for what it
    // needs of it (cudaGridDependencySynchronize), and before it ends.
    bool programmatic = false;
    bool operator==(const LaunchAttributes&) const = default;
};

// What a kernel takes: declared types, confirmed against the offsets and sizes that the image says.
struct KernelLayout {
    std::string name;
    bool declared = false;  // false: offsets and sizes only; a launch is refused
    std::vector<Param> params;
    std::uint32_t param_bytes = 0;
    std::uint32_t max_threads = 1024;
    Dim3 default_block{0, 0, 0};
    std::uint32_t static_shared_bytes = 0;
    std::uint32_t max_dynamic_shared_bytes = 0;
    std::uint32_t registers = 0;    // of a thread; 0: not known
    std::uint32_t local_bytes = 0;  // of a thread: its stack, and registers that were spilled
    LaunchAttributes attributes;
};

// A declaration that came from outside the image (load(..., signatures=)).
struct Signature {
    std::string kernel;
    std::vector<Param> params;
};

// How an image is loaded, beside what it holds.
struct LoadOptions {
    std::span<const Signature> signatures;
    // The most registers that a thread may take, 0: as many as the compiler likes. Only what the driver
    // itself compiles (cuda: PTX) can be told; where an image is compiled already it is refused.
    std::uint32_t max_registers = 0;
};

class Module;

class Kernel {
  public:
    virtual ~Kernel() = default;
    const KernelLayout& layout() const { return layout_; }
    const Module* owner() const { return owner_; }

  protected:
    explicit Kernel(KernelLayout layout) : layout_(std::move(layout)) {}
    KernelLayout layout_;

  private:
    friend class OwningModule;
    const Module* owner_ = nullptr;
};

class Module {
  public:
    virtual ~Module() = default;
    // In the image's order; the module owns them.
    virtual std::span<Kernel* const> kernels() const = 0;
    // The same kernel, launched with these attributes; the module owns it, and makes it once. Throws
    // Error{unsupported} or Error{invalid_argument} that names the kernel, the attribute and the bound.
    virtual Kernel& configure(const Kernel& kernel, const LaunchAttributes& attributes) = 0;
};

// Staging memory as the executor has it mapped, within DeviceInfo's range for it. Destroyed before its
// driver.
class Staging {
  public:
    virtual ~Staging() = default;
    virtual std::size_t size() const = 0;
};

struct Launch {
    Kernel* kernel = nullptr;
    std::uint64_t kernel_id = 0;  // in the session, for fault reports
    std::uint64_t position = 0;   // the record's first slot, for fault reports
    std::uint64_t end = 0;        // the position after the record
    Dim3 grid, block;
    std::uint32_t shared_bytes = 0;
    const std::byte* params = nullptr;  // validated; the driver copies what outlives the call
    std::uint32_t param_bytes = 0;
};

struct Copy {
    schema::RecordKind kind{};  // CopyToDevice, CopyToHost, CopyOnDevice
    std::uint64_t position = 0, end = 0;
    std::uint64_t device = 0;    // the destination of CopyOnDevice
    std::uint64_t source = 0;    // CopyOnDevice
    Staging* staging = nullptr;  // else; lives until this operation has completed
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

struct Fill {
    std::uint64_t position = 0, end = 0;
    std::uint64_t device = 0;
    std::uint64_t bytes = 0;
    std::uint32_t value = 0;
    std::uint32_t width = 1;
};

// A sequence that is made once and launched as one. What it runs may be launched with other parameters later;
// what it is made of stays. Belongs to whom made it: the control thread makes and destroys it, when no launch
// of it is in flight and the dispatcher does not know it. Launched on one stream.
using GraphNode = std::variant<Launch, Copy, Fill>;  // `position` and `end` mean nothing here
class Graph {
  public:
    virtual ~Graph() = default;
    // Dispatch thread. For all launches of the graph that follow; not for those in flight. `node` is a
    // launch, of the same kernel.
    [[nodiscard]] virtual Status update(std::size_t node, const Launch& launch) noexcept = 0;
    // What the driver says of the last update that it refused, in words.
    virtual const char* why() const noexcept { return ""; }
};

struct StreamConfig {
    std::uint64_t id = 0;  // for fault reports
    // The word of the status page that the device writes. It stands in a page (kPageBytes, on such a
    // boundary) that is this stream's alone and stays until the stream is destroyed. Opening the stream sets
    // it to `position`, where the stream begins.
    SharedU64* completed = nullptr;
    std::uint64_t position = 0;
    int priority = 0;  // within the device's range
    std::uint32_t max_in_flight = 256;
    bool coalesce = true;  // false: each launch is given to the device by itself, as it is
};

// How many launches of a stream went to the device in launch graphs.
struct GraphUse {
    std::uint64_t chained = 0;         // several in one graph
    std::uint64_t in_long_chains = 0;  // of those, kLongChain (chain_policy.hpp) and more
    std::uint64_t singly = 0;          // each in a graph of its own
};

// In-order work. An operation's `end` becomes visible in `completed` once it and all before it have
// completed: at once where the driver can say so for nothing, at the latest when complete() asked for it.
// Every operation may answer Status::ring_full: there is no room now, ask again when some have completed.
class Stream {
  public:
    // Control thread. Drops what has not begun; what runs and does not end within a second is left to itself:
    // then it never touches `completed` again, but only the end of the process ends it. Whoever wants the
    // work calls drain().
    virtual ~Stream() = default;
    // Control thread, when the dispatcher no longer knows the stream. Waits until everything issued has
    // completed, and all that complete() asked for is visible; false: it has not within `timeout_ns`.
    [[nodiscard]] virtual bool drain(std::uint64_t timeout_ns) noexcept = 0;
    [[nodiscard]] virtual Status launch(const Launch& launch) noexcept = 0;
    // The same as launching each in turn; the driver may do it faster. Sets `taken` to how many it took.
    [[nodiscard]] virtual Status launch_chain(std::span<const Launch> launches,
                                              std::size_t& taken) noexcept = 0;
    // Dispatch thread. Of launch() and launch_chain() so far.
    virtual GraphUse graph_use() const noexcept { return {}; }
    // The module is about to be destroyed, and nothing of it is in flight: what was kept of its kernels to
    // launch them faster goes.
    virtual void forget(const Module&) noexcept {}
    // The same of all modules: their kernels' threads got another stack. Nothing is in flight.
    virtual void forget_all() noexcept {}
    // Dispatch thread. As if it had been opened at `position`, for a stream that was given nothing so far.
    // False: another has to be opened.
    [[nodiscard]] virtual bool begin_at(std::uint64_t) noexcept { return false; }
    [[nodiscard]] virtual Status copy(const Copy& copy) noexcept = 0;
    [[nodiscard]] virtual Status fill(const Fill& fill) noexcept = 0;
    // Everything in it, in its order, as one operation.
    [[nodiscard]] virtual Status launch_graph(Graph& graph, std::uint64_t position,
                                              std::uint64_t end) noexcept = 0;
    // What the driver says of the last operation that it refused, in words; empty: nothing.
    virtual const char* why() const noexcept { return ""; }
    // What follows runs after `awaited` (same driver) has completed `position`, which was issued to it
    // before; else invalid_argument.
    [[nodiscard]] virtual Status wait(Stream& awaited, std::uint64_t position,
                                      std::uint64_t end) noexcept = 0;
    // Makes completion up to `position` visible as soon as it is reached. `position` is the end of the last
    // operation issued, or lies after it: records that are no operation (events, padding, a wait that was
    // over) have positions too, and they have completed once all before them has.
    [[nodiscard]] virtual Status complete(std::uint64_t position) noexcept = 0;
    // Signals Driver::completion_fd() once, as soon as `position`, which complete() was asked for, is visible
    // in `completed`; at once if it is. False: this driver cannot without holding up what was issued behind
    // it; nothing will be signalled.
    [[nodiscard]] virtual bool notify_at(std::uint64_t position) noexcept = 0;
    // True: the device does not write `completed` itself, and publish() does that before each look at it.
    virtual bool publishes() const noexcept { return false; }
    virtual void publish() noexcept {}
};

// A driver holds what is the process's alone (an address range), so there is one at a time; a destroyed one
// leaves the process fit for the next, unless a kernel faulted.
class Driver {
  public:
    virtual ~Driver() = default;
    virtual const DeviceInfo& device() const = 0;

    // Device memory: chunks at fixed addresses within the reserved range. make_chunk returns the descriptor
    // from which another executor maps the same bytes. New chunks are zero. map_chunk also takes a chunk of
    // another device of this driver, at its address in that device's range: for copies, which name addresses
    // of both.
    virtual UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes) = 0;
    virtual void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) = 0;
    virtual void unmap_chunk(std::uint64_t address, std::uint64_t bytes) = 0;
    // What host and device both reach at `address`: copies go from and to it, and kernels read and write it.
    virtual std::unique_ptr<Staging> map_staging(std::uint64_t address, const UniqueFd& segment,
                                                 std::uint64_t bytes) = 0;

    // `image` is an immutable sealed memfd. Refuses what is not the driver's with Error{bad_image} that says
    // what was found and what is expected; a signature that contradicts the image with the kernel, the
    // parameter and both sizes; a limit of registers that has no meaning for it with Error{unsupported}.
    virtual std::unique_ptr<Module> load_module(const std::string& name, const UniqueFd& image,
                                                std::uint64_t bytes, const LoadOptions& options) = 0;
    // Has each thread a stack of so many bytes, beyond what a kernel's code says it needs? Throws Error where
    // it cannot be had, and says how much can. null runs nothing, so it has all; host: what its threads have.
    virtual bool has_stack(std::uint64_t) { return true; }
    // Each thread of each kernel has so much from now on, and for as long as this driver is. Called while
    // nothing is in flight and nothing is issued; has_stack() said no. Throws Error, and all is as before.
    virtual void give_stack(std::uint64_t) {}
    virtual std::unique_ptr<Stream> open_stream(const StreamConfig& config) = 0;
    // The map of a tensor at `address`, from where on `bytes` may be read. Throws Error{invalid_argument}
    // that names the argument which cannot be. cuda: what CUDA makes of it. null: the arguments themselves,
    // in the form of NullTensorMap (daemon/driver/tensor_map.hpp). host throws Error{unsupported}: a CPU
    // reads none.
    virtual TensorMap make_tensor_map(std::uint64_t address, std::uint64_t bytes,
                                      const TensorLayout& layout) = 0;
    // Parameters are copied. Copies are of the kind CopyOnDevice. Throws Error{unsupported} that names what a
    // graph of this driver does not take, and Error{out_of_memory} where there is no room for another.
    virtual std::unique_ptr<Graph> make_graph(std::span<const GraphNode> nodes) = 0;

    // Do loading and unloading a module, and letting go of streams and of staging, wait for all that the
    // device has, and every launch with them?
    virtual bool changes_stall() const noexcept { return false; }

    // An eventfd that notify_at() signals; the dispatcher sleeps on it.
    virtual int completion_fd() const = 0;
    // Dispatch thread, about once a turn: has the device failed for good? The text names what is known.
    virtual std::optional<std::string> failure() noexcept = 0;
};

// What null and host have no use for.
struct CudaOptions {
    bool fault_dumps = false;       // a fault leaves on the fault page which launch it was
    std::uint64_t stack_bytes = 0;  // of each thread, beyond what a kernel's code says; 0: CUDA's own
    bool direct_peers = true;       // false: copies from and to other devices go through the host, as they do
                                    // between devices that cannot reach each other
};

// Throws Error{unsupported} that says precisely what is missing. `fault`: where a fault leaves word; may be
// null. `note`: why it is this driver and no other, for who brings what only another takes; empty: nothing to
// say.
std::unique_ptr<Driver> make_driver(DriverKind kind, int device, FaultPage* fault,
                                    const CudaOptions& options = {}, const std::string& note = {});

}  // namespace ringlaunch::driver
