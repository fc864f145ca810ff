// How an id is written for people, by every part: in errors, logs and tables.
#pragma once

#include <cstdint>
#include <string>

namespace ringlaunch {

// The index, and from the second generation on the generation too: "12" or "12.2".
inline std::string id_text(std::uint64_t id) {
    const std::string index = std::to_string(static_cast<std::uint32_t>(id));
    return id >> 32 == 1 ? index : index + "." + std::to_string(id >> 32);
}

}  // namespace ringlaunch
