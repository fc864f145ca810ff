// What a GPU core dump says of a fault: the grids that were on the device, and where each exception stands. A
// reader that trusts no byte of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ringlaunch::driver {

// A launch that was on the device.
struct DumpedGrid {
    std::uint64_t id = 0;
    std::uint64_t function = 0;  // CUDA's handles
    std::uint64_t module = 0;
    std::uint64_t entry = 0;                       // where its kernel's code begins
    std::optional<std::uint64_t> program_counter;  // of one of its threads, of a broken warp if there is one
    bool broken = false;                           // a warp stands behind a breakpoint: at a trap
    std::uint32_t grid[3] = {};
    std::uint32_t block[3] = {};
    std::span<const std::byte> params;  // empty: the dump has none
};

// An exception, where the device says that it stands. Several threads that met the same one at the same place
// are one.
struct DumpedFault {
    std::uint32_t exception = 0;  // exception_text() has its name; 0: the dump does not say
    std::optional<std::uint64_t> program_counter;
    std::optional<std::uint64_t> grid;  // the id; none: its warps had left when the dump was made
    std::uint32_t multiprocessor = 0;
    bool operator==(const DumpedFault&) const = default;
};

// The code of a module as it stood on the device: a cubin.
struct DumpedModule {
    std::uint64_t handle = 0;
    std::span<const std::byte> image;
};

// Points into the bytes that it was read from.
struct FaultDump {
    std::vector<DumpedGrid> grids;
    std::vector<DumpedFault> faults;
    std::vector<DumpedModule> modules;
};

inline constexpr std::size_t kMaxDumpedFaults = 256;
inline constexpr std::size_t kMaxDumpedGrids = 4096;

// Throws Error{driver_error} that says what is wrong and where.
FaultDump read_fault_dump(std::span<const std::byte> bytes);

// As NVIDIA's debugger calls it: "CUDA_EXCEPTION_14, Warp Illegal Address".
std::string exception_text(std::uint32_t exception);

}  // namespace ringlaunch::driver
