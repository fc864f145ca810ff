// The golden files of tests/golden: today's producer writes them to the byte, today's reader takes them, and
// records.json says of each byte what it is.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "schema/version.hpp"
#include "tests/golden/golden_records.hpp"
#include "tests/schema/ring_fixture.hpp"

namespace ringlaunch {
namespace {

const std::filesystem::path kFolder = RINGLAUNCH_GOLDEN_DIR;
constexpr const char* kRemake =
    "; if the change is meant: make_golden tests/golden, and think of kProtocolVersion";

std::vector<std::byte> file_bytes(const std::string& name) {
    std::ifstream in(kFolder / name, std::ios::binary);
    EXPECT_TRUE(in) << "cannot read " << kFolder / name;
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    return {data, data + text.size()};
}

nlohmann::json listing() {
    std::ifstream in(kFolder / "records.json");
    EXPECT_TRUE(in);
    return nlohmann::json::parse(in);
}

TEST(GoldenRecords, AreWhatTheProducerWrites) {
    for (const auto& golden : golden::records())
        EXPECT_EQ(file_bytes(golden.file + ".bin"), golden.bytes) << golden.file << kRemake;
}

TEST(GoldenRecords, AreAllThereAndNoOthers) {
    std::set<std::string> wanted{"records.json"}, found;
    for (const auto& golden : golden::records()) wanted.insert(golden.file + ".bin");
    for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
        const auto extension = entry.path().extension();
        if (extension == ".bin" || extension == ".json") found.insert(entry.path().filename().string());
    }
    EXPECT_EQ(found, wanted);
}

TEST(GoldenRecords, CoverEveryKind) {
    std::set<std::string> found;
    for (const auto& golden : golden::records()) found.insert(golden.kind);
    for (const auto kind : schema::EnumValuesRecordKind()) {
        if (kind != schema::RecordKind::None) {
            EXPECT_TRUE(found.count(schema::EnumNameRecordKind(kind))) << schema::EnumNameRecordKind(kind);
        }
    }
}

TEST(GoldenRecords, AreDescribedByteForByte) {
    const auto json = listing();
    EXPECT_EQ(json["protocol_version"], kProtocolVersion) << kRemake;
    ASSERT_EQ(json["records"].size(), golden::records().size());
    for (const auto& record : json["records"]) {
        const std::string name = record["file"];
        const auto bytes = file_bytes(name);
        ASSERT_EQ(bytes.size(), record["bytes"]) << name;
        std::vector<int> described(bytes.size());
        for (const auto& field : record["fields"]) {
            const std::string what = name + ": " + field["name"].get<std::string>();
            const std::size_t offset = field["offset"];
            const std::string type = field["type"];
            std::vector<std::byte> value;
            if (type == "bytes") {
                const std::string digits = field["value"];
                for (std::size_t i = 0; i < digits.size(); i += 2)
                    value.push_back(static_cast<std::byte>(std::stoi(digits.substr(i, 2), nullptr, 16)));
            } else {
                const std::size_t size = std::stoul(type.substr(1)) / 8;
                for (std::size_t i = 0; i < size; ++i)
                    value.push_back(static_cast<std::byte>(field["value"].get<std::uint64_t>() >> (8 * i)));
            }
            ASSERT_LE(offset + value.size(), bytes.size()) << what;
            EXPECT_TRUE(
                std::equal(value.begin(), value.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset)))
                << what;
            for (std::size_t i = 0; i < value.size(); ++i) ++described[offset + i];
        }
        EXPECT_EQ(described, std::vector<int>(bytes.size(), 1))
            << name << ": each byte belongs to exactly one field";
    }
}

TEST(GoldenRecords, AreTakenByTheReader) {
    const auto json = listing();
    for (const auto& record : json["records"]) {
        const std::string name = record["file"];
        const auto bytes = file_bytes(name);
        const std::uint64_t position = record["position"];
        testing::Ring ring(golden::kRingSlots, position);
        std::memcpy(static_cast<void*>(&ring.at(position)), bytes.data(), bytes.size());
        ASSERT_TRUE(ring.consumer.peek()) << name;
        RecordCopy out;
        ASSERT_EQ(ring.consumer.copy(out), Status::ok) << name;
        EXPECT_EQ(schema::EnumNameRecordKind(out.as<schema::PaddingRecord>().kind()), record["kind"]) << name;
        EXPECT_EQ(std::memcmp(out.head + 8, bytes.data() + 8, kSlotBytes - 8), 0) << name;
        // The parameters are whole again, zero behind the last.
        const auto kind = out.as<schema::PaddingRecord>().kind();
        if (is_launch(kind)) {
            const LaunchForm form = form_of(kind);
            // Both forms have it in the same place.
            const std::size_t size = out.as<schema::LaunchRecord>().param_bytes();
            ASSERT_EQ(out.as<schema::CompactLaunchRecord>().param_bytes(), size);
            EXPECT_EQ(out.slots, launch_slots(size, form)) << name;
            for (std::size_t i = 0; i < head_param_bytes(form) + (out.slots - 1) * kContinuationParamBytes;
                 ++i)
                ASSERT_EQ(out.params[i], i < size ? static_cast<std::byte>(0xa0 + i) : std::byte{0})
                    << name << ' ' << i;
        }
    }
}

TEST(GoldenMagics, ReadAsWords) {
    // What a hex dump of a segment or a Hello begins with.
    const auto text = [](auto word) {
        char letters[sizeof word];
        std::memcpy(letters, &word, sizeof word);
        return std::string(letters, sizeof word);
    };
    EXPECT_EQ(text(kRingMagic), "RLRING01");
    EXPECT_EQ(text(kStatusMagic), "RLSTAT01");
    EXPECT_EQ(text(kHelloMagic), "RLCH");
}

}  // namespace
}  // namespace ringlaunch
