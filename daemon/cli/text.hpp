// Pieces of text that several commands print.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "control_generated.h"

namespace ringlaunch::cli {

// What the daemon sent, fit to be shown; empty where it sent nothing.
std::string text(const flatbuffers::String* string);
std::string or_dash(std::string value);
std::string plural(std::uint64_t count, const std::string& noun);  // "1 session", "3 sessions"
std::string driver_name(schema::DriverKind kind);                  // "null", "host", "cuda"
std::string state_name(schema::StreamState state);                 // "running", "stopped", ...
std::string type_name(const schema::Param& param);                 // "pointer", "float32", "bytes[24]"
// "scale(x: pointer, factor: float32)"; "scale(?)" where nothing declared it.
std::string signature(const schema::KernelInfo& kernel);
// Of an executor; 0: there is none just now.
std::string pid_or_dash(std::int32_t pid);
nlohmann::json pid_or_null(std::int32_t pid);
// JSON of text that may not be UTF-8: what is not becomes U+FFFD. `indent` -1: on one line.
std::string dump(const nlohmann::json& json, int indent);
// The exit codes of a command that asks a running daemon.
std::string ask_exit_codes();

}  // namespace ringlaunch::cli
