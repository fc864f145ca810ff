// The daemon of the supervisor's tests: `serve SOCKET [name=value...]`, and the executor that it starts
// itself as.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>

#include "daemon/driver/address_range.hpp"
#include "daemon/driver/memory.hpp"
#include "daemon/executor/executor.hpp"
#include "daemon/supervisor/sealed_program.hpp"
#include "daemon/supervisor/supervisor.hpp"

namespace {

using ringlaunch::supervisor::Isolate;
using ringlaunch::supervisor::SupervisorOptions;

std::uint64_t number(const std::string& text) {
    return std::strtoull(text.c_str(), nullptr, 10);
}

bool set(SupervisorOptions& options, const std::string& name, const std::string& value) {
    const auto u32 = [&](std::uint32_t& into) { into = static_cast<std::uint32_t>(number(value)); };
    const auto u64 = [&](std::uint64_t& into) { into = number(value); };
    const std::map<std::string, std::function<void()>> setters{
        {"driver",
         [&] {
             options.driver = value == "host" ? ringlaunch::schema::DriverKind::Host
                                              : ringlaunch::schema::DriverKind::Null;
         }},
        {"driver_note", [&] { options.driver_note = value; }},
        // As many devices as are asked for, from 0.
        {"devices",
         [&] {
             options.devices.clear();
             for (int device = 0; device < std::stoi(value); ++device) options.devices.push_back(device);
         }},
        {"isolate",
         [&] {
             options.isolate = value == "session" ? Isolate::session
                               : value == "none"  ? Isolate::none
                                                  : Isolate::user;
         }},
        {"allow_uid", [&] { options.allow_uids.push_back(static_cast<uid_t>(number(value))); }},
        {"max_sessions", [&] { u32(options.limits.max_sessions); }},
        {"max_streams", [&] { u32(options.limits.max_streams); }},
        {"max_modules", [&] { u32(options.limits.max_modules); }},
        {"max_memory_bytes", [&] { u64(options.limits.max_memory_bytes); }},
        {"max_staging_bytes", [&] { u64(options.limits.max_staging_bytes); }},
        {"max_image_bytes", [&] { u64(options.limits.max_image_bytes); }},
        {"max_stack_bytes", [&] { u64(options.limits.max_stack_bytes); }},
        {"max_graphs", [&] { u32(options.limits.max_graphs); }},
        {"max_graph_bytes", [&] { u64(options.limits.max_graph_bytes); }},
        {"messages_per_second", [&] { u32(options.limits.messages_per_second); }},
        {"max_pending_bytes", [&] { u64(options.limits.max_pending_bytes); }},
        {"max_cached_image_bytes", [&] { u64(options.limits.max_cached_image_bytes); }},
        {"own_executor_at", [&] { u32(options.restart.own_executor_at); }},
        {"warn_at", [&] { u32(options.restart.warn_at); }},
        {"suspicion_ms", [&] { u64(options.restart.suspicion_ms); }},
        {"max_delay_ms", [&] { u64(options.restart.max_delay_ms); }},
        {"patience_ms", [&] { u64(options.restart.patience_ms); }},
        {"load_timeout_ms", [&] { u64(options.restart.load_timeout_ms); }},
        // While this file is there no executor can be set up: see block().
        {"blocked_by", [&] { ::setenv("RINGLAUNCH_TEST_BLOCKED_BY", value.c_str(), 1); }},
        {"first_delay_ms", [&] { u64(options.restart.first_delay_ms); }},
        {"exit_when_idle_ms", [&] { u64(options.exit_when_idle_ms); }},
        {"handshake_timeout_ms", [&] { u64(options.handshake_timeout_ms); }},
        {"alloc_patience_ms", [&] { u64(options.alloc_patience_ms); }},
        {"ping_every_ms", [&] { u64(options.ping_every_ms); }},
        {"ping_timeout_ms", [&] { u64(options.ping_timeout_ms); }},
        {"close_timeout_ms", [&] { u64(options.close_timeout_ms); }},
        {"drain_timeout_ms", [&] { u64(options.drain_timeout_ms); }},
        {"stack_bytes", [&] { u64(options.stack_bytes); }},
        {"max_in_flight", [&] { u32(options.max_in_flight); }},
        {"nofile",
         [&] {
             const rlimit limit{number(value), number(value)};
             ::setrlimit(RLIMIT_NOFILE, &limit);
         }},
        {"executor_path", [&] { options.executor_path = value; }},
        // What it says goes to this file, from warnings on.
        {"log",
         [&] {
             if (std::freopen(value.c_str(), "w", stderr) == nullptr) std::_Exit(126);
             spdlog::set_level(spdlog::level::warn);
         }},
    };
    const auto setter = setters.find(name);
    if (setter == setters.end()) return false;
    setter->second();
    return true;
}

// Takes from an executor what it needs, as long as a file is there: the addresses of its driver, so that it
// cannot be configured, or all but so many descriptors, so that its sessions cannot be restored.
void block() {
    const char* path = std::getenv("RINGLAUNCH_TEST_BLOCKED_BY");
    std::ifstream file(path == nullptr ? "" : path);
    std::string what;
    if (!(file >> what)) return;
    if (what == "addresses") {
        ringlaunch::driver::reserve_addresses(ringlaunch::driver::kHostRangeBase, 4096, MAP_FIXED_NOREPLACE);
    } else if (what == "descriptors") {
        rlim_t most = 16;
        file >> most;
        const rlimit limit{most, most};
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

int main(int argc, char** argv) {
    auto logger = spdlog::stderr_color_mt("test");
    logger->set_pattern("[%P] %l: %v");
    logger->set_level(spdlog::level::from_str(
        std::getenv("RINGLAUNCH_TEST_LOG") ? std::getenv("RINGLAUNCH_TEST_LOG") : "off"));
    spdlog::set_default_logger(logger);
    if (argc == 4 && std::strcmp(argv[1], "executor") == 0 && std::strcmp(argv[2], "--control-fd") == 0) {
        block();
        return ringlaunch::executor::run_executor(std::atoi(argv[3]));
    }
    if (argc < 3 || std::strcmp(argv[1], "serve") != 0) {
        std::fprintf(stderr, "usage: %s serve SOCKET [name=value...]\n", argv[0]);
        return 2;
    }
    if (const std::string why = ringlaunch::supervisor::execute_sealed(argv); !why.empty()) {
        std::fprintf(stderr, "%s\n", why.c_str());
        return 1;
    }
    SupervisorOptions options;
    options.socket_path = argv[2];
    options.version = "test";
    options.spin_ns = 20'000;
    for (int i = 3; i < argc; ++i) {
        const std::string word = argv[i];
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos || !set(options, word.substr(0, equals), word.substr(equals + 1))) {
            std::fprintf(stderr, "unknown option %s\n", argv[i]);
            return 2;
        }
    }
    return run_supervisor(options);
}
