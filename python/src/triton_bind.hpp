// The arguments of a call bound to the parameters of its kernel, and the key of a call that is bound.
#pragma once

#include <Python.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "triton_kernel.hpp"
#include "triton_key.hpp"

namespace ringlaunch::python::triton {

// What a call has brought.
struct Bound {
    PyObject* const* values = nullptr;  // borrowed, one a parameter: the call's own, or `placed`
    std::array<PyObject*, kMaxParams> placed;
    const Names* names = nullptr;
    PyObject* stream = nullptr;  // borrowed; null: none was named
};

// Where the keywords of a call go. Null: it is one that only Triton's own code knows.
const Names* read_names(Core& core, PyObject* tuple, Names& into);

inline Names& names_place(Core& core, PyObject* names) {
    return core.names[(std::bit_cast<std::uintptr_t>(names) >> 4) % kCachedNames];
}

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
        for (const Names::Both& each : bound.names->both)
            if (!key.option(each.option, keywords[each.keyword])) return false;
    }
    key.finish(settings);
    return true;
}

}  // namespace ringlaunch::python::triton
