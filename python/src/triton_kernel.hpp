// TritonKernel: the base of ringlaunch's JITFunction, and what it keeps between its calls.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ref.hpp"
#include "triton_globals.hpp"
#include "triton_mode.hpp"
#include "triton_own_run.hpp"
#include "triton_repeat.hpp"
#include "triton_table.hpp"

namespace ringlaunch::python::triton {

inline constexpr std::size_t kCachedGrids = 16;
inline constexpr std::size_t kCachedNames = 8;

struct ParamInfo {
    Ref name;
    Ref default_value;  // none: it has to be given
};

// Where the keywords of a call go: a parameter, or an option.
inline constexpr std::int16_t kToStream = -1;
inline constexpr std::int16_t kFirstOption = 1 << 12;
struct Names {
    Ref tuple;
    std::vector<std::int16_t> to;
    // Parameters named like an option are both, where they are given by keyword, as in Triton.
    struct Both {
        std::uint16_t keyword;  // its number among those of the call
        std::uint8_t option;
    };
    std::vector<Both> both;
    bool options = false;  // some are for others than parameters
    // With so many by position before them they are the parameters behind those, in order, to the last.
    std::size_t behind = kNowhere;
    static constexpr std::size_t kNowhere = ~std::size_t{0};
};

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
    Ref usual_run;  // of the kernel's type
    OwnRun own_run;
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

inline void forget_last(Core& core) noexcept {
    core.last = nullptr;
    core.repeat = nullptr;
}

struct KernelBase {
    PyObject_HEAD Core* core;
};

inline KernelBase* as_kernel(PyObject* object) {
    return reinterpret_cast<KernelBase*>(object);
}

extern PyTypeObject* kernel_base_type;
extern PyType_Spec kernel_spec;

// Of types that kernels make.
PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*);

// Its `__name__`. May run Python code, but sets no error.
std::string kernel_name(PyObject* kernel);

}  // namespace ringlaunch::python::triton
