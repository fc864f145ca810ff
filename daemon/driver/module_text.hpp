// How a module is called in messages: it may have no name.
#pragma once

#include <string>
#include <string_view>

namespace ringlaunch::driver {

inline std::string module_text(std::string_view name) {
    return name.empty() ? "module (without a name)" : "module '" + std::string(name) + "'";
}

}  // namespace ringlaunch::driver
