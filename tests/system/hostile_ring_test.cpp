// A hostile client of a real daemon: over a real ring it writes records that reach every reason the
// dispatcher has to refuse one, and random ones by the hundred thousand; each refusal is resumed from. A
// neighbour in the same daemon and executor compares its results all the while.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <iostream>
#include <map>
#include <set>

#include "schema/status.hpp"
#include "tests/cli/daemon_process.hpp"
#include "tests/executor/hostile_records.hpp"
#include "tests/system/neighbour.hpp"

namespace ringlaunch::test {
namespace {

using schema::RecordKind;
using schema::StreamState;

constexpr std::uint32_t kSlots = 64;

// $RINGLAUNCH_HOSTILE_RECORDS: for a longer look. A sanitizer makes each refusal many times as dear.
int random_records() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    constexpr int kUsual = 20'000;
#else
    constexpr int kUsual = 100'000;
#endif
    const char* wanted = std::getenv("RINGLAUNCH_HOSTILE_RECORDS");
    return wanted == nullptr ? kUsual : std::atoi(wanted);
}

// Every reason: the numbers of schema/status.hpp from bad_kind on, up to the last that a record can meet.
std::vector<Status> all_reasons() {
    std::vector<Status> reasons;
    for (auto number = static_cast<std::uint32_t>(Status::bad_kind);
         status_name(static_cast<Status>(number)) != "unknown"; ++number)
        reasons.push_back(static_cast<Status>(number));
    return reasons;
}

struct Crafted {
    std::string what;
    Status expected;
    RecordImage image;
    std::uint32_t slots_to_end = 0;  // where in the ring it has to stand; 0: anywhere
};

// What the host driver would take is let through only if it ends soon: no billions of blocks.
template <class Record>
void make_short(Record& record) {
    const auto small = [](std::uint64_t x) { return x <= 64; };
    if (small(record.grid_x()) && small(record.grid_y()) && small(record.grid_z()) &&
        small(std::uint64_t{record.grid_x()} * record.grid_y() * record.grid_z()))
        return;
    if (record.grid_x() > 0x7fffffff || record.grid_y() > 65535 || record.grid_z() > 65535) return;
    if (record.grid_x() == 0 || record.grid_y() == 0 || record.grid_z() == 0) return;
    record.mutate_grid_x(1);
    record.mutate_grid_y(1);
    record.mutate_grid_z(1);
}
void make_short(RecordImage& image) {
    if (image.kind() == RecordKind::CompactLaunch) {
        auto& record = image.as<schema::CompactLaunchRecord>();
        if (record.grid_x() > 64 && record.grid_x() <= 0x7fffffff) record.mutate_grid_x(1);
    }
    if (image.kind() == RecordKind::GraphUpdate) make_short(image.as<schema::GraphUpdateRecord>());
    if (image.kind() == RecordKind::Launch) make_short(image.as<schema::LaunchRecord>());
}

class Attacker {
  public:
    Attacker(const std::string& socket, const Neighbour& neighbour) : client_(socket), neighbour_(neighbour) {
        client_.hello();
        for (const auto& [name, id] : client_.load(TEST_KERNELS)) kernels_[name] = id;
        memory_ = client_.allocate(64 << 10).second;
        staging_ = client_.add_staging(64 << 10);
        stream_ = client_.open_stream(kSlots);
        side_ = client_.open_stream(kSlots);
        graph_ = make_graph(stream_);
    }

    // A fill, and a launch of touch.
    std::uint64_t make_graph(const RawStream& stream) {
        const auto slots = std::make_unique<Slot[]>(64);
        touch([](auto&) {}).write(slots.get(), 64, 0);
        fill([](auto&) {}).write(slots.get(), 64, 1);
        const UniqueFd fd =
            make_image("graph", {reinterpret_cast<const std::byte*>(slots.get()), 2 * kSlotBytes});
        Received answer = client_.ask(schema::Request::MakeGraph,
                                      [&](flatbuffers::FlatBufferBuilder& builder) {
                                          return schema::CreateMakeGraph(builder, stream.id, 2).Union();
                                      },
                                      {fd.get()});
        EXPECT_EQ(answer->status(), 0u) << answer.error();
        return answer->answer_as_GraphMade() == nullptr ? 0 : answer->answer_as_GraphMade()->graph();
    }

    // ---- records

    schema::LaunchRecord launch(const std::string& kernel, std::size_t param_bytes) const {
        return launch_record(kernels_.at(kernel), std::vector<std::byte>(param_bytes));
    }
    std::vector<std::byte> touch_params(std::uint64_t at) const { return Params().add(at).add(1u).add(2u); }
    std::vector<std::byte> touch_two_params(std::uint64_t one, std::uint64_t two) const {
        return Params().add(one).add(two).add(3.0).add(4u);
    }
    RecordImage touch(const std::function<void(schema::LaunchRecord&)>& change) const {
        auto record = launch("touch", 16);
        change(record);
        return RecordImage::of(record, touch_params(memory_));
    }
    RecordImage copy(RecordKind kind, const std::function<void(schema::CopyRecord&)>& change) const {
        schema::CopyRecord record{};
        record.mutate_kind(kind);
        record.mutate_slots(1);
        record.mutate_device(memory_);
        record.mutate_other(kind == RecordKind::CopyOnDevice ? memory_ + 4096 : 0);
        record.mutate_bytes(64);
        record.mutate_staging(kind == RecordKind::CopyOnDevice ? 0 : staging_.id);
        change(record);
        return RecordImage::of(record);
    }
    RecordImage fill(const std::function<void(schema::FillRecord&)>& change) const {
        schema::FillRecord record{};
        record.mutate_kind(RecordKind::Fill);
        record.mutate_slots(1);
        record.mutate_width(4);
        record.mutate_device(memory_);
        record.mutate_bytes(64);
        change(record);
        return RecordImage::of(record);
    }
    RecordImage graph_launch(const std::function<void(schema::GraphLaunchRecord&)>& change) const {
        schema::GraphLaunchRecord record{};
        record.mutate_kind(RecordKind::GraphLaunch);
        record.mutate_slots(1);
        record.mutate_graph(graph_);
        change(record);
        return RecordImage::of(record);
    }
    RecordImage graph_update(std::uint64_t at,
                             const std::function<void(schema::GraphUpdateRecord&)>& change) const {
        schema::GraphUpdateRecord record = update_record(graph_, 0, touch_params(at));
        change(record);
        return RecordImage::of(record, touch_params(at));
    }
    static RecordImage event(const std::function<void(schema::EventRecord&)>& change) {
        schema::EventRecord record{};
        record.mutate_kind(RecordKind::EventRecord);
        record.mutate_slots(1);
        change(record);
        return RecordImage::of(record);
    }
    static RecordImage wait(std::uint64_t stream, std::uint64_t position) {
        schema::WaitRecord record{};
        record.mutate_kind(RecordKind::EventWait);
        record.mutate_slots(1);
        record.mutate_stream(stream);
        record.mutate_position(position);
        return RecordImage::of(record);
    }
    static RecordImage padding(std::uint32_t slots,
                               const std::function<void(schema::PaddingRecord&)>& change) {
        schema::PaddingRecord record{};
        record.mutate_kind(RecordKind::Padding);
        record.mutate_slots(static_cast<std::uint16_t>(slots));
        change(record);
        return RecordImage::of(record);
    }

    // Crafted records that need nothing but the session as it is.
    std::vector<Crafted> crafted() {
        std::vector<Crafted> all;
        const auto add = [&](std::string what, Status expected, RecordImage image, std::uint32_t to_end = 0) {
            all.push_back({std::move(what), expected, std::move(image), to_end});
        };
        const auto nothing = [](auto&) {};
        for (const unsigned kind : {0u, 12u, 200u})
            add("kind " + std::to_string(kind), Status::bad_kind,
                event([&](auto& record) { record.mutate_kind(static_cast<RecordKind>(kind)); }));

        for (const unsigned slots : {0u, kSlots / 4 + 1, 65535u})
            add("a launch that says " + std::to_string(slots) + " slots", Status::bad_slot_count,
                touch([&](auto& record) { record.mutate_slots(static_cast<std::uint16_t>(slots)); }));
        add("a launch that leaves the ring's end", Status::bad_slot_count,
            RecordImage::of(launch("touch_two", 28), touch_two_params(0, 0)), 1);
        add("a padding that ends before the ring does", Status::bad_slot_count, padding(2, nothing), 5);
        const auto long_one = [](RecordImage image) {
            image.slots.resize(2);
            image.as<schema::PaddingRecord>().mutate_slots(2);
            return image;
        };
        add("a launch with a slot too many", Status::bad_slot_count, long_one(touch(nothing)));
        add("a copy of two slots", Status::bad_slot_count, long_one(copy(RecordKind::CopyToDevice, nothing)));
        add("a fill of two slots", Status::bad_slot_count, long_one(fill(nothing)));
        add("an event of two slots", Status::bad_slot_count, long_one(event(nothing)));
        add("a wait of two slots", Status::bad_slot_count, long_one(wait(stream_.id, 0)));

        for (const std::uint64_t stamp :
             {std::uint64_t{0}, kContinuation, ~std::uint64_t{0}, std::uint64_t{7}}) {
            RecordImage image = RecordImage::of(launch("touch_two", 28), touch_two_params(0, 0));
            image.spoiled = 1;
            image.stamp = stamp;
            add("a continuation with the stamp " + std::to_string(stamp), Status::bad_stamp, image);
        }

        const auto flags = static_cast<schema::RecordFlag>(0x82);
        const auto flagged = [&](auto& record) { record.mutate_flags(flags); };
        add("a launch with flags", Status::bad_flags, touch(flagged));
        add("a copy with flags", Status::bad_flags, copy(RecordKind::CopyToHost, flagged));
        add("a fill with flags", Status::bad_flags, fill(flagged));
        add("an event with flags", Status::bad_flags, event(flagged));
        add("a padding with flags", Status::bad_flags, padding(3, flagged), 3);

        add("a launch with something reserved", Status::reserved_not_zero,
            touch([](auto& record) { record.mutate_reserved0(1); }));
        add("another", Status::reserved_not_zero, touch([](auto& record) { record.mutate_reserved1(1); }));
        add("a copy on the device with a staging id", Status::reserved_not_zero,
            copy(RecordKind::CopyOnDevice, [&](auto& record) { record.mutate_staging(staging_.id); }));
        const auto last_byte = [](RecordImage image) {
            image.slots[0].back() = std::byte{1};
            return image;
        };
        add("a copy with something behind it", Status::reserved_not_zero,
            last_byte(copy(RecordKind::CopyToHost, nothing)));
        add("a fill with something behind it", Status::reserved_not_zero, last_byte(fill(nothing)));
        add("an event with something behind it", Status::reserved_not_zero, last_byte(event(nothing)));
        add("a wait with something behind it", Status::reserved_not_zero, last_byte(wait(stream_.id, 0)));
        add("a padding with something behind it", Status::reserved_not_zero, last_byte(padding(2, nothing)),
            2);

        for (const std::uint64_t id :
             {std::uint64_t{0}, ~std::uint64_t{0}, kernels_.at("touch") + (std::uint64_t{1} << 32),
              (std::uint64_t{1} << 32) + 100'000})
            add("kernel " + std::to_string(id), Status::bad_kernel,
                touch([&](auto& record) { record.mutate_kernel(id); }));
        add("a kernel without a declaration", Status::undeclared_kernel,
            RecordImage::of(launch("undeclared", 8), std::vector<std::byte>(Params().add(memory_))));
        for (const unsigned bytes : {0u, 15u, 17u, 4096u, 65535u})
            add(std::to_string(bytes) + " bytes of parameters", Status::bad_param_bytes,
                touch([&](auto& record) { record.mutate_param_bytes(static_cast<std::uint16_t>(bytes)); }));

        for (const std::uint64_t address :
             {std::uint64_t{1}, neighbour_.address(), ~std::uint64_t{0}, memory_ - 1, memory_ + (2u << 20),
              neighbour_.staging_address(), staging_.address - 1, staging_.address + (2u << 20),
              std::uint64_t{1} << 63, reinterpret_cast<std::uint64_t>(this)})
            add("a pointer " + std::to_string(address), Status::bad_pointer,
                RecordImage::of(launch("touch", 16), touch_params(address)));
        add("a pointer in a continuation", Status::bad_pointer,
            RecordImage::of(launch("touch_two", 28), touch_two_params(memory_, neighbour_.address())));

        add("no blocks in x", Status::bad_grid, touch([](auto& record) { record.mutate_grid_x(0); }));
        add("no blocks in y", Status::bad_grid, touch([](auto& record) { record.mutate_grid_y(0); }));
        add("no blocks in z", Status::bad_grid, touch([](auto& record) { record.mutate_grid_z(0); }));
        add("too many blocks in x", Status::bad_grid, touch([](auto& record) { record.mutate_grid_x(~0u); }));
        add("too many blocks in z", Status::bad_grid,
            touch([](auto& record) { record.mutate_grid_z(65536); }));
        add("too many threads", Status::bad_block, touch([](auto& record) { record.mutate_block_x(1025); }));
        add("too many threads in all", Status::bad_block, touch([](auto& record) {
                record.mutate_block_x(512);
                record.mutate_block_y(512);
            }));
        add("no threads in y", Status::bad_block, touch([](auto& record) { record.mutate_block_y(0); }));
        add("no block where there is no default", Status::bad_block, touch([](auto& record) {
                record.mutate_block_x(0);
                record.mutate_block_y(0);
                record.mutate_block_z(0);
            }));
        add("shared memory", Status::bad_shared_bytes,
            touch([](auto& record) { record.mutate_shared_bytes(~0u); }));

        const auto compact = [&](const std::string& what, Status expected, auto change) {
            schema::CompactLaunchRecord record{};
            record.mutate_kind(RecordKind::CompactLaunch);
            record.mutate_slots(1);
            record.mutate_param_bytes(16);
            record.mutate_block_x(1);
            record.mutate_kernel(compact_kernel(kernels_.at("touch")));
            record.mutate_grid_x(1);
            change(record);
            add("compact: " + what, expected, RecordImage::of(record, touch_params(memory_)));
        };
        compact("flags", Status::bad_flags, flagged);
        compact("no slots", Status::bad_slot_count, [](auto& record) { record.mutate_slots(0); });
        compact("no kernel", Status::bad_kernel, [](auto& record) { record.mutate_kernel(0); });
        compact("any kernel", Status::bad_kernel, [](auto& record) { record.mutate_kernel(~0u); });
        compact("17 bytes of parameters", Status::bad_param_bytes,
                [](auto& record) { record.mutate_param_bytes(17); });
        compact("no blocks", Status::bad_grid, [](auto& record) { record.mutate_grid_x(0); });
        compact("too many blocks", Status::bad_grid, [](auto& record) { record.mutate_grid_x(~0u); });
        compact("too many threads", Status::bad_block, [](auto& record) { record.mutate_block_x(1025); });
        compact("no block where there is no default", Status::bad_block,
                [](auto& record) { record.mutate_block_x(0); });

        for (const RecordKind kind : {RecordKind::CopyToDevice, RecordKind::CopyToHost}) {
            const std::string name = schema::EnumNameRecordKind(kind);
            const auto bad = [&](const std::string& what, Status expected, auto change) {
                add(name + ": " + what, expected, copy(kind, change));
            };
            bad("no staging", Status::bad_staging, [](auto& record) { record.mutate_staging(0); });
            bad("unknown staging", Status::bad_staging,
                [](auto& record) { record.mutate_staging(~std::uint64_t{0}); });
            bad("behind the segment", Status::bad_staging,
                [](auto& record) { record.mutate_other((64 << 10) - 63); });
            bad("an offset that overflows", Status::bad_staging,
                [](auto& record) { record.mutate_other(~std::uint64_t{0} - 10); });
            bad("bytes that overflow", Status::bad_staging,
                [](auto& record) { record.mutate_bytes(~std::uint64_t{0} - 10); });
            bad("the neighbour's memory", Status::bad_range,
                [&](auto& record) { record.mutate_device(neighbour_.address()); });
            bad("across the chunk's end", Status::bad_range,
                [&](auto& record) { record.mutate_device((memory_ | ((2u << 20) - 1)) - 31); });
        }
        const auto bad_range = [&](const std::string& what, auto change) {
            add("CopyOnDevice: " + what, Status::bad_range, copy(RecordKind::CopyOnDevice, change));
        };
        bad_range("to the neighbour", [&](auto& record) { record.mutate_device(neighbour_.address()); });
        bad_range("from the neighbour", [&](auto& record) { record.mutate_other(neighbour_.address()); });
        bad_range("bytes that overflow", [&](auto& record) { record.mutate_bytes(~std::uint64_t{0} - 10); });
        add("a fill of the neighbour", Status::bad_range,
            fill([&](auto& record) { record.mutate_device(neighbour_.address()); }));
        add("a fill that overflows", Status::bad_range,
            fill([&](auto& record) { record.mutate_bytes(~std::uint64_t{0} - 3); }));
        for (const unsigned width : {0u, 3u, 8u, 255u})
            add("a fill of width " + std::to_string(width), Status::bad_fill_width,
                fill([&](auto& record) { record.mutate_width(static_cast<std::uint8_t>(width)); }));
        add("a fill with bytes left over", Status::bad_fill_width,
            fill([](auto& record) { record.mutate_bytes(63); }));
        add("a fill that is not aligned", Status::bad_fill_width,
            fill([&](auto& record) { record.mutate_device(memory_ + 2); }));

        add("a graph launch of two slots", Status::bad_slot_count, long_one(graph_launch(nothing)));
        add("a graph launch with flags", Status::bad_flags, graph_launch(flagged));
        add("a graph launch with something behind it", Status::reserved_not_zero,
            last_byte(graph_launch(nothing)));
        for (const std::uint64_t id : {std::uint64_t{0}, ~std::uint64_t{0}, graph_ + (std::uint64_t{1} << 32),
                                       (std::uint64_t{1} << 32) + 100'000, kernels_.at("touch") + 50})
            add("graph " + std::to_string(id), Status::bad_graph,
                graph_launch([&](auto& record) { record.mutate_graph(id); }));
        add("another stream's graph", Status::bad_graph,
            graph_launch([&](auto& record) { record.mutate_graph(make_graph(side_)); }));
        const auto update = [&](const std::string& what, Status expected, auto change,
                                std::optional<std::uint64_t> at = {}) {
            add("graph update: " + what, expected, graph_update(at.value_or(memory_), change));
        };
        update("no graph", Status::bad_graph, [](auto& record) { record.mutate_graph(0); });
        update("of a fill", Status::bad_node, [](auto& record) { record.mutate_node(1); });
        update("behind its end", Status::bad_node, [](auto& record) { record.mutate_node(2); });
        update("far behind its end", Status::bad_node, [](auto& record) { record.mutate_node(~0u); });
        update("flags", Status::bad_flags, flagged);
        update("something reserved", Status::reserved_not_zero,
               [](auto& record) { record.mutate_reserved2(1); });
        update("one slot", Status::bad_slot_count, [](auto& record) { record.mutate_slots(1); });
        update("15 bytes of parameters", Status::bad_param_bytes,
               [](auto& record) { record.mutate_param_bytes(15); });
        update("65535 bytes of parameters", Status::bad_param_bytes,
               [](auto& record) { record.mutate_param_bytes(65535); });
        update("no blocks", Status::bad_grid, [](auto& record) { record.mutate_grid_y(0); });
        update("too many threads", Status::bad_block, [](auto& record) { record.mutate_block_x(1025); });
        update("shared memory", Status::bad_shared_bytes,
               [](auto& record) { record.mutate_shared_bytes(~0u); });
        for (const std::uint64_t address : {std::uint64_t{1}, neighbour_.address(), ~std::uint64_t{0}})
            update("a pointer " + std::to_string(address), Status::bad_pointer, nothing, address);

        add("a wait for no stream", Status::bad_awaited_stream, wait(~std::uint64_t{0}, 1));
        add("a wait for the neighbour", Status::bad_awaited_stream, wait(neighbour_.stream(), 1));
        return all;
    }

    void try_crafted() {
        for (const Crafted& each : crafted()) {
            SCOPED_TRACE(each.what);
            if (each.slots_to_end != 0)
                while (kSlots - position_ % kSlots != each.slots_to_end) take_event();
            expect_refused(each.image, each.expected);
        }
        try_kernel_of_an_unloaded_module();
        try_streams_that_stopped();
        try_cycles();
    }

    void try_kernel_of_an_unloaded_module() {
        std::uint64_t id = 0;
        const auto kernels = client_.load(TEST_KERNELS, &id);
        Received answer =
            client_.ask(schema::Request::UnloadModule, [&](flatbuffers::FlatBufferBuilder& builder) {
                return schema::CreateUnloadModule(builder, id).Union();
            });
        ASSERT_EQ(answer->status(), 0u) << answer.error();
        for (const auto& [name, kernel] : kernels)
            if (name == "touch")
                expect_refused(touch([&](auto& record) { record.mutate_kernel(kernel); }),
                               Status::bad_kernel);
    }

    void try_streams_that_stopped() {
        const RawStream closed = client_.open_stream(kSlots);
        client_.close_stream(closed);
        expect_refused(wait(closed.id, 10), Status::awaited_stream_stopped);

        const std::uint64_t at = side_.producer.position();
        schema::EventRecord bad{};
        bad.mutate_kind(RecordKind::EventRecord);
        bad.mutate_reserved0(1);
        client_.publish(side_, bad);
        RawClient::wait_until([&] { return side_.state() == StreamState::Stopped; });
        ++crafted_[static_cast<Status>(side_.page().error_status)];
        expect_refused(wait(side_.id, at + 10), Status::awaited_stream_stopped);
        ASSERT_EQ(client_.resume(side_, false)->status(), 0u);
    }

    void try_cycles() {
        expect_refused(wait(stream_.id, position_ + 2), Status::wait_cycle);
        // Of two: the side waits for what this stream has not issued, and this one for what comes behind
        // that.
        const std::uint64_t awaited = position_ + 3;
        const std::uint64_t held = side_.page().counters.held_turns;
        schema::WaitRecord record = wait(stream_.id, awaited).as<schema::WaitRecord>();
        const std::uint64_t end = client_.publish(side_, record);
        RawClient::wait_until([&] { return side_.page().counters.held_turns > held; });
        expect_refused(wait(side_.id, end + 1), Status::wait_cycle);
        // Whom the side waited for stopped, so it stops as well.
        RawClient::wait_until([&] { return side_.state() == StreamState::Stopped; });
        EXPECT_EQ(static_cast<Status>(side_.page().error_status), Status::awaited_stream_stopped);
        ++crafted_[static_cast<Status>(side_.page().error_status)];
        ASSERT_EQ(client_.resume(side_, false)->status(), 0u);
        while (position_ < awaited) take_event();
        EXPECT_TRUE(client_.wait_completed(side_, end));
    }

    void try_random(int records) {
        HostileWorld world;
        for (const auto& [name, params] : {std::pair("touch", touch_params(memory_)),
                                           std::pair("touch_two", touch_two_params(memory_, 0))})
            world.kernels.push_back({kernels_.at(name), params});
        world.memory = memory_;
        world.memory_bytes = 64 << 10;
        world.staging = staging_.id;
        world.staging_bytes = 64 << 10;
        world.stream = stream_.id;
        world.graph = graph_;
        HostileRecords make(1, world);
        for (int i = 0; i < records; ++i) {
            // What means something changes with the session.
            make.world.interesting = {kernels_.at("undeclared"),
                                      kernels_.at("touch"),
                                      neighbour_.address(),
                                      neighbour_.stream(),
                                      neighbour_.staging(),
                                      neighbour_.staging_address(),
                                      memory_,
                                      memory_ + (2u << 20) - 1,
                                      side_.id,
                                      stream_.id,
                                      graph_,
                                      std::uint64_t{2} << 32,
                                      position_ + 1,
                                      side_.producer.position(),
                                      side_.producer.position() + 3};
            RecordImage image;
            switch (make.below(8)) {
                case 0:
                    image = make.honest();
                    break;
                case 1:
                    image = make.noise();
                    break;
                case 2:
                    image = wait(make.below(2) == 0 ? side_.id : stream_.id, position_ + make.below(4));
                    if (make.below(2) == 0)
                        image.as<schema::WaitRecord>().mutate_position(side_.producer.position() +
                                                                       make.below(4));
                    break;
                case 3:
                case 4:
                    image = make.mistaken();
                    break;
                default:
                    image = make.changed();
            }
            make_short(image);
            ++written_;
            switch (write(image)) {
                case Outcome::refused:
                    ++random_[error()];
                    check_refusal();
                    go_on(image);
                    break;
                case Outcome::completed:
                    ++taken_;
                    position_ += image.slots_said();
                    break;
                case Outcome::held:
                    release(image);
                    break;
                case Outcome::lost:
                    FAIL() << "record " << i << ", of kind " << static_cast<int>(image.kind())
                           << " at position " << position_ << ", is neither taken nor refused; completed is "
                           << stream_.completed();
            }
            if (::testing::Test::HasFailure()) {
                ADD_FAILURE() << "at random record " << i;
                return;
            }
        }
    }

    void print(std::ostream& out) const {
        out << written_ << " random records: " << taken_ << " taken, the others refused; resumed " << resumed_
            << " times behind the record, " << repaired_ << " times after it was repaired\n";
        char line[100];
        std::snprintf(line, sizeof line, "%-24s %8s %8s\n", "reason", "crafted", "random");
        out << line;
        for (const Status reason : all_reasons()) {
            std::snprintf(line, sizeof line, "%-24s %8d %8d%s\n", std::string(status_name(reason)).c_str(),
                          count(crafted_, reason), count(random_, reason),
                          reason == Status::bad_cluster
                              ? "  by the null driver: host kernels have no clusters"
                          : reason == Status::grid_too_large ? "  a GPU's alone: tests/gpu/test_attributes.py"
                                                             : "");
            out << line;
        }
    }
    void add_crafted(Status reason, int times) { crafted_[reason] += times; }
    int crafted_count(Status reason) const { return count(crafted_, reason); }
    int random_refusals() const {
        int all = 0;
        for (const auto& [reason, times] : random_) all += times;
        return all;
    }

  private:
    enum class Outcome { completed, refused, held, lost };

    static int count(const std::map<Status, int>& of, Status reason) {
        const auto found = of.find(reason);
        return found == of.end() ? 0 : found->second;
    }
    Status error() const { return static_cast<Status>(stream_.page().error_status); }

    Outcome write(RecordImage image) {
        image.write(stream_.ring.as<Slot>(kRingHeaderBytes), kSlots, position_);
        client_.wake_reader(stream_);
        const std::uint64_t end = position_ + image.slots_said();
        const bool waits = image.kind() == RecordKind::EventWait;
        const std::uint64_t held = stream_.page().counters.held_turns;
        const auto begin = Clock::now();
        for (int looks = 0;; ++looks) {
            if (stream_.state() == StreamState::Stopped) return Outcome::refused;
            if (stream_.completed() >= end && end > position_) return Outcome::completed;
            if (looks % 64 != 63) continue;
            std::this_thread::yield();
            const auto took = Clock::now() - begin;
            if (waits && took > std::chrono::milliseconds(5) && stream_.page().counters.held_turns != held)
                return Outcome::held;
            if (took > kPatience) return Outcome::lost;
            if (took > std::chrono::milliseconds(2)) {
                // Work of a device that is asked for by nobody may be shown late: ask.
                announce_wait(stream_.header(), end);
                client_.wake_reader(stream_);
                std::this_thread::sleep_for(std::chrono::microseconds(100));
            }
        }
    }

    void check_refusal() {
        const StatusPage& page = stream_.page();
        EXPECT_EQ(page.error_position, position_);
        EXPECT_THAT(all_reasons(), ::testing::Contains(error()));
        EXPECT_THAT(page.error_text, ::testing::HasSubstr("at position " + std::to_string(position_) + ": "));
        EXPECT_LT(::strnlen(page.error_text, sizeof page.error_text), sizeof page.error_text);
    }

    void expect_refused(RecordImage image, Status expected) {
        ASSERT_EQ(write(image), Outcome::refused);
        EXPECT_EQ(status_name(error()), status_name(expected)) << stream_.page().error_text;
        ++crafted_[error()];
        check_refusal();
        go_on(image);
    }

    // Behind the record; where its length is not known, another is written in its place.
    void go_on(RecordImage& image) {
        const Received skipped = client_.resume(stream_, false);
        if (skipped->status() == 0) {
            ++resumed_;
            position_ += image.slots_said();
            return;
        }
        ASSERT_EQ(static_cast<Status>(skipped->status()), Status::unsupported) << skipped.error();
        EXPECT_THAT(skipped.error(), ::testing::HasSubstr("its length is not known"));
        // Nothing that was written may be taken for a record later.
        Slot* const ring = stream_.ring.as<Slot>(kRingHeaderBytes);
        for (std::size_t i = image.slots.size(); i-- > 0;)
            ring[(position_ + i) % kSlots].stamp.store(0, std::memory_order_release);  // sync: STAMP
        event([](auto&) {}).write(ring, kSlots, position_);
        const Received again = client_.resume(stream_, true);
        ASSERT_EQ(again->status(), 0u) << again.error();
        ++repaired_;
        ++position_;
        RawClient::wait_until(
            [&] { return stream_.completed() >= position_ || stream_.state() != StreamState::Running; });
        ASSERT_EQ(stream_.state(), StreamState::Running) << stream_.page().error_text;
    }

    void take_event() {
        ASSERT_EQ(write(event([](auto&) {})), Outcome::completed);
        ++position_;
    }

    // A stream that is held for what the side has not issued: the side issues it, or is closed where that is
    // too far.
    void release(RecordImage& image) {
        const std::uint64_t awaited = image.as<schema::WaitRecord>().position();
        ASSERT_EQ(image.as<schema::WaitRecord>().stream(), side_.id);
        if (awaited - side_.producer.position() <= kSlots / 2) {
            schema::EventRecord record{};
            record.mutate_kind(RecordKind::EventRecord);
            while (side_.producer.position() < awaited) client_.publish(side_, record);
            ASSERT_TRUE(client_.wait_completed(stream_, position_ + 1)) << stream_.page().error_text;
            ++taken_;
            ++position_;
            return;
        }
        client_.close_stream(side_);
        side_ = client_.open_stream(kSlots);
        RawClient::wait_until([&] { return stream_.state() == StreamState::Stopped; });
        EXPECT_EQ(error(), Status::awaited_stream_stopped);
        ++random_[error()];
        check_refusal();
        go_on(image);
    }

    RawClient client_;
    const Neighbour& neighbour_;
    std::map<std::string, std::uint64_t> kernels_;
    std::uint64_t memory_ = 0;
    std::uint64_t graph_ = 0;
    RawClient::Staging staging_;
    RawStream stream_, side_;
    std::uint64_t position_ = 0;
    std::map<Status, int> crafted_, random_;
    int written_ = 0, taken_ = 0, resumed_ = 0, repaired_ = 0;
};

// Grids that are no whole clusters, for a kernel that has them; the null driver takes any cluster. How many
// were refused for it.
int try_clusters() {
    const DaemonProcess daemon({"--driver", "null"});
    RawClient client(daemon.socket());
    client.hello();
    const auto kernels = client.load(TEST_KERNELS);
    const auto touch =
        std::find_if(kernels.begin(), kernels.end(), [](const auto& each) { return each.first == "touch"; });
    Received configured =
        client.ask(schema::Request::ConfigureKernel, [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto attributes = schema::CreateKernelAttributes(builder, 4, 1, 1, false, false);
            return schema::CreateConfigureKernel(builder, touch->second, attributes).Union();
        });
    EXPECT_EQ(configured->status(), 0u) << configured.error();
    const schema::KernelConfigured* kernel = configured->answer_as_KernelConfigured();
    const std::uint64_t memory = client.allocate(4096).second;
    RawStream stream = client.open_stream(kSlots);
    int refused = 0;
    for (const std::uint32_t grid : {4u, 1u, 8u, 6u, 12u, 0x7ffffffdu, 4u}) {
        const std::uint64_t end =
            client.launch(stream, kernel->kernel()->id(), grid, 1, Params().add(memory).add(1u).add(2u));
        const bool completed = client.wait_completed(stream, end);
        EXPECT_EQ(completed, grid % 4 == 0) << grid << ": " << stream.page().error_text;
        if (completed) continue;
        EXPECT_EQ(static_cast<Status>(stream.page().error_status), Status::bad_cluster)
            << stream.page().error_text;
        ++refused;
        EXPECT_EQ(client.resume(stream, false)->status(), 0u);
    }
    return refused;
}

TEST(HostileRing, ReachesEveryRefusalAndItsNeighbourNeverNotices) {
    const DaemonProcess daemon({"--driver", "host", "--max-messages", "1000000000"});
    Neighbour neighbour(daemon.socket());
    Attacker attacker(daemon.socket(), neighbour);
    attacker.try_crafted();
    attacker.add_crafted(Status::bad_cluster, try_clusters());
    if (!HasFailure()) attacker.try_random(random_records());
    EXPECT_TRUE(neighbour.goes_on());
    EXPECT_EQ(neighbour.end(), "");
    attacker.print(std::cout);
    std::cout << "the neighbour: " << neighbour.launches() << " launches in " << neighbour.rounds()
              << " rounds, each with the right result\n";
    EXPECT_GT(neighbour.rounds(), 10u);
    EXPECT_EQ(all_reasons().back(), Status::bad_node);
    for (const Status reason : all_reasons())
        // What is on a device at once is known to the device alone.
        if (reason != Status::grid_too_large) {
            EXPECT_GT(attacker.crafted_count(reason), 0) << status_name(reason);
        }
    EXPECT_GT(attacker.random_refusals(), random_records() / 4);
    const auto executors = daemon.run({"status", "--json"}).json().at("executors");
    ASSERT_EQ(executors.size(), 1u);
    EXPECT_EQ(executors[0].at("restarts"), 0) << daemon.log();
}

}  // namespace
}  // namespace ringlaunch::test
