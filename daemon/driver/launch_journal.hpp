// The launches that each stream was given last, so that what a fault dump tells of is found again among them.
//
// The dispatch thread notes, and once the device is lost it looks. The control thread makes journals and lets
// go of them; a thread that watches for the dump looks how far the streams are.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "daemon/driver/driver.hpp"

namespace ringlaunch::driver {

// What tells byte strings apart here; nobody chooses them to collide but whoever wants to be taken for
// himself.
inline std::uint64_t digest(std::span<const std::byte> bytes) noexcept {
    std::uint64_t hash = 0x9e3779b97f4a7c15 ^ bytes.size();
    std::size_t at = 0;
    const auto mix = [&](std::uint64_t word) {
        hash = (hash ^ word) * 0xff51afd7ed558ccd;
        hash ^= hash >> 32;
    };
    for (; at + 8 <= bytes.size(); at += 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes.data() + at, 8);
        mix(word);
    }
    std::uint64_t rest = 0;
    if (at < bytes.size()) std::memcpy(&rest, bytes.data() + at, bytes.size() - at);
    mix(rest);
    return hash;
}
inline std::uint64_t digest(std::string_view text) noexcept {
    return digest(std::as_bytes(std::span(text.data(), text.size())));
}

struct NotedLaunch {
    std::uint64_t position = 0;
    std::uint64_t kernel = 0;    // id in the session
    std::uint64_t function = 0;  // CUDA's handles
    std::uint64_t module = 0;
    std::uint64_t name = 0;    // digest of the kernel's name
    std::uint64_t params = 0;  // digest
    std::uint32_t param_bytes = 0;
    Dim3 grid, block;
};

class LaunchJournal {
  public:
    // `completed`: the stream's word, which stays until the journal is closed.
    LaunchJournal(std::uint64_t stream, std::uint32_t max_in_flight, const SharedU64* completed)
        : stream_(stream),
          launches_(std::bit_ceil(std::max(kLeast, 2 * max_in_flight))),
          completed_(completed) {}

    std::uint64_t stream() const { return stream_; }
    void note(const NotedLaunch& launch) noexcept { launches_[count_++ & (launches_.size() - 1)] = launch; }
    // The launches that may not have completed when the device fell, the oldest first. Not `sure`: this one
    // may have, since how far the stream was is not known so well.
    template <class See>
    void each_running(const See& see) const {
        const std::uint64_t first = count_ - std::min<std::uint64_t>(count_, launches_.size());
        for (std::uint64_t i = first; i < count_; ++i) {
            const NotedLaunch& launch = launches_[i & (launches_.size() - 1)];
            if (launch.position >= at_least_) see(launch, launch.position >= at_most_);
        }
    }

  private:
    friend class LaunchJournals;
    // Twice what can be in flight: so what is in flight is there, and what ran on behind a fault with it.
    static constexpr std::uint32_t kLeast = 1024;

    const std::uint64_t stream_;
    std::vector<NotedLaunch> launches_;
    std::uint64_t count_ = 0;
    const SharedU64* completed_;
    // What it had completed when the device fell; the same but where nobody looked in time.
    std::uint64_t at_least_ = 0, at_most_ = 0;
    std::uint64_t looked_ = 0;
};

class LaunchJournals {
  public:
    // Closes it when its stream goes.
    struct Close {
        LaunchJournals* of = nullptr;
        void operator()(LaunchJournal* journal) const { of->close(journal); }
    };
    using Open = std::unique_ptr<LaunchJournal, Close>;

    Open open(std::uint64_t stream, std::uint32_t max_in_flight, const SharedU64* completed) {
        const std::lock_guard lock(mutex_);
        journals_.push_back(std::make_unique<LaunchJournal>(stream, max_in_flight, completed));
        return Open(journals_.back().get(), Close{this});
    }
    // How far is each stream? `dumped()`: how long the dump is. From its first to its last byte the device
    // stands still: the first look that finds one is what counts, and until then the last one that finds
    // none. Returns whether one has found a dump.
    template <class Dumped>
    bool look(const Dumped& dumped) {
        const std::lock_guard lock(mutex_);
        if (dumped_ != 0) return true;
        for (const auto& journal : journals_)
            // sync: COMPLETED (pairs with the device's store)
            journal->looked_ = journal->completed_->load(std::memory_order_acquire);
        dumped_ = dumped();  // after the words: they are not younger than a dump of this length
        for (const auto& journal : journals_)
            (dumped_ == 0 ? journal->at_least_ : journal->at_most_) = journal->looked_;
        return dumped_ != 0;
    }
    // The dump has been written, `bytes` of it. True: the look at it was in time.
    bool settle(std::uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        if (dumped_ == 0 || dumped_ >= bytes) return false;
        for (const auto& journal : journals_) journal->at_least_ = journal->at_most_;
        return true;
    }
    std::vector<const LaunchJournal*> all() const {
        const std::lock_guard lock(mutex_);
        std::vector<const LaunchJournal*> journals;
        for (const auto& journal : journals_) journals.push_back(journal.get());
        return journals;
    }

  private:
    void close(const LaunchJournal* journal) {
        const std::lock_guard lock(mutex_);
        std::erase_if(journals_, [&](const auto& each) { return each.get() == journal; });
    }

    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<LaunchJournal>> journals_;
    std::uint64_t dumped_ = 0;  // how long the dump was right after the look that counts; 0: there was none
};

}  // namespace ringlaunch::driver
