#include "daemon/driver/cuda_module.hpp"

#include <array>
#include <string_view>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::size_t kLogBytes = 16 * 1024;

int attribute(const CudaApi& api, CUfunction function, CUfunction_attribute which,
              const std::string& kernel) {
    int value = 0;
    check_cuda(api.cuFuncGetAttribute_(&value, which, function),
               "cannot read an attribute of kernel " + kernel);
    return value;
}

}  // namespace

CudaModule::CudaModule(const std::string& name, std::span<const std::byte> image,
                       std::span<const Signature> signatures, const DeviceInfo& device)
    : api_(cuda_api()), name_(name) {
    std::vector<char> log(kLogBytes);
    std::array<CUjit_option, 2> options{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    std::array<void*, 2> values{log.data(), reinterpret_cast<void*>(kLogBytes)};
    const CUresult loaded =
        api_.cuModuleLoadDataEx_(&module_, image.data(), options.size(), options.data(), values.data());
    if (loaded != CUDA_SUCCESS) {
        const std::string text(log.data());
        throw Error(loaded == CUDA_ERROR_OUT_OF_MEMORY ? Status::out_of_memory : Status::bad_image,
                    "cannot load module " + name + " on " + device.name + " (" + device.architecture +
                        "): " + cuda_error_text(loaded) + (text.empty() ? "" : "; the loader says: " + text));
    }
    try {
        unsigned count = 0;
        check_cuda(api_.cuModuleGetFunctionCount_(&count, module_),
                   "cannot count the kernels of module " + name);
        std::vector<CUfunction> functions(count);
        check_cuda(api_.cuModuleEnumerateFunctions_(functions.data(), count, module_),
                   "cannot list the kernels of module " + name);
        for (CUfunction function : functions) {
            kernels_.push_back(std::make_unique<CudaKernel>(read_layout(function, signatures), function));
            pointers_.push_back(kernels_.back().get());
        }
    } catch (...) {
        api_.cuModuleUnload_(module_);
        throw;
    }
}

CudaModule::~CudaModule() {
    api_.cuModuleUnload_(module_);
}

KernelLayout CudaModule::read_layout(CUfunction function, std::span<const Signature> signatures) const {
    const char* spelled = nullptr;
    check_cuda(api_.cuFuncGetName_(&spelled, function),
               "cannot read the name of a kernel of module " + name_);
    KernelLayout layout;
    layout.name = spelled;
    check_cuda(api_.cuFuncLoad_(function), "cannot load kernel " + layout.name);
    for (std::size_t i = 0;; ++i) {
        std::size_t offset = 0, size = 0;
        const CUresult result = api_.cuFuncGetParamInfo_(function, i, &offset, &size);
        if (result == CUDA_ERROR_INVALID_VALUE) break;  // there is no parameter i
        check_cuda(result, "cannot read parameter " + std::to_string(i) + " of kernel " + layout.name);
        layout.params.push_back(
            {ParamType::Unknown, static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(size), {}});
        layout.param_bytes = static_cast<std::uint32_t>(offset + size);
    }
    const auto read = [&](CUfunction_attribute which) {
        return static_cast<std::uint32_t>(attribute(api_, function, which, layout.name));
    };
    layout.max_threads = read(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    layout.static_shared_bytes = read(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    layout.registers = read(CU_FUNC_ATTRIBUTE_NUM_REGS);
    // All that the device has beyond what the kernel takes statically: above 48 KiB a kernel must ask for it.
    int most = 0;
    CUdevice device = 0;
    check_cuda(api_.cuCtxGetDevice_(&device), "cannot find the current device");
    check_cuda(
        api_.cuDeviceGetAttribute_(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device),
        "cannot read the device's shared memory");
    layout.max_dynamic_shared_bytes = static_cast<std::uint32_t>(most) - layout.static_shared_bytes;
    check_cuda(api_.cuFuncSetAttribute_(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                        static_cast<int>(layout.max_dynamic_shared_bytes)),
               "cannot let kernel " + layout.name + " use the device's shared memory");
    declare(layout, signatures);
    return layout;
}

}  // namespace ringlaunch::driver
