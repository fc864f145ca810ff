// The header of kernels: the same CUDA C++ source compiles with nvcc (for a GPU) and with g++ (for the host
// driver).
//
//     #include <ringlaunch/kernel.h>
//     extern "C" __global__ void scale(float* x, float by, int n) {
//         const int i = blockIdx.x * blockDim.x + threadIdx.x;
//         if (i < n) x[i] *= by;
//     }
//     RINGLAUNCH_EXPORT(scale)
//
//     nvcc -cubin -arch=sm_90 scale.cu -o scale.cubin
//     g++ -O3 -shared -fPIC -x c++ scale.cu -o scale.so
//
// RINGLAUNCH_EXPORT declares the kernel's parameter types, taken from the function itself, as the symbol
// `ringlaunch_signature_scale` of the object (layout: kernel_abi::Signature below). Under g++ it also makes
// `ringlaunch_kernel_scale`, through which the host driver runs the kernel.
//
// On the host the threads of a launch run one after another, so there is no __shared__ memory, no
// __syncthreads, no warp intrinsic and no launch from within a kernel: these do not compile there. CUDA's
// other intrinsics (__ldg, __expf, __float2int_rn, __popc, ...) stand in kernel_intrinsics.h. Streams
// run beside each other, and the atomics hold between them. A kernel must not throw, nor leave by exit().
//
// Needs C++17. With RINGLAUNCH_KERNEL_ABI_ONLY defined it declares the layouts and nothing of CUDA's
// language.
#pragma once

namespace ringlaunch::kernel_abi {

// The numbers of ParamType in control.fbs.
enum TypeCode : unsigned char {
    kPointer = 1,
    kBool = 2,
    kInt8 = 3,
    kInt16 = 4,
    kInt32 = 5,
    kInt64 = 6,
    kUInt8 = 7,
    kUInt16 = 8,
    kUInt32 = 9,
    kUInt64 = 10,
    kFloat16 = 11,
    kBFloat16 = 12,
    kFloat32 = 13,
    kFloat64 = 14,
    kBytes = 15
};

constexpr unsigned kSignatureVersion = 1;
constexpr unsigned kSignatureHeadBytes = 8;
constexpr unsigned kSignatureParamBytes = 6;
constexpr unsigned kMaxParams = 256;
constexpr unsigned kMaxParamBytes = 4096;
constexpr unsigned kMaxParamAlignment = 64;

// What stands at `ringlaunch_signature_<kernel>`, little-endian:
//   0  "RLS1"   4  version   5  0   6  u16 number of parameters   8  six bytes a parameter: type code, 0, u16
//   size, u16 offset
template <unsigned Count>
struct Signature {
    unsigned char bytes[kSignatureHeadBytes + kSignatureParamBytes * Count];
};

constexpr unsigned kHostKernelMagic = 0x4b484c52;  // the bytes "RLHK"
constexpr unsigned kHostAbiVersion = 1;

// A range of blocks of one launch. Block b is (b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y).
struct HostLaunch {
    unsigned grid[3];
    unsigned block[3];
    const unsigned char* params;  // packed at the signature's offsets; aligned to kMaxParamAlignment
    unsigned long long first_block;
    unsigned long long block_count;
};

// What stands at `ringlaunch_kernel_<kernel>` of a host object.
struct HostKernel {
    unsigned magic;
    unsigned version;
    void (*run)(const HostLaunch*) noexcept;
};

}  // namespace ringlaunch::kernel_abi

#ifndef RINGLAUNCH_KERNEL_ABI_ONLY

#if defined(__CUDACC__)
#define RINGLAUNCH_DEVICE_DATA __device__ __attribute__((used))
#define RINGLAUNCH_CONSTEXPR constexpr __host__ __device__
struct __half;
struct __nv_bfloat16;
#else
#define RINGLAUNCH_DEVICE_DATA __attribute__((used, visibility("default")))
#define RINGLAUNCH_CONSTEXPR constexpr
#endif

namespace ringlaunch::kernel_abi {

template <class T, bool IsEnum = __is_enum(T)>
struct CodeOf {
    static constexpr TypeCode value = kBytes;
};
template <class T>
struct CodeOf<T, true> : CodeOf<__underlying_type(T), false> {};
#define RINGLAUNCH_CODE(type, code)             \
    template <>                                 \
    struct CodeOf<type, false> {                \
        static constexpr TypeCode value = code; \
    };
RINGLAUNCH_CODE(bool, kBool)
RINGLAUNCH_CODE(char, static_cast<char>(-1) < 0 ? kInt8 : kUInt8)
RINGLAUNCH_CODE(signed char, kInt8)
RINGLAUNCH_CODE(short, kInt16)
RINGLAUNCH_CODE(int, kInt32)
RINGLAUNCH_CODE(long, sizeof(long) == 8 ? kInt64 : kInt32)
RINGLAUNCH_CODE(long long, kInt64)
RINGLAUNCH_CODE(unsigned char, kUInt8)
RINGLAUNCH_CODE(unsigned short, kUInt16)
RINGLAUNCH_CODE(unsigned, kUInt32)
RINGLAUNCH_CODE(unsigned long, sizeof(long) == 8 ? kUInt64 : kUInt32)
RINGLAUNCH_CODE(unsigned long long, kUInt64)
RINGLAUNCH_CODE(float, kFloat32)
RINGLAUNCH_CODE(double, kFloat64)
#if defined(__CUDACC__)
RINGLAUNCH_CODE(__half, kFloat16)
RINGLAUNCH_CODE(__nv_bfloat16, kBFloat16)
#endif
#undef RINGLAUNCH_CODE
template <class T>
struct CodeOf<T*, false> {
    static constexpr TypeCode value = kPointer;
};

template <class T>
struct IsReference {
    static constexpr bool value = false;
};
template <class T>
struct IsReference<T&> {
    static constexpr bool value = true;
};
template <class T>
struct IsReference<T&&> {
    static constexpr bool value = true;
};

template <class Function>
struct KernelType {
    static_assert(sizeof(Function) == 0, "RINGLAUNCH_EXPORT takes a __global__ function that returns void");
};

template <class... Params>
struct KernelType<void (*)(Params...)> {
    static constexpr unsigned kCount = sizeof...(Params);
    static_assert(kCount <= kMaxParams, "a kernel takes at most 256 parameters");
    static_assert(!(IsReference<Params>::value || ...),
                  "a kernel takes its parameters by value or by pointer");
    static_assert(
        ((__is_trivially_copyable(Params) || __is_enum(Params)) && ...),
        "a kernel's parameters are copied as bytes: a struct passed by value must be trivially copyable");
    static_assert(((alignof(Params) <= kMaxParamAlignment) && ...),
                  "a parameter is aligned to 64 bytes at most");

    // Where parameter `index` stands; for `index` == kCount, where the packed parameters end.
    static RINGLAUNCH_CONSTEXPR unsigned offset(unsigned index) {
        const unsigned sizes[] = {static_cast<unsigned>(sizeof(Params))..., 0};
        const unsigned alignments[] = {static_cast<unsigned>(alignof(Params))..., 1};
        unsigned at = 0;
        for (unsigned i = 0; i < kCount + 1; ++i) {
            at = (at + alignments[i] - 1) / alignments[i] * alignments[i];
            if (i == index) break;
            at += sizes[i];
        }
        return at;
    }

    static RINGLAUNCH_CONSTEXPR Signature<kCount> signature() {
        static_assert(offset(kCount) <= kMaxParamBytes, "a kernel takes at most 4096 bytes of parameters");
        const unsigned sizes[] = {static_cast<unsigned>(sizeof(Params))..., 0};
        const unsigned char codes[] = {CodeOf<Params>::value..., 0};
        Signature<kCount> made{};
        made.bytes[0] = 'R', made.bytes[1] = 'L', made.bytes[2] = 'S', made.bytes[3] = '1';
        made.bytes[4] = kSignatureVersion;
        made.bytes[6] = kCount & 0xff, made.bytes[7] = static_cast<unsigned char>(kCount >> 8);
        for (unsigned i = 0; i != kCount; ++i) {
            unsigned char* param = made.bytes + kSignatureHeadBytes + kSignatureParamBytes * i;
            param[0] = codes[i];
            param[2] = sizes[i] & 0xff, param[3] = static_cast<unsigned char>(sizes[i] >> 8);
            param[4] = offset(i) & 0xff, param[5] = static_cast<unsigned char>(offset(i) >> 8);
        }
        return made;
    }
};

}  // namespace ringlaunch::kernel_abi

// The redeclaration refuses a kernel that is not extern "C": it would stand in the object under another name.
#define RINGLAUNCH_EXPORT_SIGNATURE(kernel)                                      \
    extern "C" __global__ decltype(kernel) kernel;                               \
    extern "C" RINGLAUNCH_DEVICE_DATA const auto ringlaunch_signature_##kernel = \
        ::ringlaunch::kernel_abi::KernelType<decltype(&kernel)>::signature();

#if defined(__CUDACC__)

#define RINGLAUNCH_EXPORT(kernel) RINGLAUNCH_EXPORT_SIGNATURE(kernel)

#else  // the host

#include <ringlaunch/kernel_intrinsics.h>
#include <utility>

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))

#define __shared__ \
    _Pragma("GCC error \"__shared__ memory does not exist in kernels compiled for the host driver\"")
#define __managed__ \
    _Pragma("GCC error \"__managed__ memory does not exist in kernels compiled for the host driver\"")

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#pragma GCC visibility push(hidden)
// Written by the loops of Thunk below before each thread of a kernel runs.
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

template <class T>
T atomicAdd(T* at, T by) {
    if constexpr (__is_class(T) || __is_enum(T)) {
        static_assert(sizeof(T) == 0, "atomicAdd takes a number");
    } else if constexpr (static_cast<T>(0.5) != T{}) {  // float and double
        T seen;
        __atomic_load(at, &seen, __ATOMIC_RELAXED);
        for (T wanted = seen + by;
             !__atomic_compare_exchange(at, &seen, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
            wanted = seen + by;
        return seen;
    } else {
        return __atomic_fetch_add(at, by, __ATOMIC_RELAXED);
    }
}
template <class T>
T atomicSub(T* at, T by) {
    return __atomic_fetch_sub(at, by, __ATOMIC_RELAXED);
}
template <class T>
T atomicExch(T* at, T value) {
    T before;
    __atomic_exchange(at, &value, &before, __ATOMIC_RELAXED);
    return before;
}
template <class T>
T atomicCAS(T* at, T expected, T value) {
    __atomic_compare_exchange(at, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T>
T atomicAnd(T* at, T value) {
    return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* at, T value) {
    return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicXor(T* at, T value) {
    return __atomic_fetch_xor(at, value, __ATOMIC_RELAXED);
}
// Up to `last`, then 0 again; and down to 0, then `last`.
inline unsigned atomicInc(unsigned* at, unsigned last) {
    unsigned seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &seen, seen >= last ? 0 : seen + 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return seen;
}
inline unsigned atomicDec(unsigned* at, unsigned last) {
    unsigned seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &seen, seen == 0 || seen > last ? last : seen - 1, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
template <class T>
T atomicMin(T* at, T value) {
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < seen &&
           !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
template <class T>
T atomicMax(T* at, T value) {
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

namespace ringlaunch::kernel_abi {

// Runs blocks of a kernel: the loop over the threads stands here, around a call that the compiler can inline.
template <class Function, Function kKernel>
struct Thunk;
template <class... Params, void (*kKernel)(Params...)>
struct Thunk<void (*)(Params...), kKernel> {
    using Type = KernelType<void (*)(Params...)>;

    static void run(const HostLaunch* launch) noexcept {
        run_with(*launch, std::make_index_sequence<sizeof...(Params)>{});
    }

    template <std::size_t... kIndex>
    static void run_with(const HostLaunch& launch, std::index_sequence<kIndex...>) {
        const dim3 grid(launch.grid[0], launch.grid[1], launch.grid[2]);
        const dim3 block(launch.block[0], launch.block[1], launch.block[2]);
        [[maybe_unused]] const unsigned char* params = launch.params;
        gridDim = grid;
        blockDim = block;
        for (unsigned long long b = launch.first_block, end = b + launch.block_count; b < end; ++b) {
            blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                        static_cast<unsigned>(b / grid.x / grid.y)};
            for (unsigned z = 0; z < block.z; ++z)
                for (unsigned y = 0; y < block.y; ++y)
                    for (unsigned x = 0; x < block.x; ++x) {
                        threadIdx = {x, y, z};
                        kKernel(*reinterpret_cast<const Params*>(params + Type::offset(kIndex))...);
                    }
        }
    }
};

}  // namespace ringlaunch::kernel_abi
#pragma GCC visibility pop

#define RINGLAUNCH_EXPORT(kernel)                                                 \
    RINGLAUNCH_EXPORT_SIGNATURE(kernel)                                           \
    extern "C" RINGLAUNCH_DEVICE_DATA const ::ringlaunch::kernel_abi::HostKernel  \
        ringlaunch_kernel_##kernel = {::ringlaunch::kernel_abi::kHostKernelMagic, \
                                      ::ringlaunch::kernel_abi::kHostAbiVersion,  \
                                      &::ringlaunch::kernel_abi::Thunk<decltype(&kernel), &kernel>::run};

#endif  // the host
#endif  // RINGLAUNCH_KERNEL_ABI_ONLY
