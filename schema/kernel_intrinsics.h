// CUDA's intrinsics as <ringlaunch/kernel.h> has them for the host: those that mean the same on a CPU, and a
// message by name for those that cannot. Included by kernel.h alone, where a kernel is compiled by g++.
//
// The fast functions (__expf, __sinf, __fdividef, ...) are the precise ones here, whose results lie within
// what CUDA allows the fast ones. Conversions round as their names say, and give for NaN and for what is out
// of range what PTX's cvt gives: the nearest end of the range; for NaN zero between 32-bit types, else the
// top bit alone. Arithmetic exists rounded to nearest (_rn), and is never contracted to a fused operation.
#pragma once

#include <math.h>
#include <string.h>

#pragma GCC visibility push(hidden)

// ---- what exists only on a GPU
// -----------------------------------------------------------------------------

// A call does not compile, wherever it stands.
#define RINGLAUNCH_NOT_ON_HOST(function, why)                                                         \
    template <class... Arguments>                                                                     \
    int function(Arguments...) {                                                                      \
        static_assert(                                                                                \
            sizeof...(Arguments) == ~0u, #function                                                    \
            " exists only on a GPU: it does not work in kernels compiled for the host driver, " why); \
        return 0;                                                                                     \
    }
#define RINGLAUNCH_NO_WARPS(function) \
    RINGLAUNCH_NOT_ON_HOST(function, "where the threads of a block run one after another")
RINGLAUNCH_NO_WARPS(__syncthreads)
RINGLAUNCH_NO_WARPS(__syncthreads_count)
RINGLAUNCH_NO_WARPS(__syncthreads_and)
RINGLAUNCH_NO_WARPS(__syncthreads_or)
RINGLAUNCH_NO_WARPS(__syncwarp)
RINGLAUNCH_NO_WARPS(__activemask)
RINGLAUNCH_NO_WARPS(__shfl_sync)
RINGLAUNCH_NO_WARPS(__shfl_up_sync)
RINGLAUNCH_NO_WARPS(__shfl_down_sync)
RINGLAUNCH_NO_WARPS(__shfl_xor_sync)
RINGLAUNCH_NO_WARPS(__shfl)
RINGLAUNCH_NO_WARPS(__shfl_up)
RINGLAUNCH_NO_WARPS(__shfl_down)
RINGLAUNCH_NO_WARPS(__shfl_xor)
RINGLAUNCH_NO_WARPS(__ballot_sync)
RINGLAUNCH_NO_WARPS(__any_sync)
RINGLAUNCH_NO_WARPS(__all_sync)
RINGLAUNCH_NO_WARPS(__ballot)
RINGLAUNCH_NO_WARPS(__match_any_sync)
RINGLAUNCH_NO_WARPS(__match_all_sync)
RINGLAUNCH_NO_WARPS(__reduce_add_sync)
RINGLAUNCH_NO_WARPS(__reduce_min_sync)
RINGLAUNCH_NO_WARPS(__reduce_max_sync)
RINGLAUNCH_NO_WARPS(__reduce_and_sync)
RINGLAUNCH_NO_WARPS(__reduce_or_sync)
RINGLAUNCH_NO_WARPS(__reduce_xor_sync)
RINGLAUNCH_NO_WARPS(__nanosleep)
#undef RINGLAUNCH_NO_WARPS
RINGLAUNCH_NOT_ON_HOST(clock64, "which have no clock of the device")
#define RINGLAUNCH_NOT_SO_ROUNDED(function)                                           \
    RINGLAUNCH_NOT_ON_HOST(function##_rz, "where arithmetic rounds to nearest (_rn)") \
    RINGLAUNCH_NOT_ON_HOST(function##_ru, "where arithmetic rounds to nearest (_rn)") \
    RINGLAUNCH_NOT_ON_HOST(function##_rd, "where arithmetic rounds to nearest (_rn)")
RINGLAUNCH_NOT_SO_ROUNDED(__fadd)
RINGLAUNCH_NOT_SO_ROUNDED(__fsub)
RINGLAUNCH_NOT_SO_ROUNDED(__fmul)
RINGLAUNCH_NOT_SO_ROUNDED(__fmaf)
RINGLAUNCH_NOT_SO_ROUNDED(__fdiv)
RINGLAUNCH_NOT_SO_ROUNDED(__frcp)
RINGLAUNCH_NOT_SO_ROUNDED(__fsqrt)
RINGLAUNCH_NOT_SO_ROUNDED(__dadd)
RINGLAUNCH_NOT_SO_ROUNDED(__dsub)
RINGLAUNCH_NOT_SO_ROUNDED(__dmul)
RINGLAUNCH_NOT_SO_ROUNDED(__fma)
RINGLAUNCH_NOT_SO_ROUNDED(__ddiv)
RINGLAUNCH_NOT_SO_ROUNDED(__drcp)
RINGLAUNCH_NOT_SO_ROUNDED(__dsqrt)
#undef RINGLAUNCH_NOT_SO_ROUNDED
#undef RINGLAUNCH_NOT_ON_HOST

#define warpSize _Pragma("GCC error \"warpSize exists only on a GPU: the host driver has no warps\"") 32
#define __cluster_dims__(...) \
    _Pragma("GCC error \"__cluster_dims__ exists only on a GPU: the host driver has no clusters\"")

// ---- loads and stores, whose cache hints a CPU has no use for
// ------------------------------------------------

#define RINGLAUNCH_LOAD(function)    \
    template <class T>               \
    inline T function(const T* at) { \
        return *at;                  \
    }
RINGLAUNCH_LOAD(__ldg)
RINGLAUNCH_LOAD(__ldca)
RINGLAUNCH_LOAD(__ldcg)
RINGLAUNCH_LOAD(__ldcs)
RINGLAUNCH_LOAD(__ldlu)
RINGLAUNCH_LOAD(__ldcv)
#undef RINGLAUNCH_LOAD
#define RINGLAUNCH_STORE(function)               \
    template <class T>                           \
    inline void function(T* at, const T value) { \
        *at = value;                             \
    }
RINGLAUNCH_STORE(__stwb)
RINGLAUNCH_STORE(__stcg)
RINGLAUNCH_STORE(__stcs)
RINGLAUNCH_STORE(__stwt)
#undef RINGLAUNCH_STORE

inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_block() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_system() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __trap() {
    __builtin_trap();
}

namespace ringlaunch::kernel_abi {
__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 WideUnsigned;
}  // namespace ringlaunch::kernel_abi

// ---- bits and integers
// ---------------------------------------------------------------------------------------

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long from = static_cast<unsigned long long>(y) << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i)
        out |= static_cast<unsigned>(from >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? low : __funnelshift_l(low, high, by);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (by & 31));
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? high : __funnelshift_r(low, high, by);
}
inline int __mulhi(int a, int b) {
    return static_cast<int>(static_cast<long long>(a) * b >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline long long __mul64hi(long long a, long long b) {
    return static_cast<long long>(static_cast<ringlaunch::kernel_abi::Wide>(a) * b >> 64);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<ringlaunch::kernel_abi::WideUnsigned>(a) * b >> 64);
}
inline int __mul24(int a, int b) {
    const long long low_a = static_cast<int>(static_cast<unsigned>(a) << 8) >> 8;
    const long long low_b = static_cast<int>(static_cast<unsigned>(b) << 8) >> 8;
    return static_cast<int>(static_cast<unsigned>(low_a * low_b));
}
inline unsigned __umul24(unsigned a, unsigned b) {
    return (a & 0xffffff) * (b & 0xffffff);
}
inline int __hadd(int a, int b) {
    return static_cast<int>((static_cast<long long>(a) + b) >> 1);
}
inline int __rhadd(int a, int b) {
    return static_cast<int>((static_cast<long long>(a) + b + 1) >> 1);
}
inline unsigned __uhadd(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) + b) >> 1);
}
inline unsigned __urhadd(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) + b + 1) >> 1);
}
inline unsigned __sad(int a, int b, unsigned c) {
    return (a > b ? static_cast<unsigned>(a) - static_cast<unsigned>(b)
                  : static_cast<unsigned>(b) - static_cast<unsigned>(a)) +
           c;
}
inline unsigned __usad(unsigned a, unsigned b, unsigned c) {
    return (a > b ? a - b : b - a) + c;
}

// ---- the smaller and the larger, with CUDA's mixed types
// -------------------------------------------------------

#define RINGLAUNCH_MIN_MAX(type, a_type, b_type)                                                          \
    inline type min(a_type a, b_type b) {                                                                 \
        return static_cast<type>(b) < static_cast<type>(a) ? static_cast<type>(b) : static_cast<type>(a); \
    }                                                                                                     \
    inline type max(a_type a, b_type b) {                                                                 \
        return static_cast<type>(a) < static_cast<type>(b) ? static_cast<type>(b) : static_cast<type>(a); \
    }
#define RINGLAUNCH_MIN_MAX_OF(type)                                 \
    RINGLAUNCH_MIN_MAX(type, type, type)                            \
    RINGLAUNCH_MIN_MAX(unsigned type, unsigned type, unsigned type) \
    RINGLAUNCH_MIN_MAX(unsigned type, type, unsigned type)          \
    RINGLAUNCH_MIN_MAX(unsigned type, unsigned type, type)
RINGLAUNCH_MIN_MAX_OF(int)
RINGLAUNCH_MIN_MAX_OF(long)
RINGLAUNCH_MIN_MAX_OF(long long)
#undef RINGLAUNCH_MIN_MAX_OF
#undef RINGLAUNCH_MIN_MAX
inline float min(float a, float b) {
    return fminf(a, b);
}
inline float max(float a, float b) {
    return fmaxf(a, b);
}
#define RINGLAUNCH_MIN_MAX(a_type, b_type)  \
    inline double min(a_type a, b_type b) { \
        return fmin(a, b);                  \
    }                                       \
    inline double max(a_type a, b_type b) { \
        return fmax(a, b);                  \
    }
RINGLAUNCH_MIN_MAX(double, double)
RINGLAUNCH_MIN_MAX(float, double)
RINGLAUNCH_MIN_MAX(double, float)
#undef RINGLAUNCH_MIN_MAX

// ---- numbers as bits
// -------------------------------------------------------------------------------------------

namespace ringlaunch::kernel_abi {

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace ringlaunch::kernel_abi

inline int __float_as_int(float x) {
    return ringlaunch::kernel_abi::bits_as<int>(x);
}
inline unsigned __float_as_uint(float x) {
    return ringlaunch::kernel_abi::bits_as<unsigned>(x);
}
inline float __int_as_float(int x) {
    return ringlaunch::kernel_abi::bits_as<float>(x);
}
inline float __uint_as_float(unsigned x) {
    return ringlaunch::kernel_abi::bits_as<float>(x);
}
inline long long __double_as_longlong(double x) {
    return ringlaunch::kernel_abi::bits_as<long long>(x);
}
inline double __longlong_as_double(long long x) {
    return ringlaunch::kernel_abi::bits_as<double>(x);
}
inline int __double2hiint(double x) {
    return static_cast<int>(__double_as_longlong(x) >> 32);
}
inline int __double2loint(double x) {
    return static_cast<int>(__double_as_longlong(x));
}
inline double __hiloint2double(int high, int low) {
    return __longlong_as_double(static_cast<long long>(
        static_cast<unsigned long long>(static_cast<unsigned>(high)) << 32 | static_cast<unsigned>(low)));
}

// ---- conversions
// -------------------------------------------------------------------------------------------------

namespace ringlaunch::kernel_abi {

enum class Rounding { nearest, to_zero, up, down };

template <Rounding kHow, class To, class From>
inline To to_integer(From x) {
    constexpr bool kSigned = static_cast<To>(-1) < To{};
    constexpr To kTopBit = static_cast<To>(1ull << (8 * sizeof(To) - 1));
    constexpr To kMin = kSigned ? kTopBit : To{};
    constexpr To kMax = static_cast<To>(~kMin);
    constexpr double kEnd = (kSigned ? 1.0 : 2.0) * static_cast<double>(1ull << (8 * sizeof(To) - 1));
    if (x != x) return sizeof(From) == 4 && sizeof(To) == 4 ? To{} : kTopBit;
    const double wide = x;
    const double whole = kHow == Rounding::nearest   ? rint(wide)
                         : kHow == Rounding::to_zero ? trunc(wide)
                         : kHow == Rounding::up      ? ceil(wide)
                                                     : floor(wide);
    if (whole < static_cast<double>(kMin)) return kMin;
    if (whole >= kEnd) return kMax;
    return static_cast<To>(whole);
}

inline float next_after(float x, float to) {
    return nextafterf(x, to);
}
inline double next_after(double x, double to) {
    return nextafter(x, to);
}

// `Exact` holds every From, and every To that is the nearest of one.
template <Rounding kHow, class Exact, class To, class From>
inline To to_floating(From x) {
    const To nearest = static_cast<To>(x);
    if (kHow == Rounding::nearest || x != x) return nearest;
    const Exact found = static_cast<Exact>(nearest);
    const Exact wanted = static_cast<Exact>(x);
    const bool up = kHow == Rounding::up || (kHow == Rounding::to_zero && wanted < Exact{});
    const To infinity = static_cast<To>(HUGE_VAL);
    if (up && found < wanted) return next_after(nearest, infinity);
    if (!up && found > wanted) return next_after(nearest, -infinity);
    return nearest;
}

}  // namespace ringlaunch::kernel_abi

#define RINGLAUNCH_CONVERSIONS(suffix, how)                                                                  \
    RINGLAUNCH_TO_INTEGER(float, float, suffix, how)                                                         \
    RINGLAUNCH_TO_INTEGER(double, double, suffix, how)                                                       \
    RINGLAUNCH_TO_FLOATING(double, double, float, float, double, suffix, how)                                \
    RINGLAUNCH_TO_FLOATING(int, int, float, float, ringlaunch::kernel_abi::Wide, suffix, how)                \
    RINGLAUNCH_TO_FLOATING(uint, unsigned, float, float, ringlaunch::kernel_abi::Wide, suffix, how)          \
    RINGLAUNCH_TO_FLOATING(ll, long long, float, float, ringlaunch::kernel_abi::Wide, suffix, how)           \
    RINGLAUNCH_TO_FLOATING(ull, unsigned long long, float, float, ringlaunch::kernel_abi::Wide, suffix, how) \
    RINGLAUNCH_TO_FLOATING(ll, long long, double, double, ringlaunch::kernel_abi::Wide, suffix, how)         \
    RINGLAUNCH_TO_FLOATING(ull, unsigned long long, double, double, ringlaunch::kernel_abi::Wide, suffix, how)
#define RINGLAUNCH_TO_INTEGER(from_name, from, suffix, how)                      \
    RINGLAUNCH_CONVERT(from_name, from, int, int, to_integer, suffix, how)       \
    RINGLAUNCH_CONVERT(from_name, from, uint, unsigned, to_integer, suffix, how) \
    RINGLAUNCH_CONVERT(from_name, from, ll, long long, to_integer, suffix, how)  \
    RINGLAUNCH_CONVERT(from_name, from, ull, unsigned long long, to_integer, suffix, how)
#define RINGLAUNCH_CONVERT(from_name, from, to_name, to, function, suffix, how)                \
    inline to __##from_name##2##to_name##_##suffix(from x) {                                   \
        return ringlaunch::kernel_abi::function<ringlaunch::kernel_abi::Rounding::how, to>(x); \
    }
#define RINGLAUNCH_TO_FLOATING(from_name, from, to_name, to, exact, suffix, how)                         \
    inline to __##from_name##2##to_name##_##suffix(from x) {                                             \
        return ringlaunch::kernel_abi::to_floating<ringlaunch::kernel_abi::Rounding::how, exact, to>(x); \
    }
RINGLAUNCH_CONVERSIONS(rn, nearest)
RINGLAUNCH_CONVERSIONS(rz, to_zero)
RINGLAUNCH_CONVERSIONS(ru, up)
RINGLAUNCH_CONVERSIONS(rd, down)
#undef RINGLAUNCH_CONVERSIONS
#undef RINGLAUNCH_TO_INTEGER
#undef RINGLAUNCH_CONVERT
#undef RINGLAUNCH_TO_FLOATING
inline double __int2double_rn(int x) {
    return x;
}
inline double __uint2double_rn(unsigned x) {
    return x;
}

// ---- arithmetic
// ----------------------------------------------------------------------------------------------------

// The empty asm keeps the compiler from contracting the result into a fused operation with what follows.
#define RINGLAUNCH_ARITHMETIC(type, function, parameters, expression) \
    inline type function parameters {                                 \
        type result = expression;                                     \
        asm("" : "+x"(result));                                       \
        return result;                                                \
    }
RINGLAUNCH_ARITHMETIC(float, __fadd_rn, (float a, float b), a + b)
RINGLAUNCH_ARITHMETIC(float, __fsub_rn, (float a, float b), a - b)
RINGLAUNCH_ARITHMETIC(float, __fmul_rn, (float a, float b), a* b)
RINGLAUNCH_ARITHMETIC(float, __fdiv_rn, (float a, float b), a / b)
RINGLAUNCH_ARITHMETIC(float, __fmaf_rn, (float a, float b, float c), fmaf(a, b, c))
RINGLAUNCH_ARITHMETIC(float, __frcp_rn, (float x), 1.0f / x)
RINGLAUNCH_ARITHMETIC(float, __fsqrt_rn, (float x), sqrtf(x))
RINGLAUNCH_ARITHMETIC(float, __frsqrt_rn, (float x), static_cast<float>(1.0 / sqrt(static_cast<double>(x))))
RINGLAUNCH_ARITHMETIC(double, __dadd_rn, (double a, double b), a + b)
RINGLAUNCH_ARITHMETIC(double, __dsub_rn, (double a, double b), a - b)
RINGLAUNCH_ARITHMETIC(double, __dmul_rn, (double a, double b), a* b)
RINGLAUNCH_ARITHMETIC(double, __ddiv_rn, (double a, double b), a / b)
RINGLAUNCH_ARITHMETIC(double, __fma_rn, (double a, double b, double c), fma(a, b, c))
RINGLAUNCH_ARITHMETIC(double, __drcp_rn, (double x), 1.0 / x)
RINGLAUNCH_ARITHMETIC(double, __dsqrt_rn, (double x), sqrt(x))
#undef RINGLAUNCH_ARITHMETIC

inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
inline float fdividef(float a, float b) {
    return a / b;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __saturatef(float x) {
    return fminf(fmaxf(x, 0.0f), 1.0f);  // NaN: 0
}
// Macros, because glibc declares functions of these names, which it does not have.
#define __cosf(x) ::cosf(x)
#define __exp10f(x) ::exp10f(x)
#define __expf(x) ::expf(x)
#define __log10f(x) ::log10f(x)
#define __log2f(x) ::log2f(x)
#define __logf(x) ::logf(x)
#define __powf(x, y) ::powf(x, y)
#define __sincosf(x, sine, cosine) ::sincosf(x, sine, cosine)
#define __sinf(x) ::sinf(x)
#define __tanf(x) ::tanf(x)
#define __tanhf(x) ::tanhf(x)

#pragma GCC visibility pop
