// Declarations: what the bytes of RINGLAUNCH_EXPORT may say, and what of a cubin without one is known.
#include "daemon/driver/signature.hpp"

#include <gmock/gmock.h>

#include <random>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
    return bytes;
}

std::string refused(const std::vector<std::byte>& bytes) {
    return refusal(Status::bad_image, [&] { (void)read_signature("foo", bytes); });
}

TEST(ReadSignature, ReadsTypesSizesAndOffsets) {
    const auto params = read_signature(
        "foo", bytes_of({'R', 'L', 'S', '1', 1, 0, 2, 0, 1, 0, 8, 0, 0, 0, 13, 0, 4, 0, 8, 0}));
    ASSERT_EQ(params.size(), 2u);
    EXPECT_EQ(params[0].type, ParamType::Pointer);
    EXPECT_EQ(params[1].type, ParamType::Float32);
    EXPECT_EQ(params[1].offset, 8u);
    EXPECT_EQ(params[1].size, 4u);
}

TEST(ReadSignature, RefusesWhatItCannotBe) {
    EXPECT_THAT(refused({}), HasSubstr("kernel 'foo': the signature in the image does not begin"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '2', 1, 0, 0, 0})), HasSubstr("does not begin"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 2, 0, 0, 0})),
                HasSubstr("has version 2, this daemon reads 1"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 1, 0})), HasSubstr("not those of 1 parameters"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 1, 0, 16, 0, 4, 0, 0, 0})), HasSubstr("no type"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 1, 0, 1, 0, 4, 0, 0, 0})), HasSubstr("Pointer"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 1, 0, 15, 0, 0, 0, 0, 0})), HasSubstr("0 bytes"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 1, 0, 15, 0, 255, 255, 0, 0})),
                HasSubstr("4096"));
    EXPECT_THAT(refused(bytes_of({'R', 'L', 'S', '1', 1, 0, 2, 0, 1, 0, 8, 0, 0, 0, 5, 0, 4, 0, 4, 0})),
                HasSubstr("the one before it ends at 8"));
}

TEST(ReadSignature, RandomBytesAreRefusedOrMakeSense) {
    std::mt19937 random(3);
    for (int turn = 0; turn < 20'000; ++turn) {
        std::vector<std::byte> bytes = bytes_of({'R', 'L', 'S', '1', 1, 0, 0, 0});
        const std::size_t count = random() % 5;
        bytes[6] = static_cast<std::byte>(count);
        for (std::size_t i = 0; i < 6 * count; ++i) bytes.push_back(static_cast<std::byte>(random() % 20));
        try {
            std::uint32_t end = 0;
            for (const Param& param : read_signature("foo", bytes)) {
                EXPECT_GE(param.offset, end);
                EXPECT_GT(param.size, 0u);
                end = param.offset + param.size;
            }
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::bad_image);
        }
    }
}

std::vector<KernelLayout> layouts(const std::string& cubin, const std::vector<Signature>& signatures) {
    return make_layouts("module", read_image(read_file(std::string(TEST_DATA) + "/" + cubin)), signatures);
}

const KernelLayout& named(const std::vector<KernelLayout>& all, const std::string& name) {
    for (const KernelLayout& layout : all)
        if (layout.name == name) return layout;
    throw std::runtime_error("no kernel " + name);
}

TEST(MakeLayouts, AKernelWithoutADeclarationIsKnownButNotDeclared) {
    const auto all = layouts("undeclared_sm120.cubin", {});
    const KernelLayout& plain = named(all, "plain");
    EXPECT_FALSE(plain.declared);
    ASSERT_EQ(plain.params.size(), 3u);
    EXPECT_EQ(plain.params[1].type, ParamType::Unknown);
    EXPECT_EQ(plain.params[1].offset, 8u);
    EXPECT_EQ(plain.param_bytes, 16u);
}

TEST(MakeLayouts, ADeclarationFromOutsideIsConfirmedByTheImage) {
    const auto all = layouts("undeclared_sm120.cubin", {{"plain",
                                                         {{ParamType::Pointer, 0, 0, "x"},
                                                          {ParamType::Float32, 0, 0, "by"},
                                                          {ParamType::Int32, 0, 0, "n"}}}});
    EXPECT_TRUE(named(all, "plain").declared);
    EXPECT_FALSE(named(all, "huge").declared);
    const std::string text = refusal(Status::bad_image, [] {
        layouts("undeclared_sm120.cubin", {{"plain",
                                            {{ParamType::Pointer, 0, 0, "x"},
                                             {ParamType::Float64, 0, 0, "by"},
                                             {ParamType::Int32, 0, 0, "n"}}}});
    });
    EXPECT_THAT(text, HasSubstr("kernel 'plain': parameter 1 is declared as Float64, 8 bytes at offset 8"));
    EXPECT_THAT(text, HasSubstr("the image says 4 bytes at offset 8"));
}

TEST(MakeLayouts, ABlockThatTheKernelRequiresIsItsDefault) {
    const auto all = layouts("declared_sm90.cubin", {});
    const KernelLayout& fixed = named(all, "fixed_block");
    EXPECT_EQ(fixed.default_block.x, 64u);
    EXPECT_EQ(fixed.default_block.y, 2u);
    EXPECT_EQ(fixed.default_block.z, 1u);
    EXPECT_EQ(fixed.max_threads, 128u);
    EXPECT_EQ(named(all, "mixed").max_threads, 256u);
    EXPECT_EQ(named(all, "mixed").default_block.x, 0u);
}

TEST(MakeLayouts, MoreThanALaunchCanCarryIsRefusedWhenDeclared) {
    EXPECT_THAT(refusal(Status::bad_image,
                        [] {
                            layouts("undeclared_sm120.cubin", {{"huge",
                                                                {{ParamType::Pointer, 0, 8, ""},
                                                                 {ParamType::Bytes, 8, 4800, ""},
                                                                 {ParamType::Int16, 4808, 2, ""}}}});
                        }),
                HasSubstr("4096 is the most"));
}

}  // namespace
}  // namespace ringlaunch::driver
