// The dispatch thread: runs the dispatcher, sleeps when there is nothing to do, and is where the control
// thread's changes happen.
//
// Hand-over. Control thread -> dispatch thread: while that sleeps, the dispatcher is free for whoever locks
// it: call() runs its function there and then, and wakes the thread, which looks at everything anew. Else
// call() queues the function under a mutex, sets a flag and writes an eventfd; the dispatch thread looks at
// the flag once a turn and takes the mutex only when it is set. While a function runs, the dispatcher is
// between two turns and uses nothing: what it no longer knows when call() returns, it will never touch again.
// Dispatch thread -> control thread: notices go into a queue under the same mutex, and an eventfd that the
// control thread polls says that there are some; a notice is rare (a stop, a barrier).
//
// Sleep. Spin for `spin_ns`, then the steps of schema/wakeup.hpp. The eventfds are watched edge-triggered and
// never read: clients hold them as well and could make a read block. A write between two sleeps is an edge of
// its own, which the next epoll_wait reports at once, so not reading loses nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/executor/dispatcher.hpp"
#include "daemon/executor/shared_cpu.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

class DispatchThread {
  public:
    struct Config {
        DispatcherConfig dispatcher;
        std::uint64_t spin_ns = 50'000;
        bool membarrier = true;  // false: fence, and producers fence too
    };
    // `device_lost` is called on the dispatch thread when the device has failed for good; it does not return
    // where the executor is a process of its own.
    DispatchThread(const Config& config, driver::Driver& driver, const MemoryMap& memory,
                   std::function<void(const std::string&)> device_lost);
    ~DispatchThread();

    void start();
    // Returns once the thread has ended. start(), stop() and call() belong to one thread, the control thread.
    void stop();

    // Runs `change` between two turns and returns when it has run. Passes on what it throws.
    void call(const std::function<void(Dispatcher&)>& change);

    // A session's doorbell; the descriptor must stay open until unwatch().
    void watch(int doorbell);
    void unwatch(int doorbell);

    // Control thread, about once a second: frees the dispatch thread from a client that makes it block.
    void rescue() noexcept;

    // Readable when there are notices.
    int notice_fd() const { return notice_event_.get(); }
    std::vector<Notice> take_notices();

    // How often it went to sleep, for tests and operators.
    std::uint64_t sleeps() const { return sleeps_.load(std::memory_order_relaxed); }

  private:
    struct Change {
        const std::function<void(Dispatcher&)>* run;
        bool done = false;
        std::exception_ptr failed;
    };

    void loop();
    void run_changes();
    bool call_asleep(const std::function<void(Dispatcher&)>& change);
    void pass_notices();
    void beat(std::uint64_t now);
    void spin(std::uint32_t round);
    void sleep();
    bool look();

    const Config config_;
    driver::Driver& driver_;
    Dispatcher dispatcher_;
    std::mutex awake_;  // held by the thread but for while it waits: whoever has it may use dispatcher_
    SharedCpu cpu_;
    UniqueFd epoll_, change_event_, notice_event_;

    std::mutex mutex_;  // changes_, notices_
    std::condition_variable changed_;
    std::vector<Change*> changes_;
    std::vector<Notice> notices_;
    std::atomic<bool> pending_{false};  // changes_ is not empty, or stop_ was set
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> sleeps_{0};
    std::uint64_t next_heartbeat_ns_ = 0;
    std::thread thread_;
};

}  // namespace ringlaunch::executor
