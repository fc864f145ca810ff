// Staging memory that the GPU reads and writes directly.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "daemon/driver/cuda_stream.hpp"
#include "daemon/driver/driver.hpp"
#include "schema/error.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

class CudaStaging : public Staging {
  public:
    CudaStaging(const UniqueFd& segment, std::uint64_t bytes)
        : mapping_(populated(segment, bytes)), registered_(mapping_.data(), bytes, "a staging segment") {}
    std::size_t size() const override { return mapping_.size(); }
    std::byte* data() const { return mapping_.data(); }

  private:
    // Its pages are made before CUDA registers them: made in there, under the driver's lock, they hold up
    // every launch (0.4 s a GiB).
    static Mapping populated(const UniqueFd& segment, std::uint64_t bytes) {
        Mapping mapping(segment, bytes, Mapping::Access::read_write, "a staging segment");
        ::madvise(mapping.data(), bytes, MADV_HUGEPAGE);  // where the OS has them for shared memory
        // EINVAL: an older OS; then registering makes them.
        if (::madvise(mapping.data(), bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL)
            throw Error(Status::out_of_memory, "cannot make " + std::to_string(bytes) +
                                                   " bytes of staging memory: " + std::strerror(errno));
        return mapping;
    }

    Mapping mapping_;
    RegisteredMemory registered_;
};

}  // namespace ringlaunch::driver
