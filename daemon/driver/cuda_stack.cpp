#include "daemon/driver/cuda_stack.hpp"

#include <utility>

#include "schema/error.hpp"

namespace ringlaunch::driver {

CudaStack::CudaStack(CUdevice device, std::string device_name, const CudaApi& api)
    : api_(api), device_name_(std::move(device_name)) {
    const auto attribute = [&](CUdevice_attribute which) {
        int value = 0;
        check_cuda(api_.cuDeviceGetAttribute_(&value, which, device),
                   "cannot count the threads that fit on " + device_name_, Status::driver_error, api_);
        return static_cast<std::uint64_t>(value);
    };
    threads_ = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) *
               attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
}

std::uint64_t CudaStack::size() const {
    std::size_t bytes = 0;
    check_cuda(api_.cuCtxGetLimit_(&bytes, CU_LIMIT_STACK_SIZE),
               "cannot read the stack of the threads on " + device_name_, Status::driver_error, api_);
    return bytes;
}

std::string CudaStack::wish(std::uint64_t bytes) const {
    return "a stack of " + std::to_string(bytes) + " bytes for each of the " + std::to_string(threads_) +
           " threads that fit on " + device_name_;
}

// Looked at beforehand, because CUDA stops the device before it finds out.
bool CudaStack::has(std::uint64_t bytes) const {
    const std::uint64_t now = size();
    if (bytes <= now) return true;
    std::size_t free = 0, total = 0;
    check_cuda(api_.cuMemGetInfo_(&free, &total), "cannot read the free memory of " + device_name_,
               Status::driver_error, api_);
    const std::uint64_t room = now + free / threads_;
    if (bytes > room)
        throw Error(Status::out_of_memory, "there is no room for " + wish(bytes) + ": " +
                                               std::to_string(free) + " of " + std::to_string(total) +
                                               " bytes are free, enough for at most " + std::to_string(room) +
                                               " bytes each");
    return false;
}

void CudaStack::raise(std::uint64_t bytes) {
    const std::uint64_t before = size();
    const CUresult result = api_.cuCtxSetLimit_(CU_LIMIT_STACK_SIZE, bytes);
    // CUDA may give another size than was asked for, and say nothing.
    if (result == CUDA_SUCCESS && size() >= bytes) return;
    const std::string said =
        result == CUDA_SUCCESS ? "CUDA gives " + std::to_string(size()) : cuda_error_text(result, api_);
    const CUresult undone = api_.cuCtxSetLimit_(CU_LIMIT_STACK_SIZE, before);
    throw Error(result == CUDA_ERROR_OUT_OF_MEMORY ? Status::out_of_memory : Status::unsupported,
                "cannot have " + wish(bytes) + ": " + said +
                    (undone == CUDA_SUCCESS ? "; they keep " + std::to_string(before) + " bytes"
                                            : "; nor the " + std::to_string(before) +
                                                  " bytes of before: " + cuda_error_text(undone, api_)));
}

}  // namespace ringlaunch::driver
