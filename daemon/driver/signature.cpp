#include "daemon/driver/signature.hpp"

#include <algorithm>

#include "daemon/driver/module_text.hpp"
#include "schema/error.hpp"
#include "schema/version.hpp"

#define RINGLAUNCH_KERNEL_ABI_ONLY
#include "schema/kernel.h"

namespace ringlaunch::driver {

namespace {

namespace abi = kernel_abi;
static_assert(abi::kPointer == static_cast<int>(ParamType::Pointer) &&
              abi::kBool == static_cast<int>(ParamType::Bool) &&
              abi::kInt8 == static_cast<int>(ParamType::Int8) &&
              abi::kInt16 == static_cast<int>(ParamType::Int16) &&
              abi::kInt32 == static_cast<int>(ParamType::Int32) &&
              abi::kInt64 == static_cast<int>(ParamType::Int64) &&
              abi::kUInt8 == static_cast<int>(ParamType::UInt8) &&
              abi::kUInt16 == static_cast<int>(ParamType::UInt16) &&
              abi::kUInt32 == static_cast<int>(ParamType::UInt32) &&
              abi::kUInt64 == static_cast<int>(ParamType::UInt64) &&
              abi::kFloat16 == static_cast<int>(ParamType::Float16) &&
              abi::kBFloat16 == static_cast<int>(ParamType::BFloat16) &&
              abi::kFloat32 == static_cast<int>(ParamType::Float32) &&
              abi::kFloat64 == static_cast<int>(ParamType::Float64) &&
              abi::kBytes == static_cast<int>(ParamType::Bytes));
static_assert(abi::kMaxParams == kMaxParams && abi::kMaxParamBytes == kMaxParamBytes);

[[noreturn]] void refuse(const std::string& kernel, const std::string& what) {
    throw Error(Status::bad_image, "kernel '" + kernel + "': " + what);
}

std::string ordinal(std::size_t i) {
    return "parameter " + std::to_string(i);
}

std::string describe(std::uint32_t size, std::uint32_t offset) {
    return std::to_string(size) + " bytes at offset " + std::to_string(offset);
}

std::uint32_t read_u16(std::span<const std::byte> bytes, std::size_t at) {
    return static_cast<std::uint32_t>(bytes[at]) | static_cast<std::uint32_t>(bytes[at + 1]) << 8;
}

// What any declaration must satisfy, whoever made it.
void check_params(const std::string& kernel, std::span<const Param> params) {
    if (params.size() > kMaxParams)
        refuse(kernel, std::to_string(params.size()) + " parameters are declared; " +
                           std::to_string(kMaxParams) + " is the most");
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < params.size(); ++i) {
        const Param& param = params[i];
        const std::uint32_t natural = size_of(param.type);
        if (param.type == ParamType::Unknown || param.type > ParamType::MAX)
            refuse(kernel, ordinal(i) + " has no type that is known (" +
                               std::to_string(static_cast<unsigned>(param.type)) + ")");
        if (param.size == 0) refuse(kernel, ordinal(i) + " is declared with 0 bytes");
        if (natural != 0 && param.size != natural)
            refuse(kernel, ordinal(i) + " is declared as " + schema::EnumNameParamType(param.type) +
                               ", which has " + std::to_string(natural) + " bytes, with " +
                               std::to_string(param.size) + " bytes");
        if (param.offset < end)
            refuse(kernel, ordinal(i) + " is declared with " + describe(param.size, param.offset) +
                               ", but the one before it ends at " + std::to_string(end));
        end = std::uint64_t{param.offset} + param.size;
        if (end > kMaxParamBytes)
            refuse(kernel, ordinal(i) + " ends at byte " + std::to_string(end) + " of the parameters; " +
                               std::to_string(kMaxParamBytes) + " is the most");
    }
}

// Sizes and offsets that a declaration from outside left out. Where the image knows an offset, that is taken:
// the alignment of a struct is not declared.
std::vector<Param> complete(const Signature& signature, std::span<const ParamPlace> places) {
    std::vector<Param> params = signature.params;
    const bool offsets_given =
        std::any_of(params.begin(), params.end(), [](const Param& param) { return param.offset != 0; });
    std::uint32_t at = 0;
    for (std::size_t i = 0; i < params.size(); ++i) {
        Param& param = params[i];
        if (param.size == 0) param.size = size_of(param.type);
        if (!offsets_given) {
            const std::uint32_t alignment = std::max(size_of(param.type), 1u);
            param.offset = i < places.size() && param.type == ParamType::Bytes
                               ? places[i].offset
                               : (at + alignment - 1) / alignment * alignment;
        }
        at = param.offset + std::min(param.size, kMaxParamBytes);
        if (at > 2 * kMaxParamBytes) break;  // check_params refuses it
    }
    return params;
}

void check_against_image(const std::string& kernel, std::span<const Param> declared,
                         std::span<const ParamPlace> places) {
    if (declared.size() != places.size())
        refuse(kernel, "its declaration has " + std::to_string(declared.size()) + " parameters, the image " +
                           std::to_string(places.size()));
    for (std::size_t i = 0; i < declared.size(); ++i)
        if (declared[i].size != places[i].size || declared[i].offset != places[i].offset)
            refuse(kernel, ordinal(i) + " is declared as " + schema::EnumNameParamType(declared[i].type) +
                               ", " + describe(declared[i].size, declared[i].offset) +
                               ", but the image says " + describe(places[i].size, places[i].offset));
}

void check_against_own(const std::string& kernel, std::span<const Param> outside,
                       std::span<const Param> own) {
    if (outside.size() != own.size())
        refuse(kernel, "the signature given has " + std::to_string(outside.size()) +
                           " parameters, the image's own declaration " + std::to_string(own.size()));
    for (std::size_t i = 0; i < outside.size(); ++i)
        if (outside[i].type != own[i].type || outside[i].size != own[i].size ||
            outside[i].offset != own[i].offset)
            refuse(kernel, ordinal(i) + " is given as " + schema::EnumNameParamType(outside[i].type) + ", " +
                               describe(outside[i].size, outside[i].offset) +
                               ", but the image itself declares " + schema::EnumNameParamType(own[i].type) +
                               ", " + describe(own[i].size, own[i].offset));
}

KernelLayout undeclared_layout(const ImageKernel& kernel) {
    KernelLayout layout;
    layout.name = kernel.name;
    for (const ParamPlace& place : kernel.params) {
        Param& param = layout.params.emplace_back();
        param.offset = place.offset;
        param.size = place.size;
    }
    layout.param_bytes = kernel.param_bytes;
    if (kernel.max_threads != 0) layout.max_threads = kernel.max_threads;
    const std::uint64_t required =
        std::uint64_t{kernel.required_block[0]} * kernel.required_block[1] * kernel.required_block[2];
    if (required != 0 && required < layout.max_threads)
        layout.max_threads = static_cast<std::uint32_t>(required);
    layout.default_block = {kernel.required_block[0], kernel.required_block[1], kernel.required_block[2]};
    layout.static_shared_bytes = kernel.static_shared_bytes;
    layout.registers = kernel.registers;
    return layout;
}

std::string names_of(const Image& image) {
    std::string names;
    for (std::size_t i = 0; i < image.kernels.size() && i < 8; ++i)
        names += (i == 0 ? "" : ", ") + image.kernels[i].name;
    if (image.kernels.size() > 8) names += ", and " + std::to_string(image.kernels.size() - 8) + " more";
    return names.empty() ? "none" : names;
}

}  // namespace

std::uint32_t size_of(ParamType type) {
    switch (type) {
        case ParamType::Unknown:
        case ParamType::Bytes:
            return 0;
        case ParamType::Bool:
        case ParamType::Int8:
        case ParamType::UInt8:
            return 1;
        case ParamType::Int16:
        case ParamType::UInt16:
        case ParamType::Float16:
        case ParamType::BFloat16:
            return 2;
        case ParamType::Int32:
        case ParamType::UInt32:
        case ParamType::Float32:
            return 4;
        case ParamType::Pointer:
        case ParamType::Int64:
        case ParamType::UInt64:
        case ParamType::Float64:
            return 8;
    }
    return 0;
}

std::vector<Param> read_signature(const std::string& kernel, std::span<const std::byte> bytes) {
    if (bytes.size() < abi::kSignatureHeadBytes ||
        std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) != "RLS1")
        refuse(
            kernel,
            "the signature in the image does not begin with \"RLS1\"; build it with <ringlaunch/kernel.h>");
    const auto version = static_cast<unsigned>(bytes[4]);
    if (version != abi::kSignatureVersion)
        refuse(kernel, "the signature in the image has version " + std::to_string(version) +
                           ", this daemon reads " + std::to_string(abi::kSignatureVersion) +
                           "; build it with this release's <ringlaunch/kernel.h>");
    const std::uint32_t count = read_u16(bytes, 6);
    if (bytes.size() != abi::kSignatureHeadBytes + std::size_t{abi::kSignatureParamBytes} * count)
        refuse(kernel, "the signature in the image has " + std::to_string(bytes.size()) +
                           " bytes, not those of " + std::to_string(count) + " parameters");
    std::vector<Param> params(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = abi::kSignatureHeadBytes + abi::kSignatureParamBytes * i;
        params[i].type = static_cast<ParamType>(bytes[at]);
        params[i].size = read_u16(bytes, at + 2);
        params[i].offset = read_u16(bytes, at + 4);
    }
    check_params(kernel, params);
    return params;
}

std::vector<KernelLayout> make_layouts(const std::string& module, const Image& image,
                                       std::span<const Signature> signatures) {
    for (const Signature& signature : signatures)
        if (std::none_of(image.kernels.begin(), image.kernels.end(),
                         [&](const ImageKernel& kernel) { return kernel.name == signature.kernel; }))
            throw Error(Status::bad_image,
                        module_text(module) + ": a signature is given for kernel '" + signature.kernel +
                            "', which the image does not have (it has: " + names_of(image) + ")");
    if (!image.orphans.empty())
        throw Error(Status::bad_image,
                    module_text(module) + " declares kernel '" + image.orphans.front() +
                        "', but has no kernel of that name (it has: " + names_of(image) +
                        "); define it extern \"C\" and non-static beside its RINGLAUNCH_EXPORT");

    std::vector<KernelLayout> layouts;
    for (const ImageKernel& kernel : image.kernels) {
        KernelLayout layout = undeclared_layout(kernel);
        const bool image_has_places = image.kind == ImageKind::cubin;
        if (kernel.signature) {
            layout.params = read_signature(kernel.name, *kernel.signature);
            layout.declared = true;
        }
        for (const Signature& signature : signatures) {
            if (signature.kernel != kernel.name) continue;
            std::vector<Param> given = complete(signature, kernel.params);
            check_params(kernel.name, given);
            if (layout.declared) check_against_own(kernel.name, given, layout.params);
            layout.params = std::move(given);  // it may have names
            layout.declared = true;
        }
        if (layout.declared) {
            if (image_has_places) check_against_image(kernel.name, layout.params, kernel.params);
            layout.param_bytes =
                layout.params.empty() ? 0 : layout.params.back().offset + layout.params.back().size;
        }
        layouts.push_back(std::move(layout));
    }
    return layouts;
}

}  // namespace ringlaunch::driver
