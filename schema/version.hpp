// The version of the contract between a client and a daemon, and the magic words of its shared segments.
#pragma once

#include <cstdint>

namespace ringlaunch {

// Raised by every change that an older peer could misread. Both sides refuse to talk across two versions.
inline constexpr std::uint32_t kProtocolVersion = 6;

inline constexpr std::uint64_t kRingMagic = 0x3130474e49524c52;    // the bytes "RLRING01"
inline constexpr std::uint64_t kStatusMagic = 0x3130544154534c52;  // the bytes "RLSTAT01"
inline constexpr std::uint32_t kHelloMagic = 0x48434c52;           // the bytes "RLCH"

inline constexpr std::uint32_t kDefaultRingSlots = 4096;
inline constexpr std::uint32_t kMinRingSlots = 64;
inline constexpr std::uint32_t kMaxRingSlots = 1u << 16;
inline constexpr std::uint32_t kMaxControlBytes = 64 * 1024;
inline constexpr std::uint32_t kMaxParamBytes = 4096;
inline constexpr std::uint32_t kMaxParams = 256;
// Of one graph: what it runs, and how long the records are that describe it.
inline constexpr std::uint32_t kMaxGraphNodes = 4096;
inline constexpr std::uint32_t kMaxGraphSlots = 1u << 14;

}  // namespace ringlaunch
