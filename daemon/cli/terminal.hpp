// What is known of the place a command prints to: a terminal of some width, or a file or pipe.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace ringlaunch::cli {

enum class Colour { none, bold, dim, green, yellow, red };

class Terminal {
  public:
    // Looks at standard output. Colours only on a terminal, and not where NO_COLOR is set or TERM is "dumb".
    static Terminal of_stdout();

    bool is_tty() const { return is_tty_; }
    // Columns; nothing where the output is no terminal, so that nothing is cut short in a file.
    std::optional<std::size_t> width() const { return width_; }
    std::string paint(std::string_view text, Colour colour) const;
    // Moves to the top left and clears what is below; nothing where the output is no terminal.
    std::string clear() const;

  private:
    bool is_tty_ = false;
    bool colours_ = false;
    std::optional<std::size_t> width_;
};

// How many columns UTF-8 text takes (a code point each: what we print has no wide ones).
std::size_t columns_of(std::string_view text);
// The first `columns` of it, the last of them an ellipsis where something was cut.
std::string cut(std::string_view text, std::size_t columns);
// Text of a client as it may be shown: control characters, which could steer the terminal, become '?'.
std::string printable(std::string_view text);
// As UTF-8 of at most so many bytes: what is not UTF-8 becomes U+FFFD, and the end is that of a character.
std::string valid_utf8(std::string_view text, std::size_t at_most);

}  // namespace ringlaunch::cli
