// The records of the golden files: what each is, and how the producer's own code writes it.
//
// A golden file is the slots of one record as they stand in the ring, stamps and all. records.json beside
// them says the same for readers in other languages: of each file the position of its head and, field by
// field, type, offset and value.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "schema/ring.hpp"

namespace ringlaunch::golden {

inline constexpr std::uint32_t kRingSlots = 64;

// One field as a reader finds it. `type`: u8, u16, u32, u64 (little-endian) or bytes.
struct Field {
    std::string name;
    std::string type;
    std::size_t offset = 0;  // from the start of the file
    std::variant<std::uint64_t, std::vector<std::uint8_t>> value;
};

struct Golden {
    std::string file;  // without .bin
    std::string kind;  // as record.fbs spells it
    std::string says;
    std::uint64_t position = 0;
    std::vector<std::byte> bytes;  // as the producer wrote them
    std::vector<Field> fields;
};

namespace detail {

// Writes one record at `position` of a ring through RingProducer and returns its slots.
template <class Record>
std::vector<std::byte> written(std::uint64_t position, const Record& record,
                               const std::vector<std::uint8_t>& params = {}) {
    alignas(kSlotBytes) static std::byte memory[kRingSlots * kSlotBytes];
    std::memset(memory, 0, sizeof memory);
    SharedU64 completed{position};
    auto* slots = reinterpret_cast<Slot*>(memory);
    RingProducer<> producer(slots, kRingSlots, position);
    if (producer.reserve(record.slots(), completed) != Status::ok || producer.position() != position)
        return {};
    const std::size_t in_head = record.kind() == schema::RecordKind::GraphUpdate
                                    ? kUpdateHeadParamBytes
                                    : head_param_bytes(form_of(record.kind()));
    for (std::uint32_t i = 1; i < record.slots(); ++i)
        producer.write_continuation(i, std::as_bytes(std::span(params)).data(), params.size(),
                                    in_head + (i - 1) * kContinuationParamBytes);
    producer.publish(record);
    const std::byte* at = memory + (position % kRingSlots) * kSlotBytes;
    return {at, at + record.slots() * kSlotBytes};
}

template <class Integer>
Field field(const std::string& name, std::size_t offset, Integer value) {
    return {name, "u" + std::to_string(8 * sizeof(Integer)), offset, static_cast<std::uint64_t>(value)};
}
inline Field bytes(const std::string& name, std::size_t offset, std::vector<std::uint8_t> value) {
    return {name, "bytes", offset, std::move(value)};
}
inline Field zeros(const std::string& name, std::size_t offset, std::size_t size) {
    return bytes(name, offset, std::vector<std::uint8_t>(size));
}

inline std::vector<std::uint8_t> counted(std::size_t size, std::uint8_t from) {
    std::vector<std::uint8_t> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<std::uint8_t>(from + i);
    return values;
}

// The 16 bytes that all records begin with, but for what stands at 12 to 15.
template <class Record>
std::vector<Field> head(const Golden& golden, const Record& record) {
    return {field("stamp", 0, golden.position + 1),
            field("kind", 8, static_cast<std::uint8_t>(record.kind())),
            field("flags", 9, static_cast<std::uint8_t>(record.flags())), field("slots", 10, record.slots())};
}

// The parameters as they fill the head and the continuations; what lies behind the last is zero.
inline void push_params(Golden& golden, const std::vector<std::uint8_t>& params, std::size_t in_head,
                        std::uint32_t slots) {
    const auto part = [&](std::size_t from, std::size_t size) {
        std::vector<std::uint8_t> values(size);
        for (std::size_t i = 0; i < size && from + i < params.size(); ++i) values[i] = params[from + i];
        return values;
    };
    golden.fields.push_back(bytes("params", kSlotBytes - in_head, part(0, in_head)));
    for (std::size_t i = 1; i < slots; ++i) {
        const std::string name = "continuation" + std::to_string(i);
        golden.fields.push_back(field(name + ".stamp", 64 * i, (golden.position + i + 1) | kContinuation));
        golden.fields.push_back(
            bytes(name + ".params", 64 * i + 8, part(in_head + 56 * (i - 1), kContinuationParamBytes)));
    }
}

// What launches and updates of launches share: a shape, and parameters in the head and in what follows it.
template <class Record>
void set_launch(Record& record, std::uint32_t slots, const std::vector<std::uint8_t>& params) {
    record.mutate_slots(static_cast<std::uint16_t>(slots));
    record.mutate_param_bytes(static_cast<std::uint16_t>(params.size()));
    record.mutate_grid_x(0x01020304);
    record.mutate_grid_y(0x1112);
    record.mutate_grid_z(0x2122);
    record.mutate_block_x(256);
    record.mutate_block_y(2);
    record.mutate_block_z(1);
    record.mutate_shared_bytes(0xc000);
    const std::size_t in_head = std::min<std::size_t>(record.params()->size(), params.size());
    if (in_head != 0) std::memcpy(record.mutable_params()->data(), params.data(), in_head);
}
template <class Record>
void push_shape(Golden& golden, std::size_t at, const Record& record) {
    for (Field& more : std::vector<Field>{
             field("grid_x", at, record.grid_x()), field("grid_y", at + 4, record.grid_y()),
             field("grid_z", at + 8, record.grid_z()), field("block_x", at + 12, record.block_x()),
             field("block_y", at + 14, record.block_y()), field("block_z", at + 16, record.block_z()),
             field("reserved1", at + 18, record.reserved1()),
             field("shared_bytes", at + 20, record.shared_bytes())})
        golden.fields.push_back(std::move(more));
}

inline Golden launch(const std::string& file, const std::string& says, std::uint64_t position,
                     std::size_t param_bytes) {
    const auto params = counted(param_bytes, 0xa0);
    schema::LaunchRecord record{};
    record.mutate_kind(schema::RecordKind::Launch);
    record.mutate_kernel(0x0000000700000003);
    set_launch(record, launch_slots(param_bytes), params);

    Golden golden{file, "Launch", says, position, written(position, record, params), {}};
    golden.fields = head(golden, record);
    golden.fields.push_back(field("param_bytes", 12, record.param_bytes()));
    golden.fields.push_back(field("reserved0", 14, record.reserved0()));
    golden.fields.push_back(field("kernel", 16, record.kernel()));
    push_shape(golden, 24, record);
    push_params(golden, params, kHeadParamBytes, record.slots());
    return golden;
}

inline Golden compact_launch(const std::string& file, const std::string& says, std::uint64_t position,
                             std::uint16_t block, std::size_t param_bytes) {
    const auto params = counted(param_bytes, 0xa0);
    schema::CompactLaunchRecord record{};
    record.mutate_kind(schema::RecordKind::CompactLaunch);
    record.mutate_slots(static_cast<std::uint16_t>(launch_slots(param_bytes, LaunchForm::compact)));
    record.mutate_param_bytes(static_cast<std::uint16_t>(param_bytes));
    record.mutate_block_x(block);
    record.mutate_kernel(compact_kernel(0x0000000700000003));
    record.mutate_grid_x(0x01020304);
    const std::size_t in_head = std::min(head_param_bytes(LaunchForm::compact), param_bytes);
    if (in_head != 0) std::memcpy(record.mutable_params()->data(), params.data(), in_head);

    Golden golden{file, "CompactLaunch", says, position, written(position, record, params), {}};
    golden.fields = head(golden, record);
    for (Field& more : std::vector<Field>{
             field("param_bytes", 12, record.param_bytes()), field("block_x", 14, record.block_x()),
             field("kernel", 16, record.kernel()), field("grid_x", 20, record.grid_x())})
        golden.fields.push_back(std::move(more));
    push_params(golden, params, head_param_bytes(LaunchForm::compact), record.slots());
    return golden;
}

inline Golden copy(schema::RecordKind kind, const std::string& file, const std::string& says,
                   std::uint64_t position, std::uint64_t other, std::uint64_t staging) {
    schema::CopyRecord record{};
    record.mutate_kind(kind);
    record.mutate_slots(1);
    record.mutate_device(0x7e8000200100);
    record.mutate_other(other);
    record.mutate_bytes(0x123456789a);
    record.mutate_staging(staging);
    Golden golden{file, schema::EnumNameRecordKind(kind), says, position, written(position, record), {}};
    golden.fields = head(golden, record);
    for (Field& more :
         std::vector<Field>{field("reserved0", 12, record.reserved0()), field("device", 16, record.device()),
                            field("other", 24, record.other()), field("bytes", 32, record.bytes()),
                            field("staging", 40, record.staging()), zeros("reserved1", 48, 16)})
        golden.fields.push_back(std::move(more));
    return golden;
}

inline Golden fill() {
    schema::FillRecord record{};
    record.mutate_kind(schema::RecordKind::Fill);
    record.mutate_slots(1);
    record.mutate_width(4);
    record.mutate_device(0x7e8000400000);
    record.mutate_bytes(0x100000);
    record.mutate_value(0x3f800000);
    Golden golden{"fill", "Fill", "a MiB of 1.0f", 9, written(9, record), {}};
    golden.fields = head(golden, record);
    for (Field& more :
         std::vector<Field>{field("width", 12, record.width()), zeros("reserved0", 13, 3),
                            field("device", 16, record.device()), field("bytes", 24, record.bytes()),
                            field("value", 32, record.value()), field("reserved1", 36, record.reserved1()),
                            zeros("reserved2", 40, 24)})
        golden.fields.push_back(std::move(more));
    return golden;
}

inline Golden event_record() {
    schema::EventRecord record{};
    record.mutate_kind(schema::RecordKind::EventRecord);
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    record.mutate_slots(1);
    record.mutate_event(0x1122334455667788);
    Golden golden{
        "event_record", "EventRecord", "an event that forces its completion", 10, written(10, record), {}};
    golden.fields = head(golden, record);
    golden.fields.push_back(field("reserved0", 12, record.reserved0()));
    golden.fields.push_back(field("event", 16, record.event()));
    golden.fields.push_back(zeros("reserved1", 24, 40));
    return golden;
}

inline Golden event_wait() {
    schema::WaitRecord record{};
    record.mutate_kind(schema::RecordKind::EventWait);
    record.mutate_slots(1);
    record.mutate_stream(0x0000000200000005);
    record.mutate_position(0x1000000001);
    Golden golden{
        "event_wait", "EventWait",         "holds the stream until another's position has completed",
        11,           written(11, record), {}};
    golden.fields = head(golden, record);
    golden.fields.push_back(field("reserved0", 12, record.reserved0()));
    golden.fields.push_back(field("stream", 16, record.stream()));
    golden.fields.push_back(field("position", 24, record.position()));
    golden.fields.push_back(zeros("reserved1", 32, 32));
    return golden;
}

inline Golden graph_launch() {
    schema::GraphLaunchRecord record{};
    record.mutate_kind(schema::RecordKind::GraphLaunch);
    record.mutate_slots(1);
    record.mutate_graph(0x0000000400000002);
    Golden golden{"graph_launch", "GraphLaunch", "runs a graph", 14, written(14, record), {}};
    golden.fields = head(golden, record);
    golden.fields.push_back(field("reserved0", 12, record.reserved0()));
    golden.fields.push_back(field("graph", 16, record.graph()));
    golden.fields.push_back(zeros("reserved1", 24, 40));
    return golden;
}

inline Golden graph_update(const std::string& file, const std::string& says, std::uint64_t position,
                           std::size_t param_bytes) {
    const auto params = counted(param_bytes, 0xa0);
    schema::GraphUpdateRecord record{};
    record.mutate_kind(schema::RecordKind::GraphUpdate);
    record.mutate_graph(0x0000000400000002);
    record.mutate_node(5);
    set_launch(record, update_slots(param_bytes), params);

    Golden golden{file, "GraphUpdate", says, position, written(position, record, params), {}};
    golden.fields = head(golden, record);
    golden.fields.push_back(field("param_bytes", 12, record.param_bytes()));
    golden.fields.push_back(field("reserved0", 14, record.reserved0()));
    golden.fields.push_back(field("graph", 16, record.graph()));
    golden.fields.push_back(field("node", 24, record.node()));
    push_shape(golden, 28, record);
    golden.fields.push_back(field("reserved2", 52, record.reserved2()));
    push_params(golden, params, kUpdateHeadParamBytes, record.slots());
    return golden;
}

// What the producer writes by itself: 3 slots to the end of the ring, a record of 5 asked for.
inline Golden padding() {
    constexpr std::uint64_t kAt = 5 * kRingSlots - 3;
    alignas(kSlotBytes) static std::byte memory[kRingSlots * kSlotBytes];
    std::memset(memory, 0, sizeof memory);
    SharedU64 completed{kAt};
    RingProducer<> producer(reinterpret_cast<Slot*>(memory), kRingSlots, kAt);
    const bool made = producer.reserve(5, completed) == Status::ok && producer.position() == kAt + 3;
    const std::byte* at = memory + (kAt % kRingSlots) * kSlotBytes;
    Golden golden{"padding", "Padding", "fills the last 3 slots of a ring of 64; only the head is written",
                  kAt,       {},        {}};
    if (made) golden.bytes.assign(at, at + kSlotBytes);
    schema::PaddingRecord record{};
    record.mutate_kind(schema::RecordKind::Padding);
    record.mutate_slots(3);
    golden.fields = head(golden, record);
    golden.fields.push_back(field("reserved0", 12, record.reserved0()));
    golden.fields.push_back(zeros("reserved1", 16, 48));
    return golden;
}

}  // namespace detail

// Every record kind, launches of both forms with 0, 1 and several continuations.
inline std::vector<Golden> records() {
    using detail::compact_launch;
    using detail::copy;
    using detail::launch;
    using schema::RecordKind;
    return {
        launch("launch_no_params", "no parameters at all", 0, 0),
        launch("launch_head_only", "12 bytes of parameters, which the head holds", 1, 12),
        launch("launch_5_params", "36 bytes of parameters: three pointers and three ints, one continuation",
               2, 36),
        launch("launch_long", "200 bytes of parameters, four continuations, at a far position",
               0x123456789abc0, 200),
        compact_launch("compact_launch_no_params", "no parameters, in the kernel's default block", 12, 0, 0),
        compact_launch("compact_launch_5_params",
                       "36 bytes of parameters: three pointers and three ints, all in the head", 13, 256, 36),
        compact_launch("compact_launch_long",
                       "200 bytes of parameters, three continuations, at a far position", 0x123456789abd0, 64,
                       200),
        copy(RecordKind::CopyToDevice, "copy_to_device", "from staging to the device", 6, 0x40,
             0x0000000300000001),
        copy(RecordKind::CopyToHost, "copy_to_host", "from the device to staging", 7, 0x80,
             0x0000000300000001),
        copy(RecordKind::CopyOnDevice, "copy_on_device", "within the device's memory", 8, 0x7e8000600200, 0),
        detail::fill(),
        detail::event_record(),
        detail::event_wait(),
        detail::padding(),
        detail::graph_launch(),
        detail::graph_update("graph_update_head_only", "4 bytes of parameters, which the head holds", 15, 4),
        detail::graph_update("graph_update_long", "100 bytes of parameters, two continuations", 16, 100),
    };
}

}  // namespace ringlaunch::golden
