// `ringlaunchd doctor`: what this machine has of what the daemon uses, what each gives, and what to do where
// it lacks.
#include <fcntl.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/driver_choice.hpp"
#include "daemon/cli/find_nvrtc.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/table.hpp"
#include "daemon/cli/text.hpp"
#include "daemon/driver/cuda_probe.hpp"
#include "daemon/supervisor/descriptors.hpp"
#include "daemon/supervisor/supervisor.hpp"
#include "schema/error.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

namespace {

struct DoctorOptions {
    AskOptions ask;
    DriverChoice driver = DriverChoice::automatic;
};

enum class Verdict { ok, warn, missing };

struct Finding {
    Verdict verdict = Verdict::ok;
    std::string subject;
    std::string found;   // what is there and what it gives
    std::string advice;  // what to do; empty: nothing
};

std::string_view word(Verdict verdict) {
    switch (verdict) {
        case Verdict::ok:
            return "ok";
        case Verdict::warn:
            return "warn";
        case Verdict::missing:
            return "missing";
    }
    return "?";
}

Finding check_folder(const SocketPlace& place) {
    Finding finding{Verdict::ok, "socket folder", socket_folder(place), ""};
    try {
        if (check_socket_folder(place, false))
            finding.found += place.named ? " is there" : " is yours alone (0700)";
        else if (place.named)
            return {Verdict::missing, finding.subject, finding.found + " does not exist",
                    "mkdir -p " + finding.found};
        else
            finding.found += " does not exist yet; serve makes it (0700)";
    } catch (const Error& error) {
        return {Verdict::missing, finding.subject, error.what(), "see there"};
    }
    return finding;
}

Finding check_daemon(const SocketPlace& place, std::chrono::milliseconds timeout) {
    Finding finding{Verdict::ok, "daemon", "", ""};
    try {
        ControlClient client(place, timeout);
        const schema::Welcome& welcome = client.welcome();
        const Answer answer = client.ask(
            schema::Request::GetStatus,
            [](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateGetStatus(builder).Union(); },
            schema::Answer::DaemonStatus);
        std::string devices;
        if (const auto* list = answer.view()->answer_as_DaemonStatus()->devices())
            for (const schema::DeviceStatus* device : *list)
                devices += (devices.empty() ? "device " : ", device ") + std::to_string(device->device()) +
                           " (" + or_dash(text(device->name())) + ")";
        finding.found = "pid " + std::to_string(welcome.daemon_pid()) + ", version " +
                        text(welcome.daemon_version()) + ", driver " + driver_name(welcome.driver()) + ", " +
                        devices + " at " + place.path;
        if (text(welcome.daemon_version()) != RINGLAUNCH_VERSION) {
            finding.verdict = Verdict::warn;
            finding.advice = std::string("this program is version " RINGLAUNCH_VERSION) +
                             ": restart the daemon to have one version";
        }
    } catch (const CommandError& error) {
        if (error.code() == ExitCode::no_daemon)
            finding.found = error.what();  // nothing wrong: it may be started now
        else
            finding = {Verdict::warn, "daemon", error.what(), "see there"};
    }
    return finding;
}

Finding check_sealing() {
    Finding finding{Verdict::ok, "memfd seals",
                    "a page that the daemon writes cannot be written by its clients", ""};
    try {
        const UniqueFd fd = make_memfd("doctor", kPageBytes);
        const Mapping kept(fd, kPageBytes, Mapping::Access::read_write, "a test page");
        seal(fd, Sealing::one_writer, "a test page");
        void* second = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
        if (second != MAP_FAILED) {
            ::munmap(second, kPageBytes);
            return {Verdict::missing, finding.subject, "FUTURE_WRITE is accepted and does not hold",
                    "use Linux 5.1 or later"};
        }
    } catch (const std::exception& error) {
        return {Verdict::missing, finding.subject, error.what(),
                "use Linux 5.1 or later (F_SEAL_FUTURE_WRITE)"};
    }
    return finding;
}

Finding check_membarrier() {
    const long commands = ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    if (commands > 0 && (commands & MEMBARRIER_CMD_GLOBAL_EXPEDITED) != 0)
        return {Verdict::ok, "membarrier", "GLOBAL_EXPEDITED works: producers need no fence", ""};
    return {Verdict::warn, "membarrier",
            "GLOBAL_EXPEDITED is not available (" +
                std::string(commands < 0 ? std::strerror(errno) : "not among its commands") +
                "): producers fence, a launch costs more",
            "use Linux 4.16 or later, or allow membarrier in the container's seccomp profile"};
}

Finding check_pidfd() {
    const UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    if (fd) return {Verdict::ok, "pidfd", "a session ends with its process, whoever holds its socket", ""};
    return {
        Verdict::warn, "pidfd",
        std::string("pidfd_open fails (") + std::strerror(errno) + "): a session ends with its socket only",
        "use Linux 5.3 or later, or allow pidfd_open in the container's seccomp profile"};
}

std::string limit_text(rlim_t limit) {
    return limit == RLIM_INFINITY ? "unlimited" : format_bytes(limit);
}

// Nothing of the daemon's own is locked, and NVIDIA's open kernel module pins what CUDA registers without
// counting it (os_lock_user_pages()).
Finding check_memlock() {
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    return {Verdict::ok, "memlock",
            "limit " + limit_text(limit.rlim_cur) +
                ": the daemon locks nothing, and what CUDA pins for it (staging memory) is not known to be "
                "counted",
            ""};
}

Finding check_open_files() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const supervisor::Descriptors room(limit.rlim_max);
    const std::uint64_t wanted = supervisor::Limits().max_streams;
    const std::string found =
        "limit " + (limit.rlim_max == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_max)) +
        " (serve takes all of it): about " + std::to_string(room.streams_in_all()) + " streams in all, " +
        std::to_string(std::min(wanted, room.streams_a_session())) + " in a session";
    if (room.streams_a_session() >= wanted) return {Verdict::ok, "open files", found, ""};
    return {Verdict::warn, "open files", found,
            "raise it, for " + std::to_string(wanted) +
                " in a session: ulimit -Hn 65536, or LimitNOFILE=65536 in the unit"};
}

Finding check_shm() {
    struct statvfs info {};
    const std::string size =
        ::statvfs("/dev/shm", &info) == 0
            ? "this machine's has " + format_bytes(static_cast<std::uint64_t>(info.f_blocks) * info.f_frsize)
            : "this machine has none";
    return {Verdict::ok, "/dev/shm",
            "not used, so its size does not matter (" + size + "): shared memory is memfds", ""};
}

Finding check_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    const int count = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    const std::string found = plural(static_cast<std::uint64_t>(count), "core");
    if (count >= 3)
        return {Verdict::ok, "cores", found + ": client, dispatcher and kernels have one each", ""};
    if (count == 2)
        return {Verdict::ok, "cores",
                found + ": enough for one client and the dispatcher; the host driver's kernels share them",
                "with several busy clients a shorter spin helps: serve --spin-us 5"};
    return {Verdict::warn, "cores",
            found + ": client and dispatcher take turns, a round trip costs a task switch",
            "give it 2 cores or more; with one, serve --spin-us 0"};
}

std::string environment(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != 0 ? value : otherwise;
}

// The first line that a program prints; empty where it cannot be run.
std::string first_line_of(const char* command) {
    std::string line;
    if (FILE* pipe = ::popen(command, "re"); pipe != nullptr) {
        char part[256];
        if (std::fgets(part, sizeof part, pipe) != nullptr) line = part;
        while (std::fgets(part, sizeof part, pipe) != nullptr) {
        }
        const int status = ::pclose(pipe);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) line.clear();
    }
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return printable(line);
}

// As python/ringlaunch/_compile.py chooses it.
Finding check_compiler() {
    const std::string name = environment("RINGLAUNCH_CXX", "g++");
    const std::string line = first_line_of("\"${RINGLAUNCH_CXX:-g++}\" --version 2>/dev/null");
    if (!line.empty())
        return {Verdict::ok, "C++ compiler", line + ": client.compile() works with the host driver", ""};
    return {Verdict::warn, "C++ compiler",
            printable(name) + " cannot be run: client.compile() does not work with the host driver",
            "apt install g++, or name a compiler with $RINGLAUNCH_CXX (ready-made modules load without it)"};
}

Finding check_host_driver() {
    const std::string why = why_not_host();
    if (why.empty())
        return {Verdict::ok, "host driver",
                "kernels compiled for the CPU run, for your own user's clients only", ""};
    return {Verdict::missing, "host driver", why, "use --driver null or cuda"};
}

// What is there of a GPU, and whether the daemon will run kernels on it. Gives the devices' architectures.
std::vector<std::string> check_cuda(std::vector<Finding>& findings, bool required) {
    const Verdict lacking = required ? Verdict::missing : Verdict::warn;
    const std::string instead = required ? "" : ": kernels run on the CPU, by the host driver";
    const driver::CudaProbe probe = driver::probe_cuda(
        kCudaProbeTimeout, cuda_is_built_in() ? driver::ProbeDepth::open : driver::ProbeDepth::list);
    std::string nodes, bad;
    for (const driver::DeviceNode& node : driver::cuda_device_nodes()) {
        if (node.exists) nodes += (nodes.empty() ? "" : ", ") + node.path;
        if (node.exists && !node.usable) bad += (bad.empty() ? "" : ", ") + node.path;
    }
    if (nodes.empty() && probe.usable())
        findings.push_back({Verdict::ok, "CUDA devices",
                            "no /dev/nvidia*, and the CUDA driver does without (as it does under WSL)", ""});
    else if (nodes.empty())
        findings.push_back(
            {lacking, "CUDA devices", "no /dev/nvidia*: this machine or container shows no NVIDIA GPU",
             "on a machine with one: load the NVIDIA module; in a container: docker run --gpus all"});
    else if (!bad.empty())
        findings.push_back({lacking, "CUDA devices", "you may not use " + bad,
                            "join the group that owns them (ls -l /dev/nvidia*; usermod -aG)"});
    else
        findings.push_back({Verdict::ok, "CUDA devices", nodes + ": readable and writable", ""});

    if (!probe.usable()) {
        findings.push_back({lacking, "CUDA driver", probe.missing + instead, probe.advice});
        return {};
    }
    std::string found = "CUDA " + driver::cuda_version_text(probe.driver_version) + ", " +
                        plural(probe.devices.size(), "device") + ":";
    std::vector<std::string> architectures;
    std::size_t refused = 0;
    for (std::size_t i = 0; i < probe.devices.size(); ++i) {
        const driver::CudaDeviceFound& device = probe.devices[i];
        found += (i == 0 ? " " : ", ") + std::to_string(i) + " " + device.name + " (" + device.architecture +
                 ", " + format_bytes(device.memory_bytes) + ")";
        refused += device.refusal.empty() ? 0 : 1;
        architectures.push_back(device.architecture);
    }
    if (!cuda_is_built_in()) {
        findings.push_back({lacking, "CUDA driver",
                            found + ", but this ringlaunchd was built without the cuda driver" + instead,
                            "build with cuda.h at hand"});
        return {};
    }
    if (refused == 0) {
        findings.push_back({Verdict::ok, "CUDA driver", found + ": kernels run there", ""});
        return architectures;
    }
    findings.push_back({Verdict::ok, "CUDA driver", found, ""});
    for (std::size_t i = 0; i < probe.devices.size(); ++i) {
        const std::string subject = "CUDA device " + std::to_string(i);
        // The first one's executor is there from the beginning: without it there is no daemon with CUDA.
        if (const std::string& why = probe.devices[i].refusal; why.empty())
            findings.push_back({Verdict::ok, subject, "kernels run there", ""});
        else
            findings.push_back(
                {lacking, subject, why + (i == 0 ? instead : ""),
                 i == 0 ? "nvidia-smi shows how the device is; others serve alone with --devices N"
                        : "nvidia-smi shows how the device is; clients of others do not need it"});
    }
    return architectures;
}

// NVRTC, where python/ringlaunch/_nvrtc.py looks for it: a client may run in another environment than this.
Finding check_nvrtc(const std::vector<std::string>& architectures, bool required) {
    const Nvrtc nvrtc = find_nvrtc();
    if (!nvrtc.path.empty()) {
        std::string cannot;
        for (const std::string& each : architectures)
            if (!nvrtc.compiles_for(each)) cannot = each;
        if (cannot.empty())
            return {Verdict::ok, "NVRTC",
                    nvrtc.version + " (" + printable(nvrtc.path) +
                        "): client.compile() works with the cuda driver",
                    ""};
        return {required ? Verdict::missing : Verdict::warn, "NVRTC",
                nvrtc.version + " (" + printable(nvrtc.path) + ") does not compile for " + cannot,
                "pip install a newer nvidia-cuda-nvrtc, or name one with $RINGLAUNCH_NVRTC"};
    }
    const std::string lacking =
        printable(nvrtc.why_not) + ": client.compile() does not work with the cuda driver";
    const std::string advice =
        "pip install nvidia-cuda-nvrtc where the client runs, or name the library with $RINGLAUNCH_NVRTC "
        "(ready-made modules load without it)";
    if (architectures.empty() && !required)
        return {Verdict::ok, "NVRTC", printable(nvrtc.why_not) + ": only compiling for a GPU needs it", ""};
    return {Verdict::warn, "NVRTC", lacking, advice};
}

ExitCode examine(const DoctorOptions& options) {
    const Terminal terminal = Terminal::of_stdout();
    std::vector<Finding> findings;
    const bool required = options.driver == DriverChoice::cuda;
    const std::vector<std::string> architectures = check_cuda(findings, required);  // forks: before all else
    findings.push_back(check_nvrtc(architectures, required));
    std::vector<Finding> first;
    try {
        const SocketPlace place = find_socket(options.ask.socket);
        first.push_back(check_folder(place));
        first.push_back(check_daemon(
            place, std::chrono::milliseconds(static_cast<std::int64_t>(options.ask.timeout_s * 1000))));
    } catch (const Error& error) {
        first.push_back({Verdict::missing, "socket folder", error.what(), "see there"});
    }
    first.push_back(check_sealing());
    first.push_back(check_membarrier());
    first.push_back(check_pidfd());
    first.push_back(check_open_files());
    first.push_back(check_memlock());
    first.push_back(check_shm());
    first.push_back(check_cores());
    first.push_back(check_compiler());
    Finding host = check_host_driver();
    if (required && host.verdict == Verdict::missing) host.verdict = Verdict::warn;
    first.push_back(host);
    findings.insert(findings.begin(), first.begin(), first.end());

    Verdict worst = Verdict::ok;
    for (const Finding& finding : findings) worst = std::max(worst, finding.verdict);
    if (options.ask.json) {
        nlohmann::json list = nlohmann::json::array();
        for (const Finding& finding : findings)
            list.push_back({{"subject", finding.subject},
                            {"verdict", word(finding.verdict)},
                            {"found", finding.found},
                            {"advice", finding.advice}});
        std::puts(dump({{"verdict", word(worst)}, {"findings", std::move(list)}}, 2).c_str());
    } else {
        for (const Finding& finding : findings) {
            const Colour colour = finding.verdict == Verdict::ok     ? Colour::green
                                  : finding.verdict == Verdict::warn ? Colour::yellow
                                                                     : Colour::red;
            std::string label(word(finding.verdict));
            std::printf("%s%s  %-14s  %s\n", terminal.paint(label, colour).c_str(),
                        std::string(7 - label.size(), ' ').c_str(), finding.subject.c_str(),
                        finding.found.c_str());
            if (!finding.advice.empty() && finding.advice != "see there")
                std::printf("%25s%s\n", "", ("-> " + finding.advice).c_str());
        }
    }
    switch (worst) {
        case Verdict::ok:
            return ExitCode::ok;
        case Verdict::warn:
            return ExitCode::doctor_warnings;
        case Verdict::missing:
            return ExitCode::doctor_missing;
    }
    return ExitCode::failure;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand("doctor", "Say what this machine has and what is missing");
    command->footer(
        "Each line says ok, warn (it works, but something is not as good as it could be) or missing (it will "
        "not work),\n"
        "and what to do. The exit code follows the worst line.\n\n"
        "Examples:\n"
        "  ringlaunchd doctor\n"
        "  ringlaunchd doctor --driver cuda     a GPU must be usable\n"
        "  ringlaunchd doctor --json | jq '.findings[] | select(.verdict != \"ok\")'\n\n" +
        exit_code_help({ExitCode::ok, ExitCode::failure, ExitCode::usage, ExitCode::doctor_warnings,
                        ExitCode::doctor_missing}));
    auto options = std::make_shared<DoctorOptions>();
    add_ask_options(*command, options->ask);
    add_driver_option(*command, options->driver,
                      "What the daemon shall run on: with cuda, a GPU must be usable");
    command->callback([&action, options] { action = [options] { return examine(*options); }; });
}

}  // namespace ringlaunch::cli
