#include "daemon/supervisor/fault_domain.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <system_error>
#include <utility>

#include "daemon/supervisor/clock.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

constexpr std::size_t kFaultPageBytes = kPageBytes;
constexpr std::chrono::milliseconds kInFlightPoll{2};
constexpr std::uint64_t kHeartbeatSlackNs = 3'000'000'000;  // it beats about once a second

std::span<const std::byte> bytes_of(const flatbuffers::FlatBufferBuilder& builder) {
    return {reinterpret_cast<const std::byte*>(builder.GetBufferPointer()), builder.GetSize()};
}

void answer(Call& call, Status status, const std::string& error) {
    if (!call.done) return;
    Reply reply;
    reply.status = status;
    reply.error = error;
    call.done(reply);
}

}  // namespace

FaultDomain::FaultDomain(boost::asio::io_context& io, const SupervisorOptions& options, const DomainKey& key,
                         Owner& owner)
    : io_(io), options_(options), key_(key), owner_(owner), timer_(io), ping_timer_(io), drain_timer_(io) {}

FaultDomain::~FaultDomain() {
    *alive_ = false;
    if (process_) {
        process_->forget();
        process_->kill();
    }
}

void FaultDomain::start() {
    if (state_ != State::resting || process_ || delayed_) return;
    spawn();
}

void FaultDomain::start_after(std::uint64_t delay_ms) {
    schedule(delay_ms);
}

std::uint64_t FaultDomain::cut_delay() {
    if (!delayed()) return 0;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(
        timer_.expiry() - boost::asio::steady_timer::clock_type::now());
    timer_.cancel();
    spawn();
    return left.count() > 0 ? static_cast<std::uint64_t>(left.count()) : 0;
}

void FaultDomain::schedule(std::uint64_t delay_ms) {
    state_ = State::resting;
    if (delay_ms == 0) return spawn();
    delayed_ = true;
    timer_.expires_after(std::chrono::milliseconds(delay_ms));
    timer_.async_wait([this, alive = alive_](const auto& error) {
        if (error || !*alive) return;
        if (state_ == State::resting && !process_) spawn();
    });
}

void FaultDomain::spawn() {
    state_ = State::starting;
    delayed_ = false;
    put_off_for = 0;
    own_kill_ = {};
    ending_abandoned_ = issue_held_ = false;
    restore_complete_ = false;
    restoring_ = 0;
    ping_sent_ns_ = 0;
    watching_ns_ = 0;
    cannot_start_.clear();
    unrestored.clear();
    epoch_ = owner_.next_epoch();
    started_ns_ = now_ns();
    try {
        // A page of its own for each life: what an earlier one left is not taken for this one's.
        fault_fd_ = make_memfd("fault", kFaultPageBytes);
        fault_page_ = Mapping(fault_fd_, kFaultPageBytes, Mapping::Access::read_write, "the fault page");
        seal(fault_fd_, Sealing::shared, "the fault page");
        new (fault_page_.data()) driver::FaultPage();
        process_ = std::make_shared<ExecutorProcess>(io_);
        process_->start(options_.executor_path, options_.executor_arguments,
                        {[this](Message& message) { on_message(message); },
                         [this] { restore_complete_ ? finish_restore() : pump(); },
                         [this](const ExitInfo& exit) { on_exit(exit); }});
    } catch (const std::system_error& error) {
        if (process_) process_->forget();
        process_.reset();
        return failed_start(std::string("cannot start an executor: ") + error.what());
    }
    spdlog::info("executor {} of {} started, epoch {}", process_->pid(), name(), epoch_);
    Call configure;
    configure.on_death = Call::OnDeath::drop;
    configure.make = [this](Call::Wire& wire) {
        wire.kind = internal::ExecutorRequest::Configure;
        const auto note = wire.builder.CreateString(options_.driver_note);
        wire.request = internal::CreateConfigure(wire.builder, options_.driver, key_.device, epoch_,
                                                 options_.spin_ns, options_.max_in_flight, options_.max_batch,
                                                 options_.coalesce, options_.close_timeout_ms,
                                                 options_.fault_dumps, options_.stack_bytes, note)
                           .Union();
        wire.fds = {fault_fd_.get()};
        return true;
    };
    configure.done = [this](Reply& reply) {
        if (state_ != State::starting) return;  // told to leave meanwhile
        const internal::Ready* ready = reply.message == nullptr ? nullptr : reply.message->answer_as_Ready();
        if (reply.status == Status::ok && ready != nullptr) {
            state_ = State::restoring;
            owner_.on_started(*this, *ready);
            return;
        }
        const std::string text =
            "the driver cannot be used: " +
            (reply.error.empty() ? "the executor's first answer is not Ready" : reply.error);
        if (was_ready_) return cannot_start(text);
        state_ = State::leaving;
        process_->kill();
        owner_.on_unusable(*this, true, text);
    };
    urgent_.push_front(std::move(configure));
    wait_start();
    ping();
    pump();
}

void FaultDomain::wait_start() {
    // It answers in order: the first that is unanswered is what it is at.
    const auto at = std::ranges::find_if(sent_, [](const auto& entry) { return entry.second.restore; });
    const bool own = at != sent_.end() && at->second.timeout_ms != 0;
    const std::uint64_t timeout_ms = own ? at->second.timeout_ms : options_.restart.start_timeout_ms;
    timer_.cancel();
    if (timeout_ms == 0) return;
    timer_.expires_after(std::chrono::milliseconds(timeout_ms));
    timer_.async_wait([this, alive = alive_, epoch = epoch_, own, timeout_ms](const auto& error) {
        if (error || !*alive || epoch != epoch_) return;
        if (state_ == State::starting || state_ == State::restoring)
            kill((own ? "a part of its sessions was not restored after " : "it was not ready after ") +
                     std::to_string(timeout_ms) + " ms",
                 0);
    });
}

void FaultDomain::call(Call call) {
    waiting_.push_back(std::move(call));
    if (state_ == State::ready) pump();
}

void FaultDomain::restore_call(Call call) {
    call.on_death = Call::OnDeath::drop;
    call.restore = true;
    ++restoring_;
    urgent_.push_back(std::move(call));
}

void FaultDomain::finish_restore() {
    const bool first = !std::exchange(restore_complete_, true);
    pump();
    if (first && state_ == State::restoring) wait_start();
    if (restoring_ != 0 || state_ != State::restoring || own_kill_.done) return;
    if (!unrestored.empty()) {
        const std::size_t others = unrestored.size() - 1;
        return cannot_start(
            unrestored.begin()->second.why +
            (others == 0 ? "" : "; nor could " + std::to_string(others) + " more of its sessions"));
    }
    timer_.cancel();
    state_ = State::ready;
    was_ready_ = true;
    failed_starts_ = 0;
    failing_since_ns_ = 0;
    killed_loading_ = 0;
    last_failure_.clear();
    owner_.on_ready(*this);
    pump();
}

bool FaultDomain::send(Call& call, std::uint32_t id) {
    Call::Wire wire;
    bool wanted;
    try {
        wanted = call.make(wire);
    } catch (const Error& error) {
        sent_.erase(id);
        answer(call, error.status(), error.what());
        return true;
    } catch (const std::system_error& error) {
        sent_.erase(id);
        answer(call, Status::internal_error, error.what());
        return true;
    }
    if (!wanted) {
        answer(call, Status::ok, "");
        return true;
    }
    wire.builder.Finish(internal::CreateToExecutor(wire.builder, id, wire.kind, wire.request));
    switch (process_->send(bytes_of(wire.builder), wire.fds)) {
        case Transfer::done:
            sent_.emplace(id, std::move(call));
            return true;
        case Transfer::would_block:
            return false;
        case Transfer::malformed:
        case Transfer::no_descriptors:
            answer(call, Status::invalid_argument,
                   "the request is longer than a control message may be (" +
                       std::to_string(kMaxControlBytes) +
                       " bytes); declare fewer signatures or shorter names");
            return true;
        case Transfer::closed:
            sent_.emplace(id, std::move(call));
            return true;  // its death says what becomes of it
    }
    return true;
}

void FaultDomain::pump() {
    if (pumping_) return;
    pumping_ = true;
    while (process_ && state_ != State::resting && !own_kill_.done) {
        std::deque<Call>* queue = !urgent_.empty() ? &urgent_ : state_ == State::ready ? &waiting_ : nullptr;
        if (queue == nullptr || queue->empty()) break;
        Call call = std::move(queue->front());
        queue->pop_front();
        if (next_id_ == 0) ++next_id_;
        const std::uint32_t id = next_id_++;
        const bool restore = call.restore;
        if (!send(call, id)) {
            queue->push_front(std::move(call));
            break;
        }
        if (restore && !sent_.contains(id)) --restoring_;  // answered without asking
    }
    pumping_ = false;
}

void FaultDomain::on_message(Message& message) {
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(message.bytes.data()),
                                   message.bytes.size());
    if (!verifier.VerifyBuffer<internal::FromExecutor>(nullptr)) {
        spdlog::error("executor {} of {} sent what is no message", pid(), name());
        return kill("it sent what is no message", 0);
    }
    const auto* from = flatbuffers::GetRoot<internal::FromExecutor>(message.bytes.data());
    if (from->id() == 0) {
        if (const auto* stopped = from->answer_as_StreamStopped())
            owner_.on_stream_stopped(*this, stopped->stream());
        return;
    }
    const auto at = sent_.find(from->id());
    if (at == sent_.end()) return;
    Call call = std::move(at->second);
    sent_.erase(at);
    Reply reply;
    reply.status = static_cast<Status>(from->status());
    if (from->error() != nullptr) reply.error = from->error()->str();
    reply.message = from;
    reply.fds = std::move(message.fds);
    if (call.done) call.done(reply);
    if (call.restore && restoring_ > 0) {
        --restoring_;
        if (state_ == State::restoring) wait_start();  // it gets on: the bound is each answer's
    }
    if (restore_complete_) finish_restore();
}

void FaultDomain::ping() {
    if (options_.ping_every_ms == 0) return;
    ping_timer_.expires_after(std::chrono::milliseconds(options_.ping_every_ms));
    const std::uint64_t due_ns = now_ns() + options_.ping_every_ms * kNsPerMs;
    const std::uint64_t bound_ns = options_.ping_timeout_ms * kNsPerMs;  // 0: none
    ping_timer_.async_wait([this, due_ns, bound_ns, alive = alive_, epoch = epoch_](const auto& error) {
        if (error || !*alive || epoch != epoch_ || !process_) return;
        const std::uint64_t now = now_ns();
        // What holds this process (a stopped service or container, a frozen machine) holds the executor too:
        // no silence of its own.
        if (now > due_ns + bound_ns / 2) watching_ns_ = now;
        const auto silent_for = [&](std::uint64_t since_ns) {
            const std::uint64_t from = std::max(since_ns, watching_ns_);
            return now > from ? now - from : 0;
        };
        // The dispatch thread never waits for a kernel: its silence is a hang, whatever the control thread
        // says.
        const std::uint64_t beat = state_ == State::ready ? owner_.last_heartbeat_ns(*this) : 0;
        if (bound_ns != 0 && beat != 0 && silent_for(beat) > bound_ns + kHeartbeatSlackNs) {
            kill("its dispatch thread gave no sign of life for " +
                     std::to_string(silent_for(beat) / kNsPerMs) + " ms",
                 0);
            return;
        }
        if (ping_sent_ns_ == 0) {
            Call call;
            call.on_death = Call::OnDeath::drop;
            call.make = [](Call::Wire& wire) {
                wire.kind = internal::ExecutorRequest::Ping;
                wire.request = internal::CreatePing(wire.builder).Union();
                return true;
            };
            call.done = [this](Reply&) { ping_sent_ns_ = 0; };
            if (state_ == State::ready) {
                ping_sent_ns_ = now;
                urgent_.push_back(std::move(call));
                pump();
            }
        } else if (bound_ns != 0 && silent_for(ping_sent_ns_) > bound_ns) {
            kill("it did not answer for " + std::to_string(silent_for(ping_sent_ns_) / kNsPerMs) + " ms", 0);
            return;
        }
        ping();
    });
}

std::vector<Call> FaultDomain::take_calls(std::uint64_t session) {
    std::vector<Call> taken;
    std::deque<Call> rest;
    for (Call& call : waiting_) {
        if (call.session == session || call.risk_of == session)
            taken.push_back(std::move(call));
        else
            rest.push_back(std::move(call));
    }
    waiting_ = std::move(rest);
    return taken;
}

void FaultDomain::forget_calls(std::uint64_t session) {
    std::erase_if(waiting_, [&](const Call& call) { return call.session == session; });
    for (auto& [id, call] : sent_)
        if (call.session == session) call.done = nullptr;
}

void FaultDomain::kill(const std::string& why, std::uint64_t stream) {
    if (!process_ || own_kill_.done || state_ == State::leaving) return;
    own_kill_ = {true, why, stream};
    spdlog::warn("ending executor {} of {}: {}", pid(), name(), why);
    process_->kill();
}

void FaultDomain::cannot_restore(std::uint64_t session, Status status, const std::string& why) {
    unrestored.try_emplace(session, status, why);
}

// Ends this life, in which not everything could be set up; the next one may do better.
void FaultDomain::cannot_start(const std::string& why) {
    if (!process_ || own_kill_.done || state_ == State::leaving) return;
    own_kill_ = {true, why, 0};
    cannot_start_ = why;
    process_->kill();
}

std::string FaultDomain::tries() const {
    return std::to_string(failed_starts_) + (failed_starts_ == 1 ? " try in " : " tries in ") +
           std::to_string((now_ns() - failing_since_ns_) / (1000 * kNsPerMs)) + " s";
}

std::string FaultDomain::failure() const {
    return failed_starts_ == 0 ? "" : tries() + "; the last one: " + last_failure_;
}

void FaultDomain::end_late(const std::string& why, std::uint64_t stream,
                           const std::optional<RecordsInFlight>& records) {
    if (own_kill_.done) return;
    kill(why, stream);
    own_kill_.late = own_kill_.done;
    own_kill_.records = records;
}

void FaultDomain::end_abandoned(const std::string& why, std::uint64_t stream) {
    if (!process_ || own_kill_.done || ending_abandoned_ || state_ == State::leaving) return;
    ending_abandoned_ = true;
    spdlog::warn("executor {} of {} will be ended: {}; the work in flight of the others completes first",
                 pid(), name(), why);
    Call hold;
    hold.on_death = Call::OnDeath::drop;
    hold.make = [](Call::Wire& wire) {
        wire.kind = internal::ExecutorRequest::HoldIssue;
        wire.request = internal::CreateHoldIssue(wire.builder).Union();
        return true;
    };
    hold.done = [this](Reply&) { issue_held_ = true; };
    urgent_.push_back(std::move(hold));
    pump();
    watch_drain({true, why, stream, false, true}, now_ns() + options_.drain_timeout_ms * kNsPerMs);
}

void FaultDomain::watch_drain(const OwnKill& reason, std::uint64_t deadline_ns) {
    const bool over = now_ns() >= deadline_ns;
    if (over || (issue_held_ && owner_.nothing_in_doubt(*this))) {
        if (!process_ || own_kill_.done || state_ == State::leaving) return;
        own_kill_ = reason;
        spdlog::warn("ending executor {} of {}{}", pid(), name(),
                     over ? ": others still have work in flight, which will be in doubt" : "");
        return process_->kill();
    }
    drain_timer_.expires_after(kInFlightPoll);
    drain_timer_.async_wait([this, alive = alive_, epoch = epoch_, reason, deadline_ns](const auto& error) {
        if (!error && *alive && epoch == epoch_) watch_drain(reason, deadline_ns);
    });
}

void FaultDomain::leave() {
    if (state_ == State::leaving) return;
    timer_.cancel();
    ping_timer_.cancel();
    drain_timer_.cancel();
    state_ = State::leaving;
    if (!process_) {
        boost::asio::post(io_, [this, alive = alive_] {
            if (*alive) owner_.on_left(*this);
        });
        return;
    }
    flatbuffers::FlatBufferBuilder builder;
    const auto quit = internal::CreateQuit(builder);
    builder.Finish(
        internal::CreateToExecutor(builder, next_id_++, internal::ExecutorRequest::Quit, quit.Union()));
    if (process_->send(bytes_of(builder), {}) != Transfer::done) return process_->kill();
    constexpr std::chrono::seconds kQuitPatience{2};
    timer_.expires_after(kQuitPatience);
    timer_.async_wait([this, alive = alive_](const auto& error) {
        if (!error && *alive && process_) process_->kill();
    });
}

void FaultDomain::failed_start(const std::string& text) {
    if (failed_starts_++ == 0) failing_since_ns_ = now_ns();
    last_failure_ = text;
    std::uint64_t delay_ms =
        doubled(options_.restart.first_delay_ms, failed_starts_ - 1, options_.restart.max_delay_ms);
    if (!was_ready_) {
        spdlog::error("{}: {} (try {} of {})", name(), text, failed_starts_,
                      options_.restart.max_failed_starts);
        if (failed_starts_ >= options_.restart.max_failed_starts) {
            state_ = State::resting;
            return owner_.on_unusable(*this, false, "no executor can be started: " + text);
        }
        return schedule(delay_ms);
    }
    const std::uint64_t waited_ms = (now_ns() - failing_since_ns_) / kNsPerMs;
    if (waited_ms >= options_.restart.patience_ms) {
        state_ = State::resting;
        return owner_.on_unusable(
            *this, false,
            "the executor of " + name() + " ended and could not be started again, in " + tries() +
                "; the last one: " + text +
                ". Its sessions have been given up, with their memory; the daemon goes on. See what holds "
                "the "
                "device (`ringlaunchd doctor`), connect again, and where that may last longer serve with a "
                "longer --restart-patience");
    }
    // The last try is made when the patience is over.
    const std::uint64_t left_ms = options_.restart.patience_ms - waited_ms;
    delay_ms = std::min(std::max<std::uint64_t>(delay_ms, 1), left_ms);
    spdlog::error(
        "{}: {} ({}; its sessions wait and keep what they have; the next try is in {} ms, the last in {} s)",
        name(), text, tries(), delay_ms, left_ms / 1000);
    schedule(delay_ms);
}

// How many tries in a row were killed while they loaded this module, this one included.
std::uint32_t FaultDomain::kills_at(std::uint64_t module) {
    kills_ = module == killed_loading_ ? kills_ + 1 : 1;
    killed_loading_ = module;
    return kills_;
}

// It died of a part of the restore: of a module that it was loading again. Nothing else runs meanwhile, so it
// was that, however it died; but a kill may have come from outside, and a device be lost by itself, which
// does not hit the same module again and again.
void FaultDomain::blame_restore(std::map<std::uint32_t, Call>& sent, std::uint32_t was_loading,
                                const Death& death) {
    const auto at = sent.find(was_loading);
    if (at == sent.end() || !at->second.restore) {
        killed_loading_ = 0;
        return;
    }
    const bool of_outside = death.cause == DeathCause::killed || death.device_lost;
    const std::uint32_t kills = of_outside ? kills_at(at->second.module) : 0;
    if (of_outside && kills < kKillsToConvict) return;
    answer(at->second, Status::executor_lost,
           "the executor " + death.text + " while it did this" +
               (of_outside ? ", in " + std::to_string(kills) + " tries in a row" : ""));
}

void FaultDomain::on_exit(const ExitInfo& exit) {
    const State died_in = state_;
    const int pid = process_->pid();
    process_.reset();
    timer_.cancel();
    ping_timer_.cancel();
    drain_timer_.cancel();
    if (died_in == State::leaving) return owner_.on_left(*this);

    state_ = State::resting;
    const FaultReport fault = read_fault_page(*fault_page_.as<driver::FaultPage>());
    Death death = explain_death(exit, fault, own_kill_);
    death.before_ready = died_in != State::ready;
    // A try that failed while its sessions wait is no restart.
    if (!death.before_ready || !was_ready_) {
        last_death_ = death.text;
        ++restarts_;
    }
    if (cannot_start_.empty()) spdlog::warn("executor {} of {} {}", pid, name(), death.text);

    loaded.clear();
    urgent_.clear();

    // What the control thread was loading, of what it was asked to load.
    const std::uint32_t was_loading = fault_page_.as<driver::FaultPage>()->loading.load(
        std::memory_order_relaxed);  // relaxed: it is reaped
    std::map<std::uint32_t, Call> sent = std::exchange(sent_, {});
    const bool at_control_thread =
        death.stream == 0 &&
        (death.outside_streams || (own_kill_.done && !own_kill_.abandoned && !own_kill_.late));
    // Of what the device was lost is its work: a load runs nothing there.
    if (const auto load = sent.find(was_loading);
        load != sent.end() && load->second.risk_of != 0 && !death.device_lost) {
        death.module = load->second.module;
        death.loader = load->second.risk_of;
        if (at_control_thread) {
            death.by_load = true;
            load->second.attempts = kMaxAttempts;
        }
    }
    // What the death means comes first; then what was asked is answered or asked again, which may ask for
    // more.
    if (died_in == State::restoring) blame_restore(sent, was_loading, death);
    const std::size_t refused = unrestored.size();
    const std::optional<std::uint64_t> delay = owner_.on_death(*this, death);

    std::vector<Call> settled;
    std::deque<Call> again;
    for (auto& [id, call] : sent) {
        if (call.on_death == Call::OnDeath::repeat && ++call.attempts < kMaxAttempts)
            again.push_back(std::move(call));
        else if (call.on_death != Call::OnDeath::drop)
            settled.push_back(std::move(call));
    }
    // Nothing is left of what was to be let go of: nobody waits for the next executor with that.
    for (auto at = waiting_.begin(); death.before_ready && at != waiting_.end();) {
        if (at->on_death == Call::OnDeath::settled) {
            settled.push_back(std::move(*at));
            at = waiting_.erase(at);
        } else {
            ++at;
        }
    }
    // Asked before those that still wait.
    for (auto at = again.rbegin(); at != again.rend(); ++at) waiting_.push_front(std::move(*at));
    for (Call& call : settled) {
        if (call.on_death == Call::OnDeath::settled)
            answer(call, Status::ok, "");
        else
            answer(call, Status::executor_lost,
                   death.by_load && call.risk_of == death.loader
                       ? "the executor " + death.text + " while it worked on this"
                       : std::to_string(call.attempts) +
                             " executors that worked on this ended; the last one " + death.text);
    }
    if (state_ != State::resting || process_) return;
    if (!delay) return;  // nobody needs the next one yet
    if (!death.before_ready) return schedule(*delay);
    if (unrestored.size() < refused) return schedule(0);
    failed_start(!cannot_start_.empty() ? cannot_start_
                 : !unrestored.empty()  ? unrestored.begin()->second.why
                                        : "an executor " + death.text + " before it was ready");
}

}  // namespace ringlaunch::supervisor
