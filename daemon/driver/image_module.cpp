#include "daemon/driver/image_module.hpp"

#include "daemon/driver/module_text.hpp"
#include "daemon/driver/signature.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

void refuse_attributes(const KernelLayout& layout, const std::string& what, Status status) {
    throw Error(status, "cannot configure kernel '" + layout.name + "': " + what);
}

Kernel& OwningModule::configure(const Kernel& kernel, const LaunchAttributes& attributes) {
    const Dim3& cluster = attributes.cluster;
    if (cluster.x == 0 || cluster.y == 0 || cluster.z == 0)
        refuse_attributes(kernel.layout(), "a cluster has at least one block in each direction");
    for (const Configured& each : configured_)
        if (each.of == &kernel && each.wanted == attributes) return *each.made;
    KernelLayout layout = kernel.layout();
    layout.attributes = attributes;
    configured_.push_back({&kernel, attributes, configured(kernel, std::move(layout))});
    configured_.back().made->owner_ = this;
    return *configured_.back().made;
}

Mapping map_image(const std::string& name, const UniqueFd& image, std::uint64_t bytes) {
    if (bytes == 0)
        throw Error(Status::bad_image, "cannot load " + module_text(name) + ": the image is empty");
    const std::string what = "the image of " + module_text(name);
    check_seals(image, Sealing::immutable, bytes, what);
    return Mapping(image, bytes, Mapping::Access::read_only, what);
}

ReadModule read_module(const std::string& taker, bool takes_cubins, const std::string& name,
                       const UniqueFd& image, std::uint64_t bytes, std::span<const Signature> signatures,
                       const std::string& note) {
    const std::string loading = "cannot load " + module_text(name) + ": ";
    const Mapping mapping = map_image(name, image, bytes);
    ReadModule read;
    try {
        read.image = read_image({mapping.data(), bytes});
        if (read.image.kind != ImageKind::host_object &&
            !(read.image.kind == ImageKind::cubin && takes_cubins))
            throw Error(Status::bad_image,
                        "it is " + read.image.found + ", but " + taker +
                            (takes_cubins
                                 ? " takes cubins (nvcc -cubin) and x86-64 shared objects (g++ -shared -fPIC)"
                                 : " takes x86-64 shared objects: compile the kernels with "
                                   "'g++ -O3 -shared -fPIC -x c++' and <ringlaunch/kernel.h>, or start the "
                                   "daemon with '--driver cuda'") +
                            (note.empty() ? "" : "; this daemon runs " + taker + ": " + note));
        read.layouts = make_layouts(name, read.image, signatures);
        if (read.layouts.empty())
            throw Error(Status::bad_image,
                        "it is " + read.image.found +
                            " without a kernel; define one as extern \"C\" __global__ void, " +
                            "and name it in RINGLAUNCH_EXPORT(name) of <ringlaunch/kernel.h>");
    } catch (const Error& error) {
        throw Error(error.status(), loading + error.what());
    }
    return read;
}

}  // namespace ringlaunch::driver
