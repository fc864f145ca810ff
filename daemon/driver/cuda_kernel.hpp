// A kernel as CUDA has it: its function, and the attributes that a launch of it names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

class CudaKernel : public Kernel {
  public:
    // `compiled_cluster`: the cluster is the image's own, which a launch need not name.
    CudaKernel(KernelLayout layout, CUmodule module, CUfunction function, bool compiled_cluster);
    CUmodule module() const { return module_; }
    CUfunction function() const { return function_; }
    bool compiled_cluster() const { return compiled_cluster_; }
    std::uint64_t name_digest() const { return name_digest_; }
    // What a launch names; empty: an ordinary launch.
    std::span<const CUlaunchAttribute> attributes() const { return {attributes_.data(), attribute_count_}; }

  private:
    CUlaunchAttributeValue& add(CUlaunchAttributeID id);

    CUmodule module_;
    CUfunction function_;
    bool compiled_cluster_;
    std::uint64_t name_digest_;
    std::array<CUlaunchAttribute, 3> attributes_{};
    std::size_t attribute_count_ = 0;
};

}  // namespace ringlaunch::driver
