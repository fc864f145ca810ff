#include "daemon/driver/cuda_probe.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <string_view>

#include "daemon/driver/driver.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

namespace {

// The few functions of libcuda that it takes, declared by hand so that the probe is in every build.
using CuInit = int (*)(unsigned);
using CuDriverGetVersion = int (*)(int*);
using CuDeviceGetCount = int (*)(int*);
using CuDeviceGet = int (*)(int*, int);
using CuDeviceGetName = int (*)(char*, int, int);
using CuDeviceGetAttribute = int (*)(int*, int, int);
using CuDeviceTotalMem = int (*)(std::size_t*, int);
using CuGetErrorName = int (*)(int, const char**);
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kNoDevice = 100;
constexpr int kSystemDriverMismatch = 803;
constexpr int kLeastVersion = 12040;  // the first that has all of cuda_api.hpp

// What the child says: lines of "key value". Written in whole steps, so that of a child that dies or hangs it
// is known which step that was.
class Report {
  public:
    explicit Report(int fd) : fd_(fd) {}
    void line(std::string_view key, const std::string& value) {
        text_ += key;
        text_ += ' ';
        for (char c : value) text_ += c == '\n' ? ' ' : c;
        text_ += '\n';
    }
    void missing(const std::string& what, const std::string& advice) {
        line("missing", what);
        line("advice", advice);
    }
    void write() {
        while (!text_.empty()) {
            const ssize_t wrote = ::write(fd_, text_.data(), text_.size());
            if (wrote < 0) ::_exit(1);
            text_.erase(0, static_cast<std::size_t>(wrote));
        }
    }

  private:
    const int fd_;
    std::string text_;
};

// Whether the executor will find what it needs. Throws Error that says what is missing.
void try_device(int ordinal) {
    const std::unique_ptr<Driver> driver = make_driver(DriverKind::Cuda, ordinal, nullptr);
    const DeviceInfo& device = driver->device();
    const UniqueFd chunk = driver->make_chunk(device.range_base, device.chunk_bytes);
    driver->unmap_chunk(device.range_base, device.chunk_bytes);
    driver->map_chunk(device.range_base, device.chunk_bytes, chunk);
}

template <class Function>
Function find(void* library, const char* name) {
    return reinterpret_cast<Function>(::dlsym(library, name));
}

}  // namespace

std::string cuda_version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

namespace {

void probe_here(Report& report, ProbeDepth depth) {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* why = ::dlerror();
        report.missing(
            std::string("libcuda.so.1 cannot be loaded (") + (why == nullptr ? "no reason given" : why) + ")",
            "install the NVIDIA driver; in a container, start it with GPU support (docker run --gpus all)");
        return;
    }
    report.line("library", "1");
    const auto init = find<CuInit>(library, "cuInit");
    const auto get_version = find<CuDriverGetVersion>(library, "cuDriverGetVersion");
    const auto get_count = find<CuDeviceGetCount>(library, "cuDeviceGetCount");
    const auto get_device = find<CuDeviceGet>(library, "cuDeviceGet");
    const auto get_name = find<CuDeviceGetName>(library, "cuDeviceGetName");
    const auto get_attribute = find<CuDeviceGetAttribute>(library, "cuDeviceGetAttribute");
    const auto get_memory = find<CuDeviceTotalMem>(library, "cuDeviceTotalMem_v2");
    const auto error_name = find<CuGetErrorName>(library, "cuGetErrorName");
    if (!init || !get_version || !get_count || !get_device || !get_name || !get_attribute || !get_memory ||
        !error_name) {
        report.missing("libcuda.so.1 lacks functions of the driver API",
                       "it may be a stub library: install the NVIDIA driver");
        return;
    }
    const auto named = [&](int code) {
        const char* name = nullptr;
        return error_name(code, &name) == 0 && name != nullptr ? std::string(name)
                                                               : "error " + std::to_string(code);
    };
    int version = 0;
    if (get_version(&version) == 0) {
        report.line("version", std::to_string(version));
        if (version < kLeastVersion) {
            report.missing("the driver is one for CUDA " + cuda_version_text(version) + "; it takes " +
                               cuda_version_text(kLeastVersion) + " or later",
                           "update NVIDIA's driver to 550 or later");
            return;
        }
    }
    if (const int code = init(0); code != 0) {
        const std::string what = "cuInit answers " + named(code);
        if (code == kNoDevice)
            report.missing(
                what,
                "there is no GPU that this process may use: look at nvidia-smi and CUDA_VISIBLE_DEVICES");
        else if (code == kSystemDriverMismatch)
            report.missing(what,
                           "libcuda and the kernel's NVIDIA module are of different versions: reboot, or "
                           "reload the module");
        else
            report.missing(what, "look at nvidia-smi and at the permissions of /dev/nvidia*");
        return;
    }
    int count = 0;
    if (const int code = get_count(&count); code != 0 || count == 0) {
        report.missing(code != 0 ? "cuDeviceGetCount answers " + named(code) : "the driver shows no device",
                       "look at nvidia-smi and CUDA_VISIBLE_DEVICES");
        return;
    }
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        int device = ordinal, major = 0, minor = 0;
        char name[256] = "";
        std::size_t memory = 0;
        get_device(&device, ordinal);
        get_name(name, static_cast<int>(sizeof name) - 1, device);
        get_attribute(&major, kComputeCapabilityMajor, device);
        get_attribute(&minor, kComputeCapabilityMinor, device);
        get_memory(&memory, device);
        report.line("device", "sm_" + std::to_string(major) + std::to_string(minor) + " " +
                                  std::to_string(memory) + " " + name);
    }
    if (depth == ProbeDepth::list) return;
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        report.line("try", std::to_string(ordinal));
        report.write();
        try {
            try_device(ordinal);
        } catch (const std::exception& error) {
            report.line("refusal", std::to_string(ordinal) + " " + error.what());
        }
    }
    report.line("tried", "all");
}

struct Told {
    CudaProbe probe;
    std::size_t trying = SIZE_MAX;  // the device that was being tried when the child ended
};

void parse(std::string_view text, Told& told) {
    CudaProbe& probe = told.probe;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::size_t space = std::min(line.find(' '), line.size());
        const std::string_view key = line.substr(0, space);
        const std::string value(line.substr(std::min(space + 1, line.size())));
        if (key == "missing") probe.missing = value;
        if (key == "advice") probe.advice = value;
        if (key == "library") probe.library_loaded = true;
        if (key == "version") probe.driver_version = std::atoi(value.c_str());
        if (key == "try") told.trying = static_cast<std::size_t>(std::atoi(value.c_str()));
        if (key == "tried") told.trying = SIZE_MAX;
        if (key == "refusal") {
            const auto ordinal = static_cast<std::size_t>(std::atoi(value.c_str()));
            if (ordinal < probe.devices.size())
                probe.devices[ordinal].refusal = value.substr(std::min(value.find(' ') + 1, value.size()));
        }
        if (key == "device") {
            char architecture[32] = "", name[256] = "";
            unsigned long long memory = 0;
            if (std::sscanf(value.c_str(), "%31s %llu %255[^\n]", architecture, &memory, name) >= 2)
                probe.devices.push_back({name, architecture, memory, ""});
        }
    }
}

}  // namespace

CudaProbe probe_cuda(std::chrono::milliseconds timeout, ProbeDepth depth) {
    Told told;
    CudaProbe& probe = told.probe;
    // Of a device that was being tried, or of the driver as a whole.
    const auto failed = [&](const std::string& what, const std::string& advice) {
        if (told.trying < probe.devices.size()) {
            for (std::size_t i = told.trying; i < probe.devices.size(); ++i)
                probe.devices[i].refusal = i == told.trying ? what + "; " + advice : "not tried, after that";
            return probe;
        }
        probe.missing = what;
        probe.advice = advice;
        return probe;
    };
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return failed(std::string("cannot make a pipe: ") + std::strerror(errno), "try again");
    UniqueFd reader(ends[0]), writer(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) return failed(std::string("cannot fork: ") + std::strerror(errno), "try again");
    if (child == 0) {
        Report report(writer.get());
        probe_here(report, depth);
        report.write();
        ::_exit(0);
    }
    writer.reset();

    std::string text;
    bool late = false;
    for (const auto deadline = std::chrono::steady_clock::now() + timeout;;) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now())
                .count();
        pollfd entry{reader.get(), POLLIN, 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::max<long>(left, 0)));
        if (ready < 0 && errno == EINTR) continue;
        if (ready == 0) {
            late = true;
            break;
        }
        char part[4096];
        const ssize_t got = ::read(reader.get(), part, sizeof part);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        text.append(part, static_cast<std::size_t>(got));
    }
    if (late) ::kill(child, SIGKILL);
    int status = 0;
    // A child that hangs inside the NVIDIA module cannot be killed: it is left to init rather than waited
    // for.
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    pid_t reaped = 0;
    while ((reaped = ::waitpid(child, &status, late ? WNOHANG : 0)) != child) {
        if (reaped < 0 && errno != EINTR) break;
        if (std::chrono::steady_clock::now() > patience) break;
        ::poll(nullptr, 0, 5);
    }
    parse(text, told);
    if (late)
        return failed("the CUDA driver did not answer within " + std::to_string(timeout.count()) + " ms",
                      "look at dmesg and nvidia-smi: the driver may be stuck");
    if (WIFSIGNALED(status) && (text.empty() || told.trying != SIZE_MAX))
        return failed(std::string("asking the CUDA driver died with signal ") + ::strsignal(WTERMSIG(status)),
                      "look at dmesg; reinstall the NVIDIA driver");
    if (probe.devices.empty() && probe.missing.empty())
        return failed("the CUDA driver named no device", "look at nvidia-smi");
    return probe;
}

std::vector<DeviceNode> cuda_device_nodes() {
    std::vector<std::string> paths = {"/dev/nvidiactl", "/dev/nvidia-uvm"};
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/dev", ignored)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("nvidia") && name.size() > 6 &&
            std::all_of(name.begin() + 6, name.end(), [](char c) { return c >= '0' && c <= '9'; }))
            paths.push_back(entry.path().string());
    }
    std::sort(paths.begin() + 2, paths.end());
    std::vector<DeviceNode> nodes;
    for (const std::string& path : paths)
        nodes.push_back({path, ::access(path.c_str(), F_OK) == 0, ::access(path.c_str(), R_OK | W_OK) == 0});
    return nodes;
}

}  // namespace ringlaunch::driver
