// Modules of the cuda driver: cubin, fatbin and PTX, their kernels, loaded eagerly.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "daemon/driver/cuda_api.hpp"
#include "daemon/driver/driver.hpp"

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
    // `image` ends with a 0 (which PTX needs). Throws Error{bad_image} with the compiler's log.
    CudaModule(const std::string& name, std::span<const std::byte> image,
               std::span<const Signature> signatures, const DeviceInfo& device);
    ~CudaModule() override;
    std::span<Kernel* const> kernels() const override { return pointers_; }

  private:
    // The types: from `signatures`, else from the symbol that RINGLAUNCH_EXPORT put into the image.
    void declare(KernelLayout& layout, std::span<const Signature> signatures) const;
    KernelLayout read_layout(CUfunction function, std::span<const Signature> signatures) const;

    const CudaApi& api_;
    std::string name_;
    CUmodule module_ = nullptr;
    std::vector<std::unique_ptr<CudaKernel>> kernels_;
    std::vector<Kernel*> pointers_;
};

}  // namespace ringlaunch::driver
