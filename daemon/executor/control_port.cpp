#include "daemon/executor/control_port.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <system_error>

#include "daemon/driver/module_text.hpp"
#include "daemon/executor/clock.hpp"
#include "schema/error.hpp"
#include "schema/tensor_layout.hpp"
#include "schema/version.hpp"
#include "schema/wakeup.hpp"

namespace ringlaunch::executor {

namespace {

namespace fb = flatbuffers;
using internal::ExecutorAnswer;
using internal::ExecutorRequest;

// How often the control thread looks after the dispatch thread.
constexpr int kWatchMs = 1000;

// How long launches wait for a module that needs the device empty.
constexpr std::uint64_t kStackPatienceNs = 1'000'000'000;

std::string text_of(const fb::String* text) {
    return text == nullptr ? std::string() : text->str();
}

UniqueFd take_fd(std::vector<UniqueFd>& fds, std::size_t index, const char* what) {
    if (index >= fds.size())
        throw Error(Status::malformed_message,
                    std::string("the request came without its descriptor: ") + what);
    return std::move(fds[index]);
}

std::vector<driver::Signature> signatures_of(const internal::LoadModule& request) {
    std::vector<driver::Signature> signatures;
    if (request.signatures() == nullptr) return signatures;
    for (const schema::Signature* each : *request.signatures()) {
        driver::Signature signature{each->kernel()->str(), {}};
        for (const schema::Param* param : *each->params())
            signature.params.push_back(
                {param->type(), param->offset(), param->size(), text_of(param->name())});
        signatures.push_back(std::move(signature));
    }
    return signatures;
}

fb::Offset<schema::KernelInfo> describe(fb::FlatBufferBuilder& builder, const driver::KernelLayout& layout) {
    std::vector<fb::Offset<schema::Param>> params;
    for (const driver::Param& param : layout.params)
        params.push_back(schema::CreateParam(builder, param.type, param.offset, param.size,
                                             param.name.empty() ? 0 : builder.CreateString(param.name)));
    const auto name = builder.CreateString(layout.name);
    const auto listed = builder.CreateVector(params);
    const driver::LaunchAttributes& own = layout.attributes;
    // The usual ones are left out: a module's list of kernels has to fit into a message.
    const auto attributes =
        own == driver::LaunchAttributes{}
            ? fb::Offset<schema::KernelAttributes>()
            : schema::CreateKernelAttributes(builder, own.cluster.x, own.cluster.y, own.cluster.z,
                                             own.cooperative, own.programmatic);
    schema::KernelInfoBuilder info(builder);
    info.add_name(name);
    info.add_declared(layout.declared);
    info.add_params(listed);
    info.add_param_bytes(layout.param_bytes);
    info.add_block_x(layout.default_block.x);
    info.add_block_y(layout.default_block.y);
    info.add_block_z(layout.default_block.z);
    info.add_max_threads(layout.max_threads);
    info.add_static_shared_bytes(layout.static_shared_bytes);
    info.add_max_dynamic_shared_bytes(layout.max_dynamic_shared_bytes);
    info.add_registers(layout.registers);
    info.add_local_bytes(layout.local_bytes);
    if (!attributes.IsNull()) info.add_attributes(attributes);
    return info.Finish();
}

// Leaves word of a device that failed for good, and goes: only a new process helps. Dispatch thread.
[[noreturn]] void leave_lost_device(driver::FaultPage* page, const std::string& text) {
    // relaxed: a look; a signal handler that was first has written what is more exact.
    if (page != nullptr && page->kind.load(std::memory_order_relaxed) == 0) {
        std::memset(page->text, 0, sizeof page->text);
        std::memcpy(page->text, text.data(), std::min(text.size(), sizeof page->text - 1));
        // sync: FAULT (pairs with the supervisor's read once this process has been reaped): the text belongs
        // to it.
        page->kind.store(static_cast<std::uint32_t>(driver::FaultKind::device), std::memory_order_release);
    }
    spdlog::critical("the device is lost: {}", text);
    ::_exit(driver::kExitDeviceLost);
}

}  // namespace

ControlPort::End ControlPort::run() {
    End end = End::quit;
    for (;;) {
        pollfd watched[2] = {{socket_.get(), POLLIN, 0}, {thread_ ? thread_->notice_fd() : -1, POLLIN, 0}};
        const int deadline_ms = registry_ ? registry_->tick(now_ns()) : -1;
        if (thread_) thread_->rescue();
        const int longest_ms = deadline_ms < 0 ? kWatchMs : std::min(deadline_ms, kWatchMs);
        if (::poll(watched, 2, longest_ms) < 0 && errno != EINTR) {
            spdlog::critical("cannot wait for the supervisor: {}", std::strerror(errno));
            return End::peer_closed;
        }
        if (watched[1].revents != 0) pass_notices();
        if (watched[0].revents != 0 && !serve_one(end)) return end;
    }
}

bool ControlPort::settle() {
    if (!thread_) return true;
    const bool quiet = registry_->quiet();
    thread_->stop();
    return quiet;
}

// One message, if there is one. False: the conversation is over.
bool ControlPort::serve_one(End& end) {
    Message message;
    bool whole = true;
    switch (receive_message(socket_.get(), message, false)) {
        case Transfer::would_block:
            return true;
        case Transfer::closed:
            end = End::peer_closed;
            return false;
        case Transfer::malformed:
            end = End::malformed;
            return false;
        case Transfer::no_descriptors:
            whole = false;
            break;
        case Transfer::done:
            break;
    }
    fb::Verifier verifier(reinterpret_cast<const std::uint8_t*>(message.bytes.data()), message.bytes.size());
    if (!verifier.VerifyBuffer<ToExecutor>(nullptr)) {
        spdlog::error("a request of {} bytes is not a ToExecutor message", message.bytes.size());
        end = End::malformed;
        return false;
    }
    const auto& request = *fb::GetRoot<ToExecutor>(message.bytes.data());
    answering(request.id(), [&] {
        if (!whole)
            throw Error(
                Status::limit_reached,
                "the executor has no descriptors left to receive those of this request; raise its limit "
                "(ulimit -n)");
        handle(request, message.fds);
    });
    end = End::quit;
    return !quit_;
}

template <class Handle>
void ControlPort::answering(std::uint32_t id, const Handle& handle) {
    try {
        handle();
    } catch (const Error& error) {
        answer_error(id, error.status(), error.what());
    } catch (const std::bad_alloc&) {
        answer_error(id, Status::out_of_memory, "the executor has no memory left for this request");
    } catch (const std::system_error& error) {
        const bool descriptors = error.code() == std::errc::too_many_files_open ||
                                 error.code() == std::errc::too_many_files_open_in_system;
        answer_error(id,
                     descriptors                                    ? Status::limit_reached
                     : error.code() == std::errc::not_enough_memory ? Status::out_of_memory
                                                                    : Status::internal_error,
                     error.what());
    } catch (const std::exception& error) {
        answer_error(id, Status::internal_error, error.what());
    }
}

// ---- requests
// --------------------------------------------------------------------------------------------------------

void ControlPort::handle(const ToExecutor& message, std::vector<UniqueFd>& fds) {
    switch (message.request_type()) {
        case ExecutorRequest::Configure:
            return configure(message.id(), *message.request_as_Configure(), fds);
        case ExecutorRequest::AttachSession:
        case ExecutorRequest::DetachSession:
        case ExecutorRequest::OpenStream:
        case ExecutorRequest::ReleaseStream:
        case ExecutorRequest::ResumeStream:
        case ExecutorRequest::CloseStream:
        case ExecutorRequest::WatchStream:
        case ExecutorRequest::UnwatchStream:
            return handle_stream(message, fds);
        case ExecutorRequest::MakeGraph:
        case ExecutorRequest::RestoreGraph:
        case ExecutorRequest::DropGraph:
            return handle_graph(message, fds);
        case ExecutorRequest::LoadModule:
        case ExecutorRequest::UnloadModule:
        case ExecutorRequest::BindModule:
        case ExecutorRequest::BindKernel:
        case ExecutorRequest::UnbindKernels:
            return handle_module(message, fds);
        case ExecutorRequest::MakeChunk:
        case ExecutorRequest::MapChunk:
        case ExecutorRequest::UnmapChunk:
        case ExecutorRequest::MapStaging:
        case ExecutorRequest::UnmapStaging:
        case ExecutorRequest::LendMemory:
        case ExecutorRequest::ReturnMemory:
            return handle_memory(message, fds);
        case ExecutorRequest::MakeTensorMap:
            return make_tensor_map(message.id(), *message.request_as_MakeTensorMap());
        case ExecutorRequest::HoldIssue:
            registry().hold_issue();
            return answer_ok(message.id());
        case ExecutorRequest::Ping:
            return answer_ok(message.id());
        case ExecutorRequest::Quit:
            quit_ = true;
            return answer_ok(message.id());
        case ExecutorRequest::NONE:
            break;
    }
    throw Error(Status::malformed_message, "request " +
                                               std::to_string(static_cast<int>(message.request_type())) +
                                               " is none that this executor knows");
}

Registry& ControlPort::registry() {
    if (!registry_) throw Error(Status::invalid_argument, "the executor has not been configured yet");
    return *registry_;
}

void ControlPort::configure(std::uint32_t id, const internal::Configure& request,
                            std::vector<UniqueFd>& fds) {
    if (registry_) throw Error(Status::invalid_argument, "the executor is configured already");
    driver::FaultPage* page = nullptr;
    if (!fds.empty()) {
        fault_page_ =
            Mapping(fds[0], sizeof(driver::FaultPage), Mapping::Access::read_write, "the fault page");
        page = fault_page_.as<driver::FaultPage>();
    }
    std::unique_ptr<driver::Driver> made =
        driver::make_driver(request.driver(), request.device(), page,
                            {.fault_dumps = request.fault_dumps(), .stack_bytes = request.stack_bytes()},
                            text_of(request.driver_note()));
    const driver::DeviceInfo& device = made->device();
    auto memory = std::make_unique<MemoryMap>(device);

    DispatchThread::Config config;
    if (request.max_in_flight() != 0)
        config.dispatcher.max_in_flight = std::min<std::uint32_t>(request.max_in_flight(), kMaxRingSlots);
    if (request.max_batch() != 0)
        config.dispatcher.max_batch = std::min<std::uint32_t>(request.max_batch(), 1024);
    config.dispatcher.coalesce = request.coalesce();
    config.spin_ns = request.spin_ns();
    // Registered as well, so that a producer within this process (a test, an embedded one) is reached.
    config.membarrier = membarrier_available() && register_for_membarrier();
    auto thread = std::make_unique<DispatchThread>(
        config, *made, *memory, [page](const std::string& text) { leave_lost_device(page, text); });
    thread->start();
    driver_ = std::move(made);
    memory_ = std::move(memory);
    thread_ = std::move(thread);
    constexpr std::uint64_t kNsPerMs = 1'000'000, kLongestMs = 1'000'000'000;
    const std::uint64_t close_timeout_ms =
        request.close_timeout_ms() == 0 ? kLongestMs : std::min(request.close_timeout_ms(), kLongestMs);
    registry_ = std::make_unique<Registry>(*driver_, *memory_, *thread_, config.dispatcher,
                                           close_timeout_ms * kNsPerMs);

    fb::FlatBufferBuilder builder;
    const auto name = builder.CreateString(device.name);
    const auto architecture = builder.CreateString(device.architecture);
    internal::ReadyBuilder ready(builder);
    ready.add_device_name(name);
    ready.add_architecture(architecture);
    ready.add_range_base(device.range_base);
    ready.add_range_bytes(device.range_bytes);
    ready.add_chunk_bytes(device.chunk_bytes);
    ready.add_staging_base(device.staging_base);
    ready.add_staging_bytes(device.staging_bytes);
    ready.add_max_param_bytes(device.max_param_bytes);
    ready.add_max_grid_x(device.max_grid.x);
    ready.add_max_grid_y(device.max_grid.y);
    ready.add_max_grid_z(device.max_grid.z);
    ready.add_max_threads_per_block(device.max_threads_per_block);
    ready.add_max_block_x(device.max_block.x);
    ready.add_max_block_y(device.max_block.y);
    ready.add_max_block_z(device.max_block.z);
    ready.add_uses_membarrier(config.membarrier);
    const auto answer = ready.Finish();
    send(builder, internal::CreateFromExecutor(builder, id, 0, 0, ExecutorAnswer::Ready, answer.Union()));
    spdlog::info("executor ready: {} ({}), epoch {}", device.name, device.architecture, request.epoch());
}

void ControlPort::handle_stream(const ToExecutor& message, std::vector<UniqueFd>& fds) {
    Registry& held = registry();
    switch (message.request_type()) {
        case ExecutorRequest::AttachSession:
            held.attach_session(message.request_as_AttachSession()->session(),
                                take_fd(fds, 0, "the doorbell"));
            break;
        case ExecutorRequest::DetachSession:
            held.detach_session(message.request_as_DetachSession()->session());
            break;
        case ExecutorRequest::OpenStream: {
            const auto& request = *message.request_as_OpenStream();
            StreamSetup setup;
            setup.id = request.stream();
            setup.ring_slots = request.ring_slots();
            setup.position = request.position();
            setup.priority = request.priority();
            setup.hold = request.hold();
            setup.watched = request.watched();
            setup.coalesce = request.coalesce();
            const UniqueFd ring = take_fd(fds, 0, "the ring");
            const UniqueFd status = take_fd(fds, 1, "the status page");
            held.open_stream(request.session(), setup, ring, status, take_fd(fds, 2, "the wake eventfd"));
            break;
        }
        case ExecutorRequest::ReleaseStream:
            held.release_stream(message.request_as_ReleaseStream()->stream(),
                                message.request_as_ReleaseStream()->single_until());
            break;
        case ExecutorRequest::ResumeStream: {
            const auto& request = *message.request_as_ResumeStream();
            held.resume_stream(request.stream(), request.position(), request.skip());
            break;
        }
        case ExecutorRequest::WatchStream: {
            const auto& request = *message.request_as_WatchStream();
            if (fds.empty())
                held.watch_without_page(request.session(), request.stream(), request.completed(), true);
            else
                held.watch_stream(request.session(), request.stream(), take_fd(fds, 0, "the status page"));
            break;
        }
        case ExecutorRequest::UnwatchStream: {
            const auto& request = *message.request_as_UnwatchStream();
            held.watch_without_page(request.session(), request.stream(), request.final_position(), false);
            break;
        }
        default:
            held.close_stream(message.request_as_CloseStream()->stream(), later(message.id()));
            return;
    }
    answer_ok(message.id());
}

void ControlPort::handle_graph(const ToExecutor& message, std::vector<UniqueFd>& fds) {
    Registry& held = registry();
    switch (message.request_type()) {
        case ExecutorRequest::MakeGraph: {
            const auto& request = *message.request_as_MakeGraph();
            const Registry::MadeGraph made =
                held.make_graph(request.session(), request.stream(), request.graph(),
                                take_fd(fds, 0, "the description"), request.slots());
            fb::FlatBufferBuilder builder;
            const auto laid = internal::CreateGraphLaid(builder, static_cast<std::uint32_t>(made.nodes));
            return send(builder,
                        internal::CreateFromExecutor(builder, message.id(), 0, 0, ExecutorAnswer::GraphLaid,
                                                     laid.Union()),
                        made.page.get());
        }
        case ExecutorRequest::RestoreGraph: {
            const auto& request = *message.request_as_RestoreGraph();
            held.restore_graph(request.session(), request.stream(), request.graph(),
                               take_fd(fds, 0, "the graph's page"));
            return answer_ok(message.id());
        }
        default: {
            const auto& request = *message.request_as_DropGraph();
            return held.drop_graph(request.session(), request.stream(), request.graph(), later(message.id()));
        }
    }
}

void ControlPort::handle_module(const ToExecutor& message, std::vector<UniqueFd>& fds) {
    Registry& held = registry();
    const auto ids_of = [](const fb::Vector<std::uint64_t>* ids) {
        return ids == nullptr ? std::vector<std::uint64_t>()
                              : std::vector<std::uint64_t>(ids->begin(), ids->end());
    };
    switch (message.request_type()) {
        case ExecutorRequest::LoadModule:
            return load_module(message.id(), *message.request_as_LoadModule(), fds);
        case ExecutorRequest::UnloadModule:
            return held.unload_module(message.request_as_UnloadModule()->module_key(), later(message.id()));
        case ExecutorRequest::BindModule: {
            const auto& request = *message.request_as_BindModule();
            held.bind_module(request.session(), request.module_key(), ids_of(request.kernel_ids()));
            break;
        }
        case ExecutorRequest::BindKernel: {
            const auto& request = *message.request_as_BindKernel();
            const schema::KernelAttributes& wanted = *request.attributes();
            const driver::LaunchAttributes attributes{
                {wanted.cluster_x(), wanted.cluster_y(), wanted.cluster_z()},
                wanted.cooperative(),
                wanted.programmatic()};
            const driver::KernelLayout& bound = held.bind_kernel(
                request.session(), request.module_key(), request.index(), attributes, request.kernel_id());
            fb::FlatBufferBuilder builder;
            const std::vector<fb::Offset<schema::KernelInfo>> kernels{describe(builder, bound)};
            const auto layout = internal::CreateModuleLayoutDirect(builder, &kernels);
            return send(builder, internal::CreateFromExecutor(builder, message.id(), 0, 0,
                                                              ExecutorAnswer::ModuleLayout, layout.Union()));
        }
        default: {
            const auto& request = *message.request_as_UnbindKernels();
            held.unbind_kernels(request.session(), ids_of(request.kernel_ids()));
        }
    }
    answer_ok(message.id());
}

struct ControlPort::WantedModule {
    std::uint64_t key;
    std::string name;
    UniqueFd image;
    std::uint64_t bytes;
    std::vector<driver::Signature> signatures;
    std::uint32_t max_registers;
    std::uint64_t stack_bytes;
};

void ControlPort::load_module(std::uint32_t id, const internal::LoadModule& request,
                              std::vector<UniqueFd>& fds) {
    const auto wanted = std::make_shared<WantedModule>(WantedModule{
        request.module_key(), text_of(request.name()), take_fd(fds, 0, "the image"), request.bytes(),
        signatures_of(request), request.max_registers(), request.stack_bytes()});
    // What CUDA has to compile takes long without the device.
    char magic[4] = {};
    const bool compiled = ::pread(wanted->image.get(), magic, sizeof magic, 0) == sizeof magic &&
                          std::memcmp(magic, "\177ELF", sizeof magic) == 0;
    registry().when_the_device_is_empty(
        [this, id, wanted] { answering(id, [&] { load_now(id, *wanted); }); },
        [this, id, wanted] {
            answer_error(id, Status::timed_out,
                         "cannot load " + driver::module_text(wanted->name) +
                             " beside kernels that go on and on: CUDA loads nothing until the device is "
                             "through with what it has, and would let nobody launch meanwhile; it was tried "
                             "for " +
                             std::to_string(Lull::kGiveUpNs / 1'000'000'000) +
                             " s. Load before they begin, or have the daemon keep sessions apart (serve "
                             "--isolate session)");
        },
        !compiled);
}

void ControlPort::load_now(std::uint32_t id, const WantedModule& wanted) {
    Registry& held = registry();
    const std::uint64_t key = wanted.key;
    const std::string called = driver::module_text(wanted.name);
    // Of what it died, if it dies of this.
    driver::FaultPage* const page = fault_page_.size() == 0 ? nullptr : fault_page_.as<driver::FaultPage>();
    const auto note = [page](std::uint32_t request) {
        // relaxed: read once this process has been reaped.
        if (page != nullptr) page->loading.store(request, std::memory_order_relaxed);
    };
    note(id);
    const KernelCache::Loaded* loaded = nullptr;
    try {
        loaded = &held.load_module(key, wanted.name, wanted.image, wanted.bytes,
                                   {wanted.signatures, wanted.max_registers});
    } catch (...) {
        note(0);
        throw;
    }
    note(0);
    const KernelCache::Loaded& module = *loaded;
    const auto builder = std::make_shared<fb::FlatBufferBuilder>();
    std::vector<fb::Offset<schema::KernelInfo>> kernels;
    for (const auto& entry : module.kernels) kernels.push_back(describe(*builder, entry->kernel->layout()));
    const auto layout = internal::CreateModuleLayoutDirect(*builder, &kernels);
    const auto refusal = [&held, key, called](const std::string& why) {
        held.discard_module(key);
        return "cannot load " + called + ": " + why;
    };
    if (builder->GetSize() > kMaxControlBytes - 256)
        throw Error(Status::limit_reached,
                    refusal("the layouts of its " + std::to_string(kernels.size()) +
                            " kernels do not fit into one message of " + std::to_string(kMaxControlBytes) +
                            " bytes; load it in parts"));
    // No session has its kernels before this is answered, or nothing is issued until then.
    try {
        held.give_stack(wanted.stack_bytes, kStackPatienceNs,
                        [this, id, builder, layout, refusal](Status status, const std::string& why) {
                            if (status != Status::ok) return answer_error(id, status, refusal(why));
                            send(*builder,
                                 internal::CreateFromExecutor(*builder, id, 0, 0,
                                                              ExecutorAnswer::ModuleLayout, layout.Union()));
                        });
    } catch (const Error& error) {
        throw Error(error.status(), refusal(error.what()));
    }
}

void ControlPort::handle_memory(const ToExecutor& message, std::vector<UniqueFd>& fds) {
    Registry& held = registry();
    switch (message.request_type()) {
        case ExecutorRequest::MakeChunk: {
            const auto& request = *message.request_as_MakeChunk();
            const UniqueFd chunk = held.make_chunk(request.session(), request.address(), request.bytes());
            return answer_ok(message.id(), chunk.get());
        }
        case ExecutorRequest::MapChunk: {
            const auto& request = *message.request_as_MapChunk();
            held.map_chunk(request.session(), request.address(), request.bytes(),
                           take_fd(fds, 0, "the chunk"));
            break;
        }
        case ExecutorRequest::UnmapChunk: {
            const auto& request = *message.request_as_UnmapChunk();
            return held.unmap_chunk(request.session(), request.address(), request.bytes(),
                                    later(message.id()));
        }
        case ExecutorRequest::MapStaging: {
            const auto& request = *message.request_as_MapStaging();
            held.map_staging(request.session(), request.staging(), request.address(), request.bytes(),
                             take_fd(fds, 0, "the segment"));
            break;
        }
        case ExecutorRequest::LendMemory: {
            const auto& request = *message.request_as_LendMemory();
            held.lend_memory(request.session(), request.loan(), {request.address(), request.bytes()},
                             request.chunk(), request.chunk_bytes(), take_fd(fds, 0, "the chunk"));
            break;
        }
        case ExecutorRequest::ReturnMemory: {
            const auto& request = *message.request_as_ReturnMemory();
            return held.return_memory(request.session(), request.loan(), later(message.id()));
        }
        default: {
            const auto& request = *message.request_as_UnmapStaging();
            return held.unmap_staging(request.session(), request.staging(), later(message.id()));
        }
    }
    answer_ok(message.id());
}

void ControlPort::make_tensor_map(std::uint32_t id, const internal::MakeTensorMap& request) {
    (void)registry();  // it is configured
    const TensorMap map =
        driver_->make_tensor_map(request.address(), request.bytes(), read_layout(*request.layout()));
    fb::FlatBufferBuilder builder;
    const auto bytes = builder.CreateVector(reinterpret_cast<const std::uint8_t*>(map.data()), map.size());
    const auto made = internal::CreateTensorMapMade(builder, bytes);
    send(builder,
         internal::CreateFromExecutor(builder, id, 0, 0, ExecutorAnswer::TensorMapMade, made.Union()));
}

// ---- answers
// ---------------------------------------------------------------------------------------------------------

void ControlPort::pass_notices() {
    for (const Notice& notice : thread_->take_notices()) {
        if (notice.kind == Notice::Kind::barrier_reached) {
            registry_->barrier_reached(notice.id);
            continue;
        }
        fb::FlatBufferBuilder builder;
        const auto stopped = internal::CreateStreamStopped(builder, notice.id);
        send(builder,
             internal::CreateFromExecutor(builder, 0, 0, 0, ExecutorAnswer::StreamStopped, stopped.Union()));
    }
}

Registry::Answer ControlPort::later(std::uint32_t id) {
    return [this, id](Status status, const std::string& text) {
        if (status == Status::ok)
            answer_ok(id);
        else
            answer_error(id, status, text);
    };
}

void ControlPort::answer_ok(std::uint32_t id, int fd) {
    fb::FlatBufferBuilder builder;
    const auto ok = internal::CreateOk(builder);
    send(builder, internal::CreateFromExecutor(builder, id, 0, 0, ExecutorAnswer::Ok, ok.Union()), fd);
}

void ControlPort::answer_error(std::uint32_t id, Status status, const std::string& text) {
    fb::FlatBufferBuilder builder;
    const auto error = builder.CreateString(text.substr(0, 4096));
    send(builder, internal::CreateFromExecutor(builder, id, static_cast<std::uint32_t>(status), error));
}

void ControlPort::send(fb::FlatBufferBuilder& builder, fb::Offset<internal::FromExecutor> message, int fd) {
    builder.Finish(message);
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(builder.GetBufferPointer()),
                                           builder.GetSize());
    const std::span<const int> fds(&fd, fd >= 0 ? 1 : 0);
    // A supervisor that is gone is noticed by the next receive.
    if (send_message(socket_.get(), bytes, fds, true) == Transfer::malformed)
        spdlog::error("an answer of {} bytes could not be sent", bytes.size());
}

}  // namespace ringlaunch::executor
