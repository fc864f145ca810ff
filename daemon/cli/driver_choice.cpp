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

namespace {

[[noreturn]] void refuse(const std::string& text) {
    throw CommandError(ExitCode::driver_unusable, text);
}

// Empty where every device that is wanted is among the first `count`.
std::string why_not_all(const std::vector<int>& devices, std::size_t count) {
    for (const int device : devices)
        if (static_cast<std::size_t>(device) >= count)
            return "there is no device " + std::to_string(device) + ", only 0 to " +
                   std::to_string(count - 1);
    return "";
}

// A driver that pretends its devices.
ChosenDriver pretending(schema::DriverKind kind, const std::string& reason, const std::vector<int>& devices) {
    if (const std::string why = why_not_all(devices, driver::kHostDevices); !why.empty())
        refuse("the " + std::string(driver_name(kind)) + " driver cannot be used: " + why);
    return {kind, reason, devices.empty() ? std::vector<int>{0} : devices};
}

}  // namespace

ChosenDriver choose_without_cuda(const std::string& no_cuda, const std::vector<int>& devices) {
    const std::string no_host = why_not_host();
    if (!no_host.empty())
        refuse("no driver can be used: not cuda (" + no_cuda + "), nor host (" + no_host +
               "); `--driver null` runs nothing");
    return pretending(schema::DriverKind::Host, "no CUDA here (" + no_cuda + "), so kernels run on the CPU",
                      devices);
}

ChosenDriver choose_driver(DriverChoice choice, const std::vector<int>& devices) {
    std::vector<int> all_of_cuda;
    // Not whether a device can be opened, which takes long: its executor finds out.
    const auto why_not_cuda = [&]() -> std::string {
        if (!cuda_is_built_in()) return "this ringlaunchd was built without the cuda driver";
        const driver::CudaProbe probe = driver::probe_cuda(kCudaProbeTimeout, driver::ProbeDepth::list);
        if (!probe.usable()) return probe.missing + ": " + probe.advice;
        for (std::size_t i = 0; i < probe.devices.size(); ++i) all_of_cuda.push_back(static_cast<int>(i));
        return why_not_all(devices, probe.devices.size());
    };
    const auto cuda = [&](const std::string& reason) {
        return ChosenDriver{schema::DriverKind::Cuda, reason, devices.empty() ? all_of_cuda : devices};
    };
    switch (choice) {
        case DriverChoice::null:
            return pretending(schema::DriverKind::Null, "asked for: kernels are accepted and not run",
                              devices);
        case DriverChoice::host:
            if (const std::string why = why_not_host(); !why.empty())
                refuse("the host driver cannot be used: " + why);
            return pretending(schema::DriverKind::Host, "asked for", devices);
        case DriverChoice::cuda:
            if (const std::string why = why_not_cuda(); !why.empty())
                refuse("the cuda driver cannot be used: " + why +
                       " (`ringlaunchd doctor --driver cuda` says more)");
            return cuda("asked for");
        case DriverChoice::automatic:
            break;
    }
    const std::string no_cuda = why_not_cuda();
    return no_cuda.empty() ? cuda("the CUDA driver shows a device") : choose_without_cuda(no_cuda, devices);
}

}  // namespace ringlaunch::cli
