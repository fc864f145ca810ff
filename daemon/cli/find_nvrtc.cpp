#include "daemon/cli/find_nvrtc.hpp"

#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

namespace ringlaunch::cli {

namespace {

std::vector<std::string> matching(const std::string& pattern) {
    glob_t found{};
    std::vector<std::string> paths;
    if (::glob(pattern.c_str(), 0, nullptr, &found) == 0)
        paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    std::sort(paths.begin(), paths.end(), std::greater<>());
    return paths;
}

// The environments whose packages a client may have: the one that is activated, and the one that this
// program was installed into.
std::vector<std::string> prefixes() {
    std::vector<std::string> found;
    if (const char* active = std::getenv("VIRTUAL_ENV"); active != nullptr && *active != 0)
        found.push_back(active);
    char program[4096];
    const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program);
    if (length > 0) {
        std::string folder(program, static_cast<std::size_t>(length));
        for (int i = 0; i < 2; ++i) folder.resize(std::min(folder.rfind('/'), folder.size()));
        found.push_back(folder);
    }
    return found;
}

std::vector<std::string> candidates() {
    if (const char* named = std::getenv("RINGLAUNCH_NVRTC"); named != nullptr && *named != 0) return {named};
    std::vector<std::string> paths;
    for (const std::string& prefix : prefixes())
        for (const std::string& path :
             matching(prefix + "/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so.[0-9]*"))
            paths.push_back(path);
    paths.insert(paths.end(), {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
    for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
        if (const char* home = std::getenv(name); home != nullptr && *home != 0)
            paths.push_back(std::string(home) + "/lib64/libnvrtc.so");
    paths.push_back("/usr/local/cuda/lib64/libnvrtc.so");
    return paths;
}

}  // namespace

bool Nvrtc::compiles_for(const std::string& architecture) const {
    const int number = std::atoi(architecture.c_str() + std::min<std::size_t>(3, architecture.size()));
    return architectures.empty() ||
           std::find(architectures.begin(), architectures.end(), number) != architectures.end();
}

Nvrtc find_nvrtc() {
    Nvrtc nvrtc;
    std::string tried;
    for (const std::string& path : candidates()) {
        void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) {
            tried += (tried.empty() ? "" : ", ") + path;
            continue;
        }
        const auto version = reinterpret_cast<int (*)(int*, int*)>(::dlsym(library, "nvrtcVersion"));
        int major = 0, minor = 0;
        if (version == nullptr || version(&major, &minor) != 0) {
            nvrtc.why_not = path + " is not NVRTC: it has no nvrtcVersion";
            return nvrtc;
        }
        nvrtc.path = path;
        nvrtc.version = std::to_string(major) + "." + std::to_string(minor);
        const auto count = reinterpret_cast<int (*)(int*)>(::dlsym(library, "nvrtcGetNumSupportedArchs"));
        const auto list = reinterpret_cast<int (*)(int*)>(::dlsym(library, "nvrtcGetSupportedArchs"));
        if (int known = 0; count != nullptr && list != nullptr && count(&known) == 0 && known > 0) {
            nvrtc.architectures.resize(static_cast<std::size_t>(known));
            if (list(nvrtc.architectures.data()) != 0) nvrtc.architectures.clear();
        }
        return nvrtc;
    }
    nvrtc.why_not = "no NVRTC at " + tried;
    return nvrtc;
}

}  // namespace ringlaunch::cli
