// Loading a module: the image travels as a sealed memfd, the kernels' layouts come back.
#pragma once

#include <memory>
#include <ringlaunch/ringlaunch.hpp>
#include <string>

#include "schema/unique_fd.hpp"

namespace ringlaunch::detail {

// `image` is a memfd of `bytes`, sealed as Sealing::immutable. Throws Error.
std::shared_ptr<ModuleState> load(const std::shared_ptr<ClientState>& client, const UniqueFd& image,
                                  std::size_t bytes, const std::string& name, const LoadOptions& options);

// The same kernel, launched with these attributes. Throws Error.
std::shared_ptr<KernelState> configure(const KernelState& kernel, const KernelAttributes& wanted);

}  // namespace ringlaunch::detail
