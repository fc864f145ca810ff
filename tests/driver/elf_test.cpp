// The reader of images: what it says of real ones, and that no damaged one gets past it.
#include "daemon/driver/elf.hpp"

#include <elf.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <random>

#include "harness.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const std::string kDeclared = std::string(TEST_DATA) + "/declared_sm90.cubin";
const std::string kUndeclared = std::string(TEST_DATA) + "/undeclared_sm120.cubin";

const ImageKernel& named(const Image& image, const std::string& name) {
    for (const ImageKernel& kernel : image.kernels)
        if (kernel.name == name) return kernel;
    throw std::runtime_error("no kernel " + name);
}

std::vector<std::pair<unsigned, unsigned>> places(const ImageKernel& kernel) {
    std::vector<std::pair<unsigned, unsigned>> found;
    for (const ParamPlace& place : kernel.params) found.emplace_back(place.offset, place.size);
    return found;
}

std::vector<std::string> names(const Image& image) {
    std::vector<std::string> found;
    for (const ImageKernel& kernel : image.kernels) found.push_back(kernel.name);
    return found;
}

// What of a cubin made from data/declared.cu must be found, whoever made it.
void expect_declared(const Image& image) {
    EXPECT_EQ(image.kind, ImageKind::cubin);
    EXPECT_EQ(image.architecture, "sm_90");
    EXPECT_EQ(image.found, "a cubin for sm_90");
    EXPECT_THAT(names(image), UnorderedElementsAre("mixed", "nothing", "long_struct", "fixed_block"));
    EXPECT_THAT(image.orphans, IsEmpty());

    const ImageKernel& mixed = named(image, "mixed");
    using P = std::pair<unsigned, unsigned>;
    EXPECT_THAT(places(mixed),
                ElementsAre(P{0, 8}, P{8, 1}, P{10, 2}, P{12, 12}, P{24, 8}, P{32, 1}, P{33, 1}));
    EXPECT_EQ(mixed.param_bytes, 34u);
    EXPECT_EQ(mixed.max_threads, 256u);
    EXPECT_GT(mixed.registers, 0u);
    ASSERT_TRUE(mixed.signature);
    EXPECT_EQ(mixed.signature->size(), 8u + 7 * 6);

    EXPECT_THAT(places(named(image, "nothing")), IsEmpty());
    EXPECT_EQ(named(image, "nothing").signature->size(), 8u);
    EXPECT_THAT(places(named(image, "long_struct")), ElementsAre(P{0, 8}, P{8, 800}));

    const ImageKernel& fixed = named(image, "fixed_block");
    EXPECT_THAT(fixed.required_block, ElementsAre(64u, 2u, 1u));
    EXPECT_EQ(fixed.static_shared_bytes, 512u) << "without what the system reserves";
    EXPECT_EQ(mixed.static_shared_bytes, 0u);
}

TEST(ReadImage, ReadsACubin) {
    expect_declared(read_image(read_file(kDeclared)));
}

TEST(ReadImage, ReadsLongParametersOfACubin) {
    const Image image = read_image(read_file(kUndeclared));
    EXPECT_EQ(image.architecture, "sm_120");
    using P = std::pair<unsigned, unsigned>;
    EXPECT_THAT(places(named(image, "huge")), ElementsAre(P{0, 8}, P{8, 4800}, P{4808, 2}));
    EXPECT_THAT(places(named(image, "plain")), ElementsAre(P{0, 8}, P{8, 4}, P{12, 4}));
    EXPECT_FALSE(named(image, "plain").signature);
}

// Its images are compressed, and the CUDA driver's to choose from: only what it is can be said without one.
TEST(ReadImage, ReadsWhatAFatBinaryIs) {
    for (const char* name : {"/fat_cubins.fatbin", "/fat_ptx.fatbin"}) {
        std::vector<std::byte> bytes = read_file(std::string(TEST_DATA) + name);
        const Image image = read_image(bytes);
        EXPECT_EQ(image.kind, ImageKind::fat_binary);
        EXPECT_THAT(image.found, HasSubstr("fat binary"));
        EXPECT_THAT(image.kernels, IsEmpty());
        bytes.resize(bytes.size() - 8);
        EXPECT_THROW(read_image(bytes), Error) << name << " cut short";
    }
}

TEST(ReadImage, ReadsAHostObject) {
    const Image image = read_image(read_file(TEST_KERNELS));
    EXPECT_EQ(image.kind, ImageKind::host_object);
    EXPECT_EQ(image.architecture, "x86-64");
    EXPECT_THAT(names(image), UnorderedElementsAre("append", "scale", "mixed", "indices", "count_up",
                                                   "atomics", "nothing", "sum_long", "hold"));
    for (const ImageKernel& kernel : image.kernels) EXPECT_TRUE(kernel.signature) << kernel.name;
}

TEST(ReadImage, ReadsWhatNvccMakesNow) {
    if (std::system("nvcc --version > /dev/null 2>&1") != 0)
        GTEST_SKIP() << "there is no nvcc on this machine";
    const std::string out = testing::TempDir() + "ringlaunch_declared.cubin";
    const std::string command =
        "nvcc -cubin -arch=sm_90 -I" TEST_KERNEL_INCLUDE " " TEST_DATA "/declared.cu -o " + out;
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    const Image image = read_image(read_file(out));
    std::filesystem::remove(out);
    expect_declared(image);
}

TEST(ReadImage, TheTestKernelsCompileForAGpu) {
    if (std::system("nvcc --version > /dev/null 2>&1") != 0)
        GTEST_SKIP() << "there is no nvcc on this machine";
    const std::string out = testing::TempDir() + "ringlaunch_kernels.cubin";
    const std::string command =
        "nvcc -cubin -arch=sm_90 -I" TEST_KERNEL_INCLUDE " " TEST_SOURCES "/kernels.cu -o " + out;
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    const Image device = read_image(read_file(out));
    const Image host = read_image(read_file(TEST_KERNELS));
    std::filesystem::remove(out);
    ASSERT_EQ(device.kernels.size(), host.kernels.size());
    for (const ImageKernel& kernel : host.kernels)
        EXPECT_EQ(named(device, kernel.name).signature, kernel.signature) << kernel.name;
}

TEST(DescribeImage, NamesOtherThings) {
    const auto describe = [](std::string_view text) {
        return describe_image(std::as_bytes(std::span(text)));
    };
    EXPECT_EQ(describe(""), "nothing: 0 bytes");
    EXPECT_EQ(describe("\x7f"
                       "ELF"),
              "an ELF file that is cut off, or not 64-bit little-endian");
    EXPECT_EQ(describe("hello"), "text");
    EXPECT_EQ(describe("//\n.version 9.0\n.target sm_90a\n"), "PTX text");
    EXPECT_EQ(describe_image(read_file("/proc/self/exe")).substr(0, 2), "a ");
    auto object = read_file(TEST_KERNELS);
    const auto as = [&](std::uint16_t type, std::uint16_t machine) {
        Elf64_Ehdr header;
        std::memcpy(&header, object.data(), sizeof(header));
        header.e_type = type;
        header.e_machine = machine;
        std::memcpy(object.data(), &header, sizeof(header));
        return describe_image(object);
    };
    EXPECT_EQ(as(ET_REL, EM_X86_64), "an object file (.o) for x86-64, not linked yet");
    EXPECT_EQ(as(ET_EXEC, EM_X86_64), "an executable for x86-64");
    EXPECT_EQ(as(ET_DYN, EM_AARCH64), "a shared object for AArch64");
    EXPECT_EQ(as(ET_DYN, 1234), "a shared object for machine 1234");
    EXPECT_EQ(read_image(object).kind, ImageKind::other);
}

class Damage : public testing::TestWithParam<std::string> {};

// True: it was refused as damaged. Anything but Error{bad_image} fails the test; a sanitizer sees the rest.
bool refused_as_damaged(const std::vector<std::byte>& bytes) {
    try {
        (void)read_image(bytes);
        return false;
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::bad_image);
        EXPECT_NE(std::string(error.what()), "");
        return true;
    }
}

TEST_P(Damage, EveryTruncationIsRefusedOrHarmless) {
    const std::vector<std::byte> whole = read_file(GetParam());
    int refusals = 0, cuts = 0;
    for (std::size_t size = 0; size < whole.size(); size += size < 4096 ? 1 : 37) {
        // A buffer of its own, so that a sanitizer sees the first byte past it.
        refusals +=
            refused_as_damaged({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)}) ? 1 : 0;
        ++cuts;
    }
    EXPECT_GT(refusals, cuts / 2);
}

TEST_P(Damage, NoFlippedByteGetsThrough) {
    const std::vector<std::byte> whole = read_file(GetParam());
    std::mt19937 random(7);
    int refusals = 0;
    for (int turn = 0; turn < 20'000; ++turn) {
        std::vector<std::byte> bytes = whole;
        const unsigned flips = 1 + static_cast<unsigned>(random() % 8);
        for (unsigned i = 0; i < flips; ++i) {
            // Half of them in the header, which leads everywhere else.
            const std::size_t at =
                random() % 2 == 0 ? random() % sizeof(Elf64_Ehdr) : random() % bytes.size();
            bytes[at] = static_cast<std::byte>(random());
        }
        refusals += refused_as_damaged(bytes) ? 1 : 0;
    }
    EXPECT_GT(refusals, 0);
}

// Damage where it hurts: every field of every section header and symbol takes hostile values in turn.
TEST_P(Damage, HostileSectionHeadersAreRefusedOrHarmless) {
    const std::vector<std::byte> whole = read_file(GetParam());
    Elf64_Ehdr header;
    std::memcpy(&header, whole.data(), sizeof(header));
    const std::uint64_t hostile[] = {0,
                                     1,
                                     0x7fffffff,
                                     0xffffffff,
                                     ~std::uint64_t{0},
                                     ~std::uint64_t{0} - 63,
                                     whole.size() - 1,
                                     whole.size(),
                                     std::uint64_t{1} << 63};
    int refusals = 0;
    for (std::size_t section = 0; section < header.e_shnum; ++section)
        for (std::size_t word = 0; word < sizeof(Elf64_Shdr) / 4; ++word)
            for (const std::uint64_t value : hostile) {
                std::vector<std::byte> bytes = whole;
                const std::size_t at = header.e_shoff + section * sizeof(Elf64_Shdr) + word * 4;
                const std::size_t width = word >= 2 && word % 2 == 0 && word != 10 ? 8 : 4;
                std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
                refusals += refused_as_damaged(bytes) ? 1 : 0;
            }
    EXPECT_GT(refusals, 0);
}

INSTANTIATE_TEST_SUITE_P(Images, Damage, testing::Values(kDeclared, kUndeclared, std::string(TEST_KERNELS)),
                         [](const auto& of) {
                             return of.param == kDeclared     ? "Cubin"
                                    : of.param == kUndeclared ? "LongCubin"
                                                              : "HostObject";
                         });

}  // namespace
}  // namespace ringlaunch::driver
