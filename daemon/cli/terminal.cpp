#include "daemon/cli/terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace ringlaunch::cli {

namespace {

bool begins_code_point(char c) {
    return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
}

// How many bytes the character takes that the text begins with; 0: it begins with none.
std::size_t character_bytes(std::string_view text) {
    const auto at = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = at(0);
    if (lead < 0x80) return 1;
    const std::size_t bytes = lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (bytes == 0 || text.size() < bytes) return 0;
    for (std::size_t i = 1; i < bytes; ++i)
        if (begins_code_point(text[i])) return 0;
    // Neither longer than need be, nor a surrogate, nor beyond the last character.
    if ((lead == 0xe0 && at(1) < 0xa0) || (lead == 0xed && at(1) > 0x9f) || (lead == 0xf0 && at(1) < 0x90) ||
        (lead == 0xf4 && at(1) > 0x8f))
        return 0;
    return bytes;
}

}  // namespace

Terminal Terminal::of_stdout() {
    Terminal terminal;
    terminal.is_tty_ = ::isatty(STDOUT_FILENO) == 1;
    if (!terminal.is_tty_) return terminal;
    const char* type = std::getenv("TERM");
    const char* no_colour = std::getenv("NO_COLOR");
    terminal.colours_ =
        type != nullptr && std::string_view(type) != "dumb" && (no_colour == nullptr || *no_colour == 0);
    winsize size{};
    terminal.width_ = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80u;
    return terminal;
}

std::string Terminal::paint(std::string_view text, Colour colour) const {
    if (!colours_ || colour == Colour::none) return std::string(text);
    const char* code = "0";
    switch (colour) {
        case Colour::none:
            break;
        case Colour::bold:
            code = "1";
            break;
        case Colour::dim:
            code = "2";
            break;
        case Colour::green:
            code = "32";
            break;
        case Colour::yellow:
            code = "33";
            break;
        case Colour::red:
            code = "31";
            break;
    }
    return "\x1b[" + std::string(code) + "m" + std::string(text) + "\x1b[0m";
}

std::string Terminal::clear() const {
    return is_tty_ ? "\x1b[H\x1b[J" : "";
}

std::size_t columns_of(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_code_point));
}

std::string cut(std::string_view text, std::size_t columns) {
    if (columns_of(text) <= columns) return std::string(text);
    if (columns == 0) return "";
    std::size_t at = 0;
    for (std::size_t seen = 0; at < text.size(); ++at)
        if (begins_code_point(text[at]) && seen++ == columns - 1) break;
    return std::string(text.substr(0, at)) + "\u2026";
}

std::string printable(std::string_view text) {
    std::string out(text);
    std::replace_if(
        out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; },
        '?');
    return out;
}

std::string valid_utf8(std::string_view text, std::size_t at_most) {
    std::string out;
    while (!text.empty()) {
        const std::size_t bytes = character_bytes(text);
        const std::string_view next = bytes == 0 ? std::string_view("\ufffd") : text.substr(0, bytes);
        if (out.size() + next.size() > at_most) break;
        out += next;
        text.remove_prefix(bytes == 0 ? 1 : bytes);
    }
    return out;
}

}  // namespace ringlaunch::cli
