// The modules that this executor has loaded, once for all sessions, and what their kernels' launches are
// checked against. Control thread only; the dispatcher sees a kernel through a session's table.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/session_view.hpp"

namespace ringlaunch::executor {

class KernelCache {
  public:
    struct Loaded {
        std::string name;
        std::unique_ptr<driver::Module> module;
        std::vector<std::unique_ptr<const KernelEntry>> kernels;  // in the module's order
        std::uint64_t bindings = 0;                               // ids that sessions have for its kernels
        // Of kernels with attributes of their own, by what the module made of them; they stay as long as it.
        std::unordered_map<const driver::Kernel*, std::unique_ptr<const KernelEntry>> configured;

        // Throws what Module::configure() does, and Error{invalid_argument} for an index that is none.
        const KernelEntry& configure(std::size_t index, const driver::LaunchAttributes& attributes);
    };

    // Throws Error{invalid_argument} for a key that is taken.
    Loaded& add(std::uint64_t key, const std::string& name, std::unique_ptr<driver::Module> module);
    // Throws Error{not_found}.
    Loaded& get(std::uint64_t key);
    // Throws Error{not_found}.
    Loaded take(std::uint64_t key);
    bool contains(std::uint64_t key) const { return loaded_.contains(key); }
    std::size_t size() const { return loaded_.size(); }

  private:
    std::unordered_map<std::uint64_t, Loaded> loaded_;
};

}  // namespace ringlaunch::executor
