// The kernels' header under g++: what it must refuse, with which words, and what it must take.
#include <gmock/gmock.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

// Compiles a source as a user does, without linking. Returns what the compiler said; `compiled` says whether
// it did.
std::string compile(const std::string& source, bool& compiled, const std::string& options = "") {
    const std::string file = testing::TempDir() + "ringlaunch_header_" + std::to_string(::getpid()) + ".cu";
    std::ofstream(file) << "#include <ringlaunch/kernel.h>\n" << source << "\n";
    const std::string command = std::string(TEST_CXX) + " -fsyntax-only -fPIC -Wall -Wextra -Werror " +
                                options + " -I" TEST_KERNEL_INCLUDE " -x c++ " + file + " 2>&1";
    std::FILE* const pipe = ::popen(command.c_str(), "r");
    std::string said;
    char buffer[4096];
    while (const std::size_t got = std::fread(buffer, 1, sizeof(buffer), pipe)) said.append(buffer, got);
    compiled = ::pclose(pipe) == 0;
    std::filesystem::remove(file);
    return said;
}

void expect_refused(const std::string& source, const std::string& words) {
    bool compiled = true;
    const std::string said = compile(source, compiled);
    EXPECT_FALSE(compiled) << source;
    EXPECT_THAT(said, HasSubstr(words)) << source;
}

void expect_taken(const std::string& source, const std::string& options = "") {
    bool compiled = false;
    const std::string said = compile(source, compiled, options);
    EXPECT_TRUE(compiled) << source << "\n" << said;
}

std::string kernel(const std::string& params, const std::string& body) {
    return "extern \"C\" __global__ void k(" + params + ") { " + body + " }\nRINGLAUNCH_EXPORT(k)";
}

TEST(KernelHeader, TakesPlainKernels) {
    expect_taken(kernel("", ""));
    expect_taken(kernel("float* x, const int n",
                        "if (threadIdx.x < unsigned(n)) x[blockIdx.x * blockDim.x] = gridDim.x;"));
    expect_taken(kernel("int* x", "atomicAdd(x, 1); *x = max(min(*x, 3), 1); __threadfence();"));
    expect_taken(kernel("float* __restrict__ x", "*x = rsqrtf(expf(fmaxf(*x, 1.0f)));"));
    expect_taken(
        "__constant__ float table[2] = {1, 2};\n__device__ __forceinline__ float f(int i) { return table[i]; "
        "}\n" +
        kernel("float* x", "*x = f(1);"));
    expect_taken(
        "template <class T> __device__ T twice(T v) { return v + v; }\nextern \"C\" __global__ void "
        "__launch_bounds__(128, 2) k(double* x) { *x = twice(*x); }\nRINGLAUNCH_EXPORT(k)");
    expect_taken(
        kernel("float* x", "*x = __expf(__ldg(x)) + __int2float_rn(__popc(3u)); __threadfence_block();"));
    expect_taken("struct __align__(16) Four { float x[4]; };\n" +
                 kernel("const __grid_constant__ Four by, Four* x", "*x = by;"));
    expect_taken("namespace mine { " + kernel("int* x", "*x = 1;") + "\n}");
    expect_taken("enum class E : short { a };\n" + kernel("E* x, E by", "*x = by;"));
    for (const char* standard : {"-std=c++17", "-std=c++20", "-std=gnu++20"})
        expect_taken(kernel("int* x", "*x = 1;"), standard);
}

TEST(KernelHeader, RefusesWhatTheHostCannotDo) {
    expect_refused(kernel("", "__shared__ float tile[32]; tile[0] = 0;"),
                   "__shared__ memory does not exist in kernels compiled for the host driver");
    expect_refused("extern __shared__ float tile[];\n" + kernel("", ""), "__shared__ memory does not exist");
    expect_refused("__managed__ int x;\n" + kernel("", ""), "__managed__ memory does not exist");
    // Even where it would never run. All in one compilation: an error each.
    std::string calls;
    std::vector<std::string> names;
    for (const std::string call :
         {"__syncthreads()", "__syncwarp()", "__syncwarp(0xffu)", "__shfl_sync(~0u, 1, 0)",
          "__shfl_down_sync(~0u, 1.0f, 16)", "__ballot_sync(~0u, 1)", "__activemask()",
          "__syncthreads_count(1)", "__reduce_add_sync(~0u, 1)", "__nanosleep(1)", "clock64()",
          "__fadd_rz(1.0f, 2.0f)", "__dmul_ru(1.0, 2.0)"}) {
        calls += "if (false) " + call + ";\n";
        names.push_back(call.substr(0, call.find('(')));
    }
    bool compiled = true;
    const std::string said = compile(kernel("", calls), compiled);
    EXPECT_FALSE(compiled);
    for (const std::string& name : names)
        EXPECT_THAT(said,
                    HasSubstr(name + " exists only on a GPU: it does not work in kernels compiled for the "
                                     "host driver"));
    expect_refused(kernel("int* x", "*x = threadIdx.x % warpSize;"),
                   "warpSize exists only on a GPU: the host driver has no warps");
    expect_refused("extern \"C\" __global__ void __cluster_dims__(2, 1, 1) k() {}\nRINGLAUNCH_EXPORT(k)",
                   "__cluster_dims__ exists only on a GPU");
    // No words of ours are possible for this; but it never compiles.
    compiled = true;
    (void)compile(kernel("", "k<<<1, 1>>>();"), compiled);
    EXPECT_FALSE(compiled);
}

TEST(KernelHeader, RefusesWhatItCannotDeclare) {
    expect_refused(kernel("int& x", "x = 1;"), "by value or by pointer");
    expect_refused("struct S { S(const S&); };\n" + kernel("S s", "(void)s;"), "must be trivially copyable");
    expect_refused("struct S { char bytes[5000]; };\n" + kernel("S s", "(void)s;"), "at most 4096 bytes");
    expect_refused("struct alignas(128) S { char bytes[128]; };\n" + kernel("S s", "(void)s;"),
                   "64 bytes at most");
    expect_refused("extern \"C\" __global__ int k() { return 1; }\nRINGLAUNCH_EXPORT(k)", "returns void");
    // Not extern "C": it would stand in the object under another name.
    expect_refused("__global__ void k(int* x) { *x = 1; }\nRINGLAUNCH_EXPORT(k)", "linkage");
    expect_refused("RINGLAUNCH_EXPORT(missing)", "missing");
}

}  // namespace
}  // namespace ringlaunch::driver
