// A loaded module and its kernels, as a launch reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

#include "schema/ring.hpp"

namespace ringlaunch::detail {

// A launch record has 16 bits for each side of a block.
inline constexpr std::uint32_t kMaxBlockSide = 0xffff;

// Immutable once loaded, so any thread may read it.
struct KernelState : HotKernel {
    void set_id(std::uint64_t given) {
        id = given;
        compact_id = compact_kernel(given);
    }

    std::string name;
    std::vector<Param> params;
    std::vector<ArgLayout> layout;  // the same, as a launch's arguments are compared with it

    std::uint32_t registers = 0, local_bytes = 0, static_shared_bytes = 0;
    std::uint64_t stack_bytes = 0;
    KernelAttributes attributes;
    ModuleState* module = nullptr;  // which a handle keeps
};

struct ModuleState : std::enable_shared_from_this<ModuleState> {
    ~ModuleState();

    std::shared_ptr<ClientState> client;
    std::uint64_t id = 0;
    std::string name;
    std::vector<KernelState> kernels;  // never changes size: handles point into it
};

// A kernel with attributes of its own, and the module that it is of.
struct ConfiguredKernel {
    std::shared_ptr<ModuleState> module;
    KernelState kernel;
};

}  // namespace ringlaunch::detail
