// Staging memory that the GPU reads and writes directly.
#pragma once

#include "daemon/driver/cuda_stream.hpp"
#include "daemon/driver/driver.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

class CudaStaging : public Staging {
  public:
    CudaStaging(const UniqueFd& segment, std::uint64_t bytes)
        : mapping_(segment, bytes, Mapping::Access::read_write, "a staging segment"),
          registered_(mapping_.data(), bytes, "a staging segment") {}
    std::size_t size() const override { return mapping_.size(); }
    std::byte* data() const { return mapping_.data(); }

  private:
    Mapping mapping_;
    RegisteredMemory registered_;
};

}  // namespace ringlaunch::driver
