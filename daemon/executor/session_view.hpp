// What the dispatcher knows of a session: its kernels and staging segments by id, and its mark in the memory
// map.
//
// The dispatch thread reads. The control thread prepares a changed table and swaps it in between two turns
// (DispatchThread::call), so that a change costs the dispatcher three words and no allocation.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/memory_map.hpp"
#include "schema/error.hpp"
#include "schema/pages.hpp"

namespace ringlaunch::executor {

// Index in the low 32 bits, generation in the high 32.
constexpr std::uint32_t id_index(std::uint64_t id) {
    return static_cast<std::uint32_t>(id);
}
constexpr std::uint32_t id_generation(std::uint64_t id) {
    return static_cast<std::uint32_t>(id >> 32);
}

// Pointers by id: flat, and an old generation is not found.
template <class T>
class IdTable {
  public:
    T* find(std::uint64_t id) const noexcept {
        const std::size_t index = id_index(id);
        return index < entries_.size() && entries_[index].first == id ? entries_[index].second : nullptr;
    }
    void set(std::uint64_t id, T* what) {
        const std::size_t index = id_index(id);
        if (id_generation(id) == 0 || index > kMaxIndex)
            throw Error(Status::invalid_argument, "id " + std::to_string(id) + " is none (index " +
                                                      std::to_string(index) + ", generation " +
                                                      std::to_string(id_generation(id)) + ")");
        if (index >= entries_.size()) entries_.resize(index + 1);
        entries_[index] = {id, what};
    }
    void erase(std::uint64_t id) noexcept {
        if (find(id) != nullptr) entries_[id_index(id)] = {0, nullptr};
    }
    void swap(IdTable& other) noexcept { entries_.swap(other.entries_); }

  private:
    static constexpr std::size_t kMaxIndex = std::size_t{1} << 22;
    std::vector<std::pair<std::uint64_t, T*>> entries_;
};

// A kernel with what a launch of it is checked against, worked out once when its module is loaded.
struct KernelEntry {
    explicit KernelEntry(driver::Kernel& kernel);

    driver::Kernel* kernel;
    bool declared;
    std::uint32_t param_bytes;
    std::uint32_t slots, compact_slots;  // of a launch record in either form
    std::uint32_t max_threads;
    std::uint32_t max_dynamic_shared_bytes;
    driver::Dim3 default_block;
    driver::Dim3 cluster;
    bool clustered;
    std::vector<std::uint32_t> pointer_offsets;
};

// Memory of another session, which copies on the device may name.
struct Loan {
    std::uint64_t address = 0, bytes = 0;
};

// A stream of another session, which may stand in another executor: seen through its status page.
struct WatchedStream {
    const StatusPage* page = nullptr;  // null: it was closed
    std::uint64_t completed = 0;       // then
    bool away = false;                 // null, but not closed: its next page is on its way
};

class Graph;

struct SessionView {
    std::uint64_t id = 0;
    OwnerTag tag = 0;
    IdTable<const KernelEntry> kernels;
    IdTable<driver::Staging> staging;
    std::vector<Loan> loans;  // by address
    IdTable<const WatchedStream> watched;
    // How often something went that records may have named. The control thread counts, once it is gone.
    std::atomic<std::uint64_t> changes{1};
};

}  // namespace ringlaunch::executor
