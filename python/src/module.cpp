// ringlaunch._core: what the Python package asks of the client library, beside the launch call
// (launcher.cpp).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>
#include <ringlaunch/error.hpp>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "client/src/client_state.hpp"
#include "client/src/stream_state.hpp"
#include "control_call.hpp"
#include "errors.hpp"
#include "graphs.hpp"
#include "handles.hpp"
#include "pack.hpp"
#include "schema/id_text.hpp"
#include "stream_turn.hpp"
#include "wait.hpp"

namespace py = pybind11;

namespace ringlaunch::python {

bool on_main_thread() {
    // The main thread of the interpreter; in a forked child that is the thread that forked.
    static const py::object* threading = new py::object(py::module_::import("threading"));
    return threading->attr("get_ident")().equal(threading->attr("main_thread")().attr("ident"));
}

namespace {

// The longest record that is enqueued here is one slot; a little more does no harm.
constexpr std::uint32_t kRecordSlots = 2;
constexpr double kLongestKernelTimeoutS = 4e6;

[[noreturn]] void throw_named(const char* name, const std::string& text) {
    set_named_error(name, text);
    throw py::error_already_set();
}

void check(bool ok) {
    if (!ok) throw py::error_already_set();
}

py::object steal(PyObject* object) {
    if (object == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
}

// Of the daemon, or of its device: it may hold anything.
py::object text(const std::string& bytes) {
    return steal(text_object(bytes));
}

// Seconds as ns; none: without end.
std::optional<std::uint64_t> seconds_ns(const py::object& given, const char* expected) {
    const auto refuse = [&](const char* error) {
        PyErr_Clear();
        throw_named(error, std::string("timeout: expected ") + expected + ", found " +
                               short_repr(given.ptr()) + " (" + type_name(given.ptr()) + ")");
    };
    const double seconds = PyFloat_AsDouble(given.ptr());
    if (seconds == -1 && PyErr_Occurred() != nullptr) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) != 0) refuse("ParamTypeError");
        if (PyErr_ExceptionMatches(PyExc_OverflowError) != 0) refuse("OutOfRange");
        throw py::error_already_set();
    }
    if (seconds == HUGE_VAL) return std::nullopt;
    if (!(seconds >= 0)) refuse("InvalidArgument");
    constexpr double kLongestSeconds = 1e9;
    return static_cast<std::uint64_t>(std::min(seconds, kLongestSeconds) * 1e9);
}

std::optional<std::uint64_t> timeout_ns(const py::object& given) {
    if (given.is_none()) return std::nullopt;
    return seconds_ns(given, "None or seconds, 0 or more");
}

PyTypeObject* derived_type(const py::type& type, PyTypeObject* base) {
    auto* given = reinterpret_cast<PyTypeObject*>(type.ptr());
    if (PyType_IsSubtype(given, base) == 0)
        throw py::type_error(std::string("expected a subclass of ") + base->tp_name);
    return given;
}

StreamObject* stream_of(const py::object& object) {
    if (!is_stream(object.ptr()))
        throw_named("ParamTypeError", "stream: expected a Stream, found " + short_repr(object.ptr()) + " (" +
                                          type_name(object.ptr()) + ")");
    return reinterpret_cast<StreamObject*>(object.ptr());
}

// A live buffer of the stream's client, or of any.
const BufferObject* buffer_of(const StreamObject* stream, const py::object& object, bool anybodys = false) {
    if (!is_buffer(object.ptr()))
        throw_named("ParamTypeError", "expected a Buffer, found " + short_repr(object.ptr()) + " (" +
                                          type_name(object.ptr()) + ")");
    const auto* buffer = reinterpret_cast<const BufferObject*>(object.ptr());
    if (buffer->live_session == nullptr)
        throw_named("Closed", "expected a buffer that lives, found one that was freed");
    if (buffer->live_session != stream->session.get() && !anybodys)
        throw_named("InvalidArgument",
                    "expected a buffer of the stream's client, found one of another client");
    return buffer;
}

void check_range(const BufferObject* buffer, std::uint64_t offset, std::uint64_t bytes) {
    if (offset > buffer->bytes || bytes > buffer->bytes - offset)
        throw_named("InvalidArgument", "bytes " + std::to_string(offset) + " to " +
                                           std::to_string(offset + bytes) + " of a buffer of " +
                                           std::to_string(buffer->bytes) + " bytes");
}

void check_open(const Session& session, const char* doing) {
    if (session.pid != ::getpid())
        throw_named("Closed", std::string(doing) +
                                  ": the client belongs to the parent of this forked process; connect anew");
    if (session.closed) throw_named("Closed", std::string(doing) + ": the client is closed");
}

// A status of a wait on a whole client.
void check_client(Status status, const ringlaunch::Client& client, const char* doing) {
    if (status == Status::ok) return;
    const auto* state = ringlaunch::detail::Access::state(client);
    const bool ended = status == Status::daemon_lost && state->life() != Status::ok;
    set_error(status,
              std::string(doing) + ": " + (ended ? state->life_text() : std::string(status_text(status))));
    throw py::error_already_set();
}

// ---- events
// --------------------------------------------------------------------------------------------------------

class EventHandle {
  public:
    EventHandle(ringlaunch::Event event, const py::object& stream)
        : event_(std::move(event)), stream_(stream) {}

    bool done() const { return event_.done(); }
    std::uint64_t position() const { return event_.position(); }
    const ringlaunch::Event& event() const { return event_; }
    const StreamObject* stream() const { return reinterpret_cast<const StreamObject*>(stream_.ptr()); }

    void wait(const py::object& timeout) const {
        Status status = Status::ok;
        check(wait_in_slices([this](std::uint64_t slice_ns) { return event_.wait(slice_ns); },
                             timeout_ns(timeout), status));
        check_status(status);
    }

    // True: done. False: the stream's wake descriptor becomes readable when it is worth asking again.
    bool arm() const {
        const Status status = event_.arm();
        if (status == Status::timed_out) return false;
        check_status(status);
        return true;
    }

  private:
    void check_status(Status status) const {
        if (status == Status::ok) return;
        set_stream_error(
            stream(), status,
            status == Status::timed_out ? "waiting for an event" : "waiting for an event of a stream");
        throw py::error_already_set();
    }

    ringlaunch::Event event_;
    py::object stream_;
};

// ---- streams: methods of _core.StreamHandle, as functions
// --------------------------------------------------------------

EventHandle stream_record(const py::object& self) {
    StreamObject* stream = stream_of(self);
    check(await_turn_and_room(stream, kRecordSlots, "recording an event"));
    return {stream->stream.record(), self};
}

void stream_status_check(StreamObject* stream, Status status, const char* doing) {
    if (status == Status::ok) return;
    set_stream_error(stream, status, doing);
    throw py::error_already_set();
}

void stream_wait_event(const py::object& self, const EventHandle& event) {
    constexpr const char* kDoing = "waiting for an event of another stream";
    StreamObject* stream = stream_of(self);
    if (event.stream()->session != stream->session)
        control_call([session = stream->session, awaited = event.event()] {
            session->client.borrow(awaited);
            return true;
        });
    check(await_turn_and_room(stream, kRecordSlots, kDoing));
    stream_status_check(stream, stream->stream.wait(event.event()), kDoing);
}

void stream_barrier(const py::object& self) {
    StreamObject* stream = stream_of(self);
    check(await_turn_and_room(stream, kRecordSlots, "enqueuing a barrier"));
    stream_status_check(stream, stream->stream.barrier(), "enqueuing a barrier");
}

void stream_fill(const py::object& self, const py::object& buffer, std::uint32_t value, std::uint32_t width,
                 std::uint64_t offset, std::uint64_t bytes) {
    StreamObject* stream = stream_of(self);
    check(await_turn_and_room(stream, kRecordSlots, "filling a buffer"));
    const BufferObject* to = buffer_of(stream, buffer);
    check_range(to, offset, bytes);
    const std::size_t nodes = recorded_nodes(stream);
    stream_status_check(stream, stream->stream.fill(to->buffer, value, width, to->offset + offset, bytes),
                        "filling a buffer");
    keep_in_graph(stream, nodes, {to->buffer});
}

void stream_copy(const py::object& self, const py::object& to_object, std::uint64_t to_offset,
                 const py::object& from_object, std::uint64_t from_offset, std::uint64_t bytes) {
    StreamObject* stream = stream_of(self);
    for (const py::object& object : {to_object, from_object}) {
        const BufferObject* buffer = buffer_of(stream, object, true);
        if (buffer->live_session != stream->session.get())
            control_call([session = stream->session, lent = buffer->buffer] {
                session->client.borrow(lent);
                return true;
            });
    }
    check(await_turn_and_room(stream, kRecordSlots, "copying on the device"));
    const BufferObject* to = buffer_of(stream, to_object, true);
    const BufferObject* from = buffer_of(stream, from_object, true);
    check_range(to, to_offset, bytes);
    check_range(from, from_offset, bytes);
    const std::size_t nodes = recorded_nodes(stream);
    stream_status_check(stream,
                        stream->stream.copy(to->buffer, to->offset + to_offset, from->buffer,
                                            from->offset + from_offset, bytes),
                        "copying on the device");
    keep_in_graph(stream, nodes, {to->buffer, from->buffer});
}

// A contiguous buffer of the host, held while it lives.
class HostBytes {
  public:
    HostBytes(const py::object& object, int flags) {
        check(PyObject_GetBuffer(object.ptr(), &view_, flags) == 0);
    }
    HostBytes(const HostBytes&) = delete;
    HostBytes& operator=(const HostBytes&) = delete;
    ~HostBytes() { PyBuffer_Release(&view_); }
    std::byte* data() const { return static_cast<std::byte*>(view_.buf); }
    std::size_t size() const { return static_cast<std::size_t>(view_.len); }

  private:
    Py_buffer view_{};
};

// Memory for a numpy array, whose base it becomes. Its session knows where it stands, so that copies from and
// to any view of it are told from others.
class PinnedHandle {
  public:
    PinnedHandle(std::shared_ptr<Session> session, ringlaunch::PinnedMemory memory)
        : session_(std::move(session)), memory_(std::move(memory)) {
        session_->pinned.emplace(memory_.data(), &memory_);
    }
    PinnedHandle(const PinnedHandle&) = delete;
    PinnedHandle& operator=(const PinnedHandle&) = delete;
    ~PinnedHandle() { session_->pinned.erase(memory_.data()); }

    py::buffer_info bytes() const {
        return {memory_.data(), 1, py::format_descriptor<std::uint8_t>::format(),
                static_cast<py::ssize_t>(memory_.size())};
    }

  private:
    std::shared_ptr<Session> session_;
    ringlaunch::PinnedMemory memory_;
};

void stream_copy_to_device(const py::object& self, const py::object& to_object, const py::object& from,
                           std::uint64_t offset) {
    StreamObject* stream = stream_of(self);
    const HostBytes bytes(from, PyBUF_SIMPLE);
    const BufferObject* to = buffer_of(stream, to_object);
    check_range(to, offset, bytes.size());
    const ringlaunch::Buffer kept = to->buffer;  // another thread may free the buffer meanwhile
    if (const auto pinned = stream->session->find_pinned(bytes.data(), bytes.size())) {
        const std::uint64_t at = to->offset + offset;
        check(await_turn_and_room(stream, kRecordSlots, "copying to the device"));
        stream_status_check(stream,
                            stream->stream.copy(kept, at, pinned->memory, pinned->offset, bytes.size()),
                            "copying to the device");
        return;
    }
    check(copy_to_device(stream, kept, to->offset + offset, bytes.data(), bytes.size()));
}

void stream_copy_to_host(const py::object& self, const py::object& to, const py::object& from_object,
                         std::uint64_t offset, const py::object& timeout, bool wait) {
    constexpr const char* kDoing = "copying to the host";
    StreamObject* stream = stream_of(self);
    const HostBytes bytes(to, PyBUF_WRITABLE);
    const BufferObject* from = buffer_of(stream, from_object);
    check_range(from, offset, bytes.size());
    const ringlaunch::Buffer kept = from->buffer;
    const std::uint64_t at = from->offset + offset;
    const auto pinned = stream->session->find_pinned(bytes.data(), bytes.size());
    if (!pinned) {
        check(copy_to_host(stream, bytes.data(), kept, at, bytes.size(), timeout_ns(timeout)));
        return;
    }
    if (wait) stream_record(self).wait(timeout);
    check(await_turn_and_room(stream, kRecordSlots, kDoing));
    stream_status_check(stream, stream->stream.copy(pinned->memory, pinned->offset, kept, at, bytes.size()),
                        kDoing);
    if (wait) stream_record(self).wait(py::none());
}

void stream_synchronize(const py::object& self, const py::object& timeout) {
    StreamObject* stream = stream_of(self);
    // Whether its work had completed before, a closed client's stream has nothing more to say.
    if (stream->state == nullptr || stream->session->closed)
        stream_status_check(stream, Status::closed, "synchronizing");
    ringlaunch::Stream keeper = stream->stream;
    Status status = Status::ok;
    check(wait_in_slices([&](std::uint64_t slice_ns) { return keeper.synchronize(slice_ns); },
                         timeout_ns(timeout), status));
    stream_status_check(stream, status, "synchronizing");
}

py::tuple stream_status(const py::object& self) {
    StreamObject* stream = stream_of(self);
    if (stream->state == nullptr) stream_status_check(stream, Status::closed, "asking for the status");
    const StreamStatus now = stream->stream.status();
    return py::make_tuple(std::string(status_name(now.status)), text(now.text), now.completed, now.issued,
                          now.published, now.error_position, now.error_kernel, now.epoch);
}

void stream_resume(const py::object& self, bool rerun) {
    StreamObject* stream = stream_of(self);
    check_open(*stream->session, "resuming a stream");
    check(await_turn(stream, "resuming a stream"));
    control_call([kept = stream->stream, rerun]() mutable {
        kept.resume(rerun);
        return true;
    });
}

void stream_close(const py::object& self) {
    StreamObject* stream = stream_of(self);
    stream->state = nullptr;
    stream->staged.clear();
    stream->session->drain(std::exchange(stream->stream, {}));
}

int stream_wake_fd(const py::object& self) {
    const StreamObject* stream = stream_of(self);
    return stream->state == nullptr ? -1 : stream->stream.wake_fd();
}

void stream_on_wake(const py::object& self) {
    const StreamObject* stream = stream_of(self);
    if (stream->state != nullptr) stream->stream.on_wake();
}

// ---- modules and clients
// -----------------------------------------------------------------------------------------------

// (name, type, offset, size) of each parameter.
using PyParam = std::tuple<std::string, std::string, std::uint32_t, std::uint32_t>;

std::vector<Param> params_of(const std::vector<PyParam>& given) {
    std::vector<Param> params;
    for (const auto& [name, type, offset, size] : given) {
        Param param;
        param.type = type_of_word(type);
        if (param.type == ParamType::unknown)
            throw_named("InvalidArgument", "'" + type + "' is no parameter type");
        param.offset = offset;
        param.size = size;
        param.name = name;
        params.push_back(std::move(param));
    }
    return params;
}

class ModuleHandle {
  public:
    ModuleHandle(std::shared_ptr<Session> session, ringlaunch::Module module)
        : session_(std::move(session)), module_(std::move(module)) {}

    py::object kernel(const py::type& type, const std::string& name, const py::object& stream) const {
        derived_type(type, kernel_type);
        stream_of(stream);
        return steal(make_kernel(reinterpret_cast<PyTypeObject*>(type.ptr()), session_, module_.kernel(name),
                                 stream.ptr()));
    }
    py::list kernels() const {
        py::list names;
        for (const std::string& name : module_.kernels()) names.append(text(name));
        return names;
    }

  private:
    std::shared_ptr<Session> session_;
    ringlaunch::Module module_;
};

KernelView kernel_of(const py::object& object) {
    if (PyObject_TypeCheck(object.ptr(), kernel_type) == 0)
        throw_named("ParamTypeError", "expected a Kernel, found " + short_repr(object.ptr()) + " (" +
                                          type_name(object.ptr()) + ")");
    return view_kernel(object.ptr());
}

// The same kernel with attributes of its own: of the same class, for the same default stream.
py::object kernel_configure(const py::object& self, const std::array<std::uint32_t, 3>& cluster,
                            bool cooperative, bool programmatic) {
    const KernelView view = kernel_of(self);
    check_open(*view.session, "configuring a kernel");
    const KernelAttributes attributes{{cluster[0], cluster[1], cluster[2]}, cooperative, programmatic};
    ringlaunch::Kernel made =
        control_call([kernel = view.kernel, attributes] { return kernel.with_attributes(attributes); });
    return steal(make_kernel(Py_TYPE(self.ptr()), view.session, std::move(made), view.stream));
}

// (cluster, cooperative, programmatic)
py::tuple kernel_attributes(const py::object& self) {
    const KernelAttributes& own = kernel_of(self).kernel.attributes();
    return py::make_tuple(py::make_tuple(own.cluster.x, own.cluster.y, own.cluster.z), own.cooperative,
                          own.programmatic);
}

// (registers, local_bytes, static_shared_bytes, max_dynamic_shared_bytes, max_threads, stack_bytes)
py::tuple kernel_resources(const py::object& self) {
    const ringlaunch::Kernel& kernel = kernel_of(self).kernel;
    return py::make_tuple(kernel.registers(), kernel.local_bytes(), kernel.static_shared_bytes(),
                          kernel.max_dynamic_shared_bytes(), kernel.max_threads(), kernel.stack_bytes());
}

class ClientHandle {
  public:
    explicit ClientHandle(std::shared_ptr<Session> session) : session_(std::move(session)) {}

    static ClientHandle connect(const std::string& socket, int device, bool start_private,
                                const std::string& daemon_path, const std::string& driver,
                                const py::object& timeout, const std::optional<double>& kernel_timeout,
                                const std::optional<std::uint32_t>& daemon_uid, bool coalesce) {
        ConnectOptions options;
        options.coalesce = coalesce;
        if (kernel_timeout)
            options.kernel_timeout_ms = static_cast<std::uint32_t>(
                std::max(1.0, std::ceil(std::min(*kernel_timeout, kLongestKernelTimeoutS) * 1000)));
        options.socket = socket;
        options.device = device;
        options.start_private = start_private;
        options.daemon_path = daemon_path;
        options.driver = driver;
        options.daemon_uid = daemon_uid;
        constexpr std::uint64_t kLongestMs = 1'000'000'000;
        const std::uint64_t ns = seconds_ns(timeout, "seconds, 0 or more").value_or(kLongestMs * 1'000'000);
        options.timeout_ms = static_cast<std::uint32_t>(std::min(ns / 1'000'000, kLongestMs));
        auto session = std::make_shared<Session>();
        session->client = control_call([options] { return ringlaunch::Client::connect(options); });
        session->pid = ::getpid();
        ++sessions_changed;
        return ClientHandle(std::move(session));
    }

    ModuleHandle load(const py::bytes& image, const std::string& name,
                      const std::vector<std::pair<std::string, std::vector<PyParam>>>& declared,
                      std::uint32_t max_registers, std::uint64_t stack_bytes) const {
        check_open(*session_, "loading a module");
        LoadOptions options;
        for (const auto& [kernel, params] : declared)
            options.signatures.push_back({kernel, params_of(params)});
        options.max_registers = max_registers;
        options.stack_bytes = stack_bytes;
        const std::string_view view = image;
        std::vector<std::byte> bytes(view.size());
        std::memcpy(bytes.data(), view.data(), view.size());
        return {session_, control_call([session = session_, bytes = std::move(bytes), name,
                                        options = std::move(options)] {
                    return session->client.load(bytes, name, options);
                })};
    }

    py::object stream(const py::type& type, std::uint32_t ring_slots, bool rerun, int priority,
                      const std::string& name) const {
        check_open(*session_, "opening a stream");
        derived_type(type, stream_type);
        StreamOptions options;
        options.ring_slots = ring_slots;
        options.on_restart = rerun ? OnRestart::rerun : OnRestart::stop;
        options.priority = priority;
        options.name = name;
        ringlaunch::Stream stream =
            control_call([session = session_, options] { return session->client.stream(options); });
        return steal(make_stream(reinterpret_cast<PyTypeObject*>(type.ptr()), session_, std::move(stream)));
    }

    py::object alloc(const py::type& type, std::uint64_t bytes) const {
        check_open(*session_, "allocating a buffer");
        derived_type(type, buffer_type);
        ringlaunch::Buffer buffer =
            control_call([session = session_, bytes] { return session->client.alloc(bytes); });
        return steal(
            make_buffer(reinterpret_cast<PyTypeObject*>(type.ptr()), session_, std::move(buffer), 0, bytes));
    }

    // 0: it is no contiguous array in pinned memory of this client.
    std::uint64_t device_address(const py::object& array) const {
        check_open(*session_, "looking for a device address");
        const HostBytes bytes(array, PyBUF_SIMPLE);
        const auto found = session_->find_pinned(bytes.data(), bytes.size());
        return found ? found->memory.device_address() + found->offset : 0;
    }
    std::unique_ptr<PinnedHandle> pinned(std::uint64_t bytes) const {
        check_open(*session_, "allocating pinned memory");
        return std::make_unique<PinnedHandle>(session_, control_call([session = session_, bytes] {
                                                  return session->client.alloc_pinned(bytes);
                                              }));
    }

    void synchronize(const py::object& timeout) const {
        check_open(*session_, "synchronizing");
        session_->forget_drained();
        Status status = Status::ok;
        check(wait_in_slices(
            [session = session_](std::uint64_t slice_ns) { return session->client.synchronize(slice_ns); },
            timeout_ns(timeout), status));
        check_client(status, session_->client, "synchronizing");
    }

    // Maps of tensors that the daemon was asked for, and those that are kept of them.
    py::tuple tensor_maps() const { return py::make_tuple(session_->maps.asked, session_->maps.size()); }

    // Closed streams whose work is in flight. One that stops has no owner who could resume it: it is let go
    // of.
    void synchronize_closed(const py::object& timeout) const {
        check_open(*session_, "synchronizing");
        for (const ringlaunch::Stream& stream : std::vector(session_->draining)) {
            Status status = Status::ok;
            check(wait_in_slices(
                [kept = stream](std::uint64_t slice_ns) mutable { return kept.synchronize(slice_ns); },
                timeout_ns(timeout), status));
            if (status != Status::stream_stopped) check_client(status, session_->client, "synchronizing");
        }
        session_->forget_drained();
    }

    py::tuple daemon() const {
        const DaemonInfo& info = session_->client.daemon();
        return py::make_tuple(info.pid, text(info.version), text(info.driver), text(info.device_name),
                              text(info.architecture), text(info.socket), id_text(info.session), info.device,
                              text(info.driver_note));
    }

    void close() const {
        if (session_->closed) return;
        session_->closed = true;
        ++sessions_changed;
        if (session_->pid == ::getpid()) session_->client.close();
    }

    py::object warning() const { return text(session_->client.warning()); }
    bool closed() const { return session_->closed; }
    bool forked() const { return session_->pid != ::getpid(); }

    // The package's own: its default stream once that is opened, and a weak set of the open ones.
    py::object default_stream = py::none();
    py::object streams = py::none();

  private:
    std::shared_ptr<Session> session_;
};

// ---- for tests
// -----------------------------------------------------------------------------------------------------------

// The packed parameters of a launch, as bytes.
py::bytes pack_for_tests(const std::string& kernel, const std::vector<PyParam>& params,
                         const py::args& args) {
    std::vector<Param> takes = params_of(params);
    const std::uint32_t bytes = packed_bytes(takes);
    const Layout layout(kernel, std::move(takes), bytes);
    if (layout.bytes > kMaxPackedBytes) throw_named("InvalidArgument", "more than 4096 bytes of parameters");
    std::vector<PyObject*> values;
    for (const py::handle arg : args) values.push_back(arg.ptr());
    alignas(16) std::byte out[kMaxPackedBytes + kPackedPadding];
    bool ran_python = false;
    check(pack(layout, nullptr, values.data(), static_cast<Py_ssize_t>(values.size()), out, ran_python));
    return py::bytes(reinterpret_cast<const char*>(out), layout.bytes);
}

// What stands in the stream's ring from `position` on.
py::bytes ring_bytes_for_tests(const py::object& self, std::uint64_t position, std::uint32_t slots) {
    const StreamObject* stream = stream_of(self);
    if (stream->state == nullptr || stream->state->header == nullptr)
        throw_named("Closed", "the stream is closed");
    const Slot* ring = stream->state->ring.as<Slot>(kRingHeaderBytes);
    std::string out;
    for (std::uint32_t i = 0; i < slots; ++i)
        out.append(reinterpret_cast<const char*>(&ring[(position + i) % stream->state->ring_slots]),
                   kSlotBytes);
    return out;
}

}  // namespace

}  // namespace ringlaunch::python

namespace {

constexpr const char* kNoSubinterpreter =
    "ringlaunch works in the main interpreter of a process, not in a subinterpreter (with mod_wsgi: "
    "WSGIApplicationGroup %{GLOBAL})";

bool in_main_interpreter() {
    return PyInterpreterState_Get() == PyInterpreterState_Main();
}

}  // namespace

// Not for free-threaded builds yet: a stream's order and every handle rest on the interpreter lock. So the
// module does not say that it can do without, and such an interpreter turns its lock on at the import.
//
// Before Python 3.12 pybind11's way in waits for ever for the interpreter lock in a second interpreter of the
// process (as mod_wsgi has them). So what Python calls is ours, at the end, and asks first; later ones call
// it in the main interpreter, and the module's body in the other.
#define PyInit__core pybind11_PyInit__core
PYBIND11_MODULE(_core, module) {
    using namespace ringlaunch;
    using namespace ringlaunch::python;
    if (!in_main_interpreter()) throw py::import_error(kNoSubinterpreter);
    module.doc() = "The C++ half of ringlaunch. Use the package's own names.";
    module.attr("__version__") = RINGLAUNCH_VERSION;

    py::register_exception_translator([](std::exception_ptr failure) {
        try {
            if (failure) std::rethrow_exception(failure);
        } catch (const Error& error) {
            set_error(error.status(), error.what());
        } catch (const std::system_error& error) {  // what the machine refuses: memory, a thread
            set_error(error.code().value() == ENOMEM ? Status::out_of_memory : Status::limit_reached,
                      error.what());
        }
    });
    check(add_handle_types(module.ptr()) && add_launcher_types(module.ptr()) &&
          add_triton_types(module.ptr()));

    py::class_<EventHandle>(module, "EventHandle")
        .def_property_readonly("position", &EventHandle::position)
        .def("done", &EventHandle::done)
        .def("wait", &EventHandle::wait, py::arg("timeout"))
        .def("arm", &EventHandle::arm);
    py::class_<ModuleHandle>(module, "ModuleHandle")
        .def("kernel", &ModuleHandle::kernel, py::arg("type"), py::arg("name"), py::arg("stream"))
        .def("kernels", &ModuleHandle::kernels);
    py::class_<PinnedHandle>(module, "PinnedHandle", py::buffer_protocol()).def_buffer(&PinnedHandle::bytes);
    py::class_<ClientHandle>(module, "ClientHandle")
        .def("load", &ClientHandle::load, py::arg("image"), py::arg("name"), py::arg("signatures"),
             py::arg("max_registers"), py::arg("stack_bytes"))
        .def("stream", &ClientHandle::stream, py::arg("type"), py::arg("ring_slots"), py::arg("rerun"),
             py::arg("priority"), py::arg("name"))
        .def("alloc", &ClientHandle::alloc, py::arg("type"), py::arg("bytes"))
        .def("pinned", &ClientHandle::pinned, py::arg("bytes"))
        .def("device_address", &ClientHandle::device_address, py::arg("array"))
        .def("synchronize", &ClientHandle::synchronize, py::arg("timeout"))
        .def("tensor_maps", &ClientHandle::tensor_maps)
        .def("synchronize_closed", &ClientHandle::synchronize_closed, py::arg("timeout"))
        .def("daemon", &ClientHandle::daemon)
        .def("warning", &ClientHandle::warning)
        .def("close", &ClientHandle::close)
        .def_property_readonly("closed", &ClientHandle::closed)
        .def_property_readonly("forked", &ClientHandle::forked)
        .def_readwrite("default_stream", &ClientHandle::default_stream)
        .def_readwrite("streams", &ClientHandle::streams);
    module.def("connect", &ClientHandle::connect, py::arg("socket"), py::arg("device"),
               py::arg("start_private"), py::arg("daemon_path"), py::arg("driver"), py::arg("timeout"),
               py::arg("kernel_timeout"), py::arg("daemon_uid"), py::arg("coalesce"));

    module.def("stream_record", &stream_record, py::arg("stream"));
    module.def("stream_wait_event", &stream_wait_event, py::arg("stream"), py::arg("event"));
    module.def("stream_barrier", &stream_barrier, py::arg("stream"));
    module.def("stream_fill", &stream_fill, py::arg("stream"), py::arg("buffer"), py::arg("value"),
               py::arg("width"), py::arg("offset"), py::arg("bytes"));
    module.def("stream_copy", &stream_copy, py::arg("stream"), py::arg("to"), py::arg("to_offset"),
               py::arg("from_"), py::arg("from_offset"), py::arg("bytes"));
    module.def("stream_copy_to_device", &stream_copy_to_device, py::arg("stream"), py::arg("to"),
               py::arg("from_"), py::arg("offset"));
    module.def("stream_copy_to_host", &stream_copy_to_host, py::arg("stream"), py::arg("to"),
               py::arg("from_"), py::arg("offset"), py::arg("timeout"), py::arg("wait"));
    module.def("stream_synchronize", &stream_synchronize, py::arg("stream"), py::arg("timeout"));
    module.def("stream_status", &stream_status, py::arg("stream"));
    module.def("stream_resume", &stream_resume, py::arg("stream"), py::arg("rerun"));
    module.def("stream_close", &stream_close, py::arg("stream"));
    module.def("stream_wake_fd", &stream_wake_fd, py::arg("stream"));
    module.def("stream_on_wake", &stream_on_wake, py::arg("stream"));

    add_graphs(module);
    module.def("kernel_configure", &kernel_configure, py::arg("kernel"), py::arg("cluster"),
               py::arg("cooperative"), py::arg("programmatic"));
    module.def("kernel_attributes", &kernel_attributes, py::arg("kernel"));
    module.def("kernel_resources", &kernel_resources, py::arg("kernel"));

    module.def("_pack", &pack_for_tests, py::arg("kernel"), py::arg("params"));
    module.def("_ring_bytes", &ring_bytes_for_tests, py::arg("stream"), py::arg("position"),
               py::arg("slots"));
}

#undef PyInit__core

PyMODINIT_FUNC PyInit__core() {
    if (in_main_interpreter()) return pybind11_PyInit__core();
    PyErr_SetString(PyExc_ImportError, kNoSubinterpreter);
    return nullptr;
}
