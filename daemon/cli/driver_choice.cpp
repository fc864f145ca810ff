#include "daemon/cli/driver_choice.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "daemon/cli/command.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/text.hpp"
#include "daemon/driver/cuda_probe.hpp"
#include "daemon/driver/memory.hpp"

namespace ringlaunch::cli {

void add_driver_option(CLI::App& command, DriverChoice& choice, const std::string& description) {
    static const std::map<std::string, DriverChoice> kNames = {{"auto", DriverChoice::automatic},
                                                               {"cuda", DriverChoice::cuda},
                                                               {"host", DriverChoice::host},
                                                               {"null", DriverChoice::null}};
    command
        .add_option_function<std::string>(
            "--driver", [&choice](const std::string& name) { choice = kNames.at(name); }, description)
        ->type_name("auto|cuda|host|null")
        ->check(CLI::IsMember(kNames).description(""))
        ->default_str("auto");
}

bool cuda_is_built_in() {
#ifdef RINGLAUNCH_HAS_CUDA_DRIVER
    return true;
#else
    return false;
#endif
}

std::string why_not_host() {
#ifndef __x86_64__
    return "the host driver runs x86-64 code, and this is another processor";
#else
    // The reservation that the driver will make; only the executor keeps one.
    void* wanted = reinterpret_cast<void*>(driver::kHostRangeBase);
    void* got = ::mmap(wanted, driver::kHostRangeBytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED)
        return "the address range of device memory (" + format_bytes(driver::kHostRangeBytes) + " at " +
               format_hex(driver::kHostRangeBase) + ") cannot be reserved: " + std::strerror(errno) +
               (errno == ENOMEM ? "; is the address space limited (ulimit -v)?" : "");
    ::munmap(got, driver::kHostRangeBytes);
    if (got != wanted)
        return "the kernel of the OS does not reserve memory at a given address (Linux 4.17 or later does)";
    return "";
#endif
}

ChosenDriver choose_driver(DriverChoice choice, std::vector<int> devices) {
    const auto refuse = [](const std::string& text) { throw CommandError(ExitCode::driver_unusable, text); };
    std::vector<int> all_of_cuda;
    // Empty where every device that is wanted is among the first `count`.
    const auto why_not_all = [&devices](std::size_t count) -> std::string {
        for (const int device : devices)
            if (static_cast<std::size_t>(device) >= count)
                return "there is no device " + std::to_string(device) + ", only 0 to " +
                       std::to_string(count - 1);
        return "";
    };
    const auto why_not_cuda = [&]() -> std::string {
        if (!cuda_is_built_in()) return "this ringlaunchd was built without the cuda driver";
        const driver::CudaProbe probe = driver::probe_cuda(kCudaProbeTimeout);
        if (!probe.usable()) return probe.missing + ": " + probe.advice;
        for (std::size_t i = 0; i < probe.devices.size(); ++i) all_of_cuda.push_back(static_cast<int>(i));
        return why_not_all(probe.devices.size());
    };
    const auto chosen = [&](schema::DriverKind kind, const std::string& reason) {
        if (kind != schema::DriverKind::Cuda) {
            if (const std::string why = why_not_all(driver::kHostDevices); !why.empty())
                refuse("the " + std::string(driver_name(kind)) + " driver cannot be used: " + why);
            if (devices.empty()) devices = {0};
        }
        return ChosenDriver{kind, reason, devices.empty() ? all_of_cuda : devices};
    };
    switch (choice) {
        case DriverChoice::null:
            return chosen(schema::DriverKind::Null, "asked for: kernels are accepted and not run");
        case DriverChoice::host:
            if (const std::string why = why_not_host(); !why.empty())
                refuse("the host driver cannot be used: " + why);
            return chosen(schema::DriverKind::Host, "asked for");
        case DriverChoice::cuda:
            if (const std::string why = why_not_cuda(); !why.empty())
                refuse("the cuda driver cannot be used: " + why +
                       " (`ringlaunchd doctor --driver cuda` says more)");
            return chosen(schema::DriverKind::Cuda, "asked for");
        case DriverChoice::automatic:
            break;
    }
    const std::string no_cuda = why_not_cuda();
    if (no_cuda.empty()) return chosen(schema::DriverKind::Cuda, "a CUDA device is usable");
    const std::string no_host = why_not_host();
    if (no_host.empty())
        return chosen(schema::DriverKind::Host, "no CUDA here (" + no_cuda + "), so kernels run on the CPU");
    refuse("no driver can be used: not cuda (" + no_cuda + "), nor host (" + no_host +
           "); `--driver null` runs nothing");
    return {};
}

}  // namespace ringlaunch::cli
