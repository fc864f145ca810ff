// The buffer and stream types that Python classes derive from.
#include "handles.hpp"

#include <structmember.h>

#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "client/src/stream_state.hpp"
#include "client/src/waiter.hpp"
#include "errors.hpp"

namespace ringlaunch::python {

void Session::drain(ringlaunch::Stream stream) {
    forget_drained();
    detail::StreamState* state = detail::Access::state(stream);
    if (state != nullptr && detail::look_at(*state, state->published()) == Status::timed_out)
        draining.push_back(std::move(stream));
}

void Session::forget_drained() {
    std::erase_if(draining, [](const ringlaunch::Stream& stream) {
        const detail::StreamState& state = *detail::Access::state(stream);
        return detail::look_at(state, state.published()) != Status::timed_out;
    });
}

std::optional<Session::PinnedRange> Session::find_pinned(const std::byte* data, std::size_t bytes) const {
    const auto behind = pinned.upper_bound(data);
    if (behind == pinned.begin()) return std::nullopt;
    const ringlaunch::PinnedMemory& memory = *std::prev(behind)->second;
    const auto offset = static_cast<std::size_t>(data - memory.data());
    if (offset > memory.size() || bytes > memory.size() - offset) return std::nullopt;
    return PinnedRange{memory, offset};
}

PyTypeObject* buffer_type = nullptr;
PyTypeObject* stream_type = nullptr;
PyTypeObject* usual_buffer_type = nullptr;
PyTypeObject* usual_stream_type = nullptr;
std::uint64_t sessions_changed = 1;

namespace {

BufferObject* as_buffer(PyObject* object) {
    return reinterpret_cast<BufferObject*>(object);
}

void remember(PyTypeObject*& usual, PyTypeObject* type) {
    if (usual == type) return;
    Py_INCREF(type);
    Py_XDECREF(std::exchange(usual, type));
}

PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
    return set_named_error("ParamTypeError", std::string(type->tp_name) + " is made by a client, not called");
}

void free_object(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);  // an instance of a heap type holds its type
}

// ---- buffers ----

void buffer_dealloc(PyObject* self) {
    BufferObject* buffer = as_buffer(self);
    buffer->buffer.~Buffer();
    buffer->session.~shared_ptr();
    free_object(self);
}

PyObject* buffer_address(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(as_buffer(self)->address);
}
PyObject* buffer_nbytes(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(as_buffer(self)->bytes);
}
PyObject* buffer_freed(PyObject* self, void*) {
    return PyBool_FromLong(as_buffer(self)->live_session == nullptr);
}

PyObject* buffer_free(PyObject* self, PyObject*) {
    BufferObject* buffer = as_buffer(self);
    buffer->live_session = nullptr;
    buffer->buffer = {};
    buffer->address = 0;
    Py_RETURN_NONE;
}

// _part(offset_bytes, bytes): the same memory as another object of this type.
PyObject* buffer_part(PyObject* self, PyObject* args) {
    unsigned long long offset = 0;
    unsigned long long bytes = 0;
    if (!PyArg_ParseTuple(args, "KK", &offset, &bytes)) return nullptr;
    BufferObject* whole = as_buffer(self);
    if (whole->live_session == nullptr)
        return set_named_error("Closed", "taking a part of a buffer that was freed");
    if (offset > whole->bytes || bytes > whole->bytes - offset)
        return set_named_error("InvalidArgument", "taking " + std::to_string(bytes) + " bytes at offset " +
                                                      std::to_string(offset) + " of a buffer of " +
                                                      std::to_string(whole->bytes) + " bytes");
    return make_buffer(Py_TYPE(self), whole->session, whole->buffer, whole->offset + offset, bytes);
}

PyGetSetDef buffer_getters[] = {
    {"address", buffer_address, nullptr, PyDoc_STR("The device address; 0 once freed."), nullptr},
    {"nbytes", buffer_nbytes, nullptr, PyDoc_STR("Size in bytes."), nullptr},
    {"freed", buffer_freed, nullptr, PyDoc_STR("Whether free() was called."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef buffer_members[] = {
    {"_element", T_UBYTE, offsetof(BufferObject, element), 0, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

// As torch's tensors have it, so that Triton's own code takes a buffer.
PyObject* buffer_data_ptr(PyObject* self, PyObject*) {
    if (as_buffer(self)->live_session == nullptr)
        return set_named_error("Closed", "asking for the address of a buffer that was freed");
    return PyLong_FromUnsignedLongLong(as_buffer(self)->address);
}

PyMethodDef buffer_methods[] = {
    {"free", buffer_free, METH_NOARGS,
     PyDoc_STR(
         "free($self, /)\n--\n\nGives the memory back once all work enqueued so far has completed. Does not "
         "block.\n\n"
         "Later uses of this object raise `ringlaunch.Closed`; freeing twice does nothing.")},
    {"data_ptr", buffer_data_ptr, METH_NOARGS,
     PyDoc_STR("data_ptr($self, /)\n--\n\nThe device address, as of a tensor of torch. Raises "
               "`ringlaunch.Closed` once "
               "freed.")},
    {"_part", buffer_part, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot buffer_slots[] = {
    {Py_tp_doc, const_cast<char*>("Device memory: the base of ringlaunch.Buffer.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(buffer_dealloc)},
    {Py_tp_getset, buffer_getters},
    {Py_tp_members, buffer_members},
    {Py_tp_methods, buffer_methods},
    {0, nullptr},
};

PyType_Spec buffer_spec = {"ringlaunch._core.BufferHandle", sizeof(BufferObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, buffer_slots};

// ---- streams ----

void stream_dealloc(PyObject* self) {
    StreamObject* stream = as_stream(self);
    std::destroy_at(&stream->staged);
    stream->session->drain(std::move(stream->stream));
    stream->stream.~Stream();
    stream->session.~shared_ptr();
    free_object(self);
}

PyObject* stream_closed(PyObject* self, void*) {
    const StreamObject* stream = as_stream(self);
    return PyBool_FromLong(stream->state == nullptr || stream->session->closed);
}

PyGetSetDef stream_getters[] = {
    {"closed", stream_closed, nullptr, PyDoc_STR("Whether the stream or its client was closed."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot stream_slots[] = {
    {Py_tp_doc, const_cast<char*>("A queue of work: the base of ringlaunch.Stream.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(stream_dealloc)},
    {Py_tp_getset, stream_getters},
    {0, nullptr},
};

PyType_Spec stream_spec = {"ringlaunch._core.StreamHandle", sizeof(StreamObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, stream_slots};

}  // namespace

PyObject* make_buffer(PyTypeObject* type, const std::shared_ptr<Session>& session, ringlaunch::Buffer buffer,
                      std::uint64_t offset, std::uint64_t bytes) {
    PyObject* object = type->tp_alloc(type, 0);
    if (object == nullptr) return nullptr;
    remember(usual_buffer_type, type);
    BufferObject* made = as_buffer(object);
    made->live_session = session.get();
    made->address = buffer.address() + offset;
    made->bytes = bytes;
    made->offset = offset;
    new (&made->buffer) ringlaunch::Buffer(std::move(buffer));
    new (&made->session) std::shared_ptr<Session>(session);
    return object;
}

PyObject* make_stream(PyTypeObject* type, const std::shared_ptr<Session>& session,
                      ringlaunch::Stream stream) {
    PyObject* object = type->tp_alloc(type, 0);
    if (object == nullptr) return nullptr;
    remember(usual_stream_type, type);
    StreamObject* made = as_stream(object);
    made->state = detail::Access::state(stream);
    made->busy = false;
    new (&made->stream) ringlaunch::Stream(std::move(stream));
    new (&made->session) std::shared_ptr<Session>(session);
    new (&made->staged) std::deque<StagedCopy>();
    return object;
}

bool add_handle_types(PyObject* module) {
    buffer_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&buffer_spec));
    if (buffer_type == nullptr || PyModule_AddType(module, buffer_type) != 0) return false;
    stream_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&stream_spec));
    return stream_type != nullptr && PyModule_AddType(module, stream_type) == 0;
}

std::vector<ringlaunch::Buffer> buffers_among(PyObject* const* args, std::size_t count) {
    std::vector<ringlaunch::Buffer> buffers;
    for (std::size_t i = 0; i < count; ++i)
        if (is_buffer(args[i])) buffers.push_back(reinterpret_cast<const BufferObject*>(args[i])->buffer);
    return buffers;
}

}  // namespace ringlaunch::python
