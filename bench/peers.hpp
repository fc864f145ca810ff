// The peers of the round trip: the same 128 bytes to another process and back, through what one would use
// otherwise.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ringlaunch::bench {

inline constexpr std::size_t kMessageBytes = 64;  // a launch of five parameters: a slot

// A channel whose other end is a forked process that echoes every message.
class EchoPeer {
  public:
    virtual ~EchoPeer() = default;
    virtual std::string name() const = 0;
    // Sends, waits for the echo, checks it. Throws std::runtime_error if the echo is wrong or the peer died.
    virtual void round_trip(const std::uint8_t (&message)[kMessageBytes]) = 0;
};

// Makes a peer and its process. One at a time: the echo of some of them spins.
using EchoPeerMaker = std::unique_ptr<EchoPeer> (*)();
std::vector<EchoPeerMaker> echo_peer_makers();

}  // namespace ringlaunch::bench
