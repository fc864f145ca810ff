// Law 2: a record's private copy against what its session may do. Pure functions: nothing is read but the
// arguments.
//
// The checks answer with a Status and, where it is ok, with the driver's operation; they are the hot path.
// What they found is told to people by describe_refusal(), which looks at the same copy again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/memory_map.hpp"
#include "daemon/executor/session_view.hpp"
#include "schema/ring.hpp"
#include "schema/status.hpp"

namespace ringlaunch::executor {

struct DeviceLimits {
    driver::Dim3 max_grid, max_block;
    std::uint32_t max_threads_per_block = 1024;

    static DeviceLimits of(const driver::DeviceInfo& device) {
        return {device.max_grid, device.max_block, device.max_threads_per_block};
    }
};

// Everything a record is checked against.
struct Bounds {
    const SessionView& session;
    const MemoryMap& memory;
    const DeviceLimits& device;
};

struct Wait {
    std::uint64_t stream = 0;
    std::uint64_t position = 0;
    std::uint64_t end = 0;
};

// The copy must be what RingConsumer::copy() answered ok to, with the kind that the name says.
[[nodiscard]] Status check_launch(const RecordCopy& copy, const Bounds& bounds, driver::Launch& out) noexcept;
[[nodiscard]] Status check_copy(const RecordCopy& copy, const Bounds& bounds, driver::Copy& out) noexcept;
[[nodiscard]] Status check_fill(const RecordCopy& copy, const Bounds& bounds, driver::Fill& out) noexcept;
[[nodiscard]] Status check_event(const RecordCopy& copy) noexcept;
[[nodiscard]] Status check_wait(const RecordCopy& copy, Wait& out) noexcept;
[[nodiscard]] Status check_graph_launch(const RecordCopy& copy, std::uint64_t& graph) noexcept;
// The shape of the record alone: what it says of a launch is checked as a launch.
[[nodiscard]] Status check_graph_update(const RecordCopy& copy) noexcept;
[[nodiscard]] Status check_padding(const RecordCopy& copy) noexcept;

// What a launch record says, whichever its form. `slots`: those that its kernel's parameters take in that
// form.
struct LaunchHead {
    std::uint64_t kernel = 0;
    driver::Dim3 grid, block;
    std::uint32_t shared_bytes = 0;
    std::uint32_t param_bytes = 0;
    std::uint32_t reserved = 0;
    std::uint32_t KernelEntry::*slots = &KernelEntry::slots;
};
[[nodiscard]] LaunchHead launch_head(const RecordCopy& copy) noexcept;

// May a copy on the device name these bytes: are they all memory of the session, or all within one buffer
// that it has borrowed?
bool may_copy(const Bounds& bounds, std::uint64_t address, std::uint64_t bytes) noexcept;

// Writes one sentence into `text` (ends with 0): the record's kind and position, what was found and what is
// allowed. For the refusals above and those of RingConsumer::copy(); `detail` is added where it is not null.
// `as`: the kind that the record in the ring has, where `copy` is a node of that one's graph.
void describe_refusal(Status status, const RecordCopy& copy, const Bounds& bounds, std::span<char> text,
                      const char* detail = nullptr,
                      schema::RecordKind as = schema::RecordKind::None) noexcept;

// "launch", "copy to device"; "record of unknown kind" else.
const char* kind_name(schema::RecordKind kind) noexcept;

inline schema::RecordKind kind_of(const RecordCopy& copy) noexcept {
    return copy.as<schema::PaddingRecord>().kind();
}
inline bool forces_completion(const RecordCopy& copy) noexcept {
    return (static_cast<unsigned>(copy.as<schema::PaddingRecord>().flags()) &
            static_cast<unsigned>(schema::RecordFlag::ForceCompletion)) != 0;
}

}  // namespace ringlaunch::executor
