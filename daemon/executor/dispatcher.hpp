// The dispatcher: one turn after another it takes records out of the rings, copies, validates and issues
// them, sees to completions, and wakes who waits.
//
// Not thread-safe and without a thread of its own: DispatchThread runs it, a test may call it step by step.
// Everything is called by one thread at a time. do_work() allocates nothing unless it has to report a stop,
// makes no system call but the write that wakes a sleeper, and throws nothing.
//
// Order within a turn of a stream, and what a crash leaves: `issued` is stored before the driver is called,
// so a record that may have begun to run is never taken for one that has not (law 6). A record leaves the
// ring's head only after the driver took it; what the driver has no room for now is met again, whole, in a
// later turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/memory_map.hpp"
#include "daemon/executor/stream_port.hpp"
#include "daemon/executor/validation.hpp"

namespace ringlaunch::executor {

struct DispatcherConfig {
    std::uint32_t max_in_flight = 256;  // issued minus completed, records a stream
    std::uint32_t max_batch = 64;       // records of one stream in one turn
    // In all; 0: twice max_in_flight. From there on each stream has its share, an eighth of max_in_flight at
    // least.
    std::uint32_t max_in_flight_all = 0;
    bool coalesce = true;  // launches in a row go to the driver together, for streams that let them
    // The longest sleeps: without and with work at the device that somebody waits for (a device that fails
    // may never signal what it was asked to). Negative: for ever.
    int longest_sleep_ms = 1000;
    int armed_sleep_ms = 100;
};

// What the control thread has to be told.
struct Notice {
    enum class Kind : std::uint8_t {
        stream_stopped,   // id: the stream
        barrier_reached,  // id: the barrier
    };
    Kind kind;
    std::uint64_t id;
};

class Dispatcher {
  public:
    // `device_lost` is called when the device has failed for good; where the executor is a process of its own
    // it does not return.
    Dispatcher(const DispatcherConfig& config, driver::Driver& driver, const MemoryMap& memory,
               std::function<void(const std::string&)> device_lost = {});

    // One turn for every stream, and more for those of a greater priority than others. True: something was
    // taken, stopped, woken or reached; false: nothing is to do now.
    bool do_work() noexcept;

    // ---- sleeping (schema/wakeup.hpp says in which order)
    void announce_sleep() noexcept;
    void announce_awake() noexcept;
    // After the last look before sleep: has the driver signal what this dispatcher waits for. Returns the
    // longest sleep in microseconds (negative: for ever): short where no driver tells when it is over, 0
    // where something completed since that look.
    std::int64_t arm() noexcept;
    // The driver's completion descriptor was signalled: what was armed has to be armed anew.
    void disarm() noexcept;
    void heartbeat(std::uint64_t at_ns) noexcept;
    // Has the device failed for good? Then tells whoever wants to know.
    void look_at_device() noexcept;

    // ---- changes, between turns
    void add(StreamPort& stream);
    // The stream must have nothing in flight, and nobody who waits for it (close() and its barrier saw to
    // that).
    void remove(StreamPort& stream);
    void release(StreamPort& stream, std::uint64_t single_until = 0) noexcept;
    // Goes on at `position`. Throws Error{invalid_argument} for a stream that is not stopped or held, or a
    // position that cannot be.
    void resume(StreamPort& stream, std::uint64_t position);
    // How many slots does the record at `position` have? Throws Error where no whole record stands there.
    std::uint32_t measure(const StreamPort& stream, std::uint64_t position) const;
    // Takes nothing more; barrier `id` is reached when all its work, and whoever waits on it in the driver,
    // is through.
    void close(StreamPort& stream, std::uint64_t id);
    // Barrier `id` is reached when all that was issued by the streams of `session` (null: all) has completed.
    void begin_barrier(const SessionView* session, std::uint64_t id);

    // The module is about to be unloaded; nothing of it is in flight.
    void forget(const driver::Module& module) noexcept;
    // Nothing is in flight: see driver::Stream::forget_all.
    void forget_all() noexcept;
    // Streams have no more on the device than one burst of a millisecond or so: see burst.hpp.
    void keep_shallow(bool on) noexcept;
    // Issues nothing more before let_issue() was called as often. What is in flight completes.
    void hold_issue() noexcept;
    void let_issue() noexcept {
        if (issue_holds_ != 0) --issue_holds_;
    }

    // Null: no such stream.
    StreamPort* find(std::uint64_t id) const noexcept;
    std::vector<Notice>& notices() noexcept { return notices_; }
    std::size_t stream_count() const noexcept { return streams_.size(); }
    std::uint64_t in_flight() const noexcept { return in_flight_all_; }
    // Any thread: since when a sleeper's eventfd has been being written; 0: none is.
    std::uint64_t writing_since_ns() const noexcept {
        return writing_since_ns_.load(std::memory_order_relaxed);  // relaxed: a time, nothing else
    }
    // As of the last turn.
    bool nothing_in_flight() const noexcept { return in_flight_all_ == 0; }
    // As of now: whoever sleeps may not have looked since the device was through.
    bool look_whether_through() noexcept;

  private:
    struct Barrier {
        std::uint64_t id;
        std::vector<std::pair<StreamPort*, std::uint64_t>> until;
    };
    enum class Step : std::uint8_t {
        taken,
        retry,
        ended
    };  // ended: the stream stopped, or is held for an event
    enum class WaitAnswer : std::uint8_t { satisfied, issue, hold, refuse };
    struct Closed {
        std::uint64_t session, final_position;
    };

    bool turn(StreamPort& stream) noexcept;
    bool take(StreamPort& stream) noexcept;
    Step flush(StreamPort& stream, std::uint32_t wanted) noexcept;
    Step take_one(StreamPort& stream, const RecordCopy& copy) noexcept;
    Step take_padding(StreamPort& stream, const RecordCopy& copy) noexcept;
    Step take_event(StreamPort& stream, const RecordCopy& copy) noexcept;
    Step take_wait(StreamPort& stream, const RecordCopy& copy) noexcept;
    Step take_graph_launch(StreamPort& stream, const RecordCopy& copy) noexcept;
    Step take_graph_update(StreamPort& stream, const RecordCopy& copy) noexcept;
    Graph* find_graph(StreamPort& stream, const RecordCopy& copy, std::uint64_t id) noexcept;
    void refuse_node(StreamPort& stream, const RecordCopy& copy, const RecordCopy& record, Status status,
                     const Graph& graph, std::uint32_t node, const char* what) noexcept;
    // Issues a copy or a fill: `call` asks the driver. `bytes` 0: there is nothing to ask.
    template <class Call>
    Step issue(StreamPort& stream, const RecordCopy& copy, std::uint64_t bytes, Call&& call) noexcept;
    void note_issued(StreamPort& stream, std::uint64_t first, std::uint64_t end) noexcept;
    Step answer(StreamPort& stream, const RecordCopy& copy, Status status) noexcept;

    WaitAnswer look_at_wait(const StreamPort& stream, std::uint64_t at, const Wait& wait,
                            StreamPort*& awaited, Status& why) const noexcept;
    static WaitAnswer look_at_watched(const WatchedStream& watched, std::uint64_t position,
                                      Status& why) noexcept;
    static std::int64_t watch_sleep_us(StreamPort& stream) noexcept;
    bool closes_cycle(const StreamPort& stream, const Wait& wait) const noexcept;
    bool go_on_after_wait(StreamPort& stream) noexcept;

    void retire(StreamPort& stream, std::uint64_t completed) noexcept;
    void settle(StreamPort& stream) noexcept;
    bool wake_sleeper(StreamPort& stream) noexcept;
    void write_wake(StreamPort& stream) noexcept;
    bool look_at_barriers() noexcept;
    std::uint32_t own_room(const StreamPort& stream) const noexcept;
    std::uint32_t room(const StreamPort& stream) const noexcept;
    bool gathers(StreamPort& stream) const noexcept;
    void sample_enqueue(StreamPort& stream, std::uint64_t first, std::uint64_t end) noexcept;

    void refuse(StreamPort& stream, const RecordCopy& copy, Status status,
                const char* detail = nullptr) noexcept;
    // `launch` null: it was no launch. `why` null: the stream knows it.
    void driver_refused(StreamPort& stream, std::uint64_t position, const driver::Launch* launch,
                        const char* what, Status status, const char* why = nullptr) noexcept;
    void stop(StreamPort& stream, Status status, std::uint64_t position, std::uint64_t kernel) noexcept;
    Bounds bounds(const StreamPort& stream) const noexcept { return {stream.session, memory_, limits_}; }

    const DispatcherConfig config_;
    driver::Driver& driver_;
    const MemoryMap& memory_;
    const DeviceLimits limits_;
    const std::function<void(const std::string&)> device_lost_;

    std::vector<StreamPort*> streams_;  // the greater priority first
    std::unordered_map<std::uint64_t, StreamPort*> by_id_;
    // Streams that closed, so that an event of one can still be waited for. The oldest are forgotten.
    std::unordered_map<std::uint64_t, Closed> closed_;
    std::vector<std::uint64_t> closed_order_;
    std::size_t closed_next_ = 0;

    std::vector<Barrier> barriers_;
    std::vector<Notice> notices_;
    std::uint64_t in_flight_all_ = 0;
    std::uint64_t sleep_ = 0;  // the number of the last sleep announced
    std::atomic<std::uint64_t> writing_since_ns_{0};
    std::uint32_t issue_holds_ = 0;
    bool shallow_ = false;
    std::uint32_t graph_nodes_ = 0;  // of the graph launched last, beyond one: a turn's worth too
    bool all_limited_ = false;       // the bound in all, not its own, kept a stream back this turn

    // The batch: records copied out of a ring and the launches made of them, which point into the copies.
    std::unique_ptr<RecordCopy[]> copies_;
    std::unique_ptr<driver::Launch[]> launches_;
    // This batch's counts, added to the page once a turn.
    struct Counts {
        std::uint64_t records = 0, launches = 0, copies = 0, copied_bytes = 0, fills = 0, events = 0,
                      waits = 0, paddings = 0;
    };
    Counts counts_;
};

}  // namespace ringlaunch::executor
