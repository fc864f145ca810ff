#include "daemon/driver/culprit.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <optional>

#include "daemon/driver/elf.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

struct Code {
    std::uint64_t module = 0;
    ImageFunction function;
    bool holds(std::uint64_t address) const {
        return address >= function.address && address - function.address < function.bytes;
    }
};

// The functions of all modules, where they stood on the device.
std::vector<Code> code_of(const FaultDump& dump) {
    std::vector<Code> code;
    for (const DumpedModule& module : dump.modules) try {
            for (ImageFunction& function : read_functions(module.image))
                code.push_back({module.handle, std::move(function)});
        } catch (const Error&) {
            // Names are lost, no more.
        }
    return code;
}

const Code* find_code(const std::vector<Code>& code, std::uint64_t address) {
    const auto found =
        std::find_if(code.begin(), code.end(), [&](const Code& each) { return each.holds(address); });
    return found == code.end() ? nullptr : &*found;
}

std::string hex(std::uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

const DumpedGrid* find_grid(const FaultDump& dump, std::uint64_t id) {
    const auto found = std::find_if(dump.grids.begin(), dump.grids.end(),
                                    [&](const DumpedGrid& grid) { return grid.id == id; });
    return found == dump.grids.end() ? nullptr : &*found;
}

bool same_shape(const NotedLaunch& launch, const DumpedGrid& grid) {
    const auto same = [](const Dim3& dim, const std::uint32_t(&dumped)[3]) {
        return dim.x == dumped[0] && dim.y == dumped[1] && dim.z == dumped[2];
    };
    return same(launch.grid, grid.grid) && same(launch.block, grid.block);
}

bool same_params(const NotedLaunch& launch, const DumpedGrid& grid) {
    return grid.params.size() < launch.param_bytes ||
           digest(grid.params.first(launch.param_bytes)) == launch.params;
}

// Of each stream the first running launch that `matches`. A stream runs one launch after another: where any
// stream's foremost record matches, those of which a later one does are out. A graph's launches are one
// record: how many of them have run is not known.
template <class Matches>
std::vector<FaultedLaunch> running_where(std::span<const LaunchJournal* const> journals,
                                         const Matches& matches) {
    std::vector<FaultedLaunch> foremost, later;
    for (const LaunchJournal* journal : journals) {
        std::optional<std::uint64_t> first;
        bool found = false;
        journal->each_running([&](const NotedLaunch& launch) {
            if (!first) first = launch.position;
            if (found || !matches(launch)) return;
            found = true;
            (launch.position == *first ? foremost : later)
                .push_back({journal->stream(), launch.position, launch.kernel});
        });
    }
    return foremost.empty() ? later : foremost;
}

// Of each stream the last completed launch that `matches`.
template <class Matches>
std::vector<FaultedLaunch> completed_where(std::span<const LaunchJournal* const> journals,
                                           const Matches& matches) {
    std::vector<FaultedLaunch> found;
    for (const LaunchJournal* journal : journals)
        journal->each_completed([&](const NotedLaunch& launch) {
            if (!matches(launch)) return false;
            found.push_back({journal->stream(), launch.position, launch.kernel});
            return true;
        });
    return found;
}

// Those that ran, or, where none of them can have been it, that had completed: now and then the device writes
// a completion before the fault of the launch is seen (met on an H200 that several processes shared).
template <class Matches>
std::vector<FaultedLaunch> launched_where(std::span<const LaunchJournal* const> journals,
                                          const Matches& matches) {
    std::vector<FaultedLaunch> found = running_where(journals, matches);
    return found.empty() ? completed_where(journals, matches) : found;
}

std::vector<FaultedLaunch> launches_of(const DumpedGrid& grid, const Code* kernel,
                                       std::span<const LaunchJournal* const> journals) {
    const std::uint64_t name = kernel == nullptr ? 0 : digest(kernel->function.name);
    return launched_where(journals, [&](const NotedLaunch& launch) {
        const bool same_kernel =
            launch.function == grid.function || (launch.module == grid.module && launch.name == name);
        return same_kernel && same_shape(launch, grid) && same_params(launch, grid);
    });
}

// A fault whose warps had left when the dump was made: whoever runs that code.
std::vector<FaultedLaunch> launches_at(const Code& place, std::span<const LaunchJournal* const> journals) {
    const std::uint64_t name = digest(place.function.name);
    const auto of_module = [&](const NotedLaunch& launch) { return launch.module == place.module; };
    // Whose kernel calls a function that is none is not known.
    if (!place.function.kernel) return running_where(journals, of_module);
    return launched_where(
        journals, [&](const NotedLaunch& launch) { return of_module(launch) && launch.name == name; });
}

std::string place_text(const std::vector<Code>& code, std::uint64_t address) {
    const Code* place = find_code(code, address);
    return " at program counter " + hex(address) +
           (place == nullptr ? ""
                             : " = " + place->function.name + "+" + hex(address - place->function.address));
}

// Is the instruction before this place a trap (BPT)? Where a trap is told of, its warps stand behind it.
bool behind_trap(const std::vector<Code>& code, std::uint64_t address) {
    constexpr std::uint64_t kInstruction = 16, kOpcode = 0xfff, kTrap = 0x95c;  // since sm_70
    const Code* place = find_code(code, address);
    if (place == nullptr) return false;
    const std::uint64_t at = address - place->function.address;
    if (at < kInstruction || at > place->function.code.size()) return false;
    std::uint64_t word;
    std::memcpy(&word, place->function.code.data() + at - kInstruction, sizeof word);
    return (word & kOpcode) == kTrap;
}

// The grids that trapped; all of them where that cannot be told.
std::vector<const DumpedGrid*> trapped(const FaultDump& dump, const std::vector<Code>& code) {
    std::vector<const DumpedGrid*> grids;
    for (const DumpedGrid& grid : dump.grids) grids.push_back(&grid);
    const auto keep = [&](const auto& like) {
        std::vector<const DumpedGrid*> kept;
        std::ranges::copy_if(grids, std::back_inserter(kept), like);
        if (!kept.empty()) grids = std::move(kept);
    };
    keep([](const DumpedGrid* grid) { return grid->broken; });
    keep([&](const DumpedGrid* grid) {
        return grid->program_counter && behind_trap(code, *grid->program_counter);
    });
    return grids;
}

}  // namespace

std::vector<Culprit> find_culprits(const FaultDump& dump, std::span<const LaunchJournal* const> journals) {
    const std::vector<Code> code = code_of(dump);
    std::vector<Culprit> culprits;
    const auto add = [&](std::uint32_t exception, std::optional<std::uint64_t> place,
                         const DumpedGrid* grid) {
        Culprit culprit;
        culprit.what = exception_text(exception);
        if (place) culprit.what += place_text(code, *place);
        if (grid != nullptr)
            culprit.launches = launches_of(*grid, find_code(code, grid->entry), journals);
        else if (const Code* found = place ? find_code(code, *place) : nullptr)
            culprit.launches = launches_at(*found, journals);
        culprits.push_back(std::move(culprit));
    };
    std::vector<const DumpedGrid*> seen;
    std::vector<std::uint64_t> places;
    for (const DumpedFault& fault : dump.faults) {
        const DumpedGrid* grid = fault.grid ? find_grid(dump, *fault.grid) : nullptr;
        if (grid != nullptr) {
            if (std::find(seen.begin(), seen.end(), grid) != seen.end()) continue;
            seen.push_back(grid);
        } else {
            // Multiprocessors that met the same in the same code: one launch's, as a rule.
            const Code* found = fault.program_counter ? find_code(code, *fault.program_counter) : nullptr;
            const std::uint64_t place = found == nullptr ? 0 : found->function.address;
            if (std::find(places.begin(), places.end(), place) != places.end()) continue;
            places.push_back(place);
        }
        add(fault.exception, fault.program_counter, grid);
    }
    // A trap has no exception, but the device holds its grid, beside those of others.
    if (dump.faults.empty())
        for (const DumpedGrid* grid : trapped(dump, code)) add(0, grid->program_counter, grid);
    return culprits;
}

}  // namespace ringlaunch::driver
