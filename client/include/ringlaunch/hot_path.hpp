// The hot path: what a launch reads of its stream and kernel, and the launch itself where nothing stands in
// its way. Not for programs to call: Stream::launch() does.
//
// It is compiled into the caller. The ring's lines are shared with the daemon, so their stores wait for other
// processors, and each further store of the caller waits behind them (2 to 4 ns each, measured): through a
// call into the library, with an image of the launch on the stack, there were three times as many.
//
// It allocates, throws and locks nothing, and calls the OS only to wake the daemon.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <ringlaunch/dim3.hpp>
#include <ringlaunch/pages.hpp>
#include <ringlaunch/ring_producer.hpp>
#include <ringlaunch/wakeup.hpp>
#include <span>

namespace ringlaunch::detail {

struct ClientState;

// About one record in each so many slots is timed: more of the first, so that a short program has figures,
// too. A sample takes what 20 launches take.
constexpr std::uint64_t slots_per_sample(std::uint64_t position) noexcept {
    return position < 16384 ? 128 : 512;
}

// Immutable once loaded, so any thread may read it.
struct HotKernel {
    // What compact launches may have at most, so that launchable() is two comparisons for them; 0: none.
    // settle() says them.
    std::uint32_t compact_grid = 0, compact_block = 0;
    bool compact_default_block = false;  // it has one
    std::uint64_t id = 0;
    std::uint32_t compact_id = 0;  // 0: it has none
    std::uint32_t param_bytes = 0;
    std::uint64_t digest = 0;  // of its parameters and their bytes, see layout_digest()
    // Whose it is: its id may be another kernel's to another client.
    const ClientState* owner = nullptr;
    std::uint32_t max_threads = 0;
    std::uint32_t max_shared_bytes = 0;  // dynamic
    Dim3 default_block{0, 0, 0};
    Dim3 max_grid, max_block;  // of the device; a side of max_block is at most 0xffff
    bool declared = false;

    void settle() noexcept;  // once the others are known
};

// The producer's part of a stream: one thread at a time, ordered by the caller (in Python by the interpreter
// lock).
struct HotStream {
    RingProducer<> producer;
    // Where the stream's epoch stands: loaded anew for each record and never kept. See
    // client/src/stream_state.hpp.
    // sync: EPOCH (pairs with replace_page): the page's mapping is there before its address.
    std::atomic<const StatusPage*> page{nullptr};
    const ClientState* owner = nullptr;  // whose it is
    RungSleep rung;
    bool must_fence = false;  // then the producer never looks ahead, and all takes the slow path

    [[gnu::cold]] void ring_doorbell() noexcept;

    const StatusPage& current() const noexcept {
        return *page.load(std::memory_order_acquire);
    }  // sync: EPOCH
};

// Does a launch of this shape, in one direction and without dynamic shared memory, fit a compact record?
[[nodiscard, gnu::always_inline]] inline bool has_compact_shape(Dim3 grid, Dim3 block,
                                                                std::uint32_t shared_bytes) noexcept {
    return ((grid.y ^ 1) | (grid.z ^ 1) | shared_bytes | (block.y ^ block.z) |
            (block.y ^ std::uint32_t{block.x != 0})) == 0;
}

// In which form does this launch stand in the ring? It is launchable().
[[nodiscard, gnu::always_inline]] inline LaunchForm form_of(const HotKernel& kernel, Dim3 grid, Dim3 block,
                                                            std::uint32_t shared_bytes) noexcept {
    return has_compact_shape(grid, block, shared_bytes) && kernel.compact_id != 0 ? LaunchForm::compact
                                                                                  : LaunchForm::general;
}

// Could the dispatcher take this launch? Its own checks are the ones that count; these spare the stream the
// stop.
[[nodiscard, gnu::always_inline]] inline bool launchable(const HotKernel& kernel, Dim3 grid, Dim3 block,
                                                         std::uint32_t shared_bytes) noexcept {
    const std::uint64_t threads =
        (block.x | block.y | block.z) == 0
            ? std::uint64_t{kernel.default_block.x} * kernel.default_block.y * kernel.default_block.z
            : std::uint64_t{block.x} * block.y * block.z;
    return grid.x - 1 < kernel.max_grid.x && grid.y - 1 < kernel.max_grid.y &&
           grid.z - 1 < kernel.max_grid.z && threads - 1 < kernel.max_threads &&
           block.x <= kernel.max_block.x && block.y <= kernel.max_block.y && block.z <= kernel.max_block.z &&
           shared_bytes <= kernel.max_shared_bytes && kernel.declared;
}

// The same, and is its form the compact one?
[[nodiscard, gnu::always_inline]] inline bool compactly_launchable(const HotKernel& kernel, Dim3 grid,
                                                                   Dim3 block,
                                                                   std::uint32_t shared_bytes) noexcept {
    return has_compact_shape(grid, block, shared_bytes) && grid.x - 1 < kernel.compact_grid &&
           (block.x != 0 ? block.x - 1 < kernel.compact_block : kernel.compact_default_block);
}

inline void HotKernel::settle() noexcept {
    const bool any = compact_id != 0 && declared;
    compact_grid = any ? max_grid.x : 0;
    compact_block = any ? std::min(max_threads, max_block.x) : 0;
    compact_default_block = any && launchable(*this, {1}, {0, 0, 0}, 0);
}

// Is a record of `slots` that begins at `position` the one to be timed?
[[nodiscard]] constexpr bool sample_is_due(std::uint64_t position, std::uint32_t slots) noexcept {
    const std::uint64_t every = slots_per_sample(position);
    return position / every != (position + slots) / every;
}

// May a record of `slots` be written as things stand: the epoch runs, there is room in one piece, and no
// sample is due? Where not, Stream's slow path knows what to do.
[[nodiscard, gnu::always_inline]] inline bool nothing_in_the_way(const HotStream& stream,
                                                                 const StatusPage& page,
                                                                 std::uint32_t slots) noexcept {
    // relaxed: only whether it is Running (0) matters here
    return page.state.load(std::memory_order_relaxed) == 0 && stream.producer.clear(slots) &&
           (slots <= kShortRecordSlots || slots <= stream.producer.max_record_slots());
}

// `value << shift` without a trap: a value that was spilled as four bytes may otherwise be loaded as eight,
// which waits until the four have left the store buffer, behind every earlier store to the ring.
template <int kShift>
[[gnu::always_inline]] inline std::uint64_t shifted(std::uint32_t value) noexcept {
    std::uint64_t wide = value;
    if (!__builtin_constant_p(value)) asm("" : "+r"(wide));
    return wide << kShift;
}

// Words of a head slot before the parameters, the stamp's counted.
template <LaunchForm kForm>
inline constexpr std::size_t kHeadWords = (kSlotBytes - head_param_bytes(kForm)) / 8;

// Word kWord of a launch's head slot, up to its parameters, of which it has `param_bytes`.
template <LaunchForm kForm, std::size_t kWord>
[[gnu::always_inline]] inline std::uint64_t head_word(const HotKernel& kernel, Dim3 grid, Dim3 block,
                                                      std::uint32_t shared_bytes,
                                                      std::uint32_t param_bytes) noexcept {
    static_assert(kWord >= 1 && kWord < kHeadWords<kForm>);
    const std::uint32_t slots = launch_slots(param_bytes, kForm);
    if constexpr (kForm == LaunchForm::compact) {
        if constexpr (kWord == 1)
            return first_word(kCompactLaunchKind, slots, param_bytes) | shifted<48>(block.x & 0xffff);
        if constexpr (kWord == 2) return kernel.compact_id | shifted<32>(grid.x);
    } else {
        if constexpr (kWord == 1) return first_word(kLaunchKind, slots, param_bytes);
        if constexpr (kWord == 2) return kernel.id;
        if constexpr (kWord == 3) return grid.x | shifted<32>(grid.y);
        if constexpr (kWord == 4)
            return grid.z | shifted<32>(block.x & 0xffff) | shifted<48>(block.y & 0xffff);
        if constexpr (kWord == 5) return (block.z & 0xffff) | shifted<32>(shared_bytes);
    }
}

// After a record was published. `page` is the one that nothing_in_the_way() looked at: had its epoch ended
// before this look, it is marked, and the mark came before the next epoch's first sleep.
[[gnu::always_inline]] inline void wake_reader(HotStream& stream, const StatusPage& page,
                                               bool must_fence) noexcept {
    if (producer_must_ring(page.need_wakeup, stream.rung, must_fence)) [[unlikely]]
        stream.ring_doorbell();
}

// Enqueues a launch of a kernel of kParamBytes in this form. `param(k)` gives the words of its parameters for
// k from std::integral_constant<0> on, as many as the slots hold. False: something is in the way, and nothing
// was done.
template <LaunchForm kForm, std::size_t kParamBytes, class Param>
[[nodiscard, gnu::always_inline]] inline bool try_enqueue_as(HotStream& stream, const HotKernel& kernel,
                                                             Dim3 grid, Dim3 block,
                                                             std::uint32_t shared_bytes,
                                                             const Param& param) noexcept {
    constexpr std::uint32_t kSlots = launch_slots(kParamBytes, kForm);
    const StatusPage& page = stream.current();
    if (!nothing_in_the_way(stream, page, kSlots)) [[unlikely]]
        return false;
    stream.producer.publish_each<
        kSlots>([&]<std::size_t kWord>(
                    std::integral_constant<std::size_t, kWord>) __attribute__((always_inline))
                    ->std::uint64_t {
                        if constexpr (kWord < kHeadWords<kForm>)
                            return head_word<kForm, kWord>(kernel, grid, block, shared_bytes, kParamBytes);
                        else  // without the stamps of the slots before
                            return param(
                                std::integral_constant<std::size_t, kWord - kHeadWords<kForm> - kWord / 8>());
                    });
    wake_reader(stream, page, false);  // the way is never clear for who must fence
    return true;
}

// Enqueues it in its own form if it is launchable and nothing stands in its way.
template <std::size_t kParamBytes, class Param>
[[nodiscard, gnu::always_inline]] inline bool try_enqueue(HotStream& stream, const HotKernel& kernel,
                                                          Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                                                          const Param& param) noexcept {
    if (compactly_launchable(kernel, grid, block, shared_bytes)) [[likely]]
        return try_enqueue_as<LaunchForm::compact, kParamBytes>(stream, kernel, grid, block, shared_bytes,
                                                                param);
    // Where its shape is compact, too: the kernel has no compact id, or it is not launchable.
    return launchable(kernel, grid, block, shared_bytes) &&
           try_enqueue_as<LaunchForm::general, kParamBytes>(stream, kernel, grid, block, shared_bytes, param);
}

// Writes and publishes a launch; there is room. `params` are kernel.param_bytes; with `kPadded` zeros follow
// them up to padded_param_bytes(), which spares the last slot's bytes a closer look.
template <bool kPadded, LaunchForm kForm>
[[gnu::always_inline]] inline void publish_launch(RingProducer<>& producer, const HotKernel& kernel,
                                                  Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                                                  std::span<const std::byte> params) noexcept {
    static_assert(std::endian::native == std::endian::little, "records are little-endian");
    const auto bytes = static_cast<std::uint32_t>(params.size());
    const std::uint32_t slots = launch_slots(bytes, kForm);
    for (std::uint32_t i = 1; i < slots; ++i) {
        const std::size_t first = head_param_bytes(kForm) + (i - 1) * kContinuationParamBytes;
        if constexpr (kPadded)
            producer.write_continuation(i, params.data() + first);
        else
            producer.write_continuation(i, params.data(), bytes, first);
    }
    producer.publish_head(
        slots, [&]<std::size_t kWord>(std::integral_constant<std::size_t, kWord>)
                   __attribute__((always_inline))
                       ->std::uint64_t {
                           if constexpr (kWord < kHeadWords<kForm>)
                               return head_word<kForm, kWord>(kernel, grid, block, shared_bytes, bytes);
                           else if constexpr (kPadded)
                               return load_word(params.data() + 8 * (kWord - kHeadWords<kForm>));
                           else
                               return word_within(params.data(), bytes, 8 * (kWord - kHeadWords<kForm>));
                       });
}

// How many slots does this launch take? It is launchable().
[[nodiscard, gnu::always_inline]] inline std::uint32_t slots_of(const HotKernel& kernel, Dim3 grid,
                                                                Dim3 block,
                                                                std::uint32_t shared_bytes) noexcept {
    return launch_slots(kernel.param_bytes, form_of(kernel, grid, block, shared_bytes));
}

// Enqueues a launch if it is launchable and nothing stands in its way, else answers false and has done
// nothing. A caller that hands all that it was given to its own slow path makes the compiler save nothing.
template <bool kPadded, LaunchForm kForm>
[[nodiscard, gnu::always_inline]] inline bool try_enqueue_launch_as(
    HotStream& stream, const HotKernel& kernel, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
    std::span<const std::byte> params) noexcept {
    const StatusPage& page = stream.current();
    if (!nothing_in_the_way(stream, page, launch_slots(params.size(), kForm))) [[unlikely]]
        return false;
    publish_launch<kPadded, kForm>(stream.producer, kernel, grid, block, shared_bytes, params);
    wake_reader(stream, page, false);  // the way is never clear for who must fence
    return true;
}
template <bool kPadded>
[[nodiscard, gnu::always_inline]] inline bool try_enqueue_launch(HotStream& stream, const HotKernel& kernel,
                                                                 Dim3 grid, Dim3 block,
                                                                 std::uint32_t shared_bytes,
                                                                 std::span<const std::byte> params) noexcept {
    if (compactly_launchable(kernel, grid, block, shared_bytes)) [[likely]]
        return try_enqueue_launch_as<kPadded, LaunchForm::compact>(stream, kernel, grid, block, shared_bytes,
                                                                   params);
    // As in try_enqueue().
    return launchable(kernel, grid, block, shared_bytes) &&
           try_enqueue_launch_as<kPadded, LaunchForm::general>(stream, kernel, grid, block, shared_bytes,
                                                               params);
}

}  // namespace ringlaunch::detail
