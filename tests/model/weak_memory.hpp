// A small weakly ordered machine on which the real ring and wake-up templates run, one step of one thread at
// a time.
//
// What it models, after the view-based accounts of C++ memory ("promising semantics" without promises):
//   - Every word keeps all values ever stored to it. A thread's view says the oldest of each that it may
//   still read; a
//     load picks any at or after that (the machine explores which). A release store carries its thread's
//     view, an acquire load takes it over; relaxed ones do not. So stores may seem delayed past later loads,
//     and reordered, for anyone who is not ordered after them.
//   - A full fence joins the thread's view with one that all fences share. A membarrier fences its caller
//   and, one by
//     one, every registered thread at whatever step that thread is.
//   - Payload bytes are plain memory: the machine keeps vector clocks and calls two accesses of which one is
//   a write and
//     which nothing orders a failure, whatever values were read. (This also catches a load that the hardware
//     may delay past a later store, which views alone do not show.)
//   - An eventfd or a socket orders its readers after its writers, and no more.
//
// Threads are fibers of one real thread. A run is a sequence of choices (who goes on, which value is read),
// made by a seed or by systematic search; a thread that waits in a loop says so (pause()), and one that
// sleeps is not run until woken. When nobody can go on and somebody has not finished, a wake-up was lost.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "schema/pages.hpp"
#include "schema/ring.hpp"
#include "tests/model/mutants.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace ringlaunch::model {

inline constexpr std::size_t kMaxThreads = 4;
inline constexpr std::size_t kMaxWords = 40;
inline constexpr std::size_t kFiberBytes = 128 * 1024;

// ---- where choices come from
// -------------------------------------------------------------------------------

class Choices {
  public:
    virtual ~Choices() = default;
    virtual std::uint32_t pick(std::uint32_t count) = 0;
    // May the running thread be set aside though it could go on, may a load be answered with an old value?
    virtual bool may_preempt() = 0;
    virtual bool may_be_stale() = 0;
};

// By seed. Some seeds change threads often and some seldom, so that both short and long delays are tried.
class SeededChoices final : public Choices {
  public:
    explicit SeededChoices(std::uint64_t seed)
        : state_(seed * 0x9e3779b97f4a7c15u + 1),
          preempt_every_(1 + next() % 12),
          stale_every_(1 + next() % 4) {}
    std::uint32_t pick(std::uint32_t count) override { return static_cast<std::uint32_t>(next() % count); }
    bool may_preempt() override { return next() % preempt_every_ == 0; }
    bool may_be_stale() override { return next() % stale_every_ == 0; }

  private:
    std::uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ >> 11;
    }
    std::uint64_t state_;
    std::uint64_t preempt_every_;
    std::uint64_t stale_every_;
};

// Every sequence of choices within a bound on preemptions and stale reads, depth first.
class SearchedChoices final : public Choices {
  public:
    SearchedChoices(std::uint32_t preemptions, std::uint32_t stale_reads)
        : max_preemptions_(preemptions), max_stale_(stale_reads) {}
    void begin() {
        depth_ = 0;
        preemptions_ = max_preemptions_;
        stale_ = max_stale_;
    }
    // The next path; false when all have been walked.
    bool advance() {
        path_.resize(depth_);
        while (!path_.empty() && path_.back().taken + 1 == path_.back().count) path_.pop_back();
        if (path_.empty()) return false;
        ++path_.back().taken;
        return true;
    }
    std::uint32_t pick(std::uint32_t count) override {
        if (count == 1) return 0;
        if (depth_ == path_.size()) path_.push_back({0, count});
        return path_[depth_++].taken;
    }
    bool may_preempt() override { return spend(preemptions_); }
    bool may_be_stale() override { return spend(stale_); }

  private:
    struct Step {
        std::uint32_t taken, count;
    };
    bool spend(std::uint32_t& budget) {
        if (budget == 0 || pick(2) == 0) return false;
        --budget;
        return true;
    }
    std::vector<Step> path_;
    std::size_t depth_ = 0;
    std::uint32_t max_preemptions_, max_stale_, preemptions_ = 0, stale_ = 0;
};

// ---- the machine
// -------------------------------------------------------------------------------------------

enum class Role { other, stamp, completed, need_wakeup, wait_position, state, page };

struct View {
    std::array<std::uint16_t, kMaxWords> seen{};     // the oldest value of each word that may still be read
    std::array<std::uint32_t, kMaxThreads> clock{};  // what has happened before, for plain memory
    void join_seen(const View& other) {
        for (std::size_t i = 0; i < kMaxWords; ++i) seen[i] = std::max(seen[i], other.seen[i]);
    }
    void join(const View& other) {
        join_seen(other);
        for (std::size_t i = 0; i < kMaxThreads; ++i) clock[i] = std::max(clock[i], other.clock[i]);
    }
};

class World {
  public:
    World(Choices& choices, Mutant mutant) : choices_(choices), mutant_(mutant) { current_ = this; }
    ~World() { current_ = nullptr; }
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    static World& current() { return *current_; }
    Mutant mutant() const { return mutant_; }
    bool is(Mutant mutant) const { return mutant_ == mutant; }

    // Before run(). Bodies keep nothing on the heap: a failed run abandons them where they stand.
    // `registered`: a membarrier reaches it. `client`: of the client's side.
    std::size_t add_thread(const char* name, bool registered, bool client, std::function<void()> body) {
        Thread thread;
        thread.name = name;
        thread.registered = registered;
        thread.client = client;
        thread.body = std::move(body);
        thread.now.clock[threads_.size()] = 1;
        threads_.push_back(std::move(thread));
        return threads_.size() - 1;
    }
    template <class Word>
    void name_word(const Word& word, Role role) {
        Cell& cell = cell_of(word);
        cell.role = role;
    }

    // Runs until `enough()` or everybody has finished. "" or what went wrong.
    std::string run(const std::function<bool()>& enough);

    // ---- called by the threads ----
    std::size_t self() const { return running_; }
    bool self_is_client() const { return threads_[running_].client; }
    // Ends the run. By value: the caller is never resumed, and what it would destroy must hold nothing.
    void fail(std::string what) {
        if (failure_.empty()) failure_ = std::move(what);
        leave();
    }
    // The end of a turn of a waiting loop that found nothing: goes on once something was stored since the
    // turn began, or, where the turn read an old value, with new ones (a store becomes visible at last).
    void pause() {
        Thread& thread = threads_[running_];
        thread.fresh = thread.read_stale;
        thread.paused = !thread.read_stale;
        leave();
        thread.paused = false;
        thread.read_stale = false;
        thread.turn_began = stores_;
    }
    // Sleeps until `ready()`; or, where `may_time_out`, at the machine's whim not so long.
    void sleep(std::function<bool()> ready, bool may_time_out = false) {
        Thread& thread = threads_[running_];
        thread.ready = std::move(ready);
        thread.may_time_out = may_time_out;
        leave();
        thread.ready = nullptr;
    }
    bool finished(std::size_t thread) const { return threads_[thread].done; }
    // The order that waitpid() or a socket gives: all that `thread` did happened before.
    void join_thread(std::size_t thread) { threads_[running_].now.join(threads_[thread].now); }
    View publish_view() {
        Thread& thread = threads_[running_];
        const View view = thread.now;
        ++thread.now.clock[running_];
        return view;
    }
    void take_view(const View& view) { threads_[running_].now.join(view); }
    std::uint32_t choose(std::uint32_t count) { return choices_.pick(count); }
    // Kills the running thread before its `steps`th step from now.
    void die_after(std::uint32_t steps) { threads_[running_].die_in = steps; }
    void step() { leave(); }

    template <class Word>
    auto load(const Word& word, bool acquire) {
        leave();
        Thread& thread = threads_[running_];
        const std::size_t index = index_of(word);
        Cell& cell = cells_[index];
        const auto newest = static_cast<std::uint16_t>(cell.values.size() - 1);
        std::uint16_t at = newest;
        const std::uint16_t oldest = thread.now.seen[index];
        if (oldest < newest && !thread.fresh && choices_.may_be_stale())
            at = static_cast<std::uint16_t>(oldest + choices_.pick(newest - oldest));
        thread.read_stale = thread.read_stale || at != newest;
        thread.now.seen[index] = at;
        const Stored& stored = cell.values[at];
        if (acquire)
            thread.now.join(stored.view);
        else
            thread.acquired.join(stored.view);
        return static_cast<decltype(word.load())>(stored.value);
    }
    template <class Word, class Value>
    void store(Word& word, Value value, bool release) {
        leave();
        Thread& thread = threads_[running_];
        const std::size_t index = index_of(word);
        Cell& cell = cells_[index];
        ++stores_;
        Stored stored{static_cast<std::uint64_t>(value), release ? thread.now : thread.released};
        thread.now.seen[index] = stored.view.seen[index] = static_cast<std::uint16_t>(cell.values.size());
        cell.values.push_back(stored);
        if (release) ++thread.now.clock[running_];
        word.store(value, std::memory_order_relaxed);  // for whoever looks after the run
    }
    void fence() {
        leave();
        fence_of(running_);
    }
    void membarrier() {
        leave();
        fence_of(running_);
        for (std::size_t i = 0; i < threads_.size(); ++i) {
            if (i == running_ || !threads_[i].registered) continue;
            leave();
            fence_of(i);
        }
        leave();
        fence_of(running_);
    }
    // Plain memory: the payload of the slot that `address` lies in.
    void plain(const void* address, bool write) {
        leave();
        const void* at = reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(address) /
                                                       kSlotBytes * kSlotBytes);
        Thread& thread = threads_[running_];
        Plain& plain = plain_[at];
        const auto& clock = thread.now.clock;
        if (plain.written_at > clock[plain.writer]) return race(at, plain.writer, "wrote", write);
        if (write) {
            for (std::size_t i = 0; i < threads_.size(); ++i)
                if (plain.read_at[i] > clock[i]) return race(at, i, "read", write);
            plain.writer = running_;
            plain.written_at = clock[running_];
        } else {
            plain.read_at[running_] = clock[running_];
        }
    }
    Role role_of(const void* word) const {
        const auto found = words_.find(word);
        return found == words_.end() ? Role::other : cells_[found->second].role;
    }

    // Payload writes and stamps that a mutant puts off.
    struct Late {
        std::byte* to = nullptr;
        SharedU64* word = nullptr;
        std::uint64_t value = 0;
        std::size_t bytes = 0;
        std::array<std::byte, 64> from{};
    };
    std::array<Late, 16> late{};
    std::size_t late_count = 0;

    // What the client's producer knows of `completed`, noted while it reserves.
    bool reserving = false;
    std::uint64_t completed_read = 0;

  private:
    struct Stored {
        std::uint64_t value = 0;
        View view;
    };
    struct Cell {
        Role role = Role::other;
        std::vector<Stored> values;
    };
    struct Plain {
        std::size_t writer = 0;
        std::uint32_t written_at = 0;
        std::array<std::uint32_t, kMaxThreads> read_at{};
    };
    struct Thread {
        const char* name = "";
        bool registered = false, client = false, done = false, started = false;
        bool paused = false, read_stale = false, fresh = false, may_time_out = false;
        std::uint64_t turn_began = 0;
        std::uint32_t die_in = ~0u;
        std::function<void()> body;
        std::function<bool()> ready;
        View now, acquired, released;
        ucontext_t context;
    };

    void fence_of(std::size_t index) {
        Thread& thread = threads_[index];
        thread.now.join(thread.acquired);
        all_fences_.join_seen(thread.now);
        thread.now.join_seen(all_fences_);
        thread.released = thread.now;
        ++thread.now.clock[index];
    }
    void race(const void* at, std::size_t other, const char* did, bool write) {
        fail(std::string("a data race: ") + threads_[running_].name + (write ? " writes" : " reads") +
             " the payload at " + std::to_string(reinterpret_cast<std::uintptr_t>(at) % 4096) + " that " +
             threads_[other].name + ' ' + did);
    }
    template <class Word>
    std::size_t index_of(const Word& word) {
        const auto found = words_.find(&word);
        if (found != words_.end()) return found->second;
        if (cells_.size() == kMaxWords) std::abort();
        Cell cell;
        cell.values.push_back({word.load(std::memory_order_relaxed), View{}});
        cells_.push_back(std::move(cell));
        words_.emplace(&word, cells_.size() - 1);
        return cells_.size() - 1;
    }
    template <class Word>
    Cell& cell_of(const Word& word) {
        return cells_[index_of(word)];
    }
    bool can_run(const Thread& thread) const {
        if (thread.done) return false;
        if (thread.die_in == 0) return true;  // a kill reaches a sleeper too
        if (thread.ready) return thread.may_time_out || thread.ready();
        return !thread.paused || stores_ != thread.turn_began;
    }
    // Back to the scheduler; returns when this thread is next.
    void leave() {
        Thread& thread = threads_[running_];
        switch_to_scheduler(thread);
    }
    void switch_to_scheduler(Thread& thread) { ::swapcontext(&thread.context, &main_); }
    static void enter() {
        World& world = *current_;
        Thread& thread = world.threads_[world.running_];
        thread.body();
        thread.done = true;
        world.switch_to_scheduler(thread);
    }

    static inline World* current_ = nullptr;
    Choices& choices_;
    Mutant mutant_;
    std::vector<Thread> threads_;
    std::vector<Cell> cells_;
    std::map<const void*, std::size_t> words_;
    std::map<const void*, Plain> plain_;
    View all_fences_;
    std::uint64_t stores_ = 0;
    std::size_t running_ = 0;
    std::string failure_;
    ucontext_t main_{};
};

inline std::string World::run(const std::function<bool()>& enough) {
    static std::array<std::unique_ptr<std::byte[]>, kMaxThreads> stacks;
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (!stacks[i]) stacks[i] = std::make_unique<std::byte[]>(kFiberBytes);
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(stacks[i].get(), kFiberBytes);  // an abandoned run's frames
#endif
        Thread& thread = threads_[i];
        ::getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = stacks[i].get();
        thread.context.uc_stack.ss_size = kFiberBytes;
        thread.context.uc_link = nullptr;
        ::makecontext(&thread.context, &World::enter, 0);
    }
    constexpr int kMostSteps = 20'000;
    for (int step = 0; step < kMostSteps; ++step) {
        if (!failure_.empty()) return failure_;
        if (enough()) return "";
        std::array<std::size_t, kMaxThreads> others;
        std::uint32_t count = 0;
        bool all_done = true;
        const bool can_stay = can_run(threads_[running_]) && !threads_[running_].ready;
        for (std::size_t i = 0; i < threads_.size(); ++i) {
            all_done = all_done && threads_[i].done;
            if (can_run(threads_[i]) && !(can_stay && i == running_)) others[count++] = i;
        }
        if (all_done) return "everybody finished, but not everything was done";
        if (count == 0 && !can_stay) {
            std::string stuck = "nobody can go on:";
            for (const Thread& thread : threads_)
                if (!thread.done)
                    stuck += std::string(" ") + thread.name + (thread.ready ? " sleeps" : " waits");
            return stuck;
        }
        if (count > 0 && (!can_stay || choices_.may_preempt())) running_ = others[choices_.pick(count)];
        Thread& thread = threads_[running_];
        if (thread.die_in != ~0u && thread.die_in-- == 0) {
            thread.done = true;  // SIGKILL: it is simply never run again
            continue;
        }
        ::swapcontext(&main_, &thread.context);
    }
    return "no end after " + std::to_string(kMostSteps) + " steps";
}

// An eventfd, or a socket that carries one kind of notice: counts, and orders readers after writers.
class Event {
  public:
    void signal() {
        World& world = World::current();
        world.step();
        view_.join(world.publish_view());
        ++count_;
    }
    bool drain() {
        World& world = World::current();
        world.step();
        if (count_ == 0) return false;
        count_ = 0;
        world.take_view(view_);
        return true;
    }
    bool is_set() const { return count_ != 0; }

  private:
    View view_;
    std::uint64_t count_ = 0;
};

// An eventfd that is watched edge-triggered and never read: each write is an edge, and who sleeps on it takes
// all that there are.
class EdgeEvent {
  public:
    void signal() {
        World& world = World::current();
        world.step();
        view_.join(world.publish_view());
        edge_ = edge_ || count_ == 0 || !world.is(Mutant::doorbell_edge_only_from_zero);
        ++count_;
    }
    void take() {
        World& world = World::current();
        world.step();
        if (std::exchange(edge_, false)) world.take_view(view_);
    }
    bool has_edge() const { return edge_; }

  private:
    View view_;
    std::uint64_t count_ = 0;
    bool edge_ = false;
};

// The memory operations of the real templates, on the machine; a mutant weakens one.
struct WeakMemory {
    template <class Word>
    static auto load_acquire(const Word& word) {
        World& world = World::current();
        const Role role = world.role_of(&word);
        const bool weak = (role == Role::stamp && world.is(Mutant::peek_relaxed)) ||
                          (role == Role::completed && world.is(Mutant::completed_load_relaxed)) ||
                          (role == Role::state && world.is(Mutant::state_load_relaxed)) ||
                          (role == Role::page && world.is(Mutant::page_load_relaxed));
        auto value = world.load(word, !weak);
        if (role == Role::completed && world.self_is_client()) {
            if (world.is(Mutant::reserve_off_by_a_slot)) value += 1;
            if (world.is(Mutant::reserve_off_by_a_lap)) value += 8;
            if (world.reserving) world.completed_read = value;
        }
        return value;
    }
    template <class Word>
    static auto load_relaxed(const Word& word) {
        return World::current().load(word, false);
    }
    template <class Word, class Value>
    static void store_release(Word& word, Value value) {
        World& world = World::current();
        const Role role = world.role_of(&word);
        const bool weak = (role == Role::stamp && world.is(Mutant::head_stamp_relaxed)) ||
                          (role == Role::completed && world.is(Mutant::completed_store_relaxed)) ||
                          (role == Role::state && world.is(Mutant::state_store_relaxed)) ||
                          (role == Role::page && world.is(Mutant::page_store_relaxed));
        world.store(word, value, !weak);
        if (role == Role::stamp) do_late(world);
    }
    template <class Word, class Value>
    static void store_relaxed(Word& word, Value value) {
        World& world = World::current();
        if (world.is(Mutant::continuation_after_head) && world.role_of(&word) == Role::stamp) {
            if constexpr (sizeof(Word) == 8) {
                auto& late = world.late[world.late_count++];
                late.to = nullptr;
                late.word = &word;
                late.value = value;
                return;
            }
        }
        world.store(word, value, false);
    }
    static void write_payload(std::byte* to, const void* from, std::size_t bytes) {
        World& world = World::current();
        if (world.is(Mutant::stamp_before_payload)) {
            auto& late = world.late[world.late_count++];
            late.to = to;
            late.word = nullptr;
            late.bytes = bytes;
            std::memcpy(late.from.data(), from, bytes);
            return;
        }
        world.plain(to, true);
        std::memcpy(to, from, bytes);
    }
    static void read_payload(void* to, const std::byte* from, std::size_t bytes) {
        World::current().plain(from, false);
        std::memcpy(to, from, bytes);
    }
    static void full_fence() {
        World& world = World::current();
        if (world.is(Mutant::waiter_no_fence) && world.self_is_client()) return;
        world.fence();
    }
    static void after_stamp(bool with_fence) {
        World& world = World::current();
        if (with_fence && !world.is(Mutant::producer_no_fence)) world.fence();
    }

  private:
    static void do_late(World& world) {
        for (std::size_t i = 0; i < world.late_count; ++i) {
            const auto& late = world.late[i];
            if (late.word != nullptr) {
                world.store(*late.word, late.value, false);
            } else {
                world.plain(late.to, true);
                std::memcpy(late.to, late.from.data(), late.bytes);
            }
        }
        world.late_count = 0;
    }
};

}  // namespace ringlaunch::model
