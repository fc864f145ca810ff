// What a kernel takes: the declared types (from the image, or from outside it) against what the image says.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/driver/elf.hpp"

namespace ringlaunch::driver {

// Bytes of a type; 0 for Bytes and Unknown.
std::uint32_t size_of(ParamType type);

// Reads what RINGLAUNCH_EXPORT put into the object (schema/kernel.h). Throws Error{bad_image}.
std::vector<Param> read_signature(const std::string& kernel, std::span<const std::byte> bytes);

// The layouts of an image's kernels, in its order. A declaration from outside may leave out a type's size,
// and all offsets (then they are CUDA's natural ones). Throws Error{bad_image} where two sources contradict
// each other, with the kernel, the parameter and both sizes; and where a signature names a kernel that the
// image does not have.
std::vector<KernelLayout> make_layouts(const std::string& module, const Image& image,
                                       std::span<const Signature> signatures);

}  // namespace ringlaunch::driver
