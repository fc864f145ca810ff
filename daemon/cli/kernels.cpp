// `ringlaunchd kernels`: the modules that are loaded and the signatures of their kernels.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/cli/control_client.hpp"
#include "daemon/cli/format.hpp"
#include "daemon/cli/table.hpp"
#include "daemon/cli/text.hpp"

namespace ringlaunch::cli {

namespace {

// Null: the usual ones.
nlohmann::json attributes(const schema::KernelAttributes* own) {
    if (own == nullptr) return {{"cluster", {1, 1, 1}}, {"cooperative", false}, {"programmatic", false}};
    return {{"cluster", {own->cluster_x(), own->cluster_y(), own->cluster_z()}},
            {"cooperative", own->cooperative()},
            {"programmatic", own->programmatic()}};
}

nlohmann::json to_json(const schema::KernelInfo& kernel) {
    nlohmann::json params = nlohmann::json::array();
    if (kernel.params() != nullptr)
        for (const schema::Param* param : *kernel.params())
            params.push_back({{"name", text(param->name())},
                              {"type", type_name(*param)},
                              {"offset", param->offset()},
                              {"size", param->size()}});
    return {{"name", text(kernel.name())},
            {"declared", kernel.declared()},
            {"params", std::move(params)},
            {"param_bytes", kernel.param_bytes()},
            {"default_block", {kernel.block_x(), kernel.block_y(), kernel.block_z()}},
            {"max_threads", kernel.max_threads()},
            {"static_shared_bytes", kernel.static_shared_bytes()},
            {"max_dynamic_shared_bytes", kernel.max_dynamic_shared_bytes()},
            {"registers", kernel.registers()},
            {"local_bytes", kernel.local_bytes()},
            {"stack_bytes", kernel.stack_bytes()},
            {"attributes", attributes(kernel.attributes())}};
}

nlohmann::json to_json(const schema::LoadedModule& module) {
    nlohmann::json kernels = nlohmann::json::array();
    if (module.kernels() != nullptr)
        for (const schema::KernelInfo* kernel : *module.kernels()) kernels.push_back(to_json(*kernel));
    return {{"name", text(module.name())}, {"hash", text(module.hash())}, {"device", module.device()},
            {"bytes", module.bytes()},     {"users", module.users()},     {"kernels", std::move(kernels)}};
}

void print(const schema::LoadedModule& module, const Terminal& terminal) {
    const std::string name = text(module.name());
    std::printf("%s  %s, %s, device %d, used by %s\n",
                terminal.paint(name.empty() ? "(no name)" : name, Colour::bold).c_str(),
                text(module.hash()).substr(0, 12).c_str(), format_bytes(module.bytes()).c_str(),
                module.device(), plural(module.users(), "session").c_str());
    if (module.kernels() == nullptr) return;
    for (const schema::KernelInfo* kernel : *module.kernels()) {
        std::string notes;
        if (!kernel->declared())
            notes = "  [no declaration, " + std::to_string(kernel->param_bytes()) +
                    " B of parameters: a launch is refused]";
        if (kernel->block_x() != 0)
            notes += "  [block " + std::to_string(kernel->block_x()) + " " +
                     std::to_string(kernel->block_y()) + " " + std::to_string(kernel->block_z()) + "]";
        if (const schema::KernelAttributes* own = kernel->attributes())
            notes += "  [clusters of " + std::to_string(own->cluster_x()) + " " +
                     std::to_string(own->cluster_y()) + " " + std::to_string(own->cluster_z()) + " blocks]";
        if (kernel->registers() != 0)
            notes += "  [" + plural(kernel->registers(), "register") +
                     (kernel->local_bytes() == 0 ? std::string()
                                                 : ", " + format_bytes(kernel->local_bytes()) + " of stack") +
                     "]";
        if (kernel->stack_bytes() != 0) notes += "  [stack=" + std::to_string(kernel->stack_bytes()) + "]";
        const std::string line = "  " + signature(*kernel) + notes;
        std::puts((terminal.width() ? cut(line, *terminal.width()) : line).c_str());
    }
}

ExitCode show_kernels(const AskOptions& options) {
    ControlClient client = connect(options);
    const Terminal terminal = Terminal::of_stdout();
    nlohmann::json list = nlohmann::json::array();
    std::uint32_t seen = 0;
    for (;;) {
        const Answer answer = client.ask(
            schema::Request::GetKernels,
            [seen](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateGetKernels(builder, seen).Union();
            },
            schema::Answer::Kernels);
        const schema::Kernels& page = *answer.view()->answer_as_Kernels();
        if (page.modules() == nullptr || page.modules()->size() == 0) break;
        for (const schema::LoadedModule* module : *page.modules()) {
            if (options.json)
                list.push_back(to_json(*module));
            else
                print(*module, terminal);
        }
        seen += page.modules()->size();
        if (seen >= page.total()) break;
    }
    if (options.json)
        std::puts(dump({{"modules", std::move(list)}}, 2).c_str());
    else if (seen == 0)
        std::puts("No modules are loaded.");
    return ExitCode::ok;
}

}  // namespace

void add_kernels(CLI::App& app, Action& action) {
    CLI::App* command =
        app.add_subcommand("kernels", "List the loaded modules and the signatures of their kernels");
    command->footer(
        "Examples:\n  ringlaunchd kernels\n  ringlaunchd kernels --json | jq "
        "'.modules[].kernels[].name'\n\n" +
        ask_exit_codes());
    auto options = std::make_shared<AskOptions>();
    add_ask_options(*command, *options);
    command->callback([&action, options] { action = [options] { return show_kernels(*options); }; });
}

}  // namespace ringlaunch::cli
