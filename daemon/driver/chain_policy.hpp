// Which launches of a backlog go to the device together, as a chain: a graph with a kernel node for each, one
// after another, made beforehand and given new parameters for every launch of it.
//
// Measured on an H200 (CUDA 13.0), microseconds a launch of kernels that do nothing: by itself 3.0 to 3.7, as
// a graph of one node 1.5 to 1.8; as one of a chain of 2: 1.26, 3: 1.10, 4: 1.01, 6: 0.90, 8: 0.83, 12: 0.76,
// 16: 0.74, 32: 0.62 to 0.69, 64: 0.59 to 0.65. New parameters cost a node 0.19, another grid or block 0.5
// more (which the device's own time hides), another kernel 1.25 more: as much as launching it by itself. So a
// chain keeps its kernels and is known by them, in order: what programs do again and again they do in the
// same order, and a backlog without an order that comes again gains nothing from chains (nor from pairs: 24
// kernels at random took 1.94 with a graph for each two of them, and 1.26 without, in one run). Other threads
// that write the nodes do not help either: they wait for CUDA's lock (setting a node's parameters takes 0.45
// on one thread, 0.95 on each of two). Two of them, for chains of 32, took the same 24 kernels from 1.97 to
// 1.20 in a program of its own in a slow hour, and from 1.4 to 1.6 to 1.9 in the daemon.
//
// The longest chain that the backlog fills is taken, and what is left is looked at in the same way; no launch
// waits for others to come, and no chain runs with nodes switched off (one of those costs 0.3: a shorter
// chain is as good).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace ringlaunch::driver {

class Kernel;

inline constexpr std::size_t kLongestChain = 64;
// Up to here a backlog has a chain of just its length: programs that wait for every few launches do the same
// few again and again.
inline constexpr std::size_t kLongestExactChain = 16;
// Beyond, longer ones gain little.
inline constexpr std::array<std::size_t, 9> kChainLengths{kLongestChain, 48, 32, 24, 16, 12, 8, 6, 4};
// From here on a chain counts as a long one: with most of what there is to gain.
inline constexpr std::size_t kLongChain = 32;
// Of each chain, for drivers that cannot rewrite one while it runs.
inline constexpr std::size_t kChainCopies = 4;

// Calls `look(length)` for the lengths that a backlog of `launches` may begin with, the longest first, until
// it answers true.
template <class Look>
constexpr bool each_chain_length(std::size_t launches, Look&& look) {
    if (launches >= 2 && launches <= kLongestExactChain && look(launches)) return true;
    for (const std::size_t length : kChainLengths) {
        const bool tried = length == launches && launches <= kLongestExactChain;
        if (length <= launches && !tried && look(length)) return true;
    }
    return false;
}

// Making a chain takes 14 us and 5 more a node, and saves 0.9 a launch. So one is made when its sequence was
// met so often that having it would have paid for making it.
constexpr std::uint64_t making_ns(std::size_t length) {
    return 14'000 + 5'000 * length;
}
constexpr std::uint32_t sightings_before_chain(std::size_t length) {
    return static_cast<std::uint32_t>(making_ns(length) / (900 * length)) + 1;
}

// The time that a stream may spend on making graphs: what a program needs when it begins, and later a tenth
// of what its launches take, so that sequences that drive each other out cost no more.
class MakingAllowance {
  public:
    void earn(std::size_t launches) noexcept {
        left_ns_ = std::min(kFirstNs, left_ns_ + launches * kEarnedNs);
    }
    bool covers(std::size_t length) const noexcept { return making_ns(length) <= left_ns_; }
    void spend(std::size_t length) noexcept { left_ns_ -= std::min(left_ns_, making_ns(length)); }

    static constexpr std::uint64_t kFirstNs = 10'000'000;
    static constexpr std::uint64_t kEarnedNs = 150;

  private:
    std::uint64_t left_ns_ = kFirstNs;
};

// What a sequence of kernels is known by, grown one kernel at a time. Two sequences may have the same: who
// finds something by it compares.
class SequenceKey {
  public:
    constexpr void add(std::uint64_t kernel) {
        value_ = (value_ ^ kernel) * 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: Knuth's multiplicative hash
        value_ ^= value_ >> 29;
    }
    constexpr std::uint64_t value() const { return value_; }

  private:
    std::uint64_t value_ = 0;
};

// How often sequences were met that have no chain. Of bounded size: what comes often displaces what came
// once. For the streams of a device together, which one thread dispatches.
class Sightings {
  public:
    // Counts, and says how often `key` was met by now, as far as is known.
    std::uint32_t see(std::uint64_t key) noexcept {
        Entry& first = at(key);
        Entry& second = at(key >> 32);
        if (first.key == key) return ++first.times;
        if (second.key == key) return ++second.times;
        Entry& entry = first.times <= second.times ? first : second;
        if (entry.times > 1) {
            --entry.times;
            return 1;
        }
        entry = {key, 1};
        return 1;
    }
    void forget(std::uint64_t key) noexcept {
        for (Entry* entry : {&at(key), &at(key >> 32)})
            if (entry->key == key) *entry = {};
    }

  private:
    static constexpr std::size_t kEntries = 16 << 10;
    struct Entry {
        std::uint64_t key = 0;
        std::uint32_t times = 0;
    };
    // Each key has two places, so that two that come equally often do not keep each other out.
    Entry& at(std::uint64_t hash) noexcept { return entries_[hash % kEntries]; }
    std::unique_ptr<Entry[]> entries_ = std::make_unique<Entry[]>(kEntries);
};

}  // namespace ringlaunch::driver
