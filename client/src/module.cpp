// The public Module and Kernel, and how they are loaded.
#include <ringlaunch/ringlaunch.hpp>

#include "client/src/client_state.hpp"
#include "client/src/load.hpp"
#include "client/src/module_state.hpp"

namespace ringlaunch {

static_assert(static_cast<int>(ParamType::bytes) == static_cast<int>(schema::ParamType::Bytes) &&
              static_cast<int>(ParamType::float16) == static_cast<int>(schema::ParamType::Float16) &&
              static_cast<int>(ParamType::int8) == static_cast<int>(schema::ParamType::Int8));

std::string_view param_type_name(ParamType type) noexcept {
    constexpr std::string_view kNames[] = {"unknown",  "pointer", "bool",    "int8",   "int16",  "int32",
                                           "int64",    "uint8",   "uint16",  "uint32", "uint64", "float16",
                                           "bfloat16", "float32", "float64", "bytes"};
    const auto index = static_cast<std::size_t>(type);
    return index < std::size(kNames) ? kNames[index] : "unknown";
}

namespace detail {

namespace {

KernelState take_kernel(const schema::KernelInfo& info, ModuleState& module) {
    const ClientState& client = *module.client;
    KernelState kernel;
    kernel.module = &module;
    kernel.owner = &client;
    kernel.registers = info.registers();
    kernel.local_bytes = info.local_bytes();
    kernel.static_shared_bytes = info.static_shared_bytes();
    kernel.stack_bytes = info.stack_bytes();
    if (const schema::KernelAttributes* attributes = info.attributes())
        kernel.attributes = {{attributes->cluster_x(), attributes->cluster_y(), attributes->cluster_z()},
                             attributes->cooperative(),
                             attributes->programmatic()};
    kernel.set_id(info.id());
    kernel.param_bytes = info.param_bytes();
    kernel.max_threads = info.max_threads();
    kernel.max_shared_bytes = info.max_dynamic_shared_bytes();
    kernel.default_block = {info.block_x(), info.block_y(), info.block_z()};
    kernel.max_grid = client.max_grid;
    kernel.max_block = client.max_block;
    kernel.declared = info.declared();
    if (info.name() != nullptr) kernel.name = info.name()->str();
    if (info.params() != nullptr) {
        for (const schema::Param* param : *info.params()) {
            Param taken;
            taken.type = static_cast<ParamType>(param->type());
            taken.offset = param->offset();
            taken.size = param->size();
            if (param->name() != nullptr) taken.name = param->name()->str();
            kernel.layout.push_back({taken.type, 0, static_cast<std::uint16_t>(taken.offset),
                                     static_cast<std::uint32_t>(taken.size)});
            kernel.params.push_back(std::move(taken));
        }
    }
    kernel.digest = layout_digest(kernel.layout, kernel.param_bytes);
    kernel.settle();
    return kernel;
}

}  // namespace

ModuleState::~ModuleState() {
    if (client) client->unload_module(id);
}

std::shared_ptr<ModuleState> load(const std::shared_ptr<ClientState>& client, const UniqueFd& image,
                                  std::size_t bytes, const std::string& name, const LoadOptions& options) {
    const std::string doing = "cannot load module " + (name.empty() ? "(without a name)" : name);
    client->require_life(doing.c_str());
    client->sweep();
    auto module = std::make_shared<ModuleState>();
    const int fds[] = {image.get()};
    const Reply reply = client->connection->ask(
        {schema::Request::LoadModule, schema::Answer::ModuleLoaded, 0, doing, fds},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            std::vector<flatbuffers::Offset<schema::Signature>> declared;
            for (const KernelSignature& signature : options.signatures) {
                std::vector<flatbuffers::Offset<schema::Param>> params;
                for (const Param& param : signature.params)
                    params.push_back(schema::CreateParam(builder, static_cast<schema::ParamType>(param.type),
                                                         param.offset, param.size,
                                                         builder.CreateString(param.name)));
                declared.push_back(schema::CreateSignature(builder, builder.CreateString(signature.kernel),
                                                           builder.CreateVector(params)));
            }
            return schema::CreateLoadModule(builder, builder.CreateString(name), bytes,
                                            builder.CreateVector(declared), options.max_registers,
                                            options.stack_bytes);
        });
    const schema::ModuleLoaded& answer = *reply.view().answer_as_ModuleLoaded();
    module->id = answer.module_id();
    module->name = name;
    module->client = client;
    if (answer.kernels() != nullptr)
        for (const schema::KernelInfo* info : *answer.kernels())
            module->kernels.push_back(take_kernel(*info, *module));
    client->name_kernels(module->kernels);
    return module;
}

std::shared_ptr<KernelState> configure(const KernelState& kernel, const KernelAttributes& wanted) {
    auto made = std::make_shared<ConfiguredKernel>();
    made->module = kernel.module->shared_from_this();
    const std::shared_ptr<ClientState>& client = made->module->client;
    const std::string doing = "cannot configure kernel " + kernel.name;
    client->require_life(doing.c_str());
    const Reply reply = client->connection->ask(
        {schema::Request::ConfigureKernel, schema::Answer::KernelConfigured, 0, doing},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto attributes =
                schema::CreateKernelAttributes(builder, wanted.cluster.x, wanted.cluster.y, wanted.cluster.z,
                                               wanted.cooperative, wanted.programmatic);
            return schema::CreateConfigureKernel(builder, kernel.id, attributes);
        });
    made->kernel = take_kernel(*reply.view().answer_as_KernelConfigured()->kernel(), *made->module);
    client->name_kernels({&made->kernel, 1});
    KernelState* state = &made->kernel;
    return {std::move(made), state};
}

}  // namespace detail

namespace {

std::string module_text(const detail::ModuleState& module) {
    return "module " + (module.name.empty() ? "(without a name)" : module.name);
}

}  // namespace

Kernel Module::kernel(std::string_view name) const {
    if (!state_) throw Error(Status::closed, "this Module is empty; make one with Client::load()");
    for (detail::KernelState& kernel : state_->kernels) {
        if (kernel.name != name) continue;
        // Its neighbours in the module can be launched all the same.
        if (kernel.param_bytes > kMaxParamBytes)
            throw Error(Status::unsupported,
                        "kernel " + kernel.name + " of " + module_text(*state_) +
                            " cannot be launched: it takes " + std::to_string(kernel.param_bytes) +
                            " bytes of parameters, a launch carries at most " +
                            std::to_string(kMaxParamBytes) + "; hand it the rest through a buffer");
        Kernel found;
        // Keeps the module.
        found.state_ = std::shared_ptr<detail::KernelState>(state_, &kernel);
        return found;
    }
    std::string names;
    for (const detail::KernelState& kernel : state_->kernels)
        names += (names.empty() ? "" : ", ") + kernel.name;
    throw Error(Status::not_found, module_text(*state_) + " has no kernel " + std::string(name) +
                                       (names.empty() ? "; it has none at all" : "; it has " + names));
}

std::vector<std::string> Module::kernels() const {
    std::vector<std::string> names;
    if (state_)
        for (const detail::KernelState& kernel : state_->kernels) names.push_back(kernel.name);
    return names;
}

namespace {

const detail::KernelState& loaded(const Kernel& kernel) {
    if (!kernel) throw Error(Status::closed, "this Kernel is empty; make one with Module::kernel()");
    return *detail::Access::state(kernel);
}

}  // namespace

const std::string& Kernel::name() const {
    return loaded(*this).name;
}
std::span<const Param> Kernel::params() const {
    return loaded(*this).params;
}
std::uint32_t Kernel::param_bytes() const {
    return loaded(*this).param_bytes;
}
bool Kernel::declared() const {
    return loaded(*this).declared;
}
Dim3 Kernel::default_block() const {
    return loaded(*this).default_block;
}
std::uint32_t Kernel::max_threads() const {
    return loaded(*this).max_threads;
}
std::uint32_t Kernel::registers() const {
    return loaded(*this).registers;
}
std::uint32_t Kernel::local_bytes() const {
    return loaded(*this).local_bytes;
}
std::uint64_t Kernel::stack_bytes() const {
    return loaded(*this).stack_bytes;
}
std::uint32_t Kernel::static_shared_bytes() const {
    return loaded(*this).static_shared_bytes;
}
std::uint32_t Kernel::max_dynamic_shared_bytes() const {
    return loaded(*this).max_shared_bytes;
}
const KernelAttributes& Kernel::attributes() const {
    return loaded(*this).attributes;
}

Kernel Kernel::with_attributes(const KernelAttributes& attributes) const {
    Kernel made;
    made.state_ = detail::configure(loaded(*this), attributes);
    return made;
}

}  // namespace ringlaunch
