#include "daemon/driver/address_range.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "schema/error.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

namespace {

void* as_pointer(std::uint64_t address) {
    return reinterpret_cast<void*>(address);
}

}  // namespace

bool reserve_addresses(std::uint64_t address, std::uint64_t bytes, int how) {
    return ::mmap(as_pointer(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how,
                  -1, 0) == as_pointer(address);
}

AddressRange::AddressRange(std::uint64_t base, std::uint64_t bytes, std::uint64_t unit,
                           const std::string& piece)
    : base_(base), bytes_(bytes), unit_(unit), piece_(piece), placed_(base, bytes, unit, piece) {
    if (!reserve_addresses(base, bytes, MAP_FIXED_NOREPLACE))
        throw Error(Status::unsupported, "cannot reserve the address range of " + piece + "s, " +
                                             std::to_string(bytes >> 30) + " GiB at " + hex_address(base) +
                                             ": " + std::strerror(errno) +
                                             "; something else of this process stands there, or its address "
                                             "space is limited (ulimit -v)");
}

AddressRange::~AddressRange() {
    ::munmap(as_pointer(base_), bytes_);
}

void AddressRange::map(std::uint64_t address, std::uint64_t bytes, const UniqueFd& fd, std::uint64_t mapped) {
    // MAP_FIXED replaces the reservation, which only this class maps over.
    if (::mmap(as_pointer(address), mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd.get(), 0) ==
        MAP_FAILED)
        throw Error(Status::out_of_memory,
                    "cannot map " + describe_chunk(address, bytes, piece_) + ": " + std::strerror(errno));
    placed_.add(address, bytes);
}

void AddressRange::unmap(std::uint64_t address, std::uint64_t bytes) {
    placed_.check_mapped(address, bytes);
    if (!reserve_addresses(address, bytes, MAP_FIXED))
        throw Error(Status::internal_error,
                    "cannot unmap " + describe_chunk(address, bytes, piece_) + ": " + std::strerror(errno));
    placed_.remove(address);
}

PlacedSegment::PlacedSegment(AddressRange& range, std::uint64_t address, const UniqueFd& segment,
                             std::uint64_t bytes)
    : range_(range),
      address_(address),
      bytes_(bytes),
      taken_((bytes + range.unit() - 1) / range.unit() * range.unit()) {
    range.check_free(address, taken_);
    // One that could shrink would turn an access into SIGBUS.
    check_seals(segment, Sealing::shared, bytes, "a segment of " + std::to_string(bytes) + " bytes");
    range.map(address, taken_, segment, bytes);
}

PlacedSegment::~PlacedSegment() {
    try {
        range_.unmap(address_, taken_);
    } catch (const Error&) {
        // Its place stays taken: whatever should come there is refused.
    }
}

}  // namespace ringlaunch::driver
