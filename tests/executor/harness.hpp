// What the executor's tests stand on: the client's and supervisor's side of a stream, hand-made kernels, and
// a driver that does what a test tells it, for what no real driver can be made to do (never complete, be
// full, refuse).
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/dispatcher.hpp"
#include "daemon/executor/memory_map.hpp"
#include "daemon/executor/session_view.hpp"
#include "daemon/executor/stream_port.hpp"
#include "schema/error.hpp"
#include "schema/ring.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"
#include "schema/wakeup.hpp"
#include "tests/make_record.hpp"

namespace ringlaunch::executor::test {

constexpr std::uint64_t make_id(std::uint32_t index, std::uint32_t generation = 1) {
    return std::uint64_t{generation} << 32 | index;
}

struct HandKernel : driver::Kernel {
    explicit HandKernel(driver::KernelLayout layout) : Kernel(std::move(layout)) {}
};

// saxpy(float* x, float* y, float* out, float a, int n): five parameters, 32 bytes, two slots.
inline driver::KernelLayout saxpy_layout() {
    using driver::ParamType;
    driver::KernelLayout layout;
    layout.name = "saxpy";
    layout.declared = true;
    layout.params = {{ParamType::Pointer, 0, 8, "x"},
                     {ParamType::Pointer, 8, 8, "y"},
                     {ParamType::Pointer, 16, 8, "out"},
                     {ParamType::Float32, 24, 4, "a"},
                     {ParamType::Int32, 28, 4, "n"}};
    layout.param_bytes = 32;
    layout.max_threads = 256;
    layout.max_dynamic_shared_bytes = 1024;
    return layout;
}

inline driver::KernelLayout empty_layout(const std::string& name) {
    driver::KernelLayout layout;
    layout.name = name;
    layout.declared = true;
    return layout;
}

// ---- the driver that does what it is told
// ------------------------------------------------------------------------------

class ScriptedStream;

struct Operation {
    enum class Kind { launch, copy, fill, wait, graph };
    Kind kind;
    std::uint64_t position, end;
    std::uint32_t word = 0;  // the first parameter word of a launch
};

// Remembers of each launch the last word of its parameters, as it is now.
class ScriptedGraph final : public driver::Graph {
  public:
    explicit ScriptedGraph(std::span<const driver::GraphNode> nodes, const Status& refuse_with)
        : refuse_with_(refuse_with) {
        for (const driver::GraphNode& node : nodes) {
            const auto* launch = std::get_if<driver::Launch>(&node);
            words.push_back(launch == nullptr ? 0 : word_of(*launch));
        }
    }
    Status update(std::size_t node, const driver::Launch& launch) noexcept override {
        if (refuse_with_ != Status::ok) return refuse_with_;
        words[node] = word_of(launch);
        return Status::ok;
    }
    const char* why() const noexcept override { return "the test refuses it"; }

    static std::uint32_t word_of(const driver::Launch& launch) noexcept {
        std::uint32_t word = 0;
        if (launch.param_bytes >= 4) std::memcpy(&word, launch.params + launch.param_bytes - 4, 4);
        return word;
    }
    std::vector<std::uint32_t> words;

  private:
    const Status& refuse_with_;
};

// Everything a test may turn; under the driver's mutex, because the dispatch thread reads it.
class ScriptedDriver final : public driver::Driver {
  public:
    ScriptedDriver() : completion_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        device_.name = "scripted";
        device_.range_base = 0x100000000;
        device_.range_bytes = 64u << 20;
        device_.staging_base = 0x200000000;
        device_.staging_bytes = 64u << 20;
        device_.max_grid = {1000, 100, 10};
        device_.max_block = {1024, 64, 32};
    }
    const driver::DeviceInfo& device() const override { return device_; }
    UniqueFd make_chunk(std::uint64_t, std::uint64_t) override { return {}; }
    void map_chunk(std::uint64_t, std::uint64_t, const UniqueFd&) override {}
    void unmap_chunk(std::uint64_t, std::uint64_t) override {}
    std::unique_ptr<driver::Staging> map_staging(std::uint64_t, const UniqueFd&, std::uint64_t) override {
        return nullptr;
    }
    std::unique_ptr<driver::Module> load_module(const std::string&, const UniqueFd&, std::uint64_t,
                                                const driver::LoadOptions&) override {
        return nullptr;
    }
    std::unique_ptr<driver::Stream> open_stream(const driver::StreamConfig& config) override;
    TensorMap make_tensor_map(std::uint64_t, std::uint64_t, const TensorLayout&) override {
        throw Error(Status::unsupported, "the test makes no maps of tensors");
    }
    std::unique_ptr<driver::Graph> make_graph(std::span<const driver::GraphNode> nodes) override {
        if (no_graphs) throw Error(Status::out_of_memory, "the test has no room for graphs");
        return std::make_unique<ScriptedGraph>(nodes, refuse_updates_with);
    }
    int completion_fd() const override { return completion_.get(); }
    std::optional<std::string> failure() noexcept override { return failed; }
    bool has_stack(std::uint64_t bytes) override {
        if (bytes > stack_room) throw Error(Status::out_of_memory, "the test has no room for stacks");
        return bytes <= stack;
    }
    void give_stack(std::uint64_t bytes) override {
        if (refuse_stack) throw Error(Status::unsupported, "the test gives no stack");
        stack = bytes;
        ++stack_changes;
    }

    std::uint64_t stack = 1024, stack_room = 1u << 20;
    bool refuse_stack = false;
    int stack_changes = 0;
    bool changes_stall() const noexcept override { return stalls; }

    bool stalls = false;
    std::atomic<int> streams{0};
    bool no_graphs = false;
    Status refuse_updates_with = Status::ok;

    bool completes_at_once = true;
    bool notifies_last_only = false;     // notify_at() knows only the last position issued
    bool publishes = false;              // its streams do not write `completed` before they are told to
    std::size_t room = ~std::size_t{0};  // operations a stream takes before it says ring_full
    Status refuse_with = Status::ok;     // the answer to the operation at refuse_at
    std::uint64_t refuse_at = 0;
    const char* refuse_text = "";
    std::optional<std::string> failed;

  private:
    driver::DeviceInfo device_;
    UniqueFd completion_;
};

// Completion is visible only as far as complete() asked, as on a GPU.
class ScriptedStream final : public driver::Stream {
  public:
    ScriptedStream(const driver::StreamConfig& config, ScriptedDriver& driver)
        : config_(config), driver_(driver) {
        ++driver_.streams;
    }
    ~ScriptedStream() override { --driver_.streams; }

    const char* why() const noexcept override { return driver_.refuse_text; }
    Status launch(const driver::Launch& launch) noexcept override {
        std::uint32_t word = 0;
        if (launch.param_bytes >= 4) std::memcpy(&word, launch.params + launch.param_bytes - 4, 4);
        return take({Operation::Kind::launch, launch.position, launch.end, word});
    }
    Status launch_chain(std::span<const driver::Launch> launches, std::size_t& taken) noexcept override {
        for (taken = 0; taken < launches.size(); ++taken)
            if (const Status status = launch(launches[taken]); status != Status::ok) return status;
        longest_chain = std::max(longest_chain, launches.size());
        return Status::ok;
    }
    Status copy(const driver::Copy& copy) noexcept override {
        return take({Operation::Kind::copy, copy.position, copy.end});
    }
    Status fill(const driver::Fill& fill) noexcept override {
        return take({Operation::Kind::fill, fill.position, fill.end});
    }
    Status launch_graph(driver::Graph& graph, std::uint64_t position, std::uint64_t end) noexcept override {
        const Status status = take({Operation::Kind::graph, position, end});
        if (status == Status::ok) graphs.push_back(static_cast<ScriptedGraph&>(graph).words);
        return status;
    }
    Status wait(driver::Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept override {
        const Status status = take({Operation::Kind::wait, end - 1, end});
        if (status == Status::ok) waits.emplace_back(static_cast<ScriptedStream*>(&awaited), position);
        return status;
    }
    Status complete(std::uint64_t position) noexcept override {
        const std::lock_guard lock(mutex_);
        asked.push_back(position);
        if (driver_.completes_at_once || done_ >= last_end_) done_ = std::max(done_, position);
        pending_.push_back(position);
        show();
        return Status::ok;
    }
    bool notify_at(std::uint64_t position) noexcept override {
        const std::lock_guard lock(mutex_);
        if (driver_.notifies_last_only && position < last_end_) return false;
        notified.push_back(position);
        awaited_.push_back(position);
        show();
        return true;
    }
    driver::GraphUse graph_use() const noexcept override { return use; }
    void forget_all() noexcept override { ++forgotten; }
    bool drain(std::uint64_t) noexcept override { return true; }
    bool publishes() const noexcept override { return driver_.publishes; }
    void publish() noexcept override {
        const std::lock_guard lock(mutex_);
        config_.completed->store(visible_, std::memory_order_release);
    }

    // The test is the device: everything before `position` has run.
    void run_to(std::uint64_t position) {
        const std::lock_guard lock(mutex_);
        done_ = std::max(done_, position);
        show();
    }
    void run_all() { run_to(~std::uint64_t{0}); }

    std::vector<Operation> operations;
    std::vector<std::uint64_t> issued_seen;  // `issued` of the page, when each operation came
    std::vector<std::pair<ScriptedStream*, std::uint64_t>> waits;
    std::vector<std::vector<std::uint32_t>> graphs;  // the words of each graph launched
    std::vector<std::uint64_t> asked, notified;
    std::size_t longest_chain = 0;
    driver::GraphUse use;  // what it says
    int forgotten = 0;

  private:
    Status take(Operation operation) noexcept {
        const std::lock_guard lock(mutex_);
        if (driver_.refuse_with != Status::ok && operation.position == driver_.refuse_at)
            return driver_.refuse_with;
        std::size_t outstanding = 0;
        for (const Operation& each : operations) outstanding += each.end > done_;
        if (!driver_.completes_at_once && outstanding >= driver_.room) return Status::ring_full;
        const auto* page = reinterpret_cast<const StatusPage*>(
            reinterpret_cast<const std::byte*>(config_.completed) - offsetof(StatusPage, completed));
        issued_seen.push_back(page->issued.load());
        operations.push_back(operation);
        last_end_ = operation.end;
        if (driver_.completes_at_once) done_ = std::max(done_, operation.end);
        return Status::ok;
    }
    void show() {
        std::erase_if(pending_, [&](std::uint64_t position) {
            if (position > done_) return false;
            visible_ = position;
            if (!driver_.publishes) config_.completed->store(position, std::memory_order_release);
            return true;
        });
        const std::uint64_t visible = driver_.publishes ? visible_ : config_.completed->load();
        std::erase_if(awaited_, [&](std::uint64_t position) {
            if (position > visible) return false;
            const std::uint64_t one = 1;
            EXPECT_EQ(::write(driver_.completion_fd(), &one, sizeof one), 8);
            return true;
        });
    }

    const driver::StreamConfig config_;
    ScriptedDriver& driver_;
    std::mutex mutex_;
    std::uint64_t done_ = 0, last_end_ = 0;
    std::uint64_t visible_ = config_.position;
    std::deque<std::uint64_t> pending_, awaited_;
};

inline std::unique_ptr<driver::Stream> ScriptedDriver::open_stream(const driver::StreamConfig& config) {
    return std::make_unique<ScriptedStream>(config, *this);
}

// ---- the other side of a stream
// ------------------------------------------------------------------------------------------

// The segments as the supervisor makes them, and a producer as a client has one.
class ClientStream {
  public:
    ClientStream(std::uint64_t session, std::uint64_t with_id, std::uint32_t with_slots = 256,
                 std::uint64_t begins_at = 0)
        : id(with_id),
          slots(with_slots),
          position(begins_at),
          ring_fd(make_memfd("ring", ring_segment_bytes(slots))),
          status_fd(make_memfd("status", kStatusPageBytes)),
          wake_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
          ring_mapping(ring_fd, ring_segment_bytes(slots), Mapping::Access::read_write, "ring"),
          status_mapping(status_fd, kStatusPageBytes, Mapping::Access::read_write, "status"),
          header(ring_mapping.as<RingHeader>()),
          ring(ring_mapping.as<Slot>(kRingHeaderBytes)),
          page(status_mapping.as<StatusPage>()),
          producer(ring, slots, position) {
        header->magic = kRingMagic;
        header->version = kProtocolVersion;
        header->slot_count = slots;
        header->session = session;
        header->stream = id;
        page->magic = kStatusMagic;
        page->version = kProtocolVersion;
        page->epoch = 1;
        page->session = session;
        page->stream = id;
        page->start_position = position;
        page->slot_count = slots;
        page->completed = position;
        page->issued = position;
    }

    StreamSetup setup() const {
        StreamSetup setup;
        setup.id = id;
        setup.ring_slots = slots;
        setup.position = position;
        return setup;
    }

    // Makes and publishes; returns the position after it. The test fails where the ring is full.
    template <class Record>
    std::uint64_t put(Record record, std::uint32_t count = 1) {
        EXPECT_EQ(producer.reserve(count, page->completed), Status::ok) << "the ring is full";
        record.mutate_slots(static_cast<std::uint16_t>(count));
        return producer.publish(record);
    }
    std::uint64_t put_launch(std::uint64_t kernel, const std::vector<std::byte>& params,
                             const std::function<void(schema::LaunchRecord&)>& change = {}) {
        schema::LaunchRecord record = ringlaunch::test::launch_record(kernel, params, 1, 32);
        EXPECT_EQ(producer.reserve(record.slots(), page->completed), Status::ok) << "the ring is full";
        ringlaunch::test::write_continuations(producer, params, kHeadParamBytes);
        if (change) change(record);
        return producer.publish(record);
    }
    std::uint64_t put_event() {
        schema::EventRecord record{};
        record.mutate_kind(schema::RecordKind::EventRecord);
        return put(record);
    }
    std::uint64_t put_wait(std::uint64_t stream, std::uint64_t at) {
        schema::WaitRecord record{};
        record.mutate_kind(schema::RecordKind::EventWait);
        record.mutate_stream(stream);
        record.mutate_position(at);
        return put(record);
    }
    // A record with nothing but a kind and whatever else the test puts into it.
    std::uint64_t put_raw(schema::RecordKind kind, std::uint32_t count = 1) {
        schema::PaddingRecord record{};
        record.mutate_kind(kind);
        return put(record, count);
    }

    schema::StreamState state() const { return static_cast<schema::StreamState>(page->state.load()); }
    Status error() const { return static_cast<Status>(page->error_status); }
    std::string text() const { return page->error_text; }
    std::uint64_t completed() const { return page->completed.load(); }
    std::uint64_t issued() const { return page->issued.load(); }
    // How often the wake eventfd was written since the last call.
    std::uint64_t take_wakes() {
        std::uint64_t wakes = 0;
        return ::read(wake_fd.get(), &wakes, sizeof wakes) == sizeof wakes ? wakes : 0;
    }

    const std::uint64_t id;
    const std::uint32_t slots;
    const std::uint64_t position;
    UniqueFd ring_fd, status_fd, wake_fd;
    Mapping ring_mapping, status_mapping;
    RingHeader* header;
    Slot* ring;
    StatusPage* page;
    RingProducer<> producer;
    RungSleep rung;
};

inline std::vector<std::byte> saxpy_params(std::uint64_t x, std::uint64_t y, std::uint64_t out, int n) {
    std::vector<std::byte> params(32);
    const float a = 2;
    std::memcpy(params.data(), &x, 8);
    std::memcpy(params.data() + 8, &y, 8);
    std::memcpy(params.data() + 16, &out, 8);
    std::memcpy(params.data() + 24, &a, 4);
    std::memcpy(params.data() + 28, &n, 4);
    return params;
}

inline bool readable(int fd, int timeout_ms = 0) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, timeout_ms) == 1;
}

// ---- a dispatcher with a scripted driver, one session, two kernels and a chunk
// -------------------------------------------

class DispatcherTest : public ::testing::Test {
  protected:
    static constexpr std::uint64_t kSession = 7, kStranger = 8;
    static constexpr std::uint64_t kSaxpy = make_id(0);
    static constexpr std::uint64_t kEmpty = make_id(1);

    explicit DispatcherTest(DispatcherConfig config = {})
        : memory(driver.device()), dispatcher(config, driver, memory), config_(config) {
        view.id = kSession;
        view.tag = 1;
        view.kernels.set(kSaxpy, &saxpy_entry);
        view.kernels.set(kEmpty, &empty_entry);
        stranger.id = kStranger;
        stranger.tag = 2;
        stranger.kernels.set(kEmpty, &empty_entry);
        memory.device.set_owner(view.tag, base(), 2 * driver.device().chunk_bytes);
    }
    ~DispatcherTest() override {
        for (auto& port : ports) dispatcher.remove(*port);
    }

    std::uint64_t base() const { return driver.device().range_base; }
    // Opens the stream in the dispatcher. `change` may turn the setup.
    StreamPort& open(ClientStream& client, const std::function<void(StreamSetup&)>& change = {},
                     const SessionView* of = nullptr) {
        StreamSetup setup = client.setup();
        setup.max_in_flight = config_.max_in_flight;
        if (change) change(setup);
        ports.push_back(std::make_unique<StreamPort>(setup, of != nullptr ? *of : view, driver,
                                                     client.ring_fd, client.status_fd,
                                                     client.wake_fd.duplicate()));
        dispatcher.add(*ports.back());
        return *ports.back();
    }
    void close_now(StreamPort& port) {
        dispatcher.remove(port);
        std::erase_if(ports, [&](const auto& each) { return each.get() == &port; });
    }
    static ScriptedStream& device(StreamPort& port) {
        return static_cast<ScriptedStream&>(*port.driver_stream);
    }
    std::uint64_t put_saxpy(ClientStream& client, int n = 1) {
        return client.put_launch(kSaxpy, saxpy_params(base(), 0, base() + 64, n));
    }
    // Turns until there is nothing to do.
    void work() {
        for (int i = 0; i < 10'000; ++i)
            if (!dispatcher.do_work()) return;
        FAIL() << "the dispatcher finds work for ever";
    }
    bool has_notice(Notice::Kind kind, std::uint64_t id) {
        for (const Notice& notice : dispatcher.notices())
            if (notice.kind == kind && notice.id == id) return true;
        return false;
    }

    ScriptedDriver driver;
    MemoryMap memory;
    HandKernel saxpy{saxpy_layout()}, empty{empty_layout("empty")};
    KernelEntry saxpy_entry{saxpy}, empty_entry{empty};
    SessionView view, stranger;  // another session
    Dispatcher dispatcher;
    std::vector<std::unique_ptr<StreamPort>> ports;

  private:
    DispatcherConfig config_;
};

}  // namespace ringlaunch::executor::test
