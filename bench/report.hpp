// What every benchmark program prints: the machine, a table for people and a CSV for plots (bench/plot.py).
#pragma once

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace ringlaunch::bench {

inline std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::steady_clock::now().time_since_epoch())
                                          .count());
}

// "AMD EPYC, 2 cores, Linux 6.1"
inline std::string machine() {
    std::string cpu = "unknown processor";
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
        if (line.rfind("model name", 0) != 0) continue;
        cpu = line.substr(line.find(':') + 2);
        break;
    }
    utsname kernel{};
    ::uname(&kernel);
    return cpu + ", " + std::to_string(::sysconf(_SC_NPROCESSORS_ONLN)) + " cores, " + kernel.sysname + " " +
           kernel.release;
}

// Sorts its samples.
inline double quantile(std::vector<double>& samples, double share) {
    if (samples.empty()) return std::nan("");
    std::sort(samples.begin(), samples.end());
    const auto last = static_cast<double>(samples.size() - 1);
    return samples[static_cast<std::size_t>(std::lround(share * last))];
}

// One row: a name and its figures, in the order of the report's columns.
class Report {
  public:
    Report(std::string question, std::vector<std::string> columns)
        : question_(std::move(question)), columns_(std::move(columns)) {}

    void add(const std::string& name, const std::vector<double>& figures) {
        rows_.push_back({name, figures});
    }
    void note(const std::string& text) { notes_.push_back(text); }
    // The rows' first figure is a place on this axis: bench/plot.py draws lines, one for each name.
    void along(const std::string& axis) { note("along: " + axis); }
    // What the project wants to reach, and whether this run did.
    void target(const std::string& what, double found, double bound, bool at_most = true) {
        char text[200];
        std::snprintf(text, sizeof text, "target: %s: %.3g, %s %.3g: %s", what.c_str(), found,
                      at_most ? "at most" : "at least", bound,
                      std::isnan(found)                             ? "not measured"
                      : (at_most ? found <= bound : found >= bound) ? "met"
                                                                    : "NOT met");
        note(text);
    }

    void print() const {
        std::printf("%s\non %s\n\n", question_.c_str(), machine().c_str());
        std::size_t width = 8;
        for (const Row& row : rows_) width = std::max(width, row.name.size());
        std::printf("%-*s", static_cast<int>(width), "");
        for (const std::string& column : columns_) std::printf("  %14s", column.c_str());
        std::printf("\n");
        for (const Row& row : rows_) {
            std::printf("%-*s", static_cast<int>(width), row.name.c_str());
            for (double figure : row.figures) {
                if (std::isnan(figure))
                    std::printf("  %14s", "-");
                else
                    std::printf("  %14.*f", figure < 100 ? 2 : 0, figure);
            }
            std::printf("\n");
        }
        for (const std::string& text : notes_) std::printf("%s\n", text.c_str());
        std::fflush(stdout);
    }

    // Comment lines begin with '#'. Returns false when the file could not be written.
    bool write_csv(const std::string& path) const {
        if (path.empty()) return true;
        std::ofstream file(path);
        file << "# " << question_ << "\n# " << machine() << "\n";
        for (const std::string& text : notes_) file << "# " << text << "\n";
        file << "name";
        for (const std::string& column : columns_) file << "," << column;
        file << "\n";
        for (const Row& row : rows_) {
            file << '"' << row.name << '"';  // no name has a quotation mark
            for (double figure : row.figures) file << "," << figure;
            file << "\n";
        }
        return static_cast<bool>(file.flush());
    }

    // Prints, writes and says so. What a main() returns.
    int finish(const std::string& csv) const {
        print();
        if (write_csv(csv)) return 0;
        std::fprintf(stderr, "cannot write %s: choose another --csv\n", csv.c_str());
        return 1;
    }

  private:
    struct Row {
        std::string name;
        std::vector<double> figures;
    };
    std::string question_;
    std::vector<std::string> columns_;
    std::vector<Row> rows_;
    std::vector<std::string> notes_;
};

// Keeps a value that nobody reads.
template <class T>
inline void keep(const T& value) {
    asm volatile("" : : "g"(&value) : "memory");
}

}  // namespace ringlaunch::bench
