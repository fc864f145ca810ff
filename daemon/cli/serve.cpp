// `ringlaunchd serve`: from the command line to a running supervisor.
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/driver_choice.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/log.hpp"
#include "daemon/cli/readiness.hpp"
#include "daemon/cli/terminal.hpp"
#include "daemon/cli/text.hpp"
#include "daemon/supervisor/sealed_program.hpp"
#include "daemon/supervisor/supervisor.hpp"
#include "schema/error.hpp"
#include "schema/pages.hpp"
#include "schema/version.hpp"

namespace ringlaunch::cli {

namespace {

using supervisor::Isolate;
using supervisor::SupervisorOptions;

struct ServeOptions {
    std::string socket;
    DriverChoice driver = DriverChoice::automatic;
    std::string devices = "all";
    std::vector<std::string> allow_uids, allow_gids;
    double spin_us = 50;
    bool no_coalesce = false;
    bool is_private = false;
    double exit_when_idle_s = 0;
    double kernel_timeout_s = 0;
    double restart_patience_s = static_cast<double>(supervisor::RestartPolicy{}.patience_ms) / 1000;
    LogOptions log;
    int ready_fd = -1;
    SupervisorOptions supervisor;
};

// How long a private daemon waits for its first client, and for another after its last has left.
constexpr std::uint64_t kPrivateIdleMs = 2000;

// Below these no client could do anything: a chunk of memory, a page of staging, an image's headers, and the
// messages with which a program begins.
constexpr std::uint64_t kLeastMemory = 2 << 20;
constexpr std::uint64_t kLeastStaging = 4096;
constexpr std::uint64_t kLeastImage = 4096;
constexpr std::uint64_t kLeastStack = 1024;
constexpr std::uint64_t kLeastMessages = 16;

template <class Id>
Id parse_id(const std::string& text, const char* option,
            const std::function<std::optional<Id>(const char*)>& look_up) {
    Id id{};
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), id);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) return id;
    if (const std::optional<Id> found = look_up(text.c_str())) return *found;
    throw CommandError(ExitCode::usage, std::string(option) + ": \"" + text +
                                            "\" is neither a number nor a name that this machine knows");
}

uid_t parse_uid(const std::string& text) {
    return parse_id<uid_t>(text, "--allow-uid", [](const char* name) -> std::optional<uid_t> {
        const passwd* entry = ::getpwnam(name);
        return entry == nullptr ? std::nullopt : std::optional<uid_t>(entry->pw_uid);
    });
}

gid_t parse_gid(const std::string& text) {
    return parse_id<gid_t>(text, "--allow-gid", [](const char* name) -> std::optional<gid_t> {
        const group* entry = ::getgrnam(name);
        return entry == nullptr ? std::nullopt : std::optional<gid_t>(entry->gr_gid);
    });
}

// Empty: all.
std::vector<int> parse_devices(const std::string& text) {
    std::vector<int> devices;
    if (text == "all") return devices;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t end = std::min(text.find(',', at), text.size());
        int device = -1;
        const auto parsed = std::from_chars(text.data() + at, text.data() + end, device);
        if (parsed.ec != std::errc() || parsed.ptr != text.data() + end || device < 0)
            throw CommandError(ExitCode::usage, "--devices: \"" + text +
                                                    "\" is neither all nor a list of numbers such as 0,1");
        if (std::find(devices.begin(), devices.end(), device) != devices.end())
            throw CommandError(ExitCode::usage,
                               "--devices: device " + std::to_string(device) + " is named twice");
        devices.push_back(device);
        at = end + 1;
    }
    return devices;
}

// Says who answers at the socket already. The supervisor holds the last word, in case two start at once.
void refuse_second_daemon(const SocketPlace& place) {
    const auto running = [&](const std::string& what) {
        throw CommandError(ExitCode::already_running,
                           what + " at " + place.path + ": use it, stop it with `ringlaunchd stop --socket " +
                               place.path + "`, or choose another --socket");
    };
    try {
        const ControlClient other(place, std::chrono::milliseconds(2000), ControlClient::Versions::any);
        // As this process sees it: 0 where it does not.
        const int pid = other.peer_pid();
        running(
            std::string(other.other_version() ? "a daemon of another version" : "a daemon") +
            " runs already " +
            (pid > 0 ? "(pid " + std::to_string(pid) + ")" : "(a process that cannot be seen from here)"));
    } catch (const CommandError& error) {
        switch (error.code()) {
            case ExitCode::no_daemon:
                return;
            case ExitCode::timed_out:
                running("something holds the socket and does not answer");
                break;
            default:
                throw;
        }
    }
}

// What stands for standard input, output and error is written to by whoever means these: a library, a kernel.
// Where one was closed, no file of the daemon takes its number.
void fill_standard_descriptors() {
    for (;;) {
        const int fd = ::open("/dev/null", O_RDWR);
        if (fd > STDERR_FILENO) ::close(fd);
        if (fd < 0 || fd > STDERR_FILENO) return;
    }
}

constexpr std::size_t kLongestNote = 2048;  // it goes into messages

// Sets the driver and what depends on it. `chosen`: nobody asked for this one.
void serve_with(const ChosenDriver& driver, bool chosen, SupervisorOptions& supervisor) {
    supervisor.driver = driver.kind;
    supervisor.driver_note = chosen ? valid_utf8(driver.reason, kLongestNote) : "";
    supervisor.devices = driver.devices;
    spdlog::info("driver {}: {}", driver_name(driver.kind), driver.reason);
    if (driver.kind == schema::DriverKind::Host &&
        !(supervisor.allow_uids.empty() && supervisor.allow_gids.empty()))
        spdlog::warn(
            "the host driver runs its clients' native code as user {}, so it serves that user only: "
            "--allow-uid "
            "and --allow-gid change nothing",
            ::getuid());

    if (supervisor.fault_dumps && driver.kind != schema::DriverKind::Cuda) {
        spdlog::info("--fault-dumps changes nothing with the {} driver", driver_name(driver.kind));
        supervisor.fault_dumps = false;
    }
    if (supervisor.stack_bytes != 0 && driver.kind != schema::DriverKind::Cuda)
        spdlog::info("--stack changes nothing with the {} driver", driver_name(driver.kind));
}

ExitCode serve(ServeOptions options, char* const* argv) {
    fill_standard_descriptors();
    // What is larger than files may be here (ulimit -f) is refused with an error; executors inherit it.
    ::signal(SIGXFSZ, SIG_IGN);
    const std::string not_sealed = supervisor::execute_sealed(argv);
    if (options.ready_fd >= 0 && ::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC) != 0)
        throw CommandError(ExitCode::usage,
                           "--ready-fd " + std::to_string(options.ready_fd) + ": no such open descriptor");
    SupervisorOptions& supervisor = options.supervisor;
    for (const std::string& user : options.allow_uids) supervisor.allow_uids.push_back(parse_uid(user));
    for (const std::string& group : options.allow_gids) supervisor.allow_gids.push_back(parse_gid(group));

    SocketPlace place;
    try {
        place = find_socket(options.socket);
    } catch (const Error& error) {
        throw CommandError(ExitCode::usage, error.what());
    }
    refuse_second_daemon(place);
    // Forks: before any thread.
    const std::vector<int> devices = parse_devices(options.devices);
    const ChosenDriver driver = choose_driver(options.driver, devices);
    try {
        if (!check_socket_folder(place, true))
            throw CommandError(ExitCode::refused, "the socket's folder " + socket_folder(place) +
                                                      " does not exist: mkdir -p " + socket_folder(place) +
                                                      ", or choose another --socket");
    } catch (const Error& error) {
        throw CommandError(ExitCode::refused, error.what());
    }
    set_up_log(options.log);
    spdlog::info("ringlaunchd {} (protocol {}), pid {}", RINGLAUNCH_VERSION, kProtocolVersion, ::getpid());
    if (!not_sealed.empty())
        spdlog::warn(
            "another process of user {} can reach the memory of this daemon's processes while they start: {}",
            ::getuid(), not_sealed);
    supervisor.socket_path = place.path;
    supervisor.executor_arguments = {"executor", "--log-level", options.log.level};
    if (!options.log.file.empty())
        supervisor.executor_arguments.insert(supervisor.executor_arguments.end(),
                                             {"--log-file", options.log.file});
    supervisor.make_folder = !place.named;
    const bool chosen = options.driver == DriverChoice::automatic;
    serve_with(driver, chosen, supervisor);
    if (chosen && driver.kind == schema::DriverKind::Cuda)
        supervisor.on_unusable = [devices](SupervisorOptions& changed, const std::string& why) {
            try {
                serve_with(choose_without_cuda(why, devices), true, changed);
                return true;
            } catch (const CommandError& error) {
                spdlog::error("{}", error.what());
                return false;
            }
        };
    supervisor.spin_ns = static_cast<std::uint64_t>(options.spin_us * 1000);
    supervisor.coalesce = !options.no_coalesce;
    supervisor.kernel_timeout_ms = static_cast<std::uint64_t>(std::ceil(options.kernel_timeout_s * 1000));
    supervisor.restart.patience_ms = static_cast<std::uint64_t>(options.restart_patience_s * 1000);
    supervisor.exit_when_idle_ms = static_cast<std::uint64_t>(options.exit_when_idle_s * 1000);
    if (options.is_private && supervisor.exit_when_idle_ms == 0)
        supervisor.exit_when_idle_ms = kPrivateIdleMs;
    supervisor.version = RINGLAUNCH_VERSION;
    supervisor.on_ready = [ready_fd = options.ready_fd] {
        if (const std::string failed = announce_ready(ready_fd); !failed.empty()) spdlog::warn("{}", failed);
    };
    const int exit = supervisor::run_supervisor(supervisor);
    announce_stopping();
    spdlog::shutdown();
    return static_cast<ExitCode>(exit);
}

static_assert(static_cast<int>(ExitCode::ok) == supervisor::kExitOk);
static_assert(static_cast<int>(ExitCode::failure) == supervisor::kExitFailure);
static_assert(static_cast<int>(ExitCode::already_running) == supervisor::kExitAlreadyRunning);
static_assert(static_cast<int>(ExitCode::refused) == supervisor::kExitSocketRefused);
static_assert(static_cast<int>(ExitCode::driver_unusable) == supervisor::kExitDriverUnusable);

// CLI::PositiveNumber would print the largest double.
CLI::Validator at_least(std::uint64_t least) {
    return CLI::Validator(
        [least](const std::string& text) -> std::string {
            std::uint64_t value = 0;
            const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
            // What is no number of this size CLI11 refuses itself.
            if (parsed.ec != std::errc() || value >= least) return "";
            return text + " is too few: " + std::to_string(least) + " or more";
        },
        "");
}

// After CLI::AsSizeValue, which takes a sign for granted.
CLI::Validator bytes_at_least(std::uint64_t least, bool or_zero) {
    return CLI::Validator(
        [least, or_zero](std::string& text) -> std::string {
            std::uint64_t value = 0;
            if (text.find('-') == std::string::npos) {
                std::string number = text;
                if (const std::string wrong = CLI::AsSizeValue(false)(number); !wrong.empty()) return wrong;
                value = std::stoull(number);
                if (value >= least || (or_zero && value == 0)) {
                    text = number;
                    return "";
                }
            }
            return text + " is too small: " + format_bytes(least) + " or more" + (or_zero ? ", or 0" : "");
        },
        "");
}

CLI::Validator power_of_two() {
    return CLI::Validator(
        [](const std::string& text) -> std::string {
            std::uint32_t value = 0;
            const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
            if (parsed.ec != std::errc() || std::has_single_bit(value)) return "";
            return text + " is no power of two";
        },
        "");
}

void add_limits(CLI::App& command, supervisor::Limits& limits) {
    const char* kGroup = "Limits";
    command.add_option("--max-sessions", limits.max_sessions, "Sessions in all")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    command.add_option("--max-streams", limits.max_streams, "Streams a session")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    command.add_option("--max-modules", limits.max_modules, "Modules a session")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    const auto bytes = [&command, kGroup](const char* name, std::uint64_t& value, std::uint64_t least,
                                          const char* description) {
        command.add_option(name, value, description)
            ->group(kGroup)
            ->type_name("SIZE")
            ->transform(bytes_at_least(least, value == 0))
            ->default_str(value == 0 ? "0" : format_bytes(value));
    };
    bytes("--max-memory", limits.max_memory_bytes, kLeastMemory,
          "Device memory a session; 0: what the device has (host driver: 64 GiB of addresses, whatever the "
          "machine has)");
    bytes("--max-staging", limits.max_staging_bytes, kLeastStaging, "Staging memory a session");
    bytes("--max-image", limits.max_image_bytes, kLeastImage, "Size of a module");
    bytes(
        "--max-stack", limits.max_stack_bytes, kLeastStack,
        "Stack of each thread that a module may ask for: load(stack=). It stays until the executor ends, for "
        "every thread that fits on the device, some 270,000 on an H200: 32 KiB are 9 GB");
    command.add_option("--max-graphs", limits.max_graphs, "Graphs a session")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    bytes("--max-graph-bytes", limits.max_graph_bytes, kSlotBytes,
          "Records that describe the graphs of a session, in all; 64 bytes a launch at least");
    command.add_option("--max-ring-slots", limits.max_ring_slots, "Slots of a ring")
        ->group(kGroup)
        ->check(CLI::Range(kMinRingSlots, kMaxRingSlots))
        ->check(power_of_two())
        ->capture_default_str();
    command
        .add_option(
            "--max-messages", limits.messages_per_second,
            "Control messages of a session in a second; what goes beyond is refused, and the client library "
            "asks again")
        ->group(kGroup)
        ->check(at_least(kLeastMessages))
        ->capture_default_str();
}

void add_restart(CLI::App& command, supervisor::RestartPolicy& restart, double& patience_s) {
    const char* kGroup = "Restarts of an executor";
    command
        .add_option("--alone-at", restart.own_executor_at,
                    "Deaths a session caused: it gets an executor of its own")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    command.add_option("--warn-at", restart.warn_at, "Deaths a session caused: it is told")
        ->group(kGroup)
        ->check(at_least(1))
        ->capture_default_str();
    command
        .add_option("--restart-delay", restart.first_delay_ms,
                    "First delay before a restart; doubles with each death")
        ->group(kGroup)
        ->type_name("MS")
        ->capture_default_str();
    command.add_option("--restart-max-delay", restart.max_delay_ms, "Longest delay before a restart")
        ->group(kGroup)
        ->type_name("MS")
        ->capture_default_str();
    command
        .add_option("--restart-calm", restart.calm_ms,
                    "An executor that lived so long starts over without a delay")
        ->group(kGroup)
        ->type_name("MS")
        ->capture_default_str();
    command
        .add_option(
            "--restart-patience", patience_s,
            "How long sessions are kept, with their memory, while the next executor cannot be started: "
            "where another program has all of the device's memory, it may do later")
        ->group(kGroup)
        ->type_name("SECONDS")
        ->check(number_within(0, 4e6))
        ->capture_default_str();
}

}  // namespace

void add_serve(CLI::App& app, Action& action, char* const* argv) {
    CLI::App* command = app.add_subcommand("serve", "Run the daemon in the foreground");
    command->footer(
        "Logs go to standard error. It leaves on `ringlaunchd stop`, SIGTERM, SIGINT and SIGHUP. Under a "
        "service "
        "manager of the\n"
        "sd_notify kind it says when it is ready ($NOTIFY_SOCKET).\n\n"
        "Examples:\n"
        "  ringlaunchd serve\n"
        "  ringlaunchd serve --driver host --socket /run/user/1000/test.sock\n"
        "  ringlaunchd serve --isolate session --max-memory 4GiB\n"
        "  ringlaunchd serve --devices 0,1\n"
        "  ringlaunchd serve --driver cuda --allow-gid gpu-users --socket /run/ringlaunch/daemon.sock\n\n" +
        exit_code_help({ExitCode::ok, ExitCode::failure, ExitCode::usage, ExitCode::already_running,
                        ExitCode::refused, ExitCode::driver_unusable}));
    auto options = std::make_shared<ServeOptions>();
    SupervisorOptions& supervisor = options->supervisor;
    add_socket_option(*command, options->socket);
    add_driver_option(
        *command, options->driver,
        "What kernels run on: cuda where it is usable, else host (auto); the GPU (cuda); the CPU (host); "
        "nothing, for measuring (null)");
    command
        ->add_option(
            "--devices", options->devices,
            "Which devices of the driver, as 0,1; all: every GPU that is usable. The first has its executor "
            "from the beginning, another when a client asks for it. The host and null drivers pretend any "
            "of 0 to 5, and without this one")
        ->type_name("all|N,...")
        ->capture_default_str();

    const char* kSharing = "Who may connect, and who shares an executor";
    static const std::map<std::string, Isolate> kIsolates = {
        {"user", Isolate::user}, {"session", Isolate::session}, {"none", Isolate::none}};
    command
        ->add_option_function<std::string>(
            "--isolate",
            [options](const std::string& name) { options->supervisor.isolate = kIsolates.at(name); },
            "Sessions that share an executor can reach each other's memory and are restarted together: those "
            "of one user "
            "(user), none (session), all (none)")
        ->type_name("user|session|none")
        ->check(CLI::IsMember(kIsolates).description(""))
        ->default_str("user")
        ->group(kSharing);
    command
        ->add_option("--allow-uid", options->allow_uids,
                     "Users who may connect besides the daemon's own (number or name; may be given again)")
        ->type_name("USER")
        ->group(kSharing);
    command
        ->add_option("--allow-gid", options->allow_gids,
                     "Groups whose members may connect (number or name; may be given again)")
        ->type_name("GROUP")
        ->group(kSharing);

    add_limits(*command, supervisor.limits);

    const char* kDispatch = "Dispatch";
    command
        ->add_option("--spin-us", options->spin_us, "How long the dispatcher looks for work before it sleeps")
        ->type_name("US")
        ->check(number_within(0, 1e9))
        ->capture_default_str()
        ->group(kDispatch);
    command
        ->add_option("--in-flight", supervisor.max_in_flight,
                     "Records of a stream that are issued and not completed, at most")
        ->check(CLI::Range(1u, 65536u))
        ->capture_default_str()
        ->group(kDispatch);
    command->add_option("--batch", supervisor.max_batch, "Records taken from a stream in one turn, at most")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str()
        ->group(kDispatch);
    command
        ->add_flag("--no-coalesce", options->no_coalesce,
                   "Give each launch to the device by itself, as it is: no launch graphs, no chains. Results "
                   "are the same, "
                   "launches cost more. A client may ask for it for itself: connect(coalesce=False)")
        ->group(kDispatch);

    command
        ->add_option(
            "--kernel-timeout", options->kernel_timeout_s,
            "How long a record may be at work before its executor is ended and restarted; 0: for ever. A "
            "client may ask for less. A launch costs more with it")
        ->type_name("SECONDS")
        ->check(number_within(0, 4e6))
        ->group(kDispatch);

    command
        ->add_flag(
            "--fault-dumps", supervisor.fault_dumps,
            "A fault on a GPU is put down to its launch: kernel, record, exception and program counter, "
            "and nobody else is suspected (the host driver does so anyway). A launch costs more, as with "
            "--kernel-timeout")
        ->group(kDispatch);

    command
        ->add_option(
            "--stack", supervisor.stack_bytes,
            "Stack of each thread on a GPU, for kernels that recurse: what a kernel's code says it "
            "needs, it has without. Every thread that fits on the device has one, some 270,000 on an "
            "H200. A module may ask for more: load(stack=), up to --max-stack. 0: CUDA's own, 1 KiB")
        ->type_name("SIZE")
        ->transform(bytes_at_least(kLeastStack, true))
        ->group(kDispatch);

    add_restart(*command, supervisor.restart, options->restart_patience_s);

    const char* kLife = "Life";
    command->add_flag("--private", options->is_private, "Leave when the last client has: --exit-when-idle 2")
        ->group(kLife);
    command
        ->add_option("--exit-when-idle", options->exit_when_idle_s,
                     "Leave after so long without a session; 0: never")
        ->type_name("SECONDS")
        ->check(number_within(0, 1e7))
        ->group(kLife);
    command
        ->add_option("--ready-fd", options->ready_fd,
                     "Write READY=1 to this descriptor, and close it, once clients are served")
        ->type_name("FD")
        ->check(CLI::NonNegativeNumber)
        ->group(kLife);
    add_log_options(*command, options->log, kLife);
    command->callback(
        [&action, options, argv] { action = [options, argv] { return serve(*options, argv); }; });
}

}  // namespace ringlaunch::cli
