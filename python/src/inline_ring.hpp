// The ring through which the launches of a region go to the thread that issues them. Both sides are of this
// process: no law of the daemon's rings about peers that die, or lie, is needed here.
//
// The producer is the thread that is in the region, the consumer whoever holds the worker's lock
// (inline_worker.hpp). An entry stands in whole lines, most in one: its head, and its parameters as the
// kernel takes them. What a launch holds until it is issued stands beside, where the producer alone comes;
// lines are used again once it has let go of that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <ringlaunch/dim3.hpp>
#include <span>

namespace ringlaunch::python {

class InlineKernel;

class LaunchRing {
  public:
    static constexpr std::size_t kLineBytes = 64;

    struct Entry {
        InlineKernel* kernel;  // null: fills the ring up to its end
        Dim3 grid;
        std::uint16_t lines;
        std::uint16_t param_words;

        std::byte* params() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
        std::size_t param_bytes() const noexcept { return param_words * sizeof(std::uint64_t); }
    };
    static_assert(sizeof(Entry) == 24);

    // `lines`: a power of two, enough for the longest entry twice.
    explicit LaunchRing(std::size_t lines)
        : lines_(lines),
          line_mask_(lines - 1),
          held_mask_(4 * lines - 1),
          memory_(static_cast<std::byte*>(::operator new (lines* kLineBytes, std::align_val_t{kLineBytes}))),
          marks_(std::make_unique<Mark[]>(lines)),
          held_(std::make_unique<void*[]>(4 * lines)) {}

    static constexpr std::size_t lines_of(std::size_t param_bytes) noexcept {
        return (sizeof(Entry) + param_bytes + kLineBytes - 1) / kLineBytes;
    }

    // ---- the producer

    // Room for an entry that holds so many objects, which is the consumer's once it is published.
    // `param_bytes`: whole words. Null: there is no room now.
    Entry* reserve(InlineKernel& kernel, const Dim3& grid, std::size_t param_bytes,
                   std::size_t holds) noexcept {
        const std::size_t needed = lines_of(param_bytes);
        const std::size_t to_end = lines_ - (tail_ & line_mask_);
        const std::size_t taken = needed <= to_end ? needed : to_end + needed;
        if (tail_ + taken - reclaimed_ > lines_ || held_end_ + holds - held_begin_ > held_mask_ + 1)
            [[unlikely]]
            return nullptr;
        if (needed > to_end) [[unlikely]] {
            *new (at(tail_)) Entry = {nullptr, {}, static_cast<std::uint16_t>(to_end), 0};
            tail_ += to_end;
        }
        return new (at(tail_)) Entry{&kernel, grid, static_cast<std::uint16_t>(needed),
                                     static_cast<std::uint16_t>(param_bytes / sizeof(std::uint64_t))};
    }
    // For the entry that was reserved last.
    void hold(void* object) noexcept { held_[held_end_++ & held_mask_] = object; }
    void publish(const Entry& entry) noexcept {
        tail_ += entry.lines;
        marks_[marks_end_++ & line_mask_] = {tail_, held_end_};
        // sync: PUBLISHED (pairs with take()): the entry is whole.
        published_.store(tail_, std::memory_order_release);
        // What the consumer read a lap ago is its processor's still: fetched now, no store waits for it.
        for (std::size_t ahead = kFetchedAhead; ahead < kFetchedAhead + entry.lines; ++ahead)
            fetch_to_write(at(tail_ + ahead));
    }
    bool all_issued() const noexcept { return issued() == tail_; }
    std::uint64_t unreclaimed() const noexcept { return tail_ - reclaimed_; }  // lines

    // Calls `let_go` for what issued entries hold. `let_go` may come back here, by any way.
    template <class LetGo>
    void reclaim(const LetGo& let_go) {
        const std::uint64_t issued = this->issued();
        while (marks_begin_ != marks_end_ && marks_[marks_begin_ & line_mask_].end <= issued) {
            if (held_begin_ != marks_[marks_begin_ & line_mask_].held) {
                let_go(held_[held_begin_++ & held_mask_]);
                continue;
            }
            reclaimed_ = marks_[marks_begin_++ & line_mask_].end;
        }
    }

    // Where the producer stands, asked by anybody.
    // sync: PUBLISHED
    std::uint64_t published() const noexcept { return published_.load(std::memory_order_acquire); }
    // sync: ISSUED (pairs with issued_up_to()): what the entries hold may go, and their lines be used again.
    std::uint64_t issued() const noexcept { return issued_.load(std::memory_order_acquire); }

    // ---- the consumer

    // The next entries, no more than `out` has room for. They stay where they are until issued_up_to() passes
    // them. `end`: where they end.
    std::size_t take(std::span<Entry*> out, std::uint64_t& end) noexcept {
        std::uint64_t next = issued_.load(std::memory_order_relaxed);  // relaxed: this side's own
        const std::uint64_t published = this->published();
        std::size_t count = 0;
        while (next != published && count < out.size()) {
            Entry* const entry = at(next);
            next += entry->lines;
            if (entry->kernel != nullptr) out[count++] = entry;
        }
        end = next;
        return count;
    }
    void issued_up_to(std::uint64_t end) noexcept {
        // sync: ISSUED
        issued_.store(end, std::memory_order_release);
    }

  private:
    static constexpr std::size_t kFetchedAhead = 8;  // lines

    struct Free {
        void operator()(std::byte* memory) const noexcept {
            ::operator delete (memory, std::align_val_t{kLineBytes});
        }
    };
    // Of an entry: where it ends, and what it holds.
    struct Mark {
        std::uint64_t end, held;
    };
    Entry* at(std::uint64_t position) const noexcept {
        return reinterpret_cast<Entry*>(memory_.get() + (position & line_mask_) * kLineBytes);
    }
    static void fetch_to_write(const void* line) noexcept {
#if defined(__x86_64__)
        asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
        __builtin_prefetch(line, 1);
#endif
    }

    // Powers of two: a division costs more than all else that a launch does here.
    const std::size_t lines_, line_mask_, held_mask_;
    const std::unique_ptr<std::byte[], Free> memory_;
    const std::unique_ptr<Mark[]> marks_;
    const std::unique_ptr<void*[]> held_;
    // The producer's.
    alignas(2 * kLineBytes) std::uint64_t tail_ = 0;  // ahead of published_ by filling
    std::uint64_t reclaimed_ = 0;
    std::uint64_t marks_begin_ = 0, marks_end_ = 0;
    std::uint64_t held_begin_ = 0, held_end_ = 0;
    alignas(2 * kLineBytes) std::atomic<std::uint64_t> published_{0};
    alignas(2 * kLineBytes) std::atomic<std::uint64_t> issued_{0};
};

}  // namespace ringlaunch::python
