// How a backlog of launches is cut into chains: graphs of as many kernel nodes in a row, made beforehand.
//
// Measured on an H200, microseconds a launch, of kernels that do nothing: by itself 3.0 to 3.7; a graph of
// one node 1.5; two nodes 3.0 each; chains of 8, 16 and 32: 0.7 to 1.05, 0.6 to 0.99, 0.55; beyond 32 little
// is gained. So: the longest chain that the backlog fills, again and again, and what is left (fewer than the
// shortest chain) one by one. No launch waits for others to come.
#pragma once

#include <array>
#include <cstddef>

namespace ringlaunch::driver {

inline constexpr std::array<std::size_t, 4> kChainLengths{32, 16, 8, 4};
// Of each length: while one runs, the next is written.
inline constexpr std::size_t kChainCopies = 4;

// Which of kChainLengths a backlog of `launches` begins with; kChainLengths.size(): none, launch one by one.
constexpr std::size_t chain_for(std::size_t launches) {
    std::size_t i = 0;
    while (i < kChainLengths.size() && kChainLengths[i] > launches) ++i;
    return i;
}

}  // namespace ringlaunch::driver
