#include "daemon/driver/cuda_module.hpp"

#include <algorithm>
#include <array>

#include "daemon/driver/module_text.hpp"
#include "daemon/driver/signature.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::size_t kLogBytes = 16 * 1024;

std::string text_of(const Dim3& dim) {
    return std::to_string(dim.x) + " x " + std::to_string(dim.y) + " x " + std::to_string(dim.z);
}

void take_signatures(const Image& from, Image& to) {
    for (ImageKernel& kernel : to.kernels)
        for (const ImageKernel& read : from.kernels)
            if (read.name == kernel.name) kernel.signature = read.signature;
}

}  // namespace

CudaModule::CudaModule(const std::string& name, std::span<const std::byte> image, const LoadOptions& options,
                       const DeviceInfo& device)
    : api_(cuda_api()), name_(name) {
    const std::string loading = "cannot load " + module_text(name) + ": ";
    const std::string takes = ", but the cuda driver takes cubins, fatbins and PTX for " +
                              device.architecture + " (" + device.name + ")";
    // The loader gets nothing to see that it might take for something else, and says less of what is damaged.
    Image read;
    try {
        read = read_image(image);
    } catch (const Error& error) {
        throw Error(error.status(), loading + error.what());
    }
    if (read.kind != ImageKind::cubin && read.kind != ImageKind::fat_binary && read.kind != ImageKind::ptx)
        throw Error(Status::bad_image, loading + "it is " + read.found + takes);
    if (options.max_registers != 0 && read.kind != ImageKind::ptx)
        throw Error(Status::unsupported,
                    loading + "it is " + read.found +
                        ", whose registers were settled when it was compiled, so max_registers " +
                        std::to_string(options.max_registers) +
                        " cannot be had; load PTX, or compile it so (nvcc --maxrregcount)");
    std::vector<char> log(kLogBytes);
    std::array<CUjit_option, 3> jit{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
                                    CU_JIT_MAX_REGISTERS};
    std::array<void*, 3> values{log.data(), reinterpret_cast<void*>(kLogBytes),
                                reinterpret_cast<void*>(std::uintptr_t{options.max_registers})};
    const unsigned jit_options = options.max_registers != 0 ? 3 : 2;
    // PTX must end with a 0.
    std::vector<std::byte> ended(image.begin(), image.end());
    ended.push_back(std::byte{0});
    const CUresult loaded =
        api_.cuModuleLoadDataEx_(&module_, ended.data(), jit_options, jit.data(), values.data());
    if (loaded != CUDA_SUCCESS) {
        const std::string text(log.data());
        throw Error(loaded == CUDA_ERROR_OUT_OF_MEMORY ? Status::out_of_memory : Status::bad_image,
                    loading + "it is " + read.found + takes + ": " + cuda_error_text(loaded) +
                        (text.empty() ? "" : "; the loader says: " + text));
    }
    try {
        unsigned count = 0;
        check_cuda(api_.cuModuleGetFunctionCount_(&count, module_),
                   "cannot count the kernels of " + module_text(name));
        std::vector<CUfunction> functions(count);
        check_cuda(api_.cuModuleEnumerateFunctions_(functions.data(), count, module_),
                   "cannot list the kernels of " + module_text(name));
        Image as_loaded;
        as_loaded.kind = ImageKind::cubin;
        as_loaded.found = read.found;
        as_loaded.architecture = device.architecture;
        for (CUfunction function : functions) as_loaded.kernels.push_back(ask(function));
        // A cubin's declarations are local symbols, which only its ELF shows.
        take_signatures(read, as_loaded);
        std::vector<KernelLayout> layouts = make_layouts(name, as_loaded, options.signatures);
        for (std::size_t i = 0; i < layouts.size(); ++i) {
            allow_shared_memory(functions[i], layouts[i]);
            read_resources(functions[i], layouts[i]);
            const bool compiled_cluster = layouts[i].attributes.cluster != Dim3{};
            add(std::make_unique<CudaKernel>(std::move(layouts[i]), module_, functions[i], compiled_cluster));
        }
    } catch (...) {
        api_.cuModuleUnload_(module_);
        throw;
    }
}

CudaModule::~CudaModule() {
    api_.cuModuleUnload_(module_);
}

ImageKernel CudaModule::ask(CUfunction function) const {
    const char* spelled = nullptr;
    check_cuda(api_.cuFuncGetName_(&spelled, function),
               "cannot read the name of a kernel of " + module_text(name_));
    ImageKernel kernel;
    kernel.name = spelled;
    check_cuda(api_.cuFuncLoad_(function), "cannot load kernel " + kernel.name);
    for (std::size_t i = 0;; ++i) {
        std::size_t offset = 0, size = 0;
        const CUresult result = api_.cuFuncGetParamInfo_(function, i, &offset, &size);
        if (result == CUDA_ERROR_INVALID_VALUE) break;  // there is no parameter i
        check_cuda(result, "cannot read parameter " + std::to_string(i) + " of kernel " + kernel.name);
        kernel.params.push_back({static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(size)});
        kernel.param_bytes = static_cast<std::uint32_t>(offset + size);
    }
    kernel.max_threads = attribute(function, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel.name);
    kernel.static_shared_bytes = attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel.name);
    kernel.registers = attribute(function, CU_FUNC_ATTRIBUTE_NUM_REGS, kernel.name);

    // Of PTX and fatbins: RINGLAUNCH_EXPORT's declaration, where it is a global constant of the module.
    CUdeviceptr at = 0;
    std::size_t bytes = 0;
    const CUresult declared =
        api_.cuModuleGetGlobal_(&at, &bytes, module_, ("ringlaunch_signature_" + kernel.name).c_str());
    if (declared == CUDA_SUCCESS) {
        kernel.signature.emplace(bytes);
        check_cuda(api_.cuMemcpyDtoH_(kernel.signature->data(), at, bytes),
                   "cannot read the declared parameters of kernel " + kernel.name);
    } else if (declared != CUDA_ERROR_NOT_FOUND) {
        check_cuda(declared, "cannot look for the declared parameters of kernel " + kernel.name);
    }
    return kernel;
}

// What a kernel takes of the device, and the cluster that it was compiled with (__cluster_dims__).
void CudaModule::read_resources(CUfunction function, KernelLayout& layout) const {
    layout.local_bytes = attribute(function, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, layout.name);
    const Dim3 cluster{attribute(function, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH, layout.name),
                       attribute(function, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT, layout.name),
                       attribute(function, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH, layout.name)};
    if (cluster.x != 0 && cluster.y != 0 && cluster.z != 0) layout.attributes.cluster = cluster;
}

std::unique_ptr<Kernel> CudaModule::configured(const Kernel& kernel, KernelLayout layout) {
    const auto& plain = static_cast<const CudaKernel&>(kernel);
    const LaunchAttributes& wanted = layout.attributes;
    const Dim3 own = plain.layout().attributes.cluster;
    // Left alone, the cluster is the image's.
    if (plain.compiled_cluster() && wanted.cluster == Dim3{}) layout.attributes.cluster = own;
    if (plain.compiled_cluster() && wanted.cluster != own)
        refuse_attributes(layout, "it was compiled with clusters of " + text_of(own) +
                                      " blocks (__cluster_dims__), not " + text_of(wanted.cluster));
    if (wanted.cluster != Dim3{} && !plain.compiled_cluster()) check_cluster(plain.function(), layout);
    if (wanted.cooperative && device_attribute(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH) == 0)
        refuse_attributes(layout, "this device has no cooperative launches", Status::unsupported);
    if (wanted.programmatic && device_attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) < 9)
        refuse_attributes(layout, "programmatic launches need a device of sm_90 or later",
                          Status::unsupported);
    return std::make_unique<CudaKernel>(std::move(layout), module_, plain.function(),
                                        plain.compiled_cluster());
}

void CudaModule::check_cluster(CUfunction function, const KernelLayout& layout) const {
    constexpr int kPortableBlocks = 8;
    constexpr std::uint32_t kFar = 1u << 10;  // further than any device goes: keeps the product small
    const Dim3& cluster = layout.attributes.cluster;
    if (device_attribute(CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH) == 0)
        refuse_attributes(layout, "this device has no thread block clusters", Status::unsupported);
    const std::uint64_t blocks =
        std::uint64_t{std::min(cluster.x, kFar)} * std::min(cluster.y, kFar) * std::min(cluster.z, kFar);
    int most = kPortableBlocks;
    if (blocks > kPortableBlocks) {
        check_cuda(api_.cuFuncSetAttribute_(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
                   "cannot allow kernel " + layout.name + " large clusters");
        // Of the smallest block: what a larger one cannot have is refused when it is launched.
        CUlaunchConfig smallest{};
        smallest.gridDimX = smallest.gridDimY = smallest.gridDimZ = 1;
        smallest.blockDimX = smallest.blockDimY = smallest.blockDimZ = 1;
        check_cuda(api_.cuOccupancyMaxPotentialClusterSize_(&most, function, &smallest),
                   "cannot find out how large the clusters of kernel " + layout.name + " can be");
    }
    if (blocks > static_cast<std::uint64_t>(most))
        refuse_attributes(layout, "a cluster of " + text_of(cluster) + " blocks, at most " +
                                      std::to_string(most) + " in all are possible");
}

// All that the device has beyond what the kernel takes statically: above 48 KiB a kernel must ask for it.
void CudaModule::allow_shared_memory(CUfunction function, KernelLayout& layout) const {
    const int most = device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    layout.max_dynamic_shared_bytes = static_cast<std::uint32_t>(most) - layout.static_shared_bytes;
    check_cuda(api_.cuFuncSetAttribute_(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                        static_cast<int>(layout.max_dynamic_shared_bytes)),
               "cannot let kernel " + layout.name + " use the device's shared memory");
}

std::uint32_t CudaModule::attribute(CUfunction function, CUfunction_attribute which,
                                    const std::string& kernel) const {
    int value = 0;
    check_cuda(api_.cuFuncGetAttribute_(&value, which, function),
               "cannot read an attribute of kernel " + kernel);
    return static_cast<std::uint32_t>(value);
}

int CudaModule::device_attribute(CUdevice_attribute which) const {
    CUdevice device = 0;
    int value = 0;
    check_cuda(api_.cuCtxGetDevice_(&device), "cannot find the current device");
    check_cuda(api_.cuDeviceGetAttribute_(&value, which, device), "cannot read an attribute of the device");
    return value;
}

}  // namespace ringlaunch::driver
