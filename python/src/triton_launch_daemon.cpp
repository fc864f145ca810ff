#include "triton_launch_daemon.hpp"

#include <array>
#include <cstring>

#include "errors.hpp"
#include "ref.hpp"
#include "stream_turn.hpp"
#include "triton_descriptor.hpp"
#include "triton_maps.hpp"
#include "triton_scratch.hpp"

namespace ringlaunch::python::triton {

namespace {

PyObject* as_object(const BufferObject* buffer) {
    return reinterpret_cast<PyObject*>(const_cast<BufferObject*>(buffer));
}

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

}  // namespace

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

[[gnu::noinline]] PyObject* foreign_buffer(PyObject* kernel, const Key& key) {
    refuse_buffer(kernel_name(kernel), "", key.session(), key.foreign());
    return nullptr;
}

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

namespace {

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

}  // namespace

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

}  // namespace ringlaunch::python::triton
