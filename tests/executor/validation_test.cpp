// Every reason for which the dispatcher refuses a record, each reached through the checks themselves, with
// the words that people get to see.
#include "daemon/executor/validation.hpp"

#include <iostream>
#include <map>

#include "tests/executor/harness.hpp"

namespace ringlaunch::executor::test {
namespace {

using schema::RecordKind;

std::map<Status, int> refusals;  // reached, by reason

class PlainStaging final : public driver::Staging {
  public:
    explicit PlainStaging(std::size_t bytes) : bytes_(bytes) {}
    std::size_t size() const override { return bytes_; }

  private:
    std::size_t bytes_;
};

class ValidationTest : public ::testing::Test {
  protected:
    static constexpr std::uint64_t kBase = 0x100000000;
    static constexpr std::uint64_t kChunk = 2u << 20;
    static constexpr std::uint64_t kStaging = 0x200000000;

    static driver::DeviceInfo device() {
        driver::DeviceInfo info;
        info.range_base = kBase;
        info.range_bytes = 64u << 20;
        info.chunk_bytes = kChunk;
        info.staging_base = kStaging;
        info.staging_bytes = 8 * kChunk;
        return info;
    }

    ValidationTest() {
        view.id = 1;
        view.tag = 5;
        driver::KernelLayout undeclared = saxpy_layout();
        undeclared.declared = false;
        undeclared_kernel = std::make_unique<HandKernel>(undeclared);
        undeclared_entry = std::make_unique<KernelEntry>(*undeclared_kernel);
        view.kernels.set(make_id(0), &saxpy_entry);
        view.kernels.set(make_id(1, 3), undeclared_entry.get());
        view.staging.set(make_id(0), &staging);
        memory.device.set_owner(5, kBase, 2 * kChunk);           // ours: chunks 0 and 1
        memory.device.set_owner(6, kBase + 2 * kChunk, kChunk);  // a neighbour's: chunk 2
        memory.device.set_owner(5, kBase + 3 * kChunk, kChunk);  // ours: chunk 3
        memory.staging.set_owner(5, kStaging, kChunk);
        memory.staging.set_owner(6, kStaging + kChunk, kChunk);
    }

    Bounds bounds() const { return {view, memory, limits}; }
    static RecordCopy launch_copy() {
        RecordCopy copy;
        std::memset(copy.head, 0, sizeof copy.head);
        copy.position = 40;
        copy.slots = 2;
        const auto params = saxpy_params(kBase, kBase + 8, 0, 3);
        const schema::LaunchRecord record = ringlaunch::test::launch_record(make_id(0), params, 4, 64);
        std::memcpy(copy.head, &record, sizeof record);
        std::memcpy(copy.params, params.data(), params.size());
        return copy;
    }
    // The same in the compact form.
    static RecordCopy compact_copy() {
        RecordCopy copy = launch_copy();
        copy.slots = 1;
        schema::CompactLaunchRecord record{};
        record.mutate_kind(RecordKind::CompactLaunch);
        record.mutate_slots(1);
        record.mutate_param_bytes(32);
        record.mutate_block_x(64);
        record.mutate_kernel(compact_kernel(make_id(0)));
        record.mutate_grid_x(4);
        std::memcpy(copy.head, &record, sizeof record);
        return copy;
    }
    template <class Record>
    static RecordCopy copy_of(const Record& record, std::uint32_t slots = 1) {
        RecordCopy copy;
        copy.position = 40;
        copy.slots = slots;
        std::memcpy(copy.head, &record, sizeof record);
        return copy;
    }
    template <class Record>
    static Record& in(RecordCopy& copy) {
        return *reinterpret_cast<Record*>(copy.head);
    }
    // Counts the refusal and checks that its text has all of `words`.
    void expect_refusal(Status found, Status expected, const RecordCopy& copy,
                        const std::vector<std::string>& words) {
        EXPECT_EQ(status_name(found), status_name(expected));
        ++refusals[found];
        char text[296];
        describe_refusal(found, copy, bounds(), text);
        EXPECT_NE(std::string(text).find("at position 40"), std::string::npos) << text;
        for (const std::string& word : words)
            EXPECT_NE(std::string(text).find(word), std::string::npos) << text;
        // However short the room, the text ends.
        for (const std::size_t room : {1, 2, 17}) {
            std::vector<char> small(room, 'x');
            describe_refusal(found, copy, bounds(), small);
            EXPECT_NE(std::find(small.begin(), small.end(), '\0'), small.end());
        }
    }
    void expect_launch(Status expected, const std::function<void(schema::LaunchRecord&)>& change,
                       const std::vector<std::string>& words) {
        RecordCopy copy = launch_copy();
        change(in<schema::LaunchRecord>(copy));
        driver::Launch launch;
        expect_refusal(check_launch(copy, bounds(), launch), expected, copy, words);
    }

    HandKernel saxpy{saxpy_layout()};
    KernelEntry saxpy_entry{saxpy};
    std::unique_ptr<HandKernel> undeclared_kernel;
    std::unique_ptr<KernelEntry> undeclared_entry;
    PlainStaging staging{4096};
    SessionView view;
    MemoryMap memory{device()};
    DeviceLimits limits{{1000, 100, 10}, {1024, 64, 32}, 1024};
};

TEST_F(ValidationTest, GoodLaunchBecomesTheDriversLaunch) {
    const RecordCopy copy = launch_copy();
    driver::Launch launch;
    ASSERT_EQ(check_launch(copy, bounds(), launch), Status::ok);
    EXPECT_EQ(launch.kernel, &saxpy);
    EXPECT_EQ(launch.kernel_id, make_id(0));
    EXPECT_EQ(launch.position, 40u);
    EXPECT_EQ(launch.end, 42u);
    EXPECT_EQ(launch.grid.x, 4u);
    EXPECT_EQ(launch.block.x, 64u);
    EXPECT_EQ(launch.params, copy.params);
    EXPECT_EQ(launch.param_bytes, 32u);
}

TEST_F(ValidationTest, CompactLaunchBecomesTheSame) {
    RecordCopy copy = compact_copy();
    driver::Launch launch;
    ASSERT_EQ(check_launch(copy, bounds(), launch), Status::ok);
    EXPECT_EQ(launch.kernel, &saxpy);
    EXPECT_EQ(launch.kernel_id, make_id(0));
    EXPECT_EQ(launch.position, 40u);
    EXPECT_EQ(launch.end, 41u);
    EXPECT_EQ(launch.grid, (driver::Dim3{4, 1, 1}));
    EXPECT_EQ(launch.block, (driver::Dim3{64, 1, 1}));
    EXPECT_EQ(launch.shared_bytes, 0u);
    EXPECT_EQ(launch.params, copy.params);
    EXPECT_EQ(launch.param_bytes, 32u);

    driver::KernelLayout layout = saxpy_layout();
    layout.default_block = {16, 2, 2};
    HandKernel kernel(layout);
    const KernelEntry entry(kernel);
    view.kernels.set(make_id(0), &entry);
    in<schema::CompactLaunchRecord>(copy).mutate_block_x(0);
    ASSERT_EQ(check_launch(copy, bounds(), launch), Status::ok);
    EXPECT_EQ(launch.block, (driver::Dim3{16, 2, 2}));
}

TEST_F(ValidationTest, CompactLaunchesAreRefusedAlike) {
    const auto expect = [&](Status expected, const std::function<void(schema::CompactLaunchRecord&)>& change,
                            const std::vector<std::string>& words) {
        RecordCopy copy = compact_copy();
        change(in<schema::CompactLaunchRecord>(copy));
        copy.slots = in<schema::CompactLaunchRecord>(copy).slots();
        driver::Launch launch;
        expect_refusal(check_launch(copy, bounds(), launch), expected, copy, words);
    };
    expect(Status::bad_flags, [](auto& r) { r.mutate_flags(static_cast<schema::RecordFlag>(2)); },
           {"launch"});
    expect(Status::bad_kernel, [](auto& r) { r.mutate_kernel(compact_kernel(make_id(9))); },
           {"this session has no kernel 9"});
    expect(Status::bad_kernel, [](auto& r) { r.mutate_kernel(compact_kernel(make_id(0, 2))); },
           {"no kernel 0.2"});
    expect(Status::bad_kernel, [](auto& r) { r.mutate_kernel(0); }, {"no kernel 0.0"});
    expect(Status::bad_kernel, [](auto& r) { r.mutate_kernel(~0u); }, {"no kernel 4194303.1023"});
    expect(Status::undeclared_kernel, [](auto& r) { r.mutate_kernel(compact_kernel(make_id(1, 3))); },
           {"saxpy", "RINGLAUNCH_EXPORT"});
    expect(Status::bad_param_bytes, [](auto& r) { r.mutate_param_bytes(24); }, {"24 bytes", "takes 32"});
    expect(Status::bad_slot_count, [](auto& r) { r.mutate_slots(2); }, {"2 slots", "take 1"});
    expect(Status::bad_grid, [](auto& r) { r.mutate_grid_x(0); }, {"grid 0 x 1 x 1"});
    expect(Status::bad_grid, [](auto& r) { r.mutate_grid_x(1001); }, {"1001"});
    expect(Status::bad_block, [](auto& r) { r.mutate_block_x(257); }, {"257 x 1 x 1", "256 threads"});
    expect(Status::bad_block, [](auto& r) { r.mutate_block_x(0); }, {"no default block"});

    RecordCopy copy = compact_copy();
    const auto params = saxpy_params(kBase, kBase + 2 * kChunk, 0, 3);  // a neighbour's
    std::memcpy(copy.params, params.data(), params.size());
    driver::Launch launch;
    expect_refusal(check_launch(copy, bounds(), launch), Status::bad_pointer, copy, {"parameter 1"});
}

TEST_F(ValidationTest, LaunchOfUnknownKernels) {
    expect_launch(Status::bad_kernel, [](auto& r) { r.mutate_kernel(make_id(9)); },
                  {"launch", "this session has no kernel 9"});
    expect_launch(Status::bad_kernel, [](auto& r) { r.mutate_kernel(make_id(0, 2)); }, {"no kernel 0.2"});
    expect_launch(Status::bad_kernel, [](auto& r) { r.mutate_kernel(0); }, {"no kernel 0.0"});
    expect_launch(Status::bad_kernel, [](auto& r) { r.mutate_kernel(~0ull); },
                  {"no kernel 4294967295.4294967295"});
    expect_launch(Status::undeclared_kernel, [](auto& r) { r.mutate_kernel(make_id(1, 3)); },
                  {"saxpy", "RINGLAUNCH_EXPORT"});
}

TEST_F(ValidationTest, LaunchWithWrongParameters) {
    expect_launch(Status::bad_param_bytes, [](auto& r) { r.mutate_param_bytes(24); },
                  {"saxpy", "24 bytes", "takes 32"});
    RecordCopy copy = launch_copy();
    copy.slots = 3;
    in<schema::LaunchRecord>(copy).mutate_slots(3);
    driver::Launch launch;
    expect_refusal(check_launch(copy, bounds(), launch), Status::bad_slot_count, copy, {"3 slots", "take 2"});
}

TEST_F(ValidationTest, LaunchOfAGridThatIsNotWholeClusters) {
    driver::KernelLayout layout = saxpy_layout();
    layout.attributes.cluster = {2, 1, 3};
    HandKernel clustered(layout);
    const KernelEntry entry(clustered);
    view.kernels.set(make_id(2), &entry);
    const auto grid = [](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
        return [=](schema::LaunchRecord& r) {
            r.mutate_kernel(make_id(2));
            r.mutate_grid_x(x);
            r.mutate_grid_y(y);
            r.mutate_grid_z(z);
        };
    };
    expect_launch(Status::bad_cluster, grid(3, 1, 3), {"saxpy", "3 x 1 x 3", "2 x 1 x 3 blocks"});
    expect_launch(Status::bad_cluster, grid(4, 1, 4), {"4 x 1 x 4"});
    RecordCopy copy = launch_copy();
    grid(4, 5, 6)(in<schema::LaunchRecord>(copy));
    driver::Launch launch;
    EXPECT_EQ(check_launch(copy, bounds(), launch), Status::ok);
    EXPECT_EQ(launch.kernel, &clustered);
    view.kernels.erase(make_id(2));
}

TEST_F(ValidationTest, LaunchOutsideTheDevicesLimits) {
    expect_launch(Status::bad_grid, [](auto& r) { r.mutate_grid_x(0); },
                  {"grid 0 x 1 x 1", "1000 x 100 x 10"});
    expect_launch(Status::bad_grid, [](auto& r) { r.mutate_grid_x(1001); }, {"1001"});
    expect_launch(Status::bad_grid, [](auto& r) { r.mutate_grid_y(101); }, {"101"});
    expect_launch(Status::bad_grid, [](auto& r) { r.mutate_grid_z(11); }, {"11"});
    expect_launch(Status::bad_block, [](auto& r) { r.mutate_block_x(257); }, {"257", "256 threads"});
    expect_launch(Status::bad_block, [](auto& r) { r.mutate_block_z(33); }, {"64 x 1 x 33"});
    expect_launch(Status::bad_block, [](auto& r) { r.mutate_block_y(0); }, {"64 x 0 x 1"});
    // 65535^3 threads do not wrap into something small.
    expect_launch(Status::bad_block,
                  [](auto& r) {
                      r.mutate_block_x(1024);
                      r.mutate_block_y(64);
                      r.mutate_block_z(32);
                  },
                  {"1024 x 64 x 32"});
    expect_launch(Status::bad_block,
                  [](auto& r) {
                      r.mutate_block_x(0);
                      r.mutate_block_y(0);
                      r.mutate_block_z(0);
                  },
                  {"no default block"});
    expect_launch(Status::bad_shared_bytes, [](auto& r) { r.mutate_shared_bytes(1025); }, {"1025", "1024"});
}

TEST_F(ValidationTest, DefaultBlockStandsInForNone) {
    driver::KernelLayout layout = saxpy_layout();
    layout.default_block = {128, 1, 1};
    HandKernel kernel(layout);
    KernelEntry entry(kernel);
    view.kernels.set(make_id(0), &entry);
    RecordCopy copy = launch_copy();
    auto& record = in<schema::LaunchRecord>(copy);
    record.mutate_block_x(0);
    record.mutate_block_y(0);
    record.mutate_block_z(0);
    driver::Launch launch;
    ASSERT_EQ(check_launch(copy, bounds(), launch), Status::ok);
    EXPECT_EQ(launch.block.x, 128u);
}

TEST_F(ValidationTest, PointerParameters) {
    const auto with_pointer = [&](int param, std::uint64_t value) {
        RecordCopy copy = launch_copy();
        std::memcpy(copy.params + 8 * param, &value, 8);
        return copy;
    };
    driver::Launch launch;
    for (const std::uint64_t good : {std::uint64_t{0}, kBase, kBase + 2 * kChunk - 1, kBase + 3 * kChunk,
                                     kStaging, kStaging + kChunk - 1})
        EXPECT_EQ(check_launch(with_pointer(1, good), bounds(), launch), Status::ok) << good;
    for (const std::uint64_t bad :
         {std::uint64_t{1}, kBase - 1, kBase + 2 * kChunk, kBase + 4 * kChunk, kBase + (64u << 20),
          ~std::uint64_t{0}, kStaging - 1, kStaging + kChunk, kStaging + 2 * kChunk, kStaging + 8 * kChunk}) {
        const RecordCopy copy = with_pointer(1, bad);
        char hex[32];
        std::snprintf(hex, sizeof hex, "0x%llx", static_cast<unsigned long long>(bad));
        expect_refusal(check_launch(copy, bounds(), launch), Status::bad_pointer, copy,
                       {"saxpy", "parameter 1 'y'", hex});
    }
    const RecordCopy copy = with_pointer(2, 8);
    expect_refusal(check_launch(copy, bounds(), launch), Status::bad_pointer, copy, {"parameter 2 'out'"});
}

TEST_F(ValidationTest, FlagsAndReservedBytesOfEveryKind) {
    const auto unknown = static_cast<schema::RecordFlag>(0x80);
    expect_launch(Status::bad_flags, [&](auto& r) { r.mutate_flags(unknown); }, {"0x80"});
    expect_launch(Status::reserved_not_zero, [](auto& r) { r.mutate_reserved0(1); }, {"reserved"});
    expect_launch(Status::reserved_not_zero, [](auto& r) { r.mutate_reserved1(1); }, {"reserved"});

    const std::map<RecordKind, std::vector<std::size_t>> reserved = {
        {RecordKind::CopyToDevice, {12, 15, 48, 63}}, {RecordKind::CopyToHost, {14, 50}},
        {RecordKind::CopyOnDevice, {13, 40, 55}},     {RecordKind::Fill, {13, 15, 36, 39, 40, 63}},
        {RecordKind::EventRecord, {12, 15, 24, 63}},  {RecordKind::EventWait, {12, 32, 63}},
        {RecordKind::Padding, {12, 16, 63}}};
    const auto check = [&](const RecordCopy& copy) {
        driver::Copy copied;
        driver::Fill fill;
        Wait wait;
        switch (kind_of(copy)) {
            case RecordKind::Fill:
                return check_fill(copy, bounds(), fill);
            case RecordKind::EventRecord:
                return check_event(copy);
            case RecordKind::EventWait:
                return check_wait(copy, wait);
            case RecordKind::Padding:
                return check_padding(copy);
            default:
                return check_copy(copy, bounds(), copied);
        }
    };
    for (const auto& [kind, offsets] : reserved) {
        schema::PaddingRecord record{};
        record.mutate_kind(kind);
        record.mutate_slots(1);
        for (const std::size_t offset : offsets) {
            RecordCopy copy = copy_of(record);
            if (kind == RecordKind::Fill) copy.head[12] = std::byte{1};  // the width
            copy.head[offset] = std::byte{0x40};
            expect_refusal(check(copy), Status::reserved_not_zero, copy, {kind_name(kind), "reserved"});
        }
        RecordCopy copy = copy_of(record);
        in<schema::PaddingRecord>(copy).mutate_flags(unknown);
        expect_refusal(check(copy), Status::bad_flags, copy, {kind_name(kind), "0x80"});
        if (kind == RecordKind::Padding) continue;
        RecordCopy longer = copy_of(record, 2);
        expect_refusal(check(longer), Status::bad_slot_count, longer, {kind_name(kind), "2 slots"});
    }
}

TEST_F(ValidationTest, CopiesStayInStagingAndInTheSessionsMemory) {
    schema::CopyRecord record{};
    record.mutate_kind(RecordKind::CopyToDevice);
    record.mutate_device(kBase + kChunk - 100);
    record.mutate_other(96);
    record.mutate_bytes(4000);
    record.mutate_staging(make_id(0));
    driver::Copy out;
    ASSERT_EQ(check_copy(copy_of(record), bounds(), out), Status::ok)
        << "a range over two chunks of one session";
    EXPECT_EQ(out.device, kBase + kChunk - 100);
    EXPECT_EQ(out.offset, 96u);
    EXPECT_EQ(out.staging, &staging);

    const auto expect_copy = [&](Status expected, auto change, const std::vector<std::string>& words) {
        schema::CopyRecord changed = record;
        change(changed);
        const RecordCopy copy = copy_of(changed);
        expect_refusal(check_copy(copy, bounds(), out), expected, copy, words);
    };
    expect_copy(Status::bad_staging, [](auto& r) { r.mutate_staging(make_id(4)); },
                {"copy to device", "no staging"});
    expect_copy(Status::bad_staging, [](auto& r) { r.mutate_other(97); }, {"offset 97", "4096 bytes"});
    expect_copy(Status::bad_staging, [](auto& r) { r.mutate_other(~0ull); }, {"offset"});
    expect_copy(Status::bad_staging, [](auto& r) { r.mutate_bytes(~0ull); }, {"bytes"});
    expect_copy(Status::bad_range, [](auto& r) { r.mutate_device(kBase + 2 * kChunk - 1); },
                {"the device range"});
    expect_copy(Status::bad_range, [](auto& r) { r.mutate_device(0); }, {"0x0"});
    expect_copy(Status::bad_range, [](auto& r) { r.mutate_device(~0ull - 50); }, {"the device range"});

    record.mutate_kind(RecordKind::CopyOnDevice);
    record.mutate_staging(0);
    record.mutate_other(kBase);
    ASSERT_EQ(check_copy(copy_of(record), bounds(), out), Status::ok);
    EXPECT_EQ(out.source, kBase);
    expect_copy(Status::bad_range, [](auto& r) { r.mutate_other(kBase + 2 * kChunk); }, {"the source range"});
    expect_copy(Status::bad_range, [](auto& r) { r.mutate_bytes(1ull << 63); }, {"range"});
}

TEST_F(ValidationTest, CopiesOnTheDeviceMayNameWhatIsLentAndNothingElseMay) {
    // A neighbour's buffer on this device, and two of another device, far below and far above.
    const std::uint64_t near = kBase + 2 * kChunk + 256, below = 0x10000, above = 0x200000000000;
    view.loans = {{below, 512}, {near, 1000}, {above, kChunk}};
    schema::CopyRecord record{};
    record.mutate_kind(RecordKind::CopyOnDevice);
    record.mutate_bytes(512);
    driver::Copy out;
    const auto check = [&](std::uint64_t to, std::uint64_t from, std::uint64_t bytes) {
        record.mutate_device(to);
        record.mutate_other(from);
        record.mutate_bytes(bytes);
        return check_copy(copy_of(record), bounds(), out);
    };
    for (const std::uint64_t lent : {below, near, above}) {
        EXPECT_EQ(check(lent, kBase, 512), Status::ok);
        EXPECT_EQ(out.device, lent);
        EXPECT_EQ(check(kBase, lent, 512), Status::ok);
        EXPECT_EQ(out.source, lent);
        EXPECT_EQ(check(kBase, lent - 1, 512), Status::bad_range) << "a byte before what is lent";
    }
    EXPECT_EQ(check(above, near, 1000), Status::ok) << "from one loan to another";
    EXPECT_EQ(check(kBase, near, 1001), Status::bad_range);
    EXPECT_EQ(check(kBase, near + 1, 1000), Status::bad_range);
    EXPECT_EQ(check(kBase, near + 1000, 1), Status::bad_range);
    EXPECT_EQ(check(kBase, near, ~0ull), Status::bad_range);
    EXPECT_EQ(check(kBase, above + kChunk - 1, 1), Status::ok);
    EXPECT_EQ(check(kBase, above + kChunk - 1, 2), Status::bad_range);
    EXPECT_EQ(check(kBase, below + 512, ~0ull - below - 511), Status::bad_range);
    record.mutate_device(near);
    record.mutate_other(kBase);
    record.mutate_bytes(1001);
    const RecordCopy too_long = copy_of(record);
    expect_refusal(check_copy(too_long, bounds(), out), Status::bad_range, too_long,
                   {"the device range of 1001 bytes", "nor inside a buffer that it has borrowed"});

    // Neither staging copies, nor fills, nor launches.
    record = {};
    record.mutate_kind(RecordKind::CopyToDevice);
    record.mutate_device(near);
    record.mutate_bytes(8);
    record.mutate_staging(make_id(0));
    EXPECT_EQ(check_copy(copy_of(record), bounds(), out), Status::bad_range);
    schema::FillRecord fill{};
    fill.mutate_kind(RecordKind::Fill);
    fill.mutate_width(1);
    fill.mutate_device(near);
    fill.mutate_bytes(8);
    driver::Fill filled;
    EXPECT_EQ(check_fill(copy_of(fill), bounds(), filled), Status::bad_range);
    RecordCopy launch = launch_copy();
    const auto params = saxpy_params(near, kBase + 8, 0, 3);
    std::memcpy(launch.params, params.data(), params.size());
    driver::Launch launched;
    EXPECT_EQ(check_launch(launch, bounds(), launched), Status::bad_pointer);
}

TEST_F(ValidationTest, FillsHaveAWidthThatDividesThem) {
    schema::FillRecord record{};
    record.mutate_kind(RecordKind::Fill);
    record.mutate_device(kBase + 8);
    record.mutate_bytes(64);
    record.mutate_width(4);
    record.mutate_value(7);
    driver::Fill out;
    ASSERT_EQ(check_fill(copy_of(record), bounds(), out), Status::ok);
    EXPECT_EQ(out.value, 7u);
    const auto expect_fill = [&](Status expected, auto change, const std::vector<std::string>& words) {
        schema::FillRecord changed = record;
        change(changed);
        const RecordCopy copy = copy_of(changed);
        expect_refusal(check_fill(copy, bounds(), out), expected, copy, words);
    };
    expect_fill(Status::bad_fill_width, [](auto& r) { r.mutate_width(3); }, {"width 3"});
    expect_fill(Status::bad_fill_width, [](auto& r) { r.mutate_width(0); }, {"width 0"});
    expect_fill(Status::bad_fill_width, [](auto& r) { r.mutate_bytes(66); }, {"66 bytes"});
    expect_fill(Status::bad_fill_width, [](auto& r) { r.mutate_device(kBase + 2); }, {"width 4"});
    expect_fill(Status::bad_range, [](auto& r) { r.mutate_bytes(2 * kChunk); }, {"fill", "4194304 bytes"});
}

TEST_F(ValidationTest, WhatTheRingsReaderRefuses) {
    for (const Status status : {Status::bad_slot_count, Status::bad_stamp, Status::bad_kind}) {
        schema::PaddingRecord record{};
        record.mutate_kind(status == Status::bad_kind ? static_cast<RecordKind>(77)
                                                      : RecordKind::EventRecord);
        const RecordCopy copy = copy_of(record, 5);
        expect_refusal(status, status, copy, {status == Status::bad_kind ? "kind 77" : "5 "});
    }
    RecordCopy copy = launch_copy();
    copy.slots = 0;
    in<schema::LaunchRecord>(copy).mutate_kernel(make_id(50));
    expect_refusal(Status::bad_slot_count, Status::bad_slot_count, copy, {"launch", "0 slots"});
}

TEST_F(ValidationTest, WaitsThatTheDispatcherRefuses) {
    schema::WaitRecord record{};
    record.mutate_kind(RecordKind::EventWait);
    record.mutate_stream(make_id(3));
    record.mutate_position(99);
    for (const Status status :
         {Status::bad_awaited_stream, Status::awaited_stream_stopped, Status::wait_cycle})
        expect_refusal(status, status, copy_of(record), {"wait", "position 99", "stream 3:"});
}

TEST_F(ValidationTest, ParametersThatACopyCannotHoldCountAsUndeclared) {
    driver::KernelLayout layout = saxpy_layout();
    layout.param_bytes = 20;  // and a pointer at 16
    HandKernel kernel(layout);
    EXPECT_FALSE(KernelEntry(kernel).declared);
}

class PrintRefusals : public ::testing::Environment {
  public:
    void TearDown() override {
        std::cout << "refusals reached:";
        for (const auto& [status, count] : refusals) std::cout << ' ' << status_name(status) << '=' << count;
        std::cout << '\n';
        if (::testing::GTEST_FLAG(filter) != "*") return;
        for (int code = 50; code <= 67; ++code)
            EXPECT_TRUE(refusals.contains(static_cast<Status>(code)))
                << status_name(static_cast<Status>(code));
    }
};
const auto* const kPrint = ::testing::AddGlobalTestEnvironment(new PrintRefusals);

}  // namespace
}  // namespace ringlaunch::executor::test
