#include "daemon/cli/format.hpp"

#include <array>
#include <cmath>
#include <cstdio>

namespace ringlaunch::cli {

namespace {

// Three significant digits.
std::string scaled(double value, const char* unit) {
    char text[48];
    const int decimals = value >= 99.95 || value == std::floor(value) ? 0 : value >= 9.995 ? 1 : 2;
    std::snprintf(text, sizeof text, "%.*f%s", decimals, value, unit);
    return text;
}

}  // namespace

std::string format_ns(double ns) {
    if (ns < 999.5) return scaled(std::round(ns), " ns");
    if (ns < 999.5e3) return scaled(ns / 1e3, " us");
    if (ns < 999.5e6) return scaled(ns / 1e6, " ms");
    return scaled(ns / 1e9, " s");
}

std::string format_ms(std::uint64_t ms) {
    const std::uint64_t seconds = ms / 1000;
    char text[48];
    if (seconds < 60)
        std::snprintf(text, sizeof text, "%u s", static_cast<unsigned>(seconds));
    else if (seconds < 3600)
        std::snprintf(text, sizeof text, "%u m %02u s", static_cast<unsigned>(seconds / 60),
                      static_cast<unsigned>(seconds % 60));
    else if (seconds < 86400)
        std::snprintf(text, sizeof text, "%u h %02u m", static_cast<unsigned>(seconds / 3600),
                      static_cast<unsigned>(seconds / 60 % 60));
    else
        std::snprintf(text, sizeof text, "%llu d %02u h", static_cast<unsigned long long>(seconds / 86400),
                      static_cast<unsigned>(seconds / 3600 % 24));
    return text;
}

std::string format_bytes(std::uint64_t bytes) {
    static constexpr std::array kUnits = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    return scaled(value, kUnits[unit]);
}

std::string format_count(double count) {
    if (count < 999.5) return scaled(count < 10 ? std::round(count * 10) / 10 : std::round(count), "");
    if (count < 999.5e3) return scaled(count / 1e3, " k");
    if (count < 999.5e6) return scaled(count / 1e6, " M");
    return scaled(count / 1e9, " G");
}

std::string format_hex(std::uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

}  // namespace ringlaunch::cli
