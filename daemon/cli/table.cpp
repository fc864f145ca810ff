#include "daemon/cli/table.hpp"

#include <algorithm>
#include <numeric>

namespace ringlaunch::cli {

namespace {

constexpr std::size_t kGap = 2;
constexpr std::size_t kMinFlexible = 12;

std::string pad(const std::string& text, std::size_t width, bool right) {
    const std::size_t has = columns_of(text);
    const std::string blank(width > has ? width - has : 0, ' ');
    return right ? blank + text : text + blank;
}

}  // namespace

void Table::add(std::vector<std::string> cells, Colour colour) {
    cells.resize(columns_.size());
    rows_.push_back({std::move(cells), colour});
}

std::string Table::render(const Terminal& terminal) const {
    std::vector<std::size_t> widths;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
        std::size_t width = columns_of(columns_[i].title);
        for (const Row& row : rows_) width = std::max(width, columns_of(row.cells[i]));
        widths.push_back(width);
    }
    std::vector<std::size_t> shown(columns_.size());
    std::iota(shown.begin(), shown.end(), std::size_t{0});

    if (terminal.width()) {
        const std::size_t room = *terminal.width();
        const auto total = [&](bool cut_flexible) {
            std::size_t sum = shown.empty() ? 0 : kGap * (shown.size() - 1);
            for (std::size_t i : shown)
                sum += cut_flexible && columns_[i].flexible ? std::min(widths[i], kMinFlexible) : widths[i];
            return sum;
        };
        while (shown.size() > 1 && total(true) > room) {
            // The least important; of equals the last.
            auto least = shown.begin();
            for (auto it = shown.begin(); it != shown.end(); ++it)
                if (columns_[*it].importance <= columns_[*least].importance) least = it;
            shown.erase(least);
        }
        for (std::size_t over = total(false) > room ? total(false) - room : 0; over > 0;) {
            auto widest = shown.end();
            for (auto it = shown.begin(); it != shown.end(); ++it)
                if (columns_[*it].flexible && widths[*it] > kMinFlexible &&
                    (widest == shown.end() || widths[*it] > widths[*widest]))
                    widest = it;
            if (widest == shown.end()) break;
            const std::size_t less = std::min(over, widths[*widest] - kMinFlexible);
            widths[*widest] -= less;
            over -= less;
        }
    }

    std::string out;
    const auto line = [&](const std::vector<std::string>& cells, Colour colour) {
        std::string text;
        for (std::size_t n = 0; n < shown.size(); ++n) {
            const std::size_t i = shown[n];
            if (n > 0) text += std::string(kGap, ' ');
            text += pad(cut(cells[i], widths[i]), widths[i], columns_[i].right);
        }
        text.erase(text.find_last_not_of(' ') + 1);
        out += terminal.paint(text, colour) + "\n";
    };
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    line(titles, Colour::bold);
    for (const Row& row : rows_) line(row.cells, row.colour);
    return out;
}

void Facts::add(std::string name, std::string value) {
    lines_.emplace_back(std::move(name), std::move(value));
}

std::string Facts::render(const Terminal& terminal, std::size_t indent) const {
    std::size_t width = 0;
    for (const auto& [name, value] : lines_) width = std::max(width, columns_of(name));
    std::string out;
    for (const auto& [name, value] : lines_)
        out += std::string(indent, ' ') + terminal.paint(pad(name, width, false), Colour::bold) + "  " +
               value + "\n";
    return out;
}

}  // namespace ringlaunch::cli
