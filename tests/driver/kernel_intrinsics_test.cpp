// The intrinsics that kernels have on the host, against what CUDA's reference says of them.
#include <gtest/gtest.h>
#include <ringlaunch/kernel.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kWideNan = std::numeric_limits<double>::quiet_NaN();
constexpr int kMinInt = std::numeric_limits<int>::min();
constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr unsigned kMaxUint = std::numeric_limits<unsigned>::max();
constexpr long long kMinLong = std::numeric_limits<long long>::min();
constexpr long long kMaxLong = std::numeric_limits<long long>::max();
constexpr unsigned long long kMaxUlong = std::numeric_limits<unsigned long long>::max();

TEST(KernelIntrinsics, ConvertToIntegersAsTheirNamesRound) {
    struct Case {
        float from;
        int nearest, to_zero, up, down;
    };
    for (const Case& c : {Case{2.5f, 2, 2, 3, 2},
                          {3.5f, 4, 3, 4, 3},
                          {-2.5f, -2, -2, -2, -3},
                          {-3.5f, -4, -3, -3, -4},
                          {0.4f, 0, 0, 1, 0},
                          {-0.4f, 0, 0, 0, -1},
                          {7.0f, 7, 7, 7, 7},
                          {1e-40f, 0, 0, 1, 0},
                          {8388609.0f, 8388609, 8388609, 8388609, 8388609}}) {
        SCOPED_TRACE(c.from);
        EXPECT_EQ(__float2int_rn(c.from), c.nearest);
        EXPECT_EQ(__float2int_rz(c.from), c.to_zero);
        EXPECT_EQ(__float2int_ru(c.from), c.up);
        EXPECT_EQ(__float2int_rd(c.from), c.down);
        EXPECT_EQ(__float2ll_rn(c.from), c.nearest);
        EXPECT_EQ(__float2ll_rd(c.from), c.down);
        EXPECT_EQ(__double2int_rn(static_cast<double>(c.from)), c.nearest);
        EXPECT_EQ(__double2int_ru(static_cast<double>(c.from)), c.up);
        EXPECT_EQ(__double2ll_rz(static_cast<double>(c.from)), c.to_zero);
        EXPECT_EQ(__double2ll_rd(static_cast<double>(c.from)), c.down);
    }
    EXPECT_EQ(__float2uint_ru(2.1f), 3u);
    EXPECT_EQ(__double2uint_rn(4294967294.5), 4294967294u);
    EXPECT_EQ(__double2ull_rn(9007199254740993.0), 9007199254740992u);
}

TEST(KernelIntrinsics, ConvertWhatIntegersCannotHoldToTheNearestEnd) {
    EXPECT_EQ(__float2int_rn(3e9f), kMaxInt);
    EXPECT_EQ(__float2int_rn(-3e9f), kMinInt);
    EXPECT_EQ(__float2int_rz(2147483648.0f), kMaxInt);
    EXPECT_EQ(__float2int_rz(-2147483648.0f), kMinInt);
    EXPECT_EQ(__double2int_ru(2147483646.5), kMaxInt);
    EXPECT_EQ(__double2int_rd(-2147483648.5), kMinInt);
    EXPECT_EQ(__float2uint_rn(-1.0f), 0u);
    EXPECT_EQ(__float2uint_rn(kInfinity), kMaxUint);
    EXPECT_EQ(__float2ll_rn(kInfinity), kMaxLong);
    EXPECT_EQ(__float2ll_rn(-kInfinity), kMinLong);
    EXPECT_EQ(__double2ull_rn(1e30), kMaxUlong);
    EXPECT_EQ(__double2ull_rn(-1e30), 0u);
    EXPECT_EQ(__double2ull_rz(18446744073709549568.0), 18446744073709549568u);
}

TEST(KernelIntrinsics, ConvertNanAsPtxDoes) {
    EXPECT_EQ(__float2int_rn(kNan), 0);
    EXPECT_EQ(__float2uint_rn(kNan), 0u);
    EXPECT_EQ(__float2ll_rn(kNan), kMinLong);
    EXPECT_EQ(__float2ull_rn(kNan), 1ull << 63);
    EXPECT_EQ(__double2int_rn(kWideNan), kMinInt);
    EXPECT_EQ(__double2uint_rn(kWideNan), 1u << 31);
    EXPECT_EQ(__double2ll_rn(kWideNan), kMinLong);
}

TEST(KernelIntrinsics, ConvertToFloatingAsTheirNamesRound) {
    // 2^24 + 1 stands halfway between two floats; 2^24 + 3 too, whose even neighbour is above.
    EXPECT_EQ(__int2float_rn(16777217), 16777216.0f);
    EXPECT_EQ(__int2float_rn(16777219), 16777220.0f);
    EXPECT_EQ(__int2float_rz(16777219), 16777218.0f);
    EXPECT_EQ(__int2float_ru(16777217), 16777218.0f);
    EXPECT_EQ(__int2float_rd(16777217), 16777216.0f);
    EXPECT_EQ(__int2float_rz(-16777219), -16777218.0f);
    EXPECT_EQ(__int2float_ru(-16777219), -16777218.0f);
    EXPECT_EQ(__int2float_rd(-16777217), -16777218.0f);
    EXPECT_EQ(__int2float_ru(5), 5.0f);
    EXPECT_EQ(__uint2float_rn(kMaxUint), 4294967296.0f);
    EXPECT_EQ(__uint2float_rz(kMaxUint), 4294967040.0f);
    EXPECT_EQ(__ll2float_rz(kMaxLong), 9223371487098961920.0f);
    EXPECT_EQ(__ull2float_rz(kMaxUlong), 18446742974197923840.0f);
    EXPECT_EQ(__ull2double_rn(kMaxUlong), 18446744073709551616.0);
    EXPECT_EQ(__ull2double_rd(kMaxUlong), 18446744073709549568.0);
    EXPECT_EQ(__ll2double_ru(9007199254740993), 9007199254740994.0);
    EXPECT_EQ(__int2double_rn(kMinInt), -2147483648.0);
    EXPECT_EQ(__uint2double_rn(kMaxUint), 4294967295.0);
    EXPECT_EQ(__double2float_rn(1.0 + 1e-9), 1.0f);
    EXPECT_EQ(__double2float_ru(1.0 + 1e-9), std::nextafterf(1.0f, 2.0f));
    EXPECT_EQ(__double2float_rd(-1.0 - 1e-9), -std::nextafterf(1.0f, 2.0f));
    EXPECT_EQ(__double2float_rz(-1.0 - 1e-9), -1.0f);
    EXPECT_EQ(__double2float_rn(1e300), kInfinity);
    EXPECT_EQ(__double2float_rz(1e300), std::numeric_limits<float>::max());
    EXPECT_EQ(__double2float_ru(1e-300), std::numeric_limits<float>::denorm_min());
    EXPECT_EQ(__double2float_rd(1e-300), 0.0f);
    EXPECT_TRUE(std::isnan(__double2float_rz(kWideNan)));
}

TEST(KernelIntrinsics, CountAndMoveBits) {
    EXPECT_EQ(__popc(0xf0f01u), 9);
    EXPECT_EQ(__popcll(~0ull), 64);
    EXPECT_EQ(__clz(0), 32);
    EXPECT_EQ(__clz(1), 31);
    EXPECT_EQ(__clz(-1), 0);
    EXPECT_EQ(__clzll(0), 64);
    EXPECT_EQ(__clzll(1ll << 40), 23);
    EXPECT_EQ(__ffs(0), 0);
    EXPECT_EQ(__ffs(0x50), 5);
    EXPECT_EQ(__ffsll(kMinLong), 64);
    EXPECT_EQ(__brev(1u), 0x80000000u);
    EXPECT_EQ(__brev(0x12345678u), 0x1e6a2c48u);
    EXPECT_EQ(__brevll(1ull), 1ull << 63);
    EXPECT_EQ(__brevll(0x12345678ull), 0x1e6a2c48ull << 32);
    EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7250u), 0x77225500u);
    EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x0123u), 0x00112233u);
    EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0xfffffff8u), 0x77777700u);
    EXPECT_EQ(__funnelshift_l(0x89abcdefu, 0x01234567u, 8), 0x23456789u);
    EXPECT_EQ(__funnelshift_l(0x89abcdefu, 0x01234567u, 32), 0x01234567u);
    EXPECT_EQ(__funnelshift_lc(0x89abcdefu, 0x01234567u, 33), 0x89abcdefu);
    EXPECT_EQ(__funnelshift_r(0x89abcdefu, 0x01234567u, 8), 0x6789abcdu);
    EXPECT_EQ(__funnelshift_r(0x89abcdefu, 0x01234567u, 32), 0x89abcdefu);
    EXPECT_EQ(__funnelshift_rc(0x89abcdefu, 0x01234567u, 32), 0x01234567u);
}

TEST(KernelIntrinsics, CalculateWithIntegers) {
    EXPECT_EQ(__mulhi(-2, 1 << 30), -1);
    EXPECT_EQ(__umulhi(kMaxUint, kMaxUint), 0xfffffffeu);
    EXPECT_EQ(__mul64hi(-1, 1), -1);
    EXPECT_EQ(__umul64hi(kMaxUlong, 4), 3u);
    EXPECT_EQ(__mul24(0x7f000003, -2), -6);
    EXPECT_EQ(__mul24(0x800000, 1), -0x800000);
    EXPECT_EQ(__umul24(0xff000003u, 0x01000002u), 6u);
    EXPECT_EQ(__hadd(kMaxInt, kMaxInt), kMaxInt);
    EXPECT_EQ(__hadd(-3, 0), -2);
    EXPECT_EQ(__rhadd(-3, 0), -1);
    EXPECT_EQ(__uhadd(kMaxUint, 0), 0x7fffffffu);
    EXPECT_EQ(__urhadd(kMaxUint, 0), 0x80000000u);
    EXPECT_EQ(__sad(kMinInt, kMaxInt, 1), 0u);
    EXPECT_EQ(__usad(3, 10, 5), 12u);
}

TEST(KernelIntrinsics, FindTheSmallerAndTheLargerOfMixedTypes) {
    EXPECT_EQ(min(-1, 5u), 5u);  // as unsigned, CUDA's way
    EXPECT_EQ(max(5u, -1), kMaxUint);
    EXPECT_EQ(min(3ll, 2ull), 2u);
    EXPECT_EQ(max(3l, 2l), 3);
    EXPECT_EQ(min(2.0f, kNan), 2.0f);
    EXPECT_EQ(max(2.0f, 2.5), 2.5);
    static_assert(sizeof(min(1.0f, 2.0)) == 8);
}

TEST(KernelIntrinsics, ReinterpretBits) {
    EXPECT_EQ(__float_as_int(1.0f), 0x3f800000);
    EXPECT_EQ(__float_as_uint(-0.0f), 0x80000000u);
    EXPECT_EQ(__int_as_float(0x40490fdb), 3.14159274f);
    EXPECT_EQ(__uint_as_float(0x7f800000u), kInfinity);
    EXPECT_EQ(__double_as_longlong(1.0), 0x3ff0000000000000);
    EXPECT_EQ(__longlong_as_double(0x4000000000000000), 2.0);
    EXPECT_EQ(__double2hiint(-2.0), static_cast<int>(0xc0000000u));
    EXPECT_EQ(__double2loint(__hiloint2double(1, -7)), -7);
    EXPECT_EQ(__hiloint2double(0x3ff00000, 0), 1.0);
}

TEST(KernelIntrinsics, CalculateRoundedToNearest) {
    const float third = 1.0f / 3.0f;
    EXPECT_EQ(__fmaf_rn(third, 3.0f, -1.0f), 1.0f / 33554432.0f);  // one rounding
    EXPECT_EQ(__fadd_rn(__fmul_rn(third, 3.0f), -1.0f), 0.0f);     // two
    EXPECT_EQ(__fma_rn(1.0 / 3.0, 3.0, -1.0), -1.0 / 18014398509481984.0);
    EXPECT_EQ(__dsub_rn(__dmul_rn(1.0 / 3.0, 3.0), 1.0), 0.0);
    EXPECT_EQ(__fsub_rn(1.0f, 0.25f), 0.75f);
    EXPECT_EQ(__fdiv_rn(1.0f, 3.0f), third);
    EXPECT_EQ(__frcp_rn(3.0f), third);
    EXPECT_EQ(__fsqrt_rn(2.0f), 1.41421354f);
    EXPECT_EQ(__frsqrt_rn(4.0f), 0.5f);
    EXPECT_EQ(__dadd_rn(1.0, 2.0), 3.0);
    EXPECT_EQ(__ddiv_rn(1.0, 4.0), 0.25);
    EXPECT_EQ(__drcp_rn(8.0), 0.125);
    EXPECT_EQ(__dsqrt_rn(9.0), 3.0);
    EXPECT_EQ(rsqrt(16.0), 0.25);
}

TEST(KernelIntrinsics, AreThePreciseFunctions) {
    EXPECT_EQ(__expf(1.0f), std::exp(1.0f));
    EXPECT_EQ(__exp10f(2.0f), 100.0f);
    EXPECT_EQ(__logf(10.0f), std::log(10.0f));
    EXPECT_EQ(__log2f(8.0f), 3.0f);
    EXPECT_EQ(__log10f(1000.0f), 3.0f);
    EXPECT_EQ(__powf(2.0f, 0.5f), std::pow(2.0f, 0.5f));
    EXPECT_EQ(__sinf(1.0f), std::sin(1.0f));
    EXPECT_EQ(__cosf(1.0f), std::cos(1.0f));
    EXPECT_EQ(__tanf(1.0f), std::tan(1.0f));
    EXPECT_EQ(__tanhf(1.0f), std::tanh(1.0f));
    float sine = 0, cosine = 0;
    __sincosf(1.0f, &sine, &cosine);
    EXPECT_EQ(sine, std::sin(1.0f));
    EXPECT_EQ(cosine, std::cos(1.0f));
    EXPECT_EQ(__fdividef(1.0f, 8.0f), 0.125f);
    EXPECT_EQ(__saturatef(1.5f), 1.0f);
    EXPECT_EQ(__saturatef(-1.5f), 0.0f);
    EXPECT_EQ(__saturatef(0.25f), 0.25f);
    EXPECT_EQ(__saturatef(kNan), 0.0f);
}

TEST(KernelIntrinsics, LoadAndStore) {
    float from = 2.5f, to = 0;
    EXPECT_EQ(__ldg(&from), 2.5f);
    EXPECT_EQ(__ldcs(&from), 2.5f);
    __stcg(&to, from);
    EXPECT_EQ(to, 2.5f);
}

TEST(KernelIntrinsics, ChangeMemoryAtomically) {
    unsigned word = 0xff;
    EXPECT_EQ(atomicAnd(&word, 0x0fu), 0xffu);
    EXPECT_EQ(atomicOr(&word, 0x30u), 0x0fu);
    EXPECT_EQ(atomicXor(&word, 0x01u), 0x3fu);
    EXPECT_EQ(word, 0x3eu);
    word = 2;
    EXPECT_EQ(atomicInc(&word, 3), 2u);
    EXPECT_EQ(atomicInc(&word, 3), 3u);
    EXPECT_EQ(word, 0u);
    EXPECT_EQ(atomicDec(&word, 3), 0u);
    EXPECT_EQ(word, 3u);
    EXPECT_EQ(atomicDec(&word, 2), 3u);
    EXPECT_EQ(word, 2u);
    EXPECT_EQ(atomicDec(&word, 2), 2u);
    EXPECT_EQ(word, 1u);
}

}  // namespace
