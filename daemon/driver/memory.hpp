// Device memory of the drivers without a device: memfd chunks at fixed addresses within one reserved range,
// and staging segments within another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "daemon/driver/address_range.hpp"
#include "daemon/driver/chunk_table.hpp"
#include "daemon/driver/driver.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

// Where the ranges stand: a place that AddressSanitizer and ThreadSanitizer leave to the program, too. As
// many devices as are asked for are pretended; they differ in their addresses alone. Behind theirs is that of
// staging. The last 64 GiB below 0x7f0000000000 stay free: what a process maps by itself may reach down
// there.
inline constexpr std::uint64_t kHostRangeBase = 0x7e8000000000;
inline constexpr std::uint64_t kHostRangeBytes = std::uint64_t{64} << 30;
inline constexpr std::uint64_t kHostChunkBytes = std::uint64_t{2} << 20;
inline constexpr int kHostDevices = 6;
inline constexpr std::uint64_t kHostStagingBase = kHostRangeBase + kHostDevices * kHostRangeBytes;
inline constexpr std::uint64_t kHostStagingBytes = std::uint64_t{64} << 30;

// Staging as plain memory of this process.
class HostStaging final : public Staging {
  public:
    HostStaging(AddressRange& range, std::uint64_t address, const UniqueFd& segment, std::uint64_t bytes)
        : segment_(range, address, segment, bytes) {}
    std::size_t size() const override { return segment_.size(); }
    const PlacedSegment& segment() const { return segment_; }

  private:
    PlacedSegment segment_;
};

// The ranges are the process's: two of these cannot live in one process at a time. Control thread.
class HostMemory {
  public:
    // Reserves the device's range and that of staging; throws Error{unsupported} where one is taken.
    explicit HostMemory(int device);
    ~HostMemory();
    HostMemory(const HostMemory&) = delete;
    HostMemory& operator=(const HostMemory&) = delete;

    // Says where the ranges stand.
    void describe(DeviceInfo& device) const;
    std::uint64_t range_base() const { return ranges_.base(device_); }
    UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes);
    void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);
    void unmap_chunk(std::uint64_t address, std::uint64_t bytes);
    std::unique_ptr<Staging> map_staging(std::uint64_t address, const UniqueFd& segment,
                                         std::uint64_t bytes) {
        return std::make_unique<HostStaging>(staging_, address, segment, bytes);
    }

  private:
    void map(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);

    int device_;
    AddressRange staging_;
    RangeTables ranges_;
};

// What a copy and a fill do, on memory that is mapped here. Addresses and ranges were validated.
void run_copy(const Copy& copy);
void run_fill(const Fill& fill);

}  // namespace ringlaunch::driver
