// Remakes the golden files: make_golden <folder>. Run it when record.fbs changes on purpose, look at the
// difference, and raise kProtocolVersion if an older peer could misread the new bytes.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "schema/version.hpp"
#include "tests/golden/golden_records.hpp"

int main(int argc, char** argv) {
    if (argc != 2 || !std::filesystem::is_directory(argv[1])) {
        std::cerr << "usage: make_golden <folder>: writes the golden records there (tests/golden)\n";
        return 2;
    }
    const std::filesystem::path folder = argv[1];
    nlohmann::ordered_json listing;
    listing["protocol_version"] = ringlaunch::kProtocolVersion;
    listing["byte_order"] = "little";
    for (const auto& golden : ringlaunch::golden::records()) {
        if (golden.bytes.empty()) {
            std::cerr << golden.file << ": the producer did not write it\n";
            return 1;
        }
        std::ofstream out(folder / (golden.file + ".bin"), std::ios::binary);
        out.write(reinterpret_cast<const char*>(golden.bytes.data()),
                  static_cast<std::streamsize>(golden.bytes.size()));
        if (!out.flush()) {
            std::cerr << "cannot write " << folder / (golden.file + ".bin") << '\n';
            return 1;
        }
        nlohmann::ordered_json entry;
        entry["file"] = golden.file + ".bin";
        entry["kind"] = golden.kind;
        entry["says"] = golden.says;
        entry["position"] = golden.position;
        entry["bytes"] = golden.bytes.size();
        for (const auto& field : golden.fields) {
            nlohmann::ordered_json one{{"name", field.name}, {"type", field.type}, {"offset", field.offset}};
            if (const auto* number = std::get_if<std::uint64_t>(&field.value)) {
                one["value"] = *number;
            } else {
                // Bytes as hexadecimal digits, two a byte.
                std::string digits;
                for (const std::uint8_t byte : std::get<std::vector<std::uint8_t>>(field.value)) {
                    constexpr char kDigits[] = "0123456789abcdef";
                    digits += kDigits[byte >> 4];
                    digits += kDigits[byte & 15];
                }
                one["value"] = digits;
            }
            entry["fields"].push_back(one);
        }
        listing["records"].push_back(entry);
    }
    std::ofstream out(folder / "records.json");
    out << listing.dump(1) << '\n';
    if (!out.flush()) {
        std::cerr << "cannot write " << folder / "records.json" << '\n';
        return 1;
    }
    std::cout << listing["records"].size() << " records written to " << folder.string() << '\n';
    return 0;
}
