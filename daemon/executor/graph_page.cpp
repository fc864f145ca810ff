#include "daemon/executor/graph_page.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "schema/error.hpp"
#include "schema/version.hpp"

namespace ringlaunch::executor {

namespace {

using schema::RecordKind;

constexpr std::uint64_t kGraphPageMagic = 0x3230504152474c52;  // the bytes "RLGRAP02"
constexpr const char* kWhat = "a graph's page";
// As many updates as may be in flight, where they are small.
constexpr std::uint32_t kMostEntries = 256, kLeastEntries = 16;
constexpr std::size_t kMostLogBytes = 256 << 10;

constexpr std::size_t rounded(std::size_t bytes) {
    return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}
constexpr std::size_t kHeaderBytes = rounded(sizeof(GraphPageHeader));
constexpr std::size_t kNodeBytes = rounded(sizeof(StoredNode));

std::size_t stored_bytes(std::size_t param_bytes) {
    return kNodeBytes + rounded(param_bytes);
}

std::byte* params_of(StoredNode& stored) {
    return reinterpret_cast<std::byte*>(&stored) + kNodeBytes;
}

std::uint32_t param_bytes_of(const driver::GraphNode& node) {
    const auto* launch = std::get_if<driver::Launch>(&node);
    return launch == nullptr ? 0 : launch->param_bytes;
}

void store(StoredNode& to, std::uint64_t end, std::uint32_t node, const driver::Launch& launch,
           Refusal refusal) {
    to.end = end;
    to.refused_at = refusal.position;
    to.refused = static_cast<std::uint32_t>(refusal.status);
    to.node = node;
    to.kind = static_cast<std::uint32_t>(RecordKind::Launch);
    to.kernel = launch.kernel_id;
    const std::uint32_t grid[] = {launch.grid.x, launch.grid.y, launch.grid.z};
    const std::uint32_t block[] = {launch.block.x, launch.block.y, launch.block.z};
    std::copy_n(grid, 3, to.grid);
    std::copy_n(block, 3, to.block);
    to.shared_bytes = launch.shared_bytes;
    to.param_bytes = launch.param_bytes;
    if (launch.param_bytes != 0) std::memcpy(params_of(to), launch.params, launch.param_bytes);
}

// A launch is checked as the record that would say it, which has less room for a number.
bool fits_a_record(const StoredNode& node) {
    constexpr std::uint32_t kMost = std::numeric_limits<std::uint16_t>::max();
    const auto fits = [](std::uint32_t side) { return side >= 1 && side <= kMost; };
    switch (static_cast<RecordKind>(node.kind)) {
        case RecordKind::Launch:
            return std::ranges::all_of(node.block, fits);
        case RecordKind::Fill:
            return node.width == 1 || node.width == 2 || node.width == 4;
        default:
            return true;
    }
}

[[noreturn]] void refuse(const std::string& what) {
    throw Error(Status::internal_error, "the graph cannot be had again: its page " + what);
}

}  // namespace

GraphPage::GraphPage(std::span<const driver::GraphNode> nodes) {
    std::size_t base = 0, longest = 0;
    for (const driver::GraphNode& node : nodes) {
        base += stored_bytes(param_bytes_of(node));
        longest = std::max(longest, stored_bytes(param_bytes_of(node)));
    }
    const auto entries = static_cast<std::uint32_t>(
        std::clamp<std::size_t>(kMostLogBytes / longest, kLeastEntries, kMostEntries));
    const std::size_t bytes = kHeaderBytes + base + entries * longest;
    fd_ = make_memfd(kWhat, bytes);
    seal(fd_, Sealing::shared, kWhat);
    mapping_ = Mapping(fd_, bytes, Mapping::Access::read_write, kWhat);
    GraphPageHeader& head = *header();
    head.magic = kGraphPageMagic;
    head.version = kProtocolVersion;
    head.nodes = static_cast<std::uint32_t>(nodes.size());
    head.entry_bytes = static_cast<std::uint32_t>(longest);
    head.entries = entries;
    std::size_t at = kHeaderBytes;
    for (std::uint32_t i = 0; i < nodes.size(); ++i) {
        auto& to = *mapping_.as<StoredNode>(at);
        to.node = i;
        if (const auto* launch = std::get_if<driver::Launch>(&nodes[i])) {
            store(to, 0, i, *launch, {});
        } else if (const auto* copy = std::get_if<driver::Copy>(&nodes[i])) {
            to.kind = static_cast<std::uint32_t>(RecordKind::CopyOnDevice);
            to.device = copy->device;
            to.source = copy->source;
            to.bytes = copy->bytes;
        } else {
            const auto& fill = std::get<driver::Fill>(nodes[i]);
            to.kind = static_cast<std::uint32_t>(RecordKind::Fill);
            to.device = fill.device;
            to.bytes = fill.bytes;
            to.value = fill.value;
            to.width = fill.width;
        }
        at += stored_bytes(param_bytes_of(nodes[i]));
    }
    read();
}

GraphPage::GraphPage(UniqueFd page, std::uint64_t completed) : fd_(std::move(page)) {
    const std::size_t bytes = check_seals(fd_, Sealing::shared, kHeaderBytes, kWhat);
    mapping_ = Mapping(fd_, bytes, Mapping::Access::read_write, kWhat);
    read();
    // Whatever comes, the stream goes on behind these. What is folded twice is the same.
    fold(completed);
    seen_ = folded_;
    stored_.clear();
    base_.clear();
    read();
}

// Finds everything, and believes nothing: kernels ran in the process that wrote it.
void GraphPage::read() {
    const GraphPageHeader& head = *header();
    if (head.magic != kGraphPageMagic || head.version != kProtocolVersion) refuse("bears another magic word");
    if (head.nodes == 0 || head.nodes > kMaxGraphNodes)
        refuse("says that it has " + std::to_string(head.nodes) + " nodes");
    std::size_t at = kHeaderBytes, longest = 0;
    for (std::uint32_t i = 0; i < head.nodes; ++i) {
        if (at + kNodeBytes > mapping_.size()) refuse("ends within its nodes");
        auto& node = *mapping_.as<StoredNode>(at);
        if (node.param_bytes > kMaxParamBytes) refuse("has a node with too many parameters");
        if (!fits_a_record(node)) refuse("has a node that no record says");
        const std::size_t bytes = stored_bytes(node.param_bytes);
        if (at + bytes > mapping_.size()) refuse("ends within its nodes");
        switch (static_cast<RecordKind>(node.kind)) {
            case RecordKind::Launch:
                stored_.emplace_back(launch_of(node));
                break;
            case RecordKind::CopyOnDevice: {
                driver::Copy copy;
                copy.kind = RecordKind::CopyOnDevice;
                copy.device = node.device;
                copy.source = node.source;
                copy.bytes = node.bytes;
                stored_.emplace_back(copy);
                break;
            }
            case RecordKind::Fill: {
                driver::Fill fill;
                fill.device = node.device;
                fill.bytes = node.bytes;
                fill.value = node.value;
                fill.width = node.width;
                stored_.emplace_back(fill);
                break;
            }
            default:
                refuse("has a node of kind " + std::to_string(node.kind));
        }
        base_.push_back(&node);
        longest = std::max(longest, bytes);
        at += bytes;
    }
    entry_bytes_ = head.entry_bytes;
    entries_ = head.entries;
    log_at_ = at;
    // relaxed: its writer has been reaped, or is this thread.
    folded_ = head.folded.load(std::memory_order_relaxed);
    logged_ = head.logged.load(std::memory_order_relaxed);
    if (entry_bytes_ != longest || entries_ < kLeastEntries || entries_ > kMostEntries ||
        at + std::size_t{entries_} * entry_bytes_ > mapping_.size() || folded_ > logged_ ||
        logged_ - folded_ > entries_)
        refuse("has a log that cannot be");
    for (std::uint64_t i = folded_; i != logged_; ++i) {
        const StoredNode& logged = *entry(i);
        if (logged.node >= head.nodes || logged.kind != static_cast<std::uint32_t>(RecordKind::Launch) ||
            base_[logged.node]->kind != logged.kind ||
            base_[logged.node]->param_bytes != logged.param_bytes || !fits_a_record(logged))
            refuse("has an update of no launch");
    }
}

driver::Launch GraphPage::launch_of(const StoredNode& stored) noexcept {
    driver::Launch launch;
    launch.kernel_id = stored.kernel;
    launch.grid = {stored.grid[0], stored.grid[1], stored.grid[2]};
    launch.block = {stored.block[0], stored.block[1], stored.block[2]};
    launch.shared_bytes = stored.shared_bytes;
    launch.params = params_of(const_cast<StoredNode&>(stored));
    launch.param_bytes = stored.param_bytes;
    return launch;
}

bool GraphPage::log(std::uint64_t end, std::uint32_t node, const driver::Launch& launch,
                    std::uint64_t completed, Refusal refusal) noexcept {
    // A record that was refused and is taken again.
    while (logged_ != folded_ && entry(logged_ - 1)->end >= end)
        header()->logged.store(--logged_, std::memory_order_release);
    if (logged_ - folded_ == entries_) fold(completed);
    if (logged_ - folded_ == entries_) return false;
    store(*entry(logged_), end, node, launch, refusal);
    header()->logged.store(++logged_, std::memory_order_release);
    seen_ = logged_;
    return true;
}

void GraphPage::unlog() noexcept {
    header()->logged.store(--logged_, std::memory_order_release);
    seen_ = logged_;
}

void GraphPage::fold(std::uint64_t completed) noexcept {
    while (folded_ != logged_ && entry(folded_)->end <= completed) {
        const StoredNode& from = *entry(folded_);
        std::memcpy(static_cast<void*>(base_[from.node]), &from, stored_bytes(from.param_bytes));
        header()->folded.store(++folded_, std::memory_order_release);
    }
}

}  // namespace ringlaunch::executor
