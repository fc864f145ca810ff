#include "daemon/driver/host_stream.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <system_error>
#include <variant>

#include "daemon/driver/host_graph.hpp"
#include "daemon/driver/memory.hpp"
#include "schema/error.hpp"
#include "schema/version.hpp"

// The sync points of this file are between threads of one process, and the thread sanitizer sees a release or
// an acquire that is missing in any of its tests: no model. What it cannot see are the two that need
// sequential consistency, PARK and WATCH: a store, then a look at the other side's word, on both sides, which
// is W1 of schema/wakeup.hpp with such accesses in place of the fences; tests/model takes each of those steps
// away.
namespace ringlaunch::driver {

namespace {

// How long the destruction of a stream waits for an operation that runs.
constexpr std::chrono::milliseconds kGiveUpAfter{1000};
constexpr std::size_t kParamAlignment = kernel_abi::kMaxParamAlignment;
// How often an idle worker looks at its queue before it sleeps, on a machine with cores to spare.
constexpr int kSpins = 2000;

int spins_of_this_machine() {
    cpu_set_t cpus;
    const int usable = ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    return usable > 2 ? kSpins
                      : 0;  // else it would spin on the core that its dispatcher, or its client, needs
}

void relax_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

// Of HostStream::State, so not in an unnamed namespace.
namespace host_stream {

struct LaunchOp {
    HostKernel* kernel;
    std::uint64_t kernel_id;
    Dim3 grid, block;
    std::uint32_t params;  // where they begin in the parameter ring
};
struct GraphOp {
    std::shared_ptr<const MemoryGraph> graph;
};
struct WaitOp {
    std::shared_ptr<Progress> awaited;
    std::uint64_t position;
};

// A launch of a graph that a user made.
struct RecordedOp {
    std::shared_ptr<HostGraph::Copy> copy;  // pinned until it has run
};

// One operation in the queue.
struct Op {
    std::uint64_t position = 0, end = 0;
    std::uint64_t params_begin = 0;  // how far the parameter ring was used by all before it
    // The worker drops the reference of a graph or a wait; everything else is the dispatch thread's.
    std::variant<std::monostate, LaunchOp, GraphOp, RecordedOp, Copy, Fill, WaitOp> work;
};

// Whether the worker may touch the status page. Once it says `abandoned`, it never does again.
enum class Phase : std::uint32_t { idle, publishing, abandoned };

}  // namespace host_stream

namespace {

using namespace host_stream;

// Blocks the signals that other threads of the process answer, while a worker is made that inherits the mask.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t blocked;
        ::sigfillset(&blocked);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP})
            ::sigdelset(&blocked, fault);
        ::pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t before_{};
};

}  // namespace

void Parker::prepare() noexcept {
    // sync: PARK (pairs with wake): stored before the sleeper looks at what it waits for. Sequentially
    // consistent, as is the waker's store: one of the two sees the other.
    asleep_.store(1, std::memory_order_seq_cst);
}

void Parker::sleep(std::chrono::nanoseconds at_most) noexcept {
    const timespec timeout{at_most.count() / 1'000'000'000, at_most.count() % 1'000'000'000};
    ::syscall(SYS_futex, &asleep_, FUTEX_WAIT_PRIVATE, 1, at_most == kForever ? nullptr : &timeout, nullptr,
              0);
    cancel();
}

void Parker::cancel() noexcept {
    asleep_.store(0, std::memory_order_relaxed);
}  // relaxed: the owner's own word now

void Parker::wake() noexcept {
    // sync: PARK (pairs with prepare). The exchange lets one waker of many make the call; relaxed, because
    // the load before it made the order.
    if (asleep_.load(std::memory_order_seq_cst) != 0 && asleep_.exchange(0, std::memory_order_relaxed) != 0)
        ::syscall(SYS_futex, &asleep_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

// sync: PROGRESS (pairs with advance): what the operations up to there wrote is seen.
std::uint64_t Progress::completed() const noexcept {
    return completed_.load(std::memory_order_seq_cst);
}

void Progress::advance(std::uint64_t position) noexcept {
    // sync: PROGRESS (pairs with completed), and WATCH (pairs with find_lowest and the looks at `completed_`
    // after it): the position is stored before `lowest_` is read, and the others store `lowest_` before they
    // read the position; all sequentially consistent, so that at least one side sees the other.
    completed_.store(position, std::memory_order_seq_cst);
    if (lowest_.load(std::memory_order_seq_cst) <= position) tell_watchers(position);
}

void Progress::find_lowest() noexcept {
    std::uint64_t lowest = notice_overflow_ ? 0 : kNobody;
    for (const Watch& watch : watches_) lowest = std::min(lowest, watch.position);
    for (std::size_t i = 0; i < notice_count_; ++i) lowest = std::min(lowest, notices_[i]);
    // sync: WATCH (pairs with advance).
    lowest_.store(lowest, std::memory_order_seq_cst);
}

void Progress::tell_watchers(std::uint64_t position) noexcept {
    const std::scoped_lock hold(lock_);
    std::erase_if(watches_, [&](const Watch& watch) {
        if (watch.position > position) return false;
        watch.parker->wake();
        return true;
    });
    std::uint64_t* const end = notices_.data() + notice_count_;
    std::uint64_t* const kept =
        std::remove_if(notices_.data(), end, [&](std::uint64_t at) { return at <= position; });
    if (kept != end || notice_overflow_) (void)::eventfd_write(eventfd_, 1);
    notice_count_ = static_cast<std::size_t>(kept - notices_.data());
    if (notice_count_ == 0) notice_overflow_ = false;
    find_lowest();
}

bool Progress::watch(std::uint64_t position, Parker& who) {
    const std::scoped_lock hold(lock_);
    watches_.push_back({position, &who});
    find_lowest();
    // sync: WATCH (pairs with advance).
    if (completed_.load(std::memory_order_seq_cst) < position) return true;
    watches_.pop_back();
    find_lowest();
    return false;
}

void Progress::unwatch(const Parker& who) {
    const std::scoped_lock hold(lock_);
    std::erase_if(watches_, [&](const Watch& watch) { return watch.parker == &who; });
    find_lowest();
}

void Progress::notify(std::uint64_t position, int eventfd) noexcept {
    const std::scoped_lock hold(lock_);
    eventfd_ = eventfd;
    const auto end = notices_.begin() + static_cast<std::ptrdiff_t>(notice_count_);
    if (std::find(notices_.begin(), end, position) != end) return;
    const bool kept = notice_count_ < kMaxNotices;
    if (kept)
        notices_[notice_count_++] = position;
    else
        notice_overflow_ = true;
    find_lowest();
    // sync: WATCH (pairs with advance).
    if (completed_.load(std::memory_order_seq_cst) < position) return;
    if (kept) --notice_count_;
    (void)::eventfd_write(eventfd_, 1);
    find_lowest();
}

// What the dispatch thread and the worker share. The worker keeps it alive.
struct HostStream::State {
    explicit State(const StreamConfig& config)
        : id(config.id),
          page_completed(config.completed),
          progress(std::make_shared<Progress>(config.position)),
          last_end(config.position),
          ops(std::bit_ceil(std::max(config.max_in_flight, 2u))),
          // Room for 64 bytes an operation. Several of the longest fit always; where many are long, the queue
          // is full sooner.
          param_bytes(std::bit_ceil(std::max<std::size_t>(
              4 * kMaxParamBytes, std::size_t{config.max_in_flight} * kParamAlignment))),
          params(static_cast<std::byte*>(::operator new[](param_bytes, std::align_val_t{kParamAlignment}))) {}
    ~State() { ::operator delete[](params, std::align_val_t{kParamAlignment}); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    Op& op(std::uint64_t i) { return ops[i & (ops.size() - 1)]; }

    // The dispatch thread's side.
    Op* place(std::uint64_t position, std::uint64_t end) noexcept;
    bool place_params(const Launch& launch, std::uint32_t& offset) noexcept;
    void publish() noexcept;
    void ring() noexcept { parker.wake(); }

    // The worker's side.
    void run() noexcept;
    bool wait_for_work(std::uint64_t at) noexcept;
    bool execute(Op& op) noexcept;
    bool execute_graph(const MemoryGraph& graph) noexcept;
    // `node`: of a user's graph; negative: of none.
    void execute_launch(std::uint64_t position, std::uint64_t kernel_id, const HostKernel& kernel, Dim3 grid,
                        Dim3 block, const std::byte* at, std::int64_t node = -1) noexcept;
    bool execute_wait(const WaitOp& wait) noexcept;
    bool execute_recorded(std::uint64_t position, const GraphSequence& sequence) noexcept;
    bool completed(std::uint64_t end) noexcept;
    // sync: STOP (pairs with ~HostStream).
    bool stopping() const noexcept { return stop.load(std::memory_order_seq_cst); }

    const std::uint64_t id;
    SharedU64* const page_completed;
    const std::shared_ptr<Progress> progress;

    // The dispatch thread.
    std::uint64_t last_end;          // of the last operation taken
    std::uint64_t tail_here = 0;     // `tail`, or one more while an operation is put in place
    std::uint64_t head_seen = 0;     // `head`, as last read
    std::uint64_t params_used = 0;   // how far the parameter ring is used, never masked
    std::uint64_t params_freed = 0;  // up to where the worker no longer needs it

    std::vector<Op> ops;
    const std::size_t param_bytes;
    std::byte* const params;

    alignas(kCacheLine) std::atomic<std::uint64_t> tail{0};  // the dispatch thread: operations handed over
    alignas(kCacheLine) std::atomic<std::uint64_t> head{0};  // the worker: operations done with
    std::atomic<Phase> phase{Phase::idle};
    Parker parker;                  // the worker sleeps here
    std::atomic<bool> stop{false};  // the stream is being destroyed: begin nothing more

    std::mutex ended_lock;
    std::condition_variable ended_changed;
    bool ended = false;     // under the lock: the worker touches nothing more
    bool given_up = false;  // under the lock: nobody waits for it any more
};

// A free place in the queue; null: there is none now.
Op* HostStream::State::place(std::uint64_t position, std::uint64_t end) noexcept {
    if (tail_here - head_seen == ops.size()) {
        // sync: HEAD (pairs with run): the worker no longer looks at the places before it.
        head_seen = head.load(std::memory_order_acquire);
        if (tail_here - head_seen == ops.size()) return nullptr;
    }
    Op& free = op(tail_here);
    free.position = position;
    free.end = end;
    free.params_begin = params_used;
    return &free;
}

// Copies the parameters to where the worker finds them, in one piece; false: there is no room now.
bool HostStream::State::place_params(const Launch& launch, std::uint32_t& offset) noexcept {
    std::uint64_t begin = params_used;
    const std::uint64_t to_end = param_bytes - (begin & (param_bytes - 1));
    if (launch.param_bytes > to_end) begin += to_end;
    const std::uint64_t end =
        (begin + launch.param_bytes + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
    if (end - params_freed > param_bytes) {
        head_seen = head.load(std::memory_order_acquire);  // sync: HEAD, as in place
        params_freed = head_seen == tail_here ? params_used : op(head_seen).params_begin;
        if (end - params_freed > param_bytes) return false;
    }
    offset = static_cast<std::uint32_t>(begin & (param_bytes - 1));
    if (launch.param_bytes != 0) std::memcpy(params + offset, launch.params, launch.param_bytes);
    params_used = end;
    return true;
}

// Hands the operation at tail_here over.
void HostStream::State::publish() noexcept {
    last_end = op(tail_here).end;
    // sync: TAIL (pairs with run and wait_for_work): the operation is there before the count. Sequentially
    // consistent for the sake of PARK: the worker's flag is read after it.
    tail.store(++tail_here, std::memory_order_seq_cst);
}

void HostStream::State::run() noexcept {
    const FaultStack stack;
    for (std::uint64_t at = 0; wait_for_work(at);) {
        // sync: TAIL (pairs with publish).
        for (const std::uint64_t until = tail.load(std::memory_order_acquire); at < until; ++at) {
            Op& now = op(at);
            const std::uint64_t end = now.end;
            if (stopping() || !execute(now) || !completed(end)) return;
            now.work.emplace<std::monostate>();
            // sync: HEAD (pairs with place and place_params).
            head.store(at + 1, std::memory_order_release);
        }
    }
}

// Until there is an operation at `at`; false: the stream is being destroyed.
bool HostStream::State::wait_for_work(std::uint64_t at) noexcept {
    static const int spins = spins_of_this_machine();
    for (int i = 0; i < spins; ++i) {
        if (tail.load(std::memory_order_acquire) != at) return true;  // sync: TAIL (pairs with publish)
        relax_cpu();
    }
    while (!stopping()) {
        if (tail.load(std::memory_order_seq_cst) != at) return true;  // sync: TAIL (pairs with publish)
        parker.prepare();
        if (tail.load(std::memory_order_seq_cst) == at && !stopping())  // sync: PARK
            parker.sleep(Parker::kForever);
        else
            parker.cancel();
    }
    return false;
}

// False: the stream is being destroyed, and the operation did not run to its end.
bool HostStream::State::execute(Op& now) noexcept {
    if (const auto* launch = std::get_if<LaunchOp>(&now.work)) {
        execute_launch(now.position, launch->kernel_id, *launch->kernel, launch->grid, launch->block,
                       params + launch->params);
    } else if (const auto* graph = std::get_if<GraphOp>(&now.work)) {
        return execute_graph(*graph->graph);
    } else if (const auto* copy = std::get_if<Copy>(&now.work)) {
        set_running({id, now.position, 0, "a copy"});
        run_copy(*copy);
        clear_running();
    } else if (const auto* fill = std::get_if<Fill>(&now.work)) {
        set_running({id, now.position, 0, "a fill"});
        run_fill(*fill);
        clear_running();
    } else if (const auto* wait = std::get_if<WaitOp>(&now.work)) {
        return execute_wait(*wait);
    } else if (auto* recorded = std::get_if<RecordedOp>(&now.work)) {
        if (!execute_recorded(now.position, recorded->copy->sequence)) return false;
        // sync: PINS (pairs with HostGraph::current): it may be written from here on.
        recorded->copy->pins.fetch_sub(1, std::memory_order_release);
    }
    return true;
}

bool HostStream::State::execute_recorded(std::uint64_t position, const GraphSequence& sequence) noexcept {
    for (std::size_t i = 0; i < sequence.size(); ++i) {
        if (stopping()) return false;
        if (const auto* launch = std::get_if<Launch>(&sequence.node(i))) {
            execute_launch(position, launch->kernel_id, static_cast<const HostKernel&>(*launch->kernel),
                           launch->grid, launch->block, launch->params, static_cast<std::int64_t>(i));
        } else if (const auto* copy = std::get_if<Copy>(&sequence.node(i))) {
            set_running({id, position, 0, "a copy of a graph"});
            run_copy(*copy);
            clear_running();
        } else {
            set_running({id, position, 0, "a fill of a graph"});
            run_fill(std::get<Fill>(sequence.node(i)));
            clear_running();
        }
    }
    return true;
}

void HostStream::State::execute_launch(std::uint64_t position, std::uint64_t kernel_id,
                                       const HostKernel& kernel, Dim3 grid, Dim3 block, const std::byte* at,
                                       std::int64_t node) noexcept {
    const kernel_abi::HostLaunch call{{grid.x, grid.y, grid.z},
                                      {block.x, block.y, block.z},
                                      reinterpret_cast<const unsigned char*>(at),
                                      0,
                                      std::uint64_t{grid.x} * grid.y * grid.z};
    set_running({id, position, kernel_id, kernel.layout().name.c_str(), node});
    kernel.run()(&call);
    clear_running();
}

// Each node completes by itself, so that a death in a chain is that of its launch; the last one with the
// operation.
bool HostStream::State::execute_graph(const MemoryGraph& graph) noexcept {
    const std::span<const MemoryGraph::Node> nodes = graph.nodes();
    for (const MemoryGraph::Node& node : nodes) {
        const Launch& launch = node.launch;
        if (stopping()) return false;
        execute_launch(launch.position, launch.kernel_id, static_cast<const HostKernel&>(*launch.kernel),
                       launch.grid, launch.block, node.params);
        if (&node != &nodes.back() && !completed(launch.end)) return false;
    }
    return true;
}

bool HostStream::State::execute_wait(const WaitOp& wait) noexcept {
    if (wait.awaited->completed() >= wait.position) return true;
    if (wait.awaited->watch(wait.position, parker)) {
        // The dispatch thread wakes the worker for new operations, too: look again each time.
        while (wait.awaited->completed() < wait.position && !stopping()) {
            parker.prepare();
            if (wait.awaited->completed() < wait.position && !stopping())  // sync: PARK
                parker.sleep(Parker::kForever);
            else
                parker.cancel();
        }
        wait.awaited->unwatch(parker);
    }
    return wait.awaited->completed() >= wait.position;
}

// Tells everybody; false: this worker was given up on meanwhile, and touches nothing more.
bool HostStream::State::completed(std::uint64_t end) noexcept {
    // sync: PHASE (pairs with ~HostStream): either that waits until we have published, or we see that we must
    // not.
    if (phase.exchange(Phase::publishing, std::memory_order_seq_cst) == Phase::abandoned) return false;
    // sync: COMPLETED (pairs with RingProducer::reserve and with clients that wait): what the operation wrote
    // happens before its completion is seen.
    page_completed->store(end, std::memory_order_release);
    progress->advance(end);
    phase.store(Phase::idle, std::memory_order_release);  // sync: PHASE (pairs with ~HostStream)
    return true;
}

HostStream::HostStream(const StreamConfig& config, int completion_fd,
                       std::shared_ptr<std::atomic<int>> abandoned, GraphBudget& budget)
    : state_(std::make_shared<State>(config)),
      completion_fd_(completion_fd),
      abandoned_(std::move(abandoned)) {
    if (config.coalesce) graphs_.emplace(Graphs(*state_), budget);
    // sync: COMPLETED, as in State::completed.
    config.completed->store(config.position, std::memory_order_release);
    const SignalsBlocked blocked;
    try {
        worker_ = std::thread([state = state_, counter = abandoned_] {
            ::pthread_setname_np(::pthread_self(), "rl-stream");
            state->run();
            bool given_up = false;
            {
                const std::scoped_lock hold(state->ended_lock);
                state->ended = true;
                given_up = state->given_up;
            }
            state->ended_changed.notify_all();
            // sync: ABANDONED (pairs with HostModule::close and ~HostDriver).
            if (given_up) counter->fetch_sub(1, std::memory_order_release);
        });
    } catch (const std::system_error& error) {
        throw Error(Status::limit_reached,
                    std::string("cannot start the thread of a stream: ") + error.what());
    }
}

HostStream::~HostStream() {
    // sync: STOP (pairs with stopping), and PARK.
    state_->stop.store(true, std::memory_order_seq_cst);
    state_->parker.wake();
    {
        std::unique_lock hold(state_->ended_lock);
        if (state_->ended_changed.wait_for(hold, kGiveUpAfter, [&] { return state_->ended; })) {
            hold.unlock();
            worker_.join();
            return;
        }
        state_->given_up = true;
        // relaxed: the worker counts down after it has had this lock.
        abandoned_->fetch_add(1, std::memory_order_relaxed);
    }
    // sync: PHASE (pairs with State::completed). The worker publishes for an instant at most.
    for (Phase idle = Phase::idle;
         !state_->phase.compare_exchange_weak(idle, Phase::abandoned, std::memory_order_seq_cst);
         idle = Phase::idle)
        std::this_thread::yield();
    worker_.detach();
}

bool HostStream::Graphs::make(Graph& graph, std::span<const Launch> launches) noexcept {
    try {
        graph = std::make_shared<MemoryGraph>(launches.size());
    } catch (const std::bad_alloc&) {
        return false;
    }
    graph->write(launches);
    return true;
}

// What is not in flight has completed, and from then on the worker does not look at the nodes.
bool HostStream::Graphs::running(const Graph& graph) const noexcept {
    return state_.progress->completed() < graph->end();
}

bool HostStream::Graphs::retarget(Graph& graph, std::span<const Launch> launches) noexcept {
    graph->write(launches);
    return true;
}

bool HostStream::Graphs::launch(const Graph& graph) noexcept {
    Op* const op = state_.place(graph->position(), graph->end());
    if (op == nullptr) return false;
    op->work = GraphOp{graph};
    state_.publish();
    return true;
}

// Into the queue, without waking the worker.
Status HostStream::put(const Launch& launch) noexcept {
    if (graphs_ && graphs_->launch(launch)) return Status::ok;
    Op* const op = state_->place(launch.position, launch.end);
    std::uint32_t params = 0;
    if (op == nullptr || !state_->place_params(launch, params)) return Status::ring_full;
    op->work = LaunchOp{static_cast<HostKernel*>(launch.kernel), launch.kernel_id, launch.grid, launch.block,
                        params};
    state_->publish();
    return Status::ok;
}

Status HostStream::launch(const Launch& launch) noexcept {
    const Status status = put(launch);
    state_->ring();
    return status;
}

Status HostStream::launch_chain(std::span<const Launch> launches, std::size_t& taken) noexcept {
    const Status status = launch_each(
        graphs_ ? &*graphs_ : nullptr, launches, taken, [this](const Launch& each) { return put(each); },
        [](std::span<const Launch>) {});
    state_->ring();
    return status;
}

void HostStream::forget(const Module& module) noexcept {
    if (graphs_) graphs_->forget(module);
}

void HostStream::forget_all() noexcept {
    if (graphs_) graphs_->forget_all();
}

Status HostStream::copy(const Copy& copy) noexcept {
    Op* const op = state_->place(copy.position, copy.end);
    if (op == nullptr) return Status::ring_full;
    op->work = copy;
    state_->publish();
    state_->ring();
    return Status::ok;
}

Status HostStream::fill(const Fill& fill) noexcept {
    Op* const op = state_->place(fill.position, fill.end);
    if (op == nullptr) return Status::ring_full;
    op->work = fill;
    state_->publish();
    state_->ring();
    return Status::ok;
}

Status HostStream::launch_graph(Graph& graph, std::uint64_t position, std::uint64_t end) noexcept {
    Op* const op = state_->place(position, end);
    std::shared_ptr<HostGraph::Copy> copy;
    if (op != nullptr) copy = static_cast<HostGraph&>(graph).current();
    if (copy == nullptr) {
        state_->ring();
        return Status::ring_full;
    }
    copy->pins.fetch_add(1, std::memory_order_relaxed);  // relaxed: TAIL hands it over
    op->work = RecordedOp{std::move(copy)};
    state_->publish();
    state_->ring();
    return Status::ok;
}

Status HostStream::wait(Stream& awaited, std::uint64_t position, std::uint64_t end) noexcept {
    const State& other = *static_cast<HostStream&>(awaited).state_;
    if (other.last_end < position) return Status::invalid_argument;
    Op* const op = state_->place(end, end);
    if (op == nullptr) return Status::ring_full;
    op->work = WaitOp{other.progress, position};
    state_->publish();
    state_->ring();
    return Status::ok;
}

// The worker publishes each operation by itself; what lies after the last one needs a place of its own.
Status HostStream::complete(std::uint64_t position) noexcept {
    if (position <= state_->last_end) return Status::ok;
    Op* const op = state_->place(position, position);
    if (op == nullptr) return Status::ring_full;
    op->work.emplace<std::monostate>();
    state_->publish();
    state_->ring();
    return Status::ok;
}

bool HostStream::notify_at(std::uint64_t position) noexcept {
    state_->progress->notify(position, completion_fd_);
    return true;
}

bool HostStream::drain(std::uint64_t timeout_ns) noexcept {
    using Clock = std::chrono::steady_clock;
    Progress& progress = *state_->progress;
    const std::uint64_t last = state_->last_end;
    const auto until =
        Clock::now() + std::chrono::nanoseconds(std::min<std::uint64_t>(timeout_ns, INT64_MAX / 4));
    Parker parker;
    if (!progress.watch(last, parker)) return true;
    for (auto now = Clock::now(); progress.completed() < last && now < until; now = Clock::now()) {
        parker.prepare();
        if (progress.completed() < last)  // sync: PARK
            parker.sleep(until - now);
        else
            parker.cancel();
    }
    progress.unwatch(parker);
    return progress.completed() >= last;
}

}  // namespace ringlaunch::driver
