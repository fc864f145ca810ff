#include "daemon/executor/kernel_cache.hpp"

#include "daemon/driver/module_text.hpp"
#include "schema/error.hpp"

namespace ringlaunch::executor {

KernelCache::Loaded& KernelCache::add(std::uint64_t key, const std::string& name,
                                      std::unique_ptr<driver::Module> module) {
    Loaded fresh{name, std::move(module), {}, 0, {}};
    for (driver::Kernel* kernel : fresh.module->kernels())
        fresh.kernels.push_back(std::make_unique<const KernelEntry>(*kernel));
    const auto [at, inserted] = loaded_.try_emplace(key, std::move(fresh));
    if (!inserted)
        throw Error(Status::invalid_argument, "cannot load " + driver::module_text(name) + ": its key " +
                                                  std::to_string(key) + " is taken by " +
                                                  driver::module_text(at->second.name));
    return at->second;
}

const KernelEntry& KernelCache::Loaded::configure(std::size_t index,
                                                  const driver::LaunchAttributes& attributes) {
    if (index >= kernels.size())
        throw Error(Status::invalid_argument,
                    driver::module_text(name) + " has " + std::to_string(kernels.size()) +
                        " kernels, and none with the index " + std::to_string(index));
    driver::Kernel& made = module->configure(*kernels[index]->kernel, attributes);
    std::unique_ptr<const KernelEntry>& entry = configured[&made];
    if (!entry) entry = std::make_unique<const KernelEntry>(made);
    return *entry;
}

KernelCache::Loaded KernelCache::take(std::uint64_t key) {
    Loaded taken = std::move(get(key));
    loaded_.erase(key);
    return taken;
}

KernelCache::Loaded& KernelCache::get(std::uint64_t key) {
    const auto found = loaded_.find(key);
    if (found == loaded_.end())
        throw Error(Status::not_found, "no module with the key " + std::to_string(key) + " is loaded");
    return found->second;
}

}  // namespace ringlaunch::executor
