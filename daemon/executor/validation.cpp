#include "daemon/executor/validation.hpp"

#include <algorithm>
#include <cstring>

namespace ringlaunch::executor {

namespace {

constexpr unsigned kKnownFlags = static_cast<unsigned>(schema::RecordFlag::ForceCompletion);

template <class Record>
bool flags_known(const Record& record) noexcept {
    return (static_cast<unsigned>(record.flags()) & ~kKnownFlags) == 0;
}

// Are the copy's head bytes [from, to) zero?
bool zero(const RecordCopy& copy, std::size_t from, std::size_t to) noexcept {
    std::byte any{0};
    for (std::size_t i = from; i < to; ++i) any |= copy.head[i];
    return any == std::byte{0};
}

std::uint64_t pointer_at(const RecordCopy& copy, std::uint32_t offset) noexcept {
    std::uint64_t value;
    std::memcpy(&value, copy.params + offset, sizeof value);
    return value;
}

bool within(std::uint64_t value, std::uint64_t most) noexcept {
    return value >= 1 && value <= most;
}

}  // namespace

bool may_copy(const Bounds& bounds, std::uint64_t address, std::uint64_t bytes) noexcept {
    if (bounds.memory.device.owns_range(bounds.session.tag, address, bytes)) return true;
    const std::vector<Loan>& loans = bounds.session.loans;
    const auto after = std::upper_bound(loans.begin(), loans.end(), address,
                                        [](std::uint64_t at, const Loan& loan) { return at < loan.address; });
    if (after == loans.begin()) return false;
    const Loan& loan = *(after - 1);
    return bytes <= loan.bytes && address - loan.address <= loan.bytes - bytes;
}

LaunchHead launch_head(const RecordCopy& copy) noexcept {
    if (kind_of(copy) == schema::RecordKind::CompactLaunch) {
        const auto& record = copy.as<schema::CompactLaunchRecord>();
        const std::uint32_t one = record.block_x() != 0 ? 1 : 0;  // 0 0 0: the default block
        return {kernel_id(copy),
                {record.grid_x(), 1, 1},
                {record.block_x(), one, one},
                0,
                record.param_bytes(),
                0,
                &KernelEntry::compact_slots};
    }
    const auto& record = copy.as<schema::LaunchRecord>();
    return {kernel_id(copy),
            {record.grid_x(), record.grid_y(), record.grid_z()},
            {record.block_x(), record.block_y(), record.block_z()},
            record.shared_bytes(),
            record.param_bytes(),
            std::uint32_t{record.reserved0()} | record.reserved1(),
            &KernelEntry::slots};
}

Status check_launch(const RecordCopy& copy, const Bounds& bounds, driver::Launch& out) noexcept {
    if (!flags_known(copy.as<schema::PaddingRecord>())) return Status::bad_flags;
    const LaunchHead record = launch_head(copy);
    if (record.reserved != 0) return Status::reserved_not_zero;

    const KernelEntry* kernel = bounds.session.kernels.find(record.kernel);
    if (kernel == nullptr) return Status::bad_kernel;
    if (!kernel->declared) return Status::undeclared_kernel;
    if (record.param_bytes != kernel->param_bytes) return Status::bad_param_bytes;
    if (copy.slots != kernel->*record.slots) return Status::bad_slot_count;

    const driver::Dim3 grid = record.grid;
    const driver::Dim3& most = bounds.device.max_grid;
    if (!within(grid.x, most.x) || !within(grid.y, most.y) || !within(grid.z, most.z))
        return Status::bad_grid;
    if (kernel->clustered && (grid.x % kernel->cluster.x != 0 || grid.y % kernel->cluster.y != 0 ||
                              grid.z % kernel->cluster.z != 0))
        return Status::bad_cluster;

    driver::Dim3 block = record.block;
    if ((block.x | block.y | block.z) == 0) block = kernel->default_block;
    const driver::Dim3& widest = bounds.device.max_block;
    if (!within(block.x, widest.x) || !within(block.y, widest.y) || !within(block.z, widest.z))
        return Status::bad_block;
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    if (threads > kernel->max_threads || threads > bounds.device.max_threads_per_block)
        return Status::bad_block;

    if (record.shared_bytes > kernel->max_dynamic_shared_bytes) return Status::bad_shared_bytes;

    for (const std::uint32_t offset : kernel->pointer_offsets) {
        const std::uint64_t pointer = pointer_at(copy, offset);
        if (pointer != 0 && !bounds.memory.reaches(bounds.session.tag, pointer)) return Status::bad_pointer;
    }

    out.kernel = kernel->kernel;
    out.kernel_id = record.kernel;
    out.position = copy.position;
    out.end = copy.position + copy.slots;
    out.grid = grid;
    out.block = block;
    out.shared_bytes = record.shared_bytes;
    out.params = copy.params;
    out.param_bytes = kernel->param_bytes;
    return Status::ok;
}

Status check_copy(const RecordCopy& copy, const Bounds& bounds, driver::Copy& out) noexcept {
    const auto& record = copy.as<schema::CopyRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (copy.slots != 1) return Status::bad_slot_count;
    if (!zero(copy, 12, 16) || !zero(copy, 48, 64)) return Status::reserved_not_zero;

    const bool on_device = record.kind() == schema::RecordKind::CopyOnDevice;
    driver::Staging* staging = nullptr;
    if (on_device) {
        if (record.staging() != 0) return Status::reserved_not_zero;
    } else {
        staging = bounds.session.staging.find(record.staging());
        if (staging == nullptr) return Status::bad_staging;
        if (record.bytes() > staging->size() || record.other() > staging->size() - record.bytes())
            return Status::bad_staging;
    }
    if (on_device) {
        if (!may_copy(bounds, record.device(), record.bytes()) ||
            !may_copy(bounds, record.other(), record.bytes()))
            return Status::bad_range;
    } else if (!bounds.memory.device.owns_range(bounds.session.tag, record.device(), record.bytes())) {
        return Status::bad_range;
    }

    out.kind = record.kind();
    out.position = copy.position;
    out.end = copy.position + copy.slots;
    out.device = record.device();
    out.source = on_device ? record.other() : 0;
    out.staging = staging;
    out.offset = on_device ? 0 : record.other();
    out.bytes = record.bytes();
    return Status::ok;
}

Status check_fill(const RecordCopy& copy, const Bounds& bounds, driver::Fill& out) noexcept {
    const auto& record = copy.as<schema::FillRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (copy.slots != 1) return Status::bad_slot_count;
    if (!zero(copy, 13, 16) || record.reserved1() != 0 || !zero(copy, 40, 64))
        return Status::reserved_not_zero;
    const std::uint32_t width = record.width();
    if (width != 1 && width != 2 && width != 4) return Status::bad_fill_width;
    if (record.bytes() % width != 0 || record.device() % width != 0) return Status::bad_fill_width;
    if (!bounds.memory.device.owns_range(bounds.session.tag, record.device(), record.bytes()))
        return Status::bad_range;

    out.position = copy.position;
    out.end = copy.position + copy.slots;
    out.device = record.device();
    out.bytes = record.bytes();
    out.value = record.value();
    out.width = width;
    return Status::ok;
}

Status check_event(const RecordCopy& copy) noexcept {
    const auto& record = copy.as<schema::EventRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (copy.slots != 1) return Status::bad_slot_count;
    return zero(copy, 12, 16) && zero(copy, 24, 64) ? Status::ok : Status::reserved_not_zero;
}

Status check_wait(const RecordCopy& copy, Wait& out) noexcept {
    const auto& record = copy.as<schema::WaitRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (copy.slots != 1) return Status::bad_slot_count;
    if (!zero(copy, 12, 16) || !zero(copy, 32, 64)) return Status::reserved_not_zero;
    out = {record.stream(), record.position(), copy.position + copy.slots};
    return Status::ok;
}

Status check_graph_launch(const RecordCopy& copy, std::uint64_t& graph) noexcept {
    const auto& record = copy.as<schema::GraphLaunchRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (copy.slots != 1) return Status::bad_slot_count;
    graph = record.graph();
    return zero(copy, 12, 16) && zero(copy, 24, 64) ? Status::ok : Status::reserved_not_zero;
}

Status check_graph_update(const RecordCopy& copy) noexcept {
    const auto& record = copy.as<schema::GraphUpdateRecord>();
    if (!flags_known(record)) return Status::bad_flags;
    if (record.param_bytes() > kMaxParamBytes) return Status::bad_param_bytes;
    if (copy.slots != update_slots(record.param_bytes())) return Status::bad_slot_count;
    return record.reserved0() == 0 && record.reserved1() == 0 && record.reserved2() == 0
               ? Status::ok
               : Status::reserved_not_zero;
}

Status check_padding(const RecordCopy& copy) noexcept {
    const auto& record = copy.as<schema::PaddingRecord>();
    if (record.flags() != schema::RecordFlag{}) return Status::bad_flags;
    return zero(copy, 12, 64) ? Status::ok : Status::reserved_not_zero;
}

}  // namespace ringlaunch::executor
