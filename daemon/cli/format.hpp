// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace ringlaunch::cli {

std::string format_ns(double ns);               // "820 ns", "1.25 us", "3.4 ms", "12 s"
std::string format_ms(std::uint64_t ms);        // "12 s", "3 m 04 s", "2 h 05 m", "4 d 03 h"
std::string format_bytes(std::uint64_t bytes);  // "512 B", "64 KiB", "1.5 GiB"
std::string format_count(double count);         // "999", "12.3 k", "4.56 M"
std::string format_hex(std::uint64_t value);

}  // namespace ringlaunch::cli
