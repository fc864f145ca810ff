// Device memory of the drivers without a device: memfd chunks at fixed addresses within one reserved range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "daemon/driver/chunk_table.hpp"
#include "daemon/driver/driver.hpp"
#include "schema/segment.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

// Where the ranges stand: a place that AddressSanitizer and ThreadSanitizer leave to the program, too. As
// many devices as are asked for are pretended; they differ in their addresses alone.
inline constexpr std::uint64_t kHostRangeBase = 0x7e8000000000;
inline constexpr std::uint64_t kHostRangeBytes = std::uint64_t{64} << 30;
inline constexpr std::uint64_t kHostChunkBytes = std::uint64_t{2} << 20;
inline constexpr int kHostDevices = 8;

// The ranges are the process's: two of these cannot live in one process at a time. Control thread.
class HostMemory {
  public:
    // Reserves the device's range; throws Error{unsupported} where it is taken.
    explicit HostMemory(int device);
    ~HostMemory();
    HostMemory(const HostMemory&) = delete;
    HostMemory& operator=(const HostMemory&) = delete;

    std::uint64_t range_base() const { return ranges_.base(device_); }
    UniqueFd make_chunk(std::uint64_t address, std::uint64_t bytes);
    void map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);
    void unmap_chunk(std::uint64_t address, std::uint64_t bytes);

  private:
    void map(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk);

    int device_;
    RangeTables ranges_;
};

// Staging as plain memory of this process.
class HostStaging final : public Staging {
  public:
    HostStaging(const UniqueFd& segment, std::uint64_t bytes);
    std::size_t size() const override { return mapping_.size(); }
    std::byte* data() const { return mapping_.data(); }

  private:
    Mapping mapping_;
};

// What a copy and a fill do, on memory that is mapped here. Addresses and ranges were validated.
void run_copy(const Copy& copy);
void run_fill(const Fill& fill);

}  // namespace ringlaunch::driver
