#include "daemon/driver/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "schema/error.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

namespace {

void* pointer(std::uint64_t address) {
    return reinterpret_cast<void*>(address);
}

}  // namespace

HostMemory::HostMemory(int device)
    : device_(device),
      staging_(kHostStagingBase, kHostStagingBytes, kHostChunkBytes, "staging segment"),
      ranges_(kHostRangeBase, kHostRangeBytes, kHostChunkBytes, device, kHostDevices, [](std::uint64_t base) {
          if (reserve_addresses(base, kHostRangeBytes, MAP_FIXED_NOREPLACE)) return;
          throw Error(Status::unsupported,
                      "cannot reserve the address range of device memory, " +
                          std::to_string(kHostRangeBytes >> 30) + " GiB at " + hex_address(base) + ": " +
                          std::strerror(errno) +
                          "; something else of this process stands there, or its address space "
                          "is limited (ulimit -v)");
      }) {}

void HostMemory::describe(DeviceInfo& device) const {
    device.range_base = range_base();
    device.range_bytes = kHostRangeBytes;
    device.chunk_bytes = kHostChunkBytes;
    device.staging_base = kHostStagingBase;
    device.staging_bytes = kHostStagingBytes;
}

HostMemory::~HostMemory() {
    for (const auto& [device, chunks] : ranges_.reserved())
        ::munmap(pointer(ranges_.base(device)), kHostRangeBytes);
}

void HostMemory::map(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) {
    // MAP_FIXED replaces the reservation, which only this class maps over.
    if (::mmap(pointer(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, chunk.get(), 0) ==
        MAP_FAILED)
        throw Error(Status::out_of_memory,
                    "cannot map " + describe_chunk(address, bytes) + ": " + std::strerror(errno));
    ranges_.at(address).add(address, bytes);
}

UniqueFd HostMemory::make_chunk(std::uint64_t address, std::uint64_t bytes) {
    ranges_.at(range_base()).check_free(address, bytes);
    UniqueFd chunk;
    try {
        chunk = make_memfd("chunk", bytes);
    } catch (const std::system_error& error) {
        throw Error(Status::out_of_memory, error.what());
    }
    seal(chunk, Sealing::shared, "chunk");
    map(address, bytes, chunk);
    return chunk;
}

void HostMemory::map_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) {
    ranges_.at(address).check_free(address, bytes);
    // A chunk that could shrink would turn an access into SIGBUS.
    check_seals(chunk, Sealing::shared, bytes, describe_chunk(address, bytes));
    map(address, bytes, chunk);
}

void HostMemory::unmap_chunk(std::uint64_t address, std::uint64_t bytes) {
    ChunkTable& chunks = ranges_.at(address);
    chunks.check_mapped(address, bytes);
    if (!reserve_addresses(address, bytes, MAP_FIXED))
        throw Error(Status::internal_error,
                    "cannot unmap " + describe_chunk(address, bytes) + ": " + std::strerror(errno));
    chunks.remove(address);
}

void run_copy(const Copy& copy) {
    if (copy.bytes == 0) return;
    switch (copy.kind) {
        case schema::RecordKind::CopyToDevice:
            std::memcpy(pointer(copy.device),
                        static_cast<HostStaging*>(copy.staging)->segment().data() + copy.offset, copy.bytes);
            return;
        case schema::RecordKind::CopyToHost:
            std::memcpy(static_cast<HostStaging*>(copy.staging)->segment().data() + copy.offset,
                        pointer(copy.device), copy.bytes);
            return;
        case schema::RecordKind::CopyOnDevice:
            std::memmove(pointer(copy.device), pointer(copy.source), copy.bytes);
            return;
        default:
            return;  // the dispatcher refuses other kinds
    }
}

void run_fill(const Fill& fill) {
    auto* const at = static_cast<std::byte*>(pointer(fill.device));
    if (fill.bytes == 0) return;
    if (fill.width == 1) {
        std::memset(at, static_cast<int>(fill.value & 0xff), fill.bytes);
        return;
    }
    // One value, then doubling what is there: memory bandwidth for every width.
    std::uint64_t done = std::min<std::uint64_t>(fill.width, fill.bytes);
    std::memcpy(at, &fill.value, done);
    while (done < fill.bytes) {
        const std::uint64_t next = std::min(done, fill.bytes - done);
        std::memcpy(at + done, at, next);
        done += next;
    }
}

}  // namespace ringlaunch::driver
