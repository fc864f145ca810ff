// The launches that each stream was given last, so that what a fault dump tells of is found again among them;
// and how far the stream is, which its client is told from here.
//
// Behind a fault the device goes on with what its streams hold, and completes it. So it writes completions
// where only this process sees them: the dispatch thread brings them to the status page, and from a fault on
// nothing that came later.
//
// The dispatch thread notes and publishes, and once the device is lost it looks, while all journals are held.
// The control thread makes them and lets go of them; a thread that watches for the dump looks how far the
// streams are. A stream may go between the fault and the look into the dump, or while it still has work on
// the device: its journal is kept then, without the page of its client. Of streams that went in order the
// last few are kept as well: a launch may have completed before its fault is seen.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
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
    // `done`: what the device writes; `completed`: the stream's word on its page. Both stay until the journal
    // is closed; of a stream that was left to itself `done` stays for good.
    LaunchJournal(std::uint64_t stream, std::uint32_t max_in_flight, const SharedU64& done,
                  SharedU64& completed, const std::atomic<bool>& fell)
        : stream_(stream),
          least_(std::bit_ceil(std::max(kLeast, 2 * max_in_flight))),
          launches_(least_),
          done_(&done),
          completed_(&completed),
          fell_at_(done.load(std::memory_order_relaxed)),  // relaxed: the device does not know it yet
          fell_(fell) {}

    std::uint64_t stream() const { return stream_; }
    void note(const NotedLaunch& launch) noexcept { at(count_++) = launch; }
    // Before a graph of so many launches. False: what is in flight would be lost for it; there is room once
    // more has completed.
    [[nodiscard]] bool make_room(std::size_t launches) noexcept {
        // relaxed: this side is the one that writes it.
        const std::uint64_t completed = completed_->load(std::memory_order_relaxed);
        begin_ = oldest();
        while (begin_ != count_ && at(begin_).position < completed) ++begin_;
        // Others come by themselves as well: so much room is theirs.
        const std::size_t wanted = std::bit_ceil(count_ - begin_ + launches + least_);
        if (wanted <= launches_.size()) return true;
        if (begin_ != count_ && wanted > kMost) return false;
        try {
            std::vector<NotedLaunch> larger(wanted);
            for (std::uint64_t i = begin_; i < count_; ++i) larger[i & (wanted - 1)] = at(i);
            launches_.swap(larger);
            return true;
        } catch (const std::bad_alloc&) {
            return begin_ == count_;  // nothing that completes would change it: some of the graph go unnoted
        }
    }
    // Dispatch thread; the control thread, where that does not know the stream.
    void publish() noexcept {
        if (completed_ == nullptr) return;  // the stream has gone
        // sync: COMPLETED (pairs with the device's store)
        std::uint64_t done = done_->load(std::memory_order_acquire);
        // sync: FELL (pairs with look()): the device goes on only after it, so a word from behind the fault
        // comes with the flag.
        if (fell_.load(std::memory_order_acquire)) done = fell_at_;
        // relaxed: this side is the one that writes it.
        if (completed_->load(std::memory_order_relaxed) != done)
            completed_->store(done, std::memory_order_release);  // sync: COMPLETED (pairs with clients)
    }
    // The launches that had not completed when the device fell, the oldest first.
    template <class See>
    void each_running(const See& see) const {
        for (std::uint64_t i = oldest(); i < count_; ++i)
            if (at(i).position >= fell_at_) see(at(i));
    }
    // Those that had, the newest first, as far as they are known; until `see` answers true.
    template <class See>
    void each_completed(const See& see) const {
        for (std::uint64_t i = count_; i-- > oldest();)
            if (at(i).position < fell_at_ && see(at(i))) return;
    }

  private:
    friend class LaunchJournals;
    // Twice what can be in flight: so what is in flight is there, and what ran on behind a fault with it. A
    // graph is one record in flight, and has up to kMaxGraphNodes launches: room for these is made at need.
    static constexpr std::uint32_t kLeast = 1024;
    static constexpr std::size_t kMost = 1u << 16;

    const NotedLaunch& at(std::uint64_t i) const { return launches_[i & (launches_.size() - 1)]; }
    NotedLaunch& at(std::uint64_t i) { return launches_[i & (launches_.size() - 1)]; }
    std::uint64_t oldest() const {
        return std::max(begin_, count_ - std::min<std::uint64_t>(count_, launches_.size()));
    }

    const std::uint64_t stream_;
    const std::size_t least_;
    std::vector<NotedLaunch> launches_;  // a circle
    std::uint64_t begin_ = 0;            // what is before has completed
    std::uint64_t count_ = 0;
    const SharedU64* done_;  // null: the stream has gone, with all of its work done
    SharedU64* completed_;   // null: the stream has gone
    std::uint64_t fell_at_;  // what it had completed when the device fell
    const std::atomic<bool>& fell_;
};

class LaunchJournals {
  public:
    // Closes it when its stream goes, whose work has ended.
    struct Close {
        LaunchJournals* of = nullptr;
        void operator()(LaunchJournal* journal) const { of->close(journal); }
    };
    using Open = std::unique_ptr<LaunchJournal, Close>;

    Open open(std::uint64_t stream, std::uint32_t max_in_flight, const SharedU64& done,
              SharedU64& completed) {
        const std::lock_guard lock(mutex_);
        journals_.push_back(std::make_unique<LaunchJournal>(stream, max_in_flight, done, completed, fell_));
        return Open(journals_.back().get(), Close{this});
    }
    // Of a stream that goes with work on the device: until the end, for the fault that this may bring.
    void leave(Open journal) {
        const std::lock_guard lock(mutex_);
        journal.release()->completed_ = nullptr;
    }
    // The device has fallen, and stands still: how far is each stream?
    void look() {
        const std::lock_guard lock(mutex_);
        if (fell_.load(std::memory_order_relaxed)) return;  // relaxed: only set here
        for (const auto& journal : journals_)
            if (journal->done_ != nullptr)
                // sync: COMPLETED (pairs with the device's store)
                journal->fell_at_ = journal->done_->load(std::memory_order_acquire);
        fell_.store(true, std::memory_order_release);  // sync: FELL (pairs with publish())
    }
    // What had completed when the device fell has.
    void publish() {
        const std::lock_guard lock(mutex_);
        for (const auto& journal : journals_) journal->publish();
    }
    // Shows all of them, those of streams that have gone since the fault included; none goes meanwhile.
    template <class See>
    auto read(const See& see) const {
        const std::lock_guard lock(mutex_);
        std::vector<const LaunchJournal*> journals;
        for (const auto& journal : journals_) journals.push_back(journal.get());
        return see(std::span<const LaunchJournal* const>(journals));
    }

  private:
    void close(LaunchJournal* journal) {
        const std::lock_guard lock(mutex_);
        const auto at = std::ranges::find(journals_, journal, &std::unique_ptr<LaunchJournal>::get);
        journal->completed_ = nullptr;
        // relaxed: only set under the lock. Behind a fault the dump still has to be looked into.
        if (fell_.load(std::memory_order_relaxed)) return;
        journal->done_ = nullptr;
        journal->fell_at_ = ~std::uint64_t{0};
        // The last one closed stands last.
        std::rotate(at, at + 1, journals_.end());
        const auto is_closed = [](const auto& each) { return each->done_ == nullptr; };
        if (std::ranges::count_if(journals_, is_closed) > kMostClosed)
            journals_.erase(std::ranges::find_if(journals_, is_closed));
    }

    static constexpr std::ptrdiff_t kMostClosed = 8;

    std::atomic<bool> fell_{false};
    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<LaunchJournal>> journals_;
};

}  // namespace ringlaunch::driver
