#include "daemon/executor/session_view.hpp"

#include "schema/ring.hpp"

namespace ringlaunch::executor {

KernelEntry::KernelEntry(driver::Kernel& of) : kernel(&of) {
    const driver::KernelLayout& layout = of.layout();
    // What the copy of a record cannot hold could not be checked, so it counts as not declared.
    declared = layout.declared && layout.param_bytes <= kMaxParamBytes;
    param_bytes = layout.param_bytes;
    slots = launch_slots(param_bytes, LaunchForm::general);
    compact_slots = launch_slots(param_bytes, LaunchForm::compact);
    max_threads = layout.max_threads;
    max_dynamic_shared_bytes = layout.max_dynamic_shared_bytes;
    default_block = layout.default_block;
    cluster = layout.attributes.cluster;
    clustered = cluster != driver::Dim3{};
    for (const driver::Param& param : layout.params)
        if (param.type == driver::ParamType::Pointer) {
            if (param.offset + sizeof(std::uint64_t) > param_bytes) declared = false;
            pointer_offsets.push_back(param.offset);
        }
}

}  // namespace ringlaunch::executor
