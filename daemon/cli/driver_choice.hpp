// Which driver `serve` takes on this machine, and why.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "control_generated.h"

namespace ringlaunch::cli {

enum class DriverChoice { automatic, cuda, host, null };

inline constexpr std::chrono::milliseconds kCudaProbeTimeout{20'000};

void add_driver_option(CLI::App& command, DriverChoice& choice, const std::string& description);

// Whether this program has the cuda driver in it.
bool cuda_is_built_in();
// Empty: the host driver can run here. Else what stands in its way.
std::string why_not_host();

struct ChosenDriver {
    schema::DriverKind kind = schema::DriverKind::Null;
    std::string reason;
    std::vector<int> devices;  // at least one
};
// `automatic` takes cuda where it is usable, else host. `devices` empty: all of cuda's, the first of another.
// Throws CommandError{driver_unusable} that says what is missing. Forks, so call it while the process has one
// thread.
ChosenDriver choose_driver(DriverChoice choice, const std::vector<int>& devices);
// What `automatic` takes where cuda cannot be used, for the reason `no_cuda`. Does not fork.
ChosenDriver choose_without_cuda(const std::string& no_cuda, const std::vector<int>& devices);

}  // namespace ringlaunch::cli
