#include "daemon/executor/registry.hpp"

#include <malloc.h>

#include <algorithm>
#include <iterator>

#include "daemon/driver/module_text.hpp"
#include "daemon/executor/clock.hpp"
#include "daemon/executor/graph.hpp"
#include "schema/error.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::executor {

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;

std::string quoted(const char* what, std::uint64_t id) {
    return std::string(what) + " " + id_text(id);
}

void no_answer(Status, const std::string&) {}

[[noreturn]] void not_found(const std::string& what) {
    throw Error(Status::not_found, "this executor has no " + what);
}

}  // namespace

Registry::Registry(driver::Driver& driver, MemoryMap& memory, DispatchThread& thread,
                   const DispatcherConfig& config, std::uint64_t stuck_ns)
    : driver_(driver),
      memory_(memory),
      thread_(thread),
      config_(config),
      stuck_ns_(stuck_ns),
      lull_({[this] { thread_.call([](Dispatcher& dispatcher) { dispatcher.hold_issue(); }); },
             [this] { thread_.call([](Dispatcher& dispatcher) { dispatcher.let_issue(); }); },
             [this](bool on) { thread_.call([on](Dispatcher& dispatcher) { dispatcher.keep_shallow(on); }); },
             [this] { return quiet(); },
             [this](std::uint64_t attempt) {
                 const std::uint64_t barrier =
                     expect_barrier({[this, attempt] { lull_.emptied(attempt); }, no_answer});
                 thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(nullptr, barrier); });
             },
             now_ns}) {}

Registry::~Registry() {
    thread_.stop();
}

Registry::Session& Registry::session(std::uint64_t id) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) not_found(quoted("session", id));
    return *found->second;
}

Registry::Stream& Registry::stream(std::uint64_t id) {
    const auto found = streams_.find(id);
    if (found == streams_.end()) not_found(quoted("stream", id));
    return found->second;
}

// ---- sessions and streams
// ----------------------------------------------------------------------------------------

void Registry::attach_session(std::uint64_t id, UniqueFd doorbell) {
    if (sessions_.contains(id))
        throw Error(Status::invalid_argument, quoted("session", id) + " is attached already");
    auto fresh = std::make_unique<Session>();
    fresh->view.id = id;
    fresh->view.tag = next_tag_++;
    fresh->doorbell = std::move(doorbell);
    thread_.watch(fresh->doorbell.get());
    sessions_.emplace(id, std::move(fresh));
}

void Registry::detach_session(std::uint64_t id) {
    Session& gone = session(id);
    if (gone.streams != 0)
        throw Error(Status::invalid_argument, "cannot detach " + quoted("session", id) + ": " +
                                                  std::to_string(gone.streams) +
                                                  " of its streams are not closed");
    if (gone.barriers != 0)
        throw Error(Status::invalid_argument,
                    "cannot detach " + quoted("session", id) + ": memory of it is still being unmapped");
    thread_.unwatch(gone.doorbell.get());
    // No stream, so nothing of it is in flight.
    for (auto& [staging, placed] : gone.staging) {
        disown_staging(placed);
        let_go_of_staging(std::move(placed));
    }
    for (const auto& [address, bytes] : gone.chunks) {
        memory_.device.set_owner(0, address, bytes);
        let_go_of_chunk(address);
    }
    for (const auto& [loan, entry] : gone.loans) let_go_of_chunk(entry.chunk_address);
    for (const auto& [kernel, key] : gone.kernel_modules) --modules_.get(key).bindings;
    sessions_.erase(id);
    // What many sessions took lies about in pieces, and an idle executor may live for long.
    if (sessions_.empty()) ::malloc_trim(0);
}

void Registry::open_stream(std::uint64_t session_id, StreamSetup setup, const UniqueFd& ring,
                           const UniqueFd& status, UniqueFd wake) {
    Session& owner = session(session_id);
    if (streams_.contains(setup.id))
        throw Error(Status::invalid_argument, quoted("stream", setup.id) + " is open already");
    const driver::DeviceInfo& device = driver_.device();
    if (setup.priority < device.lowest_priority || setup.priority > device.highest_priority)
        throw Error(Status::invalid_argument, "cannot open " + quoted("stream", setup.id) +
                                                  " with priority " + std::to_string(setup.priority) +
                                                  ": this device has " +
                                                  std::to_string(device.lowest_priority) + " to " +
                                                  std::to_string(device.highest_priority));
    if (const auto closed = streams_let_go_.find(session_id);
        closed != streams_let_go_.end() && closed->second >= kMostLetGo)
        throw Error(Status::limit_reached,
                    "cannot open " + quoted("stream", setup.id) + ": " + std::to_string(closed->second) +
                        " that this session closed are still there, until the device is through with what it "
                        "has; try again then");
    setup.max_in_flight = config_.max_in_flight;
    setup.coalesce &= config_.coalesce;
    auto port = std::make_unique<StreamPort>(setup, owner.view, driver_, ring, status, std::move(wake));
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.add(*port); });
    streams_.emplace(setup.id, Stream{std::move(port), &owner, false, {}});
    ++owner.streams;
}

void Registry::release_stream(std::uint64_t id, std::uint64_t single_until) {
    Stream& held = stream(id);
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.release(*held.port, single_until); });
}

void Registry::resume_stream(std::uint64_t id, std::uint64_t position, bool skip) {
    Stream& stopped = stream(id);
    if (stopped.closing)
        throw Error(Status::invalid_argument, "cannot resume " + quoted("stream", id) + ": it is closing");
    StreamPort& port = *stopped.port;
    std::unique_ptr<driver::Stream> old;
    bool anew = false;
    thread_.call([&](Dispatcher& dispatcher) {
        if (skip) position += dispatcher.measure(port, position);
        // A driver's stream begins where it was opened; one that was given nothing yet can begin elsewhere.
        anew = port.phase != StreamPort::Phase::running && port.issued_records == 0 &&
               (port.driver_stream == nullptr ||
                (position != port.setup.position && !port.driver_stream->begin_at(position)));
        if (anew) old = std::move(port.driver_stream);
    });
    if (anew) {
        old.reset();
        // The dispatcher asks nothing of the driver for a stream that is stopped and has nothing in flight.
        std::unique_ptr<driver::Stream> fresh = port.open_driver_stream(driver_, position);
        thread_.call([&](Dispatcher&) { port.take_driver_stream(std::move(fresh)); });
    }
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.resume(port, position); });
}

void Registry::close_stream(std::uint64_t id, Answer answer) {
    Stream& closing = stream(id);
    if (closing.closing) throw Error(Status::invalid_argument, quoted("stream", id) + " is closing already");
    closing.closing = true;
    const std::uint64_t barrier = expect_barrier(
        {[this, id] {
             const auto found = streams_.find(id);
             thread_.call([&](Dispatcher& dispatcher) { dispatcher.remove(*found->second.port); });
             --found->second.session->streams;
             found->second.graphs.clear();
             auto gone = std::make_shared<Stream>(std::move(found->second));
             streams_.erase(found);
             const std::uint64_t of = gone->session->view.id;
             ++streams_let_go_[of];
             let_go(std::move(gone), [this, of] {
                 if (--streams_let_go_[of] == 0) streams_let_go_.erase(of);
             });
         },
         std::move(answer), now_ns() + stuck_ns_,
         "the device is still at work for " + quoted("stream", id) + " after " +
             std::to_string(stuck_ns_ / kNsPerMs) + " ms; it is let go when that ends"});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.close(*closing.port, barrier); });
}

void Registry::hold_issue() {
    thread_.call([](Dispatcher& dispatcher) { dispatcher.hold_issue(); });
}

// ---- modules
// -------------------------------------------------------------------------------------------------------

const KernelCache::Loaded& Registry::load_module(std::uint64_t key, const std::string& name,
                                                 const UniqueFd& image, std::uint64_t bytes,
                                                 const driver::LoadOptions& options) {
    if (modules_.contains(key))
        throw Error(Status::invalid_argument, "cannot load " + driver::module_text(name) + ": its key " +
                                                  std::to_string(key) + " is taken");
    return modules_.add(key, name, driver_.load_module(name, image, bytes, options));
}

void Registry::unload_module(std::uint64_t key, Answer answer) {
    const KernelCache::Loaded& gone = modules_.get(key);
    if (gone.bindings != 0)
        throw Error(Status::invalid_argument, "cannot unload " + driver::module_text(gone.name) +
                                                  ": sessions still have " + std::to_string(gone.bindings) +
                                                  " ids of its kernels");
    const std::uint64_t barrier = expect_barrier(
        {[this, key] {
             thread_.call([&](Dispatcher& dispatcher) { dispatcher.forget(*modules_.get(key).module); });
             break_off_graphs(key);
             let_go(std::make_shared<KernelCache::Loaded>(modules_.take(key)));
         },
         std::move(answer)});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(nullptr, barrier); });
}

void Registry::discard_module(std::uint64_t key) {
    if (modules_.get(key).bindings == 0) let_go(std::make_shared<KernelCache::Loaded>(modules_.take(key)));
}

void Registry::give_stack(std::uint64_t bytes, std::uint64_t patience_ns, Answer answer) {
    if (driver_.has_stack(bytes)) return answer(Status::ok, "");
    const auto go_on = [this] { thread_.call([](Dispatcher& dispatcher) { dispatcher.let_issue(); }); };
    const std::uint64_t barrier =
        expect_barrier({[this, bytes, go_on] {
                            try {
                                // Somebody else may have asked for more meanwhile.
                                if (!driver_.has_stack(bytes)) {
                                    driver_.give_stack(bytes);
                                    thread_.call([](Dispatcher& dispatcher) { dispatcher.forget_all(); });
                                }
                            } catch (...) {
                                go_on();
                                throw;
                            }
                            go_on();
                        },
                        std::move(answer), now_ns() + patience_ns,
                        "a stack of " + std::to_string(bytes) +
                            " bytes can be had only once what is in flight on the device has completed, "
                            "which it has not within " +
                            std::to_string(patience_ns / kNsPerMs) +
                            " ms; load it at another time, or have the daemon serve with --stack",
                        go_on});
    thread_.call([&](Dispatcher& dispatcher) {
        dispatcher.hold_issue();
        dispatcher.begin_barrier(nullptr, barrier);
    });
}

void Registry::change_kernels(Session& owner,
                              const std::function<void(IdTable<const KernelEntry>&)>& change) {
    IdTable<const KernelEntry> table = owner.view.kernels;
    change(table);
    thread_.call([&](Dispatcher&) {
        owner.view.kernels.swap(table);
        note_gone(owner);
    });
}

void Registry::bind_module(std::uint64_t session_id, std::uint64_t key, std::span<const std::uint64_t> ids) {
    Session& owner = session(session_id);
    KernelCache::Loaded& module = modules_.get(key);
    if (ids.size() != module.kernels.size())
        throw Error(Status::invalid_argument, "cannot bind " + driver::module_text(module.name) + ": " +
                                                  std::to_string(ids.size()) + " ids for its " +
                                                  std::to_string(module.kernels.size()) + " kernels");
    change_kernels(owner, [&](IdTable<const KernelEntry>& table) {
        for (std::size_t i = 0; i < ids.size(); ++i) table.set(ids[i], module.kernels[i].get());
    });
    for (const std::uint64_t id : ids)
        if (owner.kernel_modules.try_emplace(id, key).second) ++module.bindings;
}

const driver::KernelLayout& Registry::bind_kernel(std::uint64_t session_id, std::uint64_t key,
                                                  std::uint32_t index,
                                                  const driver::LaunchAttributes& attributes,
                                                  std::uint64_t id) {
    Session& owner = session(session_id);
    KernelCache::Loaded& module = modules_.get(key);
    const KernelEntry& entry = module.configure(index, attributes);
    change_kernels(owner, [&](IdTable<const KernelEntry>& table) { table.set(id, &entry); });
    if (owner.kernel_modules.try_emplace(id, key).second) ++module.bindings;
    return entry.kernel->layout();
}

void Registry::unbind_kernels(std::uint64_t session_id, std::span<const std::uint64_t> ids) {
    Session& owner = session(session_id);
    change_kernels(owner, [&](IdTable<const KernelEntry>& table) {
        for (const std::uint64_t id : ids) table.erase(id);
    });
    for (const std::uint64_t id : ids)
        if (const auto bound = owner.kernel_modules.find(id); bound != owner.kernel_modules.end()) {
            --modules_.get(bound->second).bindings;
            owner.kernel_modules.erase(bound);
        }
}

// ---- memory
// --------------------------------------------------------------------------------------------------------

void Registry::check_chunk(std::uint64_t address, std::uint64_t bytes) const {
    if (!memory_.device.is_whole_chunks(address, bytes))
        throw Error(Status::invalid_argument, std::to_string(bytes) + " bytes at " + std::to_string(address) +
                                                  " are not whole chunks of the device's range");
}

UniqueFd Registry::make_chunk(std::uint64_t session_id, std::uint64_t address, std::uint64_t bytes) {
    Session& owner = session(session_id);
    check_chunk(address, bytes);
    UniqueFd chunk = driver_.make_chunk(address, bytes);
    mapped_[address] = {bytes, 1};
    owner.chunks[address] = bytes;
    memory_.device.set_owner(owner.view.tag, address, bytes);
    return chunk;
}

void Registry::map_chunk(std::uint64_t session_id, std::uint64_t address, std::uint64_t bytes,
                         const UniqueFd& chunk) {
    Session& owner = session(session_id);
    check_chunk(address, bytes);
    hold_chunk(address, bytes, chunk);
    owner.chunks[address] = bytes;
    memory_.device.set_owner(owner.view.tag, address, bytes);
}

void Registry::unmap_chunk(std::uint64_t session_id, std::uint64_t address, std::uint64_t bytes,
                           Answer answer) {
    Session& owner = session(session_id);
    const auto chunk = owner.chunks.find(address);
    if (chunk == owner.chunks.end() || chunk->second != bytes)
        not_found("chunk of " + std::to_string(bytes) + " bytes at " + std::to_string(address) + " in " +
                  quoted("session", session_id));
    memory_.device.set_owner(0, address, bytes);
    note_gone(owner);
    owner.chunks.erase(chunk);
    ++owner.barriers;
    const std::uint64_t barrier = expect_barrier({[this, &owner, address] {
                                                      --owner.barriers;
                                                      let_go_of_chunk(address);
                                                  },
                                                  std::move(answer)});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(&owner.view, barrier); });
}

void Registry::hold_chunk(std::uint64_t address, std::uint64_t bytes, const UniqueFd& chunk) {
    const auto found = mapped_.find(address);
    if (found == mapped_.end()) {
        driver_.map_chunk(address, bytes, chunk);
        mapped_[address] = {bytes, 1};
        return;
    }
    if (found->second.bytes != bytes)
        throw Error(Status::invalid_argument, "the chunk at " + std::to_string(address) + " has " +
                                                  std::to_string(found->second.bytes) + " bytes here, not " +
                                                  std::to_string(bytes));
    ++found->second.holders;
}

void Registry::let_go_of_chunk(std::uint64_t address) {
    const auto found = mapped_.find(address);
    if (found == mapped_.end() || --found->second.holders != 0) return;
    const std::uint64_t bytes = found->second.bytes;
    mapped_.erase(found);
    driver_.unmap_chunk(address, bytes);
}

void Registry::lend_memory(std::uint64_t session_id, std::uint64_t id, const Loan& memory,
                           std::uint64_t chunk_address, std::uint64_t chunk_bytes, const UniqueFd& chunk) {
    Session& borrower = session(session_id);
    if (borrower.loans.contains(id))
        throw Error(Status::invalid_argument, quoted("loan", id) + " is there already");
    if (memory.address < chunk_address || memory.bytes > chunk_bytes ||
        memory.address - chunk_address > chunk_bytes - memory.bytes)
        throw Error(Status::invalid_argument, quoted("loan", id) + " does not lie within its chunk");
    hold_chunk(chunk_address, chunk_bytes, chunk);
    borrower.loans.emplace(id, Session::LoanEntry{memory, chunk_address});
    change_loans(borrower);
}

void Registry::return_memory(std::uint64_t session_id, std::uint64_t id, Answer answer) {
    Session& borrower = session(session_id);
    const auto found = borrower.loans.find(id);
    if (found == borrower.loans.end()) not_found(quoted("loan", id));
    const std::uint64_t chunk_address = found->second.chunk_address;
    borrower.loans.erase(found);
    change_loans(borrower);
    ++borrower.barriers;
    const std::uint64_t barrier = expect_barrier({[this, &borrower, chunk_address] {
                                                      --borrower.barriers;
                                                      let_go_of_chunk(chunk_address);
                                                  },
                                                  std::move(answer)});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(&borrower.view, barrier); });
}

void Registry::change_loans(Session& borrower) {
    std::vector<Loan> loans;
    for (const auto& [id, entry] : borrower.loans) loans.push_back(entry.memory);
    std::sort(loans.begin(), loans.end(), [](const Loan& a, const Loan& b) { return a.address < b.address; });
    thread_.call([&](Dispatcher&) {
        borrower.view.loans.swap(loans);
        note_gone(borrower);
    });
}

void Registry::watch_stream(std::uint64_t session_id, std::uint64_t stream_id, const UniqueFd& status) {
    const std::string what = "the status page of " + quoted("stream", stream_id);
    check_seals(status, Sealing::one_writer, sizeof(StatusPage), what);
    auto now = std::make_unique<Session::Watched>();
    now->page = Mapping(status, sizeof(StatusPage), Mapping::Access::read_only, what);
    now->view.page = now->page.as<const StatusPage>();
    change_watched(session(session_id), stream_id, std::move(now));
}

void Registry::watch_without_page(std::uint64_t session_id, std::uint64_t stream_id, std::uint64_t completed,
                                  bool away) {
    auto now = std::make_unique<Session::Watched>();
    now->view.completed = completed;
    now->view.away = away;
    change_watched(session(session_id), stream_id, std::move(now));
}

void Registry::change_watched(Session& watcher, std::uint64_t stream_id,
                              std::unique_ptr<Session::Watched> now) {
    IdTable<const WatchedStream> table = watcher.view.watched;
    table.set(stream_id, &now->view);
    thread_.call([&](Dispatcher&) { watcher.view.watched.swap(table); });
    watcher.watched[stream_id] = std::move(now);  // the dispatcher knows the one before no more
}

void Registry::change_staging(Session& owner, const std::function<void(IdTable<driver::Staging>&)>& change) {
    IdTable<driver::Staging> table = owner.view.staging;
    change(table);
    thread_.call([&](Dispatcher&) { owner.view.staging.swap(table); });
}

void Registry::disown_staging(const PlacedStaging& placed) noexcept {
    memory_.staging.set_owner(0, placed.address, memory_.staging.rounded(placed.mapped->size()));
}

void Registry::map_staging(std::uint64_t session_id, std::uint64_t id, std::uint64_t address,
                           std::uint64_t bytes, const UniqueFd& segment) {
    Session& owner = session(session_id);
    if (owner.staging.contains(id))
        throw Error(Status::invalid_argument, quoted("staging segment", id) + " is mapped already");
    const std::uint64_t taken = memory_.staging.rounded(bytes);
    if (!memory_.staging.is_whole_chunks(address, taken))
        throw Error(Status::invalid_argument, "a staging segment of " + std::to_string(bytes) + " bytes at " +
                                                  std::to_string(address) +
                                                  " is not within the range of staging memory");
    const auto behind = leaving_staging_.lower_bound(address + taken);
    if (behind != leaving_staging_.begin() && std::prev(behind)->first + std::prev(behind)->second > address)
        lull_.run_all();  // of a session that has gone: its addresses are another's now
    std::unique_ptr<driver::Staging> fresh = driver_.map_staging(address, segment, bytes);
    change_staging(owner, [&](IdTable<driver::Staging>& table) { table.set(id, fresh.get()); });
    owner.staging.emplace(id, PlacedStaging{address, std::move(fresh)});
    memory_.staging.set_owner(owner.view.tag, address, taken);
}

void Registry::unmap_staging(std::uint64_t session_id, std::uint64_t id, Answer answer) {
    Session& owner = session(session_id);
    const auto found = owner.staging.find(id);
    if (found == owner.staging.end()) not_found(quoted("staging segment", id));
    change_staging(owner, [&](IdTable<driver::Staging>& table) { table.erase(id); });
    disown_staging(found->second);
    note_gone(owner);
    // Shared, because a std::function is copied.
    auto kept = std::make_shared<PlacedStaging>(std::move(found->second));
    owner.staging.erase(found);
    ++owner.barriers;
    // Answered once its addresses are free.
    const std::uint64_t barrier =
        expect_barrier({[this, &owner, kept, answer = std::move(answer)] {
                            --owner.barriers;
                            let_go_of_staging(std::move(*kept), [answer] { answer(Status::ok, ""); });
                        },
                        no_answer});
    thread_.call([&](Dispatcher& dispatcher) { dispatcher.begin_barrier(&owner.view, barrier); });
}

void Registry::let_go_of_staging(PlacedStaging placed, std::function<void()> then) {
    const std::uint64_t address = placed.address;
    leaving_staging_[address] = memory_.staging.rounded(placed.mapped->size());
    let_go(std::shared_ptr<driver::Staging>(std::move(placed.mapped)),
           [this, address, then = std::move(then)] {
               leaving_staging_.erase(address);
               if (then) then();
           });
}

// ---- what takes its time
// -------------------------------------------------------------------------------------------

void Registry::when_the_device_is_empty(std::function<void()> run, std::function<void()> give_up, bool slow) {
    if (!driver_.changes_stall()) return run();
    lull_.put_off({std::move(run), std::move(give_up), slow});
}

void Registry::let_go(std::shared_ptr<void> what, std::function<void()> then) {
    // Shared by nobody but the task, which goes when it has run.
    when_the_device_is_empty(
        [kept = std::make_shared<std::shared_ptr<void>>(std::move(what)), then = std::move(then)] {
            kept->reset();
            if (then) then();
        },
        nullptr, false);
}

std::uint64_t Registry::expect_barrier(Pending pending) {
    const std::uint64_t id = next_barrier_++;
    pending_.emplace(id, std::move(pending));
    return id;
}

void Registry::barrier_reached(std::uint64_t barrier) {
    const auto found = pending_.find(barrier);
    if (found == pending_.end()) return;
    Pending done = std::move(found->second);
    pending_.erase(found);
    try {
        done.finish();
    } catch (const Error& error) {
        if (!done.answered) done.answer(error.status(), error.what());
        return;
    } catch (const std::exception& error) {
        if (!done.answered) done.answer(Status::internal_error, error.what());
        return;
    }
    if (!done.answered) done.answer(Status::ok, "");
}

int Registry::tick(std::uint64_t now) {
    std::uint64_t next = kNever;
    for (auto at = pending_.begin(); at != pending_.end();) {
        Pending& pending = at->second;
        if (pending.answered || pending.deadline_ns == kNever || pending.deadline_ns > now) {
            if (!pending.answered && pending.deadline_ns != kNever)
                next = std::min(next, pending.deadline_ns - now);
            ++at;
            continue;
        }
        pending.answered = true;
        if (pending.give_up) pending.give_up();
        pending.answer(Status::timed_out, pending.late);
        at = pending.give_up ? pending_.erase(at) : std::next(at);
    }
    const int own =
        next == kNever ? -1 : static_cast<int>(std::min<std::uint64_t>(next / kNsPerMs + 1, 1'000'000));
    const int lull = lull_.tick();
    return own < 0 || lull < 0 ? std::max(own, lull) : std::min(own, lull);
}

bool Registry::quiet() {
    bool quiet = false;
    thread_.call([&](Dispatcher& dispatcher) { quiet = dispatcher.look_whether_through(); });
    return quiet;
}

}  // namespace ringlaunch::executor
