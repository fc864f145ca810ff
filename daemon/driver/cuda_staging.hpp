// Staging memory that the GPU reads and writes directly, at the address where it is mapped.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/driver/address_range.hpp"
#include "daemon/driver/cuda_stream.hpp"
#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

class CudaStaging : public Staging {
  public:
    // Control thread, with the context current.
    CudaStaging(AddressRange& range, std::uint64_t address, const UniqueFd& segment, std::uint64_t bytes);
    ~CudaStaging() override;
    std::size_t size() const override { return segment_.size(); }
    std::byte* at(std::uint64_t offset) const { return segment_.data() + offset; }

    // CUDA copies within one registration only (a copy that crosses two is CUDA_ERROR_INVALID_VALUE): calls
    // `copy(offset, bytes)` for each part of the range that lies in one, as long as that gives CUDA_SUCCESS.
    template <class Copy>
    CUresult each_part(std::uint64_t offset, std::uint64_t bytes, const Copy& copy) const noexcept {
        for (const std::uint64_t end = offset + bytes; offset < end;) {
            const std::uint64_t part = std::min(end, (offset / kPieceBytes + 1) * kPieceBytes) - offset;
            if (const CUresult result = copy(offset, part); result != CUDA_SUCCESS) return result;
            offset += part;
        }
        return CUDA_SUCCESS;
    }

  private:
    // Registering holds the lock of the context, which every launch takes, for some 60 us a MiB. Smaller
    // pieces gain less than they cost a copy that crosses them.
    static constexpr std::uint64_t kPieceBytes = std::uint64_t{16} << 20;

    PlacedSegment segment_;
    std::vector<RegisteredMemory> pieces_;
};

}  // namespace ringlaunch::driver
