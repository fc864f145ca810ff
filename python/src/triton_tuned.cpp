// The call of a tuned Triton kernel: which configuration it is of, and the call of the kernel with that.
//
// As Triton's Autotuner.run does it once a key has been tuned for: the key is the same tuple, of the
// parameters that the tuner names, looked up in the tuner's own dictionary, and the configuration is read at
// each call, so that whoever changes one of them is heeded. Everything else (a key that is new, a
// configuration with a hook, values that are no plain constants) goes to a function of Python, which is the
// whole call.
#define PY_SSIZE_T_CLEAN
#include "triton_tuned.hpp"

#include <structmember.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ref.hpp"
#include "triton_key.hpp"
#include "triton_own_run.hpp"

namespace ringlaunch::python::triton {

namespace {

constexpr std::size_t kMostGiven = kMaxParams + 64;  // values of a call, and of its configuration
constexpr std::size_t kKnownDtypes = 16;
constexpr std::size_t kKnownNames = 8;

PyTypeObject* tuned_type = nullptr;
PyTypeObject* tuned_grid_type = nullptr;
PyObject *name_cache = nullptr, *name_configs = nullptr, *name_best = nullptr, *name_fn = nullptr,
         *name_dtype = nullptr, *name_kwargs = nullptr, *name_pre_hook = nullptr, *name_of_grid = nullptr,
         *name_of_warmup = nullptr, *name_keys = nullptr;

// The keywords of a call: which parameter each is, or none.
struct CallNames {
    Ref tuple;
    std::vector<std::int16_t> param;
};

// What an element type is called in keys.
struct Dtype {
    Ref object, text;
};

struct Tuned {
    Ref state;                       // the tuner's dict: fn, cache, configs, keys
    Ref names;                       // tuple of the kernel's parameters, interned
    Ref config_type;                 // of configurations; None: they are dicts
    Ref options;                     // tuple of the names of what a configuration has beside its kwargs
    Ref run;                         // run(*args, grid=, warmup=, **kwargs): the whole call
    Ref tuner, usual_run;            // what has `state`, and the `run` of its type; may be none
    OwnRun own_run;                  // of the tuner
    std::vector<std::int16_t> keys;  // parameters that are in a key
    bool keys_of_state = false;      // they are those of the tuner, which may name others later
    Ref key_list;                    // as it stood in `state` when that had this version
    std::uint64_t state_seen = 0;
    std::vector<Ref> named_keys;  // what it held
    int keyed = -1;               // whether there is a key; -1: where there are several configurations
    bool short_types = false;     // "float32" for "torch.float32"
    std::array<CallNames, kKnownNames> known_names;
    std::array<Dtype, kKnownDtypes> dtypes;
    std::size_t next_dtype = 0;
    std::array<Ref, kKnownNames> passed_names;  // tuples of the keywords that the kernel was called with
};

struct TunedObject {
    PyObject_HEAD Tuned* tuned;
};

struct TunedGrid {
    PyObject_HEAD vectorcallfunc vectorcall;
    PyObject* tuned;  // strong
    PyObject* grid;   // strong
    PyObject* inner;  // strong: the kernel with this grid
};

Tuned& tuned_of(PyObject* object) {
    return *reinterpret_cast<TunedObject*>(object)->tuned;
}

std::int16_t param_of(const Tuned& tuned, PyObject* name) {
    PyObject* names = tuned.names.get();
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i)
        if (PyTuple_GET_ITEM(names, i) == name || PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name) == 0)
            return static_cast<std::int16_t>(i);
    return -1;
}

const std::vector<std::int16_t>& params_of(Tuned& tuned, PyObject* names) {
    CallNames& known = tuned.known_names[(reinterpret_cast<std::uintptr_t>(names) >> 4) % kKnownNames];
    if (known.tuple.get() != names) {
        known.param.clear();
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i)
            known.param.push_back(param_of(tuned, PyTuple_GET_ITEM(names, i)));
        known.tuple = Ref::borrowed(names);
    }
    return known.param;
}

// Whose hash and comparison are no code of the program's.
bool is_plain(PyObject* value) noexcept {
    return PyLong_CheckExact(value) || PyFloat_CheckExact(value) || PyBool_Check(value) ||
           PyUnicode_CheckExact(value) || value == Py_None;
}

// Where the keys stand by name. False: only Triton knows what they are.
[[gnu::noinline]] bool find_key_list(Tuned& tuned) {
    const std::uint64_t version = version_of(tuned.state.get());
    PyObject* found = PyDict_GetItemWithError(tuned.state.get(), name_keys);
    if (found == nullptr || !(PyList_CheckExact(found) || PyTuple_CheckExact(found))) return false;
    tuned.state_seen = version;
    tuned.key_list = Ref::borrowed(found);
    return true;
}

[[gnu::noinline]] bool read_keys(Tuned& tuned, PyObject* const* names, std::size_t count) {
    if (!std::all_of(names, names + count, [](PyObject* name) { return PyUnicode_CheckExact(name) != 0; }))
        return false;
    tuned.keys.clear();
    tuned.named_keys.clear();
    for (std::size_t i = 0; i < count; ++i) {
        tuned.named_keys.push_back(Ref::borrowed(names[i]));
        if (const std::int16_t param = param_of(tuned, names[i]); param >= 0) tuned.keys.push_back(param);
    }
    return true;
}

// The keys are those that the tuner names now. False: only Triton knows what they are.
bool find_keys(Tuned& tuned) {
    if (!tuned.keys_of_state) return true;
    const bool found = tuned.state_seen != 0 && tuned.state_seen == version_of(tuned.state.get());
    if (!found && !find_key_list(tuned)) return false;
    PyObject* const* names = PySequence_Fast_ITEMS(tuned.key_list.get());
    const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(tuned.key_list.get()));
    const auto same = [](PyObject* name, const Ref& seen) { return name == seen.get(); };
    if (std::equal(names, names + count, tuned.named_keys.begin(), tuned.named_keys.end(), same)) [[likely]]
        return true;
    return read_keys(tuned, names, count);
}

// What a key has of an argument's `dtype`, new; null without an error: it has none. May run Python code.
Ref dtype_text(Tuned& tuned, PyObject* value, bool& failed) {
    if (is_plain(value)) return {};
    Ref dtype(PyObject_GetAttr(value, name_dtype));
    if (!dtype) {
        failed = PyErr_ExceptionMatches(PyExc_AttributeError) == 0;
        PyErr_Clear();
        return {};
    }
    for (const Dtype& each : tuned.dtypes)
        if (each.object.get() == dtype.get()) return Ref::borrowed(each.text.get());
    Ref text(PyObject_Str(dtype.get()));
    if (text && tuned.short_types) {
        const Py_ssize_t length = PyUnicode_GET_LENGTH(text.get());
        const Py_ssize_t dot = PyUnicode_FindChar(text.get(), '.', 0, length, -1);
        if (dot >= 0) text = Ref(PyUnicode_Substring(text.get(), dot + 1, length));
    }
    if (!text) {
        failed = true;
        PyErr_Clear();
        return {};
    }
    Dtype& place = tuned.dtypes[tuned.next_dtype++ % kKnownDtypes];
    place.object = std::move(dtype);
    place.text = Ref::borrowed(text.get());
    return text;
}

// The key of a call, as Triton makes it. Null, without an error: that is Triton's to do.
Ref key_of(Tuned& tuned, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    std::array<PyObject*, kMostGiven> parts;  // borrowed, but for the last, which are strong
    std::size_t size = 0;
    const std::vector<std::int16_t>* params = names == nullptr ? nullptr : &params_of(tuned, names);
    for (const std::int16_t key : tuned.keys) {
        PyObject* value = key < count ? args[key] : nullptr;
        if (value == nullptr && params != nullptr)
            for (std::size_t i = 0; i < params->size(); ++i)
                if ((*params)[i] == key) value = args[static_cast<std::size_t>(count) + i];
        if (value == nullptr) continue;  // a default is in no key
        if (!is_plain(value)) return {};
        parts[size++] = value;
    }
    const std::size_t values = size;
    const std::size_t given = static_cast<std::size_t>(count) + (params == nullptr ? 0 : params->size());
    bool failed = false;
    // Asking for a type may run code that calls this kernel again and finds other names at their place.
    std::array<std::int16_t, kMostGiven> is_param;
    if (params != nullptr) std::copy(params->begin(), params->end(), is_param.begin());
    for (std::size_t i = 0; i < given && !failed; ++i) {
        if (i >= static_cast<std::size_t>(count) && is_param[i - static_cast<std::size_t>(count)] < 0)
            continue;
        Ref text = dtype_text(tuned, args[i], failed);
        if (text) parts[size++] = Py_NewRef(text.get());
    }
    Ref key(failed ? nullptr : PyTuple_New(static_cast<Py_ssize_t>(size)));
    for (std::size_t i = 0; i < size; ++i) {
        if (key)
            PyTuple_SET_ITEM(key.get(), static_cast<Py_ssize_t>(i),
                             i < values ? Py_NewRef(parts[i]) : parts[i]);
        else if (i >= values)
            Py_DECREF(parts[i]);
    }
    return key;
}

// The configuration of a call. Null, without an error: that is Triton's to find.
Ref config_of(Tuned& tuned, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    PyObject* state = tuned.state.get();
    bool keyed = tuned.keyed == 1;
    if (tuned.keyed != 1) {
        PyObject* configs = PyDict_GetItemWithError(state, name_configs);
        if (configs == nullptr || !PyList_CheckExact(configs) || PyList_GET_SIZE(configs) == 0) return {};
        keyed = tuned.keyed == -1 && PyList_GET_SIZE(configs) > 1;
        if (!keyed) return Ref::borrowed(PyList_GET_ITEM(configs, 0));
    }
    const Ref key = find_keys(tuned) ? key_of(tuned, args, count, names) : Ref();
    PyObject* cache = key ? PyDict_GetItemWithError(state, name_cache) : nullptr;
    if (cache == nullptr || !PyDict_CheckExact(cache)) return {};
    return Ref::borrowed(PyDict_GetItemWithError(cache, key.get()));
}

// What the kernel is called with: values and their names, behind those of the call.
struct Passed {
    std::array<PyObject*, kMostGiven> values, names;  // names: of keywords
    std::size_t count = 0, named = 0;
    std::array<PyObject*, 16> own;  // strong: of a configuration's attributes
    std::size_t owned = 0;

    Passed() = default;
    Passed(const Passed&) = delete;
    Passed& operator=(const Passed&) = delete;
    ~Passed() {
        for (std::size_t i = 0; i < owned; ++i) Py_DECREF(own[i]);
    }
    bool add(PyObject* name, PyObject* value) noexcept {
        if (count == kMostGiven || named == kMostGiven) return false;
        values[count++] = value;
        names[named++] = name;
        return true;
    }
    bool add_all(PyObject* dict) noexcept {
        PyObject *name = nullptr, *value = nullptr;
        Py_ssize_t at = 0;
        while (PyDict_Next(dict, &at, &name, &value) != 0)
            if (!PyUnicode_CheckExact(name) || !add(name, value)) return false;
        return true;
    }
};

// False, without an error: the configuration is one that only Triton's own code passes.
bool add_config(const Tuned& tuned, PyObject* config, Passed& passed) {
    if (tuned.config_type.get() == Py_None) return PyDict_CheckExact(config) && passed.add_all(config);
    if (reinterpret_cast<PyObject*>(Py_TYPE(config)) != tuned.config_type.get()) return false;
    const auto attribute = [&](PyObject* name) -> PyObject* {
        PyObject* value = PyObject_GetAttr(config, name);
        if (value == nullptr || passed.owned == passed.own.size()) {
            Py_XDECREF(value);
            PyErr_Clear();
            return nullptr;
        }
        return passed.own[passed.owned++] = value;
    };
    if (attribute(name_pre_hook) != Py_None) return false;
    PyObject* kwargs = attribute(name_kwargs);
    if (kwargs == nullptr || !PyDict_CheckExact(kwargs) || !passed.add_all(kwargs)) return false;
    PyObject* options = tuned.options.get();
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(options); ++i) {
        PyObject* value = attribute(PyTuple_GET_ITEM(options, i));
        if (value == nullptr) return false;
        if (value != Py_None && !passed.add(PyTuple_GET_ITEM(options, i), value)) return false;
    }
    return true;
}

// The names as a tuple: that of a call before, if they are the same, of which the kernel knows what they are.
// Null without an error: one is there twice.
Ref names_of(Tuned& tuned, const Passed& passed, PyObject* given, PyObject* config) {
    const auto address = [](PyObject* object) { return reinterpret_cast<std::uintptr_t>(object) >> 4; };
    Ref& place = tuned.passed_names[(address(given) + address(config)) % kKnownNames];
    PyObject* last = place.get();
    const auto size = static_cast<Py_ssize_t>(passed.named);
    if (last != nullptr && PyTuple_GET_SIZE(last) == size &&
        std::equal(passed.names.begin(), passed.names.begin() + size, &PyTuple_GET_ITEM(last, 0)))
        return Ref::borrowed(last);
    for (std::size_t i = 0; i < passed.named; ++i)
        for (std::size_t j = 0; j < i; ++j)
            if (PyUnicode_Compare(passed.names[i], passed.names[j]) == 0) return {};
    Ref made(PyTuple_New(size));
    for (Py_ssize_t i = 0; made && i < size; ++i)
        PyTuple_SET_ITEM(made.get(), i, Py_NewRef(passed.names[static_cast<std::size_t>(i)]));
    place = Ref::borrowed(made.get());
    return made;
}

[[gnu::noinline]] PyObject* run_slowly(Tuned& tuned, PyObject* grid, PyObject* const* args, Py_ssize_t count,
                                       PyObject* names) {
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    const Ref all(PyTuple_New(named + 2));
    if (!all) return nullptr;
    for (Py_ssize_t i = 0; i < named; ++i)
        PyTuple_SET_ITEM(all.get(), i, Py_NewRef(PyTuple_GET_ITEM(names, i)));
    PyTuple_SET_ITEM(all.get(), named, Py_NewRef(name_of_grid));
    PyTuple_SET_ITEM(all.get(), named + 1, Py_NewRef(name_of_warmup));
    std::vector<PyObject*> values(args, args + count + named);
    values.push_back(grid);
    values.push_back(Py_False);
    const Ref run = Ref::borrowed(tuned.run.get());
    return PyObject_Vectorcall(run.get(), values.data(), static_cast<std::size_t>(count), all.get());
}

PyObject* tuned_call(PyObject* self, PyObject* const* args, std::size_t flags, PyObject* names) {
    const auto* grid = reinterpret_cast<TunedGrid*>(self);
    Tuned& tuned = tuned_of(grid->tuned);
    const Py_ssize_t count = PyVectorcall_NARGS(flags);
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    if (count > PyTuple_GET_SIZE(tuned.names.get()) || static_cast<std::size_t>(count + named) > kMaxParams)
        return run_slowly(tuned, grid->grid, args, count, names);
    const Ref config = config_of(tuned, args, count, names);
    if (!config) {
        PyErr_Clear();  // what cannot be compared is compared again, by Triton
        return run_slowly(tuned, grid->grid, args, count, names);
    }
    Passed passed;
    std::copy(args, args + count + named, passed.values.begin());
    passed.count = static_cast<std::size_t>(count + named);
    for (Py_ssize_t i = 0; i < named; ++i) passed.names[passed.named++] = PyTuple_GET_ITEM(names, i);
    Ref all;
    if (!add_config(tuned, config.get(), passed) || !(all = names_of(tuned, passed, names, config.get()))) {
        if (PyErr_Occurred() != nullptr) return nullptr;
        return run_slowly(tuned, grid->grid, args, count, names);
    }
    PyObject* state = tuned.state.get();
    if (tuned.config_type.get() != Py_None && PyDict_GetItemWithError(state, name_best) != config.get() &&
        PyDict_SetItem(state, name_best, config.get()) != 0)
        return nullptr;
    return PyObject_Vectorcall(grid->inner, passed.values.data(), static_cast<std::size_t>(count), all.get());
}

// ---- the types ----

template <class Visit>
int visit_tuned(const Tuned& tuned, const Visit& visit) {
    for (const Ref* each : {&tuned.state, &tuned.config_type, &tuned.run, &tuned.tuner, &tuned.usual_run})
        if (*each)
            if (const int stop = visit(each->get()); stop != 0) return stop;
    for (const Dtype& each : tuned.dtypes)
        if (each.object)
            if (const int stop = visit(each.object.get()); stop != 0) return stop;
    return 0;
}

int tuned_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Tuned* tuned = reinterpret_cast<TunedObject*>(self)->tuned;
    return tuned == nullptr ? 0 : visit_tuned(*tuned, [&](PyObject* object) { return visit(object, arg); });
}

void tuned_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    delete std::exchange(reinterpret_cast<TunedObject*>(self)->tuned, nullptr);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

// TritonTuned(state, names, keys, config_type, options, run, keyed, short_types[, tuner]). `keys`: names, or
// None: those that `state` has. `tuner`: what has that, where it may be given a `run` of its own.
PyObject* tuned_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *state = nullptr, *names = nullptr, *keys = nullptr, *config_type = nullptr, *options = nullptr,
             *run = nullptr, *tuner = nullptr;
    int keyed = 0, short_types = 0;
    if (!PyArg_ParseTuple(args, "O!O!OOO!Oip|O", &PyDict_Type, &state, &PyTuple_Type, &names, &keys,
                          &config_type, &PyTuple_Type, &options, &run, &keyed, &short_types, &tuner))
        return nullptr;
    if (keys != Py_None && !PyTuple_Check(keys)) return PyErr_Format(PyExc_TypeError, "expected names");
    const Ref no_keys(keys == Py_None ? PyTuple_New(0) : nullptr);
    PyObject* fixed = no_keys ? no_keys.get() : keys;
    auto* made = reinterpret_cast<TunedObject*>(type->tp_alloc(type, 0));
    if (made == nullptr) return nullptr;
    made->tuned = new Tuned();
    const Ref self(reinterpret_cast<PyObject*>(made));
    Tuned& tuned = *made->tuned;
    for (PyObject* list : {names, fixed, options})
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list); ++i)
            if (!PyUnicode_CheckExact(PyTuple_GET_ITEM(list, i)))
                return PyErr_Format(PyExc_TypeError, "expected names");
    tuned.state = Ref::borrowed(state);
    tuned.names = Ref::borrowed(names);
    tuned.config_type = Ref::borrowed(config_type);
    tuned.options = Ref::borrowed(options);
    tuned.run = Ref::borrowed(run);
    tuned.keyed = keyed;
    tuned.short_types = short_types != 0;
    tuned.keys_of_state = keys == Py_None;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fixed); ++i)
        if (const std::int16_t param = param_of(tuned, PyTuple_GET_ITEM(fixed, i)); param >= 0)
            tuned.keys.push_back(param);
    if (tuner != nullptr) {
        tuned.tuner = Ref::borrowed(tuner);
        tuned.usual_run = Ref::borrowed(usual_run(Py_TYPE(tuner)));
    }
    return Py_NewRef(self.get());
}

PyObject* tuned_subscript(PyObject* self, PyObject* grid) {
    Tuned& tuned = tuned_of(self);
    PyObject* tuner = tuned.tuner.get();
    if (tuner != nullptr && !tuned.own_run.is_usual(Py_TYPE(tuner), tuned.state.get(), tuned.usual_run.get()))
        [[unlikely]]
        return subscript_of_run(tuner, grid);
    PyObject* fn = PyDict_GetItemWithError(tuned.state.get(), name_fn);
    if (fn == nullptr) {
        if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_AttributeError, "fn");
        return nullptr;
    }
    const Ref of = Ref::borrowed(fn);
    Ref inner(PyObject_GetItem(of.get(), grid));
    if (!inner) return nullptr;
    auto* made = reinterpret_cast<TunedGrid*>(tuned_grid_type->tp_alloc(tuned_grid_type, 0));
    if (made == nullptr) return nullptr;
    made->vectorcall = tuned_call;
    made->tuned = Py_NewRef(self);
    made->grid = Py_NewRef(grid);
    made->inner = inner.release();
    return reinterpret_cast<PyObject*>(made);
}

int grid_traverse(PyObject* self, visitproc visit, void* arg) {
    const auto* grid = reinterpret_cast<TunedGrid*>(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(grid->tuned);
    Py_VISIT(grid->grid);
    Py_VISIT(grid->inner);
    return 0;
}

void grid_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    auto* grid = reinterpret_cast<TunedGrid*>(self);
    Py_CLEAR(grid->inner);
    Py_CLEAR(grid->grid);
    Py_CLEAR(grid->tuned);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
    return PyErr_Format(PyExc_TypeError, "%s is made by a kernel, not called", type->tp_name);
}

PyObject* tuned_state(PyObject* self, void*) {
    return Py_NewRef(tuned_of(self).state.get());
}

// A copy of a tuner makes one of its own.
PyObject* tuned_reduce(PyObject*, PyObject*) {
    return Py_BuildValue("(O())", reinterpret_cast<PyObject*>(Py_TYPE(Py_None)));
}

PyGetSetDef tuned_getters[] = {
    {"state", tuned_state, nullptr, PyDoc_STR("The dict of the tuner that it is of."), nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef tuned_methods[] = {
    {"__reduce__", tuned_reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot tuned_slots[] = {
    {Py_tp_doc, const_cast<char*>("The call of a tuned Triton kernel.")},
    {Py_tp_new, reinterpret_cast<void*>(tuned_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(tuned_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(tuned_traverse)},
    {Py_mp_subscript, reinterpret_cast<void*>(tuned_subscript)},
    {Py_tp_methods, tuned_methods},
    {Py_tp_getset, tuned_getters},
    {0, nullptr},
};

PyType_Spec tuned_spec = {"ringlaunch._core.TritonTuned", sizeof(TunedObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, tuned_slots};

PyMemberDef grid_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(TunedGrid, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot grid_slots[] = {
    {Py_tp_doc, const_cast<char*>("A tuned Triton kernel with its grid: calling it launches.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(grid_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(grid_traverse)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_members, grid_members},
    {0, nullptr},
};

PyType_Spec grid_spec = {
    "ringlaunch._core.TritonTunedGrid", sizeof(TunedGrid), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    grid_slots};

}  // namespace

bool add_tuned_types(PyObject* module) {
    if (!intern_run()) return false;
    for (auto [name, text] : {std::pair{&name_cache, "cache"}, std::pair{&name_configs, "configs"},
                              std::pair{&name_best, "best_config"}, std::pair{&name_fn, "fn"},
                              std::pair{&name_dtype, "dtype"}, std::pair{&name_kwargs, "kwargs"},
                              std::pair{&name_pre_hook, "pre_hook"}, std::pair{&name_of_grid, "grid"},
                              std::pair{&name_of_warmup, "warmup"}, std::pair{&name_keys, "keys"}})
        if ((*name = PyUnicode_InternFromString(text)) == nullptr) return false;
    for (auto [type, spec] : {std::pair{&tuned_type, &tuned_spec}, std::pair{&tuned_grid_type, &grid_spec}}) {
        *type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(spec));
        if (*type == nullptr || PyModule_AddType(module, *type) != 0) return false;
    }
    return true;
}

}  // namespace ringlaunch::python::triton
