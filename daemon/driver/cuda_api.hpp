// The functions of libcuda that the cuda driver calls, and inline launches in a client's own program, found
// at run time: neither daemon nor client has a link dependency on CUDA, and both start on a machine without
// it. The one list of them.
#pragma once

#include <cuda.h>

#include <string>

#include "schema/status.hpp"

namespace ringlaunch::driver {

// cuda.h maps names to their versioned symbols with macros; both the type and the symbol's name follow from
// it.
#define RINGLAUNCH_CUDA_FUNCTIONS(X)      \
    X(cuInit)                             \
    X(cuDriverGetVersion)                 \
    X(cuGetErrorName)                     \
    X(cuGetErrorString)                   \
    X(cuDeviceGet)                        \
    X(cuDeviceGetCount)                   \
    X(cuDeviceGetName)                    \
    X(cuDeviceGetAttribute)               \
    X(cuDeviceGetPCIBusId)                \
    X(cuDeviceTotalMem)                   \
    X(cuDeviceCanAccessPeer)              \
    X(cuDevicePrimaryCtxRetain)           \
    X(cuDevicePrimaryCtxRelease)          \
    X(cuCtxSetCurrent)                    \
    X(cuCtxGetCurrent)                    \
    X(cuCtxGetDevice)                     \
    X(cuCtxGetStreamPriorityRange)        \
    X(cuCtxGetLimit)                      \
    X(cuCtxSetLimit)                      \
    X(cuMemGetInfo)                       \
    X(cuMemGetAllocationGranularity)      \
    X(cuMemAddressReserve)                \
    X(cuMemAddressFree)                   \
    X(cuMemCreate)                        \
    X(cuMemRelease)                       \
    X(cuMemMap)                           \
    X(cuMemUnmap)                         \
    X(cuMemSetAccess)                     \
    X(cuMemExportToShareableHandle)       \
    X(cuMemImportFromShareableHandle)     \
    X(cuMemHostRegister)                  \
    X(cuMemHostUnregister)                \
    X(cuMemHostGetDevicePointer)          \
    X(cuPointerGetAttribute)              \
    X(cuMemcpyDtoH)                       \
    X(cuMemcpyHtoDAsync)                  \
    X(cuMemcpyDtoHAsync)                  \
    X(cuMemcpyDtoDAsync)                  \
    X(cuMemcpyPeerAsync)                  \
    X(cuMemsetD8Async)                    \
    X(cuMemsetD16Async)                   \
    X(cuMemsetD32Async)                   \
    X(cuModuleLoadDataEx)                 \
    X(cuModuleUnload)                     \
    X(cuModuleGetFunctionCount)           \
    X(cuModuleEnumerateFunctions)         \
    X(cuModuleGetFunction)                \
    X(cuModuleGetGlobal)                  \
    X(cuFuncGetName)                      \
    X(cuFuncGetParamInfo)                 \
    X(cuFuncGetAttribute)                 \
    X(cuFuncSetAttribute)                 \
    X(cuFuncLoad)                         \
    X(cuStreamCreateWithPriority)         \
    X(cuStreamDestroy)                    \
    X(cuStreamIsCapturing)                \
    X(cuStreamQuery)                      \
    X(cuStreamSynchronize)                \
    X(cuStreamWaitEvent)                  \
    X(cuStreamWriteValue64)               \
    X(cuThreadExchangeStreamCaptureMode)  \
    X(cuEventCreate)                      \
    X(cuEventDestroy)                     \
    X(cuEventRecord)                      \
    X(cuLaunchHostFunc)                   \
    X(cuLaunchKernel)                     \
    X(cuLaunchKernelEx)                   \
    X(cuGraphCreate)                      \
    X(cuGraphDestroy)                     \
    X(cuGraphAddKernelNode)               \
    X(cuGraphAddMemcpyNode)               \
    X(cuGraphAddMemsetNode)               \
    X(cuGraphKernelNodeSetAttribute)      \
    X(cuGraphInstantiate)                 \
    X(cuGraphUpload)                      \
    X(cuGraphExecDestroy)                 \
    X(cuGraphExecKernelNodeSetParams)     \
    X(cuGraphLaunch)                      \
    X(cuTensorMapEncodeTiled)             \
    X(cuOccupancyMaxPotentialClusterSize) \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor)

struct CudaApi {
#define RINGLAUNCH_CUDA_MEMBER(name) decltype(&::name) name##_ = nullptr;
    RINGLAUNCH_CUDA_FUNCTIONS(RINGLAUNCH_CUDA_MEMBER)
#undef RINGLAUNCH_CUDA_MEMBER
};

// The process's one table; loads libcuda.so.1 on the first call. Throws Error{unsupported} that names what is
// missing and advises, behind "or", `instead`.
const CudaApi& cuda_api(const char* instead = "have a daemon serve with --driver host");

// "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
std::string cuda_error_text(CUresult result, const CudaApi& api = cuda_api());

// Makes `context` the calling thread's current one, where it is not yet. Cheap enough for every launch.
CUresult enter_context(CUcontext context) noexcept;
// Before a context is released: the calling thread has none then.
void leave_context() noexcept;

// Throws Error{status, "doing: what CUDA says"} unless `result` is CUDA_SUCCESS.
void check_cuda(CUresult result, const std::string& doing, Status status = Status::driver_error,
                const CudaApi& api = cuda_api());

}  // namespace ringlaunch::driver
