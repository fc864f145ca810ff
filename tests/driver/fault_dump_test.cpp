// The reader of GPU core dumps: what it says of those that real faults left, and that no damaged one gets
// past it.
#include "daemon/driver/fault_dump.hpp"

#include <elf.h>
#include <gmock/gmock.h>

#include <cstring>
#include <random>

#include "harness.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

using Bytes = std::vector<std::byte>;

// Fields of a row, by their offsets.
class RowOf {
  public:
    explicit RowOf(std::size_t bytes) : bytes_(bytes) {}
    template <class T>
    RowOf& set(std::size_t at, T value) {
        std::memcpy(bytes_.data() + at, &value, sizeof value);
        return *this;
    }
    RowOf& u32(std::size_t at, std::uint32_t value) { return set(at, value); }
    RowOf& u64(std::size_t at, std::uint64_t value) { return set(at, value); }
    const Bytes& bytes() const { return bytes_; }

  private:
    Bytes bytes_;
};

// A dump made by hand. Sections are numbered from 1, in the order in which they are added.
class DumpOf {
  public:
    std::uint32_t add(std::uint32_t type, const std::vector<RowOf>& rows, std::uint32_t link = 0,
                      std::uint32_t info = 0) {
        Bytes content;
        for (const RowOf& row : rows) content.insert(content.end(), row.bytes().begin(), row.bytes().end());
        Elf64_Shdr header{};
        header.sh_type = 0x80000000 + type;
        header.sh_size = content.size();
        header.sh_entsize = rows.empty() ? 0 : rows[0].bytes().size();
        header.sh_link = link;
        header.sh_info = info;
        header.sh_offset = sizeof(Elf64_Ehdr) + contents_.size();
        contents_.insert(contents_.end(), content.begin(), content.end());
        headers_.push_back(header);
        return static_cast<std::uint32_t>(headers_.size() - 1);
    }
    Elf64_Shdr& section(std::uint32_t index) { return headers_.at(index); }
    // `counted_apart`: as in a dump with more sections than the file's header can count.
    Bytes bytes(bool counted_apart = false) const {
        Elf64_Ehdr file{};
        std::memcpy(file.e_ident, ELFMAG, SELFMAG);
        file.e_ident[EI_CLASS] = ELFCLASS64;
        file.e_ident[EI_DATA] = ELFDATA2LSB;
        file.e_type = ET_CORE;
        file.e_machine = 190;
        file.e_shentsize = sizeof(Elf64_Shdr);
        file.e_shoff = sizeof file + contents_.size();
        std::vector<Elf64_Shdr> headers = headers_;
        if (counted_apart)
            headers[0].sh_size = headers.size();
        else
            file.e_shnum = static_cast<std::uint16_t>(headers.size());
        Bytes out(sizeof file + contents_.size() + headers.size() * sizeof(Elf64_Shdr));
        std::memcpy(out.data(), &file, sizeof file);
        std::memcpy(out.data() + sizeof file, contents_.data(), contents_.size());
        std::memcpy(out.data() + file.e_shoff, headers.data(), headers.size() * sizeof(Elf64_Shdr));
        return out;
    }

  private:
    Bytes contents_;
    std::vector<Elf64_Shdr> headers_{Elf64_Shdr{}};
};

enum Table : std::uint32_t {
    kImage = 7,
    kDevices = 9,
    kContexts = 10,
    kProcessors = 11,
    kGrids = 12,
    kBlocks = 13,
    kWarps = 14,
    kThreads = 15,
    kModules = 16,
    kParams = 18,
};

constexpr std::uint64_t kInnocent = 7, kCulprit = 9, kPlace = 0x7f0000001230;

RowOf grid(std::uint64_t id, std::uint64_t entry, std::uint32_t blocks, std::uint32_t threads) {
    return RowOf(136)
        .u64(0, id)
        .u64(24, entry)
        .u64(32, 0x55)
        .u32(72, blocks)
        .u32(76, 1)
        .u32(80, 1)
        .u32(84, threads)
        .u32(88, 1)
        .u32(92, 1);
}
RowOf processor(std::uint32_t id, std::uint32_t exception = 0, std::uint64_t place = 0) {
    return RowOf(40).u32(0, id).u32(8, exception).u32(12, place != 0).u64(16, place);
}
RowOf block(std::uint64_t of_grid) {
    return RowOf(24).u64(0, of_grid);
}
RowOf warp(std::uint64_t place = 0) {
    return RowOf(32).u64(0, place).u32(24, place != 0);
}
RowOf thread(std::uint32_t exception = 0, std::uint64_t at = kPlace + 16) {
    return RowOf(48).u64(0, at).u32(32, exception);
}

// Two multiprocessors, each with a block; the second's is the culprit's.
struct Scene {
    DumpOf dump;
    std::uint32_t devices, grids, processors, blocks[2], warps[2], threads[2];

    Scene(const RowOf& faulted_processor, const RowOf& faulted_warp, const RowOf& faulted_thread) {
        devices = dump.add(kDevices, {RowOf(88)});
        grids = dump.add(
            kGrids, {grid(kInnocent, 0x7f0000000000, 4, 64), grid(kCulprit, 0x7f0000001200, 1, 32)}, devices);
        processors = dump.add(kProcessors, {processor(0), faulted_processor}, devices);
        for (std::uint32_t i = 0; i < 2; ++i) {
            blocks[i] = dump.add(kBlocks, {block(i == 0 ? kInnocent : kCulprit)}, processors, i);
            warps[i] = dump.add(kWarps, {i == 0 ? warp() : faulted_warp}, blocks[i], 0);
            threads[i] = dump.add(kThreads, {thread(), i == 0 ? thread() : faulted_thread}, warps[i], 0);
        }
        const std::uint32_t params = dump.add(kParams, {RowOf(16).u64(0, 0xdead)}, grids, 1);
        dump.section(params).sh_entsize = 0;
    }
};
Scene warp_fault() {
    return Scene(processor(1, 14, kPlace), warp(kPlace), thread(14));
}

std::string reading(const Bytes& bytes) {
    return refusal(Status::driver_error, [&] { (void)read_fault_dump(bytes); });
}

TEST(FaultDump, SaysWhichGridMetWhichExceptionWhere) {
    const Bytes bytes = warp_fault().dump.bytes();
    const FaultDump dump = read_fault_dump(bytes);
    EXPECT_THAT(dump.faults, ElementsAre(DumpedFault{14, kPlace, kCulprit, 1}));
    ASSERT_THAT(dump.grids, SizeIs(2));
    EXPECT_EQ(dump.grids[0].id, kInnocent);
    EXPECT_THAT(dump.grids[0].params, IsEmpty());
    EXPECT_EQ(dump.grids[1].id, kCulprit);
    EXPECT_EQ(dump.grids[1].entry, 0x7f0000001200u);
    EXPECT_THAT(dump.grids[1].grid, ElementsAre(1, 1, 1));
    EXPECT_THAT(dump.grids[1].block, ElementsAre(32, 1, 1));
    ASSERT_THAT(dump.grids[1].params, SizeIs(16));
    EXPECT_EQ(dump.grids[1].params[0], std::byte{0xad});
}

TEST(FaultDump, IsReadLikewiseWithMoreSectionsThanItsHeaderCanCount) {
    const Bytes bytes = warp_fault().dump.bytes(true);
    EXPECT_THAT(read_fault_dump(bytes).faults, ElementsAre(DumpedFault{14, kPlace, kCulprit, 1}));
}

TEST(FaultDump, OfAnOlderDriverWithShorterRowsSaysWhatItHas) {
    Scene scene(RowOf(8).u32(0, 1), warp(kPlace), thread());
    // Rows are as long as those of the first: make all of them old ones.
    scene.dump = DumpOf();
    const auto devices = scene.dump.add(kDevices, {RowOf(72)});
    scene.dump.add(kGrids, {RowOf(104).u64(0, kCulprit)}, devices);
    const auto processors = scene.dump.add(kProcessors, {RowOf(8).u32(0, 3)}, devices);
    const auto blocks = scene.dump.add(kBlocks, {block(kCulprit)}, processors);
    scene.dump.add(kWarps, {warp(kPlace)}, blocks);
    const Bytes bytes = scene.dump.bytes();
    EXPECT_THAT(read_fault_dump(bytes).faults, ElementsAre(DumpedFault{0, kPlace, kCulprit, 3}));
}

TEST(FaultDump, TakesTheExceptionOfTheMultiprocessorWhereNoThreadSaysIt) {
    const Bytes bytes = Scene(processor(1, 6, kPlace), warp(kPlace), thread()).dump.bytes();
    EXPECT_THAT(read_fault_dump(bytes).faults, ElementsAre(DumpedFault{6, kPlace, kCulprit, 1}));
}

TEST(FaultDump, SaysNoGridWhereTheWarpsHaveLeft) {
    const Bytes bytes = Scene(processor(1, 14, kPlace), warp(), thread()).dump.bytes();
    EXPECT_THAT(read_fault_dump(bytes).faults, ElementsAre(DumpedFault{14, kPlace, std::nullopt, 1}));
}

TEST(FaultDump, WithoutAnExceptionSaysNone) {
    const Bytes bytes = Scene(processor(1), warp(), thread()).dump.bytes();
    EXPECT_THAT(read_fault_dump(bytes).faults, IsEmpty());
}

TEST(FaultDump, ThreadsThatMetTheSameAreOne) {
    Scene scene = warp_fault();
    std::vector<RowOf> all(32, thread(14));
    for (int i = 0; i < 100; ++i) scene.dump.add(kThreads, all, scene.warps[1], 0);
    const Bytes bytes = scene.dump.bytes();
    EXPECT_THAT(read_fault_dump(bytes).faults, SizeIs(1));
}

TEST(FaultDump, HoldsTheCodeOfItsModules) {
    Scene scene = warp_fault();
    const auto contexts = scene.dump.add(kContexts, {RowOf(40)}, scene.devices);
    const auto modules = scene.dump.add(kModules, {RowOf(8).u64(0, 0x44), RowOf(8).u64(0, 0x55)}, contexts);
    scene.dump.add(kImage, {RowOf(24).u32(0, 0x1234)}, modules, 1);
    const Bytes bytes = scene.dump.bytes();
    const FaultDump dump = read_fault_dump(bytes);
    ASSERT_THAT(dump.modules, SizeIs(1));
    EXPECT_EQ(dump.modules[0].handle, 0x55u);
    EXPECT_THAT(dump.modules[0].image, SizeIs(24));
}

TEST(FaultDump, ThatIsNoneIsRefusedWithWhatItIs) {
    EXPECT_THAT(reading({}), HasSubstr("it has 0 bytes"));
    EXPECT_THAT(reading(Bytes(4096)), HasSubstr("no ELF file"));
    EXPECT_THAT(reading(read_file(std::string(TEST_DATA) + "/declared_sm90.cubin")),
                HasSubstr("no core of a GPU"));
}

TEST(FaultDump, OfAnH200WithAnyByteChangedIsReadOrRefused) {
    const Bytes whole = read_file(std::string(TEST_DATA) + "/fault_assert.dump");
    std::mt19937 random(2);
    for (int i = 0; i < 20'000; ++i) {
        Bytes bytes = whole;
        // Half of them in the section headers.
        const std::size_t from = i % 2 == 0 ? 0 : bytes.size() - 294 * sizeof(Elf64_Shdr);
        bytes[from + random() % (bytes.size() - from)] = static_cast<std::byte>(random() & 0xff);
        (void)reading(bytes);
    }
}

TEST(FaultDump, ThatWasCutAnywhereIsRefused) {
    const Bytes whole = warp_fault().dump.bytes();
    for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
        EXPECT_THAT(reading(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes))),
                    HasSubstr("the GPU core dump is damaged"))
            << bytes;
}

TEST(FaultDump, WhoseTablesDoNotHangTogetherIsRefused) {
    const auto broken = [](auto change) {
        Scene scene = warp_fault();
        change(scene);
        return reading(scene.dump.bytes());
    };
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.threads[1]).sh_link = 4000; }),
                HasSubstr("section 4000"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.threads[1]).sh_link = in.grids; }),
                HasSubstr("none such"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.warps[1]).sh_info = 1; }), HasSubstr("row 1"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.blocks[1]).sh_link = in.blocks[1]; }),
                HasSubstr("none such"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.grids).sh_entsize = 0; }),
                HasSubstr("rows of 0 bytes"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.grids).sh_size = ~0ull; }),
                HasSubstr("should stand at"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.grids).sh_offset = ~0ull - 3; }),
                HasSubstr("should stand at"));
    EXPECT_THAT(broken([](Scene& in) { in.dump.section(in.threads[1]).sh_entsize = 1; }),
                HasSubstr("rows of 1 bytes"));
}

TEST(FaultDump, WithAnyByteChangedIsReadOrRefused) {
    const Bytes whole = warp_fault().dump.bytes();
    std::mt19937 random(1);
    for (int i = 0; i < 200'000; ++i) {
        Bytes bytes = whole;
        for (unsigned n = 1 + random() % 4; n > 0; --n)
            bytes[random() % bytes.size()] =
                static_cast<std::byte>(random() % 3 == 0 ? 0xff : random() & 0xff);
        (void)reading(bytes);
    }
}

TEST(FaultDump, ExceptionsHaveTheNamesOfTheDebugger) {
    EXPECT_EQ(exception_text(14), "CUDA_EXCEPTION_14, Warp Illegal Address");
    EXPECT_EQ(exception_text(12), "CUDA_EXCEPTION_12, Warp Assert");
    EXPECT_EQ(exception_text(999), "CUDA_EXCEPTION_999");
    EXPECT_THAT(exception_text(0), HasSubstr("without a name"));
}

}  // namespace
}  // namespace ringlaunch::driver
