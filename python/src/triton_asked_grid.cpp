#include "triton_asked_grid.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "handles.hpp"
#include "ref.hpp"
#include "triton_grid.hpp"
#include "triton_launch_daemon.hpp"
#include "triton_launch_inline.hpp"
#include "triton_nesting.hpp"
#include "triton_region.hpp"
#include "triton_settings.hpp"
#include "triton_slow.hpp"
#include "triton_tensor.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

namespace {

Ref arguments_of(const Core& core, const Bound& bound) {
    Ref made(PyDict_New());
    for (std::size_t i = 0; made && i < core.params.size(); ++i)
        if (PyDict_SetItem(made.get(), core.params[i].name.get(), bound.values[i]) != 0) return {};
    return made;
}

// Asks a function for the grid. `changed`: it wrote into the arguments, which are launched as they are then.
// Not inlined: its loops have the registers to themselves.
[[gnu::noinline]] Ref ask_grid(const Core& core, PyObject* function, const Bound& bound, Ref& arguments,
                               bool& changed) {
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

}  // namespace

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

}  // namespace ringlaunch::python::triton
