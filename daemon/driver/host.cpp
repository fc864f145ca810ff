#include "daemon/driver/host.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "daemon/driver/host_fault.hpp"
#include "daemon/driver/host_graph.hpp"
#include "daemon/driver/host_stream.hpp"
#include "daemon/driver/image_module.hpp"
#include "daemon/driver/memory.hpp"
#include "daemon/driver/module_text.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

std::string cpu_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
        const auto colon = line.find(": ");
        if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
    }
    return "unknown CPU";
}

// Of the stack of a stream's thread: what stands on it below a kernel, its thread-local memory included,
// takes less than the rest.
std::uint64_t kernel_stack_bytes() {
    constexpr std::size_t kOwnBytes = 64 * 1024;
    pthread_attr_t attributes;
    std::size_t bytes = 0;
    if (::pthread_getattr_default_np(&attributes) != 0) return 0;
    ::pthread_attr_getstacksize(&attributes, &bytes);
    ::pthread_attr_destroy(&attributes);
    return bytes > kOwnBytes ? bytes - kOwnBytes : 0;
}

// A shared object in this process. It stays where a worker that was given up on may still run its code.
class HostModule final : public OwningModule {
  public:
    HostModule(const std::string& name, const UniqueFd& image, ReadModule read,
               std::shared_ptr<std::atomic<int>> abandoned)
        : image_(image.duplicate()),
          path_("/proc/self/fd/" + std::to_string(image_.get())),
          abandoned_(std::move(abandoned)) {
        const std::string what = "loading " + module_text(name);
        // Its constructors run now. Stream 0 in a fault report: nobody's record is to blame.
        set_running({0, 0, 0, what.c_str()});
        library_ = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
        clear_running();
        if (library_ == nullptr) {
            const char* why = ::dlerror();
            throw Error(Status::bad_image, "cannot load " + module_text(name) +
                                               ": the loader says: " + (why != nullptr ? why : "nothing") +
                                               "; link everything that the kernels call into the object");
        }
        try {
            for (KernelLayout& layout : read.layouts) add_kernel(name, std::move(layout));
        } catch (...) {
            close();
            throw;
        }
    }
    ~HostModule() override { close(); }

  private:
    std::unique_ptr<Kernel> configured(const Kernel& kernel, KernelLayout layout) override {
        const LaunchAttributes& wanted = layout.attributes;
        constexpr const char* kWhy = ": the host driver runs the blocks of a grid one after another";
        if (wanted.cluster != Dim3{})
            refuse_attributes(layout, std::string("clusters of more than one block cannot be had") + kWhy,
                              Status::unsupported);
        if (wanted.cooperative)
            refuse_attributes(layout, std::string("a cooperative launch cannot be had") + kWhy,
                              Status::unsupported);
        return std::make_unique<HostKernel>(std::move(layout), static_cast<const HostKernel&>(kernel).run());
    }
    void add_kernel(const std::string& module, KernelLayout layout) {
        const std::string symbol = "ringlaunch_kernel_" + layout.name;
        const auto* kernel = static_cast<const kernel_abi::HostKernel*>(::dlsym(library_, symbol.c_str()));
        const std::string loading = "cannot load " + module_text(module) + ": ";
        if (kernel == nullptr || kernel->magic != kernel_abi::kHostKernelMagic)
            throw Error(Status::bad_image,
                        loading + "symbol '" + symbol +
                            "' is not what RINGLAUNCH_EXPORT of <ringlaunch/kernel.h> makes");
        if (kernel->version != kernel_abi::kHostAbiVersion)
            throw Error(Status::bad_image, loading + "kernel '" + layout.name +
                                               "' was compiled with version " +
                                               std::to_string(kernel->version) +
                                               " of <ringlaunch/kernel.h>, this daemon runs version " +
                                               std::to_string(kernel_abi::kHostAbiVersion) +
                                               "; compile it again with the one installed");
        add(std::make_unique<HostKernel>(std::move(layout), kernel->run));
    }

    void close() noexcept {
        // sync: ABANDONED (pairs with the end of a worker that was given up on): it runs no more code of
        // ours. A count within one process, as in host_stream.cpp: no model.
        const bool may_run = abandoned_->load(std::memory_order_acquire) > 0;
        if (may_run)
            leave_kernels();  // a fault report may yet need the name
        else
            ::dlclose(library_);
        // The loader knows an object by its path. One that stays (it asked to, or has unique symbols) keeps
        // its descriptor, so that no other image ever has that path.
        if (may_run || ::dlopen(path_.c_str(), RTLD_NOW | RTLD_NOLOAD) != nullptr) image_.release();
    }

    UniqueFd image_;
    std::string path_;
    std::shared_ptr<std::atomic<int>> abandoned_;
    void* library_ = nullptr;
};

class HostDriver final : public Driver {
  public:
    HostDriver(int device, FaultPage* fault, const std::string& note)
        : note_(note),
          memory_(std::make_unique<HostMemory>(device)),
          faults_(fault),
          completion_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
          abandoned_(std::make_shared<std::atomic<int>>(0)) {
        if (!completion_)
            throw Error(Status::limit_reached,
                        std::string("the host driver cannot make an eventfd: ") + std::strerror(errno));
        device_.kind = DriverKind::Host;
        device_.name = "host (" + cpu_name() + ")";
        device_.architecture = "x86-64";
        device_.ordinal = device;
        memory_->describe(device_);
        device_.max_grid = {2147483647, 65535, 65535};
        device_.max_block = {1024, 1024, 64};
    }
    ~HostDriver() override {
        // A worker that was given up on may still run: what it uses stays until the process ends.
        // sync: ABANDONED, as in HostModule::close.
        if (abandoned_->load(std::memory_order_acquire) > 0) (void)memory_.release();
    }

    const DeviceInfo& device() const override { return device_; }
    UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes) override {
        return memory_->make_chunk(address, bytes);
    }
    void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) override {
        memory_->map_chunk(address, bytes, chunk);
    }
    void unmap_chunk(std::uint64_t address, std::uint64_t bytes) override {
        memory_->unmap_chunk(address, bytes);
    }
    std::unique_ptr<Staging> map_staging(std::uint64_t address, const UniqueFd& segment,
                                         std::uint64_t bytes) override {
        return memory_->map_staging(address, segment, bytes);
    }
    std::unique_ptr<Module> load_module(const std::string& name, const UniqueFd& image, std::uint64_t bytes,
                                        const LoadOptions& options) override {
        if (options.max_registers != 0)
            throw Error(Status::unsupported, "cannot load " + module_text(name) + " with max_registers " +
                                                 std::to_string(options.max_registers) +
                                                 ": kernels of the host driver are compiled already, for a "
                                                 "CPU, whose registers nobody limits");
        return std::make_unique<HostModule>(
            name, image, read_module("the host driver", false, name, image, bytes, options.signatures, note_),
            abandoned_);
    }
    bool has_stack(std::uint64_t bytes) override {
        const std::uint64_t most = kernel_stack_bytes();
        if (bytes > most)
            throw Error(Status::unsupported,
                        "kernels of the host driver run on threads with a stack of " + std::to_string(most) +
                            " bytes, so one of " + std::to_string(bytes) +
                            " cannot be had; start the daemon with another limit (ulimit -s)");
        return true;
    }
    std::unique_ptr<Stream> open_stream(const StreamConfig& config) override {
        return std::make_unique<HostStream>(config, completion_.get(), abandoned_, graphs_);
    }
    TensorMap make_tensor_map(std::uint64_t, std::uint64_t, const TensorLayout&) override {
        throw Error(Status::unsupported,
                    "cannot make a tensor map on the host driver: a CPU reads tensors without one; have a "
                    "daemon serve with --driver cuda (or null, which runs nothing)");
    }
    std::unique_ptr<Graph> make_graph(std::span<const GraphNode> nodes) override {
        return std::make_unique<HostGraph>(nodes);
    }
    int completion_fd() const override { return completion_.get(); }
    std::optional<std::string> failure() noexcept override {
        return std::nullopt;
    }  // a fault ends the process

  private:
    DeviceInfo device_;
    std::string note_;
    std::unique_ptr<HostMemory> memory_;
    FaultCatcher faults_;
    UniqueFd completion_;
    GraphBudget graphs_{kMemoryGraphBytes};
    std::shared_ptr<std::atomic<int>> abandoned_;
};

}  // namespace

std::unique_ptr<Driver> make_host_driver(int device, FaultPage* fault, const std::string& note) {
    return std::make_unique<HostDriver>(device, fault, note);
}

}  // namespace ringlaunch::driver
