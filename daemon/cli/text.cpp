#include "daemon/cli/text.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "daemon/cli/exit_codes.hpp"
#include "daemon/cli/terminal.hpp"

namespace ringlaunch::cli {

namespace {

std::string lower(std::string name) {
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return name;
}

}  // namespace

std::string text(const flatbuffers::String* string) {
    return string == nullptr ? std::string() : printable(string->string_view());
}

std::string or_dash(std::string value) {
    return value.empty() ? "-" : value;
}

std::string pid_or_dash(std::int32_t pid) {
    return pid == 0 ? "-" : std::to_string(pid);
}

nlohmann::json pid_or_null(std::int32_t pid) {
    return pid == 0 ? nlohmann::json() : nlohmann::json(pid);
}

std::string plural(std::uint64_t count, const std::string& noun) {
    return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string driver_name(schema::DriverKind kind) {
    const std::string name = lower(schema::EnumNameDriverKind(kind));
    return name.empty() ? "unknown" : name;
}

std::string state_name(schema::StreamState state) {
    const std::string name = lower(schema::EnumNameStreamState(state));
    return name.empty() ? "unknown" : name;
}

std::string type_name(const schema::Param& param) {
    const std::string name = lower(schema::EnumNameParamType(param.type()));
    return param.type() == schema::ParamType::Bytes ? name + "[" + std::to_string(param.size()) + "]" : name;
}

std::string signature(const schema::KernelInfo& kernel) {
    std::string out = text(kernel.name()) + "(";
    if (!kernel.declared()) return out + "?)";
    if (kernel.params() != nullptr)
        for (flatbuffers::uoffset_t i = 0; i < kernel.params()->size(); ++i) {
            const schema::Param& param = *kernel.params()->Get(i);
            const std::string name = text(param.name());
            out += (i == 0 ? "" : ", ") + (name.empty() ? "" : name + ": ") + type_name(param);
        }
    return out + ")";
}

std::string dump(const nlohmann::json& json, int indent) {
    return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string ask_exit_codes() {
    return exit_code_help({ExitCode::ok, ExitCode::failure, ExitCode::usage, ExitCode::no_daemon,
                           ExitCode::refused, ExitCode::version_mismatch, ExitCode::timed_out});
}

}  // namespace ringlaunch::cli
