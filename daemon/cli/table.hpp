// A table of text: columns as wide as their cells, the least important left out where the terminal is too
// narrow.
#pragma once

#include <string>
#include <vector>

#include "daemon/cli/terminal.hpp"

namespace ringlaunch::cli {

struct Column {
    std::string title;
    bool right = false;     // numbers stand flush right
    int importance = 0;     // the lowest go first where there is no room; the highest always stays
    bool flexible = false;  // may be cut to what is left of the line
};

class Table {
  public:
    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
    // As many cells as columns.
    void add(std::vector<std::string> cells, Colour colour = Colour::none);
    bool empty() const { return rows_.empty(); }
    std::string render(const Terminal& terminal) const;

  private:
    struct Row {
        std::vector<std::string> cells;
        Colour colour;
    };
    std::vector<Column> columns_;
    std::vector<Row> rows_;
};

// "name   value" lines, the names in one column.
class Facts {
  public:
    void add(std::string name, std::string value);
    std::string render(const Terminal& terminal, std::size_t indent = 0) const;

  private:
    std::vector<std::pair<std::string, std::string>> lines_;
};

}  // namespace ringlaunch::cli
