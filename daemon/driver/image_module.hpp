// What the drivers share in taking an image: mapping it, reading it and refusing what is not theirs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/driver/elf.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

// A module that owns its kernels.
class OwningModule : public Module {
  public:
    std::span<Kernel* const> kernels() const override { return kernels_; }
    Kernel& configure(const Kernel& kernel, const LaunchAttributes& attributes) override;

  protected:
    // `layout` is the kernel's with the new attributes. May throw, see configure().
    virtual std::unique_ptr<Kernel> configured(const Kernel& kernel, KernelLayout layout) = 0;
    void add(std::unique_ptr<Kernel> kernel) {
        kernel->owner_ = this;
        kernels_.push_back(kernel.get());
        owned_.push_back(std::move(kernel));
    }
    // They stay until the process ends: something may still refer to them.
    void leave_kernels() {
        for (std::unique_ptr<Kernel>& kernel : owned_) (void)kernel.release();
        for (Configured& each : configured_) (void)each.made.release();
    }

  private:
    std::vector<std::unique_ptr<Kernel>> owned_;
    std::vector<Kernel*> kernels_;
    struct Configured {
        const Kernel* of;
        LaunchAttributes wanted;
        std::unique_ptr<Kernel> made;
    };
    std::vector<Configured> configured_;
};

// Throws Error: "cannot configure kernel 'f': what".
[[noreturn]] void refuse_attributes(const KernelLayout& layout, const std::string& what,
                                    Status status = Status::invalid_argument);

// Throws Error{bad_image} for an empty image and Error{bad_seals} for one that its sender could still change.
Mapping map_image(const std::string& name, const UniqueFd& image, std::uint64_t bytes);

struct ReadModule {
    Image image;
    std::vector<KernelLayout> layouts;  // in the image's order
};

// Checks the seals of an image, reads it, and confirms the signatures against it. Throws Error{bad_image}
// unless it is a cubin (where `takes_cubins`) or a host object with at least one kernel. `taker` names the
// driver in the text.
ReadModule read_module(const std::string& taker, bool takes_cubins, const std::string& name,
                       const UniqueFd& image, std::uint64_t bytes, std::span<const Signature> signatures,
                       const std::string& note = {});

}  // namespace ringlaunch::driver
