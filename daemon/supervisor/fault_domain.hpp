// One executor and the lives it has: starts it, asks it, keeps what it was asked across its death, and starts
// the next.
//
// It knows nothing of sessions' contents: its owner sets a new executor up (restore) and decides what a death
// means.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/supervisor/death.hpp"
#include "daemon/supervisor/executor_process.hpp"
#include "daemon/supervisor/placement.hpp"
#include "daemon/supervisor/supervisor.hpp"
#include "executor_control_generated.h"
#include "schema/error.hpp"
#include "schema/pages.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::supervisor {

struct Reply {
    Status status = Status::ok;
    std::string error;
    const internal::FromExecutor* message = nullptr;  // null: nobody answered, or the executor is gone
    std::vector<UniqueFd> fds;
};

// A request for the executor. Built when it is sent, and again for the next executor, from what is true then.
struct Call {
    enum class OnDeath {
        repeat,   // asked again of the next executor; after kMaxAttempts answered executor_lost
        settled,  // what it asked for has come about: answered ok
        drop,     // not answered: the next executor is set up anew anyway
    };
    struct Wire {
        flatbuffers::FlatBufferBuilder builder;
        internal::ExecutorRequest kind{};
        flatbuffers::Offset<void> request;
        std::vector<int> fds;  // borrowed until it has been sent
    };
    std::uint64_t session = 0;  // 0: of nobody
    OnDeath on_death = OnDeath::repeat;
    std::uint64_t risk_of = 0;  // not 0: loads a module that this session brought, whose code may run
    // False: there is nothing (any more) to ask for; answered ok. May throw Error: answered with that.
    std::function<bool(Wire&)> make;
    std::function<void(Reply&)> done;

    std::uint64_t module = 0;      // loads the module with this key; 0: none
    std::uint64_t timeout_ms = 0;  // of a part of the restore; 0: a start's

    std::uint32_t attempts = 0;
    bool restore = false;  // the domain counts it
};

class FaultDomain {
  public:
    static constexpr std::uint32_t kMaxAttempts = 3;
    enum class State {
        resting,    // no executor: waits for its delay, or for its first call
        starting,   // not configured yet
        restoring,  // the owner sets it up
        ready,
        leaving,
    };

    class Owner {
      public:
        virtual ~Owner() = default;
        virtual std::uint32_t next_epoch() = 0;
        // The executor is configured: issue the calls that set it up (restore_call), then finish_restore().
        virtual void on_started(FaultDomain& domain, const internal::Ready& ready) = 0;
        virtual void on_ready(FaultDomain& domain) = 0;
        virtual void on_stream_stopped(FaultDomain& domain, std::uint64_t stream) = 0;
        // It was reaped. Answers the delay before the next one in ms, or nothing where none is wanted.
        virtual std::optional<std::uint64_t> on_death(FaultDomain& domain, Death& death) = 0;
        // There will be no executor (`driver`: the driver said no): its sessions are let go, and told `text`.
        virtual void on_unusable(FaultDomain& domain, bool driver, const std::string& text) = 0;
        virtual void on_left(FaultDomain& domain) = 0;
        // Has everything that was issued completed, but for what closed streams left behind?
        virtual bool nothing_in_doubt(const FaultDomain& domain) = 0;
        // When its dispatch thread last gave a sign of life, CLOCK_MONOTONIC in ns; 0: it serves no stream.
        virtual std::uint64_t last_heartbeat_ns(const FaultDomain& domain) = 0;
    };

    FaultDomain(boost::asio::io_context& io, const SupervisorOptions& options, const DomainKey& key,
                Owner& owner);
    ~FaultDomain();

    const DomainKey& key() const { return key_; }
    State state() const { return state_; }
    std::uint32_t epoch() const { return epoch_; }
    int pid() const { return process_ ? process_->pid() : 0; }
    std::uint32_t restarts() const { return restarts_; }
    const std::string& last_death() const { return last_death_; }
    std::uint64_t started_ns() const { return started_ns_; }
    int device() const { return key_.device; }
    std::string name() const {
        return domain_name(key_) + (key_.device == 0 ? "" : " on device " + std::to_string(key_.device));
    }

    void start();  // if it is resting, and no delay runs
    void start_after(std::uint64_t delay_ms);
    bool delayed() const { return state_ == State::resting && delayed_; }  // starts after a delay
    // Starts at once what starts after a delay. What was left of that in ms.
    std::uint64_t cut_delay();
    // Asked when the executor is ready, in order; at once where it is.
    void call(Call call);
    // While restoring: asked now, before everything that waits.
    void restore_call(Call call);
    // After the last restore_call(): ready once all of them have been answered.
    void finish_restore();
    // Calls of a session that wait, those that run its code included: it goes to another domain.
    std::vector<Call> take_calls(std::uint64_t session);
    // Calls of a session that has ended are forgotten, unanswered.
    void forget_calls(std::uint64_t session);
    bool has_process() const { return process_ != nullptr; }

    // The next executor serves sessions that `before` served: it is waited for as if it had been ready.
    void take_over_from(const FaultDomain& before) { was_ready_ = before.was_ready_; }
    // A part of this session could not be restored. The rest is restored all the same, so that it is known
    // whose can be; then this life ends.
    void cannot_restore(std::uint64_t session, Status status, const std::string& why);
    // How often and why the next executor could not be started so far; empty: it was, or is under way.
    std::string failure() const;

    // Ends this life: `stream` is to blame (0: nobody is).
    void kill(const std::string& why, std::uint64_t stream);
    // The same for work that takes too long.
    void end_late(const std::string& why, std::uint64_t stream,
                  const std::optional<RecordsInFlight>& records);
    // Ends this life for work that closed stream `stream` left behind and that does not end. The others' work
    // in flight completes first, for a bounded time, and nothing more is issued: so they have nothing in
    // doubt.
    void end_abandoned(const std::string& why, std::uint64_t stream);
    // Ends it for good.
    void leave();

    struct Refusal {
        Status status = Status::ok;
        std::string why;
    };
    // Sessions that this life could not restore, and the first reason of each. Those that the owner takes out
    // at the death are elsewhere: then the next life begins at once.
    std::map<std::uint64_t, Refusal> unrestored;

    std::set<std::uint64_t> loaded;  // module keys; forgotten at a death
    std::map<std::uint64_t, std::vector<std::function<void(Reply&)>>> loading;  // who waits for a module

    std::uint64_t put_off_for = 0;  // the session in it for whose deaths the next start is delayed; 0: none
    std::uint32_t deaths_without_culprit = 0;  // in a row
    std::uint64_t probationer = 0;             // the stream that is being rerun alone
    bool strict_probation = false;             // and all others are held meanwhile
    std::uint64_t first_suspect = 0;           // which then is rerun first
    std::uint64_t probation_since_ns = 0;

  private:
    void spawn();
    void issue(Call call);
    void pump();
    void on_message(Message& message);
    void on_exit(const ExitInfo& exit);
    void schedule(std::uint64_t delay_ms);
    void cannot_start(const std::string& why);
    void failed_start(const std::string& text);
    void blame_restore(std::map<std::uint32_t, Call>& sent, std::uint32_t was_loading, const Death& death);
    std::uint32_t kills_at(std::uint64_t module);
    std::string tries() const;  // "3 tries in 12 s"
    void ping();
    void wait_start();
    void watch_drain(const OwnKill& reason, std::uint64_t deadline_ns);
    bool send(Call& call, std::uint32_t id);

    boost::asio::io_context& io_;
    const SupervisorOptions& options_;
    DomainKey key_;
    Owner& owner_;
    State state_ = State::resting;
    std::shared_ptr<ExecutorProcess> process_;
    UniqueFd fault_fd_;
    Mapping fault_page_;
    OwnKill own_kill_;
    boost::asio::steady_timer timer_;  // the delay, or the bound of a start
    boost::asio::steady_timer ping_timer_;
    boost::asio::steady_timer drain_timer_;
    bool ending_abandoned_ = false;   // end_abandoned() was called
    bool issue_held_ = false;         // and the executor issues nothing more
    std::uint64_t ping_sent_ns_ = 0;  // not 0: unanswered since
    std::uint64_t watching_ns_ = 0;   // since when this process has run without a long pause
    std::uint32_t epoch_ = 0;
    std::uint32_t restarts_ = 0;
    bool was_ready_ = false;  // this executor or one before it: its sessions may have something to lose
    std::uint32_t failed_starts_ = 0;     // in a row, and ...
    std::uint64_t failing_since_ns_ = 0;  // ... when the first of them was
    std::string last_failure_;            // why the last of them did
    std::string cannot_start_;            // why this life is being ended before it was ready
    std::uint64_t killed_loading_ = 0;    // the module during whose load tries were killed, and ...
    std::uint32_t kills_ = 0;             // ... how many in a row
    bool delayed_ = false;                // the timer will start it
    std::uint64_t started_ns_ = 0;
    std::string last_death_;
    std::uint32_t next_id_ = 1;
    std::deque<Call> urgent_;  // of the restore
    std::deque<Call> waiting_;
    std::map<std::uint32_t, Call> sent_;
    std::size_t restoring_ = 0;  // calls of the restore that are unanswered
    bool restore_complete_ = false;
    bool pumping_ = false;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace ringlaunch::supervisor
