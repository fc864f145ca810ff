// Loading modules: images by content, loaded once an executor, bound to each session's own kernel ids.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/supervisor/core.hpp"
#include "daemon/supervisor/image_digest.hpp"
#include "daemon/supervisor/kernel_info.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

// A message's envelope and what the verifier's alignment may add.
constexpr std::size_t kAnswerBytes = kMaxControlBytes - 1024;
constexpr std::size_t kMaxCachedImages = 64;  // each holds a descriptor
constexpr std::size_t kMaxConfigured = 4096;

}  // namespace

void Core::load_module(Session& session, std::uint32_t request, const schema::LoadModule& load,
                       UniqueFd image) {
    if (draining_) throw Error(Status::stopping, "cannot load a module: the daemon is leaving");
    if (session.modules.size() >= options_.limits.max_modules)
        throw Error(Status::limit_reached, "cannot load a module: this session has " +
                                               std::to_string(session.modules.size()) + ", its limit is " +
                                               std::to_string(options_.limits.max_modules) +
                                               " (--max-modules); let go of one");
    const std::string name = printable(load.name());
    const std::string called = name.empty() ? "(without a name)" : name;
    require_descriptors(session, 1, "cannot load module " + called);
    if (load.bytes() == 0 || load.bytes() > options_.limits.max_image_bytes)
        throw Error(load.bytes() == 0 ? Status::bad_image : Status::limit_reached,
                    "cannot load module " + called + ": its image has " + std::to_string(load.bytes()) +
                        " bytes, it takes 1 to " + std::to_string(options_.limits.max_image_bytes) +
                        " (--max-image)");
    const std::uint64_t most_stack = std::max(options_.limits.max_stack_bytes, options_.stack_bytes);
    if (load.stack_bytes() > most_stack)
        throw Error(Status::limit_reached, "cannot load module " + called + " with a stack of " +
                                               std::to_string(load.stack_bytes()) +
                                               " bytes: every thread that fits on the device "
                                               "has one, of at most " +
                                               std::to_string(most_stack) + " bytes (--max-stack)");
    check_seals(image, Sealing::immutable, load.bytes(), "the image of module " + called);
    std::vector<DeclaredSignature> signatures = read_signatures(load.signatures());
    const std::string digest =
        image_digest(image, load.bytes(), signatures, load.max_registers(), load.stack_bytes());

    const auto known = module_keys_.find({digest, session.device});
    const bool cached = known != module_keys_.end();
    std::uint64_t key = cached ? known->second : 0;
    if (!cached) {
        key = ++last_module_key_;
        Module module;
        module.key = key;
        module.device = session.device;
        module.digest = digest;
        module.name = name;
        module.bytes = load.bytes();
        module.image = std::move(image);
        module.signatures = std::move(signatures);
        module.max_registers = load.max_registers();
        module.stack_bytes = load.stack_bytes();
        modules_.emplace(key, std::move(module));
        module_keys_.emplace(std::pair(digest, session.device), key);
    }
    ++modules_.at(key).users;
    ModuleUse use;
    use.id = session.module_ids.take();
    use.key = key;
    const std::uint64_t id = use.id;
    session.modules.emplace(id, std::move(use));
    request_opened(session);
    ensure_loaded(session, key, [this, id, key, request, cached](Session& in, Reply& reply) {
        if (!in.modules.contains(id)) return;
        if (reply.status != Status::ok) {
            drop_use(in, id);
            return refuse_later(in.id, request, reply.status, reply.error);
        }
        bind_module(in, request, id, cached);
    });
}

// One request an executor and module, however many sessions wait for it.
void Core::ensure_loaded(Session& session, std::uint64_t key, std::function<void(Session&, Reply&)> done) {
    attach(session);
    FaultDomain& domain = domain_of(session);
    const DomainKey where = domain.key();
    ++session.open_calls;
    auto finish = [this, id = session.id, key, where, done = std::move(done)](Reply& reply) {
        Session* found = find(id);
        if (found == nullptr) return;
        --found->open_calls;
        // Moved to another executor meanwhile: loaded there, not here.
        if (reply.status == Status::ok && found->connection && found->domain != where)
            ensure_loaded(*found, key, done);
        else
            done(*found, reply);
        if ((found = find(id)) != nullptr) go_on_ending(*found);
    };
    auto& waiting = domain.loading[key];
    waiting.push_back(std::move(finish));
    if (waiting.size() > 1) return;
    Call call;
    call.module = key;
    call.risk_of = session.id;
    call.make = [this, key, where](Call::Wire& wire) {
        const auto module = modules_.find(key);
        const auto at = domains_.find(where);
        if (module == modules_.end() || at == domains_.end() || at->second->loaded.contains(key))
            return false;
        return make_load_module(wire, module->second);
    };
    call.done = [this, key, where](Reply& reply) {
        const auto at = domains_.find(where);
        if (at == domains_.end()) return;
        if (const auto* layout = reply.message == nullptr ? nullptr : reply.message->answer_as_ModuleLayout();
            layout != nullptr && reply.status == Status::ok) {
            at->second->loaded.insert(key);
            if (const auto module = modules_.find(key); module != modules_.end() && !module->second.known) {
                module->second.kernels = read_kernels(layout->kernels(), module->second.stack_bytes);
                module->second.known = true;
            }
        }
        auto waiters = std::move(at->second->loading[key]);
        at->second->loading.erase(key);
        for (auto& waiter : waiters) waiter(reply);
    };
    domain.call(std::move(call));
}

bool Core::make_load_module(Call::Wire& wire, const Module& module) {
    const auto name = wire.builder.CreateString(module.name);
    const auto signatures = write_signatures(wire.builder, module.signatures);
    wire.kind = internal::ExecutorRequest::LoadModule;
    wire.request = internal::CreateLoadModule(wire.builder, module.key, name, module.bytes, signatures,
                                              module.max_registers, module.stack_bytes)
                       .Union();
    wire.fds = {module.image.get()};
    return true;
}

void Core::bind_module(Session& session, std::uint32_t request, std::uint64_t id, bool cached) {
    ModuleUse& use = session.modules.at(id);
    const Module& module = modules_.at(use.key);
    if (use.kernel_ids.empty())
        for (std::size_t i = 0; i < module.kernels.size(); ++i)
            use.kernel_ids.push_back(session.kernel_ids.take());
    call(
        session, Call::OnDeath::repeat,
        [this, id](Call::Wire& wire, Session& in) {
            const auto at = in.modules.find(id);
            if (at == in.modules.end()) return false;
            // Asked again after a death: the module has to come first.
            const FaultDomain* domain = existing_domain(in);
            if (domain == nullptr || !domain->loaded.contains(at->second.key))
                throw Error(Status::executor_lost, "the executor was restarted meanwhile");
            const auto ids = wire.builder.CreateVector(at->second.kernel_ids);
            wire.kind = internal::ExecutorRequest::BindModule;
            wire.request = internal::CreateBindModule(wire.builder, in.id, at->second.key, ids).Union();
            return true;
        },
        [this, id, request, cached](Session& in, Reply& reply) {
            const auto at = in.modules.find(id);
            if (at == in.modules.end()) return;
            if (reply.status == Status::executor_lost && in.connection) {
                ensure_loaded(in, at->second.key, [this, id, request, cached](Session& again, Reply& loaded) {
                    if (!again.modules.contains(id)) return;
                    if (loaded.status == Status::ok) return bind_module(again, request, id, cached);
                    drop_use(again, id);
                    refuse_later(again.id, request, loaded.status, "cannot load a module: " + loaded.error);
                });
                return;
            }
            if (reply.status != Status::ok) {
                drop_use(in, id);
                return refuse_later(in.id, request, reply.status,
                                    "cannot bind a module's kernels: " + reply.error);
            }
            at->second.bound = true;
            answer_loaded(in, request, at->second, cached);
        });
}

void Core::answer_loaded(Session& session, std::uint32_t request, const ModuleUse& use, bool cached) {
    const Module& module = modules_.at(use.key);
    for (const Detail detail : {Detail::names, Detail::types}) {
        flatbuffers::FlatBufferBuilder probe;
        write_kernels(probe, module.kernels, &use.kernel_ids, detail);
        if (probe.GetSize() > kAnswerBytes) continue;
        return answer_later(session.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
            const auto kernels = write_kernels(builder, module.kernels, &use.kernel_ids, detail);
            return {schema::Answer::ModuleLoaded,
                    schema::CreateModuleLoaded(builder, use.id, kernels, cached).Union()};
        });
    }
    refuse_later(session.id, request, Status::limit_reached,
                 "cannot load module " + (module.name.empty() ? "(without a name)" : module.name) +
                     ": the list of its " + std::to_string(module.kernels.size()) +
                     " kernels does not fit into a control message of " + std::to_string(kMaxControlBytes) +
                     " bytes; split the module");
    unload_module(session, 0, use.id);
}

// ---- kernels with attributes of their own

void Core::configure_kernel(Session& session, std::uint32_t request,
                            const schema::ConfigureKernel& configure) {
    if (draining_) throw Error(Status::stopping, "cannot configure a kernel: the daemon is leaving");
    const KernelAttributes wanted = read_attributes(configure.attributes());
    ModuleUse* use = nullptr;
    std::uint32_t index = 0;
    std::size_t configured = 0;
    for (auto& [id, each] : session.modules) {
        configured += each.configured.size();
        if (!each.bound) continue;
        for (std::size_t i = 0; i < each.kernel_ids.size(); ++i)
            if (each.kernel_ids[i] == configure.kernel()) {
                use = &each;
                index = static_cast<std::uint32_t>(i);
            }
        for (const ModuleUse::Configured& other : each.configured)
            if (other.id == configure.kernel()) {
                use = &each;
                index = other.index;
            }
    }
    if (use == nullptr)
        throw Error(Status::not_found, "cannot configure kernel " + id_text(configure.kernel()) +
                                           ": this session has no such kernel");
    for (const ModuleUse::Configured& other : use->configured)
        if (other.bound && other.index == index && other.wanted == wanted) {
            request_opened(session);
            return answer_configured(session, request, other);
        }
    if (configured >= kMaxConfigured)
        throw Error(Status::limit_reached, "cannot configure a kernel: this session has " +
                                               std::to_string(configured) +
                                               " kernels with attributes of their own, which is the limit; "
                                               "unload a module");
    const std::uint64_t id = session.kernel_ids.take();
    use->configured.push_back({id, index, wanted, {}, false});
    request_opened(session);
    bind_configured(session, request, use->id, id);
}

bool Core::make_bind_kernel(Call::Wire& wire, const Session& session, const ModuleUse& use,
                            const ModuleUse::Configured& kernel) {
    const auto attributes = write_attributes(wire.builder, kernel.wanted);
    wire.kind = internal::ExecutorRequest::BindKernel;
    wire.request =
        internal::CreateBindKernel(wire.builder, session.id, use.key, kernel.index, kernel.id, attributes)
            .Union();
    return true;
}

void Core::bind_configured(Session& session, std::uint32_t request, std::uint64_t use_id, std::uint64_t id) {
    const auto find_in = [use_id, id](Session& in) -> ModuleUse::Configured* {
        const auto use = in.modules.find(use_id);
        if (use == in.modules.end() || !use->second.bound) return nullptr;
        for (ModuleUse::Configured& each : use->second.configured)
            if (each.id == id) return &each;
        return nullptr;
    };
    call(
        session, Call::OnDeath::repeat,
        [this, use_id, find_in](Call::Wire& wire, Session& in) {
            const ModuleUse::Configured* kernel = find_in(in);
            if (kernel == nullptr) return false;
            const ModuleUse& use = in.modules.at(use_id);
            // Moved to another executor meanwhile: the module has to come first.
            const FaultDomain* domain = existing_domain(in);
            if (domain == nullptr || !domain->loaded.contains(use.key))
                throw Error(Status::executor_lost, "the executor was restarted meanwhile");
            return make_bind_kernel(wire, in, use, *kernel);
        },
        [this, request, use_id, id, find_in](Session& in, Reply& reply) {
            ModuleUse::Configured* kernel = find_in(in);
            if (kernel == nullptr)
                return refuse_later(in.id, request, Status::not_found,
                                    "cannot configure a kernel: its module was unloaded meanwhile");
            const auto* layout = reply.message == nullptr ? nullptr : reply.message->answer_as_ModuleLayout();
            const std::uint64_t stack_bytes = modules_.at(in.modules.at(use_id).key).stack_bytes;
            std::vector<KernelDescription> described = layout == nullptr
                                                           ? std::vector<KernelDescription>()
                                                           : read_kernels(layout->kernels(), stack_bytes);
            if (reply.status == Status::ok && described.size() == 1) {
                kernel->kernel = std::move(described.front());
                kernel->bound = true;
                return answer_configured(in, request, *kernel);
            }
            std::erase_if(in.modules.at(use_id).configured,
                          [id](const ModuleUse::Configured& each) { return each.id == id; });
            in.kernel_ids.give_back(id);
            refuse_later(in.id, request, reply.status == Status::ok ? Status::internal_error : reply.status,
                         reply.error);
        });
}

void Core::answer_configured(Session& session, std::uint32_t request, const ModuleUse::Configured& kernel) {
    answer_later(session.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
        const auto info = write_kernel(builder, kernel.kernel, kernel.id, Detail::names);
        return {schema::Answer::KernelConfigured, schema::CreateKernelConfigured(builder, info).Union()};
    });
}

void Core::unload_module(Session& session, std::uint32_t request, std::uint64_t id) {
    const auto at = session.modules.find(id);
    if (at == session.modules.end() || !at->second.bound)
        throw Error(Status::not_found,
                    "cannot unload module " + id_text(id) + ": this session has no such module");
    if (request != 0) request_opened(session);
    at->second.bound = false;  // a restart does not bind it again
    call(
        session, Call::OnDeath::settled,
        [id](Call::Wire& wire, Session& in) {
            const auto use = in.modules.find(id);
            if (use == in.modules.end()) return false;
            const auto ids = wire.builder.CreateVector(use->second.all_ids());
            wire.kind = internal::ExecutorRequest::UnbindKernels;
            wire.request = internal::CreateUnbindKernels(wire.builder, in.id, ids).Union();
            return true;
        },
        [this, id, request](Session& in, Reply& reply) {
            drop_use(in, id);
            evict_modules();
            if (request == 0) return;
            if (reply.status == Status::ok) return done_later(in.id, request);
            refuse_later(in.id, request, reply.status, "cannot unload a module: " + reply.error);
        });
}

void Core::drop_use(Session& session, std::uint64_t id) {
    const auto at = session.modules.find(id);
    if (at == session.modules.end()) return;
    const std::uint64_t key = at->second.key;
    for (const std::uint64_t kernel : at->second.all_ids()) session.kernel_ids.give_back(kernel);
    session.module_ids.give_back(id);
    session.modules.erase(at);
    release_module(key);
}

void Core::release_module(std::uint64_t key) {
    const auto at = modules_.find(key);
    if (at == modules_.end() || --at->second.users != 0) return;
    if (at->second.known) {
        at->second.unused_since = ++unused_count_;
        return;
    }
    // Never loaded by anybody: nothing to keep.
    module_keys_.erase({at->second.digest, at->second.device});
    modules_.erase(at);
}

// Images that nobody uses stay for the next session that brings them, up to a bound; the longest unused go
// first.
void Core::evict_modules() {
    for (;;) {
        std::uint64_t unused_bytes = 0;
        std::size_t unused = 0;
        Module* oldest = nullptr;
        for (auto& [key, module] : modules_) {
            if (module.users != 0) continue;
            unused_bytes += module.bytes;
            ++unused;
            if (oldest == nullptr || module.unused_since < oldest->unused_since) oldest = &module;
        }
        if (oldest == nullptr ||
            (unused <= kMaxCachedImages && unused_bytes <= options_.limits.max_cached_image_bytes))
            return;
        const std::uint64_t key = oldest->key;
        for (auto& [where, domain] : domains_) {
            if (domain->loaded.erase(key) == 0) continue;
            Call call;
            call.on_death = Call::OnDeath::drop;
            call.make = [key](Call::Wire& wire) {
                wire.kind = internal::ExecutorRequest::UnloadModule;
                wire.request = internal::CreateUnloadModule(wire.builder, key).Union();
                return true;
            };
            domain->call(std::move(call));
        }
        module_keys_.erase({oldest->digest, oldest->device});
        modules_.erase(key);
    }
}

}  // namespace ringlaunch::supervisor
