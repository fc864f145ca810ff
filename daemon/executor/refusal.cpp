// The words of a refusal: which record, what was found in it, what is allowed. Cold.
#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "daemon/executor/validation.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::executor {

namespace {

using schema::RecordKind;

// Writes on to a text that ends where its room does.
class Sentence {
  public:
    explicit Sentence(std::span<char> text) : text_(text) {
        if (!text_.empty()) text_[0] = 0;
    }
    __attribute__((format(printf, 2, 3))) void add(const char* format, ...) noexcept {
        if (used_ + 1 >= text_.size()) return;
        va_list arguments;
        va_start(arguments, format);
        const int wrote = std::vsnprintf(text_.data() + used_, text_.size() - used_, format, arguments);
        va_end(arguments);
        if (wrote > 0) used_ = std::min(used_ + static_cast<std::size_t>(wrote), text_.size() - 1);
    }

  private:
    std::span<char> text_;
    std::size_t used_ = 0;
};

const char* name_of(const KernelEntry& kernel) {
    return kernel.kernel->layout().name.c_str();
}

void bad_pointer(Sentence& say, const RecordCopy& copy, const KernelEntry& kernel, const Bounds& bounds) {
    const driver::KernelLayout& layout = kernel.kernel->layout();
    for (std::size_t i = 0; i < layout.params.size(); ++i) {
        const driver::Param& param = layout.params[i];
        if (param.type != driver::ParamType::Pointer) continue;
        std::uint64_t value;
        std::memcpy(&value, copy.params + param.offset, sizeof value);
        if (value == 0 || bounds.memory.reaches(bounds.session.tag, value)) continue;
        say.add("parameter %zu", i);
        if (!param.name.empty()) say.add(" '%s'", param.name.c_str());
        say.add(" is 0x%" PRIx64 ", neither null nor inside memory of this session", value);
        return;
    }
}

void launch_details(Sentence& say, Status status, const RecordCopy& copy, const Bounds& bounds) {
    const LaunchHead record = launch_head(copy);
    const KernelEntry* kernel = bounds.session.kernels.find(record.kernel);
    const driver::Dim3& grid = bounds.device.max_grid;
    const driver::Dim3& block = bounds.device.max_block;
    if (status == Status::bad_kernel || kernel == nullptr) {
        say.add("this session has no kernel %s", id_text(record.kernel).c_str());
        return;
    }
    say.add("kernel '%s': ", name_of(*kernel));
    switch (status) {
        case Status::undeclared_kernel:
            say.add(
                "its parameter types are not declared; export it with RINGLAUNCH_EXPORT or load it with "
                "signatures");
            break;
        case Status::bad_param_bytes:
            say.add("%u bytes of parameters, it takes %u", record.param_bytes, kernel->param_bytes);
            break;
        case Status::bad_slot_count:
            say.add("%u slots, but %u bytes of parameters take %u", copy.slots, kernel->param_bytes,
                    kernel->*record.slots);
            break;
        case Status::bad_grid:
            say.add("grid %u x %u x %u, allowed is 1 to %u x %u x %u", record.grid.x, record.grid.y,
                    record.grid.z, grid.x, grid.y, grid.z);
            break;
        case Status::bad_cluster:
            say.add("grid %u x %u x %u is not whole clusters of %u x %u x %u blocks", record.grid.x,
                    record.grid.y, record.grid.z, kernel->cluster.x, kernel->cluster.y, kernel->cluster.z);
            break;
        case Status::bad_block:
            if ((record.block.x | record.block.y | record.block.z) == 0)
                say.add("block 0 x 0 x 0, and the kernel has no default block; name one");
            else
                say.add("block %u x %u x %u, allowed is 1 to %u x %u x %u and %u threads", record.block.x,
                        record.block.y, record.block.z, block.x, block.y, block.z,
                        std::min(kernel->max_threads, bounds.device.max_threads_per_block));
            break;
        case Status::bad_shared_bytes:
            say.add("%u bytes of dynamic shared memory, at most %u are allowed", record.shared_bytes,
                    kernel->max_dynamic_shared_bytes);
            break;
        case Status::bad_pointer:
            bad_pointer(say, copy, *kernel, bounds);
            break;
        default:
            say.add("%.*s", static_cast<int>(status_text(status).size()), status_text(status).data());
    }
}

void copy_details(Sentence& say, Status status, const RecordCopy& copy, const Bounds& bounds) {
    const auto& record = copy.as<schema::CopyRecord>();
    if (status == Status::bad_staging) {
        const driver::Staging* staging = bounds.session.staging.find(record.staging());
        if (staging == nullptr)
            say.add("this session has no staging segment %s", id_text(record.staging()).c_str());
        else
            say.add("%" PRIu64 " bytes at offset %" PRIu64 " leave the staging segment of %zu bytes",
                    record.bytes(), record.other(), staging->size());
        return;
    }
    const bool source =
        record.kind() == RecordKind::CopyOnDevice && may_copy(bounds, record.device(), record.bytes());
    say.add("%s range of %" PRIu64 " bytes at 0x%" PRIx64 " is not inside memory of this session%s",
            source ? "the source" : "the device", record.bytes(), source ? record.other() : record.device(),
            record.kind() == RecordKind::CopyOnDevice ? ", nor inside a buffer that it has borrowed" : "");
}

void fill_details(Sentence& say, Status status, const RecordCopy& copy) {
    const auto& record = copy.as<schema::FillRecord>();
    if (status == Status::bad_fill_width)
        say.add("width %u with %" PRIu64 " bytes at 0x%" PRIx64 "; it must be 1, 2 or 4 and divide both",
                unsigned{record.width()}, record.bytes(), record.device());
    else
        say.add("the range of %" PRIu64 " bytes at 0x%" PRIx64 " is not inside memory of this session",
                record.bytes(), record.device());
}

void wait_details(Sentence& say, Status status, const RecordCopy& copy) {
    const auto& record = copy.as<schema::WaitRecord>();
    const std::string_view why = status_text(status);
    say.add("for position %" PRIu64 " of stream %s: %.*s", record.position(),
            id_text(record.stream()).c_str(), static_cast<int>(why.size()), why.data());
}

// The refusals that any kind of record can meet. False: it is another.
bool common_details(Sentence& say, Status status, const RecordCopy& copy) {
    const auto& record = copy.as<schema::PaddingRecord>();
    switch (status) {
        case Status::bad_kind:
            say.add("kind %u is none that this version knows", static_cast<unsigned>(record.kind()));
            return true;
        case Status::bad_stamp:
            say.add("one of its %u slots does not bear this record's stamp", copy.slots);
            return true;
        case Status::bad_flags:
            say.add("flags 0x%x, known is 0x%x", static_cast<unsigned>(record.flags()),
                    record.kind() == RecordKind::Padding
                        ? 0u
                        : static_cast<unsigned>(schema::RecordFlag::ForceCompletion));
            return true;
        case Status::reserved_not_zero:
            say.add("reserved bytes are not zero");
            return true;
        default:
            return false;
    }
}

}  // namespace

const char* kind_name(RecordKind kind) noexcept {
    switch (kind) {
        case RecordKind::Launch:
        case RecordKind::CompactLaunch:
            return "launch";
        case RecordKind::CopyToDevice:
            return "copy to device";
        case RecordKind::CopyToHost:
            return "copy to host";
        case RecordKind::CopyOnDevice:
            return "copy on device";
        case RecordKind::Fill:
            return "fill";
        case RecordKind::EventRecord:
            return "event";
        case RecordKind::EventWait:
            return "wait";
        case RecordKind::Padding:
            return "padding";
        case RecordKind::GraphLaunch:
            return "graph launch";
        case RecordKind::GraphUpdate:
            return "graph update";
        case RecordKind::None:
            break;
    }
    return "record of unknown kind";
}

void describe_refusal(Status status, const RecordCopy& copy, const Bounds& bounds, std::span<char> text,
                      const char* detail, RecordKind as) noexcept {
    const RecordKind kind = kind_of(copy);
    Sentence say(text);
    say.add("%s at position %" PRIu64 ": ", kind_name(as == RecordKind::None ? kind : as), copy.position);
    if (common_details(say, status, copy)) {
    } else if (status == Status::bad_slot_count && !is_launch(kind)) {
        say.add("%u slots are impossible for it here", copy.slots);
    } else if (status == Status::bad_slot_count && bounds.session.kernels.find(kernel_id(copy)) == nullptr) {
        say.add("%u slots do not fit here", copy.slots);
    } else {
        switch (kind) {
            case RecordKind::Launch:
            case RecordKind::CompactLaunch:
                launch_details(say, status, copy, bounds);
                break;
            case RecordKind::CopyToDevice:
            case RecordKind::CopyToHost:
            case RecordKind::CopyOnDevice:
                copy_details(say, status, copy, bounds);
                break;
            case RecordKind::Fill:
                fill_details(say, status, copy);
                break;
            case RecordKind::EventWait:
                wait_details(say, status, copy);
                break;
            default: {
                const std::string_view why = status_text(status);
                say.add("%.*s", static_cast<int>(why.size()), why.data());
            }
        }
    }
    if (detail != nullptr) say.add(" (%s)", detail);
}

}  // namespace ringlaunch::executor
