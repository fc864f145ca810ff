// The call of a Triton kernel, `kernel[grid](*args, **kwargs)`, as types with a C calling convention.
//
// TritonKernel (triton_kernel.hpp) is the base of ringlaunch's JITFunction: `[grid]` answers a TritonGrid
// (triton_subscript.hpp). A call of that is bound to the kernel's parameters (triton_bind.hpp), looks a
// variant of the kernel up by what its arguments are (triton_key.hpp, triton_table.hpp), packs them as that
// variant takes them (triton_pack.hpp) and writes the launch into a stream's ring (triton_launch_daemon.hpp)
// or launches in this program (triton_launch_inline.hpp). It makes no Python object. Whatever it does not
// know, and the first call of each kind, goes to a function of Python (triton_slow.hpp,
// ringlaunch/_triton.py), which asks Triton's own code, compiles, and adds the variant to the table.
//
// The order is the safety of the stream, as in launcher.cpp: what may run Python code or release the
// interpreter lock comes first, then key, look-up, packing and enqueuing, under one hold of the lock.
#include "triton_call.hpp"

#include <array>
#include <bit>
#include <cstdint>

#include "handles.hpp"
#include "inline_kernel.hpp"
#include "pack.hpp"
#include "ref.hpp"
#include "triton_asked_grid.hpp"
#include "triton_bind.hpp"
#include "triton_globals.hpp"
#include "triton_grid.hpp"
#include "triton_inline.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_launch_daemon.hpp"
#include "triton_launch_inline.hpp"
#include "triton_mode.hpp"
#include "triton_nesting.hpp"
#include "triton_region.hpp"
#include "triton_repeat.hpp"
#include "triton_settings.hpp"
#include "triton_slow.hpp"
#include "triton_subscript.hpp"
#include "triton_table.hpp"
#include "triton_tensor.hpp"
#include "triton_try_repeat.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

namespace {

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
    if (!core.captured.empty() && !captured_as_seen(core.captured)) [[unlikely]] {
        const int same = may_nest(kernel) ? compare_captured(core.captured) : -1;
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
        if (watched.state(core.watched) != core.settings_state || hooked(core) ||
            !captured_as_seen(core.captured) || !bind(core, args, count, names, bound))
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
        if (entry->left) [[unlikely]] {
            here = true;
            return slowly(nullptr);
        }
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
    if (!core.captured.empty() && !captured_as_seen(core.captured)) [[unlikely]]
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

}  // namespace

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

PyObject* asking_grid_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names) {
    const auto* grid = reinterpret_cast<GridObject*>(self);
    Core& core = *as_kernel(grid->kernel)->core;
    return call(core, grid->kernel, grid, mode_of(core), args, PyVectorcall_NARGS(flags), names);
}

}  // namespace ringlaunch::python::triton
