#include "daemon/supervisor/kernel_info.hpp"

#include "schema/error.hpp"
#include "schema/version.hpp"

namespace ringlaunch::supervisor {

namespace {

using Builder = flatbuffers::FlatBufferBuilder;
using Params = flatbuffers::Vector<flatbuffers::Offset<schema::Param>>;

std::vector<ParamInfo> read_params(const Params* params) {
    std::vector<ParamInfo> read;
    if (params == nullptr) return read;
    for (const schema::Param* param : *params)
        read.push_back(
            {param->type(), param->offset(), param->size(), param->name() ? param->name()->str() : ""});
    return read;
}

flatbuffers::Offset<Params> write_params(Builder& builder, const std::vector<ParamInfo>& params, bool names) {
    std::vector<flatbuffers::Offset<schema::Param>> written;
    for (const ParamInfo& param : params) {
        const auto name = names && !param.name.empty() ? builder.CreateString(param.name) : 0;
        written.push_back(schema::CreateParam(builder, param.type, param.offset, param.size, name));
    }
    return builder.CreateVector(written);
}

}  // namespace

std::vector<KernelDescription> read_kernels(
    const flatbuffers::Vector<flatbuffers::Offset<schema::KernelInfo>>* kernels, std::uint64_t stack_bytes) {
    std::vector<KernelDescription> read;
    if (kernels == nullptr) return read;
    for (const schema::KernelInfo* kernel : *kernels)
        read.push_back(
            {kernel->name() ? kernel->name()->str() : "", kernel->declared(), read_params(kernel->params()),
             kernel->param_bytes(), kernel->block_x(), kernel->block_y(), kernel->block_z(),
             kernel->max_threads(), kernel->static_shared_bytes(), kernel->max_dynamic_shared_bytes(),
             kernel->registers(), kernel->local_bytes(), read_attributes(kernel->attributes()), stack_bytes});
    return read;
}

KernelAttributes read_attributes(const schema::KernelAttributes* attributes) {
    if (attributes == nullptr) return {};
    return {attributes->cluster_x(), attributes->cluster_y(), attributes->cluster_z(),
            attributes->cooperative(), attributes->programmatic()};
}

flatbuffers::Offset<schema::KernelAttributes> write_attributes(Builder& builder,
                                                               const KernelAttributes& attributes) {
    return schema::CreateKernelAttributes(builder, attributes.cluster_x, attributes.cluster_y,
                                          attributes.cluster_z, attributes.cooperative,
                                          attributes.programmatic);
}

std::vector<DeclaredSignature> read_signatures(
    const flatbuffers::Vector<flatbuffers::Offset<schema::Signature>>* signatures) {
    std::vector<DeclaredSignature> read;
    if (signatures == nullptr) return read;
    for (const schema::Signature* signature : *signatures) {
        DeclaredSignature declared{signature->kernel()->str(), read_params(signature->params())};
        const auto refuse = [&](const std::string& what) {
            throw Error(Status::invalid_argument,
                        "cannot load a module: the signature of kernel " + declared.kernel + " " + what);
        };
        if (declared.params.size() > kMaxParams)
            refuse("has " + std::to_string(declared.params.size()) + " parameters, at most " +
                   std::to_string(kMaxParams) + " are possible");
        for (std::size_t i = 0; i < declared.params.size(); ++i) {
            const ParamInfo& param = declared.params[i];
            if (param.type == schema::ParamType::Unknown || param.type > schema::ParamType::MAX)
                refuse("declares parameter " + std::to_string(i) + " with the unknown type " +
                       std::to_string(static_cast<int>(param.type)));
            if (param.size > kMaxParamBytes || param.offset > kMaxParamBytes)
                refuse("places parameter " + std::to_string(i) + " beyond " + std::to_string(kMaxParamBytes) +
                       " bytes");
        }
        read.push_back(std::move(declared));
    }
    return read;
}

flatbuffers::Offset<schema::KernelInfo> write_kernel(Builder& builder, const KernelDescription& kernel,
                                                     std::uint64_t id, Detail detail) {
    const auto name = builder.CreateString(kernel.name);
    const auto params =
        detail == Detail::none ? 0 : write_params(builder, kernel.params, detail == Detail::names);
    // The usual ones are left out: a module's list of kernels has to fit into a message.
    const auto attributes =
        kernel.attributes == KernelAttributes{} ? 0 : write_attributes(builder, kernel.attributes);
    return schema::CreateKernelInfo(builder, id, name, kernel.declared, params, kernel.param_bytes,
                                    kernel.block_x, kernel.block_y, kernel.block_z, kernel.max_threads,
                                    kernel.static_shared_bytes, kernel.max_dynamic_shared_bytes,
                                    kernel.registers, kernel.local_bytes, attributes, kernel.stack_bytes);
}

flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<schema::KernelInfo>>> write_kernels(
    Builder& builder, const std::vector<KernelDescription>& kernels, const std::vector<std::uint64_t>* ids,
    Detail detail) {
    std::vector<flatbuffers::Offset<schema::KernelInfo>> written;
    for (std::size_t i = 0; i < kernels.size(); ++i)
        written.push_back(write_kernel(builder, kernels[i], ids == nullptr ? 0 : (*ids)[i], detail));
    return builder.CreateVector(written);
}

flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<schema::Signature>>> write_signatures(
    Builder& builder, const std::vector<DeclaredSignature>& signatures) {
    std::vector<flatbuffers::Offset<schema::Signature>> written;
    for (const DeclaredSignature& signature : signatures) {
        const auto kernel = builder.CreateString(signature.kernel);
        const auto params = write_params(builder, signature.params, true);
        written.push_back(schema::CreateSignature(builder, kernel, params));
    }
    return builder.CreateVector(written);
}

}  // namespace ringlaunch::supervisor
