// What an image is, and what it says about its kernels: a reader of ELF files that trusts no byte of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ringlaunch::driver {

enum class ImageKind {
    host_object,  // an x86-64 shared object
    cubin,        // an ELF for NVIDIA GPUs
    fat_binary,   // with a header that agrees with its length; not read further
    ptx,          // text; not read further
    other,        // anything else; Image::found says what
};

struct ParamPlace {
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
};

struct ImageKernel {
    std::string name;
    // The bytes at ringlaunch_signature_<name>, as they stand in the image.
    std::optional<std::vector<std::byte>> signature;

    // Only of a cubin.
    std::vector<ParamPlace> params;
    std::uint32_t param_bytes = 0;
    std::uint32_t registers = 0;
    std::uint32_t max_threads = 0;         // 0: the image does not say
    std::uint32_t required_block[3] = {};  // 0: none
    std::uint32_t static_shared_bytes = 0;
};

struct Image {
    ImageKind kind = ImageKind::other;
    std::string found;         // "a cubin for sm_90", "an x86-64 shared object", "PTX text"
    std::string architecture;  // "sm_90", "x86-64"; empty for `other`
    std::vector<ImageKernel> kernels;
    // Signatures whose kernel the image does not have.
    std::vector<std::string> orphans;
};

inline constexpr std::size_t kMaxImageKernels = 4096;

// What the first bytes say, for error texts; never throws on any input.
std::string describe_image(std::span<const std::byte> bytes);

// A function of a cubin that a device has loaded, with its address there.
struct ImageFunction {
    std::string name;
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
    std::span<const std::byte> code;  // in the cubin; empty where it is not in there
    bool kernel = false;              // else kernels call it
};
// Throws Error{bad_image}.
std::vector<ImageFunction> read_functions(std::span<const std::byte> cubin);

// Reads the kernels of a cubin or of a host object. Throws Error{bad_image} where the image is damaged; the
// text says what is wrong and where.
Image read_image(std::span<const std::byte> bytes);

}  // namespace ringlaunch::driver
