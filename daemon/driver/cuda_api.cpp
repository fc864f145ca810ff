#include "daemon/driver/cuda_api.hpp"

#include <dlfcn.h>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

thread_local CUcontext current_context = nullptr;

CudaApi load(const char* instead) {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
        throw Error(Status::unsupported,
                    std::string("CUDA needs libcuda.so.1, which comes with NVIDIA's driver: ") + ::dlerror() +
                        "; install the driver, or " + instead);
    CudaApi api;
    constexpr std::size_t kNamed = 3;
    std::string missing;
    std::size_t lacking = 0;
    // Two steps, so that cuda.h's macros name the versioned symbol.
#define RINGLAUNCH_CUDA_SYMBOL(name) #name
#define RINGLAUNCH_CUDA_LOAD(name)                                                                         \
    api.name##_ = reinterpret_cast<decltype(api.name##_)>(::dlsym(library, RINGLAUNCH_CUDA_SYMBOL(name))); \
    if (api.name##_ == nullptr && ++lacking <= kNamed)                                                     \
        missing += std::string(missing.empty() ? "" : ", ") + RINGLAUNCH_CUDA_SYMBOL(name);
    RINGLAUNCH_CUDA_FUNCTIONS(RINGLAUNCH_CUDA_LOAD)
#undef RINGLAUNCH_CUDA_LOAD
#undef RINGLAUNCH_CUDA_SYMBOL
    if (lacking == 0) return api;
    if (lacking > kNamed) missing += " and " + std::to_string(lacking - kNamed) + " more";
    int version = 0;
    const bool told = api.cuDriverGetVersion_ != nullptr && api.cuDriverGetVersion_(&version) == CUDA_SUCCESS;
    throw Error(Status::unsupported, "libcuda.so.1 " +
                                         (told ? "(for CUDA " + std::to_string(version / 1000) + "." +
                                                     std::to_string(version % 1000 / 10) + ") "
                                               : std::string()) +
                                         "lacks functions of CUDA 12.4: " + missing +
                                         "; update NVIDIA's driver to 550 or later, or " + instead);
}

}  // namespace

const CudaApi& cuda_api(const char* instead) {
    static const CudaApi api = load(instead);
    return api;
}

CUresult enter_context(CUcontext context) noexcept {
    if (current_context == context) [[likely]]
        return CUDA_SUCCESS;
    const CUresult result = cuda_api().cuCtxSetCurrent_(context);
    if (result == CUDA_SUCCESS) current_context = context;
    return result;
}

void leave_context() noexcept {
    cuda_api().cuCtxSetCurrent_(nullptr);
    current_context = nullptr;
}

std::string cuda_error_text(CUresult result, const CudaApi& api) {
    const char* name = nullptr;
    const char* text = nullptr;
    if (api.cuGetErrorName_(result, &name) != CUDA_SUCCESS || name == nullptr)
        return "CUDA error " + std::to_string(static_cast<int>(result));
    api.cuGetErrorString_(result, &text);
    return std::string(name) + ": " + (text != nullptr ? text : "no text");
}

void check_cuda(CUresult result, const std::string& doing, Status status, const CudaApi& api) {
    if (result == CUDA_SUCCESS) return;
    throw Error(result == CUDA_ERROR_OUT_OF_MEMORY ? Status::out_of_memory : status,
                doing + ": " + cuda_error_text(result, api));
}

}  // namespace ringlaunch::driver
