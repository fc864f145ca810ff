#include "daemon/driver/fault_dump.hpp"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::uint16_t kCoreMachine = 190;

// Sections are told apart by their type. Tables hang together: a table's `sh_link` is the section of the
// table above it, its `sh_info` the row there.
enum SectionType : std::uint32_t {
    kFirstType = 0x80000001,
    kModuleImage = 0x80000007,
    kDevices = 0x80000009,
    kMultiprocessors = 0x8000000b,
    kGrids = 0x8000000c,
    kBlocks = 0x8000000d,
    kWarps = 0x8000000e,
    kThreads = 0x8000000f,
    kModules = 0x80000010,
    kGridParams = 0x80000012,
};

[[noreturn]] void unreadable(const std::string& what) {
    throw Error(Status::driver_error, "the GPU core dump is damaged: " + what);
}

// A row of a table. Drivers add fields at its end, so what an older one does not have reads as 0.
class Row {
  public:
    explicit Row(std::span<const std::byte> bytes) : bytes_(bytes) {}
    std::uint32_t u32(std::size_t at) const { return read<std::uint32_t>(at); }
    std::uint64_t u64(std::size_t at) const { return read<std::uint64_t>(at); }

  private:
    template <class T>
    T read(std::size_t at) const {
        T value = 0;
        if (at + sizeof(T) <= bytes_.size()) std::memcpy(&value, bytes_.data() + at, sizeof(T));
        return value;
    }
    std::span<const std::byte> bytes_;
};

class Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {
        read_sections();
        sort_sections();
    }

    FaultDump read() {
        each(kGrids, [this](std::uint64_t table) { read_grids(table); });
        each(kGridParams, [this](std::uint64_t section) { read_params(section); });
        each(kModuleImage, [this](std::uint64_t section) { read_module(section); });
        // From the most exact to the least: a thread names its exception, a warp the place, a multiprocessor
        // what was met on it, also where the warps have left it.
        each(kThreads, [this](std::uint64_t table) { read_threads(table); });
        each(kWarps, [this](std::uint64_t table) { read_warps(table); });
        each(kMultiprocessors, [this](std::uint64_t table) { read_multiprocessors(table); });
        return std::move(dump_);
    }

  private:
    // How many threads, warps and blocks a real device has is far below this: a file that says more is not
    // worth its time.
    static constexpr std::uint64_t kMaxSections = 8u << 20;
    static constexpr std::uint64_t kShortestRow = 8;

    void read_sections() {
        Elf64_Ehdr file;
        if (bytes_.size() < sizeof file)
            unreadable("it has " + std::to_string(bytes_.size()) + " bytes, fewer than its header takes");
        std::memcpy(&file, bytes_.data(), sizeof file);
        if (std::memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 || file.e_ident[EI_CLASS] != ELFCLASS64 ||
            file.e_ident[EI_DATA] != ELFDATA2LSB)
            unreadable("it is no ELF file of 64 bits");
        if (file.e_machine != kCoreMachine || file.e_type != ET_CORE)
            unreadable("it is an ELF file of type " + std::to_string(file.e_type) + " for machine " +
                       std::to_string(file.e_machine) + ", no core of a GPU");
        if (file.e_shentsize != sizeof(Elf64_Shdr))
            unreadable("section headers have " + std::to_string(file.e_shentsize) + " bytes, not " +
                       std::to_string(sizeof(Elf64_Shdr)));
        table_ = file.e_shoff;
        count_ = 1;
        if (table_ == 0 || !fits(table_, sizeof(Elf64_Shdr)))
            unreadable("its section headers should begin at byte " + std::to_string(table_) + " of " +
                       std::to_string(bytes_.size()) + " (was it written to its end?)");
        // A count that does not fit the header stands in the first section.
        count_ = file.e_shnum != 0 ? file.e_shnum : header(0).sh_size;
        if (count_ > kMaxSections || !fits(table_, count_ * sizeof(Elf64_Shdr)))
            unreadable("it should have " + std::to_string(count_) + " sections, more than fit into it");
    }

    void sort_sections() {
        for (std::uint32_t i = 0; i < count_; ++i) {
            const std::uint32_t type = header(i).sh_type;
            if (type >= kFirstType && type - kFirstType < by_type_.size())
                by_type_[type - kFirstType].push_back(i);
        }
    }

    bool fits(std::uint64_t at, std::uint64_t bytes) const {
        return at <= bytes_.size() && bytes <= bytes_.size() - at;
    }

    Elf64_Shdr header(std::uint64_t index) const {
        if (index >= count_)
            unreadable("section " + std::to_string(index) + " of " + std::to_string(count_) +
                       " is referred to");
        Elf64_Shdr section;
        std::memcpy(&section, bytes_.data() + table_ + index * sizeof section, sizeof section);
        return section;
    }

    std::span<const std::byte> contents(std::uint64_t index) const {
        const Elf64_Shdr section = header(index);
        if (!fits(section.sh_offset, section.sh_size))
            unreadable("section " + std::to_string(index) + " should stand at byte " +
                       std::to_string(section.sh_offset) + " and be " + std::to_string(section.sh_size) +
                       " long, in a file of " + std::to_string(bytes_.size()));
        return bytes_.subspan(section.sh_offset, section.sh_size);
    }

    std::uint64_t rows(std::uint64_t index) const {
        const Elf64_Shdr section = header(index);
        if (section.sh_size == 0) return 0;
        if (section.sh_entsize < kShortestRow)
            unreadable("table " + std::to_string(index) + " has rows of " +
                       std::to_string(section.sh_entsize) + " bytes, fewer than any has");
        return section.sh_size / section.sh_entsize;
    }

    Row row(std::uint64_t index, std::uint64_t number, SectionType type) const {
        if (header(index).sh_type != type || number >= rows(index))
            unreadable("row " + std::to_string(number) + " of section " + std::to_string(index) +
                       " is referred to, which has none such");
        const std::uint64_t bytes = header(index).sh_entsize;
        return Row(contents(index).subspan(number * bytes, bytes));
    }

    template <class See>
    void each(SectionType type, const See& see) const {
        for (const std::uint32_t section : by_type_[type - kFirstType]) see(section);
    }

    void read_grids(std::uint64_t table) {
        for (std::uint64_t i = 0; i < rows(table); ++i) {
            if (dump_.grids.size() == kMaxDumpedGrids)
                unreadable("it has more than " + std::to_string(kMaxDumpedGrids) + " grids");
            const Row from = row(table, i, kGrids);
            DumpedGrid grid;
            grid.id = from.u64(0);
            grid.function = from.u64(16);
            grid.entry = from.u64(24);
            grid.module = from.u64(32);
            for (std::size_t k = 0; k < 3; ++k) {
                grid.grid[k] = from.u32(72 + 4 * k);
                grid.block[k] = from.u32(84 + 4 * k);
            }
            dump_.grids.push_back(grid);
        }
    }

    void read_params(std::uint64_t section) {
        const Elf64_Shdr params = header(section);
        const std::uint64_t id = row(params.sh_link, params.sh_info, kGrids).u64(0);
        for (DumpedGrid& grid : dump_.grids)
            if (grid.id == id) grid.params = contents(section);
    }

    void read_module(std::uint64_t section) {
        const Elf64_Shdr image = header(section);
        dump_.modules.push_back({row(image.sh_link, image.sh_info, kModules).u64(0), contents(section)});
    }

    void add(const DumpedFault& fault) {
        if (dump_.faults.size() < kMaxDumpedFaults &&
            std::find(dump_.faults.begin(), dump_.faults.end(), fault) == dump_.faults.end())
            dump_.faults.push_back(fault);
    }

    // A fault at a warp, without its exception.
    DumpedFault at_warp(std::uint64_t table, std::uint64_t number) const {
        const Row warp = row(table, number, kWarps);
        const Elf64_Shdr warps = header(table);
        const Elf64_Shdr blocks = header(warps.sh_link);
        DumpedFault fault;
        if (warp.u32(24) != 0) fault.program_counter = warp.u64(0);
        fault.grid = row(warps.sh_link, warps.sh_info, kBlocks).u64(0);
        fault.multiprocessor = row(blocks.sh_link, blocks.sh_info, kMultiprocessors).u32(0);
        return fault;
    }

    void note_place(std::uint64_t id, std::uint64_t program_counter, bool broken) {
        for (DumpedGrid& grid : dump_.grids)
            if (grid.id == id && (!grid.program_counter || (broken && !grid.broken))) {
                grid.program_counter = program_counter;
                grid.broken = broken;
            }
    }

    void read_threads(std::uint64_t table) {
        const Elf64_Shdr threads = header(table);
        for (std::uint64_t i = 0; i < rows(table); ++i) {
            const Row thread = row(table, i, kThreads);
            if (thread.u32(32) == 0 && i != 0) continue;
            DumpedFault fault = at_warp(threads.sh_link, threads.sh_info);
            if (i == 0)
                note_place(*fault.grid, thread.u64(0),
                           row(threads.sh_link, threads.sh_info, kWarps).u32(20) != 0);
            if (thread.u32(32) == 0) continue;
            fault.exception = thread.u32(32);
            if (!fault.program_counter) fault.program_counter = thread.u64(0);
            add(fault);
        }
    }

    void read_warps(std::uint64_t table) {
        for (std::uint64_t i = 0; i < rows(table) && dump_.faults.size() < kMaxDumpedFaults; ++i) {
            if (row(table, i, kWarps).u32(24) == 0) continue;
            DumpedFault fault = at_warp(table, i);
            const auto known = [&](const DumpedFault& other) {
                return other.grid == fault.grid && other.program_counter == fault.program_counter;
            };
            if (std::any_of(dump_.faults.begin(), dump_.faults.end(), known)) continue;
            fault.exception = on_multiprocessor(fault);
            add(fault);
        }
    }

    // What the multiprocessor of a warp says that it met at this place; 0: nothing.
    std::uint32_t on_multiprocessor(const DumpedFault& fault) const {
        std::uint32_t found = 0;
        each(kMultiprocessors, [&](std::uint64_t table) {
            for (std::uint64_t i = 0; i < rows(table); ++i) {
                const Row from = row(table, i, kMultiprocessors);
                if (from.u32(0) == fault.multiprocessor && from.u64(16) == fault.program_counter)
                    found = from.u32(8);
            }
        });
        return found;
    }

    void read_multiprocessors(std::uint64_t table) {
        for (std::uint64_t i = 0; i < rows(table); ++i) {
            const Row from = row(table, i, kMultiprocessors);
            DumpedFault fault;
            fault.multiprocessor = from.u32(0);
            fault.exception = from.u32(8);
            if (from.u32(12) != 0) fault.program_counter = from.u64(16);
            if (fault.exception == 0 && !fault.program_counter) continue;
            const auto known = [&](const DumpedFault& other) {
                return other.multiprocessor == fault.multiprocessor &&
                       (!fault.program_counter || other.program_counter == fault.program_counter);
            };
            if (std::none_of(dump_.faults.begin(), dump_.faults.end(), known)) add(fault);
        }
    }

    std::span<const std::byte> bytes_;
    std::uint64_t table_ = 0, count_ = 0;
    std::array<std::vector<std::uint32_t>, kGridParams - kFirstType + 1> by_type_;
    FaultDump dump_;
};

}  // namespace

FaultDump read_fault_dump(std::span<const std::byte> bytes) {
    return Reader(bytes).read();
}

std::string exception_text(std::uint32_t exception) {
    constexpr std::pair<std::uint32_t, const char*> kNames[] = {
        {1, "Lane Illegal Address"},
        {2, "Lane User Stack Overflow"},
        {3, "Device Hardware Stack Overflow"},
        {4, "Warp Illegal Instruction"},
        {5, "Warp Out-of-range Address"},
        {6, "Warp Misaligned Address"},
        {7, "Warp Invalid Address Space"},
        {8, "Warp Invalid PC"},
        {9, "Warp Hardware Stack Overflow"},
        {10, "Device Illegal Address"},
        {11, "Lane Misaligned Address"},
        {12, "Warp Assert"},
        {13, "Lane Syscall Error"},
        {14, "Warp Illegal Address"},
        {15, "Lane Nonmigratable Atomic"},
        {16, "Lane Invalid Atomic"},
        {17, "Cluster Out-of-range Address"},
        {18, "Cluster Block Not Present"},
        {19, "Warp Stack Canary"},
        {20, "Warp Tensor Memory Access Check"},
        {21, "Warp Tensor Memory Leak"},
        {22, "Warp Call Requires Newer Driver"},
        {23, "Warp Misaligned PC"},
        {24, "Warp PC Overflow"},
        {25, "Warp Misaligned Register"},
        {26, "Warp Illegal Instruction Encoding"},
        {27, "Warp Illegal Instruction Parameter"},
        {28, "Warp Out-of-range Register"},
        {29, "Warp Invalid Constant Address"},
        {30, "Warp MMU Fault"},
        {31, "Warp Arrive"},
        {32, "Cluster Poison"},
        {33, "Warp API Stack Error"},
        {34, "Warp Block Not Present"},
        {35, "Warp User Stack Overflow"},
        {36, "TMA Syscall"},
    };
    for (const auto& [number, name] : kNames)
        if (number == exception) return "CUDA_EXCEPTION_" + std::to_string(number) + ", " + name;
    return exception == 0 || exception == ~std::uint32_t{0} ? "an exception without a name (a trap)"
                                                            : "CUDA_EXCEPTION_" + std::to_string(exception);
}

}  // namespace ringlaunch::driver
