// The call of a Triton kernel, `kernel[grid](*args, **kwargs)`, as types with a C calling convention.
//
// TritonKernel is the base of ringlaunch's JITFunction: `[grid]` answers a TritonGrid, whose call looks a
// variant of the kernel up by what its arguments are (triton_key.hpp), packs them as that variant takes them
// (triton_pack.hpp) and writes the launch into a stream's ring. It makes no Python object. Whatever it does
// not know, and the first call of each kind, goes to a function of Python (ringlaunch/_triton.py), which asks
// Triton's own code, compiles, and adds the variant to the table.
//
// The order is the safety of the stream, as in launcher.cpp: what may run Python code or release the
// interpreter lock comes first, then key, look-up, packing and enqueuing, under one hold of the lock.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <structmember.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "client/src/stream_state.hpp"
#include "errors.hpp"
#include "handles.hpp"
#include "pack.hpp"
#include "small_int.hpp"
#include "stream_turn.hpp"
#include "triton_descriptor.hpp"
#include "triton_inline.hpp"
#include "triton_key.hpp"
#include "triton_pack.hpp"
#include "triton_region.hpp"
#include "triton_repeat.hpp"
#include "triton_settings.hpp"
#include "triton_tensor.hpp"
#include "triton_tuned.hpp"

namespace ringlaunch::python {

std::uint64_t sessions_changed = 1;

namespace triton {

namespace {

PyTypeObject* kernel_base_type = nullptr;
PyTypeObject* grid_type = nullptr;
PyTypeObject* variant_type = nullptr;
PyTypeObject* pending_type = nullptr;
PyObject* name_stream = nullptr;  // interned
PyObject* name_value = nullptr;
PyObject* name_grid = nullptr;
PyObject* name_warmup = nullptr;
PyObject* name_torch = nullptr;

Watched watched;

constexpr std::uint32_t kMaxGridX = 0x7fffffff;
constexpr unsigned kUsualSharedBytes = 48 << 10;  // of a block; for more a kernel has to ask
constexpr std::size_t kMaxOptions = 255;
constexpr std::size_t kCachedGrids = 16;
constexpr std::size_t kCachedNames = 8;
constexpr std::size_t kMaxEntries = 4096;   // of one kernel; then all are looked up anew
constexpr std::uint32_t kMaxRepeats = 8;    // made for one entry: its calls are of many kinds
constexpr std::uint32_t kLongestWait = 64;  // calls

// A reference that is held.
class Ref {
  public:
    Ref() = default;
    explicit Ref(PyObject* stolen) : object_(stolen) {}
    static Ref borrowed(PyObject* object) { return Ref(Py_XNewRef(object)); }
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref&& other) noexcept {
        PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
        Py_XDECREF(old);
        return *this;
    }
    ~Ref() { Py_XDECREF(object_); }
    PyObject* get() const noexcept { return object_; }
    explicit operator bool() const noexcept { return object_ != nullptr; }

  private:
    PyObject* object_ = nullptr;
};

// ---- variants: a compiled kernel, loaded for a client, or in this program ----

// Scratch memory of the kernel's own in a stream. Launches of one stream run one after the other, so they
// share it.
struct Scratch {
    Ref stream;
    Ref buffer;
};

struct Variant {
    Ref kernel;    // _core.Kernel; none in this program
    Ref stream;    // the client's default stream
    Ref compiled;  // what a call answers: Triton's CompiledKernel
    std::shared_ptr<Session> session;
    const detail::KernelState* state = nullptr;
    Takes takes;
    std::size_t given = 0;  // of its parameters, by a call; the rest is scratch memory
    Dim3 block;
    std::uint32_t shared_bytes = 0;
    std::uint32_t ctas = 1;           // blocks of a cluster, by which a grid is multiplied
    std::uint64_t scratch_bytes = 0;  // of a block of the grid
    std::uint32_t scratch_param = 0;
    std::vector<Scratch> scratch;
    std::uint64_t hits = 0;
    std::vector<TensorMapKind> maps;     // of its parameters that are tensors' maps, in order
    std::unique_ptr<InlineKernel> here;  // launched in this program; its graphs go before what they name

    bool closed() const noexcept { return session != nullptr && session->closed; }
    // Whose calls it takes, as the key has it.
    const Session* owner() const noexcept {
        return here != nullptr ? std::bit_cast<const Session*>(here->context()) : session.get();
    }
};

struct VariantObject {
    PyObject_HEAD Variant* variant;
};

Variant& variant_of(PyObject* object) {
    return *reinterpret_cast<VariantObject*>(object)->variant;
}

// ---- the table ----

// Where a kernel's calls go: _triton_mode.py.
enum class Mode : std::uint8_t { daemon, in_process, by_arguments };

struct Entry {
    std::uint64_t hash = 0;
    std::vector<std::uint64_t> key;
    Packing packing;
    std::vector<TensorMaps> maps;
    std::vector<Ref> held;  // what the key names by its address
    Ref variant;
    // Of calls that find it, those with these names behind so many arguments, in this mode.
    std::unique_ptr<Repeat> repeat;
    Ref names;
    Py_ssize_t count = 0;
    Mode mode = Mode::daemon;
    std::uint32_t repeats = 0;  // made so far

    bool is_repeat(Mode of, Py_ssize_t given, PyObject* keywords) const noexcept {
        return names.get() == keywords && count == given && mode == of;
    }
};

// Open addressing over entries that never move.
class Table {
  public:
    Entry* find(const Key& key, std::uint64_t hash) const noexcept {
        if (slots_.empty()) return nullptr;
        for (std::size_t i = hash & mask_;; i = (i + 1) & mask_) {
            Entry* entry = slots_[i];
            if (entry == nullptr) return nullptr;
            if (entry->hash == hash && key.equals(entry->key)) return entry;
        }
    }
    void add(std::unique_ptr<Entry> entry) {
        entries_.push_back(std::move(entry));
        rebuild();
    }
    // Takes out what `goes` says. The entries are let go of by the caller: that may run Python code.
    template <class Goes>
    std::vector<std::unique_ptr<Entry>> take(const Goes& goes) {
        std::vector<std::unique_ptr<Entry>> out;
        auto kept = std::stable_partition(entries_.begin(), entries_.end(),
                                          [&](const std::unique_ptr<Entry>& entry) { return !goes(*entry); });
        out.insert(out.end(), std::make_move_iterator(kept), std::make_move_iterator(entries_.end()));
        entries_.erase(kept, entries_.end());
        rebuild();
        return out;
    }
    std::size_t size() const noexcept { return entries_.size(); }
    // Until one answers something else than 0.
    template <class Visit>
    int visit(const Visit& visit) const {
        for (const auto& entry : entries_)
            if (const int stop = visit(*entry); stop != 0) return stop;
        return 0;
    }

  private:
    void rebuild() {
        const std::size_t slots = std::bit_ceil(std::max<std::size_t>(8, 2 * entries_.size() + 1));
        slots_.assign(slots, nullptr);
        mask_ = slots - 1;
        for (const auto& entry : entries_) {
            std::size_t i = entry->hash & mask_;
            while (slots_[i] != nullptr) i = (i + 1) & mask_;
            slots_[i] = entry.get();
        }
    }
    std::vector<std::unique_ptr<Entry>> entries_;
    std::vector<Entry*> slots_;
    std::size_t mask_ = 0;
};

// ---- a kernel ----

struct ParamInfo {
    Ref name;
    Ref default_value;  // none: it has to be given
};

// Where the keywords of a call go: a parameter, or an option.
constexpr std::int16_t kToStream = -1;
constexpr std::int16_t kFirstOption = 1 << 12;
struct Names {
    Ref tuple;
    std::vector<std::int16_t> to;
    bool options = false;  // some are for others than parameters
    // With so many by position before them they are the parameters behind those, in order, to the last.
    std::size_t behind = kNowhere;
    static constexpr std::size_t kNowhere = ~std::size_t{0};
};

// A global that the kernel's code has read: Triton refuses a call once its value is another.
struct Captured {
    Ref name, globals, value;
    Ref seen;   // the last object found equal to it, if that cannot change
    Ref holds;  // or a tl.constexpr, with what it held, if that cannot change
};

// That of kernels that have none; by_arguments: none was chosen.
Mode default_mode = Mode::by_arguments;
// It was asked, and answered that it has none.
bool torch_without_gpu = false;

struct GridObject;

struct Core {
    std::vector<ParamInfo> params;
    std::vector<std::uint8_t> flags;  // of the parameters
    std::size_t positional = 0;       // that may be given by position
    std::vector<Ref> option_names;
    std::array<Names, kCachedNames> names;
    std::array<GridObject*, kCachedGrids>
        grids{};                      // strong, by hash; their own reference to the kernel is not counted
    GridObject* last_grid = nullptr;  // of these
    // Triton's own run(kernel, ..., grid=, warmup=), of a kernel that may launch in this program; none:
    // something has to be checked before.
    Ref run;
    Ref slow;     // slow(kernel, grid, args, kwargs, pending): the whole call
    Ref finish;   // finish(kernel, variant, grid, stream, bound, kwargs): the launch of what was found
    Ref refresh;  // refresh(kernel) -> (settings, always_slow, hooks...): what stands in Triton's settings
    Ref scratch;  // scratch(kernel, variant, stream, bytes) -> Buffer, or what has data_ptr()
    Ref own_dict;
    std::vector<Ref> watched;  // `own_dict`, and Triton's caches of compiled kernels
    std::vector<Ref> hooks;    // lists: a call is slow while one of them holds something
    std::vector<Captured> captured;
    std::uint64_t settings = 0;
    std::uint64_t settings_state = 0;  // of `watched`, when they were read
    bool always_slow = false;
    Mode mode = Mode::daemon;
    bool of_triton = true;  // no kernel of a file, of which Triton knows nothing
    bool here = false;      // some calls are launched in this program
    Table table;
    Entry* last = nullptr;  // most calls are like the one before
    // Calls are tried as such of `last->repeat`; null: not now. Where they often are others, it is longer
    // until they are tried again.
    const Repeat* repeat = nullptr;
    std::uint32_t repeat_in = 1, repeat_after = 1;  // calls that find `last`
    std::uint64_t hits_before = 0;                  // of the variant, when it was tried first
    Ref default_stream;                             // of the only client, as long as sessions_changed is this
    std::uint64_t default_of = 0;
    std::uint64_t slow_calls = 0;
};

void forget_last(Core& core) noexcept {
    core.last = nullptr;
    core.repeat = nullptr;
}

struct KernelBase {
    PyObject_HEAD Core* core;
};

struct GridObject {
    PyObject_HEAD vectorcallfunc vectorcall;
    PyObject* kernel;  // strong
    PyObject* object;  // strong; what was given
    Dim3 dim;          // where it is plain
    bool plain;
};

KernelBase* as_kernel(PyObject* object) {
    return reinterpret_cast<KernelBase*>(object);
}
StreamObject* as_stream(PyObject* object) {
    return reinterpret_cast<StreamObject*>(object);
}
PyObject* as_object(const BufferObject* buffer) {
    return reinterpret_cast<PyObject*>(const_cast<BufferObject*>(buffer));
}

// ---- grids ----

// Small integers, none negative, in a plain tuple: what needs no Python code to be read.
bool read_plain_grid(PyObject* key, Dim3& out) {
    if (!PyTuple_CheckExact(key)) return false;
    const Py_ssize_t count = PyTuple_GET_SIZE(key);
    if (count < 1 || count > 3) return false;
    std::uint32_t* to[3] = {&out.x, &out.y, &out.z};
    out = {1, 1, 1};
    for (Py_ssize_t i = 0; i < count; ++i) {
        std::int64_t value = 0;
        PyObject* item = PyTuple_GET_ITEM(key, i);
        if (!PyLong_CheckExact(item) || !small_int(item, value) || value < 0) return false;
        *to[i] = static_cast<std::uint32_t>(value);
    }
    return true;
}

// Any sequence, as Triton takes it: what stands behind the third is not looked at.
bool read_grid(const std::string& kernel, PyObject* object, Dim3& out) {
    if (read_plain_grid(object, out)) return true;
    const auto refuse = [&](const char* error, const std::string& expected) {
        set_named_error(error, "kernel '" + kernel + "', grid: expected " + expected + ", found " +
                                   short_repr(object) + " (" + type_name(object) + ")");
        return false;
    };
    const Py_ssize_t count = PySequence_Check(object) ? PySequence_Size(object) : -1;
    if (count < 1) {
        if (PyErr_Occurred() != nullptr) return false;
        return refuse(count == 0 ? "InvalidArgument" : "ParamTypeError",
                      "(x,), (x, y) or (x, y, z), or a function that answers one");
    }
    std::uint32_t* to[3] = {&out.x, &out.y, &out.z};
    out = {1, 1, 1};
    for (Py_ssize_t i = 0; i < count && i < 3; ++i) {
        Ref item(PySequence_GetItem(object, i));
        if (!item) return false;
        Ref index(PyNumber_Index(item.get()));
        if (!index) {
            if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) return false;
            PyErr_Clear();
            return refuse("ParamTypeError", "integers");
        }
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(index.get(), &overflow);
        if (overflow != 0 || value < 0 || value > kMaxGridX)
            return refuse("OutOfRange", "numbers of blocks from 0 to " + std::to_string(kMaxGridX));
        *to[i] = static_cast<std::uint32_t>(value);
    }
    return true;
}

// Of no blocks: nothing is launched, and what is wrong with the arguments is said all the same.
bool is_empty(const Dim3& grid) noexcept {
    return grid.x == 0 || grid.y == 0 || grid.z == 0;
}

// ---- enqueuing ----

struct Launch {
    Variant& variant;
    StreamObject* stream;
    Dim3 grid;  // of the launch: with clusters
    std::byte* params;

    Status enqueue() const noexcept {
        return detail::enqueue_launch<true>(*stream->state, *variant.state, grid, variant.block,
                                            variant.shared_bytes, {params, variant.state->param_bytes});
    }
    bool launchable() const noexcept {
        return detail::launchable(*variant.state, grid, variant.block, variant.shared_bytes);
    }
    std::string doing() const { return "launching kernel '" + variant.takes.kernel + "'"; }
};

bool refuse(const Launch& launch, Status status) {
    set_stream_error(launch.stream, status, launch.doing());
    return false;
}

// Waits for what stands in the way. `again` packs anew: who waits releases the lock, and a buffer may be
// freed meanwhile. `buffers`: among the arguments, for a graph that is recorded.
template <class Again, class Buffers>
[[gnu::noinline]] bool enqueue_patiently(const Launch& launch, const Again& again, const Buffers& buffers) {
    const std::string doing = launch.doing();
    while (true) {
        if (!await_turn(launch.stream, doing.c_str())) return false;
        if (!again()) return false;
        if (!launch.launchable())
            return refuse(launch,
                          detail::refuse_launch(*launch.stream->state, *launch.variant.state, launch.grid,
                                                launch.variant.block, launch.variant.shared_bytes));
        if (launch.variant.scratch_bytes != 0 && launch.stream->state->recorder != nullptr) {
            set_named_error("Unsupported",
                            launch.doing() +
                                ": it takes scratch memory, of which each stream has its own, "
                                "so a graph cannot hold it; launch it before or after the graph");
            return false;
        }
        const std::size_t nodes = recorded_nodes(launch.stream);
        const Status status = launch.enqueue();
        if (status == Status::ok) {
            keep_in_graph(launch.stream, nodes, buffers(), true);
            return true;
        }
        if (status != Status::ring_full) return refuse(launch, status);
        const std::uint32_t slots = detail::slots_of(*launch.variant.state, launch.grid, launch.variant.block,
                                                     launch.variant.shared_bytes);
        if (!await_room(launch.stream, slots, doing.c_str())) return false;
    }
}

inline bool has_clusters(const Variant& variant, const Dim3& grid) noexcept {
    return std::uint64_t{grid.x} * variant.ctas <= kMaxGridX;
}

bool with_clusters(const Variant& variant, Dim3& grid) {
    if (!has_clusters(variant, grid)) [[unlikely]] {
        set_named_error("OutOfRange",
                        "kernel '" + variant.takes.kernel + "': a grid of " + std::to_string(grid.x) +
                            " clusters of " + std::to_string(variant.ctas) +
                            " blocks is more than a device takes (" + std::to_string(kMaxGridX) + ")");
        return false;
    }
    grid.x *= variant.ctas;
    return true;
}

// At least `bytes` of scratch memory in this stream. Null: a Python error is set. May run Python code. Held
// until the launch is enqueued: another thread's may need more, and then this goes behind what is enqueued.
[[gnu::noinline]] Ref find_scratch(Core& core, PyObject* kernel, PyObject* variant_object, PyObject* stream,
                                   std::uint64_t bytes) {
    Variant& variant = variant_of(variant_object);
    for (const Scratch& each : variant.scratch) {
        const auto* buffer = reinterpret_cast<const BufferObject*>(each.buffer.get());
        if (each.stream.get() == stream && buffer->bytes >= bytes && buffer->live_session != nullptr)
            return Ref::borrowed(each.buffer.get());
    }
    Ref made(PyObject_CallFunction(core.scratch.get(), "OOOK", kernel, variant_object, stream,
                                   static_cast<unsigned long long>(bytes)));
    if (!made) return made;
    if (!is_buffer(made.get())) {
        set_named_error("InternalError", "scratch memory is no buffer");
        return Ref();
    }
    std::vector<Scratch> old;  // let go of last: that may run Python code
    for (std::size_t i = variant.scratch.size(); i-- > 0;)
        if (variant.scratch[i].stream.get() == stream ||
            as_stream(variant.scratch[i].stream.get())->state == nullptr) {
            old.push_back(std::move(variant.scratch[i]));
            variant.scratch.erase(variant.scratch.begin() + static_cast<std::ptrdiff_t>(i));
        }
    variant.scratch.push_back({Ref::borrowed(stream), Ref::borrowed(made.get())});
    return made;
}

void put_scratch(const Variant& variant, const Ref& scratch, std::byte* params) {
    if (!scratch) return;
    const std::uint64_t address = reinterpret_cast<const BufferObject*>(scratch.get())->address;
    std::memcpy(params + variant.takes.params[variant.scratch_param].offset, &address, sizeof address);
}

// More than there is, where the number is beyond 64 bits.
std::uint64_t scratch_needed(const Variant& variant, const Dim3& grid) noexcept {
    std::uint64_t bytes = variant.scratch_bytes;
    for (const std::uint32_t side : {grid.x, grid.y, grid.z})
        if (__builtin_mul_overflow(bytes, std::uint64_t{side}, &bytes)) return ~std::uint64_t{0};
    return bytes;
}

// Scratch memory of one launch in this program, as Triton has it allocated: what `address` is of.
[[gnu::noinline]] Ref allocate_here(const Core& core, PyObject* kernel, PyObject* variant,
                                    std::uint64_t stream, std::uint64_t bytes, std::uint64_t& address) {
    Ref made(PyObject_CallFunction(core.scratch.get(), "OOKK", kernel, variant,
                                   static_cast<unsigned long long>(stream),
                                   static_cast<unsigned long long>(bytes)));
    Ref number(made ? PyObject_CallMethod(made.get(), "data_ptr", nullptr) : nullptr);
    if (!number) return {};
    address = PyLong_AsUnsignedLongLong(number.get());
    return PyErr_Occurred() != nullptr ? Ref() : std::move(made);
}

// A tensor's map that a launch into the daemon takes: what it is of, and where it goes.
struct TakenMap {
    const BufferObject* buffer = nullptr;  // while the call's arguments are as they were
    MapKey key;
    std::uint32_t offset = 0;
    TensorMap map;

    // False: a Python error is set. The interpreter lock may be let go of.
    bool find_or_ask(const Variant& variant) {
        if (buffer->live_session != variant.session.get())
            return refuse_buffer(variant.takes.kernel, "", variant.session.get(), as_object(buffer));
        return triton::find_or_ask(buffer, key, "kernel '" + variant.takes.kernel + "': ", map);
    }
    void put(std::byte* params) const { std::memcpy(params + offset, map.data(), map.size()); }
};

// All that the client keeps, of a call that was found. False: some have to be asked for.
inline bool put_kept_maps(Entry& entry, const Variant& variant, const Key& key, std::byte* params) {
    for (std::size_t i = 0; i < entry.maps.size(); ++i)
        if (!entry.maps[i].put_kept(variant.session->maps, key, i, params)) return false;
    return true;
}

bool check_stream(const std::string& kernel, PyObject* stream, const Session* session) {
    if (!is_stream(stream)) {
        set_named_error("ParamTypeError", "kernel '" + kernel +
                                              "', stream: expected a ringlaunch Stream, found " +
                                              short_repr(stream) + " (" + type_name(stream) + ")");
        return false;
    }
    if (as_stream(stream)->session.get() != session) {
        set_named_error("InvalidArgument",
                        "kernel '" + kernel +
                            "', stream: expected a stream of the client whose buffers are given, "
                            "found one of another client");
        return false;
    }
    return true;
}

// ---- binding a call ----

std::string kernel_name(PyObject* kernel) {
    Ref name(PyObject_GetAttrString(kernel, "__name__"));
    const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
    if (text == nullptr) PyErr_Clear();
    return text == nullptr ? "kernel" : text;
}

// `known` is interned, as names in a call usually are: then another object is another name.
bool same_name(PyObject* name, PyObject* known) {
    return name == known || (!PyUnicode_CHECK_INTERNED(name) && PyUnicode_Compare(name, known) == 0);
}

[[gnu::noinline]] const Names* read_names(Core& core, PyObject* tuple, Names& into) {
    Names made;
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* name = PyTuple_GET_ITEM(tuple, i);
        if (core.of_triton && (same_name(name, name_grid) || same_name(name, name_warmup)))
            return nullptr;  // what Triton's run() takes beside a kernel's arguments
        std::int16_t to = kFirstOption;
        if (same_name(name, name_stream)) to = kToStream;
        for (std::size_t p = 0; p < core.params.size(); ++p)
            if (same_name(name, core.params[p].name.get())) {
                to = static_cast<std::int16_t>(p);
                break;
            }
        const bool param = to >= 0 && to < kFirstOption;
        if (to == kFirstOption ||
            (param && (core.flags[static_cast<std::size_t>(to)] & kNamedLikeOption) != 0)) {
            std::size_t number = 0;
            while (number < core.option_names.size() && !same_name(name, core.option_names[number].get()))
                ++number;
            if (number == kMaxOptions) return nullptr;
            if (number == core.option_names.size()) {
                PyObject* interned = Py_NewRef(name);
                PyUnicode_InternInPlace(&interned);
                core.option_names.push_back(Ref(interned));
            }
            if (param) return nullptr;  // both at once: Triton's own code knows
            to = static_cast<std::int16_t>(kFirstOption + static_cast<std::int16_t>(number));
        }
        if (to < 0 || to >= kFirstOption) made.options = true;
        made.to.push_back(to);
    }
    if (!made.to.empty() && made.to.size() <= core.params.size()) {
        std::size_t next = core.params.size() - made.to.size();
        for (const std::int16_t to : made.to)
            if (to >= 0 && static_cast<std::size_t>(to) == next) ++next;
        if (next == core.params.size()) made.behind = next - made.to.size();
    }
    made.tuple = Ref::borrowed(tuple);
    into = std::move(made);
    return &into;
}

Names& names_place(Core& core, PyObject* names) {
    return core.names[(std::bit_cast<std::uintptr_t>(names) >> 4) % kCachedNames];
}

// What a call has brought.
struct Bound {
    PyObject* const* values = nullptr;  // borrowed, one a parameter: the call's own, or `placed`
    std::array<PyObject*, kMaxParams> placed;
    const Names* names = nullptr;
    PyObject* stream = nullptr;  // borrowed; null: none was named
};

// Are the keywords the rest of the parameters, as they come?
inline bool is_in_order(Core& core, PyObject* names, std::size_t given) {
    const Names& cached = names_place(core, names);
    return cached.behind == given && cached.tuple.get() == names;
}

// False: the call does not fit the signature, or is one that only Triton's own code knows.
inline bool bind(Core& core, PyObject* const* args, Py_ssize_t count, PyObject* names, Bound& out) {
    if (static_cast<std::size_t>(count) > core.positional) [[unlikely]]
        return false;
    const std::size_t given = static_cast<std::size_t>(count);
    const std::size_t total = core.params.size();
    if (names == nullptr ? given == total : is_in_order(core, names, given)) {
        out.values = args;
        return true;
    }
    out.values = out.placed.data();
    for (std::size_t i = 0; i < given; ++i) out.placed[i] = args[i];
    for (std::size_t i = given; i < total; ++i) out.placed[i] = nullptr;
    if (names != nullptr) {
        Names& cached = names_place(core, names);
        out.names = cached.tuple.get() == names ? &cached : read_names(core, names, cached);
        if (out.names == nullptr) [[unlikely]]
            return false;
        const std::int16_t* to = out.names->to.data();
        for (std::size_t i = 0, n = out.names->to.size(); i < n; ++i) {
            PyObject* value = args[given + i];
            if (to[i] >= 0 && to[i] < kFirstOption) {
                PyObject*& at = out.placed[static_cast<std::size_t>(to[i])];
                if (at != nullptr) [[unlikely]]
                    return false;  // given twice
                at = value;
            } else if (to[i] == kToStream) {
                out.stream = value == Py_None ? nullptr : value;
            }
        }
    }
    for (std::size_t i = given; i < total; ++i) {
        if (out.placed[i] != nullptr) continue;
        out.placed[i] = core.params[i].default_value.get();
        if (out.placed[i] == nullptr) [[unlikely]]
            return false;
    }
    return true;
}

// Other code may have run since the call was bound, and its names have made room for another call's.
inline bool find_names(Core& core, PyObject* names, Bound& bound) {
    if (bound.names == nullptr || bound.names->tuple.get() == names) [[likely]]
        return true;
    bound.names = read_names(core, names, names_place(core, names));
    return bound.names != nullptr;
}

// The key of a bound call. False: it has none.
inline bool encode(const Core& core, const Bound& bound, PyObject* const* keywords, std::uint64_t settings,
                   Key& key) {
    const std::size_t total = core.params.size();
    const std::uint8_t* flags = core.flags.data();
    for (std::size_t i = key.usual(bound.values, flags, 0, total); i < total;
         i = key.usual(bound.values, flags, i + 1, total))
        if (!((flags[i] & kConstexpr) != 0 ? key.constexpr_leaf(bound.values[i])
                                           : key.parameter(bound.values[i], flags[i])))
            return false;
    if (bound.names != nullptr && bound.names->options) {
        for (std::size_t i = 0; i < bound.names->to.size(); ++i) {
            const std::int16_t to = bound.names->to[i];
            if (to >= kFirstOption && !key.option(static_cast<std::uint8_t>(to - kFirstOption), keywords[i]))
                return false;
        }
    }
    key.finish(settings);
    return true;
}

// ---- what Triton looks at besides the arguments ----

std::vector<Ref> refs_of(PyObject* tuple, bool (*takes)(PyObject*)) {
    std::vector<Ref> out;
    for (Py_ssize_t i = 0; tuple != nullptr && i < PyTuple_GET_SIZE(tuple); ++i)
        if (takes(PyTuple_GET_ITEM(tuple, i))) out.push_back(Ref::borrowed(PyTuple_GET_ITEM(tuple, i)));
    return out;
}

// Which dictionaries a kernel looks at. False: an error may be set.
bool watch_own(Core& core, PyObject* caches) {
    std::vector<Ref> dicts = refs_of(caches, [](PyObject* each) { return PyDict_Check(each) != 0; });
    dicts.insert(dicts.begin(), Ref::borrowed(core.own_dict.get()));
    core.watched.swap(dicts);
    for (const Ref& dict : core.watched)
        if (!watched.add_own(dict.get())) return false;
    return true;
}

bool watches(const Core& core, PyObject* caches) {
    const std::size_t count = caches == nullptr ? 0 : static_cast<std::size_t>(PyTuple_GET_SIZE(caches));
    for (std::size_t i = 0; i < count && count + 1 == core.watched.size(); ++i)
        if (core.watched[i + 1].get() != PyTuple_GET_ITEM(caches, static_cast<Py_ssize_t>(i))) return false;
    return count + 1 == core.watched.size();
}

// Reads Triton's settings again. False: a Python error is set.
[[gnu::noinline]] bool refresh_settings(Core& core, PyObject* kernel) {
    constexpr int kTries = 8;
    for (int tries = 0;; ++tries) {
        const std::uint64_t state = watched.state(core.watched);
        Ref read(PyObject_CallOneArg(core.refresh.get(), kernel));
        if (!read) return false;
        unsigned long long settings = 0;
        int slow = 0;
        PyObject *hooks = nullptr, *caches = nullptr;
        if (!PyArg_ParseTuple(read.get(), "KpO!|O!", &settings, &slow, &PyTuple_Type, &hooks, &PyTuple_Type,
                              &caches))
            return false;
        // What was read has to be younger than what is looked at.
        if (!watches(core, caches) && tries < kTries) {
            if (!watch_own(core, caches) && PyErr_Occurred() != nullptr) return false;
            continue;
        }
        std::vector<Ref> lists = refs_of(hooks, [](PyObject* each) { return PyList_Check(each) != 0; });
        core.hooks.swap(lists);
        core.repeat = nullptr;
        core.repeat_in = core.repeat_after;
        core.settings = settings;
        core.always_slow = slow != 0 || core.params.size() > kMaxParams;
        core.settings_state = state;
        return true;
    }
}

inline bool hooked(const Core& core) {
    for (const Ref& list : core.hooks)
        if (PyList_GET_SIZE(list.get()) != 0) return true;
    return false;
}

// An object that stays equal to what it is.
bool is_immutable(PyObject* object) {
    return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyBool_Check(object) ||
           PyUnicode_CheckExact(object) || object == Py_None || PyType_Check(object);
}

// What a tl.constexpr holds; none, and no error, where it has nothing. Runs no code but that of plain
// attributes.
Ref held_value(PyObject* object) {
    Ref value(PyObject_GetAttr(object, name_value));
    if (!value) PyErr_Clear();
    return value;
}

// 1: as they were; 0: one is another; -1: a Python error is set.
[[gnu::noinline]] int compare_captured(Core& core) {
    for (std::size_t i = 0; i < core.captured.size(); ++i) {
        Ref found = Ref::borrowed(
            PyDict_GetItemWithError(core.captured[i].globals.get(), core.captured[i].name.get()));
        if (!found) return PyErr_Occurred() != nullptr ? -1 : 0;
        Ref value = Ref::borrowed(core.captured[i].value.get());
        const int different = PyObject_RichCompareBool(found.get(), value.get(), Py_NE);
        if (different != 0) return different < 0 ? -1 : 0;
        Ref holds = Py_TYPE(found.get()) == constant_types.constexpr_type ? held_value(found.get()) : Ref();
        if (i >= core.captured.size() || !is_immutable(holds ? holds.get() : found.get())) continue;
        core.captured[i].seen = std::move(found);
        core.captured[i].holds = std::move(holds);
    }
    return 1;
}

inline bool captured_as_seen(const Core& core) {
    for (const Captured& each : core.captured) {
        if (!each.seen || PyDict_GetItemWithError(each.globals.get(), each.name.get()) != each.seen.get())
            return false;
        if (each.holds && held_value(each.seen.get()).get() != each.holds.get()) return false;
    }
    return true;
}

bool torch_imported() noexcept {
    PyObject* modules = PyImport_GetModuleDict();
    return modules != nullptr && PyDict_Check(modules) &&
           PyDict_GetItemWithError(modules, name_torch) != nullptr;
}

// ---- calls within calls ----

// What a call may leave of its thread's stack to the Python code that it runs, which may compile: so much, or
// this part of a small stack.
constexpr std::size_t kStackLeft = 1 << 20;
constexpr std::size_t kStackPart = 4;

struct Stack {
    std::uintptr_t lowest = 0;
    std::size_t bytes = 0;  // 0: nothing is known of it
};

Stack stack_of_thread() noexcept {
    Stack found;
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return found;
    void* lowest = nullptr;
    std::size_t bytes = 0;
    if (pthread_attr_getstack(&attributes, &lowest, &bytes) == 0)
        found = {reinterpret_cast<std::uintptr_t>(lowest), bytes};
    pthread_attr_destroy(&attributes);
    return found;
}

// Python code that a call runs (the function of its grid, an argument's data_ptr()) may call kernels, and
// each call takes far more of the stack than Python counts on: before that, this. False: there is no room
// for more, and a RecursionError is set.
[[gnu::noinline]] bool may_nest(PyObject* kernel) {
    thread_local const Stack stack = stack_of_thread();
    const std::uintptr_t here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    const std::size_t left = here - stack.lowest;
    if (left >= std::min(kStackLeft, stack.bytes / kStackPart)) [[likely]]
        return true;
    PyErr_Format(
        PyExc_RecursionError,
        "kernel '%s': maximum recursion depth exceeded: the function of a grid, or an argument, calls "
        "kernels within calls of kernels, until there is no more stack",
        kernel_name(kernel).c_str());
    return false;
}

// ---- the slow way ----

struct PendingObject {
    PyObject_HEAD Key* key;
    std::vector<Ref>* held;
};

PyObject* make_pending(const Key& key) {
    auto* made = reinterpret_cast<PendingObject*>(pending_type->tp_alloc(pending_type, 0));
    if (made == nullptr) return nullptr;
    made->key = new Key(key);
    made->held = new std::vector<Ref>();
    for (std::size_t i = 0; i < key.held_count(); ++i) made->held->push_back(Ref::borrowed(key.held(i)));
    return reinterpret_cast<PyObject*>(made);
}

Ref keywords_of(PyObject* const* values, PyObject* names) {
    Ref made(PyDict_New());
    for (Py_ssize_t i = 0; made && names != nullptr && i < PyTuple_GET_SIZE(names); ++i)
        if (PyDict_SetItem(made.get(), PyTuple_GET_ITEM(names, i), values[i]) != 0) return {};
    return made;
}

// The call, by Triton's own code. `grid`: as it was given.
[[gnu::noinline]] PyObject* call_slowly(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args,
                                        Py_ssize_t count, PyObject* names, const Key* key) {
    ++core.slow_calls;
    Ref positional(PyTuple_New(count));
    Ref keywords = keywords_of(args + count, names);
    Ref pending(key == nullptr ? Py_NewRef(Py_None) : make_pending(*key));
    if (!positional || !keywords || !pending) return nullptr;
    for (Py_ssize_t i = 0; i < count; ++i) PyTuple_SET_ITEM(positional.get(), i, Py_NewRef(args[i]));
    Ref slow = Ref::borrowed(core.slow.get());
    return PyObject_CallFunctionObjArgs(slow.get(), kernel, grid, positional.get(), keywords.get(),
                                        pending.get(), nullptr);
}

// Whether a call without a key that launches in this program is Triton's as it stands: nothing in it is ours.
bool is_all_tritons(const Core& core, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    if (!core.run || current_context() == 0) return false;
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < named; ++i)
        if (same_name(PyTuple_GET_ITEM(names, i), name_stream)) return false;
    for (Py_ssize_t i = 0; i < count + named; ++i) {
        if (PyLong_Check(args[i]) || PyFloat_Check(args[i]) || PyUnicode_Check(args[i]) || args[i] == Py_None)
            continue;
        if (PyTuple_Check(args[i]) || is_buffer(args[i])) return false;  // of a tuple it is not known
        if (is_descriptor(args[i]))
            if (const DescriptorParts parts(args[i]); parts.rank() != 0 && is_buffer(parts.base()))
                return false;  // whose address may be somebody else's in this program
        const Reading reading = tensor_type(Py_TYPE(args[i])).reading;
        if (reading == Reading::unknown || reading == Reading::interface || reading == Reading::attributes)
            return false;  // Triton takes no such
    }
    return true;
}

[[gnu::noinline]] PyObject* call_triton(Core& core, PyObject* kernel, PyObject* grid, PyObject* const* args,
                                        Py_ssize_t count, PyObject* names) {
    ++core.slow_calls;
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    Ref keywords(PyTuple_New(named + 2));
    if (!keywords) return nullptr;
    for (Py_ssize_t i = 0; i < named; ++i)
        PyTuple_SET_ITEM(keywords.get(), i, Py_NewRef(PyTuple_GET_ITEM(names, i)));
    PyTuple_SET_ITEM(keywords.get(), named, Py_NewRef(name_grid));
    PyTuple_SET_ITEM(keywords.get(), named + 1, Py_NewRef(name_warmup));
    std::vector<PyObject*> values{kernel};
    values.insert(values.end(), args, args + count + named);
    values.push_back(grid);
    values.push_back(Py_False);
    const Ref run = Ref::borrowed(core.run.get());
    return PyObject_Vectorcall(run.get(), values.data(), static_cast<std::size_t>(count) + 1, keywords.get());
}

// ---- the call ----

Ref arguments_of(const Core& core, const Bound& bound) {
    Ref made(PyDict_New());
    for (std::size_t i = 0; made && i < core.params.size(); ++i)
        if (PyDict_SetItem(made.get(), core.params[i].name.get(), bound.values[i]) != 0) return {};
    return made;
}

// Asks a function for the grid. `changed`: it wrote into the arguments, which are launched as they are then.
Ref ask_grid(const Core& core, PyObject* function, const Bound& bound, Ref& arguments, bool& changed) {
    arguments = arguments_of(core, bound);
    if (!arguments) return {};
    Ref answered(PyObject_CallOneArg(function, arguments.get()));
    // Who leaves it alone leaves the order alone, too.
    PyObject *name = nullptr, *value = nullptr;
    Py_ssize_t at = 0;
    std::size_t same = 0;
    while (PyDict_Next(arguments.get(), &at, &name, &value) != 0 && same < core.params.size() &&
           name == core.params[same].name.get() && value == bound.values[same])
        ++same;
    changed = same != core.params.size() ||
              static_cast<std::size_t>(PyDict_GET_SIZE(arguments.get())) != core.params.size();
    return answered;
}

[[gnu::noinline]] PyObject* foreign_buffer(PyObject* kernel, const Key& key) {
    refuse_buffer(kernel_name(kernel), "", key.session(), key.foreign());
    return nullptr;
}

// Tuples within tuples: no deeper than a key has them.
void add_buffers(PyObject* value, std::vector<ringlaunch::Buffer>& out) {
    if (is_buffer(value)) out.push_back(reinterpret_cast<const BufferObject*>(value)->buffer);
    if (is_descriptor(value)) {
        if (const DescriptorParts parts(value); parts.rank() != 0) add_buffers(parts.base(), out);
        return;
    }
    if (!PyTuple_Check(value)) return;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) add_buffers(PyTuple_GET_ITEM(value, i), out);
}

// The launch of a variant that was found, but for the usual case. The buffers' lives are checked again after
// each wait, with the whole key.
[[gnu::noinline]] PyObject* launch_carefully(Core& core, PyObject* kernel, PyObject* variant_object,
                                             const Packing packing, const std::vector<TensorMaps> maps,
                                             const Key& as_found, Bound& bound, PyObject* const* keywords,
                                             PyObject* names, PyObject* stream, Dim3 grid,
                                             std::uint64_t hash) {
    Ref kept = Ref::borrowed(variant_object);
    Variant& variant = variant_of(variant_object);
    Ref compiled = Ref::borrowed(variant.compiled.get());
    std::vector<TakenMap> taken(maps.size());
    std::vector<Ref> described;  // whose maps are asked for, meanwhile
    for (std::size_t i = 0; i < maps.size(); ++i) {
        taken[i] = {as_found.descriptor(i).buffer, maps[i].wanted(as_found, i), maps[i].offset(), {}};
        described.push_back(Ref::borrowed(as_object(taken[i].buffer)));
    }
    for (TakenMap& each : taken)
        if (!each.find_or_ask(variant)) return nullptr;
    Ref scratch;
    if (variant.scratch_bytes != 0 && !is_empty(grid) &&
        !(scratch = find_scratch(core, kernel, variant_object, stream, scratch_needed(variant, grid))))
        return nullptr;
    if (!with_clusters(variant, grid)) return nullptr;
    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    const Launch launch{variant, as_stream(stream), grid, params};
    const auto changed = [&] {
        set_named_error("InvalidArgument",
                        launch.doing() + ": an argument was changed while the launch waited for its stream");
        return false;
    };
    const std::uint64_t settings = core.settings;
    const auto again = [&] {
        Key key;
        key.set_session(as_stream(stream)->session.get());
        if (!find_names(core, names, bound)) return changed();
        if (!encode(core, bound, keywords, settings, key)) return PyErr_Occurred() == nullptr && changed();
        if (key.foreign() != nullptr) return foreign_buffer(kernel, key) != nullptr;
        if (key.hash() != hash) return changed();
        if (const Op* unfit = pack(variant.takes, packing, key.leaves(), params); unfit != nullptr)
            return refuse_unfit(variant.takes, *unfit, key.leaves());
        for (std::size_t i = 0; i < taken.size(); ++i) {
            if (maps[i].wanted(key, i) != taken[i].key) return changed();
            taken[i].put(params);
        }
        put_scratch(variant, scratch, params);
        return true;
    };
    if (is_empty(grid)) return again() ? Py_NewRef(compiled.get()) : nullptr;
    const auto buffers = [&] {
        std::vector<ringlaunch::Buffer> found;
        for (std::size_t i = 0; i < core.params.size(); ++i) add_buffers(bound.values[i], found);
        return found;
    };
    if (!enqueue_patiently(launch, again, buffers)) return nullptr;
    ++variant.hits;
    return Py_NewRef(compiled.get());
}

// Asks the driver what it calls memory that may be of the host or another device, as Triton asks of all.
// False: some of it no kernel can use.
[[gnu::noinline]] bool check_addresses(Key& key, bool all) noexcept {
    const auto check = [&](std::size_t leaf) {
        std::uint64_t address = key.leaves()[leaf];
        if (!device_address(address)) return false;
        key.set_address(leaf, address);
        return true;
    };
    if (all) {
        for (std::size_t i = 0; i < key.leaf_count(); ++i)
            if (key.kind(i) == LeafKind::tensor && !check(i)) return false;
        return true;
    }
    for (std::size_t i = 0; i < key.check_count(); ++i)
        if (!check(key.check(i))) return false;
    return true;
}

// What has to live until a launch is issued: the arguments, the variant, scratch memory, and of descriptors,
// which may be given another tensor meanwhile, those that they have. Borrowed.
using Holds = std::array<PyObject*, kMaxParams + kMaxDescriptors + 2>;
std::size_t held_by_launch(const Core& core, const Key& key, const Bound& bound, PyObject* variant,
                           PyObject* scratch, Holds& out) noexcept {
    const auto given = key.given();
    std::size_t count = given.size();
    std::copy(given.begin(), given.end(), out.begin());
    out[count++] = variant;
    if (scratch != nullptr) out[count++] = scratch;
    if (key.descriptor_count() == 0) [[likely]]
        return count;
    std::size_t described = 0;
    for (std::size_t i = 0; i < core.params.size(); ++i)
        if (is_descriptor(bound.values[i]) && described++ < kMaxDescriptors)
            if (const DescriptorParts parts(bound.values[i]); parts.rank() != 0) out[count++] = parts.base();
    return count;
}

// Where a launch in this program goes. `named`: by the call; null: to the current stream.
bool find_stream(const Variant& variant, PyObject* named, std::uint64_t& out) {
    return named == nullptr ? current_stream(variant.here->device(), out)
                            : named_stream(variant.takes.kernel, named, out);
}

// The last step of a launch in this program; the caller keeps the variant. `holds`: what a region holds until
// it is issued.
[[gnu::always_inline]] inline PyObject* issue_here(Variant& variant, const Dim3& blocks,
                                                   const std::byte* params, std::uint64_t context,
                                                   std::uint64_t stream, std::span<PyObject* const> holds) {
    if (in_region()) {
        if (!launch_in_region({*variant.here,
                               variant.takes.kernel,
                               blocks,
                               {params, variant.takes.padded_bytes},
                               context,
                               stream,
                               holds}))
            return nullptr;
    } else if (!issue_region() ||
               !launch_inline(*variant.here, variant.takes.kernel, blocks, params, stream)) {
        return nullptr;
    }
    ++variant.hits;
    return Py_NewRef(variant.compiled.get());
}

// As Triton's launcher counts blocks, so that later calls do what the first one did.
inline bool has_blocks(const Dim3& grid) noexcept {
    return static_cast<std::int32_t>(grid.x * grid.y * grid.z) > 0;
}

// The launch of a variant that was found, in this program. `stream`: null: it is to be asked for. `tritons`:
// null was answered because it is what only Triton's own call does right, in its version.
PyObject* launch_here(Core& core, PyObject* kernel, Entry& entry, const Key& key, const Bound& bound,
                      const std::uint64_t* stream, const Dim3& grid, bool& tritons) {
    const Ref kept = Ref::borrowed(entry.variant.get());
    Variant& variant = variant_of(kept.get());
    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    // Before what may run Python code: the entry may go then.
    if (const Op* unfit = pack(variant.takes, entry.packing, key.leaves(), params); unfit != nullptr)
        [[unlikely]] {
        tritons = core.of_triton;
        if (!tritons) refuse_unfit(variant.takes, *unfit, key.leaves());
        return nullptr;
    }
    for (TensorMaps& map : entry.maps)
        if (const int result = map.put(key.leaves(), params); result != 0) [[unlikely]] {
            set_named_error("DriverError",
                            "kernel '" + variant.takes.kernel +
                                "': making the map of a tensor descriptor: " + inline_error_text(result));
            return nullptr;
        }
    if (!has_blocks(grid)) [[unlikely]] {
        tritons =
            core.of_triton && variant.scratch_bytes != 0;  // it asks for the scratch memory all the same
        return tritons ? nullptr : Py_NewRef(variant.compiled.get());
    }
    Dim3 blocks = grid;
    if (variant.ctas != 1 && !with_clusters(variant, blocks)) [[unlikely]] {
        tritons = core.of_triton;
        if (tritons) PyErr_Clear();
        return nullptr;
    }
    std::uint64_t to = 0;
    if (stream != nullptr)
        to = *stream;
    else if (!find_stream(variant, bound.stream, to))
        return nullptr;
    Ref scratch;
    if (variant.scratch_bytes != 0) [[unlikely]] {
        std::uint64_t address = 0;
        if (!may_nest(kernel)) return nullptr;
        scratch = allocate_here(core, kernel, kept.get(), to, scratch_needed(variant, grid), address);
        if (!scratch) return nullptr;
        std::memcpy(params + variant.takes.params[variant.scratch_param].offset, &address, sizeof address);
    }
    Holds holds;
    const std::size_t count =
        in_region() ? held_by_launch(core, key, bound, kept.get(), scratch.get(), holds) : 0;
    return issue_here(variant, blocks, params, std::bit_cast<std::uint64_t>(key.session()), to,
                      {holds.data(), count});
}

// Where nothing stands in its way.
[[gnu::always_inline]] inline bool enqueue_there(const Variant& variant, detail::StreamState& stream,
                                                 const Dim3& grid, const std::byte* params) noexcept {
    return detail::try_enqueue_launch<true>(stream, *variant.state, {grid.x * variant.ctas, grid.y, grid.z},
                                            variant.block, variant.shared_bytes,
                                            {params, variant.state->param_bytes});
}

// The launch of a variant that was found, into the daemon.
[[gnu::always_inline]] inline PyObject* launch_there(Core& core, PyObject* kernel, Entry& entry,
                                                     const Key& key, Bound& bound, PyObject* const* keywords,
                                                     PyObject* names, const Dim3& grid) {
    Variant& variant = variant_of(entry.variant.get());
    PyObject* stream = bound.stream;
    if (stream == nullptr) {
        stream = variant.stream.get();
    } else if (!is_stream(stream) || as_stream(stream)->session != variant.session) [[unlikely]] {
        check_stream(variant.takes.kernel, stream, variant.session.get());
        return nullptr;
    }
    const StreamObject* to = as_stream(stream);
    if (!is_empty(grid) && variant.scratch_bytes == 0 && !to->busy && to->state != nullptr &&
        has_clusters(variant, grid)) [[likely]] {
        alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
        if (const Op* unfit = pack(variant.takes, entry.packing, key.leaves(), params); unfit != nullptr)
            [[unlikely]] {
            refuse_unfit(variant.takes, *unfit, key.leaves());
            return nullptr;
        }
        if (put_kept_maps(entry, variant, key, params) && enqueue_there(variant, *to->state, grid, params))
            [[likely]] {
            ++variant.hits;
            return Py_NewRef(variant.compiled.get());
        }
    }
    Ref kept = Ref::borrowed(kernel);
    Ref kept_stream = Ref::borrowed(stream);
    return launch_carefully(core, kernel, entry.variant.get(), entry.packing, entry.maps, key, bound,
                            keywords, names, stream, grid, entry.hash);
}

// A call whose grid has been asked for, or was read by Python code.
struct AskedCall {
    Core& core;
    PyObject* kernel;
    Mode mode;
    PyObject* const* args;
    Py_ssize_t count;
    PyObject* names;
    Bound& bound;
    Ref variant;
    PyObject* grid;
    std::uint64_t stream;  // in this program
    Ref arguments;         // by name; none: they are as they were

    bool here() const noexcept { return variant_of(variant.get()).here != nullptr; }
    bool settled() const {
        return !core.always_slow && !hooked(core) && watched.state(core.watched) == core.settings_state;
    }
    // By Python code.
    PyObject* finish() {
        ++core.slow_calls;
        if (!issue_region()) return nullptr;
        if (!arguments) arguments = arguments_of(core, bound);
        const Ref keywords = keywords_of(args + count, names);
        const Ref to = here() ? Ref(PyLong_FromUnsignedLongLong(stream))
                              : Ref::borrowed(bound.stream == nullptr ? Py_None : bound.stream);
        if (!arguments || !keywords || !to) return nullptr;
        const Ref function = Ref::borrowed(core.finish.get());
        return PyObject_CallFunctionObjArgs(function.get(), kernel, variant.get(), grid, to.get(),
                                            arguments.get(), keywords.get(), nullptr);
    }
};

// Its launch, with what the arguments are now. Not inlined: while the grid is asked for, none of this is on
// the stack.
[[gnu::noinline]] PyObject* launch_asked(AskedCall& call, const Dim3& grid, const Session* session) {
    Core& core = call.core;
    Bound& bound = call.bound;
    PyObject* const* keywords = call.args + call.count;
    const Variant& variant = variant_of(call.variant.get());
    Key key;
    Asked tensors;
    if (call.mode != Mode::daemon) key.begin_with_tensors(nullptr);
    bool has_key = find_names(core, call.names, bound) && encode(core, bound, keywords, core.settings, key);
    if (!has_key && key.unasked()) {
        if (!tensors.ask(bound.values, core.params.size())) return nullptr;
        if (!call.settled()) return call.finish();
        key.begin_with_tensors(&tensors);
        has_key = find_names(core, call.names, bound) && encode(core, bound, keywords, core.settings, key);
    }
    if (!has_key) return PyErr_Occurred() != nullptr ? nullptr : call.finish();
    if (!call.here() && key.foreign() != nullptr) return foreign_buffer(call.kernel, key);
    if (key.session() == nullptr) key.set_session(session);
    Entry* found = core.last;
    if (found == nullptr || !key.equals(found->key)) found = core.table.find(key, key.hash());
    if (found == nullptr || found->variant.get() != call.variant.get()) return call.finish();
    if (!call.here()) return launch_there(core, call.kernel, *found, key, bound, keywords, call.names, grid);
    const bool elsewhere = key.device() >= 0 && key.device() != variant.here->device();
    if ((key.check_count() != 0 || elsewhere) && !check_addresses(key, elsewhere)) return call.finish();
    bool tritons = false;
    PyObject* launched = launch_here(core, call.kernel, *found, key, bound, &call.stream, grid, tritons);
    return tritons ? call.finish() : launched;
}

// The call of a variant that was found, whose grid is to be asked for, or is read by Python code. Whatever
// that changes, Triton launches what it has found, on the stream that was current before, with what the
// arguments are now.
[[gnu::noinline]] PyObject* call_with_grid(Core& core, PyObject* kernel, PyObject* given, Mode mode,
                                           Entry& entry, const Key& as_found, Bound& bound,
                                           PyObject* const* args, Py_ssize_t count, PyObject* names) {
    const Ref kept = Ref::borrowed(kernel);
    const Ref kept_grid = Ref::borrowed(given);
    // What stands in a tuned kernel's configuration nobody else may hold, and the function may change that.
    std::vector<Ref> kept_keywords;
    for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i)
        kept_keywords.push_back(Ref::borrowed(args[count + i]));
    AskedCall call{core,  kernel, mode, args, count, names, bound, Ref::borrowed(entry.variant.get()),
                   given, 0,      {}};
    const Variant& variant = variant_of(call.variant.get());
    if (call.here() && !find_stream(variant, bound.stream, call.stream)) return nullptr;
    if (!may_nest(kernel)) return nullptr;
    Ref answered = Ref::borrowed(given);
    bool changed = false;
    if (PyCallable_Check(given)) answered = ask_grid(core, given, bound, call.arguments, changed);
    Dim3 grid;
    if (!answered) return nullptr;
    call.grid = answered.get();
    const bool read = read_grid(variant.takes.kernel, answered.get(), grid);
    // Triton's launcher takes whatever has a length and items, and passes over less than one block.
    if (!read && !(call.here() && core.of_triton && PyErr_ExceptionMatches(PyExc_Exception) != 0))
        return nullptr;
    if (!read) PyErr_Clear();
    if (changed || !read || !call.settled()) return call.finish();
    return launch_asked(call, grid, as_found.session());
}

// What a call gives for each parameter, and for options. False: nothing, or it names a stream.
bool list_given(const Core& core, const Bound& bound, PyObject* const* args, Py_ssize_t count,
                std::vector<Repeat::Given>& params, std::vector<Repeat::Given>& options) {
    for (std::size_t i = 0; i < core.params.size(); ++i)
        params.push_back({bound.values[i], Repeat::Given::kDefault, core.flags[i]});
    const auto place = [](std::size_t arg) { return static_cast<std::uint16_t>(arg); };
    const std::size_t given = bound.values == args ? params.size() : static_cast<std::size_t>(count);
    for (std::size_t i = 0; i < given; ++i) params[i].arg = place(i);
    if (bound.names == nullptr) return given != 0;
    for (std::size_t i = 0; i < bound.names->to.size(); ++i) {
        const std::int16_t to = bound.names->to[i];
        if (to == kToStream) return false;
        if (to < kFirstOption)
            params[static_cast<std::size_t>(to)].arg = place(given + i);
        else
            options.push_back({args[given + i], place(given + i), kConstexpr});
    }
    return true;
}

// Null: it has arguments that no Repeat knows, or is of none.
std::unique_ptr<Repeat> make_repeat(const Core& core, const Entry& entry, const Key& key, const Bound& bound,
                                    Mode mode, PyObject* const* args, Py_ssize_t count) {
    const Variant& variant = variant_of(entry.variant.get());
    const std::size_t total = core.params.size();
    // Without tensors or buffers it takes more than the arguments to know where the call goes.
    const bool known = variant.here != nullptr
                           ? key.has_tensors() || mode == Mode::in_process
                           : std::any_of(bound.values, bound.values + total,
                                         [](PyObject* value) { return Py_TYPE(value) == usual_buffer_type; });
    if (variant.scratch_bytes != 0 || !entry.maps.empty() || bound.stream != nullptr || !known ||
        key.leaf_count() != total || key.check_count() != 0)
        return nullptr;
    std::vector<Repeat::Given> params, options;
    if (!list_given(core, bound, args, count, params, options)) return nullptr;
    return Repeat::make(params, options, entry.packing, key.session(),
                        variant.here == nullptr ? -1 : variant.here->device());
}

// From now on calls are tried as repeats of this one, which has found `core.last`.
[[gnu::noinline]] void try_repeats(Core& core, Entry& entry, const Key& key, const Bound& bound, Mode mode,
                                   PyObject* const* args, Py_ssize_t count, PyObject* names) {
    const Variant& variant = variant_of(entry.variant.get());
    core.hits_before = variant.hits;
    if (!entry.is_repeat(mode, count, names)) {
        if (entry.repeats == kMaxRepeats) return;
        ++entry.repeats;
        entry.repeat.reset();
        entry.names = Ref::borrowed(names);
        entry.count = count;
        entry.mode = mode;
        try {
            entry.repeat = make_repeat(core, entry, key, bound, mode, args, count);
        } catch (const std::bad_alloc&) {
        }
    }
    core.repeat = entry.repeat.get();
}

[[gnu::noinline]] void was_no_repeat(Core& core) noexcept {
    const bool many = variant_of(core.last->variant.get()).hits - core.hits_before > kLongestWait;
    core.repeat_after = many ? 1 : std::min(2 * core.repeat_after, kLongestWait);
    core.repeat_in = core.repeat_after;
    core.repeat = nullptr;
}

[[gnu::noinline]] PyObject* call(Core& core, PyObject* kernel, const GridObject* grid_of, Mode mode,
                                 PyObject* const* args, Py_ssize_t count, PyObject* names) {
    bool here = mode == Mode::in_process;  // that it is launched in this program is known
    const auto slowly = [&](const Key* key) -> PyObject* {
        Ref kept = Ref::borrowed(kernel);
        if (!may_nest(kernel) || !issue_region()) return nullptr;
        Ref object = Ref::borrowed(grid_of->object);
        if (here && key == nullptr && is_all_tritons(core, args, count, names))
            return call_triton(core, kernel, object.get(), args, count, names);
        return call_slowly(core, kernel, object.get(), args, count, names, key);
    };

    if (watched.state(core.watched) != core.settings_state) [[unlikely]]
        if (!refresh_settings(core, kernel)) return nullptr;
    Bound bound;
    if (core.always_slow || hooked(core) || !bind(core, args, count, names, bound)) [[unlikely]]
        return slowly(nullptr);
    if (!core.captured.empty() && !captured_as_seen(core)) [[unlikely]] {
        const int same = may_nest(kernel) ? compare_captured(core) : -1;
        if (same < 0) return nullptr;
        if (same == 0) return slowly(nullptr);  // which says what changed
    }
    Key key;
    Asked tensors;
    if (mode != Mode::daemon) key.begin_with_tensors(nullptr);
    bool has_key = find_names(core, names, bound) && encode(core, bound, args + count, core.settings, key);
    if (!has_key && key.unasked()) [[unlikely]] {
        if (!may_nest(kernel) || !tensors.ask(bound.values, core.params.size())) return nullptr;
        // That has run Python code, too.
        if (watched.state(core.watched) != core.settings_state || hooked(core) || !captured_as_seen(core) ||
            !bind(core, args, count, names, bound))
            return slowly(nullptr);
        key.begin_with_tensors(&tensors);
        has_key = encode(core, bound, args + count, core.settings, key);
    }
    PyObject* stream = bound.stream;
    if (!has_key) [[unlikely]] {
        if (PyErr_Occurred() != nullptr) return nullptr;
        here |= key.has_tensors() && key.session() == nullptr;
        return slowly(nullptr);
    }
    if (mode == Mode::in_process || key.has_tensors()) {
        if (key.session() != nullptr) [[unlikely]]
            return slowly(nullptr);  // which says what a buffer has to do with that
        key.set_session(std::bit_cast<const Session*>(current_context()));
    } else if (key.foreign() != nullptr) [[unlikely]] {
        return foreign_buffer(kernel, key);
    } else if (key.session() ==
               nullptr) {  // no buffer: the stream's client, this program, or the only client
        if (stream != nullptr && is_stream(stream))
            key.set_session(as_stream(stream)->session.get());
        else if (core.here && mode == Mode::by_arguments)
            key.set_session(std::bit_cast<const Session*>(current_context()));
        else if (mode == Mode::by_arguments && stream == nullptr && !torch_without_gpu && torch_imported())
            return slowly(&key);  // which knows whether that has a GPU
        else if (core.default_of == sessions_changed)
            key.set_session(as_stream(core.default_stream.get())->session.get());
        else
            return slowly(&key);
    }
    Entry* entry = core.last;
    if (entry == nullptr || !key.equals(entry->key)) {
        entry = core.table.find(key, key.hash());
        if (entry == nullptr) [[unlikely]]
            return slowly(&key);
        core.last = entry;
        core.repeat = nullptr;
        core.repeat_in = core.repeat_after;
    } else if (core.repeat_in != 0 && --core.repeat_in == 0) [[unlikely]] {
        try_repeats(core, *entry, key, bound, mode, args, count, names);
    }
    if (!grid_of->plain) [[unlikely]]
        return call_with_grid(core, kernel, grid_of->object, mode, *entry, key, bound, args, count, names);
    Variant& variant = variant_of(entry->variant.get());
    if (variant.here != nullptr) {
        const bool elsewhere = key.device() >= 0 && key.device() != variant.here->device();
        if ((key.check_count() != 0 || elsewhere) && !check_addresses(key, elsewhere)) [[unlikely]]
            return slowly(nullptr);  // which says what is wrong with it
        bool tritons = false;
        PyObject* launched = launch_here(core, kernel, *entry, key, bound, nullptr, grid_of->dim, tritons);
        if (!tritons) [[likely]]
            return launched;
        here = true;
        return slowly(nullptr);
    }
    return launch_there(core, kernel, *entry, key, bound, args + count, names, grid_of->dim);
}

// A call like the one before. False: it is another, or there is something in its way, and nothing was done.
[[gnu::always_inline]] inline bool call_again(Core& core, const Dim3& grid, PyObject* const* args,
                                              PyObject*& out) {
    const Repeat& repeat = *core.repeat;
    Variant& variant = variant_of(core.last->variant.get());
    if (watched.state(core.watched) != core.settings_state || hooked(core)) [[unlikely]]
        return false;
    if (!core.captured.empty() && !captured_as_seen(core)) [[unlikely]]
        return false;
    if (!has_clusters(variant, grid) || !has_blocks(grid)) [[unlikely]]
        return false;
    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    std::array<PyObject*, kMaxParams + 1> holds;
    PyObject** end = holds.data();
    if (variant.here == nullptr) {
        const StreamObject* to = as_stream(variant.stream.get());
        if (to->busy || to->state == nullptr) [[unlikely]]
            return false;
        if (!repeat.pack(args, params, end)) [[unlikely]] {
            was_no_repeat(core);
            return false;
        }
        if (!enqueue_there(variant, *to->state, grid, params)) [[unlikely]]
            return false;
        ++variant.hits;
        out = Py_NewRef(variant.compiled.get());
        return true;
    }
    const std::uint64_t context = current_context();
    if (context != repeat.context() || !repeat.pack(args, params, end)) [[unlikely]] {
        was_no_repeat(core);
        return false;
    }
    // The entry may go, and with it the repeat.
    const Ref kept = Ref::borrowed(core.last->variant.get());
    std::uint64_t to = 0;
    if (!current_stream(repeat.device(), to)) [[unlikely]] {
        out = nullptr;
        return true;
    }
    *end++ = kept.get();
    out = issue_here(variant, {grid.x * variant.ctas, grid.y, grid.z}, params, context, to,
                     {holds.data(), end});
    return true;
}

Mode mode_of(const Core& core) noexcept {
    return core.mode == Mode::by_arguments ? default_mode : core.mode;
}

PyObject* grid_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names) {
    const auto* grid = reinterpret_cast<GridObject*>(self);
    Core& core = *as_kernel(grid->kernel)->core;
    const Py_ssize_t count = PyVectorcall_NARGS(flags);
    const Mode mode = mode_of(core);
    PyObject* launched = nullptr;
    if (core.repeat != nullptr && core.last->is_repeat(mode, count, names) &&
        call_again(core, grid->dim, args, launched)) [[likely]]
        return launched;
    return call(core, grid->kernel, grid, mode, args, count, names);
}

// The same of a grid that is not plain: what call_again() has on the stack is not there while the grid's
// function runs.
PyObject* asking_grid_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names) {
    const auto* grid = reinterpret_cast<GridObject*>(self);
    Core& core = *as_kernel(grid->kernel)->core;
    return call(core, grid->kernel, grid, mode_of(core), args, PyVectorcall_NARGS(flags), names);
}

// ---- TritonGrid ----

PyObject* make_grid(PyObject* kernel, PyObject* object, const Dim3& dim, bool plain) {
    auto* made = reinterpret_cast<GridObject*>(grid_type->tp_alloc(grid_type, 0));
    if (made == nullptr) return nullptr;
    made->vectorcall = plain ? grid_call : asking_grid_call;
    made->kernel = Py_NewRef(kernel);
    made->object = Py_NewRef(object);
    made->dim = dim;
    made->plain = plain;
    return reinterpret_cast<PyObject*>(made);
}

int grid_traverse(PyObject* self, visitproc visit, void* arg) {
    const auto* grid = reinterpret_cast<GridObject*>(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(grid->kernel);
    Py_VISIT(grid->object);
    return 0;
}

int grid_clear(PyObject* self) {
    auto* grid = reinterpret_cast<GridObject*>(self);
    if (!grid->plain) Py_SETREF(grid->object, Py_NewRef(Py_None));
    return 0;  // `kernel` is what a call needs: its own references are cleared instead
}

void grid_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    auto* grid = reinterpret_cast<GridObject*>(self);
    Py_CLEAR(grid->object);
    Py_CLEAR(grid->kernel);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyMemberDef grid_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(GridObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
    return set_named_error("ParamTypeError", std::string(type->tp_name) + " is made by a kernel, not called");
}

PyType_Slot grid_slots[] = {
    {Py_tp_doc, const_cast<char*>("A Triton kernel with its grid: calling it launches.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(grid_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(grid_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(grid_clear)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_members, grid_members},
    {0, nullptr},
};

PyType_Spec grid_spec = {
    "ringlaunch._core.TritonGrid", sizeof(GridObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    grid_slots};

// ---- TritonKernel, the base of ringlaunch's JITFunction ----

std::size_t slot_of(const Dim3& dim, Py_ssize_t sides) {
    const std::uint32_t hash = dim.x * 0x9e3779b1u ^ dim.y * 0xc2b2ae3du ^ dim.z * 0x27d4eb2fu ^
                               static_cast<std::uint32_t>(sides) << 16;
    return (hash >> 16) % kCachedGrids;
}

PyObject* kernel_subscript(PyObject* self, PyObject* key) {
    Core& core = *as_kernel(self)->core;
    // A constant of the calling code.
    if (core.last_grid != nullptr && core.last_grid->object == key) [[likely]]
        return Py_NewRef(reinterpret_cast<PyObject*>(core.last_grid));
    if (!core.slow) return set_named_error("InternalError", "a Triton kernel that was not bound");
    Dim3 dim{1, 1, 1};
    if (!read_plain_grid(key, dim)) return make_grid(self, key, dim, false);
    GridObject*& cached = core.grids[slot_of(dim, PyTuple_GET_SIZE(key))];
    if (cached != nullptr && cached->dim.x == dim.x && cached->dim.y == dim.y && cached->dim.z == dim.z &&
        PyTuple_GET_SIZE(cached->object) == PyTuple_GET_SIZE(key)) [[likely]] {
        core.last_grid = cached;
        return Py_NewRef(reinterpret_cast<PyObject*>(cached));
    }
    PyObject* made = make_grid(self, key, dim, true);
    if (made == nullptr) return nullptr;
    GridObject* old = std::exchange(cached, reinterpret_cast<GridObject*>(Py_NewRef(made)));
    core.last_grid = cached;
    Py_XDECREF(reinterpret_cast<PyObject*>(old));
    return made;
}

// ---- plain kernels of Triton, while ringlaunch is installed ----

// What stands in place of JITFunction.__getitem__ then. A kernel of Triton keeps its twin, which launches
// through ringlaunch, in its own dict, which is the twin's, too; None there: the kernel goes Triton's way.
PyObject* name_twin = nullptr;
PyObject* make_twin = nullptr;  // make_twin(kernel) -> twin or None, which then stands in its dict
PyObject* original_subscript = nullptr;

PyObject* subscript_plain(PyObject* self, PyObject* grid) {
    Ref dict(PyObject_GenericGetDict(self, nullptr));
    if (!dict) return nullptr;
    Ref twin = Ref::borrowed(PyDict_GetItemWithError(dict.get(), name_twin));
    const bool its_own = twin && PyObject_TypeCheck(twin.get(), kernel_base_type) &&
                         as_kernel(twin.get())->core->own_dict.get() == dict.get();
    if (!its_own && !(twin && twin.get() == Py_None)) [[unlikely]] {
        if (PyErr_Occurred() != nullptr) return nullptr;
        twin = Ref(PyObject_CallOneArg(make_twin, self));
        if (!twin) return nullptr;
    }
    if (twin.get() == Py_None) return PyObject_CallFunctionObjArgs(original_subscript, self, grid, nullptr);
    return PyObject_GetItem(twin.get(), grid);
}

PyMethodDef subscript_method = {"__getitem__", subscript_plain, METH_O,
                                PyDoc_STR("kernel[grid]: through ringlaunch.")};

// triton_subscript(type, name, make_twin, original): the __getitem__ of plain kernels, which are of `type`.
// `name`: of what they keep.
PyObject* set_subscript(PyObject*, PyObject* args) {
    PyObject *type = nullptr, *name = nullptr, *make = nullptr, *original = nullptr;
    if (!PyArg_ParseTuple(args, "O!UOO", &PyType_Type, &type, &name, &make, &original)) return nullptr;
    Py_INCREF(name);
    PyUnicode_InternInPlace(&name);
    Py_XSETREF(name_twin, name);
    Py_XSETREF(make_twin, Py_NewRef(make));
    Py_XSETREF(original_subscript, Py_NewRef(original));
    return PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type), &subscript_method);
}

PyObject* kernel_new(PyTypeObject* type, PyObject*, PyObject*) {
    auto* made = reinterpret_cast<KernelBase*>(type->tp_alloc(type, 0));
    if (made != nullptr) made->core = new Core();
    return reinterpret_cast<PyObject*>(made);
}

// _bind(((name, flags[, default]), ...), positional, slow, finish, refresh, scratch, dict[, mode, run]).
// `run`: see Core, or None; not given for a kernel of a file.
PyObject* kernel_bind(PyObject* self, PyObject* args) {
    PyObject *params = nullptr, *slow = nullptr, *finish = nullptr, *refresh = nullptr, *scratch = nullptr,
             *dict = nullptr;
    Py_ssize_t positional = 0;
    unsigned char mode = 0;
    PyObject* run = nullptr;
    if (!PyArg_ParseTuple(args, "O!nOOOOO!|bO", &PyTuple_Type, &params, &positional, &slow, &finish, &refresh,
                          &scratch, &PyDict_Type, &dict, &mode, &run))
        return nullptr;
    if (mode > static_cast<unsigned char>(Mode::by_arguments))
        return PyErr_Format(PyExc_ValueError, "no mode: %d", int{mode});
    Core& core = *as_kernel(self)->core;
    // What was kept of calls is of the parameters that they were bound to.
    if (core.slow) return set_named_error("InternalError", "a Triton kernel that was bound before");
    const Py_ssize_t count = PyTuple_GET_SIZE(params);
    std::vector<ParamInfo> made;
    std::vector<std::uint8_t> made_flags;
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject *name = nullptr, *value = nullptr;
        unsigned char flags = 0;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(params, i), "Ub|O", &name, &flags, &value)) return nullptr;
        Py_INCREF(name);
        PyUnicode_InternInPlace(&name);
        ParamInfo& param = made.emplace_back();
        param.name = Ref(name);
        param.default_value = Ref::borrowed(value);
        made_flags.push_back(flags);
    }
    core.params.swap(made);
    core.flags.swap(made_flags);
    core.positional = static_cast<std::size_t>(std::max<Py_ssize_t>(0, positional));
    core.finish = Ref::borrowed(finish);
    core.refresh = Ref::borrowed(refresh);
    core.scratch = Ref::borrowed(scratch);
    core.own_dict = Ref::borrowed(dict);
    if (!watch_own(core, nullptr) && PyErr_Occurred() != nullptr) return nullptr;
    core.mode = static_cast<Mode>(mode);
    core.of_triton = run != nullptr;
    if (core.mode != Mode::daemon && run != Py_None) core.run = Ref::borrowed(run);
    core.slow = Ref::borrowed(slow);
    Py_RETURN_NONE;
}

bool is_variant(PyObject* object) {
    if (Py_TYPE(object) == variant_type) return true;
    PyErr_Format(PyExc_TypeError, "expected a TritonVariant, found %s", Py_TYPE(object)->tp_name);
    return false;
}

// _add(pending, variant, leaves): from now on calls of that key are this variant's. False: some argument is
// of a kind that only the slow way converts.
PyObject* kernel_add(PyObject* self, PyObject* args) {
    PyObject *pending_object = nullptr, *variant = nullptr, *leaves_object = nullptr;
    if (!PyArg_ParseTuple(args, "O!OO!", pending_type, &pending_object, &variant, &PyTuple_Type,
                          &leaves_object) ||
        !is_variant(variant))
        return nullptr;
    Core& core = *as_kernel(self)->core;
    auto* pending = reinterpret_cast<PendingObject*>(pending_object);
    std::vector<std::uint16_t> leaves;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(leaves_object); ++i) {
        const unsigned long leaf = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(leaves_object, i));
        if (PyErr_Occurred() != nullptr) return nullptr;
        leaves.push_back(static_cast<std::uint16_t>(std::min(leaf, 0xfffful)));
    }
    Variant& taker = variant_of(variant);
    pending->key->set_session(taker.owner());
    auto entry = std::make_unique<Entry>();
    if (leaves.size() != taker.given || !plan(taker.takes, *pending->key, leaves, entry->packing) ||
        pending->key->descriptor_count() != taker.maps.size())
        Py_RETURN_FALSE;
    for (std::size_t i = 0; i < taker.maps.size(); ++i) {
        const Descriptor& descriptor = pending->key->descriptor(i);
        const auto param = std::find(leaves.begin(), leaves.end(), descriptor.leaf);
        if (param == leaves.end()) Py_RETURN_FALSE;
        const auto number = static_cast<std::size_t>(param - leaves.begin());
        entry->maps.emplace_back(taker.maps[i], descriptor, taker.takes.params[number].offset);
    }
    pending->key->keep(entry->key);
    entry->hash = pending->key->hash();
    for (const Ref& each : *pending->held) entry->held.push_back(Ref::borrowed(each.get()));
    entry->variant = Ref::borrowed(variant);
    core.here |= taker.here != nullptr;
    forget_last(core);
    const bool full = core.table.size() >= kMaxEntries;
    const auto old = core.table.take([&](const Entry& each) {
        return full || variant_of(each.variant.get()).closed() ||
               (each.hash == entry->hash && each.key == entry->key);
    });
    core.table.add(std::move(entry));
    Py_RETURN_TRUE;
}

// _forget(variant or None): calls of its keys go the slow way again; None: all of them.
PyObject* kernel_forget(PyObject* self, PyObject* variant) {
    Core& core = *as_kernel(self)->core;
    forget_last(core);
    const auto old = core.table.take(
        [&](const Entry& each) { return variant == Py_None || each.variant.get() == variant; });
    return PyLong_FromSize_t(old.size());
}

// _capture(((name, globals, value), ...)): what the kernel's code has read, as it was.
PyObject* kernel_capture(PyObject* self, PyObject* list) {
    if (!PyTuple_Check(list)) return PyErr_Format(PyExc_TypeError, "expected a tuple");
    std::vector<Captured> made;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list); ++i) {
        PyObject *name = nullptr, *globals = nullptr, *value = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(list, i), "UO!O", &name, &PyDict_Type, &globals, &value))
            return nullptr;
        Captured& each = made.emplace_back();
        each.name = Ref::borrowed(name);
        each.globals = Ref::borrowed(globals);
        each.value = Ref::borrowed(value);
    }
    as_kernel(self)->core->captured.swap(made);
    Py_RETURN_NONE;
}

// _default(stream): where calls go that name neither a buffer nor a stream, until a client comes or goes.
PyObject* kernel_default(PyObject* self, PyObject* stream) {
    if (!is_stream(stream)) return PyErr_Format(PyExc_TypeError, "expected a Stream");
    Core& core = *as_kernel(self)->core;
    core.default_of = sessions_changed;
    core.default_stream = Ref::borrowed(stream);
    Py_RETURN_NONE;
}

// The maps among the objects of a launch: (buffer, nan, tf32, (side, ...), (stride, ...)), all of plain
// integers. False: a Python error is set.
bool read_maps(const Variant& variant, const std::vector<PyObject*>& objects, std::vector<TakenMap>& out) {
    for (std::size_t i = 0; i < objects.size(); ++i) {
        const Param& param = variant.takes.params[i];
        if (param.type != ParamType::bytes) continue;
        PyObject *buffer = nullptr, *shape = nullptr, *strides = nullptr;
        int nan = 0, tf32 = 0;
        if (objects[i] == nullptr || !PyTuple_Check(objects[i]))
            return PyErr_Format(PyExc_TypeError, "expected what a tensor descriptor has") != nullptr;
        if (!PyArg_ParseTuple(objects[i], "OppO!O!", &buffer, &nan, &tf32, &PyTuple_Type, &shape,
                              &PyTuple_Type, &strides))
            return false;
        if (!is_buffer(buffer) ||
            reinterpret_cast<const BufferObject*>(buffer)->live_session != variant.session.get())
            return is_buffer(buffer)
                       ? refuse_buffer(variant.takes.kernel, param.name, variant.session.get(), buffer)
                       : PyErr_Format(PyExc_TypeError, "expected a Buffer") != nullptr;
        TensorMapKind kind = variant.maps[out.size()];
        const Py_ssize_t rank = PyTuple_GET_SIZE(shape);
        if (rank == 0 || rank > static_cast<Py_ssize_t>(kMaxRank) || rank != PyTuple_GET_SIZE(strides))
            return PyErr_Format(PyExc_ValueError, "a tensor of %zd dimensions", rank) != nullptr;
        kind.rank = static_cast<std::uint32_t>(rank);
        kind.nan = nan != 0;
        kind.tf32 = tf32 != 0;
        const auto* memory = reinterpret_cast<const BufferObject*>(buffer);
        std::array<std::uint64_t, 1 + 2 * kMaxRank> of{memory->address};
        for (std::size_t side = 0; side < kind.rank; ++side) {
            long long size = 0, stride = 0;
            if (!read_side(shape, side, size) || !read_side(strides, side, stride))
                return set_named_error("OutOfRange", "kernel '" + variant.takes.kernel + "', parameter '" +
                                                         param.name +
                                                         "': expected sides and strides of 64 bits, found " +
                                                         short_repr(objects[i])) != nullptr;
            of[1 + side] = static_cast<std::uint64_t>(size);
            of[1 + kind.rank + side] = static_cast<std::uint64_t>(stride);
        }
        out.push_back({memory,
                       {memory->address, memory->buffer.size() - memory->offset, layout_of(kind, of.data())},
                       param.offset,
                       {}});
    }
    return true;
}

// _launch(variant, grid, stream or None, args): one launch with these Python objects, one a parameter that is
// given; for a tensor's map what read_maps() takes.
PyObject* kernel_launch(PyObject* self, PyObject* args) {
    PyObject *variant_object = nullptr, *grid_given = nullptr, *stream = nullptr, *values = nullptr;
    if (!PyArg_ParseTuple(args, "OOOO!", &variant_object, &grid_given, &stream, &PyTuple_Type, &values) ||
        !is_variant(variant_object))
        return nullptr;
    Variant& variant = variant_of(variant_object);
    if (variant.here != nullptr) return PyErr_Format(PyExc_ValueError, "a variant of this program");
    const std::size_t count = static_cast<std::size_t>(PyTuple_GET_SIZE(values));
    const std::size_t total = variant.takes.params.size();
    if (count != variant.given)
        return PyErr_Format(PyExc_ValueError, "%zu arguments for %zu parameters", count, variant.given);
    if (stream == Py_None) stream = variant.stream.get();
    if (!check_stream(variant.takes.kernel, stream, variant.session.get())) return nullptr;
    Ref kept_stream = Ref::borrowed(stream);
    Dim3 grid;
    if (!read_grid(variant.takes.kernel, grid_given, grid)) return nullptr;
    std::vector<PyObject*> objects(total, nullptr);
    for (std::size_t i = 0; i < count; ++i) objects[i] = PyTuple_GET_ITEM(values, static_cast<Py_ssize_t>(i));
    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    const Session* session = variant.session.get();
    std::vector<TakenMap> taken;
    if (!read_maps(variant, objects, taken) || !pack_objects(variant.takes, session, objects.data(), params))
        return nullptr;
    for (TakenMap& each : taken)
        if (!each.find_or_ask(variant)) return nullptr;
    if (is_empty(grid)) Py_RETURN_NONE;
    Ref scratch;
    if (variant.scratch_bytes != 0 && !(scratch = find_scratch(*as_kernel(self)->core, self, variant_object,
                                                               stream, scratch_needed(variant, grid))))
        return nullptr;
    put_scratch(variant, scratch, params);
    if (!with_clusters(variant, grid)) return nullptr;
    const Launch launch{variant, as_stream(stream), grid, params};
    const auto again = [&] {
        for (const TakenMap& each : taken) {
            if (each.buffer->live_session != session)
                return refuse_buffer(variant.takes.kernel, "", session, as_object(each.buffer));
            each.put(params);
        }
        return repack_objects(variant.takes, session, objects.data(), params);
    };
    const auto buffers = [&] {
        std::vector<ringlaunch::Buffer> found = buffers_among(objects.data(), count);
        for (const TakenMap& each : taken) found.push_back(each.buffer->buffer);
        return found;
    };
    if (!enqueue_patiently(launch, again, buffers)) return nullptr;
    ++variant.hits;
    Py_RETURN_NONE;
}

// A call as _key() and _repeat() are given it.
struct GivenCall {
    std::vector<PyObject*> all;  // borrowed
    Py_ssize_t count = 0;
    Ref names;
    Bound bound;
    Key key;
    Asked tensors;

    // False: it has no key; an error may be set.
    bool read(Core& core, PyObject* positional, PyObject* keywords) {
        if (core.params.size() > kMaxParams) return false;
        count = PyTuple_GET_SIZE(positional);
        for (Py_ssize_t i = 0; i < count; ++i) all.push_back(PyTuple_GET_ITEM(positional, i));
        if (PyDict_GET_SIZE(keywords) != 0) {
            names = Ref(PyTuple_New(PyDict_GET_SIZE(keywords)));
            if (!names) return false;
        }
        PyObject *name = nullptr, *value = nullptr;
        Py_ssize_t at = 0, number = 0;
        while (PyDict_Next(keywords, &at, &name, &value) != 0) {
            PyTuple_SET_ITEM(names.get(), number++, Py_NewRef(name));
            all.push_back(value);
        }
        const auto has_key = [&] {
            return bind(core, all.data(), count, names.get(), bound) &&
                   encode(core, bound, all.data() + count, core.settings, key);
        };
        if (core.mode != Mode::daemon) key.begin_with_tensors(nullptr);
        if (has_key()) return true;
        if (!key.unasked() || !tensors.ask(bound.values, core.params.size())) return false;
        key.begin_with_tensors(&tensors);
        return has_key();
    }
};

// _key(args, keywords): for tests. (key without what names the session, kinds of leaves, leaves, device of
// the tensors, leaves to check), or None.
PyObject* kernel_key(PyObject* self, PyObject* args) {
    PyObject *positional = nullptr, *keywords = nullptr;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &positional, &PyDict_Type, &keywords)) return nullptr;
    GivenCall call;
    if (!call.read(*as_kernel(self)->core, positional, keywords)) {
        if (PyErr_Occurred() != nullptr) return nullptr;
        Py_RETURN_NONE;
    }
    Ref checks(PyTuple_New(static_cast<Py_ssize_t>(call.key.check_count())));
    for (std::size_t i = 0; checks && i < call.key.check_count(); ++i) {
        PyObject* leaf = PyLong_FromSize_t(call.key.check(i));
        if (leaf == nullptr) return nullptr;
        PyTuple_SET_ITEM(checks.get(), static_cast<Py_ssize_t>(i), leaf);
    }
    if (!checks) return nullptr;
    std::vector<std::uint64_t> kept;
    call.key.keep(kept);
    std::string kinds;
    for (std::size_t i = 0; i < call.key.leaf_count(); ++i) kinds += static_cast<char>(call.key.kind(i));
    return Py_BuildValue("(y#y#y#iO)", reinterpret_cast<const char*>(kept.data() + 2),
                         static_cast<Py_ssize_t>(8 * (kept.size() - 2)), kinds.data(),
                         static_cast<Py_ssize_t>(kinds.size()),
                         reinterpret_cast<const char*>(call.key.leaves()),
                         static_cast<Py_ssize_t>(8 * call.key.leaf_count()), call.key.device(), checks.get());
}

// Parameters that take all leaves but those that Triton compiles in, of the types that it gives them.
Takes plain_takes(const Core& core, const Key& key, const Bound& bound, std::vector<std::uint16_t>& leaves) {
    Takes takes;
    std::uint32_t bytes = 0;
    for (std::size_t i = 0; i < key.leaf_count(); ++i) {
        std::int64_t value = 0;
        if (PyLong_CheckExact(bound.values[i]) && small_int(bound.values[i], value) && value == 1 &&
            (core.flags[i] & (kNoSpecialize | kReal)) == 0)
            continue;
        Param param;
        switch (key.kind(i)) {
            case LeafKind::constant:
            case LeafKind::none:
            case LeafKind::descriptor:
                continue;
            case LeafKind::boolean:
                param.type = ParamType::boolean;
                break;
            case LeafKind::int32:
                param.type = ParamType::int32;
                break;
            case LeafKind::int64:
                param.type = ParamType::int64;
                break;
            case LeafKind::uint64:
                param.type = ParamType::uint64;
                break;
            case LeafKind::real:
                param.type = i % 3 == 0 ? ParamType::float64 : ParamType::float32;
                break;
            case LeafKind::buffer:
            case LeafKind::tensor:
                param.type = ParamType::pointer;
                break;
        }
        param.size = param_type_bytes(param.type);
        param.offset = (bytes + param.size - 1) / param.size * param.size;
        bytes = param.offset + param.size;
        takes.params.push_back(param);
        leaves.push_back(static_cast<std::uint16_t>(i));
    }
    takes.padded_bytes = (bytes + 7) / 8 * 8 + 16;  // and two pointers that nobody gives
    return takes;
}

// _repeat((args, keywords), (args, keywords)): for tests. Is the second call to a Repeat of the first like
// it, and if so: has it the same key, and does it give the same parameters as pack() does, and the same
// tensors? None: there is no Repeat of the first.
PyObject* kernel_repeat(PyObject* self, PyObject* args) {
    PyObject *positional[2] = {}, *keywords[2] = {};
    if (!PyArg_ParseTuple(args, "(O!O!)(O!O!)", &PyTuple_Type, &positional[0], &PyDict_Type, &keywords[0],
                          &PyTuple_Type, &positional[1], &PyDict_Type, &keywords[1]))
        return nullptr;
    Core& core = *as_kernel(self)->core;
    GivenCall first, second;
    std::vector<std::uint16_t> leaves;
    std::vector<Repeat::Given> params, options;
    if (!first.read(core, positional[0], keywords[0]) || first.key.leaf_count() != core.params.size() ||
        !list_given(core, first.bound, first.all.data(), first.count, params, options)) {
        if (PyErr_Occurred() != nullptr) return nullptr;
        Py_RETURN_NONE;
    }
    const Takes takes = plain_takes(core, first.key, first.bound, leaves);
    Packing packing;
    const auto repeat = plan(takes, first.key, leaves, packing)
                            ? Repeat::make(params, options, packing, first.key.session(), first.key.device())
                            : nullptr;
    if (repeat == nullptr) Py_RETURN_NONE;
    const bool has_key = second.read(core, positional[1], keywords[1]);
    if (PyErr_Occurred() != nullptr) return nullptr;
    // Which the call looks at itself (Entry::is_repeat()).
    const bool alike = first.count == second.count && (!first.names) == (!second.names);
    const int named = !alike        ? 0
                      : first.names ? PyObject_RichCompareBool(first.names.get(), second.names.get(), Py_EQ)
                                    : 1;
    if (named < 0) return nullptr;
    if (named == 0) Py_RETURN_FALSE;
    std::array<std::byte, kMaxPackedBytes + kPackedPadding> ours, theirs;
    ours.fill(std::byte{0xa5});
    theirs.fill(std::byte{0x5a});
    std::array<PyObject*, kMaxParams> tensors;
    PyObject** end = tensors.data();
    if (!repeat->pack(second.all.data(), ours.data(), end)) Py_RETURN_FALSE;
    std::vector<std::uint64_t> kept;
    first.key.keep(kept);
    const bool same_key = has_key && second.key.equals(kept);
    const bool same_bytes = same_key &&
                            triton::pack(takes, packing, second.key.leaves(), theirs.data()) == nullptr &&
                            std::memcmp(ours.data(), theirs.data(), takes.padded_bytes) == 0;
    std::vector<PyObject*> given;
    for (PyObject* object : second.key.given())
        if (object != Py_None) given.push_back(object);
    const bool same_tensors = same_key && std::equal(given.begin(), given.end(), tensors.data(), end);
    return Py_BuildValue("(NNN)", PyBool_FromLong(same_key), PyBool_FromLong(same_bytes),
                         PyBool_FromLong(same_tensors));
}

// _variants(): those that calls find, without repetition.
PyObject* kernel_variants(PyObject* self, PyObject*) {
    Ref list(PyList_New(0));
    if (!list) return nullptr;
    std::vector<PyObject*> found;
    (void)as_kernel(self)->core->table.visit([&](const Entry& entry) {
        if (std::find(found.begin(), found.end(), entry.variant.get()) == found.end())
            found.push_back(entry.variant.get());
        return 0;
    });
    for (PyObject* variant : found)
        if (PyList_Append(list.get(), variant) != 0) return nullptr;
    return Py_NewRef(list.get());
}

PyObject* kernel_slow_calls(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(as_kernel(self)->core->slow_calls);
}

template <class Visit>
int visit_core(Core& core, const Visit& visit) {
    const auto each = [&](const Ref& ref) { return ref ? visit(ref.get()) : 0; };
    for (GridObject* grid : core.grids)
        if (grid != nullptr)
            if (const int stop = visit(reinterpret_cast<PyObject*>(grid)); stop != 0) return stop;
    for (const ParamInfo& param : core.params)
        if (const int stop = each(param.default_value); stop != 0) return stop;
    for (const Ref* ref : {&core.run, &core.slow, &core.finish, &core.refresh, &core.scratch, &core.own_dict,
                           &core.default_stream})
        if (const int stop = each(*ref); stop != 0) return stop;
    for (const std::vector<Ref>* list : {&core.watched, &core.hooks})
        for (const Ref& held : *list)
            if (const int stop = each(held); stop != 0) return stop;
    for (const Captured& captured : core.captured)
        for (const Ref* ref : {&captured.globals, &captured.value, &captured.seen})
            if (const int stop = each(*ref); stop != 0) return stop;
    return core.table.visit([&](const Entry& entry) {
        if (const int stop = each(entry.variant); stop != 0) return stop;
        for (const Ref& held : entry.held)
            if (const int stop = each(held); stop != 0) return stop;
        return 0;
    });
}

int kernel_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Core* core = as_kernel(self)->core;
    return core == nullptr ? 0 : visit_core(*core, [&](PyObject* object) { return visit(object, arg); });
}

int kernel_clear(PyObject* self) {
    // What was in it goes with the last reference to it, which may run Python code that asks the kernel
    // again.
    if (as_kernel(self)->core == nullptr) return 0;
    std::unique_ptr<Core> old(std::exchange(as_kernel(self)->core, new Core()));
    for (GridObject*& grid : old->grids) Py_CLEAR(grid);
    return 0;
}

void kernel_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    if (std::unique_ptr<Core> core(std::exchange(as_kernel(self)->core, nullptr)); core)
        for (GridObject*& grid : core->grids) Py_CLEAR(grid);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyMethodDef kernel_methods[] = {
    {"_bind", kernel_bind, METH_VARARGS, nullptr},        {"_add", kernel_add, METH_VARARGS, nullptr},
    {"_forget", kernel_forget, METH_O, nullptr},          {"_capture", kernel_capture, METH_O, nullptr},
    {"_default", kernel_default, METH_O, nullptr},        {"_launch", kernel_launch, METH_VARARGS, nullptr},
    {"_key", kernel_key, METH_VARARGS, nullptr},          {"_repeat", kernel_repeat, METH_VARARGS, nullptr},
    {"_variants", kernel_variants, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef kernel_getters[] = {
    {"_slow_calls", kernel_slow_calls, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot kernel_slots[] = {
    {Py_tp_doc, const_cast<char*>("The call path of a Triton kernel: the base of ringlaunch's JITFunction.")},
    {Py_tp_new, reinterpret_cast<void*>(kernel_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(kernel_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(kernel_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(kernel_clear)},
    {Py_mp_subscript, reinterpret_cast<void*>(kernel_subscript)},
    {Py_tp_methods, kernel_methods},
    {Py_tp_getset, kernel_getters},
    {0, nullptr},
};

PyType_Spec kernel_spec = {"ringlaunch._core.TritonKernel", sizeof(KernelBase), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, kernel_slots};

// ---- TritonVariant ----

// How tensors are read: for each (swizzle, bytes of an element, its type, block, whether small ones are
// mended). Null: there are none. False: a Python error is set.
bool read_kinds(PyObject* maps, std::vector<TensorMapKind>& out) {
    for (Py_ssize_t i = 0; maps != nullptr && i < PyTuple_GET_SIZE(maps); ++i) {
        TensorMapKind& kind = out.emplace_back();
        PyObject* block = nullptr;
        int mended = 0;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(maps, i), "iiiO!p", &kind.swizzle, &kind.element_bytes,
                              &kind.element_type, &PyTuple_Type, &block, &mended))
            return false;
        kind.small_mended = mended != 0;
        for (std::size_t side = 0; side < kMaxRank; ++side)
            if (long long value = 0; read_side(block, side, value))
                kind.block[side] = static_cast<std::uint32_t>(value);
    }
    return true;
}

// TritonVariant(kernel, compiled, names, threads, shared, ctas, scratch_bytes, scratch_param[, maps]).
// `maps`: for each parameter that is a tensor's map, as read_kinds() takes it.
PyObject* variant_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *kernel = nullptr, *compiled = nullptr, *names = nullptr, *maps = nullptr;
    unsigned int threads = 0, shared = 0, ctas = 0, scratch_param = 0;
    unsigned long long scratch_bytes = 0;
    if (!PyArg_ParseTuple(args, "O!OO!IIIKI|O!", kernel_type, &kernel, &compiled, &PyTuple_Type, &names,
                          &threads, &shared, &ctas, &scratch_bytes, &scratch_param, &PyTuple_Type, &maps))
        return nullptr;
    const KernelView view = view_kernel(kernel);
    auto made = std::make_unique<Variant>();
    made->session = view.session;
    made->state = detail::Access::state(view.kernel);
    made->takes.kernel = view.kernel.name();
    made->takes.params.assign(view.kernel.params().begin(), view.kernel.params().end());
    made->takes.padded_bytes = static_cast<std::uint32_t>(padded_param_bytes(made->state->param_bytes));
    if (ctas == 0 || PyTuple_GET_SIZE(names) > static_cast<Py_ssize_t>(made->takes.params.size()) ||
        (scratch_bytes != 0 && (scratch_param >= made->takes.params.size() ||
                                made->takes.params[scratch_param].type != ParamType::pointer)))
        return PyErr_Format(PyExc_ValueError, "a variant that does not fit its kernel");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
        const char* name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
        if (name == nullptr) return nullptr;
        made->takes.params[static_cast<std::size_t>(i)].name = name;
    }
    made->given = static_cast<std::size_t>(PyTuple_GET_SIZE(names));
    if (!read_kinds(maps, made->maps)) return nullptr;
    std::size_t described = 0;
    for (const Param& param : made->takes.params) {
        const bool is_map = param.type == ParamType::bytes && param.size == sizeof(TensorMap);
        if ((param.type == ParamType::bytes && !is_map) || param.type == ParamType::unknown)
            return set_named_error("Unsupported", "kernel '" + made->takes.kernel +
                                                      "': a parameter of type " + type_word(param.type));
        described += is_map ? 1 : 0;
    }
    if (described != made->maps.size())
        return PyErr_Format(PyExc_ValueError, "%zu tensor maps for %zu parameters", made->maps.size(),
                            described);
    made->block = {threads, 1, 1};
    made->shared_bytes = shared;
    made->ctas = ctas;
    made->scratch_bytes = scratch_bytes;
    made->scratch_param = scratch_param;
    made->kernel = Ref::borrowed(kernel);
    made->compiled = Ref::borrowed(compiled);
    made->stream = Ref::borrowed(view.stream);
    auto* object = reinterpret_cast<VariantObject*>(type->tp_alloc(type, 0));
    if (object != nullptr) object->variant = made.release();
    return reinterpret_cast<PyObject*>(object);
}

// triton_inline_variant(compiled, function, ((name, type), ...), threads, shared, ctas, cooperative,
// programmatic, scratch_bytes[, maps]): a TritonVariant that is launched in this program, in the current
// context. None: the function takes something else than these and two scratch pointers. `maps`: for each
// parameter of type "tensormap", as read_kinds() takes it.
PyObject* make_inline_variant(PyObject*, PyObject* args) {
    PyObject *compiled = nullptr, *declared = nullptr;
    unsigned long long function = 0, scratch_bytes = 0;
    unsigned int threads = 0, shared = 0, ctas = 0;
    int cooperative = 0, programmatic = 0;
    PyObject* maps = nullptr;
    if (!PyArg_ParseTuple(args, "OKO!IIIppK|O!", &compiled, &function, &PyTuple_Type, &declared, &threads,
                          &shared, &ctas, &cooperative, &programmatic, &scratch_bytes, &PyTuple_Type, &maps))
        return nullptr;
    const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(declared));
    auto made = std::make_unique<Variant>();
    for (std::size_t i = 0; i < count; ++i) {
        const char *name = nullptr, *type = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(declared, static_cast<Py_ssize_t>(i)), "ss", &name, &type))
            return nullptr;
        Param& param = made->takes.params.emplace_back();
        param.name = name;
        param.type = std::strcmp(type, "tensormap") == 0 ? ParamType::bytes : type_of_word(type);
    }
    made->given = count;
    if (!read_kinds(maps, made->maps)) return nullptr;
    for (const char* name : {"global_scratch", "profile_scratch"}) {
        Param& param = made->takes.params.emplace_back();
        param.name = name;
        param.type = ParamType::pointer;
    }
    Ref name(PyObject_GetAttrString(compiled, "name"));
    const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
    if (text == nullptr) PyErr_Clear();
    made->takes.kernel = text == nullptr ? "kernel" : text;
    try {
        made->here = make_inline_kernel({made->takes.kernel,
                                         function,
                                         {threads, 1, 1},
                                         shared,
                                         ctas,
                                         cooperative != 0,
                                         programmatic != 0});
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
    const auto& places = made->here->params();
    if (places.size() != made->takes.params.size()) Py_RETURN_NONE;
    for (std::size_t i = 0; i < places.size(); ++i) {
        Param& param = made->takes.params[i];
        param.offset = places[i].offset;
        param.size = places[i].size;
        if (param.size != (param.type == ParamType::bytes ? sizeof(TensorMap) : param_type_bytes(param.type)))
            Py_RETURN_NONE;
    }
    const std::uint32_t bytes = packed_bytes(made->takes.params);
    if (bytes > kMaxPackedBytes) Py_RETURN_NONE;
    made->takes.padded_bytes = (bytes + 7) / 8 * 8;
    made->block = {threads, 1, 1};
    made->shared_bytes = shared;
    made->ctas = ctas;
    made->scratch_bytes = scratch_bytes;
    made->scratch_param = static_cast<std::uint32_t>(count);
    made->compiled = Ref::borrowed(compiled);
    auto* object = reinterpret_cast<VariantObject*>(variant_type->tp_alloc(variant_type, 0));
    if (object != nullptr) object->variant = made.release();
    return reinterpret_cast<PyObject*>(object);
}

// triton_inline_context(): the calling thread's CUcontext; 0: it has none.
PyObject* inline_context(PyObject*, PyObject*) {
    return PyLong_FromUnsignedLongLong(current_context());
}

// triton_inline_load(): an error where this program cannot launch.
PyObject* load_inline(PyObject*, PyObject*) {
    try {
        load_cuda();
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
    Py_RETURN_NONE;
}

// triton_inline_device(): number, architecture and most shared memory of a block, of the current context's
// device.
PyObject* current_device(PyObject*, PyObject*) {
    try {
        const InlineDevice device = inline_device();
        return Py_BuildValue("(iii)", device.number, device.architecture, device.most_shared_bytes);
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
}

// triton_inline_function(image, entry, shared bytes, large clusters): handle, registers, bytes of local
// memory of a thread, static shared memory, most threads, in the current context.
PyObject* load_function(PyObject*, PyObject* args) {
    const char *image = nullptr, *entry = nullptr;
    Py_ssize_t size = 0;
    unsigned int shared = 0;
    int large_clusters = 0;
    if (!PyArg_ParseTuple(args, "y#sIp", &image, &size, &entry, &shared, &large_clusters)) return nullptr;
    try {
        const InlineFunction made = load_inline_function(std::string(image, static_cast<std::size_t>(size)),
                                                         entry, large_clusters != 0);
        if (shared > kUsualSharedBytes) allow_inline_shared(made.function, shared);
        return Py_BuildValue("(Kiiii)", static_cast<unsigned long long>(made.function), made.registers,
                             made.local_bytes, made.static_shared_bytes, made.max_threads);
    } catch (const Error& error) {
        return set_error(error.status(), error.what());
    }
}

// triton_inline_most(graphs): for tests.
PyObject* set_inline_most(PyObject*, PyObject* most) {
    const std::size_t number = PyLong_AsSize_t(most);
    if (PyErr_Occurred() != nullptr) return nullptr;
    set_most_inline_graphs(number);
    Py_RETURN_NONE;
}

int variant_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Variant* variant = reinterpret_cast<VariantObject*>(self)->variant;
    if (variant != nullptr) {
        Py_VISIT(variant->kernel.get());
        Py_VISIT(variant->compiled.get());
        Py_VISIT(variant->stream.get());
    }
    return 0;
}

void variant_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    std::unique_ptr<Variant> variant(std::exchange(reinterpret_cast<VariantObject*>(self)->variant, nullptr));
    if (variant != nullptr && variant->here != nullptr) forget_in_region(*variant->here);
    variant.reset();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* variant_kernel(PyObject* self, void*) {
    PyObject* kernel = variant_of(self).kernel.get();
    return Py_NewRef(kernel == nullptr ? Py_None : kernel);
}
PyObject* variant_graphs(PyObject* self, void*) {
    const Variant& variant = variant_of(self);
    return PyLong_FromSize_t(variant.here == nullptr ? 0 : variant.here->graphs());
}
PyObject* variant_compiled(PyObject* self, void*) {
    return Py_NewRef(variant_of(self).compiled.get());
}
PyObject* variant_hits(PyObject* self, void*) {
    return PyLong_FromUnsignedLongLong(variant_of(self).hits);
}
PyObject* variant_count(PyObject* self, PyObject*) {
    ++variant_of(self).hits;
    Py_RETURN_NONE;
}
PyObject* variant_closed(PyObject* self, void*) {
    return PyBool_FromLong(variant_of(self).closed());
}

PyMethodDef variant_methods[] = {
    {"_count", variant_count, METH_NOARGS, PyDoc_STR("One launch of it that Triton made.")},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef variant_getters[] = {
    {"kernel", variant_kernel, nullptr, PyDoc_STR("As the client has loaded it; None in this program."),
     nullptr},
    {"compiled", variant_compiled, nullptr, PyDoc_STR("Triton's CompiledKernel."), nullptr},
    {"hits", variant_hits, nullptr, PyDoc_STR("Launches of it."), nullptr},
    {"_graphs", variant_graphs, nullptr,
     PyDoc_STR("Launch graphs of its context, where it is launched here."), nullptr},
    {"closed", variant_closed, nullptr, PyDoc_STR("Whether its client was closed."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot variant_slots[] = {
    {Py_tp_doc,
     const_cast<char*>("A Triton kernel compiled for arguments of one kind, loaded for a client.")},
    {Py_tp_new, reinterpret_cast<void*>(variant_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(variant_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(variant_traverse)},
    {Py_tp_methods, variant_methods},
    {Py_tp_getset, variant_getters},
    {0, nullptr},
};

PyType_Spec variant_spec = {"ringlaunch._core.TritonVariant", sizeof(VariantObject), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                            variant_slots};

// ---- TritonPending: the key of a call that is on its slow way ----

void pending_dealloc(PyObject* self) {
    auto* pending = reinterpret_cast<PendingObject*>(self);
    delete pending->key;
    delete pending->held;
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyType_Slot pending_slots[] = {
    {Py_tp_doc, const_cast<char*>("What the arguments of a call are, for the table.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(pending_dealloc)},
    {0, nullptr},
};

PyType_Spec pending_spec = {"ringlaunch._core.TritonPending", sizeof(PendingObject), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, pending_slots};

// ---- functions of the module ----

bool add_types(PyObject* list, std::vector<PyTypeObject*>& out) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list); ++i) {
        PyObject* type = PyTuple_GET_ITEM(list, i);
        if (!PyType_Check(type)) {
            PyErr_SetString(PyExc_TypeError, "expected a type");
            return false;
        }
        out.push_back(reinterpret_cast<PyTypeObject*>(Py_NewRef(type)));  // kept for good
    }
    return true;
}

// triton_types(by_identity, functions, constexpr): the types of Triton's objects that may be constants.
PyObject* set_types(PyObject*, PyObject* args) {
    PyObject *by_identity = nullptr, *functions = nullptr, *constexpr_type = nullptr;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyTuple_Type, &by_identity, &PyTuple_Type, &functions,
                          &PyType_Type, &constexpr_type) ||
        !add_types(by_identity, constant_types.by_identity) ||
        !add_types(functions, constant_types.functions))
        return nullptr;
    constant_types.constexpr_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(constexpr_type));
    Py_RETURN_NONE;
}

// triton_default_mode(number): that of kernels that have none.
PyObject* set_default_mode(PyObject*, PyObject* number) {
    const long mode = PyLong_AsLong(number);
    if (PyErr_Occurred() != nullptr) return nullptr;
    if (mode < 0 || mode > static_cast<long>(Mode::by_arguments))
        return PyErr_Format(PyExc_ValueError, "no mode: %ld", mode);
    default_mode = static_cast<Mode>(mode);
    Py_RETURN_NONE;
}

// triton_torch_has_gpu(answer): what torch answered when it was asked.
PyObject* set_torch_has_gpu(PyObject*, PyObject* answer) {
    torch_without_gpu = answer == Py_False;
    Py_RETURN_NONE;
}

// triton_watch(dict): every kernel reads its settings again once this has changed.
PyObject* watch(PyObject*, PyObject* dict) {
    if (!PyDict_Check(dict)) return PyErr_Format(PyExc_TypeError, "expected a dict");
    if (!watched.add(dict)) {
        if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_RuntimeError, "no dictionary can be watched");
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"triton_types", set_types, METH_VARARGS, nullptr},
    {"triton_watch", watch, METH_O, nullptr},
    {"triton_default_mode", set_default_mode, METH_O, nullptr},
    {"triton_torch_has_gpu", set_torch_has_gpu, METH_O, nullptr},
    {"triton_tensors", set_tensors, METH_VARARGS, nullptr},
    {"triton_descriptor", set_descriptor, METH_O, nullptr},
    {"triton_subscript", set_subscript, METH_VARARGS, nullptr},
    {"triton_streams", set_streams, METH_VARARGS, nullptr},
    {"triton_inline_load", load_inline, METH_NOARGS, nullptr},
    {"triton_inline_device", current_device, METH_NOARGS, nullptr},
    {"triton_inline_function", load_function, METH_VARARGS, nullptr},
    {"triton_inline_context", inline_context, METH_NOARGS, nullptr},
    {"triton_inline_variant", make_inline_variant, METH_VARARGS, nullptr},
    {"triton_inline_most", set_inline_most, METH_O, nullptr},
    {"triton_region_enter", region_enter, METH_NOARGS, nullptr},
    {"triton_region_leave", region_leave, METH_NOARGS, nullptr},
    {"triton_region_flush", region_flush, METH_NOARGS, nullptr},
    {"triton_region_pause", region_pause, METH_NOARGS, nullptr},
    {"triton_region_resume", region_resume, METH_NOARGS, nullptr},
    {"triton_region_stop", region_stop, METH_NOARGS, nullptr},
    {"triton_region_counts", region_counts, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

}  // namespace triton

bool add_triton_types(PyObject* module) {
    using namespace triton;
    name_stream = PyUnicode_InternFromString("stream");
    name_value = PyUnicode_InternFromString("value");
    name_torch = PyUnicode_InternFromString("torch");
    name_grid = PyUnicode_InternFromString("grid");
    name_warmup = PyUnicode_InternFromString("warmup");
    for (PyObject* name : {name_stream, name_value, name_torch, name_grid, name_warmup})
        if (name == nullptr) return false;
    for (auto [type, spec] :
         {std::pair{&kernel_base_type, &kernel_spec}, std::pair{&grid_type, &grid_spec},
          std::pair{&variant_type, &variant_spec}, std::pair{&pending_type, &pending_spec}}) {
        *type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(spec));
        if (*type == nullptr || PyModule_AddType(module, *type) != 0) return false;
    }
    return add_tuned_types(module) && PyModule_AddFunctions(module, functions) == 0;
}

}  // namespace ringlaunch::python
