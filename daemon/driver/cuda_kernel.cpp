#include "daemon/driver/cuda_kernel.hpp"

#include <utility>

#include "daemon/driver/launch_journal.hpp"

namespace ringlaunch::driver {

CudaKernel::CudaKernel(KernelLayout layout, CUmodule module, CUfunction function, bool compiled_cluster)
    : Kernel(std::move(layout)),
      module_(module),
      function_(function),
      compiled_cluster_(compiled_cluster),
      name_digest_(digest(layout_.name)) {
    const LaunchAttributes& wanted = layout_.attributes;
    if (wanted.cluster != Dim3{} && !compiled_cluster_) {
        CUlaunchAttributeValue& value = add(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
        value.clusterDim.x = wanted.cluster.x;
        value.clusterDim.y = wanted.cluster.y;
        value.clusterDim.z = wanted.cluster.z;
    }
    if (wanted.cooperative) add(CU_LAUNCH_ATTRIBUTE_COOPERATIVE).cooperative = 1;
    if (wanted.programmatic)
        add(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION).programmaticStreamSerializationAllowed = 1;
}

CUlaunchAttributeValue& CudaKernel::add(CUlaunchAttributeID id) {
    CUlaunchAttribute& next = attributes_[attribute_count_++];
    next.id = id;
    return next.value;
}

}  // namespace ringlaunch::driver
