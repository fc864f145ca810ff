#include "daemon/executor/graph.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "schema/error.hpp"
#include "schema/id_text.hpp"
#include "schema/version.hpp"

namespace ringlaunch::executor {

namespace {

using schema::RecordKind;

constexpr std::size_t kParamAlignment = 16;

std::size_t aligned(std::size_t bytes) {
    return (bytes + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
}

// A launch of the general form, as RingConsumer::copy() would answer it.
void make_record(RecordCopy& record, std::uint64_t position, std::uint64_t kernel, driver::Dim3 grid,
                 driver::Dim3 block, std::uint32_t shared_bytes, const std::byte* params,
                 std::uint32_t param_bytes) {
    schema::LaunchRecord head{};
    head.mutate_kind(RecordKind::Launch);
    head.mutate_slots(static_cast<std::uint16_t>(launch_slots(param_bytes)));
    head.mutate_param_bytes(static_cast<std::uint16_t>(param_bytes));
    head.mutate_kernel(kernel);
    head.mutate_grid_x(grid.x);
    head.mutate_grid_y(grid.y);
    head.mutate_grid_z(grid.z);
    head.mutate_block_x(static_cast<std::uint16_t>(block.x));
    head.mutate_block_y(static_cast<std::uint16_t>(block.y));
    head.mutate_block_z(static_cast<std::uint16_t>(block.z));
    head.mutate_shared_bytes(shared_bytes);
    std::memcpy(record.head, &head, sizeof head);
    if (param_bytes != 0) std::memcpy(record.params, params, param_bytes);
    record.position = position;
    record.slots = launch_slots(param_bytes);
}

void make_record(RecordCopy& record, std::uint64_t position, const driver::GraphNode& node) {
    if (const auto* launch = std::get_if<driver::Launch>(&node))
        return make_record(record, position, launch->kernel_id, launch->grid, launch->block,
                           launch->shared_bytes, launch->params, launch->param_bytes);
    record.position = position;
    record.slots = 1;
    if (const auto* copy = std::get_if<driver::Copy>(&node)) {
        schema::CopyRecord head{};
        head.mutate_kind(RecordKind::CopyOnDevice);
        head.mutate_slots(1);
        head.mutate_device(copy->device);
        head.mutate_other(copy->source);
        head.mutate_bytes(copy->bytes);
        std::memcpy(record.head, &head, sizeof head);
    } else {
        const auto& fill = std::get<driver::Fill>(node);
        schema::FillRecord head{};
        head.mutate_kind(RecordKind::Fill);
        head.mutate_slots(1);
        head.mutate_width(static_cast<std::uint8_t>(fill.width));
        head.mutate_device(fill.device);
        head.mutate_bytes(fill.bytes);
        head.mutate_value(fill.value);
        std::memcpy(record.head, &head, sizeof head);
    }
}

// A record against the session, as if it stood in the ring.
Status check_record(const RecordCopy& record, const Bounds& bounds, driver::GraphNode& out) {
    switch (kind_of(record)) {
        case RecordKind::Launch:
        case RecordKind::CompactLaunch:
            return check_launch(record, bounds, out.emplace<driver::Launch>());
        case RecordKind::CopyOnDevice:
            return check_copy(record, bounds, out.emplace<driver::Copy>());
        case RecordKind::Fill:
            return check_fill(record, bounds, out.emplace<driver::Fill>());
        default:
            return Status::unsupported;
    }
}

// Private copies of the nodes that a description holds; `params` keeps what they point to.
struct Described {
    std::vector<driver::GraphNode> nodes;
    std::vector<std::unique_ptr<std::byte[]>> params;
};

Described read_description(std::uint64_t id, std::span<const std::byte> description, const Bounds& bounds) {
    const std::string making = "cannot make graph " + id_text(id) + ": ";
    const std::size_t slots = description.size() / kSlotBytes;
    if (slots == 0 || slots > kMaxGraphSlots)
        throw Error(slots == 0 ? Status::invalid_argument : Status::limit_reached,
                    making + "it is described by " + std::to_string(slots) + " slots, it takes 1 to " +
                        std::to_string(kMaxGraphSlots));
    // As a ring that is written once: with room behind it, so that no record wraps, and none is too long.
    const auto room = static_cast<std::uint32_t>(std::bit_ceil(std::max<std::size_t>(slots, 512)) * 4);
    const auto ring = std::make_unique<Slot[]>(room);
    std::memcpy(static_cast<void*>(ring.get()), description.data(), slots * kSlotBytes);
    RingConsumer<> records(ring.get(), room, 0);
    const auto copy = std::make_unique<RecordCopy>();
    Described all;
    const auto refuse = [&](Status status, const std::string& text) {
        throw Error(status, making + "node " + std::to_string(all.nodes.size()) + ": " + text);
    };
    while (records.position() < slots) {
        if (all.nodes.size() == kMaxGraphNodes)
            throw Error(Status::limit_reached, making + "it runs more than " +
                                                   std::to_string(kMaxGraphNodes) +
                                                   " launches, copies and fills; make several graphs of it");
        if (!records.peek())
            refuse(Status::bad_stamp, "no record stands at slot " + std::to_string(records.position()));
        Status status = records.copy(*copy);
        if (status == Status::ok && records.position() + copy->slots > slots) status = Status::bad_slot_count;
        driver::GraphNode node;
        if (status == Status::ok && kind_of(*copy) == RecordKind::Padding) status = Status::bad_kind;
        if (status == Status::ok) status = check_record(*copy, bounds, node);
        if (status == Status::ok && forces_completion(*copy)) status = Status::bad_flags;
        if (status == Status::unsupported)
            refuse(status, std::string("a graph holds launches, copies on the device and fills, and no ") +
                               kind_name(kind_of(*copy)));
        if (status != Status::ok) {
            char text[512];
            describe_refusal(status, *copy, bounds, text);
            refuse(status, text);
        }
        if (auto* launch = std::get_if<driver::Launch>(&node); launch != nullptr) {
            all.params.push_back(std::make_unique<std::byte[]>(launch->param_bytes + 1));
            if (launch->param_bytes != 0)
                std::memcpy(all.params.back().get(), launch->params, launch->param_bytes);
            launch->params = all.params.back().get();
        }
        all.nodes.push_back(node);
        records.advance(copy->slots);
    }
    return all;
}

}  // namespace

Graph::Graph(std::uint64_t id, std::span<const std::byte> description, const Bounds& bounds,
             driver::Driver& driver)
    : id_(id), page_([&] {
          const Described described = read_description(id, description, bounds);
          return GraphPage(described.nodes);
      }()) {
    take_in(page_.stored());
    // Again, for the kernels; nothing has changed since.
    RecordCopy record;
    std::uint32_t node = 0;
    if (const Status status = check(bounds, 0, node, record); status != Status::ok)
        throw Error(status, "cannot make graph " + id_text(id) + ": node " + std::to_string(node) + ": " +
                                std::string(status_text(status)));
    driver_graph_ = driver.make_graph(nodes_);
}

Graph::Graph(std::uint64_t id, UniqueFd page, std::uint64_t completed, const Bounds& bounds,
             driver::Driver& driver)
    : id_(id), page_(std::move(page), completed), restored_(true) {
    take_in(page_.stored());
    const std::string gone = "graph " + id_text(id) + " can be launched no more: ";
    RecordCopy record;
    for (driver::GraphNode& node : nodes_) {
        auto* launch = std::get_if<driver::Launch>(&node);
        if (launch == nullptr) continue;
        const KernelEntry* kernel = bounds.session.kernels.find(launch->kernel_id);
        if (kernel == nullptr || !kernel->declared || kernel->param_bytes != launch->param_bytes) {
            why_ = gone + "its kernel " + id_text(launch->kernel_id) + " is gone";
            return;
        }
        launch->kernel = kernel->kernel;
    }
    try {
        driver_graph_ = driver.make_graph(nodes_);
    } catch (const Error& error) {
        why_ = gone + error.what();
    }
}

void Graph::take_in(std::span<const driver::GraphNode> nodes) {
    nodes_.assign(nodes.begin(), nodes.end());
    refusals_.assign(nodes.size(), {});
    for (std::uint32_t i = 0; i < nodes.size(); ++i) note(i, page_.refusal(i));
    std::size_t bytes = 0;
    for (const driver::GraphNode& node : nodes_)
        if (const auto* launch = std::get_if<driver::Launch>(&node)) bytes += aligned(launch->param_bytes);
    params_.resize(bytes);
    std::byte* to = params_.data();
    for (driver::GraphNode& node : nodes_) {
        if (auto* launch = std::get_if<driver::Launch>(&node)) {
            ++counts_.launches;
            if (launch->param_bytes != 0) std::memcpy(to, launch->params, launch->param_bytes);
            launch->params = to;
            to += aligned(launch->param_bytes);
            if (std::find(kernels_.begin(), kernels_.end(), launch->kernel_id) == kernels_.end())
                kernels_.push_back(launch->kernel_id);
        } else if (const auto* copy = std::get_if<driver::Copy>(&node)) {
            ++counts_.copies;
            counts_.copied_bytes += copy->bytes;
        } else {
            ++counts_.fills;
        }
    }
}

std::unique_ptr<driver::Graph> Graph::break_off(std::string why) {
    why_ = std::move(why);
    return std::move(driver_graph_);
}

void Graph::keep(std::uint32_t node, const driver::Launch& launch) noexcept {
    auto& mine = std::get<driver::Launch>(nodes_[node]);
    mine.grid = launch.grid;
    mine.block = launch.block;
    mine.shared_bytes = launch.shared_bytes;
    if (mine.param_bytes != 0)
        std::memcpy(const_cast<std::byte*>(mine.params), launch.params, mine.param_bytes);
}

void Graph::note(std::uint32_t node, Refusal refusal) noexcept {
    refused_ += refusal.status != Status::ok;
    refused_ -= refusals_[node].status != Status::ok;
    refusals_[node] = refusal;
}

void Graph::go_on_at(std::uint64_t position) noexcept {
    if (!restored_) return;
    restored_ = false;
    page_.go_on_at(position, [&](std::uint32_t node, const driver::Launch& launch, Refusal refusal) {
        note(node, refusal);
        if (refusal.status != Status::ok) return;
        keep(node, launch);
        lost_ |= driver_graph_ != nullptr &&
                 driver_graph_->update(node, std::get<driver::Launch>(nodes_[node])) != Status::ok;
    });
    // It was taken before the restart, so only a driver in trouble does not take it again.
    if (lost_)
        why_ = "graph " + id_text(id_) +
               " can be launched no more: after a restart the driver refused an update that it took before";
}

Status Graph::check(const Bounds& bounds, std::uint64_t position, std::uint32_t& node,
                    RecordCopy& record) noexcept {
    // sync: CHANGES (pairs with Registry::note_gone). A change that is not seen yet is followed by a barrier,
    // which waits for this launch.
    const std::uint64_t changes = bounds.session.changes.load(std::memory_order_acquire);
    if (changes == checked_at_) return Status::ok;
    for (node = 0; node < nodes_.size(); ++node) {
        make_record(record, position, nodes_[node]);
        driver::GraphNode checked;
        const Status status = check_record(record, bounds, checked);
        if (status != Status::ok) return status;
        if (auto* launch = std::get_if<driver::Launch>(&nodes_[node]))
            launch->kernel = std::get<driver::Launch>(checked).kernel;
    }
    checked_at_ = changes;
    return Status::ok;
}

bool Graph::record_of(const schema::GraphUpdateRecord& update, const RecordCopy& copy,
                      RecordCopy& record) const noexcept {
    if (update.node() >= nodes_.size()) return false;
    const auto* launch = std::get_if<driver::Launch>(&nodes_[update.node()]);
    if (launch == nullptr) return false;
    // What it has too many of is refused by the check; what the copy has not, nobody reads.
    const std::uint32_t bytes = std::min<std::uint32_t>(update.param_bytes(), kMaxParamBytes);
    make_record(record, copy.position, launch->kernel_id, {update.grid_x(), update.grid_y(), update.grid_z()},
                {update.block_x(), update.block_y(), update.block_z()}, update.shared_bytes(), copy.params,
                bytes);
    return true;
}

Status Graph::update(std::uint32_t node, const driver::Launch& launch, std::uint64_t position,
                     std::uint64_t completed) noexcept {
    if (!page_.log(launch.end, node, launch, completed)) return Status::ring_full;
    const Status status = driver_graph_->update(node, launch);
    if (status == Status::ok) {
        keep(node, launch);
        note(node, {});
        return status;
    }
    page_.unlog();  // so that there is room
    if (status == Status::ring_full) return status;
    const Status noted = refuse_update(node, {status, position}, launch.end, completed);
    return noted == Status::ok ? status : noted;
}

Status Graph::refuse_update(std::uint32_t node, Refusal refusal, std::uint64_t end,
                            std::uint64_t completed) noexcept {
    if (!page_.log(end, node, std::get<driver::Launch>(nodes_[node]), completed, refusal))
        return Status::ring_full;
    note(node, refusal);
    return Status::ok;
}

bool Graph::has_refused(std::uint32_t& node, Refusal& refusal) const noexcept {
    if (refused_ == 0) return false;
    node = 0;
    while (refusals_[node].status == Status::ok) ++node;
    refusal = refusals_[node];
    return true;
}

}  // namespace ringlaunch::executor
