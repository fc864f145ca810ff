// Has CUDA write a core dump of the GPU when a kernel faults, and reads from it who it was.
//
// CUDA halts what faulted, writes the dump, lets the device go on, and reports the fault 20 to 350 ms later.
// Behind the fault the device then goes on with what its stream holds, and completes it (measured). So how
// far each stream was is looked at while the dump is being written: until its last byte nothing that faulted
// has completed. A dump that was written before anybody could look leaves more launches that may have been
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "daemon/driver/fault.hpp"
#include "daemon/driver/launch_journal.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::driver {

class FaultDumps {
  public:
    // Before CUDA starts: it reads its settings then. The dump goes into memory of this process, which ends
    // with it. Throws std::system_error.
    FaultDumps();
    ~FaultDumps();
    FaultDumps(const FaultDumps&) = delete;
    FaultDumps& operator=(const FaultDumps&) = delete;

    LaunchJournals& journals() { return journals_; }
    // An eventfd of the dispatch thread: woken often once a dump is there, it asks for the fault, although
    // nothing seems to be in flight any more.
    void wake_with(int eventfd) { wake_fd_.store(eventfd, std::memory_order_relaxed); }  // relaxed: a number
    // The device is lost: leaves word of the culprits on the page. Returns what is known in words; `lost` is
    // what CUDA said.
    std::string accuse(const std::string& lost, FaultPage* page) noexcept;

  private:
    void watch();
    std::uint64_t size() const noexcept;
    std::string read_and_accuse(const std::string& lost, FaultPage& page);

    UniqueFd file_, changes_, stop_;
    LaunchJournals journals_;
    std::atomic<int> wake_fd_{-1};
    std::thread watcher_;
};

}  // namespace ringlaunch::driver
