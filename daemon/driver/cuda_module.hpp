// Modules of the cuda driver: cubin, fatbin and PTX, their kernels, loaded eagerly.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/cuda_kernel.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/elf.hpp"
#include "daemon/driver/image_module.hpp"

namespace ringlaunch::driver {

class CudaModule : public OwningModule {
  public:
    // Throws Error{bad_image} with what was found and the loader's log.
    CudaModule(const std::string& name, std::span<const std::byte> image, const LoadOptions& options,
               const DeviceInfo& device);
    ~CudaModule() override;

  private:
    std::unique_ptr<Kernel> configured(const Kernel& kernel, KernelLayout layout) override;
    void check_cluster(CUfunction function, const KernelLayout& layout) const;
    ImageKernel ask(CUfunction function) const;
    void read_resources(CUfunction function, KernelLayout& layout) const;
    void allow_shared_memory(CUfunction function, KernelLayout& layout) const;
    std::uint32_t attribute(CUfunction function, CUfunction_attribute which, const std::string& kernel) const;

    int device_attribute(CUdevice_attribute which) const;

    const CudaApi& api_;
    std::string name_;
    CUmodule module_ = nullptr;
};

}  // namespace ringlaunch::driver
