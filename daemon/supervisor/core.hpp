// The supervisor's state and its handlers: one loop, one thread. Each family of requests has its own source
// file.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/supervisor/clock.hpp"
#include "daemon/supervisor/connection.hpp"
#include "daemon/supervisor/descriptors.hpp"
#include "daemon/supervisor/fault_domain.hpp"
#include "daemon/supervisor/listener.hpp"
#include "daemon/supervisor/recovery.hpp"
#include "daemon/supervisor/registry.hpp"
#include "schema/error.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::supervisor {

// One connected client: greeted or not, with a session or (an observer) without.
struct Client {
    std::shared_ptr<Connection> connection;
    bool greeted = false;
    bool greeting = false;  // Hello was taken, its answer waits for the device's first executor
    std::uint64_t session = 0;
    RateLimit rate;
    std::unique_ptr<boost::asio::steady_timer> deadline;  // until Hello
};

// What a Hello says, without its numbers of version.
struct Greeting {
    std::string program;
    int device = 0;
    bool membarrier = false, observer = false;
    std::uint32_t kernel_timeout_ms = 0;
    bool coalesce = true;
};

class Core final : public FaultDomain::Owner {
  public:
    explicit Core(const SupervisorOptions& options);
    ~Core() override;
    int run();

  private:
    using Built = std::pair<schema::Answer, flatbuffers::Offset<void>>;

    // ---- core.cpp: connections, greetings, answers
    void accept(UniqueFd socket);
    void on_message(Client& client, Message& message, bool whole);
    void on_gone(Connection* connection, const std::string& why);
    void dispatch(Client& client, const schema::ClientMessage& request, Message& message);
    void hello(Client& client, std::uint32_t request, const schema::Hello& hello);
    void welcome(Client& client, std::uint32_t request, const Greeting& greeting);
    Session& session_of(Client& client);
    // Throws where this session, or all of them, hold what they may. `doing` begins the text.
    void require_descriptors(const Session& session, unsigned more, const std::string& doing) const;
    std::uint64_t max_streams() const;  // a session, as the descriptors allow

    template <class Build>
    void answer(Connection& connection, std::uint32_t request, Build build, std::span<const int> fds = {},
                std::uint64_t coalesce = 0) {
        flatbuffers::FlatBufferBuilder builder;
        const Built built = build(builder);
        builder.Finish(schema::CreateServerMessage(builder, request, 0, 0, built.first, built.second));
        send(connection, builder, fds, coalesce);
    }
    void answer_done(Connection& connection, std::uint32_t request);
    void refuse(Connection& connection, std::uint32_t request, Status status, const std::string& text);
    void send(Connection& connection, flatbuffers::FlatBufferBuilder& builder, std::span<const int> fds,
              std::uint64_t coalesce);
    // An answer that came later than its request: the session may have gone meanwhile.
    template <class Build>
    void answer_later(std::uint64_t session, std::uint32_t request, Build build,
                      std::span<const int> fds = {}) {
        if (Session* found = living(session)) {
            answer(*found->connection, request, build, fds);
            request_answered(*found);
        }
    }
    void done_later(std::uint64_t session, std::uint32_t request);
    void refuse_later(std::uint64_t session, std::uint32_t request, Status status, const std::string& text);
    void request_opened(Session& session);
    void request_answered(Session& session);

    // ---- sessions.cpp: their beginning, their executor, their end
    Session* find(std::uint64_t id);
    Session* living(std::uint64_t id);  // and not being taken apart
    Session& open_session(Client& client, const Greeting& greeting);
    FaultDomain& domain_of(Session& session);  // makes and starts it where there is none
    FaultDomain* existing_domain(const Session& session);
    // Starts the executor that says what the device is, unless there is one.
    void start_first(int device, std::uint32_t uid);
    bool is_first(const DomainKey& key) const { return devices_.at(key.device).first_domain == key; }
    DeviceRange& range_of(const Session& session) { return devices_.at(session.device).range; }
    void move_alone(Session& session, const std::string& why);
    void bring_along(std::uint64_t session, const DomainKey& from);
    // Asks the session's executor, and counts. `done` is called unless the session has been erased.
    void call(Session& session, Call::OnDeath on_death, std::function<bool(Call::Wire&, Session&)> make,
              std::function<void(Session&, Reply&)> done);
    void attach(Session& session);
    void end_session(Session& session);
    void go_on_ending(Session& session);
    void release_all(Session& session, const std::function<void(std::function<bool(Call::Wire&, Session&)>,
                                                                std::function<void(Session&)>)>& ask_then);
    void erase_session(std::uint64_t id);
    void leave_domain(Session& session);

    // ---- streams.cpp
    void open_stream(Session& session, std::uint32_t request, const schema::OpenStream& open);
    void close_stream(Session& session, std::uint32_t request, std::uint64_t stream);
    void resume_stream(Session& session, std::uint32_t request, const schema::ResumeStream& resume);
    bool make_open_stream(Call::Wire& wire, Session& session, Stream& stream, std::uint32_t epoch, bool hold);
    void ask_close_stream(Session& session, std::uint64_t stream, std::optional<std::uint32_t> request);
    void erase_stream(Session& session, std::uint64_t stream);
    void tell_epoch(Session& session, Stream& stream);
    Stream& stream_of(Session& session, std::uint64_t id, const char* doing);
    std::string kernel_name(const Session& session, std::uint64_t kernel) const;

    // ---- modules.cpp
    void load_module(Session& session, std::uint32_t request, const schema::LoadModule& load, UniqueFd image);
    void configure_kernel(Session& session, std::uint32_t request, const schema::ConfigureKernel& configure);
    void bind_configured(Session& session, std::uint32_t request, std::uint64_t use, std::uint64_t kernel);
    void answer_configured(Session& session, std::uint32_t request, const ModuleUse::Configured& kernel);
    static bool make_bind_kernel(Call::Wire& wire, const Session& session, const ModuleUse& use,
                                 const ModuleUse::Configured& kernel);
    void unload_module(Session& session, std::uint32_t request, std::uint64_t id);
    void ensure_loaded(Session& session, std::uint64_t key, std::function<void(Session&, Reply&)> done);
    void bind_module(Session& session, std::uint32_t request, std::uint64_t use, bool cached);
    void answer_loaded(Session& session, std::uint32_t request, const ModuleUse& use, bool cached);
    bool make_load_module(Call::Wire& wire, const Module& module);
    void drop_use(Session& session, std::uint64_t id);
    void release_module(std::uint64_t key);
    void evict_modules();

    // ---- memory.cpp
    void alloc_buffer(Session& session, std::uint32_t request, std::uint64_t bytes);
    void pump_allocs(Session& session);
    bool waits_for_room(const Session& session, const PendingAlloc& alloc);
    void make_chunk(Session& session, std::uint64_t bytes);
    void free_buffer(Session& session, std::uint32_t request, const schema::FreeBuffer& free);
    void add_staging(Session& session, std::uint32_t request, std::uint64_t bytes);
    void pump_stagings(Session& session);
    void make_staging(Session& session, std::uint32_t request, std::uint64_t bytes);
    void forget_staging(Session& session, std::uint64_t id);
    void drop_staging(Session& session, std::uint32_t request, const schema::DropStaging& drop);
    // Acts on what may be freed now. True: something was.
    bool reclaim(Session& session);
    void release_idle_chunks(Session& session);
    void unmap_chunk(Session& session, std::uint64_t address);
    void schedule_reclaim();
    std::vector<std::pair<std::uint64_t, std::uint64_t>> positions_of(
        Session& session, const flatbuffers::Vector<flatbuffers::Offset<schema::StreamPosition>>* after);

    // ---- graphs.cpp
    void make_graph(Session& session, std::uint32_t request, const schema::MakeGraph& make,
                    UniqueFd description);
    void pump_graphs(Session& session);
    void make_graph_now(Session& session, PendingGraph& asked);
    void drop_graph(Session& session, std::uint32_t request, const schema::DropGraph& drop);
    void let_go_of_graph(Session& session, std::uint64_t id);
    void forget_graph(Session& session, std::uint64_t id);
    void forget_graphs_of(Session& session, std::uint64_t stream);
    void restore_graph(FaultDomain& domain, const Session& session, std::uint64_t id);

    // ---- tensor_maps.cpp
    void encode_tensor_map(Session& session, std::uint32_t request, const schema::EncodeTensorMap& encode);

    // ---- loans.cpp: what sessions of one user lend each other
    void share(Session& session, std::uint32_t request, const schema::Share& share);
    void borrow(Session& session, std::uint32_t request, const schema::Borrow& borrow);
    void borrow_buffer(Session& session, std::uint32_t request, Session& owner, Buffer& buffer);
    void borrow_stream(Session& session, std::uint32_t request, const Stream& stream);
    void return_loan(Session& session, std::uint64_t id);
    // The borrower is through with it, and so is its executor.
    void drop_loan(Session& session, std::uint64_t id);
    // The addresses of a chunk that its owner has no more: another's once nothing in it is lent.
    void give_back_chunk(int device, std::uint64_t address, std::uint64_t bytes);
    void forget_right(std::optional<Right>& right);
    // The stream has another page, or is closed.
    void tell_watchers(const Stream& stream, bool closed);
    bool make_lend(Call::Wire& wire, const Session& session, const Loan& loan) const;
    bool make_watch(Call::Wire& wire, const Session& session, std::uint64_t stream);

    // ---- operators.cpp
    void get_status(Client& client, std::uint32_t request);
    void get_stats(Client& client, std::uint32_t request, std::uint32_t skip);
    void get_sessions(Client& client, std::uint32_t request, std::uint32_t skip);
    void get_kernels(Client& client, std::uint32_t request, std::uint32_t skip);
    void stop_daemon(Client& client, std::uint32_t request, std::uint32_t drain_ms);
    bool may_see(const Client& client, const Session& session) const;

    // ---- restart.cpp: what a death means, and how the next executor is set up
    std::uint32_t next_epoch() override { return ++last_epoch_; }
    void on_started(FaultDomain& domain, const internal::Ready& ready) override;
    void on_ready(FaultDomain& domain) override;
    void on_stream_stopped(FaultDomain& domain, std::uint64_t stream) override;
    std::optional<std::uint64_t> on_death(FaultDomain& domain, Death& death) override;
    void on_unusable(FaultDomain& domain, bool driver, const std::string& text) override;
    bool take_other_driver(const std::string& why);
    void on_left(FaultDomain& domain) override;
    std::uint64_t last_heartbeat_ns(const FaultDomain& domain) override;
    bool nothing_in_doubt(const FaultDomain& domain) override;
    static bool stopped_by_restart(const Stream& stream);
    void restore_session(FaultDomain& domain, Session& session);
    void restore_stream(FaultDomain& domain, Session& session, Stream& stream);
    std::optional<std::uint64_t> on_failed_start(FaultDomain& domain, const std::vector<Session*>& sessions);
    void forget_leaving_chunks(Session& session);
    Fate decide_stream(Session& session, Stream& stream, const Death& death);
    void set_apart_unrestorable(FaultDomain& domain, const std::vector<Session*>& sessions);
    void set_apart(FaultDomain& domain, Session& unrestorable);
    void make_way(FaultDomain& domain, const Session& newcomer);
    void warn_of_deaths(Session& session, std::uint64_t delay_ms);
    void warn(Session& session, Status status, const std::string& text, std::uint64_t delay_ms);
    void go_on_probation(FaultDomain& domain);
    void watch_probations();
    void release_stream(Session& session, Stream& stream);  // where it is held
    static bool make_release(Call::Wire& wire, const Session& session, std::uint64_t stream);
    bool still_needed(const FaultDomain& domain, const std::vector<std::uint64_t>& closed_streams,
                      const std::vector<std::uint64_t>& ended_sessions);
    std::vector<Session*> sessions_in(const FaultDomain& domain);

    // ---- suspects.cpp: deaths of which nobody is known to be the culprit
    std::vector<Stream*> streams_in_doubt(const std::vector<Session*>& sessions);
    // Counts against the sessions of which one may have done it, and answers them.
    std::vector<Session*> suspect(FaultDomain& domain, const Death& death);
    // Gives one of them an executor of its own where it is time for that.
    void try_suspect(FaultDomain& domain, const std::vector<Session*>& suspects);
    // `late`: nothing of the stream has completed for the time that its session gives a record.
    RecordsInFlight in_flight(const Session& session, const Stream& stream, bool late = false) const;
    std::string describe_suspicion(const Session& session, const Stream& stream, const Death& death) const;
    // What was being loaded, as `session` may know it.
    std::string describe_load(const Session& session, const Death& death) const;

    // ---- watchdog.cpp: records that take too long
    void watch_kernels();
    void look_at_kernels();
    void look_at_kernels(FaultDomain& domain);

    // ---- core.cpp: leaving
    void watch_idle();
    void drain();
    void shut_down(int exit);
    void maybe_finished();
    bool drained();

    SupervisorOptions options_;  // driver and devices may change until a device is known
    const uid_t own_uid_;
    const Descriptors descriptors_;
    boost::asio::io_context io_{1};
    boost::asio::signal_set signals_{io_};
    std::optional<Listener> listener_;
    std::map<Connection*, Client> clients_;

    IdAllocator session_ids_, stream_ids_;
    std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
    std::map<std::uint64_t, std::uint64_t> stream_sessions_;  // stream -> session
    // That closed last: a fault may be seen behind its launch's completion.
    struct ClosedStream {
        std::uint64_t stream, session;
        DomainKey domain;
    };
    static constexpr std::size_t kMostClosed = 64;
    std::deque<ClosedStream> closed_streams_;
    struct Shared {
        std::uint64_t session = 0, buffer = 0, stream = 0;  // one of the two
    };
    std::map<Right, Shared> rights_;
    std::map<std::uint64_t, LentChunk> lent_;  // by address
    std::map<std::uint64_t, Module> modules_;  // by key
    // By digest and device: what a driver says of a kernel holds for one kind of device.
    std::map<std::pair<std::string, int>, std::uint64_t> module_keys_;
    std::uint64_t last_module_key_ = 0;
    std::uint64_t unused_count_ = 0;
    std::map<DomainKey, std::unique_ptr<FaultDomain>> domains_;
    std::vector<std::unique_ptr<FaultDomain>> leaving_domains_;

    DeviceRange staging_range_;  // of staging segments, whichever device; known with the first
    // One that is served.
    struct Device {
        // The executor from which the daemon learns of the device, kept warm. Nothing: it was not started, or
        // has become one session's own.
        std::optional<DomainKey> first_domain;
        // Who asked for the device before that executor was up.
        std::vector<std::function<void(const std::string* why_not)>> waiting;
        // As that executor said it.
        bool known = false;
        DeviceRange range;
        std::string name, architecture;
        std::uint32_t max_param_bytes = 0, max_grid_x = 0, max_grid_y = 0, max_grid_z = 0,
                      max_threads_per_block = 0, max_block_x = 0, max_block_y = 0, max_block_z = 0;
        bool uses_membarrier = false;
    };
    std::map<int, Device> devices_;
    bool announced_ = false;  // on_ready was called

    boost::asio::steady_timer first_timer_{io_}, idle_timer_{io_}, reclaim_timer_{io_}, probation_timer_{io_},
        drain_timer_{io_}, watchdog_timer_{io_};
    bool idle_armed_ = false, reclaim_scheduled_ = false, probation_scheduled_ = false,
         watchdog_armed_ = false;
    std::uint64_t reclaim_ms_ = 1;
    std::uint32_t last_epoch_ = 0;
    std::uint64_t started_ns_ = now_ns();
    bool draining_ = false, shutting_down_ = false;
    std::uint64_t drain_until_ns_ = 0;
    int exit_ = kExitOk;
};

// Text of a peer, fit for a log and for another's terminal.
std::string printable(const flatbuffers::String* text, std::size_t at_most = 128);

}  // namespace ringlaunch::supervisor
