// Turns at a stream: it has one producer at a time, and threads of Python may share it.
//
// Who enqueues under the interpreter lock needs no more than to see that nobody has the turn and that there
// is room: then nothing waits, and nobody else gets the lock in between. Who enqueues with the lock released
// (copies from and to the host) takes the turn first and gives it back under the lock.
//
// All of these may release the interpreter lock and run signal handlers. False: a Python error is set.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

#include "handles.hpp"

namespace ringlaunch::python {

// What a refused call on a stream raises. Always returns null.
PyObject* set_stream_error(const StreamObject* stream, Status status, const std::string& doing);

// Waits until nobody has the turn.
bool await_turn(StreamObject* stream, const char* doing);
// Waits until the ring has room for a record of `slots`, or the stream is closed, stopped or lost.
bool await_room(StreamObject* stream, std::uint32_t slots, const char* doing);
// Both, until both hold at once: an enqueue that follows under the same hold of the lock does not wait.
bool await_turn_and_room(StreamObject* stream, std::uint32_t slots, const char* doing);

// A graph keeps the memory that its nodes name. How many nodes the stream has recorded (0, too, where it
// records none), and what that node keeps which was enqueued since then, if it was recorded. `fixed`: it is a
// launch whose kernel was compiled for its very arguments.
std::size_t recorded_nodes(const StreamObject* stream) noexcept;
void keep_in_graph(StreamObject* stream, std::size_t nodes_before, std::vector<ringlaunch::Buffer> buffers,
                   bool fixed = false);

// Copies of any size between the host and the device; the host's memory must stay where it is.
bool copy_to_device(StreamObject* stream, const ringlaunch::Buffer& to, std::size_t offset,
                    const std::byte* from, std::size_t bytes);
bool copy_to_host(StreamObject* stream, std::byte* to, const ringlaunch::Buffer& from, std::size_t offset,
                  std::size_t bytes, std::optional<std::uint64_t> timeout_ns);

}  // namespace ringlaunch::python
