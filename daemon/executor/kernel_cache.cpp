#include "daemon/executor/kernel_cache.hpp"

#include "schema/error.hpp"

namespace ringlaunch::executor {

KernelCache::Loaded& KernelCache::add(std::uint64_t key, const std::string& name,
                                      std::unique_ptr<driver::Module> module) {
    Loaded fresh{name, std::move(module), {}, 0};
    for (driver::Kernel* kernel : fresh.module->kernels())
        fresh.kernels.push_back(std::make_unique<const KernelEntry>(*kernel));
    const auto [at, inserted] = loaded_.try_emplace(key, std::move(fresh));
    if (!inserted)
        throw Error(Status::invalid_argument, "cannot load module '" + name + "': its key " +
                                                  std::to_string(key) + " is taken by module '" +
                                                  at->second.name + "'");
    return at->second;
}

KernelCache::Loaded& KernelCache::get(std::uint64_t key) {
    const auto found = loaded_.find(key);
    if (found == loaded_.end())
        throw Error(Status::not_found, "no module with the key " + std::to_string(key) + " is loaded");
    return found->second;
}

}  // namespace ringlaunch::executor
