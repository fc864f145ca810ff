// The launch call: `kernel[grid, block](*args, stream=, shared=)` as two types with a C calling convention.
//
// Kernel answers `[grid, block]` with a Launcher out of a small table, so that a loop makes none. A call of a
// Launcher makes no Python object. Its order is the safety of the stream:
//   1. everything that may run Python code (keywords, arguments) or release the interpreter lock (another
//   thread's
//      turn, a full ring) comes first, and buffers are checked again after it;
//   2. then try_enqueue_launch (or enqueue_launch, behind whatever stood in its way) reserves, writes the
//   slots and the stamp; it never waits, calls no Python API, and
//      the interpreter lock is held throughout, so no other thread and no finalizer enqueues into the same
//      slots.
#include <Python.h>
#include <structmember.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "client/src/stream_state.hpp"
#include "errors.hpp"
#include "handles.hpp"
#include "pack.hpp"
#include "small_int.hpp"
#include "stream_turn.hpp"

namespace ringlaunch::python {

PyTypeObject* kernel_type = nullptr;
PyTypeObject* launcher_type = nullptr;

namespace {

// What launchers of one kernel share.
struct Plan {
    ringlaunch::Kernel kernel;
    const detail::KernelState* state;  // of `kernel`
    Layout layout;
    std::shared_ptr<Session> session;
};

struct Shape {
    Dim3 grid, block;

    bool operator==(const Shape& other) const {
        return grid.x == other.grid.x && block.x == other.block.x && grid.y == other.grid.y &&
               grid.z == other.grid.z && block.y == other.block.y && block.z == other.block.z;
    }
};

struct LauncherObject {
    PyObject_HEAD vectorcallfunc vectorcall;
    Shape shape;
    std::uint32_t shared_bytes;
    bool launchable;   // within the device's bounds
    PyObject* stream;  // strong: a StreamObject
    std::shared_ptr<const Plan> plan;
};

constexpr std::size_t kCachedLaunchers = 16;

// What `[grid, block]` gave, by the two objects, which can never mean something else. All strong.
struct Seen {
    PyObject *grid, *block;
    LauncherObject* launcher;
};

struct KernelObject {
    PyObject_HEAD std::array<Seen, kCachedLaunchers> seen;  // by hash of the addresses
    std::array<LauncherObject*, kCachedLaunchers> cache;    // strong, by hash of the shape
    PyObject* stream;                                       // strong: the client's default stream
    std::shared_ptr<const Plan> plan;
};

PyObject* name_stream = nullptr;  // interned
PyObject* name_shared = nullptr;
PyObject* name_name = nullptr;

LauncherObject* as_launcher(PyObject* object) {
    return reinterpret_cast<LauncherObject*>(object);
}
KernelObject* as_kernel(PyObject* object) {
    return reinterpret_cast<KernelObject*>(object);
}

// ---- reading what a call gives ----

// An integer from `least` to `most`. `what` is for the message.
bool read_uint(PyObject* object, std::uint32_t least, std::uint32_t most, const char* what,
               std::uint32_t& out) {
    if (std::int64_t small = 0;
        PyLong_CheckExact(object) && small_int(object, small) && small >= least && small <= most) [[likely]] {
        out = static_cast<std::uint32_t>(small);
        return true;
    }
    int overflow = 0;
    long long value = 0;
    if (PyLong_CheckExact(object)) {
        value = PyLong_AsLongLongAndOverflow(object, &overflow);
    } else {
        PyObject* index = PyNumber_Index(object);
        if (index == nullptr) {
            if (!PyErr_ExceptionMatches(PyExc_TypeError)) return false;
            PyErr_Clear();
            set_named_error("ParamTypeError", std::string(what) + ": expected an integer, found " +
                                                  short_repr(object) + " (" + type_name(object) + ")");
            return false;
        }
        value = PyLong_AsLongLongAndOverflow(index, &overflow);
        Py_DECREF(index);
    }
    if (overflow != 0 || value < least || value > most) [[unlikely]] {
        set_named_error("OutOfRange", std::string(what) + ": expected an integer from " +
                                          std::to_string(least) + " to " + std::to_string(most) + ", found " +
                                          short_repr(object));
        return false;
    }
    out = static_cast<std::uint32_t>(value);
    return true;
}

// x, (x,), (x, y) or (x, y, z).
bool read_dim(PyObject* object, std::uint32_t most, const char* what, Dim3& out) {
    out = {1, 1, 1};
    if (!PyTuple_Check(object) && !PyList_Check(object)) return read_uint(object, 1, most, what, out.x);
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(object);
    if (count < 1 || count > 3) {
        set_named_error("InvalidArgument",
                        std::string(what) + ": expected x, (x, y) or (x, y, z), found " + short_repr(object));
        return false;
    }
    std::uint32_t* to[3] = {&out.x, &out.y, &out.z};
    if (PyTuple_CheckExact(object)) [[likely]] {
        for (Py_ssize_t i = 0; i < count; ++i)
            if (!read_uint(PyTuple_GET_ITEM(object, i), 1, most, what, *to[i])) return false;
        return true;
    }
    for (Py_ssize_t i = 0; i < count; ++i) {
        // Its own reference: __index__ of an item may change a list.
        PyObject* item = PySequence_GetItem(object, i);
        if (item == nullptr) return false;
        const bool ok = read_uint(item, 1, most, what, *to[i]);
        Py_DECREF(item);
        if (!ok) return false;
    }
    return true;
}

constexpr std::uint32_t kMaxGrid = 0x7fffffff;
constexpr std::uint32_t kMaxBlock = 0xffff;  // a record's field; the device's bound is lower

bool read_shape(PyObject* grid, PyObject* block, Shape& out) {
    if (!read_dim(grid, kMaxGrid, "grid", out.grid)) return false;
    if (block == nullptr || block == Py_None) {
        out.block = {0, 0, 0};  // the kernel's default
        return true;
    }
    return read_dim(block, kMaxBlock, "block", out.block);
}

bool check_stream(const Plan& plan, PyObject* stream) {
    if (Py_TYPE(stream) != usual_stream_type && !is_stream(stream)) {
        set_named_error("ParamTypeError", "kernel '" + plan.layout.kernel +
                                              "', stream: expected a Stream, found " + short_repr(stream) +
                                              " (" + type_name(stream) + ")");
        return false;
    }
    if (as_stream(stream)->session != plan.session) {
        set_named_error("InvalidArgument",
                        "kernel '" + plan.layout.kernel +
                            "', stream: expected a stream of the kernel's client, found one of "
                            "another client");
        return false;
    }
    return true;
}

[[gnu::noinline]] bool read_keywords(const Plan& plan, PyObject* const* values, PyObject* names,
                                     PyObject*& stream, std::uint32_t& shared_bytes, PyObject*& label) {
    const Py_ssize_t count = PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* name = PyTuple_GET_ITEM(names, i);
        PyObject* value = values[i];
        if (name == name_stream || PyUnicode_Compare(name, name_stream) == 0) {
            if (value == Py_None) continue;
            if (!check_stream(plan, value)) return false;
            stream = value;
        } else if (name == name_shared || PyUnicode_Compare(name, name_shared) == 0) {
            if (!read_uint(value, 0, kMaxGrid, "shared", shared_bytes)) return false;
        } else if (name == name_name || PyUnicode_Compare(name, name_name) == 0) {
            if (value == Py_None) continue;
            if (!PyUnicode_Check(value)) {
                set_named_error("ParamTypeError", "kernel '" + plan.layout.kernel +
                                                      "', name: expected a str, found " + short_repr(value) +
                                                      " (" + type_name(value) + ")");
                return false;
            }
            label = value;
        } else {
            set_named_error("ParamTypeError",
                            "kernel '" + plan.layout.kernel +
                                "': parameters are given by position; the keywords are stream=, "
                                "shared= and name=, found " +
                                short_repr(name));
            return false;
        }
    }
    return true;
}

bool within_bounds(const Plan& plan, const Shape& shape, std::uint32_t shared_bytes) {
    return detail::launchable(*plan.state, shape.grid, shape.block, shared_bytes);
}

// ---- the call ----

// What a launch has gathered, for the path that has to wait.
struct Call {
    const Plan& plan;
    const Shape& shape;
    StreamObject* stream;
    std::uint32_t shared_bytes;
    PyObject* const* args;
    std::byte* params;
    PyObject* label;  // of the launch in a graph; null: none

    // Never waits, allocates or calls Python. The stream is open and nobody else has the turn.
    Status enqueue() const noexcept {
        return detail::enqueue_launch<true>(*stream->state, *plan.state, shape.grid, shape.block,
                                            shared_bytes, {params, plan.state->param_bytes});
    }
    std::uint32_t slots() const noexcept {
        return detail::slots_of(*plan.state, shape.grid, shape.block, shared_bytes);
    }
    std::string doing() const { return "launching kernel '" + plan.layout.kernel + "'"; }
};

[[gnu::noinline]] PyObject* refuse(const Call& call, Status status) {
    return set_stream_error(call.stream, status, call.doing());
}

// Another thread has the stream, or the ring is full, or arguments ran Python code. What waits releases the
// lock, so the checks are made again before each try.
[[gnu::noinline]] PyObject* enqueue_patiently(const Call& call) {
    const std::string doing = call.doing();
    while (true) {
        if (!await_turn(call.stream, doing.c_str())) return nullptr;
        if (!repack_buffers(call.plan.layout, call.plan.session.get(), call.args, call.params))
            return nullptr;
        const std::size_t nodes = recorded_nodes(call.stream);
        const Status status = call.enqueue();
        if (status == Status::ok) {
            keep_in_graph(call.stream, nodes, buffers_among(call.args, call.plan.layout.params.size()));
            Py_RETURN_NONE;
        }
        if (status != Status::ring_full) return refuse(call, status);
        if (!await_room(call.stream, call.slots(), doing.c_str())) return nullptr;
    }
}

// The stream records a graph, and this launch with it, unless the recording ends while this waits.
[[gnu::noinline]] PyObject* record(const Call& call, bool launchable) {
    if (!await_turn(call.stream, call.doing().c_str())) return nullptr;
    if (!repack_buffers(call.plan.layout, call.plan.session.get(), call.args, call.params)) return nullptr;
    if (!launchable)
        return refuse(call, detail::refuse_launch(*call.stream->state, *call.plan.state, call.shape.grid,
                                                  call.shape.block, call.shared_bytes));
    const char* label = "";
    if (call.label != nullptr && (label = PyUnicode_AsUTF8(call.label)) == nullptr) return nullptr;
    call.stream->stream.name_next(label);
    return enqueue_patiently(call);
}

// What the hot path below did not enqueue.
[[gnu::noinline]] PyObject* launch_slowly(const Call& call, bool launchable, bool ran_python) {
    if (call.stream->state != nullptr && call.stream->state->recorder != nullptr)
        return record(call, launchable);
    if (ran_python || call.stream->busy || call.stream->state == nullptr) {
        if (!await_turn(call.stream, call.doing().c_str())) return nullptr;
        if (launchable) return enqueue_patiently(call);
    }
    if (!launchable)
        return refuse(call, detail::refuse_launch(*call.stream->state, *call.plan.state, call.shape.grid,
                                                  call.shape.block, call.shared_bytes));
    const Status status = call.enqueue();
    if (status == Status::ok) Py_RETURN_NONE;
    return status == Status::ring_full ? enqueue_patiently(call) : refuse(call, status);
}

PyObject* launcher_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names) {
    const LauncherObject* launcher = as_launcher(self);
    const Py_ssize_t count = PyVectorcall_NARGS(flags);
    const Plan& plan = *launcher->plan;
    PyObject* stream = launcher->stream;
    std::uint32_t shared_bytes = launcher->shared_bytes;
    bool launchable = launcher->launchable;
    PyObject* label = nullptr;
    if (names != nullptr) {
        if (!read_keywords(plan, args + count, names, stream, shared_bytes, label)) return nullptr;
        if (shared_bytes != launcher->shared_bytes)
            launchable = within_bounds(plan, launcher->shape, shared_bytes);
    }

    const StreamObject* to = as_stream(stream);
    if (label != nullptr && to->state != nullptr && to->state->recorder == nullptr) {
        set_named_error("InvalidArgument", "kernel '" + plan.layout.kernel + "', name=" + short_repr(label) +
                                               ": it names a launch of a graph, but the stream records none; "
                                               "leave it out, or launch within stream.record()");
        return nullptr;
    }

    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    bool ran_python = false;
    if (!pack(plan.layout, plan.session.get(), args, count, params, ran_python)) return nullptr;

    if (launchable && !ran_python && !to->busy && to->state != nullptr &&
        detail::try_enqueue_launch<true>(*to->state, *plan.state, launcher->shape.grid, launcher->shape.block,
                                         shared_bytes, {params, plan.state->param_bytes})) [[likely]]
        Py_RETURN_NONE;
    return launch_slowly({plan, launcher->shape, as_stream(stream), shared_bytes, args, params, label},
                         launchable, ran_python);
}

// ---- Launcher ----

LauncherObject* make_launcher(const std::shared_ptr<const Plan>& plan, const Shape& shape, PyObject* stream,
                              std::uint32_t shared_bytes) {
    auto* made = reinterpret_cast<LauncherObject*>(launcher_type->tp_alloc(launcher_type, 0));
    if (made == nullptr) return nullptr;
    made->vectorcall = launcher_call;
    made->shape = shape;
    made->shared_bytes = shared_bytes;
    made->launchable = within_bounds(*plan, shape, shared_bytes);
    made->stream = Py_NewRef(stream);
    new (&made->plan) std::shared_ptr<const Plan>(plan);
    return made;
}

void launcher_dealloc(PyObject* self) {
    LauncherObject* launcher = as_launcher(self);
    Py_CLEAR(launcher->stream);
    launcher->plan.~shared_ptr();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

std::string dim_text(const Dim3& dim) {
    if (dim.x == 0) return "default";
    return "(" + std::to_string(dim.x) + ", " + std::to_string(dim.y) + ", " + std::to_string(dim.z) + ")";
}

PyObject* launcher_repr(PyObject* self) {
    const LauncherObject* launcher = as_launcher(self);
    const std::string text =
        "<ringlaunch.Launcher of '" + launcher->plan->layout.kernel + "', grid " +
        dim_text(launcher->shape.grid) + ", block " + dim_text(launcher->shape.block) +
        (launcher->shared_bytes == 0 ? std::string()
                                     : ", " + std::to_string(launcher->shared_bytes) + " shared bytes") +
        ">";
    return text_object(text);
}

PyObject* dim_object(const Dim3& dim) {
    if (dim.x == 0) Py_RETURN_NONE;
    return Py_BuildValue("(III)", dim.x, dim.y, dim.z);
}

PyObject* launcher_grid(PyObject* self, void*) {
    return dim_object(as_launcher(self)->shape.grid);
}
PyObject* launcher_block(PyObject* self, void*) {
    return dim_object(as_launcher(self)->shape.block);
}
PyObject* launcher_stream(PyObject* self, void*) {
    return Py_NewRef(as_launcher(self)->stream);
}
PyObject* launcher_shared(PyObject* self, void*) {
    return PyLong_FromUnsignedLong(as_launcher(self)->shared_bytes);
}

PyGetSetDef launcher_getters[] = {
    {"grid", launcher_grid, nullptr, PyDoc_STR("Blocks in x, y, z."), nullptr},
    {"block", launcher_block, nullptr,
     PyDoc_STR("Threads of a block in x, y, z; None: the kernel's default."), nullptr},
    {"stream", launcher_stream, nullptr, PyDoc_STR("Where a call launches unless it says stream=."), nullptr},
    {"shared", launcher_shared, nullptr, PyDoc_STR("Dynamic shared memory of a block, in bytes."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef launcher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(LauncherObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
    return set_named_error("ParamTypeError",
                           std::string(type->tp_name) + " is made by a module or a kernel, not called");
}

PyType_Slot launcher_slots[] = {
    {Py_tp_doc,
     const_cast<char*>("A kernel with its grid, block, stream and shared memory: calling it launches.\n\n"
                       "launcher(*args, stream=None, shared=None, name=None) enqueues one launch and returns "
                       "None. It blocks\n"
                       "only while the stream's ring is full (releasing the interpreter lock, answering "
                       "Ctrl-C). Arguments\n"
                       "are converted by the kernel's declared types. While the stream records a graph, the "
                       "launch becomes a\n"
                       "part of that under this name; else the name means nothing.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(launcher_dealloc)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_repr, reinterpret_cast<void*>(launcher_repr)},
    {Py_tp_getset, launcher_getters},
    {Py_tp_members, launcher_members},
    {0, nullptr},
};

PyType_Spec launcher_spec = {"ringlaunch._core.Launcher", sizeof(LauncherObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
                             launcher_slots};

// ---- Kernel ----

std::size_t slot_of(const Shape& shape) {
    std::uint32_t hash = shape.grid.x * 0x9e3779b1u ^ shape.block.x * 0x85ebca77u;
    hash ^=
        shape.grid.y * 0xc2b2ae3du ^ shape.grid.z * 0x27d4eb2fu ^ shape.block.y * 0x165667b1u ^ shape.block.z;
    return (hash >> 16) % kCachedLaunchers;
}

// The launcher of a shape: new reference.
LauncherObject* launcher_of(KernelObject* kernel, PyObject* grid, PyObject* block) {
    Shape shape;
    if (!read_shape(grid, block, shape)) return nullptr;
    LauncherObject*& cached = kernel->cache[slot_of(shape)];
    if (cached == nullptr || !(cached->shape == shape)) [[unlikely]] {
        LauncherObject* made = make_launcher(kernel->plan, shape, kernel->stream, 0);
        if (made == nullptr) return nullptr;
        Py_XDECREF(std::exchange(cached, made));
    }
    Py_INCREF(cached);
    return cached;
}

// An integer or a tuple of integers, which nothing changes.
bool is_constant(PyObject* dim) {
    if (PyLong_CheckExact(dim)) return true;
    if (!PyTuple_CheckExact(dim)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(dim); ++i)
        if (!PyLong_CheckExact(PyTuple_GET_ITEM(dim, i))) return false;
    return true;
}

Seen& seen_at(KernelObject* kernel, PyObject* grid, PyObject* block) {
    // Objects are 16 bytes apart or more.
    const auto mixed = reinterpret_cast<std::uintptr_t>(grid) + 3 * reinterpret_cast<std::uintptr_t>(block);
    return kernel->seen[(mixed >> 4) % kCachedLaunchers];
}

void forget(Seen& seen) {
    const Seen old = std::exchange(seen, Seen{});
    Py_XDECREF(old.grid);
    Py_XDECREF(old.block);
    Py_XDECREF(old.launcher);
}

[[gnu::noinline]] PyObject* look_up(KernelObject* kernel, PyObject* key) {
    PyObject* grid = key;
    PyObject* block = nullptr;
    if (PyTuple_Check(key)) {
        const Py_ssize_t count = PyTuple_GET_SIZE(key);
        if (count < 1 || count > 2)
            return set_named_error(
                "InvalidArgument",
                "kernel '" + kernel->plan->layout.kernel +
                    "': expected kernel[grid, block], each x, (x, y) or (x, y, z), found " +
                    std::to_string(count) + " items");
        grid = PyTuple_GET_ITEM(key, 0);
        if (count == 2) block = PyTuple_GET_ITEM(key, 1);
    }
    LauncherObject* launcher = launcher_of(kernel, grid, block);
    if (launcher != nullptr && block != nullptr && is_constant(grid) && is_constant(block)) {
        Seen& seen = seen_at(kernel, grid, block);
        forget(seen);
        seen = {Py_NewRef(grid), Py_NewRef(block), launcher};
        Py_INCREF(launcher);
    }
    return reinterpret_cast<PyObject*>(launcher);
}

PyObject* kernel_subscript(PyObject* self, PyObject* key) {
    KernelObject* kernel = as_kernel(self);
    if (PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) == 2) [[likely]] {
        PyObject* grid = PyTuple_GET_ITEM(key, 0);
        PyObject* block = PyTuple_GET_ITEM(key, 1);
        const Seen& seen = seen_at(kernel, grid, block);
        if (seen.grid == grid && seen.block == block) [[likely]]
            return Py_NewRef(reinterpret_cast<PyObject*>(seen.launcher));
    }
    return look_up(kernel, key);
}

// _bind(grid, block, stream or None, shared)
PyObject* kernel_bind(PyObject* self, PyObject* args) {
    PyObject *grid = nullptr, *block = nullptr, *stream = nullptr, *shared = nullptr;
    if (!PyArg_ParseTuple(args, "OOOO", &grid, &block, &stream, &shared)) return nullptr;
    KernelObject* kernel = as_kernel(self);
    Shape shape;
    std::uint32_t shared_bytes = 0;
    if (!read_shape(grid, block, shape) || !read_uint(shared, 0, kMaxGrid, "shared", shared_bytes))
        return nullptr;
    if (stream == Py_None) stream = kernel->stream;
    if (!check_stream(*kernel->plan, stream)) return nullptr;
    return reinterpret_cast<PyObject*>(make_launcher(kernel->plan, shape, stream, shared_bytes));
}

void kernel_dealloc(PyObject* self) {
    KernelObject* kernel = as_kernel(self);
    for (Seen& seen : kernel->seen) forget(seen);
    for (LauncherObject*& cached : kernel->cache) Py_CLEAR(cached);
    Py_CLEAR(kernel->stream);
    kernel->plan.~shared_ptr();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* kernel_name(PyObject* self, void*) {
    return text_object(as_kernel(self)->plan->layout.kernel);
}
PyObject* kernel_declared(PyObject* self, void*) {
    return PyBool_FromLong(as_kernel(self)->plan->kernel.declared());
}
PyObject* kernel_stream(PyObject* self, void*) {
    return Py_NewRef(as_kernel(self)->stream);
}

// ((name, type, offset, size), ...)
PyObject* kernel_params(PyObject* self, void*) {
    const std::vector<Param>& params = as_kernel(self)->plan->layout.params;
    PyObject* out = PyTuple_New(static_cast<Py_ssize_t>(params.size()));
    for (std::size_t i = 0; out != nullptr && i < params.size(); ++i) {
        PyObject* item = Py_BuildValue("(NsII)", text_object(params[i].name), type_word(params[i].type),
                                       params[i].offset, params[i].size);
        if (item == nullptr) {
            Py_CLEAR(out);
            break;
        }
        PyTuple_SET_ITEM(out, static_cast<Py_ssize_t>(i), item);
    }
    return out;
}

PyGetSetDef kernel_getters[] = {
    {"name", kernel_name, nullptr, PyDoc_STR("The kernel's name in its module."), nullptr},
    {"declared", kernel_declared, nullptr,
     PyDoc_STR("Whether its parameter types are known; a launch of one that is not is refused."), nullptr},
    {"_default_stream", kernel_stream, nullptr, nullptr, nullptr},
    {"_params", kernel_params, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef kernel_methods[] = {
    {"_bind", kernel_bind, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot kernel_slots[] = {
    {Py_tp_doc, const_cast<char*>("A function of a loaded module: the base of ringlaunch.Kernel.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(kernel_dealloc)},
    {Py_mp_subscript, reinterpret_cast<void*>(kernel_subscript)},
    {Py_tp_getset, kernel_getters},
    {Py_tp_methods, kernel_methods},
    {0, nullptr},
};

PyType_Spec kernel_spec = {"ringlaunch._core.Kernel", sizeof(KernelObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, kernel_slots};

// ---- the measure of the launch call: the same calling convention, nothing done ----

struct EmptyObject {
    PyObject_HEAD vectorcallfunc vectorcall;
};

PyObject* empty_call(PyObject*, PyObject* const*, std::size_t, PyObject*) {
    Py_RETURN_NONE;
}

PyObject* empty_new(PyTypeObject* type, PyObject*, PyObject*) {
    auto* made = reinterpret_cast<EmptyObject*>(type->tp_alloc(type, 0));
    if (made != nullptr) made->vectorcall = empty_call;
    return reinterpret_cast<PyObject*>(made);
}

PyMemberDef empty_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EmptyObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot empty_slots[] = {
    {Py_tp_doc, const_cast<char*>("A callable that does nothing: what a launch call is measured against.")},
    {Py_tp_new, reinterpret_cast<void*>(empty_new)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_members, empty_members},
    {0, nullptr},
};

PyType_Spec empty_spec = {"ringlaunch._core.EmptyCall", sizeof(EmptyObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
                          empty_slots};

}  // namespace

PyObject* make_kernel(PyTypeObject* type, const std::shared_ptr<Session>& session, ringlaunch::Kernel kernel,
                      PyObject* stream) {
    auto plan = std::make_shared<Plan>();
    plan->state = detail::Access::state(kernel);
    plan->layout =
        Layout(kernel.name(), {kernel.params().begin(), kernel.params().end()}, plan->state->param_bytes);
    plan->kernel = std::move(kernel);
    plan->session = session;
    if (plan->layout.bytes > kMaxPackedBytes || packed_bytes(plan->layout.params) > plan->layout.bytes)
        return set_named_error("ProtocolError",
                               "kernel '" + plan->layout.kernel + "': the daemon says that it takes " +
                                   std::to_string(plan->layout.bytes) +
                                   " bytes of parameters, which is more than can be launched or less "
                                   "than its parameters need");
    PyObject* object = type->tp_alloc(type, 0);
    if (object == nullptr) return nullptr;
    KernelObject* made = as_kernel(object);
    made->cache.fill(nullptr);
    made->stream = Py_NewRef(stream);
    new (&made->plan) std::shared_ptr<const Plan>(std::move(plan));
    return object;
}

KernelView view_kernel(PyObject* object) {
    const KernelObject* kernel = as_kernel(object);
    return {kernel->plan->session, kernel->plan->kernel, kernel->stream};
}

bool add_launcher_types(PyObject* module) {
    name_stream = PyUnicode_InternFromString("stream");
    name_shared = PyUnicode_InternFromString("shared");
    name_name = PyUnicode_InternFromString("name");
    if (name_stream == nullptr || name_shared == nullptr || name_name == nullptr) return false;
    for (auto [type, spec] :
         {std::pair{&launcher_type, &launcher_spec}, std::pair{&kernel_type, &kernel_spec}}) {
        *type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(spec));
        if (*type == nullptr || PyModule_AddType(module, *type) != 0) return false;
    }
    PyObject* empty = PyType_FromSpec(&empty_spec);
    PyObject* callable = empty == nullptr ? nullptr : PyObject_CallNoArgs(empty);
    Py_XDECREF(empty);
    const bool added =
        callable != nullptr && PyModule_AddObjectRef(module, "_empty_vectorcall", callable) == 0;
    Py_XDECREF(callable);
    return added;
}

}  // namespace ringlaunch::python
