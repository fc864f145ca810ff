// The NVRTC that a client in Python would compile with: looked for in the same places, in the same order
// (python/ringlaunch/_nvrtc.py).
#pragma once

#include <string>
#include <vector>

namespace ringlaunch::cli {

struct Nvrtc {
    std::string path;     // empty: there is none
    std::string why_not;  // where it was looked for, or what is wrong with the one that is named
    std::string version;  // "13.0"
    std::vector<int> architectures;
    // "sm_90", and what comes after it: "sm_90a". True where the library does not say.
    bool compiles_for(const std::string& architecture) const;
};

// Loads the library into this process.
Nvrtc find_nvrtc();

}  // namespace ringlaunch::cli
