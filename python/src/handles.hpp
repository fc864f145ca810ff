// The objects that the launch path reads: plain CPython structs, so that a launch reads a buffer's address or
// a stream with one comparison of types and one load.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <ringlaunch/ringlaunch.hpp>
#include <vector>

#include "triton_maps.hpp"

namespace ringlaunch::python {

// One connection, shared by all the handles that came from it. Its address is the handles' answer to "the
// same client?".
struct Session {
    ringlaunch::Client client;
    int pid = 0;  // of the process that connected: a forked child differs
    // Guarded by the interpreter lock:
    bool closed = false;
    std::vector<ringlaunch::Stream>
        draining;  // closed with work in flight, which synchronize() still waits for
    std::map<const std::byte*, const ringlaunch::PinnedMemory*> pinned;  // by where it begins
    triton::KeptMaps maps;                                               // of tensors, that its daemon made

    struct PinnedRange {
        ringlaunch::PinnedMemory memory;
        std::size_t offset = 0;
    };
    // The pinned memory of this session in which these bytes stand, if any.
    std::optional<PinnedRange> find_pinned(const std::byte* data, std::size_t bytes) const;
    // Takes over a stream that its owner lets go of.
    void drain(ringlaunch::Stream stream);
    // Lets go of those whose work has completed or never will.
    void forget_drained();
};

// A copy from the host on its way.
struct StagedCopy {
    ringlaunch::Event done;
    std::size_t bytes = 0;
};

// Device memory, or a part of it: `buffer` keeps the whole alive. Guarded by the interpreter lock.
struct BufferObject {
    PyObject_HEAD Session* live_session;  // null once freed: one load tells lifetime and owner
    std::uint64_t address;
    std::uint8_t element;  // its type to Triton, numbered by the package (_buffer.py); 0: it has none
    std::uint64_t bytes;
    std::uint64_t offset;  // in `buffer`
    ringlaunch::Buffer buffer;
    std::shared_ptr<Session> session;
};

// All guarded by the interpreter lock.
struct StreamObject {
    PyObject_HEAD detail::StreamState* state;  // of `stream`; null once closed
    bool busy;                                 // somebody enqueues with the lock released: stream_turn.hpp
    ringlaunch::Stream stream;
    std::shared_ptr<Session> session;
    std::deque<StagedCopy> staged;  // copies whose staging memory may still be in use, oldest first
};

extern PyTypeObject* buffer_type;        // _core.BufferHandle
extern PyTypeObject* stream_type;        // _core.StreamHandle
extern PyTypeObject* kernel_type;        // _core.Kernel
extern PyTypeObject* launcher_type;      // _core.Launcher
extern PyTypeObject* usual_buffer_type;  // the class of the buffer made last: most arguments are of it
extern PyTypeObject* usual_stream_type;  // and of the stream made last

// Grows when a client is connected or closed. Guarded by the interpreter lock.
extern std::uint64_t sessions_changed;

inline StreamObject* as_stream(PyObject* object) {
    return reinterpret_cast<StreamObject*>(object);
}
inline bool is_stream(PyObject* object) {
    return PyObject_TypeCheck(object, stream_type);
}
inline bool is_buffer(PyObject* object) {
    return PyObject_TypeCheck(object, buffer_type);
}

// Makes the types and adds them to the module. False: a Python error is set.
bool add_handle_types(PyObject* module);
bool add_launcher_types(PyObject* module);
bool add_triton_types(PyObject* module);

// New references, or null with a Python error. `type` derives from the handle's type.
PyObject* make_buffer(PyTypeObject* type, const std::shared_ptr<Session>& session, ringlaunch::Buffer buffer,
                      std::uint64_t offset, std::uint64_t bytes);
PyObject* make_stream(PyTypeObject* type, const std::shared_ptr<Session>& session, ringlaunch::Stream stream);
// `stream` (a StreamObject): where kernel[grid, block] launches unless it is told.
PyObject* make_kernel(PyTypeObject* type, const std::shared_ptr<Session>& session, ringlaunch::Kernel kernel,
                      PyObject* stream);

// The device memory among the arguments of a launch.
std::vector<ringlaunch::Buffer> buffers_among(PyObject* const* args, std::size_t count);

// What a _core.Kernel is of. Borrowed.
struct KernelView {
    const std::shared_ptr<Session>& session;
    const ringlaunch::Kernel& kernel;
    PyObject* stream;
};
KernelView view_kernel(PyObject* kernel);

}  // namespace ringlaunch::python
