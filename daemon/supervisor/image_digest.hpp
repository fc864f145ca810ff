// The identity of an image: what it holds, how its kernels are declared and how it is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/supervisor/registry.hpp"

namespace ringlaunch::supervisor {

// SHA-256 in hexadecimal of `bytes` of a sealed image and of what else it is loaded with: two that differ
// have two digests, also where somebody tries. Reads the file, so that an image with holes costs no memory.
// Throws.
std::string image_digest(const UniqueFd& image, std::uint64_t bytes,
                         const std::vector<DeclaredSignature>& signatures, std::uint32_t max_registers,
                         std::uint64_t stack_bytes);

}  // namespace ringlaunch::supervisor
