// Has CUDA write a core dump of the GPU when a kernel faults, and reads from it who it was.
//
// CUDA halts the device, writes the dump, lets the device go on, and reports the fault 20 to 350 ms later
// (for which nobody waits). Behind the fault the device then goes on with what its stream holds, and
// completes it (measured). So the dump goes into a pipe that takes a page of it: until the rest is read the
// device stands still, and that is when one looks how far each stream was.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "daemon/driver/fault.hpp"
#include "daemon/driver/launch_journal.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

class FaultDumps {
  public:
    // With every thread of a large device in it a dump has some hundred MiB, and each module's code besides.
    static constexpr std::size_t kMostBytes = std::size_t{256} << 20;

    // Before CUDA starts: it reads its settings then. A dump of more than `most_bytes` is not looked into.
    // Throws std::system_error.
    explicit FaultDumps(std::size_t most_bytes = kMostBytes);
    ~FaultDumps();
    FaultDumps(const FaultDumps&) = delete;
    FaultDumps& operator=(const FaultDumps&) = delete;

    LaunchJournals& journals() { return journals_; }
    // An eventfd of the dispatch thread: woken once a dump is there, it asks for the fault.
    void wake_with(int eventfd) { wake_fd_.store(eventfd, std::memory_order_relaxed); }  // relaxed: a number
    // Has a kernel faulted, and is the dump there? CUDA says so a while later.
    bool whole() const;
    // The device is lost: leaves word of the culprits on the page. Returns what is known in words; `lost` is
    // what CUDA said.
    std::string accuse(const std::string& lost, FaultPage* page) noexcept;

  private:
    void watch();
    bool read_some();
    std::span<const std::byte> wait_for_dump();
    std::string read_and_accuse(const std::string& lost, FaultPage& page);

    UniqueFd pipe_, stop_;
    UniqueFd own_end_;  // to write: with nobody there at all a pipe is at its end
    LaunchJournals journals_;
    std::atomic<int> wake_fd_{-1};
    // The watcher's until `whole_`: room for the most there may be, which takes memory only as it is filled.
    std::unique_ptr<std::byte[]> dump_;
    std::size_t dump_bytes_ = 0;  // of the dump, kept or not
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool whole_ = false;
    std::size_t most_bytes_;
    std::thread watcher_;
};

}  // namespace ringlaunch::driver
