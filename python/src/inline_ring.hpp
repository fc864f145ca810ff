// The ring through which the launches of a region go to the thread that issues them. Both sides are of this
// process: no law of the daemon's rings about peers that die, or lie, is needed here.
//
// The producer is the thread that is in the region, the consumer whoever holds the worker's lock
// (inline_worker.hpp). An entry stands in whole lines: its head, its parameters as the kernel takes them, and
// what is held until the launch is issued. Lines are used again once the producer has taken back what their
// entries hold.
#pragma once

#include <algorithm>
#include <array>
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

    struct alignas(16) Entry {
        InlineKernel* kernel;  // null: fills the ring up to its end
        Dim3 grid;
        std::uint32_t lines;
        std::uint32_t param_bytes;  // as they stand here: whole words
        std::uint32_t held;

        std::byte* params() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
        void** held_at() noexcept { return reinterpret_cast<void**>(params() + param_bytes); }
    };
    static_assert(sizeof(Entry) == 32);

    // `lines`: a power of two, enough for the longest entry twice.
    explicit LaunchRing(std::size_t lines)
        : lines_(lines),
          memory_(static_cast<std::byte*>(::operator new (lines* kLineBytes, std::align_val_t{kLineBytes}))) {
    }

    static constexpr std::size_t lines_of(std::size_t param_bytes, std::size_t held) noexcept {
        return (sizeof(Entry) + param_bytes + held * sizeof(void*) + kLineBytes - 1) / kLineBytes;
    }

    // ---- the producer

    // Room for an entry, which is the consumer's once it is published. Null: there is none now.
    Entry* reserve(InlineKernel& kernel, const Dim3& grid, std::size_t param_bytes,
                   std::size_t held) noexcept {
        const std::size_t needed = lines_of(param_bytes, held);
        const std::size_t to_end = lines_ - tail_ % lines_;
        const std::size_t taken = needed <= to_end ? needed : to_end + needed;
        if (tail_ + taken - reclaimed_ > lines_) [[unlikely]]
            return nullptr;
        if (needed > to_end) [[unlikely]] {
            *new (at(tail_)) Entry = {nullptr, {}, static_cast<std::uint32_t>(to_end), 0, 0};
            tail_ += to_end;
        }
        auto* const entry = new (at(tail_)) Entry;
        *entry = {&kernel, grid, static_cast<std::uint32_t>(needed), static_cast<std::uint32_t>(param_bytes),
                  static_cast<std::uint32_t>(held)};
        return entry;
    }
    void publish(const Entry& entry) noexcept {
        tail_ += entry.lines;
        // sync: PUBLISHED (pairs with take()): the entry is whole.
        published_.store(tail_, std::memory_order_release);
    }
    bool all_issued() const noexcept { return issued() == tail_; }
    std::uint64_t unreclaimed() const noexcept { return tail_ - reclaimed_; }  // lines

    // Calls `let_go` for what issued entries hold, a few at a time. `let_go` may come back here, by any way.
    template <class LetGo>
    void reclaim(const LetGo& let_go) {
        std::array<void*, 64> held;
        while (true) {
            std::size_t count = 0;
            const std::uint64_t end = issued();
            while (reclaimed_ != end) {
                Entry& entry = *at(reclaimed_);
                if (entry.held > held.size() - count) {
                    if (count != 0) break;
                    // More than there is room for: the last ones first.
                    count = std::min<std::size_t>(entry.held, held.size());
                    entry.held -= static_cast<std::uint32_t>(count);
                    std::copy_n(entry.held_at() + entry.held, count, held.begin());
                    break;
                }
                std::copy_n(entry.held_at(), entry.held, held.begin() + count);
                count += entry.held;
                reclaimed_ += entry.lines;
            }
            if (count == 0) return;
            for (std::size_t i = 0; i < count; ++i) let_go(held[i]);
        }
    }

    // Where the producer stands, asked by anybody.
    // sync: PUBLISHED
    std::uint64_t published() const noexcept { return published_.load(std::memory_order_acquire); }
    // sync: ISSUED (pairs with issued_up_to()): what the entries held may go, and their lines.
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
    struct Free {
        void operator()(std::byte* memory) const noexcept {
            ::operator delete (memory, std::align_val_t{kLineBytes});
        }
    };
    Entry* at(std::uint64_t position) const noexcept {
        return reinterpret_cast<Entry*>(memory_.get() + position % lines_ * kLineBytes);
    }

    const std::size_t lines_;
    const std::unique_ptr<std::byte[], Free> memory_;
    alignas(2 * kLineBytes) std::uint64_t tail_ = 0;  // the producer's; ahead of published_ by filling
    std::uint64_t reclaimed_ = 0;
    alignas(2 * kLineBytes) std::atomic<std::uint64_t> published_{0};
    alignas(2 * kLineBytes) std::atomic<std::uint64_t> issued_{0};
};

}  // namespace ringlaunch::python
