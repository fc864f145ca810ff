#include "daemon/driver/cuda_staging.hpp"

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

// Between two pieces, so that a launch that waits for the lock gets it: whoever frees and takes it at once is
// faster than the thread that has to be woken.
void let_launches_by() {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

// "1000 of 2000"
std::string free_memory() {
    struct sysinfo info {};
    ::sysinfo(&info);
    const auto bytes = [&](unsigned long units) {
        return std::to_string(static_cast<std::uint64_t>(units) * info.mem_unit);
    };
    return bytes(info.freeram) + " of " + bytes(info.totalram);
}

}  // namespace

CudaStaging::CudaStaging(AddressRange& range, std::uint64_t address, const UniqueFd& segment,
                         std::uint64_t bytes)
    : segment_(range, address, segment, bytes) {
    // Its pages are made before CUDA registers them: made in there, they hold up every launch for ten times
    // as long.
    ::madvise(segment_.data(), bytes, MADV_HUGEPAGE);  // where the OS has them for shared memory
    // EINVAL: an older OS; then registering makes them.
    if (::madvise(segment_.data(), bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL)
        throw Error(Status::out_of_memory, "cannot make " + std::to_string(bytes) +
                                               " bytes of staging memory: " + std::strerror(errno) +
                                               "; of the machine's memory " + free_memory() +
                                               " bytes are free");
    const std::string what = "a staging segment of " + std::to_string(bytes) + " bytes";
    pieces_.reserve((bytes + kPieceBytes - 1) / kPieceBytes);
    for (std::uint64_t offset = 0; offset < bytes; offset += kPieceBytes) {
        if (offset != 0) let_launches_by();
        const RegisteredMemory& piece =
            pieces_.emplace_back(at(offset), std::min(kPieceBytes, bytes - offset), what);
        if (piece.device_address() != address + offset)
            throw Error(Status::unsupported,
                        "CUDA gives the host memory at " + hex_address(address + offset) +
                            " another address on the device, " + hex_address(piece.device_address()) +
                            ": this device cannot use staging memory; serve with --driver host");
    }
}

CudaStaging::~CudaStaging() {
    while (!pieces_.empty()) {
        pieces_.pop_back();
        if (!pieces_.empty()) let_launches_by();
    }
}

}  // namespace ringlaunch::driver
