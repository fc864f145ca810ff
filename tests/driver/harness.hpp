// What the driver tests share: memory, staging and streams of a driver, packed parameters and bounded waits.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "schema/error.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

inline constexpr std::chrono::seconds kPatience{20};  // a watchdog, not a measure

inline bool eventually(const std::function<bool()>& holds) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (!holds()) {
        if (std::chrono::steady_clock::now() > until) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return true;
}

inline std::vector<std::byte> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

inline std::unique_ptr<Module> load(Driver& driver, const std::string& path,
                                    const std::vector<Signature>& signatures = {}) {
    const std::vector<std::byte> bytes = read_file(path);
    return driver.load_module("test", make_image("test", bytes), bytes.size(), {signatures, 0});
}

inline Kernel* find(const Module& module, const std::string& name) {
    for (Kernel* kernel : module.kernels())
        if (kernel->layout().name == name) return kernel;
    throw std::runtime_error("no kernel " + name);
}

// Parameters at CUDA's natural offsets.
template <class... Params>
std::vector<std::byte> pack(const Params&... params) {
    std::vector<std::byte> packed;
    const auto add = [&](const auto& param) {
        constexpr std::size_t kAlignment = alignof(decltype(param));
        const std::size_t at = (packed.size() + kAlignment - 1) / kAlignment * kAlignment;
        packed.resize(at + sizeof(param));
        std::memcpy(packed.data() + at, &param, sizeof(param));
    };
    (add(params), ...);
    return packed;
}

// Runs `body` in a child process that a watchdog ends, and returns its wait status. For what ends its
// process, or leaves it unfit for the next test.
inline int in_child(const std::function<void()>& body) {
    ::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        const rlimit no_core{0, 0};
        ::setrlimit(RLIMIT_CORE, &no_core);
        body();
        ::fflush(nullptr);
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
}

// Why no CUDA device can be used here; empty: one can. Asked without the driver under test, whose own failure
// must not read as a missing device.
inline std::string no_cuda_device() {
    void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return std::string("there is no libcuda.so.1: ") + ::dlerror();
    const auto init = reinterpret_cast<int (*)(unsigned)>(::dlsym(library, "cuInit"));
    const auto count = reinterpret_cast<int (*)(int*)>(::dlsym(library, "cuDeviceGetCount"));
    if (init == nullptr || count == nullptr) return "libcuda.so.1 lacks cuInit or cuDeviceGetCount";
    if (const int result = init(0); result != 0) return "cuInit says " + std::to_string(result);
    int devices = 0;
    if (const int result = count(&devices); result != 0)
        return "cuDeviceGetCount says " + std::to_string(result);
    return devices > 0 ? std::string() : "CUDA shows no device";
}

template <class T>
T* device_pointer(std::uint64_t address) {
    return reinterpret_cast<T*>(address);
}

// A stream and its status page. Every record is one position long.
class TestStream {
  public:
    explicit TestStream(Driver& driver, std::uint64_t position = 0, std::uint32_t max_in_flight = 64,
                        bool coalesce = true)
        : position_(position) {
        StreamConfig config;
        config.id = 7;
        config.completed = &page_->completed;
        config.position = position;
        config.max_in_flight = max_in_flight;
        config.coalesce = coalesce;
        stream_ = driver.open_stream(config);
    }

    Stream& operator*() { return *stream_; }
    std::uint64_t position() const { return position_; }
    std::uint64_t completed() const { return page_->completed.load(std::memory_order_acquire); }
    void destroy() { stream_.reset(); }

    // Tries once.
    Status try_launch(Kernel* kernel, Dim3 grid, Dim3 block, const std::vector<std::byte>& params = {}) {
        const Status status = stream_->launch(make_launch(kernel, grid, block, params, position_));
        if (status == Status::ok) ++position_;
        return status;
    }
    // These wait for room.
    void launch(Kernel* kernel, Dim3 grid, Dim3 block, const std::vector<std::byte>& params = {}) {
        insist([&] { return try_launch(kernel, grid, block, params); });
    }
    void launch_chain(std::span<const Launch> launches) {
        for (std::size_t taken = 0; !launches.empty(); launches = launches.subspan(taken)) {
            insist([&] {
                const Status status = stream_->launch_chain(launches, taken);
                return status == Status::ring_full && taken != 0 ? Status::ok : status;
            });
            ASSERT_LE(taken, launches.size());
            ASSERT_GT(taken, 0u);
            position_ += taken;
        }
    }
    void copy(schema::RecordKind kind, std::uint64_t device, std::uint64_t bytes, Staging* staging,
              std::uint64_t offset, std::uint64_t source = 0) {
        Copy copy;
        copy.kind = kind;
        copy.position = position_;
        copy.end = position_ + 1;
        copy.device = device;
        copy.source = source;
        copy.staging = staging;
        copy.offset = offset;
        copy.bytes = bytes;
        insist([&] { return stream_->copy(copy); });
        ++position_;
    }
    void fill(std::uint64_t device, std::uint64_t bytes, std::uint32_t value, std::uint32_t width) {
        Fill fill;
        fill.position = position_;
        fill.end = position_ + 1;
        fill.device = device;
        fill.bytes = bytes;
        fill.value = value;
        fill.width = width;
        insist([&] { return stream_->fill(fill); });
        ++position_;
    }
    void launch_graph(Graph& graph) {
        insist([&] { return stream_->launch_graph(graph, position_, position_ + 1); });
        ++position_;
    }
    void wait(TestStream& awaited, std::uint64_t position) {
        insist([&] { return stream_->wait(*awaited.stream_, position, position_ + 1); });
        ++position_;
    }
    [[nodiscard]] bool finish() {
        insist([&] { return stream_->complete(position_); });
        return eventually([&] { return completed() >= position_; });
    }

    static Launch make_launch(Kernel* kernel, Dim3 grid, Dim3 block, const std::vector<std::byte>& params,
                              std::uint64_t position) {
        Launch launch;
        launch.kernel = kernel;
        launch.kernel_id = 99;
        launch.position = position;
        launch.end = position + 1;
        launch.grid = grid;
        launch.block = block;
        launch.params = params.data();
        launch.param_bytes = static_cast<std::uint32_t>(params.size());
        return launch;
    }
    void moved_to(std::uint64_t position) { position_ = position; }

  private:
    void insist(const std::function<Status()>& call) {
        Status status = Status::ring_full;
        ASSERT_TRUE(eventually([&] { return (status = call()) != Status::ring_full; }));
        ASSERT_EQ(status, Status::ok);
    }

    struct alignas(kPageBytes) Page {
        SharedU64 completed{~std::uint64_t{0}};
    };
    std::unique_ptr<Page> page_ = std::make_unique<Page>();
    std::uint64_t position_;
    std::unique_ptr<Stream> stream_;
};

// A driver with one chunk of memory and one staging segment, which is how a test looks into the chunk.
class Rig {
  public:
    static constexpr std::uint64_t kBytes = 2u << 20;

    explicit Rig(DriverKind kind, FaultPage* fault = nullptr) : Rig(make_driver(kind, 0, fault)) {}
    explicit Rig(std::unique_ptr<Driver> made)
        : driver(std::move(made)),
          base(driver->device().range_base),
          chunk(driver->make_chunk(base, kBytes)),
          staging_fd_(make_memfd("staging", kBytes)) {
        seal(staging_fd_, Sealing::shared, "staging");
        view_ = Mapping(staging_fd_, kBytes, Mapping::Access::read_write, "staging");
        staging = driver->map_staging(driver->device().staging_base, staging_fd_, kBytes);
    }

    template <class T>
    void write(TestStream& stream, std::uint64_t address, const std::vector<T>& values) {
        ASSERT_LE(values.size() * sizeof(T), kBytes);
        std::memcpy(view_.data(), values.data(), values.size() * sizeof(T));
        stream.copy(schema::RecordKind::CopyToDevice, address, values.size() * sizeof(T), staging.get(), 0);
        ASSERT_TRUE(stream.finish());
    }
    // What the device holds, after all that the stream has been given. Empty: it did not get there.
    template <class T>
    std::vector<T> read(TestStream& stream, std::uint64_t address, std::size_t count) {
        stream.copy(schema::RecordKind::CopyToHost, address, count * sizeof(T), staging.get(), 0);
        if (!stream.finish()) return {};
        std::vector<T> values(count);
        std::memcpy(values.data(), view_.data(), count * sizeof(T));
        return values;
    }

    std::unique_ptr<Driver> driver;
    std::uint64_t base;
    UniqueFd chunk;
    std::unique_ptr<Staging> staging;

  private:
    UniqueFd staging_fd_;
    Mapping view_;
};

// What a call refused, as text; empty: it did not.
template <class Call>
std::string refusal(Status status, const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), status) << error.what();
        return error.what();
    }
    return {};
}

}  // namespace ringlaunch::driver
