// Modules of the cuda driver: cubin, fatbin and PTX, their kernels, loaded eagerly.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/driver.hpp"
#include "daemon/driver/elf.hpp"

namespace ringlaunch::driver {

class CudaKernel : public Kernel {
  public:
    CudaKernel(KernelLayout layout, CUfunction function) : Kernel(std::move(layout)), function_(function) {}
    CUfunction function() const { return function_; }

  private:
    CUfunction function_;
};

class CudaModule : public Module {
  public:
    // Throws Error{bad_image} with what was found and the loader's log.
    CudaModule(const std::string& name, std::span<const std::byte> image,
               std::span<const Signature> signatures, const DeviceInfo& device);
    ~CudaModule() override;
    std::span<Kernel* const> kernels() const override { return pointers_; }

  private:
    ImageKernel ask(CUfunction function) const;
    void allow_shared_memory(CUfunction function, KernelLayout& layout) const;
    std::uint32_t attribute(CUfunction function, CUfunction_attribute which, const std::string& kernel) const;

    const CudaApi& api_;
    std::string name_;
    CUmodule module_ = nullptr;
    std::vector<std::unique_ptr<CudaKernel>> kernels_;
    std::vector<Kernel*> pointers_;
};

}  // namespace ringlaunch::driver
