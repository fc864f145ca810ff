// The identity of an image: what it holds and how its kernels are declared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/supervisor/registry.hpp"

namespace ringlaunch::supervisor {

// SHA-256 in hexadecimal of `bytes` of a sealed image and of its declarations: two images that differ have
// two digests, also where somebody tries. Reads the file, so that an image with holes costs no memory.
// Throws.
std::string image_digest(const UniqueFd& image, std::uint64_t bytes,
                         const std::vector<DeclaredSignature>& signatures);

}  // namespace ringlaunch::supervisor
